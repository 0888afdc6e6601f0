import { z } from 'zod';
import { AppError } from '../../../errors.ts';
import {
  type Decider,
  isDecider,
  type PluginFactory,
  type ProfileHandler,
  parseParameters,
} from '../../framework/plugin.ts';

const parameters = z.strictObject({
  /** Which endpoint is chosen first; the other can then be near it. */
  stageOrder: z.enum(['decode-first', 'prefill-first']).default('decode-first'),
  profiles: z
    .strictObject({
      decode: z.string().default('decode'),
      prefill: z.string().default('prefill'),
      encode: z.string().default('encode'),
    })
    .prefault({}),
  deciders: z.strictObject({ prefill: z.string().optional(), encode: z.string().optional() }).prefault({}),
});

/**
 * Chooses the decode endpoint, and where its decider wants the stage an endpoint that computes the prompt first and one
 * that encodes media. Without a decider, or when no endpoint of the stage is left, the decode endpoint does it.
 */
export const createDisaggProfileHandler: PluginFactory = (context): ProfileHandler => {
  const { stageOrder, profiles, deciders } = parseParameters(context, parameters);
  const deciderOf = (stage: keyof typeof deciders): Decider | undefined => {
    const name = deciders[stage];
    if (name === undefined) return undefined;
    const from = `${context.path}.deciders.${stage}`;
    const plugin = context.plugin(name, from);
    if (isDecider(plugin)) return plugin;
    throw new AppError('invalid', `${from}: ${plugin.name} (type ${plugin.type}) is not a decider`);
  };
  const prefill = deciderOf('prefill');
  const encode = deciderOf('encode');
  const isPrefillFirst = stageOrder === 'prefill-first' && prefill !== undefined;
  return {
    type: context.type,
    name: context.name,
    check: (known) => {
      const needed = [
        profiles.decode,
        ...(prefill === undefined ? [] : [profiles.prefill]),
        ...(encode === undefined ? [] : [profiles.encode]),
      ];
      for (const name of needed) {
        if (known.has(name)) continue;
        throw new AppError(
          'invalid',
          `schedulingProfiles: ${context.name} needs a profile named ${name}; there are ${[...known].join(', ')}`,
        );
      }
    },
    next: (cycle, results) => {
      // Without a prompt there is nothing to compute ahead.
      const hasPrompt = cycle.request.completion !== undefined;
      if (isPrefillFirst && hasPrompt && !results.has(profiles.prefill)) return profiles.prefill;
      const decode = results.get(profiles.decode);
      if (decode === undefined) return profiles.decode;
      const endpoint = decode.picked[0];
      if (endpoint === undefined || !hasPrompt) return undefined;
      // A stage that is not wanted is asked for again after the other; deciders are cheap and have no memory.
      if (encode !== undefined && !results.has(profiles.encode) && encode.isStageWanted(cycle, endpoint)) {
        return profiles.encode;
      }
      if (prefill !== undefined && !results.has(profiles.prefill) && prefill.isStageWanted(cycle, endpoint)) {
        return profiles.prefill;
      }
      return undefined;
    },
    primary: () => profiles.decode,
    unwanted: (cycle, results) => {
      const endpoint = results.get(profiles.decode)?.picked[0];
      if (!isPrefillFirst || endpoint === undefined || !results.has(profiles.prefill)) return undefined;
      return prefill.isStageWanted(cycle, endpoint) ? undefined : profiles.prefill;
    },
  };
};
