import { z } from 'zod';
import { type PluginFactory, parseParameters, type Scorer } from '../../framework/plugin.ts';

/** 1 − share of the KV cache in use; 0 without fresh metrics. */
export const createKvCacheUtilizationScorer: PluginFactory = (context): Scorer => {
  parseParameters(context, z.strictObject({}));
  return {
    type: context.type,
    name: context.name,
    score: (_cycle, endpoints, scores) => {
      for (let i = 0; i < endpoints.length; i++) {
        const load = endpoints[i]?.load;
        if (load?.isKnown) scores[i] = 1 - load.kvUsage;
      }
    },
  };
};
