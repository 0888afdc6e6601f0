import { describe, expect, it } from '@jest/globals';
import { ManualClock } from '../clock.ts';
import { AppError } from '../errors.ts';
import { silentLogger } from '../telemetry/log.ts';
import { allowChanged, deny, parseReview } from './admission.ts';
import { ApplyMemory, applySet, findDifferences, planSet, withOwner } from './apply.ts';
import type { Client, WatchEvent } from './client.ts';
import { startDefinitions } from './definitions.ts';
import { startEventRecorder } from './events.ts';
import { type Change, startInformer } from './informer.ts';
import {
  defaultElectionTimes,
  type ElectionState,
  step as electionStep,
  type Lease,
  startLeaderElection,
} from './leader-election.ts';
import type { KubeObject, Manifest } from './object.ts';
import { compareQuantities, isSameQuantity, parseQuantity, quantityToNumber } from './quantity.ts';
import { resources } from './resources.ts';
import { formatSelector, matchesRequirements, matchesSelector, parseSelector, toRequirements } from './selectors.ts';
import { IndexedStore } from './store.ts';
import { initialWatchState, step, type WatchMessage, type WatchState } from './watch.ts';

const pod = (name: string, resourceVersion = '1', extra: Partial<KubeObject['metadata']> = {}): KubeObject => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, namespace: 'ns', uid: `uid-${name}`, resourceVersion, ...extra },
});

describe('the watch protocol', () => {
  const watching = (resourceVersion = '5', failures = 0, hasSpoken = false): WatchState => ({
    kind: 'watching',
    resourceVersion,
    failures,
    hasSpoken,
  });
  const waiting = (ms: number, failures: number, resourceVersion?: string, isSynced = true): WatchState => ({
    kind: 'waiting',
    ms,
    failures,
    isSynced,
    ...(resourceVersion === undefined ? {} : { resourceVersion }),
  });
  const unserved = (ms: number, failures: number): WatchState => ({
    kind: 'waiting',
    ms,
    failures,
    isSynced: false,
    isUnserved: true,
  });
  const listing = (failures = 0, isSynced = false): WatchState => ({ kind: 'listing', failures, isSynced });
  const failed = (kind: 'listFailed' | 'watchFailed', code: AppError['code']): WatchMessage<KubeObject> => ({
    kind,
    failure: { code, message: 'why' },
  });
  const event = (e: WatchEvent<KubeObject>): WatchMessage<KubeObject> => ({ kind: 'event', event: e });
  const listed: WatchMessage<KubeObject> = { kind: 'listed', items: [pod('a')], resourceVersion: '9' };

  it.each<[string, WatchState, WatchMessage<KubeObject>, WatchState, readonly string[]]>([
    ['the first list fills the store and syncs', initialWatchState, listed, watching('9'), ['replace', 'synced']],
    ['a later list replaces, and syncs no second time', listing(3, true), listed, watching('9'), ['replace']],
    [
      'a failed list is told and waits',
      listing(),
      failed('listFailed', 'unavailable'),
      waiting(1_000, 1, undefined, false),
      ['log'],
    ],
    ['the wait doubles', listing(3), failed('listFailed', 'unavailable'), waiting(8_000, 4, undefined, false), ['log']],
    [
      'the wait is bounded',
      listing(20),
      failed('listFailed', 'unavailable'),
      waiting(30_000, 21, undefined, false),
      ['log'],
    ],
    [
      'a missing definition is told once',
      listing(),
      failed('listFailed', 'notFound'),
      unserved(1_000, 1),
      ['notServed'],
    ],
    ['and then asked for in silence', listing(9), failed('listFailed', 'notFound'), unserved(5_000, 10), []],
    [
      'an addition moves the version',
      watching(),
      event({ type: 'ADDED', object: pod('a', '6') }),
      watching('6', 0, true),
      ['upsert'],
    ],
    [
      'a deletion too',
      watching(),
      event({ type: 'DELETED', object: pod('a', '7') }),
      watching('7', 0, true),
      ['remove'],
    ],
    [
      'a bookmark moves it silently',
      watching('5', 2),
      event({ type: 'BOOKMARK', resourceVersion: '8' }),
      watching('8', 0, true),
      [],
    ],
    [
      '410 inside the stream lists anew',
      watching(),
      event({ type: 'ERROR', code: 410, message: 'old' }),
      listing(0, true),
      ['log'],
    ],
    [
      'another error waits and resumes',
      watching(),
      event({ type: 'ERROR', code: 500, message: 'x' }),
      waiting(1_000, 1, '5'),
      ['log'],
    ],
    ['410 as an answer lists anew', watching(), failed('watchFailed', 'gone'), listing(0, true), ['log']],
    [
      'a definition that went is waited for',
      watching(),
      failed('watchFailed', 'notFound'),
      waiting(1_000, 1),
      ['notServed'],
    ],
    [
      'and, not found once more, is gone',
      listing(1, true),
      failed('listFailed', 'notFound'),
      unserved(2_000, 2),
      ['unserved'],
    ],
    [
      'a broken connection resumes after a wait',
      watching('5', 2, true),
      failed('watchFailed', 'unavailable'),
      waiting(4_000, 3, '5'),
      ['log'],
    ],
    ['the usual end resumes at once', watching('5', 0, true), { kind: 'watchEnded' }, watching('5'), []],
    ['an end without a word does not spin', watching('5', 1), { kind: 'watchEnded' }, waiting(2_000, 2, '5'), []],
    ['a stall resumes at once', watching('5'), { kind: 'stalled' }, watching('5'), ['log']],
    ['after the wait it watches', waiting(1_000, 1, '5'), { kind: 'waited' }, watching('5', 1), []],
    ['after the wait it lists', waiting(1_000, 1), { kind: 'waited' }, listing(1, true), []],
    [
      'a late event changes nothing',
      waiting(1_000, 1),
      event({ type: 'ADDED', object: pod('a') }),
      waiting(1_000, 1),
      [],
    ],
    ['a list while watching changes nothing', watching(), listed, watching(), []],
  ])('%s', (_, state, message, next, effects) => {
    const result = step(state, message);
    expect(result.state).toEqual(next);
    expect(result.effects.map((effect) => effect.kind)).toEqual(effects);
  });
});

