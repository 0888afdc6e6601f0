import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { ApplyMemory, applySet, findDifferences, ownerReference } from '../../src/kube/apply.ts';
import type { Client } from '../../src/kube/client.ts';
import { loadKubeConfig } from '../../src/kube/config.ts';
import { startEventRecorder } from '../../src/kube/events.ts';
import { type Change, startInformer } from '../../src/kube/informer.ts';
import { startLeaderElection } from '../../src/kube/leader-election.ts';
import type { KubeObject, Manifest, ObjectRef, Resource } from '../../src/kube/object.ts';
import { resourceOf, resources } from '../../src/kube/resources.ts';
import { createClient } from '../../src/kube/rest-client.ts';
import type { ControlPlane } from '../../src/local/control-plane.ts';
import { startAdmissionServer } from '../../src/runtime/admission-server.ts';
import { startCertificates } from '../../src/runtime/certs.ts';
import { silentLogger } from '../../src/telemetry/log.ts';
import { startTestControlPlane } from './control-plane.ts';

/** A manifest to be edited freely; what a case names is there. */
// biome-ignore lint/suspicious/noExplicitAny: deep paths of a literal above, checked by the test itself
type Draft = any;

const log = silentLogger;
const manager = 'signalbox-test';
const namespace = 'default';
let plane: ControlPlane;
let client: Client;

beforeAll(async () => {
  plane = await startTestControlPlane();
  client = createClient(await loadKubeConfig({ path: plane.kubeconfigPath }), { log });
}, 900_000);

afterAll(async () => {
  await client?.close();
  await plane?.stop();
});

