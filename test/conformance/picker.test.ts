import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from '@jest/globals';
import { parseEppArgs } from '../../src/epp/config.ts';
import type { Watches } from '../../src/epp/datalayer/pool-source.ts';
import { parsePickerConfig } from '../../src/epp/picker-config.ts';
import { type Epp, startEpp } from '../../src/epp/start.ts';
import type { Change, Informer } from '../../src/kube/informer.ts';
import type { KubeObject } from '../../src/kube/object.ts';
import { silentLogger } from '../../src/telemetry/log.ts';
import { createTestGateway, extProc, type ProcessStream, subsetOf, type TestGateway } from '../builders/ext-proc.ts';
import { eventually } from '../expect/eventually.ts';

/** The picker behind a gateway, with pods whose metrics are known: which endpoint it names, and what it says. */

const cleanUps: (() => Promise<unknown> | unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

const { requestHeaders, requestBody, requestTrailers, responseHeaders, responseBody } = extProc;
const head = 'apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n';
const scorers = `plugins:
- {type: queue-scorer}
- {type: kv-cache-utilization-scorer}
- {type: prefix-cache-scorer}
- {type: lora-affinity-scorer}
`;
const post = (headers: Readonly<Record<string, string>> = {}) =>
  requestHeaders({ ':method': 'POST', ':path': '/v1/completions', 'content-type': 'application/json', ...headers });
const prompt = (model = 'sql-lora', text = 'test1') =>
  JSON.stringify({ max_tokens: 100, model, prompt: text, temperature: 0 });

interface Pod {
  readonly waiting: number;
  readonly kvUsage: number;
  readonly adapters?: readonly string[];
}
const P = (waiting: number, kvUsage: number, ...adapters: readonly string[]): Pod => ({ waiting, kvUsage, adapters });

interface Setting {
  readonly epp: Epp;
  readonly gateway: TestGateway;
  /** `ip:port` of each pod. */
  readonly pods: readonly string[];
  page(): Promise<string>;
}

async function listen(server: Server, host: string): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  cleanUps.push(() => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  });
  return (server.address() as AddressInfo).port;
}

const flagsOf = (...more: readonly string[]) => {
  const parsed = parseEppArgs(
    [
      ...['--secure-serving=false', '--grpc-port=0', '--grpc-health-port=0', '--metrics-port=0'],
      ...['--pod-address=127.0.0.1', '--drain-timeout=100ms', '--refresh-metrics-interval=50ms', ...more],
    ],
    {},
  );
  if (parsed.kind !== 'config') throw new Error('help');
  return parsed.config;
};

function toSetting(epp: Epp, pods: readonly string[]): Setting {
  const gateway = createTestGateway(epp.grpcPort);
  cleanUps.push(
    () => epp.close(),
    () => gateway.close(),
  );
  const page = async () => (await fetch(`http://127.0.0.1:${epp.metricsPort}/metrics`)).text();
  return { epp, gateway, pods, page };
}

/** A picker with pods from a file; their metrics have been read when this returns. */
async function start(pods: readonly Pod[], yaml = scorers, flags: readonly string[] = []): Promise<Setting> {
  const dir = await mkdtemp(join(tmpdir(), 'picker-'));
  cleanUps.push(() => rm(dir, { recursive: true }));
  const addresses = await Promise.all(
    pods.map(async ({ waiting, kvUsage, adapters = [] }, i) => {
      const host = `127.77.0.${i + 1}`;
      const lines = [
        `vllm:num_requests_waiting{model_name="m"} ${waiting}`,
        'vllm:num_requests_running{model_name="m"} 0',
        `vllm:kv_cache_usage_perc{model_name="m"} ${kvUsage}`,
        `vllm:lora_requests_info{max_lora="2",running_lora_adapters="${adapters.join(',')}",waiting_lora_adapters=""} 1`,
      ];
      const port = await listen(
        createServer((_request, response) => response.end(`${lines.join('\n')}\n`)),
        host,
      );
      return { host, port };
    }),
  );
  const path = join(dir, 'endpoints.yaml');
  const file = addresses.map(({ host, port }, i) => ({ name: `pod-${i}`, address: host, port: String(port) }));
  await writeFile(path, JSON.stringify({ endpoints: file }));
  const discovery = `- {type: file-discovery, parameters: {path: ${path}}}\n`;
  const [before = '', after = ''] = yaml.split('plugins:\n');
  const text = `${head}${before}plugins:\n${discovery}${after}dataLayer: {discovery: {pluginRef: file-discovery}}\n`;
  const epp = await startEpp(flagsOf('--pool-name=p', ...flags), parsePickerConfig(text, 'test'), {
    log: silentLogger,
  });
  const setting = toSetting(
    epp,
    addresses.map(({ host, port }) => `${host}:${port}`),
  );
  await eventually(() => {
    expect(epp.datastore.snapshot.endpoints.every(({ load }) => load.isKnown)).toBe(true);
  });
  return setting;
}

