import type { StateKey } from './cycle-state.ts';
import type { Endpoint } from './endpoint.ts';

/** What a request would see on one endpoint, milliseconds. */
export interface LatencyPrediction {
  /** Time to the first token. */
  readonly ttftMs: number;
  /** Time for each further token. */
  readonly tpotMs: number;
}

export interface LatencyPredictions {
  /** What the client asked for; undefined where it did not. */
  readonly ttftObjectiveMs: number | undefined;
  readonly tpotObjectiveMs: number | undefined;
  /** Who predicted. */
  readonly producer: { readonly name: string; readonly type: string };
  /** How long it took, seconds. */
  readonly tookS: number;
  of(endpoint: Endpoint): LatencyPrediction | undefined;
}

/** Written by the producer of predictions; absent when nothing can be said yet. */
export const latencyKey: StateKey<LatencyPredictions> = { name: 'predicted-latency' };

/** A client's objective in milliseconds by the header's name of now or of before. */
export function objectiveMs(
  request: { header(name: string): string | undefined },
  what: 'ttft' | 'tpot',
): number | undefined {
  const text = request.header(`x-llm-d-slo-${what}-ms`) ?? request.header(`x-slo-${what}-ms`);
  const value = text === undefined ? Number.NaN : Number(text);
  return Number.isFinite(value) && value > 0 ? value : undefined;
}

/** Whether the endpoint is predicted to keep what the client asked for; true where nothing is predicted. */
export function keepsObjectives(predictions: LatencyPredictions, endpoint: Endpoint): boolean {
  const prediction = predictions.of(endpoint);
  if (prediction === undefined) return true;
  const { ttftObjectiveMs: ttft, tpotObjectiveMs: tpot } = predictions;
  return (ttft === undefined || prediction.ttftMs <= ttft) && (tpot === undefined || prediction.tpotMs <= tpot);
}
