import { z } from 'zod';
import { createStaticFilter } from '../../framework/endpoint.ts';
import { type Filter, type PluginFactory, parseParameters } from '../../framework/plugin.ts';

const parameters = z.strictObject({
  label: z.string().min(1),
  validValues: z.array(z.string()).default([]),
  /** Endpoints without the label stay too. */
  allowsNoLabel: z.boolean().default(false),
});

/** Keeps endpoints whose label has one of the values. Older configurations have it; `label-selector-filter` can do more. */
export const createByLabelFilter: PluginFactory = (context): Filter => {
  const { label, validValues, allowsNoLabel } = parseParameters(context, parameters);
  const keep = createStaticFilter(({ labels }) => {
    const value = labels[label];
    return value === undefined ? allowsNoLabel : validValues.includes(value);
  });
  return { type: context.type, name: context.name, filter: (_cycle, endpoints) => keep(endpoints) };
};
