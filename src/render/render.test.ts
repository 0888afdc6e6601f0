import { describe, expect, it } from '@jest/globals';
import { llmService, platform, prefillDecodeService } from '../../test/builders/service.ts';
import type { Container, PodSpec } from '../api/foreign/pod.ts';
import type { LLMInferenceService } from '../api/v1alpha2/llm-inference-service.ts';
import type { Manifest } from '../kube/object.ts';
import { mergePod } from './merge.ts';
import { completeResources } from './pod/resources.ts';
import { injectSidecar, parseSidecarSettings } from './pod/sidecar.ts';
import { hasFlag, splitWords } from './pod/vllm-args.ts';
import { render } from './render.ts';

const renderService = (service: LLMInferenceService, parts = {}): readonly Manifest[] =>
  render({ service, effective: service.spec, platform: platform(parts) });

interface Deployment {
  readonly spec: {
    readonly selector: unknown;
    readonly template: {
      readonly metadata: {
        readonly labels: Readonly<Record<string, string>>;
        readonly annotations?: Readonly<Record<string, string>>;
      };
      readonly spec: PodSpec;
    };
  };
}
const deployment = (manifests: readonly Manifest[], name: string): Deployment => {
  const found = manifests.find((manifest) => manifest.kind === 'Deployment' && manifest.metadata.name === name);
  if (!found) throw new Error(`no Deployment ${name}`);
  return found as unknown as Deployment;
};
const argsOf = (found: Deployment, container = 'main') =>
  found.spec.template.spec.containers.find(({ name }) => name === container)?.args ?? [];
const kindsOf = (manifests: readonly Manifest[]) =>
  manifests.map((manifest) => `${manifest.kind}/${manifest.metadata.name}`).sort();

describe('selectors', () => {
  it.each([
    ['labels are added', { labels: { team: 'a' } }],
    ['labels try to take the name', { labels: { 'app.kubernetes.io/name': 'x', 'app.kubernetes.io/component': 'y' } }],
    ['prefill is added', { prefill: {} }],
  ])('stay the same when %s', (_what, spec) => {
    const before = deployment(renderService(llmService()), 'chat-kserve');
    const after = deployment(renderService(llmService({ spec })), 'chat-kserve');
    expect(after.spec.selector).toEqual(before.spec.selector);
    expect(after.spec.template.metadata.labels).toMatchObject(
      (before.spec.selector as { readonly matchLabels: object }).matchLabels,
    );
  });
});

describe('the picker configuration', () => {
  const config = (service: LLMInferenceService) =>
    argsOf(deployment(renderService(service), 'chat-kserve-router-scheduler')).at(-1);
  const router = { gateway: {}, route: {}, scheduler: {} };

  it('follows the topology on every render', () => {
    expect(config(llmService({ spec: { router } }))).toContain('single-profile-handler');
    expect(config(prefillDecodeService())).toContain('always-disagg-pd-decider');
  });

  it('is the inline one where there is one', () => {
    const inline = { apiVersion: 'llm-d.ai/v1alpha1', kind: 'EndpointPickerConfig', plugins: [] };
    expect(config(prefillDecodeService({ spec: { router: { ...router, scheduler: { config: { inline } } } } }))).toBe(
      'apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins: []\n',
    );
  });
});

describe('kinds that are not served', () => {
  it('are not rendered; the route then leads to the Service', () => {
    const all = renderService(prefillDecodeService(), {
      served: {
        gatewayApi: true,
        pool: false,
        xPool: false,
        leaderWorkerSet: true,
        scaledObject: true,
        deviceClaims: true,
      },
    });
    expect(kindsOf(all).filter((kind) => kind.startsWith('InferencePool') || kind.includes('epp'))).toEqual([]);
    expect(JSON.stringify(all.find((manifest) => manifest.kind === 'HTTPRoute'))).not.toContain('InferencePool');
    const none = renderService(prefillDecodeService(), {
      served: {
        gatewayApi: false,
        pool: true,
        xPool: false,
        leaderWorkerSet: true,
        scaledObject: true,
        deviceClaims: true,
      },
    });
    expect(kindsOf(none).filter((kind) => /Gateway|HTTPRoute/.test(kind))).toEqual([]);
  });
});

describe('arguments of vLLM', () => {
  it.each([
    ['', []],
    ['  --a  b ', ['--a', 'b']],
    [`--x='{"a": 1}' "b \\"c\\" $d" e\\ f ''`, ['--x={"a": 1}', 'b "c" $d', 'e f', '']],
    ['a"b"c', ['abc']],
    ['"\\n"', ['\\n']],
  ])('%j splits as a shell splits it', (text, words) => expect(splitWords(text)).toEqual(words));

  it.each(["'a", '"a', '"a\\"'])('%s is refused', (text) => expect(() => splitWords(text)).toThrow(/not closed/));

  it('knows a flag in every spelling', () => {
    expect(hasFlag(['--a=1'], '--a') && hasFlag(['--a', '1'], '--a') && hasFlag(['--a.b', '1'], '--a')).toBe(true);
    expect(hasFlag(['--ab'], '--a')).toBe(false);
  });

  it('of the user take the place of ours', () => {
    const own = ['--kv-transfer-config', '{}', '--served-model-name=x', '-tp', '8'];
    const template = { containers: [{ name: 'main', args: own }] };
    const service = prefillDecodeService({ spec: { template, parallelism: { tensor: 2 } } });
    expect(argsOf(deployment(renderService(service), 'chat-kserve'))).toEqual([
      'Qwen/Qwen2.5-7B-Instruct',
      '--port',
      '8001',
      '--enable-prompt-tokens-details',
      ...own,
    ]);
  });
});

