import { type Condition, type ConditionType, conditionTypes, reasons } from '../api/conditions.ts';
import type { Gateway, HTTPRoute, HTTPRouteSpec, ParentReference } from '../api/foreign/gateway-api.ts';
import { annotations, components, labels } from '../api/labels.ts';
import { modelNameOf } from '../api/v1alpha2/defaults.ts';
import type { LLMInferenceService, LLMInferenceServiceStatus } from '../api/v1alpha2/llm-inference-service.ts';
import type { Manifest } from '../kube/object.ts';
import { type Address, addressesOf, mainUrlOf } from './addresses.ts';
import { describeCauses } from './causes.ts';
import { routerNeeds } from './chains.ts';
import { allViolations, type Verdict } from './check.ts';
import type { DeploymentState, Observed } from './observed.ts';
import { scalingOf } from './scaling.ts';

/**
 * From what was asked for and what is there to what the user is told.
 *
 *     Ready = PresetsCombined and WorkloadsReady and RouterReady
 *     WorkloadsReady = MainWorkloadReady or, with several pods a replica, WorkerWorkloadReady; and the same of prefill
 *     RouterReady = GatewaysReady and HTTPRoutesReady and InferencePoolReady and SchedulerWorkloadReady
 *
 * A part that the service does not have has no condition. A parent takes reason and message of its first part that is
 * False.
 */

/** One condition before its times. */
interface Finding {
  readonly type: ConditionType;
  readonly isTrue: boolean;
  readonly reason?: string;
  readonly message?: string;
}

/** Whether the service is to have no children. */
export function isStopped(service: LLMInferenceService): boolean {
  return service.metadata.annotations?.[annotations.stop] === 'true';
}

/** The status of a service whose spec was rendered. `now` is an RFC 3339 time, taken where a condition changes. */
export function statusOf(observed: Observed, now: string): LLMInferenceServiceStatus {
  const { service } = observed;
  if (isStopped(service)) return { ...stoppedStatus(service, now), ...appliedStatus(observed) };
  const notes = observed.combined?.notes ?? [];
  const combined: Finding = {
    ...success(conditionTypes.presetsCombined),
    ...(notes.length > 0 ? { message: notes.join('; ') } : {}),
  };
  const problems = (observed.problems ?? []).map(
    ({ condition, reason, message }): Finding => ({ type: condition, isTrue: false, reason, message }),
  );
  const isOfRouter = ({ type }: Finding) => parentOf(type) === conditionTypes.routerReady;
  const workloads = overlay(
    [...workloadFindings(observed), ...scalingFindings(observed)],
    problems.filter((problem) => !isOfRouter(problem)),
  );
  const router = overlay(routerFindings(observed), problems.filter(isOfRouter));
  const parents = [
    combined,
    summary(conditionTypes.workloadsReady, workloads),
    summary(conditionTypes.routerReady, router),
  ];
  const addresses = addressesFor(observed);
  const url = findRoute(observed)
    ? mainUrlOf(addresses, namespaceOf(service), service.metadata.name, observed.surroundings.urlScheme)
    : undefined;
  return {
    observedGeneration: service.metadata.generation ?? 0,
    conditions: toConditions(
      [summary(conditionTypes.ready, parents), ...parents, ...workloads, ...router],
      service,
      now,
    ),
    ...(url === undefined ? {} : { url }),
    ...(addresses.length > 0 ? { addresses } : {}),
    ...routerStatus(observed),
    workloads: workloadStatus(observed),
    ...appliedStatus(observed),
  };
}

function appliedStatus({ combined }: Observed): Pick<LLMInferenceServiceStatus, 'appliedConfigs'> {
  return combined && combined.applied.length > 0 ? { appliedConfigs: combined.applied } : {};
}

