import { isDeepStrictEqual } from 'node:util';
import { describe, expect, it } from '@jest/globals';
import { type JsonSchema, relaxSchema, toStructuralSchema } from '../crd.ts';
import { annotations as names } from '../labels.ts';
import { llmInferenceServiceSpec as hubSpec } from '../v1alpha2/llm-inference-service.ts';
import { llmInferenceServiceConfigStatus } from '../v1alpha2/llm-inference-service-config.ts';
import { llmInferenceServiceStatus as hubStatus } from '../v1alpha2/status.ts';
import { convertObject } from './convert.ts';
import {
  llmInferenceServiceSpec as spokeSpec,
  llmInferenceServiceStatus as spokeStatus,
} from './llm-inference-service.ts';

type Fields = Record<string, unknown>;

const hubVersion = 'serving.kserve.io/v1alpha2';
const spokeVersion = 'serving.kserve.io/v1alpha1';
const up = (object: unknown) => convertObject(object, hubVersion) as Fields;
const down = (object: unknown) => convertObject(object, spokeVersion) as Fields;

/** The same numbers in [0, 1) for the same seed. */
function createRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** Values that fit a structural schema; any part that may be absent sometimes is, and lists may repeat a name. */
class Generator {
  readonly #random: () => number;
  constructor(seed: number) {
    this.#random = createRandom(seed);
  }