describe('the store', () => {
  const byNode = { node: (object: KubeObject) => [object.metadata.labels?.node ?? 'none'] };
  const on = (node: string, resourceVersion: string) => pod('a', resourceVersion, { labels: { node } });

  it('moves an object between index keys and forgets empty ones', () => {
    const store = new IndexedStore(byNode);
    expect(store.upsert(on('x', '1'))?.type).toBe('added');
    expect(store.upsert(on('x', '1'))).toBeUndefined();
    expect(store.upsert(on('y', '2'))).toMatchObject({
      type: 'updated',
      before: { metadata: { resourceVersion: '1' } },
    });
    expect([store.byIndex('node', 'x').length, store.byIndex('node', 'y').length]).toEqual([0, 1]);
    expect([store.list('ns').length, store.list('other').length, store.size]).toEqual([1, 0, 1]);
    store.remove(on('y', '3'));
    expect([store.size, store.list('ns').length, store.byIndex('node', 'y').length]).toEqual([0, 0, 0]);
    expect(() => store.byIndex('absent', 'x')).toThrow('no index "absent"');
  });

  it('tells what a list replaced, also an object that came again under its name', () => {
    const store = new IndexedStore<KubeObject>();
    store.replace([pod('gone'), pod('same'), pod('new-version'), pod('reborn')]);
    const changes = store.replace([
      pod('same'),
      pod('new-version', '2'),
      pod('reborn', '9', { uid: 'other' }),
      pod('fresh'),
    ]);
    expect(changes.map((change) => `${change.type} ${change.object.metadata.name}`)).toEqual([
      'deleted gone',
      'deleted reborn',
      'updated new-version',
      'added reborn',
      'added fresh',
    ]);
  });
});

