import type { KubeObject, Manifest, ObjectRef, Resource } from './object.ts';

export interface ListOptions {
  readonly namespace?: string;
  readonly labelSelector?: string;
  readonly fieldSelector?: string;
  /** Only `metadata` of each object is sent. */
  readonly isMetadataOnly?: boolean;
}

export interface ListPage<T> {
  readonly items: readonly T[];
  readonly resourceVersion: string;
  /** Token of the next page. */
  readonly next?: string;
}

export type WatchEvent<T> =
  | { readonly type: 'ADDED' | 'MODIFIED' | 'DELETED'; readonly object: T }
  | { readonly type: 'BOOKMARK'; readonly resourceVersion: string }
  | { readonly type: 'ERROR'; readonly code: number; readonly message: string };

/**
 * Speaks REST to one API server. Every call has a time-out (30 s unless given) and follows `signal`.
 * Errors are AppErrors: 404 `notFound` (but `get` answers undefined and `delete` is content), 409 `conflict`,
 * 410 `gone`, 422 `invalid` with the server's field messages, 401/403, 429 `overloaded`, 5xx and sockets `unavailable`.
 */
export interface Client {
  readonly server: string;
  get<T extends KubeObject>(resource: Resource, ref: ObjectRef, signal?: AbortSignal): Promise<T | undefined>;
  /** All pages, 500 objects each. */
  list<T extends KubeObject>(resource: Resource, options?: ListOptions, signal?: AbortSignal): Promise<ListPage<T>>;
  create<T extends KubeObject>(resource: Resource, object: Manifest, signal?: AbortSignal): Promise<T>;
  /** PUT with the object's resourceVersion. */
  replace<T extends KubeObject>(resource: Resource, object: Manifest, signal?: AbortSignal): Promise<T>;
  /** Server-side apply. `subresource: 'status'` writes the status alone. */
  apply<T extends KubeObject>(
    resource: Resource,
    object: Manifest,
    options: {
      readonly fieldManager: string;
      readonly force?: boolean;
      readonly subresource?: 'status';
      readonly dryRun?: boolean;
    },
    signal?: AbortSignal,
  ): Promise<T>;
  /** JSON merge patch. */
  mergePatch<T extends KubeObject>(
    resource: Resource,
    ref: ObjectRef,
    patch: unknown,
    options?: { readonly subresource?: 'status'; readonly fieldManager?: string },
    signal?: AbortSignal,
  ): Promise<T>;
  delete(
    resource: Resource,
    ref: ObjectRef,
    options?: {
      readonly uid?: string;
      readonly propagationPolicy?: 'Background' | 'Foreground' | 'Orphan';
      readonly gracePeriodSeconds?: number;
    },
    signal?: AbortSignal,
  ): Promise<void>;
  /** One watch connection: ends when the server ends it, throws on a broken connection. Use an informer instead. */
  watch<T extends KubeObject>(
    resource: Resource,
    options: ListOptions & { readonly resourceVersion: string; readonly timeoutSeconds?: number },
    signal: AbortSignal,
  ): AsyncIterable<WatchEvent<T>>;
  /** Anything else: subresources such as `token`, `/version`, discovery. The body is sent and read as JSON. */
  request<T>(
    method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE',
    path: string,
    body?: unknown,
    options?: { readonly contentType?: string; readonly accept?: string; readonly timeoutMs?: number },
    signal?: AbortSignal,
  ): Promise<T>;
  /** Requests sent so far, by method: what the no-op benchmark counts. */
  readonly sent: Readonly<Record<string, number>>;
  close(): Promise<void>;
}
