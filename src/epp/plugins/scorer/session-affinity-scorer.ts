import { z } from 'zod';
import { type PluginFactory, parseParameters, type Scorer } from '../../framework/plugin.ts';
import { prefixMatchKey } from '../../framework/prefix-match.ts';

const parameters = z.strictObject({
  strategy: z.enum(['session_id']).default('session_id'),
});

/** 1 where the request's session (`x-session-id` and its kin) was served and is remembered, else 0. */
export const createSessionAffinityScorer: PluginFactory = (context): Scorer => {
  parseParameters(context, parameters);
  return {
    type: context.type,
    name: context.name,
    score: (cycle, endpoints, scores) => {
      const match = cycle.get(prefixMatchKey);
      if (match === undefined) return;
      for (let i = 0; i < endpoints.length; i++) {
        const endpoint = endpoints[i];
        if (endpoint !== undefined && match.hasSession(endpoint)) scores[i] = 1;
      }
    },
  };
};
