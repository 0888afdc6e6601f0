import { type Clock, systemClock } from '../clock.ts';
import { messageOf } from '../errors.ts';
import type { Logger } from '../telemetry/log.ts';
import type { Client } from './client.ts';
import type { KubeObject, ObjectRef } from './object.ts';
import { resources } from './resources.ts';
import { hasCode } from './status-error.ts';

export interface LeaseSpec {
  readonly holderIdentity?: string;
  readonly leaseDurationSeconds?: number;
  readonly acquireTime?: string;
  readonly renewTime?: string;
  readonly leaseTransitions?: number;
}

export interface Lease extends KubeObject {
  readonly spec?: LeaseSpec;
}

export interface ElectionTimes {
  /** How long others respect a lease that is not renewed. */
  readonly leaseDurationMs: number;
  /** How long the leader goes on without a successful renewal; below the lease's duration. */
  readonly renewDeadlineMs: number;
  readonly retryPeriodMs: number;
}

export const defaultElectionTimes: ElectionTimes = {
  leaseDurationMs: 15_000,
  renewDeadlineMs: 10_000,
  retryPeriodMs: 2_000,
};

/**
 * Whether we lead. A follower remembers when it first saw the lease as it is now, by its own clock: the clocks of two
 * machines are never compared.
 */
export type ElectionState =
  | { readonly kind: 'following'; readonly seen?: { readonly record: string; readonly atMs: number } }
  | { readonly kind: 'leading'; readonly renewedAtMs: number }
  | { readonly kind: 'lost'; readonly reason: string };

export type ElectionMessage =
  | { readonly kind: 'read'; readonly lease: Lease | undefined; readonly nowMs: number }
  | { readonly kind: 'written'; readonly nowMs: number }
  /** Somebody else wrote first, or the server did not answer. */
  | { readonly kind: 'failed'; readonly message: string; readonly nowMs: number };

export type ElectionEffect =
  | { readonly kind: 'create'; readonly spec: LeaseSpec }
  | { readonly kind: 'update'; readonly lease: Lease; readonly spec: LeaseSpec }
  | { readonly kind: 'lead' }
  | { readonly kind: 'lose'; readonly reason: string };

/** The next state of one candidate. After effects `create` or `update` the driver answers `written` or `failed`. */
export function step(
  identity: string,
  times: ElectionTimes,
  state: ElectionState,
  message: ElectionMessage,
): { readonly state: ElectionState; readonly effects: readonly ElectionEffect[] } {
  const { nowMs } = message;
  if (state.kind === 'lost') return { state, effects: [] };
  switch (message.kind) {
    case 'written':
      return {
        state: { kind: 'leading', renewedAtMs: nowMs },
        effects: state.kind === 'leading' ? [] : [{ kind: 'lead' }],
      };
    case 'failed': {
      if (state.kind !== 'leading' || nowMs - state.renewedAtMs < times.renewDeadlineMs) return { state, effects: [] };
      return lose(`the lease was not renewed for ${nowMs - state.renewedAtMs} ms: ${message.message}`);
    }
    case 'read': {
      const { lease } = message;
      const holder = lease?.spec?.holderIdentity ?? '';
      if (state.kind === 'leading' && lease && holder !== identity)
        return lose(`the lease is held by ${holder || 'nobody'}`);
      const spec = specOf(identity, times, lease?.spec, nowMs);
      if (!lease) return { state, effects: [{ kind: 'create', spec }] };
      if (holder === identity || holder === '') return { state, effects: [{ kind: 'update', lease, spec }] };
      const record = JSON.stringify([lease.metadata.uid, lease.spec]);
      const seen = state.kind === 'following' && state.seen?.record === record ? state.seen : { record, atMs: nowMs };
      const durationMs = (lease.spec?.leaseDurationSeconds ?? times.leaseDurationMs / 1000) * 1000;
      const isExpired = nowMs - seen.atMs >= durationMs;
      return { state: { kind: 'following', seen }, effects: isExpired ? [{ kind: 'update', lease, spec }] : [] };
    }
  }
}

function lose(reason: string) {
  return { state: { kind: 'lost', reason }, effects: [{ kind: 'lose', reason }] } as const;
}

function specOf(identity: string, times: ElectionTimes, before: LeaseSpec | undefined, nowMs: number): LeaseSpec {
  const isMine = before?.holderIdentity === identity;
  const now = toMicroTime(nowMs);
  return {
    holderIdentity: identity,
    leaseDurationSeconds: Math.max(1, Math.ceil(times.leaseDurationMs / 1000)),
    acquireTime: isMine && before?.acquireTime ? before.acquireTime : now,
    renewTime: now,
    leaseTransitions: (before?.leaseTransitions ?? 0) + (before && !isMine ? 1 : 0),
  };
}

function toMicroTime(ms: number): string {
  return new Date(ms).toISOString().replace('Z', '000Z');
}

