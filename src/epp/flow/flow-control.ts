import type { Clock } from '../../clock.ts';
import type { Endpoint } from '../framework/endpoint.ts';
import { createStaticFilter } from '../framework/endpoint.ts';
import type { SaturationDetector, UsageLimitPolicy } from '../framework/flow-policy.ts';
import { type BandSettings, FlowQueue, type QueueItem, type QueueLimits } from './queue.ts';

/** What became of a request that asked to go; the names are those of the metric. */
export type FlowOutcome =
  | 'Dispatched'
  | 'RejectedCapacity'
  | 'RejectedShuttingDown'
  | 'EvictedTTL'
  | 'EvictedNoEndpoints'
  | 'EvictedContextCancelled'
  | 'EvictedShuttingDown';

export interface FlowRequest {
  readonly model: string;
  readonly target: string;
  readonly fairnessId: string;
  readonly priority: number;
  readonly bytes: number;
  /** What the client asks for, ms to the first token. */
  readonly ttftMs: number | undefined;
  /** How long the client is ready to wait here; only less than the configuration's counts. */
  readonly ttlMs: number | undefined;
}

/** Why a request may not go. */
export interface FlowRefusal {
  readonly code: 'overloaded' | 'unavailable';
  readonly message: string;
  /** Value of `x-llm-d-request-dropped-reason`. */
  readonly reason: string;
  readonly retryAfterS?: number;
}

/** Undefined: go. */
export type Verdict = FlowRefusal | undefined;

export interface FlowItem extends QueueItem {
  readonly request: FlowRequest;
  readonly settle: (verdict: Verdict) => void;
}

/** Stages of the pool by the label `llm-d.ai/role`. */
export type Stage = 'prefill' | 'decode' | 'interleaved';

/** Told of everything that happens; for metrics. */
export interface FlowObserver {
  settled(request: FlowRequest, outcome: FlowOutcome, queuedMs: number): void;
  enqueued(request: FlowRequest, outcome: FlowOutcome, seconds: number): void;
  cycle(seconds: number): void;
  evicted(priority: number): void;
}

export interface FlowSettings {
  readonly limits: QueueLimits;
  readonly bandOf: (priority: number) => BandSettings;
  /** Priorities that the configuration names. */
  readonly priorities: readonly number[];
  /** Requests of negative priority that were let through may be ended for higher ones. */
  readonly isEvictionEnabled: boolean;
  readonly requestTtlMs: number;
  readonly noEndpointTtlMs: number;
  readonly usageLimits: UsageLimitPolicy;
}

/** Decides when a request may go on to the choice of its endpoint. */
export interface FlowControl {
  /**
   * @param settle called once, unless the answer is given at once: with undefined when the request may go
   * @returns `go`, why not, or how to leave the queue when the client goes
   */
  enter(request: FlowRequest, settle: (verdict: Verdict) => void): 'go' | FlowRefusal | { leave(): void };
  /** A request that may go is not counted at an endpoint yet; call the function when it is, or never will be. */
  beginPlacing(): () => void;
  /**
   * A request that was let through and is under way. Undefined when nothing can end it before its time.
   *
   * @param evict ends it, at once
   * @returns to be called when it is over
   */
  hold(request: Pick<FlowRequest, 'priority'>, evict: (why: FlowRefusal) => void): (() => void) | undefined;
  /** Something ended somewhere: others may have room now. */
  poke(): void;
  /** The engine's figures about a request that is over. */
  used(
    request: Pick<FlowRequest, 'priority' | 'fairnessId'>,
    usage: { readonly promptTokens: number; readonly completionTokens: number },
  ): void;
  /** Saturation of each stage there is, and of the pool: the highest of them. */
  saturation(): { readonly stages: ReadonlyMap<Stage, number>; readonly effective: number };
  readonly queue: FlowQueue<FlowItem>;
  readonly detector: SaturationDetector;
  /**
   * Takes other settings over. Requests that wait keep their place and deadline, also where the bounds are smaller now;
   * they all go when flow control is off now.
   */
  replace(next: FlowParts): void;
  /** All that waits is refused, and so is what would have to wait from now on. */
  close(): void;
}

/** What a configuration decides; the rest is the process's. */
export interface FlowParts {
  /** Undefined: nothing waits; requests of negative priority are refused while the pool is full. */
  readonly settings: FlowSettings | undefined;
  readonly detector: SaturationDetector;
  readonly observer: FlowObserver | undefined;
}

const roleLabel = 'llm-d.ai/role';
const prefillRoles = new Set(['prefill', 'encode-prefill']);
const stageOf = ({ labels }: Endpoint): Stage => {
  const role = labels[roleLabel];
  if (role === undefined || role === '') return 'interleaved';
  if (prefillRoles.has(role)) return 'prefill';
  return role === 'decode' ? 'decode' : 'interleaved';
};
const stageFilters = (['prefill', 'decode', 'interleaved'] as const).map(
  (stage) => [stage, createStaticFilter((endpoint) => endpoint.isReady && stageOf(endpoint) === stage)] as const,
);

