import { Agent, type Dispatcher, errors as undiciErrors } from 'undici';
import { type Clock, systemClock } from '../clock.ts';
import { AppError, messageOf } from '../errors.ts';
import type { Logger } from '../telemetry/log.ts';
import type { Client, ListOptions, ListPage, WatchEvent } from './client.ts';
import type { ConnectionSettings } from './config.ts';
import { apiVersionOf, type KubeObject, keyOf, type Manifest, type ObjectRef, type Resource } from './object.ts';
import { type Status, StatusError, toStatusError } from './status-error.ts';

export interface ClientDeps {
  readonly log: Logger;
  readonly clock?: Clock;
  /** `signalbox-operator/0.1.0`: what the server's audit log shows. */
  readonly userAgent?: string;
}

const defaultTimeoutMs = 30_000;
const pageSize = 500;
const maxConnections = 16;
const maxRetries = 4;
/** A longer Retry-After is left to the caller's own back-off. */
const maxRetryAfterMs = 10_000;

type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';

interface Call {
  readonly method: Method;
  readonly path: string;
  readonly query?: Readonly<Record<string, string | undefined>>;
  readonly body?: unknown;
  readonly contentType?: string;
  /** Another representation of the answer: a Table. */
  readonly accept?: string;
  readonly timeoutMs?: number;
  /** For messages: `PATCH deployments ns/name`. */
  readonly what: string;
}

/** Path of a collection, or of one object in it. */
export function pathOf(resource: Resource, ref: Partial<ObjectRef>, subresource?: string): string {
  const base = resource.group === '' ? `/api/${resource.version}` : `/apis/${resource.group}/${resource.version}`;
  if (resource.namespaced && ref.name !== undefined && !ref.namespace) {
    throw new AppError('invalid', `${resource.kind} ${ref.name}: metadata.namespace is empty; set it`);
  }
  const scope =
    resource.namespaced && ref.namespace !== undefined ? `/namespaces/${encodeURIComponent(ref.namespace)}` : '';
  const name = ref.name === undefined ? '' : `/${encodeURIComponent(ref.name)}`;
  return `${base}${scope}/${resource.plural}${name}${subresource ? `/${subresource}` : ''}`;
}

