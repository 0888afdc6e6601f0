import { AppError } from '../errors.ts';
import type { Client, ListOptions } from '../kube/client.ts';
import { apiVersionOf, type KubeObject, keyOf, type Manifest, type ObjectRef, type Resource } from '../kube/object.ts';
import { resourceOf } from '../kube/resources.ts';

/** Something that would have been written. */
export interface Write {
  readonly verb: 'write' | 'delete' | 'status';
  readonly resource: Resource;
  readonly ref: ObjectRef;
  /** What was sent; absent for a deletion. */
  readonly object?: Manifest;
}

/** Where objects are read from. */
export type Source = Pick<Client, 'server' | 'get' | 'list' | 'request' | 'close'>;

export interface DryClient {
  readonly client: Client;
  /** The last write of each object, in the order of their first. */
  readonly writes: () => readonly Write[];
  /** Rejects at the first read that is refused, which informers would only try again. */
  readonly denied: Promise<never>;
}

/** Newer than whatever the source knows. */
const newest = String(Number.MAX_SAFE_INTEGER);

/**
 * A client that reads from `source`, with `overlay` in place of what is there, and writes nothing: what a controller would do
 * can be watched while it believes to have done it. Watches list and then stay silent.
 */
export function createDryClient(source: Source, overlay: readonly KubeObject[]): DryClient {
  const writes = new Map<string, Write>();
  let deny: (error: AppError) => void = () => {};
  const denied = new Promise<never>((_, reject) => {
    deny = reject;
  });
  denied.catch(() => {});
  const keyFor = (resource: Resource, ref: ObjectRef) => `${apiVersionOf(resource)}/${resource.plural}/${keyOf(ref)}`;
  const over = new Map<string, KubeObject>(
    overlay.flatMap((object) => {
      const resource = resourceOf(object);
      return resource ? [[keyFor(resource, object.metadata), object] as const] : [];
    }),
  );
  const reading = async <T>(read: () => Promise<T>): Promise<T> => {
    try {
      return await read();
    } catch (thrown) {
      const error = AppError.from(thrown);
      if (error.code !== 'notFound') deny(error);
      throw error;
    }
  };
  const get = async <T extends KubeObject>(resource: Resource, ref: ObjectRef, signal?: AbortSignal) =>
    (over.get(keyFor(resource, ref)) as T | undefined) ?? reading(() => source.get<T>(resource, ref, signal));
  const record = async <T extends KubeObject>(
    verb: Write['verb'],
    resource: Resource,
    object: Manifest,
  ): Promise<T> => {
    const ref =
      object.metadata.namespace === undefined
        ? { name: object.metadata.name }
        : { namespace: object.metadata.namespace, name: object.metadata.name };
    const key = keyFor(resource, ref);
    writes.set(`${verb === 'status' ? 'status of ' : ''}${key}`, { verb, resource, ref, object });
    const live = await get<KubeObject>(resource, ref);
    const metadata = {
      ...live?.metadata,
      ...object.metadata,
      uid: live?.metadata.uid ?? `new ${key}`,
      resourceVersion: newest,
    };
    return { ...live, ...object, metadata } as unknown as T;
  };

  const client: Client = {
    server: source.server,
    sent: {},
    get,
    async list<T extends KubeObject>(resource: Resource, options: ListOptions = {}, signal?: AbortSignal) {
      const page = await reading(() => source.list<T>(resource, options, signal));
      const isIn = ({ metadata }: KubeObject) =>
        (options.namespace === undefined || metadata.namespace === options.namespace) &&
        (options.fieldSelector === undefined || options.fieldSelector === `metadata.name=${metadata.name}`);
      const laid = overlay.filter((object) => resourceOf(object) === resource && isIn(object));
      const isLaid = (object: KubeObject) => over.has(keyFor(resource, object.metadata));
      return { ...page, items: [...page.items.filter((item) => !isLaid(item)), ...(laid as unknown as readonly T[])] };
    },
    create: (resource, object) => record('write', resource, object),
    replace: (resource, object) => record('write', resource, object),
    apply: (resource, object, { subresource }) => record(subresource ? 'status' : 'write', resource, object),
    async mergePatch<T extends KubeObject>(
      resource: Resource,
      ref: ObjectRef,
      patch: unknown,
      options: { readonly subresource?: 'status' } = {},
    ) {
      const base = { apiVersion: apiVersionOf(resource), kind: resource.kind, metadata: ref };
      return record<T>(options.subresource ? 'status' : 'write', resource, { ...base, ...(patch as object) });
    },
    async delete(resource, ref) {
      writes.set(keyFor(resource, ref), { verb: 'delete', resource, ref });
    },
    async *watch(_resource, _options, signal) {
      await new Promise<void>((resolve) => {
        if (signal.aborted) return resolve();
        signal.addEventListener('abort', () => resolve(), { once: true });
      });
    },
    request: (method, path, body, options, signal) => {
      if (method !== 'GET') throw new AppError('internal', `${method} ${path}: nothing is written in a dry run`);
      return reading(() => source.request(method, path, body, options, signal));
    },
    close: () => source.close(),
  };
  return { client, writes: () => [...writes.values()], denied };
}

/** Objects as if a cluster held them, which serves every kind of `served` and no other. */
export function createStaticSource(objects: readonly KubeObject[], served: readonly Resource[]): Source {
  const notServed = (path: string) => new AppError('notFound', `${path}: 404 page not found`);
  const isServed = (resource: Resource) =>
    served.some(
      ({ group, plural, version }) =>
        group === resource.group && plural === resource.plural && version === resource.version,
    );
  const of = <T extends KubeObject>(resource: Resource) =>
    objects.filter((object) => resourceOf(object) === resource) as readonly KubeObject[] as readonly T[];
  return {
    server: 'no cluster',
    get: async <T extends KubeObject>(resource: Resource, ref: ObjectRef) =>
      of<T>(resource).find(({ metadata }) => keyOf(metadata) === keyOf(ref)),
    async list<T extends KubeObject>(resource: Resource, options: ListOptions = {}) {
      if (!isServed(resource)) throw notServed(resource.plural);
      const items = of<T>(resource).filter(
        ({ metadata }) =>
          (options.namespace === undefined || metadata.namespace === options.namespace) &&
          (options.fieldSelector === undefined || options.fieldSelector === `metadata.name=${metadata.name}`),
      );
      return { items, resourceVersion: '1' };
    },
    async request<T>(_method: string, path: string): Promise<T> {
      const list = served.find((resource) =>
        new RegExp(`/${apiVersionOf(resource)}/(namespaces/[^/]+/)?${resource.plural}([?]|$)`).test(path),
      );
      if (list) return { metadata: { resourceVersion: '1' }, items: of(list) } as T;
      const [, version] = /^\/apis\/([^/]+\/[^/]+)$/.exec(path) ?? [];
      const kinds = served.filter((resource) => apiVersionOf(resource) === version);
      if (kinds.length === 0) throw notServed(path);
      return { resources: kinds.map(({ plural }) => ({ name: plural })) } as T;
    },
    close: async () => {},
  };
}
