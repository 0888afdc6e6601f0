import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { operatorSettings } from '../../controllers/config.ts';
import { type ControllerConfig, startControllers } from '../../controllers/index.ts';
import { clusterRules, namespaceRules } from '../../controllers/permissions.ts';
import type { Gateway, HTTPRoute } from '../../src/api/foreign/gateway-api.ts';
import type { InferencePool } from '../../src/api/foreign/inference-pool.ts';
import type { LLMInferenceService } from '../../src/api/v1alpha2/llm-inference-service.ts';
import { systemClock } from '../../src/clock.ts';
import { controllerOf } from '../../src/kube/apply.ts';
import type { Client } from '../../src/kube/client.ts';
import { type ConnectionSettings, loadKubeConfig } from '../../src/kube/config.ts';
import { startInformer } from '../../src/kube/informer.ts';
import type { KubeObject, Manifest, Resource } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { createClient } from '../../src/kube/rest-client.ts';
import type { ControlPlane } from '../../src/local/control-plane.ts';
import { findGatewayApiCrds } from '../../src/local/gateway/crds.ts';
import { applyManifests, parseManifests } from '../../src/local/install.ts';
import type { DeploymentState } from '../../src/plan/observed.ts';
import { type Manager, startManager } from '../../src/runtime/manager.ts';
import { createLogger } from '../../src/telemetry/log.ts';
import { prefillDecodeService } from '../builders/service.ts';
import { eventually } from '../expect/eventually.ts';
import { awaitQuiet, type Counters, requestsAfter } from '../expect/quiet.ts';
import { localEnvironment, root, startTestControlPlane } from './control-plane.ts';

/** The operator's controllers against a real API server, with the permissions of the chart and no other controller. */

let plane: ControlPlane;
/** An administrator: the test's own hand. */
let admin: Client;
let operator: Operator;

const namespace = 'default';
const log = createLogger({ name: 'test', level: 'fatal' });
const config: ControllerConfig = {
  workers: 8,
  systemNamespace: 'signalbox-system',
  gatewayName: operatorSettings.gatewayName.default,
  gatewayNamespace: '',
  gatewayClass: '',
  gatewayPort: 80,
  urlScheme: 'http',
  configPrefix: 'kserve-',
  vllmImage: operatorSettings.vllmImage.default,
  eppImage: operatorSettings.eppImage.default,
  sidecarImage: operatorSettings.sidecarImage.default,
  sidecarSessions: 1000,
  storageInitializerImage: 'kserve/storage-initializer:v0.17.0',
  huggingFaceLoader: 'engine',
  ociModelMode: 'modelcar',
  caBundleConfigMap: '',
};

interface Told {
  readonly type: string;
  readonly reason: string;
  readonly message: string;
}

interface Operator {
  readonly client: Client;
  readonly manager: Manager;
  readonly events: Told[];
  readonly reconciles: () => number;
  readonly failures: () => number;
  /** Runs a reconcile here and now. */
  readonly reconcile: (name: string) => Promise<unknown>;
  close(): Promise<void>;
}

async function startOperator(): Promise<Operator> {
  const client = createClient(await operatorConnection(), { log });
  const events: Told[] = [];
  const set = await startControllers(config, {
    client,
    log,
    events: { record: (_object, type, reason, message) => void events.push({ type, reason, message }) },
  });
  let reconciles = 0;
  let failures = 0;
  const manager = startManager(
    { ...set },
    {
      client,
      log,
      metrics: {
        reconciled: (_controller, result) => {
          reconciles++;
          if (result === 'error' || result === 'terminal') failures++;
        },
        observeQueue: () => {},
      },
    },
  );
  await manager.started;
  return {
    client,
    manager,
    events,
    reconciles: () => reconciles,
    failures: () => failures,
    reconcile: async (name) => set.controllers[0]?.reconcile({ namespace, name }, AbortSignal.timeout(10_000)),
    close: async () => {
      await manager.close();
      await client.close();
    },
  };
}

