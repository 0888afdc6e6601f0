import { describe, expect, it } from '@jest/globals';
import { defaultService, modelNameOf } from './defaults.ts';
import { deviceClaimOf } from './devices.ts';
import type { LLMInferenceService, LLMInferenceServiceSpec } from './llm-inference-service.ts';
import { parseHuggingFaceUri, parseModelLocation } from './model-uri.ts';
import { validateService, validateServiceConfig, warnService } from './validate.ts';

const model = { uri: 'hf://Qwen/Qwen3-8B' };

function service(spec: Partial<LLMInferenceServiceSpec> = {}, name = 'chat'): LLMInferenceService {
  return {
    apiVersion: 'serving.kserve.io/v1alpha2',
    kind: 'LLMInferenceService',
    metadata: { name, namespace: 'team' },
    spec: { model, ...spec },
  };
}

const picker = {
  apiVersion: 'llm-d.ai/v1alpha1',
  kind: 'EndpointPickerConfig',
  plugins: [{ type: 'queue-scorer' }, { type: 'max-score-picker', name: 'best' }],
  schedulingProfiles: [{ name: 'default', plugins: [{ pluginRef: 'queue-scorer', weight: 2 }, { pluginRef: 'best' }] }],
};

describe('validateService', () => {
  it.each<[string, Partial<LLMInferenceServiceSpec>]>([
    ['nothing but a model', {}],
    [
      'adapters of every scheme',
      {
        model: {
          ...model,
          lora: {
            maxRank: 8,
            adapters: [
              { name: 'a', uri: 'hf://a/b' },
              { name: 'team/b', uri: 'oci://b' },
              { name: 'c', uri: 'pvc://c' },
            ],
          },
        },
      },
    ],
    ['tracing', { tracing: {} }],
    [
      'tiers for the KV cache',
      {
        kvCacheOffloading: {
          cpu: '100Gi',
          secondary: [
            { fileSystem: { emptyDir: { size: '1Ti' } } },
            { fileSystem: { pvc: { ref: { name: 'c', path: 'a/b' } } } },
          ],
        },
      },
    ],
    ['a bucket', { model: { uri: 's3://bucket/x' } }],
    ['a claim', { model: { uri: 'pvc://claim/x' } }],
    [
      'weights that are there already',
      { model: { uri: 'oci+native://registry:5000/a/b:1' }, storageInitializer: { enabled: false } },
    ],
    ['encrypted weights', { model: { ...model, confidential: { enabled: true, resourceId: 'kbs:///a/b/c' } } }],
    ['a revision', { model: { uri: 'hf://Qwen/Qwen3-8B:refs/pr/1', name: 'Qwen/Qwen3-8B' } }],
    [
      'prefill and decode with everything that works',
      {
        replicas: 2,
        parallelism: { tensor: 2 },
        labels: { 'example.com/team': 'a' },
        annotations: { 'prometheus.io/scrape': 'true' },
        template: { containers: [{ name: 'main', resources: { limits: { 'nvidia.com/gpu': '2' } } }] },
        rolloutStrategy: { maxUnavailable: 1, maxSurge: '25%' },
        prefill: { replicas: 1, parallelism: { tensor: 1, expert: false }, template: { containers: [] } },
        router: {
          gateway: { refs: [{ name: 'gw' }, { name: 'gw', sectionName: 'http' }] },
          route: { http: { spec: { hostnames: ['a.example'] }, refs: [] } },
          scheduler: { replicas: 2, config: { inline: picker }, pool: { spec: { targetPorts: [{ number: 8000 }] } } },
        },
        baseRefs: [],
      },
    ],
    ['a rollout that only adds', { rolloutStrategy: { maxUnavailable: 0, maxSurge: '150%' } }],
    [
      'the same Gateways in both places',
      {
        router: {
          gateway: { refs: [{ name: 'a', namespace: 'x' }, { name: 'b' }] },
          route: {
            http: {
              spec: {
                parentRefs: [
                  { name: 'b', namespace: 'team' },
                  { name: 'a', namespace: 'x' },
                ],
              },
            },
          },
        },
      },
    ],
  ])('accepts %s', (_, spec) => {
    expect(validateService(service(spec))).toEqual([]);
  });

  it.each<[string, Partial<LLMInferenceServiceSpec>, string, string]>([
    ['an unknown scheme', { model: { uri: 'ftp://host/x' } }, 'spec.model.uri', 'use one of hf://'],
    ['HDFS', { model: { uri: 'hdfs://host/x' } }, 'spec.model.uri', 'unsupported schema in model URI'],
    ['capitals', { model: { uri: 'HF://a/b' } }, 'spec.model.uri', 'is not of the form hf://'],
    ['no organisation', { model: { uri: 'hf://gpt2' } }, 'spec.model.uri', 'is not of the form hf://'],
    ['no scheme', { model: { uri: 'Qwen/Qwen3-8B' } }, 'spec.model.uri', 'unsupported schema in model URI'],
    ['a space in the URI', { model: { uri: 's3://a/b c' } }, 'spec.model.uri', 'is not of the form s3://'],
    ['a path that climbs', { model: { uri: 'pvc://claim/../x' } }, 'spec.model.uri', 'is not of the form pvc://'],
    ['a claim with capitals', { model: { uri: 'pvc://Claim' } }, 'spec.model.uri', 'is not of the form pvc://'],
    ['an image with a space', { model: { uri: 'oci://a b' } }, 'spec.model.uri', 'is not of the form oci://'],
    [
      'no key for encrypted weights',
      { model: { ...model, confidential: { enabled: true } } },
      'spec.model.confidential.resourceId',
      'is required when confidential is enabled',
    ],
    [
      'a key of another form',
      { model: { ...model, confidential: { enabled: false, resourceId: 'kbs://a/b' } } },
      'spec.model.confidential.resourceId',
      'must be of the form kbs:///repo/type/tag',
    ],
    ['a quote in the name', { model: { ...model, name: 'a"b' } }, 'spec.model.name', 'cannot stand in a URL path'],
    ['dots in the name', { model: { ...model, name: 'a/../b' } }, 'spec.model.name', 'cannot stand in a URL path'],
    [
      'an adapter without name',
      { model: { ...model, lora: { adapters: [{ uri: 'hf://a/b' }] } } },
      'spec.model.lora.adapters[0].name',
      'adapter name is required',
    ],
    [
      'an adapter that climbs',
      { model: { ...model, lora: { adapters: [{ name: 'a/..', uri: 'hf://a/b' }] } } },
      'spec.model.lora.adapters[0].name',
      'must not include "." or ".." (path traversal risk)',
    ],
    [
      'an adapter twice',
      {
        model: {
          ...model,
          lora: {
            adapters: [
              { name: 'a', uri: 'hf://a/b' },
              { name: 'a', uri: 'hf://a/c' },
            ],
          },
        },
      },
      'spec.model.lora.adapters[1].name',
      'duplicate name (same as adapters[0])',
    ],
    [
      "an adapter of the model's name",
      { model: { ...model, lora: { adapters: [{ name: 'chat', uri: 'hf://a/b' }] } } },
      'spec.model.lora.adapters[0].name',
      'adapter name must differ from base model name "chat"',
    ],
    [
      'an adapter that no path can carry',
      { model: { ...model, lora: { adapters: [{ name: 'a b', uri: 'hf://a/b' }] } } },
      'spec.model.lora.adapters[0].name',
      'cannot stand in a URL path',
    ],
    [
      'an adapter from nowhere',
      { model: { ...model, lora: { adapters: [{ name: 'a', uri: 'nfs://x' }] } } },
      'spec.model.lora.adapters[0].uri',
      'unsupported schema in model URI',
    ],
    ['no rank', { model: { ...model, lora: { maxRank: 0 } } }, 'spec.model.lora.maxRank', 'maxRank must be at least 1'],
    [
      'no room for adapters',
      { model: { ...model, lora: { maxCpuAdapters: 0 } } },
      'spec.model.lora.maxCpuAdapters',
      'maxCpuAdapters must be at least 1',
    ],
    [
      'offloading without memory',
      { kvCacheOffloading: { secondary: [{ fileSystem: { emptyDir: {} } }] } as never },
      'spec.kvCacheOffloading.cpu',
      'cpu must be set when secondary tiers are configured',
    ],
    [
      'no memory at all',
      { prefill: { kvCacheOffloading: { cpu: '0' } } },
      'spec.prefill.kvCacheOffloading.cpu',
      'must be greater than zero',
    ],
    [
      'a tier of nothing',
      { kvCacheOffloading: { cpu: '1Gi', secondary: [{}] } },
      'spec.kvCacheOffloading.secondary[0].fileSystem',
      'only fileSystem tiers are supported; fileSystem must be set',
    ],
    [
      'a tier in no place',
      { kvCacheOffloading: { cpu: '1Gi', secondary: [{ fileSystem: {} }] } },
      'spec.kvCacheOffloading.secondary[0].fileSystem',
      'exactly one of emptyDir or pvc must be set',
    ],
    [
      'a tier in two places',
      { kvCacheOffloading: { cpu: '1Gi', secondary: [{ fileSystem: { emptyDir: {}, pvc: { spec: {} } } }] } },
      'spec.kvCacheOffloading.secondary[0].fileSystem',
      'must be set; multiple are set',
    ],
    [
      'a claim of no kind',
      { kvCacheOffloading: { cpu: '1Gi', secondary: [{ fileSystem: { pvc: {} } }] } },
      'spec.kvCacheOffloading.secondary[0].fileSystem.pvc',
      'exactly one of spec or ref must be set',
    ],
    [
      'a claim without name',
      { kvCacheOffloading: { cpu: '1Gi', secondary: [{ fileSystem: { pvc: { ref: { path: 'x' } } } }] } },
      'spec.kvCacheOffloading.secondary[0].fileSystem.pvc.ref.name',
      'name is required',
    ],
    [
      'a claim and a path that climbs',
      { kvCacheOffloading: { cpu: '1Gi', secondary: [{ fileSystem: { pvc: { ref: { name: 'c', path: '../x' } } } }] } },
      'spec.kvCacheOffloading.secondary[0].fileSystem.pvc.ref.path',
      'must be a path inside the claim',
    ],
    ['a weight of nothing', { router: { route: { weight: 0 } } }, 'spec.router.route.group', 'weight requires group'],
    [
      'a group without a weight',
      { router: { route: { group: 'g' } } },
      'spec.router.route.weight',
      'group requires weight',
    ],
    [
      'a group with routes of your own',
      { router: { route: { group: 'g', weight: 1, http: { refs: [{ name: 'r' }] } } } },
      'spec.router.route.group',
      'traffic splitting cannot be used with custom HTTPRoute refs',
    ],
    [
      'a group with an Ingress',
      { router: { route: { group: 'g', weight: 1 }, ingress: {} } },
      'spec.router.route.group',
      'traffic splitting requires Gateway API routing',
    ],

    [
      'refs and a spec',
      { router: { route: { http: { refs: [{ name: 'r' }], spec: {} } } } },
      'spec.router.route.http',
      'cannot use both custom HTTPRoute refs',
    ],
    [
      'refs and a managed Gateway',
      { router: { gateway: {}, route: { http: { refs: [{ name: 'r' }] } } } },
      'spec.router.route.http.refs',
      'cannot be used with a managed gateway',
    ],
    [
      'other Gateways in the route',
      { router: { gateway: { refs: [{ name: 'a' }] }, route: { http: { spec: { parentRefs: [{ name: 'b' }] } } } } },
      'spec.router.route.http.spec',
      'conflict with custom gateway refs',
    ],
    [
      'a Gateway twice',
      { router: { gateway: { refs: [{ name: 'a' }, { name: 'a', namespace: 'team' }] } } },
      'spec.router.gateway.refs[1]',
      'twice',
    ],
    [
      'no picker replicas',
      { router: { scheduler: { replicas: 0 } } },
      'spec.router.scheduler.replicas',
      'scheduler replicas must be greater than zero',
    ],
    [
      'an empty picker config',
      { router: { scheduler: { config: {} } } },
      'spec.router.scheduler.config',
      'either inline or ref is required',
    ],
    [
      'two picker configs',
      { router: { scheduler: { config: { inline: picker, ref: { name: 'c', key: 'k' } } } } },
      'spec.router.scheduler.config',
      'both inline and ref are set',
    ],
    [
      'a ConfigMap without a name',
      { router: { scheduler: { config: { ref: { key: 'k' } } } } },
      'spec.router.scheduler.config.ref.name',
      'name is empty',
    ],
    [
      'another kind',
      { router: { scheduler: { config: { inline: { ...picker, kind: 'Pod' } } } } },
      'spec.router.scheduler.config.inline.kind',
      'inline configuration is invalid',
    ],
    [
      'a plugin without type',
      { router: { scheduler: { config: { inline: { ...picker, plugins: [{ name: 'x' }] } } } } },
      'spec.router.scheduler.config.inline.plugins[0].type',
      'inline configuration is invalid',
    ],
    [
      'a reference to no plugin',
      { router: { scheduler: { config: { inline: { ...picker, plugins: [{ type: 'queue-scorer' }] } } } } },
      'spec.router.scheduler.config.inline.schedulingProfiles[0].plugins[1].pluginRef',
      '"best" names no plugin',
    ],
    [
      'a plugin twice',
      {
        router: {
          scheduler: { config: { inline: { ...picker, plugins: [...picker.plugins, { type: 'queue-scorer' }] } } },
        },
      },
      'spec.router.scheduler.config.inline.plugins[2]',
      'declared twice',
    ],
    [
      'negative unavailability',
      { rolloutStrategy: { maxUnavailable: -1 } },
      'spec.rolloutStrategy.maxUnavailable',
      'must be greater than or equal to 0',
    ],
    [
      'more than all',
      { rolloutStrategy: { maxUnavailable: '101%' } },
      'spec.rolloutStrategy.maxUnavailable',
      'must not be greater than 100%',
    ],
    [
      'no percentage',
      { prefill: { rolloutStrategy: { maxSurge: 'some' } } },
      'spec.prefill.rolloutStrategy.maxSurge',
      'a percentage such as 25%',
    ],
    [
      'no way to roll',
      { rolloutStrategy: { maxUnavailable: '0%', maxSurge: 0 } },
      'spec.rolloutStrategy',
      'cannot both be zero',
    ],
    [
      'a reserved label',
      { labels: { 'llm-d.ai/role': 'both' } },
      'spec.labels[llm-d.ai/role]',
      'the operator sets this label',
    ],
    ['a bad label value', { prefill: { labels: { a: 'x y' } } }, 'spec.prefill.labels[a]', 'is not a label value'],
    ['a bad annotation name', { annotations: { 'a b': '' } }, 'spec.annotations[a b]', 'is not an annotation name'],
    [
      'a container without name',
      { template: { containers: [{ image: 'x' } as never] } },
      'spec.template.containers[0].name',
      'needs a name',
    ],
    [
      'a container twice',
      { template: { containers: [{ name: 'a' }], initContainers: [{ name: 'a' }] } },
      'spec.template.initContainers[0].name',
      'twice',
    ],
    ['containers as a map', { template: { containers: {} as never } }, 'spec.template.containers', 'must be a list'],
    [
      'a model server of another name',
      { template: { containers: [{ name: 'vllm', resources: { limits: { 'nvidia.com/gpu': '1' } } }] } },
      'spec.template.containers[0].name',
      '"vllm" asks for nvidia.com/gpu and no container is called main',
    ],
    [
      'a worker of another name',
      {
        parallelism: { pipeline: 2 },
        worker: { containers: [{ name: 'server', image: 'x', command: ['sh', '-c', 'exec vllm serve x'] }] },
      },
      'spec.worker.containers[0].name',
      '"server" runs vllm',
    ],
    [
      'an image that is too old to offload',
      {
        prefill: {
          kvCacheOffloading: { cpu: '1Gi' },
          template: { containers: [{ name: 'main', image: 'vllm/vllm-openai:v0.21.0' }] },
        },
      },
      'spec.prefill.kvCacheOffloading',
      'needs vLLM 0.22 or newer, and container main runs "vllm/vllm-openai:v0.21.0"',
    ],
    [
      'an image that is too old for stages on several nodes',
      {
        parallelism: { pipeline: 2 },
        template: { containers: [{ name: 'main', image: 'vllm/vllm-openai:v0.11.2' }] },
        worker: {},
      },
      'spec.parallelism.pipeline',
      'needs vLLM 0.12 or newer',
    ],
    [
      'a claim of wrong shape',
      {
        kvCacheOffloading: {
          cpu: '1Gi',
          secondary: [{ fileSystem: { pvc: { spec: { accessMode: ['ReadWriteOnce'] } as never } } }],
        },
      },
      'spec.kvCacheOffloading.secondary[0].fileSystem.pvc.spec.accessMode',
      'did you mean accessModes?',
    ],
    [
      'no memory but tiers',
      { kvCacheOffloading: { cpu: '0Gi', secondary: [{ fileSystem: { emptyDir: {} } }] } },
      'spec.kvCacheOffloading.cpu',
      'cpu must be set when secondary tiers are configured',
    ],
    [
      'a group without weight',
      { router: { route: { group: 'g' } } },
      'spec.router.route.weight',
      'group requires weight',
    ],
    [
      'a weight without group',
      { router: { route: { weight: 1 } } },
      'spec.router.route.group',
      'weight requires group',
    ],
    [
      'a group over an Ingress',
      { router: { ingress: {}, route: { group: 'g', weight: 1 } } },
      'spec.router.route.group',
      'traffic splitting requires Gateway API routing',
    ],
    [
      'a group of routes of your own',
      { router: { route: { group: 'g', weight: 1, http: { refs: [{ name: 'r' }] } } } },
      'spec.router.route.group',
      'traffic splitting cannot be used with custom HTTPRoute refs',
    ],
    [
      'a ConfigMap without name',
      { router: { scheduler: { config: { ref: { key: 'k' } } } } },
      'spec.router.scheduler.config.ref.name',
      'name is empty',
    ],
    [
      'a plugin that the picker does not have',
      {
        router: {
          scheduler: { config: { inline: { ...picker, plugins: [{ type: 'queue-score' }, ...picker.plugins] } } },
        },
      },
      'spec.router.scheduler.config.inline.plugins[0].type',
      'no plugin of type "queue-score"; did you mean queue-scorer',
    ],
    [
      'a tokenizer with a field that pods do not have',
      { router: { scheduler: { tokenizer: { template: { nodeSelectors: {} } as never } } } },
      'spec.router.scheduler.tokenizer.template.nodeSelectors',
      'did you mean nodeSelector?',
    ],
  ])('refuses %s', (_, spec, path, message) => {
    const found = validateService(service(spec)).filter((issue) => issue.path === path);
    expect(found.map((issue) => issue.message).join('\n')).toContain(message);
  });

  it('takes a tokenizer', () => {
    expect(validateService(service({ router: { scheduler: { tokenizer: {} } } }))).toEqual([]);
  });

  it.each([
    ['true', 0],
    ['false', 0],
    ['yes', 1],
  ])('reads annotation signalbox.io/tls: %s', (value, count) => {
    const plain = service();
    const annotated = { ...plain, metadata: { ...plain.metadata, annotations: { 'signalbox.io/tls': value } } };
    expect(validateService(annotated).filter(({ path }) => path.includes('signalbox.io/tls'))).toHaveLength(count);
  });

  const dra = (name: string) => `serving.kserve.io/exp-dra-${name}`;
  const claiming = (given: Readonly<Record<string, string>>, spec: Partial<LLMInferenceServiceSpec> = {}) => {
    const plain = service(spec);
    const annotations = Object.fromEntries(Object.entries(given).map(([name, value]) => [dra(name), value]));
    return { ...plain, metadata: { ...plain.metadata, annotations } };
  };

  it.each<[string, Readonly<Record<string, string>>, string, string]>([
    ['no class', { 'device-count': '2' }, 'device-class', 'is required to enable managed DRA when'],
    ['an empty class', { 'device-class': ' ' }, 'device-class', 'device class must not be empty'],
    ['a class with capitals', { 'device-class': 'GPU' }, 'device-class', 'device class must be a DNS subdomain'],
    ['no count', { 'device-class': 'a.b', 'device-count': 'two' }, 'device-count', 'write a whole number'],
    ['a count of none', { 'device-class': 'a.b', 'device-count': '0' }, 'device-count', 'must be >= 1'],
    ['more than a claim holds', { 'device-class': 'a.b', 'device-count': '33' }, 'device-count', 'at most 32 devices'],
    [
      'no selector',
      { 'device-class': 'a.b', 'cel-selector': ' \n ' },
      'cel-selector',
      'must contain at least one non-empty CEL expression',
    ],
    ['an empty container', { 'device-class': 'a.b', 'container-name': '' }, 'container-name', 'must not be empty'],
    ['no container', { 'device-class': 'a.b', 'container-name': 'A' }, 'container-name', 'must be a DNS label'],
    [
      'a container that is not there',
      { 'device-class': 'a.b', 'container-name': 'x' },
      'container-name',
      'spec.template has no container of this name',
    ],
    ['an older name', { 'device-class': 'a.b', 'gpu-count': '1' }, 'gpu-count', 'is not known'],
  ])('refuses devices of %s', (_, given, name, message) => {
    const issues = validateService(claiming(given));
    expect(issues.map(({ path }) => path)).toEqual([`metadata.annotations[${dra(name)}]`]);
    expect(issues[0]?.message).toContain(message);
  });

  it('reads devices, and judges them when they alone change', () => {
    const given = { 'device-class': ' gpu.example.com ', 'device-count': '2', 'cel-selector': 'a\n\n b\n' };
    expect(validateService(claiming(given))).toEqual([]);
    expect(deviceClaimOf(claiming(given))).toEqual({
      deviceClass: 'gpu.example.com',
      count: 2,
      selectors: ['a', 'b'],
      container: 'main',
    });
    expect(deviceClaimOf(claiming({}))).toBeUndefined();
    const beside = { template: { containers: [{ name: 'main' }, { name: 'x', image: 'x' }] } };
    expect(validateService(claiming({ 'device-class': 'a', 'container-name': 'x' }, beside))).toEqual([]);
    expect(validateService(claiming({ 'device-class': '' }), claiming({}))).toHaveLength(1);
  });

  it('leaves plugins to a picker of your own', () => {
    const inline = { ...picker, plugins: [...picker.plugins, { type: 'mine' }] };
    const template = { containers: [{ name: 'main', image: 'mine/picker:1' }] };
    expect(validateService(service({ router: { scheduler: { config: { inline }, template } } }))).toEqual([]);
    expect(validateService(service({ router: { scheduler: { config: { inline } } } }))).toHaveLength(1);
  });

  it.each<[number, Partial<LLMInferenceServiceSpec>, boolean]>([
    // 63 less "-kserve-mn", "-0" and a revision of ten digits with its hyphen.
    [40, {}, true],
    [41, {}, false],
    [39, { replicas: 11 }, true],
    [40, { replicas: 11 }, false],
    [40, { replicas: 10, rolloutStrategy: { maxSurge: 1 } }, false],
    [63, { worker: undefined as never, parallelism: {} }, true],
    [33, { prefill: { worker: {}, parallelism: { pipeline: 2 } } }, false],
    [32, { prefill: { worker: {}, parallelism: { pipeline: 2 } } }, true],
  ])('lets a name of %d characters with groups %j: %s', (length, spec, isFine) => {
    const issues = validateService(service({ worker: {}, parallelism: { pipeline: 2 }, ...spec }, 'a'.repeat(length)));
    expect(issues.map(({ path }) => path)).toEqual(isFine ? [] : ['metadata.name']);
  });

  it.each(['1abc', 'a.b', 'Abc', 'a-', 'a'.repeat(64)])('refuses the name %s', (name) => {
    expect(validateService(service({}, name)).map(({ path }) => path)).toEqual(['metadata.name']);
  });

  it('says everything at once', () => {
    const issues = validateService(
      service({ model: { uri: 'x' }, worker: {}, router: { route: { weight: 1 } }, prefill: { worker: {} } }),
    );
    expect(issues.map(({ path }) => path)).toEqual([
      'spec.model.uri',
      'spec.worker',
      'spec.prefill.worker',
      'spec.router.route.group',
    ]);
  });

  it('lets metadata of what is stored change, and objects go', () => {
    const stored = service({ worker: {} });
    expect(validateService({ ...stored, metadata: { ...stored.metadata, finalizers: [] } }, stored)).toEqual([]);
    expect(validateService({ ...stored, spec: { ...stored.spec, replicas: 2 } }, stored)).toHaveLength(1);
    const going = { ...stored, metadata: { ...stored.metadata, deletionTimestamp: '2026-01-01T00:00:00Z' } };
    expect(validateService(going)).toEqual([]);
  });
});

