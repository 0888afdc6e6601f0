import { z } from 'zod';
import { type Picker, type PluginFactory, parseParameters } from '../../framework/plugin.ts';

const parameters = z.strictObject({ maxNumOfEndpoints: z.number().int().positive().default(1) });

/**
 * Any endpoint, as likely as its total is high: each draws U^(1/total) with U in 0–1 and the highest draws win
 * (reservoir sampling A-Res by Efraimidis and Spirakis). A total of 0 or less wins only over its like.
 */
export const createWeightedRandomPicker: PluginFactory = (context): Picker => {
  const { maxNumOfEndpoints } = parseParameters(context, parameters);
  return {
    type: context.type,
    name: context.name,
    pick: (_cycle, endpoints, totals) =>
      endpoints
        .map((endpoint, i) => {
          const total = totals[i] ?? 0;
          const drawn = context.random();
          // Those without weight are drawn among each other, below all others.
          return { endpoint, draw: total > 0 ? drawn ** (1 / total) : drawn - 1 };
        })
        .sort((a, b) => b.draw - a.draw)
        .slice(0, maxNumOfEndpoints)
        .map(({ endpoint }) => endpoint),
  };
};
