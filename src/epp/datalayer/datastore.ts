import type { Clock } from '../../clock.ts';
import { type Endpoint, toHostPort } from '../framework/endpoint.ts';
import { LiveLoad } from './live-load.ts';

/** An endpoint as a source names it. */
export interface EndpointSpec {
  readonly id: string;
  readonly name: string;
  readonly namespace: string;
  readonly address: string;
  readonly port: number;
  readonly labels: Readonly<Record<string, string>>;
  readonly isReady: boolean;
}

/** An endpoint with the load that the picker writes. */
export interface LiveEndpoint extends Endpoint {
  readonly load: LiveLoad;
}

/** The pool at one moment. Replaced as a whole, so whoever holds one sees no change. */
export interface Snapshot {
  readonly endpoints: readonly LiveEndpoint[];
  readonly readyCount: number;
  /** Ready endpoints by `ip:port`, and all of an address's by `ip`. */
  readonly byAddress: ReadonlyMap<string, readonly LiveEndpoint[]>;
}

const emptySnapshot: Snapshot = { endpoints: [], readyCount: 0, byAddress: new Map() };

/** The pool's endpoints. Everything that can be worked out when they change is, so that a request only reads. */
export class Datastore {
  readonly #clock: Clock;
  readonly #stalenessMs: number;
  #snapshot = emptySnapshot;
  #isSynced = false;
  readonly #listeners = new Set<() => void>();

  /** @param stalenessMs metrics older than this count as unknown */
  constructor(clock: Clock, stalenessMs: number) {
    this.#clock = clock;
    this.#stalenessMs = stalenessMs;
  }

  get snapshot(): Snapshot {
    return this.#snapshot;
  }

  /** True once the source has told the endpoints for the first time. */
  get isSynced(): boolean {
    return this.#isSynced;
  }

  /** Called after every change of the endpoints; returns how to stop. */
  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** These are the endpoints from now on. One that stays the same keeps its identity, one with the same address its load. */
  replace(specs: readonly EndpointSpec[]): void {
    const before = new Map(this.#snapshot.endpoints.map((endpoint) => [endpoint.id, endpoint]));
    const endpoints = specs.map((spec): LiveEndpoint => {
      const old = before.get(spec.id);
      if (old !== undefined && isSame(old, spec)) return old;
      const hostPort = toHostPort(spec.address, spec.port);
      const load = old?.hostPort === hostPort ? old.load : new LiveLoad(this.#clock, this.#stalenessMs);
      return { ...spec, hostPort, load };
    });
    const isUnchanged =
      this.#isSynced &&
      endpoints.length === this.#snapshot.endpoints.length &&
      endpoints.every((endpoint, i) => endpoint === this.#snapshot.endpoints[i]);
    if (isUnchanged) return;

    const byAddress = new Map<string, LiveEndpoint[]>();
    for (const endpoint of endpoints) {
      for (const key of [endpoint.hostPort, endpoint.address]) {
        const held = byAddress.get(key);
        if (held === undefined) byAddress.set(key, [endpoint]);
        else held.push(endpoint);
      }
    }
    const readyCount = endpoints.filter((endpoint) => endpoint.isReady).length;
    this.#snapshot = { endpoints, readyCount, byAddress };
    this.#isSynced = true;
    for (const listener of this.#listeners) listener();
  }
}

function isSame(endpoint: LiveEndpoint, spec: EndpointSpec): boolean {
  if (
    endpoint.address !== spec.address ||
    endpoint.port !== spec.port ||
    endpoint.isReady !== spec.isReady ||
    endpoint.name !== spec.name
  ) {
    return false;
  }
  const names = Object.keys(spec.labels);
  return (
    names.length === Object.keys(endpoint.labels).length &&
    names.every((name) => endpoint.labels[name] === spec.labels[name])
  );
}
