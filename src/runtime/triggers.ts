import type { Change, Informer } from '../kube/informer.ts';
import { type KubeObject, keyOf, type ObjectRef } from '../kube/object.ts';

export type Enqueue = (key: string) => void;

/** Connects a source of changes with a queue until the returned function is called. */
export type Trigger = (enqueue: Enqueue) => () => void;

/** Says whether an update is worth waking for; additions and deletions always are. */
export type UpdateFilter<T extends KubeObject> = (before: T, after: T) => boolean;

/**
 * Wakes for whatever `map` names. An update is mapped as it was and as it is, so that an object that moved from one
 * owner to another wakes both.
 */
export function triggerMapped<T extends KubeObject>(
  informer: Pick<Informer<T>, 'subscribe'>,
  map: (object: T) => readonly ObjectRef[],
  options: { readonly when?: UpdateFilter<T> } = {},
): Trigger {
  return (enqueue) =>
    informer.subscribe((change: Change<T>) => {
      if (change.type === 'updated' && options.when && !options.when(change.before, change.object)) return;
      for (const key of keysOfChange(change, map)) enqueue(key);
    });
}

/** What a change wakes, each once: a key that is enqueued again while it runs would run twice. */
export function keysOfChange<T extends KubeObject>(
  change: Change<T>,
  map: (object: T) => readonly ObjectRef[],
): ReadonlySet<string> {
  const before = change.type === 'updated' ? map(change.before) : [];
  return new Set([...before, ...map(change.object)].map(keyOf));
}

/** Wakes an object for its own changes. */
export function triggerSelf<T extends KubeObject>(
  informer: Pick<Informer<T>, 'subscribe'>,
  options: { readonly when?: UpdateFilter<T> } = {},
): Trigger {
  return triggerMapped(informer, (object) => [refOfObject(object)], options);
}

/** Wakes the controller owner of that kind (`LLMInferenceService`, in any version of the group). */
export function triggerOwner<T extends KubeObject>(
  informer: Pick<Informer<T>, 'subscribe'>,
  owner: { readonly group: string; readonly kind: string },
  options: { readonly when?: UpdateFilter<T> } = {},
): Trigger {
  return triggerMapped(informer, (object) => ownersOf(object, owner), options);
}

/** Wakes the object that a label names, in the labelled object's namespace; `also` must hold where given. */
export function triggerLabel<T extends KubeObject>(
  informer: Pick<Informer<T>, 'subscribe'>,
  label: string,
  options: { readonly when?: UpdateFilter<T>; readonly also?: (object: T) => boolean } = {},
): Trigger {
  return triggerMapped(
    informer,
    (object) => {
      const name = object.metadata.labels?.[label];
      if (!name || options.also?.(object) === false) return [];
      return [withNamespace(object, name)];
    },
    options.when ? { when: options.when } : {},
  );
}

/** Names of the controller owners of one kind: none or one. */
export function ownersOf(
  object: KubeObject,
  owner: { readonly group: string; readonly kind: string },
): readonly ObjectRef[] {
  const reference = object.metadata.ownerReferences?.find((candidate) => candidate.controller === true);
  if (!reference || reference.kind !== owner.kind) return [];
  const slash = reference.apiVersion.indexOf('/');
  const group = slash < 0 ? '' : reference.apiVersion.slice(0, slash);
  return group === owner.group ? [withNamespace(object, reference.name)] : [];
}

/** An update filter: true unless only status, managed fields or the resource version changed. */
export function hasWishChanged(before: KubeObject, after: KubeObject): boolean {
  const a = before.metadata;
  const b = after.metadata;
  return (
    a.uid !== b.uid ||
    a.generation !== b.generation ||
    a.deletionTimestamp !== b.deletionTimestamp ||
    JSON.stringify([a.labels, a.annotations, a.finalizers]) !== JSON.stringify([b.labels, b.annotations, b.finalizers])
  );
}

function refOfObject(object: KubeObject): ObjectRef {
  return withNamespace(object, object.metadata.name);
}

function withNamespace(object: KubeObject, name: string): ObjectRef {
  const { namespace } = object.metadata;
  return namespace === undefined ? { name } : { namespace, name };
}
