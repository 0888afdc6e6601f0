import type { Counter, Gauge, Histogram } from 'prom-client';
import { type EppMetric, eppMetrics } from '../telemetry/epp-metrics.ts';
import type { Datastore } from './datalayer/datastore.ts';
import type { Cycle } from './framework/cycle-state.ts';
import type { Decision } from './framework/decision.ts';
import { type LatencyPredictions, latencyKey } from './framework/latency.ts';
import { mediaMatchKey, mediaOf } from './framework/media.ts';
import type { Plugin } from './framework/plugin.ts';
import { matchedShare, prefixMatchKeyOf } from './framework/prefix-match.ts';

/** Makes metrics in a registry. */
export interface MetricMaker {
  counter(metric: EppMetric): Counter<string>;
  gauge(metric: EppMetric, collect?: (gauge: Gauge<string>) => void): Gauge<string>;
  histogram(metric: EppMetric): Histogram<string>;
}

interface Observer {
  observe(value: number): void;
}

/** Every this many requests the time of each plugin is measured. */
const timedEvery = 8;
const bytesPerToken = 4;

const prefixTypes = new Set([
  'approx-prefix-cache-producer',
  'precise-prefix-cache-producer',
  'precise-prefix-cache-scorer',
]);

/** What metrics tell of a choice's making: plugins, what was cached, what was predicted. */
export class ChoiceMetrics {
  readonly #pluginDuration: Histogram<string>;
  readonly #byPlugin = new Map<string, Observer>();
  readonly #hitRatio: Histogram<string>;
  readonly #hitBytes: Histogram<string>;
  readonly #encoderQueries: Counter<string>;
  readonly #encoderHits: Counter<string>;
  readonly #encoderRatio: Histogram<string>;
  readonly #latest: Gauge<string>;
  readonly #predictedTtft: Histogram<string>;
  readonly #predictedTpot: Histogram<string>;
  readonly #ttftPrediction: Histogram<string>;
  readonly #tpotPrediction: Histogram<string>;
  readonly #violations: Counter<string>;
  readonly #plugins: () => readonly Plugin[];
  readonly #byProducer = new Map<string, { readonly ratio: Observer; readonly bytes: Observer }>();
  #requests = 0;

  constructor(
    make: MetricMaker,
    options: { readonly datastore: Datastore; readonly plugins: () => readonly Plugin[] },
  ) {
    const { datastore, plugins } = options;
    this.#plugins = plugins;
    this.#pluginDuration = make.histogram(eppMetrics.pluginDuration);
    this.#hitRatio = make.histogram(eppMetrics.prefixHitRatio);
    this.#hitBytes = make.histogram(eppMetrics.prefixHitBytes);
    this.#encoderQueries = make.counter(eppMetrics.encoderQueries);
    this.#encoderHits = make.counter(eppMetrics.encoderHits);
    this.#encoderRatio = make.histogram(eppMetrics.encoderHitRatio);
    this.#latest = make.gauge(eppMetrics.latencyMetric);
    this.#predictedTtft = make.histogram(eppMetrics.predictedTtft);
    this.#predictedTpot = make.histogram(eppMetrics.predictedTpot);
    this.#ttftPrediction = make.histogram(eppMetrics.ttftPrediction);
    this.#tpotPrediction = make.histogram(eppMetrics.tpotPrediction);
    this.#violations = make.counter(eppMetrics.sloViolations);
    make.counter(eppMetrics.scopeViolations);
    make.gauge(eppMetrics.prefixIndexSize, (gauge) => {
      gauge.reset();
      for (const { plugin, state } of statesOf(plugins(), prefixTypes)) {
        gauge.labels(plugin.name, plugin.type).set(Number(state.blocks ?? 0));
      }
    });
    make.gauge(eppMetrics.kvEvents, (gauge) => {
      gauge.reset();
      for (const { plugin, state } of statesOf(plugins(), prefixTypes)) {
        for (const result of ['events', 'batches', 'missed', 'lost', 'malformed', 'restarts', 'orphans']) {
          if (typeof state[result] === 'number') gauge.labels(plugin.name, plugin.type, result).set(state[result]);
        }
      }
    });
    make.gauge(eppMetrics.inFlightRequests, (gauge) => {
      gauge.reset();
      for (const { name, namespace, load } of datastore.snapshot.endpoints) {
        gauge.labels(name, namespace, 'inflight-load-producer', '', '').inc(load.inFlight);
      }
    });
    make.gauge(eppMetrics.inFlightTokens, (gauge) => {
      gauge.reset();
      for (const { name, namespace, load } of datastore.snapshot.endpoints) {
        gauge.labels(name, namespace, 'inflight-load-producer', '', '').inc(load.inFlightTokens);
      }
    });
  }

