import type { Container, PodSpec, PodTemplate } from '../api/foreign/pod.ts';

/**
 * Lays what the user wrote over what we rendered, as a strategic merge of a pod does: lists whose items have a name
 * merge item by item, maps merge key by key, `args` are ours and then the user's, anything else is replaced.
 * A value that the user wrote always wins, also `false`, `0` and `""`; `null` takes ours away.
 */

/** List fields of a pod spec and of its containers that merge by a key. */
export const mergeKeys: Readonly<Record<string, string>> = {
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
  workload: ['replicas', 'scaling'],
  scaling: ['wva', 'keda'],
  actuator: ['hpa', 'keda'],
  tier: ['emptyDir', 'pvc'],
  reference: ['spec', 'ref'],
  pickerConfig: ['inline', 'ref'],
  routes: ['refs', 'spec'],
};

const kindOfField: Readonly<Record<string, keyof typeof oneOf>> = {
  startupProbe: 'probe',
  readinessProbe: 'probe',
  livenessProbe: 'probe',
  preStop: 'handler',
  postStart: 'handler',
  env: 'env',
};

/** The same in a service's spec, outside of its pods. */
const kindOfSpecField: typeof kindOfField = {
  ...kindOfField,
  prefill: 'workload',
  scaling: 'scaling',
  wva: 'actuator',
  fileSystem: 'tier',
  pvc: 'reference',
  pool: 'reference',
  config: 'pickerConfig',
  http: 'routes',
};

interface Rules {
  readonly kinds: typeof kindOfField;
  /** `args` are joined; otherwise the higher ones take the place of the lower. */
  readonly joinsArgs: boolean;
  /** An empty list takes away what is below, also where items merge by a key. */
  readonly clears: boolean;
  /** Objects that are taken as a whole. */
  readonly atomic: ReadonlySet<string>;
  /** `null` stays, for it also takes away what is built in below. */
  readonly keepsNull: boolean;
}

const podRules: Rules = { kinds: kindOfField, joinsArgs: true, clears: false, atomic: new Set(), keepsNull: false };
const specRules: Rules = {
  kinds: kindOfSpecField,
  joinsArgs: false,
  clears: true,
  atomic: new Set(['inline']),
  keepsNull: false,
};
/** The same in the pods of a spec, which are laid over built-in ones later. */
const specPodRules: Rules = { ...specRules, keepsNull: true };
const podFields: ReadonlySet<string> = new Set(['template', 'worker']);

type Json = Readonly<Record<string, unknown>>;

/** Our pod with the user's template over it. */
export function mergePod(ours: PodSpec, template: PodTemplate | undefined): PodSpec {
  return template ? (mergeMaps(podRules, asJson(ours), asJson(template)) as unknown as PodSpec) : ours;
}

/** One container with another of the same name over it. */
export function mergeContainer(ours: Container, theirs: Container): Container {
  return mergeMaps(podRules, asJson(ours), asJson(theirs)) as unknown as Container;
}

/**
 * One spec with another over it, as a strategic merge does, except that what the higher one says always counts: `false`,
 * `0`, `""`, and `[]` for lists. `null` takes a field away, in pods also what is built in. Lists merge by the key of
 * their items, or are replaced as a whole where items have none; of fields that exclude each other the higher one's stays.
 */
export function mergeSpec(lower: object, higher: object): Readonly<Record<string, unknown>> {
  return mergeMaps(specRules, asJson(lower), asJson(higher), 'workload');
}

function asJson(value: object): Json {
  return value as Json;
}

function isMap(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function mergeMaps(rules: Rules, ours: Json, theirs: Json, kind?: keyof typeof oneOf): Json {
  const merged: Record<string, unknown> = { ...ours };
  const exclusive = kind ? (oneOf[kind] ?? []) : [];
  if (exclusive.some((field) => isSet(theirs[field])))
    for (const field of exclusive) if (theirs[field] === undefined) delete merged[field];
  for (const [field, value] of Object.entries(theirs)) {
    if (value === undefined) continue;
    if (value === null && !rules.keepsNull) delete merged[field];
    else merged[field] = mergeField(rules, field, merged[field], value);
  }
  return merged;
}

function isSet(value: unknown): boolean {
  return value !== undefined && value !== null;
}

function mergeField(rules: Rules, field: string, ours: unknown, theirs: unknown): unknown {
  if (ours === undefined) return theirs;
  if (Array.isArray(ours) && Array.isArray(theirs)) {
    if (field === 'args' && rules.joinsArgs) return [...ours, ...theirs];
    const key = mergeKeys[field];
    if (!key) return theirs;
    // Admission gives every pod template a list of containers: an empty one says nothing.
    if (rules.clears && theirs.length === 0 && field !== 'containers') return theirs;
    return mergeLists(rules, field, key, ours, theirs);
  }
  if (isMap(ours) && isMap(theirs) && !rules.atomic.has(field))
    return mergeMaps(
      rules === specRules && podFields.has(field) ? specPodRules : rules,
      ours,
      theirs,
      rules.kinds[field],
    );
  return theirs;
}

function mergeLists(
  rules: Rules,
  field: string,
  key: string,
  ours: readonly unknown[],
  theirs: readonly unknown[],
): unknown[] {
  const keyOf = (item: unknown) => (isMap(item) ? item[key] : undefined);
  const merged = [...ours];
  for (const item of theirs) {
    const index = merged.findIndex((other) => keyOf(other) !== undefined && keyOf(other) === keyOf(item));
    const before = merged[index];
    if (index < 0 || !isMap(before) || !isMap(item)) merged.push(item);
    // A volume has exactly one source: the user's takes the place of ours.
    else if (field === 'volumes') merged[index] = item;
    else merged[index] = mergeMaps(rules, before, item, rules.kinds[field]);
  }
  return merged;
}