describe('mergePod', () => {
  const ours: PodSpec = {
    hostNetwork: true,
    terminationGracePeriodSeconds: 60,
    containers: [
      {
        name: 'main',
        args: ['a'],
        command: ['x'],
        env: [{ name: 'A', value: '1' }],
        ports: [{ containerPort: 8000, name: 'http' }],
        readinessProbe: { httpGet: { port: 8000, path: '/health' }, periodSeconds: 1 },
        volumeMounts: [{ mountPath: '/tmp', name: 'tmp' }],
      },
    ],
    volumes: [{ name: 'tmp', emptyDir: {} }],
  };
  const merged = (template: object) => mergePod(ours, template);
  const main = (container: object): Container | undefined =>
    merged({ containers: [{ name: 'main', ...container }] }).containers[0];

  it.each([
    ['false wins', () => merged({ hostNetwork: false }).hostNetwork, false],
    ['0 wins', () => merged({ terminationGracePeriodSeconds: 0 }).terminationGracePeriodSeconds, 0],
    ['null takes away', () => 'hostNetwork' in merged({ hostNetwork: null }), false],
    ['an unknown container joins', () => merged({ containers: [{ name: 'b' }] }).containers.length, 2],
    ['args are appended', () => main({ args: ['b'] })?.args, ['a', 'b']],
    ['command is replaced', () => main({ command: ['y'] })?.command, ['y']],
    [
      'env merges by name',
      () =>
        main({
          env: [
            { name: 'A', value: '' },
            { name: 'B', value: '2' },
          ],
        })?.env,
      [
        { name: 'A', value: '' },
        { name: 'B', value: '2' },
      ],
    ],
    [
      'valueFrom pushes value out',
      () => main({ env: [{ name: 'A', valueFrom: {} }] })?.env,
      [{ name: 'A', valueFrom: {} }],
    ],
    [
      'ports merge by number',
      () => main({ ports: [{ containerPort: 8000, protocol: 'TCP' }] })?.ports,
      [{ containerPort: 8000, name: 'http', protocol: 'TCP' }],
    ],
    [
      'a probe has one handler',
      () => main({ readinessProbe: { exec: { command: ['t'] } } })?.readinessProbe,
      { exec: { command: ['t'] }, periodSeconds: 1 },
    ],
    [
      'a volume has one source',
      () => merged({ volumes: [{ name: 'tmp', hostPath: { path: '/x' } }] }).volumes,
      [{ name: 'tmp', hostPath: { path: '/x' } }],
    ],
    [
      'mounts merge by path',
      () => main({ volumeMounts: [{ mountPath: '/tmp', name: 'other' }] })?.volumeMounts,
      [{ mountPath: '/tmp', name: 'other' }],
    ],
  ])('%s', (_rule, actual, expected) => expect(actual()).toEqual(expected));
});

describe('resources', () => {
  it('gives devices a limit and amounts as text', () => {
    const container = { name: 'main', resources: { requests: { cpu: 1, 'nvidia.com/gpu': 2 } as never } };
    expect(completeResources(container).resources).toEqual({
      requests: { cpu: '1', 'nvidia.com/gpu': '2' },
      limits: { 'nvidia.com/gpu': '2' },
    });
  });
});

describe('the routing sidecar', () => {
  const decode = deployment(renderService(prefillDecodeService()), 'chat-kserve').spec.template;
  const defaults = { image: 'signalbox/sidecar:0.2.0', sessionCacheSize: 7 };
  const settings = parseSidecarSettings(decode.metadata.annotations?.['signalbox.io/routing-sidecar'] ?? '', defaults);

  it('is asked for on decode pods alone', () => {
    expect(decode.metadata.labels['signalbox.io/inject-sidecar']).toBe('true');
    for (const other of [
      deployment(renderService(prefillDecodeService()), 'chat-kserve-prefill'),
      deployment(renderService(llmService()), 'chat-kserve'),
    ])
      expect(JSON.stringify(other)).not.toContain('sidecar');
  });

  it('changes no pod template with a new version', () => {
    expect(JSON.stringify(decode)).not.toContain('signalbox/sidecar');
  });

  it('goes first, with the arguments and names of its service', () => {
    const pod = injectSidecar({ ...decode.spec, initContainers: [{ name: 'mine' }] }, settings);
    expect(pod?.initContainers?.map(({ name }) => name)).toEqual(['llm-d-routing-sidecar', 'mine']);
    expect(pod?.initContainers?.[0]).toMatchObject({
      image: 'signalbox/sidecar:0.2.0',
      restartPolicy: 'Always',
      args: expect.arrayContaining([
        '--port=8000',
        '--decoder-port=8001',
        '--prefill-url=http://chat-kserve-prefill-svc.default.svc.cluster.local:8000',
        '--connector=nixlv2',
      ]),
      ports: [
        { containerPort: 8000, name: 'http', protocol: 'TCP' },
        { containerPort: 9091, name: 'metrics', protocol: 'TCP' },
      ],
    });
  });

  it('is not injected twice, nor asked for where the template brings one', () => {
    const once = injectSidecar(decode.spec, settings);
    expect(once && injectSidecar(once, settings)).toBeUndefined();
    const template = { initContainers: [{ name: 'llm-d-routing-sidecar', image: 'x' }], containers: [] };
    const own = deployment(renderService(prefillDecodeService({ spec: { template } })), 'chat-kserve');
    expect(own.spec.template.metadata.labels).not.toHaveProperty(['signalbox.io/inject-sidecar']);
  });

  it.each([
    ['{', /not JSON/],
    ['null', /need prefillUrl, a string/],
    [JSON.stringify({ ...settings, port: '8000' }), /need port, a number; got 8000/],
  ])('refuses settings %s', (text, message) => expect(() => parseSidecarSettings(text, defaults)).toThrow(message));
});
