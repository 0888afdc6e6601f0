import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { operatorSettings } from '../../controllers/config.ts';
import { type ControllerConfig, startControllers } from '../../controllers/index.ts';
import { clusterRules, namespaceRules } from '../../controllers/permissions.ts';
import type { LLMInferenceService } from '../../src/api/v1alpha2/llm-inference-service.ts';
import { systemClock } from '../../src/clock.ts';
import { controllerOf } from '../../src/kube/apply.ts';
import type { Client } from '../../src/kube/client.ts';
import { loadKubeConfig } from '../../src/kube/config.ts';
import type { KubeObject, Manifest, Resource } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { createClient } from '../../src/kube/rest-client.ts';
import type { ControlPlane } from '../../src/local/control-plane.ts';
import { applyManifests, parseManifests } from '../../src/local/install.ts';
import { type Manager, startManager } from '../../src/runtime/manager.ts';
import { createLogger } from '../../src/telemetry/log.ts';
import { eventually } from '../expect/eventually.ts';
import { awaitQuiet, type Counters, requestsAfter } from '../expect/quiet.ts';
import { root, startTestControlPlane } from './control-plane.ts';

/** Groups of pods, autoscalers and budgets against a real API server, with the permissions of the chart. */

const namespace = 'default';
const log = createLogger({ name: 'test', level: 'fatal' });
const config = {
  ...Object.fromEntries(Object.entries(operatorSettings).map(([name, setting]) => [name, setting.default])),
  prometheusUrl: 'http://prometheus.monitoring:9090',
} as unknown as ControllerConfig;

let plane: ControlPlane;
let admin: Client;
let client: Client;
let manager: Manager;
let reconciles = 0;
const failures: string[] = [];

const apply = (...manifests: readonly Manifest[]) =>
  applyManifests(admin, manifests, { fieldManager: 'test', clock: systemClock });
const readDefinition = (...path: readonly string[]) => {
  const file = join(root, ...path);
  return parseManifests(readFileSync(file, 'utf8'), file);
};

beforeAll(async () => {
  plane = await startTestControlPlane({ serviceNetwork: '127.217' });
  const settings = await loadKubeConfig({ path: plane.kubeconfigPath });
  admin = createClient(settings, { log });
  const metadata = { name: 'signalbox-operator' };
  const rbac = { apiVersion: 'rbac.authorization.k8s.io/v1', metadata };
  await apply(
    ...['llminferenceservices', 'llminferenceserviceconfigs']
      .flatMap((plural) => readDefinition('crds', `serving.kserve.io_${plural}.yaml`))
      .map(
        ({ spec, ...rest }) =>
          // Nothing here asks for another version, and no webhook runs that could convert.
          ({ ...rest, spec: { ...(spec as object), conversion: { strategy: 'None' } } }) as unknown as Manifest,
      ),
    { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'signalbox-system' } },
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { ...metadata, namespace: 'signalbox-system' } },
    { ...rbac, kind: 'ClusterRole', rules: clusterRules('signalbox') },
    {
      ...rbac,
      kind: 'ClusterRoleBinding',
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'signalbox-operator' },
      subjects: [{ kind: 'ServiceAccount', name: 'signalbox-operator', namespace: 'signalbox-system' }],
    },
    {
      ...rbac,
      kind: 'Role',
      metadata: { ...metadata, namespace: 'signalbox-system' },
      rules: namespaceRules,
    } as unknown as Manifest,
    {
      ...rbac,
      kind: 'RoleBinding',
      metadata: { ...metadata, namespace: 'signalbox-system' },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name: 'signalbox-operator' },
      subjects: [{ kind: 'ServiceAccount', name: 'signalbox-operator', namespace: 'signalbox-system' }],
    } as unknown as Manifest,
  );
  const { status } = await admin.request<{ readonly status: { readonly token: string } }>(
    'POST',
    '/api/v1/namespaces/signalbox-system/serviceaccounts/signalbox-operator/token',
    { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: { expirationSeconds: 3600 } },
  );
  const { cert: _cert, key: _key, ...tls } = settings.tls;
  client = createClient({ ...settings, tls, authorization: async () => `Bearer ${status.token}` }, { log });
  const set = await startControllers(config, { client, log, events: { record: () => {} } });
  const metrics = {
    reconciled: (_name: string, result: string) => {
      reconciles++;
      if (result === 'error' || result === 'terminal') failures.push(result);
    },
    observeQueue: () => {},
  };
  manager = startManager({ ...set }, { client, log, metrics });
  await manager.started;
}, 600_000);

afterAll(async () => {
  await manager?.close();
  await client?.close();
  await admin?.close();
  await plane?.stop();
}, 60_000);

const service = (name: string, spec: object): Manifest => ({
  apiVersion: 'serving.kserve.io/v1alpha2',
  kind: 'LLMInferenceService',
  metadata: { name, namespace },
  spec: { model: { uri: 'hf://a/b', name }, ...spec },
});
const change = (name: string, spec: object) =>
  admin.mergePatch(resources.llmInferenceServices, { namespace, name }, { spec });
