import { messageOf } from '../../../errors.ts';
import type { LatencyPrediction } from '../../framework/latency.ts';

/** What a prediction is made of, by the names of the predictor's API. */
export interface LatencyFeatures {
  readonly kv_cache_percentage: number;
  readonly input_token_length: number;
  readonly num_request_waiting: number;
  readonly num_request_running: number;
  readonly num_tokens_generated: number;
  readonly prefix_cache_score: number;
  readonly pod_type: string;
  readonly prefill_tokens_in_flight: number;
  readonly decode_tokens_in_flight: number;
}

export interface TrainingSample extends LatencyFeatures {
  readonly actual_ttft_ms: number;
  readonly actual_tpot_ms: number;
}

const maxKept = 2000;
const perCall = 100;
const flushMs = 1000;
const maxInFlight = 36;

/** Speaks to the predictor beside the picker: asks in bulk, and tells it what really happened, a second at a time. */
export class PredictorClient {
  readonly #predictionUrls: readonly string[];
  readonly #trainingUrl: string | undefined;
  readonly #timeoutMs: number;
  readonly #problem: (message: string) => void;
  readonly #timer: NodeJS.Timeout | undefined;
  readonly #stopped = new AbortController();
  #samples: TrainingSample[] = [];
  #turn = 0;
  #inFlight = 0;
  #isTelling = false;

  constructor(options: {
    readonly predictionUrls: readonly string[];
    readonly trainingUrl: string | undefined;
    readonly timeoutMs: number;
    readonly problem: (message: string) => void;
  }) {
    this.#predictionUrls = options.predictionUrls;
    this.#trainingUrl = options.trainingUrl;
    this.#timeoutMs = options.timeoutMs;
    this.#problem = options.problem;
    if (options.trainingUrl !== undefined) {
      this.#timer = setInterval(() => void this.#tell(), flushMs);
      this.#timer.unref();
    }
  }

  /** Predictions in the order of the features; undefined when there are none in time. Never rejects. */
  async predict(features: readonly LatencyFeatures[]): Promise<readonly LatencyPrediction[] | undefined> {
    if (this.#inFlight >= maxInFlight) return undefined;
    this.#inFlight++;
    try {
      const url = this.#predictionUrls[this.#turn++ % this.#predictionUrls.length] ?? '';
      const predictions: LatencyPrediction[] = [];
      for (let at = 0; at < features.length; at += perCall) {
        const requests = features.slice(at, at + perCall);
        const answer = (await this.#post(`${url}/predict/bulk/strict`, { requests })) as {
          readonly predictions?: readonly { readonly ttft_ms?: unknown; readonly tpot_ms?: unknown }[];
        };
        if (answer.predictions?.length !== requests.length) throw new Error('it answered other predictions than asked');
        for (const { ttft_ms: ttft, tpot_ms: tpot } of answer.predictions) {
          if (typeof ttft !== 'number' || typeof tpot !== 'number')
            throw new Error('it answered what is no prediction');
          predictions.push({ ttftMs: Math.max(0, ttft), tpotMs: Math.max(0, tpot) });
        }
      }
      return predictions;
    } catch (thrown) {
      if (!this.#stopped.signal.aborted) this.#problem(`the latency predictor: ${messageOf(thrown)}`);
      return undefined;
    } finally {
      this.#inFlight--;
    }
  }

  /** What was seen; kept until told, the oldest go first when there are too many. */
  add(sample: TrainingSample): void {
    if (this.#trainingUrl === undefined) return;
    if (this.#samples.length >= maxKept) this.#samples.shift();
    this.#samples.push(sample);
  }

  close(): void {
    clearInterval(this.#timer);
    this.#stopped.abort();
  }

  async #tell(): Promise<void> {
    if (this.#isTelling || this.#samples.length === 0) return;
    this.#isTelling = true;
    const entries = this.#samples.splice(0, 1000);
    try {
      await this.#post(`${this.#trainingUrl}/add_training_data_bulk`, { entries });
    } catch (thrown) {
      if (!this.#stopped.signal.aborted) this.#problem(`the latency trainer: ${messageOf(thrown)}`);
    }
    this.#isTelling = false;
  }

  async #post(url: string, body: unknown): Promise<unknown> {
    const response = await fetch(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
      signal: AbortSignal.any([this.#stopped.signal, AbortSignal.timeout(this.#timeoutMs)]),
      redirect: 'error',
    });
    if (!response.ok) {
      await response.body?.cancel();
      throw new Error(`${url} answered ${response.status}`);
    }
    return response.json();
  }
}
