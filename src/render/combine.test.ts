import { describe, expect, it } from '@jest/globals';
import { fullRouter, llmService } from '../../test/builders/service.ts';
import type { LLMInferenceServiceSpec } from '../api/v1alpha2/llm-inference-service.ts';
import type { LLMInferenceServiceConfig } from '../api/v1alpha2/llm-inference-service-config.ts';
import { combine } from './combine.ts';
import { mergeSpec } from './merge.ts';
import { presetNames } from './preset-names.ts';

const settings = {
  systemNamespace: 'signalbox-system',
  gatewayName: 'signalbox-gateway',
  gatewayNamespace: 'signalbox-system',
  enableTls: false,
  modelRoutingHeader: 'X-Gateway-Model-Name',
};

type ConfigSpec = NonNullable<LLMInferenceServiceConfig['spec']>;

/** Configurations by name, all in the system namespace. */
function finder(configs: Readonly<Record<string, object>>) {
  return (name: string): LLMInferenceServiceConfig | undefined => {
    const spec = configs[name];
    return spec === undefined
      ? undefined
      : {
          apiVersion: 'serving.kserve.io/v1alpha2',
          kind: 'LLMInferenceServiceConfig',
          metadata: { name, namespace: 'signalbox-system' },
          spec: spec as ConfigSpec,
        };
  };
}

function combined(own: Partial<LLMInferenceServiceSpec>, configs: Readonly<Record<string, object>> = {}) {
  const service = llmService({ spec: own });
  return combine({ service, find: finder(configs), prefix: 'kserve-', settings });
}

function effective(own: Partial<LLMInferenceServiceSpec>, configs: Readonly<Record<string, object>> = {}) {
  const result = combined(own, configs);
  if (result.kind !== 'combined') throw new Error(result.message);
  return result.effective;
}

const base = (...names: readonly string[]) => ({ baseRefs: names.map((name) => ({ name })) });
const main = (parts: object) => ({ containers: [{ name: 'main', ...parts }] });

describe('mergeSpec', () => {
  it.each<[string, object, object, object]>([
    ['false wins', { a: true }, { a: false }, { a: false }],
    ['zero wins', { replicas: 3 }, { replicas: 0 }, { replicas: 0 }],
    ['an empty text wins', { labels: { a: 'x' } }, { labels: { a: '' } }, { labels: { a: '' } }],
    ['maps merge by key', { labels: { a: '1', b: '2' } }, { labels: { b: '3' } }, { labels: { a: '1', b: '3' } }],
    ['null takes away', { labels: { a: '1' }, x: 1 }, { labels: null }, { x: 1 }],
    [
      'null in a pod stays, for what is built in goes too',
      { prefill: { template: main({ env: [], livenessProbe: { periodSeconds: 1 } }) } },
      { prefill: { template: main({ livenessProbe: null }) } },
      { prefill: { template: main({ env: [], livenessProbe: null }) } },
    ],
    ['undefined says nothing', { x: 1 }, { x: undefined }, { x: 1 }],
    [
      'args are replaced',
      { template: main({ args: ['a'] }) },
      { template: main({ args: ['b'] }) },
      { template: main({ args: ['b'] }) },
    ],
    [
      'empty args win',
      { template: main({ args: ['a'] }) },
      { template: main({ args: [] }) },
      { template: main({ args: [] }) },
    ],
    [
      'tolerations are replaced',
      { template: { tolerations: [1, 2] } },
      { template: { tolerations: [] } },
      { template: { tolerations: [] } },
    ],
    [
      'empty keyed lists clear',
      { template: { volumes: [{ name: 'a' }] } },
      { template: { volumes: [] } },
      { template: { volumes: [] } },
    ],
    [
      'an empty list of containers says nothing',
      { template: main({ image: 'i' }) },
      { template: { containers: [] } },
      { template: main({ image: 'i' }) },
    ],
    [
      'containers and variables merge by name',
      {
        template: main({
          image: 'i',
          env: [
            { name: 'A', value: '1' },
            { name: 'B', value: '2' },
          ],
        }),
      },
      {
        template: {
          containers: [
            {
              name: 'main',
              env: [
                { name: 'B', valueFrom: { x: 1 } },
                { name: 'C', value: '' },
              ],
            },
            { name: 'other' },
          ],
        },
      },
      {
        template: {
          containers: [
            {
              name: 'main',
              image: 'i',
              env: [
                { name: 'A', value: '1' },
                { name: 'B', valueFrom: { x: 1 } },
                { name: 'C', value: '' },
              ],
            },
            { name: 'other' },
          ],
        },
      },
    ],
    [
      'mounts merge by path',
      { volumeMounts: [{ mountPath: '/a', name: 'x' }] },
      { volumeMounts: [{ mountPath: '/a', name: 'y' }] },
      { volumeMounts: [{ mountPath: '/a', name: 'y' }] },
    ],
    [
      'ports merge by number',
      { ports: [{ containerPort: 1, name: 'x' }] },
      { ports: [{ containerPort: 1, protocol: 'TCP' }] },
      { ports: [{ containerPort: 1, name: 'x', protocol: 'TCP' }] },
    ],
    [
      'a volume has one source',
      { volumes: [{ name: 'a', emptyDir: {} }] },
      { volumes: [{ name: 'a', hostPath: {} }] },
      { volumes: [{ name: 'a', hostPath: {} }] },
    ],
    [
      'a probe has one handler',
      { readinessProbe: { httpGet: { port: 1 }, periodSeconds: 3 } },
      { readinessProbe: { exec: {} } },
      { readinessProbe: { exec: {}, periodSeconds: 3 } },
    ],
    [
      'a handler merges with its like',
      { readinessProbe: { httpGet: { port: 1, path: '/a' } } },
      { readinessProbe: { httpGet: { port: 2 } } },
      { readinessProbe: { httpGet: { port: 2, path: '/a' } } },
    ],
    ['replicas push scaling out', { scaling: { maxReplicas: 2 } }, { replicas: 1 }, { replicas: 1 }],
    [
      'scaling pushes replicas out, in prefill too',
      { prefill: { replicas: 2 } },
      { prefill: { scaling: {} } },
      { prefill: { scaling: {} } },
    ],
    ['one scaler', { scaling: { wva: {} } }, { scaling: { keda: {} } }, { scaling: { keda: {} } }],
    [
      'picker configuration is one or the other',
      { router: { scheduler: { config: { inline: {} } } } },
      { router: { scheduler: { config: { ref: {} } } } },
      { router: { scheduler: { config: { ref: {} } } } },
    ],
    [
      'picker configuration is taken as a whole',
      { config: { inline: { plugins: [1], a: 1 } } },
      { config: { inline: { plugins: [2] } } },
      { config: { inline: { plugins: [2] } } },
    ],
    [
      'rules are replaced',
      { http: { spec: { rules: [1], hostnames: ['a'] } } },
      { http: { spec: { rules: [2] } } },
      { http: { spec: { rules: [2], hostnames: ['a'] } } },
    ],
  ])('%s', (_, lower, higher, expected) => {
    expect(mergeSpec(lower, higher)).toEqual(expected);
  });
});

