import { type SimMetric, type SimMetricKey, simMetrics } from '../telemetry/sim-metrics.ts';

/** A number that only grows. */
export class Counter {
  value = 0;

  add(by = 1): void {
    this.value += by;
  }
}

/** A distribution over fixed buckets. */
export class Histogram {
  readonly #bounds: readonly number[];
  /** One more than bounds: what is above them all. */
  readonly #counts: number[];
  #sum = 0;

  constructor(bounds: readonly number[]) {
    this.#bounds = bounds;
    this.#counts = new Array<number>(bounds.length + 1).fill(0);
  }

  observe(value: number): void {
    let at = 0;
    while (at < this.#bounds.length && value > (this.#bounds[at] ?? 0)) at++;
    this.#counts[at] = (this.#counts[at] ?? 0) + 1;
    this.#sum += value;
  }

  /** The lines of the text format; `labels` without braces. */
  render(name: string, labels: string): string {
    let text = '';
    let total = 0;
    for (let at = 0; at <= this.#bounds.length; at++) {
      total += this.#counts[at] ?? 0;
      const bound = this.#bounds[at];
      text += `${name}_bucket{${labels},le="${bound === undefined ? '+Inf' : floatText(bound)}"} ${total}\n`;
    }
    return `${text}${name}_count{${labels}} ${total}\n${name}_sum{${labels}} ${this.#sum}\n`;
  }
}

function floatText(value: number): string {
  return Number.isInteger(value) ? `${value}.0` : String(value);
}

type KeysOf<T extends SimMetric['type']> = {
  [K in SimMetricKey]: (typeof simMetrics)[K]['type'] extends T ? K : never;
}[SimMetricKey];

type Counters = { readonly [K in Exclude<KeysOf<'counter'>, 'success' | 'promptTokensBySource'>]: Counter };
type Histograms = { readonly [K in KeysOf<'histogram'>]: Histogram };

/** What the engine counts. */
export type EngineMetrics = Counters &
  Histograms & {
    readonly success: Readonly<Record<'stop' | 'length' | 'abort' | 'error', Counter>>;
    readonly promptTokensBySource: Readonly<
      Record<'local_compute' | 'local_cache_hit' | 'external_kv_transfer', Counter>
    >;
  };

export function createEngineMetrics(): EngineMetrics {
  const made: Record<string, Counter | Histogram> = {};
  for (const [key, metric] of Object.entries<SimMetric>(simMetrics)) {
    if (metric.type === 'counter') made[key] = new Counter();
    else if (metric.type === 'histogram') made[key] = new Histogram(metric.buckets ?? []);
  }
  return {
    ...(made as unknown as Counters & Histograms),
    success: { stop: new Counter(), length: new Counter(), abort: new Counter(), error: new Counter() },
    promptTokensBySource: {
      local_compute: new Counter(),
      local_cache_hit: new Counter(),
      external_kv_transfer: new Counter(),
    },
  };
}

/** What is read at the moment of a scrape. */
export interface Gauges {
  readonly running: number;
  readonly capacityWaiting: number;
  readonly deferredWaiting: number;
  readonly kvCacheUsage: number;
  readonly runningAdapters: readonly string[];
  readonly waitingAdapters: readonly string[];
  readonly sleepLevel: number;
  readonly nowSeconds: number;
}

/** One data-parallel rank. */
export interface RankMetrics {
  readonly rank: number;
  readonly metrics: EngineMetrics;
  readonly gauges: () => Gauges;
}

export interface MetricsOptions {
  readonly modelName: string;
  readonly blockSize: number;
  readonly numBlocks: number;
  readonly hasPrefixCaching: boolean;
  readonly memoryUtilization: number;
  readonly maxLoras: number;
  /** Also under the names that vLLM had before and hides now. */
  readonly showsFormerNames: boolean;
  /** Tells whether engines are healthy. */
  readonly hasFaultTolerance: boolean;
  readonly ranks: readonly RankMetrics[];
  readonly process: () => { readonly startSeconds: number; readonly residentBytes: number };
}

/** A function that writes the Prometheus text. All that is constant is put together once. */
export function createMetricsPage(options: MetricsOptions): () => string {
  const heads = Object.fromEntries(
    Object.entries<SimMetric>(simMetrics).map(([key, { name, help, type }]) => [
      key,
      `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n`,
    ]),
  ) as Record<SimMetricKey, string>;
  const writers = options.ranks.map((rank) => ({ rank, write: createSamples(options, rank) }));
  const keys = (Object.keys(simMetrics) as SimMetricKey[]).filter(
    (key) => key !== 'engineHealthy' || options.hasFaultTolerance,
  );
  return () => {
    const gauges = writers.map(({ rank }) => rank.gauges());
    const { startSeconds, residentBytes } = options.process();
    let text = '';
    for (const key of keys) {
      let part = heads[key];
      if (key === 'startTime') part += `${simMetrics[key].name} ${startSeconds}\n`;
      else if (key === 'residentMemory') part += `${simMetrics[key].name} ${residentBytes}\n`;
      else {
        for (const [at, { write }] of writers.entries()) {
          const now = gauges[at];
          if (now) part += write(key, now);
        }
      }
      const former = options.showsFormerNames ? formerNames[key] : undefined;
      text += former === undefined ? part : part + part.replaceAll(simMetrics[key].name, former);
    }
    return text;
  };
}

/** Writes a metric's samples of one rank. */
function createSamples(
  options: MetricsOptions,
  { rank, metrics }: RankMetrics,
): (key: Exclude<SimMetricKey, 'startTime' | 'residentMemory'>, gauges: Gauges) => string {
  const labels = `engine="${rank}",model_name="${escapeLabel(options.modelName)}"`;
  const sample = (key: SimMetricKey, value: number, more = '') =>
    `${simMetrics[key].name}{${labels}${more}} ${value}\n`;
  const cacheConfig = sample(
    'cacheConfig',
    1,
    `,block_size="${options.blockSize}",num_gpu_blocks="${options.numBlocks}",enable_prefix_caching="${options.hasPrefixCaching ? 'True' : 'False'}",gpu_memory_utilization="${options.memoryUtilization}",cache_dtype="auto"`,
  );
  return (key, gauges) => {
    switch (key) {
      case 'running':
        return sample(key, gauges.running);
      case 'waiting':
        return sample(key, gauges.capacityWaiting + gauges.deferredWaiting);
      case 'waitingByReason':
        return (
          sample(key, gauges.capacityWaiting, ',reason="capacity"') +
          sample(key, gauges.deferredWaiting, ',reason="deferred"')
        );
      case 'kvCacheUsage':
        return sample(key, gauges.kvCacheUsage);
      case 'loraInfo':
        return sample(
          key,
          gauges.nowSeconds,
          `,max_lora="${options.maxLoras}",waiting_lora_adapters="${escapeLabel(gauges.waitingAdapters.join(','))}",running_lora_adapters="${escapeLabel(gauges.runningAdapters.join(','))}"`,
        );
      case 'sleepState':
        return sleepStates
          .map((state, level) => sample(key, gauges.sleepLevel === level ? 1 : 0, `,sleep_state="${state}"`))
          .join('');
      case 'cacheConfig':
        return cacheConfig;
      case 'engineHealthy':
        return sample(key, 1);
      case 'promptTokensBySource':
        return Object.entries(metrics.promptTokensBySource)
          .map(([source, counter]) => sample(key, counter.value, `,source="${source}"`))
          .join('');
      case 'success':
        return Object.entries(metrics.success)
          .map(([reason, counter]) => sample(key, counter.value, `,finished_reason="${reason}"`))
          .join('');
      default: {
        const metric = metrics[key];
        return metric instanceof Histogram ? metric.render(simMetrics[key].name, labels) : sample(key, metric.value);
      }
    }
  };
}

const sleepStates = ['awake', 'weights_offloaded', 'discard_all'] as const;

const formerNames: Readonly<Partial<Record<SimMetricKey, string>>> = {
  kvCacheUsage: 'vllm:gpu_cache_usage_perc',
  prefixQueries: 'vllm:gpu_prefix_cache_queries_total',
  prefixHits: 'vllm:gpu_prefix_cache_hits_total',
  interTokenSeconds: 'vllm:time_per_output_token_seconds',
};

function escapeLabel(value: string): string {
  return value.replace(/\\/g, '\\\\').replace(/"/g, '\\"').replace(/\n/g, '\\n');
}
