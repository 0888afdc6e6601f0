import { z } from 'zod';
import type { Cycle } from '../../framework/cycle-state.ts';
import type { Endpoint } from '../../framework/endpoint.ts';
import { latencyKey } from '../../framework/latency.ts';
import { type Filter, type PluginFactory, parseParameters } from '../../framework/plugin.ts';
import { matchedShare, prefixMatchKey } from '../../framework/prefix-match.ts';

const parameters = z.strictObject({
  /** Share of the prompt from which an endpoint counts as its holder. */
  affinityThreshold: z.number().min(0).max(1).default(0.8),
  /** How often all endpoints stay although some hold the prompt, so that others learn it too. */
  explorationProbability: z.number().min(0).max(1).default(0),
  /** The most that the holders' time to first token may be above the others', milliseconds; 0 for any. */
  maxTTFTPenaltyMs: z.number().min(0).default(18_000),
  /** How the time is known: worked out from tokens in flight, or predicted. */
  ttftSource: z.enum(['prefillThroughput', 'latencyPredictor']).default('prefillThroughput'),
  /** Tokens a second that an endpoint prefills. */
  peakPrefillThroughput: z.number().positive().default(15_928),
});

/**
 * Keeps the endpoints that hold at least `affinityThreshold` of the prompt; all when none does, when they are too busy
 * (tokens in flight / peak throughput, or the predicted time; against the best of the others), or by `explorationProbability`.
 */
export const createPrefixCacheAffinityFilter: PluginFactory = (context): Filter => {
  const settings = parseParameters(context, parameters);
  const isPredicted = settings.ttftSource === 'latencyPredictor';
  const workMs = ({ load }: Endpoint): number => (load.inFlightTokens / settings.peakPrefillThroughput) * 1000;
  /** How much longer the best of the holders takes than the best of the others. */
  const penaltyMs = (cycle: Cycle, holders: readonly Endpoint[], others: readonly Endpoint[]): number => {
    const least = (of: readonly Endpoint[], ms: (endpoint: Endpoint) => number): number => Math.min(...of.map(ms));
    const predictions = isPredicted ? cycle.get(latencyKey) : undefined;
    if (predictions !== undefined) {
      const ttftMs = (endpoint: Endpoint): number => predictions.of(endpoint)?.ttftMs ?? Number.POSITIVE_INFINITY;
      const predicted = least(holders, ttftMs) - least(others, ttftMs);
      // As long as one side is not predicted, the work that lies there tells.
      if (Number.isFinite(predicted)) return predicted;
    }
    return least(holders, workMs) - least(others, workMs);
  };
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
      if (maxTTFTPenaltyMs > 0 && penaltyMs(cycle, holders, others) > maxTTFTPenaltyMs) return endpoints;
      return holders;
    },
  };
};
