import { type Clock, systemClock } from '../clock.ts';
import { AppError, messageOf } from '../errors.ts';
import type { Logger } from '../telemetry/log.ts';
import type { Client, WatchEvent } from './client.ts';
import type { Definitions } from './definitions.ts';
import { apiVersionOf, type KubeObject, type ObjectRef, type Resource } from './object.ts';
import { IndexedStore } from './store.ts';
import { initialWatchState, step, type WatchFailure, type WatchMessage, type WatchState } from './watch.ts';

/** Read side of a cache: only its informer writes. Objects are as the API server gave them; do not change them. */
export interface Store<T extends KubeObject> {
  get(ref: ObjectRef): T | undefined;
  list(namespace?: string): readonly T[];
  /** Objects under a key of a named index that the informer was started with. */
  byIndex(index: string, key: string): readonly T[];
  readonly size: number;
}

export type Change<T extends KubeObject> =
  | { readonly type: 'added'; readonly object: T }
  | { readonly type: 'updated'; readonly object: T; readonly before: T }
  | { readonly type: 'deleted'; readonly object: T };

/** A list+watch that keeps a store true, through resets, 410 and stalls, until closed. */
export interface Informer<T extends KubeObject> {
  readonly store: Store<T>;
  /** Resolves after the first complete list. */
  readonly synced: Promise<void>;
  readonly isSynced: boolean;
  /** Called for every change after it is in the store. A throw in a handler is logged, never fatal. Present objects are replayed as `added`. */
  subscribe(handler: (change: Change<T>) => void): () => void;
  close(): void;
}

export type Indexes<T> = Readonly<Record<string, (object: T) => readonly string[]>>;

export interface InformerOptions<T extends KubeObject> {
  readonly namespace?: string;
  readonly labelSelector?: string;
  readonly fieldSelector?: string;
  /** Only `metadata` of each object is read. */
  readonly isMetadataOnly?: boolean;
  readonly indexes?: Indexes<T>;
  /** Applied to each object before it is stored: drop what nobody reads. It must keep apiVersion, kind and metadata's identity. */
  readonly transform?: (object: T) => T;
  /**
   * Told when the resource has been listed for the first time, when its definition is gone, and when it is back. With it
   * what was known is forgotten when the definition goes, and `isSynced` is false until it is back; without it the last
   * state stays.
   */
  readonly onServed?: (isServed: boolean) => void;
  /** Tells when the definition comes, so that a kind without one is not asked for until then. */
  readonly definitions?: Pick<Definitions, 'has' | 'subscribe'>;
}

export interface InformerDeps {
  readonly log: Logger;
  readonly clock?: Clock;
}

/** How long one watch may last by the server's clock; spread so that many do not end together. */
const watchSeconds = () => 240 + Math.floor(Math.random() * 120);
/** Silence beyond the server's own time-out that means a dead connection. */
const stallGraceMs = 30_000;
/** How often a kind without a definition is looked for all the same: it may be served by other means. */
const undefinedLookMs = 600_000;

/**
 * Keeps a store of one resource true until closed. Failures never surface: they are logged and tried again, and a resource
 * that is not served yet (its definition is missing) is waited for with `isSynced` false.
 */
