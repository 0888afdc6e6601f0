import { z } from 'zod';
import { type Decider, type PluginFactory, parseParameters } from '../../framework/plugin.ts';
import { prefixMatchKey } from '../../framework/prefix-match.ts';

const parameters = z.strictObject({
  /** Tokens that the decode endpoint would have to compute; from here on prefill is separate. 0 = never. */
  nonCachedTokens: z.number().int().min(0).default(0),
  /** Shorter prompts are never prefilled elsewhere. */
  promptTokens: z.number().int().min(0).default(0),
});

/** Separate prefill when the decode endpoint lacks enough of the prompt, counted in estimated tokens. */
export const createPrefixBasedPdDecider: PluginFactory = (context): Decider => {
  const { nonCachedTokens, promptTokens } = parseParameters(context, parameters);
  return {
    type: context.type,
    name: context.name,
    isStageWanted: (cycle, decode) => {
      const match = cycle.get(prefixMatchKey);
      if (nonCachedTokens === 0 || match === undefined || match.promptTokens < promptTokens) return false;
      return match.promptTokens - match.matchedTokens(decode) >= nonCachedTokens;
    },
  };
};
