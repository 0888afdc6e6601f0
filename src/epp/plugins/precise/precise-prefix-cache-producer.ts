import { z } from 'zod';
import { AppError } from '../../../errors.ts';
import type { Cycle } from '../../framework/cycle-state.ts';
import type { Endpoint } from '../../framework/endpoint.ts';
import {
  type PluginFactory,
  type PreRequest,
  type Producer,
  parseParameters,
  type Scorer,
} from '../../framework/plugin.ts';
import { type PrefixMatch, prefixMatchKeyOf, setPrefixMatch } from '../../framework/prefix-match.ts';
import { promptTokensKey } from '../../framework/prompt-tokens.ts';
import { BlockIndex, type BlockMatch } from './block-index.ts';
import { startEventStreams } from './event-streams.ts';

const durationText = /^(\d+(?:\.\d+)?)(ms|s|m)$/;

const port = z.number().int().min(1).max(65_535);

export const preciseParameters = z.strictObject({
  tokenProcessorConfig: z
    .strictObject({
      /** Accepted and not used: each engine's events tell the size of its blocks. */
      blockSize: z.number().int().positive().optional(),
      blockSizeTokens: z.number().int().positive().optional(),
      hashSeed: z.string().default(''),
      /** Accepted and not used: hashes never leave the picker. */
      hashAlgorithm: z.enum(['cbor-fnv', 'xxh64']).optional(),
    })
    .prefault({}),
  indexerConfig: z
    .strictObject({
      kvBlockIndexConfig: z
        .strictObject({
          inMemoryConfig: z
            .strictObject({
              /** Blocks over all endpoints; each costs about 200 bytes. */
              size: z
                .number()
                .int()
                .positive()
                .default(1 << 20),
              podCacheSize: z.number().int().positive().optional(),
            })
            .optional(),
          costAwareMemoryConfig: z.strictObject({ size: z.string().optional() }).optional(),
          redisConfig: z.unknown().optional(),
          enableMetrics: z.boolean().optional(),
          metricsLoggingInterval: z.union([z.string(), z.number()]).optional(),
        })
        .prefault({}),
      kvCacheBackendConfigs: z
        .array(z.strictObject({ name: z.string().min(1).toLowerCase(), weight: z.number().min(0).max(1) }))
        .min(1)
        .max(3)
        .default([
          { name: 'gpu', weight: 1 },
          { name: 'cpu', weight: 0.8 },
        ]),
      tokenizersPoolConfig: z.unknown().optional(),
    })
    .prefault({}),
  kvEventsConfig: z
    .strictObject({
      topicFilter: z.string().optional(),
      /** Accepted and not used: events of one engine are taken over in turn. */
      concurrency: z.number().int().positive().optional(),
      engineType: z.enum(['vllm', 'sglang']).default('vllm'),
      zmqEndpoint: z.string().optional(),
      discoverPods: z.boolean().default(true),
      podDiscoveryConfig: z
        .strictObject({
          socketPort: port.default(5557),
          /** `key=value,…`; all endpoints when empty. */
          podLabelSelector: z.string().default(''),
          podNamespace: z.string().optional(),
          replaySocketPort: port.optional(),
        })
        .prefault({}),
    })
    .prefault({}),
  speculativeIndexing: z.boolean().default(false),
  speculativeTTL: z.string().regex(durationText, 'must be a duration such as 2s').default('2s'),
  /** Blocks of a prompt that are looked at. */
  maxPrefixBlocksToMatch: z.number().int().min(1).default(8192),
});

class Match implements PrefixMatch {
  readonly promptTokens: number;
  readonly isWarm: boolean;
  readonly #match: BlockMatch | undefined;

  constructor(promptTokens: number, match: BlockMatch | undefined) {
    this.promptTokens = promptTokens;
    this.isWarm = match !== undefined;
    this.#match = match;
  }

  matchedTokens(endpoint: Endpoint): number {
    return this.#match?.tokensOf(endpoint.id) ?? 0;
  }

  hasSession(): boolean {
    return false;
  }
}

/**
 * What each endpoint holds of the prompt, as the engines' cache events tell (ZeroMQ, vLLM's format). Needs the prompt's
 * tokens: from the request itself, or from a `token-producer`; without them it has nothing to say.
 */
