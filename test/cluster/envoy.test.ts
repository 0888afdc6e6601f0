import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http';
import { createServer as createTcpServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Agent, request } from 'undici';
import type { Gateway, GatewayListener, HTTPRouteRule } from '../../src/api/foreign/gateway-api.ts';
import type { InferencePool } from '../../src/api/foreign/inference-pool.ts';
import { type Envoy, startEnvoy } from '../../src/local/envoy.ts';
import type { GatewayInput, Pod, Service } from '../../src/local/gateway/shapes.ts';
import { controllerName, translate } from '../../src/local/gateway/translate.ts';
import { findBinaries } from '../../src/local/paths.ts';
import { localEnvironment } from './control-plane.ts';
import { startTestPicker, type TestPicker } from './picker.ts';

/** The real Envoy, fed by the real translation; pods are HTTP servers on loopback addresses of their own. */

const network = '127.201';
const gatewayAddress = `${network}.9.1`;
const api = 'gateway.networking.k8s.io/v1' as const;

interface Echo {
  readonly pod: string;
  readonly url: string;
  readonly bytes: number;
  readonly headers: IncomingHttpHeaders;
}

const servers: Server[] = [];
async function startPod(name: string, ip: string, port = 8000): Promise<void> {
  const server = createServer((incoming, outgoing) => {
    let bytes = 0;
    incoming.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
    });
    incoming.on('end', async () => {
      const answer = { pod: name, url: incoming.url, bytes, headers: incoming.headers };
      if (!incoming.url?.startsWith('/stream')) {
        outgoing.setHeader('content-type', 'application/json');
        outgoing.end(JSON.stringify(answer));
        return;
      }
      const [, count, everyMs] = /^\/stream\/(\d+)\/(\d+)/.exec(incoming.url) ?? [];
      outgoing.writeHead(200, { 'content-type': 'text/event-stream' });
      for (let i = 0; i < Number(count); i++) {
        outgoing.write(`data: ${name} ${i}\n\n`);
        await new Promise((resolve) => setTimeout(resolve, Number(everyMs)));
      }
      outgoing.end('data: [DONE]\n\n');
    });
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(port, ip, resolve));
}

const pod = (name: string, app: string, ip: string): Pod => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { namespace: 'app', name, labels: { app } },
  spec: { containers: [{}] },
  status: { podIP: ip, conditions: [{ type: 'Ready', status: 'True' }] },
});
const service = (name: string, port: number, targetPort: number): Service => ({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: { namespace: 'app', name },
  spec: { selector: { app: name }, ports: [{ port, targetPort }] },
});
const pool = (name: string, picker: string, failureMode: 'FailOpen' | 'FailClose', app = 'model'): InferencePool => ({
  apiVersion: 'inference.networking.k8s.io/v1',
  kind: 'InferencePool',
  metadata: { namespace: 'app', name },
  spec: {
    selector: { matchLabels: { app } },
    targetPorts: [{ number: 8000 }],
    endpointPickerRef: { name: picker, port: { number: 9002 }, failureMode },
  },
});
const poolRef = (name: string, weight = 1) => ({
  group: 'inference.networking.k8s.io',
  kind: 'InferencePool',
  name,
  weight,
});
const prefix = (value: string) => ({ path: { type: 'PathPrefix', value } });
const listener = (port: number, extra: Partial<GatewayListener> = {}): GatewayListener => ({
  name: `l${port}`,
  port,
  protocol: 'HTTP',
  allowedRoutes: { namespaces: { from: 'All' } },
  ...extra,
});

const webPods = [pod('a', 'web', `${network}.1.1`), pod('b', 'web2', `${network}.1.2`)];
const modelPods = [pod('m1', 'model', `${network}.2.1`), pod('m2', 'model', `${network}.2.2`)];
const pickerPods = [
  pod('epp', 'epp', `${network}.3.1`),
  pod('epp2', 'epp2', `${network}.3.2`),
  pod('dead', 'dead', `${network}.3.9`),
];
const allPods = [...webPods, ...modelPods, ...pickerPods];

