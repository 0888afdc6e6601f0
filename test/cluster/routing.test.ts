import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { HTTPRoute } from '../../src/api/foreign/gateway-api.ts';
import type { LLMInferenceService } from '../../src/api/v1alpha2/llm-inference-service.ts';
import { controllerOf } from '../../src/kube/apply.ts';
import type { KubeObject, Manifest, Resource } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { eventually } from '../expect/eventually.ts';
import { awaitQuiet } from '../expect/quiet.ts';
import { startTestOperator, type TestOperator } from './operator.ts';
import { said } from './permitted-operator.ts';

/** How requests reach services, against a real API server: objects of the users' own, groups, pools. */

const namespace = 'default';
let operator: TestOperator;

beforeAll(async () => {
  operator = await startTestOperator({ serviceNetwork: '127.218', pools: ['v1', 'v1alpha2'] });
}, 600_000);

afterAll(async () => {
  await operator?.close();
}, 60_000);

const service = (name: string, router: object, more: object = {}): Manifest => ({
  apiVersion: 'serving.kserve.io/v1alpha2',
  kind: 'LLMInferenceService',
  metadata: { name, namespace },
  spec: { model: { uri: 'hf://a/b', name }, router, ...more },
});
const find = <T extends KubeObject>(resource: Resource, name: string, at = namespace) =>
  operator.admin.get<T>(resource, { namespace: at, name });
const get = async <T extends KubeObject>(resource: Resource, name: string, at = namespace): Promise<T> => {
  const found = await find<T>(resource, name, at);
  if (!found) throw new Error(`${resource.kind} ${name} is not there`);
  return found;
};
const statusOf = async (name: string) =>
  (await get<LLMInferenceService & KubeObject>(resources.llmInferenceServices, name)).status;
const conditionOf = async (name: string, type: string) => {
  const found = (await statusOf(name))?.conditions?.find((one) => one.type === type);
  return found && [found.status, found.reason].filter(Boolean).join(' ');
};
const textOf = async (resource: Resource, name: string) => JSON.stringify(await find(resource, name));
const childrenOf = async (name: string) => {
  const kinds = [resources.deployments, resources.httpRoutes, resources.inferencePools, resources.xInferencePools];
  const lists = await Promise.all(kinds.map((resource) => operator.admin.list<KubeObject>(resource, { namespace })));
  return lists
    .flatMap(({ items }) => items)
    .filter((object) => controllerOf(object)?.name === name)
    .map(({ apiVersion, kind, metadata }) => `${kind}${apiVersion.includes('x-k8s') ? '(x)' : ''} ${metadata.name}`)
    .sort();
};

