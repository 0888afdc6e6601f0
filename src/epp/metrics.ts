import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { Usage } from '../openai/usage.ts';
import { type EppMetric, eppMetrics } from '../telemetry/epp-metrics.ts';
import type { Datastore } from './datalayer/datastore.ts';
import type { Cycle } from './framework/cycle-state.ts';
import type { Decision } from './framework/decision.ts';
import { matchedShare, prefixMatchKey } from './framework/prefix-match.ts';
import type { ProfileResult } from './framework/profile.ts';

/** Distinct model names in labels; a client can invent any number. Later ones are told as `other`. */
const maxModels = 1000;
/** Endpoints in labels of counters; pods come and go. */
const maxEndpoints = 4096;

interface Observer {
  observe(value: number): void;
}
interface Counting {
  inc(value?: number): void;
}

/** The bound metrics of one model name: no label objects are made while serving. */
export interface ModelMetrics {
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
  readonly #models = new Map<string, ModelMetrics>();
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
  readonly #pluginFailures = this.#counter(eppMetrics.pluginFailures);
  readonly #avoidances = this.#counter(eppMetrics.avoidances);
  readonly #avoidedNames = new Set<string>();
  readonly #disagg = this.#counter(eppMetrics.disaggDecisions);

  constructor(options: {
    readonly poolName: string;
    readonly datastore: Datastore;
    readonly openStreams: () => number;
    readonly handler: { readonly name: string; readonly type: string };
  }) {
    this.schedulerE2e = this.#histogram(eppMetrics.schedulerE2e);
    this.scrapeErrors = this.#counter(eppMetrics.scrapeErrors).labels('metrics-data-source');
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
    mean(eppMetrics.averageQueue, (load) => load.waiting);
    mean(eppMetrics.averageRunning, (load) => load.running);
    mean(eppMetrics.averageKvCache, (load) => load.kvUsage);
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

  /** A choice was made without that plugin's say. */
  pluginFailed(plugin: string, reason: string): void {
    this.#pluginFailures.labels(plugin, reason).inc();
  }

  readonly #handler: { readonly name: string; readonly type: string };

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

  /** The metrics of a model name. */
  model(name: string): ModelMetrics {
    const known = this.#models.get(name);
    if (known !== undefined) return known;
    const label = this.#models.size < maxModels ? name : 'other';
    if (label === 'other' && name !== 'other') return this.model('other');
    const values = [label, label, 'default-flow', '0'] as const;
    const input = this.#input.labels(...values);
    const output = this.#output.labels(...values);
    const cached = this.#cached.labels(...values);
    const ttft = (streaming: string): Observer => this.#ttft.labels(...values, streaming);
    const attempts = new Map<string, Counting>();
    const metrics: ModelMetrics = {
      requests: this.#requests.labels(...values),
      duration: this.#duration.labels(...values),
      ttft: ttft('false'),
      ttftStreaming: ttft('true'),
      requestBytes: this.#requestBytes.labels(...values),
      responseBytes: this.#responseBytes.labels(...values),
      running: this.#running.labels(...values),
      prefillDecode: this.#disagg.labels(this.#handler.name, this.#handler.type, label, 'prefill-decode'),
      decodeOnly: this.#disagg.labels(this.#handler.name, this.#handler.type, label, 'decode-only'),
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
          attempt = this.#attempts.labels('success', label, endpoint, primary.namespace, String(primary.port));
          if (isKept) attempts.set(primary.id, attempt);
        }
        attempt.inc();
      },
      failedAttempt: () => this.#attempts.labels('failure', label, '', '', '').inc(),
    };
    this.#models.set(name, metrics);
    return metrics;
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
