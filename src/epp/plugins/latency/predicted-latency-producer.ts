import { z } from 'zod';
import type { Cycle, StateKey } from '../../framework/cycle-state.ts';
import type { Endpoint } from '../../framework/endpoint.ts';
import { type LatencyPrediction, latencyKey, objectiveMs } from '../../framework/latency.ts';
import {
  type ExchangeObserver,
  type PluginFactory,
  type Preparer,
  type PreRequest,
  type Producer,
  parseParameters,
} from '../../framework/plugin.ts';
import { matchedShare, prefixMatchKey } from '../../framework/prefix-match.ts';
import { LeastSquares } from './least-squares.ts';
import { type LatencyFeatures, PredictorClient } from './predictor-client.ts';

const url = z.url({ protocol: /^https?$/ }).transform((text) => text.replace(/\/+$/, ''));

const parameters = z.strictObject({
  /** Objectives for time per token are taken as this share of themselves. */
  sloBufferFactor: z.number().positive().default(1),
  /** A predictor's addresses; without any, what is predicted is learned here. */
  predictionUrls: z.array(url).default([]),
  trainingUrl: url.optional(),
  timeoutMs: z.number().int().min(1).max(5000).default(100),
  /** Exchanges that have to be seen before anything is predicted. */
  minSamples: z.number().int().min(1).default(32),
  endpointRoleLabel: z.string().default('llm-d.ai/role'),
  // Accepted and not used: every exchange is a sample, at its first token and at its end.
  samplingMean: z.number().optional(),
  maxDecodeTokenSamplesForPrediction: z.number().int().optional(),
  contextTTL: z.string().optional(),
  streamingMode: z.boolean().optional(),
  predictInProduce: z.boolean().optional(),
  useEncoderCacheFeatures: z.boolean().optional(),
  prefixMatchInfoProducerName: z.string().optional(),
});

const featureCount = 8;

/** The figures of the chosen endpoint at the time of the choice, to learn from. */
const chosenKey: StateKey<LatencyFeatures> = { name: 'predicted-latency features' };
const ttftKey: StateKey<number> = { name: 'predicted-latency ttft' };

/**
 * What each endpoint would take for the request: time to the first token and per further token, in milliseconds. Asked of a
 * predictor (`/predict/bulk/strict`, trained by `/add_training_data_bulk`), or learned here: a linear estimate over KV use,
 * queue, running requests, prompt length, what of it is not cached, and prompt tokens in flight.
 */
export const createPredictedLatencyProducer: PluginFactory = (
  context,
): Producer & Preparer & PreRequest & ExchangeObserver => {
  const settings = parseParameters(context, parameters);
  const client =
    settings.predictionUrls.length === 0 && settings.trainingUrl === undefined
      ? undefined
      : new PredictorClient({
          predictionUrls: settings.predictionUrls,
          trainingUrl: settings.trainingUrl,
          timeoutMs: settings.timeoutMs,
          problem: (message) => context.report('down', message),
        });
  const isAsked = settings.predictionUrls.length > 0;
  const ttft = new LeastSquares(featureCount);
  const tpot = new LeastSquares(featureCount);

  const featuresOf = (cycle: Cycle, endpoint: Endpoint): LatencyFeatures => {
    const match = cycle.get(prefixMatchKey);
    const { load, labels } = endpoint;
    return {
      kv_cache_percentage: load.kvUsage,
      input_token_length: Math.round(match?.promptTokens ?? cycle.request.promptText().length / 4),
      num_request_waiting: load.waiting,
      num_request_running: load.running,
      num_tokens_generated: 0,
      prefix_cache_score: matchedShare(match, endpoint),
      pod_type: labels[settings.endpointRoleLabel] ?? '',
      prefill_tokens_in_flight: load.inFlightTokens,
      decode_tokens_in_flight: 0,
    };
  };

  const producer = { name: context.name, type: context.type };
  const write = (cycle: Cycle, startMs: number, of: (endpoint: Endpoint) => LatencyPrediction | undefined): void => {
    const { request } = cycle;
    const tpotMs = objectiveMs(request, 'tpot');
    cycle.set(latencyKey, {
      ttftObjectiveMs: objectiveMs(request, 'ttft'),
      tpotObjectiveMs: tpotMs === undefined ? undefined : tpotMs * settings.sloBufferFactor,
      producer,
      tookS: (performance.now() - startMs) / 1000,
      of,
    });
  };

  return {
    type: context.type,
    name: context.name,
    close: () => client?.close(),
    state: () => ({ samples: ttft.samples, isAsked }),
    produce: (cycle) => {
      if (isAsked || cycle.request.completion === undefined || ttft.samples < settings.minSamples) return;
      const found = new Map<Endpoint, LatencyPrediction>();
      write(cycle, performance.now(), (endpoint) => {
        if (!endpoint.load.isKnown) return undefined;
        let prediction = found.get(endpoint);
        if (prediction === undefined) {
          const row = toRow(featuresOf(cycle, endpoint));
          prediction = { ttftMs: Math.max(0, ttft.predict(row)), tpotMs: Math.max(0, tpot.predict(row)) };
          found.set(endpoint, prediction);
        }
        return prediction;
      });
    },
    prepare: (cycle) => {
      if (client === undefined || !isAsked || cycle.request.completion === undefined) return undefined;
      const endpoints = cycle.pool.filter(({ isReady, load }) => isReady && load.isKnown);
      if (endpoints.length === 0) return undefined;
      const startMs = performance.now();
      return client.predict(endpoints.map((endpoint) => featuresOf(cycle, endpoint))).then((predictions) => {
        if (predictions === undefined) return;
        const byId = new Map(endpoints.map(({ id }, i) => [id, predictions[i]]));
        write(cycle, startMs, ({ id }) => byId.get(id));
      });
    },
    preRequest: (cycle, decision) => {
      if (cycle.request.completion === undefined || !decision.primary.load.isKnown) return;
      cycle.set(chosenKey, featuresOf(cycle, decision.primary));
    },
    onFirstToken: (cycle, _decision, ttftMs) => {
      const features = cycle.get(chosenKey);
      // The first byte of an answer that is not streamed is its end.
      if (features === undefined || cycle.request.completion?.stream !== true) return;
      cycle.set(ttftKey, ttftMs);
      if (!isAsked) ttft.learn(toRow(features), ttftMs);
    },
    onEnd: (cycle, _decision, { isComplete, tpotMs, outputTokens }) => {
      const features = cycle.get(chosenKey);
      const ttftMs = cycle.get(ttftKey);
      if (!isComplete || features === undefined || ttftMs === undefined || tpotMs === undefined) return;
      if (!isAsked) tpot.learn(toRow(features), tpotMs);
      client?.add({
        ...features,
        num_tokens_generated: outputTokens ?? 0,
        actual_ttft_ms: ttftMs,
        actual_tpot_ms: tpotMs,
      });
    },
  };
};

/** Scaled to about one, so that no figure drowns the others. */
function toRow(features: LatencyFeatures): Float64Array {
  const tokens = features.input_token_length / 1000;
  return Float64Array.of(
    1,
    features.kv_cache_percentage,
    features.num_request_waiting / 10,
    features.num_request_running / 10,
    tokens,
    tokens * (1 - features.prefix_cache_score),
    features.prefill_tokens_in_flight / 10_000,
    features.kv_cache_percentage * features.num_request_running * 0.1,
  );
}