const destination = 'x-gateway-destination-endpoint';
const toTarget = { 'x-gateway-model-name-rewrite': 'target' };

describe('the endpoint of a request', () => {
  const lowest = [P(3, 0.2), P(0, 0.1), P(10, 0.2)];
  it.each<readonly [string, readonly Pod[], number, readonly object[]]>([
    ['has the shorter queue and the freer cache', lowest, 1, [post(), requestBody(prompt())]],
    [
      'has the adapter, and a short queue',
      [P(0, 0.2, 'foo', 'bar'), P(0, 0.1, 'foo', 'target'), P(10, 0.2, 'foo', 'bar')],
      1,
      [post(toTarget), requestBody(prompt())],
    ],
    [
      'has the adapter, though its cache is fuller',
      [P(10, 0.2, 'foo', 'bar'), P(10, 0.4, 'foo', 'target'), P(10, 0.3, 'foo')],
      1,
      [post(toTarget), requestBody(prompt())],
    ],
    [
      'has the adapter, though all are busy: nothing is shed by default',
      [P(6, 0.2, 'foo', 'bar', 'target'), P(0, 0.85, 'foo'), P(10, 0.9, 'foo')],
      0,
      [post(toTarget), requestBody(prompt())],
    ],
    [
      'is found from a body in pieces',
      [P(4, 0.2, 'target'), P(4, 0.85, 'foo', 'target')],
      0,
      [
        post(toTarget),
        requestBody('{"max_tokens":100,"model":"sql-lo', false),
        requestBody('ra","prompt":"test6","temperature":0}', false),
        requestBody(''),
      ],
    ],
    ['is found from a body that trailers end', lowest, 1, [post(), requestBody(prompt(), false), requestTrailers()]],
    ['needs no body that is understood', lowest, 1, [post({ ':path': '/other' }), requestBody('raw \u0000 bytes')]],
    ['needs no body at all', lowest, 1, [requestHeaders({ ':method': 'GET', ':path': '/v1/models' }, true)]],
  ])('%s', async (_name, pods, expected, messages) => {
    const setting = await start(pods);
    const reply = await setting.gateway
      .open()
      .send(...messages)
      .next();
    expect(reply).toMatchObject({ kind: 'request_headers', clears: true });
    expect(reply.set[destination]).toBe(setting.pods[expected]);
    expect(reply.metadata).toEqual({
      fields: {
        'envoy.lb': { struct_value: { fields: { [destination]: { string_value: setting.pods[expected] } } } },
      },
    });
  });

  it('is among those that the gateway allows: as a list or text, with ports or without', async () => {
    const { gateway, pods } = await start(lowest);
    const ask = async (value: object, message: object = requestBody(prompt())) => {
      const stream = gateway.open().send(post(), { ...message, ...subsetOf(value) });
      const reply = await stream.next();
      return reply.status === undefined
        ? reply.set[destination]
        : [reply.status, reply.set['x-llm-d-request-dropped-reason']];
    };
    const list = (...addresses: readonly string[]) => ({
      list_value: { values: addresses.map((string_value) => ({ string_value })) },
    });
    const [first = '', second = '', third = ''] = pods;
    expect(await ask(list(...pods))).toBe(second);
    expect(await ask(list(third))).toBe(third);
    expect(await ask({ string_value: `${first}, ${third}` })).toBe(first);
    expect(await ask(list(third.split(':')[0] ?? ''))).toBe(third);
    // The right address with another port is another endpoint.
    expect(await ask(list(`${third.split(':')[0]}:1`))).toEqual([503, 'rejected-no-endpoints']);
    expect(await ask(list('192.168.1.99:8000'))).toEqual([503, 'rejected-no-endpoints']);
    expect(await ask(list())).toEqual([503, 'rejected-no-endpoints']);
    const get = gateway
      .open()
      .send({ ...requestHeaders({ ':method': 'GET', ':path': '/v1/models' }, true), ...subsetOf(list(third)) });
    expect((await get.next()).set[destination]).toBe(third);
  });

  it('comes with fallbacks, in order, where the picker is told how many', async () => {
    const yaml = `${scorers}- {type: max-score-picker, parameters: {maxNumOfEndpoints: 2}}\n`;
    const { gateway, pods } = await start(lowest, yaml);
    const reply = await gateway.open().send(post(), requestBody(prompt())).next();
    expect(reply.set[destination]).toBe(`${pods[1]},${pods[0]}`);
  });

  it('is chosen with the body in buffered mode, by the headers in streamed mode', async () => {
    const { gateway, pods } = await start(lowest);
    const inMode = (mode: number) => ({
      ...post({ 'x-llm-d-model-name-rewrite': 'other' }),
      protocol_config: { request_body_mode: mode, response_body_mode: mode },
    });
    const buffered = gateway.open().send(inMode(2));
    expect(await buffered.next()).toMatchObject({ kind: 'request_headers', set: {}, clears: false });
    const sent = prompt().replace('sql-lora', 'other');
    expect(await buffered.send(requestBody(prompt())).next()).toMatchObject({
      kind: 'request_body',
      clears: true,
      replaced: sent,
      set: { [destination]: pods[1], 'content-length': String(sent.length) },
    });
    expect(await buffered.send(responseHeaders({ ':status': '200' })).next()).toMatchObject({
      kind: 'response_headers',
      remove: ['content-length'],
    });
    expect(await buffered.send(responseBody('{"model":"other"}')).next()).toMatchObject({
      kind: 'response_body',
      replaced: '{"model":"sql-lora"}',
    });

    const streamed = gateway.open().send(inMode(1));
    expect(await streamed.next()).toMatchObject({ kind: 'request_headers', set: { [destination]: pods[1] } });
    for (const isLast of [false, true]) {
      expect(await streamed.send(requestBody('{', isLast)).next()).toMatchObject({
        kind: 'request_body',
        chunk: '',
        set: {},
      });
    }
  });
});

