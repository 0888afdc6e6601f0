import type { ContainerRole, PlacedContainer, PodSpec } from './pod-spec.ts';
import { containersOf } from './pod-spec.ts';

/**
 * What a pod is and does next, without I/O: `step` takes one event and answers with the new state and the effects to
 * carry out; their results come back as events. Times are milliseconds since the epoch. The rules are the kubelet's.
 */

export interface Termination {
  readonly exitCode: number;
  readonly reason: string;
  readonly message?: string;
  readonly containerId: string;
  readonly startedAtMs: number;
  readonly finishedAtMs: number;
}

export type Waiting = { readonly kind: 'waiting'; readonly reason?: string; readonly message?: string };
export type Ended = { readonly kind: 'terminated' } & Termination;
export type Current =
  | Waiting
  | {
      readonly kind: 'starting';
      readonly before: Waiting | Ended;
      /** Another run of a container that had run: counted once it is there. */
      readonly again: boolean;
    }
  | {
      readonly kind: 'running';
      readonly containerId: string;
      readonly startedAtMs: number;
      /** The startup probe has passed, or there is none. */
      readonly started: boolean;
      /** What the readiness probe said last; true where there is none. */
      readonly ready: boolean;
      /** The absolute end of grace once a stop was asked for. */
      readonly stopByMs?: number;
    }
  | Ended;

export interface ContainerState {
  readonly current: Current;
  readonly last?: Termination;
  readonly restarts: number;
  /** Delay before the next restart; zero the first time. */
  readonly crashDelayMs: number;
  readonly pullDelayMs: number;
  /** Not started again before this time. */
  readonly retryAtMs: number;
}

export interface PodState {
  /** Address and volumes: needed before any container. */
  readonly preparation: 'none' | 'running' | 'done';
  readonly prepareRetryAtMs: number;
  readonly prepareDelayMs: number;
  readonly podIP?: string;
  /** Every init container has ended well and every sidecar has started once. */
  readonly initialized: boolean;
  readonly containers: Readonly<Record<string, ContainerState>>;
  /** Set when the pod is being deleted: the end of its grace. */
  readonly deleteByMs?: number;
  readonly finished: boolean;
}

export interface BackOff {
  readonly baseMs: number;
  readonly capMs: number;
}

/** As the kubelet: 10 s doubling to 5 minutes. */
export const defaultBackOff: BackOff = { baseMs: 10_000, capMs: 300_000 };

export type ProbeKind = 'startup' | 'readiness' | 'liveness';

/** Why a container did not start. `pull`: unknown image; `image`: no image name at all; `config`: missing references; `run`: the command. */
export type StartFailure = 'pull' | 'image' | 'config' | 'run';

export type PodEvent =
  | { readonly type: 'tick' }
  | { readonly type: 'prepared'; readonly podIP: string }
  | { readonly type: 'prepareFailed'; readonly message: string }
  | { readonly type: 'started'; readonly name: string; readonly containerId: string }
  | { readonly type: 'startFailed'; readonly name: string; readonly cause: StartFailure; readonly message: string }
  | { readonly type: 'exited'; readonly name: string; readonly exitCode: number; readonly message?: string }
  | {
      readonly type: 'probed';
      readonly name: string;
      readonly containerId: string;
      readonly probe: ProbeKind;
      readonly ok: boolean;
      readonly graceMs?: number;
    }
  | { readonly type: 'hookFailed'; readonly name: string; readonly containerId: string; readonly message: string }
  | { readonly type: 'deleted'; readonly graceMs: number };

export type PodEffect =
  | { readonly type: 'prepare' }
  | { readonly type: 'start'; readonly name: string }
  | { readonly type: 'stop'; readonly name: string; readonly graceMs: number }
  | {
      readonly type: 'record';
      readonly level: 'Normal' | 'Warning';
      readonly reason: string;
      readonly message: string;
      readonly container?: string;
    }
  | { readonly type: 'wake'; readonly atMs: number }
  /** Everything has ended and the pod is being deleted: take it away. */
  | { readonly type: 'finish' };

export interface StepContext {
  readonly spec: PodSpec;
  /** `name_namespace(uid)`, as it stands in the kubelet's messages. */
  readonly podLabel: string;
  readonly backOff: BackOff;
  readonly nowMs: number;
}

export interface StepResult {
  readonly state: PodState;
  readonly effects: readonly PodEffect[];
}

