import type { Informer } from '../../src/kube/informer.ts';
import { apiVersionOf, type KubeObject, keyOf, type ObjectRef, type Resource } from '../../src/kube/object.ts';
import type { Trigger } from '../../src/runtime/triggers.ts';

/** One object that a service names and that is not its child. */
export interface Named {
  readonly resource: Resource;
  readonly ref: ObjectRef;
}

interface Watched {
  readonly informer: Informer<KubeObject>;
  /** Keys of the services that name it. */
  readonly users: Set<string>;
  /** Somebody asked before it had been looked for. */
  isMissed: boolean;
}

/**
 * Watches of single objects, each as long as a service names it: objects of these kinds are many in a cluster, and those
 * that matter few.
 */
export class NamedObjects {
  readonly #start: (named: Named) => Informer<KubeObject>;
  readonly #watched = new Map<string, Watched>();
  readonly #namedBy = new Map<string, ReadonlySet<string>>();
  readonly #listeners = new Set<(key: string) => void>();

  /** `start` opens the watch of one object. */
  constructor(start: (named: Named) => Informer<KubeObject>) {
    this.#start = start;
  }

  /** From now on the service with this key is woken by these objects and no others. */
  use(user: string, wanted: readonly Named[]): void {
    const keys = new Set<string>();
    for (const named of wanted) {
      const key = keyFor(named);
      keys.add(key);
      this.#watch(key, named).users.add(user);
    }
    for (const key of this.#namedBy.get(user) ?? []) {
      if (keys.has(key)) continue;
      const watched = this.#watched.get(key);
      watched?.users.delete(user);
      if (!watched || watched.users.size > 0) continue;
      watched.informer.close();
      this.#watched.delete(key);
    }
    if (keys.size > 0) this.#namedBy.set(user, keys);
    else this.#namedBy.delete(user);
  }

  /** Resolves when every object that the service names has been looked for, at the signal or after `limitMs`: never rejects. */
  async settled(user: string, signal: AbortSignal, limitMs: number): Promise<void> {
    const pending = [...(this.#namedBy.get(user) ?? [])].flatMap((key) => {
      const informer = this.#watched.get(key)?.informer;
      return informer && !informer.isSynced ? [informer.synced] : [];
    });
    if (pending.length === 0 || signal.aborted) return;
    const cut = Promise.withResolvers<void>();
    const stop = () => cut.resolve();
    const timer = setTimeout(stop, limitMs);
    signal.addEventListener('abort', stop, { once: true });
    await Promise.race([Promise.all(pending), cut.promise]);
    signal.removeEventListener('abort', stop);
    clearTimeout(timer);
  }

  /** The object, `undefined` when there is none, `'unknown'` while it has not been looked for. */
  get<T extends KubeObject>(named: Named): T | undefined | 'unknown' {
    const watched = this.#watched.get(keyFor(named));
    if (!watched?.informer.isSynced) {
      if (watched) watched.isMissed = true;
      return 'unknown';
    }
    return watched.informer.store.get(named.ref) as T | undefined;
  }

  /** Wakes the services that name what has changed; ends every watch when it is taken away. */
  get trigger(): Trigger {
    return (enqueue) => {
      this.#listeners.add(enqueue);
      return () => {
        this.#listeners.delete(enqueue);
        for (const { informer } of this.#watched.values()) informer.close();
        this.#watched.clear();
        this.#namedBy.clear();
      };
    };
  }

  #watch(key: string, named: Named): Watched {
    const present = this.#watched.get(key);
    if (present) return present;
    const watched: Watched = { informer: this.#start(named), users: new Set(), isMissed: false };
    const wake = () => {
      for (const enqueue of this.#listeners) for (const user of watched.users) enqueue(user);
    };
    // Who names it waits for the first list; from then on every change counts.
    void watched.informer.synced.then(() => {
      let isReplayed = false;
      watched.informer.subscribe(() => {
        if (isReplayed) wake();
      });
      isReplayed = true;
      if (watched.isMissed) wake();
    });
    this.#watched.set(key, watched);
    return watched;
  }
}

function keyFor({ resource, ref }: Named): string {
  return `${apiVersionOf(resource)}/${resource.plural}/${keyOf(ref)}`;
}