/** A client over one keep-alive pool; watches have connections of their own, for on HTTP/1.1 they would hold all others up. */
export function createClient(settings: ConnectionSettings, deps: ClientDeps): Client {
  const { log } = deps;
  const clock = deps.clock ?? systemClock;
  const server = new URL(settings.server);
  const prefix = server.pathname.replace(/\/+$/, '');
  const connect = { ...settings.tls, timeout: 10_000, keepAlive: true, keepAliveInitialDelay: 15_000 };
  const requests = new Agent({
    connect,
    allowH2: false,
    connections: maxConnections,
    keepAliveTimeout: 25_000,
    keepAliveMaxTimeout: 60_000,
  });
  const watches = new Agent({ connect, allowH2: false, keepAliveTimeout: 5_000, bodyTimeout: 0 });
  const sent: Record<string, number> = {};
  const userAgent = deps.userAgent ?? 'signalbox';

  const headersOf = async (call: Pick<Call, 'body' | 'contentType' | 'accept'>): Promise<Record<string, string>> => {
    const authorization = await settings.authorization?.();
    return {
      accept: call.accept ?? 'application/json',
      'user-agent': userAgent,
      ...(authorization ? { authorization } : {}),
      ...(call.body !== undefined ? { 'content-type': call.contentType ?? 'application/json' } : {}),
    };
  };

  const once = async <T>(call: Call, signal: AbortSignal | undefined): Promise<T> => {
    signal?.throwIfAborted();
    const timeoutMs = call.timeoutMs ?? defaultTimeoutMs;
    const abort = new AbortController();
    const onAbort = () => abort.abort(signal?.reason);
    signal?.addEventListener('abort', onAbort, { once: true });
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      abort.abort(new Error('timed out'));
    }, timeoutMs);
    try {
      const headers = await headersOf(call);
      sent[call.method] = (sent[call.method] ?? 0) + 1;
      const response = await requests.request({
        origin: server.origin,
        path: `${prefix}${call.path}${queryOf(call.query)}`,
        method: call.method,
        headers,
        body: call.body === undefined ? null : JSON.stringify(call.body),
        signal: abort.signal,
        headersTimeout: timeoutMs + 1_000,
        bodyTimeout: timeoutMs + 1_000,
      });
      const text = await response.body.text();
      if (response.statusCode >= 300) {
        throw toStatusError(call.what, response.statusCode, text, headerOf(response.headers, 'retry-after'));
      }
      if (text === '') return undefined as T;
      try {
        return JSON.parse(text) as T;
      } catch {
        // `/healthz` and `/readyz` answer in plain text.
        return text as T;
      }
    } catch (thrown) {
      if (thrown instanceof AppError) throw thrown;
      if (timedOut) {
        throw new AppError('timeout', `${call.what}: no answer from ${settings.server} within ${timeoutMs} ms`, {
          cause: thrown,
        });
      }
      if (signal?.aborted) throw signal.reason;
      throw toConnectionError(call.what, settings.server, thrown);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    }
  };

  /** A refusal with 429 was not acted on, so it may always be sent again; a broken connection only when the call reads. */
  const send = async <T>(call: Call, signal?: AbortSignal): Promise<T> => {
    for (let attempt = 0; ; attempt++) {
      try {
        return await once<T>(call, signal);
      } catch (thrown) {
        const delayMs = retryDelayMs(call.method, thrown, attempt);
        if (delayMs === undefined || attempt >= maxRetries || signal?.aborted) throw thrown;
        log.debug({ attempt: attempt + 1, delayMs, error: messageOf(thrown) }, 'trying a request again');
        await clock.sleep(delayMs, signal);
      }
    }
  };

  const nameOf = (ref: Partial<ObjectRef>) =>
    ref.name === undefined ? (ref.namespace ?? 'all namespaces') : keyOf({ ...ref, name: ref.name });

  const getPage = async <T extends KubeObject>(
    resource: Resource,
    options: ListOptions,
    limit: number | undefined,
    next: string | undefined,
    signal: AbortSignal | undefined,
  ): Promise<ListPage<T>> => {
    const page = await send<{
      readonly metadata?: { readonly resourceVersion?: string; readonly continue?: string };
      readonly items?: readonly T[] | null;
    }>(
      {
        method: 'GET',
        path: pathOf(resource, options.namespace ? { namespace: options.namespace } : {}),
        query: {
          limit: limit === undefined ? undefined : String(limit),
          continue: next,
          labelSelector: options.labelSelector,
          fieldSelector: options.fieldSelector,
        },
        ...(options.isMetadataOnly ? { accept: metadataAs('PartialObjectMetadataList') } : {}),
        what: `LIST ${resource.plural} in ${options.namespace ?? 'all namespaces'}`,
      },
      signal,
    );
    const token = page.metadata?.continue;
    return {
      // Items of built-in lists come without their kind.
      items: (page.items ?? []).map((item) => ({ ...item, apiVersion: apiVersionOf(resource), kind: resource.kind })),
      resourceVersion: page.metadata?.resourceVersion ?? '',
      ...(token ? { next: token } : {}),
    };
  };

  const listPages = async <T extends KubeObject>(
    resource: Resource,
    options: ListOptions,
    limit: number | undefined,
    signal: AbortSignal | undefined,
  ): Promise<ListPage<T>> => {
    const items: T[] = [];
    let next: string | undefined;
    for (;;) {
      const page: ListPage<T> = await getPage<T>(resource, options, limit, next, signal);
      for (const item of page.items) items.push(item);
      if (!page.next) return { items, resourceVersion: page.resourceVersion };
      next = page.next;
    }
  };

  return {
    server: settings.server,
    sent,

    async get<T extends KubeObject>(resource: Resource, ref: ObjectRef, signal?: AbortSignal) {
      try {
        return await send<T>(
          { method: 'GET', path: pathOf(resource, ref), what: `GET ${resource.plural} ${nameOf(ref)}` },
          signal,
        );
      } catch (thrown) {
        if (isNotFound(thrown)) return undefined;
        throw thrown;
      }
    },

    async list<T extends KubeObject>(resource: Resource, options: ListOptions = {}, signal?: AbortSignal) {
      try {
        return await listPages<T>(resource, options, pageSize, signal);
      } catch (thrown) {
        // The continue token outlived the server's history: one whole list instead.
        if (!(thrown instanceof StatusError && thrown.status === 410)) throw thrown;
        return listPages<T>(resource, options, undefined, signal);
      }
    },

    create: <T extends KubeObject>(resource: Resource, object: Manifest, signal?: AbortSignal) => {
      const { namespace, name } = object.metadata;
      pathOf(resource, object.metadata);
      return send<T>(
        {
          method: 'POST',
          path: pathOf(resource, namespace ? { namespace } : {}),
          body: object,
          what: `POST ${resource.plural} ${nameOf(namespace ? { namespace, name } : { name })}`,
        },
        signal,
      );
    },

    replace: <T extends KubeObject>(resource: Resource, object: Manifest, signal?: AbortSignal) =>
      send<T>(
        {
          method: 'PUT',
          path: pathOf(resource, object.metadata),
          body: object,
          what: `PUT ${resource.plural} ${nameOf(object.metadata)}`,
        },
        signal,
      ),

    apply: <T extends KubeObject>(
      resource: Resource,
      object: Manifest,
      options: Parameters<Client['apply']>[2],
      signal?: AbortSignal,
    ) =>
      send<T>(
        {
          method: 'PATCH',
          path: pathOf(resource, object.metadata, options.subresource),
          query: {
            fieldManager: options.fieldManager,
            force: options.force ? 'true' : undefined,
            dryRun: options.dryRun ? 'All' : undefined,
          },
          body: object,
          contentType: 'application/apply-patch+yaml',
          what: `APPLY ${resource.plural} ${nameOf(object.metadata)}`,
        },
        signal,
      ),

    mergePatch: <T extends KubeObject>(
      resource: Resource,
      ref: ObjectRef,
      patch: unknown,
      options: Parameters<Client['mergePatch']>[3] = {},
      signal?: AbortSignal,
    ) =>
      send<T>(
        {
          method: 'PATCH',
          path: pathOf(resource, ref, options.subresource),
          query: { fieldManager: options.fieldManager },
          body: patch,
          contentType: 'application/merge-patch+json',
          what: `PATCH ${resource.plural} ${nameOf(ref)}`,
        },
        signal,
      ),

    async delete(resource, ref, options = {}, signal) {
      try {
        await send<unknown>(
          {
            method: 'DELETE',
            path: pathOf(resource, ref),
            body: {
              apiVersion: 'v1',
              kind: 'DeleteOptions',
              ...(options.propagationPolicy ? { propagationPolicy: options.propagationPolicy } : {}),
              ...(options.gracePeriodSeconds !== undefined ? { gracePeriodSeconds: options.gracePeriodSeconds } : {}),
              ...(options.uid ? { preconditions: { uid: options.uid } } : {}),
            },
            what: `DELETE ${resource.plural} ${nameOf(ref)}`,
          },
          signal,
        );
      } catch (thrown) {
        if (!isNotFound(thrown)) throw thrown;
      }
    },

    async *watch<T extends KubeObject>(
      resource: Resource,
      options: ListOptions & { readonly resourceVersion: string; readonly timeoutSeconds?: number },
      signal: AbortSignal,
    ): AsyncGenerator<WatchEvent<T>> {
      const what = `WATCH ${resource.plural} in ${options.namespace ?? 'all namespaces'}`;
      let response: Dispatcher.ResponseData;
      try {
        sent.WATCH = (sent.WATCH ?? 0) + 1;
        response = await watches.request({
          origin: server.origin,
          path: `${prefix}${pathOf(resource, options.namespace ? { namespace: options.namespace } : {})}${queryOf({
            watch: 'true',
            allowWatchBookmarks: 'true',
            resourceVersion: options.resourceVersion,
            timeoutSeconds: options.timeoutSeconds === undefined ? undefined : String(options.timeoutSeconds),
            labelSelector: options.labelSelector,
            fieldSelector: options.fieldSelector,
          })}`,
          method: 'GET',
          headers: await headersOf(options.isMetadataOnly ? { accept: metadataAs('PartialObjectMetadata') } : {}),
          signal,
          headersTimeout: defaultTimeoutMs,
          bodyTimeout: 0,
        });
      } catch (thrown) {
        if (signal.aborted) throw signal.reason;
        throw thrown instanceof AppError ? thrown : toConnectionError(what, settings.server, thrown);
      }
      if (response.statusCode !== 200) {
        const text = await response.body.text().catch(() => '');
        throw toStatusError(what, response.statusCode, text, headerOf(response.headers, 'retry-after'));
      }
      try {
        for await (const line of linesOf(response.body)) yield parseWatchLine<T>(line, what);
      } catch (thrown) {
        if (signal.aborted) throw signal.reason;
        throw thrown instanceof AppError ? thrown : toConnectionError(what, settings.server, thrown);
      } finally {
        response.body.destroy();
      }
    },

    request: <T>(
      method: Method,
      path: string,
      body?: unknown,
      options: Parameters<Client['request']>[3] = {},
      signal?: AbortSignal,
    ) =>
      send<T>(
        {
          method,
          path,
          ...(body === undefined ? {} : { body }),
          ...(options.contentType ? { contentType: options.contentType } : {}),
          ...(options.accept ? { accept: options.accept } : {}),
          ...(options.timeoutMs ? { timeoutMs: options.timeoutMs } : {}),
          what: `${method} ${path}`,
        },
        signal,
      ),

    async close() {
      await Promise.allSettled([requests.destroy(), watches.destroy()]);
    },
  };
}

