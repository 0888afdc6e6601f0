import type { KubeObject, ObjectRef } from './object.ts';

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