describe("objects of the user's own", () => {
  const configMap = (at: string, name: string, weight: number): Manifest =>
    ({
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name, namespace: at },
      data: {
        epp: [
          'apiVersion: llm-d.ai/v1alpha1',
          'kind: EndpointPickerConfig',
          'plugins: [{type: queue-scorer}, {type: max-score-picker}]',
          `schedulingProfiles: [{name: default, plugins: [{pluginRef: queue-scorer, weight: ${weight}}]}]`,
        ].join('\n'),
      },
    }) as unknown as Manifest;
  const picker = 'cfg-kserve-router-scheduler';

  it.each([
    ['default', 'mine'],
    ['signalbox-system', 'config-scheduler-shared'],
  ])('a ConfigMap in %s configures the picker, and so does each change of it', async (at, name) => {
    await operator.apply(
      service('cfg', { gateway: {}, route: {}, scheduler: { config: { ref: { name, key: 'epp' } } } }),
    );
    await eventually(async () => expect(await conditionOf('cfg', 'PresetsCombined')).toBe('False ConfigNotFound'));
    for (const weight of [1111, 2222]) {
      await operator.apply(configMap(at, name, weight));
      await eventually(async () => expect(await textOf(resources.deployments, picker)).toContain(`weight: ${weight}`));
    }
    expect(await conditionOf('cfg', 'PresetsCombined')).toBe('True');
    await operator.admin.delete(resources.configMaps, { namespace: at, name });
    await eventually(async () => expect(await conditionOf('cfg', 'PresetsCombined')).toBe('False ConfigNotFound'));
    expect(await textOf(resources.deployments, picker)).toContain('weight: 2222');
  });

  it('an InferencePool and an HTTPRoute take the place of ours, and ours come back', async () => {
    const whole = service('own', { gateway: {}, route: {}, scheduler: {} });
    const all = [
      'Deployment own-kserve',
      'Deployment own-kserve-router-scheduler',
      'HTTPRoute own-kserve-route',
      'InferencePool own-inference-pool',
      'InferencePool(x) own-inference-pool',
    ];
    await operator.apply(whole);
    await eventually(async () => expect(await childrenOf('own')).toEqual(all));

    await operator.admin.mergePatch(
      resources.llmInferenceServices,
      { namespace, name: 'own' },
      {
        spec: {
          router: {
            gateway: null,
            route: { http: { refs: [{ name: 'their-route' }] } },
            scheduler: { pool: { ref: { name: 'their-pool' } } },
          },
        },
      },
    );
    await eventually(async () => expect(await childrenOf('own')).toEqual(['Deployment own-kserve']));
    await eventually(async () => expect(await conditionOf('own', 'HTTPRoutesReady')).toBe('False RefsInvalid'));
    expect(await conditionOf('own', 'InferencePoolReady')).toBe('False RefsInvalid');
    expect((await statusOf('own'))?.url).toBeUndefined();

    const parentRef = { group: 'gateway.networking.k8s.io', kind: 'Gateway', name: 'their-gateway', namespace };
    await operator.apply(
      {
        apiVersion: 'gateway.networking.k8s.io/v1',
        kind: 'Gateway',
        metadata: { name: 'their-gateway', namespace },
        spec: { gatewayClassName: 'envoy', listeners: [{ name: 'http', port: 80, protocol: 'HTTP' }] },
      } as Manifest,
      {
        apiVersion: 'inference.networking.k8s.io/v1',
        kind: 'InferencePool',
        metadata: { name: 'their-pool', namespace },
        spec: {
          selector: { matchLabels: { app: 'x' } },
          targetPorts: [{ number: 8000 }],
          endpointPickerRef: { name: 'their-picker', port: { number: 9002 } },
        },
      } as Manifest,
      {
        apiVersion: 'gateway.networking.k8s.io/v1',
        kind: 'HTTPRoute',
        metadata: { name: 'their-route', namespace },
        spec: {
          parentRefs: [{ name: 'their-gateway' }],
          rules: [
            {
              matches: [{ path: { type: 'PathPrefix', value: '/llm' } }],
              backendRefs: [{ group: 'inference.networking.k8s.io', kind: 'InferencePool', name: 'their-pool' }],
            },
          ],
        },
      } as Manifest,
    );
    await eventually(async () => expect(await conditionOf('own', 'HTTPRoutesReady')).toBe('False HTTPRoutesNotReady'));
    const tell = (resource: Resource, name: string, status: object) =>
      operator.admin.mergePatch(
        resource,
        { namespace, name },
        { status },
        { subresource: 'status', fieldManager: 'test' },
      );
    await tell(resources.gateways, 'their-gateway', {
      addresses: [{ type: 'IPAddress', value: '203.0.113.9' }],
      conditions: [said('Accepted', 1), said('Programmed', 1)],
    });
    await tell(resources.httpRoutes, 'their-route', {
      parents: [
        {
          parentRef: { name: 'their-gateway' },
          controllerName: 'example.com/envoy',
          conditions: [said('Accepted', 1), said('ResolvedRefs', 1)],
        },
      ],
    });
    await tell(resources.inferencePools, 'their-pool', { parents: [{ parentRef, conditions: [said('Accepted', 1)] }] });
    await eventually(async () => expect(await conditionOf('own', 'RouterReady')).toBe('True'));
    expect(await statusOf('own')).toMatchObject({
      url: 'http://203.0.113.9/llm',
      router: { scheduler: { inferencePool: { name: 'their-pool' }, service: { name: 'their-picker' } } },
    });
    const route = await get<HTTPRoute & KubeObject>(resources.httpRoutes, 'their-route');
    expect(route.metadata.managedFields?.map(({ manager }) => manager)).not.toContain('signalbox');

    await operator.admin.mergePatch(
      resources.llmInferenceServices,
      { namespace, name: 'own' },
      { spec: { router: { gateway: {}, route: { http: null }, scheduler: { pool: null } } } },
    );
    await eventually(async () => expect(await childrenOf('own')).toEqual(all));
    await awaitQuiet(operator.counters);
    expect(await find(resources.httpRoutes, 'their-route')).toBeDefined();
    expect(operator.failures()).toBe(0);
  });
});

