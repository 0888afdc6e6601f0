import { describe, expect, it } from '@jest/globals';
import { condition, gateway, observe, readyDeployment, surroundings } from '../../test/builders/observed.ts';
import { fullRouter, llmService, platform, prefillDecodeService } from '../../test/builders/service.ts';
import type { InferencePool } from '../api/foreign/inference-pool.ts';
import type { LLMInferenceService } from '../api/v1alpha2/llm-inference-service.ts';
import { render } from '../render/render.ts';
import { causeOf, describeCauses, type PodState } from './causes.ts';
import { beforeRendering, routerNeeds } from './chains.ts';
import { allViolations, firstViolation } from './check.ts';
import type { DeploymentState, Observed, Surroundings } from './observed.ts';
import { refusedStatus, statusOf, statusPatch } from './status.ts';

const now = '2030-01-01T00:00:00Z';
const earlier = '2029-01-01T00:00:00Z';

const told = (status: ReturnType<typeof statusOf>) =>
  Object.fromEntries(
    (status.conditions ?? []).map((one) => [one.type, one.reason ? `${one.status} ${one.reason}` : one.status]),
  );
const messageOf = (status: ReturnType<typeof statusOf>, type: string) =>
  status.conditions?.find((one) => one.type === type)?.message;

describe('statusOf', () => {
  it('is ready when everything is', () => {
    const status = statusOf(observe(prefillDecodeService()), now);
    expect(told(status)).toEqual({
      Ready: 'True',
      PresetsCombined: 'True',
      WorkloadsReady: 'True',
      MainWorkloadReady: 'True',
      PrefillWorkloadReady: 'True',
      RouterReady: 'True',
      GatewaysReady: 'True',
      HTTPRoutesReady: 'True',
      InferencePoolReady: 'True',
      SchedulerWorkloadReady: 'True',
    });
    expect(status).toMatchObject({
      observedGeneration: 1,
      url: 'http://203.0.113.7/default/chat',
      addresses: [
        { name: 'gateway-external-model-routing', url: 'http://203.0.113.7' },
        { name: 'gateway-external', url: 'http://203.0.113.7/default/chat', models: [{ name: 'chat' }] },
        { name: 'gateway-external', url: 'http://203.0.113.7/publishers/default/models/chat' },
      ],
      router: {
        gateways: [{ name: 'signalbox-gateway', listeners: ['http'], httpRoutes: [{ name: 'chat-kserve-route' }] }],
        scheduler: { inferencePool: { name: 'chat-inference-pool' }, service: { name: 'chat-epp-service' } },
      },
      workloads: { primary: { name: 'chat-kserve', readyReplicas: 1 }, service: { name: 'chat-kserve-workload-svc' } },
    });
  });

  it('has no conditions for parts that are not there, and the Service for an address', () => {
    const status = statusOf(observe(llmService()), now);
    expect(Object.keys(told(status))).toEqual([
      'Ready',
      'PresetsCombined',
      'WorkloadsReady',
      'MainWorkloadReady',
      'RouterReady',
    ]);
    expect(status.url).toBeUndefined();
    expect(status.addresses?.[0]).toMatchObject({
      name: 'internal',
      url: 'http://chat-kserve-workload-svc.default.svc.cluster.local:8000',
    });
  });

  it.each<[string, Partial<DeploymentState['status'] & object>, string, RegExp]>([
    ['has not been looked at', { observedGeneration: 0 }, 'DeploymentProgressing', /rollout is under way/],
    ['has old pods', { replicas: 3 }, 'DeploymentProgressing', /rollout is under way: 2 of 2/],
    ['lacks new pods', { updatedReplicas: 1 }, 'DeploymentProgressing', /rollout is under way: 1 of 2/],
    [
      'is not available',
      { availableReplicas: 0, conditions: [condition('Available', 'False')] },
      'MinimumReplicasUnavailable',
      /^0 of 2 pods are ready$/,
    ],
    [
      'is stuck',
      {
        conditions: [
          condition('Available'),
          condition('Progressing', 'False', { reason: 'ProgressDeadlineExceeded', message: 'timed out' }),
        ],
      },
      'ProgressDeadlineExceeded',
      /timed out/,
    ],
    [
      'cannot make pods',
      { conditions: [condition('ReplicaFailure', 'True', { reason: 'FailedCreate', message: 'exceeded quota' })] },
      'FailedCreate',
      /pods cannot be created: exceeded quota/,
    ],
  ])('is not ready when the Deployment %s', (_what, status, reason, message) => {
    const ready = readyDeployment('chat-kserve', 2);
    const deployment = () => ({ ...ready, status: { ...ready.status, ...status } });
    const result = statusOf(observe(llmService(), { deployment }), now);
    expect(told(result)).toMatchObject({
      Ready: `False ${reason}`,
      WorkloadsReady: `False ${reason}`,
      MainWorkloadReady: `False ${reason}`,
    });
    expect(messageOf(result, 'Ready')).toMatch(message);
  });

  it.each<[string, Partial<Observed>, string, string, RegExp]>([
    [
      'the Gateway is missing',
      { gatewayOf: () => undefined },
      'GatewaysReady',
      'GatewaysNotReady',
      /signalbox-system\/signalbox-gateway does not exist/,
    ],
    [
      'the Gateway has no controller',
      { gatewayOf: () => gateway({ status: { conditions: [condition('Accepted', 'Unknown')] } }) },
      'GatewaysReady',
      'GatewaysNotReady',
      /waits for the controller of its GatewayClass envoy/,
    ],
    [
      'what is said of the Gateway is of an earlier generation',
      {
        gatewayOf: () => {
          const changed = gateway({
            status: { conditions: [condition('Programmed', 'True', { observedGeneration: 2 })] },
          });
          return { ...changed, metadata: { ...changed.metadata, generation: 3 } };
        },
      },
      'GatewaysReady',
      'GatewaysNotReady',
      /to look at its current generation/,
    ],
    [
      'the Gateway is refused',
      {
        gatewayOf: () =>
          gateway({ status: { conditions: [condition('Programmed', 'False', { reason: 'PortUnavailable' })] } }),
      },
      'GatewaysReady',
      'GatewaysNotReady',
      /is not Programmed: PortUnavailable/,
    ],
    [
      'the route is missing',
      { route: undefined },
      'HTTPRoutesReady',
      'HTTPRoutesNotReady',
      /chat-kserve-route is not there yet/,
    ],
    [
      'the pool has not been looked at',
      { pool: { ...observe(prefillDecodeService()).pool, status: {} } as InferencePool },
      'InferencePoolReady',
      'WaitingForGateway',
      /waits for the controller of Gateway/,
    ],
    [
      'the picker is not there',
      { deployment: (name) => (name.endsWith('scheduler') ? undefined : readyDeployment(name, 1)) },
      'SchedulerWorkloadReady',
      'DeploymentMissing',
      /is not there yet/,
    ],
    [
      'the Gateway API is not served',
      {
        surroundings: surroundings({
          served: {
            gatewayApi: false,
            pool: true,
            xPool: true,
            leaderWorkerSet: true,
            scaledObject: true,
            deviceClaims: true,
          },
        }),
      },
      'GatewaysReady',
      'GatewayPreconditionNotMet',
      /install the Gateway API CRDs/,
    ],
    [
      'no pool is served',
      {
        surroundings: surroundings({
          served: {
            gatewayApi: true,
            pool: false,
            xPool: false,
            leaderWorkerSet: true,
            scaledObject: true,
            deviceClaims: true,
          },
        }),
      },
      'InferencePoolReady',
      'InferencePoolNotServed',
      /install the CRDs/,
    ],
  ])('is not ready when %s', (_what, parts, type, reason, message) => {
    const status = statusOf(observe(prefillDecodeService(), parts), now);
    expect(told(status)).toMatchObject({
      Ready: `False ${reason}`,
      RouterReady: `False ${reason}`,
      [type]: `False ${reason}`,
    });
    expect(messageOf(status, type)).toMatch(message);
  });

  it('waits for the further routes that many adapters need', () => {
    const adapters = Array.from({ length: 30 }, (_, i) => ({ name: `a${i}`, uri: 'hf://a/b' }));
    const annotations = { 'serving.kserve.io/model-based-routing-enabled': 'true' };
    const many = prefillDecodeService({ spec: { annotations, model: { uri: 'hf://a/b', lora: { adapters } } } });
    expect(messageOf(statusOf(observe(many), now), 'HTTPRoutesReady')).toBe(
      'HTTPRoute chat-kserve-route-lora-1 is not there yet',
    );
    const routeOf = () => observe(many).route;
    expect(messageOf(statusOf(observe(many, { routeOf }), now), 'HTTPRoutesReady')).toBeUndefined();
  });

  it('believes a route only about its current generation', () => {
    const { route } = observe(prefillDecodeService());
    const newer = route && { ...route, metadata: { ...route.metadata, generation: 2 } };
    expect(messageOf(statusOf(observe(prefillDecodeService(), { route: newer }), now), 'HTTPRoutesReady')).toMatch(
      /current generation/,
    );
  });

  it('accepts the experimental pool alone', () => {
    const { pool } = observe(prefillDecodeService());
    const xPool = { ...pool, status: { parent: pool?.status?.parents } } as unknown as NonNullable<Observed['xPool']>;
    const status = statusOf(observe(prefillDecodeService(), { pool: undefined, xPool }), now);
    expect(told(status)).toMatchObject({ InferencePoolReady: 'True' });
  });

  it('keeps the time of what has not turned', () => {
    const before = {
      conditions: [
        { type: 'Ready', status: 'True' as const, lastTransitionTime: earlier },
        { type: 'RouterReady', status: 'False' as const, lastTransitionTime: earlier },
      ],
    };
    const status = statusOf(observe(llmService({ status: before })), now);
    const times = Object.fromEntries((status.conditions ?? []).map((one) => [one.type, one.lastTransitionTime]));
    expect(times).toMatchObject({ Ready: earlier, RouterReady: now, WorkloadsReady: now });
    expect(statusPatch(status, statusOf(observe(llmService({ status })), '2031-01-01T00:00:00Z'))).toBeUndefined();
  });

  it('says Stopped and nothing of where it answered', () => {
    const status = statusOf(observe(prefillDecodeService({ annotations: { 'serving.kserve.io/stop': 'true' } })), now);
    expect(new Set(Object.values(told(status)))).toEqual(new Set(['False Stopped']));
    expect(status.url ?? status.addresses).toBeUndefined();
  });

  it('keeps what was known when the spec is refused', () => {
    const service = llmService({ generation: 2, status: statusOf(observe(llmService()), earlier) });
    const status = refusedStatus(
      service,
      { condition: 'PresetsCombined', reason: 'InvalidRenderedConfig', message: 'bad' },
      now,
    );
    expect(told(status)).toMatchObject({
      Ready: 'False InvalidRenderedConfig',
      PresetsCombined: 'False InvalidRenderedConfig',
      MainWorkloadReady: 'True',
    });
    expect(status.observedGeneration).toBe(2);
  });
});

