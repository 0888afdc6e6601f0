import { z } from 'zod';
import { servedEndpoint } from '../../framework/decision.ts';
import { type PluginFactory, type PreRequest, parseParameters } from '../../framework/plugin.ts';

const parameters = z.strictObject({});

/** For the gateways' conformance suite: the answer tells, as a header, which endpoint the gateway says that it came from. */
export const createDestinationEndpointServedVerifier: PluginFactory = (context): PreRequest => {
  parseParameters(context, parameters);
  return {
    type: context.type,
    name: context.name,
    preRequest: (_cycle, decision) => decision.addAnswerHeader('x-conformance-test-served-endpoint', servedEndpoint),
  };
};
