import { hash } from 'node:crypto';
import { AppError } from '../errors.ts';
import type { Client } from './client.ts';
import {
  apiVersionOf,
  type KubeObject,
  keyOf,
  type Manifest,
  type ObjectRef,
  type OwnerReference,
  type Resource,
} from './object.ts';
import { isSameQuantity } from './quantity.ts';
import { resourceOf } from './resources.ts';
import { hasCode } from './status-error.ts';

/** One way in which a live object is not what its manager wants. */
export interface Difference {
  /** `spec.template.spec.containers[name=main].image`. */
  readonly path: string;
  readonly kind: 'value' | 'unwanted' | 'notOwned';
  /** For people: `spec.replicas is 1, wanted 2`. */
  readonly reason: string;
}

type Fields = Readonly<Record<string, unknown>>;
type Path = readonly string[];

/** Differences are for people and for remembering; more than these say nothing new. */
const maxDifferences = 50;

/**
 * What an apply of `desired` under `fieldManager` would change in `live`, decided without asking the server.
 *
 * Flow: our entry of `metadata.managedFields` (operation Apply) tells which fields the last apply set; desired and live
 * are walked along it.
 * Guarantees: empty means that every desired leaf has its value and that we own nothing which desired lacks, so an apply
 * would be a no-op. Nothing is remembered, so a restart changes no answer. When in doubt there is a difference.
 * Assumptions: `live` is whole, with its managedFields, in desired's version.
 * Caveats: an amount of a resource may be written otherwise (`1000m`, `1`); a zero value (`false`, `0`, `""`, empty) that the
 * server dropped is equal while we still own its path; inside lists that are owned as a whole, fields that the server filled
 * with a known default are not ours to remove.
 */
export function findDifferences(
  desired: Manifest,
  live: KubeObject,
  fieldManager: string,
  subresource?: string,
): readonly Difference[] {
  const entry = (live.metadata.managedFields ?? []).find(
    (field) =>
      field.manager === fieldManager &&
      field.operation === 'Apply' &&
      (field.subresource ?? undefined) === subresource &&
      field.apiVersion === desired.apiVersion,
  );
  const fields = asFields(entry?.fieldsV1);
  if (!fields) {
    return [{ path: '', kind: 'notOwned', reason: `not applied by ${fieldManager} yet` }];
  }
  const found: Difference[] = [];
  const { apiVersion: _a, kind: _k, metadata, ...rest } = desired;
  const {
    name: _n,
    namespace: _ns,
    uid: _u,
    resourceVersion: _r,
    generation: _g,
    creationTimestamp: _c,
    managedFields: _m,
    ...meta
  } = metadata;
  // An apply to a subresource sets that part alone; one to the object leaves `status` alone.
  const wanted: Record<string, unknown> = subresource ? { [subresource]: rest[subresource] } : { ...rest };
  if (!subresource) {
    delete wanted.status;
    if (Object.keys(meta).length > 0) wanted.metadata = meta;
  }
  compareObject(wanted, live as unknown as Record<string, unknown>, fields, [], found);
  return found;
}

/** Whether an apply of `desired` would change anything of ours. */
export function differs(desired: Manifest, live: KubeObject, fieldManager: string): boolean {
  return findDifferences(desired, live, fieldManager).length > 0;
}