describe('statusPatch', () => {
  it.each([
    [undefined, { a: 1 }, { a: 1 }],
    [{ a: 1, b: 2 }, { a: 1 }, { b: null }],
    [{ a: { b: 1, c: 2 } }, { a: { b: 1 } }, { a: { c: null } }],
    [{ a: [1, 2] }, { a: [1] }, { a: [1] }],
    [{ a: [{ x: 1 }] }, { a: [{ x: 1 }] }, undefined],
  ])('from %j to %j', (before, after, patch) => expect(statusPatch(before, after)).toEqual(patch));
});

describe('checks', () => {
  const judge = (service: LLMInferenceService, parts: Partial<Surroundings> = {}) =>
    allViolations(routerNeeds, { service, effective: service.spec, surroundings: surroundings(parts) });
  const noGateway = (parts: object) => ({ gateway: { name: 'g', namespace: 'n', ...parts } });

  it('refuse what admission refuses', () => {
    const service = llmService({ spec: { model: { uri: 'ftp://host/model' } } });
    expect(
      firstViolation(beforeRendering, { service, effective: service.spec, surroundings: surroundings() }),
    ).toMatchObject({
      condition: 'PresetsCombined',
      message: expect.stringContaining('spec.model.uri'),
    });
  });

  it('say which base configuration a violation comes from, and why there is no spec', () => {
    const service = llmService({ spec: { model: { uri: 'ftp://host/model' }, replicas: 1 } });
    const input = { service, effective: service.spec, surroundings: surroundings() };
    const sourceOf = (path: string) => (path === 'spec.model.uri' ? 'team/base' : undefined);
    const combined = { applied: [], sourceOf, notes: [] };
    expect(firstViolation(beforeRendering, { ...input, combined })?.message).toMatch(
      /^spec\.model\.uri: .*ftp.*\(from LLMInferenceServiceConfig team\/base\)$/,
    );
    const refusal = { reason: 'ConfigNotFound', message: 'no base' };
    expect(firstViolation(beforeRendering, { ...input, combined: { ...combined, refusal } })).toEqual({
      condition: 'PresetsCombined',
      ...refusal,
    });
  });

  it.each<[string, Partial<Surroundings>, RegExp | undefined]>([
    ['exists', {}, undefined],
    ['can be made', noGateway({ className: 'envoy' }), undefined],
    ['has no class', { ...noGateway({}), acceptedClasses: [] }, /no GatewayClass is accepted/],
    [
      'has two classes',
      { ...noGateway({}), acceptedClasses: ['a', 'b'] },
      /several GatewayClasses to make it of \(a, b\); name one by the operator's --gateway-class/,
    ],
    ['has a class that is missing', { ...noGateway({}), configuredClass: 'c' }, /GatewayClass c does not exist/],
  ])('of a default Gateway that %s', (_what, parts, message) => {
    const messages = judge(llmService({ spec: { router: fullRouter } }), parts).map((verdict) => verdict.message);
    if (message) expect(messages).toEqual([expect.stringMatching(message)]);
    else expect(messages).toEqual([]);
    const own = { ...fullRouter, gateway: { refs: [{ name: 'mine' }] } };
    expect(judge(llmService({ spec: { router: own } }), parts)).toEqual([]);
  });
});