const input = (
  rules: readonly HTTPRouteRule[],
  partial: Partial<GatewayInput> & { listeners?: readonly GatewayListener[] } = {},
): GatewayInput => {
  const gateway: Gateway = {
    apiVersion: api,
    kind: 'Gateway',
    metadata: { namespace: 'app', name: 'gw' },
    spec: { gatewayClassName: 'c', listeners: partial.listeners ?? [listener(8080)] },
  };
  return {
    gatewayClasses: [{ apiVersion: api, kind: 'GatewayClass', metadata: { name: 'c' }, spec: { controllerName } }],
    gateways: [gateway],
    httpRoutes: [
      {
        apiVersion: api,
        kind: 'HTTPRoute',
        metadata: { namespace: 'app', name: 'r' },
        spec: { parentRefs: [{ name: 'gw' }], rules },
      },
    ],
    services: [
      service('web', 80, 8000),
      service('web2', 80, 8000),
      service('empty', 80, 8000),
      service('epp', 9002, 9002),
      service('epp2', 9002, 9002),
      service('dead', 9002, 9002),
    ],
    pods: allPods,
    namespaces: [],
    inferencePools: [
      pool('open', 'epp', 'FailOpen'),
      pool('other', 'epp2', 'FailOpen'),
      pool('close', 'epp', 'FailClose'),
      pool('dead-open', 'dead', 'FailOpen'),
      pool('dead-close', 'dead', 'FailClose'),
      pool('lost-open', 'nowhere', 'FailOpen'),
      pool('lost-close', 'nowhere', 'FailClose'),
    ],
    xInferencePools: [],
    referenceGrants: [],
    ...partial,
  };
};

let stateDir: string;
let envoy: Envoy;
let pickers: readonly TestPicker[];
let destination: string | undefined;
const agent = new Agent({ connections: 64 });

const apply = (given: GatewayInput) => {
  const { resources } = translate(given, {
    addresses: new Map([['app/gw', gatewayAddress]]),
    accessLogPath: envoy.accessLogPath,
    routesPath: envoy.routesPath,
  });
  return envoy.apply(resources);
};

interface Call {
  readonly method?: 'GET' | 'POST' | 'DELETE';
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Buffer;
  readonly port?: number;
}
const call = async (path: string, options: Call = {}) => {
  const answer = await request(`http://${gatewayAddress}:${options.port ?? 8080}${path}`, {
    dispatcher: agent,
    method: options.method ?? (options.body === undefined ? 'GET' : 'POST'),
    headers: { ...options.headers },
    ...(options.body === undefined ? {} : { body: options.body }),
    headersTimeout: 10_000,
    bodyTimeout: 10_000,
  });
  const text = await answer.body.text();
  const isJson = String(answer.headers['content-type']).startsWith('application/json');
  return { status: answer.statusCode, headers: answer.headers, text, echo: (isJson ? JSON.parse(text) : {}) as Echo };
};

beforeAll(async () => {
  const { envoy: binary } = await findBinaries(['envoy'], localEnvironment, (line) =>
    process.stderr.write(`${line}\n`),
  );
  stateDir = await mkdtemp(join(tmpdir(), 'signalbox-envoy-'));
  envoy = await startEnvoy({ binary, stateDir, concurrency: 1 });
  for (const p of [...webPods, ...modelPods]) await startPod(p.metadata.name, p.status?.podIP ?? '');
  pickers = [
    await startTestPicker(`${network}.3.1`, 9002, () => destination),
    await startTestPicker(`${network}.3.2`, 9002, () => `${network}.1.1:8000`),
  ];
}, 600_000);

