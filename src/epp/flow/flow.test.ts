import { describe, expect, it } from '@jest/globals';
import { ManualClock, systemClock } from '../../clock.ts';
import { Datastore, type LiveEndpoint } from '../datalayer/datastore.ts';
import { Cycle } from '../framework/cycle-state.ts';
import type { FlowHead } from '../framework/flow-policy.ts';
import {
  type FairnessPolicy,
  isFairnessPolicy,
  isOrderingPolicy,
  isSaturationDetector,
  isUsageLimitPolicy,
  type OrderingPolicy,
  type SaturationDetector,
  type UsageLimitPolicy,
} from '../framework/flow-policy.ts';
import type { Plugin } from '../framework/plugin.ts';
import { buildScheduler, parsePickerConfig } from '../picker-config.ts';
import { pluginFactories } from '../plugins/register.ts';
import {
  createFlowControl,
  type FlowOutcome,
  type FlowParts,
  type FlowRefusal,
  type FlowRequest,
  type FlowSettings,
} from './flow-control.ts';
import { IndexedHeap } from './heap.ts';
import { FlowQueue, type QueueItem } from './queue.ts';

function make(type: string, parameters: object = {}, clock = new ManualClock(1000)): Plugin {
  const factory = pluginFactories[type];
  if (factory === undefined) throw new Error(`no ${type}`);
  return factory({
    type,
    name: type,
    parameters,
    path: type,
    clock,
    random: () => 0,
    baseDir: '.',
    report: () => {},
    plugin: () => {
      throw new Error('none');
    },
  } as never);
}
function expectA<T extends Plugin>(plugin: Plugin, is: (plugin: Plugin) => plugin is T): T {
  if (!is(plugin)) throw new Error(`${plugin.type} is another kind`);
  return plugin;
}
const detector = (type: string, parameters: object, clock: ManualClock): SaturationDetector =>
  expectA(make(type, parameters, clock), isSaturationDetector);
const ordering = (type = 'fcfs-ordering-policy'): OrderingPolicy => expectA(make(type), isOrderingPolicy);
const fairness = (type = 'global-strict-fairness-policy', parameters = {}): FairnessPolicy =>
  expectA(make(type, parameters), isFairnessPolicy);
const limits = (type = 'static-usage-limit-policy', parameters = {}): UsageLimitPolicy =>
  expectA(make(type, parameters), isUsageLimitPolicy);

/** A pool of as many endpoints as there are roles; '' for none. */
function pool(clock: ManualClock, ...roles: readonly string[]): readonly LiveEndpoint[] {
  const datastore = new Datastore(clock, 2000);
  datastore.replace(
    roles.map((role, i) => ({
      id: `ns/p${i}`,
      name: `p${i}`,
      namespace: 'ns',
      address: `10.0.0.${i + 1}`,
      port: 8000,
      labels: role === '' ? {} : { 'llm-d.ai/role': role },
      isReady: true,
    })),
  );
  return datastore.snapshot.endpoints;
}
function read(endpoint: LiveEndpoint | undefined, waiting: number, kvUsage: number): void {
  endpoint?.load.beginReading();
  endpoint?.load.endReading({ waiting, running: 0, kvUsage });
}

describe('the heap', () => {
  it('gives its items in order, whatever is taken out between (seeded)', () => {
    let seed = 42;
    const random = (below: number): number => {
      seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
      return seed % below;
    };
    const heap = new IndexedHeap<{ readonly rank: number }>((a, b) => a.rank < b.rank);
    const held: { readonly rank: number }[] = [];
    for (let i = 0; i < 3000; i++) {
      if (held.length === 0 || random(3) > 0) {
        const item = { rank: random(500) };
        heap.push(item);
        held.push(item);
      } else {
        const [item] = held.splice(random(held.length), 1);
        expect(item !== undefined && heap.remove(item)).toBe(true);
        expect(item !== undefined && heap.remove(item)).toBe(false);
      }
      expect(heap.size).toBe(held.length);
      expect(heap.first?.rank).toBe(held.length === 0 ? undefined : Math.min(...held.map(({ rank }) => rank)));
    }
  });
});