/** As the chart's ServiceAccount. */
async function operatorConnection(): Promise<ConnectionSettings> {
  const settings = await loadKubeConfig({ path: plane.kubeconfigPath });
  const path = '/api/v1/namespaces/signalbox-system/serviceaccounts/signalbox-operator/token';
  const body = { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: { expirationSeconds: 3600 } };
  const answer = await admin.request<{ readonly status: { readonly token: string } }>('POST', path, body);
  const { cert: _cert, key: _key, ...tls } = settings.tls;
  return { ...settings, tls, authorization: async () => `Bearer ${answer.status.token}` };
}

const rbac = (kind: string, body: object, inNamespace?: string): Manifest => ({
  apiVersion: 'rbac.authorization.k8s.io/v1',
  kind,
  metadata: { name: 'signalbox-operator', ...(inNamespace === undefined ? {} : { namespace: inNamespace }) },
  ...body,
});

const apply = (...manifests: readonly Manifest[]) =>
  applyManifests(admin, manifests, { fieldManager: 'test', clock: systemClock });

const readDefinitions = (...path: readonly string[]) => {
  const file = join(root, ...path);
  return parseManifests(readFileSync(file, 'utf8'), file);
};

beforeAll(async () => {
  plane = await startTestControlPlane({ serviceNetwork: '127.204' });
  admin = createClient(await loadKubeConfig({ path: plane.kubeconfigPath }), { log });
  await apply(
    ...readDefinitions('crds', 'serving.kserve.io_llminferenceservices.yaml'),
    ...readDefinitions('crds', 'serving.kserve.io_llminferenceserviceconfigs.yaml'),
    { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'signalbox-system' } },
    {
      apiVersion: 'v1',
      kind: 'ServiceAccount',
      metadata: { name: 'signalbox-operator', namespace: 'signalbox-system' },
    },
    rbac('ClusterRole', { rules: clusterRules('signalbox') }),
    rbac('ClusterRoleBinding', {
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'signalbox-operator' },
      subjects: [{ kind: 'ServiceAccount', name: 'signalbox-operator', namespace: 'signalbox-system' }],
    }),
    rbac('Role', { rules: namespaceRules }, 'signalbox-system'),
    rbac(
      'RoleBinding',
      {
        roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name: 'signalbox-operator' },
        subjects: [{ kind: 'ServiceAccount', name: 'signalbox-operator', namespace: 'signalbox-system' }],
      },
      'signalbox-system',
    ),
  );
  operator = await startOperator();
}, 600_000);

afterAll(async () => {
  await operator?.close();
  await admin?.close();
  await plane?.stop();
}, 60_000);

async function installRouting(): Promise<void> {
  const run = promisify(execFile);
  const gatewayApi = await findGatewayApiCrds({
    cacheDir: localEnvironment.cacheDir,
    run: async (command, args) => (await run(command, [...args])).stdout,
  });
  await apply(
    ...gatewayApi.flatMap((path) => parseManifests(readFileSync(path, 'utf8'), path)),
    ...readDefinitions('src', 'local', 'crds', 'inference.networking.k8s.io_inferencepools.yaml'),
    ...readDefinitions('src', 'local', 'crds', 'inference.networking.x-k8s.io_inferencepools.yaml'),
  );
  await apply({
    apiVersion: 'gateway.networking.k8s.io/v1',
    kind: 'GatewayClass',
    metadata: { name: 'envoy' },
    spec: { controllerName: 'example.com/envoy' },
  });
  await admin.mergePatch(
    resources.gatewayClasses,
    { name: 'envoy' },
    { status: { conditions: [said('Accepted', 1)] } },
    { subresource: 'status' },
  );
}

const said = (type: string, observedGeneration: number) => ({
  type,
  status: 'True',
  reason: type,
  message: '',
  observedGeneration,
  lastTransitionTime: '2030-01-01T00:00:00Z',
});

const service = (parts: Parameters<typeof prefillDecodeService>[0] = {}): Manifest => {
  const { metadata, ...rest } = prefillDecodeService(parts);
  const { uid: _uid, generation: _generation, ...own } = metadata;
  return { ...rest, metadata: own } as unknown as Manifest;
};

