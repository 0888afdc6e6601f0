import { z } from 'zod';
import type { UsageLimitPolicy } from '../../framework/flow-policy.ts';
import { type PluginFactory, parseParameters } from '../../framework/plugin.ts';

const parameters = z.strictObject({ threshold: z.number().positive().default(1) });

/** The same ceiling for every priority. */
export const createStaticUsageLimitPolicy: PluginFactory = (context): UsageLimitPolicy => {
  const { threshold } = parseParameters(context, parameters);
  return { type: context.type, name: context.name, ceilings: (priorities) => priorities.map(() => threshold) };
};
