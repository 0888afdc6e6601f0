import { z } from 'zod';
import { createStaticFilter } from '../../framework/endpoint.ts';
import { type Filter, type PluginFactory, parseParameters } from '../../framework/plugin.ts';

const parameters = z.strictObject({
  matchLabels: z.record(z.string(), z.string()).default({}),
  matchExpressions: z
    .array(
      z
        .strictObject({
          key: z.string().min(1),
          operator: z.enum(['In', 'NotIn', 'Exists', 'DoesNotExist']),
          values: z.array(z.string()).default([]),
        })
        .refine(
          ({ operator, values }) => operator.endsWith('In') === values.length > 0,
          'In and NotIn need values, Exists and DoesNotExist take none',
        ),
    )
    .default([]),
});

/** Keeps endpoints whose labels match a Kubernetes label selector; an empty one keeps all. */
export const createLabelSelectorFilter: PluginFactory = (context): Filter => {
  const { matchLabels, matchExpressions } = parseParameters(context, parameters);
  const wanted = Object.entries(matchLabels);
  const keep = createStaticFilter(
    ({ labels }) =>
      wanted.every(([key, value]) => labels[key] === value) &&
      matchExpressions.every(({ key, operator, values }) => {
        const value = labels[key];
        if (operator === 'Exists') return value !== undefined;
        if (operator === 'DoesNotExist') return value === undefined;
        const isListed = value !== undefined && values.includes(value);
        return operator === 'In' ? isListed : !isListed;
      }),
  );
  return { type: context.type, name: context.name, filter: (_cycle, endpoints) => keep(endpoints) };
};