const kinds: readonly Resource[] = [
  resources.serviceAccounts,
  resources.roles,
  resources.roleBindings,
  resources.deployments,
  resources.services,
  resources.httpRoutes,
  resources.inferencePools,
  resources.xInferencePools,
];

/** `Deployment chat-kserve`, … : every live child of a service. */
async function childrenOf(name: string): Promise<readonly string[]> {
  const lists = await Promise.all(
    kinds.map((resource) => admin.list<KubeObject>(resource, { namespace }).catch(() => ({ items: [] }))),
  );
  return lists
    .flatMap(({ items }) => items)
    .filter((object) => controllerOf(object)?.name === name)
    .map(({ apiVersion, kind, metadata }) => `${kind}${apiVersion.includes('x-k8s') ? '(x)' : ''} ${metadata.name}`)
    .sort();
}

const get = async <T extends KubeObject>(resource: Resource, name: string, at = namespace): Promise<T> => {
  const found = await admin.get<T>(resource, { namespace: at, name });
  if (!found) throw new Error(`${resource.kind} ${name} is not there`);
  return found;
};
const getService = (name: string) => get<LLMInferenceService & KubeObject>(resources.llmInferenceServices, name);
const conditionsOf = async (name: string): Promise<Readonly<Record<string, string>>> =>
  Object.fromEntries(
    ((await getService(name)).status?.conditions ?? []).map((one) => [
      one.type,
      one.reason === undefined ? one.status : `${one.status} ${one.reason}`,
    ]),
  );

const workloadChildren = [
  'Deployment chat-kserve',
  'Deployment chat-kserve-prefill',
  'Role chat-kserve-role',
  'RoleBinding chat-kserve-rb',
  'Service chat-kserve-prefill-svc',
  'Service chat-kserve-workload-svc',
  'ServiceAccount chat-kserve',
];
const routerChildren = [
  'Deployment chat-kserve-router-scheduler',
  'HTTPRoute chat-kserve-route',
  'InferencePool chat-inference-pool',
  'InferencePool(x) chat-inference-pool',
  'Role chat-epp-role',
  'RoleBinding chat-epp-rb',
  'Service chat-epp-service',
  'ServiceAccount chat-epp-sa',
];
const all = [...workloadChildren, ...routerChildren].sort();

const requestsOf = (client: Client) => Object.values(client.sent).reduce((sum, count) => sum + count, 0);
const counters: Counters = { reconciles: () => operator.reconciles(), requests: () => requestsOf(operator.client) };
let touches = 0;
const touch = (...names: readonly string[]) => {
  const annotations = { touched: String(++touches) };
  return Promise.all(
    names.map((name) =>
      admin.mergePatch(resources.llmInferenceServices, { namespace, name }, { metadata: { annotations } }),
    ),
  );
};
const writesOf = ({ sent }: Client) =>
  Object.fromEntries(
    Object.entries(sent).filter(([method, count]) => count > 0 && method !== 'GET' && method !== 'WATCH'),
  );

