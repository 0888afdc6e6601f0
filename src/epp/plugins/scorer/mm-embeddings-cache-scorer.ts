import { z } from 'zod';
import { mediaMatchKey } from '../../framework/media.ts';
import { type PluginFactory, parseParameters, type Scorer } from '../../framework/plugin.ts';

/** Share of the request's pictures, recordings and films that the endpoint has encoded already; 0 without any. */
export const createMmEmbeddingsCacheScorer: PluginFactory = (context): Scorer => {
  parseParameters(context, z.strictObject({ producerName: z.string().optional() }));
  return {
    type: context.type,
    name: context.name,
    score: (cycle, endpoints, scores) => {
      const match = cycle.get(mediaMatchKey);
      if (match === undefined) return;
      for (let i = 0; i < endpoints.length; i++) {
        const endpoint = endpoints[i];
        if (endpoint !== undefined) scores[i] = match.share(endpoint);
      }
    },
  };
};
