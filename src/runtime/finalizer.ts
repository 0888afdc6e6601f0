import type { Client } from '../kube/client.ts';
import { type KubeObject, keyOf, type Resource } from '../kube/object.ts';

/** What a finalizer needs done before its object may go. True when it is done. */
export type Cleanup<T extends KubeObject> = (object: T, signal?: AbortSignal) => Promise<boolean>;

export type FinalizerVerdict =
  /** The finalizer is there and the object is wanted: reconcile it. */
  | { readonly kind: 'present' }
  /** It was added just now; the write comes back as a change. */
  | { readonly kind: 'added' }
  /** The object is going and cleaning up is not done: look again later. */
  | { readonly kind: 'cleaning' }
  /** Nothing more to do for this object. */
  | { readonly kind: 'gone' };

/**
 * Holds an object until our cleaning up is done.
 *
 * Flow: live and without the finalizer → add it; live with it → `present`; being deleted with it → `cleanup`, then remove it.
 * Guarantees: `cleanup` is only called for an object that bore the finalizer, possibly several times; others' finalizers stay.
 * Errors: `conflict` when the object changed since it was read, which is tried again with a newer one.
 */
export async function reconcileFinalizer<T extends KubeObject>(
  client: Pick<Client, 'mergePatch'>,
  resource: Resource,
  object: T,
  finalizer: string,
  cleanup: Cleanup<T>,
  signal?: AbortSignal,
): Promise<FinalizerVerdict> {
  const present = object.metadata.finalizers ?? [];
  const has = present.includes(finalizer);
  if (!object.metadata.deletionTimestamp) {
    if (has) return { kind: 'present' };
    await writeFinalizers(client, resource, object, [...present, finalizer], signal);
    return { kind: 'added' };
  }
  if (!has) return { kind: 'gone' };
  if (!(await cleanup(object, signal))) return { kind: 'cleaning' };
  await writeFinalizers(
    client,
    resource,
    object,
    present.filter((name) => name !== finalizer),
    signal,
  );
  return { kind: 'gone' };
}

/** The list is replaced as a whole, so the resource version guards what others put there meanwhile. */
async function writeFinalizers(
  client: Pick<Client, 'mergePatch'>,
  resource: Resource,
  object: KubeObject,
  finalizers: readonly string[],
  signal: AbortSignal | undefined,
): Promise<void> {
  const { uid, resourceVersion, namespace, name } = object.metadata;
  if (!resourceVersion)
    throw new Error(`${object.kind} ${keyOf(object.metadata)} has no resourceVersion; read it first`);
  const ref = namespace === undefined ? { name } : { namespace, name };
  await client.mergePatch(resource, ref, { metadata: { uid, resourceVersion, finalizers } }, {}, signal);
}