function isNotFound(thrown: unknown): boolean {
  return thrown instanceof AppError && thrown.code === 'notFound';
}

function queryOf(query: Readonly<Record<string, string | undefined>> | undefined): string {
  const pairs = Object.entries(query ?? {}).filter((pair): pair is [string, string] => pair[1] !== undefined);
  return pairs.length === 0 ? '' : `?${pairs.map(([key, value]) => `${key}=${encodeURIComponent(value)}`).join('&')}`;
}

const metadataAs = (kind: string) => `application/json;as=${kind};g=meta.k8s.io;v=v1`;

function headerOf(headers: Record<string, string | string[] | undefined>, name: string): string | undefined {
  const value = headers[name];
  return Array.isArray(value) ? value[0] : value;
}

function toConnectionError(what: string, server: string, thrown: unknown): AppError {
  const code = (thrown as { code?: unknown } | undefined)?.code;
  const isTimeout =
    thrown instanceof undiciErrors.HeadersTimeoutError || thrown instanceof undiciErrors.ConnectTimeoutError;
  return new AppError(
    isTimeout ? 'timeout' : 'unavailable',
    `${what}: cannot speak to ${server}: ${messageOf(thrown)}${typeof code === 'string' ? ` (${code})` : ''}`,
    { cause: thrown },
  );
}

