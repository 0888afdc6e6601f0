import { z } from 'zod';
import { type PluginFactory, parseParameters, type Scorer } from '../../framework/plugin.ts';
import { prefixMatchKey } from '../../framework/prefix-match.ts';

const parameters = z.strictObject({
  /** Tokens in flight at which an endpoint counts as full. */
  queueThresholdTokens: z.number().positive().default(4_194_304),
  inFlightLoadProducerName: z.string().optional(),
});

/**
 * 1 − min(t, T)/T, where t is the estimated prompt tokens that this picker sent and whose first token is not out, plus
 * those of this request that the endpoint does not hold, and T is `queueThresholdTokens`.
 */
export const createTokenLoadScorer: PluginFactory = (context): Scorer => {
  const { queueThresholdTokens: threshold } = parseParameters(context, parameters);
  return {
    type: context.type,
    name: context.name,
    score: (cycle, endpoints, scores) => {
      const match = cycle.get(prefixMatchKey);
      const tokens = match?.promptTokens ?? cycle.request.promptText().length / 4;
      for (let i = 0; i < endpoints.length; i++) {
        const endpoint = endpoints[i];
        if (endpoint === undefined) continue;
        const uncached = Math.max(0, tokens - (match?.matchedTokens(endpoint) ?? 0));
        scores[i] = 1 - Math.min(endpoint.load.inFlightTokens + uncached, threshold) / threshold;
      }
    },
  };
};
