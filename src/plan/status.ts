import { type Condition, type ConditionType, conditionTypes, reasons } from '../api/conditions.ts';
import { annotations, components, labels } from '../api/labels.ts';
import type { LLMInferenceService, LLMInferenceServiceStatus } from '../api/v1alpha2/llm-inference-service.ts';
import type { Manifest } from '../kube/object.ts';
import { mainUrlOf } from './addresses.ts';
import { describeCauses } from './causes.ts';
import type { Verdict } from './check.ts';
import { type Finding, overlay, success, summary } from './finding.ts';
import type { Observed } from './observed.ts';
import { conditionOf, failureOf, findDeployment, findService, namespaceOf } from './rendered.ts';
import { addressesFor, groupFindings, hasRoute, routerFindings, routerStatus } from './router-status.ts';
import { scalingOf } from './scaling.ts';

/**
 * From what was asked for and what is there to what the user is told.
 *
 *     Ready = PresetsCombined and WorkloadsReady and RouterReady
 *     WorkloadsReady = MainWorkloadReady or, with several pods a replica, WorkerWorkloadReady; and the same of prefill
 *     RouterReady = GatewaysReady and HTTPRoutesReady and InferencePoolReady and SchedulerWorkloadReady and TokenizerReady
 *
 * A part that the service does not have has no condition. A parent takes reason and message of its first part that is
 * False.
 */

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
  const url = hasRoute(observed)
    ? mainUrlOf(addresses, namespaceOf(service), service.metadata.name, observed.surroundings.urlScheme)
    : undefined;
  return {
    observedGeneration: service.metadata.generation ?? 0,
    conditions: toConditions(
      [summary(conditionTypes.ready, parents), ...parents, ...workloads, ...router, ...groupFindings(observed)],
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

function appliedStatus({ combined }: Observed): Pick<LLMInferenceServiceStatus, 'appliedConfigs' | 'annotations'> {
  const { applied = [], pins = {} } = combined ?? {};
  return {
    ...(applied.length > 0 ? { appliedConfigs: applied } : {}),
    ...(Object.keys(pins).length > 0 ? { annotations: pins } : {}),
  };
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
    case conditionTypes.tokenizerReady:
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
