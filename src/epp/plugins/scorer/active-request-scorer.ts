import { z } from 'zod';
import { type PluginFactory, parseParameters, type Scorer } from '../../framework/plugin.ts';

const parameters = z.strictObject({
  /** Up to this many requests in flight an endpoint counts as idle. */
  idleThreshold: z.number().min(0).default(0),
  /** The most that a busy endpoint can score. */
  maxBusyScore: z.number().min(0).max(1).default(1),
  /** Accepted and not used: requests are counted from sending to their end. */
  requestTimeout: z.string().optional(),
  inFlightLoadProducerName: z.string().optional(),
});

/** By this picker's own requests in flight: idle ⇒ 1, else (max−n)/max·maxBusyScore over the candidates. */
export const createActiveRequestScorer: PluginFactory = (context): Scorer => {
  const { idleThreshold, maxBusyScore } = parseParameters(context, parameters);
  return {
    type: context.type,
    name: context.name,
    score: (_cycle, endpoints, scores) => {
      let max = 0;
      for (const { load } of endpoints) if (load.inFlight > max) max = load.inFlight;
      for (let i = 0; i < endpoints.length; i++) {
        const count = endpoints[i]?.load.inFlight ?? 0;
        scores[i] = count <= idleThreshold ? 1 : ((max - count) / max) * maxBusyScore;
      }
    },
  };
};