const sentNow = () => Object.values(client.sent).reduce((sum, count) => sum + count, 0);
const until = async (what: string, check: () => boolean | Promise<boolean>, ms = 15_000) => {
  const end = Date.now() + ms;
  while (!(await check())) {
    if (Date.now() > end) throw new Error(`not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
};

const routeResource: Resource = {
  group: 'example.test',
  version: 'v1',
  kind: 'Route',
  plural: 'routes',
  namespaced: true,
};
const routeDefinition: Manifest = {
  apiVersion: 'apiextensions.k8s.io/v1',
  kind: 'CustomResourceDefinition',
  metadata: { name: 'routes.example.test' },
  spec: {
    group: 'example.test',
    names: { kind: 'Route', plural: 'routes', singular: 'route', listKind: 'RouteList' },
    scope: 'Namespaced',
    versions: [
      {
        name: 'v1',
        served: true,
        storage: true,
        schema: {
          openAPIV3Schema: {
            type: 'object',
            properties: {
              spec: {
                type: 'object',
                properties: {
                  options: {
                    type: 'array',
                    'x-kubernetes-list-type': 'atomic',
                    items: {
                      type: 'object',
                      properties: { name: { type: 'string' }, mode: { type: 'string', default: 'Auto' } },
                    },
                  },
                  // As in the Gateway API: lists that are owned as a whole, whose elements the server completes.
                  rules: {
                    type: 'array',
                    'x-kubernetes-list-type': 'atomic',
                    items: {
                      type: 'object',
                      properties: {
                        name: { type: 'string' },
                        matches: {
                          type: 'array',
                          default: [{ path: { type: 'PathPrefix', value: '/' } }],
                          items: {
                            type: 'object',
                            properties: {
                              path: {
                                type: 'object',
                                default: { type: 'PathPrefix', value: '/' },
                                properties: {
                                  type: { type: 'string', default: 'PathPrefix' },
                                  value: { type: 'string', default: '/' },
                                },
                              },
                            },
                          },
                        },
                        timeouts: { type: 'object', properties: { request: { type: 'string' } } },
                        backendRefs: {
                          type: 'array',
                          items: {
                            type: 'object',
                            properties: {
                              group: { type: 'string', default: '' },
                              kind: { type: 'string', default: 'Service' },
                              name: { type: 'string' },
                              port: { type: 'integer' },
                              weight: { type: 'integer', default: 1 },
                            },
                          },
                        },
                      },
                    },
                  },
                },
              },
            },
          },
        },
      },
    ],
  },
};

const deployment = (): Manifest => ({
  apiVersion: 'apps/v1',
  kind: 'Deployment',
  metadata: { name: 'set', namespace, labels: { app: 'set' } },
  spec: {
    replicas: 2,
    selector: { matchLabels: { app: 'set' } },
    template: {
      metadata: { labels: { app: 'set' } },
      spec: {
        hostNetwork: false,
        nodeSelector: {},
        volumes: [
          { name: 'tmp', emptyDir: {} },
          { name: 'shm', emptyDir: { medium: 'Memory', sizeLimit: '1024Mi' } },
        ],
        tolerations: [{ key: 'nvidia.com/gpu', operator: 'Exists' }],
        initContainers: [{ name: 'side', image: 'side:1', restartPolicy: 'Always', securityContext: {} }],
        containers: [
          {
            name: 'main',
            image: 'main:1',
            args: ['--a', '1000m'],
            env: [
              { name: 'A', value: '1' },
              { name: 'EMPTY', value: '' },
              { name: 'IP', valueFrom: { fieldRef: { fieldPath: 'status.podIP' } } },
            ],
            ports: [{ containerPort: 8000, name: 'http' }],
            resources: { limits: { cpu: '1000m', memory: '2048Mi', 'nvidia.com/gpu': 1 }, requests: { cpu: '0.5' } },
            readinessProbe: {
              httpGet: { path: '/health', port: 8000, scheme: 'HTTP' },
              periodSeconds: 5,
              initialDelaySeconds: 0,
            },
            volumeMounts: [{ name: 'tmp', mountPath: '/tmp', readOnly: false }],
          },
        ],
      },
    },
  },
});
const others = (): readonly Manifest[] => [
  {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name: 'set', namespace },
    spec: { selector: { app: 'set' }, ports: [{ name: 'http', port: 80, targetPort: 8000 }] },
  },
  {
    apiVersion: 'rbac.authorization.k8s.io/v1',
    kind: 'Role',
    metadata: { name: 'set', namespace },
    rules: [{ apiGroups: [''], resources: ['pods'], verbs: ['get', 'list'] }],
  },
  {
    apiVersion: 'rbac.authorization.k8s.io/v1',
    kind: 'RoleBinding',
    metadata: { name: 'set', namespace },
    subjects: [{ kind: 'ServiceAccount', name: 'set', namespace }],
    roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name: 'set' },
  },
  { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'set', namespace } },
  { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'set', namespace }, data: { 'a.yaml': 'x: 1\n' } },
  {
    apiVersion: 'example.test/v1',
    kind: 'Route',
    metadata: { name: 'set', namespace },
    spec: {
      rules: [
        {
          name: 'chat',
          matches: [{ path: { value: '/v1' } }],
          timeouts: { request: '0s' },
          backendRefs: [{ name: 'set', port: 80 }],
        },
      ],
    },
  },
];

describe('the client', () => {
  it('reads, writes and tells errors by their code', async () => {
    const config: Manifest = {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'one', namespace },
      data: { a: '1' },
    };
    const made = await client.create<Manifest>(resources.configMaps, config);
    await expect(client.create(resources.configMaps, config)).rejects.toMatchObject({
      code: 'conflict',
      reason: 'AlreadyExists',
    });
    await expect(
      client.replace(resources.configMaps, { ...made, metadata: { ...made.metadata, resourceVersion: '1' } }),
    ).rejects.toMatchObject({ code: 'conflict' });
    await expect(
      client.create(resources.configMaps, { ...config, metadata: { name: 'No_Name', namespace } }),
    ).rejects.toMatchObject({ code: 'invalid', message: expect.stringContaining('metadata.name') });
    await client.delete(resources.configMaps, { namespace, name: 'one' }, { uid: made.metadata.uid ?? '' });
    expect(await client.get(resources.configMaps, { namespace, name: 'one' })).toBeUndefined();
    await client.delete(resources.configMaps, { namespace, name: 'one' });
  });

  it('lists more than one page', async () => {
    const names = Array.from({ length: 620 }, (_, i) => `page-${i}`);
    await Promise.all(
      names.map((name) =>
        client.create(resources.configMaps, {
          apiVersion: 'v1',
          kind: 'ConfigMap',
          metadata: { name, namespace, labels: { page: 'yes' } },
        }),
      ),
    );
    const before = client.sent.GET ?? 0;
    const page = await client.list(resources.configMaps, { namespace, labelSelector: 'page=yes' });
    expect(page.items).toHaveLength(620);
    expect(page.items[0]).toMatchObject({ apiVersion: 'v1', kind: 'ConfigMap' });
    expect((client.sent.GET ?? 0) - before).toBe(2);
    await client.request('DELETE', `/api/v1/namespaces/${namespace}/configmaps?labelSelector=page%3Dyes`);
  });

  it('follows its signal and its time-out', async () => {
    await expect(
      client.get(resources.pods, { namespace, name: 'x' }, AbortSignal.abort(new Error('stop'))),
    ).rejects.toThrow('stop');
  });

  it('serves twenty watches and requests beside them', async () => {
    const informers = Array.from({ length: 20 }, () =>
      startInformer(client, resources.configMaps, { namespace }, { log }),
    );
    await Promise.all(informers.map((informer) => informer.synced));
    await client.create(resources.configMaps, {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'seen', namespace },
    });
    await until('all informers see it', () =>
      informers.every((informer) => informer.store.get({ namespace, name: 'seen' })),
    );
    await client.delete(resources.configMaps, { namespace, name: 'seen' });
    await until('all informers miss it', () =>
      informers.every((informer) => !informer.store.get({ namespace, name: 'seen' })),
    );
    for (const informer of informers) informer.close();
  });
});

describe('an informer', () => {
  it('waits for a definition that is not installed, then follows it', async () => {
    const informer = startInformer<KubeObject>(
      client,
      routeResource,
      { indexes: { app: (object) => [object.metadata.labels?.app ?? ''] } },
      { log },
    );
    const changes: string[] = [];
    informer.subscribe((change: Change<KubeObject>) => changes.push(`${change.type} ${change.object.metadata.name}`));
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(informer.isSynced).toBe(false);
    await client.create(resources.customResourceDefinitions, routeDefinition);
    await informer.synced;
    const route = (app: string): Manifest => ({
      apiVersion: 'example.test/v1',
      kind: 'Route',
      metadata: { name: 'r', namespace, labels: { app } },
    });
    await client.apply(routeResource, route('a'), { fieldManager: manager });
    await client.apply(routeResource, route('b'), { fieldManager: manager });
    await until('the index follows', () => informer.store.byIndex('app', 'b').length === 1);
    expect(informer.store.byIndex('app', 'a')).toHaveLength(0);
    await client.delete(routeResource, { namespace, name: 'r' });
    await until('deleted', () => changes.at(-1) === 'deleted r');
    expect(changes).toEqual(['added r', 'updated r', 'deleted r']);
    informer.close();
  });
});

describe('applySet', () => {
  let owner: KubeObject;
  const live = new Map<string, KubeObject>();
  const key = (resource: Resource, ref: ObjectRef) => `${resource.kind}/${ref.namespace}/${ref.name}`;
  const resourceFor = (object: KubeObject) => (object.kind === 'Route' ? routeResource : resourceOf(object));
  const read = async () => {
    live.clear();
    const kinds = [
      resources.deployments,
      resources.services,
      resources.roles,
      resources.roleBindings,
      resources.serviceAccounts,
      resources.configMaps,
      routeResource,
    ];
    for (const resource of kinds) {
      for (const item of (await client.list(resource, { namespace })).items)
        live.set(key(resource, item.metadata), item);
    }
  };
  const run = async (desired: readonly Manifest[], memory?: ApplyMemory) => {
    await read();
    const before = sentNow();
    const operations = await applySet(client, {
      owner,
      fieldManager: manager,
      desired,
      live: (resource, ref) => live.get(key(resource, ref)),
      children: [...live.values()],
      resourceFor,
      ...(memory ? { memory } : {}),
    });
    return {
      did: operations.map((o) => `${o.verb} ${o.resource.kind}`).sort(),
      reasons: operations.map((o) => o.reason),
      sent: sentNow() - before,
    };
  };
  const desired = () => [deployment(), ...others()];
  const changed = (index: number, change: (draft: Draft) => void) => {
    const all = structuredClone(desired()) as unknown as Draft[];
    const draft = all[index];
    if (draft) change(draft);
    return all as unknown as readonly Manifest[];
  };

  beforeAll(async () => {
    owner = await client.create(resources.configMaps, {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'owner', namespace },
    });
  });

  it('creates everything, and then sends nothing, with no memory of the first time', async () => {
    const first = await run(desired());
    expect(first.did).toEqual([
      'create ConfigMap',
      'create Deployment',
      'create Role',
      'create RoleBinding',
      'create Route',
      'create Service',
      'create ServiceAccount',
    ]);
    expect(await run(desired())).toEqual({ did: [], reasons: [], sent: 0 });
    expect(live.get('Deployment/default/set')?.metadata.ownerReferences).toEqual([ownerReference(owner)]);
  });

  it.each<[string, (draft: Draft) => void, string]>([
    [
      'a value',
      (d) => {
        d.spec.replicas = 3;
      },
      'spec.replicas is 2, wanted 3',
    ],
    [
      'an argument',
      (d) => {
        d.spec.template.spec.containers[0].args = ['--a', '1'];
      },
      'spec.template.spec.containers[name=main].args[1] is "1000m", wanted "1"',
    ],
    [
      'a new variable',
      (d) => {
        d.spec.template.spec.containers[0].env.push({ name: 'B', value: '2' });
      },
      'spec.template.spec.containers[name=main].env lacks the wanted element {"name":"B","value":"2"}',
    ],
    [
      'a variable that goes',
      (d) => {
        d.spec.template.spec.containers[0].env.splice(0, 1);
      },
      'spec.template.spec.containers[name=main].env[name=A] is no longer wanted',
    ],
    [
      'an amount',
      (d) => {
        d.spec.template.spec.containers[0].resources.limits.cpu = '1500m';
      },
      'spec.template.spec.containers[name=main].resources.limits.cpu is "1", wanted "1500m"',
    ],
    [
      'a probe that goes',
      (d) => {
        delete d.spec.template.spec.containers[0].readinessProbe;
      },
      'spec.template.spec.containers[name=main].readinessProbe is no longer wanted',
    ],
    [
      'a label that goes',
      (d) => {
        delete d.metadata.labels;
      },
      'metadata.labels is no longer wanted',
    ],
    [
      'the order of containers',
      (d) => {
        d.spec.template.spec.volumes.reverse();
      },
      'spec.template.spec.volumes has another order',
    ],
  ])('sees %s, mends it and is quiet again', async (_, change, reason) => {
    const next = changed(0, change);
    const result = await run(next);
    expect(result.did).toEqual(['update Deployment']);
    expect(result.reasons[0]).toContain(reason);
    expect(await run(next)).toEqual({ did: [], reasons: [], sent: 0 });
    await run(desired());
    expect(await run(desired())).toEqual({ did: [], reasons: [], sent: 0 });
  });

  it('sees a field that goes from inside a list that is owned as a whole', async () => {
    const next = changed(6, (d) => {
      delete d.spec.rules[0].timeouts;
    });
    expect((await run(next)).reasons).toEqual(['spec.rules[0].timeouts is no longer wanted']);
    expect(await run(next)).toEqual({ did: [], reasons: [], sent: 0 });
    await run(desired());
  });

  it.each<[string, Resource, unknown]>([
    ['a scaled Deployment', resources.deployments, { spec: { replicas: 7 } }],
    ['a removed label', resources.deployments, { metadata: { labels: { app: null } } }],
    [
      'an edited template',
      resources.deployments,
      { spec: { template: { spec: { containers: [{ name: 'main', image: 'evil:1' }] } } } },
    ],
    ['a redirected Service', resources.services, { spec: { selector: { app: 'other' } } }],
    ['a widened Role', resources.roles, { rules: [{ apiGroups: ['*'], resources: ['*'], verbs: ['*'] }] }],
    ['an edited ConfigMap', resources.configMaps, { data: { 'a.yaml': 'x: 2\n' } }],
    ['a route without rules', routeResource, { spec: { rules: [] } }],
    ['a lost owner reference', resources.services, { metadata: { ownerReferences: [] } }],
  ])('mends drift: %s', async (_, resource, patch) => {
    await client.mergePatch(resource, { namespace, name: 'set' }, patch);
    expect((await run(desired())).did).toEqual([`update ${resource.kind}`]);
    expect(await run(desired())).toEqual({ did: [], reasons: [], sent: 0 });
  });

  it('leaves what others add alone', async () => {
    await client.mergePatch(
      resources.deployments,
      { namespace, name: 'set' },
      {
        metadata: { annotations: { theirs: 'yes' } },
        spec: { template: { metadata: { annotations: { restartedAt: 'now' } } } },
      },
    );
    expect(await run(desired())).toEqual({ did: [], reasons: [], sent: 0 });
    expect(live.get('Deployment/default/set')?.metadata.annotations).toMatchObject({ theirs: 'yes' });
  });

  it('prunes what left the set, and only what the owner controls', async () => {
    await client.create(resources.configMaps, {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'foreign', namespace },
    });
    const without = desired().filter((manifest) => manifest.kind !== 'ConfigMap');
    const result = await run(without);
    expect(result.did).toEqual(['delete ConfigMap']);
    expect(await client.get(resources.configMaps, { namespace, name: 'set' })).toBeUndefined();
    expect(await client.get(resources.configMaps, { namespace, name: 'foreign' })).toBeDefined();
    expect((await run(desired())).did).toEqual(['create ConfigMap']);
  });

  it('never takes what another owns or made', async () => {
    const other = await client.create(resources.configMaps, {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'other-owner', namespace },
    });
    const taken: Manifest = {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'taken', namespace, ownerReferences: [ownerReference(other)] },
    };
    await client.create(resources.configMaps, taken);
    const mine = (name: string): Manifest => ({
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name, namespace },
      data: { a: '1' },
    });
    await expect(run([...desired(), mine('taken')])).rejects.toMatchObject({
      code: 'preconditionFailed',
      message: expect.stringContaining('controlled by ConfigMap other-owner'),
    });
    await expect(run([...desired(), mine('foreign')])).rejects.toMatchObject({
      code: 'preconditionFailed',
      message: expect.stringContaining('was not made by'),
    });
  });

  it('remembers what the server writes its own way', async () => {
    const memory = new ApplyMemory();
    // A default that no table knows, inside a list that is owned as a whole.
    const odd = changed(6, (d) => {
      d.spec.options = [{ name: 'x' }];
    });
    expect((await run(odd, memory)).did).toEqual(['update Route']);
    expect(await run(odd, memory)).toEqual({ did: [], reasons: [], sent: 0 });
    expect((await run(odd)).reasons).toEqual(['spec.options[0].mode is no longer wanted']);
    // What is remembered hides no drift.
    await client.mergePatch(
      routeResource,
      { namespace, name: 'set' },
      { spec: { options: [{ name: 'y', mode: 'Auto' }] } },
    );
    expect((await run(odd, memory)).did).toEqual(['update Route']);
  });

  it('compares a status by its own manager entry', async () => {
    const status: Manifest = {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata: { name: 'set', namespace },
      status: { replicas: 2, observedGeneration: 1 },
    };
    await client.apply(resources.deployments, status, { fieldManager: manager, subresource: 'status', force: true });
    const now = await client.get(resources.deployments, { namespace, name: 'set' });
    expect(now && findDifferences(status, now, manager, 'status')).toEqual([]);
    expect(
      now && findDifferences({ ...status, status: { replicas: 3 } }, now, manager, 'status').map((d) => d.reason),
    ).toEqual(['status.replicas is 2, wanted 3', 'status.observedGeneration is no longer wanted']);
    await client.apply(
      resources.deployments,
      { ...status, status: {} },
      { fieldManager: manager, subresource: 'status' },
    );
  });
});

describe('events and leases', () => {
  it('writes the same event once, with a count', async () => {
    const recorder = startEventRecorder(client, { component: 'test' }, { log });
    const object = await client.create(resources.configMaps, {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'told', namespace },
    });
    for (let i = 0; i < 3; i++) {
      recorder.record(object, 'Warning', 'Broken', 'it is broken');
      await recorder.flush();
    }
    await recorder.close();
    const events = await client.list<KubeObject & { count: number; reason: string; involvedObject: { name: string } }>(
      resources.events,
      { namespace },
    );
    expect(events.items.filter((event) => event.involvedObject.name === 'told')).toMatchObject([
      { reason: 'Broken', count: 3 },
    ]);
  });

  it('elects one leader, and the next when it steps down', async () => {
    const lease = { namespace, name: 'election' };
    const times = { leaseDurationMs: 60_000, renewDeadlineMs: 2_000, retryPeriodMs: 200 };
    const lost: string[] = [];
    const stand = (identity: string) =>
      startLeaderElection(client, { lease, identity, times, onLost: () => lost.push(identity) }, { log });
    const a = stand('a');
    await a.leading;
    const b = stand('b');
    await new Promise((resolve) => setTimeout(resolve, 600));
    expect([a.isLeading, b.isLeading]).toEqual([true, false]);
    // Long before the lease would run out.
    await a.close();
    await b.leading;
    // Somebody takes it by force.
    await client.mergePatch(resources.leases, lease, { spec: { holderIdentity: 'c' } });
    await until('b noticed', () => lost.length > 0);
    expect(lost).toEqual(['b']);
    await b.close();
  });
});

describe('webhook certificates', () => {
  it('are made once, trusted by the API server and put back when somebody drops them', async () => {
    const seen: string[] = [];
    const name = 'signalbox-test';
    const secret = { namespace, name: 'webhook-cert' };
    const options = { secret, names: ['localhost', '127.0.0.1'], mutating: [name] };
    // Two replicas start at once: one Secret, one authority.
    const [one, two] = await Promise.all([
      startCertificates(client, options, { log }),
      startCertificates(client, options, { log }),
    ]);
    expect(one.current.certificate).toBe(two.current.certificate);
    two.close();
    const server = await startAdmissionServer(
      {
        host: '127.0.0.1',
        port: 0,
        certificate: one.current,
        routes: new Map([
          [
            '/hook',
            async (request) => {
              seen.push(request.name ?? '');
              if (request.name === 'refused') throw new Error('metadata.name: refused by the test');
              return { uid: request.uid, allowed: true };
            },
          ],
        ]),
      },
      { log },
    );
    await client.create(resources.mutatingWebhookConfigurations, {
      apiVersion: 'admissionregistration.k8s.io/v1',
      kind: 'MutatingWebhookConfiguration',
      metadata: { name },
      webhooks: [
        {
          name: 'hook.example.test',
          admissionReviewVersions: ['v1'],
          clientConfig: { url: `https://127.0.0.1:${server.port}/hook` },
          rules: [{ apiGroups: [''], apiVersions: ['v1'], operations: ['CREATE'], resources: ['configmaps'] }],
          objectSelector: { matchLabels: { hook: 'yes' } },
          failurePolicy: 'Fail',
          sideEffects: 'None',
        },
      ],
    });
    type Configuration = Manifest & { webhooks: { clientConfig: { caBundle?: string } }[] };
    const bundleInPlace = async () => {
      const live = await client.get<Configuration>(resources.mutatingWebhookConfigurations, { name });
      return live?.webhooks[0]?.clientConfig.caBundle === Buffer.from(one.caBundle).toString('base64');
    };
    await until('the bundle is there', bundleInPlace);
    const config = (configName: string): Manifest => ({
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: configName, namespace, labels: { hook: 'yes' } },
    });
    await until('the webhook answers', () =>
      client.create(resources.configMaps, config('hooked')).then(
        () => true,
        () => false,
      ),
    );
    expect(seen).toContain('hooked');
    await expect(client.create(resources.configMaps, config('refused'))).rejects.toThrow(
      'metadata.name: refused by the test',
    );
    const live = await client.get<Configuration>(resources.mutatingWebhookConfigurations, { name });
    if (!live) throw new Error('gone');
    await client.replace(resources.mutatingWebhookConfigurations, {
      ...live,
      webhooks: live.webhooks.map((hook) => ({ ...hook, clientConfig: { ...hook.clientConfig, caBundle: '' } })),
    });
    await until('the bundle is back', bundleInPlace);
    // The Secret is deleted: a new authority, served without a restart.
    const before = one.current.certificate;
    let changed = 0;
    one.onChange((certificate) => {
      changed++;
      server.setCertificate(certificate);
    });
    await client.delete(resources.secrets, secret);
    await until('a new certificate', () => one.current.certificate !== before && changed === 1);
    await until('the webhook answers again', () =>
      client.create(resources.configMaps, config('hooked-again')).then(
        () => true,
        () => false,
      ),
    );
    one.close();
    await client.delete(resources.mutatingWebhookConfigurations, { name });
    await server.close();
  });
});
