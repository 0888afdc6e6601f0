import type { Adapters } from '../framework/endpoint.ts';
import type { Reading } from './live-load.ts';
import { labelOf, meanOf, parseSeriesSpec, type SeriesSpec, samplesOf, sumOf } from './prometheus-text.ts';

/** Where an engine's metrics page tells its load. */
export interface EngineMetrics {
  readonly waiting: SeriesSpec;
  readonly running: SeriesSpec;
  readonly kvUsage?: SeriesSpec;
  readonly adapters?: SeriesSpec;
  /** Further series by the keys that plugins know them by. */
  readonly custom?: Readonly<Record<string, SeriesSpec>>;
}

const spec = (text: string): SeriesSpec => parseSeriesSpec(text) ?? { name: text, labels: {} };

/** By the value of the pod label `llm-d.ai/engine-type`. */
export const engines: Readonly<Record<string, EngineMetrics>> = {
  vllm: {
    waiting: spec('vllm:num_requests_waiting'),
    running: spec('vllm:num_requests_running'),
    kvUsage: spec('vllm:kv_cache_usage_perc'),
    adapters: spec('vllm:lora_requests_info'),
  },
  sglang: {
    waiting: spec('sglang:num_queue_reqs'),
    running: spec('sglang:num_running_reqs'),
    kvUsage: spec('sglang:token_usage'),
  },
  'trtllm-serve': {
    waiting: spec('trtllm_num_requests_waiting'),
    running: spec('trtllm_num_requests_running'),
    kvUsage: spec('trtllm_kv_cache_utilization'),
  },
  'triton-tensorrt-llm': {
    waiting: spec('nv_trt_llm_request_metrics{request_type=waiting}'),
    running: spec('nv_trt_llm_request_metrics{request_type=scheduled}'),
    kvUsage: spec('nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=fraction}'),
  },
  triton: { waiting: spec('nv_inference_pending_request_count'), running: spec('nv_inference_exec_count') },
};

/** Adapters of one endpoint that are kept; a page with more is not believed. */
const maxAdapters = 1024;

/** The load on a metrics page, or undefined when the page does not tell both queue and running requests, or tells what cannot be. */
export function readLoad(page: string, metrics: EngineMetrics): Reading | undefined {
  const waiting = sumOf(page, metrics.waiting);
  const running = sumOf(page, metrics.running);
  if (!isCount(waiting) || !isCount(running)) return undefined;
  const kvUsage = Math.min(1, Math.max(0, meanOf(page, metrics.kvUsage) ?? 0));
  const adapters = metrics.adapters && readAdapters(page, metrics.adapters);
  const custom = metrics.custom && readCustom(page, metrics.custom);
  return {
    waiting,
    running,
    kvUsage,
    ...(adapters === undefined ? {} : { adapters }),
    ...(custom === undefined ? {} : { custom }),
  };
}

function isCount(value: number | undefined): value is number {
  return value !== undefined && value >= 0 && value <= Number.MAX_SAFE_INTEGER;
}

/** What the page does not tell has no key. */
function readCustom(page: string, wanted: Readonly<Record<string, SeriesSpec>>): Readonly<Record<string, number>> {
  const values: Record<string, number> = {};
  for (const [key, series] of Object.entries(wanted)) {
    const value = sumOf(page, series);
    if (value !== undefined) values[key] = value;
  }
  return values;
}

/** The latest of the series: its value is the time at which it was true. */
function readAdapters(page: string, series: SeriesSpec): Adapters | undefined {
  const samples = samplesOf(page, series);
  const [first, ...rest] = samples;
  if (first === undefined) return undefined;
  const latest = rest.reduce((best, sample) => (sample.value > best.value ? sample : best), first);
  const names = (label: string): ReadonlySet<string> =>
    new Set(
      (labelOf(latest.labels, label) ?? '')
        .split(',')
        .map((name) => name.trim())
        .filter((name) => name !== '')
        .slice(0, maxAdapters),
    );
  const max = Number(labelOf(latest.labels, 'max_lora') ?? 0);
  return {
    active: names('running_lora_adapters'),
    waiting: names('waiting_lora_adapters'),
    max: Number.isFinite(max) ? max : 0,
  };
}
