import { describe, expect, it } from '@jest/globals';
import type { Container, Pod, PodSpec } from './pod-spec.ts';
import {
  defaultBackOff,
  newPodState,
  type PodEffect,
  type PodEvent,
  type PodState,
  phaseOf,
  stateOf,
  step,
} from './pod-state.ts';
import { renderPodStatus } from './pod-status.ts';

const container = (name: string, extra: Partial<Container> = {}): Container => ({
  name,
  image: 'test/shell:1',
  ...extra,
});
const sidecar = (name: string, extra: Partial<Container> = {}) =>
  container(name, { restartPolicy: 'Always', ...extra });
const probe = { tcpSocket: { port: 1 } };

/** Plays a pod: events in, effects out, time moved by hand. */
function play(spec: PodSpec, restarts?: Readonly<Record<string, number>>) {
  let state: PodState = newPodState(spec, restarts);
  let nowMs = 1_000_000;
  let runs = 0;
  const send = (event: PodEvent): readonly PodEffect[] => {
    const result = step({ spec, podLabel: 'p_default(u)', backOff: defaultBackOff, nowMs }, state, event);
    state = result.state;
    return result.effects;
  };
  const words = (effects: readonly PodEffect[]): readonly string[] =>
    effects.flatMap((effect) => {
      if (effect.type === 'start') return [`start ${effect.name}`];
      if (effect.type === 'stop') return [`stop ${effect.name} ${effect.graceMs}`];
      if (effect.type === 'prepare' || effect.type === 'finish') return [effect.type];
      return [];
    });
  return {
    get state() {
      return state;
    },
    get nowMs() {
      return nowMs;
    },
    send,
    do: (event: PodEvent) => words(send(event)),
    prepare: () => [...words(send({ type: 'tick' })), ...words(send({ type: 'prepared', podIP: '127.88.0.10' }))],
    started: (name: string) => words(send({ type: 'started', name, containerId: `run-${++runs}` })),
    exited: (name: string, exitCode: number) => words(send({ type: 'exited', name, exitCode })),
    probed: (name: string, kind: 'startup' | 'readiness' | 'liveness', ok: boolean) => {
      const { current } = stateOf(state, name);
      const containerId = current.kind === 'running' ? current.containerId : '';
      return words(send({ type: 'probed', name, containerId, probe: kind, ok }));
    },
    pass: (ms: number) => {
      nowMs += ms;
      return words(send({ type: 'tick' }));
    },
    phase: () => phaseOf(spec, state),
    status: (pod: Partial<Pod> = {}) =>
      renderPodStatus(
        { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'p', namespace: 'default', generation: 3 }, spec, ...pod },
        state,
        { hostIP: '127.0.0.1', startTimeMs: 1_000_000, nowMs },
      ),
  };
}

