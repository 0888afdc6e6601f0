import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from '@jest/globals';
import { ManualClock, systemClock } from '../../clock.ts';
import type { Change, Informer } from '../../kube/informer.ts';
import { type KubeObject, keyOf, type ObjectRef } from '../../kube/object.ts';
import { silentLogger } from '../../telemetry/log.ts';
import { Datastore, type EndpointSpec } from './datastore.ts';
import { engines, readLoad } from './engines.ts';
import { parseEndpointsFile, startFileSource } from './file-source.ts';
import { LiveLoad } from './live-load.ts';
import { startPolicySource } from './policy-source.ts';
import {
  endpointsOf,
  type PodObject,
  poolResources,
  portsOf,
  selectorOf,
  startPoolSource,
  type Watches,
} from './pool-source.ts';
import { parseSeriesSpec, samplesOf } from './prometheus-text.ts';
import { pickTarget, toRequestPolicies } from './request-policies.ts';
import { type ScrapeSettings, startScraper } from './scraper.ts';

const cleanUps: (() => Promise<unknown> | unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

const spec = (id: string, over: Partial<EndpointSpec> = {}): EndpointSpec => ({
  id,
  name: id,
  namespace: 'ns',
  address: '10.0.0.1',
  port: 8000,
  labels: {},
  isReady: true,
  ...over,
});

async function until(condition: () => boolean, what: string): Promise<void> {
  for (let i = 0; i < 300; i++) {
    if (condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`never: ${what}`);
}

describe('live load', () => {
  const reading = { waiting: 2, running: 5, kvUsage: 0.5 };

  it('is unknown before the first reading and when it is old', () => {
    const clock = new ManualClock(1000);
    const load = new LiveLoad(clock, 2000);
    expect(load.isKnown).toBe(false);
    load.beginReading();
    load.endReading(reading);
    expect(load).toMatchObject({ isKnown: true, waiting: 2, running: 5, kvUsage: 0.5 });
    return clock.advance(2001).then(() => expect(load.isKnown).toBe(false));
  });

  it('counts requests from the choice on; a reading takes over those sent before it began', () => {
    const load = new LiveLoad(new ManualClock(), 2000);
    load.beginReading();
    load.endReading({ waiting: 0, running: 8, kvUsage: 0 });
    const first = load.begin();
    const second = load.begin();
    expect(load).toMatchObject({ waiting: 2, inFlight: 2 });
    load.beginReading();
    const third = load.begin();
    expect(load.waiting).toBe(3);
    first();
    first();
    expect(load).toMatchObject({ waiting: 2, inFlight: 2 });
    // The engine has the second one running; the third was sent while the page was on its way.
    load.endReading({ waiting: 0, running: 9, kvUsage: 0 });
    expect(load.waiting).toBe(1);
    third();
    expect(load.waiting).toBe(0);
    second();
    expect(load).toMatchObject({ waiting: 0, inFlight: 0 });
  });

  it('counts requests that wait elsewhere for their prefill', () => {
    const load = new LiveLoad(new ManualClock(), 2000);
    for (let i = 0; i < 5; i++) load.begin();
    load.beginReading();
    load.endReading({ waiting: 0, running: 2, kvUsage: 0 });
    expect(load.waiting).toBe(3);
  });

  it('measures the rate of requests', async () => {
    const clock = new ManualClock();
    const load = new LiveLoad(clock, 2000);
    for (let i = 0; i < 200; i++) {
      load.begin();
      await clock.advance(100);
    }
    expect(load.requestsPerSecond).toBeGreaterThan(9);
    expect(load.requestsPerSecond).toBeLessThan(11);
    await clock.advance(60_000);
    expect(load.requestsPerSecond).toBeLessThan(0.01);
  });
});

describe('datastore', () => {
  it('keeps what stays the same, and tells only real changes', () => {
    const store = new Datastore(systemClock, 1000);
    let changes = 0;
    store.subscribe(() => changes++);
    expect(store.isSynced).toBe(false);
    store.replace([]);
    expect([store.isSynced, changes]).toEqual([true, 1]);
    store.replace([spec('a', { labels: { role: 'x' } }), spec('b', { address: 'fd00::1', isReady: false })]);
    const before = store.snapshot;
    expect(before.endpoints.map(({ hostPort }) => hostPort)).toEqual(['10.0.0.1:8000', '[fd00::1]:8000']);
    expect(before.readyCount).toBe(1);
    store.replace([spec('a', { labels: { role: 'x' } }), spec('b', { address: 'fd00::1', isReady: false })]);
    expect([store.snapshot, changes]).toEqual([before, 2]);
    store.replace([spec('a', { labels: { role: 'x' } }), spec('b', { address: 'fd00::1' })]);
    expect(store.snapshot.endpoints[0]).toBe(before.endpoints[0]);
    expect(store.snapshot.endpoints[1]?.load).toBe(before.endpoints[1]?.load);
    expect(before.endpoints[1]?.isReady).toBe(false);
    expect(store.snapshot.byAddress.get('fd00::1')).toEqual([store.snapshot.endpoints[1]]);
    // A pod with another address is another engine.
    store.replace([spec('a', { address: '10.0.0.7' })]);
    expect(store.snapshot.endpoints[0]?.load).not.toBe(before.endpoints[0]?.load);
  });
});

describe('metrics pages', () => {
  const vllm = `# HELP vllm:num_requests_waiting Number of requests waiting.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="a}b\\"c"} 3.0
vllm:num_requests_waiting{engine="1",model_name="m"} 4 1712345678
vllm:num_requests_waiting_by_reason{reason="x"} 99
vllm:num_requests_running{engine="0"} 1.0
vllm:num_requests_running{engine="1"} 2e0
vllm:kv_cache_usage_perc{engine="0"} 0.5
vllm:kv_cache_usage_perc{engine="1"} 0.1
vllm:lora_requests_info{max_lora="4",running_lora_adapters="old",waiting_lora_adapters=""} 1.0
vllm:lora_requests_info{max_lora="4",running_lora_adapters="a, b",waiting_lora_adapters="c"} 2.0
`;
  it('sums engines, averages shares, takes the latest adapters', () => {
    const load = readLoad(vllm, engines.vllm ?? fail());
    expect(load).toMatchObject({ waiting: 7, running: 3 });
    expect(load?.kvUsage).toBeCloseTo(0.3, 9);
    expect(load?.adapters).toEqual({ active: new Set(['a', 'b']), waiting: new Set(['c']), max: 4 });
  });
  it('tells series of one name apart by label', () => {
    const page =
      'nv_trt_llm_request_metrics{m="x",request_type="waiting"} 5\nnv_trt_llm_request_metrics{request_type="scheduled"} 6\n';
    expect(readLoad(page, engines['triton-tensorrt-llm'] ?? fail())).toEqual({ waiting: 5, running: 6, kvUsage: 0 });
  });
  it.each([
    ['', undefined],
    ['vllm:num_requests_waiting 1\n', undefined],
    ['vllm:num_requests_waiting 1\nvllm:num_requests_running NaN\n', undefined],
    ['vllm:num_requests_waiting -5\nvllm:num_requests_running 1\n', undefined],
    ['vllm:num_requests_waiting Infinity\nvllm:num_requests_running 1\n', undefined],
    ['vllm:num_requests_waiting 1e300\nvllm:num_requests_running 1\n', undefined],
    ['vllm:num_requests_waiting{a="\nvllm:num_requests_running{} 1\n', undefined],
    ['vllm:num_requests_running 2\r\nvllm:num_requests_waiting 1', { waiting: 1, running: 2, kvUsage: 0 }],
    [
      'x_vllm:num_requests_waiting 9\nvllm:num_requests_waiting 1\nvllm:num_requests_running 1\nvllm:kv_cache_usage_perc 7\n',
      { waiting: 1, running: 1, kvUsage: 1 },
    ],
  ])('%j', (page, expected) => {
    expect(readLoad(page, engines.vllm ?? fail())).toEqual(expected);
  });
  it('takes a page of names without ends at its length, not at its square', () => {
    const line = 'vllm:num_requests_waiting{a="\n';
    const page = `${line.repeat(200_000)}vllm:num_requests_waiting 1\nvllm:num_requests_running 1\n`;
    expect(readLoad(page, engines.vllm ?? fail())).toMatchObject({ waiting: 1, running: 1 });
  });

  it('gives figures that can be, or none, whatever the page (seeded)', () => {
    let seed = 7;
    const random = (below: number): number => {
      seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
      return seed % below;
    };
    const bits = [
      '{',
      '}',
      '"',
      '\\',
      ',',
      '=',
      '\n',
      ' ',
      '\0',
      '-',
      '1e999',
      'NaN',
      'vllm:num_requests_waiting',
      'max_lora="x"',
    ];
    for (let i = 0; i < 3000; i++) {
      let page = vllm;
      for (let change = random(8); change >= 0; change--) {
        const at = random(page.length + 1);
        page = page.slice(0, at) + (bits[random(bits.length)] ?? '') + page.slice(at + random(12));
      }
      const load = readLoad(page, engines.vllm ?? fail());
      if (load === undefined) continue;
      for (const value of [load.waiting, load.running]) {
        expect(Number.isFinite(value) && value >= 0).toBe(true);
      }
      expect(load.kvUsage >= 0 && load.kvUsage <= 1).toBe(true);
      expect(Number.isFinite(load.adapters?.max ?? 0)).toBe(true);
    }
  });

  it('reads specs', () => {
    expect(parseSeriesSpec('a:b{c=d, e="f"}')).toEqual({ name: 'a:b', labels: { c: 'd', e: 'f' } });
    expect(parseSeriesSpec('a b')).toBeUndefined();
    expect(samplesOf('a{b="c"', { name: 'a', labels: {} })).toEqual([]);
  });
});

function fail(): never {
  throw new Error('missing');
}

describe('endpoints from a file', () => {
  it.each([
    ['endpoints: [{name: a, address: example.com, port: 80}]', /endpoints\.0\.address: must be an IP address/],
    ['endpoints: [{name: a, address: 10.0.0.1, port: "99999"}]', /endpoints\.0\.port/],
    ['endpoints: [{name: a, address: 10.0.0.1, port: 80}, {name: a, address: 10.0.0.2, port: 80}]', /listed twice/],
    ['endpoint: []', /endpoint/],
    [': [', /not YAML/],
  ])('refuses %s', (text, message) => {
    expect(() => parseEndpointsFile(text, 'f.yaml', 'ns')).toThrow(message);
  });

  it('reads again on change and keeps the last good ones', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'epp-file-'));
    cleanUps.push(() => rm(dir, { recursive: true }));
    const path = join(dir, 'endpoints.yaml');
    const write = (text: string) => writeFile(`${path}.new`, text).then(() => rename(`${path}.new`, path));
    await write('endpoints:\n- {name: a, address: 127.0.0.1, port: "9100", labels: {llm-d.ai/role: decode}}\n');
    const datastore = new Datastore(systemClock, 1000);
    const source = await startFileSource({ path, isWatched: true, namespace: 'ns', datastore, log: silentLogger });
    cleanUps.push(() => source.close());
    expect(datastore.snapshot.endpoints).toMatchObject([
      { id: 'ns/a', port: 9100, isReady: true, labels: { 'llm-d.ai/role': 'decode' } },
    ]);
    await write('endpoints: [{name: a, address: nonsense, port: 1}]');
    await new Promise((resolve) => setTimeout(resolve, 250));
    expect(datastore.snapshot.endpoints).toHaveLength(1);
    await write('endpoints:\n- {name: a, address: 127.0.0.1, port: 9100}\n- {name: b, address: "::1", port: 9101}\n');
    await until(() => datastore.snapshot.endpoints.length === 2, 'the new file is read');
    const missing = { path: join(dir, 'none'), isWatched: false, namespace: 'ns', datastore, log: silentLogger };
    await expect(startFileSource(missing)).rejects.toMatchObject({ code: 'notFound' });
  });
});