describe('presetNames', () => {
  const worker = { containers: [] };
  const inline = (type: string) => ({ router: { scheduler: { config: { inline: { plugins: [{ type }] } } } } });
  it.each<[Partial<LLMInferenceServiceSpec>, readonly string[]]>([
    [{}, ['template']],
    [{ router: fullRouter }, ['scheduler', 'router-route', 'template']],
    [{ router: { scheduler: { pool: { ref: { name: 'p' } } } } }, ['template']],
    [{ router: { route: { http: { refs: [{ name: 'r' }] } } } }, ['template']],
    [{ tracing: {} }, ['tracing', 'template']],
    [{ prefill: {} }, ['prefill-template', 'decode-template']],
    [{ worker, parallelism: { data: 2, dataLocal: 1 } }, ['worker-data-parallel']],
    [{ worker, parallelism: { pipeline: 2 } }, ['worker-pipeline-parallel']],
    [{ worker }, []],
    [
      { prefill: { worker, parallelism: { data: 2, dataLocal: 1 } }, worker, parallelism: { pipeline: 2 } },
      ['prefill-worker-data-parallel', 'decode-worker-pipeline-parallel'],
    ],
    [{ router: { scheduler: { tokenizer: {} } } }, ['scheduler', 'tokenizer', 'template']],
    [inline('token-producer'), ['scheduler', 'tokenizer', 'template']],
    [inline('predicted-latency-producer'), ['scheduler', 'scheduler-latency-predictor', 'template']],
    [
      { router: { scheduler: { template: main({ args: ['--config-text', 'plugins: [{type: token-producer}]'] }) } } },
      ['scheduler', 'tokenizer', 'template'],
    ],
  ])('%j', (spec, expected) => {
    expect(presetNames({ model: { uri: 'hf://a/b' }, ...spec })).toEqual(expected.map((name) => `config-llm-${name}`));
  });
});

