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
 * Chooses the decode endpoint, then asks the decider whether a prefill endpoint shall compute the prompt first.
 * Without a decider, or when no prefill endpoint is left, the decode endpoint does both.
 */
export const createDisaggProfileHandler: PluginFactory = (context): ProfileHandler => {
  const { stageOrder, profiles, deciders } = parseParameters(context, parameters);
  if (stageOrder !== 'decode-first') {
    throw new AppError(
      'unsupported',
      `${context.path}.stageOrder: ${stageOrder} is not supported yet; use decode-first`,
    );
  }
  if (deciders.encode !== undefined) {
    throw new AppError('unsupported', `${context.path}.deciders.encode: a separate encode stage is not supported yet`);
  }
  let decider: Decider | undefined;
  if (deciders.prefill !== undefined) {
    const from = `${context.path}.deciders.prefill`;
    const plugin = context.plugin(deciders.prefill, from);
    if (!isDecider(plugin)) {
      throw new AppError('invalid', `${from}: ${plugin.name} (type ${plugin.type}) is not a decider`);
    }
    decider = plugin;
  }
  return {
    type: context.type,
    name: context.name,
    check: (known) => {
      const needed = decider === undefined ? [profiles.decode] : [profiles.decode, profiles.prefill];
      for (const name of needed) {
        if (known.has(name)) continue;
        throw new AppError(
          'invalid',
          `schedulingProfiles: ${context.name} needs a profile named ${name}; there are ${[...known].join(', ')}`,
        );
      }
    },
    next: (cycle, results) => {
      const decode = results.get(profiles.decode);
      if (decode === undefined) return profiles.decode;
      const endpoint = decode.picked[0];
      if (endpoint === undefined || decider === undefined || results.has(profiles.prefill)) return undefined;
      // Without a prompt there is nothing to compute ahead.
      if (cycle.request.completion === undefined) return undefined;
      return decider.isPrefillWanted(cycle, endpoint) ? profiles.prefill : undefined;
    },
    primary: () => profiles.decode,
  };
};
