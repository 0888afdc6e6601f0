import { z } from 'zod';
import type { UsageLimitPolicy } from '../../framework/flow-policy.ts';
import { type PluginFactory, parseParameters } from '../../framework/plugin.ts';

const parameters = z
  .strictObject({
    minCeiling: z.number().min(0).max(1),
    maxCeiling: z.number().positive().default(1),
    domain: z.enum(['rank', 'value']).default('rank'),
    shape: z.literal('linear').default('linear'),
  })
  .refine(({ minCeiling, maxCeiling }) => minCeiling <= maxCeiling, {
    message: 'must not be above maxCeiling',
    path: ['minCeiling'],
  });

/** Holds room back for higher priorities: the highest has maxCeiling, the lowest minCeiling, linear between by rank or by value. */
export const createPriorityHoldbackPolicy: PluginFactory = (context): UsageLimitPolicy => {
  const { minCeiling, maxCeiling, domain } = parseParameters(context, parameters);
  return {
    type: context.type,
    name: context.name,
    ceilings: (priorities) => {
      const highest = priorities[0] ?? 0;
      const range = highest - (priorities[priorities.length - 1] ?? 0);
      return priorities.map((priority, i) => {
        if (priorities.length === 1) return maxCeiling;
        const below = domain === 'rank' ? i / (priorities.length - 1) : (highest - priority) / range;
        return maxCeiling - below * (maxCeiling - minCeiling);
      });
    },
  };
};
