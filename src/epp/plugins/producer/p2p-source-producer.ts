import { z } from 'zod';
import type { Endpoint } from '../../framework/endpoint.ts';
import { type PluginFactory, type PreRequest, parseParameters } from '../../framework/plugin.ts';
import { prefixMatchKeyOf } from '../../framework/prefix-match.ts';

const parameters = z.strictObject({
  /** Tokens that a source has to hold more than the endpoint that computes the prompt. */
  minCachedTokenDelta: z.number().min(0).default(1),
  prefillProfileName: z.string().default('prefill'),
  prefixMatchInfoProducerName: z.string().optional(),
});

/**
 * Tells the sidecar from which endpoint cached blocks can be fetched, `x-kv-cache-source-host-port`: one that holds more of
 * the prompt than the endpoint that computes it, drawn with weight 1/(1+waiting).
 */
export const createP2pSourceProducer: PluginFactory = (context): PreRequest => {
  const { minCachedTokenDelta, prefillProfileName, prefixMatchInfoProducerName } = parseParameters(context, parameters);
  const key = prefixMatchKeyOf(prefixMatchInfoProducerName);
  return {
    type: context.type,
    name: context.name,
    preRequest: (cycle, decision, headers) => {
      const match = cycle.get(key);
      if (match === undefined || !match.isWarm) return;
      const target = decision.results.get(prefillProfileName)?.picked[0] ?? decision.primary;
      const least = match.matchedTokens(target) + minCachedTokenDelta;
      const sources = cycle.pool.filter(
        (endpoint) => endpoint.isReady && endpoint.id !== target.id && match.matchedTokens(endpoint) >= least,
      );
      const source = draw(sources, context.random());
      if (source !== undefined) headers.set('x-kv-cache-source-host-port', source.hostPort);
    },
  };
};

function draw(endpoints: readonly Endpoint[], random: number): Endpoint | undefined {
  const weightOf = ({ load }: Endpoint): number => 1 / (1 + load.waiting);
  let left = random * endpoints.reduce((sum, endpoint) => sum + weightOf(endpoint), 0);
  for (const endpoint of endpoints) {
    left -= weightOf(endpoint);
    if (left < 0) return endpoint;
  }
  return endpoints.at(-1);
}