describe('a service', () => {
  it('gets its workloads where nothing of the Gateway API is served, and says what is missing', async () => {
    await apply(service());
    await eventually(async () => expect(await childrenOf('chat')).toEqual(workloadChildren));
    await eventually(async () =>
      expect(await conditionsOf('chat')).toMatchObject({
        PresetsCombined: 'True',
        GatewaysReady: 'False GatewayPreconditionNotMet',
        InferencePoolReady: 'False InferencePoolNotServed',
        Ready: expect.stringMatching(/^False/),
      }),
    );
  });

  it('gets the rest when the definitions come', async () => {
    await installRouting();
    await eventually(async () => expect(await childrenOf('chat')).toEqual(all), 60_000);
    const gateway = await eventually(() => get<Gateway>(resources.gateways, 'signalbox-gateway', 'signalbox-system'));
    expect(gateway.spec.gatewayClassName).toBe('envoy');
    expect(controllerOf(gateway as KubeObject)).toBeUndefined();
    const route = await get<HTTPRoute>(resources.httpRoutes, 'chat-kserve-route');
    await eventually(async () =>
      expect(JSON.stringify((await get<HTTPRoute>(resources.httpRoutes, 'chat-kserve-route')).spec)).toContain(
        'inference.networking.k8s.io',
      ),
    );
    expect(route.spec.parentRefs).toMatchObject([{ name: 'signalbox-gateway', namespace: 'signalbox-system' }]);
    expect(operator.events.map(({ reason }) => reason)).toContain('Created');
    expect(operator.failures()).toBe(0);
  }, 90_000);

  it('is ready once its parts say so, and tells its URL', async () => {
    const deployments = ['chat-kserve', 'chat-kserve-prefill', 'chat-kserve-router-scheduler'];
    for (const name of deployments) {
      const live = await get<DeploymentState>(resources.deployments, name);
      const replicas = live.spec?.replicas ?? 1;
      await admin.mergePatch(
        resources.deployments,
        { namespace, name },
        {
          status: {
            observedGeneration: live.metadata.generation,
            replicas,
            updatedReplicas: replicas,
            readyReplicas: replicas,
            availableReplicas: replicas,
            conditions: [{ type: 'Available', status: 'True' }],
          },
        },
        { subresource: 'status' },
      );
    }
    const gatewayRef = { namespace: 'signalbox-system', name: 'signalbox-gateway' };
    const parentRef = { group: 'gateway.networking.k8s.io', kind: 'Gateway', ...gatewayRef };
    await admin.mergePatch(
      resources.gateways,
      gatewayRef,
      {
        status: {
          addresses: [{ type: 'IPAddress', value: '203.0.113.9' }],
          conditions: [said('Accepted', 1), said('Programmed', 1)],
        },
      },
      { subresource: 'status' },
    );
    const route = await get<HTTPRoute>(resources.httpRoutes, 'chat-kserve-route');
    const generation = route.metadata.generation ?? 1;
    await admin.mergePatch(
      resources.httpRoutes,
      { namespace, name: 'chat-kserve-route' },
      {
        status: {
          parents: [
            {
              parentRef,
              controllerName: 'example.com/envoy',
              conditions: [said('Accepted', generation), said('ResolvedRefs', generation)],
            },
          ],
        },
      },
      { subresource: 'status' },
    );
    const pool = await get<InferencePool & KubeObject>(resources.inferencePools, 'chat-inference-pool');
    await admin.mergePatch(
      resources.inferencePools,
      { namespace, name: 'chat-inference-pool' },
      { status: { parents: [{ parentRef, conditions: [said('Accepted', pool.metadata.generation ?? 1)] }] } },
      { subresource: 'status' },
    );
    await eventually(async () => expect((await conditionsOf('chat')).Ready).toBe('True'));
    expect((await getService('chat')).status).toMatchObject({
      url: 'http://203.0.113.9/default/chat',
      workloads: { primary: { name: 'chat-kserve', readyReplicas: 2 } },
    });
    expect(operator.events).toContainEqual({
      type: 'Normal',
      reason: 'LLMInferenceServiceReady',
      message: 'ready at http://203.0.113.9/default/chat',
    });
  });

  it('costs no request when nothing differs', async () => {
    expect(await requestsAfter(() => touch('chat'), counters)).toBe(0);

    const sent = requestsOf(operator.client);
    const rounds = 500;
    for (let i = 0; i < rounds; i++) await operator.reconcile('chat');
    const cpu = process.cpuUsage();
    for (let i = 0; i < rounds; i++) await operator.reconcile('chat');
    const { user, system } = process.cpuUsage(cpu);
    process.stderr.write(`no-op reconcile: ${((user + system) / 1000 / rounds).toFixed(2)} ms CPU, 0 requests\n`);
    expect(requestsOf(operator.client) - sent).toBe(0);
  }, 30_000);

  it('costs no write after a restart', async () => {
    await operator.close();
    operator = await startOperator();
    await eventually(() => expect(operator.reconciles()).toBeGreaterThan(0));
    await awaitQuiet(counters);
    expect(writesOf(operator.client)).toEqual({});
    expect(await childrenOf('chat')).toEqual(all);
    expect((await conditionsOf('chat')).Ready).toBe('True');
  });
});