describe('warnService', () => {
  it('warns of Gateways named twice, and of too few GPUs for a command of its own', () => {
    const main = { name: 'main', command: ['serve'], resources: { limits: { 'nvidia.com/gpu': '1' } } };
    const template = { containers: [main] };
    const warnings = warnService(
      service({
        parallelism: { tensor: 2 },
        template,
        prefill: { parallelism: { tensor: 1 }, template },
        router: { gateway: { refs: [{ name: 'a' }] }, route: { http: { spec: { parentRefs: [{ name: 'a' }] } } } },
      }),
    );
    expect(warnings).toHaveLength(2);
    expect(warnings[0]).toContain('can be omitted');
    expect(warnings[1]).toContain('spec.parallelism: tensor 2 needs 2 GPUs a pod');
    expect(warnService(service())).toEqual([]);
  });

  it.each<[string, Partial<LLMInferenceServiceSpec>, readonly string[]]>([
    [
      'containers beside the model server',
      { template: { containers: [{ name: 'logs', image: 'logs' }] } },
      ['spec.template.containers: none is called main, so the model server runs beside logs'],
    ],
    [
      'offloading with the image that is default',
      { kvCacheOffloading: { cpu: '1Gi' } },
      ["spec.kvCacheOffloading: needs vLLM 0.22 or newer; see that the operator's image"],
    ],
    [
      'offloading with an image of unknown version',
      { kvCacheOffloading: { cpu: '1Gi' }, template: { containers: [{ name: 'main', image: 'own/server' }] } },
      ['see that the image "own/server"'],
    ],
    [
      'offloading with an image that is new enough',
      { kvCacheOffloading: { cpu: '1Gi' }, template: { containers: [{ name: 'main', image: 'vllm:v0.22.1' }] } },
      [],
    ],
    [
      'stages on several nodes',
      { parallelism: { pipeline: 2 }, worker: {} },
      ['spec.parallelism.pipeline: needs vLLM 0.12 or newer'],
    ],
  ])('of %s', (_, spec, expected) => {
    expect(validateService(service(spec))).toEqual([]);
    const warnings = warnService(service(spec));
    expect(warnings).toHaveLength(expected.length);
    for (const [i, text] of expected.entries()) expect(warnings[i]).toContain(text);
  });
});

