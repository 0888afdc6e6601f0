/** Endpoints remembered for one conversation: its decode and its prefill endpoint, and the ones before. */
const endpointsPerSession = 4;

/** Which endpoints served which conversation lately. Bounded: the least recently used conversations go first. */
export class SessionIndex {
  readonly #maxSessions: number;
  readonly #sessions = new Map<string, readonly string[]>();

  constructor(maxSessions: number) {
    this.#maxSessions = maxSessions;
  }

  get size(): number {
    return this.#sessions.size;
  }

  /** Ids of the endpoints that served the session, latest first. */
  endpointsOf(session: string): readonly string[] {
    return this.#sessions.get(session) ?? [];
  }

  record(session: string, endpointId: string): void {
    const before = this.#sessions.get(session) ?? [];
    this.#sessions.delete(session);
    this.#sessions.set(
      session,
      [endpointId, ...before.filter((id) => id !== endpointId)].slice(0, endpointsPerSession),
    );
    if (this.#sessions.size <= this.#maxSessions) return;
    const oldest = this.#sessions.keys().next();
    if (!oldest.done) this.#sessions.delete(oldest.value);
  }
}
