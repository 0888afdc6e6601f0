import { z } from 'zod';
import { type Filter, type PluginFactory, parseParameters } from '../../framework/plugin.ts';

/**
 * For conformance tests: keeps the endpoints that `test-epp-endpoint-selection` lists, by `ip` or `ip:port`, in its order;
 * all without the header.
 */
export const createHeaderBasedTestingFilter: PluginFactory = (context): Filter => {
  parseParameters(context, z.strictObject({}));
  return {
    type: context.type,
    name: context.name,
    filter: ({ request }, endpoints) => {
      const wanted = request.header('test-epp-endpoint-selection');
      if (wanted === undefined || wanted.trim() === '') return endpoints;
      const named = wanted.split(',').map((each) => each.trim());
      return named.flatMap((each) =>
        endpoints.filter(({ address, hostPort }) => each === hostPort || each === address || each === `[${address}]`),
      );
    },
  };
};