const get = <T extends KubeObject>(resource: Resource, name: string) => admin.get<T>(resource, { namespace, name });
const conditionsOf = async (name: string): Promise<Readonly<Record<string, string>>> =>
  Object.fromEntries(
    ((await get<LLMInferenceService & KubeObject>(resources.llmInferenceServices, name))?.status?.conditions ?? []).map(
      (one) => [one.type, one.reason === undefined ? one.status : `${one.status} ${one.reason}`],
    ),
  );
const kinds = [
  resources.deployments,
  resources.leaderWorkerSets,
  resources.serviceAccounts,
  resources.roles,
  resources.podDisruptionBudgets,
  resources.horizontalPodAutoscalers,
  resources.scaledObjects,
];
const childrenOf = async (name: string) => {
  const lists = await Promise.all(
    kinds.map((resource) => admin.list<KubeObject>(resource, { namespace }).catch(() => ({ items: [] }))),
  );
  return lists
    .flatMap(({ items }) => items)
    .filter((object) => controllerOf(object)?.name === name)
    .map(({ kind, metadata }) => `${kind} ${metadata.name}`)
    .sort();
};
const replicasOf = async (name: string, resource: Resource = resources.deployments) =>
  (await get<KubeObject & { readonly spec?: { readonly replicas?: number } }>(resource, name))?.spec?.replicas;
const requests = () => Object.values(client.sent).reduce((sum, count) => sum + count, 0);
const counters: Counters = { reconciles: () => reconciles, requests };
let touches = 0;
const touch = (name: string) => () =>
  admin.mergePatch(
    resources.llmInferenceServices,
    { namespace, name },
    { metadata: { annotations: { touched: String(++touches) } } },
  );

const group = { worker: {}, parallelism: { data: 4, dataLocal: 2 } };

describe('groups of pods', () => {
  it('wait for the definition, and what served before goes on', async () => {
    await apply(service('groups', { ...group, replicas: 2 }), service('turning', { replicas: 1 }));
    await eventually(async () => expect(await childrenOf('turning')).toEqual(['Deployment turning-kserve']));
    await change('turning', group);
    for (const name of ['groups', 'turning'])
      await eventually(async () =>
        expect(await conditionsOf(name)).toMatchObject({
          WorkerWorkloadReady: 'False LeaderWorkerSetNotServed',
          WorkloadsReady: 'False LeaderWorkerSetNotServed',
          Ready: 'False LeaderWorkerSetNotServed',
        }),
      );
    expect(await childrenOf('groups')).toEqual([]);
    expect(await childrenOf('turning')).toEqual(['Deployment turning-kserve']);
  });

  it('come when it comes', async () => {
    await apply(...readDefinition('test', 'cluster', 'crds', 'leaderworkersets.yaml'));
    await eventually(
      async () =>
        expect(await childrenOf('groups')).toEqual([
          'LeaderWorkerSet groups-kserve-mn',
          'PodDisruptionBudget groups-kserve-mn',
          'ServiceAccount groups-kserve-mn',
        ]),
      60_000,
    );
    await eventually(async () =>
      expect(await childrenOf('turning')).toEqual([
        'LeaderWorkerSet turning-kserve-mn',
        'ServiceAccount turning-kserve-mn',
      ]),
    );
    await eventually(async () =>
      expect((await conditionsOf('groups')).WorkerWorkloadReady).toBe('False MinimumReplicasUnavailable'),
    );
    const live = await get(resources.leaderWorkerSets, 'groups-kserve-mn');
    await admin.mergePatch(
      resources.leaderWorkerSets,
      { namespace, name: 'groups-kserve-mn' },
      {
        status: {
          observedGeneration: live?.metadata.generation,
          replicas: 2,
          readyReplicas: 2,
          updatedReplicas: 2,
          conditions: [{ type: 'Available', status: 'True' }],
        },
      },
      { subresource: 'status' },
    );
    await eventually(async () => expect((await conditionsOf('groups')).Ready).toBe('True'));
  }, 90_000);

  it('cost no request when nothing differs', async () => {
    expect(await requestsAfter(touch('groups'), counters)).toBe(0);
  });

  it('and pods of one node take turns, with prefill and without', async () => {
    await change('turning', { prefill: { ...group } });
    await eventually(async () =>
      expect(await childrenOf('turning')).toEqual([
        'LeaderWorkerSet turning-kserve-mn',
        'LeaderWorkerSet turning-kserve-mn-prefill',
        'Role turning-kserve-mn-role',
        'ServiceAccount turning-kserve-mn',
        'ServiceAccount turning-kserve-mn-prefill',
      ]),
    );
    await change('turning', { worker: null, parallelism: null });
    await eventually(async () =>
      expect(await childrenOf('turning')).toEqual([
        'Deployment turning-kserve',
        'LeaderWorkerSet turning-kserve-mn-prefill',
        'Role turning-kserve-role',
        'ServiceAccount turning-kserve',
        'ServiceAccount turning-kserve-mn-prefill',
      ]),
    );
    expect(await conditionsOf('turning')).toMatchObject({
      MainWorkloadReady: expect.stringMatching(/^False/),
      PrefillWorkerWorkloadReady: expect.stringMatching(/^False/),
    });
    expect(Object.keys(await conditionsOf('turning'))).not.toContain('WorkerWorkloadReady');
    await change('turning', { prefill: null });
    await eventually(async () => expect(await childrenOf('turning')).toEqual(['Deployment turning-kserve']));
    expect(failures).toEqual([]);
  });
});