/** The status of a service that could not be rendered or applied: the verdict, and everything else as it was. */
export function refusedStatus(service: LLMInferenceService, verdict: Verdict, now: string): LLMInferenceServiceStatus {
  const before = service.status?.conditions ?? [];
  const refused: Finding = { type: verdict.condition, isTrue: false, reason: verdict.reason, message: verdict.message };
  const ready: Finding = { ...refused, type: conditionTypes.ready };
  const parent = parentOf(verdict.condition);
  const findings = [ready, ...(parent ? [{ ...refused, type: parent }] : []), refused];
  const told = toConditions(findings, service, now);
  const kept = before.filter((old) => !told.some(({ type }) => type === old.type)) as readonly Condition[];
  return {
    ...service.status,
    observedGeneration: service.metadata.generation ?? 0,
    conditions: inOrder([...(told as readonly Condition[]), ...kept]) as typeof told,
  };
}

function stoppedStatus(service: LLMInferenceService, now: string): LLMInferenceServiceStatus {
  const types = [
    conditionTypes.ready,
    conditionTypes.workloadsReady,
    conditionTypes.mainWorkloadReady,
    conditionTypes.routerReady,
  ];
  const message = `stopped by annotation ${annotations.stop}; remove it to serve again`;
  return {
    observedGeneration: service.metadata.generation ?? 0,
    conditions: toConditions(
      types.map((type) => ({ type, isTrue: false, reason: reasons.stopped, message })),
      service,
      now,
    ),
  };
}

function namespaceOf(service: LLMInferenceService): string {
  return service.metadata.namespace ?? 'default';
}

function success(type: ConditionType): Finding {
  return { type, isTrue: true };
}

function summary(type: ConditionType, parts: readonly Finding[]): Finding {
  const bad = parts.find((part) => !part.isTrue);
  return bad ? { ...bad, type } : success(type);
}

/** Findings with others in place of those of the same type; the first of several counts. */
function overlay(findings: readonly Finding[], over: readonly Finding[]): readonly Finding[] {
  const first = over.filter(({ type }, i) => over.findIndex((other) => other.type === type) === i);
  return [...first, ...findings.filter(({ type }) => !first.some((other) => other.type === type))];
}

function parentOf(type: ConditionType): ConditionType | undefined {
  switch (type) {
    case conditionTypes.mainWorkloadReady:
    case conditionTypes.workerWorkloadReady:
    case conditionTypes.prefillWorkloadReady:
    case conditionTypes.prefillWorkerWorkloadReady:
    case conditionTypes.scalingReady:
    case conditionTypes.prefillScalingReady:
      return conditionTypes.workloadsReady;
    case conditionTypes.gatewaysReady:
    case conditionTypes.httpRoutesReady:
    case conditionTypes.inferencePoolReady:
    case conditionTypes.schedulerWorkloadReady:
      return conditionTypes.routerReady;
    default:
      return undefined;
  }
}

const order: readonly string[] = Object.values(conditionTypes);

function inOrder(conditions: readonly Condition[]): readonly Condition[] {
  const placeOf = ({ type }: Condition) => (order.includes(type) ? order.indexOf(type) : order.length);
  return [...conditions].sort((a, b) => placeOf(a) - placeOf(b));
}

/** Findings with their times: a condition keeps its time while its status stays. */
function toConditions(
  findings: readonly Finding[],
  service: LLMInferenceService,
  now: string,
): NonNullable<LLMInferenceServiceStatus['conditions']> {
  const before = new Map((service.status?.conditions ?? []).map((condition) => [condition.type, condition]));
  return inOrder(
    findings.map(({ type, isTrue, reason, message }) => {
      const status = isTrue ? 'True' : 'False';
      const old = before.get(type);
      return {
        type,
        status,
        ...(reason === undefined ? {} : { reason }),
        ...(message === undefined ? {} : { message }),
        observedGeneration: service.metadata.generation ?? 0,
        lastTransitionTime: (old?.status === status ? old.lastTransitionTime : undefined) ?? now,
      };
    }),
  ) as NonNullable<LLMInferenceServiceStatus['conditions']>;
}

// Workloads

