import { z } from 'zod';
import type { Endpoint } from '../../framework/endpoint.ts';
import { type Filter, type PluginFactory, parseParameters } from '../../framework/plugin.ts';
import { matchedShare, prefixMatchKey } from '../../framework/prefix-match.ts';

const parameters = z.strictObject({
  /** Share of the prompt from which an endpoint counts as its holder. */
  affinityThreshold: z.number().min(0).max(1).default(0.8),
  /** How often all endpoints stay although some hold the prompt, so that others learn it too. */
  explorationProbability: z.number().min(0).max(1).default(0),
  /** The most that the holders' time to first token may be above the others', milliseconds; 0 for any. */
  maxTTFTPenaltyMs: z.number().min(0).default(18_000),
  ttftSource: z.enum(['prefillThroughput']).default('prefillThroughput'),
  /** Tokens a second that an endpoint prefills. */
  peakPrefillThroughput: z.number().positive().default(15_928),
});

/**
 * Keeps the endpoints that hold at least `affinityThreshold` of the prompt; all when none does, when they are too busy
 * (tokens in flight / peak throughput, against the best of the others), or by `explorationProbability`.
 */
export const createPrefixCacheAffinityFilter: PluginFactory = (context): Filter => {
  const settings = parseParameters(context, parameters);
  const waitMs = ({ load }: Endpoint): number => (load.inFlightTokens / settings.peakPrefillThroughput) * 1000;
  const leastWaitMs = (endpoints: readonly Endpoint[]): number => Math.min(...endpoints.map(waitMs));
  return {
    type: context.type,
    name: context.name,
    filter: (cycle, endpoints) => {
      const match = cycle.get(prefixMatchKey);
      if (match === undefined || !match.isWarm) return endpoints;
      const holders: Endpoint[] = [];
      const others: Endpoint[] = [];
      for (const endpoint of endpoints) {
        (matchedShare(match, endpoint) >= settings.affinityThreshold ? holders : others).push(endpoint);
      }
      if (holders.length === 0 || others.length === 0) return endpoints;
      if (settings.explorationProbability > 0 && context.random() < settings.explorationProbability) return endpoints;
      const { maxTTFTPenaltyMs } = settings;
      if (maxTTFTPenaltyMs > 0 && leastWaitMs(holders) - leastWaitMs(others) > maxTTFTPenaltyMs) return endpoints;
      return holders;
    },
  };
};