export function startInformer<T extends KubeObject>(
  client: Pick<Client, 'list' | 'watch'>,
  resource: Resource,
  options: InformerOptions<T>,
  deps: InformerDeps,
): Informer<T> {
  const clock = deps.clock ?? systemClock;
  const log = deps.log.child({ resource: `${resource.plural}.${apiVersionOf(resource)}` });
  const store = new IndexedStore<T>(options.indexes);
  const handlers = new Set<(change: Change<T>) => void>();
  const closing = new AbortController();
  const selection = {
    ...(options.namespace === undefined ? {} : { namespace: options.namespace }),
    ...(options.labelSelector === undefined ? {} : { labelSelector: options.labelSelector }),
    ...(options.fieldSelector === undefined ? {} : { fieldSelector: options.fieldSelector }),
    ...(options.isMetadataOnly ? { isMetadataOnly: true } : {}),
  };
  const transform = options.transform ?? ((object: T) => object);
  let isSynced = false;
  let setSynced: () => void = () => {};
  const synced = new Promise<void>((resolve) => {
    setSynced = resolve;
  });

  const tell = (handler: (change: Change<T>) => void, change: Change<T>) => {
    try {
      handler(change);
    } catch (thrown) {
      log.error({ err: thrown }, 'a handler of changes failed');
    }
  };
  const publish = (change: Change<T> | undefined) => {
    if (!change) return;
    for (const handler of [...handlers]) tell(handler, change);
  };

  const perform = (effect: ReturnType<typeof step<T>>['effects'][number]) => {
    switch (effect.kind) {
      case 'replace':
        for (const change of store.replace(effect.items.map(transform))) publish(change);
        break;
      case 'upsert':
        publish(store.upsert(transform(effect.object)));
        break;
      case 'remove':
        publish(store.remove(transform(effect.object)));
        break;
      case 'synced':
        isSynced = true;
        setSynced();
        options.onServed?.(true);
        break;
      case 'unserved':
        if (!options.onServed) break;
        log.warn('the resource is no longer served; its objects are forgotten');
        isSynced = false;
        for (const change of store.replace([])) publish(change);
        options.onServed(false);
        break;
      case 'notServed':
        log.info({ reason: effect.message }, 'the resource is not served; waiting for its definition');
        break;
      case 'log':
        log[effect.level](effect.message);
        break;
    }
  };

  let connection: WatchConnection<T> | undefined;
  const nextMessage = async (state: WatchState): Promise<WatchMessage<T>> => {
    switch (state.kind) {
      case 'listing':
        try {
          const page = await client.list<T>(resource, selection, closing.signal);
          return { kind: 'listed', items: page.items, resourceVersion: page.resourceVersion };
        } catch (thrown) {
          return { kind: 'listFailed', failure: toFailure(thrown) };
        }
      case 'waiting':
        await wait(state);
        return { kind: 'waited' };
      case 'watching': {
        connection ??= connect(state.resourceVersion);
        return connection.next();
      }
    }
  };
  let wake: (() => void) | undefined;
  const unsubscribe = options.definitions?.subscribe(resource, () => wake?.());
  const wait = async (state: Extract<WatchState, { kind: 'waiting' }>) => {
    const spread = 0.75 + Math.random() / 2;
    if (!state.isUnserved || options.definitions?.has(resource) !== false) {
      await clock.sleep(state.ms * spread, closing.signal);
      return;
    }
    const woken = new AbortController();
    wake = () => woken.abort();
    try {
      await clock.sleep(undefinedLookMs * spread, AbortSignal.any([closing.signal, woken.signal]));
    } catch (thrown) {
      if (!woken.signal.aborted) throw thrown;
    } finally {
      wake = undefined;
    }
  };
  const connect = (resourceVersion: string): WatchConnection<T> => {
    const timeoutSeconds = watchSeconds();
    const abort = new AbortController();
    const events = client
      .watch<T>(
        resource,
        { ...selection, resourceVersion, timeoutSeconds },
        AbortSignal.any([abort.signal, closing.signal]),
      )
      [Symbol.asyncIterator]();
    return openConnection(events, abort, timeoutSeconds * 1000 + stallGraceMs, clock);
  };

  const run = async () => {
    let state = initialWatchState;
    while (!closing.signal.aborted) {
      const message = await nextMessage(state);
      if (closing.signal.aborted) break;
      const next = step(state, message);
      if (connection && (message.kind !== 'event' || next.state.kind !== 'watching')) {
        connection.close();
        connection = undefined;
      }
      state = next.state;
      for (const effect of next.effects) perform(effect);
    }
  };
  const guarded = async () => {
    while (!closing.signal.aborted) {
      try {
        await run();
      } catch (thrown) {
        if (closing.signal.aborted) return;
        // Nothing above throws by design (an index function might): start over with a list rather than stand still.
        log.error({ err: thrown }, 'the informer failed; starting over');
        await clock.sleep(1_000, closing.signal).catch(() => {});
      } finally {
        connection?.close();
        connection = undefined;
      }
    }
  };
  void guarded();

  return {
    store,
    synced,
    get isSynced() {
      return isSynced;
    },
    subscribe(handler) {
      handlers.add(handler);
      for (const object of store.list()) tell(handler, { type: 'added', object });
      return () => {
        handlers.delete(handler);
      };
    },
    close() {
      closing.abort(new AppError('unavailable', 'the informer was closed'));
      unsubscribe?.();
      handlers.clear();
    },
  };
}

interface WatchConnection<T extends KubeObject> {
  next(): Promise<WatchMessage<T>>;
  close(): void;
}

/** Turns one watch into messages; `stalled` when it lasts longer than it may. */
function openConnection<T extends KubeObject>(
  events: AsyncIterator<WatchEvent<T>>,
  abort: AbortController,
  deadlineMs: number,
  clock: Clock,
): WatchConnection<T> {
  let isStalled = false;
  const timer = new AbortController();
  clock.sleep(deadlineMs, timer.signal).then(
    () => {
      isStalled = true;
      abort.abort(new AppError('timeout', 'the watch stalled'));
    },
    () => {},
  );
  return {
    async next() {
      try {
        const { done, value } = await events.next();
        return done ? { kind: 'watchEnded' } : { kind: 'event', event: value };
      } catch (thrown) {
        return isStalled ? { kind: 'stalled' } : { kind: 'watchFailed', failure: toFailure(thrown) };
      }
    },
    close() {
      timer.abort();
      abort.abort(new AppError('unavailable', 'the watch was closed'));
      void events.return?.(undefined).catch(() => {});
    },
  };
}

function toFailure(thrown: unknown): WatchFailure {
  return { code: thrown instanceof AppError ? thrown.code : 'internal', message: messageOf(thrown) };
}