describe('the order of containers', () => {
  it('runs init containers one by one, waits for a sidecar to have started, then starts the main ones together', () => {
    const pod = play({
      initContainers: [container('i1'), sidecar('s1', { startupProbe: probe }), container('i2'), sidecar('s2')],
      containers: [container('a'), container('b')],
    });
    expect(pod.prepare()).toEqual(['prepare', 'start i1']);
    expect(pod.started('i1')).toEqual([]);
    expect(pod.exited('i1', 0)).toEqual(['start s1']);
    expect(pod.started('s1')).toEqual([]);
    expect(pod.phase()).toBe('Pending');
    expect(pod.status().conditions?.find((c) => c.type === 'Initialized')).toMatchObject({
      status: 'False',
      reason: 'ContainersNotInitialized',
      message: 'containers with incomplete status: [s1 i2 s2]',
    });
    expect(pod.probed('s1', 'startup', true)).toEqual(['start i2']);
    pod.started('i2');
    expect(pod.exited('i2', 0)).toEqual(['start s2']);
    expect(pod.started('s2')).toEqual(['start a', 'start b']);
    pod.started('a');
    expect(pod.phase()).toBe('Pending');
    pod.started('b');
    expect(pod.phase()).toBe('Running');
    expect(Object.fromEntries((pod.status().conditions ?? []).map((c) => [c.type, c.status]))).toEqual({
      PodReadyToStartContainers: 'True',
      Initialized: 'True',
      Ready: 'True',
      ContainersReady: 'True',
      PodScheduled: 'True',
    });
    // A sidecar that crashes later comes back alone.
    expect(pod.exited('s1', 1)).toEqual(['start s1']);
    expect(pod.status().conditions?.find((c) => c.type === 'Ready')).toMatchObject({
      status: 'False',
      message: 'containers with unready status: [s1]',
    });
  });

  it('stops main containers at once and sidecars after them, the last one first, then takes the pod away', () => {
    const pod = play({ initContainers: [sidecar('s1'), sidecar('s2')], containers: [container('a'), container('b')] });
    pod.prepare();
    for (const name of ['s1', 's2', 'a', 'b']) pod.started(name);
    expect(pod.do({ type: 'deleted', graceMs: 5_000 })).toEqual(['stop a 5000', 'stop b 5000']);
    expect(pod.do({ type: 'deleted', graceMs: 5_000 })).toEqual([]);
    expect(pod.exited('b', 143)).toEqual([]);
    pod.pass(4_000);
    expect(pod.exited('a', 0)).toEqual(['stop s2 2000']);
    expect(pod.exited('s2', 137)).toEqual(['stop s1 2000']);
    expect(pod.exited('s1', 0)).toEqual(['finish']);
    expect(pod.phase()).toBe('Failed');
    expect(pod.pass(1)).toEqual([]);
  });

  it('does not start anything more once deleted, and waits for what was about to start', () => {
    const pod = play({ containers: [container('a')] });
    pod.prepare();
    expect(pod.do({ type: 'deleted', graceMs: 3_000 })).toEqual([]);
    expect(pod.started('a')).toEqual(['stop a 3000']);
    expect(pod.exited('a', 143)).toEqual(['finish']);
    const early = play({ containers: [container('a')] });
    early.send({ type: 'tick' });
    expect(early.do({ type: 'deleted', graceMs: 0 })).toEqual([]);
    expect(early.do({ type: 'prepared', podIP: '127.88.0.10' })).toEqual(['finish']);
  });

  it('shortens the grace when a second deletion has less', () => {
    const pod = play({ containers: [container('a')] });
    pod.prepare();
    pod.started('a');
    expect(pod.do({ type: 'deleted', graceMs: 30_000 })).toEqual(['stop a 30000']);
    expect(pod.do({ type: 'deleted', graceMs: 0 })).toEqual(['stop a 0']);
  });
});

