import { z } from 'zod';
import { AppError } from '../../../errors.ts';
import { keepsObjectives, latencyKey } from '../../framework/latency.ts';
import { type Admitter, type PluginFactory, parseParameters } from '../../framework/plugin.ts';

const coldKvUsage = 0.02;

/**
 * Turns away requests of negative priority whose objectives nobody is predicted to keep, unless an endpoint is idle
 * (nothing running) or cold (KV cache under 2 %).
 */
export const createLatencySloAdmitter: PluginFactory = (context): Admitter => {
  parseParameters(context, z.strictObject({}));
  return {
    type: context.type,
    name: context.name,
    admit: (cycle, endpoints) => {
      const latency = cycle.get(latencyKey);
      if (cycle.priority >= 0 || latency === undefined) return undefined;
      if (latency.ttftObjectiveMs === undefined && latency.tpotObjectiveMs === undefined) return undefined;
      const isHope = endpoints.some(
        (endpoint) =>
          (endpoint.load.isKnown && (endpoint.load.running === 0 || endpoint.load.kvUsage < coldKvUsage)) ||
          keepsObjectives(latency, endpoint),
      );
      return isHope
        ? undefined
        : new AppError('overloaded', 'no endpoint is expected to keep the latency objectives; try again later');
    },
  };
};
