import { describe, expect, it } from '@jest/globals';
import { fullRouter, llmService, platform, prefillDecodeService } from '../../../test/builders/service.ts';
import type { Container, PodSpec } from '../../api/foreign/pod.ts';
import type { LLMInferenceService, LLMInferenceServiceSpec } from '../../api/v1alpha2/llm-inference-service.ts';
import { render } from '../render.ts';
import { bytesOf, requireOffloading } from './kv-cache.ts';

const image = 'vllm/vllm-openai:v0.22.1';
const base = platform();
const podOf = (service: LLMInferenceService, name = 'chat-kserve'): PodSpec => {
  const manifests = render({
    service,
    effective: service.spec,
    platform: { ...base, images: { ...base.images, vllm: image } },
  });
  const found = manifests.find(({ kind, metadata }) => kind === 'Deployment' && metadata.name === name);
  return (found as unknown as { readonly spec: { readonly template: { readonly spec: PodSpec } } }).spec.template.spec;
};
const mainOf = (pod: PodSpec): Container => pod.containers.find(({ name }) => name === 'main') as Container;
const transferOf = (pod: PodSpec) => {
  const args = mainOf(pod).args ?? [];
  const at = args.indexOf('--kv-transfer-config');
  return at < 0 ? undefined : JSON.parse(args[at + 1] ?? '');
};
const offloading: NonNullable<LLMInferenceServiceSpec['kvCacheOffloading']> = {
  cpu: '10Gi',
  evictionPolicy: 'arc',
  secondary: [
    { fileSystem: { emptyDir: { size: '100Gi' } } },
    { fileSystem: { pvc: { spec: { accessModes: ['ReadWriteOnce'] } } } },
    { fileSystem: { pvc: { ref: { name: 'shared', path: 'kv' } } } },
  ],
};
const connector = {
  kv_connector: 'OffloadingConnector',
  kv_role: 'kv_both',
  kv_connector_extra_config: {
    spec_name: 'TieringOffloadingSpec',
    cpu_bytes_to_use: 10 * 2 ** 30,
    eviction_policy: 'arc',
    secondary_tiers: [0, 1, 2].map((i) => ({ type: 'fs', root_dir: `/mnt/kv-cache-${i}` })),
  },
};
const nixl = { kv_connector: 'NixlConnector', kv_role: 'kv_both' };

describe('offloading of the KV cache', () => {
  const pod = podOf(llmService({ spec: { kvCacheOffloading: offloading } }));

  it('is one connector with its tiers', () => expect(transferOf(pod)).toEqual(connector));

  it('has a volume and a place for each tier', () => {
    expect(pod.volumes?.filter(({ name }) => name.startsWith('kv-cache'))).toEqual([
      { name: 'kv-cache-secondary-0', emptyDir: { sizeLimit: '100Gi' } },
      {
        name: 'kv-cache-secondary-1',
        ephemeral: { volumeClaimTemplate: { spec: { accessModes: ['ReadWriteOnce'] } } },
      },
      { name: 'kv-cache-secondary-2', persistentVolumeClaim: { claimName: 'shared' } },
    ]);
    expect(mainOf(pod).volumeMounts?.filter(({ name }) => name.startsWith('kv-cache'))).toEqual([
      { name: 'kv-cache-secondary-0', mountPath: '/mnt/kv-cache-0' },
      { name: 'kv-cache-secondary-1', mountPath: '/mnt/kv-cache-1' },
      { name: 'kv-cache-secondary-2', mountPath: '/mnt/kv-cache-2', subPath: 'kv' },
    ]);
  });

  it('shares the way with transfers between pods', () => {
    const split = prefillDecodeService({ spec: { kvCacheOffloading: offloading } });
    expect(transferOf(podOf(split))).toEqual({
      kv_connector: 'MultiConnector',
      kv_role: 'kv_both',
      kv_connector_extra_config: { connectors: [nixl, connector] },
    });
    expect(transferOf(podOf(split, 'chat-kserve-prefill'))).toEqual(nixl);
    const prefill = prefillDecodeService({ spec: { prefill: { kvCacheOffloading: { cpu: 1e9 } } } });
    expect(transferOf(podOf(prefill))).toEqual(nixl);
    const both = transferOf(podOf(prefill, 'chat-kserve-prefill'));
    expect(both.kv_connector_extra_config.connectors[1].kv_connector_extra_config).toEqual({
      spec_name: 'TieringOffloadingSpec',
      cpu_bytes_to_use: 1e9,
      eviction_policy: 'lru',
      secondary_tiers: [],
    });
  });

  it('has room: shared memory, and what the template asks for', () => {
    const resources = { requests: { memory: '20Gi' }, limits: { memory: '30Gi', cpu: '4' } };
    const template = { containers: [{ name: 'main', resources }] };
    const grown = podOf(llmService({ spec: { kvCacheOffloading: offloading, template } }));
    const shared = (one: PodSpec) => one.volumes?.find(({ name }) => name === 'dshm')?.emptyDir?.sizeLimit;
    expect(shared(grown)).toBe(`${13 * 1024}Mi`);
    expect(mainOf(grown).resources).toEqual({
      requests: { memory: `${32 * 1024}Mi`, 'ephemeral-storage': `${100 * 1024}Mi` },
      limits: { memory: `${42 * 1024}Mi`, cpu: '4' },
    });
    const own = { name: 'dshm', emptyDir: { medium: 'Memory', sizeLimit: '4Gi' } };
    expect(
      shared(
        podOf(llmService({ spec: { kvCacheOffloading: offloading, template: { containers: [], volumes: [own] } } })),
      ),
    ).toBe(`${16 * 1024}Mi`);
    expect(shared(podOf(llmService()))).toBe('1Gi');
  });

  it("gives way to the user's own connector", () => {
    const template = { containers: [{ name: 'main', args: ['--kv-transfer-config', '{"a":1}'] }] };
    const own = podOf(llmService({ spec: { kvCacheOffloading: offloading, template } }));
    expect(transferOf(own)).toEqual({ a: 1 });
  });

  it.each([
    ['vllm/vllm-openai:v0.21.3', true],
    ['host:5000/a/vllm:0.9', true],
    ['vllm/vllm-openai:v0.22.0', false],
    ['vllm/vllm-openai:v0.22.0-cu129', false],
    ['vllm/vllm-openai:v1.0.0', false],
    ['vllm/vllm-openai:latest', false],
    ['mine/server:v0.1.0', false],
    [`vllm/vllm-openai@sha256:${'0'.repeat(64)}`, false],
  ])('%s is refused: %s', (tag, refused) => {
    const require = () => requireOffloading(tag);
    if (refused) expect(require).toThrow(/needs vLLM 0\.22 or newer.*give it a newer image/);
    else expect(require).not.toThrow();
  });
});

