import { z } from 'zod';
import { AppError } from '../../../errors.ts';
import { type Admitter, type PluginFactory, parseParameters } from '../../framework/plugin.ts';

const parameters = z.strictObject({
  queueDepthThreshold: z.number().positive().default(5),
  kvCacheUtilThreshold: z.number().positive().max(1).default(0.8),
  power: z.number().positive().default(5),
  k: z.number().positive().default(300),
});

/**
 * Turns away requests of negative priority with probability min(1, k·s^power), where s is the mean over the candidates of
 * max(waiting/queueDepthThreshold, KV use/kvCacheUtilThreshold); 1 for an endpoint without fresh metrics.
 */
export const createProbabilisticAdmitter: PluginFactory = (context): Admitter => {
  const { queueDepthThreshold, kvCacheUtilThreshold, power, k } = parseParameters(context, parameters);
  return {
    type: context.type,
    name: context.name,
    admit: (cycle, endpoints) => {
      if (cycle.priority >= 0 || endpoints.length === 0) return undefined;
      let sum = 0;
      for (const { load } of endpoints) {
        sum += load.isKnown ? Math.max(load.waiting / queueDepthThreshold, load.kvUsage / kvCacheUtilThreshold) : 1;
      }
      const probability = Math.min(1, k * (sum / endpoints.length) ** power);
      if (context.random() >= probability) return undefined;
      return new AppError('overloaded', 'the pool is busy and the request may be shed; try again later');
    },
  };
};
