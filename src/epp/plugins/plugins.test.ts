import { describe, expect, it } from '@jest/globals';
import { type Ask, endpoint, scheduler, yamlOf } from '../../../test/expect/picker.ts';
import type { Decision } from '../framework/decision.ts';
import type { Endpoint, Load } from '../framework/endpoint.ts';
import { PrefixIndex } from './producer/prefix-index.ts';
import { SessionIndex } from './producer/session-index.ts';

const weightedProfile = (role: 'prefill' | 'decode') => `
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
    const ask = scheduler(weightedProfile('prefill'));
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
    const ask = scheduler(weightedProfile('decode'));
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
    const ask = scheduler(weightedProfile('decode'));
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
    [
      'tokens in flight and to come',
      '{type: token-load-scorer, parameters: {queueThresholdTokens: 10}}',
      [{}, { inFlightTokens: 3 }, { inFlightTokens: 50 }],
      // The prompt is two tokens long.
      [0.8, 0.5, 0],
      { prompt: 'Hello!!!' },
    ],
    ['no session', '{type: session-affinity-scorer}', [{}, {}], [0, 0]],
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

  it.each([
    // 100 tokens.
    ['0-1000', 0.3 + 0.7 * (0.7 / 1.1 + 0.3 * 0.9)],
    ['100-100', 1],
    ['600-900', 0.3 / 1.5],
    ['0-50', 0.3 / 1.05],
    [undefined, 0.5],
    ['many', 0],
    ['9-1', 0],
  ])('a pod for prompts of %s tokens', (range, expected) => {
    const pod = { ...endpoint('p-0'), labels: range === undefined ? {} : { 'llm-d.ai/context-length-range': range } };
    const schedule = scheduler(yamlOf(['{type: context-length-aware}'], ['{pluginRef: context-length-aware}']));
    const { decision } = schedule([pod], { prompt: 'x'.repeat(400) });
    expect(decision.why()[0]?.candidates[0]?.total).toBeCloseTo(expected, 9);
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

describe('filters', () => {
  const labelled = (...labels: readonly Readonly<Record<string, string>>[]) =>
    labels.map((own, i) => ({ ...endpoint(`p-${i}`), labels: own }));
  const pods = labelled({ gpu: 'h100', zone: 'a' }, { gpu: 'a100' }, {});
  const busy = [
    endpoint('p-0', { waiting: 9, inFlight: 1 }),
    endpoint('p-1', { kvUsage: 0.95 }),
    endpoint('p-2', { isKnown: false }),
    endpoint('p-3', { inFlight: 7 }),
  ];
  const ranged = (...ranges: readonly string[]) =>
    labelled(...ranges.map((range) => ({ 'llm-d.ai/context-length-range': range })));

  it.each<readonly [plugin: string, endpoints: readonly Endpoint[], kept: readonly number[]]>([
    ['{type: label-selector-filter}', pods, [0, 1, 2]],
    ['{type: label-selector-filter, parameters: {matchLabels: {gpu: h100}}}', pods, [0]],
    [
      '{type: by-label-selector, parameters: {matchExpressions: [{key: gpu, operator: In, values: [a100, h100]}]}}',
      pods,
      [0, 1],
    ],
    [
      '{type: label-selector-filter, parameters: {matchExpressions: [{key: gpu, operator: NotIn, values: [h100]}]}}',
      pods,
      [1, 2],
    ],
    ['{type: label-selector-filter, parameters: {matchExpressions: [{key: zone, operator: Exists}]}}', pods, [0]],
    [
      '{type: label-selector-filter, parameters: {matchExpressions: [{key: zone, operator: DoesNotExist}]}}',
      pods,
      [1, 2],
    ],
    ['{type: by-label, parameters: {label: gpu, validValues: [a100]}}', pods, [1]],
    ['{type: by-label, parameters: {label: gpu, validValues: [a100], allowsNoLabel: true}}', pods, [1, 2]],
    ['{type: utilization-filter, parameters: {conditions: [{metric: waiting-queue, maxValue: 5}]}}', busy, [1, 3]],
    [
      '{type: utilization-filter, parameters: {conditions: [{metric: kv-cache-utilization, maxValue: 0.9}, {metric: active-requests, maxValue: 5}]}}',
      busy,
      [0],
    ],
    ['{type: utilization-filter, parameters: {conditions: [{metric: active-requests, maxValue: 0}]}}', busy, [1, 2]],
    [
      '{type: utilization-filter, parameters: {fallbackOnEmpty: true, conditions: [{metric: running-requests, maxValue: 0}, {metric: waiting-queue, maxValue: 0}, {metric: kv-cache-utilization, maxValue: 0}, {metric: active-requests, maxValue: 0}]}}',
      busy,
      [0, 1, 2, 3],
    ],
    [
      '{type: context-length-aware, parameters: {enableFiltering: true}}',
      [...ranged('0-10', '0-1', '5-9'), endpoint('p-3')],
      [0, 3],
    ],
    ['{type: context-length-aware, parameters: {enableFiltering: true}}', ranged('5-9', '7-9'), [0, 1]],
    ['{type: prefix-cache-affinity-filter}', pods, [0, 1, 2]],
    ['{type: session-affinity-filter}', pods, [0, 1, 2]],
  ])('%s', (plugin, endpoints, kept) => {
    const type = /type: ([a-z-]+)/.exec(plugin)?.[1] ?? '';
    const schedule = scheduler(yamlOf([plugin], [`{pluginRef: ${type}}`]));
    const { decision } = schedule(endpoints, { prompt: 'Hello!!!' });
    const left = decision.why()[0]?.candidates.filter(({ droppedBy }) => droppedBy === undefined) ?? [];
    expect(left.map(({ endpoint: id }) => Number(/p-(\d)/.exec(id)?.[1]))).toEqual(kept);
  });

  it('an endless drain is a refusal', () => {
    const plugin = '{type: utilization-filter, parameters: {conditions: [{metric: active-requests, maxValue: 0}]}}';
    const schedule = scheduler(yamlOf([plugin], ['{pluginRef: utilization-filter}']));
    expect(() => schedule([endpoint('p-0', { inFlight: 1 })])).toThrow(/no endpoint of the pool/);
  });

  it.each([
    ['prefix-cache-affinity-filter', {}, {}, ['p-1']],
    ['session-affinity-filter', { session: 's' }, {}, ['p-1']],
    // 20 s of prefill stand before the holder: the other may be sooner.
    ['prefix-cache-affinity-filter', {}, { inFlightTokens: 318_560 }, ['p-0', 'p-1']],
  ])('%s keeps to who holds the prompt', (type, ask, load, kept) => {
    const schedule = scheduler(yamlOf([`{type: ${type}}`], [`{pluginRef: ${type}}`]));
    const pair = [endpoint('p-0'), endpoint('p-1', load)];
    const holder = pair[1];
    if (!holder) throw new Error('two pods');
    schedule([holder], { prompt: 'the same', ...ask }, pair);
    const { decision } = schedule(pair, { prompt: 'the same', ...ask });
    const left = decision.why()[0]?.candidates.filter(({ droppedBy }) => droppedBy === undefined) ?? [];
    expect(left.map(({ endpoint: id }) => /p-\d/.exec(id)?.[0])).toEqual(kept);
  });

  it('an affinity filter explores when the dice say so', () => {
    const plugin = '{type: prefix-cache-affinity-filter, parameters: {explorationProbability: 0.1}}';
    const schedule = scheduler(yamlOf([plugin], ['{pluginRef: prefix-cache-affinity-filter}']), () => 0.05);
    const pair = [endpoint('p-0'), endpoint('p-1')];
    schedule(pair.slice(1), { prompt: 'the same' }, pair);
    const { decision } = schedule(pair, { prompt: 'the same' });
    expect(decision.why()[0]?.candidates.every(({ droppedBy }) => droppedBy === undefined)).toBe(true);
  });
});

describe('pickers', () => {
  it('weighted random follows the weights, and takes those without weight last', () => {
    let seed = 1;
    const random = () => {
      seed = (seed * 48_271) % 2_147_483_647;
      return seed / 2_147_483_647;
    };
    const picker = '{type: weighted-random-picker, parameters: {maxNumOfEndpoints: 3}}';
    const schedule = scheduler(
      yamlOf(
        ['{type: kv-cache-utilization-scorer}', picker],
        ['{pluginRef: kv-cache-utilization-scorer}', '{pluginRef: weighted-random-picker}'],
      ),
      random,
    );
    const pods = [0.25, 0.75, 1].map((kvUsage, i) => endpoint(`p-${i}`, { kvUsage }));
    let first = 0;
    for (let i = 0; i < 4000; i++) {
      const { endpoints } = schedule(pods).decision;
      if (endpoints[0].name === 'p-0') first++;
      expect(endpoints[2]?.name).toBe('p-2');
    }
    // 0.75 against 0.25.
    expect(first / 4000).toBeGreaterThan(0.72);
    expect(first / 4000).toBeLessThan(0.78);
    // Nobody has weight: anybody.
    const full = [1, 1].map((kvUsage, i) => endpoint(`p-${i}`, { kvUsage }));
    const firsts = new Set(Array.from({ length: 50 }, () => schedule(full).decision.primary.name));
    expect([...firsts].sort()).toEqual(['p-0', 'p-1']);
  });

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
  it('is also what pd-profile-handler of older configurations meant', () => {
    const old = (handler: string) => `
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: prefill-header-handler}, {type: prefill-filter}, {type: decode-filter}, {type: always-disagg-pd-decider}, ${handler}]
schedulingProfiles:
- {name: first, plugins: [{pluginRef: prefill-filter}]}
- {name: second, plugins: [{pluginRef: decode-filter}]}
`;
    const names = 'decodeProfile: second, prefillProfile: first';
    const both = [endpoint('p-0', {}, 'prefill'), endpoint('d-1', {}, 'decode')];
    const { decision } = scheduler(old(`{type: pd-profile-handler, parameters: {${names}}}`))(both);
    expect([...decision.results].map(([name, { picked }]) => [name, picked[0]?.name])).toEqual([
      ['second', 'd-1'],
      ['first', 'p-0'],
    ]);
    // What decides was a number once.
    const alone = (threshold: number) =>
      old(`{type: pd-profile-handler, parameters: {${names}, threshold: ${threshold}, hashBlockSize: 5}}`).replace(
        ' {type: always-disagg-pd-decider},',
        '',
      );
    expect(scheduler(alone(0))(both).decision.results.size).toBe(2);
    expect(scheduler(alone(1_000_000))(both).decision.results.size).toBe(1);
    expect(() => scheduler(old('{type: pd-profile-handler, parameters: {treshold: 1}}'))).toThrow(
      /plugins\[4\].*treshold: unknown field/,
    );
  });

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
