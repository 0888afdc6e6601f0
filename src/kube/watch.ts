import type { ErrorCode } from '../errors.ts';
import type { WatchEvent } from './client.ts';
import type { KubeObject } from './object.ts';

/**
 * The list+watch protocol of the API server, without any I/O.
 *
 * Flow: `listing` → `watching` → … for ever. The driver does what the state says (list, read the watch, wait), turns what
 * came of it into a message and calls `step`; effects are done in order before the next message.
 * Guarantees: a resource version is only ever resumed after everything up to it was put into effects; a lost history (410)
 * leads to a new list, whose `replace` tells what was missed; failures wait 1 s doubling to 30 s (the driver adds jitter).
 */
export type WatchState =
  | { readonly kind: 'listing'; readonly failures: number; readonly isSynced: boolean }
  | {
      readonly kind: 'watching';
      readonly resourceVersion: string;
      readonly failures: number;
      /** Whether this connection has said anything yet: one that opens and ends at once must not spin. */
      readonly hasSpoken: boolean;
    }
  | {
      readonly kind: 'waiting';
      readonly ms: number;
      readonly failures: number;
      readonly isSynced: boolean;
      /** The server does not know the resource. */
      readonly isUnserved?: boolean;
      /** Undefined: list after the wait; otherwise watch from here. */
      readonly resourceVersion?: string;
    };

export interface WatchFailure {
  readonly code: ErrorCode;
  readonly message: string;
}

export type WatchMessage<T extends KubeObject> =
  | { readonly kind: 'listed'; readonly items: readonly T[]; readonly resourceVersion: string }
  | { readonly kind: 'listFailed'; readonly failure: WatchFailure }
  | { readonly kind: 'event'; readonly event: WatchEvent<T> }
  | { readonly kind: 'watchEnded' }
  | { readonly kind: 'watchFailed'; readonly failure: WatchFailure }
  /** The connection outlived its time-out without a byte. */
  | { readonly kind: 'stalled' }
  | { readonly kind: 'waited' };

export type WatchEffect<T extends KubeObject> =
  | { readonly kind: 'replace'; readonly items: readonly T[] }
  | { readonly kind: 'upsert'; readonly object: T }
  | { readonly kind: 'remove'; readonly object: T }
  | { readonly kind: 'synced' }
  /** It was served and is no more: two lists in a row were not found. */
  | { readonly kind: 'unserved' }
  /** The resource is not served (yet). Told once until it is. */
  | { readonly kind: 'notServed'; readonly message: string }
  | { readonly kind: 'log'; readonly level: 'debug' | 'warn'; readonly message: string };

export interface WatchStep<T extends KubeObject> {
  readonly state: WatchState;
  readonly effects: readonly WatchEffect<T>[];
}

export const initialWatchState: WatchState = { kind: 'listing', failures: 0, isSynced: false };

const maxBackoffMs = 30_000;

export function backoffMs(failures: number): number {
  return Math.min(maxBackoffMs, 1_000 * 2 ** Math.min(failures, 10));
}

/** The next state of one list+watch. A message that does not fit the state (a late event after a failure) changes nothing. */
export function step<T extends KubeObject>(state: WatchState, message: WatchMessage<T>): WatchStep<T> {
  switch (state.kind) {
    case 'listing':
      return stepListing(state, message);
    case 'watching':
      return stepWatching(state, message);
    case 'waiting':
      if (message.kind !== 'waited') return { state, effects: [] };
      return {
        state:
          state.resourceVersion === undefined
            ? { kind: 'listing', failures: state.failures, isSynced: state.isSynced }
            : { kind: 'watching', resourceVersion: state.resourceVersion, failures: state.failures, hasSpoken: false },
        effects: [],
      };
  }
}

