import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from '@jest/globals';
import { llmService } from '../../test/builders/service.ts';
import { annotations } from '../api/labels.ts';
import type { LLMInferenceService } from '../api/v1alpha2/llm-inference-service.ts';
import { AppError } from '../errors.ts';
import type { KubeObject, Manifest } from '../kube/object.ts';
import { resources } from '../kube/resources.ts';
import { silentLogger } from '../telemetry/log.ts';
import { type NodeRoom, planChanges, planGpus, planLines } from './commands/plan/plan.ts';
import { newCluster, renderServices } from './commands/render/render.ts';
import { parseObjects } from './commands/validate/run.ts';
import { createDryClient, createStaticSource, type Write } from './dry-client.ts';
import { defaultConfig, previewService } from './preview.ts';

const plain = { good: String, bad: String, warn: String, dim: String, bold: String };
const deps = { log: silentLogger, signal: new AbortController().signal };
const everything = Object.values(resources);

describe('what the operator would do', () => {
  const preview = (service: LLMInferenceService, objects: readonly object[] = []) =>
    previewService({
      ...deps,
      source: createStaticSource(objects as readonly KubeObject[], everything),
      config: defaultConfig(),
      service,
    });
  const names = (writes: readonly Write[]) =>
    writes.map(({ verb, resource, ref }) => `${verb} ${resource.kind} ${ref.name}`).sort();

  it('is found out by its own controller, from nothing', async () => {
    const { writes, status } = await preview(llmService());
    expect(names(writes)).toEqual([
      'write Deployment chat-kserve',
      'write NetworkPolicy chat-kserve',
      'write PodMonitor chat-kserve',
      'write Service chat-kserve-workload-svc',
    ]);
    expect(status?.conditions?.find(({ type }) => type === 'PresetsCombined')?.status).toBe('True');
  });

  it('includes what it would take away, and nothing where all is as it should be', async () => {
    const service = llmService();
    const owner = {
      apiVersion: 'serving.kserve.io/v1alpha2',
      kind: 'LLMInferenceService',
      name: 'chat',
      uid: service.metadata.uid,
      controller: true,
    };
    const labels = { 'app.kubernetes.io/part-of': 'llminferenceservice' };
    const metadata = { name: 'chat-kserve-prefill', namespace: 'default', uid: 'u', labels, ownerReferences: [owner] };
    const { writes } = await preview(service, [
      { apiVersion: 'apps/v1', kind: 'Deployment', metadata, spec: { replicas: 2 } },
    ]);
    expect(names(writes)).toContain('delete Deployment chat-kserve-prefill');
  });

  it('says why a spec is refused', async () => {
    const { writes, status } = await preview(llmService({ spec: { baseRefs: [{ name: 'none' }] } }));
    expect(writes).toEqual([]);
    expect(status?.conditions?.find(({ type }) => type === 'PresetsCombined')).toMatchObject({
      status: 'False',
      reason: 'ConfigNotFound',
    });
  });

  it('ends at the first read that is refused', async () => {
    const source = createStaticSource([], everything);
    const refusing = {
      ...source,
      list: async (...args: Parameters<typeof source.list>) => {
        if (args[0] === resources.httpRoutes) throw new AppError('forbidden', 'httproutes is forbidden');
        return source.list(...args) as never;
      },
    };
    const asked = previewService({ ...deps, source: refusing, config: defaultConfig(), service: llmService() });
    await expect(asked).rejects.toThrow('httproutes is forbidden');
  });

  it('renders every sample without a cluster', async () => {
    const folder = join(import.meta.dirname, '../../config/samples');
    for (const file of readdirSync(folder).filter((name) => name.endsWith('.yaml'))) {
      const objects = parseObjects(readFileSync(join(folder, file), 'utf8'), file).map((object) => ({
        object,
        source: file,
      }));
      if (!objects.some(({ object }) => object.kind === 'LLMInferenceService')) continue;
      const isAtRest = objects.some(({ object }) => object.metadata.annotations?.[annotations.stop] === 'true');
      const manifests = await renderServices(deps, objects, undefined);
      expect({ file, kinds: manifests.map(({ kind }) => kind) }).toEqual({
        file,
        kinds: isAtRest ? [] : expect.arrayContaining(['Service']),
      });
      expect(JSON.stringify(manifests)).not.toContain('preview-');
    }
  }, 120_000);
});