describe('a change', () => {
  const uidOf = async (name: string) => (await get(resources.deployments, name)).metadata.uid;

  it('of labels and of prefill keeps the Deployment and prunes what is not wanted', async () => {
    const before = await uidOf('chat-kserve');
    const failures = operator.failures();
    await apply(service({ spec: { labels: { team: 'a' }, prefill: undefined as never } }));
    await eventually(async () =>
      expect(await childrenOf('chat')).toEqual(
        [...routerChildren, 'Deployment chat-kserve', 'Service chat-kserve-workload-svc'].sort(),
      ),
    );
    const config = async () => JSON.stringify(await get(resources.deployments, 'chat-kserve-router-scheduler'));
    await eventually(async () => expect(await config()).toContain('single-profile-handler'));
    await eventually(async () =>
      expect(await get(resources.deployments, 'chat-kserve')).toMatchObject({
        metadata: { uid: before },
        spec: {
          template: {
            metadata: { labels: { team: 'a', 'llm-d.ai/role': 'both' } },
            // That of the sidecar is gone.
            spec: { serviceAccountName: 'default' },
          },
        },
      }),
    );
    await apply(service());
    await eventually(async () => expect(await childrenOf('chat')).toEqual(all));
    await eventually(async () => expect(await config()).toContain('always-disagg-pd-decider'));
    expect(await uidOf('chat-kserve')).toBe(before);
    expect(operator.failures()).toBe(failures);
    // Pods of a new generation have not been reported by anyone: ready no more.
    await eventually(async () =>
      expect(await conditionsOf('chat')).toMatchObject({ MainWorkloadReady: 'False DeploymentProgressing' }),
    );
  });

  const drifts: readonly (readonly [Resource, string, unknown, unknown])[] = [
    [resources.deployments, 'chat-kserve', { spec: { replicas: 7 } }, { spec: { replicas: 2 } }],
    [
      resources.services,
      'chat-kserve-workload-svc',
      { spec: { ports: [{ name: 'http', port: 9999 }] } },
      { spec: { ports: [{ port: 8000 }] } },
    ],
    [
      resources.roles,
      'chat-epp-role',
      { rules: [] },
      { rules: expect.arrayContaining([expect.objectContaining({ resources: ['pods'] })]) },
    ],
    [resources.roleBindings, 'chat-epp-rb', { subjects: [] }, { subjects: [{ name: 'chat-epp-sa' }] }],
    [
      resources.inferencePools,
      'chat-inference-pool',
      { spec: { targetPorts: [{ number: 1 }] } },
      { spec: { targetPorts: [{ number: 8000 }] } },
    ],
    [
      resources.xInferencePools,
      'chat-inference-pool',
      { spec: { targetPortNumber: 1 } },
      { spec: { targetPortNumber: 8000 } },
    ],
    [
      resources.httpRoutes,
      'chat-kserve-route',
      { spec: { rules: [] } },
      { spec: { rules: expect.arrayContaining([expect.objectContaining({ name: 'v1-completions-path' })]) } },
    ],
    [
      resources.serviceAccounts,
      'chat-epp-sa',
      { metadata: { labels: { 'app.kubernetes.io/part-of': null } } },
      { metadata: { labels: { 'app.kubernetes.io/part-of': 'llminferenceservice' } } },
    ],
  ];

  it.each(drifts.map(([resource, ...rest]) => [resource.kind, resource, ...rest] as const))(
    'by another hand is mended: %s',
    async (_kind, resource, name, patch, expected) => {
      await admin.mergePatch(resource, { namespace, name }, patch);
      await eventually(async () => expect(await get(resource, name)).toMatchObject(expected as object));
    },
  );

  it('that deletes children is mended', async () => {
    await Promise.all(
      kinds.flatMap((resource) =>
        drifts.filter(([of]) => of === resource).map(([, name]) => admin.delete(resource, { namespace, name })),
      ),
    );
    await eventually(async () => expect(await childrenOf('chat')).toEqual(all));
  });

  it('of our Gateway is mended, and one of somebody else is left alone', async () => {
    const ref = { namespace: 'signalbox-system', name: 'signalbox-gateway' };
    await admin.mergePatch(resources.gateways, ref, {
      spec: { listeners: [{ name: 'http', port: 81, protocol: 'HTTP' }] },
    });
    await eventually(async () =>
      expect((await get<Gateway>(resources.gateways, ref.name, ref.namespace)).spec.listeners[0]?.port).toBe(80),
    );
    await admin.delete(resources.gateways, ref);
    await eventually(async () =>
      expect((await get<Gateway>(resources.gateways, ref.name, ref.namespace)).spec.listeners[0]?.port).toBe(80),
    );
    const relabel = {
      metadata: { labels: { 'app.kubernetes.io/managed-by': 'me' } },
      spec: { listeners: [{ name: 'http', port: 82, protocol: 'HTTP' }] },
    };
    await admin.mergePatch(resources.gateways, ref, relabel);
    await awaitQuiet(counters);
    expect((await get<Gateway>(resources.gateways, ref.name, ref.namespace)).spec.listeners[0]?.port).toBe(82);
    await admin.delete(resources.gateways, ref);
    await eventually(async () =>
      expect((await get<Gateway>(resources.gateways, ref.name, ref.namespace)).spec.listeners[0]?.port).toBe(80),
    );
  });

  it('of adapters and of Secrets of an account reaches pods and routes, and goes without a trace', async () => {
    const annotations = { 'serving.kserve.io/model-based-routing-enabled': 'true' };
    const adapters = Array.from({ length: 30 }, (_, i) => ({ name: `a${i}`, uri: `s3://adapters/${i}` }));
    const model = { uri: 'hf://Qwen/Qwen2.5-7B-Instruct', name: 'chat' };
    await apply(service({ spec: { annotations, model: { ...model, lora: { adapters } } } }));
    const further = ['1', 'path-1', 'path-2'].map((part) => `HTTPRoute chat-kserve-route-lora-${part}`);
    await eventually(async () => expect(await childrenOf('chat')).toEqual([...all, ...further].sort()));
    const text = async () => JSON.stringify(await get(resources.deployments, 'chat-kserve'));
    await eventually(async () => expect(await text()).toContain('"s3://adapters/29"'));
    expect(await text()).not.toContain('AWS_ACCESS_KEY_ID');

    const account = { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'default', namespace } };
    await apply({ ...account, secrets: [{ name: 'store' }] } as Manifest);
    await eventually(async () => expect(await text()).toContain('"key":"AWS_ACCESS_KEY_ID"'));
    await awaitQuiet(counters);

    await apply(account as Manifest, service());
    await eventually(async () => expect(await childrenOf('chat')).toEqual(all));
    await eventually(async () => expect(await text()).not.toMatch(/lora|AWS/));
  });

  it('to stopped takes the children away until it is taken back', async () => {
    const stop = (value: string | null) =>
      admin.mergePatch(
        resources.llmInferenceServices,
        { namespace, name: 'chat' },
        { metadata: { annotations: { 'serving.kserve.io/stop': value } } },
      );
    await stop('true');
    await eventually(async () => expect(await childrenOf('chat')).toEqual([]));
    await eventually(async () =>
      expect(new Set(Object.values(await conditionsOf('chat')))).toEqual(new Set(['False Stopped'])),
    );
    expect((await getService('chat')).status?.url).toBeUndefined();
    await stop(null);
    await eventually(async () => expect(await childrenOf('chat')).toEqual(all));
  });
});

