import { z } from 'zod';
import { type PluginFactory, type PreRequest, parseParameters } from '../../framework/plugin.ts';

const parameters = z.strictObject({
  prefillProfile: z.string().default('prefill'),
  encodeProfile: z.string().default('encode'),
});

/** Tells the decode pod's sidecar where to prefill, `x-prefiller-host-port`, and where to encode, `x-encoder-hosts-ports`. */
export const createDisaggHeadersHandler: PluginFactory = (context): PreRequest => {
  const { prefillProfile, encodeProfile } = parseParameters(context, parameters);
  return {
    type: context.type,
    name: context.name,
    preRequest: (_cycle, decision, headers) => {
      const prefill = decision.results.get(prefillProfile)?.picked[0];
      if (prefill !== undefined) headers.set('x-prefiller-host-port', prefill.hostPort);
      const encoders = decision.results.get(encodeProfile)?.picked ?? [];
      if (encoders.length > 0) {
        headers.set('x-encoder-hosts-ports', encoders.map(({ hostPort }) => hostPort).join(','));
      }
    },
  };
};