describe('scaling', () => {
  const keda = { idleReplicaCount: 0, triggers: [{ type: 'cron', metadata: { timezone: 'UTC' } }] };
  const scaling = { minReplicas: 1, maxReplicas: 6, keda };

  it('keeps the number of replicas when an autoscaler takes over, and leaves it alone from then on', async () => {
    await apply(service('scaled', { replicas: 3 }));
    await eventually(async () => expect(await replicasOf('scaled-kserve')).toBe(3));
    await change('scaled', { replicas: null, scaling });
    await eventually(async () =>
      expect(await conditionsOf('scaled')).toMatchObject({ ScalingReady: 'False ScalingCRDNotFound' }),
    );
    await awaitQuiet(counters);
    expect(await replicasOf('scaled-kserve')).toBe(3);
    expect(await childrenOf('scaled')).toEqual(['Deployment scaled-kserve', 'PodDisruptionBudget scaled-kserve']);
    const scale = '/apis/apps/v1/namespaces/default/deployments/scaled-kserve/scale';
    const body = await admin.request<{ readonly spec: object }>('GET', scale);
    await admin.request('PUT', scale, { ...body, spec: { replicas: 5 } });
    await change('scaled', { annotations: { changed: 'yes' } });
    await eventually(async () =>
      expect(JSON.stringify(await get(resources.deployments, 'scaled-kserve'))).toContain('"changed":"yes"'),
    );
    expect(await replicasOf('scaled-kserve')).toBe(5);
  });

  it('goes through KEDA when it is there', async () => {
    await apply(...readDefinition('test', 'cluster', 'crds', 'scaledobjects.yaml'));
    await eventually(
      async () => expect(await childrenOf('scaled')).toContain('ScaledObject scaled-kserve-keda'),
      60_000,
    );
    await eventually(async () =>
      expect((await conditionsOf('scaled')).ScalingReady).toBe('False ScaledObjectProgressing'),
    );
    const name = 'scaled-kserve-keda';
    const say = (condition: object) =>
      admin.mergePatch(
        resources.scaledObjects,
        { namespace, name },
        { status: { conditions: [condition] } },
        { subresource: 'status' },
      );
    await say({ type: 'Ready', status: 'False', reason: 'ScaledObjectCheckFailed', message: 'no such trigger' });
    await eventually(async () =>
      expect((await conditionsOf('scaled')).ScalingReady).toBe('False ScaledObjectCheckFailed'),
    );
    await say({ type: 'Ready', status: 'True', reason: 'ScaledObjectReady' });
    await eventually(async () => expect((await conditionsOf('scaled')).ScalingReady).toBe('True'));
    expect(await get(resources.scaledObjects, name)).toMatchObject({
      spec: {
        scaleTargetRef: { apiVersion: 'apps/v1', kind: 'Deployment', name: 'scaled-kserve' },
        minReplicaCount: 1,
        maxReplicaCount: 6,
        idleReplicaCount: 0,
        triggers: keda.triggers,
      },
    });
  }, 90_000);

  it('goes through a HorizontalPodAutoscaler for the variant autoscaler, and back to a number', async () => {
    await change('scaled', { scaling: { keda: null, wva: { hpa: {} } } });
    await eventually(async () =>
      expect(await childrenOf('scaled')).toEqual([
        'Deployment scaled-kserve',
        'HorizontalPodAutoscaler scaled-kserve-hpa',
        'PodDisruptionBudget scaled-kserve',
      ]),
    );
    expect(await requestsAfter(touch('scaled'), counters)).toBe(0);

    await change('scaled', { scaling: { wva: { hpa: null, keda: {} } } });
    await eventually(async () => expect(await childrenOf('scaled')).toContain('ScaledObject scaled-kserve-keda'));
    expect(JSON.stringify(await get(resources.scaledObjects, 'scaled-kserve-keda'))).toContain(
      'wva_desired_replicas{variant_name=\\"scaled-kserve-keda\\",exported_namespace=\\"default\\"}',
    );

    await change('scaled', { scaling: null, replicas: 1 });
    await eventually(async () => expect(await childrenOf('scaled')).toEqual(['Deployment scaled-kserve']));
    expect(await replicasOf('scaled-kserve')).toBe(1);
    expect(Object.keys(await conditionsOf('scaled'))).not.toContain('ScalingReady');
    expect(failures).toEqual([]);
  });
});