function findDeployment(observed: Observed, component: string): Manifest | undefined {
  return observed.desired.find(
    (manifest) => manifest.kind === 'Deployment' && manifest.metadata.labels?.[labels.component] === component,
  );
}

function findLeaderWorkerSet(observed: Observed, component: string): Manifest | undefined {
  return observed.desired.find(
    (manifest) => manifest.kind === 'LeaderWorkerSet' && manifest.metadata.labels?.[labels.component] === component,
  );
}

function workloadFindings(observed: Observed): readonly Finding[] {
  return (
    [
      [conditionTypes.mainWorkloadReady, conditionTypes.workerWorkloadReady, components.workload],
      [conditionTypes.prefillWorkloadReady, conditionTypes.prefillWorkerWorkloadReady, components.workloadPrefill],
    ] as const
  ).flatMap(([single, group, component]) => {
    const deployment = findDeployment(observed, component);
    const set = findLeaderWorkerSet(observed, component);
    return [
      ...(deployment ? [workloadFinding(observed, single, deployment, component)] : []),
      ...(set ? [groupFinding(observed, group, set, groupComponents[component])] : []),
    ];
  });
}

/** Whose pods make up the groups of a workload. */
const groupComponents = {
  [components.workload]: [components.workloadLeader, components.workloadWorker],
  [components.workloadPrefill]: [components.workloadLeaderPrefill, components.workloadWorkerPrefill],
} as const;

/** True when every group is of the current spec and ready. */
function groupFinding(
  observed: Observed,
  type: ConditionType,
  desired: Manifest,
  podComponents: readonly string[],
): Finding {
  const { name } = desired.metadata;
  const live = observed.leaderWorkerSet(name);
  if (!live) {
    const message = `LeaderWorkerSet ${name} is not there yet`;
    return { type, isTrue: false, reason: reasons.leaderWorkerSetMissing, message };
  }
  const wanted = live.spec?.replicas ?? 1;
  const { observedGeneration, readyReplicas = 0, updatedReplicas = 0 } = live.status ?? {};
  // Controllers before 0.7 tell no generation; those say so by UpdateInProgress alone.
  const isCurrent = observedGeneration === undefined || observedGeneration >= (live.metadata.generation ?? 0);
  const isRolling = !isCurrent || conditionOf(live, 'UpdateInProgress')?.status === 'True';
  const available = conditionOf(live, 'Available');
  if (!isRolling && available?.status === 'True' && updatedReplicas >= wanted) return success(type);
  const counted =
    isRolling && live.status
      ? `a rollout is under way: ${updatedReplicas} of ${wanted} groups are of the current spec`
      : `${readyReplicas} of ${wanted} groups are ready`;
  const causes = describeCauses(podComponents.flatMap((component) => observed.pods(component)));
  // A controller that is not there leaves the status empty.
  const silent =
    live.status?.conditions === undefined ? 'the LeaderWorkerSet controller has not looked at it' : undefined;
  return {
    type,
    isTrue: false,
    reason: isRolling ? reasons.leaderWorkerSetProgressing : reasons.minimumReplicasUnavailable,
    message: [counted, causes ?? silent].filter((text) => text !== undefined).join('; '),
  };
}

/** True when every pod is of the current spec and the Deployment calls enough of them available. */
function workloadFinding(observed: Observed, type: ConditionType, desired: Manifest, component: string): Finding {
  const name = desired.metadata.name;
  const live = observed.deployment(name);
  if (!live)
    return { type, isTrue: false, reason: reasons.deploymentMissing, message: `Deployment ${name} is not there yet` };
  const wanted = live.spec?.replicas ?? 1;
  const status = live.status ?? {};
  const failed = failureOf(live);
  const isCurrent = (status.observedGeneration ?? 0) >= (live.metadata.generation ?? 0);
  const isComplete = (status.updatedReplicas ?? 0) >= wanted && (status.replicas ?? 0) <= (status.updatedReplicas ?? 0);
  const isAvailable = conditionOf(live, 'Available')?.status === 'True';
  if (!failed && isCurrent && isComplete && isAvailable) return success(type);
  const isRolling =
    (status.observedGeneration !== undefined && !isCurrent) || (status.replicas ?? 0) > (status.updatedReplicas ?? 0);
  const counted = isRolling
    ? `a rollout is under way: ${status.updatedReplicas ?? 0} of ${wanted} pods are of the current spec`
    : `${status.availableReplicas ?? 0} of ${wanted} pods are ready`;
  const causes = describeCauses(observed.pods(component));
  const reason =
    failed?.reason ?? (isCurrent && isComplete ? reasons.minimumReplicasUnavailable : reasons.deploymentProgressing);
  return {
    type,
    isTrue: false,
    reason,
    message: [counted, failed?.message, causes].filter((text) => text !== undefined).join('; '),
  };
}