describe('the queue', () => {
  type Item = QueueItem & { readonly name: string };
  const item = (name: string, over: Partial<Item> = {}): Item => ({
    name,
    fairnessId: name[0] ?? '',
    priority: 0,
    bytes: 10,
    enqueuedAtMs: 0,
    deadlineMs: 1000,
    ttftMs: undefined,
    ...over,
  });
  const queueOf = (fair: string, order = 'fcfs-ordering-policy', global = { maxRequests: 0, maxBytes: 0 }) =>
    new FlowQueue<Item>(global, (priority) => ({
      maxRequests: priority < 0 ? 2 : 100,
      maxBytes: priority < 0 ? 0 : 500,
      ordering: ordering(order),
      fairness: fairness(fair),
    }));
  const drain = (queue: FlowQueue<Item>): string[] => {
    const names: string[] = [];
    for (;;) {
      const [band] = queue.bands;
      if (band === undefined) return names;
      names.push(queue.take(band, 0)?.name ?? '?');
    }
  };

  it.each<readonly [string, string, readonly Item[], string]>([
    [
      'global-strict-fairness-policy',
      'fcfs-ordering-policy',
      [item('a1'), item('a2'), item('b1'), item('a3')],
      'a1 a2 b1 a3',
    ],
    [
      'global-strict-fairness-policy',
      'fcfs-ordering-policy',
      [item('a1'), item('a2', { enqueuedAtMs: 2 }), item('b1', { enqueuedAtMs: 1 })],
      'a1 b1 a2',
    ],
    [
      'round-robin-fairness-policy',
      'fcfs-ordering-policy',
      ['a1', 'a2', 'a3', 'b1', 'c1', 'b2'].map((n) => item(n)),
      'a1 b1 c1 a2 b2 a3',
    ],
    [
      'global-strict-fairness-policy',
      'edf-ordering-policy',
      [item('a1', { deadlineMs: 30 }), item('a2', { deadlineMs: 10 }), item('b1', { deadlineMs: 20 })],
      'a2 b1 a1',
    ],
    [
      'global-strict-fairness-policy',
      'slo-deadline-ordering-policy',
      [item('a1'), item('a2', { ttftMs: 50 }), item('a3', { ttftMs: 10 }), item('a4')],
      'a3 a2 a1 a4',
    ],
    [
      'round-robin-fairness-policy',
      'fcfs-ordering-policy',
      [item('a1', { priority: -1 }), item('b1', { priority: 5 }), item('c1'), item('b2', { priority: 5 })],
      'b1 b2 c1 a1',
    ],
  ])('%s and %s', (fair, order, items, expected) => {
    const queue = queueOf(fair, order);
    for (const each of items) expect(queue.push(each)).toBe(true);
    expect(drain(queue).join(' ')).toBe(expected);
    expect([queue.requests, queue.bytes, queue.bands.length]).toEqual([0, 0, 0]);
  });

  it('has bounds in requests and bytes, for each priority and together', () => {
    const queue = queueOf('round-robin-fairness-policy', 'fcfs-ordering-policy', { maxRequests: 4, maxBytes: 600 });
    expect(queue.push(item('a', { bytes: 501 }))).toBe(false);
    expect(queue.push(item('a', { bytes: 500 }))).toBe(true);
    expect(queue.push(item('b', { bytes: 1 }))).toBe(false);
    expect(queue.push(item('c', { priority: -1, bytes: 101 }))).toBe(false);
    expect([1, 2].map((i) => queue.push(item(`d${i}`, { priority: -1 })))).toEqual([true, true]);
    expect(queue.push(item('d3', { priority: -1 }))).toBe(false);
    expect(queue.push(item('e', { priority: 9 }))).toBe(true);
    expect(queue.push(item('f', { priority: 9 }))).toBe(false);
    expect([queue.requests, queue.bytes]).toEqual([4, 530]);
  });

  it('gives up what waited too long, and forgets what left', () => {
    const queue = queueOf('round-robin-fairness-policy');
    const late = item('a', { deadlineMs: 300 });
    const soon = item('b', { deadlineMs: 100 });
    const gone = item('c', { deadlineMs: 50 });
    for (const each of [late, soon, gone]) queue.push(each);
    expect([queue.remove(gone), queue.remove(gone)]).toEqual([true, false]);
    expect([queue.takeExpired(99)?.name, queue.takeExpired(100)?.name, queue.takeExpired(100)?.name]).toEqual([
      undefined,
      'b',
      undefined,
    ]);
    expect([queue.takeAny()?.name, queue.takeAny()?.name]).toEqual(['a', undefined]);
  });
});