const newContainer: ContainerState = {
  current: { kind: 'waiting' },
  restarts: 0,
  crashDelayMs: 0,
  pullDelayMs: 0,
  retryAtMs: 0,
};

/** A pod that has just been bound. `restarts`: restart counts to go on from, when the node itself was restarted. */
export function newPodState(spec: PodSpec, restarts: Readonly<Record<string, number>> = {}): PodState {
  return {
    preparation: 'none',
    prepareRetryAtMs: 0,
    prepareDelayMs: 0,
    initialized: false,
    containers: Object.fromEntries(
      containersOf(spec).map(({ container }) => [
        container.name,
        { ...newContainer, restarts: restarts[container.name] ?? 0 },
      ]),
    ),
    finished: false,
  };
}

export type Phase = 'Pending' | 'Running' | 'Succeeded' | 'Failed';

/** The phase as the kubelet computes it from the containers. */
export function phaseOf(spec: PodSpec, state: PodState): Phase {
  const placed = containersOf(spec);
  const mains = placed.filter(({ role }) => role === 'main').map(({ container }) => stateOf(state, container.name));
  const anyAlive = placed.some(({ container }) => isAlive(stateOf(state, container.name)));
  if (state.deleteByMs !== undefined && !anyAlive) {
    const well = mains.every(({ current }) => current.kind === 'terminated' && current.exitCode === 0);
    return well ? 'Succeeded' : 'Failed';
  }
  if (hasInitFailed(spec, state)) return anyAlive ? 'Pending' : 'Failed';
  if (!state.initialized) return 'Pending';
  if (areMainsDone(spec, state) && !anyAlive) {
    return mains.every(({ current }) => current.kind === 'terminated' && current.exitCode === 0)
      ? 'Succeeded'
      : 'Failed';
  }
  const unborn = mains.some(
    ({ current, last }) =>
      (current.kind === 'waiting' || (current.kind === 'starting' && current.before.kind === 'waiting')) &&
      last === undefined,
  );
  return unborn ? 'Pending' : 'Running';
}

/** Takes one event into account and decides what to do next. */
export function step(context: StepContext, state: PodState, event: PodEvent): StepResult {
  const effects: PodEffect[] = [];
  const after = absorb(context, state, event, effects);
  return { state: decide(context, after, effects), effects };
}

function absorb(context: StepContext, state: PodState, event: PodEvent, effects: PodEffect[]): PodState {
  const { nowMs, backOff } = context;
  switch (event.type) {
    case 'tick':
      return state;
    case 'prepared':
      return { ...state, preparation: 'done', podIP: event.podIP };
    case 'prepareFailed': {
      effects.push({ type: 'record', level: 'Warning', reason: 'FailedMount', message: event.message });
      const delay = state.prepareDelayMs === 0 ? 500 : Math.min(state.prepareDelayMs * 2, 60_000);
      return { ...state, preparation: 'none', prepareDelayMs: delay, prepareRetryAtMs: nowMs + delay };
    }
    case 'started':
      return update(state, event.name, (container) => ({
        ...container,
        pullDelayMs: 0,
        restarts: restartsOf(container),
        current: {
          kind: 'running',
          containerId: event.containerId,
          startedAtMs: nowMs,
          started: !containerOf(context.spec, event.name)?.startupProbe,
          ready: !containerOf(context.spec, event.name)?.readinessProbe,
        },
      }));
    case 'startFailed':
      return update(state, event.name, (container) => startFailed(context, container, event, effects));
    case 'exited': {
      const before = stateOf(state, event.name);
      if (before.current.kind !== 'running') return state;
      const ended: Termination = {
        exitCode: event.exitCode,
        reason: event.exitCode === 0 ? 'Completed' : 'Error',
        ...(event.message ? { message: event.message } : {}),
        containerId: before.current.containerId,
        startedAtMs: before.current.startedAtMs,
        finishedAtMs: nowMs,
      };
      return update(state, event.name, (container) => {
        // A container that ran for long is not the one that crashes in a loop.
        const ranLong = ended.finishedAtMs - ended.startedAtMs >= 2 * backOff.capMs;
        const crashDelayMs = ranLong ? 0 : container.crashDelayMs;
        return {
          ...container,
          crashDelayMs,
          retryAtMs: nowMs + crashDelayMs,
          current: { kind: 'terminated', ...ended },
        };
      });
    }
    case 'probed':
      return absorbProbe(context, state, event, effects);
    case 'hookFailed': {
      const { current } = stateOf(state, event.name);
      if (current.kind !== 'running' || current.containerId !== event.containerId) return state;
      record(effects, 'Warning', 'FailedPostStartHook', event.message, event.name);
      return stop(context, state, event.name, graceMsOf(context.spec), effects);
    }
    case 'deleted': {
      const deleteByMs = nowMs + event.graceMs;
      if (state.deleteByMs !== undefined && state.deleteByMs <= deleteByMs) return state;
      return { ...state, deleteByMs };
    }
  }
}