/** An informer whose store the test writes. */
class FakeInformer<T extends KubeObject> implements Informer<T> {
  readonly #objects = new Map<string, T>();
  readonly #handlers = new Set<(change: Change<T>) => void>();
  #resolve: () => void = () => {};
  readonly synced = new Promise<void>((resolve) => {
    this.#resolve = resolve;
  });
  isSynced = false;
  isClosed = false;
  readonly store = {
    get: (ref: ObjectRef) => this.#objects.get(keyOf(ref)),
    list: () => [...this.#objects.values()],
    byIndex: () => [],
    size: 0,
  };
  sync(): void {
    this.isSynced = true;
    this.#resolve();
  }
  put(object: T): void {
    this.#objects.set(keyOf(object.metadata), object);
    for (const handler of this.#handlers) handler({ type: 'added', object });
  }
  remove(object: T): void {
    this.#objects.delete(keyOf(object.metadata));
    for (const handler of this.#handlers) handler({ type: 'deleted', object });
  }
  subscribe(handler: (change: Change<T>) => void): () => void {
    this.#handlers.add(handler);
    return () => this.#handlers.delete(handler);
  }
  close(): void {
    this.isClosed = true;
  }
}

const pod = (name: string, ip: string, over: Partial<PodObject['metadata']> = {}, ready = 'True'): PodObject => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, namespace: 'ns', labels: { app: 'x' }, ...over },
  status: { podIP: ip, conditions: [{ type: 'Ready', status: ready }] },
});

