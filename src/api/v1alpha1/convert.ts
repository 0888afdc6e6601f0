import { AppError } from '../../errors.ts';
import { hasTypes, type JsonSchema, relaxSchema, toStructuralSchema } from '../crd.ts';
import { annotations as names } from '../labels.ts';
import { llmInferenceServiceSpec as hubSpec } from '../v1alpha2/llm-inference-service.ts';
import { compareFields, copyFields, formatKept, isFields, type KeptField, parseKept, restoreFields } from './kept.ts';
import { criticality } from './llm-inference-service.ts';

/**
 * LLMInferenceService and LLMInferenceServiceConfig from one version of the API to the other, lossless both ways.
 *
 * Flow: `toHub` and `fromHub` carry over what both versions can say, criticality in the annotations that KServe uses.
 * What the way back would miss is then found by taking it, and kept on the result in an annotation of ours; the next
 * conversion puts it back where nobody has edited since (`kept.ts`).
 */

/** Where the API server asks the operator for these kinds in another version. */
export const conversionPath = '/convert';

type Fields = Record<string, unknown>;

const group = 'serving.kserve.io';
const hubVersion = `${group}/v1alpha2`;
const spokeVersion = `${group}/v1alpha1`;
const kinds: ReadonlySet<string> = new Set(['LLMInferenceService', 'LLMInferenceServiceConfig']);

interface Direction {
  readonly convert: (source: Fields) => Fields;
  readonly back: (target: Fields) => Fields;
  /** On the source: fields of the target's version. */
  readonly restoreFrom: string;
  /** On the target: fields of the source's version. */
  readonly keepIn: string;
  /** Where kept fields may be put back. */
  readonly places: readonly string[];
}

const poolSpec = ['spec', 'router', 'scheduler', 'pool', 'spec'] as const;

/** By the version that comes out. */
const directions: ReadonlyMap<string, Direction> = new Map([
  [
    hubVersion,
    {
      convert: toHub,
      back: fromHub,
      restoreFrom: names.hubFields,
      keepIn: names.spokeFields,
      places: [
        `metadata.annotations.${names.modelCriticality}`,
        `metadata.annotations.${names.loraCriticalities}`,
        `metadata.annotations.${names.loraCriticalityNames}`,
        'spec.kvCacheOffloading',
        'spec.prefill.kvCacheOffloading',
        'spec.model.confidential',
        'spec.model.lora.adapters',
        poolSpec.join('.'),
        'status',
      ],
    },
  ],
  [
    spokeVersion,
    {
      convert: fromHub,
      back: toHub,
      restoreFrom: names.spokeFields,
      keepIn: names.hubFields,
      places: ['metadata.annotations', 'spec.model', poolSpec.join('.')],
    },
  ],
]);

/**
 * The object in another version; the same object when it has that version already.
 *
 * Errors: `invalid` for another group, kind or version, which the API server never asks for.
 */
export function convertObject(object: unknown, apiVersion: string): unknown {
  if (!isFields(object) || !kinds.has(String(object.kind)) || !String(object.apiVersion).startsWith(`${group}/`)) {
    const what = isFields(object) ? `${String(object.apiVersion)} ${String(object.kind)}` : typeof object;
    throw new AppError('invalid', `${what} cannot be converted; only ${[...kinds].join(' and ')} of ${group} can`);
  }
  if (object.apiVersion === apiVersion) return object;
  const direction = directions.get(apiVersion);
  if (!direction || !directions.has(String(object.apiVersion))) {
    throw new AppError('invalid', `${String(object.apiVersion)} cannot be converted to ${apiVersion}`);
  }
  return carry(object, direction, apiVersion);
}

function carry(object: Fields, direction: Direction, apiVersion: string): Fields {
  const source = copyFields(object);
  const kept = parseKept(takeAnnotation(source, direction.restoreFrom)).filter((field) => isPlace(field, direction));
  // Of use on objects of the other version only.
  takeAnnotation(source, direction.keepIn);
  const target = putBack(direction.convert(source), kept, apiVersion);

  const returned = direction.back(target);
  // Compared with room for annotations on both sides: an empty map and none are the same to the API server.
  annotationsOf(source);
  annotationsOf(returned);
  const lost = compareFields({ ...source, apiVersion }, { ...returned, apiVersion });
  const text = formatKept(lost);
  if (text !== undefined) annotationsOf(target)[direction.keepIn] = text;
  dropEmptyAnnotations(target);
  return { ...target, apiVersion };
}

