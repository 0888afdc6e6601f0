import type { Endpoint } from './endpoint.ts';
import type { ProfileResult } from './profile.ts';

/** One endpoint's way through a profile, for people: `signalbox` commands, logs and tests print it. */
export interface CandidateReport {
  readonly endpoint: string;
  readonly hostPort: string;
  /** The filter that dropped it; absent when it was scored. */
  readonly droppedBy?: string;
  /** Weighted sum; absent when dropped. */
  readonly total?: number;
  /** Unweighted 0–1 by scorer name. */
  readonly scores?: Readonly<Record<string, number>>;
  readonly isPicked: boolean;
}

export interface ProfileReport {
  readonly profile: string;
  readonly candidates: readonly CandidateReport[];
}

/** The choice for one request. The why is built only when asked for. */
export class Decision {
  readonly results: ReadonlyMap<string, ProfileResult>;
  readonly primaryProfile: string;
  /** In order: the first gets the request, the rest are fallbacks. Never empty. */
  readonly endpoints: readonly [Endpoint, ...Endpoint[]];

  constructor(
    results: ReadonlyMap<string, ProfileResult>,
    primaryProfile: string,
    endpoints: readonly [Endpoint, ...Endpoint[]],
  ) {
    this.results = results;
    this.primaryProfile = primaryProfile;
    this.endpoints = endpoints;
  }

  get primary(): Endpoint {
    return this.endpoints[0];
  }

  /** Every candidate of every profile that ran, with the filters' verdicts and the scores as they were then. */
  why(): readonly ProfileReport[] {
    return [...this.results.values()].map((result) => result.report());
  }
}