describe('an informer', () => {
  /** A server by script: each list and each watch takes the next answer. */
  const fakeClient = (
    lists: (KubeObject[] | AppError)[],
    watches: (WatchEvent<KubeObject>[] | AppError | 'hang')[],
  ) => {
    const asked: string[] = [];
    const client: Pick<Client, 'list' | 'watch'> = {
      async list() {
        asked.push('list');
        const next = lists.shift() ?? [];
        if (next instanceof AppError) throw next;
        return { items: next as never, resourceVersion: '10' };
      },
      async *watch(_resource, options, signal) {
        asked.push(`watch ${options.resourceVersion}`);
        const next = watches.shift() ?? 'hang';
        if (next instanceof AppError) throw next;
        if (next === 'hang')
          await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
        else for (const item of next) yield item as never;
      },
    };
    return { client, asked };
  };

  it('lives through refusals, resets, ends, 410 and stalls', async () => {
    const clock = new ManualClock();
    const { client, asked } = fakeClient(
      [new AppError('notFound', 'not served'), [pod('a')], [pod('b')]],
      [
        [{ type: 'ADDED', object: pod('c', '11') }],
        new AppError('unavailable', 'reset'),
        'hang',
        [{ type: 'ERROR', code: 410, message: 'old' }],
        'hang',
      ],
    );
    const informer = startInformer<KubeObject>(client, resources.pods, {}, { log: silentLogger, clock });
    const changes: string[] = [];
    informer.subscribe(() => {
      throw new Error('a bad handler');
    });
    informer.subscribe((change: Change<KubeObject>) => changes.push(`${change.type} ${change.object.metadata.name}`));
    await clock.advance(0);
    expect(informer.isSynced).toBe(false);
    await clock.advance(1_500);
    await informer.synced;
    expect(asked).toEqual(['list', 'list', 'watch 10', 'watch 11']);
    await clock.advance(1_500);
    expect(asked.at(-1)).toBe('watch 11');
    // Longer than any time-out and its grace: the hanging watch is given up.
    await clock.advance(400_000);
    expect(asked).toEqual(['list', 'list', 'watch 10', 'watch 11', 'watch 11', 'watch 11', 'list', 'watch 10']);
    expect(changes).toEqual(['added a', 'added c', 'deleted a', 'deleted c', 'added b']);
    const late: string[] = [];
    informer.subscribe((change) => late.push(`${change.type} ${change.object.metadata.name}`));
    expect(late).toEqual(['added b']);
    informer.close();
    await clock.advance(400_000);
    expect(asked).toHaveLength(8);
  });

  it('asks for a kind without a definition when the definition comes, and not before', async () => {
    const clock = new ManualClock();
    const deps = { log: silentLogger, clock };
    let come: (event: WatchEvent<KubeObject>) => void = () => {};
    const definitions = startDefinitions(
      {
        list: async () => ({ items: [], resourceVersion: '1' }),
        async *watch(_resource, _options, signal) {
          for (;;)
            yield await new Promise<never>((resolve, reject) => {
              come = resolve as never;
              signal.addEventListener('abort', () => reject(signal.reason));
            });
        },
      },
      deps,
    );
    expect(definitions.has(resources.podMonitors)).toBe('unknown');
    await definitions.informer.synced;
    const missing = () => new AppError('notFound', 'not served');
    const { client, asked } = fakeClient([missing(), missing(), [pod('a')]], []);
    const informer = startInformer<KubeObject>(client, resources.podMonitors, { definitions }, deps);
    await clock.advance(0);
    await clock.advance(60_000);
    expect(asked).toEqual(['list']);
    const metadata = { name: 'podmonitors.monitoring.coreos.com', resourceVersion: '2' };
    come({ type: 'ADDED', object: { apiVersion: 'meta.k8s.io/v1', kind: 'PartialObjectMetadata', metadata } });
    await clock.advance(0);
    await clock.advance(0);
    // Just made, it is not served yet: asked again soon.
    expect(asked).toEqual(['list', 'list']);
    await clock.advance(5_000);
    await informer.synced;
    expect(asked).toEqual(['list', 'list', 'list', 'watch 10']);
    informer.close();
    definitions.informer.close();
  });
});