describe('causes', () => {
  const pod = (status: PodState['status'], name = 'p'): PodState => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, labels: { 'kserve.io/component': 'workload' } },
    spec: {
      initContainers: [{ name: 'side', restartPolicy: 'Always' }, { name: 'init' }],
      containers: [
        {
          name: 'main',
          startupProbe: { httpGet: { path: '/health', port: 8001 } },
          readinessProbe: { grpc: { port: 9003 } },
        },
      ],
    },
    ...(status ? { status } : {}),
  });
  const container = (state: object, more: object = {}) => ({ containerStatuses: [{ name: 'main', state, ...more }] });

  it.each<[PodState['status'], string | undefined]>([
    [undefined, 'is not scheduled yet'],
    [{ conditions: [condition('Ready')] }, undefined],
    [
      {
        conditions: [
          condition('PodScheduled', 'False', { message: '0/1 nodes are available: 1 Insufficient nvidia.com/gpu.' }),
        ],
      },
      'is not scheduled: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu.',
    ],
    [{ conditions: [condition('PodScheduled')] }, 'has been scheduled and is not started by its node yet'],
    [{ phase: 'Failed', reason: 'Evicted', message: 'low on memory' }, 'has failed: Evicted: low on memory'],
    [
      container({ waiting: { reason: 'ErrImagePull', message: 'no such image' } }),
      'waits for container main: ErrImagePull: no such image',
    ],
    [
      container(
        { waiting: { reason: 'CrashLoopBackOff' } },
        { lastState: { terminated: { exitCode: 1, reason: 'Error', message: 'a\nout of memory' } } },
      ),
      'waits for container main: CrashLoopBackOff; it ended before with exit code 1 (Error): out of memory',
    ],
    [
      container({ terminated: { exitCode: 137, reason: 'OOMKilled' } }, { restartCount: 2 }),
      'waits for container main: it ended with exit code 137 (OOMKilled), restarted 2 times',
    ],
    [
      container({ waiting: { reason: 'ContainerCreating' } }),
      'waits for container main: it is being created, which includes pulling its image',
    ],
    [
      container({ running: {} }, { started: false, ready: false }),
      'waits for container main: it runs and does not answer GET /health on port 8001 yet; loading a model can take minutes',
    ],
    [
      container({ running: {} }, { started: true, ready: false }),
      'waits for container main: it runs and does not answer the gRPC health check on port 9003',
    ],
    [
      {
        initContainerStatuses: [
          { name: 'storage-initializer', state: { running: { startedAt: '2030-01-01T00:00:00Z' } } },
        ],
        containerStatuses: [{ name: 'main', state: { waiting: { reason: 'PodInitializing' } } }],
      },
      'is getting its weights: container storage-initializer copies them since 2030-01-01T00:00:00Z',
    ],
    [
      {
        initContainerStatuses: [
          {
            name: 'storage-initializer',
            restartCount: 2,
            state: { running: {} },
            lastState: { terminated: { exitCode: 1, reason: 'Error', message: 'trying\n403 Forbidden\n' } },
          },
        ],
      },
      'is getting its weights: container storage-initializer copies them, after 2 attempts; the last one ended with exit code 1 (Error): 403 Forbidden',
    ],
    [
      {
        initContainerStatuses: [
          {
            name: 'storage-initializer',
            restartCount: 3,
            state: { waiting: { reason: 'CrashLoopBackOff', message: 'back-off 40s' } },
            lastState: { terminated: { exitCode: 1, message: 'no space left on device' } },
          },
        ],
      },
      'cannot get its weights: container storage-initializer: CrashLoopBackOff: back-off 40s; it ended before with exit code 1: no space left on device',
    ],
    [
      {
        initContainerStatuses: [
          { name: 'side', state: { running: {} }, ready: true },
          { name: 'init', state: { running: {} } },
        ],
      },
      'waits for container init: this init container has not finished yet',
    ],
    [
      {
        initContainerStatuses: [{ name: 'side', state: { waiting: { reason: 'ImagePullBackOff', message: 'x' } } }],
        ...container({ waiting: { reason: 'PodInitializing' } }),
      },
      'waits for container side: ImagePullBackOff: x',
    ],
  ])('%j', (status, cause) => expect(causeOf(pod(status))).toBe(cause));

  it('are told once and not all', () => {
    const waiting = (name: string, reason: string) => pod(container({ waiting: { reason } }), name);
    expect(
      describeCauses([waiting('b', 'A'), waiting('a', 'A'), waiting('c', 'B'), waiting('d', 'C'), waiting('e', 'D')]),
    ).toBe(
      '2 pods, such as a: each waits for container main: A; pod c waits for container main: B; pod d waits for container main: C; and 1 more',
    );
    expect(describeCauses([])).toBeUndefined();
    const fetching = (name: string, state: object) => ({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name },
      status: { initContainerStatuses: [{ name: 'storage-initializer', state }] },
    });
    const done = fetching('a', { terminated: { exitCode: 0 } });
    const ready = { ...done, status: { ...done.status, conditions: [condition('Ready')] } };
    expect(describeCauses([ready, fetching('b', { running: {} })])).toBe(
      'pod b is getting its weights: container storage-initializer copies them; 1 of 2 pods have their weights',
    );
  });
});

