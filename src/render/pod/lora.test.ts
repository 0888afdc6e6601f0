import { describe, expect, it } from '@jest/globals';
import { fullRouter, llmService, platform, prefillDecodeService } from '../../../test/builders/service.ts';
import type { HTTPRouteSpec } from '../../api/foreign/gateway-api.ts';
import type { Container, PodSpec } from '../../api/foreign/pod.ts';
import type { LLMInferenceService, LLMInferenceServiceSpec } from '../../api/v1alpha2/llm-inference-service.ts';
import type { Manifest } from '../../kube/object.ts';
import type { StorageFacts } from '../input.ts';
import { render } from '../render.ts';
import { directoriesOf } from './lora.ts';
import { passToScript } from './vllm-args.ts';

type Adapters = NonNullable<NonNullable<LLMInferenceServiceSpec['model']['lora']>['adapters']>;

const base = platform();
const renderAll = (service: LLMInferenceService, storage: Partial<StorageFacts> = {}): readonly Manifest[] =>
  render({ service, effective: service.spec, platform: { ...base, storage: { ...base.storage, ...storage } } });
const podOf = (manifests: readonly Manifest[], name = 'chat-kserve'): PodSpec => {
  const found = manifests.find(({ kind, metadata }) => kind === 'Deployment' && metadata.name === name);
  return (found as unknown as { readonly spec: { readonly template: { readonly spec: PodSpec } } }).spec.template.spec;
};
const mainOf = (pod: PodSpec): Container => pod.containers.find(({ name }) => name === 'main') as Container;
const withAdapters = (adapters: Adapters, spec: Partial<LLMInferenceServiceSpec> = {}, uri = 'hf://a/base') =>
  llmService({ spec: { ...spec, model: { uri, name: 'chat', lora: { adapters } } } });
const modulesOf = (container: Container): readonly { readonly name: string; readonly path: string }[] =>
  (container.args ?? [])
    .slice((container.args ?? []).indexOf('--lora-modules') + 1)
    .filter((arg) => arg.startsWith('{"name"'))
    .map((arg) => JSON.parse(arg));

describe('directories of adapters', () => {
  it('are their names where they can be', () => expect(directoriesOf(['a', 'B.1_c-d'])).toEqual(['a', 'B.1_c-d']));

  it('never coincide', () => {
    const [hashed = ''] = directoriesOf(['a/b']);
    // The last is the very directory that the hash of a/b gives.
    const names = ['a/b', 'a-b', 'a:b', 'a+b', '.a', '-a', 'x'.repeat(200), 'x'.repeat(201), hashed];
    const directories = directoriesOf(names);
    expect(new Set(directories).size).toBe(names.length);
    for (const directory of directories) expect(directory).toMatch(/^[A-Za-z0-9_][A-Za-z0-9._-]{0,120}$/);
    expect(directories.at(-1)).toBe(hashed);
  });
});