describe('quantities', () => {
  it.each<[string | number, bigint | undefined]>([
    ['1', 1_000_000_000n],
    [2, 2_000_000_000n],
    ['500m', 500_000_000n],
    ['0.5', 500_000_000n],
    ['.5', 500_000_000n],
    ['5.', 5_000_000_000n],
    ['1u', 1_000n],
    ['1n', 1n],
    ['0.5n', 1n],
    ['-1', -1_000_000_000n],
    ['1Ki', 1_024_000_000_000n],
    ['1.5Gi', 1_610_612_736_000_000_000n],
    ['1e3', 1_000_000_000_000n],
    ['12E', 12_000_000_000_000_000_000_000_000_000n],
    ['1E2', 100_000_000_000n],
    ['', undefined],
    ['1 Gi', undefined],
    ['1KB', undefined],
    ['0x10', undefined],
    ['1e99', undefined],
    ['one', undefined],
  ])('reads %p', (text, nano) => {
    expect(parseQuantity(text)).toBe(nano);
  });

  it('compares amounts, not texts', () => {
    expect(isSameQuantity('1000m', '1')).toBe(true);
    expect(isSameQuantity('1Gi', '1G')).toBe(false);
    expect(isSameQuantity(true, '1')).toBe(false);
    expect(compareQuantities('1Gi', '1000Mi')).toBe(1);
    expect(compareQuantities('100m', 1)).toBe(-1);
    expect(quantityToNumber('1500m')).toBe(1.5);
    expect(() => compareQuantities('x', '1')).toThrow('"x" is not a quantity');
  });
});

describe('selectors', () => {
  const labels = { app: 'a', tier: 'x' };
  it.each<[string, boolean]>([
    ['', true],
    ['app=a', true],
    ['app==a,tier!=y', true],
    ['app != a', false],
    ['app in (a, b),tier notin (y,z)', true],
    ['tier notin (x)', false],
    ['app,!absent', true],
    ['!app', false],
    ['absent', false],
    ['absent notin (a)', true],
  ])('"%s" is %p', (text, expected) => {
    expect(matchesRequirements(parseSelector(text), labels)).toBe(expected);
  });

  it('keeps its meaning through the query parameter', () => {
    const selector = {
      matchLabels: { app: 'a' },
      matchExpressions: [
        { key: 'tier', operator: 'In', values: ['x', 'y'] },
        { key: 'old', operator: 'DoesNotExist' },
        { key: 'app', operator: 'Exists' },
        { key: 'zone', operator: 'NotIn', values: ['b'] },
      ],
    } as const;
    const text = formatSelector(selector);
    expect(text).toBe('app=a,tier in (x,y),!old,app,zone notin (b)');
    expect(parseSelector(text)).toEqual(toRequirements(selector));
    expect(matchesSelector(selector, labels)).toBe(true);
    expect([matchesSelector(undefined, labels), matchesSelector({}, labels)]).toEqual([false, true]);
    expect(() => parseSelector('a in b')).toThrow('cannot read "a in b"');
  });
});