function putBack(naive: Fields, kept: readonly KeptField[], apiVersion: string): Fields {
  annotationsOf(naive);
  if (kept.length === 0) return naive;
  const target = copyFields(naive);
  restoreFields(target, kept);
  // The API server judges what was sent, not what comes out of an annotation that anybody can edit.
  if (apiVersion === hubVersion && !isFitting(target) && isFitting(naive)) return naive;
  return target;
}

let baseSchema: JsonSchema | undefined;

function isFitting(hub: Fields): boolean {
  if (hub.kind === 'LLMInferenceService') return hubSpec.safeParse(hub.spec).success;
  baseSchema ??= relaxSchema(toStructuralSchema(hubSpec));
  return hub.spec === undefined || hasTypes(baseSchema, hub.spec);
}

function isPlace({ path }: KeptField, direction: Direction): boolean {
  const text = path.map((step) => (typeof step === 'string' ? step : '')).join('.');
  return direction.places.some((place) => text === place || text.startsWith(`${place}.`));
}

/** What v1alpha2 can say of a v1alpha1 object, which is left alone. */
function toHub(spoke: Fields): Fields {
  const hub = copyFields(spoke);
  const model = fieldsAt(hub, 'spec', 'model');
  if (model && isCriticality(model.criticality)) {
    annotationsOf(hub)[names.modelCriticality] = model.criticality;
    delete model.criticality;
  }
  const adapters = adaptersOf(hub);
  const byIndex: Record<string, string> = {};
  const nameByIndex: Record<string, string> = {};
  adapters.forEach((adapter, i) => {
    if (!isFields(adapter) || !isCriticality(adapter.criticality)) return;
    byIndex[i] = adapter.criticality;
    if (typeof adapter.name === 'string') nameByIndex[i] = adapter.name;
    delete adapter.criticality;
  });
  if (Object.keys(byIndex).length > 0) annotationsOf(hub)[names.loraCriticalities] = JSON.stringify(byIndex);
  if (Object.keys(nameByIndex).length > 0) {
    annotationsOf(hub)[names.loraCriticalityNames] = JSON.stringify(nameByIndex);
  }
  const pool = fieldsAt(hub, ...poolSpec.slice(0, -1));
  if (isFields(pool?.spec)) pool.spec = toHubPool(pool.spec);
  return hub;
}

/** What v1alpha1 can say of a v1alpha2 object, which is left alone. */
function fromHub(hub: Fields): Fields {
  const spoke = copyFields(hub);
  for (const [property, ...path] of [
    ['kvCacheOffloading', 'spec'],
    ['kvCacheOffloading', 'spec', 'prefill'],
    ['confidential', 'spec', 'model'],
    ['workloads', 'status'],
    ['appliedConfigs', 'status'],
    ['group', 'status', 'router'],
  ] as const) {
    delete fieldsAt(spoke, ...path)?.[property];
  }
  const addresses = fieldsAt(spoke, 'status')?.addresses;
  for (const address of [fieldsAt(spoke, 'status', 'address'), ...(Array.isArray(addresses) ? addresses : [])]) {
    if (!isFields(address)) continue;
    delete address.origin;
    delete address.models;
  }
  const pool = fieldsAt(spoke, ...poolSpec.slice(0, -1));
  if (isFields(pool?.spec)) pool.spec = fromHubPool(pool.spec);

  const model = fieldsAt(spoke, 'spec', 'model');
  const annotations = fieldsAt(spoke, 'metadata', 'annotations') ?? {};
  if (model && isCriticality(annotations[names.modelCriticality])) {
    model.criticality = annotations[names.modelCriticality];
    delete annotations[names.modelCriticality];
  }
  const byIndex = parseMap(takeAnnotation(spoke, names.loraCriticalities));
  const nameByIndex = parseMap(takeAnnotation(spoke, names.loraCriticalityNames));
  const adapters = adaptersOf(spoke);
  for (const [index, value] of Object.entries(byIndex)) {
    const adapter = adapterOf(adapters, Number(index), nameByIndex[index]);
    if (adapter && isCriticality(value)) adapter.criticality = value;
  }
  return spoke;
}

