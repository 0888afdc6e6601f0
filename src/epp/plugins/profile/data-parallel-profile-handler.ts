import { z } from 'zod';
import { AppError } from '../../../errors.ts';
import { toHostPort } from '../../framework/endpoint.ts';
import { type PluginFactory, type PreRequest, type ProfileHandler, parseParameters } from '../../framework/plugin.ts';

const parameters = z.strictObject({
  /** Port of the sidecar, which hands the request to the rank. */
  primaryPort: z.number().int().min(1).max(65_535).default(8000),
});

/**
 * Runs the one profile, and sends the request to the pod's primary port; `x-data-parallel-host-port` tells the sidecar
 * there which rank was chosen.
 */
export const createDataParallelProfileHandler: PluginFactory = (context): ProfileHandler & PreRequest => {
  const { primaryPort } = parseParameters(context, parameters);
  let only = '';
  return {
    type: context.type,
    name: context.name,
    check: (profiles) => {
      const [first, ...more] = profiles;
      if (first === undefined || more.length > 0) {
        throw new AppError(
          'invalid',
          `schedulingProfiles: ${context.type} needs exactly one profile, not ${profiles.size}`,
        );
      }
      only = first;
    },
    next: (_cycle, results) => (results.has(only) ? undefined : only),
    primary: () => only,
    preRequest: (_cycle, decision, headers) => {
      const { primary, endpoints } = decision;
      decision.isRewritten = true;
      headers.set('x-data-parallel-host-port', primary.hostPort);
      headers.set(
        'x-gateway-destination-endpoint',
        endpoints.map(({ address }) => toHostPort(address, primaryPort)).join(','),
      );
    },
  };
};
