import { z } from 'zod';
import type { Endpoint } from '../../framework/endpoint.ts';
import { type Picker, type PluginFactory, parseParameters } from '../../framework/plugin.ts';

const parameters = z.strictObject({ maxNumOfEndpoints: z.number().int().positive().default(1) });

/** Sums of weighted scores that differ by less are the same score. */
const epsilon = 1e-9;

/**
 * The highest total. Among equals, the endpoint that this picker chose longest ago: fair whatever the groups of
 * equals look like, and no two requests at once take the same one.
 */
export const createMaxScorePicker: PluginFactory = (context): Picker => {
  const { maxNumOfEndpoints } = parseParameters(context, parameters);
  const lastTurn = new WeakMap<Endpoint, number>();
  let turn = 0;
  const age = (endpoint: Endpoint): number => lastTurn.get(endpoint) ?? 0;

  const pickOne = (endpoints: readonly Endpoint[], totals: Float64Array): readonly Endpoint[] => {
    let best = -1;
    let bestTotal = Number.NEGATIVE_INFINITY;
    let bestAge = -1;
    for (let i = 0; i < endpoints.length; i++) {
      const total = totals[i] ?? 0;
      if (total < bestTotal - epsilon) continue;
      const isBetter = total > bestTotal + epsilon;
      // Ages are looked up only when there is a tie to break.
      if (!isBetter) {
        if (bestAge < 0) bestAge = age(endpoints[best] as Endpoint);
        const candidateAge = age(endpoints[i] as Endpoint);
        if (candidateAge >= bestAge) continue;
        bestAge = candidateAge;
      } else bestAge = -1;
      best = i;
      bestTotal = Math.max(total, bestTotal);
    }
    const endpoint = endpoints[best];
    return endpoint === undefined ? [] : [endpoint];
  };

  const pickSome = (endpoints: readonly Endpoint[], totals: Float64Array): readonly Endpoint[] =>
    endpoints
      .map((endpoint, i) => ({ endpoint, total: totals[i] ?? 0 }))
      .sort((a, b) => (Math.abs(a.total - b.total) > epsilon ? b.total - a.total : age(a.endpoint) - age(b.endpoint)))
      .slice(0, maxNumOfEndpoints)
      .map(({ endpoint }) => endpoint);

  return {
    type: context.type,
    name: context.name,
    pick: (cycle, endpoints, totals) => {
      const picked = maxNumOfEndpoints === 1 ? pickOne(endpoints, totals) : pickSome(endpoints, totals);
      const first = picked[0];
      if (first !== undefined && !cycle.isTrial) lastTurn.set(first, ++turn);
      return picked;
    },
  };
};