describe('a request that cannot be served', () => {
  it.each<readonly [string, readonly Pod[], readonly object[], number, RegExp]>([
    ['is no JSON', [P(0, 0)], [post(), requestBody('no healthy upstream')], 400, /not valid JSON/],
    ['names no model', [P(0, 0)], [post(), requestBody('{"prompt":"x"}')], 400, /model not found in request body/],
    ['has nobody to go to', [], [post(), requestBody(prompt())], 503, /no endpoint/],
    ['has no body and nobody to go to', [], [requestHeaders({ ':path': '/v1/models' }, true)], 503, /no endpoint/],
    ['is JSON beyond all depth', [P(0, 0)], [post(), requestBody('['.repeat(200_000))], 400, /not valid JSON/],
  ])('%s', async (_name, pods, messages, status, message) => {
    const { gateway } = await start(pods);
    const stream = gateway.open().send(...messages);
    const reply = await stream.next();
    expect(reply).toMatchObject({ kind: 'immediate_response', status, set: { 'content-type': 'application/json' } });
    const { error } = JSON.parse(reply.body ?? '') as { error: { message: string; code: number } };
    expect(error.code).toBe(status);
    expect(error.message).toMatch(message);
    expect((await stream.status()).code).toBe(0);
  });
});

describe('an answer', () => {
  it.each<readonly [string, readonly string[], readonly [number, number] | undefined]>([
    [
      'as JSON in pieces',
      ['{"id":"1","choices":[],"us', 'age":{"prompt_tokens":7,"completion_tokens":10,"total_tokens":17}}'],
      [7, 10],
    ],
    ['that is no JSON', ['no healthy ', 'upstream'], undefined],
    ['that ends with an empty piece', ['{"a":1}', ''], undefined],
    [
      'as events',
      ['data: {"choices":[]}\n\n', 'data: {"usage":{"prompt_tokens":7,"completion_tokens":10}}\n\ndata: [DONE]\n\n'],
      [7, 10],
    ],
  ])('passes as it came, %s', async (_name, pieces, usage) => {
    const { gateway, page } = await start([P(0, 0)]);
    const stream = gateway.open().send(post(), requestBody(prompt()));
    await stream.next();
    await stream.body();
    stream.send(responseHeaders({ ':status': '200', 'content-type': 'text/event-stream', 'set-cookie': 'a=b' }));
    // What is not named stays: cookies, and every other header.
    expect(await stream.next()).toMatchObject({ set: { 'x-went-into-resp-headers': 'true' }, remove: [] });
    pieces.forEach((piece, i) => {
      stream.send(responseBody(piece, i === pieces.length - 1));
    });
    expect(await stream.body()).toBe(pieces.join(''));
    stream.end();
    expect((await stream.status()).code).toBe(0);
    const text = await page();
    const sum = (name: string) =>
      Number(new RegExp(`^llm_d_epp_request_${name}_tokens_sum\\{.*\\} (\\d+)`, 'm').exec(text)?.[1]);
    expect([sum('input'), sum('output')]).toEqual(usage ?? [Number.NaN, Number.NaN]);
  });
});

