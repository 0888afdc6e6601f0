import { labels, partOf } from '../../src/api/labels.ts';
import type { Clock } from '../../src/clock.ts';
import { AppError } from '../../src/errors.ts';
import { controllerOf } from '../../src/kube/apply.ts';
import type { Client } from '../../src/kube/client.ts';
import {
  apiVersionOf,
  type KubeObject,
  keyOf,
  type Manifest,
  type ObjectRef,
  type Resource,
} from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { pathOf } from '../../src/kube/rest-client.ts';
import { hasCode } from '../../src/kube/status-error.ts';
import { leaveAccount } from './account.ts';
import { keepReplicas } from './replicas.ts';
import { adopt } from './take-over.ts';

/** How long a write is believed in while the watch has not told of it. */
const believeMs = 15_000;
const maxRemembered = 20_000;

interface Written {
  readonly object: KubeObject | undefined;
  readonly uid: string | undefined;
  readonly untilMs: number;
}

/**
 * What was written and has not come back through the watches yet. A cache lags behind one's own writes; without this
 * every echo of a write would find the next object missing and write it again.
 */
export class Writes {
  readonly #written = new Map<string, Written>();
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  remember(resource: Resource, object: KubeObject): void {
    this.#put(keyFor(resource, object.metadata), { object, uid: object.metadata.uid, untilMs: this.#untilMs() });
  }

  /** The object with this uid was deleted. */
  forget(resource: Resource, ref: ObjectRef, uid: string | undefined): void {
    this.#put(keyFor(resource, ref), { object: undefined, uid, untilMs: this.#untilMs() });
  }

  /** The newer of what a cache has and what was written. */
  newest<T extends KubeObject>(resource: Resource, ref: ObjectRef, cached: T | undefined): T | undefined {
    const key = keyFor(resource, ref);
    const written = this.#written.get(key);
    if (!written) return cached;
    if (this.#clock.now() > written.untilMs || (cached && isAtLeast(cached, written))) {
      this.#written.delete(key);
      return cached;
    }
    return written.object as T | undefined;
  }

  /** Whether a change that a watch tells is nothing but the echo of a write of ours, which is not kept any longer. */
  takeEcho(resource: Resource, object: KubeObject): boolean {
    const key = keyFor(resource, object.metadata);
    const written = this.#written.get(key)?.object;
    if (written?.metadata.resourceVersion !== object.metadata.resourceVersion) return false;
    this.#written.delete(key);
    return true;
  }

  /** A watch told that the object is gone: what was written of it counts no more. */
  dropped(resource: Resource, object: KubeObject): void {
    const key = keyFor(resource, object.metadata);
    if (this.#written.get(key)?.uid === object.metadata.uid) this.#written.delete(key);
  }

  #untilMs(): number {
    return this.#clock.now() + believeMs;
  }

  #put(key: string, written: Written): void {
    this.#written.delete(key);
    this.#written.set(key, written);
    const nowMs = this.#clock.now();
    for (const [oldest, { untilMs }] of this.#written) {
      if (nowMs <= untilMs && this.#written.size <= maxRemembered) break;
      this.#written.delete(oldest);
    }
  }
}

function keyFor(resource: Resource, ref: ObjectRef): string {
  return `${apiVersionOf(resource)}/${resource.plural}/${keyOf(ref)}`;
}

/** Whether the cached object is the written one or a later one. Resource versions of one resource are ordered numbers. */
function isAtLeast(cached: KubeObject, written: Written): boolean {
  if (!written.object) return cached.metadata.uid !== written.uid;
  const [a, b] = [cached.metadata.resourceVersion ?? '', written.object.metadata.resourceVersion ?? ''];
  if (!/^\d+$/.test(a) || !/^\d+$/.test(b)) return a !== b;
  return a.length !== b.length ? a.length > b.length : a >= b;
}

/** How old a list of strangers may be. A burst of new services then asks once per kind, not once per object. */
const strangersMs = 1_000;
/** With more strangers than these in one namespace, each object is asked for by itself. */
const maxStrangers = 500;

/**
 * Objects of child kinds that do not carry our label, and which no cache has, by namespace: names alone.
 *
 * Caveats: up to a second old. Whoever comes between is met by an apply that does not force.
 */
export class Strangers {
  readonly #client: Pick<Client, 'request'>;
  readonly #clock: Clock;
  readonly #lists = new Map<
    string,
    { readonly atMs: number; readonly names: Promise<ReadonlySet<string> | undefined> }
  >();

  constructor(client: Pick<Client, 'request'>, clock: Clock) {
    this.#client = client;
    this.#clock = clock;
  }

  /** False when no object of that name exists without our label. */
  async mayHave(resource: Resource, ref: ObjectRef): Promise<boolean> {
    const path = pathOf(resource, ref.namespace === undefined ? {} : { namespace: ref.namespace });
    const nowMs = this.#clock.now();
    let list = this.#lists.get(path);
    if (!list || nowMs - list.atMs > strangersMs) {
      for (const [old, { atMs }] of this.#lists) if (nowMs - atMs > strangersMs) this.#lists.delete(old);
      const names = this.#list(path);
      names.catch(() => this.#lists.delete(path));
      list = { atMs: nowMs, names };
      this.#lists.set(path, list);
    }
    const names = await list.names;
    return names === undefined || names.has(ref.name);
  }

  async #list(path: string): Promise<ReadonlySet<string> | undefined> {
    const selector = encodeURIComponent(`${labels.partOf}!=${partOf}`);
    const page = await this.#client.request<{
      readonly metadata?: { readonly continue?: string };
      readonly items?: readonly KubeObject[] | null;
    }>('GET', `${path}?labelSelector=${selector}&limit=${maxStrangers}`, undefined, {
      accept: 'application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1',
    });
    if (page.metadata?.continue) return undefined;
    return new Set((page.items ?? []).map(({ metadata }) => metadata.name));
  }
}