afterAll(async () => {
  await envoy?.close();
  for (const picker of pickers ?? []) picker.close();
  await Promise.all(
    servers.map((server) => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    }),
  );
  await agent.close();
  await rm(stateDir, { recursive: true, force: true });
});

describe('routes to Services', () => {
  const web = [{ name: 'web', port: 80 }];
  const web2 = [{ name: 'web2', port: 80 }];
  const rewrite = (value: string) => [
    { type: 'URLRewrite', urlRewrite: { path: { type: 'ReplacePrefixMatch', replacePrefixMatch: value } } },
  ];

  it('rewrites prefixes by path elements and keeps the query', async () => {
    const { rejections } = await apply(
      input([
        { matches: [prefix('/ns/name')], filters: rewrite('/'), backendRefs: web },
        { matches: [prefix('/foo')], filters: rewrite('/xyz/'), backendRefs: web },
        {
          matches: [prefix('/full')],
          filters: [
            {
              type: 'URLRewrite',
              urlRewrite: { hostname: 'inner', path: { type: 'ReplaceFullPath', replaceFullPath: '/all/of\\it' } },
            },
          ],
          backendRefs: web,
        },
        { matches: [prefix('/')], filters: rewrite('/root'), backendRefs: web2 },
      ]),
    );
    expect(rejections).toEqual([]);
    const cases = [
      ['/ns/name/v1/chat/completions?x=/ns/name', '/v1/chat/completions?x=/ns/name'],
      ['/ns/name', '/'],
      ['/ns/name/', '/'],
      ['/ns/name?q=1', '/?q=1'],
      ['/ns/names', '/root/ns/names'],
      ['/foo/bar', '/xyz/bar'],
      ['/foo', '/xyz'],
      ['/foo/', '/xyz/'],
      ['/full/path?q=1', '/all/of\\it?q=1'],
      ['/', '/root/'],
    ];
    for (const [from, to] of cases) expect([from, (await call(from ?? '')).echo.url]).toEqual([from, to]);
    expect((await call('/full')).echo.headers.host).toBe('inner');
  });

  it('matches headers, methods, queries and patterns by their precedence', async () => {
    await apply(
      input([
        { backendRefs: web },
        { matches: [{ path: { type: 'Exact', value: '/exact' } }], backendRefs: web2 },
        { matches: [{ path: { type: 'RegularExpression', value: '/v[0-9]+/x' } }], backendRefs: web2 },
        { matches: [{ headers: [{ name: 'X-Model', value: 'big' }] }], backendRefs: web2 },
        { matches: [{ method: 'DELETE' }], backendRefs: web2 },
        { matches: [{ queryParams: [{ name: 'q', value: 'b' }] }], backendRefs: web2 },
      ]),
    );
    const cases: readonly (readonly [string, Call, string])[] = [
      ['/', {}, 'a'],
      ['/exact', {}, 'b'],
      ['/exact?x', {}, 'b'],
      ['/exact/', {}, 'a'],
      ['/v12/x', {}, 'b'],
      ['/v12/xy', {}, 'a'],
      ['/', { headers: { 'x-model': 'big' } }, 'b'],
      ['/', { headers: { 'x-model': 'bigger' } }, 'a'],
      ['/', { method: 'DELETE' }, 'b'],
      ['/?q=b', {}, 'b'],
      ['/?q=c', {}, 'a'],
    ];
    for (const [path, options, name] of cases) {
      expect([path, options, (await call(path, options)).echo.pod]).toEqual([path, options, name]);
    }
  });

  it('changes headers and redirects', async () => {
    await apply(
      input([
        {
          filters: [
            {
              type: 'RequestHeaderModifier',
              requestHeaderModifier: { set: [{ name: 'x-a', value: '50%' }], remove: ['x-b'] },
            },
            { type: 'ResponseHeaderModifier', responseHeaderModifier: { add: [{ name: 'x-c', value: '1' }] } },
          ],
          backendRefs: web,
        },
        {
          matches: [prefix('/old')],
          filters: [
            {
              type: 'RequestRedirect',
              requestRedirect: { statusCode: 301, path: { type: 'ReplacePrefixMatch', replacePrefixMatch: '/new' } },
            },
          ],
        },
      ]),
    );
    const answer = await call('/', { headers: { 'x-a': 'mine', 'x-b': 'mine', 'x-request-id': 'abc' } });
    expect(answer.echo.headers).toMatchObject({ 'x-a': '50%', 'x-request-id': 'abc' });
    expect(answer.echo.headers['x-b']).toBeUndefined();
    expect(answer.headers).toMatchObject({ 'x-c': '1', 'x-request-id': 'abc' });
    expect((await call('/')).headers['x-request-id']).toMatch(/^[0-9a-f-]{36}$/);
    const redirect = await call('/old/x?q=1');
    expect([redirect.status, redirect.headers.location]).toEqual([301, `http://${gatewayAddress}:8080/new/x?q=1`]);
  });

  it('splits by weight, with 500 for the share of what does not exist and 503 for what is not ready', async () => {
    await apply(
      input([
        {
          matches: [prefix('/split')],
          backendRefs: [
            { name: 'web', port: 80, weight: 3 },
            { name: 'web2', port: 80 },
          ],
        },
        { matches: [prefix('/half')], backendRefs: [...web, { name: 'gone', port: 80 }] },
        { matches: [prefix('/none')], backendRefs: [{ name: 'gone', port: 80 }] },
        { matches: [prefix('/empty')], backendRefs: [{ name: 'empty', port: 80 }] },
      ]),
    );
    const tally = async (path: string) => {
      const counts: Record<string, number> = {};
      for (let i = 0; i < 400; i++) {
        const { status, echo } = await call(path);
        const key = status === 200 ? echo.pod : String(status);
        counts[key] = (counts[key] ?? 0) + 1;
      }
      return counts;
    };
    const split = await tally('/split');
    expect(split.a).toBeGreaterThan(250);
    expect(split.b).toBeGreaterThan(50);
    const half = await tally('/half');
    expect(half['500']).toBeGreaterThan(130);
    expect(half.a).toBeGreaterThan(130);
    expect((await call('/none')).status).toBe(500);
    expect((await call('/empty')).status).toBe(503);
    expect((await call('/other')).status).toBe(404);
  });

  it('serves several listeners and hostnames', async () => {
    const listeners = [listener(8080, { hostname: '*.example.com' }), listener(8081)];
    await apply(input([{ backendRefs: web }], { listeners }));
    expect((await call('/', { headers: { host: 'a.example.com:8080' } })).status).toBe(200);
    expect((await call('/', { headers: { host: 'a.example.org' } })).status).toBe(404);
    expect((await call('/', { port: 8081 })).status).toBe(200);
  });

  it('cuts a request that exceeds the time-out of its rule', async () => {
    await apply(input([{ backendRefs: web, timeouts: { request: '200ms' } }]));
    expect((await call('/')).status).toBe(200);
    // The answer has begun, so the stream breaks rather than ending whole.
    await expect(call('/stream/20/50')).rejects.toThrow();
  });
});

