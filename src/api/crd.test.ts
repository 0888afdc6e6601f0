import { describe, expect, it } from '@jest/globals';
import { z } from 'zod';
import { type JsonSchema, relaxSchema, toStructuralSchema } from './crd.ts';
import { llmInferenceServiceConfigCrd, llmInferenceServiceCrd } from './crds.ts';
import { int32, intOrString, preserved, quantity } from './fields.ts';
import { inferencePoolCrd, xInferencePoolCrd } from './foreign/crds.ts';

/** The schema at a dotted path of properties, `[]` for the items of a list. */
function at(schema: JsonSchema, path: string): JsonSchema {
  let node = schema;
  for (const part of path.split('.')) {
    const child =
      part === '[]' ? node.items : (node.properties as Readonly<Record<string, JsonSchema>> | undefined)?.[part];
    if (child === undefined) throw new Error(`no ${part} in ${path}`);
    node = child as JsonSchema;
  }
  return node;
}

function versionOf(crd: { readonly spec: JsonSchema }): JsonSchema {
  return (crd.spec.versions as readonly JsonSchema[])[0] ?? {};
}

function schemaOf(crd: { readonly spec: JsonSchema }): JsonSchema {
  return (versionOf(crd).schema as { readonly openAPIV3Schema: JsonSchema }).openAPIV3Schema;
}

describe('toStructuralSchema', () => {
  it.each<[string, z.ZodType, JsonSchema]>([
    ['an int32 without its implied bounds', int32(1), { type: 'integer', format: 'int32', minimum: 1 }],
    ['an int32 with bounds', int32(1, 65_535), { type: 'integer', format: 'int32', minimum: 1, maximum: 65_535 }],
    ['an int', z.int(), { type: 'integer' }],
    [
      'a number or text',
      intOrString(),
      { anyOf: [{ type: 'integer' }, { type: 'string' }], 'x-kubernetes-int-or-string': true },
    ],
    [
      'a loose object',
      preserved('anything'),
      { type: 'object', description: 'anything', 'x-kubernetes-preserve-unknown-fields': true },
    ],
    [
      'a closed object',
      z.object({ a: z.string() }),
      { type: 'object', properties: { a: { type: 'string' } }, required: ['a'] },
    ],
    ['a map', z.record(z.string(), z.string()), { type: 'object', additionalProperties: { type: 'string' } }],
    ['an enum with a default', z.enum(['a', 'b']).default('a'), { type: 'string', enum: ['a', 'b'], default: 'a' }],
    [
      'a bounded list',
      z.array(z.string()).min(1).max(3),
      { type: 'array', items: { type: 'string' }, minItems: 1, maxItems: 3 },
    ],
  ])('says %s', (_, schema, expected) => {
    expect(toStructuralSchema(schema)).toEqual(expected);
  });

  it('keeps the pattern of a quantity', () => {
    const { pattern } = toStructuralSchema(quantity());
    const matcher = new RegExp(String(pattern));
    expect(['100Gi', '1', '0.5', '2e3', '500m', '100gb', 'much', ''].map((text) => matcher.test(text))).toEqual([
      true,
      true,
      true,
      true,
      true,
      false,
      false,
      false,
    ]);
  });

  it.each<[string, z.ZodType, string]>([
    ['a union', z.object({ a: z.union([z.string(), z.boolean()]) }), 'schema.a: a union'],
    ['a tuple', z.object({ b: z.array(z.tuple([z.string()])) }), 'schema.b[]'],
    ['anything at all', z.object({ c: z.unknown() }), 'schema.c: a CRD field needs one type'],
  ])('refuses %s', (_, schema, message) => {
    expect(() => toStructuralSchema(schema)).toThrow(message);
  });
});

describe('relaxSchema', () => {
  it('drops what only a whole object can satisfy, at any depth', () => {
    const strict = z.object({
      items: z.array(z.object({ name: z.string().min(1).regex(/^a/), mode: z.enum(['x']).default('x') })).min(1),
    });
    expect(relaxSchema(toStructuralSchema(strict))).toEqual({
      type: 'object',
      properties: {
        items: {
          type: 'array',
          items: { type: 'object', properties: { name: { type: 'string' }, mode: { type: 'string', enum: ['x'] } } },
        },
      },
    });
  });
});

