import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { HTTPRoute } from '../../src/api/foreign/gateway-api.ts';
import type { LLMInferenceService } from '../../src/api/v1alpha2/llm-inference-service.ts';
import { controllerOf } from '../../src/kube/apply.ts';
import type { KubeObject, Manifest, Resource } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { eventually } from '../expect/eventually.ts';
import { awaitQuiet } from '../expect/quiet.ts';
import { said, startTestOperator, type TestOperator } from './operator.ts';

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
