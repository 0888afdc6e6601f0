import { z } from 'zod';
import type { Load } from '../../framework/endpoint.ts';
import type { SaturationDetector } from '../../framework/flow-policy.ts';
import { type PluginFactory, parseParameters } from '../../framework/plugin.ts';

const parameters = z.strictObject({
  /** Requests in flight at which an endpoint is full. */
  maxConcurrency: z.number().int().positive().default(100),
  /** Prompt tokens to be computed at which an endpoint is full. */
  maxTokenConcurrency: z.number().int().positive().default(1_000_000),
  concurrencyMode: z.enum(['requests', 'tokens', 'hybrid']).default('requests'),
  /** How far beyond full an endpoint may go before the filter drops it, as a share. */
  headroom: z.number().min(0).default(0),
});

/**
 * Full by what this picker sent: Σ in flight / Σ capacity, of requests or tokens; `hybrid` is the mean of each endpoint's
 * greater ratio. Needs no metrics. As a filter it may leave nobody: the request is then told that the pool is full.
 */
export const createConcurrencyDetector: PluginFactory = (context): SaturationDetector => {
  const { maxConcurrency, maxTokenConcurrency, concurrencyMode, headroom } = parseParameters(context, parameters);
  const use = ({ inFlight, inFlightTokens }: Load): number => {
    const requests = inFlight / maxConcurrency;
    const tokens = inFlightTokens / maxTokenConcurrency;
    if (concurrencyMode === 'requests') return requests;
    return concurrencyMode === 'tokens' ? tokens : Math.max(requests, tokens);
  };
  return {
    type: context.type,
    name: context.name,
    saturation: (endpoints, placing) => {
      let sum = concurrencyMode === 'tokens' ? 0 : placing / maxConcurrency;
      for (const { load } of endpoints) sum += use(load);
      return sum / endpoints.length;
    },
    staleCount: () => 0,
    filter: (_cycle, endpoints) => endpoints.filter(({ load }) => use(load) < 1 + headroom),
    isDrainedByLoad: true,
  };
};
