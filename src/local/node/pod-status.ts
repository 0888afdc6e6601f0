import {
  type Container,
  type ContainerStatus,
  containersOf,
  type Pod,
  type PodCondition,
  type PodStatus,
} from './pod-spec.ts';
import { type ContainerState, isReady, type PodState, phaseOf, stateOf, type Termination } from './pod-state.ts';

/** The conditions that the node writes; all others are left as they are. */
const ownConditions: ReadonlySet<string> = new Set([
  'PodReadyToStartContainers',
  'Initialized',
  'Ready',
  'ContainersReady',
]);

export interface StatusContext {
  readonly hostIP: string;
  /** When the node first saw the pod. */
  readonly startTimeMs: number;
  readonly nowMs: number;
}

/** The status that the kubelet would write for a pod in this state. Transition times of unchanged conditions are kept. */
export function renderPodStatus(pod: Pod, state: PodState, context: StatusContext): PodStatus {
  const { spec } = pod;
  const placed = containersOf(spec);
  const phase = phaseOf(spec, state);
  const statusOf = (container: Container): ContainerStatus =>
    renderContainerStatus(
      container,
      stateOf(state, container.name),
      (spec.initContainers?.length ?? 0) > 0 && !state.initialized ? 'PodInitializing' : 'ContainerCreating',
      placed.find((p) => p.container === container)?.role ?? 'main',
    );
  const initContainerStatuses = (spec.initContainers ?? []).map(statusOf);
  const containerStatuses = spec.containers.map(statusOf);
  return {
    phase,
    hostIP: context.hostIP,
    hostIPs: [{ ip: context.hostIP }],
    ...(state.podIP ? { podIP: state.podIP, podIPs: [{ ip: state.podIP }] } : {}),
    startTime: toTime(context.startTimeMs),
    ...(pod.metadata.generation === undefined ? {} : { observedGeneration: pod.metadata.generation }),
    conditions: renderConditions(pod, state, phase, context.nowMs),
    ...(initContainerStatuses.length > 0 ? { initContainerStatuses } : {}),
    containerStatuses,
  };
}

function renderConditions(pod: Pod, state: PodState, phase: string, nowMs: number): readonly PodCondition[] {
  const { spec } = pod;
  const placed = containersOf(spec);
  const ended = phase === 'Succeeded' || phase === 'Failed';
  const named = (names: readonly string[]): string => `[${names.join(' ')}]`;
  const incomplete = state.initialized
    ? []
    : placed
        .filter(({ role, container }) => {
          const { current } = stateOf(state, container.name);
          if (role === 'init') return !(current.kind === 'terminated' && current.exitCode === 0);
          return role === 'sidecar' && !(current.kind === 'running' && current.started);
        })
        .map(({ container }) => container.name);
  const unready = placed
    .filter(({ role, container }) => role !== 'init' && !isReady(stateOf(state, container.name)))
    .map(({ container }) => container.name);

  const initialized: Verdict =
    incomplete.length === 0 || phase === 'Succeeded'
      ? { type: 'Initialized', ok: true, ...(phase === 'Succeeded' ? { reason: 'PodCompleted' } : {}) }
      : {
          type: 'Initialized',
          ok: false,
          reason: 'ContainersNotInitialized',
          message: `containers with incomplete status: ${named(incomplete)}`,
        };
  const containersReady: Verdict = ended
    ? { type: 'ContainersReady', ok: false, reason: phase === 'Succeeded' ? 'PodCompleted' : 'PodFailed' }
    : unready.length === 0
      ? { type: 'ContainersReady', ok: true }
      : {
          type: 'ContainersReady',
          ok: false,
          reason: 'ContainersNotReady',
          message: `containers with unready status: ${named(unready)}`,
        };
  const live = pod.status?.conditions ?? [];
  const closedGates = (spec.readinessGates ?? []).filter(
    (gate) => !live.some((condition) => condition.type === gate.conditionType && condition.status === 'True'),
  );
  const ready: Verdict =
    containersReady.ok && closedGates.length > 0
      ? {
          type: 'Ready',
          ok: false,
          reason: 'ReadinessGatesNotReady',
          message: closedGates
            .map(
              (gate) =>
                `corresponding condition of pod readiness gate "${gate.conditionType}" does not exist or is not True.`,
            )
            .join(', '),
        }
      : { ...containersReady, type: 'Ready' };
  const verdicts: readonly Verdict[] = [
    { type: 'PodReadyToStartContainers', ok: state.preparation === 'done' && !ended },
    initialized,
    ready,
    containersReady,
  ];
  const now = toTime(nowMs);
  const others = live.filter((condition) => !ownConditions.has(condition.type));
  const scheduled = others.some((condition) => condition.type === 'PodScheduled')
    ? []
    : [transition(live, { type: 'PodScheduled', ok: true }, pod.metadata.generation, now)];
  return [
    ...verdicts.map((verdict) => transition(live, verdict, pod.metadata.generation, now)),
    ...scheduled,
    ...others,
  ];
}