describe('inference pools', () => {
  const rules = (name: string): readonly HTTPRouteRule[] => [
    {
      matches: [prefix('/app/m')],
      filters: [{ type: 'URLRewrite', urlRewrite: { path: { type: 'ReplacePrefixMatch', replacePrefixMatch: '/' } } }],
      backendRefs: [poolRef(name)],
    },
  ];
  const client = { 'x-gateway-destination-endpoint': `${network}.1.1:8000` };

  it.each(['open', 'close'])('goes where the picker says, never where the client says (%s)', async (name) => {
    await apply(input(rules(name)));
    const seenBefore = pickers[0]?.seen.length ?? 0;
    for (const p of modelPods) {
      destination = `${p.status?.podIP}:8000`;
      const answer = await call('/app/m/v1/chat/completions?x=1', { body: '{"model":"m"}', headers: client });
      expect(answer.status).toBe(200);
      expect(answer.echo).toMatchObject({ pod: p.metadata.name, url: '/v1/chat/completions?x=1', bytes: 13 });
      expect(answer.echo.headers['x-gateway-destination-endpoint']).toBe(destination);
    }
    const seen = pickers[0]?.seen[seenBefore];
    expect(seen).toMatchObject({ ':path': '/app/m/v1/chat/completions?x=1', ':method': 'POST' });
    expect(seen?.['x-gateway-destination-endpoint']).toBeUndefined();
    expect((await call('/app/m/v1/models')).echo.url).toBe('/v1/models');
  });

  it('carries a large body through the picker', async () => {
    await apply(input(rules('close')));
    destination = `${network}.2.1:8000`;
    const body = Buffer.alloc(4 * 1024 * 1024, 'x');
    expect((await call('/app/m/v1/x', { body })).echo.bytes).toBe(body.length);
  });

  it('answers 503 when a picker that may not fail gives no destination', async () => {
    await apply(input(rules('close')));
    destination = undefined;
    expect((await call('/app/m/v1/x', { body: '{}' })).status).toBe(503);
  });

  it('uses a ready pod when a picker that may fail gives no destination', async () => {
    await apply(input(rules('open')));
    destination = undefined;
    const answer = await call('/app/m/v1/x', { body: '{}', headers: client });
    expect([answer.status, answer.echo.url, answer.echo.bytes]).toEqual([200, '/v1/x', 2]);
    expect(['m1', 'm2']).toContain(answer.echo.pod);
  });

  it.each([
    ['dead-open', 200],
    ['lost-open', 200],
    ['dead-close', 503],
    ['lost-close', 503],
  ])('obeys the failure mode when the picker is away (%s: %d)', async (name, status) => {
    await apply(input(rules(name)));
    for (const body of ['{"model":"m"}', Buffer.alloc(200_000, 'x')]) {
      const answer = await call('/app/m/v1/x', { body, headers: client });
      expect(answer.status).toBe(status);
      if (status === 200) {
        expect(['m1', 'm2']).toContain(answer.echo.pod);
        expect([answer.echo.url, answer.echo.bytes]).toEqual(['/v1/x', body.length]);
      }
    }
  });

  it('notices within a second that a picker died, and that it is back', async () => {
    const address = `${network}.3.9`;
    const model = `${network}.2.2:8000`;
    await apply(input(rules('dead-open')));
    const destinationOf = async () => {
      const answer = await call('/app/m/v1/x', { body: '{}' });
      return answer.status === 200
        ? (answer.echo.headers['x-gateway-destination-endpoint'] ?? 'fallback')
        : answer.status;
    };
    const settlesOn = async (wanted: string) => {
      const deadline = Date.now() + 1000;
      let got = await destinationOf();
      while (got !== wanted && Date.now() < deadline) {
        await new Promise((resolve) => setTimeout(resolve, 25));
        got = await destinationOf();
      }
      return got;
    };
    expect(await destinationOf()).toBe('fallback');
    for (let round = 0; round < 2; round++) {
      const picker = await startTestPicker(address, 9002, () => model);
      expect(await settlesOn(model)).toBe(model);
      picker.close();
      expect(await settlesOn('fallback')).toBe('fallback');
    }
  });

  it('asks the right picker of each weighted pool, and none for a Service beside it', async () => {
    destination = `${network}.2.2:8000`;
    await apply(input([{ backendRefs: [poolRef('open'), poolRef('other'), { name: 'web2', port: 80, weight: 1 }] }]));
    const before = pickers.map((picker) => picker.seen.length);
    const counts: Record<string, number> = {};
    for (let i = 0; i < 300; i++) {
      const { echo } = await call('/v1/x', { body: '{}' });
      counts[echo.pod] = (counts[echo.pod] ?? 0) + 1;
    }
    // open's picker says m2, other's says a, the Service has b: the choice survives the second look at the route.
    expect(Object.keys(counts).sort()).toEqual(['a', 'b', 'm2']);
    for (const count of Object.values(counts)) expect(count).toBeGreaterThan(50);
    const asked = pickers.map((picker, i) => picker.seen.length - (before[i] ?? 0));
    expect(asked).toEqual([counts.m2, counts.a]);
  });

  it('streams events one by one through the picker', async () => {
    await apply(input(rules('open')));
    destination = `${network}.2.1:8000`;
    const answer = await request(`http://${gatewayAddress}:8080/app/m/stream/10/50`, {
      dispatcher: agent,
      method: 'POST',
      body: '{}',
    });
    const arrivals: number[] = [];
    for await (const _ of answer.body) arrivals.push(Date.now());
    expect(arrivals.length).toBeGreaterThanOrEqual(10);
    const spanMs = (arrivals.at(-1) ?? 0) - (arrivals[0] ?? 0);
    expect(spanMs).toBeGreaterThan(350);
  });
});

