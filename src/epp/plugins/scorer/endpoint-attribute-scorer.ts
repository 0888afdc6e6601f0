import { z } from 'zod';
import { type PluginFactory, parseParameters, type Scorer } from '../../framework/plugin.ts';

const parameters = z.strictObject({
  /** Key of a custom metric of the `core-metrics-extractor`. */
  attributeKey: z.string().min(1),
  producer: z.string().optional(),
  algorithm: z.strictObject({
    type: z.enum(['linear_lower_is_better', 'linear_higher_is_better']),
    normalization: z
      .strictObject({
        fixedRange: z
          .strictObject({ min: z.number(), max: z.number() })
          .refine(({ min, max }) => min < max, 'min must be below max')
          .optional(),
        adaptiveRange: z.strictObject({}).optional(),
      })
      .prefault({}),
  }),
});

/**
 * (v−min)/(max−min) of a custom metric v, or 1 less that where lower is better; the range is given, or that of the
 * candidates (1 for all when equal). 0 without fresh metrics.
 */
export const createEndpointAttributeScorer: PluginFactory = (context): Scorer => {
  const { attributeKey, algorithm } = parseParameters(context, parameters);
  const { fixedRange } = algorithm.normalization;
  const isLowerBetter = algorithm.type === 'linear_lower_is_better';
  return {
    type: context.type,
    name: context.name,
    score: (_cycle, endpoints, scores) => {
      let min = fixedRange?.min ?? Number.POSITIVE_INFINITY;
      let max = fixedRange?.max ?? Number.NEGATIVE_INFINITY;
      const values = endpoints.map(({ load }) => (load.isKnown ? load.custom?.[attributeKey] : undefined));
      if (fixedRange === undefined) {
        for (const value of values) {
          if (value === undefined) continue;
          min = Math.min(min, value);
          max = Math.max(max, value);
        }
      }
      for (let i = 0; i < values.length; i++) {
        const value = values[i];
        if (value === undefined) continue;
        if (min === max) scores[i] = 1;
        else {
          const share = Math.min(1, Math.max(0, (value - min) / (max - min)));
          scores[i] = isLowerBetter ? 1 - share : share;
        }
      }
    },
  };
};
