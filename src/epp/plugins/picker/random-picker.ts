import { z } from 'zod';
import { type Picker, type PluginFactory, parseParameters } from '../../framework/plugin.ts';

const parameters = z.strictObject({ maxNumOfEndpoints: z.number().int().positive().default(1) });

/** Any endpoint, whatever the scores. */
export const createRandomPicker: PluginFactory = (context): Picker => {
  const { maxNumOfEndpoints } = parseParameters(context, parameters);
  return {
    type: context.type,
    name: context.name,
    pick: (_cycle, endpoints) => {
      const left = [...endpoints];
      const count = Math.min(maxNumOfEndpoints, left.length);
      for (let i = 0; i < count; i++) {
        const j = i + Math.floor(context.random() * (left.length - i));
        const chosen = left[j];
        const moved = left[i];
        if (chosen === undefined || moved === undefined) break;
        left[i] = chosen;
        left[j] = moved;
      }
      return left.slice(0, count);
    },
  };
};