describe('a group', () => {
  const member = (name: string, weight: number, more: object = {}): Manifest =>
    service(name, { route: { group: 'g', weight } }, { model: { uri: 'hf://a/b', name: 'shared' }, ...more });
  const publisherRule = 'v1-publisher-path-catch-all';
  const sharesOf = async (name: string) => {
    const route = await find<HTTPRoute & KubeObject>(resources.httpRoutes, `${name}-kserve-route`);
    const rule = route?.spec.rules?.find((one) => one.name === publisherRule);
    return rule?.backendRefs?.map((ref) => `${ref.name.replace('-kserve-workload-svc', '')} ${ref.weight}`).join(', ');
  };
  const shares = async (...names: readonly string[]) => Promise.all(names.map(sharesOf));
  const servingPods = (name: string, readyReplicas: number) =>
    operator.admin.mergePatch(
      resources.deployments,
      { namespace, name: `${name}-kserve` },
      { status: { replicas: 1, readyReplicas, updatedReplicas: 1, availableReplicas: readyReplicas } },
      { subresource: 'status', fieldManager: 'test' },
    );
  const finalizersOf = async (name: string) =>
    (await find<KubeObject & { metadata: { finalizers?: readonly string[] } }>(resources.llmInferenceServices, name))
      ?.metadata.finalizers;

  it('shares traffic by weight in the routes of all, and follows each change', async () => {
    await operator.apply(member('blue', 90), member('green', 10));
    await eventually(async () => expect(await shares('blue', 'green')).toEqual(Array(2).fill('blue 90, green 10')));
    await eventually(async () =>
      expect((await statusOf('green'))?.router?.group).toMatchObject({
        name: 'g',
        members: [
          {
            name: 'blue',
            weight: 90,
            stopped: false,
            backendRef: { kind: 'Service', name: 'blue-kserve-workload-svc' },
          },
          { name: 'green', weight: 10 },
        ],
      }),
    );
    await operator.apply(member('green', 50));
    await eventually(async () => expect(await shares('blue', 'green')).toEqual(Array(2).fill('blue 90, green 50')));
    await eventually(async () => expect(await conditionOf('blue', 'GroupDegraded')).toBe('False'));
  }, 60_000);

  it('sends nothing to a member without a pod while another has one', async () => {
    await servingPods('blue', 1);
    await eventually(async () => expect(await shares('blue', 'green')).toEqual(Array(2).fill('blue 90')));
    await eventually(async () => expect(await conditionOf('blue', 'GroupDegraded')).toBe('True MemberDivergence'));
    await servingPods('green', 1);
    await eventually(async () => expect(await shares('blue', 'green')).toEqual(Array(2).fill('blue 90, green 50')));
  }, 60_000);

  it('keeps the backends of a member that goes until no gateway leads to them', async () => {
    const observe = async (generation?: number) => {
      const { metadata, spec } = await get<HTTPRoute & KubeObject>(resources.httpRoutes, 'blue-kserve-route');
      const parents = (spec.parentRefs ?? []).map((parentRef) => ({
        parentRef,
        controllerName: 'example.com/envoy',
        conditions: [said('Accepted', generation ?? metadata.generation ?? 0)],
      }));
      await operator.admin.mergePatch(
        resources.httpRoutes,
        { namespace, name: 'blue-kserve-route' },
        { status: { parents } },
        { subresource: 'status', fieldManager: 'test' },
      );
    };
    await observe();
    await eventually(async () => expect(await finalizersOf('green')).toEqual(['signalbox.io/routing-group']));
    await operator.admin.delete(resources.llmInferenceServices, { namespace, name: 'green' });
    await eventually(async () => expect(await shares('blue', 'green')).toEqual(Array(2).fill('blue 90')));
    // The gateway has not looked at the new generation of the other's route.
    await eventually(async () => expect(await conditionOf('green', 'GroupReady')).toBe('False FinalizationPending'));
    expect(await find(resources.services, 'green-kserve-workload-svc')).toBeDefined();
    await observe();
    await eventually(async () => expect(await find(resources.llmInferenceServices, 'green')).toBeUndefined());
    expect(await sharesOf('blue')).toBe('blue 90');
  }, 60_000);

  it('takes a stopped member out before its pods go, and back in', async () => {
    await operator.apply(member('red', 10));
    await servingPods('blue', 0);
    await eventually(async () => expect(await sharesOf('blue')).toBe('blue 90, red 10'));
    const stop = (value: string | null) =>
      operator.admin.mergePatch(
        resources.llmInferenceServices,
        { namespace, name: 'red' },
        { metadata: { annotations: { 'serving.kserve.io/stop': value } } },
      );
    await operator.admin.mergePatch(
      resources.httpRoutes,
      { namespace, name: 'blue-kserve-route' },
      { status: { parents: [] } },
      { subresource: 'status', fieldManager: 'test' },
    );
    await stop('true');
    await eventually(async () => expect(await sharesOf('blue')).toBe('blue 90'));
    await eventually(async () => expect(await childrenOf('red')).toEqual([]));
    await eventually(async () =>
      expect((await statusOf('blue'))?.router?.group?.members).toMatchObject([
        { name: 'blue', stopped: false },
        { name: 'red', stopped: true },
      ]),
    );
    await stop(null);
    await eventually(async () => expect(await shares('blue', 'red')).toEqual(Array(2).fill('blue 90, red 10')));
  }, 60_000);

  it('of several models shares nothing between them, and says so', async () => {
    await operator.apply(member('other', 5, { model: { uri: 'hf://a/b', name: 'another' } }));
    await eventually(async () => expect(await conditionOf('blue', 'GroupDegraded')).toBe('True MemberDivergence'));
    await eventually(async () => expect(await shares('blue', 'other')).toEqual(['blue 90, red 10', 'other 5']));
    await operator.admin.mergePatch(
      resources.llmInferenceServices,
      { namespace, name: 'other' },
      { spec: { router: { route: { group: null, weight: null } } } },
    );
    await eventually(async () => expect(await finalizersOf('other')).toBeUndefined());
    await eventually(async () => expect((await statusOf('other'))?.router?.group).toBeUndefined());
    await awaitQuiet(operator.counters);
    expect(operator.failures()).toBe(0);
  }, 60_000);

  it('is deleted whole without anybody waiting for the others', async () => {
    for (const name of ['blue', 'red'])
      await operator.admin.delete(resources.llmInferenceServices, { namespace, name });
    await eventually(async () =>
      expect(await Promise.all(['blue', 'red'].map((name) => find(resources.llmInferenceServices, name)))).toEqual([
        undefined,
        undefined,
      ]),
    );
  }, 60_000);
});

