import { modelNameOf } from '../api/v1alpha2/defaults.ts';
import {
  type LLMInferenceService,
  type LLMInferenceServiceSpec,
  llmInferenceServiceSpec,
} from '../api/v1alpha2/llm-inference-service.ts';
import { AppError } from '../errors.ts';
import { childName, childNames } from './names.ts';
import { type Functions, text } from './template/functions.ts';
import { Float, GoMap, isList, Struct, typeNameOf, type Value } from './template/value.ts';

/** What templates of base configurations see: Go's names for our fields, and a few functions. */

/** Settings of the operator that templates may read, as `.GlobalConfig`. */
export interface TemplateSettings {
  readonly systemNamespace: string;
  readonly gatewayName: string;
  readonly gatewayNamespace: string;
  readonly enableTls: boolean;
  readonly modelRoutingHeader: string;
}

type Json = Readonly<Record<string, unknown>>;

/** What is read of a zod schema. */
interface Schema {
  readonly def: {
    readonly type: string;
    readonly innerType?: Schema;
    readonly element?: Schema;
    readonly catchall?: Schema;
  };
  readonly shape?: Readonly<Record<string, Schema>>;
}

/** The service with its merged spec, as templates see it: `.ObjectMeta`, `.Spec` and `.GlobalConfig`. */
export function templateData(
  service: LLMInferenceService,
  spec: LLMInferenceServiceSpec,
  settings: TemplateSettings,
): Value {
  const { metadata } = service;
  const namespace = metadata.namespace ?? 'default';
  const named = { ...spec, model: { ...spec.model, name: modelNameOf({ ...service, spec }) } };
  const stringMap = (map: Readonly<Record<string, string>> | undefined) => new GoMap(map ?? {}, '');
  const objectMeta = {
    Name: metadata.name,
    Namespace: namespace,
    UID: metadata.uid ?? '',
    Labels: stringMap(metadata.labels),
    Annotations: stringMap(metadata.annotations),
  };
  return new Fields('LLMInferenceService', {
    ...objectMeta,
    APIVersion: service.apiVersion,
    Kind: service.kind,
    ObjectMeta: new Fields('ObjectMeta', objectMeta),
    Spec: new SpecFields('LLMInferenceServiceSpec', named, llmInferenceServiceSpec as unknown as Schema),
    GlobalConfig: new Fields('Config', {
      SystemNamespace: settings.systemNamespace,
      IngressGatewayName: settings.gatewayName,
      IngressGatewayNamespace: settings.gatewayNamespace,
      EnableTLS: settings.enableTls,
      ModelBasedRoutingHeaderName: settings.modelRoutingHeader,
      InferencePoolNamespacedName: `${namespace}/${spec.router?.scheduler?.pool?.ref?.name ?? childNames(metadata.name).pool}`,
    }),
  });
}

class Fields extends Struct {
  readonly typeName: string;
  readonly #values: Readonly<Record<string, Value>>;

  constructor(typeName: string, values: Readonly<Record<string, Value>>) {
    super();
    this.typeName = typeName;
    this.#values = values;
  }