function conditionOf(deployment: DeploymentState, type: string) {
  return deployment.status?.conditions?.find((condition) => condition.type === type);
}

/** What the Deployment itself complains about: pods that cannot be created, a rollout that does not get on. */
function failureOf(deployment: DeploymentState): { readonly reason: string; readonly message?: string } | undefined {
  const failure = conditionOf(deployment, 'ReplicaFailure');
  if (failure?.status === 'True')
    return {
      reason: failure.reason ?? 'ReplicaFailure',
      message: `pods cannot be created: ${failure.message ?? failure.reason ?? 'no reason given'}`,
    };
  const progressing = conditionOf(deployment, 'Progressing');
  if (progressing?.status === 'False')
    return {
      reason: progressing.reason ?? 'ProgressDeadlineExceeded',
      ...(progressing.message ? { message: progressing.message } : {}),
    };
  return undefined;
}

function workloadStatus(observed: Observed): NonNullable<LLMInferenceServiceStatus['workloads']> {
  const reference = (component: string) => {
    const desired = findDeployment(observed, component) ?? findLeaderWorkerSet(observed, component);
    if (!desired) return undefined;
    const { kind, metadata } = desired;
    const live = kind === 'Deployment' ? observed.deployment(metadata.name) : observed.leaderWorkerSet(metadata.name);
    const apiGroup = desired.apiVersion.split('/')[0] ?? '';
    return { apiGroup, kind, name: metadata.name, readyReplicas: live?.status?.readyReplicas ?? 0 };
  };
  const primary = reference(components.workload);
  const prefill = reference(components.workloadPrefill);
  const scheduler = reference(components.scheduler);
  const service = findService(observed);
  return {
    ...(primary ? { primary } : {}),
    ...(prefill ? { prefill } : {}),
    ...(service ? { service: { apiGroup: '', kind: 'Service', name: service.metadata.name } } : {}),
    ...(scheduler ? { scheduler } : {}),
  };
}

function findService(observed: Observed, component: string = components.workload): Manifest | undefined {
  return observed.desired.find(
    (manifest) => manifest.kind === 'Service' && manifest.metadata.labels?.[labels.component] === component,
  );
}

/** Whether each workload with `scaling` has an autoscaler that works. */
function scalingFindings(observed: Observed): readonly Finding[] {
  const { effective } = observed;
  return (
    [
      [conditionTypes.scalingReady, components.workload, effective.scaling],
      [conditionTypes.prefillScalingReady, components.workloadPrefill, effective.prefill?.scaling],
    ] as const
  ).flatMap(([type, component, scaling]) => {
    if (!scaling) return [];
    const problem = scalingOf(observed, component, scaling);
    return [problem ? { type, isTrue: false, ...problem } : success(type)];
  });
}

// Router

function findRoute(observed: Observed): (Manifest & { readonly spec: HTTPRouteSpec }) | undefined {
  return observed.desired.find((manifest) => manifest.kind === 'HTTPRoute') as
    | (Manifest & { readonly spec: HTTPRouteSpec })
    | undefined;
}

interface GatewayKey {
  readonly namespace: string;
  readonly name: string;
}