describe('comparing desired with live', () => {
  const me = 'me';
  const live = (body: Record<string, unknown>, fieldsV1: unknown, entry: Record<string, unknown> = {}): KubeObject =>
    ({
      apiVersion: 'v1',
      kind: 'Thing',
      ...body,
      metadata: {
        name: 'x',
        namespace: 'ns',
        uid: 'u',
        managedFields: [{ manager: me, operation: 'Apply', apiVersion: 'v1', fieldsV1, ...entry }],
        ...(body.metadata as object),
      },
    }) as KubeObject;
  const want = (body: Record<string, unknown>): Manifest => ({
    apiVersion: 'v1',
    kind: 'Thing',
    ...body,
    metadata: { name: 'x', namespace: 'ns', ...(body.metadata as object) },
  });
  const spec = (fields: unknown) => ({ 'f:spec': fields });

  it.each<[string, Manifest, KubeObject, readonly string[]]>([
    ['equal', want({ spec: { a: 1 } }), live({ spec: { a: 1, theirs: 2 } }, spec({ 'f:a': {} })), []],
    ['value', want({ spec: { a: 1 } }), live({ spec: { a: 2 } }, spec({ 'f:a': {} })), ['spec.a is 2, wanted 1']],
    ['missing', want({ spec: { a: 1 } }), live({ spec: {} }, spec({})), ['spec.a is missing, wanted 1']],
    [
      'unwanted',
      want({ spec: { a: 1 } }),
      live({ spec: { a: 1, b: 2 } }, spec({ 'f:a': {}, 'f:b': {} })),
      ['spec.b is no longer wanted'],
    ],
    [
      'never applied',
      want({ spec: { a: 1 } }),
      live({ spec: { a: 1 } }, {}, { manager: 'other' }),
      ['not applied by me yet'],
    ],
    [
      'written, not applied',
      want({ spec: { a: 1 } }),
      live({ spec: { a: 1 } }, {}, { operation: 'Update' }),
      ['not applied by me yet'],
    ],
    [
      'applied in another version',
      want({ spec: { a: 1 } }),
      live({ spec: { a: 1 } }, {}, { apiVersion: 'v0' }),
      ['not applied by me yet'],
    ],
    [
      'undefined is not a wish',
      want({ spec: { a: 1, b: undefined } }),
      live({ spec: { a: 1 } }, spec({ 'f:a': {} })),
      [],
    ],
    ['a dropped zero that is ours', want({ spec: { a: false } }), live({ spec: {} }, spec({ 'f:a': {} })), []],
    [
      'a zero that is not there and not ours',
      want({ spec: { a: false, b: 1 } }),
      live({ spec: { b: 1 } }, spec({ 'f:b': {} })),
      ['spec.a is missing, wanted false'],
    ],
    [
      'number and text differ',
      want({ spec: { a: '1' } }),
      live({ spec: { a: 1 } }, spec({ 'f:a': {} })),
      ['spec.a is 1, wanted "1"'],
    ],
    [
      'amounts',
      want({ spec: { limits: { cpu: '1000m' } } }),
      live({ spec: { limits: { cpu: '1' } } }, spec({ 'f:limits': { 'f:cpu': {} } })),
      [],
    ],
    [
      'a label that looks like an amount',
      want({ metadata: { labels: { cpu: '1000m' } } }),
      live({ metadata: { labels: { cpu: '1' } } }, { 'f:metadata': { 'f:labels': { 'f:cpu': {} } } }),
      ['metadata.labels.cpu is "1", wanted "1000m"'],
    ],
    ['status is not part of the object', want({ status: { a: 1 } }), live({}, {}), []],
    [
      'a secret is not told',
      want({ data: { key: 'bmV3' } }),
      live({ data: { key: 'b2xk' } }, { 'f:data': { 'f:key': {} } }),
      ['data.key differs'],
    ],
    [
      'a map owned as a whole',
      want({ spec: { sel: { a: '1' } } }),
      live({ spec: { sel: { a: '1', b: '2' } } }, spec({ 'f:sel': {} })),
      ['spec.sel.b is no longer wanted'],
    ],
    [
      'a list owned as a whole',
      want({ spec: { l: ['a', 'b'] } }),
      live({ spec: { l: ['b', 'a'] } }, spec({ 'f:l': {} })),
      ['spec.l[0] is "b", wanted "a"', 'spec.l[1] is "a", wanted "b"'],
    ],
    [
      'a set',
      want({ metadata: { finalizers: ['a'] } }),
      live({ metadata: { finalizers: ['b', 'a'] } }, { 'f:metadata': { 'f:finalizers': { '.': {}, 'v:"a"': {} } } }),
      [],
    ],
    [
      'a set that lost ours',
      want({ metadata: { finalizers: ['a'] } }),
      live({ metadata: { finalizers: ['b'] } }, { 'f:metadata': { 'f:finalizers': {} } }),
      ['metadata.finalizers[0] is "b", wanted "a"'],
    ],
    [
      'a set without ours any more',
      want({ metadata: { finalizers: ['a'] } }),
      live(
        { metadata: { finalizers: ['a', 'b'] } },
        { 'f:metadata': { 'f:finalizers': { 'v:"a"': {}, 'v:"b"': {} } } },
      ),
      ['metadata.finalizers["b"] is no longer wanted'],
    ],
    [
      'a map list beside foreign elements',
      want({ spec: { l: [{ name: 'a', v: 1 }] } }),
      live(
        { spec: { l: [{ name: 'z' }, { name: 'a', v: 1, d: 0 }] } },
        spec({ 'f:l': { 'k:{"name":"a"}': { '.': {}, 'f:name': {}, 'f:v': {} } } }),
      ),
      [],
    ],
    [
      'a key that the server completes',
      want({ spec: { ports: [{ port: 80 }] } }),
      live(
        { spec: { ports: [{ port: 80, protocol: 'TCP' }] } },
        spec({ 'f:ports': { 'k:{"port":80,"protocol":"TCP"}': { '.': {}, 'f:port': {} } } }),
      ),
      [],
    ],
    [
      'two of one port',
      want({ spec: { ports: [{ port: 80, protocol: 'UDP' }] } }),
      live(
        { spec: { ports: [{ port: 80, protocol: 'TCP' }] } },
        spec({ 'f:ports': { 'k:{"port":80,"protocol":"TCP"}': { 'f:port': {} } } }),
      ),
      [
        'spec.ports[port=80,protocol=TCP] is no longer wanted',
        'spec.ports lacks the wanted element {"port":80,"protocol":"UDP"}',
      ],
    ],
    [
      'an element that was taken away',
      want({ spec: { l: [{ name: 'a' }] } }),
      live({ spec: { l: [] } }, spec({ 'f:l': { 'k:{"name":"a"}': { 'f:name': {} } } })),
      ['spec.l[name=a] is missing, wanted {"name":"a"}'],
    ],
  ])('%s', (_, desired, current, reasons) => {
    expect(findDifferences(desired, current, me).map((difference) => difference.reason)).toEqual(reasons);
  });

  it('remembers what was equal, for that object and that wish alone', () => {
    let looks = 0;
    const wish = (value: string): Manifest => ({
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'c', namespace: 'ns' },
      data: { a: value },
    });
    const liveOf = (value: string): KubeObject & Record<string, unknown> => ({
      ...wish(value),
      metadata: {
        name: 'c',
        namespace: 'ns',
        get managedFields() {
          looks++;
          return [
            { manager: 'me', operation: 'Apply' as const, apiVersion: 'v1', fieldsV1: { 'f:data': { 'f:a': {} } } },
          ];
        },
      },
    });
    const memory = new ApplyMemory();
    const live = liveOf('1');
    expect(memory.findDifferences(wish('1'), live, 'me')).toEqual([]);
    expect(memory.findDifferences(wish('1'), live, 'me')).toEqual([]);
    expect(looks).toBe(1);
    expect(memory.findDifferences(wish('2'), live, 'me')).toHaveLength(1);
    expect(memory.findDifferences(wish('1'), live, 'other')).toHaveLength(1);
    expect(memory.findDifferences(wish('1'), liveOf('drifted'), 'me')).toHaveLength(1);
  });
});

