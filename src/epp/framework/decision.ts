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

/** As the value of an answer header: `ip:port` of the endpoint that answered. Without the gateway's word the header is left out. */
export const servedEndpoint = '\0served';

/** The choice for one request. The why is built only when asked for. */
export class Decision {
  readonly results: ReadonlyMap<string, ProfileResult>;
  readonly primaryProfile: string;
  /** Headers for the answer to the client, by lower-case name. */
  answerHeaders: Map<string, string> | undefined;
  /** The gateway is told another port of the pods. */
  isRewritten = false;
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

  /** The gateway adds that header to the answer. */
  addAnswerHeader(name: string, value: string): void {
    this.answerHeaders ??= new Map();
    this.answerHeaders.set(name, value);
  }

  get primary(): Endpoint {
    return this.endpoints[0];
  }

  /** Weighted totals of the primary profile's candidates, by `ip:port`. */
  scores(): Readonly<Record<string, number>> {
    const result = this.results.get(this.primaryProfile);
    return Object.fromEntries(result?.candidates.map(({ hostPort }, i) => [hostPort, result.totals[i] ?? 0]) ?? []);
  }

  /** Every candidate of every profile that ran, with the filters' verdicts and the scores as they were then. */
  why(): readonly ProfileReport[] {
    return [...this.results.values()].map((result) => result.report());
  }
}