describe('saturation', () => {
  it('by utilization: the mean over endpoints of the fuller of queue and cache, requests since the reading included', () => {
    const clock = new ManualClock(1000);
    const endpoints = pool(clock, '', '');
    const it_ = detector('utilization-detector', {}, clock);
    read(endpoints[0], 5, 0);
    read(endpoints[1], 0, 0.4);
    expect(it_.saturation(endpoints, 0)).toBeCloseTo((1 + 0.5) / 2);
    endpoints[1]?.load.begin();
    endpoints[1]?.load.begin();
    endpoints[1]?.load.begin();
    expect(it_.saturation(endpoints, 0)).toBeCloseTo((1 + 0.6) / 2);
    expect(it_.saturation(endpoints, 5)).toBeCloseTo((1 + 0.6 + 1) / 2);
    const cycle = new Cycle({} as never, endpoints);
    expect(it_.filter(cycle, endpoints)).toEqual([endpoints[1]]);
    read(endpoints[1], 50, 0);
    expect(it_.filter(cycle, endpoints)).toEqual(endpoints);
  });

  it('an endpoint without fresh metrics is full; when all are, requests in flight stand in', async () => {
    const clock = new ManualClock(1000);
    const endpoints = pool(clock, '', '');
    const it_ = detector('utilization-detector', { metricsStalenessThreshold: '500ms' }, clock);
    expect([it_.saturation(endpoints, 0), it_.staleCount(endpoints)]).toEqual([0, 2]);
    for (let i = 0; i < 10; i++) endpoints[0]?.load.begin();
    expect(it_.saturation(endpoints, 0)).toBe(1);
    read(endpoints[1], 0, 0);
    expect([it_.saturation(endpoints, 0), it_.staleCount(endpoints)]).toEqual([0.5, 1]);
    await clock.advance(501);
    expect(it_.staleCount(endpoints)).toBe(2);
  });

  it.each([
    ['requests', 0.1],
    ['tokens', 0.25],
    ['hybrid', 0.3],
  ])('by concurrency, in %s', (concurrencyMode, expected) => {
    const clock = new ManualClock(1000);
    const endpoints = pool(clock, '', '');
    const it_ = detector(
      'concurrency-detector',
      { maxConcurrency: 10, maxTokenConcurrency: 100, concurrencyMode },
      clock,
    );
    endpoints[0]?.load.begin();
    endpoints[0]?.load.addTokens(50);
    endpoints[1]?.load.begin();
    expect(it_.saturation(endpoints, 0)).toBeCloseTo(expected);
  });

  it('by concurrency may leave nobody, and then the request is told that the pool is full', () => {
    const clock = new ManualClock(1000);
    const endpoints = pool(clock, '', '');
    const it_ = detector('concurrency-detector', { maxConcurrency: 2, headroom: 0.5 }, clock);
    const cycle = new Cycle({} as never, endpoints);
    for (let i = 0; i < 2; i++) endpoints[0]?.load.begin();
    expect(it_.filter(cycle, endpoints)).toHaveLength(2);
    for (const { load } of endpoints) for (let i = 0; i < 3; i++) load.begin();
    expect(it_.filter(cycle, endpoints)).toEqual([]);
    expect(it_.isDrainedByLoad).toBe(true);
  });
});

describe('ceilings', () => {
  it.each<readonly [string, object, readonly number[], number, readonly number[]]>([
    ['static-usage-limit-policy', {}, [5, 0, -1], 0.9, [1, 1, 1]],
    ['static-usage-limit-policy', { threshold: 0.7 }, [5], 0.9, [0.7]],
    ['priority-holdback-policy', { minCeiling: 0.4 }, [100, 1, 0], 0, [1, 0.7, 0.4]],
    ['priority-holdback-policy', { minCeiling: 0.4, domain: 'value' }, [100, 50, 0], 0, [1, 0.7, 0.4]],
    ['priority-holdback-policy', { minCeiling: 0.4 }, [3], 0, [1]],
    ['soft-reflective-ceiling-policy', {}, [2, 1, 0], 0.5, [1, 0.75, 1]],
    ['soft-reflective-ceiling-policy', {}, [2, 1, 0], 1, [1, 0, 0]],
  ])('of %s %j for %j at %d', (type, parameters, priorities, saturation, expected) => {
    const actual = limits(type, parameters).ceilings(priorities, saturation);
    expect(actual.map((ceiling) => Math.round(ceiling * 100) / 100)).toEqual(expected);
  });

  it('that are soft open now and then until the pool is full', () => {
    const policy = limits('soft-reflective-ceiling-policy');
    const open = Array.from({ length: 9 }, () => policy.ceilings([1, 0], 0.75)[1] === 1);
    // round(.75 / .25) = 3
    expect(open).toEqual([false, false, true, false, false, true, false, false, true]);
  });

  it('are refused when they make no sense', () => {
    expect(() => make('priority-holdback-policy', { minCeiling: 0.9, maxCeiling: 0.5 })).toThrow(/minCeiling/);
  });
});