export interface Failure {
  readonly resource: Resource;
  readonly manifest: Manifest;
  readonly error: AppError;
}

export interface OwnedClientOptions {
  readonly client: Client;
  readonly writes: Writes;
  readonly strangers: Strangers;
  readonly owner: KubeObject;
  /** What the caches know of an object. */
  readonly live: (resource: Resource, ref: ObjectRef) => KubeObject | undefined;
  /** Told of each write that failed. */
  readonly onFailure: (failure: Failure) => void;
}

/** Kinds whose spec never changes: another one takes the place of what is there. Nobody holds on to it once pods are made. */
const madeAnew: ReadonlySet<Resource> = new Set([resources.resourceClaimTemplates]);

/** What is applied at the same time but not before: a binding needs its role, a pod its account and what that may do. */
const waitsFor: Readonly<Record<string, readonly string[]>> = {
  RoleBinding: ['Role'],
  Deployment: ['ServiceAccount', 'RoleBinding'],
  LeaderWorkerSet: ['ServiceAccount', 'RoleBinding'],
};

/**
 * Applies and deletes on behalf of one service, and remembers what it wrote. Calls may be made all at once, in the order of
 * the manifests.
 *
 * Guarantees: an object that the caches do not show, because it lacks our label, is looked at before it is applied for
 * the first time, so that nobody else's object is taken over; and where none was seen the apply does not force.
 */
export function createOwnedClient(options: OwnedClientOptions): Pick<Client, 'apply' | 'delete'> {
  const { client, writes, owner, live } = options;
  const underWay: { readonly kind: string; readonly done: Promise<unknown> }[] = [];

  async function applyOne<T extends KubeObject>(
    resource: Resource,
    object: Manifest,
    how: Parameters<Client['apply']>[2],
    signal: AbortSignal | undefined,
  ): Promise<T> {
    const known = live(resource, object.metadata);
    const present = known && (await adopt(client, resource, known, signal));
    let { force = false } = how;
    if (!present) {
      if (await options.strangers.mayHave(resource, object.metadata))
        await checkFree(client, resource, object, owner, signal);
      else force = false;
    }
    await keepReplicas(client, resource, { desired: object, live: present }, signal);
    const sent = leaveAccount(object, present);
    const after = await client.apply<T>(resource, sent, { ...how, force }, signal).catch(async (thrown: unknown) => {
      // A list element of another hand can stand in the way of ours, as a port of the same name does, and an apply
      // leaves it there. Lists are then put back as a whole.
      if (!hasCode(thrown, 'invalid')) throw thrown;
      // Without the label by which caches know it, what stands there is found by its name.
      const standing = present ?? (await client.get<KubeObject>(resource, refOf(object), signal));
      if (!standing || controllerOf(standing)?.uid !== owner.metadata.uid) throw thrown;
      if (madeAnew.has(resource)) {
        await client.delete(resource, refOf(object), { uid: standing.metadata.uid ?? '' }, signal);
        return client.apply<T>(resource, object, how, signal);
      }
      const { apiVersion: _a, kind: _k, metadata: _m, status: _s, ...body } = object;
      const { fieldManager } = how;
      await client.mergePatch(resource, refOf(object), body, { fieldManager }, signal).catch(() => {
        throw thrown;
      });
      return client.apply<T>(resource, object, how, signal);
    });
    writes.remember(resource, after);
    return after;
  }

  return {
    async apply<T extends KubeObject>(
      resource: Resource,
      object: Manifest,
      how: Parameters<Client['apply']>[2],
      signal?: AbortSignal,
    ): Promise<T> {
      const first = (waitsFor[object.kind] ?? []).flatMap((kind) => underWay.filter((other) => other.kind === kind));
      const work = (async () => {
        await Promise.allSettled(first.map(({ done }) => done));
        return applyOne<T>(resource, object, how, signal);
      })();
      underWay.push({ kind: object.kind, done: work });
      try {
        return await work;
      } catch (thrown) {
        options.onFailure({ resource, manifest: object, error: AppError.from(thrown) });
        throw thrown;
      }
    },
    async delete(resource, ref, how, signal) {
      await client.delete(resource, ref, how, signal);
      writes.forget(resource, ref, how?.uid);
    },
  };
}

function refOf({ metadata: { name, namespace } }: KubeObject): ObjectRef {
  return namespace === undefined ? { name } : { namespace, name };
}

async function checkFree(
  client: Client,
  resource: Resource,
  object: Manifest,
  owner: KubeObject,
  signal: AbortSignal | undefined,
): Promise<void> {
  const present = await client.get<KubeObject>(resource, refOf(object), signal);
  if (!present || controllerOf(present)?.uid === owner.metadata.uid) return;
  throw new AppError(
    'preconditionFailed',
    `${resource.kind} ${keyOf(object.metadata)} exists and does not belong to this service; delete it or give the service another name`,
  );
}