describe('restarts', () => {
  it('restarts at once, then after 10 s doubling to 5 min, and starts over after a long run', () => {
    const pod = play({ containers: [container('a')] });
    pod.prepare();
    pod.started('a');
    expect(pod.exited('a', 3)).toEqual(['start a']);
    for (const delay of [10, 20, 40, 80, 160, 300, 300]) {
      pod.started('a');
      expect(pod.exited('a', 3)).toEqual([]);
      expect(pod.status().containerStatuses?.[0]).toMatchObject({
        state: { waiting: { reason: 'CrashLoopBackOff' } },
        lastState: { terminated: { exitCode: 3, reason: 'Error' } },
      });
      expect(pod.pass(delay * 1000 - 1)).toEqual([]);
      expect(pod.pass(1)).toEqual(['start a']);
    }
    pod.started('a');
    expect(pod.status().containerStatuses?.[0]?.restartCount).toBe(8);
    pod.pass(600_000);
    expect(pod.exited('a', 3)).toEqual(['start a']);
  });

  it.each([
    ['Always', 0, 'Running', true],
    ['OnFailure', 0, 'Succeeded', false],
    ['OnFailure', 1, 'Running', true],
    ['Never', 0, 'Succeeded', false],
    ['Never', 1, 'Failed', false],
  ] as const)('with %s and exit code %i the pod is %s', (restartPolicy, exitCode, phase, restarted) => {
    const pod = play({ restartPolicy, containers: [container('a')] });
    pod.prepare();
    pod.started('a');
    expect(pod.exited('a', exitCode)).toEqual(restarted ? ['start a'] : []);
    expect(pod.phase()).toBe(phase);
  });

  it('ends sidecars when the main containers are done, and only then the pod', () => {
    const pod = play({
      restartPolicy: 'Never',
      terminationGracePeriodSeconds: 4,
      initContainers: [sidecar('s')],
      containers: [container('a')],
    });
    pod.prepare();
    pod.started('s');
    pod.started('a');
    expect(pod.exited('a', 0)).toEqual(['stop s 4000']);
    expect(pod.phase()).toBe('Running');
    expect(pod.exited('s', 143)).toEqual([]);
    expect(pod.phase()).toBe('Succeeded');
    expect(pod.status().conditions?.find((c) => c.type === 'Ready')).toMatchObject({
      status: 'False',
      reason: 'PodCompleted',
    });
    expect(pod.do({ type: 'deleted', graceMs: 1_000 })).toEqual(['finish']);
  });

  it('fails for good when an init container fails and nothing may restart', () => {
    const pod = play({ restartPolicy: 'Never', initContainers: [container('i')], containers: [container('a')] });
    pod.prepare();
    pod.started('i');
    expect(pod.exited('i', 1)).toEqual([]);
    expect(pod.phase()).toBe('Failed');
    const again = play({ initContainers: [container('i')], containers: [container('a')] });
    again.prepare();
    again.started('i');
    expect(again.exited('i', 1)).toEqual(['start i']);
    expect(again.phase()).toBe('Pending');
  });

  it('goes on counting after a restart of the node', () => {
    const pod = play({ containers: [container('a')] }, { a: 4 });
    pod.prepare();
    pod.started('a');
    pod.exited('a', 1);
    // Counted when the new run is there, not before.
    expect(pod.status().containerStatuses?.[0]).toMatchObject({
      restartCount: 4,
      state: { terminated: { exitCode: 1 } },
    });
    pod.started('a');
    expect(pod.status().containerStatuses?.[0]).toMatchObject({
      restartCount: 5,
      lastState: { terminated: { exitCode: 1 } },
    });
  });
});

describe('what cannot start', () => {
  it('shows ErrImagePull, then ImagePullBackOff, and pulls again after 10 s doubling', () => {
    const pod = play({ containers: [container('a', { image: 'no/such:1' })] });
    pod.prepare();
    const failed = { type: 'startFailed', name: 'a', cause: 'pull', message: 'no such image' } as const;
    const effects = pod.send(failed);
    expect(effects).toContainEqual(
      expect.objectContaining({ type: 'record', reason: 'Failed', message: 'Error: ErrImagePull' }),
    );
    const reason = () => (pod.status().containerStatuses?.[0]?.state?.waiting as { reason?: string })?.reason;
    expect(reason()).toBe('ErrImagePull');
    pod.pass(2_000);
    expect(reason()).toBe('ImagePullBackOff');
    expect(pod.pass(7_999)).toEqual([]);
    expect(pod.pass(1)).toEqual(['start a']);
    pod.send(failed);
    expect(reason()).toBe('ErrImagePull');
    expect(pod.pass(19_999)).toEqual([]);
    expect(pod.pass(1)).toEqual(['start a']);
    expect(pod.status().containerStatuses?.[0]?.restartCount).toBe(0);
    expect(pod.phase()).toBe('Pending');
  });

  it('waits with CreateContainerConfigError and counts a command that cannot run as a crash', () => {
    const pod = play({ containers: [container('a')] });
    pod.prepare();
    pod.send({ type: 'startFailed', name: 'a', cause: 'config', message: 'configmap "x" not found' });
    expect(pod.status().containerStatuses?.[0]?.state).toEqual({
      waiting: { reason: 'CreateContainerConfigError', message: 'configmap "x" not found' },
    });
    expect(pod.pass(10_000)).toEqual(['start a']);
    pod.send({ type: 'startFailed', name: 'a', cause: 'run', message: 'executable file not found' });
    expect(pod.status().containerStatuses?.[0]?.lastState).toEqual({});
    pod.send({ type: 'startFailed', name: 'a', cause: 'run', message: 'executable file not found' });
    expect(stateOf(pod.state, 'a').restarts).toBe(1);
    expect(pod.status().containerStatuses?.[0]).toMatchObject({
      state: { waiting: { reason: 'CrashLoopBackOff' } },
      lastState: { terminated: { reason: 'StartError', exitCode: 128, message: 'executable file not found' } },
    });
  });

  it('tries again to prepare volumes, with a FailedMount event each time', () => {
    const pod = play({ containers: [container('a')] });
    pod.send({ type: 'tick' });
    expect(pod.send({ type: 'prepareFailed', message: 'secret "s" not found' })).toContainEqual(
      expect.objectContaining({ type: 'record', reason: 'FailedMount' }),
    );
    expect(pod.pass(499)).toEqual([]);
    expect(pod.pass(1)).toEqual(['prepare']);
    expect(pod.status().containerStatuses?.[0]?.state).toEqual({ waiting: { reason: 'ContainerCreating' } });
  });
});