describe('a cluster as new', () => {
  const imageOf = async (...configs: readonly Manifest[]) => {
    const service = llmService() as unknown as Manifest;
    const objects = [service, ...configs].map((object) => ({ object, source: 'test' }));
    const manifests = await renderServices(deps, objects, undefined);
    return JSON.stringify(manifests.find(({ kind }) => kind === 'Deployment'));
  };

  it('has the shipped presets, and a preset among the files goes before them', async () => {
    const { status } = await previewService({
      ...deps,
      source: createStaticSource(newCluster(defaultConfig()), everything),
      config: defaultConfig(),
      service: llmService(),
    });
    const namespace = 'signalbox-system';
    const name = 'kserve-config-llm-template';
    expect(status?.appliedConfigs).toEqual([{ name, namespace, source: 'Preset' }]);
    const image = 'example.org/mine:1';
    const own = {
      apiVersion: 'serving.kserve.io/v1alpha2',
      kind: 'LLMInferenceServiceConfig',
      metadata: { name, namespace },
      spec: { template: { containers: [{ name: 'main', image }] } },
    };
    expect(await imageOf()).not.toContain(image);
    expect(await imageOf(own)).toContain(image);
  });
});

describe('a dry client', () => {
  it('reads what lies over the source, and writes nothing', async () => {
    const map = (name: string, data: object): Manifest => ({
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name, namespace: 'n' },
      data,
    });
    const { client, writes } = createDryClient(createStaticSource([map('a', { x: '1' }), map('b', {})], everything), [
      map('a', { x: '2' }),
    ]);
    expect((await client.list(resources.configMaps, { namespace: 'n' })).items).toEqual([
      map('b', {}),
      map('a', { x: '2' }),
    ]);
    expect((await client.list(resources.configMaps, { namespace: 'other' })).items).toEqual([]);
    expect(await client.get(resources.configMaps, { namespace: 'n', name: 'a' })).toEqual(map('a', { x: '2' }));
    await client.apply(resources.configMaps, map('b', { y: '1' }), { fieldManager: 'm' });
    await client.delete(resources.configMaps, { namespace: 'n', name: 'a' });
    expect(writes().map(({ verb, ref }) => [verb, ref.name])).toEqual([
      ['write', 'b'],
      ['delete', 'a'],
    ]);
    expect((await client.get<Manifest>(resources.configMaps, { namespace: 'n', name: 'b' }))?.data).toEqual({});
    await expect(async () => client.request('POST', '/x')).rejects.toThrow(/nothing is written in a dry run/);
  });
});

