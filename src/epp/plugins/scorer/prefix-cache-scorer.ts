import { z } from 'zod';
import { type PluginFactory, parseParameters, type Scorer } from '../../framework/plugin.ts';
import { matchedShare, prefixMatchKeyOf } from '../../framework/prefix-match.ts';

const parameters = z.strictObject({
  /** Weight of the length of a match beside its share, 0–1. */
  matchLengthWeight: z.number().min(0).max(1).default(0),
  /** Matched tokens that count as full length. */
  matchLengthScaleTokens: z.number().positive().default(8192),
  /** Name of the producer of matches; the one of the configuration when absent. */
  prefixMatchInfoProducerName: z.string().optional(),
});

/** w·min(1, matched tokens / scale)² + (1−w)·matched share of the prompt; 1 where the request's session is known. */
export const createPrefixCacheScorer: PluginFactory = (context): Scorer => {
  const { matchLengthWeight: weight, matchLengthScaleTokens: scale, ...given } = parseParameters(context, parameters);
  const key = prefixMatchKeyOf(given.prefixMatchInfoProducerName);
  return {
    type: context.type,
    name: context.name,
    score: (cycle, endpoints, scores) => {
      const match = cycle.get(key);
      if (match === undefined || !match.isWarm) return;
      for (let i = 0; i < endpoints.length; i++) {
        const endpoint = endpoints[i];
        if (endpoint === undefined) continue;
        const share = matchedShare(match, endpoint);
        if (weight === 0 || match.hasSession(endpoint)) scores[i] = share;
        else {
          const length = Math.min(1, match.matchedTokens(endpoint) / scale);
          scores[i] = weight * length * length + (1 - weight) * share;
        }
      }
    },
  };
};
