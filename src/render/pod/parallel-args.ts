import type { ParallelismSpec } from '../../api/v1alpha2/llm-inference-service.ts';
import { groupSizeOf, type NodePart } from '../../api/v1alpha2/parallelism.ts';
import { hasFlag } from './vllm-args.ts';

/**
 * How the pods of one replica find each other. Kubernetes puts the variables into the arguments: the first two come
 * from the LeaderWorkerSet controller, the third from the pod's own address.
 */
const workerIndex = '$(LWS_WORKER_INDEX)';
const leaderAddress = '$(LWS_LEADER_ADDRESS)';
const ownAddress = '$(VLLM_HOST_IP)';

/** The variable behind `ownAddress`: also what vLLM binds to and tells its peers. */
export const hostAddressVariable = 'VLLM_HOST_IP';

const defaultRpcPort = 5555;

/** Folder of a worker's files with its first data-parallel rank, one file for each place in the group. */
export const ranksFolder = '/etc/signalbox/ranks';

const rankFile = (index: number | string) => `node-${index}.yaml`;

/** Name of the pod annotation that holds the content of such a file. */
export const rankAnnotation = (index: number) => `signalbox.io/vllm-node-${index}`;

/**
 * First data-parallel ranks of the workers in vLLM's configuration format, by place in the group; empty where the place
 * itself is the rank. Kubernetes expands variables and cannot multiply, so the products are written down beforehand.
 */
export function rankFiles(
  parallelism: ParallelismSpec | undefined,
): readonly { readonly index: number; readonly path: string; readonly content: string }[] {
  const { data, dataLocal = 1 } = parallelism ?? {};
  const size = groupSizeOf(parallelism) ?? 1;
  if (data === undefined || dataLocal === 1) return [];
  return Array.from({ length: size - 1 }, (_, i) => ({
    index: i + 1,
    path: rankFile(i + 1),
    content: `data-parallel-start-rank: ${(i + 1) * dataLocal}\n`,
  }));
}

/**
 * vLLM's arguments for how a replica is spread over GPUs and pods; what the user sets is left out.
 *
 * Caveats: pipeline stages on several nodes use vLLM's own multi-node start (`--nnodes`), which vLLM has since 0.12;
 * a worker without an API server is `--headless`.
 */
export function renderParallelArgs(
  parallelism: ParallelismSpec | undefined,
  part: NodePart,
  own: readonly string[],
): readonly string[] {
  const { tensor, pipeline, data, dataLocal = 1, dataRPCPort, expert } = parallelism ?? {};
  const flag = (name: string, value: number | string | undefined, short?: string) =>
    value === undefined || hasFlag(own, name) || (short !== undefined && hasFlag(own, short))
      ? []
      : [name, String(value)];
  const toggle = (name: string) => (hasFlag(own, name) ? [] : [name]);
  const size = groupSizeOf(parallelism) ?? 1;
  const meeting = part === 'leader' ? ownAddress : leaderAddress;
  return [
    ...flag('--tensor-parallel-size', tensor, '-tp'),
    ...flag('--pipeline-parallel-size', pipeline, '-pp'),
    ...flag('--data-parallel-size', data, '-dp'),
    ...(expert ? toggle('--enable-expert-parallel') : []),
    ...(part === 'single' || data === undefined
      ? []
      : [
          ...flag('--data-parallel-size-local', dataLocal, '-dpl'),
          ...flag('--data-parallel-address', meeting, '-dpa'),
          ...flag('--data-parallel-rpc-port', dataRPCPort ?? defaultRpcPort, '-dpp'),
          ...(part === 'worker' && !hasFlag(own, '--data-parallel-start-rank') && !hasFlag(own, '-dpr')
            ? dataLocal === 1
              ? ['--data-parallel-start-rank', workerIndex]
              : ['--config', `${ranksFolder}/${rankFile(workerIndex)}`]
            : []),
        ]),
    ...(part === 'single' || data !== undefined || size === 1
      ? []
      : [
          ...flag('--nnodes', size, '-n'),
          ...flag('--node-rank', part === 'leader' ? 0 : workerIndex, '-r'),
          ...flag('--master-addr', meeting),
          ...flag('--distributed-executor-backend', 'mp'),
        ]),
    ...(part === 'worker' ? toggle('--headless') : []),
  ];
}