describe('groups of pods', () => {
  const workers = { worker: {}, parallelism: { data: 4, dataLocal: 2 } };
  const grouped = llmService({ spec: { ...workers, replicas: 2, prefill: { ...workers, replicas: 2 } } });
  const set = (status: DeploymentState['status']): DeploymentState => ({
    apiVersion: 'leaderworkerset.x-k8s.io/v1',
    kind: 'LeaderWorkerSet',
    metadata: { name: 'any', generation: 3 },
    spec: { replicas: 2 },
    ...(status ? { status } : {}),
  });
  const ready = {
    observedGeneration: 3,
    replicas: 2,
    readyReplicas: 2,
    updatedReplicas: 2,
    conditions: [
      { type: 'Available', status: 'True' },
      { type: 'UpdateInProgress', status: 'False' },
    ],
  };

  it('have conditions of their own', () => {
    const status = statusOf(observe(grouped, { leaderWorkerSet: () => set(ready) }), now);
    expect(told(status)).toMatchObject({ WorkerWorkloadReady: 'True', PrefillWorkerWorkloadReady: 'True' });
    expect(Object.keys(told(status))).not.toContain('MainWorkloadReady');
    expect(status.workloads).toMatchObject({
      primary: {
        apiGroup: 'leaderworkerset.x-k8s.io',
        kind: 'LeaderWorkerSet',
        name: 'chat-kserve-mn',
        readyReplicas: 2,
      },
      prefill: { kind: 'LeaderWorkerSet', name: 'chat-kserve-mn-prefill' },
    });
  });

  it.each<[string, DeploymentState | undefined, string, RegExp]>([
    ['are not there', undefined, 'LeaderWorkerSetMissing', /chat-kserve-mn is not there yet/],
    ['nobody looks at', set(undefined), 'MinimumReplicasUnavailable', /0 of 2 groups are ready/],
    [
      'are of an older spec',
      set({ ...ready, observedGeneration: 2 }),
      'LeaderWorkerSetProgressing',
      /rollout is under way/,
    ],
    [
      'are being replaced',
      set({
        ...ready,
        updatedReplicas: 1,
        conditions: [...ready.conditions.slice(0, 1), { type: 'UpdateInProgress', status: 'True' }],
      }),
      'LeaderWorkerSetProgressing',
      /1 of 2 groups are of the current spec/,
    ],
    [
      'wait for a pod',
      set({ ...ready, readyReplicas: 1, conditions: [{ type: 'Available', status: 'False' }] }),
      'MinimumReplicasUnavailable',
      /1 of 2 groups are ready; pod worker-1 is not scheduled: no GPUs/,
    ],
  ])('that %s are not ready', (_, live, reason, message) => {
    const pod: PodState = {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'worker-1' },
      status: { conditions: [{ type: 'PodScheduled', status: 'False', message: 'no GPUs' }] },
    };
    const pods = (component: string) => (component === 'llminferenceservice-workload-worker' ? [pod] : []);
    const status = statusOf(observe(grouped, { leaderWorkerSet: () => live, pods }), now);
    const found = status.conditions?.find(({ type }) => type === 'WorkerWorkloadReady');
    expect(found).toMatchObject({ status: 'False', reason });
    expect(found?.message).toMatch(message);
    expect(told(status)).toMatchObject({ WorkloadsReady: `False ${reason}`, Ready: `False ${reason}` });
  });

  it('need LeaderWorkerSets to be served', () => {
    const served = {
      gatewayApi: true,
      pool: true,
      xPool: true,
      leaderWorkerSet: false,
      scaledObject: false,
      deviceClaims: false,
    };
    const input = { service: grouped, effective: grouped.spec, surroundings: surroundings({ served }) };
    const verdict = firstViolation(beforeRendering, input);
    expect(verdict).toMatchObject({ condition: 'WorkerWorkloadReady', reason: 'LeaderWorkerSetNotServed' });
    expect(verdict?.message).toContain('install the LeaderWorkerSet controller');
    const prefill = { prefill: grouped.spec.prefill ?? {} };
    expect(
      firstViolation(beforeRendering, { ...input, effective: { model: grouped.spec.model, ...prefill } }),
    ).toMatchObject({ condition: 'PrefillWorkerWorkloadReady' });
    const stopped = {
      ...grouped,
      metadata: { ...grouped.metadata, annotations: { 'serving.kserve.io/stop': 'true' } },
    };
    expect(firstViolation(beforeRendering, { ...input, service: stopped })).toBeUndefined();
  });
});