/** At most so many requests are ended at a time, and then none until the engines can have told that they are gone. */
const maxEvictions = 2;
const evictionPauseMs = 500;

/** How often waiting requests look for room that nobody told of: metrics that arrived, time that passed. */
const tickMs = 10;
const maxRetryAfterS = 60;
/** Time constant of the rate at which requests go, seconds. */
const rateWindowS = 10;

const noLimits: QueueLimits = { maxRequests: 0, maxBytes: 0 };
const noBands = (): BandSettings => {
  throw new Error('flow control is off');
};

export function createFlowControl(
  options: FlowParts & { readonly endpoints: () => readonly Endpoint[]; readonly clock: Clock },
): FlowControl {
  const { endpoints, clock } = options;
  let { settings, detector, observer } = options;
  const queue = new FlowQueue<FlowItem>(settings?.limits ?? noLimits, settings?.bandOf ?? noBands);
  let placing = 0;
  let isClosed = false;
  let isPumping = false;
  let stopTicking: (() => void) | undefined;
  const held = new Set<{ readonly priority: number; readonly evict: (why: FlowRefusal) => void }>();
  let evictedAtMs = Number.NEGATIVE_INFINITY;
  let goneRate = 0;
  let goneAtMs = clock.now();

  const saturation = () => {
    const all = endpoints();
    const stages = new Map<Stage, number>();
    let effective = -1;
    for (const [stage, keep] of stageFilters) {
      const members = keep(all);
      if (members.length === 0) continue;
      const value = detector.saturation(members, placing);
      stages.set(stage, value);
      if (value > effective) effective = value;
    }
    // Nobody is ready: full, whatever the metrics say.
    return { stages, effective: effective < 0 ? 1 : effective };
  };
  const hasEndpoints = (): boolean => endpoints().some(({ isReady }) => isReady);

  const retryAfterS = (): number => {
    const idleS = (clock.now() - goneAtMs) / 1000;
    const rate = goneRate * Math.exp(-idleS / rateWindowS);
    return Math.min(maxRetryAfterS, Math.max(1, Math.ceil(rate > 0 ? queue.requests / rate : 1)));
  };
  const countGone = (): void => {
    const nowMs = clock.now();
    goneRate = goneRate * Math.exp(-(nowMs - goneAtMs) / 1000 / rateWindowS) + 1 / rateWindowS;
    goneAtMs = nowMs;
  };
  const noRoom = (message: string): FlowRefusal => ({
    code: 'overloaded',
    message,
    reason: 'rejected-saturated',
    retryAfterS: retryAfterS(),
  });
  const shuttingDown: FlowRefusal = {
    code: 'unavailable',
    message: 'the endpoint picker is stopping; try again',
    reason: 'rejected-shutting-down',
  };
  const noEndpoints: FlowRefusal = {
    code: 'unavailable',
    message: 'no endpoint of the pool is ready',
    reason: 'rejected-no-endpoints',
  };

  /** Priorities that count for ceilings, the highest first; worked out when the waiting ones change. */
  let knownBands: unknown;
  let knownPriorities: readonly number[] = [];
  const prioritiesWith = (priority?: number): readonly number[] => {
    if (knownBands !== queue.bands) {
      knownBands = queue.bands;
      const all = new Set([...(settings?.priorities ?? []), ...queue.bands.map((band) => band.priority)]);
      knownPriorities = [...all].sort((a, b) => b - a);
    }
    if (priority === undefined || knownPriorities.includes(priority)) return knownPriorities;
    return [...knownPriorities, priority].sort((a, b) => b - a);
  };
  const isOpen = (priority: number, effective: number, limits: UsageLimitPolicy): boolean => {
    const priorities = prioritiesWith(priority);
    return effective < (limits.ceilings(priorities, effective)[priorities.indexOf(priority)] ?? 0);
  };

  const settle = (item: FlowItem, outcome: FlowOutcome, verdict: Verdict): void => {
    observer?.settled(item.request, outcome, clock.now() - item.enqueuedAtMs);
    if (outcome === 'Dispatched') countGone();
    item.settle(verdict);
  };

  const expire = (): void => {
    for (;;) {
      const item = queue.takeExpired(clock.now());
      if (item === undefined) return;
      if (hasEndpoints()) {
        const refusal = noRoom('the request waited as long as it may for room in the pool; try again later');
        settle(item, 'EvictedTTL', { ...refusal, reason: 'rejected-ttl-expired' });
      } else settle(item, 'EvictedNoEndpoints', noEndpoints);
    }
  };

  /** Ends what matters least, the latest first, for requests of that priority. False when there is nothing to end now. */
  const evictFor = ({ priority, requests }: { readonly priority: number; readonly requests: number }): boolean => {
    const nowMs = clock.now();
    if (held.size === 0 || nowMs - evictedAtMs < evictionPauseMs) return false;
    const victims = [...held]
      .reverse()
      .filter((other) => other.priority < priority)
      .sort((a, b) => a.priority - b.priority)
      .slice(0, Math.min(maxEvictions, requests));
    for (const victim of victims) {
      held.delete(victim);
      evictedAtMs = nowMs;
      observer?.evicted(victim.priority);
      victim.evict({
        code: 'overloaded',
        message: 'the request was ended for one of higher priority; try again later',
        reason: 'evicted-priority',
        retryAfterS: retryAfterS(),
      });
    }
    return victims.length > 0;
  };

  /** Lets go whatever has room, the highest priority first: while it has to wait all lower ones do. */
  const pump = (): void => {
    if (settings === undefined || isPumping || queue.requests === 0) return;
    isPumping = true;
    const start = performance.now();
    try {
      while (queue.requests > 0 && hasEndpoints()) {
        const [band] = queue.bands;
        if (band === undefined) break;
        if (!isOpen(band.priority, saturation().effective, settings.usageLimits)) {
          if (!settings.isEvictionEnabled || !evictFor(band)) break;
          // The next look counts without them, and does not end others.
          continue;
        }
        const item = queue.take(band, clock.now());
        if (item === undefined) break;
        settle(item, 'Dispatched', undefined);
      }
    } finally {
      isPumping = false;
      observer?.cycle((performance.now() - start) / 1000);
      if (queue.requests === 0) {
        stopTicking?.();
        stopTicking = undefined;
      }
    }
  };
  const tick = (): void => {
    expire();
    pump();
  };

  const takeAll = (outcome: FlowOutcome, verdict: Verdict): void => {
    for (let item = queue.takeAny(); item !== undefined; item = queue.takeAny()) settle(item, outcome, verdict);
    stopTicking?.();
    stopTicking = undefined;
  };

  return {
    queue,
    saturation,
    get detector() {
      return detector;
    },
    replace: (next) => {
      if (next.settings === undefined) takeAll('Dispatched', undefined);
      ({ settings, detector, observer } = next);
      knownBands = undefined;
      queue.reconfigure(settings?.limits ?? noLimits, settings?.bandOf ?? noBands);
      pump();
    },
    enter: (request, onVerdict) => {
      if (settings === undefined) {
        if (request.priority >= 0) return 'go';
        if (!hasEndpoints()) return 'go';
        if (saturation().effective < 1) return 'go';
        observer?.settled(request, 'RejectedCapacity', 0);
        return noRoom('the pool is full and the request may be dropped; try again later');
      }
      const start = performance.now();
      const done = (outcome: FlowOutcome): void =>
        observer?.enqueued(request, outcome, (performance.now() - start) / 1000);
      const isAhead = queue.requests === 0 || (queue.bands[0]?.priority ?? 0) < request.priority;
      if (isAhead && hasEndpoints() && isOpen(request.priority, saturation().effective, settings.usageLimits)) {
        countGone();
        observer?.settled(request, 'Dispatched', 0);
        done('Dispatched');
        return 'go';
      }
      if (isClosed) {
        observer?.settled(request, 'RejectedShuttingDown', 0);
        done('RejectedShuttingDown');
        return shuttingDown;
      }
      const nowMs = clock.now();
      const ttlMs = hasEndpoints() ? settings.requestTtlMs : settings.noEndpointTtlMs;
      const item: FlowItem = {
        request,
        fairnessId: request.fairnessId,
        priority: request.priority,
        bytes: request.bytes,
        enqueuedAtMs: nowMs,
        deadlineMs: nowMs + Math.min(ttlMs, request.ttlMs ?? ttlMs),
        ttftMs: request.ttftMs,
        settle: onVerdict,
      };
      if (!queue.push(item)) {
        observer?.settled(request, 'RejectedCapacity', 0);
        done('RejectedCapacity');
        return noRoom('too many requests wait for the pool; try again later');
      }
      stopTicking ??= clock.interval(tickMs, tick);
      // Not now: whoever asks is not ready for a verdict before this returns.
      if (settings.isEvictionEnabled) queueMicrotask(pump);
      return {
        leave: () => {
          if (queue.remove(item)) observer?.settled(request, 'EvictedContextCancelled', clock.now() - nowMs);
        },
      };
    },
    beginPlacing: () => {
      placing++;
      let isDone = false;
      return () => {
        if (isDone) return;
        isDone = true;
        placing--;
      };
    },
    hold: (request, evict) => {
      if (settings?.isEvictionEnabled !== true || request.priority >= 0) return undefined;
      const holding = { priority: request.priority, evict };
      held.add(holding);
      return () => {
        held.delete(holding);
      };
    },
    poke: pump,
    used: (request, usage) => {
      settings?.bandOf(request.priority).fairness.used?.(request.fairnessId, usage, clock.now());
    },
    close: () => {
      isClosed = true;
      takeAll('EvictedShuttingDown', shuttingDown);
    },
  };
}