function absorbProbe(
  context: StepContext,
  state: PodState,
  event: Extract<PodEvent, { type: 'probed' }>,
  effects: PodEffect[],
): PodState {
  const { current } = stateOf(state, event.name);
  // A probe of an earlier run of the container says nothing about this one.
  if (current.kind !== 'running' || current.containerId !== event.containerId) return state;
  if (event.probe === 'readiness') {
    if (current.ready === event.ok) return state;
    return update(state, event.name, (container) => ({ ...container, current: { ...current, ready: event.ok } }));
  }
  if (event.ok) {
    if (event.probe !== 'startup' || current.started) return state;
    return update(state, event.name, (container) => ({ ...container, current: { ...current, started: true } }));
  }
  if (current.stopByMs !== undefined) return state;
  record(
    effects,
    'Normal',
    'Killing',
    `Container ${event.name} failed ${event.probe} probe, will be restarted`,
    event.name,
  );
  return stop(context, state, event.name, event.graceMs ?? graceMsOf(context.spec), effects);
}

function startFailed(
  context: StepContext,
  container: ContainerState,
  event: Extract<PodEvent, { type: 'startFailed' }>,
  effects: PodEffect[],
): ContainerState {
  const { backOff, nowMs } = context;
  const delayed = (delayMs: number): number => (delayMs === 0 ? backOff.baseMs : Math.min(delayMs * 2, backOff.capMs));
  switch (event.cause) {
    case 'pull': {
      const pullDelayMs = delayed(container.pullDelayMs);
      record(effects, 'Warning', 'Failed', event.message, event.name);
      record(effects, 'Warning', 'Failed', 'Error: ErrImagePull', event.name);
      return {
        ...container,
        pullDelayMs,
        retryAtMs: nowMs + pullDelayMs,
        current: { kind: 'waiting', reason: 'ErrImagePull', message: event.message },
      };
    }
    case 'image':
      record(effects, 'Warning', 'InspectFailed', event.message, event.name);
      return {
        ...container,
        retryAtMs: nowMs + backOff.baseMs,
        current: { kind: 'waiting', reason: 'InvalidImageName', message: event.message },
      };
    case 'config':
      record(effects, 'Warning', 'Failed', `Error: ${event.message}`, event.name);
      return {
        ...container,
        retryAtMs: nowMs + backOff.baseMs,
        current: { kind: 'waiting', reason: 'CreateContainerConfigError', message: event.message },
      };
    case 'run': {
      record(effects, 'Warning', 'Failed', `Error: ${event.message}`, event.name);
      return {
        ...container,
        restarts: restartsOf(container),
        retryAtMs: nowMs + container.crashDelayMs,
        current: {
          kind: 'terminated',
          exitCode: 128,
          reason: 'StartError',
          message: event.message,
          containerId: '',
          startedAtMs: nowMs,
          finishedAtMs: nowMs,
        },
      };
    }
  }
}

function decide(context: StepContext, before: PodState, effects: PodEffect[]): PodState {
  if (before.finished) return before;
  if (before.deleteByMs !== undefined) return decideDeletion(context, before, before.deleteByMs, effects);
  let state = before;
  const placed = containersOf(context.spec);
  if (hasInitFailed(context.spec, state) || areMainsDone(context.spec, state)) {
    return stopSidecars(context, state, graceMsOf(context.spec), effects);
  }
  if (state.preparation !== 'done') {
    if (state.preparation === 'running') return state;
    if (state.prepareRetryAtMs > context.nowMs) {
      effects.push({ type: 'wake', atMs: state.prepareRetryAtMs });
      return state;
    }
    effects.push({ type: 'prepare' });
    return { ...state, preparation: 'running' };
  }
  let blocked = false;
  for (const { role, container } of placed) {
    if (role === 'main') continue;
    if (blocked) break;
    state = startIfDue(context, state, role, container.name, effects);
    if (state.initialized) continue;
    const { current } = stateOf(state, container.name);
    blocked =
      role === 'sidecar'
        ? !(current.kind === 'running' && current.started)
        : !(current.kind === 'terminated' && current.exitCode === 0);
  }
  if (!state.initialized && !blocked) state = { ...state, initialized: true };
  if (!state.initialized) return state;
  for (const { role, container } of placed) {
    if (role === 'main') state = startIfDue(context, state, role, container.name, effects);
  }
  return state;
}

