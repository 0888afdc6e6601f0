import type { Datastore, LiveEndpoint } from './datastore.ts';

/** Statuses that say that an endpoint, or the way to it, is broken; others are answers. */
const failures = new Set([500, 502, 503, 504]);

/** Takes note of how endpoints answer. */
export interface Outcomes {
  /** The ready endpoint with that `ip:port`, where the gateway names the one that served. */
  endpointAt(hostPort: string): LiveEndpoint | undefined;
  answered(endpoint: LiveEndpoint, status: number): void;
  /** The gateway could not reach it, and went to the next. */
  unreachable(endpoint: LiveEndpoint): void;
}

/**
 * Avoids endpoints that fail `threshold` requests in turn, for 5 s, and twice as long each time up to a minute.
 *
 * Guarantees: never more than half of the ready endpoints at a time, so that requests which break any endpoint cannot
 * drive all others onto the rest; a profile without any other endpoint uses the avoided ones.
 *
 * @param threshold failures in turn; 0 avoids nobody
 */
export function createOutcomes(options: {
  readonly datastore: Datastore;
  readonly threshold: number;
  readonly onAvoid: (endpoint: LiveEndpoint) => void;
}): Outcomes {
  const { datastore, threshold, onAvoid } = options;
  const fail = (endpoint: LiveEndpoint): void => {
    if (threshold === 0 || endpoint.load.failed() < threshold || endpoint.load.isAvoided) return;
    const { endpoints, readyCount } = datastore.snapshot;
    const avoided = endpoints.filter(({ isReady, load }) => isReady && load.isAvoided).length;
    if ((avoided + 1) * 2 > readyCount) return;
    endpoint.load.avoid();
    onAvoid(endpoint);
  };
  return {
    endpointAt: (hostPort) => datastore.snapshot.byAddress.get(hostPort)?.find((found) => found.hostPort === hostPort),
    answered: (endpoint, status) => {
      if (failures.has(status)) fail(endpoint);
      else if (status >= 200) endpoint.load.succeeded();
    },
    unreachable: fail,
  };
}
