import { z } from 'zod';
import type { Cycle } from '../../framework/cycle-state.ts';
import type { Endpoint } from '../../framework/endpoint.ts';
import { latencyKey } from '../../framework/latency.ts';
import { type PluginFactory, parseParameters, type Scorer } from '../../framework/plugin.ts';
import { matchedShare, prefixMatchKey } from '../../framework/prefix-match.ts';

const weight = (value: number) => z.number().min(0).default(value);

const parameters = z.strictObject({
  ttftWeight: weight(0.8),
  tpotWeight: weight(0.2),
  /** Among endpoints that keep the objectives: those with least room, which packs, or most, which spreads. */
  headroomSelectionStrategy: z.enum(['least', 'most']).default('least'),
  compositeKVWeight: weight(1),
  compositeQueueWeight: weight(1),
  compositePrefixWeight: weight(1),
});

interface Headroom {
  readonly at: number;
  readonly ttft: number;
  readonly tpot: number;
}

/**
 * By predicted latency. Headroom is objective − prediction (objective 0 where the client set none). One group counts, the
 * others score 0: both headrooms ≥ 0; else idle endpoints; else only TPOT missed; else only TTFT; else both. In it
 * n = (|h|−min)/(max−min), c = α·nTTFT + β·nTPOT; `least`: (⌊(1−c)·100⌋+1)/100, `most`: (⌊c·100⌋+1)/100; groups that miss
 * always `least`. Without predictions: free KV cache, short queue and cached prefix by their weights.
 */
export const createLatencyScorer: PluginFactory = (context): Scorer => {
  const settings = parseParameters(context, parameters);

  const composite = (cycle: Cycle, endpoints: readonly Endpoint[], scores: Float64Array): void => {
    const { compositeKVWeight: kv, compositeQueueWeight: queue, compositePrefixWeight: prefix } = settings;
    const sum = kv + queue + prefix;
    if (sum === 0) return;
    const match = cycle.get(prefixMatchKey);
    const longest = Math.max(1, ...endpoints.map(({ load }) => (load.isKnown ? load.waiting : 0)));
    for (let i = 0; i < endpoints.length; i++) {
      const endpoint = endpoints[i];
      if (!endpoint?.load.isKnown) continue;
      const { kvUsage, waiting } = endpoint.load;
      const total =
        kv * (1 - kvUsage) + (queue * (longest - waiting)) / longest + prefix * matchedShare(match, endpoint);
      scores[i] = Math.round((100 * total) / sum) / 100;
    }
  };

  return {
    type: context.type,
    name: context.name,
    score: (cycle, endpoints, scores) => {
      const predictions = cycle.get(latencyKey);
      const headrooms: Headroom[] = [];
      for (const [at, endpoint] of endpoints.entries()) {
        const predicted = predictions?.of(endpoint);
        if (predicted === undefined) continue;
        const ttft = (predictions?.ttftObjectiveMs ?? 0) - predicted.ttftMs;
        const tpot = (predictions?.tpotObjectiveMs ?? 0) - predicted.tpotMs;
        headrooms.push({ at, ttft, tpot });
      }
      if (headrooms.length === 0) {
        composite(cycle, endpoints, scores);
        return;
      }
      const groups: readonly ((room: Headroom) => boolean)[] = [
        ({ ttft, tpot }) => ttft >= 0 && tpot >= 0,
        ({ at }) => endpoints[at]?.load.inFlight === 0,
        ({ ttft, tpot }) => ttft >= 0 && tpot < 0,
        ({ ttft, tpot }) => ttft < 0 && tpot >= 0,
        () => true,
      ];
      const which = groups.findIndex((isIn) => headrooms.some(isIn));
      const group = headrooms.filter((room) => groups[which]?.(room));
      const isMost = which === 0 && settings.headroomSelectionStrategy === 'most';
      const costs = costsOf(group, settings.ttftWeight, settings.tpotWeight);
      for (const [i, { at }] of group.entries()) {
        const cost = costs[i] ?? 0;
        // Less a hair, so that 1−0.2 is not taken for 0.7999.
        scores[at] = (Math.floor((isMost ? cost : 1 - cost) * 100 + 1e-9) + 1) / 100;
      }
    },
  };
};

function costsOf(group: readonly Headroom[], ttftWeight: number, tpotWeight: number): readonly number[] {
  const scaled = (of: (room: Headroom) => number): { readonly values: readonly number[]; readonly isFlat: boolean } => {
    const sizes = group.map((room) => Math.abs(of(room)));
    const min = Math.min(...sizes);
    const range = Math.max(...sizes) - min;
    const isFlat = range <= 1e-9;
    return { values: sizes.map((size) => (isFlat ? 0.5 : (size - min) / range)), isFlat };
  };
  const ttft = scaled((room) => room.ttft);
  const tpot = scaled((room) => room.tpot);
  let [a, b] = [ttftWeight, tpotWeight];
  // What does not differ cannot decide.
  if (ttft.isFlat && !tpot.isFlat) [a, b] = [0, 1];
  else if (tpot.isFlat && !ttft.isFlat) [a, b] = [1, 0];
  const sum = a + b === 0 ? 1 : a + b;
  return group.map((_room, i) => (a * (ttft.values[i] ?? 0) + b * (tpot.values[i] ?? 0)) / sum);
}
