/** Endpoints remembered for one conversation: its decode and its prefill endpoint, and the ones before. */
const endpointsPerSession = 4;

interface Place {
  readonly ids: readonly string[];
  readonly untilMs: number;
}

/** Which endpoints served which conversation lately. Bounded: the least recently used go first, and all that are too old. */
export class SessionPlaces {
  readonly #maxSessions: number;
  readonly #ttlMs: number;
  readonly #places = new Map<string, Place>();

  constructor(maxSessions: number, ttlMs: number) {
    this.#maxSessions = maxSessions;
    this.#ttlMs = ttlMs;
  }

  get size(): number {
    return this.#places.size;
  }

  /** Ids of the endpoints that served the session, latest first. */
  endpointsOf(session: string, nowMs: number): readonly string[] {
    const place = this.#places.get(session);
    return place === undefined || place.untilMs <= nowMs ? [] : place.ids;
  }

  record(session: string, endpointId: string, nowMs: number): void {
    const before = this.endpointsOf(session, nowMs);
    const ids = [endpointId, ...before.filter((id) => id !== endpointId)].slice(0, endpointsPerSession);
    // The oldest first, so that the first that is not too old ends the search.
    this.#places.delete(session);
    this.#places.set(session, { ids, untilMs: nowMs + this.#ttlMs });
    for (const [oldest, { untilMs }] of this.#places) {
      if (untilMs > nowMs && this.#places.size <= this.#maxSessions) break;
      this.#places.delete(oldest);
    }
  }
}