/** The adapter that a criticality was said of: by its name where that was noted, for lists get edited. */
function adapterOf(adapters: readonly unknown[], index: number, name: string | undefined): Fields | undefined {
  const atIndex = adapters[index];
  if (isFields(atIndex) && (name === undefined || atIndex.name === name)) return atIndex;
  if (name === undefined) return undefined;
  const named = adapters.filter(isFields).filter((adapter) => adapter.name === name);
  return named.length === 1 ? named[0] : undefined;
}

/** InferencePoolSpec of the pool's v1alpha2 → v1. */
function toHubPool({ selector, targetPortNumber, extensionRef, ...rest }: Fields): Fields {
  const { portNumber, ...reference } = isFields(extensionRef) ? extensionRef : {};
  return {
    ...rest,
    ...(selector === undefined ? {} : { selector: { matchLabels: selector } }),
    ...(targetPortNumber === undefined ? {} : { targetPorts: [{ number: targetPortNumber }] }),
    ...(extensionRef === undefined
      ? {}
      : { endpointPickerRef: { ...reference, ...(portNumber === undefined ? {} : { port: { number: portNumber } }) } }),
  };
}

/** InferencePoolSpec of v1 → the pool's v1alpha2, which has one port and no protocol. */
function fromHubPool({ selector, targetPorts, endpointPickerRef, appProtocol: _, ...rest }: Fields): Fields {
  const first: unknown = Array.isArray(targetPorts) ? targetPorts[0] : undefined;
  const number = isFields(first) ? first.number : undefined;
  const { port, ...reference } = isFields(endpointPickerRef) ? endpointPickerRef : {};
  const portNumber = isFields(port) ? port.number : undefined;
  return {
    ...rest,
    ...(isFields(selector) ? { selector: selector.matchLabels ?? {} } : {}),
    ...(number === undefined ? {} : { targetPortNumber: number }),
    ...(endpointPickerRef === undefined
      ? {}
      : { extensionRef: { ...reference, ...(portNumber === undefined ? {} : { portNumber }) } }),
  };
}

function isCriticality(value: unknown): value is string {
  return criticality.safeParse(value).success;
}

function adaptersOf(object: Fields): readonly unknown[] {
  const adapters = fieldsAt(object, 'spec', 'model', 'lora')?.adapters;
  return Array.isArray(adapters) ? adapters : [];
}

function fieldsAt(root: Fields, ...path: readonly string[]): Fields | undefined {
  let value: unknown = root;
  for (const part of path) value = isFields(value) && Object.hasOwn(value, part) ? value[part] : undefined;
  return isFields(value) ? value : undefined;
}

/** The annotations, made where there are none. */
function annotationsOf(object: Fields): Fields {
  if (!isFields(object.metadata)) object.metadata = {};
  const metadata = object.metadata as Fields;
  if (!isFields(metadata.annotations)) metadata.annotations = {};
  return metadata.annotations as Fields;
}

function dropEmptyAnnotations(object: Fields): void {
  const metadata = fieldsAt(object, 'metadata');
  if (isFields(metadata?.annotations) && Object.keys(metadata.annotations).length === 0) delete metadata.annotations;
}

function takeAnnotation(object: Fields, name: string): string | undefined {
  const annotations = fieldsAt(object, 'metadata', 'annotations');
  const value = annotations?.[name];
  delete annotations?.[name];
  return typeof value === 'string' ? value : undefined;
}

/** A JSON object of texts; nothing when it is something else. */
function parseMap(text: string | undefined): Readonly<Record<string, string>> {
  try {
    const value: unknown = JSON.parse(text ?? '{}');
    if (!isFields(value)) return {};
    return Object.fromEntries(
      Object.entries(value).filter((entry): entry is [string, string] => typeof entry[1] === 'string'),
    );
  } catch {
    return {};
  }
}
