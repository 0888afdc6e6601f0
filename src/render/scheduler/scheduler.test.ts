import { describe, expect, it } from '@jest/globals';
import { imagesOf, operatorSettings } from '../../../controllers/config.ts';
import { fullRouter, llmService, platform } from '../../../test/builders/service.ts';
import type { PodSpec } from '../../api/foreign/pod.ts';
import type { LLMInferenceServiceSpec } from '../../api/v1alpha2/llm-inference-service.ts';
import { createContext, type Platform } from '../input.ts';
import { injectSidecar } from '../pod/sidecar.ts';
import { render } from '../render.ts';
import { pickerBinaryOf } from './binary.ts';
import { hasPredictor } from './latency-predictor.ts';
import { migratePickerConfig, takeMetricFlags } from './migrate-config.ts';
import { hasTokenizer } from './tokenizer.ts';

type Scheduler = NonNullable<NonNullable<LLMInferenceServiceSpec['router']>['scheduler']>;

const upstream: Partial<Platform> = {
  images: { vllm: 'v', epp: 'mirror/llm-d-router-endpoint-picker:v0.10.0', sidecar: 's', flavour: 'upstream' },
};

function contextOf(scheduler: Scheduler, facts: Partial<Platform> = {}) {
  const service = llmService({ spec: { router: { ...fullRouter, scheduler } } });
  return createContext({ service, effective: service.spec, platform: platform(facts) });
}

const image = (name: string): Scheduler => ({ template: { containers: [{ name: 'main', image: name }] } });
const inline = (...plugins: readonly object[]): Scheduler => ({ config: { inline: { plugins } } });

describe('the picker that runs', () => {
  it.each<readonly [string, Scheduler, Partial<Platform>, boolean, readonly number[]]>([
    ['ours', {}, {}, false, [0, 10]],
    ['ours with an annotation', { annotations: { 'app.kubernetes.io/version': '0.7' } }, {}, false, [0, 10]],
    ['upstream by setting', {}, upstream, true, [0, 10]],
    ['upstream by its image', image('llm-d/llm-d-inference-scheduler:v0.7.1'), {}, true, [0, 7]],
    ['upstream without a version', image('r:5000/llm-d-router-endpoint-picker@sha256:12'), {}, true, [0, 10]],
    [
      'upstream whose version is annotated',
      { ...image('r:5000/llm-d-router-endpoint-picker'), annotations: { 'app.kubernetes.io/version': 'v0.9.1' } },
      {},
      true,
      [0, 9],
    ],
    ['what came before it', image('r/gateway-api-inference-extension/epp:v1.5.0'), {}, true, [0, 8]],
    ['another image', image('mine/picker:v1.2.3'), upstream, false, [0, 10]],
  ])('is %s', (_, scheduler, facts, isUpstream, version) =>
    expect(pickerBinaryOf(contextOf(scheduler, facts))).toEqual({ isUpstream, version }),
  );

  it.each([
    [{}, operatorSettings.eppImage.default, undefined],
    [{ imagesFlavour: 'upstream' as const }, 'llm-d/llm-d-router-endpoint-picker:v0.10.0', 'upstream'],
    [{ imagesFlavour: 'upstream' as const, eppImage: 'mirror/epp' }, 'mirror/epp', 'upstream'],
  ])('has its image by %j', (set, epp, flavour) => {
    const { vllmImage, eppImage, sidecarImage } = operatorSettings;
    const config = { vllmImage: vllmImage.default, eppImage: eppImage.default, sidecarImage: sidecarImage.default };
    expect(imagesOf({ ...config, ...set })).toMatchObject({ epp, ...(flavour ? { flavour } : {}) });
  });
});