  field(name: string): { readonly value: Value } | undefined {
    return Object.hasOwn(this.#values, name) ? { value: this.#values[name] } : undefined;
  }

  entries(): readonly (readonly [string, Value])[] {
    return Object.entries(this.#values);
  }
}

/** An object of the spec. Go's name of a field is its JSON name with other capitals: `DataRPCPort`, `URI`. */
class SpecFields extends Struct {
  readonly typeName: string;
  readonly #json: Json;
  readonly #schema: Schema | undefined;

  constructor(typeName: string, json: Json, schema: Schema | undefined) {
    super();
    this.typeName = typeName;
    this.#json = json;
    this.#schema = schema;
  }

  field(name: string): { readonly value: Value } | undefined {
    if (!/^\p{Lu}/u.test(name)) return undefined;
    // Go embeds it: its fields are fields of the spec as well.
    if (name === 'WorkloadSpec' && this.#schema?.shape?.parallelism) return { value: this };
    const wanted = name.toLowerCase();
    const known = Object.entries(this.#schema?.shape ?? {}).find(([key]) => key.toLowerCase() === wanted);
    if (!known && !this.#isOpen()) return undefined;
    const key = Object.keys(this.#json).find((own) => own.toLowerCase() === wanted);
    const schema = known ? resolve(known[1]) : undefined;
    return { value: key === undefined ? unset(name, schema) : toValue(name, this.#json[key], schema) };
  }

  entries(): readonly (readonly [string, Value])[] {
    return Object.entries(this.#json).map(([key, value]) => [key, toValue(key, value, undefined)]);
  }

  /** Pod specs and the like, whose fields no schema of ours lists. */
  #isOpen(): boolean {
    return this.#schema === undefined || this.#schema.def.catchall !== undefined;
  }
}

function resolve(schema: Schema): Schema {
  let inner = schema;
  while (inner.def.innerType) inner = inner.def.innerType;
  return inner;
}

function unset(name: string, schema: Schema | undefined): Value {
  // The only fields that Go holds by value and not by pointer.
  if (schema?.def.type === 'boolean' && name === 'Expert') return false;
  if (schema?.def.type === 'array') return [];
  if (schema?.def.type === 'record') return new GoMap({}, '');
  return schema === undefined && (name === 'Value' || name === 'Name') ? '' : null;
}

function toValue(name: string, json: unknown, schema: Schema | undefined): Value {
  if (json === null || json === undefined) return null;
  if (typeof json === 'number') return Number.isInteger(json) ? json : new Float(json);
  if (typeof json === 'string' || typeof json === 'boolean') return json;
  if (Array.isArray(json)) {
    const element = schema?.def.element ? resolve(schema.def.element) : undefined;
    return json.map((item: unknown) => toValue(name, item, element));
  }
  if (schema?.def.type === 'record' || isStringMap(name)) return new GoMap(json as Readonly<Record<string, Value>>, '');
  return new SpecFields(name, json as Json, schema);
}

/** Maps of pod specs with keys of the user's. */
function isStringMap(name: string): boolean {
  return ['labels', 'annotations', 'nodeselector', 'matchlabels', 'limits', 'requests'].includes(name.toLowerCase());
}

/** Seconds of a pod's grace period when it names none, and what is kept of it for the container's end. */
const [defaultGraceSeconds, marginSeconds] = [60, 5];

/** The functions of base configurations beside Go's own. */
export const templateFunctions: Functions = {
  ChildName: { min: 2, max: 2, call: ([parent, suffix]) => childName(text(parent), text(suffix)) },
  /** Seconds that the model server has for running requests: the grace period without the pre-stop hook and a margin. */
  shutdownTimeout: {
    min: 2,
    max: 2,
    call: ([pod, preStopSeconds]) => {
      if (typeof preStopSeconds !== 'number')
        throw new AppError('invalid', `shutdownTimeout: expected int; got ${typeNameOf(preStopSeconds)}`);
      const grace = pod instanceof Struct ? pod.field('TerminationGracePeriodSeconds')?.value : undefined;
      return Math.max(0, (typeof grace === 'number' ? grace : defaultGraceSeconds) - preStopSeconds - marginSeconds);
    },
  },
  /**
   * `--kv-transfer-config` for the tiers of KV cache offloading that it is given, quoted for a place inside a shell's
   * double quotes; empty without tiers.
   */
  kvTransferConfig: { min: 1, max: 1, call: ([tiers]) => (tiers instanceof Struct ? kvTransferArgument(tiers) : '') },
};

function kvTransferArgument(tiers: Struct): string {
  const read = (name: string) => tiers.field(name)?.value;
  const secondary = read('Secondary');
  const config = {
    kv_connector: 'OffloadingConnector',
    kv_role: 'kv_both',
    kv_connector_extra_config: {
      spec_name: 'TieringOffloadingSpec',
      cpu_bytes_to_use: toBytes(String(read('CPU'))),
      eviction_policy: read('EvictionPolicy') ?? 'lru',
      secondary_tiers: (isList(secondary) ? secondary : []).map((_, i) => ({
        type: 'fs',
        root_dir: `/mnt/kv-cache-${i}`,
      })),
    },
  };
  return `--kv-transfer-config '${JSON.stringify(config).replaceAll('"', '\\"')}'`;
}

const units: Readonly<Record<string, number>> = {
  '': 1,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
};

/** Bytes of a Kubernetes quantity; 0 for what is none. */
function toBytes(quantity: string): number {
  const found = /^([0-9.]+(?:[eE][0-9]+)?)([kMGTP]i?|)$/.exec(quantity);
  return Math.round(Number(found?.[1] ?? 0) * (units[found?.[2] ?? ''] ?? 1));
}
