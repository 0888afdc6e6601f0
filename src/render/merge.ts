import type { Container, PodSpec, PodTemplate } from '../api/foreign/pod.ts';

/**
 * Lays what the user wrote over what we rendered, as a strategic merge of a pod does: lists whose items have a name
 * merge item by item, maps merge key by key, `args` are ours and then the user's, anything else is replaced.
 * A value that the user wrote always wins, also `false`, `0` and `""`; `null` takes ours away.
 */

/** List fields of a pod spec and of its containers that merge by a key. */
const mergeKeys: Readonly<Record<string, string>> = {
  containers: 'name',
  initContainers: 'name',
  ephemeralContainers: 'name',
  volumes: 'name',
  imagePullSecrets: 'name',
  env: 'name',
  volumeMounts: 'mountPath',
  volumeDevices: 'devicePath',
  ports: 'containerPort',
  topologySpreadConstraints: 'topologyKey',
  hostAliases: 'ip',
  resourceClaims: 'name',
};

/** Fields of which only one may be set, so that the user's choice must push ours out. */
const oneOf: Readonly<Record<string, readonly string[]>> = {
  probe: ['httpGet', 'tcpSocket', 'exec', 'grpc'],
  handler: ['exec', 'httpGet', 'sleep', 'tcpSocket'],
  env: ['value', 'valueFrom'],
};

const kindOfField: Readonly<Record<string, keyof typeof oneOf>> = {
  startupProbe: 'probe',
  readinessProbe: 'probe',
  livenessProbe: 'probe',
  preStop: 'handler',
  postStart: 'handler',
  env: 'env',
};

type Json = Readonly<Record<string, unknown>>;

/** Our pod with the user's template over it. */
export function mergePod(ours: PodSpec, template: PodTemplate | undefined): PodSpec {
  return template ? (mergeMaps(asJson(ours), asJson(template)) as unknown as PodSpec) : ours;
}

/** One container with another of the same name over it. */
export function mergeContainer(ours: Container, theirs: Container): Container {
  return mergeMaps(asJson(ours), asJson(theirs)) as unknown as Container;
}

function asJson(value: object): Json {
  return value as Json;
}

function isMap(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function mergeMaps(ours: Json, theirs: Json, kind?: keyof typeof oneOf): Json {
  const merged: Record<string, unknown> = { ...ours };
  const exclusive = kind ? (oneOf[kind] ?? []) : [];
  if (exclusive.some((field) => theirs[field] !== undefined)) for (const field of exclusive) delete merged[field];
  for (const [field, value] of Object.entries(theirs)) {
    if (value === undefined) continue;
    if (value === null) delete merged[field];
    else merged[field] = mergeField(field, merged[field], value);
  }
  return merged;
}

function mergeField(field: string, ours: unknown, theirs: unknown): unknown {
  if (ours === undefined) return theirs;
  if (Array.isArray(ours) && Array.isArray(theirs)) {
    if (field === 'args') return [...ours, ...theirs];
    const key = mergeKeys[field];
    return key ? mergeLists(field, key, ours, theirs) : theirs;
  }
  if (isMap(ours) && isMap(theirs)) return mergeMaps(ours, theirs, kindOfField[field]);
  return theirs;
}

function mergeLists(field: string, key: string, ours: readonly unknown[], theirs: readonly unknown[]): unknown[] {
  const keyOf = (item: unknown) => (isMap(item) ? item[key] : undefined);
  const merged = [...ours];
  for (const item of theirs) {
    const index = merged.findIndex((other) => keyOf(other) !== undefined && keyOf(other) === keyOf(item));
    const before = merged[index];
    if (index < 0 || !isMap(before) || !isMap(item)) merged.push(item);
    // A volume has exactly one source: the user's takes the place of ours.
    else if (field === 'volumes') merged[index] = item;
    else merged[index] = mergeMaps(before, item, kindOfField[field]);
  }
  return merged;
}