  pick<T>(items: readonly T[]): T {
    const item = items[Math.floor(this.#random() * items.length)];
    if (item === undefined) throw new Error('nothing to pick from');
    return item;
  }

  chance(probability: number): boolean {
    return this.#random() < probability;
  }

  value(schema: JsonSchema, name: string): unknown {
    if (schema['x-kubernetes-int-or-string'] === true) return this.pick<unknown>([1, 2, '25%', '1Gi']);
    if (Array.isArray(schema.enum)) return this.pick(schema.enum);
    switch (schema.type) {
      case 'boolean':
        return this.chance(0.5);
      case 'integer':
      case 'number':
        return Number(schema.minimum ?? 0) + Math.floor(this.#random() * 3);
      case 'string':
        return this.#text(name);
      case 'array':
        return this.#list(schema, name);
      default:
        return this.#object(schema);
    }
  }

  #text(name: string): string {
    if (name === 'variantCost') return '10.0';
    if (name === 'uri') return this.pick(['hf://Qwen/Qwen3-8B', 's3://bucket/model']);
    return this.pick(['a', 'b', 'c', 'team', 'x-1']);
  }

  #list(schema: JsonSchema, name: string): unknown {
    const least = Number(schema.minItems ?? 0);
    const items = Array.from({ length: Math.max(least, Math.floor(this.#random() * 3)) }, () =>
      this.value(schema.items as JsonSchema, name),
    );
    const keys = schema['x-kubernetes-list-map-keys'] as readonly string[] | undefined;
    if (!keys) return items;
    return [...new Map(items.map((item) => [JSON.stringify(keys.map((key) => (item as Fields)[key])), item])).values()];
  }

  #object(schema: JsonSchema): unknown {
    const out: Fields = {};
    const required = new Set((schema.required ?? []) as readonly string[]);
    for (const [name, child] of Object.entries((schema.properties ?? {}) as Readonly<Record<string, JsonSchema>>)) {
      if (required.has(name) || this.chance(0.3)) out[name] = this.value(child, name);
    }
    if (schema['x-kubernetes-preserve-unknown-fields'] === true && this.chance(0.5)) {
      out[this.pick(['containers', 'extra', 'criticality'])] = this.pick<unknown>([
        null,
        [],
        [{ name: 'main' }],
        { a: { b: [1] } },
        'Critical',
      ]);
    }
    if (schema.additionalProperties && this.chance(0.7)) {
      out[this.pick(['app', 'tier'])] = this.value(schema.additionalProperties as JsonSchema, 'label');
    }
    return out;
  }

  /** Annotations as users, KServe and stale writers leave them; those of `free` are only sometimes there. */
  metadata(reserved: readonly string[]): Fields {
    const annotations: Fields = {};
    if (this.chance(0.3)) annotations.note = 'mine';
    for (const name of reserved) {
      if (this.chance(0.15)) {
        annotations[name] = this.pick([
          'Critical',
          'nonsense',
          '{"0":"Sheddable","7":"Critical"}',
          '{"0":"a"}',
          '{',
          '',
        ]);
      }
    }
    return { name: 'chat', namespace: 'team', ...(Object.keys(annotations).length > 0 ? { annotations } : {}) };
  }
}

interface Shape {
  readonly kind: string;
  readonly spec: JsonSchema;
  readonly status: JsonSchema;
}

const hubShapes: readonly Shape[] = [
  { kind: 'LLMInferenceService', spec: toStructuralSchema(hubSpec), status: toStructuralSchema(hubStatus) },
  {
    kind: 'LLMInferenceServiceConfig',
    spec: relaxSchema(toStructuralSchema(hubSpec)),
    status: toStructuralSchema(llmInferenceServiceConfigStatus),
  },
];
const spokeShapes: readonly Shape[] = [
  { kind: 'LLMInferenceService', spec: toStructuralSchema(spokeSpec), status: toStructuralSchema(spokeStatus) },
  {
    kind: 'LLMInferenceServiceConfig',
    spec: relaxSchema(toStructuralSchema(spokeSpec)),
    status: toStructuralSchema(llmInferenceServiceConfigStatus),
  },
];
const shared = [names.modelCriticality, names.loraCriticalities, names.loraCriticalityNames];

function* objects(count: number, apiVersion: string, shapes: readonly Shape[], seed: number): Generator_ {
  const generator = new Generator(seed);
  for (let i = 0; i < count; i++) {
    const { kind, spec, status } = generator.pick(shapes);
    yield {
      apiVersion,
      kind,
      metadata: generator.metadata(shared),
      spec: generator.value(spec, 'spec') as Fields,
      ...(generator.chance(0.6) ? { status: generator.value(status, 'status') } : {}),
    };
  }
}
type Generator_ = globalThis.Generator<Fields & { readonly spec: Fields }>;

/** `toEqual` tells where the difference is and takes long to; this tells whether there is one. */
function expectSame(actual: unknown, expected: unknown): void {
  if (!isDeepStrictEqual(actual, expected)) expect(actual).toEqual(expected);
}

function hasAnnotation(object: Fields, prefix: string): boolean {
  const { annotations } = object.metadata as { readonly annotations?: Fields };
  return Object.keys(annotations ?? {}).some((name) => name.startsWith(prefix));
}

describe('convertObject', () => {
  it('brings 10,000 generated v1alpha2 objects through v1alpha1 without a difference', () => {
    let kept = 0;
    for (const object of objects(10_000, hubVersion, hubShapes, 1)) {
      const spoke = down(object);
      expectSame(up(spoke), object);
      if (hasAnnotation(spoke, names.hubFields)) kept++;
    }
    // The generator reaches what only one version can say, and what both can.
    expect(kept).toBeGreaterThan(2_000);
    expect(kept).toBeLessThan(10_000);
  });

  it('brings 10,000 generated v1alpha1 objects through v1alpha2 without a difference', () => {
    let kept = 0;
    for (const object of objects(10_000, spokeVersion, spokeShapes, 2)) {
      const hub = up(object);
      expectSame(down(hub), object);
      if (hasAnnotation(hub, 'internal.')) kept++;
    }
    expect(kept).toBeGreaterThan(2_000);
  });

  it.each<[string, (spec: Fields) => void]>([
    ['replicas', (spec) => Object.assign(spec, { replicas: 7, scaling: undefined })],
    ['the model', (spec) => spec.model && Object.assign(spec.model, { uri: 'hf://a/b', name: 'n' })],
    ['labels', (spec) => Object.assign(spec, { labels: { new: 'one' } })],
    ['the prefill workload, removed', (spec) => Reflect.deleteProperty(spec, 'prefill')],
    ['the router, removed', (spec) => Reflect.deleteProperty(spec, 'router')],
    ['the router, made new', (spec) => Object.assign(spec, { router: { gateway: {}, route: {} } })],
    ['a template', (spec) => Object.assign(spec, { template: { containers: [{ name: 'main', image: 'x' }] } })],
    ['the prefill workload, made new', (spec) => Object.assign(spec, { prefill: { replicas: 3, template: {} } })],
  ])('loses nothing of what was not edited through v1alpha1: %s', (_, edit) => {
    for (const object of objects(300, hubVersion, hubShapes, 3)) {
      const spoke = structuredClone(down(object)) as typeof object;
      edit(spoke.spec);
      const expected = structuredClone(object);
      const offloading = (expected.spec.prefill as Fields | undefined)?.kvCacheOffloading;
      edit(expected.spec);
      // A prefill workload that was there before keeps what v1alpha1 cannot show of it.
      if (offloading !== undefined && expected.spec.prefill)
        Object.assign(expected.spec.prefill, { kvCacheOffloading: offloading });
      expectSame(JSON.parse(JSON.stringify(up(spoke))), JSON.parse(JSON.stringify(expected)));
    }
  });

  const hub = (spec: object, more: object = {}) => ({
    apiVersion: hubVersion,
    kind: 'LLMInferenceService',
    metadata: { name: 'chat' },
    spec: { model: { uri: 'hf://a/b' }, ...spec },
    ...more,
  });
  const spoke = (spec: object, more: object = {}) => ({ ...hub(spec, more), apiVersion: spokeVersion });

  it('writes criticality where KServe does', () => {
    const object = spoke({
      model: {
        uri: 'hf://a/b',
        criticality: 'Critical',
        lora: { adapters: [{ name: 'x' }, { name: 'y', criticality: 'Sheddable' }] },
      },
    });
    expect(up(object)).toEqual(
      hub(
        { model: { uri: 'hf://a/b', lora: { adapters: [{ name: 'x' }, { name: 'y' }] } } },
        {
          metadata: {
            name: 'chat',
            annotations: {
              [names.modelCriticality]: 'Critical',
              [names.loraCriticalities]: '{"1":"Sheddable"}',
              [names.loraCriticalityNames]: '{"1":"y"}',
            },
          },
        },
      ),
    );
  });

  it('reads the criticality that KServe wrote', () => {
    const written = hub(
      { model: { uri: 'hf://a/b', lora: { adapters: [{ name: 'x' }, { name: 'y' }] } } },
      {
        metadata: {
          name: 'chat',
          annotations: { [names.modelCriticality]: 'Standard', [names.loraCriticalities]: '{"1":"Critical"}' },
        },
      },
    );
    expect(down(written)).toMatchObject({
      metadata: { name: 'chat' },
      spec: {
        model: { criticality: 'Standard', lora: { adapters: [{ name: 'x' }, { name: 'y', criticality: 'Critical' }] } },
      },
    });
  });

  it('follows adapters that were moved or removed as v1alpha2', () => {
    const stored = up(
      spoke({
        model: {
          uri: 'hf://a/b',
          lora: {
            adapters: [
              { name: 'x', criticality: 'Critical' },
              { name: 'y', criticality: 'Sheddable' },
            ],
          },
        },
      }),
    ) as { spec: { model: { lora: { adapters: unknown[] } } } };
    stored.spec.model.lora.adapters = [{ name: 'new' }, { name: 'x' }];
    expect(down(stored)).toMatchObject({
      spec: { model: { lora: { adapters: [{ name: 'new' }, { name: 'x', criticality: 'Critical' }] } } },
    });
    expect(JSON.stringify((down(stored) as Fields).spec)).not.toContain('Sheddable');
  });

  const pool = (spec: object) => ({ router: { scheduler: { pool: { spec } } } });

  it('shows the pool in the shape of its v1alpha2', () => {
    const object = hub(
      pool({
        selector: { matchLabels: { app: 'x' } },
        targetPorts: [{ number: 8000 }, { number: 8001 }],
        appProtocol: 'http',
        endpointPickerRef: { kind: 'Service', name: 'picker', port: { number: 9002 }, failureMode: 'FailOpen' },
      }),
    );
    expect(down(object)).toMatchObject(
      spoke(
        pool({
          selector: { app: 'x' },
          targetPortNumber: 8000,
          extensionRef: { kind: 'Service', name: 'picker', portNumber: 9002, failureMode: 'FailOpen' },
        }),
      ),
    );
    expect(up(down(object))).toEqual(object);
  });

  /** `object` as a v1alpha1 client reads it, changes it by `edit` and writes it. */
  function editAsSpoke(object: object, edit: (spoke: { spec: Fields; metadata: Fields }) => void): Fields {
    const read = structuredClone(down(object)) as Parameters<typeof edit>[0];
    edit(read);
    return up(read);
  }

  it('lets an edit win over what was kept beside it', () => {
    const object = hub(pool({ targetPorts: [{ number: 8000 }, { number: 8001 }], appProtocol: 'kubernetes.io/h2c' }));
    const edited = editAsSpoke(object, ({ spec }) => {
      const { router } = spec as ReturnType<typeof pool>;
      Object.assign(router.scheduler.pool.spec, { targetPortNumber: 9000 });
    });
    expect(edited.spec).toEqual(hub(pool({ targetPorts: [{ number: 9000 }], appProtocol: 'kubernetes.io/h2c' })).spec);
  });

  it('forgets what was kept of an object that the user removed', () => {
    const object = hub({ prefill: { kvCacheOffloading: { cpu: '1Gi' } }, kvCacheOffloading: { cpu: '2Gi' } });
    const edited = editAsSpoke(object, ({ spec }) => Reflect.deleteProperty(spec, 'prefill'));
    expect(edited).toEqual(hub({ kvCacheOffloading: { cpu: '2Gi' } }));
  });

  it('loses what only v1alpha2 has when the annotation is taken away, and nothing else', () => {
    const object = hub({ replicas: 2, kvCacheOffloading: { cpu: '2Gi' } });
    const edited = editAsSpoke(object, ({ metadata }) => Reflect.deleteProperty(metadata, 'annotations'));
    expect(edited).toEqual(hub({ replicas: 2 }));
  });

  it('pairs addresses by URL, for status changes between reading and writing', () => {
    const status = (...urls: readonly string[]) => ({
      status: { addresses: urls.map((url) => ({ url, origin: { name: url } })), workloads: { primary: {} } },
    });
    const read = down(hub({}, status('http://a', 'http://b'))) as { status: { addresses: Fields[] } };
    read.status.addresses.shift();
    read.status.addresses.push({ url: 'http://c' });
    expect(up(read).status).toEqual({
      addresses: [{ url: 'http://b', origin: { name: 'http://b' } }, { url: 'http://c' }],
      workloads: { primary: {} },
    });
  });

  it.each<[string, string]>([
    ['no JSON', '{'],
    ['no list', '{"path":["spec"]}'],
    ['no paths', '[{"path":[]},{"path":7},null,{"path":[[]]},{"value":1}]'],
    ['a field that v1alpha1 has', '[{"path":["spec","replicas"],"value":5}]'],
    [
      'the prototype',
      '[{"path":["status","__proto__","polluted"],"value":1},{"path":["status","__proto__"],"value":{}}]',
    ],
    ['the name of the object', '[{"path":["metadata","uid"],"value":"x"}]'],
    ['a value that does not fit', '[{"path":["spec","kvCacheOffloading"],"value":"much"}]'],
    ['an object inside none', '[{"path":["spec","prefill","kvCacheOffloading"],"value":{"cpu":"1Gi"}}]'],
  ])('takes nothing from an annotation with %s', (_, text) => {
    const object = spoke({}, { metadata: { name: 'chat', annotations: { [names.hubFields]: text } }, status: {} });
    expect(up(object)).toEqual(hub({}, { status: {} }));
    expect(({} as Fields).polluted).toBeUndefined();
  });

  it('takes from an annotation only what a base configuration may hold', () => {
    const base = (apiVersion: string, kept: readonly object[], spec: object) => ({
      apiVersion,
      kind: 'LLMInferenceServiceConfig',
      metadata: {
        name: 'base',
        ...(kept.length > 0 ? { annotations: { [names.hubFields]: JSON.stringify(kept) } } : {}),
      },
      spec,
    });
    const path = ['spec', 'kvCacheOffloading'];
    for (const value of ['much', { cpu: {} }, { secondary: [{ fileSystem: 7 }] }, { evictionPolicy: 7 }])
      expect(up(base(spokeVersion, [{ path, value }], {}))).toEqual(base(hubVersion, [], {}));
    const value = { secondary: [{ fileSystem: { emptyDir: { size: '1Gi' } } }] };
    expect(up(base(spokeVersion, [{ path, value }], {}))).toEqual(base(hubVersion, [], { kvCacheOffloading: value }));
  });

  it.each<[string, unknown, string, string]>([
    ['another kind', { ...hub({}), kind: 'InferenceService' }, spokeVersion, 'InferenceService cannot be converted'],
    ['another group', { ...hub({}), apiVersion: 'apps/v1' }, spokeVersion, 'apps/v1 LLMInferenceService'],
    ['no object', 7, spokeVersion, 'number cannot be converted'],
    ['an unknown version', hub({}), 'serving.kserve.io/v1', 'cannot be converted to serving.kserve.io/v1'],
    ['a word that objects know', hub({}), 'serving.kserve.io/constructor', 'cannot be converted to'],
    ['an object of an unknown version', { ...hub({}), apiVersion: 'serving.kserve.io/v9' }, hubVersion, 'v9 cannot'],
  ])('refuses %s', (_, object, version, message) => {
    expect(() => convertObject(object, version)).toThrow(message);
  });

  it('leaves its source alone', () => {
    for (const object of objects(200, hubVersion, hubShapes, 4)) {
      const before = structuredClone(object);
      const spoke = down(object);
      expect(object).toEqual(before);
      const read = structuredClone(spoke);
      up(spoke);
      expect(spoke).toEqual(read);
    }
  });

  it('leaves an object alone that has the version already', () => {
    const object = hub({});
    expect(convertObject(object, hubVersion)).toBe(object);
  });
});
