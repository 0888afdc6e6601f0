import { describe, expect, it } from '@jest/globals';
import { fullRouter, llmService, platform } from '../../test/builders/service.ts';
import type { LLMInferenceService, LLMInferenceServiceSpec } from '../api/v1alpha2/llm-inference-service.ts';
import type { LLMInferenceServiceConfig } from '../api/v1alpha2/llm-inference-service-config.ts';
import { validateService, validateServiceConfig } from '../api/v1alpha2/validate.ts';
import { checkTemplates, combine } from './combine.ts';
import type { Platform } from './input.ts';
import { isWellKnownPreset, wellKnownPresets } from './preset-names.ts';
import { render } from './render.ts';
import { shippedPresets } from './shipped-presets.ts';

const shipped = shippedPresets({ namespace: 'signalbox-system', prefix: 'acme-', version: '1.2.3' });

/** Built in, and not repeated: a preset of these names that somebody makes is laid over what is built in, as any. */
const notShipped = ['config-llm-tokenizer', 'config-llm-scheduler-latency-predictor'];

describe('shipped presets', () => {
  it('have names that services look for, under any prefix, and say their release', () => {
    expect(shipped.every(({ metadata }) => isWellKnownPreset(metadata.name, 'acme-'))).toBe(true);
    expect(shipped.map(({ metadata }) => metadata.name.slice('acme-'.length)).sort()).toEqual(
      wellKnownPresets.filter((name) => !notShipped.includes(name)).sort(),
    );
    for (const { metadata } of shipped)
      expect(metadata.labels?.['signalbox.io/preset-release']).toMatch(/^1\.2\.3-[0-9a-f]{8}$/);
  });

  it.each(shipped.map((preset) => [preset.metadata.name, preset] as const))('%s is admitted', (_name, preset) => {
    expect(validateServiceConfig(preset)).toEqual([]);
    expect(checkTemplates(preset.spec, 'spec')).toEqual([]);
  });

  it('bring no commands and no arguments', () => {
    expect(JSON.stringify(shipped)).not.toMatch(/"(command|args|exec)"/);
  });
});

const main = (parts: object) => ({ containers: [{ name: 'main', ...parts }] });
const group = { template: main({}), worker: main({}) };

