import { z } from 'zod';
import { type Plugin, type PluginFactory, parseParameters } from '../../framework/plugin.ts';

const parameters = z.strictObject({
  addEstimatedOutputTokens: z.literal(false).default(false),
  outputRatio: z.number().positive().optional(),
  maxEstimatedOutputTokens: z.number().int().positive().optional(),
  syncCrossReplicaState: z.boolean().optional(),
  prefixMatchInfoProducerName: z.string().optional(),
});

/** Nothing to do: every endpoint's requests and prompt tokens in flight are counted from the choice on, listed or not. */
export const createInflightLoadProducer: PluginFactory = (context): Plugin => {
  parseParameters(context, parameters);
  return { type: context.type, name: context.name };
};