/** Main containers first, all at once; then the sidecars, the last one first; then the pod itself. */
function decideDeletion(context: StepContext, before: PodState, deleteByMs: number, effects: PodEffect[]): PodState {
  let state = before;
  const placed = containersOf(context.spec);
  for (const { role, container } of placed) {
    if (role !== 'sidecar') state = stop(context, state, container.name, deleteByMs - context.nowMs, effects, true);
  }
  if (placed.some(({ role, container }) => role !== 'sidecar' && isAlive(stateOf(state, container.name)))) return state;
  state = stopSidecars(context, state, deleteByMs - context.nowMs, effects, true);
  const anyAlive = placed.some(({ container }) => isAlive(stateOf(state, container.name)));
  if (anyAlive || state.preparation === 'running') return state;
  effects.push({ type: 'finish' });
  return { ...state, finished: true };
}

/** Asks the last living sidecar to stop; those before it wait for their turn. */
function stopSidecars(
  context: StepContext,
  state: PodState,
  graceMs: number,
  effects: PodEffect[],
  announce = false,
): PodState {
  const sidecars = containersOf(context.spec).filter(({ role }) => role === 'sidecar');
  const last = sidecars.reverse().find(({ container }) => isAlive(stateOf(state, container.name)));
  // A sidecar has two seconds even when the main containers used up the grace.
  return last ? stop(context, state, last.container.name, Math.max(graceMs, 2_000), effects, announce) : state;
}

function stop(
  context: StepContext,
  state: PodState,
  name: string,
  graceMs: number,
  effects: PodEffect[],
  announce = false,
): PodState {
  const { current } = stateOf(state, name);
  if (current.kind !== 'running') return state;
  const stopByMs = context.nowMs + Math.max(0, graceMs);
  if (current.stopByMs !== undefined && current.stopByMs <= stopByMs) return state;
  if (announce && current.stopByMs === undefined) {
    record(effects, 'Normal', 'Killing', `Stopping container ${name}`, name);
  }
  effects.push({ type: 'stop', name, graceMs: Math.max(0, graceMs) });
  return update(state, name, (container) => ({ ...container, current: { ...current, stopByMs } }));
}

function startIfDue(
  context: StepContext,
  state: PodState,
  role: ContainerRole,
  name: string,
  effects: PodEffect[],
): PodState {
  const container = stateOf(state, name);
  const { current } = container;
  if (current.kind === 'running' || current.kind === 'starting') return state;
  if (current.kind === 'terminated' && !mayRestart(context.spec, role, current.exitCode)) return state;
  if (container.retryAtMs <= context.nowMs) {
    effects.push({ type: 'start', name });
    const again = current.kind === 'terminated' || container.last !== undefined;
    const { current: _, last: lastBefore, ...rest } = container;
    const last = current.kind === 'terminated' ? toTermination(current) : lastBefore;
    // Only what ran and ended counts as a restart; a failed pull is tried again without being counted.
    const counted =
      current.kind === 'terminated' || (current.kind === 'waiting' && current.reason === 'CrashLoopBackOff');
    return update(state, name, () => ({
      ...rest,
      ...(last ? { last } : {}),
      current: { kind: 'starting', before: current, again: counted },
      crashDelayMs:
        again && counted
          ? container.crashDelayMs === 0
            ? context.backOff.baseMs
            : Math.min(container.crashDelayMs * 2, context.backOff.capMs)
          : container.crashDelayMs,
    }));
  }
  effects.push({ type: 'wake', atMs: container.retryAtMs });
  const next = waitingForRetry(context, container, name, effects);
  return next === container ? state : update(state, name, () => next);
}

