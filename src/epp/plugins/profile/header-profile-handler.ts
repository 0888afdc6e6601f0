import { z } from 'zod';
import { AppError } from '../../../errors.ts';
import { type PluginFactory, type ProfileHandler, parseParameters } from '../../framework/plugin.ts';

const parameters = z.strictObject({
  headerName: z.string().min(1).toLowerCase().default('epp-profile'),
  /** For requests without the header. */
  defaultProfile: z.string().min(1).default('decode'),
});

/** Runs the one profile that the request's header names; the default one when there is no such profile. */
export const createHeaderProfileHandler: PluginFactory = (context): ProfileHandler => {
  const { headerName, defaultProfile } = parseParameters(context, parameters);
  let known: ReadonlySet<string> = new Set();
  return {
    type: context.type,
    name: context.name,
    check: (profiles) => {
      if (!profiles.has(defaultProfile)) {
        throw new AppError(
          'invalid',
          `${context.path}.defaultProfile: there is no profile ${defaultProfile}, only ${[...profiles].join(', ')}`,
        );
      }
      known = profiles;
    },
    next: ({ request }, results) => {
      if (results.size > 0) return undefined;
      const named = request.header(headerName);
      return named !== undefined && known.has(named) ? named : defaultProfile;
    },
    primary: (results) => [...results.keys()][0] ?? defaultProfile,
  };
};
