import { z } from 'zod';
import { type PluginFactory, type PreRequest, parseParameters, type Scorer } from '../../framework/plugin.ts';
import { prefixMatchKey } from '../../framework/prefix-match.ts';

const parameters = z.strictObject({
  /** Endpoints whose last cold request is remembered. */
  lruSize: z.number().int().positive().default(1024),
  prefixMatchInfoProducerName: z.string().optional(),
  prefixPluginType: z.string().optional(),
  prefixPluginName: z.string().optional(),
});

/**
 * Spreads requests that no endpoint has in its cache: the endpoint that got such a request longest ago, or never,
 * scores highest (1 down to 0 in even steps). When any endpoint matches, all get 0.5.
 */
export const createNoHitLruScorer: PluginFactory = (context): Scorer & PreRequest => {
  const { lruSize } = parseParameters(context, parameters);
  // Insertion order is age: the first key was used longest ago.
  const used = new Map<string, true>();
  return {
    type: context.type,
    name: context.name,
    score: (cycle, endpoints, scores) => {
      if (cycle.get(prefixMatchKey)?.isWarm) {
        scores.fill(0.5);
        return;
      }
      const count = endpoints.length;
      if (count === 1) {
        scores[0] = 1;
        return;
      }
      let rank = 0;
      const remembered = new Map<string, number>();
      for (let i = 0; i < count; i++) {
        const id = endpoints[i]?.id ?? '';
        if (used.has(id)) remembered.set(id, i);
        else scores[i] = 1 - rank++ / (count - 1);
      }
      if (remembered.size === 0) return;
      for (const id of used.keys()) {
        const i = remembered.get(id);
        if (i !== undefined) scores[i] = Math.max(0, 1 - rank++ / (count - 1));
      }
    },
    preRequest: (cycle, decision) => {
      if (cycle.get(prefixMatchKey)?.isWarm) return;
      for (const result of decision.results.values()) {
        const id = result.picked[0]?.id;
        if (id === undefined) continue;
        used.delete(id);
        used.set(id, true);
        if (used.size > lruSize) {
          for (const oldest of used.keys()) {
            used.delete(oldest);
            break;
          }
        }
      }
    },
  };
};