describe('probes', () => {
  const spec: PodSpec = {
    terminationGracePeriodSeconds: 7,
    containers: [container('a', { startupProbe: probe, readinessProbe: probe, livenessProbe: probe })],
  };

  it('is ready only when started and the readiness probe says so', () => {
    const pod = play(spec);
    pod.prepare();
    pod.started('a');
    const shown = () => {
      const { started, ready } = pod.status().containerStatuses?.[0] ?? {};
      return { started, ready };
    };
    expect(shown()).toEqual({ started: false, ready: false });
    pod.probed('a', 'startup', true);
    expect(shown()).toEqual({ started: true, ready: false });
    pod.probed('a', 'readiness', true);
    expect(shown()).toEqual({ started: true, ready: true });
    pod.probed('a', 'readiness', false);
    expect(shown()).toEqual({ started: true, ready: false });
  });

  it.each(['startup', 'liveness'] as const)('kills on a failed %s probe, once, and restarts', (kind) => {
    const pod = play(spec);
    pod.prepare();
    pod.started('a');
    expect(pod.probed('a', kind, false)).toEqual(['stop a 7000']);
    expect(pod.probed('a', kind, false)).toEqual([]);
    expect(pod.exited('a', 137)).toEqual(['start a']);
    // A late answer about the earlier run changes nothing.
    pod.started('a');
    expect(pod.do({ type: 'probed', name: 'a', containerId: 'run-1', probe: 'liveness', ok: false })).toEqual([]);
  });

  it('kills after a failed postStart hook', () => {
    const pod = play({ containers: [container('a')] });
    pod.prepare();
    pod.started('a');
    expect(pod.do({ type: 'hookFailed', name: 'a', containerId: 'run-1', message: 'no' })).toEqual(['stop a 30000']);
  });
});

describe('status', () => {
  it('keeps transition times and the conditions of others, and honours readiness gates', () => {
    const pod = play({ readinessGates: [{ conditionType: 'x.io/gate' }], containers: [container('a')] });
    pod.prepare();
    pod.started('a');
    const before = pod.status();
    expect(before).toMatchObject({
      phase: 'Running',
      podIP: '127.88.0.10',
      hostIP: '127.0.0.1',
      observedGeneration: 3,
    });
    expect(before.conditions?.find((c) => c.type === 'Ready')).toMatchObject({
      status: 'False',
      reason: 'ReadinessGatesNotReady',
    });
    pod.pass(5_000);
    const gate = { type: 'x.io/gate', status: 'True' } as const;
    const after = pod.status({ status: { ...before, conditions: [...(before.conditions ?? []), gate] } });
    expect(after.conditions).toContainEqual(gate);
    const time = (status: typeof before, type: string) =>
      status.conditions?.find((c) => c.type === type)?.lastTransitionTime;
    expect(time(after, 'Ready')).not.toBe(time(before, 'Ready'));
    expect(time(after, 'Initialized')).toBe(time(before, 'Initialized'));
  });
});