function stepListing<T extends KubeObject>(
  state: Extract<WatchState, { kind: 'listing' }>,
  message: WatchMessage<T>,
): WatchStep<T> {
  switch (message.kind) {
    case 'listed':
      return {
        state: { kind: 'watching', resourceVersion: message.resourceVersion, failures: 0, hasSpoken: false },
        effects: [{ kind: 'replace', items: message.items }, ...(state.isSynced ? [] : [{ kind: 'synced' } as const])],
      };
    case 'listFailed': {
      const isFirst = state.failures === 0;
      const isGone = message.failure.code === 'notFound' && state.isSynced && !isFirst;
      if (isGone) return { state: waitToList(state.failures, false, 'notFound'), effects: [{ kind: 'unserved' }] };
      const told: WatchEffect<T> =
        message.failure.code === 'notFound'
          ? { kind: 'notServed', message: message.failure.message }
          : { kind: 'log', level: 'warn', message: message.failure.message };
      return {
        state: waitToList(state.failures, state.isSynced, message.failure.code),
        // A definition that is not installed stays quiet after the first word.
        effects: message.failure.code === 'notFound' && !isFirst ? [] : [told],
      };
    }
    default:
      return { state, effects: [] };
  }
}

function stepWatching<T extends KubeObject>(
  state: Extract<WatchState, { kind: 'watching' }>,
  message: WatchMessage<T>,
): WatchStep<T> {
  switch (message.kind) {
    case 'event':
      return stepEvent(state, message.event);
    case 'watchEnded':
    case 'stalled': {
      const effects: WatchEffect<T>[] =
        message.kind === 'stalled'
          ? [{ kind: 'log', level: 'warn', message: 'the watch stalled; connecting again' }]
          : [];
      // The usual end, at the server's time-out: go on from where it stopped.
      if (state.hasSpoken || message.kind === 'stalled') {
        return {
          state: { kind: 'watching', resourceVersion: state.resourceVersion, failures: 0, hasSpoken: false },
          effects,
        };
      }
      return { state: waitToWatch(state), effects };
    }
    case 'watchFailed': {
      const { code } = message.failure;
      if (code === 'gone') return relist('the watch is too old for the server; listing anew');
      if (code === 'notFound') {
        return {
          state: waitToList(state.failures, true, code),
          effects: [{ kind: 'notServed', message: message.failure.message }],
        };
      }
      return {
        state: waitToWatch(state),
        effects: [{ kind: 'log', level: state.failures === 0 ? 'debug' : 'warn', message: message.failure.message }],
      };
    }
    default:
      return { state, effects: [] };
  }
}

function stepEvent<T extends KubeObject>(
  state: Extract<WatchState, { kind: 'watching' }>,
  event: WatchEvent<T>,
): WatchStep<T> {
  switch (event.type) {
    case 'ADDED':
    case 'MODIFIED':
      return { state: advance(state, event.object), effects: [{ kind: 'upsert', object: event.object }] };
    case 'DELETED':
      return { state: advance(state, event.object), effects: [{ kind: 'remove', object: event.object }] };
    case 'BOOKMARK':
      return {
        state: {
          ...state,
          resourceVersion: event.resourceVersion || state.resourceVersion,
          failures: 0,
          hasSpoken: true,
        },
        effects: [],
      };
    case 'ERROR':
      if (event.code === 410) return relist('the watch is too old for the server; listing anew');
      return {
        state: waitToWatch(state),
        effects: [
          { kind: 'log', level: 'warn', message: `the watch ended with error ${event.code}: ${event.message}` },
        ],
      };
  }
}

function advance(state: Extract<WatchState, { kind: 'watching' }>, object: KubeObject): WatchState {
  return {
    kind: 'watching',
    resourceVersion: object.metadata.resourceVersion ?? state.resourceVersion,
    failures: 0,
    hasSpoken: true,
  };
}

function relist<T extends KubeObject>(message: string): WatchStep<T> {
  return {
    state: { kind: 'listing', failures: 0, isSynced: true },
    effects: [{ kind: 'log', level: 'debug', message }],
  };
}

/** A resource that is not served is asked for at most every 5 s, so that a definition just installed is soon seen. */
function waitToList(failures: number, isSynced: boolean, code: ErrorCode): WatchState {
  const ms = code === 'notFound' ? Math.min(5_000, backoffMs(failures)) : backoffMs(failures);
  return {
    kind: 'waiting',
    ms,
    failures: failures + 1,
    isSynced,
    // Once is not believed of what was served a moment ago.
    ...(code === 'notFound' && !isSynced ? { isUnserved: true } : {}),
  };
}

function waitToWatch(state: Extract<WatchState, { kind: 'watching' }>): WatchState {
  return {
    kind: 'waiting',
    ms: backoffMs(state.failures),
    failures: state.failures + 1,
    isSynced: true,
    resourceVersion: state.resourceVersion,
  };
}