function compareValue(
  desired: unknown,
  live: unknown,
  fields: Fields | undefined,
  path: Path,
  found: Difference[],
): void {
  if (found.length >= maxDifferences) return;
  const isOwned = fields !== undefined;
  if (isEmptyValue(desired) && (live === undefined || live === null)) {
    // The server leaves zero values out; had another set or removed it, the path would not be ours any more.
    if (!isOwned && desired !== null) found.push(valueDifference(path, desired, live));
    return;
  }
  const hasParts = fields !== undefined && Object.keys(fields).some((key) => key !== '.');
  if (Array.isArray(desired)) {
    if (!Array.isArray(live)) found.push(valueDifference(path, desired, live));
    else if (hasParts) compareList(desired, live, fields, path, found);
    else compareWhole(desired, live, path, found);
    return;
  }
  if (isRecord(desired)) {
    if (!isRecord(live)) found.push(valueDifference(path, desired, live));
    // A leaf in our fields: the map is owned as a whole (a selector), or it was applied empty.
    else if (isOwned && !hasParts) compareWhole(desired, live, path, found);
    else compareObject(desired, live, fields, path, found);
    return;
  }
  if (!isSameScalar(desired, live, path)) found.push(valueDifference(path, desired, live));
}

function compareObject(
  desired: Readonly<Record<string, unknown>>,
  live: Readonly<Record<string, unknown>>,
  fields: Fields | undefined,
  path: Path,
  found: Difference[],
): void {
  for (const [key, value] of Object.entries(desired)) {
    if (value === undefined) continue;
    compareValue(value, live[key], asFields(fields?.[`f:${key}`]), [...path, key], found);
  }
  for (const field of Object.keys(fields ?? {})) {
    if (!field.startsWith('f:')) continue;
    const key = field.slice(2);
    if (desired[key] === undefined && !isIdentity(path, key)) found.push(unwanted([...path, key]));
  }
}

/** Fields that name the object rather than belong to it. */
function isIdentity(path: Path, key: string): boolean {
  return (
    (path.length === 0 && (key === 'apiVersion' || key === 'kind')) ||
    (path.length === 1 && path[0] === 'metadata' && key === 'name')
  );
}

/** A list whose elements are owned one by one: by key (`k:`), by value (`v:`) or by place (`i:`). */
function compareList(
  desired: readonly unknown[],
  live: readonly unknown[],
  fields: Fields,
  path: Path,
  found: Difference[],
): void {
  const places: number[] = [];
  const unclaimed = new Set(desired.keys());
  for (const [field, below] of Object.entries(fields)) {
    if (field === '.') continue;
    const kind = field.slice(0, 2);
    const text = field.slice(2);
    const spec = parseKey(text);
    if (kind === 'v:') {
      const index = desired.findIndex((value, i) => unclaimed.has(i) && isSame(value, spec));
      if (index < 0) found.push(unwanted([...path, `[${text}]`]));
      else {
        unclaimed.delete(index);
        if (!live.some((value) => isSame(value, spec)))
          found.push(valueDifference([...path, `[${text}]`], desired[index], undefined));
      }
      continue;
    }
    if (kind === 'i:') {
      const index = Number(text);
      if (index >= desired.length) found.push(unwanted([...path, `[${index}]`]));
      else {
        unclaimed.delete(index);
        compareValue(desired[index], live[index], asFields(below), [...path, `[${index}]`], found);
      }
      continue;
    }
    const key = isRecord(spec) ? spec : {};
    const label = `[${Object.entries(key)
      .map(([name, value]) => `${name}=${String(value)}`)
      .join(',')}]`;
    const index = desired.findIndex((value, i) => unclaimed.has(i) && hasKey(value, key));
    if (index < 0) {
      found.push(unwanted([...path, label]));
      continue;
    }
    unclaimed.delete(index);
    const liveIndex = live.findIndex((value) => hasKey(value, key));
    const element = desired[index];
    if (liveIndex < 0 || !isRecord(element)) {
      found.push(valueDifference([...path, label], element, undefined));
      continue;
    }
    places[index] = liveIndex;
    // Parts of the key are the element's name; the server fills them in (`protocol: TCP`).
    compareValue({ ...key, ...element }, live[liveIndex], asFields(below), [...path, label], found);
  }
  for (const index of unclaimed) {
    found.push({
      path: pathText([...path, `[${index}]`]),
      kind: 'notOwned',
      reason: `${pathText(path)} lacks the wanted element ${brief(desired[index])}`,
    });
  }
  const order = places.filter((place) => place !== undefined);
  if (order.some((place, i) => i > 0 && place < (order[i - 1] ?? 0))) {
    found.push({ path: pathText(path), kind: 'value', reason: `${pathText(path)} has another order` });
  }
}

