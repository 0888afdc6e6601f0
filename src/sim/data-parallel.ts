import type { GivenArgs } from './vllm-flags.ts';

/** How the ranks of a data-parallel deployment are served. */
export interface DataParallel {
  /**
   * `internal`: one port, all ranks behind it; `hybrid`: one port, this node's ranks behind it; `external`: one rank, its
   * own port; `multi-port`: this node's ranks, a port each, and one more for the health of all.
   */
  readonly mode: 'internal' | 'hybrid' | 'external' | 'multi-port';
  /** Ranks whose engines are here. */
  readonly ranks: readonly [number, ...number[]];
  /** Of `multi-port`. */
  readonly supervisorPort: number;
}

const maxRanks = 256;
const defaultSupervisorPort = 9256;

/**
 * Reads the arguments of data parallelism as vLLM does; what is wrong with them is added to the list.
 *
 * @param read.whole a whole number of a flag: name, default, least, most
 */
export function parseDataParallel(
  flags: GivenArgs['flags'],
  read: {
    readonly whole: (flag: string, fallback: number, min: number, max?: number) => number;
    readonly bare: (flag: string, fallback: boolean) => boolean;
  },
  port: number,
  problems: string[],
): DataParallel {
  const { whole, bare } = read;
  const size = whole('data-parallel-size', 1, 1, maxRanks);
  const start = whole('data-parallel-start-rank', 0, 0, maxRanks - 1);
  const local = whole('data-parallel-size-local', 1, 0, maxRanks);
  const rank = whole('data-parallel-rank', 0, 0, maxRanks - 1);
  const supervisorPort = whole('data-parallel-supervisor-port', defaultSupervisorPort, 0, 65_535);
  const isHeadless = bare('headless', false);
  const isMultiPort = bare('data-parallel-multi-port-external-lb', false);
  const isExternal = bare('data-parallel-external-lb', false) || flags.has('data-parallel-rank');
  const isHybrid =
    bare('data-parallel-hybrid-lb', false) || (!isMultiPort && !isHeadless && flags.has('data-parallel-start-rank'));
  if ([isMultiPort, isExternal, isHybrid].filter(Boolean).length > 1) {
    problems.push(
      'only one of --data-parallel-multi-port-external-lb, --data-parallel-external-lb (or --data-parallel-rank) and ' +
        '--data-parallel-hybrid-lb (or --data-parallel-start-rank) can be chosen',
    );
  }
  const ranksFrom = (first: number, count: number): DataParallel['ranks'] => [
    first,
    ...Array.from({ length: Math.max(0, count - 1) }, (_, i) => first + 1 + i),
  ];
  if (isMultiPort) {
    const here = flags.has('data-parallel-size-local') ? local : size;
    if (here < 2 || size % here !== 0) {
      problems.push(
        `--data-parallel-multi-port-external-lb: --data-parallel-size-local ${here} must be at least 2 and divide --data-parallel-size ${size}`,
      );
    }
    if (port > 0 && supervisorPort >= port && supervisorPort < port + here) {
      problems.push(
        `--data-parallel-supervisor-port ${supervisorPort} is among the ranks' ports, ${port} to ${port + here - 1}`,
      );
    }
    checkLast(start + here - 1, size, problems);
    return { mode: 'multi-port', ranks: ranksFrom(start, here), supervisorPort };
  }
  if (isExternal) {
    checkLast(rank, size, problems);
    return { mode: 'external', ranks: [rank], supervisorPort };
  }
  if (isHybrid) {
    checkLast(start + local - 1, size, problems);
    return { mode: 'hybrid', ranks: ranksFrom(start, local), supervisorPort };
  }
  return { mode: 'internal', ranks: ranksFrom(0, size), supervisorPort };
}

function checkLast(last: number, size: number, problems: string[]): void {
  if (last < size || last === 0) return;
  problems.push(`rank ${last} is not among the ${size} of --data-parallel-size; raise it or lower the rank`);
}
