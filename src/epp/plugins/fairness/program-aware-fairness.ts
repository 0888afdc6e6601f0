import { z } from 'zod';
import type { FairnessPolicy } from '../../framework/flow-policy.ts';
import { type PluginFactory, parseParameters } from '../../framework/plugin.ts';

const parameters = z.strictObject({
  strategy: z.literal('las').default('las'),
  lasWeightService: z.number().min(0).default(0.8),
  lasWeightHeadWait: z.number().min(0).default(0.2),
  lasHalfLifeSeconds: z.number().positive().default(60),
  /** Flows unheard of for this long are forgotten. */
  evictionTtlSeconds: z.number().positive().default(3600),
  evictionSweepSeconds: z.number().positive().default(60),
});

/** Most flows that are remembered; the one unheard of for longest is forgotten first. */
const maxFlows = 10_000;

interface Attained {
  /** Weighted tokens at `atMs`. */
  service: number;
  atMs: number;
}

/**
 * Least attained service first: 0.8·(1 − service) + 0.2·wait of its first request, both relative to the greatest of the
 * flows that wait. Service is prompt tokens + 2 × completion tokens, halved every `lasHalfLifeSeconds`.
 */
export const createProgramAwareFairness: PluginFactory = (context): FairnessPolicy => {
  const { lasWeightService, lasWeightHeadWait, lasHalfLifeSeconds, evictionTtlSeconds, evictionSweepSeconds } =
    parseParameters(context, parameters);
  /** In the order of their last answer. */
  const attained = new Map<string, Attained>();
  let sweptAtMs = 0;
  const serviceOf = (fairnessId: string, nowMs: number): number => {
    const known = attained.get(fairnessId);
    return known === undefined ? 0 : known.service * 2 ** (-(nowMs - known.atMs) / 1000 / lasHalfLifeSeconds);
  };
  const forget = (nowMs: number): void => {
    if (nowMs - sweptAtMs < evictionSweepSeconds * 1000 && attained.size < maxFlows) return;
    sweptAtMs = nowMs;
    for (const [fairnessId, { atMs }] of attained) {
      if (nowMs - atMs < evictionTtlSeconds * 1000 && attained.size < maxFlows) break;
      attained.delete(fairnessId);
    }
  };
  return {
    type: context.type,
    name: context.name,
    nextFlow: (flows, nowMs) => {
      const all = [...flows].map(({ fairnessId, head }) => ({
        fairnessId,
        service: serviceOf(fairnessId, nowMs),
        waitMs: nowMs - head.enqueuedAtMs,
      }));
      const maxService = Math.max(...all.map(({ service }) => service));
      const maxWaitMs = Math.max(...all.map(({ waitMs }) => waitMs));
      let best: string | undefined;
      let bestScore = Number.NEGATIVE_INFINITY;
      for (const { fairnessId, service, waitMs } of all) {
        const score =
          lasWeightService * (1 - (maxService > 0 ? service / maxService : 0)) +
          lasWeightHeadWait * (maxWaitMs > 0 ? waitMs / maxWaitMs : 0);
        if (score <= bestScore) continue;
        best = fairnessId;
        bestScore = score;
      }
      return best;
    },
    used: (fairnessId, { promptTokens, completionTokens }, nowMs) => {
      const service = serviceOf(fairnessId, nowMs) + promptTokens + 2 * completionTokens;
      attained.delete(fairnessId);
      forget(nowMs);
      attained.set(fairnessId, { service, atMs: nowMs });
    },
  };
};
