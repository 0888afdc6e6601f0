import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { Usage } from '../openai/usage.ts';
import { type EppMetric, eppMetrics } from '../telemetry/epp-metrics.ts';
import { ChoiceMetrics } from './choice-metrics.ts';
import type { Datastore } from './datalayer/datastore.ts';
import type { Cycle } from './framework/cycle-state.ts';
import type { Decision } from './framework/decision.ts';
import type { Plugin } from './framework/plugin.ts';
import { matchedShare, prefixMatchKey } from './framework/prefix-match.ts';
import type { ProfileResult } from './framework/profile.ts';

/** Distinct values of a label that clients can invent; later ones are told as `other`. */
const maxValues = 1000;
/** Distinct requests in labels; of later ones only the model is told. */
const maxFlows = 4000;
/** Endpoints in labels of counters; pods come and go. */
const maxEndpoints = 4096;

/** As Go's clients spell them. */
const grpcCodes: Readonly<Record<number, string>> = {
  0: 'OK',
  1: 'Canceled',
  3: 'InvalidArgument',
  4: 'DeadlineExceeded',
  8: 'ResourceExhausted',
  12: 'Unimplemented',
  13: 'Internal',
  14: 'Unavailable',
};

interface Observer {
  observe(value: number): void;
}
interface Counting {
  inc(value?: number): void;
}

/** What metrics tell of a request. */
export interface FlowLabels {
  /** The model that the client asked for, and the one that serves. */
  readonly model: string;
  readonly target: string;
  readonly fairnessId: string;
  readonly priority: number;
}

/** The bound metrics of one kind of request: no label objects are made while serving. */
export interface FlowMetrics {
  readonly requests: Counting;
  readonly duration: Observer;
  readonly ttft: Observer;
  readonly ttftStreaming: Observer;
  readonly requestBytes: Observer;
  readonly responseBytes: Observer;
  readonly running: { inc(): void; dec(): void };
  readonly prefillDecode: Counting;
  readonly decodeOnly: Counting;
  error(code: number): void;
  readonly labels: readonly [model: string, target: string];
  readonly pause: Observer;
  readonly timePerToken: Observer;
  readonly streamingTimePerToken: Observer;
  usage(usage: Usage): void;
  attempt(decision: Decision): void;
  failedAttempt(): void;
}

interface ProfileMetrics {
  readonly selected: Counting;
  readonly rejected: Counting;
  readonly duration: Observer;
  readonly hits: Counting;
  readonly misses: Counting;
  latest: ProfileResult | undefined;
}

/** The picker's metrics over one registry. Gauges about endpoints are worked out when the page is read. */
export class EppTelemetry {
  readonly registry = new Registry();
  readonly schedulerE2e: Observer;
  readonly scrapeErrors: Counting;
  readonly extractErrors: Counting;
  readonly processing: Observer;
  readonly responseProcessing: Observer;
  readonly choice: ChoiceMetrics;
  readonly #flows = new Map<string, FlowMetrics>();
  readonly #modelNames = new Set<string>();
  readonly #fairnessIds = new Set<string>();
  readonly #priorities = new Set<string>();
  readonly #rewrites = this.#counter(eppMetrics.modelRewrites);
  readonly #profiles = new Map<string, ProfileMetrics>();

  readonly #schedulerRequests = this.#counter(eppMetrics.schedulerRequests);
  readonly #schedulerDecision = this.#histogram(eppMetrics.schedulerDecision);
  readonly #hits = this.#counter(eppMetrics.schedulerCacheHits);
  readonly #misses = this.#counter(eppMetrics.schedulerCacheMisses);
  readonly #requests = this.#counter(eppMetrics.requests);
  readonly #errors = this.#counter(eppMetrics.requestErrors);
  readonly #duration = this.#histogram(eppMetrics.requestDuration);
  readonly #ttft = this.#histogram(eppMetrics.requestTtft);
  readonly #requestBytes = this.#histogram(eppMetrics.requestBytes);
  readonly #responseBytes = this.#histogram(eppMetrics.responseBytes);
  readonly #input = this.#histogram(eppMetrics.inputTokens);
  readonly #output = this.#histogram(eppMetrics.outputTokens);
  readonly #cached = this.#histogram(eppMetrics.cachedTokens);
  readonly #running = this.#gauge(eppMetrics.requestsRunning);
  readonly #attempts = this.#counter(eppMetrics.schedulerAttempts);
  readonly #reloads = this.#counter(eppMetrics.configReloads);
  readonly #pluginFailures = this.#counter(eppMetrics.pluginFailures);
  readonly #avoidances = this.#counter(eppMetrics.avoidances);
  readonly #avoidedNames = new Set<string>();
  readonly #pause = this.#histogram(eppMetrics.streamingPause);
  readonly #timePerToken = this.#histogram(eppMetrics.timePerToken);
  readonly #streamingTimePerToken = this.#histogram(eppMetrics.streamingTimePerToken);
  readonly #streamDuration = this.#histogram(eppMetrics.streamDuration);
  readonly #streams = this.#counter(eppMetrics.streams);
  readonly #pd = this.#counter(eppMetrics.pdDecisions);
  readonly #disagg = this.#counter(eppMetrics.disaggDecisions);