describe('sets of children', () => {
  const owner: KubeObject = {
    apiVersion: 'x/v1',
    kind: 'Owner',
    metadata: { name: 'o', namespace: 'ns', uid: 'owner-uid' },
  };
  const config = (name: string, namespace = 'ns'): Manifest => ({
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: { name, namespace },
  });
  const input = { owner, fieldManager: 'me', desired: [config('a')], live: () => undefined };

  it('owns what lies in its namespace, and nothing elsewhere', () => {
    expect(withOwner(config('a'), owner).metadata.ownerReferences).toMatchObject([
      { uid: 'owner-uid', controller: true },
    ]);
    expect(withOwner(config('a', 'else'), owner).metadata.ownerReferences).toBeUndefined();
  });

  it('leaves children that are already going', () => {
    const going = { ...withOwner(config('b'), owner) };
    const child = { ...going, metadata: { ...going.metadata, uid: 'b', deletionTimestamp: 'now' } };
    expect(planSet({ ...input, desired: [], children: [child] })).toEqual([]);
    expect(
      planSet({ ...input, desired: [], children: [{ ...child, metadata: { ...going.metadata, uid: 'b' } }] }),
    ).toMatchObject([{ verb: 'delete', uid: 'b' }]);
  });

  it('deletes nothing when an apply failed, and names what is unknown', async () => {
    const calls: string[] = [];
    const client = {
      apply: async () => {
        throw new AppError('unavailable', 'down');
      },
      delete: async () => {
        calls.push('delete');
      },
    };
    const child = { ...withOwner(config('b'), owner) };
    const children = [{ ...child, metadata: { ...child.metadata, uid: 'b' } }];
    await expect(applySet(client, { ...input, children })).rejects.toThrow('down');
    expect(calls).toEqual([]);
    expect(() => planSet({ ...input, desired: [{ ...config('a'), kind: 'Odd' }] })).toThrow(
      'v1 Odd is not in the list',
    );
  });
});