/** Gateways that the service hangs on: its route's parents, or the default one that it asks for without a route. */
function gatewayKeys(observed: Observed): readonly GatewayKey[] {
  const { router } = observed.effective;
  if (!router || !observed.surroundings.served.gatewayApi) return [];
  const namespace = namespaceOf(observed.service);
  const refs: readonly ParentReference[] = findRoute(observed)?.spec.parentRefs ?? router.gateway?.refs ?? [];
  const { gateway } = observed.surroundings;
  const keys = refs
    .filter((ref) => (ref.kind ?? 'Gateway') === 'Gateway')
    .map((ref) => ({ namespace: ref.namespace ?? namespace, name: ref.name }));
  if (keys.length === 0 && router.gateway) return [{ namespace: gateway.namespace, name: gateway.name }];
  return keys.filter((key, i) => keys.findIndex((other) => isSameGateway(key, other)) === i);
}

const isSameGateway = (a: GatewayKey, b: GatewayKey) => a.name === b.name && a.namespace === b.namespace;

function routerFindings(observed: Observed): readonly Finding[] {
  const violations = allViolations(routerNeeds, observed);
  const findings = [
    gatewayFinding(observed),
    routeFinding(observed),
    poolFinding(observed),
    schedulerFinding(observed),
  ].filter((finding) => finding !== undefined);
  const violated = violations.map(
    ({ condition, reason, message }): Finding => ({ type: condition, isTrue: false, reason, message }),
  );
  return overlay(findings, violated);
}

function gatewayFinding(observed: Observed): Finding | undefined {
  const type = conditionTypes.gatewaysReady;
  const keys = gatewayKeys(observed);
  if (keys.length === 0) return undefined;
  for (const key of keys) {
    const gateway = observed.gatewayOf(key.namespace, key.name);
    if (!gateway) {
      const isDefault = isSameGateway(key, observed.surroundings.gateway);
      const remedy = isDefault ? 'it is being made' : 'make it, or correct spec.router.gateway.refs';
      return {
        type,
        isTrue: false,
        reason: isDefault ? reasons.gatewaysNotReady : reasons.refsInvalid,
        message: `Gateway ${key.namespace}/${key.name} does not exist; ${remedy}`,
      };
    }
    const problem = gatewayProblem(gateway);
    if (problem)
      return {
        type,
        isTrue: false,
        reason: reasons.gatewaysNotReady,
        message: `Gateway ${key.namespace}/${key.name} ${problem}`,
      };
  }
  return success(type);
}

function gatewayProblem(gateway: Gateway): string | undefined {
  for (const type of ['Accepted', 'Programmed']) {
    const condition = gateway.status?.conditions?.find((one) => one.type === type);
    const isKnown = condition !== undefined && condition.status !== 'Unknown';
    if (!isKnown) {
      // A controller that has seen nothing yet leaves Accepted Unknown; Programmed alone decides.
      if (type === 'Accepted') continue;
      return `waits for the controller of its GatewayClass ${gateway.spec.gatewayClassName}`;
    }
    if (condition.status === 'False')
      return `is not ${type}: ${[condition.reason, condition.message].filter(Boolean).join(': ')}`;
  }
  return undefined;
}

function routeFinding(observed: Observed): Finding | undefined {
  const type = conditionTypes.httpRoutesReady;
  const [first, ...further] = observed.desired.filter((manifest) => manifest.kind === 'HTTPRoute');
  if (!first) return undefined;
  const routes = [
    [first, observed.route] as const,
    ...further.map((desired) => [desired, observed.routeOf?.(desired.metadata.name)] as const),
  ];
  for (const [desired, route] of routes) {
    const problem = routeProblem(route);
    if (problem)
      return {
        type,
        isTrue: false,
        reason: reasons.httpRoutesNotReady,
        message: `HTTPRoute ${desired.metadata.name} ${problem}`,
      };
  }
  return success(type);
}