describe('autoscalers', () => {
  const hpa = { maxReplicas: 3, wva: { hpa: {} } };
  const keda = { maxReplicas: 3, keda: { triggers: [{ type: 'cron' }] } };
  const state = (...conditions: readonly object[]) =>
    ({ apiVersion: 'any/v1', kind: 'Any', metadata: { name: 'any' }, status: { conditions } }) as never;

  it.each<[string, object, Partial<Observed>, string, RegExp]>([
    ['a silent HPA', hpa, {}, 'False HPAProgressing', /chat-kserve-hpa has not been looked at yet/],
    [
      'an HPA without its metric',
      hpa,
      {
        autoscaler: () =>
          state(condition('AbleToScale'), condition('ScalingActive', 'False', { reason: 'FailedGetExternalMetric' })),
      },
      'False FailedGetExternalMetric',
      /is not ScalingActive/,
    ],
    ['an HPA that can scale', hpa, { autoscaler: () => state(condition('AbleToScale')) }, 'True', /^$/],
    ['a silent ScaledObject', keda, {}, 'False ScaledObjectProgressing', /waits for KEDA/],
    ['a working ScaledObject', keda, { autoscaler: () => state(condition('Ready')) }, 'True', /^$/],
  ])('%s', (_, scaling, parts, expected, message) => {
    const service = llmService({ spec: { scaling: scaling as never, prefill: { scaling: scaling as never } } });
    const status = statusOf(observe(service, parts), now);
    expect(told(status)).toMatchObject({ ScalingReady: expected, PrefillScalingReady: expected });
    expect(messageOf(status, 'ScalingReady') ?? '').toMatch(message);
  });

  it('say what they lack', () => {
    const served = { ...surroundings().served, scaledObject: false, deviceClaims: false };
    const find = (scaling: object, parts: Partial<Surroundings>) => {
      const service = llmService({ spec: { scaling: scaling as never } });
      const desired = render({
        service,
        effective: service.spec,
        platform: platform({ served: { ...platform().served, ...parts.served } }),
      });
      return statusOf(observe(service, { desired, surroundings: surroundings(parts) }), now);
    };
    const missing = find(keda, { served });
    expect(told(missing)).toMatchObject({ ScalingReady: 'False ScalingCRDNotFound', MainWorkloadReady: 'True' });
    expect(messageOf(missing, 'ScalingReady')).toContain('install KEDA');
    const unknown = find({ maxReplicas: 3, wva: { keda: {} } }, { hasPrometheus: false });
    expect(told(unknown)).toMatchObject({ ScalingReady: 'False ScalingNotConfigured' });
    expect(messageOf(unknown, 'ScalingReady')).toContain('--prometheus-url');
  });
});