interface Verdict {
  readonly type: string;
  readonly ok: boolean;
  readonly reason?: string;
  readonly message?: string;
}

function transition(
  live: readonly PodCondition[],
  verdict: Verdict,
  generation: number | undefined,
  now: string,
): PodCondition {
  const status = verdict.ok ? 'True' : 'False';
  const before = live.find((condition) => condition.type === verdict.type);
  return {
    type: verdict.type,
    status,
    ...(verdict.reason ? { reason: verdict.reason } : {}),
    ...(verdict.message ? { message: verdict.message } : {}),
    ...(generation === undefined ? {} : { observedGeneration: generation }),
    lastProbeTime: null,
    lastTransitionTime: before?.status === status && before.lastTransitionTime ? before.lastTransitionTime : now,
  };
}

function renderContainerStatus(
  container: Container,
  state: ContainerState,
  waitingReason: string,
  role: string,
): ContainerStatus {
  const { current } = state;
  const shown = current.kind === 'starting' ? current.before : current;
  const containerId = shown.kind === 'waiting' ? state.last?.containerId : shown.containerId;
  // The API server wants init containers that have done their work to count as ready.
  const ready = role === 'init' ? current.kind === 'terminated' && current.exitCode === 0 : isReady(state);
  return {
    name: container.name,
    image: container.image ?? '',
    imageID: containerId ? `signalbox://${container.image ?? ''}` : '',
    ...(containerId ? { containerID: containerId } : {}),
    restartCount: state.restarts,
    ready,
    started: shown.kind === 'running' && shown.started,
    state:
      shown.kind === 'waiting'
        ? {
            waiting: {
              reason: shown.reason ?? waitingReason,
              ...(shown.message ? { message: shown.message } : {}),
            },
          }
        : shown.kind === 'running'
          ? { running: { startedAt: toTime(shown.startedAtMs) } }
          : { terminated: renderTermination(shown) },
    lastState: state.last && !isShown(shown, state.last) ? { terminated: renderTermination(state.last) } : {},
  };
}

/** A container about to start again still shows its end; it is not told twice. */
function isShown(shown: { readonly kind: string }, last: Termination): boolean {
  return shown.kind === 'terminated' && (shown as unknown as Termination).finishedAtMs === last.finishedAtMs;
}

function renderTermination(ended: Termination): Readonly<Record<string, unknown>> {
  return {
    exitCode: ended.exitCode,
    reason: ended.reason,
    ...(ended.message ? { message: ended.message } : {}),
    startedAt: toTime(ended.startedAtMs),
    finishedAt: toTime(ended.finishedAtMs),
    ...(ended.containerId ? { containerID: ended.containerId } : {}),
  };
}

/** RFC 3339 in whole seconds, as Kubernetes writes times. */
export function toTime(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, 19)}Z`;
}