/** Missing parts of a key in the wanted element match: they have a default. */
function hasKey(element: unknown, key: Readonly<Record<string, unknown>>): boolean {
  if (!isRecord(element)) return false;
  return Object.entries(key).every(([name, value]) => element[name] === undefined || isSame(element[name], value));
}

function parseKey(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}

/** Something owned as a whole: nothing may be missing and nothing more be there, save known defaults. */
function compareWhole(desired: unknown, live: unknown, path: Path, found: Difference[]): void {
  if (found.length >= maxDifferences) return;
  if (Array.isArray(desired)) {
    if (!Array.isArray(live) || live.length !== desired.length) {
      found.push(valueDifference(path, desired, live));
      return;
    }
    desired.forEach((value, i) => {
      compareWhole(value, live[i], [...path, `[${i}]`], found);
    });
    return;
  }
  if (isRecord(desired)) {
    if (!isRecord(live)) {
      if (!(isEmptyValue(desired) && live === undefined)) found.push(valueDifference(path, desired, live));
      return;
    }
    for (const [key, value] of Object.entries(desired)) {
      if (value === undefined) continue;
      if (isEmptyValue(value) && live[key] === undefined) continue;
      compareWhole(value, live[key], [...path, key], found);
    }
    for (const [key, value] of Object.entries(live)) {
      if (desired[key] === undefined && !isKnownDefault(path, key, value)) found.push(unwanted([...path, key]));
    }
    return;
  }
  if (isEmptyValue(desired) && live === undefined) return;
  if (!isSameScalar(desired, live, path)) found.push(valueDifference(path, desired, live));
}

/**
 * Defaults that servers write into lists and maps which are owned as a whole: field (with its parent, without indexes) → values.
 * A default that is missing here costs one needless apply after a restart; one too many hides a removal.
 */
const knownDefaults: Readonly<Record<string, readonly unknown[]>> = {
  'parentRefs.group': ['gateway.networking.k8s.io'],
  'parentRefs.kind': ['Gateway'],
  'rules.matches': [[{ path: { type: 'PathPrefix', value: '/' } }]],
  'matches.path': [{ type: 'PathPrefix', value: '/' }],
  'path.type': ['PathPrefix'],
  'path.value': ['/'],
  'headers.type': ['Exact'],
  'queryParams.type': ['Exact'],
  'backendRefs.group': [''],
  'backendRefs.kind': ['Service'],
  'backendRefs.weight': [1],
  'backendRef.group': [''],
  'backendRef.kind': ['Service'],
  'requestRedirect.statusCode': [302],
  'certificateRefs.group': [''],
  'certificateRefs.kind': ['Secret'],
  'kinds.group': ['gateway.networking.k8s.io'],
  'namespaces.from': ['Same'],
  'extensionRef.group': [''],
  'extensionRef.kind': ['Service'],
  'ports.protocol': ['TCP'],
  'subjects.apiGroup': ['', 'rbac.authorization.k8s.io'],
  'roleRef.apiGroup': ['rbac.authorization.k8s.io'],
  'configMap.defaultMode': [420],
  'secret.defaultMode': [420],
  'httpGet.scheme': ['HTTP'],
  'fieldRef.apiVersion': ['v1'],
};

function isKnownDefault(path: Path, key: string, value: unknown): boolean {
  const parent = path.filter((part) => !part.startsWith('[')).at(-1) ?? '';
  return (knownDefaults[`${parent}.${key}`] ?? []).some((known) => isSame(known, value));
}

function isSameScalar(desired: unknown, live: unknown, path: Path): boolean {
  return desired === live || (isQuantityPath(path) && isSameQuantity(desired, live));
}

