/**
 * What is known about an endpoint's work at this moment. Live: the same object is read by every request, and
 * changes as requests are sent and metrics arrive.
 */
export interface Load {
  /** False before the first reading and when the last one is too old. Then no figure below may make the endpoint look idle. */
  readonly isKnown: boolean;
  /** Requests that wait in the engine, those sent since the last reading included. */
  readonly waiting: number;
  /** Requests that the engine computes. */
  readonly running: number;
  /** Share of the KV cache in use, 0–1. */
  readonly kvUsage: number;
  /** Requests that this picker sent and that have not ended. */
  readonly inFlight: number;
  /** Estimated prompt tokens, without cached ones, of those of them whose answer has not begun. */
  readonly inFlightTokens: number;
  /** Requests a second that this picker sent lately. */
  readonly requestsPerSecond: number;
  /** LoRA adapters, where the engine tells. */
  readonly adapters: Adapters | undefined;
  /** It failed several requests in turn lately: to be chosen only when there is nobody else. */
  readonly isAvoided: boolean;
  /** Milliseconds since the epoch of the last reading; −Infinity before the first. */
  readonly readAtMs: number;
  /** Further figures of the last reading, by the keys that the configuration gives them. */
  readonly custom: Readonly<Record<string, number>> | undefined;
}

export interface Adapters {
  readonly active: ReadonlySet<string>;
  readonly waiting: ReadonlySet<string>;
  readonly max: number;
}

/** One address that can serve a request: a pod's port (each data-parallel rank has a port of its own). */
export interface Endpoint {
  /** `namespace/pod-rank-0`, unique in the pool. */
  readonly id: string;
  /** Pod name. */
  readonly name: string;
  readonly namespace: string;
  /** IP without brackets. */
  readonly address: string;
  readonly port: number;
  /** `ip:port`, IPv6 in brackets: what the gateway is told. */
  readonly hostPort: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly isReady: boolean;
  readonly load: Load;
}

/** `ip:port` with IPv6 in brackets. */
export function toHostPort(address: string, port: number): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

type EndpointTest = (endpoint: Endpoint) => boolean;

/**
 * A filter over facts that never change during an endpoint's life, computed once per list of endpoints.
 * The pool's list is replaced as a whole when it changes, so a request pays one lookup.
 */
export function createStaticFilter(keeps: EndpointTest): (endpoints: readonly Endpoint[]) => readonly Endpoint[] {
  const known = new WeakMap<readonly Endpoint[], readonly Endpoint[]>();
  return (endpoints) => {
    let kept = known.get(endpoints);
    if (kept === undefined) {
      kept = endpoints.filter(keeps);
      if (kept.length === endpoints.length) kept = endpoints;
      known.set(endpoints, kept);
    }
    return kept;
  };
}