/** How long to wait before the same request may be sent again; undefined when it may not. */
export function retryDelayMs(
  method: string,
  thrown: unknown,
  attempt: number,
  random: () => number = Math.random,
): number | undefined {
  const backoffMs = Math.min(5_000, 200 * 2 ** attempt) * (0.5 + random());
  if (thrown instanceof StatusError) {
    if (thrown.status !== 429) return undefined;
    if (thrown.retryAfterMs !== undefined && thrown.retryAfterMs > maxRetryAfterMs) return undefined;
    return Math.max(thrown.retryAfterMs ?? 0, backoffMs);
  }
  return thrown instanceof AppError && thrown.code === 'unavailable' && method === 'GET' ? backoffMs : undefined;
}

/** Cuts a byte stream at newlines. A multi-byte character may straddle two chunks; a last line without newline is dropped as cut off. */
export async function* linesOf(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const chunk of chunks) {
    const text = decoder.decode(chunk, { stream: true });
    let start = 0;
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n', start)) {
      const line = rest + text.slice(start, end);
      rest = '';
      start = end + 1;
      if (line.trim() !== '') yield line;
    }
    rest += text.slice(start);
  }
}

/** One line of a watch as an event. Errors: `unavailable` for a line that is no event, which breaks the connection. */
export function parseWatchLine<T extends KubeObject>(line: string, what: string): WatchEvent<T> {
  let event: { readonly type?: unknown; readonly object?: unknown };
  try {
    event = JSON.parse(line) as typeof event;
  } catch (thrown) {
    throw new AppError('unavailable', `${what}: a line is not JSON: ${messageOf(thrown)}`);
  }
  switch (event.type) {
    case 'ADDED':
    case 'MODIFIED':
    case 'DELETED':
      return { type: event.type, object: event.object as T };
    case 'BOOKMARK':
      return { type: 'BOOKMARK', resourceVersion: (event.object as T).metadata.resourceVersion ?? '' };
    case 'ERROR': {
      const status = event.object as Status;
      return { type: 'ERROR', code: status.code ?? 500, message: status.message ?? 'no message' };
    }
    default:
      throw new AppError('unavailable', `${what}: unknown event type ${JSON.stringify(event.type)}`);
  }
}