describe('a configuration for a version', () => {
  const migrate = (minor: number, plugins: readonly object[], refs: readonly string[] = []) => {
    const profiles = [{ name: 'p', plugins: refs.map((pluginRef) => ({ pluginRef })) }];
    const config = migratePickerConfig(
      { apiVersion: 'llm-d.ai/v1alpha1', plugins, schedulingProfiles: profiles },
      { version: [0, minor], modelName: 'm', metricsScheme: 'http', engineSpecs: {} },
    ) as { readonly apiVersion: string; readonly plugins: object[]; readonly schedulingProfiles: typeof profiles };
    return { ...config, refs: config.schedulingProfiles[0]?.plugins.map(({ pluginRef }) => pluginRef) };
  };
  const scorer = { type: 'prefix-cache-scorer', parameters: { blockSize: 64, hashBlockSize: 5 } };
  const handler = (parameters: object) => ({ type: 'pd-profile-handler', parameters });
  const decided = (prefill: string) => ({ type: 'disagg-profile-handler', parameters: { deciders: { prefill } } });
  const always = { type: 'always-disagg-pd-decider' };

  it.each<readonly [string, number, readonly object[], readonly object[]]>([
    ['older names stay', 6, [{ type: 'prefill-header-handler' }], [{ type: 'prefill-header-handler' }]],
    ['and become the later ones', 7, [{ type: 'prefill-header-handler' }], [{ type: 'disagg-headers-handler' }]],
    [
      'sizes in characters are in tokens',
      7,
      [scorer],
      [{ type: 'prefix-cache-scorer', parameters: { blockSizeTokens: 16 } }],
    ],
    [
      'and belong to the producer',
      9,
      [scorer],
      [{ type: 'approx-prefix-cache-producer', parameters: { blockSizeTokens: 16 } }, { type: 'prefix-cache-scorer' }],
    ],
    ['no threshold decides always', 7, [handler({ threshold: 0 })], [always, decided(always.type)]],
    [
      'a threshold decides by tokens',
      7,
      [handler({ threshold: 9, hashBlockSize: 5 })],
      [{ type: 'prefix-based-pd-decider', parameters: { nonCachedTokens: 3 } }, decided('prefix-based-pd-decider')],
    ],
    [
      'a decider that is listed is not listed twice',
      7,
      [always, handler({ threshold: 0 })],
      [always, decided(always.type)],
    ],
    ['a named decider stays', 8, [handler({ deciderPluginName: 'mine', threshold: 3 })], [decided('mine')]],
    ['what is new is left alone', 10, [always, decided(always.type)], [always, decided(always.type)]],
    [
      'metrics were protocol metrics',
      7,
      [{ type: 'model-server-protocol-metrics' }],
      [{ type: 'model-server-protocol-metrics' }],
    ],
    [
      'until they were core metrics',
      8,
      [{ type: 'model-server-protocol-metrics' }],
      [{ type: 'core-metrics-extractor' }],
    ],
  ])('%s (0.%d)', (_, minor, before, after) => expect(migrate(minor, before).plugins).toEqual(after));

  it('renames what refers to a plugin by its type, and nothing that has a name', () => {
    const renamed = migrate(7, [{ type: 'prefill-header-handler' }], ['prefill-header-handler', 'other']);
    expect(renamed.refs).toEqual(['disagg-headers-handler', 'other']);
    const named = migrate(7, [{ name: 'mine', type: 'prefill-header-handler' }], ['mine']);
    expect([named.plugins, named.refs]).toEqual([[{ name: 'mine', type: 'disagg-headers-handler' }], ['mine']]);
  });

  it.each([
    [9, 'inference.networking.x-k8s.io/v1alpha1'],
    [10, 'llm-d.ai/v1alpha1'],
  ])('is of the group that 0.%d reads', (minor, group) => expect(migrate(minor, []).apiVersion).toBe(group));

  it('leaves what is no list of plugins to the picker', () => {
    const facts = { version: [0, 10], modelName: 'm', metricsScheme: 'https', engineSpecs: {} } as const;
    expect(migratePickerConfig({ plugins: 'x' }, facts)).toEqual({ plugins: 'x' });
  });

  it('takes flags that name metrics out of arguments', () => {
    const args = ['--a', '--kv-cache-usage-percentage-metric', 'k', '-lora-info-metric=l=1', '--b=c'];
    expect(takeMetricFlags(args)).toEqual({
      args: ['--a', '--b=c'],
      engineSpecs: { kvUsageSpec: 'k', loraSpec: 'l=1' },
    });
  });
});

