import { z } from 'zod';
import { type PluginFactory, parseParameters, type Scorer } from '../../framework/plugin.ts';

const level = z.enum(['Critical', 'Standard', 'Sheddable']);

const parameters = z.strictObject({
  /** Request header with the level; wins over `models`. */
  header: z.string().toLowerCase().default('x-signalbox-criticality'),
  /** Level by model name. */
  models: z.record(z.string(), level).default({}),
  default: level.default('Standard'),
  /** Waiting requests at which an endpoint counts as full. */
  queueThreshold: z.number().positive().default(5),
});

/**
 * Keeps free endpoints free for what matters. With u = max(KV use, waiting/queueThreshold) capped at 1:
 * critical requests score 1−u, sheddable ones u while u < 1 (they fill what is busy already), standard ones 0.5
 * everywhere. Without fresh metrics u is 1.
 */
export const createCriticalityScorer: PluginFactory = (context): Scorer => {
  const { header, models, default: fallback, queueThreshold } = parseParameters(context, parameters);
  return {
    type: context.type,
    name: context.name,
    score: ({ request }, endpoints, scores) => {
      const given = level.safeParse(request.header(header));
      const criticality = given.success ? given.data : (models[request.model] ?? fallback);
      for (let i = 0; i < endpoints.length; i++) {
        const load = endpoints[i]?.load;
        if (load === undefined) continue;
        const use = load.isKnown ? Math.min(1, Math.max(load.kvUsage, load.waiting / queueThreshold)) : 1;
        if (criticality === 'Critical') scores[i] = 1 - use;
        else if (criticality === 'Standard') scores[i] = 0.5;
        else scores[i] = use < 1 ? use : 0;
      }
    },
  };
};
