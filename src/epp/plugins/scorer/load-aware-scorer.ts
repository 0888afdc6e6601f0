import { z } from 'zod';
import { type PluginFactory, parseParameters, type Scorer } from '../../framework/plugin.ts';

const parameters = z.strictObject({
  /** Waiting requests at which an endpoint counts as full. */
  threshold: z.number().positive().default(128),
  /** When given, load is requests a second over this figure instead of the queue. */
  maxQps: z.number().positive().optional(),
});

/**
 * 0.5·(1 − min(waiting, threshold)/threshold), and 0 without fresh metrics; with `maxQps`, 1 − min(1, rate/maxQps),
 * where the rate is what this picker sent.
 */
export const createLoadAwareScorer: PluginFactory = (context): Scorer => {
  const { threshold, maxQps } = parseParameters(context, parameters);
  return {
    type: context.type,
    name: context.name,
    score: (_cycle, endpoints, scores) => {
      for (let i = 0; i < endpoints.length; i++) {
        const load = endpoints[i]?.load;
        if (load === undefined) continue;
        if (maxQps !== undefined) scores[i] = 1 - Math.min(1, load.requestsPerSecond / maxQps);
        else if (load.isKnown) scores[i] = 0.5 * (1 - Math.min(load.waiting, threshold) / threshold);
      }
    },
  };
};
