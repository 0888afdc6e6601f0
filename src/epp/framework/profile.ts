import type { Cycle } from './cycle-state.ts';
import type { CandidateReport, ProfileReport } from './decision.ts';
import { createStaticFilter, type Endpoint } from './endpoint.ts';
import type { Filter, Picker, PluginFailure, Scorer } from './plugin.ts';

export interface WeightedScorer {
  readonly scorer: Scorer;
  readonly weight: number;
}

interface Parts {
  readonly name: string;
  readonly filters: readonly Filter[];
  readonly scorers: readonly WeightedScorer[];
  readonly picker: Picker;
  /** Told when a scorer throws: it then scores 0 everywhere. */
  readonly report?: (plugin: string, reason: PluginFailure, message: string) => void;
}

const isAvoided = ({ load }: Endpoint): boolean => load.isAvoided;
const keepReady = createStaticFilter((endpoint) => endpoint.isReady);

/** What one run of a profile saw and chose. */
export class ProfileResult {
  readonly profile: string;
  /** Empty when no endpoint was left. */
  readonly picked: readonly Endpoint[];
  /** Those that were scored, in the order of `totals`. */
  readonly candidates: readonly Endpoint[];
  /** Weighted sums. */
  readonly totals: Float64Array;
  readonly #steps: readonly (readonly Endpoint[])[];
  readonly #scores: readonly Float64Array[];
  readonly #parts: Parts;

  constructor(
    parts: Parts,
    steps: readonly (readonly Endpoint[])[],
    scores: readonly Float64Array[],
    totals: Float64Array,
    picked: readonly Endpoint[],
  ) {
    this.profile = parts.name;
    this.picked = picked;
    this.candidates = steps[steps.length - 1] ?? [];
    this.totals = totals;
    this.#parts = parts;
    this.#steps = steps;
    this.#scores = scores;
  }

  /** The weighted total of an endpoint, or undefined when it was dropped. */
  totalOf(endpoint: Endpoint): number | undefined {
    const at = this.candidates.indexOf(endpoint);
    return at < 0 ? undefined : this.totals[at];
  }

  /** Weight by scorer name. */
  get weights(): readonly (readonly [name: string, weight: number])[] {
    return this.#parts.scorers.map(({ scorer, weight }) => [scorer.name, weight] as const);
  }

  /** Nobody is left because they are all too busy. */
  get isDrainedByLoad(): boolean {
    const last = this.#steps.findIndex((left) => left.length === 0);
    // Two steps come before the filters: all of them, and those that are ready.
    return this.picked.length === 0 && last >= 2 && this.#parts.filters[last - 2]?.isDrainedByLoad === true;
  }

  report(): ProfileReport {
    const verdicts = ['not ready', ...this.#parts.filters.map((filter) => filter.name), 'failed lately'];
    const candidates = (this.#steps[0] ?? []).map((endpoint): CandidateReport => {
      const isPicked = this.picked.includes(endpoint);
      const dropped = this.#steps.findIndex((left) => !left.includes(endpoint));
      const named = { endpoint: endpoint.id, hostPort: endpoint.hostPort };
      if (dropped > 0) return { ...named, droppedBy: verdicts[dropped - 1] ?? '', isPicked };
      const at = this.candidates.indexOf(endpoint);
      const scores = this.#parts.scorers.map(({ scorer }, i) => [scorer.name, this.#scores[i]?.[at] ?? 0] as const);
      return { ...named, total: this.totals[at] ?? 0, scores: Object.fromEntries(scores), isPicked };
    });
    return { profile: this.profile, candidates };
  }
}

const nothing = new Float64Array(0);

/** Filters in order, then all scorers, then one picker. */
export class Profile {
  readonly name: string;
  readonly #parts: Parts;

  constructor(parts: Parts) {
    this.name = parts.name;
    this.#parts = parts;
  }

  get scorers(): readonly WeightedScorer[] {
    return this.#parts.scorers;
  }

  /** `endpoints` may hold ones that are not ready: they are dropped first. */
  run(cycle: Cycle, endpoints: readonly Endpoint[]): ProfileResult {
    const { filters, scorers, picker } = this.#parts;
    const { timing } = cycle;
    let left = keepReady(endpoints);
    const steps = [endpoints, left];
    for (const filter of filters) {
      if (left.length === 0) break;
      const startMs = timing === undefined ? 0 : performance.now();
      left = filter.filter(cycle, left);
      timing?.('Filter', filter, (performance.now() - startMs) / 1000);
      steps.push(left);
    }
    if (left.some(isAvoided)) {
      const sound = left.filter((endpoint) => !isAvoided(endpoint));
      // Endpoints that fail are better than none.
      if (sound.length > 0) left = sound;
      steps.push(left);
    }
    const count = left.length;
    if (count === 0) return new ProfileResult(this.#parts, steps, [], nothing, []);

    const memory = new Float64Array(count * (scorers.length + 1));
    const totals = memory.subarray(0, count);
    const kept: Float64Array[] = [];
    for (let s = 0; s < scorers.length; s++) {
      const weighted = scorers[s];
      if (weighted === undefined) continue;
      const scores = memory.subarray((s + 1) * count, (s + 2) * count);
      const startMs = timing === undefined ? 0 : performance.now();
      try {
        weighted.scorer.score(cycle, left, scores);
      } catch (thrown) {
        // A scorer that fails loses its say; the request does not.
        scores.fill(0);
        this.#parts.report?.(weighted.scorer.name, 'threw', thrown instanceof Error ? thrown.message : String(thrown));
      }
      timing?.('Scorer', weighted.scorer, (performance.now() - startMs) / 1000);
      for (let i = 0; i < count; i++) {
        const score = scores[i] ?? 0;
        const clamped = Number.isNaN(score) ? 0 : Math.min(1, Math.max(0, score));
        scores[i] = clamped;
        totals[i] = (totals[i] ?? 0) + clamped * weighted.weight;
      }
      kept.push(scores);
    }
    const startMs = timing === undefined ? 0 : performance.now();
    const picked = picker.pick(cycle, left, totals);
    timing?.('Picker', picker, (performance.now() - startMs) / 1000);
    return new ProfileResult(this.#parts, steps, kept, totals, picked);
  }
}