describe('program-aware fairness', () => {
  const head = (fairnessId: string, enqueuedAtMs: number): FlowHead => ({
    fairnessId,
    head: { fairnessId, enqueuedAtMs, deadlineMs: 0, ttftMs: undefined },
    rank: 0,
    turn: 0,
  });
  it('serves who was served least, and in the end who waits', () => {
    const policy = fairness('program-aware-fairness');
    policy.used?.('a', { promptTokens: 100, completionTokens: 50 }, 0);
    policy.used?.('b', { promptTokens: 100, completionTokens: 0 }, 0);
    expect(policy.nextFlow([head('a', 0), head('b', 0)], 10)).toBe('b');
    expect(policy.nextFlow([head('a', 0), head('new', 5)], 10)).toBe('new');
    // The same service: who waits longer.
    policy.used?.('c', { promptTokens: 200, completionTokens: 0 }, 0);
    expect(policy.nextFlow([head('a', 9), head('c', 0)], 10)).toBe('c');
    // Service fades: after ten half-lives the new one weighs more.
    policy.used?.('b', { promptTokens: 10, completionTokens: 0 }, 600_000);
    expect(policy.nextFlow([head('a', 600_000), head('b', 600_000)], 600_000)).toBe('a');
  });
});

describe('flow control', () => {
  interface Sent {
    readonly settled: (FlowRefusal | 'go')[];
    readonly leave: () => void;
  }
  const request = (over: Partial<FlowRequest> = {}): FlowRequest => ({
    model: 'm',
    target: 'm',
    fairnessId: 'default-flow',
    priority: 0,
    bytes: 10,
    ttftMs: undefined,
    ttlMs: undefined,
    ...over,
  });
  function setUp(
    options: {
      readonly isOn?: boolean;
      readonly roles?: readonly string[];
      readonly maxRequests?: number;
      readonly isEvicting?: boolean;
    } = {},
  ) {
    const clock = new ManualClock(1000);
    let endpoints = pool(clock, ...(options.roles ?? ['']));
    const outcomes: FlowOutcome[] = [];
    const settings: FlowSettings = {
      limits: { maxRequests: options.maxRequests ?? 0, maxBytes: 0 },
      bandOf: () => ({
        maxRequests: 0,
        maxBytes: 0,
        ordering: ordering(),
        fairness: fairness('round-robin-fairness-policy'),
      }),
      priorities: [],
      isEvictionEnabled: options.isEvicting ?? false,
      requestTtlMs: 1000,
      noEndpointTtlMs: 200,
      usageLimits: limits(),
    };
    const parts: FlowParts = {
      settings: options.isOn === false ? undefined : settings,
      detector: detector('concurrency-detector', { maxConcurrency: 2 }, clock),
      observer: {
        settled: (_request, outcome) => outcomes.push(outcome),
        enqueued: () => {},
        cycle: () => {},
        evicted: () => {},
      },
    };
    const control = createFlowControl({ ...parts, endpoints: () => endpoints, clock });
    const replace = (next: Partial<FlowSettings> | undefined, maxConcurrency = 2): void =>
      control.replace({
        ...parts,
        settings: next === undefined ? undefined : { ...settings, ...next },
        detector: detector('concurrency-detector', { maxConcurrency }, clock),
      });
    const ends: (() => void)[] = [];
    const order: string[] = [];
    /** What the director does: a request that may go counts at an endpoint at once. */
    const send = (over_: Partial<FlowRequest> = {}): Sent => {
      const settled: (FlowRefusal | 'go')[] = [];
      const go = (): void => {
        order.push(over_.fairnessId ?? 'default-flow');
        const end = endpoints[0]?.load.begin();
        const over = (): void => {
          end?.();
          release?.();
          control.poke();
        };
        const release = control.hold({ priority: over_.priority ?? 0 }, (why) => {
          settled.push(why);
          over();
        });
        ends.push(over);
        settled.push('go');
      };
      const asked = control.enter(request(over_), (verdict) => {
        if (verdict === undefined) go();
        else settled.push(verdict);
      });
      if (asked === 'go') go();
      else if ('code' in asked) settled.push(asked);
      return { settled, leave: typeof asked === 'object' && 'leave' in asked ? asked.leave : () => {} };
    };
    const finish = (): void => ends.shift()?.();
    const setEndpoints = (...roles: readonly string[]): void => {
      endpoints = pool(clock, ...roles);
    };
    return { clock, control, replace, outcomes, send, finish, setEndpoints, order, endpoints: () => endpoints };
  }

  it('is off: all pass, but those that may be dropped when the pool is full', () => {
    const { send, outcomes } = setUp({ isOn: false });
    for (let i = 0; i < 5; i++) expect(send().settled).toEqual(['go']);
    expect(send({ priority: -1 }).settled).toMatchObject([
      { code: 'overloaded', reason: 'rejected-saturated', retryAfterS: 1 },
    ]);
    expect(outcomes).toEqual(['RejectedCapacity']);
    const idle = setUp({ isOn: false });
    expect(idle.send({ priority: -1 }).settled).toEqual(['go']);
  });

  it('lets through what there is room for; the rest goes as others end, tenants in turn, high priorities first', () => {
    const { send, finish, order, control } = setUp();
    for (const fairnessId of ['a', 'a', 'a', 'a', 'a', 'b', 'c']) send({ fairnessId });
    send({ fairnessId: 'urgent', priority: 10 });
    expect(order).toEqual(['a', 'a']);
    expect(control.queue.requests).toBe(6);
    for (let i = 0; i < 8; i++) finish();
    expect(order).toEqual(['a', 'a', 'urgent', 'a', 'b', 'c', 'a', 'a']);
    expect(control.queue.requests).toBe(0);
    expect(control.saturation().effective).toBe(0);
  });

  it('never lets through more than there is room for, also while endpoints are still being chosen', () => {
    const { send, control, order } = setUp();
    const ends = [control.beginPlacing(), control.beginPlacing()];
    send();
    expect(order).toEqual([]);
    ends[0]?.();
    ends[0]?.();
    control.poke();
    expect(order).toHaveLength(1);
    ends[1]?.();
    for (let i = 0; i < 20; i++) send();
    expect(order).toHaveLength(2);
  });

  it('takes other settings over while requests wait: none is lost, none keeps a place that it would not have', async () => {
    const { send, finish, replace, order, control, clock, outcomes } = setUp();
    for (const fairnessId of ['a', 'a', 'a', 'a', 'b']) send({ fairnessId });
    expect(order).toEqual(['a', 'a']);

    // Fewer may wait than do: those stay, no other is let in.
    replace({
      limits: { maxRequests: 1, maxBytes: 0 },
      bandOf: () => ({ maxRequests: 0, maxBytes: 0, ordering: ordering(), fairness: fairness() }),
    });
    expect(control.queue.requests).toBe(3);
    expect(control.queue.bytes).toBe(30);
    expect(send({ fairnessId: 'late' }).settled).toMatchObject([{ reason: 'rejected-saturated' }]);
    // No longer in turn, but as they came.
    finish();
    finish();
    expect(order).toEqual(['a', 'a', 'a', 'a']);

    // A detector with more room counts at once, without anything that ends.
    replace({}, 3);
    expect(order).toEqual(['a', 'a', 'a', 'a', 'b']);

    // The deadline is the one that the request came with.
    const waits = send();
    replace({ requestTtlMs: 5 }, 3);
    await clock.advance(500);
    expect(waits.settled).toEqual([]);
    await clock.advance(600);
    expect(waits.settled).toMatchObject([{ reason: 'rejected-ttl-expired' }]);

    // Off: whoever waits goes; on again: the next one waits.
    const freed = send();
    replace(undefined);
    expect(freed.settled).toEqual(['go']);
    expect(send().settled).toEqual(['go']);
    replace({});
    expect(send().settled).toEqual([]);
    expect(outcomes.filter((outcome) => outcome === 'Dispatched')).toHaveLength(6);
    control.close();
  });

  it('gives up what waited too long with 429, and 503 when there is nobody at all', async () => {
    const { send, clock, outcomes, setEndpoints } = setUp();
    send();
    send();
    const waits = send();
    const impatient = send({ ttlMs: 100 });
    const patient = send({ ttlMs: 100_000 });
    await clock.advance(120);
    expect(impatient.settled).toMatchObject([{ code: 'overloaded', reason: 'rejected-ttl-expired' }]);
    expect(waits.settled).toEqual([]);
    await clock.advance(900);
    expect(waits.settled).toMatchObject([{ reason: 'rejected-ttl-expired' }]);
    expect(patient.settled).toHaveLength(1);
    setEndpoints();
    const lost = send();
    await clock.advance(150);
    expect(lost.settled).toEqual([]);
    await clock.advance(100);
    expect(lost.settled).toMatchObject([{ code: 'unavailable', reason: 'rejected-no-endpoints' }]);
    expect(outcomes).toEqual([
      'Dispatched',
      'Dispatched',
      'EvictedTTL',
      'EvictedTTL',
      'EvictedTTL',
      'EvictedNoEndpoints',
    ]);
  });

  it('waits for an endpoint to come', async () => {
    const { send, clock, setEndpoints, order } = setUp({ roles: [] });
    send();
    await clock.advance(50);
    expect(order).toEqual([]);
    setEndpoints('');
    await clock.advance(20);
    expect(order).toHaveLength(1);
  });

  it('forgets who left, refuses beyond its bounds with a time to come back, and everyone when it stops', () => {
    const { send, control, outcomes } = setUp({ maxRequests: 2 });
    send();
    send();
    const gone = send();
    const waits = send();
    expect(send().settled).toMatchObject([{ code: 'overloaded', reason: 'rejected-saturated' }]);
    expect((send().settled[0] as FlowRefusal).retryAfterS).toBeGreaterThanOrEqual(1);
    gone.leave();
    gone.leave();
    expect(control.queue.requests).toBe(1);
    control.close();
    expect(waits.settled).toMatchObject([{ code: 'unavailable', reason: 'rejected-shutting-down' }]);
    expect(gone.settled).toEqual([]);
    expect(send().settled).toMatchObject([{ reason: 'rejected-shutting-down' }]);
    expect(outcomes.slice(2)).toEqual([
      ...['RejectedCapacity', 'RejectedCapacity', 'EvictedContextCancelled'],
      ...['EvictedShuttingDown', 'RejectedShuttingDown'],
    ]);
  });

  it('ends what may be dropped for what matters more, the least and latest first, where it is told to', async () => {
    const { send, clock, control } = setUp({ isEvicting: true });
    const [first, second] = [send({ priority: -1 }), send({ priority: -2 })];
    expect(send({ priority: -2 }).settled).toEqual([]);
    const plain = send({ priority: 0 });
    await clock.advance(0);
    expect(plain.settled).toEqual(['go']);
    expect(second.settled).toMatchObject(['go', { code: 'overloaded', reason: 'evicted-priority' }]);
    expect(first.settled).toEqual(['go']);
    // No more until the engines can have told.
    const next = send({ priority: 5 });
    await clock.advance(20);
    expect([first.settled, next.settled]).toEqual([['go'], []]);
    await clock.advance(510);
    expect(first.settled).toMatchObject(['go', { reason: 'evicted-priority' }]);
    expect(next.settled).toEqual(['go']);
    expect(control.queue.requests).toBe(1);
    const off = setUp();
    const kept = [off.send({ priority: -1 }), off.send({ priority: -1 })];
    off.send({ priority: 0 });
    expect(kept.map(({ settled }) => settled)).toEqual([['go'], ['go']]);
  });

  it('looks at each stage by itself: the fuller one counts', () => {
    const { control, endpoints } = setUp({ roles: ['decode', 'decode', 'prefill'] });
    endpoints()[0]?.load.begin();
    endpoints()[2]?.load.begin();
    expect([...control.saturation().stages]).toEqual([
      ['prefill', 0.5],
      ['decode', 0.25],
    ]);
    expect(control.saturation().effective).toBe(0.5);
  });
});