function routeProblem(route: HTTPRoute | undefined): string | undefined {
  if (!route) return 'is not there yet';
  for (const parent of route.spec.parentRefs ?? []) {
    const problem = parentProblem(route, parent);
    if (problem) return problem;
  }
  return undefined;
}

function parentProblem(route: HTTPRoute, parent: ParentReference): string | undefined {
  const namespace = route.metadata.namespace ?? 'default';
  const gateway = `Gateway ${parent.namespace ?? namespace}/${parent.name}`;
  const status = route.status?.parents.find(
    ({ parentRef }) =>
      parentRef.name === parent.name &&
      (parentRef.namespace ?? namespace) === (parent.namespace ?? namespace) &&
      (parent.sectionName === undefined || parentRef.sectionName === parent.sectionName),
  );
  if (!status) return `waits for the controller of ${gateway}`;
  for (const type of ['Accepted', 'ResolvedRefs']) {
    const condition = status.conditions?.find((one) => one.type === type);
    if (condition?.status === 'False')
      return `is not ${type} by ${gateway}: ${[condition.reason, condition.message].filter(Boolean).join(': ')}`;
    const isCurrent = (condition?.observedGeneration ?? 0) >= (route.metadata.generation ?? 0);
    if (condition?.status !== 'True' || !isCurrent) return `waits for ${gateway} to look at its current generation`;
  }
  return undefined;
}

/** True when every Gateway of the service has accepted the pool, in either of its two APIs. */
function poolFinding(observed: Observed): Finding | undefined {
  const type = conditionTypes.inferencePoolReady;
  const desired = observed.desired.find((manifest) => manifest.kind === 'InferencePool');
  if (!desired) return undefined;
  const { name } = desired.metadata;
  const fail = (reason: string, message: string): Finding => ({
    type,
    isTrue: false,
    reason,
    message: `InferencePool ${name} ${message}`,
  });
  if (!observed.pool && !observed.xPool) return fail(reasons.inferencePoolNotReady, 'is not there yet');
  // Gateways learn of a pool through a route; without one there is nobody to accept it.
  if (!findRoute(observed)) return success(type);
  const namespace = namespaceOf(observed.service);
  const parents = [
    ...(observed.pool?.status?.parents ?? []).map((parent) => ({ ...parent, of: observed.pool })),
    ...(observed.xPool?.status?.parent ?? []).map((parent) => ({ ...parent, of: observed.xPool })),
  ];
  for (const key of gatewayKeys(observed)) {
    const conditions = parents
      .filter(({ parentRef }) =>
        isSameGateway(key, { namespace: parentRef.namespace ?? namespace, name: parentRef.name ?? '' }),
      )
      .flatMap(({ conditions: all, of }) =>
        (all ?? [])
          .filter((condition) => condition.type === 'Accepted')
          .filter(({ observedGeneration }) => (observedGeneration ?? 0) >= (of?.metadata.generation ?? 0)),
      );
    if (conditions.some(({ status }) => status === 'True')) continue;
    const refused = conditions.find(({ status }) => status === 'False');
    const gateway = `Gateway ${key.namespace}/${key.name}`;
    return refused
      ? fail(
          reasons.inferencePoolNotReady,
          `is not accepted by ${gateway}: ${[refused.reason, refused.message].filter(Boolean).join(': ')}`,
        )
      : fail(reasons.waitingForGateway, `waits for the controller of ${gateway} to accept it`);
  }
  return success(type);
}

