import { z } from 'zod';
import { AppError } from '../../../errors.ts';
import { type PluginFactory, type ProfileHandler, parseParameters } from '../../framework/plugin.ts';

/** Runs the one profile of the configuration. */
export const createSingleProfileHandler: PluginFactory = (context): ProfileHandler => {
  parseParameters(context, z.strictObject({}));
  let only = '';
  return {
    type: context.type,
    name: context.name,
    check: (profiles) => {
      const [first, ...more] = profiles;
      if (first === undefined || more.length > 0) {
        throw new AppError(
          'invalid',
          `schedulingProfiles: ${context.type} needs exactly one profile, not ${profiles.size}; ` +
            'use disagg-profile-handler for prefill and decode',
        );
      }
      only = first;
    },
    next: (_cycle, results) => (results.has(only) ? undefined : only),
    primary: () => only,
  };
};