describe('endpoints of an InferencePool', () => {
  const metadata = { name: 'pool', namespace: 'ns' };
  const v1 = {
    apiVersion: 'inference.networking.k8s.io/v1',
    kind: 'InferencePool',
    metadata,
    spec: { selector: { matchLabels: { app: 'x' } }, targetPorts: [{ number: 8000 }, { number: 8001 }] },
  };
  const x = {
    apiVersion: 'inference.networking.x-k8s.io/v1alpha2',
    kind: 'InferencePool',
    metadata,
    spec: { selector: { app: 'x' }, targetPortNumber: 8000 },
  };

  it('reads both groups', () => {
    expect([selectorOf(v1), portsOf(v1)]).toEqual([{ app: 'x' }, [8000, 8001]]);
    expect([selectorOf(x), portsOf(x)]).toEqual([{ app: 'x' }, [8000]]);
  });

  it.each([
    [
      'two ports, two ranks',
      pod('p', '10.0.0.1'),
      [
        ['ns/p-rank-0', 8000, true],
        ['ns/p-rank-1', 8001, true],
      ],
    ],
    [
      'not ready',
      pod('p', '10.0.0.1', {}, 'False'),
      [
        ['ns/p-rank-0', 8000, false],
        ['ns/p-rank-1', 8001, false],
      ],
    ],
    ['being deleted', pod('p', '10.0.0.1', { deletionTimestamp: 'now' }), []],
    ['without an IP', pod('p', ''), []],
    [
      'fewer active ports',
      pod('p', '10.0.0.1', { annotations: { 'llm-d.ai/active-ports': ' 8001' } }),
      [['ns/p-rank-1', 8001, true]],
    ],
  ] as const)('%s', (_name, object, expected) => {
    expect(endpointsOf(object, [8000, 8001]).map(({ id, port, isReady }) => [id, port, isReady])).toEqual(expected);
  });

  it('follows the pool, then its pods, and a new selector', async () => {
    const informers: {
      readonly kind: string;
      readonly selector: string | undefined;
      readonly informer: FakeInformer<KubeObject>;
    }[] = [];
    const watches: Watches = {
      watch: <T extends KubeObject>(
        resource: { readonly kind: string },
        options: { readonly labelSelector?: string },
      ) => {
        const informer = new FakeInformer<T>();
        informers.push({
          kind: resource.kind,
          selector: options.labelSelector,
          informer: informer as unknown as FakeInformer<KubeObject>,
        });
        return informer;
      },
    };
    const datastore = new Datastore(systemClock, 1000);
    const resource = poolResources['inference.networking.k8s.io'] ?? fail();
    const source = startPoolSource({ watches, resource, namespace: 'ns', name: 'pool', datastore, log: silentLogger });
    const settle = () => new Promise((resolve) => setTimeout(resolve, 5));
    const at = (i: number) => informers[i]?.informer ?? fail();
    expect(informers).toHaveLength(1);
    await settle();
    expect(datastore.isSynced).toBe(false);
    at(0).sync();
    await settle();
    // The pool does not exist yet: known, and empty.
    expect([datastore.isSynced, datastore.snapshot.endpoints.length]).toEqual([true, 0]);
    at(0).put(v1);
    expect(informers.map(({ kind, selector }) => [kind, selector])).toEqual([
      ['InferencePool', undefined],
      ['Pod', 'app=x'],
    ]);
    at(1).put(pod('b', '10.0.0.2'));
    at(1).put(pod('a', '10.0.0.1'));
    at(1).sync();
    await settle();
    expect(datastore.snapshot.endpoints.map(({ id }) => id)).toEqual([
      'ns/a-rank-0',
      'ns/a-rank-1',
      'ns/b-rank-0',
      'ns/b-rank-1',
    ]);
    at(1).put(pod('b', '10.0.0.2', {}, 'False'));
    await settle();
    expect(datastore.snapshot.readyCount).toBe(2);
    // A new selector: the endpoints before it serve until the new list is complete.
    at(0).put({
      ...v1,
      spec: { selector: { matchLabels: { app: 'y', tier: 'z' } }, targetPorts: [{ number: 1 }] },
    } as KubeObject);
    await settle();
    expect([at(1).isClosed, informers[2]?.selector, datastore.snapshot.endpoints.length]).toEqual([
      true,
      'app=y,tier=z',
      4,
    ]);
    at(2).sync();
    await settle();
    expect(datastore.snapshot.endpoints).toEqual([]);
    at(0).remove(v1);
    await settle();
    source.close();
    expect([at(0).isClosed, at(2).isClosed]).toEqual([true, true]);
  });
});