describe('a tokenizer', () => {
  const legacy: Scheduler = {
    ...inline({ type: 'token-producer' }),
    template: { containers: [{ name: 'tokenizer', image: 't' }] },
  };
  it.each<readonly [string, Scheduler, Partial<Platform>, boolean]>([
    ['is not there by itself', {}, {}, false],
    ['is asked for', { tokenizer: {} }, {}, true],
    ['is needed by a producer of tokens', inline({ type: 'token-producer' }), {}, true],
    ['not by one that estimates', inline({ type: 'token-producer', parameters: { estimate: {} } }), {}, false],
    [
      'nor by one with an address',
      inline({ type: 'token-producer', parameters: { vllm: { url: 'http://t' } } }),
      {},
      false,
    ],
    [
      'nor by one that asks the pool',
      inline({ type: 'token-producer', parameters: { vllm: { fromPool: true } } }),
      {},
      false,
    ],
    ['nor beside one in the template', legacy, {}, false],
    ['is needed for events by upstream', inline({ type: 'precise-prefix-cache-scorer' }), upstream, true],
    ['and not by ours', inline({ type: 'precise-prefix-cache-scorer' }), {}, false],
    [
      'is found in arguments',
      { template: { containers: [{ name: 'main', args: ['--config-text', 'plugins: [{type: token-producer}]'] }] } },
      {},
      true,
    ],
    ['is not there with a pool of another', { tokenizer: {}, pool: { ref: { name: 'x' } } }, {}, false],
  ])('%s', (_, scheduler, facts, expected) => expect(hasTokenizer(contextOf(scheduler, facts))).toBe(expected));

  it('of a preset looks where the preset says, and the picker asks for the model by that folder', () => {
    const command = ['/bin/bash', '-c', 'exec vllm launch render /mnt/models/base --port=8000'];
    const scheduler: Scheduler = {
      tokenizer: { template: { containers: [{ name: 'main', command, args: [] }] } },
      ...inline({ type: 'token-producer' }),
    };
    const text = JSON.stringify(render(contextOf(scheduler)).filter(({ kind }) => kind === 'Deployment'));
    expect(text).toContain('"hf://Qwen/Qwen2.5-7B-Instruct","/mnt/models/base"');
    expect(text).toContain('modelName: /mnt/models/base');
    const main = render(contextOf(scheduler)).find(({ metadata }) => metadata.name === 'chat-kserve');
    expect(JSON.stringify(main)).not.toContain('/mnt/models/base');
  });
});

describe('a latency predictor', () => {
  const plugin = { type: 'predicted-latency-producer' };
  const brought: Scheduler = {
    ...inline(plugin),
    template: { containers: [{ name: 'prediction-server', image: 'p' }] },
  };
  it.each<readonly [string, Scheduler, Partial<Platform>, boolean]>([
    ['is not there by itself', {}, upstream, false],
    ['is beside upstream', inline(plugin), upstream, true],
    ['and not beside ours, which learns', inline(plugin), {}, false],
    [
      'unless it is pointed there',
      inline({ ...plugin, parameters: { trainingUrl: 'http://localhost:8000' } }),
      {},
      true,
    ],
    ['or has it in its template', brought, {}, true],
  ])('%s', (_, scheduler, facts, expected) => expect(hasPredictor(contextOf(scheduler, facts))).toBe(expected));

  it('keeps what the template says of its containers, and ours is told where they are', () => {
    const picker = render(contextOf(brought)).find(
      ({ kind, metadata }) => kind === 'Deployment' && metadata.name === 'chat-kserve-router-scheduler',
    );
    const { containers } = (picker as unknown as { readonly spec: { readonly template: { readonly spec: PodSpec } } })
      .spec.template.spec;
    expect(containers.map(({ name }) => name)).toEqual(['main', 'training-server', 'prediction-server']);
    expect(containers[2]?.image).toBe('p');
    expect(containers[0]?.args?.at(-1)).toContain('trainingUrl: http://localhost:8000');
  });
});

describe("upstream's sidecar", () => {
  const settings = {
    image: 'upstream/sidecar',
    port: 8000,
    decoderPort: 8001,
    prefillUrl: 'http://prefill:8000',
    connector: 'nixlv2',
    poolNamespace: 'ns',
    poolName: 'pool',
    sessionCacheSize: 10,
    flavour: 'upstream',
  } as const;
  const sidecarOf = (more: object) =>
    injectSidecar<Partial<PodSpec>>({}, { ...settings, ...more })?.initContainers?.[0];

  it('gets flags that it knows', () => {
    expect(sidecarOf({})?.args).toEqual([
      '--port=8000',
      '--vllm-port=8001',
      '--kv-connector=nixlv2',
      '--secure-proxy=false',
      '--enable-ssrf-protection=true',
      '--pool-group=inference.networking.k8s.io',
      '--inference-pool=ns/pool',
    ]);
    expect(sidecarOf({ poolGroup: 'inference.networking.x-k8s.io' })?.args).toContain(
      '--pool-group=inference.networking.x-k8s.io',
    );
  });

  it('speaks TLS on both legs', () => {
    const sidecar = sidecarOf({ tls: { volume: 'tls-certs', path: '/certs', serverName: 'x' } });
    expect(sidecar?.args).toEqual(
      expect.arrayContaining([
        '--secure-proxy=true',
        '--cert-path=/certs',
        '--enable-tls=decoder',
        '--enable-tls=prefiller',
      ]),
    );
    expect([sidecar?.ports?.[0]?.name, sidecar?.readinessProbe?.httpGet?.scheme]).toEqual(['https', 'HTTPS']);
  });
});