describe('plan', () => {
  const deployment = (replicas: number | undefined, image: string, gpus = 1, name = 'chat-kserve'): Manifest => ({
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: { name, namespace: 'n' },
    spec: {
      ...(replicas === undefined ? {} : { replicas }),
      template: {
        spec: { containers: [{ name: 'main', image, resources: { limits: { 'nvidia.com/gpu': String(gpus) } } }] },
      },
    },
  });
  const applied = (object: Manifest): KubeObject => ({
    ...object,
    metadata: {
      ...object.metadata,
      uid: 'u',
      managedFields: [
        {
          manager: 'signalbox',
          operation: 'Apply',
          apiVersion: object.apiVersion,
          fieldsV1: {
            'f:spec': {
              'f:replicas': {},
              'f:template': {
                'f:spec': {
                  'f:containers': { 'k:{"name":"main"}': { '.': {}, 'f:name': {}, 'f:image': {}, 'f:resources': {} } },
                },
              },
            },
          },
        },
      ],
    },
  });
  const write = (object: Manifest): Write => ({
    verb: 'write',
    resource: resources.deployments,
    ref: { namespace: 'n', name: object.metadata.name },
    object,
  });
  const node = (name: string, gpus: number): NodeRoom => ({ name, free: { 'nvidia.com/gpu': gpus } });
  const plan = (wanted: Manifest, now: Manifest | undefined, nodes: readonly NodeRoom[]) => {
    const writes = [write(wanted)];
    const live = () => (now ? applied(now) : undefined);
    const free = nodes.reduce((sum, { free: of }) => sum + (of['nvidia.com/gpu'] ?? 0), 0);
    const gpus = planGpus(
      writes,
      live,
      [{ resource: 'nvidia.com/gpu', allocatable: 8, used: 8 - free, largestFree: free }],
      nodes,
    );
    return planLines({ service: 'n/chat', isNew: now === undefined, changes: planChanges(writes, live), gpus }, plain);
  };

  it.each([
    ['nothing', deployment(2, 'a'), deployment(2, 'a'), [], ['n/chat', '  nothing would change']],
    [
      'a new one with room on two nodes',
      deployment(3, 'a', 2),
      undefined,
      [node('a', 2), node('b', 4)],
      [
        'n/chat  new',
        '  + Deployment chat-kserve  it does not exist',
        '      3 pods more',
        '  6 more nvidia.com/gpu needed, 6 of 8 free: 1 pod on a, 2 pods on b',
        '  1 to create, 0 to change, 0 to delete; no pod would be replaced',
      ],
    ],
    [
      'pods that fit on no node',
      deployment(2, 'a', 4),
      deployment(1, 'a', 4),
      [node('a', 3), node('b', 3)],
      [
        'n/chat',
        '  ~ Deployment chat-kserve',
        '      spec.replicas is 1, wanted 2',
        '      1 pod more',
        '  4 more nvidia.com/gpu needed, 6 of 8 free: no node has room for 1 pod',
        '  0 to create, 1 to change, 0 to delete; no pod would be replaced',
      ],
    ],
    [
      'another image',
      deployment(2, 'b'),
      deployment(2, 'a'),
      [],
      [
        'n/chat',
        '  ~ Deployment chat-kserve',
        '      spec.template.spec.containers[name=main].image is "a", wanted "b"',
        '      2 pods would be replaced',
        '  0 to create, 1 to change, 0 to delete; 2 pods would be replaced',
      ],
    ],
    [
      'fewer pods',
      deployment(1, 'a', 2),
      deployment(3, 'a', 2),
      [],
      [
        'n/chat',
        '  ~ Deployment chat-kserve',
        '      spec.replicas is 3, wanted 1',
        '      2 pods fewer',
        '  4 nvidia.com/gpu would become free',
        '  0 to create, 1 to change, 0 to delete; no pod would be replaced',
      ],
    ],
  ])('says of %s what would happen', (_what, wanted, now, nodes, lines) => {
    expect(plan(wanted, now, nodes)).toEqual(lines);
  });

  it('counts the pods of groups, and says what is refused', () => {
    const set = (replicas: number): Manifest => ({
      apiVersion: 'leaderworkerset.x-k8s.io/v1',
      kind: 'LeaderWorkerSet',
      metadata: { name: 's', namespace: 'n' },
      spec: {
        replicas,
        leaderWorkerTemplate: {
          size: 4,
          workerTemplate: { spec: { containers: [{ resources: { limits: { 'nvidia.com/gpu': 8 } } }] } },
        },
      },
    });
    const writes: readonly Write[] = [
      { verb: 'write', resource: resources.leaderWorkerSets, ref: { namespace: 'n', name: 's' }, object: set(2) },
    ];
    expect(planChanges(writes, () => undefined)).toMatchObject([{ verb: 'create', pods: 8 }]);
    expect(planGpus(writes, () => undefined, [], [])).toMatchObject([{ needed: 64, free: 0, homeless: 8 }]);
    expect(planLines({ service: 'n/s', isNew: true, refusal: 'no such base', changes: [], gpus: [] }, plain)).toEqual([
      'n/s  new',
      '  ✗ the operator would refuse it: no such base',
    ]);
  });
});