describe('adapters in pods', () => {
  it('of the hub are fetched by the engine, under both names', () => {
    const pod = podOf(renderAll(withAdapters([{ name: 'team/sql', uri: 'hf://team/sql-lora' }])));
    expect(pod.initContainers).toBeUndefined();
    expect(mainOf(pod).args).toContain('--enable-lora');
    expect(modulesOf(mainOf(pod))).toEqual([
      { name: 'team/sql', path: 'team/sql-lora' },
      { name: 'publishers/default/models/team/sql', path: 'team/sql-lora' },
    ]);
  });

  it('of stores come with one init container, also beside a model that needs none', () => {
    const adapters = [
      { name: 'b', uri: 's3://bucket/b' },
      { name: 'a', uri: 'hf://team/a:v2' },
    ];
    const pod = podOf(renderAll(withAdapters(adapters)));
    expect(pod.initContainers?.map(({ name, args }) => [name, args])).toEqual([
      ['storage-initializer', ['hf://team/a:v2', '/mnt/lora/a', 's3://bucket/b', '/mnt/lora/b']],
    ]);
    expect(pod.initContainers?.[0]?.volumeMounts).toEqual([{ name: 'lora-adapters', mountPath: '/mnt/lora' }]);
    expect(pod.volumes).toContainEqual({ name: 'lora-adapters', emptyDir: {} });
    expect(mainOf(pod).volumeMounts).toContainEqual({
      name: 'lora-adapters',
      mountPath: '/mnt/lora/b',
      subPath: 'b',
      readOnly: true,
    });
    expect(mainOf(pod).args?.[0]).toBe('a/base');
    const both = podOf(renderAll(withAdapters(adapters, {}, 's3://bucket/model')));
    expect(both.initContainers?.[0]?.args?.slice(0, 2)).toEqual(['s3://bucket/model', '/mnt/models']);
    expect(both.initContainers?.[0]?.volumeMounts?.map(({ mountPath }) => mountPath)).toEqual([
      '/mnt/models',
      '/mnt/lora',
    ]);
  });

  it('of claims and images are mounted, one volume a claim', () => {
    const pod = podOf(
      renderAll(
        withAdapters([
          { name: 'Org/X', uri: 'pvc://adapters/x' },
          { name: 'y', uri: 'pvc://adapters/y' },
          { name: 'z', uri: 'oci://adapters/z:1' },
        ]),
      ),
    );
    const volumes = (pod.volumes ?? []).filter(({ name }) => name.startsWith('lora'));
    expect(volumes).toEqual([
      { name: 'lora-claim-0', persistentVolumeClaim: { claimName: 'adapters' } },
      { name: 'lora-image-1', image: { reference: 'adapters/z:1', pullPolicy: 'IfNotPresent' } },
    ]);
    const mounts = (mainOf(pod).volumeMounts ?? []).filter(({ mountPath }) => mountPath.startsWith('/mnt/lora'));
    expect(mounts.map(({ name, subPath }) => [name, subPath])).toEqual([
      ['lora-claim-0', 'x'],
      ['lora-claim-0', 'y'],
      ['lora-image-1', 'models'],
    ]);
    const paths = new Set(modulesOf(mainOf(pod)).map(({ path }) => path));
    expect([...paths]).toEqual(mounts.map(({ mountPath }) => mountPath));
  });

  it('are on prefill and decode pods, with their limits as flags', () => {
    const lora = { adapters: [{ name: 'a', uri: 'hf://x/a' }], maxRank: 32, maxAdapters: 4, maxCpuAdapters: 8 };
    const manifests = renderAll(prefillDecodeService({ spec: { model: { uri: 'hf://a/b', lora } } }));
    for (const name of ['chat-kserve', 'chat-kserve-prefill'])
      expect(mainOf(podOf(manifests, name)).args?.join(' ')).toContain(
        '--enable-lora --max-lora-rank 32 --max-loras 4 --max-cpu-loras 8 --lora-modules {"name":"a"',
      );
  });

  it('do not depend on the order in which they are written', () => {
    const adapters = ['c', 'a', 'b'].map((name) => ({ name, uri: `pvc://${name}` }));
    expect(renderAll(withAdapters(adapters))).toEqual(renderAll(withAdapters(adapters.toReversed())));
  });

  it("give way to the user's own, and are only named where the user brings all weights", () => {
    const template = { containers: [{ name: 'main', args: ['--lora-modules', 'x=/x'] }] };
    const adapters = [{ name: 'a', uri: 's3://b/a' }];
    const own = mainOf(podOf(renderAll(withAdapters(adapters, { template })))).args ?? [];
    expect(own.filter((arg) => arg === '--lora-modules')).toHaveLength(1);
    const pod = podOf(renderAll(withAdapters(adapters, { storageInitializer: { enabled: false } })));
    expect(pod.initContainers).toBeUndefined();
    expect(modulesOf(mainOf(pod))[0]).toEqual({ name: 'a', path: '/mnt/lora/a' });
  });

  it('leave no trace once the last is gone', () => {
    const router = fullRouter;
    const annotations = { 'serving.kserve.io/model-based-routing-enabled': 'true' };
    const none = renderAll(withAdapters([], { router, annotations }));
    expect(JSON.stringify(none)).not.toMatch(/lora/i);
    expect(JSON.stringify(renderAll(withAdapters([{ name: 'a', uri: 'hf://a/b' }], { router, annotations })))).toMatch(
      /lora-affinity-scorer/,
    );
  });
});

