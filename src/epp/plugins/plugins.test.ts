import { describe, expect, it } from '@jest/globals';
import { systemClock } from '../../clock.ts';
import { parseCompletion, promptText } from '../../openai/request.ts';
import { Cycle } from '../framework/cycle-state.ts';
import type { Decision } from '../framework/decision.ts';
import type { Endpoint, Load } from '../framework/endpoint.ts';
import { Scheduler } from '../framework/scheduler.ts';
import { buildScheduler, parsePickerConfig } from '../picker-config.ts';
import { PrefixIndex } from './producer/prefix-index.ts';
import { SessionIndex } from './producer/session-index.ts';
import { pluginFactories } from './register.ts';

const idle: Load = {
  isKnown: true,
  waiting: 0,
  running: 0,
  kvUsage: 0,
  inFlight: 0,
  requestsPerSecond: 0,
  adapters: undefined,
  readAtMs: 0,
  custom: undefined,
};

function endpoint(name: string, load: Partial<Load> = {}, role?: string, isReady = true): Endpoint {
  const address = `10.244.1.${5 + Number(/\d+$/.exec(name)?.[0] ?? 0)}`;
  return {
    id: `default/${name}-rank-0`,
    name,
    namespace: 'default',
    address,
    port: 8000,
    hostPort: `${address}:8000`,
    labels: role === undefined ? {} : { 'llm-d.ai/role': role },
    isReady,
    load: { ...idle, ...load },
  };
}