describe('what cannot be', () => {
  it('a name that belongs to somebody else is told and left alone', async () => {
    const taken: Manifest = {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'other-kserve-workload-svc', namespace },
      spec: { ports: [{ port: 1 }] },
    };
    await apply(taken);
    await apply(service({ name: 'other' }));
    await eventually(async () =>
      expect(await conditionsOf('other')).toMatchObject({ WorkloadsReady: 'False NameTaken' }),
    );
    const { message } = (await getService('other')).status?.conditions?.find(({ type }) => type === 'Ready') ?? {};
    expect(message).toBe(
      'Service default/other-kserve-workload-svc exists and does not belong to this service; delete it or give the service another name',
    );
    expect(controllerOf(await get(resources.services, 'other-kserve-workload-svc'))).toBeUndefined();
    await admin.delete(resources.services, { namespace, name: 'other-kserve-workload-svc' });
    await admin.delete(resources.llmInferenceServices, { namespace, name: 'other' });
  });

  it('a pod template that the API server refuses is told in its words', async () => {
    const template = { containers: [{ name: 'main', imagePullPolicy: 'Sometimes' }] };
    await apply(service({ name: 'broken', spec: { template, prefill: undefined as never, router: {} } }));
    await eventually(async () => {
      const { reason, message } =
        (await getService('broken')).status?.conditions?.find(({ type }) => type === 'MainWorkloadReady') ?? {};
      expect([reason, message]).toEqual(['ApplyFailed', expect.stringMatching(/imagePullPolicy.*"Sometimes"/)]);
    });
    await apply(
      service({ name: 'broken', spec: { template: { containers: [] }, prefill: undefined as never, router: {} } }),
    );
    await eventually(async () =>
      expect(await conditionsOf('broken')).toMatchObject({
        MainWorkloadReady: expect.stringMatching(/MinimumReplicas|Progressing/),
      }),
    );
    await admin.delete(resources.llmInferenceServices, { namespace, name: 'broken' });
  });

  it('a spec that admission would refuse keeps what is there and says why', async () => {
    await admin.mergePatch(
      resources.llmInferenceServices,
      { namespace, name: 'chat' },
      { spec: { model: { uri: 'ftp://host/model' } } },
    );
    await eventually(async () =>
      expect(await conditionsOf('chat')).toMatchObject({
        PresetsCombined: 'False InvalidRenderedConfig',
        Ready: 'False InvalidRenderedConfig',
      }),
    );
    expect(await childrenOf('chat')).toEqual(all);
    await apply(service());
    await admin.mergePatch(
      resources.llmInferenceServices,
      { namespace, name: 'chat' },
      { spec: { model: { uri: 'hf://Qwen/Qwen2.5-7B-Instruct' } } },
    );
    await eventually(async () => expect(await conditionsOf('chat')).toMatchObject({ PresetsCombined: 'True' }));
  });
});

describe('many services', () => {
  it('stand within seconds', async () => {
    const count = 50;
    const names = Array.from({ length: count }, (_, i) => `many-${i}`);
    const startMs = Date.now();
    await Promise.all(
      names.map((name) => admin.apply(resources.llmInferenceServices, service({ name }), { fieldManager: 'test' })),
    );
    const appliedMs = Date.now() - startMs;
    // Looking takes time of the same two cores, so it is done seldom and through one watch per kind.
    const expected = all.length * count;
    const watches = kinds.map((resource) => startInformer<KubeObject>(admin, resource, { namespace }, { log }));
    const isOfOurs = (object: KubeObject) => controllerOf(object)?.name.startsWith('many-') === true;
    await eventually(() => {
      const children = watches.flatMap(({ store }) => store.list().filter(isOfOurs));
      expect(children.length).toBe(expected);
    }, 60_000);
    for (const watch of watches) watch.close();
    const tookMs = Date.now() - startMs;
    process.stderr.write(`${count} services: applied in ${appliedMs} ms, ${expected} children in ${tookMs} ms\n`);
    expect(await requestsAfter(() => touch(...names), counters)).toBe(0);
  }, 120_000);
});