describe('flags for a command of the user', () => {
  const flags = [['--enable-lora'], ['--lora-modules', '{"name":"a","path":"it\'s"}']];
  const script = (text: string) => ({ name: 'main', command: ['/bin/bash', '-c', text, '--'], args: ['--x'] });

  it.each<[string, Container, readonly string[]]>([
    ['a script with its arguments', script('exec vllm serve "$@"'), [...flags.flat(), '--x']],
    [
      'a script that evaluates them',
      script('eval "exec vllm serve $@"'),
      ["'--enable-lora'", "'--lora-modules'", `'{"name":"a","path":"it'\\''s"}'`, '--x'],
    ],
    ['a script without arguments', script('exec vllm serve'), ['--x']],
    ['a script with flags of its own', script('vllm serve --lora-modules a=b $@'), ['--enable-lora', '--x']],
    ['no script', { name: 'main', command: ['vllm', 'serve'], args: ['--x'] }, ['--x']],
  ])('%s', (_what, container, args) => expect(passToScript(container, flags).args).toEqual(args));
});

describe('routes of adapters', () => {
  const annotations = { 'serving.kserve.io/model-based-routing-enabled': 'true' };
  const routesOf = (count: number, own: Partial<LLMInferenceServiceSpec> = {}) => {
    const adapters = Array.from({ length: count }, (_, i) => ({ name: `adapter-${i}`, uri: 'hf://a/b' }));
    return renderAll(withAdapters(adapters, { router: fullRouter, annotations, ...own })).filter(
      ({ kind }) => kind === 'HTTPRoute',
    ) as unknown as readonly { readonly metadata: { readonly name: string }; readonly spec: HTTPRouteSpec }[];
  };

  it.each([
    // Beside the service's own route: those by header, those by path.
    [0, 1],
    [1, 1 + 1],
    [7, 1 + 1],
    [8, 1 + 1],
    [20, 1 + 2],
    [21, 2 + 2],
    [44, 2 + 3],
    [45, 3 + 3],
    [256, 11 + 16],
  ])('%d stay within the limits of the Gateway API, in %d HTTPRoutes', (count, routes) => {
    const made = routesOf(count);
    expect(made.map(({ metadata }) => metadata.name)).toHaveLength(routes);
    expect(new Set(made.map(({ metadata }) => metadata.name)).size).toBe(routes);
    const values = new Set<string>();
    const paths = new Set<string>();
    for (const { spec } of made) {
      const rules = spec.rules ?? [];
      const matches = rules.flatMap((rule) => rule.matches ?? []);
      expect(rules.length).toBeLessThanOrEqual(16);
      expect(matches.length).toBeLessThan(128);
      expect(new Set(rules.map(({ name }) => name)).size).toBe(rules.length);
      for (const rule of rules) expect(rule.matches?.length ?? 0).toBeLessThanOrEqual(64);
      for (const match of matches)
        if (match.path?.value === '/v1/chat/completions')
          for (const header of match.headers ?? []) values.add(header.value);
      for (const { path } of matches) paths.add(path?.value ?? '');
    }
    for (let i = 0; i < count; i++) {
      expect(values).toContain(`publishers/default/models/adapter-${i}`);
      expect(paths).toContain(`/publishers/default/models/adapter-${i}/v1`);
    }
    expect(values.size).toBe(count + 1);
  });

  it('have only paths without model routing, and none beside rules that are to be all', () => {
    const off = JSON.stringify(
      routesOf(3, { annotations: { 'serving.kserve.io/model-based-routing-enabled': 'false' } }),
    );
    expect(off).not.toContain('X-Gateway-Model-Name');
    expect(off).toContain('/publishers/default/models/adapter-2/v1');
    const route = { http: { spec: { rules: [{ name: 'mine' }] } } };
    const service = withAdapters([{ name: 'adapter-0', uri: 'hf://a/b' }], { router: { ...fullRouter, route } });
    const replacing = {
      ...service,
      metadata: { ...service.metadata, annotations: { 'signalbox.io/route-rules': 'replace' } },
    };
    expect(JSON.stringify(renderAll(service).filter(({ kind }) => kind === 'HTTPRoute'))).toContain('adapter-0');
    expect(JSON.stringify(renderAll(replacing).filter(({ kind }) => kind === 'HTTPRoute'))).not.toContain('adapter-0');
  });
});