describe('the configuration', () => {
  const head = 'apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n';
  const build = (text: string) =>
    buildScheduler(parsePickerConfig(head + text, 'f'), {
      factories: pluginFactories,
      clock: systemClock,
      random: () => 0,
    });
  const on = 'featureGates: [flowControl]\n';

  it('has defaults: off; with the gate on, those of upstream', () => {
    const off = build('');
    expect([off.flow.settings, off.flow.detector.type]).toEqual([undefined, 'utilization-detector']);
    const { settings } = build(on).flow;
    expect(settings).toMatchObject({
      requestTtlMs: 60_000,
      noEndpointTtlMs: 60_000,
      limits: { maxRequests: 0, maxBytes: 0 },
    });
    const band = settings?.bandOf(3);
    expect([
      band?.maxRequests,
      band?.maxBytes,
      band?.ordering.type,
      band?.fairness.type,
      settings?.usageLimits.type,
    ]).toEqual([
      ...[5000, 1_000_000_000, 'fcfs-ordering-policy', 'global-strict-fairness-policy', 'static-usage-limit-policy'],
    ]);
  });

  it('is read whole', () => {
    const { flow } = build(`${on}
plugins:
- {type: queue-scorer}
- {name: fair, type: round-robin-fairness-policy}
- {type: edf-ordering-policy}
- {name: hold, type: priority-holdback-policy, parameters: {minCeiling: 0.5}}
- {name: busy, type: concurrency-detector, parameters: {maxConcurrency: 7}}
flowControl:
  maxBytes: 2Gi
  maxRequests: "100"
  defaultRequestTTL: 5s
  noEndpointRequestTTL: 90s
  defaultPriorityBand: {maxRequests: 10, fairnessPolicyRef: fair}
  defaultNegativePriorityBand: {maxRequests: 1}
  priorityBands: [{priority: 7, maxBytes: 1Ki, orderingPolicyRef: edf-ordering-policy}]
  usageLimitPolicyPluginRef: hold
  saturationDetector: {pluginRef: busy}`);
    const { settings, detector: found } = flow;
    expect(found.name).toBe('busy');
    expect(settings).toMatchObject({
      limits: { maxRequests: 100, maxBytes: 2 ** 31 },
      requestTtlMs: 5000,
      noEndpointTtlMs: 90_000,
      priorities: [7],
    });
    const bands = [7, 0, -1].map((priority) => settings?.bandOf(priority));
    expect(bands.map((band) => [band?.maxRequests, band?.maxBytes, band?.ordering.type, band?.fairness.name])).toEqual([
      [5000, 1024, 'edf-ordering-policy', 'global-strict-fairness-policy'],
      [10, 1_000_000_000, 'fcfs-ordering-policy', 'fair'],
      [1, 1_000_000_000, 'fcfs-ordering-policy', 'global-strict-fairness-policy'],
    ]);
  });

  it('takes detectors as older configurations have them, and says what has no effect', () => {
    const old = build(
      'saturationDetector: {queueDepthThreshold: 3, kvCacheUtilThreshold: 0.5, metricsStalenessThreshold: 1s}',
    );
    expect(old.flow.detector.type).toBe('utilization-detector');
    const listed = build(
      'plugins: [{type: concurrency-detector}]\nsaturationDetector: {pluginRef: concurrency-detector}',
    );
    expect(listed.flow.detector.type).toBe('concurrency-detector');
    expect(parsePickerConfig(`${head}flowControl: {maxRequests: 1}`, 'f').warnings.join()).toMatch(/no effect without/);
  });

  it.each([
    [`${on}flowControl: {maxRequest: 1}`, /flowControl\.maxRequest: unknown field, did you mean maxRequests\?/],
    [`${on}flowControl: {maxBytes: lots}`, /flowControl\.maxBytes: must be an amount/],
    [`${on}flowControl: {defaultRequestTTL: soon}`, /flowControl\.defaultRequestTTL: must be a duration/],
    [
      `${on}flowControl: {priorityBands: [{priority: 1}, {priority: 1}]}`,
      /priorityBands\[1\]\.priority: 1 is listed twice/,
    ],
    [`${on}flowControl: {usageLimitPolicyPluginRef: nobody}`, /usageLimitPolicyPluginRef: no plugin is named nobody/],
    [
      `${on}plugins: [{type: queue-scorer}]\nflowControl: {defaultPriorityBand: {fairnessPolicyRef: queue-scorer}}`,
      /defaultPriorityBand\.fairnessPolicyRef: queue-scorer .* is no fairness policy/,
    ],
    ['saturationDetector: {pluginRef: nobody}', /saturationDetector\.pluginRef: "nobody" is not among the plugins/],
    ['saturationDetector: {queueDepthThreshold: 0}', /queueDepthThreshold/],
    ['featureGates: [flowControl=maybe]', /flowControl must be true or false/],
  ])('is refused: %s', (text, message) => {
    expect(() => build(text)).toThrow(message);
  });
});
