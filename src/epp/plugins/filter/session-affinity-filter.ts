import { z } from 'zod';
import { type Filter, type PluginFactory, parseParameters } from '../../framework/plugin.ts';
import { prefixMatchKey } from '../../framework/prefix-match.ts';

const parameters = z.strictObject({ strategy: z.enum(['session_id']).default('session_id') });

/** Keeps the endpoints that served the request's session; all when there is no session, or none of them is left. */
export const createSessionAffinityFilter: PluginFactory = (context): Filter => {
  parseParameters(context, parameters);
  return {
    type: context.type,
    name: context.name,
    filter: (cycle, endpoints) => {
      const match = cycle.get(prefixMatchKey);
      if (match === undefined) return endpoints;
      const kept = endpoints.filter((endpoint) => match.hasSession(endpoint));
      return kept.length === 0 ? endpoints : kept;
    },
  };
};