describe('the scraper', () => {
  const page = (waiting: number) => `vllm:num_requests_waiting ${waiting}\nvllm:num_requests_running 1\n`;
  const settings: ScrapeSettings = {
    intervalMs: 20,
    scheme: 'http',
    path: '/metrics',
    isCertificateChecked: false,
    engineLabel: 'engine',
    defaultEngine: 'vllm',
    engines,
  };
  const serve = async (answer: () => { readonly status: number; readonly text: string }): Promise<number> => {
    const server: Server = createServer((_request, response) => {
      const { status, text } = answer();
      response.writeHead(status).end(text);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    cleanUps.push(() => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    });
    return (server.address() as AddressInfo).port;
  };

  it('gives up pages that do not end, do not come or say nothing; the other endpoints are read all the same', async () => {
    let sent = 0;
    const endless = createServer((_request, response) => {
      const more = (): void => {
        while (!response.destroyed) {
          sent += 65_536;
          if (!response.write('#'.repeat(65_536))) break;
        }
        if (!response.destroyed) response.once('drain', more);
      };
      more();
    });
    const silent = createServer(() => {});
    const slow = createServer((_request, response) => {
      const timer = setInterval(() => response.write('# still here\n'), 50);
      response.on('close', () => clearInterval(timer));
    });
    const ports = await Promise.all(
      [endless, silent, slow].map(async (server) => {
        await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
        cleanUps.push(() => {
          server.closeAllConnections();
          return new Promise((resolve) => server.close(resolve));
        });
        return (server.address() as AddressInfo).port;
      }),
    );
    ports.push(await serve(() => ({ status: 200, text: '' })), await serve(() => ({ status: 200, text: page(2) })));
    const datastore = new Datastore(systemClock, 60_000);
    datastore.replace(ports.map((port, i) => spec(`e${i}`, { address: '127.0.0.1', port })));
    const failed = new Set<string>();
    let errors = 0;
    const scraper = startScraper({
      datastore,
      settings,
      clock: systemClock,
      random: () => 0.5,
      log: {
        ...silentLogger,
        warn: (fields: { readonly endpoint?: string }) => {
          failed.add(fields.endpoint ?? '');
        },
      } as unknown as typeof silentLogger,
      onError: () => errors++,
    });
    cleanUps.push(() => scraper.close());
    const isKnown = () => datastore.snapshot.endpoints.map(({ load }) => load.isKnown);
    for (let i = 0; failed.size < 4 && i < 400; i++) await new Promise((resolve) => setTimeout(resolve, 25));
    expect([...failed].sort()).toEqual(['e0', 'e1', 'e2', 'e3']);
    expect(errors).toBeGreaterThanOrEqual(4);
    expect(isKnown()).toEqual([false, false, false, false, true]);
    // Each try reads at most the bound, and what was on its way.
    expect(sent).toBeLessThan(errors * (24 << 20));
  }, 30_000);

  it('reads pages until it is closed, survives failures, and lets old readings go stale', async () => {
    let answer = { status: 200, text: page(3) };
    let count = 0;
    const port = await serve(() => {
      count++;
      return answer;
    });
    const datastore = new Datastore(systemClock, 150);
    let errors = 0;
    const scraper = startScraper({
      datastore,
      settings,
      clock: systemClock,
      random: () => 0.5,
      log: silentLogger,
      onError: () => errors++,
    });
    cleanUps.push(() => scraper.close());
    datastore.replace([
      spec('a', { address: '127.0.0.1', port }),
      spec('b', { address: '127.0.0.1', port, labels: { engine: 'none' } }),
      spec('c', { isReady: false }),
    ]);
    const load = datastore.snapshot.endpoints[0]?.load ?? fail();
    await until(() => load.isKnown && load.waiting === 3, 'the first reading');
    expect(datastore.snapshot.endpoints[1]?.load.isKnown).toBe(false);
    const errorsBefore = errors;
    answer = { status: 500, text: page(9) };
    await until(() => !load.isKnown, 'the reading is stale');
    expect(load.waiting).toBe(3);
    await until(() => errors > errorsBefore, 'the failure is told');
    answer = { status: 200, text: page(4) };
    await until(() => load.isKnown && load.waiting === 4, 'it recovers');
    datastore.replace([]);
    await new Promise((resolve) => setTimeout(resolve, 50));
    const asked = count;
    await new Promise((resolve) => setTimeout(resolve, 80));
    expect(count).toBe(asked);
  });
});

describe('policies for requests', () => {
  const poolRef = { name: 'pool' };
  const object = (kind: string, name: string, spec: object, creationTimestamp = '2026-01-01T00:00:00Z') => ({
    apiVersion: 'llm-d.ai/v1alpha2',
    kind,
    metadata: { name, namespace: 'ns', creationTimestamp },
    spec: { poolRef, ...spec },
  });
  const rule = (model: string | undefined, ...targets: (readonly [string, number?])[]) => ({
    ...(model === undefined ? {} : { matches: [{ model: { type: 'Exact', value: model } }] }),
    targets: targets.map(([modelRewrite, weight]) => ({ modelRewrite, ...(weight === undefined ? {} : { weight }) })),
  });

  it('come from the objects of the pool: the oldest first, exact matches before general ones, rewrites before models', () => {
    const policies = toRequestPolicies('pool', {
      objectives: [
        object('InferenceObjective', 'high', { priority: 10 }),
        object('InferenceObjective', 'unset', {}),
        object('InferenceObjective', 'foreign', { priority: 5, poolRef: { name: 'other' } }),
        object('InferenceObjective', 'odd', { priority: 5, poolRef: { name: 'pool', group: 'example.com' } }),
      ],
      rewrites: [
        object(
          'InferenceModelRewrite',
          'young',
          { rules: [rule('m', ['late']), rule(undefined, ['rest'])] },
          '2026-02-01T00:00:00Z',
        ),
        object('InferenceModelRewrite', 'old', { rules: [rule('m', ['early', 3], ['rare', 1]), rule('none')] }),
      ],
      models: [
        object('InferenceModel', 'm', {
          modelName: 'm',
          criticality: 'Sheddable',
          targetModels: [{ name: 'x', weight: 1 }],
        }),
        object('InferenceModel', 'n', {
          modelName: 'n',
          criticality: 'Critical',
          targetModels: [{ name: 'n1' }, { name: 'n2' }],
        }),
      ],
    });
    expect([...policies.priorityOfObjective]).toEqual([
      ['high', 10],
      ['unset', 0],
    ]);
    expect([...policies.priorityOfModel]).toEqual([
      ['m', -1],
      ['n', 1],
    ]);
    expect(policies.rewriteOfModel.get('m')).toMatchObject({ source: 'old', totalWeight: 4 });
    expect(policies.rewriteOfModel.has('none')).toBe(false);
    expect(policies.rewriteOfOthers).toMatchObject({ source: 'young' });
    const pick = (model: string, random: number) => {
      const rewrite = policies.rewriteOfModel.get(model);
      return rewrite && pickTarget(rewrite, random);
    };
    expect([0, 0.74, 0.75, 0.999].map((random) => pick('m', random))).toEqual(['early', 'early', 'rare', 'rare']);
    // Without weights each is as likely as the other.
    expect([0, 0.49, 0.5, 0.999].map((random) => pick('n', random))).toEqual(['n1', 'n1', 'n2', 'n2']);
  });

  it('follow the cluster; the group of before only counts where the one of now is not served', async () => {
    const informers = new Map<string, FakeInformer<KubeObject>>();
    const watches: Watches = {
      watch: <T extends KubeObject>(resource: { readonly kind: string; readonly group: string }) => {
        const informer = new FakeInformer<T>();
        informers.set(`${resource.kind} ${resource.group}`, informer as unknown as FakeInformer<KubeObject>);
        return informer;
      },
    };
    const source = startPolicySource({ watches, namespace: 'ns', pool: 'pool', log: silentLogger });
    const settle = () => new Promise((resolve) => setTimeout(resolve, 5));
    const at = (kind: string, group: string) => informers.get(`${kind} ${group}`) ?? fail();
    expect(source.current.priorityOfObjective.size).toBe(0);
    const old = at('InferenceObjective', 'inference.networking.x-k8s.io');
    old.put(object('InferenceObjective', 'high', { priority: 1 }));
    old.sync();
    await settle();
    expect([...source.current.priorityOfObjective]).toEqual([['high', 1]]);
    const current = at('InferenceObjective', 'llm-d.ai');
    current.put(object('InferenceObjective', 'other', { priority: 2 }));
    current.sync();
    await settle();
    expect([...source.current.priorityOfObjective]).toEqual([['other', 2]]);
    source.close();
    expect([...informers.values()].map(({ isClosed }) => isClosed)).toEqual([true, true, true, true, true]);
  });
});