class FakeInformer<T extends KubeObject> implements Informer<T> {
  readonly #objects: T[];
  readonly #handlers = new Set<(change: Change<T>) => void>();
  readonly synced = Promise.resolve();
  readonly isSynced: boolean;
  readonly store;
  constructor(objects: readonly T[] | undefined) {
    this.#objects = [...(objects ?? [])];
    this.isSynced = objects !== undefined;
    this.store = {
      get: (ref: { readonly name: string }) => this.#objects.find(({ metadata }) => metadata.name === ref.name),
      list: () => this.#objects,
      byIndex: () => [],
      size: this.#objects.length,
    };
  }
  put(object: T): void {
    this.#objects.push(object);
    for (const handler of this.#handlers) handler({ type: 'added', object });
  }
  subscribe(handler: (change: Change<T>) => void): () => void {
    this.#handlers.add(handler);
    for (const object of this.#objects) handler({ type: 'added', object });
    return () => this.#handlers.delete(handler);
  }
  close(): void {
    this.#handlers.clear();
  }
}

const metadata = (name: string, more: object = {}) => ({ name, namespace: 'default', ...more });
const poolRef = { name: 'p' };
const cluster: Readonly<Record<string, readonly object[]>> = {
  'InferencePool inference.networking.k8s.io': [
    {
      metadata: metadata('p'),
      spec: { selector: { matchLabels: { app: 'x' } }, targetPorts: [{ number: 8000 }, { number: 8001 }] },
    },
  ],
  'Pod ': [
    {
      metadata: metadata('pod-0', { labels: { app: 'x' }, annotations: { 'llm-d.ai/active-ports': '8001' } }),
      status: { podIP: '192.168.1.1', conditions: [{ type: 'Ready', status: 'True' }] },
    },
  ],
  'InferenceObjective llm-d.ai': [
    { metadata: metadata('batch'), spec: { priority: -1, poolRef } },
    { metadata: metadata('urgent'), spec: { priority: 10, poolRef } },
  ],
  'InferenceModelRewrite llm-d.ai': [
    {
      metadata: metadata('rewrite'),
      spec: {
        poolRef,
        rules: [
          {
            matches: [{ model: { type: 'Exact', value: 'sql-lora' } }],
            targets: [{ weight: 1, modelRewrite: 'target' }],
          },
        ],
      },
    },
  ],
};

async function startInCluster(
  yaml: string,
): Promise<Setting & { readonly informers: Map<string, FakeInformer<KubeObject>> }> {
  const informers = new Map<string, FakeInformer<KubeObject>>();
  const watches: Watches = {
    watch: <T extends KubeObject>(resource: { readonly kind: string; readonly group: string }) => {
      const key = `${resource.kind} ${resource.group}`;
      const informer = new FakeInformer<T>(cluster[key] as readonly T[] | undefined);
      informers.set(key, informer as unknown as FakeInformer<KubeObject>);
      return informer;
    },
  };
  const config = parsePickerConfig(`${head}${yaml}dataLayer: {injectDefaults: false}\n`, 'test');
  const epp = await startEpp(flagsOf('--pool-name=p', '--pool-namespace=default'), config, {
    log: silentLogger,
    watches,
  });
  const setting = toSetting(epp, ['192.168.1.1:8001']);
  await eventually(() => {
    expect(epp.datastore.snapshot.readyCount).toBe(1);
  });
  return { ...setting, informers };
}

describe('in a cluster', () => {
  it('objectives, rewrites and active ports of the pool count', async () => {
    const { gateway, page } = await startInCluster('plugins: [{type: random-picker}]\n');
    const served = async (model: string, headers: Readonly<Record<string, string>>) => {
      const stream = gateway.open().send(post(headers), requestBody(prompt(model)));
      const reply = await stream.next();
      const body = await stream.body();
      stream.cancel();
      return [reply.set[destination], body, reply.remove];
    };
    expect(await served('sql-lora', { 'x-llm-d-inference-objective': 'urgent' })).toEqual([
      '192.168.1.1:8001',
      prompt('target'),
      ['x-llm-d-inference-objective'],
    ]);
    expect(await served('direct', { 'x-gateway-inference-fairness-id': 'team' })).toEqual([
      '192.168.1.1:8001',
      prompt('direct'),
      ['x-gateway-inference-fairness-id'],
    ]);
    const text = await page();
    const flow = (target: string, fairness: string, priority: number) =>
      `llm_d_epp_request_total{model_name="${target === 'target' ? 'sql-lora' : target}",target_model_name="${target}",fairness_id="${fairness}",priority="${priority}"} 1`;
    expect(text).toContain(flow('target', 'default-flow', 10));
    expect(text).toContain(flow('direct', 'team', 0));
    expect(text).toContain(
      'llm_d_epp_model_rewrite_decisions_total{model_rewrite_name="rewrite",model_name="sql-lora",target_model="target"} 1',
    );
  });
});

describe('flow control', () => {
  const oneAtATime = `featureGates: [flowControl]
flowControl: {defaultRequestTTL: 20s, defaultPriorityBand: {maxRequests: 3}, saturationDetector: {pluginRef: busy}}
plugins:
- {type: random-picker}
- {name: busy, type: concurrency-detector, parameters: {maxConcurrency: 1}}
`;
  const enter = (gateway: TestGateway, headers: Readonly<Record<string, string>> = {}): ProcessStream =>
    gateway.open().send(post(headers), requestBody(prompt()));
  /** The endpoint answers, so that the request is over. */
  const finish = async (stream: ProcessStream): Promise<void> => {
    await stream.body();
    stream.send(responseHeaders({ ':status': '200' }, true));
    await stream.next();
    stream.end();
    await stream.status();
  };
  const queued = async (setting: Setting, count: number): Promise<void> => {
    await eventually(async () => {
      const sizes = [...(await setting.page()).matchAll(/^llm_d_epp_flow_control_queue_size\{.*\} (\d+)/gm)];
      expect(sizes.reduce((sum, [, size]) => sum + Number(size), 0)).toBe(count);
    });
  };

  it('makes requests wait while the pool is full: priorities first, those who leave forgotten, too many refused', async () => {
    const setting = await startInCluster(oneAtATime);
    const { gateway } = setting;
    const first = enter(gateway);
    expect((await first.next()).kind).toBe('request_headers');
    const plain = enter(gateway);
    await queued(setting, 1);
    const gone = enter(gateway);
    const urgent = enter(gateway, { 'x-gateway-inference-objective': 'urgent' });
    await queued(setting, 3);
    const other = enter(gateway);
    await queued(setting, 4);
    const refused = await enter(gateway).next();
    expect(refused).toMatchObject({ status: 429, set: { 'x-llm-d-request-dropped-reason': 'rejected-saturated' } });
    expect(Number(refused.set['retry-after'])).toBeGreaterThanOrEqual(1);
    expect(JSON.parse(refused.body ?? '')).toMatchObject({ error: { type: 'RateLimitError', code: 429 } });
    gone.cancel();
    await queued(setting, 3);
    await finish(first);
    expect((await urgent.next()).kind).toBe('request_headers');
    expect(plain.waiting).toBe(0);
    await finish(urgent);
    expect((await plain.next()).kind).toBe('request_headers');
    expect(other.waiting).toBe(0);
    // A client that breaks off makes room too.
    plain.cancel();
    expect((await other.next()).kind).toBe('request_headers');
    await finish(other);
    const text = await setting.page();
    const outcome = (name: string, priority: number) =>
      Number(
        new RegExp(`requests_total\\{outcome="${name}",priority="${priority}",inference_pool="p"\\} (\\d+)`).exec(
          text,
        )?.[1],
      );
    expect([outcome('Dispatched', 0), outcome('Dispatched', 10)]).toEqual([3, 1]);
    expect([outcome('RejectedCapacity', 0), outcome('EvictedContextCancelled', 0)]).toEqual([1, 1]);
    expect(text).toMatch(/flow_control_pool_saturation\{inference_pool="p",stage="effective"\} 0/);
  });

  it('gives up what waited too long, and what has no room is shed when it may be', async () => {
    const { gateway } = await startInCluster(oneAtATime);
    const first = enter(gateway);
    await first.next();
    const late = await enter(gateway, { 'x-llm-d-inference-ttl': '50ms' }).next();
    expect(late).toMatchObject({ status: 429, set: { 'x-llm-d-request-dropped-reason': 'rejected-ttl-expired' } });
    await finish(first);
  });

  it('is off by default: only requests of negative priority are shed, and only while the pool is full', async () => {
    const { gateway } = await startInCluster(oneAtATime.replace('[flowControl]', '[]'));
    const batch = { 'x-llm-d-inference-objective': 'batch' };
    const first = enter(gateway, batch);
    expect((await first.next()).kind).toBe('request_headers');
    expect((await enter(gateway).next()).kind).toBe('request_headers');
    const shed = await enter(gateway, batch).next();
    expect(shed).toMatchObject({
      status: 429,
      set: { 'x-llm-d-request-dropped-reason': 'rejected-saturated', 'retry-after': '1' },
    });
  });

  it('ends a request of negative priority for another, also while its answer streams, where it is told to', async () => {
    const { gateway, page } = await startInCluster(
      oneAtATime.replace('flowControl: {', 'flowControl: {enableEviction: true, '),
    );
    const batch = enter(gateway, { 'x-llm-d-inference-objective': 'batch' });
    await batch.next();
    await batch.body();
    batch.send(responseHeaders({ ':status': '200' }));
    await batch.next();
    const urgent = enter(gateway);
    expect((await urgent.next()).kind).toBe('request_headers');
    expect(await batch.next()).toMatchObject({
      status: 429,
      set: { 'x-llm-d-request-dropped-reason': 'evicted-priority' },
    });
    expect((await batch.status()).code).toBe(0);
    await finish(urgent);
    expect(await page()).toContain('revocations_issued_total{priority="-1",inference_pool="p"} 1');
  });

  it('tells those who wait when it stops', async () => {
    const { gateway, epp } = await startInCluster(oneAtATime);
    const first = enter(gateway);
    await first.next();
    const waits = enter(gateway);
    await eventually(async () => {
      expect(await (await fetch(`http://127.0.0.1:${epp.metricsPort}/metrics`)).text()).toMatch(
        /queue_size\{fairness_id="default-flow",priority="0".*\} 1/,
      );
    });
    const closed = epp.close();
    expect(await waits.next()).toMatchObject({
      status: 503,
      set: { 'x-llm-d-request-dropped-reason': 'rejected-shutting-down' },
    });
    first.cancel();
    await closed;
  });
});