describe('validateServiceConfig', () => {
  const config = (spec: Partial<LLMInferenceServiceSpec>) => ({
    apiVersion: 'serving.kserve.io/v1alpha2' as const,
    kind: 'LLMInferenceServiceConfig' as const,
    metadata: { name: 'base' },
    spec,
  });

  it('refuses bases of bases and a picker without replicas', () => {
    const issues = validateServiceConfig(
      config({ baseRefs: [{ name: 'other' }], router: { scheduler: { replicas: 0 } } }),
    );
    expect(issues.map(({ path }) => path)).toEqual(['spec.baseRefs', 'spec.router.scheduler.replicas']);
    expect(issues[0]?.message).toContain('baseRefs is not a permitted field');
    const partial = config({
      template: { containers: [{ name: 'main', env: [{ value: 'x' } as never] }] },
      prefill: { worker: { container: [] } as never },
    });
    expect(validateServiceConfig(partial)).toEqual([
      {
        path: 'spec.prefill.worker.container',
        code: 'invalid',
        message: 'container is no field of a PodSpec; did you mean containers?',
      },
    ]);
    expect(validateServiceConfig(config({ worker: {} }))).toEqual([]);
  });
});

describe('defaultService', () => {
  it('names the model after the service and opens lists of containers', () => {
    const given = service({
      template: {},
      worker: { containers: null as never },
      prefill: { template: { containers: [{ name: 'main' }] } },
      router: { scheduler: { template: { nodeName: 'n' } } },
    });
    const defaulted = defaultService(given);
    expect(defaulted.spec).toEqual({
      model: { ...model, name: 'chat' },
      template: { containers: [] },
      worker: { containers: [] },
      prefill: { template: { containers: [{ name: 'main' }] } },
      router: { scheduler: { template: { nodeName: 'n', containers: [] } } },
    });
    expect(given.spec.template).toEqual({});
    expect(defaultService(defaulted)).toBe(defaulted);
    expect(modelNameOf(given)).toBe('chat');
  });

  it('keeps a name that is there, and leaves a service without a name alone', () => {
    const named = service({ model: { ...model, name: 'other' } });
    expect(defaultService(named)).toBe(named);
    const generated = service({}, '');
    expect(defaultService(generated)).toBe(generated);
  });

  it.each([{}, { spec: 1 }, { spec: { model: [] } }, { spec: { template: 'x', prefill: null, router: [] } }])(
    'leaves %j to the check of the schema',
    (odd) => {
      const object = { metadata: { name: 'x' }, ...odd } as unknown as LLMInferenceService;
      expect(defaultService(object)).toBe(object);
    },
  );
});

