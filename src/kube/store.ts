import type { Change, Indexes, Store } from './informer.ts';
import { type KubeObject, keyOf, type ObjectRef } from './object.ts';

const none: readonly never[] = [];

/** The writing side of a cache. Each write answers what it changed, after the fact. */
export class IndexedStore<T extends KubeObject> implements Store<T> {
  readonly #objects = new Map<string, T>();
  readonly #byNamespace = new Map<string, Map<string, T>>();
  readonly #indexes: ReadonlyMap<
    string,
    { readonly keysOf: (object: T) => readonly string[]; readonly entries: Map<string, Map<string, T>> }
  >;

  constructor(indexes: Indexes<T> = {}) {
    this.#indexes = new Map(Object.entries(indexes).map(([name, keysOf]) => [name, { keysOf, entries: new Map() }]));
  }

  get size(): number {
    return this.#objects.size;
  }

  get(ref: ObjectRef): T | undefined {
    return this.#objects.get(keyOf(ref));
  }

  list(namespace?: string): readonly T[] {
    if (namespace === undefined) return [...this.#objects.values()];
    const objects = this.#byNamespace.get(namespace);
    return objects ? [...objects.values()] : none;
  }

  byIndex(index: string, key: string): readonly T[] {
    const found = this.#indexes.get(index);
    if (!found) throw new Error(`the store has no index "${index}"; name it when the informer is started`);
    const objects = found.entries.get(key);
    return objects ? [...objects.values()] : none;
  }

  /** Adds or updates. An object that is not newer than the one present (same resourceVersion) changes nothing. */
  upsert(object: T): Change<T> | undefined {
    const key = keyOf(object.metadata);
    const before = this.#objects.get(key);
    if (before && isSameVersion(before, object)) return undefined;
    if (before) this.#unlink(key, before);
    this.#link(key, object);
    return before ? { type: 'updated', object, before } : { type: 'added', object };
  }

  /** Removes; the answer carries the object's last state as the server told it. */
  remove(object: T): Change<T> | undefined {
    const key = keyOf(object.metadata);
    const before = this.#objects.get(key);
    if (!before) return undefined;
    this.#unlink(key, before);
    this.#objects.delete(key);
    return { type: 'deleted', object };
  }

  /** Makes the store hold exactly these objects: deletions first, so that no key is seen twice under an index. */
  replace(objects: readonly T[]): readonly Change<T>[] {
    const changes: Change<T>[] = [];
    const present = new Map(objects.map((object) => [keyOf(object.metadata), object]));
    for (const [key, before] of [...this.#objects]) {
      const now = present.get(key);
      // Another object under the same name: the old one was deleted while nobody watched.
      if (now && now.metadata.uid === before.metadata.uid) continue;
      const change = this.remove(before);
      if (change) changes.push(change);
    }
    for (const object of present.values()) {
      const change = this.upsert(object);
      if (change) changes.push(change);
    }
    return changes;
  }

  #link(key: string, object: T): void {
    this.#objects.set(key, object);
    put(this.#byNamespace, object.metadata.namespace ?? '', key, object);
    for (const { keysOf, entries } of this.#indexes.values()) {
      for (const indexKey of keysOf(object)) put(entries, indexKey, key, object);
    }
  }

  #unlink(key: string, object: T): void {
    take(this.#byNamespace, object.metadata.namespace ?? '', key);
    for (const { keysOf, entries } of this.#indexes.values()) {
      for (const indexKey of keysOf(object)) take(entries, indexKey, key);
    }
  }
}

function isSameVersion(a: KubeObject, b: KubeObject): boolean {
  return (
    a.metadata.resourceVersion !== undefined &&
    a.metadata.resourceVersion === b.metadata.resourceVersion &&
    a.metadata.uid === b.metadata.uid
  );
}

function put<T>(entries: Map<string, Map<string, T>>, indexKey: string, key: string, object: T): void {
  const objects = entries.get(indexKey);
  if (objects) objects.set(key, object);
  else entries.set(indexKey, new Map([[key, object]]));
}

function take<T>(entries: Map<string, Map<string, T>>, indexKey: string, key: string): void {
  const objects = entries.get(indexKey);
  if (!objects) return;
  objects.delete(key);
  if (objects.size === 0) entries.delete(indexKey);
}
