import { z } from 'zod';
import { mediaOf } from '../../framework/media.ts';
import { type Decider, type PluginFactory, parseParameters } from '../../framework/plugin.ts';

/** Every request with pictures, recordings or films gets a separate encode stage. */
export const createAlwaysDisaggMultimodalDecider: PluginFactory = (context): Decider => {
  parseParameters(context, z.strictObject({}));
  return { type: context.type, name: context.name, isStageWanted: ({ request }) => mediaOf(request).length > 0 };
};
