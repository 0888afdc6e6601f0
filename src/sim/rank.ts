import { randomUUID } from 'node:crypto';
import type { Clock } from '../clock.ts';
import { AppError, messageOf } from '../errors.ts';
import type { Logger } from '../telemetry/log.ts';
import type { SimConfig } from './config.ts';
import { Engine, type EngineStats } from './engine.ts';
import { createCacheEvents } from './kv-events.ts';
import { type KvPublisher, startKvPublisher } from './kv-publisher.ts';
import { createEngineMetrics, type EngineMetrics } from './metrics.ts';
import { createKvFetcher, type SideChannel, startSideChannel } from './side-channel.ts';

/** KV of an 8-billion-parameter model in 16 bits: 32 layers × 2 × 8 heads × 128 × 2 bytes. */
const kvBytesPerToken = 131_072;

/** Where decode processes find KV that is kept here. */
export interface RemoteAddress {
  readonly engineId: string;
  readonly host: string;
  readonly port: number;
  readonly tpSize: number;
}

/** The engine of one data-parallel rank, with what it tells other processes. */
export interface Rank {
  readonly rank: number;
  readonly engine: Engine;
  readonly metrics: EngineMetrics;
  readonly remote: RemoteAddress | undefined;
  /** Ports of the cache's events; undefined where none are published. */
  readonly kvEvents: Pick<KvPublisher, 'port' | 'replayPort'> | undefined;
  close(): Promise<void>;
}

/**
 * Starts a rank's engine, its side channel and its cache events; their ports go up with the rank.
 *
 * @throws AppError `unavailable` when a port cannot be listened on
 */
export async function startRank(
  config: SimConfig,
  rank: number,
  deps: { readonly clock: Clock; readonly log: Pick<Logger, 'info' | 'warn'> },
): Promise<Rank> {
  const { clock, log } = deps;
  const { transfer } = config;
  const compatibility = `${config.model}/${config.blockSize}`;
  const fetcher = transfer ? createKvFetcher() : undefined;
  const metrics = createEngineMetrics();
  const publisher = config.kvEvents ? await startKvPublisher(config.kvEvents, { rank, clock, log }) : undefined;
  const engine = new Engine({
    clock,
    latency: config.latency,
    metrics,
    numBlocks: config.numBlocks,
    blockSize: config.blockSize,
    hasPrefixCaching: config.hasPrefixCaching,
    maxSequences: config.maxSequences,
    maxBatchedTokens: config.maxBatchedTokens,
    maxAdapters: config.maxLoras,
    ...(publisher ? { events: createCacheEvents(publisher.publish) } : {}),
    ...(transfer && fetcher
      ? {
          transfer: {
            fetch: fetcher.fetch,
            leaseMs: transfer.leaseMs,
            onFailure: transfer.onFailure,
            compatibility,
            bytesPerToken: kvBytesPerToken,
          },
        }
      : {}),
  });
  const ownId = transfer?.engineId || randomUUID();
  const engineId = config.dataParallel.ranks.length > 1 || rank > 0 ? `${ownId}_dp${rank}` : ownId;
  let sideChannel: SideChannel | undefined;
  if (transfer && engine.leases) {
    const { sideChannelHost: host, sideChannelPort } = transfer;
    const port = sideChannelPort === 0 ? 0 : sideChannelPort + rank;
    sideChannel = await startSideChannel({ host, port, engineId, compatibility, leases: engine.leases }).catch(
      (thrown: unknown) => {
        publisher?.close();
        throw new AppError(
          'unavailable',
          `the side channel cannot listen on ${host}:${port}: ${messageOf(thrown)}; set VLLM_NIXL_SIDE_CHANNEL_HOST and VLLM_NIXL_SIDE_CHANNEL_PORT`,
          { cause: thrown },
        );
      },
    );
  }
  return {
    rank,
    engine,
    metrics,
    remote:
      transfer && sideChannel
        ? {
            engineId,
            host: transfer.sideChannelHost,
            port: sideChannel.address.port,
            tpSize: config.tensorParallelSize,
          }
        : undefined,
    kvEvents: publisher,
    close: async () => {
      engine.close();
      await sideChannel?.close();
      fetcher?.close();
      publisher?.close();
    },
  };
}

/** What a waiting request weighs against a running one. */
const waitingWeight = 4;

/**
 * The rank that takes a request: the one that the client names, else the least loaded, in turn among equals.
 *
 * @throws AppError `invalid` when the one named is not here
 */
export function pickRank(ranks: readonly [Rank, ...Rank[]], named: string | undefined, turn: number): Rank {
  if (named !== undefined) {
    const found = ranks.find(({ rank }) => String(rank) === named.trim());
    if (found) return found;
    throw new AppError(
      'invalid',
      `X-data-parallel-rank is ${named}; the ranks here are ${ranks.map(({ rank }) => rank).join(', ')}`,
    );
  }
  let best = ranks[turn % ranks.length] ?? ranks[0];
  let least = Number.POSITIVE_INFINITY;
  for (let i = 0; i < ranks.length; i++) {
    const candidate = ranks[(turn + i) % ranks.length] ?? ranks[0];
    const load = waitingWeight * (candidate.engine.queued + candidate.engine.loading) + candidate.engine.running;
    if (load >= least) continue;
    best = candidate;
    least = load;
  }
  return best;
}

/** The ranks' figures, added up. */
export function sumStats(ranks: readonly [Rank, ...Rank[]]): EngineStats {
  return ranks
    .slice(1)
    .reduce<EngineStats>((sum, { engine }) => addFigures(sum, engine.stats) as EngineStats, ranks[0].engine.stats);
}

function addFigures(a: object, b: object): object {
  const others = b as Readonly<Record<string, unknown>>;
  return Object.fromEntries(
    Object.entries(a).map(([key, value]: [string, unknown]) => {
      const other = others[key];
      return [
        key,
        typeof value === 'object' && value !== null
          ? addFigures(value, other as object)
          : Number(value) + Number(other),
      ];
    }),
  );
}