interface Ask {
  readonly prompt?: string;
  readonly session?: string;
  readonly model?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** A scheduler of a configuration, without a network: ask it, get the decision and the headers it adds. */
function scheduler(yaml: string, random: () => number = () => 0) {
  const config = parsePickerConfig(yaml, 'test');
  const { parts } = buildScheduler(config, { factories: pluginFactories, clock: systemClock, random });
  const real = new Scheduler(parts);
  return (endpoints: readonly Endpoint[], ask: Ask = {}, pool = endpoints) => {
    const body = { model: ask.model ?? 'llama', prompt: ask.prompt ?? 'Hello!' };
    const completion = parseCompletion('completions', Buffer.from(JSON.stringify(body)));
    const headers = new Map<string, string>();
    const cycle = new Cycle(
      {
        id: 'r1',
        model: completion.model,
        sessionId: ask.session,
        completion,
        header: (name) => ask.headers?.[name],
        promptText: () => promptText(completion),
      },
      pool,
    );
    const decision: Decision = real.schedule(cycle, endpoints, headers);
    return { decision, headers };
  };
}

const yamlOf = (plugins: readonly string[], profile: readonly string[]): string => `
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [${plugins.join(', ')}]
schedulingProfiles: [{name: default, plugins: [${profile.join(', ')}]}]
`;

const textbookProfile = (role: 'prefill' | 'decode') => `
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: ${role}-filter}
- {type: prefix-cache-scorer}
- {type: load-aware-scorer, parameters: {maxQps: 20}}
- {type: max-score-picker}
schedulingProfiles:
- name: ${role}
  plugins:
  - {pluginRef: ${role}-filter}
  - {pluginRef: prefix-cache-scorer, weight: 2.0}
  - {pluginRef: load-aware-scorer, weight: 1.0}
  - {pluginRef: max-score-picker}
`;

const totals = (decision: Decision, profile: string) =>
  Object.fromEntries(
    (decision.why().find((report) => report.profile === profile)?.candidates ?? []).map((candidate) => [
      candidate.endpoint.replace(/^default\/|-rank-0$/g, ''),
      candidate.droppedBy ?? Math.round((candidate.total ?? 0) * 1e6) / 1e6,
    ]),
  );

describe('the worked examples', () => {
  it('prefill: cached prefix 0.3 and 0.8, load 0.5 and 0.7 give 1.1 and 1.9', () => {
    const ask = scheduler(textbookProfile('prefill'));
    const pods = [
      endpoint('prefill-pod-0', { requestsPerSecond: 10 }, 'prefill'),
      endpoint('prefill-pod-1', { requestsPerSecond: 14 }, 'prefill'),
      endpoint('decode-pod-2', {}, 'decode'),
    ];
    const [first, second] = pods;
    if (!first || !second) throw new Error('two pods');
    const block = (i: number) => `${i} `.repeat(128).slice(0, 256);
    const blocks = Array.from({ length: 10 }, (_, i) => block(i));
    // Earlier requests left three of the ten blocks on one pod and eight on the other.
    ask([first], { prompt: blocks.slice(0, 3).join('') }, pods);
    ask([second], { prompt: blocks.slice(0, 8).join('') }, pods);
    const { decision } = ask(pods, { prompt: blocks.join('') });
    expect(totals(decision, 'prefill')).toEqual({
      'prefill-pod-0': 1.1,
      'prefill-pod-1': 1.9,
      'decode-pod-2': 'prefill-filter',
    });
    expect(decision.primary.name).toBe('prefill-pod-1');
  });

  it('decode: the pod with the conversation wins over two that are less loaded', () => {
    const ask = scheduler(textbookProfile('decode'));
    const pods = [
      endpoint('decode-pod-0', { requestsPerSecond: 4 }, 'decode'),
      endpoint('decode-pod-1', { requestsPerSecond: 10 }, 'decode'),
      endpoint('decode-pod-2', { requestsPerSecond: 2 }, 'decode'),
    ];
    const holder = pods[1];
    if (!holder) throw new Error('three pods');
    ask([holder], { session: 'session-abc-123', prompt: 'first turn' }, pods);
    const { decision } = ask(pods, { session: 'session-abc-123', prompt: 'another text altogether' });
    expect(totals(decision, 'decode')).toEqual({ 'decode-pod-0': 0.8, 'decode-pod-1': 2.5, 'decode-pod-2': 0.9 });
    expect(decision.primary.name).toBe('decode-pod-1');
  });

  it('four pods, one not ready: 0.75, 2.40, 0.90, and the fourth is skipped', () => {
    const ask = scheduler(textbookProfile('decode'));
    const pods = [
      endpoint('decode-pod-0', { requestsPerSecond: 5 }, 'decode'),
      endpoint('decode-pod-1', { requestsPerSecond: 12 }, 'decode'),
      endpoint('decode-pod-2', { requestsPerSecond: 2 }, 'decode'),
      endpoint('decode-pod-3', {}, 'decode', false),
    ];
    for (const [i, sessions] of [['conv-abc', 'conv-def'], ['conv-xyz', 'conv-ghi'], ['conv-jkl']].entries()) {
      const pod = pods[i];
      for (const session of sessions) if (pod) ask([pod], { session, prompt: `turn one of ${session}` }, pods);
    }
    const { decision } = ask(pods, { session: 'conv-xyz', prompt: 'follow-up' });
    expect(totals(decision, 'decode')).toEqual({
      'decode-pod-0': 0.75,
      'decode-pod-1': 2.4,
      'decode-pod-2': 0.9,
      'decode-pod-3': 'not ready',
    });
    expect(decision.primary.hostPort).toBe('10.244.1.6:8000');
  });
});

describe('scorers', () => {
  const unknown: Partial<Load> = { isKnown: false };
  const adapters = (active: readonly string[], waiting: readonly string[], max: number) => ({
    adapters: { active: new Set(active), waiting: new Set(waiting), max },
  });
  const table: readonly [
    name: string,
    plugin: string,
    loads: readonly Partial<Load>[],
    expected: readonly number[],
    ask?: Ask,
  ][] = [
    ['shorter queues', '{type: queue-scorer}', [{ waiting: 3 }, { waiting: 0 }, { waiting: 10 }], [0.7, 1, 0]],
    ['equal queues', '{type: queue-scorer}', [{ waiting: 3 }, { waiting: 3 }], [1, 1]],
    ['a queue that is not known is no empty one', '{type: queue-scorer}', [{ waiting: 9 }, unknown], [1, 0]],
    [
      'no queue known: requests in flight',
      '{type: queue-scorer}',
      [
        { ...unknown, inFlight: 4 },
        { ...unknown, inFlight: 1 },
      ],
      [0, 1],
    ],
    [
      'fewer running',
      '{type: running-requests-size-scorer}',
      [{ running: 8 }, { running: 4 }, { running: 6 }, unknown],
      [0, 1, 0.5, 0],
    ],
    [
      'free KV cache',
      '{type: kv-cache-utilization-scorer}',
      [{ kvUsage: 0.2 }, { kvUsage: 0.9 }, unknown],
      [0.8, 0.1, 0],
    ],
    ['load by queue', '{type: load-aware-scorer}', [{}, { waiting: 64 }, { waiting: 500 }, unknown], [0.5, 0.25, 0, 0]],
    ['load by threshold', '{type: load-aware-scorer, parameters: {threshold: 10}}', [{ waiting: 5 }], [0.25]],
    [
      'load by rate',
      '{type: load-aware-scorer, parameters: {maxQps: 20}}',
      [{ requestsPerSecond: 5 }, { requestsPerSecond: 40 }],
      [0.75, 0],
    ],
    ['requests in flight', '{type: active-request-scorer}', [{}, { inFlight: 2 }, { inFlight: 8 }], [1, 0.75, 0]],
    [
      'idle enough, busy capped',
      '{type: active-request-scorer, parameters: {idleThreshold: 2, maxBusyScore: 0.5}}',
      [{ inFlight: 2 }, { inFlight: 4 }, { inFlight: 8 }],
      [1, 0.25, 0],
    ],
    [
      'critical goes where there is room',
      '{type: criticality-scorer}',
      [{ kvUsage: 0.2 }, { waiting: 4 }, unknown],
      [0.8, 0.2, 0],
      { headers: { 'x-signalbox-criticality': 'Critical' } },
    ],
    [
      'sheddable goes where it is busy, not full',
      '{type: criticality-scorer, parameters: {models: {llama: Sheddable}}}',
      [{ kvUsage: 0.2 }, { waiting: 4 }, { waiting: 50 }],
      [0.2, 0.8, 0],
    ],
    ['standard goes anywhere', '{type: criticality-scorer}', [{ kvUsage: 0.2 }, { waiting: 4 }], [0.5, 0.5]],
    [
      'adapters',
      '{type: lora-affinity-scorer}',
      [
        adapters(['llama'], [], 2),
        adapters(['a'], [], 2),
        adapters(['a', 'b'], ['llama'], 2),
        adapters(['a', 'b'], [], 2),
        {},
      ],
      [1, 0.8, 0.6, 0, 0],
    ],
  ];
  it.each(table)('%s', (...row) => {
    const [, plugin, loads, expected, ask] = row;
    const type = /type: ([a-z-]+)/.exec(plugin)?.[1] ?? '';
    const schedule = scheduler(yamlOf([plugin], [`{pluginRef: ${type}}`]));
    const { decision } = schedule(
      loads.map((load, i) => endpoint(`p-${i}`, load)),
      ask,
    );
    const scores = decision.why()[0]?.candidates.map((candidate) => candidate.scores?.[type] ?? Number.NaN) ?? [];
    expect(scores).toHaveLength(expected.length);
    for (const [i, score] of scores.entries()) expect(score).toBeCloseTo(expected[i] ?? Number.NaN, 9);
  });

  it('no-hit-lru spreads cold requests over all endpoints, longest unused first', () => {
    const schedule = scheduler(yamlOf(['{type: no-hit-lru-scorer}'], ['{pluginRef: no-hit-lru-scorer}']));
    const pods = ['p-0', 'p-1', 'p-2'].map((name) => endpoint(name));
    const names = Array.from({ length: 6 }, (_, i) => schedule(pods, { prompt: `cold ${i}` }).decision.primary.name);
    expect(names).toEqual(['p-0', 'p-1', 'p-2', 'p-0', 'p-1', 'p-2']);
    // A warm request leaves the order alone and scores all the same.
    const { decision } = schedule(pods, { prompt: 'cold 5' });
    expect(decision.why()[0]?.candidates.map((c) => c.scores?.['no-hit-lru-scorer'])).toEqual([0.5, 0.5, 0.5]);
  });

  it('a prefix counts without gaps, and a longer prompt continues a conversation of short messages', () => {
    const schedule = scheduler(yamlOf(['{type: prefix-cache-scorer}'], ['{pluginRef: prefix-cache-scorer}']));
    const pods = [endpoint('p-0'), endpoint('p-1')];
    const second = pods[1];
    if (!second) throw new Error('two pods');
    schedule([second], { prompt: '<|user|>Hello!\n' }, pods);
    const { decision } = schedule(pods, { prompt: '<|user|>Hello!\n<|assistant|>Hi.\n<|user|>How are you?\n' });
    expect(decision.primary.name).toBe('p-1');
    // Another model shares nothing.
    const other = schedule(pods, { prompt: '<|user|>Hello!\n', model: 'other' });
    expect(other.decision.why()[0]?.candidates.map((c) => c.total)).toEqual([0, 0]);
  });
});

describe('pickers', () => {
  it('the highest wins; equals take turns, also when groups of equals alternate', () => {
    const schedule = scheduler(yamlOf(['{type: queue-scorer}'], ['{pluginRef: queue-scorer}']));
    const pods = ['p-0', 'p-1', 'p-2', 'p-3'].map((name) => endpoint(name));
    const counts = new Map<string, number>();
    for (let i = 0; i < 400; i++) {
      const group = i % 2 === 0 ? pods.slice(0, 2) : pods.slice(2);
      const { name } = schedule(group).decision.primary;
      counts.set(name, (counts.get(name) ?? 0) + 1);
    }
    expect(Object.fromEntries(counts)).toEqual({ 'p-0': 100, 'p-1': 100, 'p-2': 100, 'p-3': 100 });
    expect(schedule([endpoint('p-8', { waiting: 1 }), endpoint('p-9')]).decision.primary.name).toBe('p-9');
  });

  it('several endpoints come in order of score', () => {
    const schedule = scheduler(
      yamlOf(
        ['{type: queue-scorer}', '{type: max-score-picker, parameters: {maxNumOfEndpoints: 2}}'],
        ['{pluginRef: queue-scorer}', '{pluginRef: max-score-picker}'],
      ),
    );
    const pods = [5, 0, 2].map((waiting, i) => endpoint(`p-${i}`, { waiting }));
    expect(schedule(pods).decision.endpoints.map(({ name }) => name)).toEqual(['p-1', 'p-2']);
  });

  it('random takes any', () => {
    const schedule = scheduler(yamlOf(['{type: random-picker}'], ['{pluginRef: random-picker}']), () => 0.99);
    expect(schedule(['p-0', 'p-1', 'p-2'].map((name) => endpoint(name))).decision.primary.name).toBe('p-2');
  });
});

describe('prefill and decode', () => {
  const yaml = (decider: string) => `
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: prefill-filter}
- {type: decode-filter}
- {type: prefix-cache-scorer}
- {name: decider, ${decider}}
- {type: disagg-profile-handler, parameters: {deciders: {prefill: decider}}}
schedulingProfiles:
- {name: prefill, plugins: [{pluginRef: prefill-filter}, {pluginRef: prefix-cache-scorer}]}
- {name: decode, plugins: [{pluginRef: decode-filter}, {pluginRef: prefix-cache-scorer}]}
`;
  const pods = [endpoint('p-0', {}, 'prefill'), endpoint('d-1', {}, 'decode'), endpoint('x-2')];

  it('always: the decode endpoint gets the request, a header names the prefill endpoint', () => {
    const schedule = scheduler(yaml('type: always-disagg-pd-decider'));
    const { decision, headers } = schedule(pods);
    expect(decision.primaryProfile).toBe('decode');
    expect(['d-1', 'x-2']).toContain(decision.primary.name);
    expect(headers.get('x-prefiller-host-port')).toBe('10.244.1.5:8000');
  });

  it.each([
    ['a long new prompt', 'x'.repeat(4000), undefined, true],
    ['a short prompt', 'Hello!', undefined, false],
    ['a prompt that is cached', 'y'.repeat(4000), undefined, false],
    ['a conversation that is known', 'z'.repeat(4000), 'conv-1', false],
  ] as const)('by prefix: %s', (_name, prompt, session, isPrefillWanted) => {
    const schedule = scheduler(yaml('type: prefix-based-pd-decider, parameters: {nonCachedTokens: 500}'));
    const decode = pods.slice(1, 2);
    schedule(decode, { prompt: 'y'.repeat(4000) }, pods);
    schedule(decode, { prompt: 'first turn', session: 'conv-1' }, pods);
    const { headers } = schedule(pods, { prompt, ...(session === undefined ? {} : { session }) });
    expect(headers.has('x-prefiller-host-port')).toBe(isPrefillWanted);
  });

  it('without a prefill endpoint decode does both; without a decode endpoint it is refused', () => {
    const schedule = scheduler(yaml('type: always-disagg-pd-decider'));
    expect(schedule(pods.slice(1)).headers.size).toBe(0);
    expect(() => schedule(pods.slice(0, 1))).toThrow(/no endpoint .*profile decode/);
  });
});

describe('indexes', () => {
  it('remember a bounded number of blocks and forget endpoints that are gone', () => {
    const index = new PrefixIndex(4);
    index.record('a', [1, 2, 3]);
    index.record('b', [1, 2]);
    const slotOf = (id: string) => index.slotOf(id) ?? -1;
    expect(index.match([1, 2, 3, 4])?.[slotOf('a')]).toBe(3);
    expect(index.match([1, 2, 3, 4])?.[slotOf('b')]).toBe(2);
    expect(index.match([9, 2])).toBeUndefined();
    // The start of a prompt outlives its end.
    index.record('a', [7, 8]);
    expect(index.match([1, 2, 3])?.[slotOf('a')]).toBe(2);
    expect(index.size).toBe(6);
    index.retain(new Set(['b']));
    expect(index.size).toBe(2);
    expect(index.match([7])).toBeUndefined();
    index.record('c', [1]);
    expect(index.match([1, 2])?.[slotOf('c')]).toBe(1);
    expect(index.match([1, 2])?.[slotOf('b')]).toBe(2);
  });

  it('remember a bounded number of conversations, latest endpoint first', () => {
    const sessions = new SessionIndex(2);
    for (const id of ['a', 'b', 'a', 'c', 'd', 'e']) sessions.record('s1', id);
    expect(sessions.endpointsOf('s1')).toEqual(['e', 'd', 'c', 'a']);
    sessions.record('s2', 'a');
    sessions.record('s3', 'a');
    expect(sessions.endpointsOf('s1')).toEqual([]);
    expect(sessions.size).toBe(2);
  });
});