export const createPrecisePrefixCacheProducer: PluginFactory = (context): Producer & PreRequest => {
  const given = parseParameters(context, preciseParameters);
  const { kvEventsConfig: events, indexerConfig: indexer, maxPrefixBlocksToMatch: maxBlocks } = given;
  if (indexer.kvBlockIndexConfig.redisConfig !== undefined) {
    throw new AppError(
      'unsupported',
      `${context.path}.indexerConfig.kvBlockIndexConfig.redisConfig: the index is kept in memory; remove it`,
    );
  }
  const index = new BlockIndex({
    maxBlocks: indexer.kvBlockIndexConfig.inMemoryConfig?.size ?? 1 << 20,
    tiers: indexer.kvCacheBackendConfigs,
    seed: given.tokenProcessorConfig.hashSeed,
  });
  const [, count = '2', unit = 's'] = durationText.exec(given.speculativeTTL) ?? [];
  const speculativeMs = Number(count) * (unit === 'ms' ? 1 : unit === 's' ? 1000 : 60_000);
  const isPublisher = toSelector(events.podDiscoveryConfig.podLabelSelector);
  let streams: Awaited<ReturnType<typeof startEventStreams>> | undefined;

  // Adapters have chains of their own; engines that name no model in their topic start at the empty one.
  const modelsOf = ({ request }: Cycle): readonly string[] => (request.model === '' ? [''] : [request.model, '']);
  const saltOf = ({ request }: Cycle): string | undefined => {
    const salt = request.completion?.body.cache_salt;
    return typeof salt === 'string' && salt !== '' ? salt : undefined;
  };

  return {
    type: context.type,
    name: context.name,
    ready: async () => {
      streams ??= await startEventStreams(
        {
          bind: events.zmqEndpoint === '' ? undefined : events.zmqEndpoint,
          port: events.discoverPods ? events.podDiscoveryConfig.socketPort : undefined,
          replayPort: events.podDiscoveryConfig.replaySocketPort,
          // Engines of one port each are known by it, whatever they call their topic.
          topic: events.topicFilter ?? (events.zmqEndpoint === undefined ? '' : 'kv@'),
          isPublisher,
        },
        context.pool,
        {
          event: (endpoint, event, model) => index.apply(endpoint, event, model),
          forget: (endpoint) => index.forget(endpoint),
          problem: (message) => context.report('invalid', message),
        },
      );
    },
    close: () => streams?.close(),
    state: () => ({ blocks: index.size, orphans: index.orphans, ...streams?.figures }),
    produce: (cycle) => {
      const tokens = cycle.get(promptTokensKey)?.ids;
      if (tokens === undefined || tokens.length === 0) return;
      if (given.speculativeIndexing) index.expire(context.clock.now());
      const match = index.match(modelsOf(cycle), tokens, saltOf(cycle), maxBlocks);
      setPrefixMatch(cycle, context.name, new Match(tokens.length, match));
    },
    preRequest: (cycle, decision) => {
      const tokens = cycle.get(promptTokensKey)?.ids;
      if (!given.speculativeIndexing || tokens === undefined) return;
      const untilMs = context.clock.now() + speculativeMs;
      for (const { picked } of decision.results.values()) {
        const id = picked[0]?.id;
        if (id !== undefined) index.expect(id, cycle.request.model, tokens, saltOf(cycle), maxBlocks, untilMs);
      }
    },
  };
};

/** Producer and scorer in one, as older configurations have it: tokens that match, over the most that match anywhere. */
export const createPrecisePrefixCacheScorer: PluginFactory = (context): Producer & PreRequest & Scorer => {
  const producer = createPrecisePrefixCacheProducer(context) as Producer & PreRequest;
  const key = prefixMatchKeyOf(context.name);
  return {
    ...producer,
    score: (cycle, endpoints, scores) => {
      const match = cycle.get(key);
      if (match === undefined || !match.isWarm) return;
      let most = 0;
      for (let i = 0; i < endpoints.length; i++) {
        const endpoint = endpoints[i];
        const tokens = endpoint === undefined ? 0 : match.matchedTokens(endpoint);
        scores[i] = tokens;
        if (tokens > most) most = tokens;
      }
      if (most > 0) for (let i = 0; i < endpoints.length; i++) scores[i] = (scores[i] ?? 0) / most;
    },
  };
};

function toSelector(text: string): (endpoint: Endpoint) => boolean {
  const pairs = text
    .split(',')
    .map((pair) => pair.trim())
    .filter((pair) => pair !== '')
    .map((pair) => pair.split('='));
  return ({ labels }) => pairs.every(([key = '', value = '']) => labels[key] === value);
}
