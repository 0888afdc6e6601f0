import { z } from 'zod';
import { type Decider, type PluginFactory, parseParameters } from '../../framework/plugin.ts';

/** Every request with a prompt is prefilled elsewhere first; the sidecar skips it for conversations it holds. */
export const createAlwaysDisaggPdDecider: PluginFactory = (context): Decider => {
  parseParameters(context, z.strictObject({}));
  return { type: context.type, name: context.name, isStageWanted: () => true };
};