describe('parseHuggingFaceUri', () => {
  it.each<[string, unknown]>([
    ['hf://a/b', { organisation: 'a', model: 'b' }],
    [
      'hf://meta-llama/Llama-3.1-8B-Instruct:main',
      { organisation: 'meta-llama', model: 'Llama-3.1-8B-Instruct', revision: 'main' },
    ],
    ['hf://a/b:refs/pr/3', { organisation: 'a', model: 'b', revision: 'refs/pr/3' }],
    ['hf://a', undefined],
    ['hf://a/b/c', undefined],
    ['hf://a/b:', undefined],
    ['hf:///b', undefined],
    ['hf://-a/b', undefined],
    ['HF://a/b', undefined],
  ])('reads %s', (uri, expected) => {
    expect(parseHuggingFaceUri(uri)).toEqual(expected);
  });
});

describe('parseModelLocation', () => {
  it.each<[string, unknown]>([
    ['hf://a/b:v1', { kind: 'hub', organisation: 'a', model: 'b', revision: 'v1' }],
    ['pvc://claim', { kind: 'claim', claim: 'claim' }],
    ['pvc://claim/', { kind: 'claim', claim: 'claim' }],
    ['pvc://claim/a/b/', { kind: 'claim', claim: 'claim', path: 'a/b' }],
    ['pvc:///a', undefined],
    ['pvc://a/./b', undefined],
    ['oci://host:5000/a/b:v1', { kind: 'image', image: 'host:5000/a/b:v1', isVolume: false }],
    [`oci+native://a@sha256:${'0'.repeat(64)}`, { kind: 'image', image: `a@sha256:${'0'.repeat(64)}`, isVolume: true }],
    ['oci+fetch://a', undefined],
    ['s3://bucket', { kind: 'download', scheme: 's3', uri: 's3://bucket' }],
    ['gs://bucket/a b', undefined],
    ['https://host/a?b=c', { kind: 'download', scheme: 'https', uri: 'https://host/a?b=c' }],
    ['ms://a/b', { kind: 'download', scheme: 'ms', uri: 'ms://a/b' }],
    ['s3:///x', undefined],
    ['s3://', undefined],
  ])('reads %s', (uri, expected) => {
    expect(parseModelLocation(uri)).toEqual(expected);
  });
});
