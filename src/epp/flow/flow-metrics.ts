import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import { type EppMetric, eppMetrics } from '../../telemetry/epp-metrics.ts';
import type { Endpoint } from '../framework/endpoint.ts';
import type { FlowControl, FlowObserver, FlowOutcome, FlowRequest } from './flow-control.ts';

/** Distinct values of a label that clients can invent; later ones are told as `other`. */
const maxValues = 1000;

/** Metrics of requests that wait. Those about the queue itself are worked out when the page is read. */
export class FlowControlMetrics implements FlowObserver {
  readonly #pool: string;
  readonly #registry: Registry;
  readonly #fairnessIds = new Set<string>();
  readonly #models = new Set<string>();
  readonly #requests: Counter<string>;
  readonly #evictions: Counter<string>;
  readonly #queued: Histogram<string>;
  readonly #enqueued: Histogram<string>;
  readonly #cycles: Histogram<string>;

  constructor(registry: Registry, pool: string) {
    this.#pool = pool;
    this.#registry = registry;
    this.#requests = new Counter(this.#base(eppMetrics.flowRequests));
    this.#evictions = new Counter(this.#base(eppMetrics.flowEvictions));
    this.#queued = this.#histogram(eppMetrics.flowQueueDuration);
    this.#enqueued = this.#histogram(eppMetrics.flowEnqueueDuration);
    this.#cycles = this.#histogram(eppMetrics.flowCycleDuration);
  }

  settled({ fairnessId, priority, model, target }: FlowRequest, outcome: FlowOutcome, queuedMs: number): void {
    this.#requests.labels(outcome, String(priority), this.#pool).inc();
    this.#queued
      .labels(
        this.#fairness(fairnessId),
        String(priority),
        outcome,
        this.#pool,
        this.#model(model),
        this.#model(target),
      )
      .observe(queuedMs / 1000);
  }

  enqueued({ fairnessId, priority }: FlowRequest, outcome: FlowOutcome, seconds: number): void {
    this.#enqueued.labels(this.#fairness(fairnessId), String(priority), outcome).observe(seconds);
  }

  evicted(priority: number): void {
    this.#evictions.labels(String(priority), this.#pool).inc();
  }

  cycle(seconds: number): void {
    this.#cycles.labels().observe(seconds);
  }

  /** Gauges over a queue and its pool. */
  watch(control: FlowControl, endpoints: () => readonly Endpoint[]): void {
    const { queue } = control;
    const share = (value: number, limit: number): number => (limit > 0 ? value / limit : 0);
    const waiting = (metric: EppMetric, of: (request: FlowRequest) => number): void => {
      this.#gauge(metric, (gauge) => {
        gauge.reset();
        for (const { request } of queue.items()) {
          const { fairnessId, priority, model, target } = request;
          gauge
            .labels(this.#fairness(fairnessId), String(priority), this.#pool, this.#model(model), this.#model(target))
            .inc(of(request));
        }
        // Present while nothing waits, so that a scaler sees 0 rather than nothing.
        if (queue.requests === 0) gauge.labels('default-flow', '0', this.#pool, '', '').set(0);
      });
    };
    waiting(eppMetrics.flowQueueSize, () => 1);
    waiting(eppMetrics.flowQueueBytes, ({ bytes }) => bytes);
    this.#gauge(eppMetrics.flowSaturation, (gauge) => {
      gauge.reset();
      const { stages, effective } = control.saturation();
      for (const [stage, value] of stages) gauge.labels(this.#pool, stage).set(value);
      gauge.labels(this.#pool, 'effective').set(effective);
    });
    this.#gauge(eppMetrics.flowStaleEndpoints, (gauge) => {
      gauge.reset();
      const { detector } = control;
      gauge.labels(detector.name).set(detector.staleCount(endpoints().filter(({ isReady }) => isReady)));
    });
    this.#gauge(eppMetrics.flowCapacityRequests, (gauge) => {
      gauge.reset();
      for (const { priority, requests, settings } of queue.bands) {
        gauge.labels(String(priority), this.#pool).set(share(requests, settings.maxRequests));
      }
    });
    this.#gauge(eppMetrics.flowCapacityBytes, (gauge) => {
      gauge.reset();
      for (const { priority, bytes, settings } of queue.bands) {
        gauge.labels(String(priority), this.#pool).set(share(bytes, settings.maxBytes));
      }
    });
    this.#gauge(eppMetrics.flowGlobalCapacityRequests, (gauge) =>
      gauge.labels(this.#pool).set(share(queue.requests, queue.limits.maxRequests)),
    );
    this.#gauge(eppMetrics.flowGlobalCapacityBytes, (gauge) =>
      gauge.labels(this.#pool).set(share(queue.bytes, queue.limits.maxBytes)),
    );
  }

  #fairness(id: string): string {
    return bounded(this.#fairnessIds, id);
  }

  #model(name: string): string {
    return bounded(this.#models, name);
  }

  #histogram(metric: EppMetric): Histogram<string> {
    return new Histogram({ ...this.#base(metric), buckets: [...(metric.buckets ?? [])] });
  }

  #gauge(metric: EppMetric, collect: (gauge: Gauge<string>) => void): void {
    new Gauge({
      ...this.#base(metric),
      collect() {
        collect(this as unknown as Gauge<string>);
      },
    });
  }

  #base(metric: EppMetric) {
    return { name: metric.name, help: metric.help, labelNames: [...metric.labels], registers: [this.#registry] };
  }
}

function bounded(values: Set<string>, value: string): string {
  if (values.has(value)) return value;
  if (values.size >= maxValues) return 'other';
  values.add(value);
  return value;
}