describe('combine', () => {
  it('leaves a service without bases as it is', () => {
    const result = combined({ replicas: 2 });
    expect(result).toMatchObject({
      kind: 'combined',
      applied: [],
      effective: { replicas: 2, model: { name: 'chat' } },
    });
  });

  it('lays presets below bases in their order below the service', () => {
    const configs = {
      'kserve-config-llm-template': { replicas: 1, labels: { preset: 'p', all: 'p' } },
      one: { labels: { one: '1', all: '1' } },
      two: { labels: { two: '2', all: '2' }, replicas: 5 },
    };
    const own = { ...base('one', 'two'), labels: { own: 'o' } };
    expect(effective(own, configs)).toMatchObject({
      replicas: 5,
      labels: { preset: 'p', one: '1', two: '2', own: 'o', all: '2' },
    });
    const result = combined(own, configs);
    expect(result.applied).toEqual([
      { name: 'kserve-config-llm-template', namespace: 'signalbox-system', source: 'Preset' },
      { name: 'one', namespace: 'signalbox-system', source: 'UserRef' },
      { name: 'two', namespace: 'signalbox-system', source: 'UserRef' },
    ]);
    expect(['spec.replicas', 'spec.labels.one', 'spec.labels.own', 'spec.model.uri'].map(result.sourceOf)).toEqual([
      'signalbox-system/two',
      'signalbox-system/one',
      undefined,
      undefined,
    ]);
  });

  it('never lets a base override the service', () => {
    const configs = { one: { model: { name: 'theirs', uri: 'hf://x/y' }, replicas: 9 } };
    expect(effective({ ...base('one'), replicas: 0 }, configs)).toMatchObject({
      replicas: 0,
      model: { name: 'chat', uri: 'hf://Qwen/Qwen2.5-7B-Instruct' },
    });
  });

  it('chooses presets by what bases turn on', () => {
    const configs = {
      pd: { prefill: { replicas: 1 } },
      'kserve-config-llm-decode-template': { labels: { a: 'decode' } },
    };
    expect(effective(base('pd'), configs).labels).toEqual({ a: 'decode' });
  });

  it('names every base that is missing', () => {
    expect(combined(base('a', 'b'))).toMatchObject({
      kind: 'notFound',
      message: expect.stringContaining('no LLMInferenceServiceConfig a, b in default nor in signalbox-system'),
    });
  });

  it('shows templates the merged spec', () => {
    const script = [
      'vllm serve /mnt/models \\',
      '  --served-model-name "{{ .Spec.Model.Name }}" publishers/{{ .ObjectMeta.Namespace }}/models/{{ .Spec.Model.Name }} \\',
      '  {{- if .Spec.Parallelism.Expert -}}--enable-expert-parallel{{- end }} \\',
      '  {{- if .Spec.Parallelism.Tensor -}}--tensor-parallel-size {{ .Spec.Parallelism.Tensor }}{{- end }} \\',
      '  --data-parallel-size {{ or .Spec.Parallelism.Data 1 }} \\',
      '  {{ if .GlobalConfig.EnableTLS }}--enable-ssl-refresh{{- end }} \\',
      '  --shutdown-timeout {{ shutdownTimeout .Spec.Template 15 }} {{ kvTransferConfig .Spec.KVCacheOffloading }}',
    ].join('\n');
    const configs = {
      'kserve-config-llm-template': { template: main({ command: ['/bin/bash', '-c', script, '--'] }) },
      tensor: { parallelism: { tensor: 4 } },
    };
    const spec = effective(
      { ...base('tensor'), template: { containers: [], terminationGracePeriodSeconds: 120 } },
      configs,
    );
    expect(spec.template?.containers?.[0]?.command?.[2]).toBe(
      [
        'vllm serve /mnt/models \\',
        '  --served-model-name "chat" publishers/default/models/chat \\',
        ' \\',
        '--tensor-parallel-size 4 \\',
        '  --data-parallel-size 1 \\',
        '   \\',
        '  --shutdown-timeout 100 ',
      ].join('\n'),
    );
  });

  it.each<[string, string]>([
    ['{{ ChildName .ObjectMeta.Name `-inference-pool` }}', 'chat-inference-pool'],
    ['{{ .Name }}.{{ .Namespace }}', 'chat.default'],
    ['{{ .GlobalConfig.InferencePoolNamespacedName }}', 'default/chat-inference-pool'],
    [
      '{{ .GlobalConfig.IngressGatewayNamespace }}/{{ .GlobalConfig.IngressGatewayName }}',
      'signalbox-system/signalbox-gateway',
    ],
    ['{{ .Spec.WorkloadSpec.Replicas }} {{ .Spec.Prefill }} {{ .Spec.Labels.a }}', '3 <nil> "quoted"'],
    [
      '{{ range .Spec.Template.Containers }}{{ .Name }} {{ range .Env }}{{ .Name }}={{ .Value }};{{ end }}{{ end }}',
      'main X=1;Y=;',
    ],
    ['{{ index .ObjectMeta.Labels "none" }}{{ .Spec.Model.URI }}', 'hf://Qwen/Qwen2.5-7B-Instruct'],
    ['{{ .Spec.Parallelism.DataRPCPort }} {{ .Spec.Parallelism.Expert }}', '<nil> false'],
    ['{{ kvTransferConfig .Spec.KVCacheOffloading }}', ''],
  ])('renders %s', (template, expected) => {
    const own = {
      replicas: 3,
      labels: { a: '"quoted"' },
      parallelism: {},
      template: main({
        env: [
          { name: 'X', value: '1' },
          { name: 'Y', valueFrom: {} },
        ],
      }),
    };
    expect(effective({ ...base('t'), ...own }, { t: { annotations: { x: template } } }).annotations?.x).toBe(expected);
  });

  it('writes the tiers of offloading as an argument', () => {
    const kvCacheOffloading = { cpu: '1Gi', secondary: [{ fileSystem: { emptyDir: { size: '1Gi' } } }] };
    const text = '{{ kvTransferConfig .Spec.KVCacheOffloading }}';
    const argument =
      effective({ ...base('t'), kvCacheOffloading }, { t: { annotations: { x: text } } }).annotations?.x ?? '';
    const json = /^--kv-transfer-config '(.*)'$/.exec(argument)?.[1]?.replaceAll('\\"', '"');
    expect(JSON.parse(json ?? '')).toMatchObject({
      kv_connector: 'OffloadingConnector',
      kv_connector_extra_config: {
        cpu_bytes_to_use: 1_073_741_824,
        secondary_tiers: [{ type: 'fs', root_dir: '/mnt/kv-cache-0' }],
      },
    });
  });

  it.each<[string, object, readonly string[]]>([
    [
      'an unknown field',
      { annotations: { x: '{{ .Spec.Nothing }}' } },
      ['spec.annotations.x', "can't evaluate field Nothing", 'signalbox-system/t'],
    ],
    ['a nil pointer', { annotations: { x: '{{ .Spec.Parallelism.Tensor }}' } }, ['nil pointer evaluating .Tensor']],
    [
      'bad syntax',
      { template: main({ args: ['ok', '{{ end }}'] }) },
      ['spec.template.containers[0].args[1]', 'line 1', '(from LLMInferenceServiceConfig signalbox-system/t)'],
    ],
    ['a value of the wrong type', { replicas: 'many' }, ['spec.replicas', 'number', 'signalbox-system/t']],
  ])('refuses %s, saying where it comes from', (_, spec, texts) => {
    const result = combined(base('t'), { t: spec });
    expect(result.kind).toBe('invalid');
    for (const text of texts) expect((result as { readonly message: string }).message).toContain(text);
  });

  it('leaves the default Gateway and the Gateways of the service to the renderer', () => {
    const rules = [
      {
        backendRefs: [
          {
            kind: 'InferencePool',
            group: 'inference.networking.x-k8s.io',
            name: '{{ ChildName .ObjectMeta.Name `-inference-pool` }}',
          },
        ],
      },
    ];
    const route = (name: string) => ({
      router: { route: { http: { spec: { parentRefs: [{ name, namespace: 'signalbox-system' }], rules } } } },
    });
    const own = { router: { route: {}, gateway: {} } };
    const specOf = (spec: LLMInferenceServiceSpec) => spec.router?.route?.http?.spec;
    const configs = { 'kserve-config-llm-router-route': route('{{ .GlobalConfig.IngressGatewayName }}') };
    expect(specOf(effective(own, configs))).toEqual({
      rules: [{ backendRefs: [expect.objectContaining({ name: 'chat-inference-pool' })] }],
    });
    const other = { 'kserve-config-llm-router-route': route('other') };
    expect(specOf(effective(own, other))?.parentRefs).toHaveLength(1);
    expect(
      specOf(effective({ router: { ...own.router, gateway: { refs: [{ name: 'mine' }] } } }, other))?.parentRefs,
    ).toBeUndefined();
  });

  it('tells a sidecar of a preset its pool and waits for no certificates', () => {
    const pod = {
      initContainers: [{ name: 'llm-d-routing-sidecar', image: 's' }],
      volumes: [
        { name: 'tls', secret: { secretName: '{{ ChildName .ObjectMeta.Name `-kserve-self-signed-certs` }}' } },
      ],
    };
    const { template } = effective({ prefill: {} }, { 'kserve-config-llm-decode-template': { template: pod } });
    expect(template?.initContainers?.[0]?.env).toEqual([{ name: 'INFERENCE_POOL_NAME', value: 'chat-inference-pool' }]);
    expect(template?.volumes).toEqual([
      { name: 'tls', secret: { secretName: 'chat-kserve-self-signed-certs', optional: true } },
    ]);
  });
});