  /** Measures the plugins' time for this request, if it is its turn. */
  begin(cycle: Cycle): void {
    if (this.#requests++ % timedEvery === 0) cycle.timing = this.#time;
  }

  readonly #time: NonNullable<Cycle['timing']> = (point, { type, name }, seconds) => {
    const key = `${point}\n${name}`;
    let observer = this.#byPlugin.get(key);
    if (observer === undefined) {
      observer = this.#pluginDuration.labels(point, type, name);
      this.#byPlugin.set(key, observer);
    }
    observer.observe(seconds);
  };

  /** Tells what the chosen endpoint holds of the request. */
  chose(cycle: Cycle, { primary }: Decision): void {
    if (cycle.request.completion === undefined) return;
    for (const { name, type } of this.#plugins()) {
      const match = prefixTypes.has(type) ? cycle.get(prefixMatchKeyOf(name)) : undefined;
      if (match === undefined) continue;
      let hits = this.#byProducer.get(name);
      if (hits === undefined) {
        hits = { ratio: this.#hitRatio.labels(name, type), bytes: this.#hitBytes.labels(name, type) };
        this.#byProducer.set(name, hits);
      }
      hits.ratio.observe(matchedShare(match, primary));
      hits.bytes.observe(match.matchedTokens(primary) * bytesPerToken);
    }
    const media = cycle.get(mediaMatchKey);
    if (media === undefined) return;
    const plugin = this.#plugins().find(({ type }) => type === 'mm-embeddings-cache-producer');
    if (plugin === undefined) return;
    const share = media.share(primary);
    this.#encoderRatio.labels(plugin.name, plugin.type).observe(share);
    for (const { modality, source } of mediaOf(cycle.request)) {
      this.#encoderQueries.labels(plugin.name, plugin.type, modality).inc();
      if (media.has(primary, source)) {
        this.#encoderHits.labels(plugin.name, plugin.type, modality, primary.name).inc();
      }
    }
  }

  /** Compares what was predicted for an answer with what came; seconds. */
  answered(
    cycle: Cycle,
    { primary }: Decision,
    labels: readonly [model: string, target: string],
    seen: { readonly ttftS: number; readonly tpotS: number | undefined },
  ): void {
    const predictions = cycle.get(latencyKey);
    if (predictions === undefined) return;
    const { producer } = predictions;
    const values = [producer.name, producer.type, ...labels] as const;
    const predicted = predictions.of(primary);
    this.#ttftPrediction.labels(...values).observe(predictions.tookS);
    this.#tpotPrediction.labels(...values).observe(predictions.tookS);
    this.#latest.labels(...values, 'ttft').set(seen.ttftS);
    if (seen.tpotS !== undefined) this.#latest.labels(...values, 'tpot').set(seen.tpotS);
    if (predicted !== undefined) {
      this.#predictedTtft.labels(...values).observe(predicted.ttftMs / 1000);
      this.#predictedTpot.labels(...values).observe(predicted.tpotMs / 1000);
      this.#latest.labels(...values, 'predicted_ttft').set(predicted.ttftMs / 1000);
      this.#latest.labels(...values, 'predicted_tpot').set(predicted.tpotMs / 1000);
    }
    for (const type of violations(predictions, seen)) this.#violations.labels(...values, type).inc();
  }
}

function violations(
  { ttftObjectiveMs, tpotObjectiveMs }: LatencyPredictions,
  { ttftS, tpotS }: { readonly ttftS: number; readonly tpotS: number | undefined },
): readonly string[] {
  return [
    ...(ttftObjectiveMs !== undefined && ttftS * 1000 > ttftObjectiveMs ? ['ttft'] : []),
    ...(tpotObjectiveMs !== undefined && tpotS !== undefined && tpotS * 1000 > tpotObjectiveMs ? ['tpot'] : []),
  ];
}

function statesOf(plugins: readonly Plugin[], types: ReadonlySet<string>) {
  return plugins.flatMap((plugin) =>
    types.has(plugin.type) && plugin.state !== undefined ? [{ plugin, state: plugin.state() }] : [],
  );
}