describe('updates', () => {
  it('takes new routes, clusters and listeners without dropping a stream', async () => {
    const old: readonly HTTPRouteRule[] = [
      { matches: [prefix('/m')], backendRefs: [poolRef('open')] },
      { backendRefs: [{ name: 'web', port: 80 }] },
    ];
    await apply(input(old));
    destination = `${network}.2.1:8000`;
    const open = async (path: string) => {
      const answer = await request(`http://${gatewayAddress}:8080${path}`, {
        dispatcher: agent,
        method: 'POST',
        body: '{}',
      });
      return answer.body.text();
    };
    const streams = [open('/stream/20/50')];
    const filters = [
      { type: 'URLRewrite', urlRewrite: { path: { type: 'ReplacePrefixMatch', replacePrefixMatch: '/' } } },
    ];
    const rules = [{ ...old[0], filters } as HTTPRouteRule, ...old.slice(1)];
    await apply(input(rules));
    streams.push(open('/m/stream/20/50'));
    await new Promise((resolve) => setTimeout(resolve, 150));

    // The Service and the picker move to other pods.
    const moved = allPods.filter((p) => !['a', 'epp'].includes(p.metadata.name));
    await apply(
      input(rules, { pods: [...moved, pod('a2', 'web', `${network}.1.2`), pod('epp', 'epp', `${network}.3.2`)] }),
    );
    expect((await call('/')).echo.pod).toBe('b');
    expect((await call('/m/x', { body: '{}' })).echo.pod).toBe('a');
    streams.push(open('/m/stream/10/50'));
    await new Promise((resolve) => setTimeout(resolve, 100));

    // Then the route to the pool, its picker and its pods vanish, and a listener comes.
    const { rejections, listeners, retiredClusters } = await apply(
      input([{ backendRefs: [{ name: 'web2', port: 80 }] }], {
        pods: moved.filter((p) => p.metadata.name !== 'm1'),
        listeners: [listener(8080), listener(8082)],
      }),
    );
    expect(rejections).toEqual([]);
    expect([...listeners.values()]).toEqual([{ kind: 'ready' }, { kind: 'ready' }]);
    expect(retiredClusters).toBeGreaterThan(1);
    expect((await call('/')).echo.pod).toBe('b');
    expect((await call('/', { port: 8082 })).echo.pod).toBe('b');

    const lengths = (await Promise.all(streams)).map((text) => text.match(/data: /g)?.length);
    expect(lengths).toEqual([21, 21, 11]);
  });

  it('removes clusters that fell idle, and then writes nothing when nothing changed', async () => {
    const given = input([{ backendRefs: [{ name: 'web', port: 80 }] }]);
    const settle = async () => {
      for (let i = 0; i < 50; i++) {
        if ((await apply(given)).retiredClusters === 0) return;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      throw new Error('retired clusters stay');
    };
    await settle();
    const read = async (path: string) => (await request(`${envoy.adminUrl}${path}`)).body.text();
    const names = new Set((await read('/clusters')).split('\n').map((line) => line.split('::')[0]));
    expect([...names].filter(Boolean)).toEqual(['service_app_web_80']);
    const before = await read('/stats?filter=update_attempt');
    await apply(given);
    expect(await read('/stats?filter=update_attempt')).toBe(before);
  });

  it('says which listener cannot be bound, and serves the others', async () => {
    const taken = createTcpServer();
    await new Promise<void>((resolve) => taken.listen(8083, gatewayAddress, resolve));
    const given = input([{ backendRefs: [{ name: 'web', port: 80 }] }], {
      listeners: [listener(8080), listener(8083), listener(8084)],
    });
    const states = [...(await apply(given)).listeners.values()];
    expect(states).toEqual([
      { kind: 'ready' },
      { kind: 'failed', message: expect.stringContaining(`${gatewayAddress}:8083`) },
      { kind: 'ready' },
    ]);
    expect((await call('/', { port: 8084 })).status).toBe(200);
    await new Promise((resolve) => taken.close(resolve));
    const again = [...(await apply(given)).listeners.values()];
    expect(again.map((state) => state.kind)).toEqual(['ready', 'ready', 'ready']);
  });

  it('keeps the old routes when the new ones are refused, and says why', async () => {
    await apply(input([{ backendRefs: [{ name: 'web', port: 80 }] }]));
    const given = input([
      {
        matches: [{ path: { type: 'RegularExpression', value: '/a{5000}' } }],
        backendRefs: [{ name: 'web2', port: 80 }],
      },
    ]);
    const { rejections } = await apply(given);
    expect(rejections).toHaveLength(1);
    expect(rejections[0]).toMatch(/regex|repetition/i);
    expect((await call('/')).echo.pod).toBe('a');
    // The refusal is not forgotten while the configuration stays the same.
    expect((await apply(given)).rejections).toHaveLength(1);
  });

  it('logs each request as JSON', async () => {
    await apply(input([{ name: 'named', backendRefs: [poolRef('open')] }]));
    destination = `${network}.2.2:8000`;
    await call('/logged', { body: '{}', headers: { 'x-request-id': 'log-me' } });
    await new Promise((resolve) => setTimeout(resolve, 400));
    const lines = (await readFile(envoy.accessLogPath, 'utf8')).trim().split('\n');
    const entry = lines
      .map((line) => JSON.parse(line) as Record<string, unknown>)
      .find((e) => e.requestId === 'log-me');
    expect(entry).toMatchObject({
      path: '/logged',
      status: 200,
      route: 'app/r/named',
      destination,
      upstreamHost: destination,
      responseFlags: '-',
    });
  });
});

describe('the process', () => {
  it('tells of a crash with its last log lines', async () => {
    const { envoy: binary } = await findBinaries(['envoy'], localEnvironment, () => {});
    const folder = await mkdtemp(join(tmpdir(), 'signalbox-envoy-'));
    const other = await startEnvoy({ binary, stateDir: folder, concurrency: 1 });
    await request(`${other.adminUrl}/quitquitquit`, { method: 'POST' }).then((answer) => answer.body.dump());
    expect((await other.failed).message).toMatch(/^envoy ended \(exit code 0\)\. Its last lines:\n/);
    await other.close();
    await rm(folder, { recursive: true, force: true });
  }, 30_000);

  it('fails to start with the reason', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'signalbox-envoy-'));
    await expect(startEnvoy({ binary: '/nonexistent/envoy', stateDir: folder })).rejects.toThrow(/envoy/);
    await rm(folder, { recursive: true, force: true });
  });
});
