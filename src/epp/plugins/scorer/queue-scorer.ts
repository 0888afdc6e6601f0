import { z } from 'zod';
import { type PluginFactory, parseParameters, type Scorer } from '../../framework/plugin.ts';

/**
 * Shorter queues score higher: (max−q)/(max−min) over the candidates, all 1 when equal.
 * An endpoint without fresh metrics gets 0; when none has any, requests in flight stand in for the queue.
 */
export const createQueueScorer: PluginFactory = (context): Scorer => {
  parseParameters(context, z.strictObject({}));
  return {
    type: context.type,
    name: context.name,
    score: (_cycle, endpoints, scores) => {
      const isAnyKnown = endpoints.some(({ load }) => load.isKnown);
      let min = Number.POSITIVE_INFINITY;
      let max = 0;
      for (const { load } of endpoints) {
        if (isAnyKnown && !load.isKnown) continue;
        const queue = isAnyKnown ? load.waiting : load.inFlight;
        if (queue < min) min = queue;
        if (queue > max) max = queue;
      }
      for (let i = 0; i < endpoints.length; i++) {
        const load = endpoints[i]?.load;
        if (load === undefined || (isAnyKnown && !load.isKnown)) continue;
        const queue = isAnyKnown ? load.waiting : load.inFlight;
        scores[i] = max === min ? 1 : (max - queue) / (max - min);
      }
    },
  };
};