  constructor(options: {
    readonly poolName: string;
    readonly datastore: Datastore;
    readonly openStreams: () => number;
    readonly handler: () => { readonly name: string; readonly type: string };
    readonly plugins: () => readonly Plugin[];
  }) {
    this.schedulerE2e = this.#histogram(eppMetrics.schedulerE2e);
    this.scrapeErrors = this.#counter(eppMetrics.scrapeErrors).labels('metrics-data-source');
    this.extractErrors = this.#counter(eppMetrics.extractErrors).labels(
      'metrics-data-source',
      'core-metrics-extractor',
    );
    this.processing = this.#histogram(eppMetrics.processing);
    this.responseProcessing = this.#histogram(eppMetrics.responseProcessing);
    this.choice = new ChoiceMetrics(
      {
        counter: (metric) => this.#counter(metric),
        gauge: (metric, collect) => this.#gauge(metric, collect),
        histogram: (metric) => this.#histogram(metric),
      },
      { datastore: options.datastore, plugins: options.plugins },
    );
    this.#handler = options.handler;
    this.#gauge(eppMetrics.info).labels('unknown', '0.1.0').set(1);
    const { datastore, poolName } = options;
    this.#gauge(eppMetrics.streamsInFlight, (gauge) => gauge.set(options.openStreams()));
    this.#gauge(eppMetrics.readyEndpoints, (gauge) => gauge.labels(poolName).set(datastore.snapshot.readyCount));
    this.#gauge(eppMetrics.avoidedEndpoints, (gauge) =>
      gauge.labels(poolName).set(datastore.snapshot.endpoints.filter(({ load }) => load.isAvoided).length),
    );
    const known = () => datastore.snapshot.endpoints.filter(({ isReady, load }) => isReady && load.isKnown);
    const mean = (metric: EppMetric, of: (load: ReturnType<typeof known>[number]['load']) => number): void => {
      this.#gauge(metric, (gauge) => {
        const endpoints = known();
        gauge.reset();
        if (endpoints.length === 0) return;
        gauge.labels(poolName).set(endpoints.reduce((sum, { load }) => sum + of(load), 0) / endpoints.length);
      });
    };
    const deviation = (metric: EppMetric, of: (load: ReturnType<typeof known>[number]['load']) => number): void => {
      this.#gauge(metric, (gauge) => {
        const figures = known().map(({ load }) => of(load));
        gauge.reset();
        if (figures.length === 0) return;
        const middle = figures.reduce((sum, figure) => sum + figure, 0) / figures.length;
        const squares = figures.reduce((sum, figure) => sum + (figure - middle) ** 2, 0);
        gauge.labels(poolName).set(Math.sqrt(squares / figures.length));
      });
    };
    mean(eppMetrics.averageQueue, (load) => load.waiting);
    mean(eppMetrics.averageRunning, (load) => load.running);
    mean(eppMetrics.averageKvCache, (load) => load.kvUsage);
    deviation(eppMetrics.deviationQueue, (load) => load.waiting);
    deviation(eppMetrics.deviationRunning, (load) => load.running);
    deviation(eppMetrics.deviationKvCache, (load) => load.kvUsage);
    this.#gauge(eppMetrics.endpointQueue, (gauge) => {
      gauge.reset();
      for (const { name, load } of known()) gauge.labels(poolName, name).set(load.waiting);
    });
    this.#gauge(eppMetrics.schedulerPodScore, (gauge) => {
      gauge.reset();
      for (const [profile, { latest }] of this.#profiles) {
        latest?.candidates.forEach(({ name }, i) => {
          gauge.labels(name, profile).set(latest.totals[i] ?? 0);
        });
      }
    });
  }

  /** That endpoint is avoided from now on, for a while. */
  avoided(endpoint: string): void {
    const isKept = this.#avoidedNames.has(endpoint) || this.#avoidedNames.size < maxEndpoints;
    if (isKept) this.#avoidedNames.add(endpoint);
    this.#avoidances.labels(isKept ? endpoint : 'other').inc();
  }

  /** A gateway's stream ended with that gRPC status. */
  streamEnded(code: number, seconds: number): void {
    this.#streamDuration.observe(seconds);
    this.#streams.labels(grpcCodes[code] ?? 'Unknown').inc();
  }

  /** A changed configuration was taken over or refused. */
  reloaded(result: 'taken' | 'refused'): void {
    this.#reloads.labels(result).inc();
  }

  /** A choice was made without that plugin's say. */
  pluginFailed(plugin: string, reason: string): void {
    this.#pluginFailures.labels(plugin, reason).inc();
  }

  readonly #handler: () => { readonly name: string; readonly type: string };

  /** Counts one run of a profile. */
  observeProfile(result: ProfileResult, seconds: number, cycle: Cycle): void {
    const profile = this.#profile(result.profile);
    profile.duration.observe(seconds);
    profile.latest = result;
    const picked = result.picked[0];
    if (picked === undefined) {
      profile.rejected.inc();
      return;
    }
    profile.selected.inc();
    const match = cycle.get(prefixMatchKey);
    if (match === undefined) return;
    (matchedShare(match, picked) > 0 ? profile.hits : profile.misses).inc();
  }

  #profile(name: string): ProfileMetrics {
    let profile = this.#profiles.get(name);
    if (profile === undefined) {
      profile = {
        selected: this.#schedulerRequests.labels(name, 'selected'),
        rejected: this.#schedulerRequests.labels(name, 'rejected'),
        duration: this.#schedulerDecision.labels(name),
        hits: this.#hits.labels(name),
        misses: this.#misses.labels(name),
        latest: undefined,
      };
      // Present from the first run on, so that a rate over them has a start.
      for (const counting of [profile.selected, profile.rejected, profile.hits, profile.misses]) counting.inc(0);
      this.#profiles.set(name, profile);
    }
    return profile;
  }

  /** A model was rewritten by the object of that name. */
  rewritten(source: string, model: string, target: string): void {
    this.#rewrites.labels(source, bounded(this.#modelNames, model), bounded(this.#modelNames, target)).inc();
  }

  /** The metrics of a request. */
  flow({ model, target, fairnessId, priority }: FlowLabels): FlowMetrics {
    const isPlain = target === model && fairnessId === 'default-flow' && priority === 0;
    const known = this.#flows.get(isPlain ? model : `${model}\n${target}\n${fairnessId}\n${priority}`);
    if (known !== undefined) return known;
    const label = bounded(this.#modelNames, model);
    const targetLabel = bounded(this.#modelNames, target);
    const isFull = this.#flows.size >= maxFlows;
    const values = [
      label,
      targetLabel,
      isFull ? 'other' : bounded(this.#fairnessIds, fairnessId),
      isFull ? 'other' : bounded(this.#priorities, String(priority)),
    ] as const;
    const [, , ...flow] = values;
    // Under the labels themselves, so that requests that share them share one entry.
    const key = targetLabel === label && flow.join() === 'default-flow,0' ? label : values.join('\n');
    const shared = this.#flows.get(key);
    if (shared !== undefined) return shared;
    const input = this.#input.labels(...values);
    const output = this.#output.labels(...values);
    const cached = this.#cached.labels(...values);
    const ttft = (streaming: string): Observer => this.#ttft.labels(...values, streaming);
    const attempts = new Map<string, Counting>();
    const metrics: FlowMetrics = {
      requests: this.#requests.labels(...values),
      duration: this.#duration.labels(...values),
      ttft: ttft('false'),
      ttftStreaming: ttft('true'),
      requestBytes: this.#requestBytes.labels(...values),
      responseBytes: this.#responseBytes.labels(...values),
      running: this.#running.labels(...values),
      labels: [label, targetLabel],
      pause: this.#pause.labels(...values),
      timePerToken: this.#timePerToken.labels(...values),
      streamingTimePerToken: this.#streamingTimePerToken.labels(...values),
      prefillDecode: this.#decisions(label, 'prefill-decode'),
      decodeOnly: this.#decisions(label, 'decode-only'),
      error: (code) => this.#errors.labels(...values, String(code)).inc(),
      usage: ({ promptTokens, completionTokens, cachedTokens }) => {
        input.observe(promptTokens);
        output.observe(completionTokens);
        cached.observe(cachedTokens);
      },
      attempt: ({ primary }) => {
        let attempt = attempts.get(primary.id);
        if (attempt === undefined) {
          const isKept = attempts.size < maxEndpoints;
          const endpoint = isKept ? primary.name : 'other';
          attempt = this.#attempts.labels('success', targetLabel, endpoint, primary.namespace, String(primary.port));
          if (isKept) attempts.set(primary.id, attempt);
        }
        attempt.inc();
      },
      failedAttempt: () => this.#attempts.labels('failure', targetLabel, '', '', '').inc(),
    };
    this.#flows.set(key, metrics);
    return metrics;
  }

  #decisions(model: string, decision: string): Counting {
    const { name, type } = this.#handler();
    const counters = [this.#disagg, this.#pd].map((counter) => counter.labels(name, type, model, decision));
    return {
      inc: () => {
        for (const counter of counters) counter.inc();
      },
    };
  }

  #counter<const T extends EppMetric>(metric: T): Counter<string> {
    return new Counter({ ...this.#base(metric) });
  }

  #gauge<const T extends EppMetric>(metric: T, collect?: (gauge: Gauge<string>) => void): Gauge<string> {
    return new Gauge({
      ...this.#base(metric),
      ...(collect === undefined
        ? {}
        : {
            collect() {
              collect(this as unknown as Gauge<string>);
            },
          }),
    });
  }

  #histogram<const T extends EppMetric>(metric: T): Histogram<string> {
    return new Histogram({ ...this.#base(metric), buckets: [...(metric.buckets ?? [])] });
  }

  #base(metric: EppMetric) {
    return { name: metric.name, help: metric.help, labelNames: [...metric.labels], registers: [this.registry] };
  }
}

function bounded(values: Set<string>, value: string): string {
  if (values.has(value)) return value;
  if (values.size >= maxValues) return 'other';
  values.add(value);
  return value;
}