const quantityMaps = new Set([
  'limits',
  'requests',
  'capacity',
  'allocatable',
  'hard',
  'default',
  'defaultRequest',
  'min',
  'max',
]);
const quantityFields = new Set(['sizeLimit', 'divisor', 'averageValue']);
/** Below these, keys are the user's own words and values are text. */
const freeForm = new Set([
  'labels',
  'annotations',
  'data',
  'stringData',
  'matchLabels',
  'nodeSelector',
  'args',
  'command',
  'env',
]);

function isQuantityPath(path: Path): boolean {
  if (path.some((part, i) => freeForm.has(part) && !(part === 'env' && path.at(-1) === 'divisor') && i < path.length))
    return false;
  return quantityMaps.has(path.at(-2) ?? '') || quantityFields.has(path.at(-1) ?? '');
}

function isSame(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (Array.isArray(a)) return Array.isArray(b) && a.length === b.length && a.every((value, i) => isSame(value, b[i]));
  if (!isRecord(a) || !isRecord(b)) return false;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every((key) => isSame(a[key], b[key]));
}

function isEmptyValue(value: unknown): boolean {
  if (value === null || value === false || value === 0 || value === '') return true;
  if (Array.isArray(value)) return value.length === 0;
  return isRecord(value) && Object.values(value).every((inner) => inner === undefined);
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function asFields(value: unknown): Fields | undefined {
  return isRecord(value) ? value : undefined;
}

function pathText(path: Path): string {
  return path.reduce((text, part) => (part.startsWith('[') || text === '' ? text + part : `${text}.${part}`), '');
}

function brief(value: unknown): string {
  if (value === undefined) return 'missing';
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 80 ? `${text.slice(0, 77)}…` : text;
}

function valueDifference(path: Path, desired: unknown, live: unknown): Difference {
  // What a Secret holds is nobody's reading.
  const isSecret = path[0] === 'data' || path[0] === 'stringData';
  const text = pathText(path);
  const reason = isSecret ? `${text} differs` : `${text} is ${brief(live)}, wanted ${brief(desired)}`;
  return { path: text, kind: 'value', reason };
}

function unwanted(path: Path): Difference {
  return { path: pathText(path), kind: 'unwanted', reason: `${pathText(path)} is no longer wanted` };
}

/** The reference that makes `owner` the controller of a child, so that deleting it deletes the child. */
export function ownerReference(owner: KubeObject): OwnerReference {
  const uid = owner.metadata.uid;
  if (!uid)
    throw new AppError(
      'internal',
      `${owner.kind} ${keyOf(owner.metadata)} has no uid; only an object that was read can own`,
    );
  return {
    apiVersion: owner.apiVersion,
    kind: owner.kind,
    name: owner.metadata.name,
    uid,
    controller: true,
    blockOwnerDeletion: true,
  };
}

/** The owner that controls the object, if any. */
export function controllerOf(object: KubeObject): OwnerReference | undefined {
  return object.metadata.ownerReferences?.find((reference) => reference.controller === true);
}

export function isControlledBy(object: KubeObject, uid: string): boolean {
  return controllerOf(object)?.uid === uid;
}

export interface Operation {
  readonly verb: 'create' | 'update' | 'delete';
  readonly resource: Resource;
  readonly ref: ObjectRef;
  /** Why, for logs, events and `plan`. */
  readonly reason: string;
}

/**
 * What the server made of our wishes: differences that stay after an apply because the server writes the value its own way;
 * and which objects were compared and found as they should be.
 * It only spares requests and time; losing it costs one apply per object.
 */
export class ApplyMemory {
  readonly #settled = new Map<string, ReadonlySet<string>>();
  /** Objects of the caches, which never change in place, with the digest of what was wanted of them. */
  readonly #equal = new WeakMap<KubeObject, string>();
  readonly #maxObjects: number;

  constructor(maxObjects = 10_000) {
    this.#maxObjects = maxObjects;
  }

  isSettled(key: string, differences: readonly Difference[]): boolean {
    const settled = this.#settled.get(key);
    return settled !== undefined && differences.every((difference) => settled.has(difference.reason));
  }

  /** What an apply of `desired` would change, at little cost where the same was asked of the same object before. */
  findDifferences(desired: Manifest, live: KubeObject, fieldManager: string): readonly Difference[] {
    const digest = hash('sha256', `${fieldManager}\n${JSON.stringify(desired)}`, 'base64');
    if (this.#equal.get(live) === digest) return [];
    const differences = findDifferences(desired, live, fieldManager);
    if (differences.length === 0) this.#equal.set(live, digest);
    return differences;
  }

  settle(key: string, differences: readonly Difference[]): void {
    this.#settled.delete(key);
    if (differences.length === 0) return;
    this.#settled.set(key, new Set(differences.map((difference) => difference.reason)));
    const oldest = this.#settled.keys().next();
    if (this.#settled.size > this.#maxObjects && !oldest.done) this.#settled.delete(oldest.value);
  }
}

export interface ApplySetInput {
  readonly owner: KubeObject;
  readonly fieldManager: string;
  readonly desired: readonly Manifest[];
  /** The object as a cache knows it. */
  readonly live: (resource: Resource, ref: ObjectRef) => KubeObject | undefined;
  /** Every live object that may be a child of the owner; those it does not control are left alone. */
  readonly children?: readonly KubeObject[];
  /** Finds the resource of kinds that src/kube/resources.ts does not list. */
  readonly resourceFor?: (object: KubeObject) => Resource | undefined;
  readonly memory?: ApplyMemory;
  readonly signal?: AbortSignal;
}

/**
 * What `applySet` would do, without doing it.
 * Errors: `preconditionFailed` when a wanted name is taken by an object that another controller owns or that was never ours.
 */
export function planSet(
  input: ApplySetInput,
): readonly (Operation & { readonly manifest?: Manifest; readonly uid?: string })[] {
  const { owner, fieldManager } = input;
  const ownerUid = ownerReference(owner).uid;
  const operations: (Operation & { readonly manifest?: Manifest; readonly uid?: string })[] = [];
  const kept = new Set<string>();
  for (const raw of input.desired) {
    const manifest = withOwner(raw, owner);
    const resource = requireResource(input, manifest);
    const ref = refOfObject(manifest);
    const key = setKey(resource, ref);
    kept.add(key);
    const live = input.live(resource, ref);
    if (!live) {
      operations.push({ verb: 'create', resource, ref, reason: 'it does not exist', manifest });
      continue;
    }
    checkOwnership(live, manifest, ownerUid, fieldManager);
    // What is being deleted cannot be mended; its deletion is a change that brings us back.
    if (live.metadata.deletionTimestamp) continue;
    const differences = input.memory
      ? input.memory.findDifferences(manifest, live, fieldManager)
      : findDifferences(manifest, live, fieldManager);
    const first = differences[0];
    if (!first || input.memory?.isSettled(`${key}/${live.metadata.uid}`, differences)) continue;
    const more = differences.length > 1 ? ` (and ${differences.length - 1} more)` : '';
    operations.push({ verb: 'update', resource, ref, reason: first.reason + more, manifest });
  }
  for (const child of input.children ?? []) {
    if (!isControlledBy(child, ownerUid) || child.metadata.deletionTimestamp) continue;
    const resource = requireResource(input, child);
    const ref = refOfObject(child);
    const { uid } = child.metadata;
    if (kept.has(setKey(resource, ref)) || !uid) continue;
    operations.push({ verb: 'delete', resource, ref, reason: 'it is no longer wanted', uid });
  }
  return operations;
}

/**
 * Applies what differs, then deletes the owner's children that left the set; no request when nothing of ours differs.
 * Errors: those of `planSet`, before anything is written; otherwise the first failure, after all writes were tried.
 */
export async function applySet(
  client: Pick<Client, 'apply' | 'delete'>,
  input: ApplySetInput,
): Promise<readonly Operation[]> {
  const planned = planSet(input);
  const done: Operation[] = [];
  const failures: unknown[] = [];
  const attempt = async (operation: Operation, work: () => Promise<void>) => {
    try {
      await work();
      done.push({ verb: operation.verb, resource: operation.resource, ref: operation.ref, reason: operation.reason });
    } catch (thrown) {
      failures.push(thrown);
    }
  };
  await Promise.all(
    planned.map((operation) => {
      const { manifest } = operation;
      return manifest === undefined
        ? undefined
        : attempt(operation, async () => {
            const after = await client.apply(
              operation.resource,
              manifest,
              { fieldManager: input.fieldManager, force: true },
              input.signal,
            );
            input.memory?.settle(
              `${setKey(operation.resource, operation.ref)}/${after.metadata.uid}`,
              findDifferences(manifest, after, input.fieldManager),
            );
          });
    }),
  );
  // Nothing is taken away before its successor stands.
  if (failures.length > 0) throw failures[0];
  await Promise.all(
    planned.map((operation) => {
      const { uid } = operation;
      return operation.verb !== 'delete' || uid === undefined
        ? undefined
        : attempt(operation, async () => {
            try {
              await client.delete(
                operation.resource,
                operation.ref,
                { uid, propagationPolicy: 'Background' },
                input.signal,
              );
            } catch (thrown) {
              // Another object has that name by now; it is not the one that was to go.
              if (!hasCode(thrown, 'conflict')) throw thrown;
            }
          });
    }),
  );
  if (failures.length > 0) throw failures[0];
  return done;
}

/** The manifest with the owner as controller, unless it names one itself or lies where an owner reference cannot reach. */
export function withOwner(manifest: Manifest, owner: KubeObject): Manifest {
  if (controllerOf(manifest)) return manifest;
  if (owner.metadata.namespace !== undefined && manifest.metadata.namespace !== owner.metadata.namespace)
    return manifest;
  return {
    ...manifest,
    metadata: {
      ...manifest.metadata,
      ownerReferences: [...(manifest.metadata.ownerReferences ?? []), ownerReference(owner)],
    },
  };
}

function checkOwnership(live: KubeObject, manifest: Manifest, ownerUid: string, fieldManager: string): void {
  const wants = controllerOf(manifest)?.uid ?? ownerUid;
  const controller = controllerOf(live);
  if (controller?.uid === wants) return;
  const name = `${live.kind} ${keyOf(live.metadata)}`;
  if (controller) {
    throw new AppError(
      'preconditionFailed',
      `${name} is controlled by ${controller.kind} ${controller.name} (uid ${controller.uid}); delete it or choose another name`,
    );
  }
  const isOurs = live.metadata.managedFields?.some(
    (entry) => entry.manager === fieldManager && entry.operation === 'Apply',
  );
  if (!isOurs) {
    throw new AppError(
      'preconditionFailed',
      `${name} exists and was not made by ${fieldManager}; delete it or choose another name`,
    );
  }
}

function requireResource(input: ApplySetInput, object: KubeObject): Resource {
  const resource = input.resourceFor?.(object) ?? resourceOf(object);
  if (resource) return resource;
  throw new AppError('internal', `${object.apiVersion} ${object.kind} is not in the list of resources; add it there`);
}

function refOfObject(object: KubeObject): ObjectRef {
  const { name, namespace } = object.metadata;
  return namespace === undefined ? { name } : { namespace, name };
}

function setKey(resource: Resource, ref: ObjectRef): string {
  return `${apiVersionOf(resource)}/${resource.plural}/${keyOf(ref)}`;
}