describe('bytesOf', () => {
  it.each<[string | number, number]>([
    ['1Gi', 2 ** 30],
    ['1.5k', 1500],
    ['1e3', 1000],
    ['500m', 1],
    ['2E', 2e18],
    [7, 7],
  ])('%s', (text, bytes) => expect(bytesOf(text)).toBe(bytes));
  it('refuses what is no amount', () => expect(() => bytesOf('much')).toThrow(/not an amount of bytes/));
});

describe('tracing', () => {
  const spec = { router: fullRouter, prefill: {}, tracing: { samplerArg: '1' } };
  const envOf = (pod: PodSpec) => Object.fromEntries((mainOf(pod).env ?? []).map(({ name, value }) => [name, value]));

  it('tells servers and picker where to send traces', () => {
    const service = llmService({ spec });
    const common = {
      OTEL_EXPORTER_OTLP_ENDPOINT: 'http://otel-collector:4317',
      OTEL_TRACES_EXPORTER: 'otlp',
      OTEL_TRACES_SAMPLER: 'parentbased_traceidratio',
      OTEL_TRACES_SAMPLER_ARG: '1',
    };
    for (const [name, serviceName] of [
      ['chat-kserve', 'inference-server-decode'],
      ['chat-kserve-prefill', 'inference-server-prefill'],
      ['chat-kserve-router-scheduler', 'inference-scheduler'],
    ] as const)
      expect(envOf(podOf(service, name))).toMatchObject({ ...common, OTEL_SERVICE_NAME: serviceName });
    expect(mainOf(podOf(service)).args?.join(' ')).toContain(
      '--otlp-traces-endpoint http://otel-collector:4317 --collect-detailed-traces all',
    );
    expect(mainOf(podOf(service, 'chat-kserve-router-scheduler')).args).toContain('--tracing=true');
    expect(envOf(podOf(llmService({ spec: { tracing: {} } }))).OTEL_SERVICE_NAME).toBe('inference-server');
  });

  it('names the pod through variables that stand before', () => {
    const env = mainOf(podOf(llmService({ spec }))).env ?? [];
    const names = env.map(({ name }) => name);
    const attributes = env.find(({ name }) => name === 'OTEL_RESOURCE_ATTRIBUTES')?.value ?? '';
    expect(attributes).toBe(
      'k8s.namespace.name=default,k8s.node.name=$(OTEL_RESOURCE_ATTRIBUTES_NODE_NAME),k8s.pod.name=$(OTEL_RESOURCE_ATTRIBUTES_POD_NAME),llmisvc.name=chat',
    );
    for (const [, used = ''] of attributes.matchAll(/\$\((\w+)\)/g))
      expect(names.indexOf(used)).toBeLessThan(names.indexOf('OTEL_RESOURCE_ATTRIBUTES'));
  });

  it("gives way to the template's own, and sends nothing without an endpoint", () => {
    const template = {
      containers: [
        {
          name: 'main',
          env: [{ name: 'OTEL_SERVICE_NAME', value: 'mine' }],
          args: ['--collect-detailed-traces=model'],
        },
      ],
    };
    const pod = podOf(llmService({ spec: { ...spec, template } }));
    expect(envOf(pod).OTEL_SERVICE_NAME).toBe('mine');
    expect(mainOf(pod).args).not.toContain('--collect-detailed-traces');
    const silent = podOf(llmService({ spec: { tracing: { exporterEndpoint: '' } } }));
    expect(mainOf(silent).args?.join(' ')).not.toContain('otlp');
    expect(JSON.stringify(podOf(llmService()))).not.toMatch(/OTEL|otlp/);
  });
});