describe('a gateway that knows the older API of pools alone', () => {
  const name = 'old';
  const main = `${name}-kserve-route`;
  const probe = `${name}-kserve-route-pool-probe`;
  const groupsIn = async (route: string) => [
    ...new Set(
      (await find<HTTPRoute & KubeObject>(resources.httpRoutes, route))?.spec.rules
        ?.flatMap(({ backendRefs }) => backendRefs ?? [])
        .flatMap(({ kind, group }) => (kind === 'InferencePool' ? [group] : [])),
    ),
  ];
  const answer = async (route: string, isResolved: boolean) => {
    const { metadata, spec } = await get<HTTPRoute & KubeObject>(resources.httpRoutes, route);
    const generation = metadata.generation ?? 1;
    const refs = {
      ...said('ResolvedRefs', generation),
      ...(isResolved ? {} : { status: 'False', reason: 'InvalidKind' }),
    };
    const parents = (spec.parentRefs ?? []).map((parentRef) => ({
      parentRef,
      controllerName: 'example.com/envoy',
      conditions: [said('Accepted', generation), refs],
    }));
    await operator.admin.mergePatch(
      resources.httpRoutes,
      { namespace, name: route },
      { status: { parents } },
      { subresource: 'status', fieldManager: 'test' },
    );
  };

  it('is given that one, asked on, and moved over once it knows the newer', async () => {
    await operator.apply(service(name, { gateway: {}, route: {}, scheduler: {} }));
    await eventually(async () => expect(await groupsIn(main)).toEqual(['inference.networking.k8s.io']));
    await answer(main, false);
    await eventually(async () => expect(await groupsIn(main)).toEqual(['inference.networking.x-k8s.io']));
    await eventually(async () => expect(await groupsIn(probe)).toEqual(['inference.networking.k8s.io']));
    await answer(main, true);
    await answer(probe, false);
    await eventually(async () => expect(await conditionOf(name, 'HTTPRoutesReady')).toBe('True'));
    await awaitQuiet(operator.counters);
    expect(await groupsIn(main)).toEqual(['inference.networking.x-k8s.io']);
    await answer(probe, true);
    await eventually(async () => expect(await groupsIn(main)).toEqual(['inference.networking.k8s.io']));
    await eventually(async () => expect(await find(resources.httpRoutes, probe)).toBeUndefined());
  }, 60_000);
});
