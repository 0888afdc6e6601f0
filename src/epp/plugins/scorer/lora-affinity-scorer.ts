import { z } from 'zod';
import { type PluginFactory, parseParameters, type Scorer } from '../../framework/plugin.ts';

/** Adapter loaded ⇒ 1, room for another ⇒ 0.8, adapter waiting to be loaded ⇒ 0.6, else and without metrics ⇒ 0. */
export const createLoraAffinityScorer: PluginFactory = (context): Scorer => {
  parseParameters(context, z.strictObject({}));
  return {
    type: context.type,
    name: context.name,
    score: ({ request }, endpoints, scores) => {
      for (let i = 0; i < endpoints.length; i++) {
        const load = endpoints[i]?.load;
        const adapters = load?.adapters;
        if (!load?.isKnown || adapters === undefined) continue;
        if (adapters.active.has(request.model)) scores[i] = 1;
        else if (adapters.active.size + adapters.waiting.size < adapters.max) scores[i] = 0.8;
        else if (adapters.waiting.has(request.model)) scores[i] = 0.6;
      }
    },
  };
};
