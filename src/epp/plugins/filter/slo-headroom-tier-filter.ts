import { z } from 'zod';
import { keepsObjectives, latencyKey } from '../../framework/latency.ts';
import { type Filter, type PluginFactory, parseParameters } from '../../framework/plugin.ts';

const parameters = z.strictObject({
  /** How often a request goes to the endpoints that are predicted to miss its objectives, so that they are known too. */
  epsilonExploreNeg: z.number().min(0).max(1).default(0.01),
});

/** Keeps the endpoints that are predicted to keep the request's objectives; all when none does, or nothing is predicted. */
export const createSloHeadroomTierFilter: PluginFactory = (context): Filter => {
  const { epsilonExploreNeg } = parseParameters(context, parameters);
  return {
    type: context.type,
    name: context.name,
    filter: (cycle, endpoints) => {
      const latency = cycle.get(latencyKey);
      if (latency === undefined) return endpoints;
      const keeping = endpoints.filter((endpoint) => keepsObjectives(latency, endpoint));
      if (keeping.length === 0 || keeping.length === endpoints.length) return endpoints;
      if (epsilonExploreNeg === 0 || context.random() >= epsilonExploreNeg) return keeping;
      return endpoints.filter((endpoint) => !keeping.includes(endpoint));
    },
  };
};
