import { z } from 'zod';
import { type PluginFactory, parseParameters, type Scorer } from '../../framework/plugin.ts';

/**
 * Fewer running requests score higher: (max−r)/(max−min) over the candidates with fresh metrics, all 1 when equal;
 * 0 without fresh metrics.
 */
export const createRunningRequestsSizeScorer: PluginFactory = (context): Scorer => {
  parseParameters(context, z.strictObject({}));
  return {
    type: context.type,
    name: context.name,
    score: (_cycle, endpoints, scores) => {
      let min = Number.POSITIVE_INFINITY;
      let max = 0;
      for (const { load } of endpoints) {
        if (!load.isKnown) continue;
        if (load.running < min) min = load.running;
        if (load.running > max) max = load.running;
      }
      for (let i = 0; i < endpoints.length; i++) {
        const load = endpoints[i]?.load;
        if (load?.isKnown) scores[i] = max === min ? 1 : (max - load.running) / (max - min);
      }
    },
  };
};