describe('leader election', () => {
  const lease = (holder: string, renewTime = 't1'): Lease => ({
    apiVersion: 'coordination.k8s.io/v1',
    kind: 'Lease',
    metadata: { name: 'l', namespace: 'ns', uid: 'u', resourceVersion: '1' },
    spec: { holderIdentity: holder, renewTime, leaseDurationSeconds: 15, leaseTransitions: 3 },
  });
  const seen = (l: Lease, atMs: number): ElectionState => ({
    kind: 'following',
    seen: { record: JSON.stringify(['u', l.spec]), atMs },
  });
  const read = (l: Lease | undefined, nowMs: number) => ({ kind: 'read', lease: l, nowMs }) as const;

  it.each<[string, ElectionState, Parameters<typeof electionStep>[3], string, readonly string[]]>([
    ['no lease yet', { kind: 'following' }, read(undefined, 0), 'following', ['create']],
    ['held, first seen', { kind: 'following' }, read(lease('b'), 0), 'following', []],
    ['held and renewed', seen(lease('b'), 0), read(lease('b', 't2'), 16_000), 'following', []],
    ['held and silent', seen(lease('b'), 0), read(lease('b'), 15_000), 'following', ['update']],
    ['held and almost silent', seen(lease('b'), 0), read(lease('b'), 14_999), 'following', []],
    ['given back', seen(lease('b'), 0), read(lease(''), 1), 'following', ['update']],
    ['mine from before a restart', { kind: 'following' }, read(lease('a'), 0), 'following', ['update']],
    ['written', { kind: 'following' }, { kind: 'written', nowMs: 5 }, 'leading', ['lead']],
    ['written again', { kind: 'leading', renewedAtMs: 0 }, { kind: 'written', nowMs: 5 }, 'leading', []],
    ['lost the race', { kind: 'following' }, { kind: 'failed', message: 'x', nowMs: 5 }, 'following', []],
    [
      'renewal fails, in time',
      { kind: 'leading', renewedAtMs: 0 },
      { kind: 'failed', message: 'x', nowMs: 9_999 },
      'leading',
      [],
    ],
    [
      'renewal fails too long',
      { kind: 'leading', renewedAtMs: 0 },
      { kind: 'failed', message: 'x', nowMs: 10_000 },
      'lost',
      ['lose'],
    ],
    ['another holds it', { kind: 'leading', renewedAtMs: 0 }, read(lease('b'), 1), 'lost', ['lose']],
    ['lost stays lost', { kind: 'lost', reason: 'x' }, read(undefined, 1), 'lost', []],
  ])('%s', (_, state, message, next, effects) => {
    const result = electionStep('a', defaultElectionTimes, state, message);
    expect(result.state.kind).toBe(next);
    expect(result.effects.map((effect) => effect.kind)).toEqual(effects);
  });

  it('counts transitions and keeps its own time of acquiring', () => {
    const take = electionStep('a', defaultElectionTimes, seen(lease('b'), 0), read(lease('b'), 20_000));
    expect(take.effects).toMatchObject([
      { spec: { holderIdentity: 'a', leaseTransitions: 4, leaseDurationSeconds: 15 } },
    ]);
    const mine = { ...lease('a'), spec: { ...lease('a').spec, acquireTime: 'long ago' } };
    const renew = electionStep('a', defaultElectionTimes, { kind: 'leading', renewedAtMs: 0 }, read(mine, 1));
    expect(renew.effects).toMatchObject([{ spec: { acquireTime: 'long ago', leaseTransitions: 3 } }]);
  });

  it('looks at once when it is told that the lease may be free', async () => {
    // Time stands still: without being told it would wait for ever.
    const clock = new ManualClock();
    let current = lease('b');
    let reads = 0;
    const election = startLeaderElection(
      {
        get: async () => {
          reads++;
          return current;
        },
        create: async () => undefined,
        replace: async (_resource: unknown, next: Lease) => {
          current = next;
        },
      } as unknown as Client,
      { lease: { namespace: 'ns', name: 'l' }, identity: 'a', onLost: () => {} },
      { log: silentLogger, clock },
    );
    await clock.advance(0);
    expect([reads, election.isLeading]).toEqual([1, false]);
    current = lease('');
    election.hurry();
    await election.leading;
    expect([reads, current.spec?.holderIdentity]).toEqual([2, 'a']);
    // Who leads already is in no hurry.
    election.hurry();
    await clock.advance(0);
    expect(reads).toBe(2);
    await election.close();
    expect(current.spec?.holderIdentity).toBe('');
  });
});

