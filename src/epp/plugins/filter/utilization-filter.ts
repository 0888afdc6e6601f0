import { z } from 'zod';
import type { Load } from '../../framework/endpoint.ts';
import { type Filter, type PluginFactory, parseParameters } from '../../framework/plugin.ts';

const parameters = z.strictObject({
  conditions: z
    .array(
      z.strictObject({
        metric: z.enum(['active-requests', 'running-requests', 'waiting-queue', 'kv-cache-utilization']),
        maxValue: z.number().min(0),
      }),
    )
    .min(1),
  /** With nobody left, keep everybody. */
  fallbackOnEmpty: z.boolean().default(false),
});

const figures: Readonly<Record<z.infer<typeof parameters>['conditions'][number]['metric'], (load: Load) => number>> = {
  'active-requests': (load) => load.inFlight,
  'running-requests': (load) => load.running,
  'waiting-queue': (load) => load.waiting,
  'kv-cache-utilization': (load) => load.kvUsage,
};

/** Keeps endpoints that exceed no limit. Without fresh metrics only a limit on our own requests can be kept. */
export const createUtilizationFilter: PluginFactory = (context): Filter => {
  const { conditions, fallbackOnEmpty } = parseParameters(context, parameters);
  const checks = conditions.map(({ metric, maxValue }) => ({
    of: figures[metric],
    isOurs: metric === 'active-requests',
    maxValue,
  }));
  return {
    type: context.type,
    name: context.name,
    filter: (_cycle, endpoints) => {
      const kept = endpoints.filter(({ load }) =>
        checks.every(({ of, isOurs, maxValue }) => (isOurs || load.isKnown) && of(load) <= maxValue),
      );
      return kept.length === 0 && fallbackOnEmpty ? endpoints : kept;
    },
  };
};