export interface LeaderElection {
  /** Resolves when this candidate leads; never, when it does not come to it. */
  readonly leading: Promise<void>;
  readonly isLeading: boolean;
  /** The lease may be free: a follower looks at once instead of at its next turn. */
  hurry(): void;
  /** Gives the lease back, so that the next leader need not wait for its end. */
  close(): Promise<void>;
}

export interface LeaderElectionOptions {
  /** Where the Lease lives. */
  readonly lease: Required<ObjectRef>;
  /** Different for every process, also across restarts of one pod. */
  readonly identity: string;
  readonly times?: ElectionTimes;
  /** Called at most once; whoever led must stop at once, for another may lead already. */
  readonly onLost: (reason: string) => void;
}

/** Stands for election until closed or, having led, defeated. */
export function startLeaderElection(
  client: Pick<Client, 'get' | 'create' | 'replace'>,
  options: LeaderElectionOptions,
  deps: { readonly log: Logger; readonly clock?: Clock },
): LeaderElection {
  const clock = deps.clock ?? systemClock;
  const log = deps.log.child({ lease: `${options.lease.namespace}/${options.lease.name}` });
  const times = options.times ?? defaultElectionTimes;
  const closing = new AbortController();
  let state: ElectionState = { kind: 'following' };
  let setLeading: () => void = () => {};
  const leading = new Promise<void>((resolve) => {
    setLeading = resolve;
  });

  const bounded = <T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> => {
    const abort = new AbortController();
    const stop = () => abort.abort(new Error('no answer in time'));
    const timer = setTimeout(stop, Math.min(5_000, times.renewDeadlineMs / 2));
    closing.signal.addEventListener('abort', stop, { once: true });
    return work(abort.signal).finally(() => {
      clearTimeout(timer);
      closing.signal.removeEventListener('abort', stop);
    });
  };
  const handle = async (message: ElectionMessage): Promise<void> => {
    const next = step(options.identity, times, state, message);
    state = next.state;
    for (const effect of next.effects) {
      switch (effect.kind) {
        case 'create':
        case 'update':
          return handle(await write(effect));
        case 'lead':
          log.info({ identity: options.identity }, 'leading');
          setLeading();
          break;
        case 'lose':
          log.error({ reason: effect.reason }, 'leadership lost');
          options.onLost(effect.reason);
          break;
      }
    }
  };
  const write = async (effect: Extract<ElectionEffect, { kind: 'create' | 'update' }>): Promise<ElectionMessage> => {
    // The lease counts from before the write, lest a slow answer stretch it.
    const nowMs = clock.now();
    try {
      const body = { apiVersion: 'coordination.k8s.io/v1', kind: 'Lease', spec: effect.spec };
      await bounded((signal) =>
        effect.kind === 'create'
          ? client.create(resources.leases, { ...body, metadata: options.lease }, signal)
          : client.replace(resources.leases, { ...body, metadata: effect.lease.metadata }, signal),
      );
      return { kind: 'written', nowMs };
    } catch (thrown) {
      if (!hasCode(thrown, 'conflict')) log.warn({ error: messageOf(thrown) }, 'the lease was not written');
      return { kind: 'failed', message: messageOf(thrown), nowMs: clock.now() };
    }
  };
  const round = async (): Promise<void> => {
    try {
      const lease = await bounded((signal) => client.get<Lease>(resources.leases, options.lease, signal));
      await handle({ kind: 'read', lease, nowMs: clock.now() });
    } catch (thrown) {
      if (closing.signal.aborted) return;
      log.warn({ error: messageOf(thrown) }, 'the lease was not read');
      await handle({ kind: 'failed', message: messageOf(thrown), nowMs: clock.now() });
    }
  };
  /** Ends the pause before the next round; made before a round, so that a hurry during it counts. */
  let pause = new AbortController();
  const run = async (): Promise<void> => {
    while (!closing.signal.aborted && state.kind !== 'lost') {
      pause = new AbortController();
      const signal = AbortSignal.any([closing.signal, pause.signal]);
      await round();
      await clock.sleep(times.retryPeriodMs * (0.9 + Math.random() / 5), signal).catch(() => {});
    }
  };
  const running = run();

  return {
    leading,
    get isLeading() {
      return state.kind === 'leading';
    },
    hurry() {
      if (state.kind === 'following') pause.abort(new Error('the lease may be free'));
    },
    async close() {
      if (closing.signal.aborted) return;
      closing.abort(new Error('the election was closed'));
      await running;
      if (state.kind !== 'leading') return;
      state = { kind: 'following' };
      try {
        const lease = await client.get<Lease>(resources.leases, options.lease, AbortSignal.timeout(3_000));
        if (lease?.spec?.holderIdentity !== options.identity) return;
        await client.replace(
          resources.leases,
          {
            apiVersion: lease.apiVersion,
            kind: lease.kind,
            metadata: lease.metadata,
            spec: { ...lease.spec, holderIdentity: '', leaseDurationSeconds: 1, renewTime: toMicroTime(clock.now()) },
          },
          AbortSignal.timeout(3_000),
        );
      } catch (thrown) {
        log.warn({ error: messageOf(thrown) }, 'the lease was not given back; it ends by itself');
      }
    },
  };
}