describe('the definitions', () => {
  const service = llmInferenceServiceCrd();
  const config = llmInferenceServiceConfigCrd();

  it('name the kinds as KServe does', () => {
    expect([service, config].map((crd) => [crd.metadata.name, crd.spec.names, crd.spec.scope])).toEqual([
      [
        'llminferenceservices.serving.kserve.io',
        {
          kind: 'LLMInferenceService',
          listKind: 'LLMInferenceServiceList',
          plural: 'llminferenceservices',
          singular: 'llminferenceservice',
          shortNames: ['llmisvc'],
        },
        'Namespaced',
      ],
      [
        'llminferenceserviceconfigs.serving.kserve.io',
        {
          kind: 'LLMInferenceServiceConfig',
          listKind: 'LLMInferenceServiceConfigList',
          plural: 'llminferenceserviceconfigs',
          singular: 'llminferenceserviceconfig',
        },
        'Namespaced',
      ],
    ]);
    const columns = (crd: typeof service) =>
      (versionOf(crd).additionalPrinterColumns as readonly { readonly name: string }[]).map(({ name }) => name);
    expect(columns(service)).toEqual([
      'URL',
      'Ready',
      'Reason',
      'Replicas',
      'Model',
      'Age',
      'Prefill',
      'Weights',
      'URLs',
    ]);
    expect(columns(config)).toEqual(['Ready', 'Reason', 'Age']);
    expect(versionOf(service)).toMatchObject({
      name: 'v1alpha2',
      served: true,
      storage: true,
      subresources: { status: {} },
    });
  });

  it('serve the older version with what differs in it, within the same shape', () => {
    const [stored, older] = service.spec.versions as readonly (JsonSchema & { readonly storage: boolean })[];
    expect([stored?.storage, older]).toMatchObject([true, { name: 'v1alpha1', served: true, storage: false }]);
    const schema = schemaOf({ spec: { versions: [older] } });
    for (const path of [
      'model.criticality',
      'model.lora.adapters.[].criticality',
      'router.scheduler.pool.spec.targetPortNumber',
      'router.scheduler.pool.spec.extensionRef.portNumber',
      'prefill.template',
      'router.route.http.spec.rules.[].name',
    ])
      at(schema, `spec.${path}`);
    for (const path of [
      'spec.kvCacheOffloading',
      'spec.prefill.kvCacheOffloading',
      'spec.model.confidential',
      'spec.router.scheduler.pool.spec.targetPorts',
      'status.workloads',
      'status.appliedConfigs',
      'status.router.group',
      'status.address.origin',
      'status.addresses.[].models',
    ]) {
      expect(() => at(schema, path)).toThrow();
      at(schemaOf(service), path);
    }
    for (const rules of ['spec', 'spec.prefill'])
      expect(at(schema, rules)['x-kubernetes-validations']).toEqual(
        at(schemaOf(service), rules)['x-kubernetes-validations'],
      );
  });

  it('have every field of the API', () => {
    const schema = schemaOf(service);
    const workload = `
      replicas scaling.minReplicas scaling.maxReplicas scaling.wva.variantCost scaling.wva.hpa.behavior
      scaling.wva.keda.pollingInterval scaling.wva.keda.cooldownPeriod scaling.wva.keda.initialCooldownPeriod
      scaling.wva.keda.idleReplicaCount scaling.wva.keda.fallback scaling.wva.keda.advanced scaling.keda.triggers
      parallelism.tensor parallelism.pipeline parallelism.data parallelism.dataLocal parallelism.dataRPCPort
      parallelism.expert labels annotations template worker kvCacheOffloading.cpu kvCacheOffloading.evictionPolicy
      kvCacheOffloading.secondary.[].fileSystem.emptyDir.size kvCacheOffloading.secondary.[].fileSystem.pvc.spec
      kvCacheOffloading.secondary.[].fileSystem.pvc.ref.name kvCacheOffloading.secondary.[].fileSystem.pvc.ref.path
      rolloutStrategy.maxUnavailable rolloutStrategy.maxSurge`
      .trim()
      .split(/\s+/);
    const service_ = `
      model.uri model.name model.lora.adapters model.lora.maxRank model.lora.maxAdapters model.lora.maxCpuAdapters
      model.confidential.enabled model.confidential.resourceId storageInitializer.enabled
      router.route.http.refs.[].name router.route.http.spec.parentRefs router.route.http.spec.hostnames
      router.route.http.spec.rules.[].name router.route.http.spec.rules.[].matches.[].path.value
      router.route.http.spec.rules.[].filters.[].urlRewrite router.route.http.spec.rules.[].backendRefs.[].weight
      router.route.http.spec.rules.[].timeouts.request router.route.group router.route.weight
      router.gateway.refs.[].name router.gateway.refs.[].namespace router.gateway.refs.[].sectionName router.ingress.refs
      router.scheduler.pool.spec.selector.matchLabels router.scheduler.pool.spec.targetPorts.[].number
      router.scheduler.pool.spec.endpointPickerRef.failureMode router.scheduler.pool.ref.name
      router.scheduler.labels router.scheduler.annotations router.scheduler.template router.scheduler.config.inline
      router.scheduler.config.ref.key router.scheduler.replicas router.scheduler.tokenizer.template
      tracing.exporterEndpoint tracing.sampler tracing.samplerArg tracing.exporter baseRefs.[].name`
      .trim()
      .split(/\s+/);
    const status = `
      observedGeneration conditions.[].severity annotations url address addresses.[].CACerts addresses.[].origin.kind
      addresses.[].models.[].name router.gateways.[].listeners router.gateways.[].httpRoutes
      router.scheduler.inferencePool.name router.scheduler.service router.group.members.[].backendRef
      workloads.primary.readyReplicas workloads.prefill workloads.service workloads.scheduler appliedConfigs.[].source`
      .trim()
      .split(/\s+/);
    for (const path of [...service_, ...workload, ...workload.map((path) => `prefill.${path}`)])
      at(schema, `spec.${path}`);
    for (const path of status) at(schema, `status.${path}`);
    for (const path of [
      'template',
      'worker',
      'prefill.template',
      'router.scheduler.template',
      'router.scheduler.config.inline',
    ])
      expect(at(schema, `spec.${path}`)).toMatchObject({
        type: 'object',
        'x-kubernetes-preserve-unknown-fields': true,
      });
  });

  it('guard what may be absent in every CEL rule', () => {
    const rules: string[] = [];
    const walk = (node: unknown): void => {
      if (typeof node !== 'object' || node === null) return;
      for (const [key, value] of Object.entries(node)) {
        if (key === 'x-kubernetes-validations') {
          rules.push(...(value as readonly { readonly rule: string }[]).map(({ rule }) => rule));
        } else walk(value);
      }
    };
    walk(schemaOf(service));
    expect(rules.length).toBeGreaterThanOrEqual(20);
    const required = new Set(['self.maxReplicas', 'self.kind']);
    for (const rule of rules) {
      for (const [read] of rule.replaceAll(/has\([^)]*\)/g, '').matchAll(/self(?:\.[a-zA-Z]+)+\b(?!\()/g)) {
        if (required.has(read)) continue;
        expect([rule, rule.includes(`has(${read})`)]).toEqual([rule, true]);
      }
    }
  });

  it('let a base configuration hold a part of anything', () => {
    const text = JSON.stringify(schemaOf(config).properties);
    const spec = at(schemaOf(config), 'spec');
    for (const key of ['required', 'x-kubernetes-validations', 'pattern', 'default', 'minLength', 'minItems'])
      expect([key, JSON.stringify(spec).includes(`"${key}"`)]).toEqual([key, false]);
    expect(text).toContain('kvCacheOffloading');
  });

  it.each([
    ['LLMInferenceService', service],
    ['LLMInferenceServiceConfig', config],
    ['InferencePool v1', inferencePoolCrd()],
    ['InferencePool v1alpha2', xInferencePoolCrd()],
  ])('of %s fit into the annotation of kubectl apply', (_, crd) => {
    expect(JSON.stringify(crd).length).toBeLessThan(256 * 1024);
  });

  it('guard the group k8s.io with the annotation that the API server asks for', () => {
    expect(inferencePoolCrd().metadata.annotations).toHaveProperty(['api-approved.kubernetes.io']);
    expect(xInferencePoolCrd().metadata.annotations).toBeUndefined();
  });
});