describe('events', () => {
  it('are bounded per object and never throw', async () => {
    const clock = new ManualClock(1_000_000);
    let created = 0;
    const client = {
      create: async () => {
        created++;
        if (created === 2) throw new AppError('forbidden', 'no');
        return {} as never;
      },
      mergePatch: async () => ({}) as never,
    };
    const recorder = startEventRecorder(client, { component: 'c' }, { log: silentLogger, clock });
    for (let i = 0; i < 100; i++) recorder.record(pod('a'), 'Normal', 'Said', `thing ${i}`);
    await recorder.flush();
    expect(created).toBe(25);
    await clock.advance(120_000);
    for (let i = 0; i < 100; i++) recorder.record(pod('a'), 'Normal', 'Said', `later ${i}`);
    await recorder.flush();
    expect(created).toBe(27);
    recorder.record(pod('b'), 'Normal', 'Said', 'x'.repeat(5_000));
    await recorder.close();
    expect(created).toBe(28);
  });
});

describe('admission', () => {
  const review = (request: unknown) =>
    JSON.stringify({ apiVersion: 'admission.k8s.io/v1', kind: 'AdmissionReview', request });
  const request = { uid: 'u', operation: 'CREATE', kind: { group: '', version: 'v1', kind: 'Pod' }, object: pod('a') };

  it.each([
    ['{', 'not JSON'],
    ['[]', 'kind is not AdmissionReview'],
    ['null', 'kind is not AdmissionReview'],
    [JSON.stringify({ kind: 'AdmissionReview', apiVersion: 'admission.k8s.io/v1beta1' }), 'v1beta1'],
    [review(undefined), 'request.uid is missing'],
    [review({ uid: 'u' }), 'request.operation or request.kind'],
  ])('refuses %s', (body, message) => {
    expect(() => parseReview(body)).toThrow(message);
  });

  it('answers with the difference, or none', () => {
    const parsed = parseReview(review(request));
    expect(allowChanged(parsed, pod('a') as Manifest)).toEqual({ uid: 'u', allowed: true });
    const changed = allowChanged(parsed, pod('a', '1', { labels: { a: 'b' } }) as Manifest);
    expect(JSON.parse(Buffer.from(changed.patch ?? '', 'base64').toString())).toEqual([
      { op: 'add', path: '/metadata/labels', value: { a: 'b' } },
    ]);
    expect(deny(parsed, 'no').status).toEqual({ code: 422, reason: 'Invalid', message: 'no' });
  });
});
