import { z } from 'zod';
import type { Load } from '../../framework/endpoint.ts';
import type { SaturationDetector } from '../../framework/flow-policy.ts';
import { type PluginFactory, parseParameters } from '../../framework/plugin.ts';

const parameters = z.strictObject({
  /** Waiting requests at which an endpoint is full. */
  queueDepthThreshold: z.number().positive().default(5),
  /** Share of the KV cache at which an endpoint is full. */
  kvCacheUtilThreshold: z.number().positive().max(1).default(0.8),
  /** Older metrics are not believed; what is unknown to the picker never is. */
  metricsStalenessThreshold: z
    .string()
    .regex(/^\d+(\.\d+)?(ms|s|m)$/, 'must be a duration such as 500ms')
    .transform(toMs)
    .optional(),
  /** How far beyond full an endpoint may go before the filter drops it, as a share. */
  headroom: z.number().min(0).default(0),
});

function toMs(text: string): number {
  const unit = text.endsWith('ms') ? 1 : text.endsWith('s') ? 1000 : 60_000;
  return Number.parseFloat(text) * unit;
}

/**
 * Full by what engines tell: max(waiting/queueDepthThreshold, kvUsage/kvCacheUtilThreshold) of an endpoint, their mean for
 * the pool. Requests sent since the last reading count as waiting, so nothing overshoots between two readings.
 *
 * An endpoint without fresh metrics counts as full. When that is so for all of them the metrics are broken rather than the
 * endpoints: then requests in flight stand in for waiting ones, so that the pool is neither flooded nor shut.
 */
export const createUtilizationDetector: PluginFactory = (context): SaturationDetector => {
  const { queueDepthThreshold, kvCacheUtilThreshold, metricsStalenessThreshold, headroom } = parseParameters(
    context,
    parameters,
  );
  const { clock } = context;
  const isFresh = (load: Load): boolean =>
    load.isKnown &&
    (metricsStalenessThreshold === undefined || clock.now() - load.readAtMs <= metricsStalenessThreshold);
  const use = (load: Load): number =>
    isFresh(load) ? Math.max(load.waiting / queueDepthThreshold, load.kvUsage / kvCacheUtilThreshold) : 1;
  return {
    type: context.type,
    name: context.name,
    saturation: (endpoints, placing) => {
      let sum = placing / queueDepthThreshold;
      let stale = 0;
      let inFlight = 0;
      for (const { load } of endpoints) {
        inFlight += load.inFlight;
        if (!isFresh(load)) stale++;
        sum += use(load);
      }
      if (stale === endpoints.length) sum = (inFlight + placing) / queueDepthThreshold;
      return sum / endpoints.length;
    },
    staleCount: (endpoints) => endpoints.filter(({ load }) => !isFresh(load)).length,
    filter: (_cycle, endpoints) => {
      const kept = endpoints.filter(({ load }) => use(load) < 1 + headroom);
      return kept.length === 0 ? endpoints : kept;
    },
  };
};