/** What a container that may not start yet shows: the kubelet's two back-off reasons. */
function waitingForRetry(
  context: StepContext,
  container: ContainerState,
  name: string,
  effects: PodEffect[],
): ContainerState {
  const { current } = container;
  if (current.kind === 'terminated') {
    const message = `back-off ${formatSeconds(container.crashDelayMs)} restarting failed container=${name} pod=${context.podLabel}`;
    record(
      effects,
      'Warning',
      'BackOff',
      `Back-off restarting failed container ${name} in pod ${context.podLabel}`,
      name,
    );
    return {
      ...container,
      last: toTermination(current),
      current: { kind: 'waiting', reason: 'CrashLoopBackOff', message },
    };
  }
  if (current.kind === 'waiting' && current.reason === 'ErrImagePull') {
    const image = containerOf(context.spec, name)?.image ?? '';
    // The first look shows ErrImagePull; the next, as with the kubelet, the back-off.
    const shownSinceMs = context.nowMs - (container.retryAtMs - container.pullDelayMs);
    const turnAtMs = Math.min(2_000, container.pullDelayMs / 2);
    if (shownSinceMs < turnAtMs) {
      effects.push({ type: 'wake', atMs: context.nowMs + turnAtMs - shownSinceMs });
      return container;
    }
    record(effects, 'Normal', 'BackOff', `Back-off pulling image "${image}"`, name);
    record(effects, 'Warning', 'Failed', 'Error: ImagePullBackOff', name);
    return {
      ...container,
      current: {
        kind: 'waiting',
        reason: 'ImagePullBackOff',
        message: `Back-off pulling image "${image}": ${current.message ?? ''}`,
      },
    };
  }
  return container;
}

function mayRestart(spec: PodSpec, role: ContainerRole, exitCode: number): boolean {
  if (role === 'sidecar') return true;
  if (role === 'init') return exitCode !== 0 && spec.restartPolicy !== 'Never';
  const policy = spec.restartPolicy ?? 'Always';
  return policy === 'Always' || (policy === 'OnFailure' && exitCode !== 0);
}

function hasInitFailed(spec: PodSpec, state: PodState): boolean {
  if (state.initialized || spec.restartPolicy !== 'Never') return false;
  return containersOf(spec).some(({ role, container }) => {
    const { current } = stateOf(state, container.name);
    return role === 'init' && current.kind === 'terminated' && current.exitCode !== 0;
  });
}

function areMainsDone(spec: PodSpec, state: PodState): boolean {
  return containersOf(spec).every(({ role, container }) => {
    if (role !== 'main') return true;
    const { current } = stateOf(state, container.name);
    return current.kind === 'terminated' && !mayRestart(spec, role, current.exitCode);
  });
}

/** The state of one container of the pod. */
export function stateOf(state: PodState, name: string): ContainerState {
  return state.containers[name] ?? newContainer;
}

/** The count with the run that is just being started. */
function restartsOf(container: ContainerState): number {
  const { current, restarts } = container;
  return current.kind === 'starting' && current.again ? restarts + 1 : restarts;
}

/** Whether a process is there or about to be. */
export function isAlive(container: ContainerState): boolean {
  return container.current.kind === 'running' || container.current.kind === 'starting';
}

/** Running, started and, as far as its readiness probe knows, ready. */
export function isReady(container: ContainerState): boolean {
  return container.current.kind === 'running' && container.current.started && container.current.ready;
}

function containerOf(spec: PodSpec, name: string) {
  return containersOf(spec).find((placed: PlacedContainer) => placed.container.name === name)?.container;
}

function graceMsOf(spec: PodSpec): number {
  return (spec.terminationGracePeriodSeconds ?? 30) * 1000;
}

function toTermination(ended: Ended): Termination {
  const { kind: _, ...termination } = ended;
  return termination;
}

function update(state: PodState, name: string, change: (container: ContainerState) => ContainerState): PodState {
  return { ...state, containers: { ...state.containers, [name]: change(stateOf(state, name)) } };
}

function record(
  effects: PodEffect[],
  level: 'Normal' | 'Warning',
  reason: string,
  message: string,
  container: string,
): void {
  effects.push({ type: 'record', level, reason, message, container });
}

function formatSeconds(ms: number): string {
  const seconds = Math.round(ms / 1000);
  if (ms < 1000) return `${ms}ms`;
  return seconds < 60 ? `${seconds}s` : `${Math.floor(seconds / 60)}m${seconds % 60}s`;
}