/** True when one picker of the current spec answers: of several only the leader is ever ready. */
function schedulerFinding(observed: Observed): Finding | undefined {
  const type = conditionTypes.schedulerWorkloadReady;
  const desired = findDeployment(observed, components.scheduler);
  if (!desired) return undefined;
  const { name } = desired.metadata;
  const live = observed.deployment(name);
  if (!live)
    return { type, isTrue: false, reason: reasons.deploymentMissing, message: `Deployment ${name} is not there yet` };
  const status = live.status ?? {};
  const isCurrent = (status.observedGeneration ?? 0) >= (live.metadata.generation ?? 0);
  const isComplete =
    (status.updatedReplicas ?? 0) >= (live.spec?.replicas ?? 1) &&
    (status.replicas ?? 0) <= (status.updatedReplicas ?? 0);
  if (isCurrent && isComplete && (status.availableReplicas ?? 0) > 0) return success(type);
  const failed = failureOf(live);
  const causes = describeCauses(observed.pods(components.scheduler));
  return {
    type,
    isTrue: false,
    reason: failed?.reason ?? (isComplete ? reasons.schedulerUnavailable : reasons.deploymentProgressing),
    message: ['the endpoint picker is not ready', failed?.message, causes]
      .filter((text) => text !== undefined)
      .join('; '),
  };
}

function routerStatus(observed: Observed): Pick<LLMInferenceServiceStatus, 'router'> {
  const keys = gatewayKeys(observed);
  const route = findRoute(observed);
  const pool = observed.desired.find((manifest) => manifest.kind === 'InferencePool');
  const picker = findService(observed, components.scheduler);
  if (keys.length === 0 && !pool) return {};
  const gatewayGroup = 'gateway.networking.k8s.io';
  const namespace = namespaceOf(observed.service);
  return {
    router: {
      ...(keys.length > 0
        ? {
            gateways: keys.map((key) => ({
              group: gatewayGroup,
              kind: 'Gateway',
              name: key.name,
              namespace: key.namespace,
              listeners: (observed.gatewayOf(key.namespace, key.name)?.spec.listeners ?? []).map(({ name }) => name),
              ...(route
                ? { httpRoutes: [{ group: gatewayGroup, kind: 'HTTPRoute', name: route.metadata.name, namespace }] }
                : {}),
            })),
          }
        : {}),
      ...(pool && picker
        ? {
            scheduler: {
              inferencePool: {
                group: pool.apiVersion.split('/')[0] ?? '',
                kind: 'InferencePool',
                name: pool.metadata.name,
                namespace,
              },
              service: { group: '', kind: 'Service', name: picker.metadata.name, namespace },
            },
          }
        : {}),
    },
  };
}

function addressesFor(observed: Observed): readonly Address[] {
  const { service } = observed;
  const namespace = namespaceOf(service);
  const models = [modelNameOf({ ...service, spec: observed.effective })];
  const route = findRoute(observed);
  if (route)
    return addressesOf({
      route: route.spec,
      namespace,
      name: service.metadata.name,
      models,
      gatewayOf: observed.gatewayOf,
    });
  const inside = findService(observed);
  if (!inside) return [];
  const port = (inside as { readonly spec?: { readonly ports?: readonly { readonly port: number }[] } }).spec
    ?.ports?.[0];
  const { name } = inside.metadata;
  return [
    {
      name: 'internal',
      url: `http://${name}.${namespace}.svc.cluster.local:${port?.port ?? 80}`,
      origin: { group: '', kind: 'Service', name, namespace },
      models: models.map((model) => ({ name: model })),
    },
  ];
}

/**
 * A JSON merge patch from one status to another, or undefined when they are equal. Lists are replaced as a whole.
 */
export function statusPatch(before: unknown, after: unknown): Readonly<Record<string, unknown>> | undefined {
  const patch: Record<string, unknown> = {};
  const old = (before ?? {}) as Readonly<Record<string, unknown>>;
  const now = (after ?? {}) as Readonly<Record<string, unknown>>;
  for (const key of Object.keys(old)) if (now[key] === undefined && old[key] !== null) patch[key] = null;
  for (const [key, value] of Object.entries(now)) {
    if (value === undefined || isEqual(old[key], value)) continue;
    patch[key] = isMap(old[key]) && isMap(value) ? statusPatch(old[key], value) : value;
  }
  return Object.keys(patch).length > 0 ? patch : undefined;
}

function isMap(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isEqual(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((item, i) => isEqual(item, b[i]));
  if (!isMap(a) || !isMap(b)) return false;
  const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
  return [...keys].every((key) => isEqual(a[key], b[key]));
}
