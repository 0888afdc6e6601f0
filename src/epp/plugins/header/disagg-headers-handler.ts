import { z } from 'zod';
import { type PluginFactory, type PreRequest, parseParameters } from '../../framework/plugin.ts';

const parameters = z.strictObject({ prefillProfile: z.string().default('prefill') });

/** Tells the decode pod's sidecar where to prefill: `x-prefiller-host-port: ip:port`. */
export const createDisaggHeadersHandler: PluginFactory = (context): PreRequest => {
  const { prefillProfile } = parseParameters(context, parameters);
  return {
    type: context.type,
    name: context.name,
    preRequest: (_cycle, decision, headers) => {
      const prefill = decision.results.get(prefillProfile)?.picked[0];
      if (prefill !== undefined) headers.set('x-prefiller-host-port', prefill.hostPort);
    },
  };
};