/** What a user may write that meets something in a preset. */
const cases: readonly (readonly [string, object, Partial<Platform>?, object?])[] = [
  ['another pre-stop hook', { template: main({ lifecycle: { preStop: { exec: { command: ['sleep', '1'] } } } }) }],
  ['another kind of probe', { template: main({ livenessProbe: { tcpSocket: { port: 8000 } } }) }],
  ['a part of a probe', { template: main({ startupProbe: { failureThreshold: 3600 } }) }],
  ['no probe', { template: main({ livenessProbe: null }) }],
  ['no security context', { template: main({ securityContext: null }) }],
  ['a user of its own', { template: main({ securityContext: { runAsUser: 5, capabilities: { add: ['IPC_LOCK'] } } }) }],
  [
    'an image model with a user of its own',
    {
      model: { uri: 'oci://example.org/model:1', name: 'chat' },
      template: main({ securityContext: { runAsUser: 5 } }),
    },
  ],
  [
    'environment',
    {
      template: main({
        env: [
          { name: 'A', value: 'b' },
          { name: 'HOME', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } },
        ],
      }),
    },
  ],
  ['no environment', { template: main({ env: [] }) }],
  [
    'a volume in place of ours',
    { template: { ...main({}), volumes: [{ name: 'model-cache', persistentVolumeClaim: { claimName: 'x' } }] } },
  ],
  ['a mount in place of ours', { template: main({ volumeMounts: [{ name: 'home', mountPath: '/mnt/model-cache' }] }) }],
  [
    'other containers first',
    {
      template: {
        containers: [
          { name: 'beside', image: 'x' },
          { name: 'main', image: 'y' },
        ],
      },
    },
  ],
  ['a command', { template: main({ command: ['python', '-m', 'x'], args: ['--port=8000'] }) }],
  ['arguments', { template: main({ args: ['--max-model-len', '8192'] }) }],
  ['a grace period', { template: { ...main({}), terminationGracePeriodSeconds: 5 } }],
  ['offloading', { kvCacheOffloading: { cpu: '10Gi' }, template: main({ image: 'vllm/vllm-openai:v0.22.0' }) }],
  ['a name with a quote', { model: { uri: 'hf://a/b', name: `it's "x"` }, router: fullRouter }],
  [
    'an adapter',
    {
      model: { uri: 'hf://a/b', name: 'b', lora: { adapters: [{ name: 'org/a', uri: 'hf://a/c' }] } },
      router: fullRouter,
    },
  ],
  ['no picker', { router: { gateway: {}, route: {} } }],
  ['no pools in the cluster', { router: fullRouter }, { served: { ...platform().served, pool: false } }],
  [
    'rules of its own',
    {
      router: {
        ...fullRouter,
        route: { http: { spec: { rules: [{ name: 'mine', matches: [{ path: { type: 'Exact', value: '/x' } }] }] } } },
      },
    },
  ],
  [
    'only rules of its own',
    { router: { ...fullRouter, route: { http: { spec: { rules: [{ name: 'mine' }] } } } } },
    {},
    { 'signalbox.io/route-rules': 'replace' },
  ],
  [
    'a rule in place of ours',
    { router: { ...fullRouter, route: { http: { spec: { rules: [{ name: 'v1-catch-all-path' }] } } } } },
  ],
  ['time-outs', { router: { ...fullRouter, route: { http: { spec: { rules: [{ timeouts: { request: '5s' } }] } } } } }],
  [
    'no routing by model',
    { annotations: { 'serving.kserve.io/model-based-routing-enabled': 'false' }, router: fullRouter },
  ],
  ['host names', { router: { ...fullRouter, route: { http: { spec: { hostnames: ['a.example'] } } } } }],
  ['routes of its own', { router: { scheduler: {}, route: { http: { refs: [{ name: 'r' }] } } } }],
  ['a gateway', { router: { ...fullRouter, gateway: { refs: [{ name: 'g', namespace: 'n', sectionName: 's' }] } } }],
  [
    'unique rule names',
    { router: fullRouter },
    { routing: { ...platform().routing, needsUniqueNames: true, omitsTimeouts: true, modelHeader: 'X-Model' } },
  ],
  [
    'a picker of its own',
    {
      router: {
        ...fullRouter,
        scheduler: {
          replicas: 2,
          template: main({
            image: 'p',
            args: ['--v=5'],
            resources: { limits: { cpu: '1' } },
            livenessProbe: { httpGet: { path: '/', port: 1 } },
          }),
        },
      },
    },
  ],
  [
    'a pool of its own making',
    {
      router: {
        ...fullRouter,
        scheduler: {
          pool: {
            spec: { targetPorts: [{ number: 8080 }], endpointPickerRef: { name: 'other', failureMode: 'FailClose' } },
          },
        },
      },
    },
  ],
  [
    'strict networks',
    { router: fullRouter, prefill: {} },
    { network: { mode: 'strict', callers: [], scrapers: ['m'] } },
  ],
  ['open networks', { router: fullRouter, prefill: {} }, { network: { mode: 'internal', callers: [], scrapers: [] } }],
  ['data parallel', { ...group, parallelism: { data: 8, dataLocal: 2 }, router: fullRouter }],
  [
    'data parallel with prefill',
    {
      ...group,
      parallelism: { data: 4, dataLocal: 1 },
      prefill: { ...group, parallelism: { data: 4, dataLocal: 2 } },
      router: fullRouter,
    },
  ],
  ['pipeline', { ...group, parallelism: { pipeline: 2 }, router: fullRouter }],
  [
    'pipeline with prefill',
    { ...group, parallelism: { pipeline: 2 }, prefill: { ...group, parallelism: { pipeline: 4 } }, router: fullRouter },
  ],
  ['traces', { tracing: { samplerArg: '1' }, router: fullRouter, prefill: {} }],
  ['traces that go nowhere', { tracing: { exporterEndpoint: '' } }],
];

describe('a service over the shipped presets is what it is without them', () => {
  it.each(cases)('%s', (_what, spec, facts = {}, annotations = {}) => {
    const service = llmService({
      spec: spec as Partial<LLMInferenceServiceSpec>,
      annotations: annotations as Record<string, string>,
    });
    const cluster = platform(facts);
    const without = renderOver(service, [], cluster);
    const over = renderOver(service, shipped, cluster);
    expect(over.presets).toBeGreaterThan(0);
    expect(over.manifests).toEqual(without.manifests);
    expect(over.issues).toEqual(without.issues);
  });
});

function renderOver(service: LLMInferenceService, configs: readonly LLMInferenceServiceConfig[], facts: Platform) {
  const combination = combine({
    service,
    find: (wanted) => configs.find(({ metadata }) => metadata.name === wanted),
    prefix: 'acme-',
    settings: {
      systemNamespace: 'signalbox-system',
      gatewayName: facts.gateway.name,
      gatewayNamespace: facts.gateway.namespace,
      enableTls: false,
      modelRoutingHeader: facts.routing.modelHeader,
    },
  });
  if (combination.kind !== 'combined') throw new Error(combination.message);
  return {
    presets: combination.applied.length,
    issues: validateService({ ...service, spec: combination.effective }),
    manifests: render({ service, effective: combination.effective, platform: facts }),
  };
}
