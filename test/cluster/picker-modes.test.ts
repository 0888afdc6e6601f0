import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, request, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { parseEppArgs } from '../../src/epp/config.ts';
import { parsePickerConfig } from '../../src/epp/picker-config.ts';
import { type Epp, startEpp } from '../../src/epp/start.ts';
import { findBinaries } from '../../src/local/paths.ts';
import { silentLogger } from '../../src/telemetry/log.ts';
import { eventually } from '../expect/eventually.ts';
import { localEnvironment } from './control-plane.ts';

/** The real picker behind the real Envoy, in every mode that the filter can show it bodies in. */

const host = '127.203.0.1';
const modes = {
  FULL_DUPLEX_STREAMED: 18_081,
  BUFFERED: 18_082,
  BUFFERED_PARTIAL: 18_083,
  STREAMED: 18_084,
} as const;
type Mode = keyof typeof modes;
const backendPort = 18_090;

let dir: string;
let epp: Epp;
let envoy: ChildProcess | undefined;
let backend: Server;

const type = (name: string) => `type.googleapis.com/${name}`;
const filters = 'envoy.extensions.filters';
const address = (ip: string, port: number) => ({ socket_address: { address: ip, port_value: port } });

const listener = (mode: Mode) => ({
  name: mode,
  address: address(host, modes[mode]),
  filter_chains: [
    {
      filters: [
        {
          name: 'http',
          typed_config: {
            '@type': type(`${filters}.network.http_connection_manager.v3.HttpConnectionManager`),
            stat_prefix: mode,
            http_protocol_options: { enable_trailers: true },
            route_config: {
              virtual_hosts: [
                {
                  name: 'all',
                  domains: ['*'],
                  routes: [{ match: { prefix: '/' }, route: { cluster: 'pool', timeout: '20s' } }],
                },
              ],
            },
            http_filters: [
              {
                name: 'picker',
                typed_config: {
                  '@type': type(`${filters}.http.ext_proc.v3.ExternalProcessor`),
                  grpc_service: { envoy_grpc: { cluster_name: 'picker' } },
                  processing_mode: {
                    request_header_mode: 'SEND',
                    response_header_mode: 'SEND',
                    request_body_mode: mode,
                    response_body_mode: mode,
                    request_trailer_mode: 'SEND',
                    response_trailer_mode: 'SEND',
                  },
                  message_timeout: '20s',
                },
              },
              { name: 'router', typed_config: { '@type': type(`${filters}.http.router.v3.Router`) } },
            ],
          },
        },
      ],
    },
  ],
});

const bootstrap = () => ({
  node: { id: 'test', cluster: 'test' },
  static_resources: {
    listeners: (Object.keys(modes) as Mode[]).map(listener),
    clusters: [
      {
        name: 'pool',
        type: 'ORIGINAL_DST',
        lb_policy: 'CLUSTER_PROVIDED',
        connect_timeout: '5s',
        original_dst_lb_config: { use_http_header: true, http_header_name: 'x-gateway-destination-endpoint' },
        typed_extension_protocol_options: {
          'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': {
            '@type': type('envoy.extensions.upstreams.http.v3.HttpProtocolOptions'),
            explicit_http_config: { http_protocol_options: { enable_trailers: true } },
          },
        },
      },
      {
        name: 'picker',
        type: 'STATIC',
        connect_timeout: '5s',
        typed_extension_protocol_options: {
          'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': {
            '@type': type('envoy.extensions.upstreams.http.v3.HttpProtocolOptions'),
            explicit_http_config: { http2_protocol_options: {} },
          },
        },
        load_assignment: {
          cluster_name: 'picker',
          endpoints: [{ lb_endpoints: [{ endpoint: { address: address('127.0.0.1', epp.grpcPort) } }] }],
        },
      },
    ],
  },
});

interface Seen {
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
  readonly trailers: IncomingMessage['trailers'];
}
const seen: Seen[] = [];

async function text(message: IncomingMessage): Promise<string> {
  let body = '';
  for await (const chunk of message) body += String(chunk);
  return body;
}

interface Reply {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
  readonly trailers: IncomingMessage['trailers'];
}

function send(
  mode: Mode,
  options: {
    readonly path?: string;
    readonly body?: readonly string[];
    readonly headers?: Readonly<Record<string, string>>;
    readonly trailers?: Readonly<Record<string, string>>;
  } = {},
): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const isChunked = options.trailers !== undefined || (options.body?.length ?? 0) > 1;
    const length = options.body?.join('').length ?? 0;
    const outgoing = request({
      host,
      port: modes[mode],
      agent: false,
      method: options.body === undefined ? 'GET' : 'POST',
      path: options.path ?? '/v1/completions',
      headers: {
        'content-type': 'application/json',
        ...(isChunked ? { trailer: 'x-sum' } : options.body === undefined ? {} : { 'content-length': String(length) }),
        ...options.headers,
      },
    });
    outgoing.on('error', reject);
    outgoing.on('response', (incoming) => {
      text(incoming).then(
        (body) =>
          resolve({ status: incoming.statusCode ?? 0, headers: incoming.headers, body, trailers: incoming.trailers }),
        reject,
      );
    });
    for (const piece of options.body ?? []) outgoing.write(piece);
    if (options.trailers !== undefined) outgoing.addTrailers(options.trailers);
    outgoing.end();
  });
}

beforeAll(async () => {
  const { envoy: binary } = await findBinaries(['envoy'], localEnvironment, (line) =>
    process.stderr.write(`${line}\n`),
  );
  dir = await mkdtemp(join(tmpdir(), 'picker-modes-'));
  await writeFile(
    join(dir, 'endpoints.yaml'),
    JSON.stringify({ endpoints: [{ name: 'pod', address: host, port: String(backendPort) }] }),
  );
  const parsed = parseEppArgs(
    [
      ...['--pool-name=p', '--secure-serving=false', '--grpc-port=0', '--grpc-health-port=0', '--metrics-port=0'],
      ...['--pod-address=127.0.0.1', '--drain-timeout=100ms'],
    ],
    {},
  );
  if (parsed.kind !== 'config') throw new Error('help');
  const config = `apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: file-discovery, parameters: {path: ${join(dir, 'endpoints.yaml')}}}, {type: random-picker}]
dataLayer: {injectDefaults: false, discovery: {pluginRef: file-discovery}}
`;
  epp = await startEpp(parsed.config, parsePickerConfig(config, 'test'), { log: silentLogger });
  backend = createServer((incoming, outgoing) => {
    void text(incoming).then((body) => {
      seen.push({ headers: incoming.headers, body, trailers: incoming.trailers });
      const model = body.startsWith('{') ? (JSON.parse(body) as { model?: string }).model : undefined;
      const answer = JSON.stringify({ model, text: 'x'.repeat(100_000) });
      outgoing.writeHead(200, {
        'content-type': 'application/json',
        'set-cookie': ['a=1', 'b=2'],
        ...(incoming.headers['x-want'] === 'trailers'
          ? { trailer: 'x-end' }
          : { 'content-length': String(answer.length) }),
      });
      outgoing.write(answer);
      if (incoming.headers['x-want'] === 'trailers') outgoing.addTrailers({ 'x-end': 'yes' });
      outgoing.end();
    });
  });
  await new Promise<void>((resolve) => backend.listen(backendPort, host, resolve));
  await writeFile(join(dir, 'envoy.json'), JSON.stringify(bootstrap()));
  let log = '';
  envoy = spawn(binary, ['-c', join(dir, 'envoy.json'), '--concurrency', '1', '--use-dynamic-base-id', '-l', 'warn'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  envoy.stderr?.on('data', (chunk: Buffer) => {
    log += chunk;
  });
  await eventually(async () => {
    if (envoy?.exitCode !== null) throw new Error(`Envoy ended: ${log}`);
    await send('STREAMED');
  }, 60_000);
}, 600_000);

afterAll(async () => {
  if (envoy !== undefined && envoy.exitCode === null) {
    const gone = new Promise((resolve) => envoy?.once('exit', resolve));
    envoy.kill('SIGKILL');
    await gone;
  }
  await epp?.close();
  backend?.closeAllConnections();
  await new Promise((resolve) => backend?.close(resolve));
  await rm(dir, { recursive: true, force: true });
});

const prompt = JSON.stringify({ model: 'asked', n: 1.5, prompt: 'p'.repeat(90_000) });
const last = (): Seen => seen[seen.length - 1] ?? { headers: {}, body: '', trailers: {} };

describe.each(Object.keys(modes) as Mode[])('with bodies in mode %s', (mode) => {
  it('a request goes to its endpoint and its answer comes back whole, cookies and all', async () => {
    const reply = await send(mode, { body: [prompt], headers: { 'x-prefiller-host-port': '1.2.3.4:5' } });
    expect(reply.status).toBe(200);
    expect(last().body).toBe(prompt);
    expect(last().headers['x-prefiller-host-port']).toBeUndefined();
    expect(JSON.parse(reply.body)).toMatchObject({ model: 'asked' });
    expect(reply.headers['set-cookie']).toEqual(['a=1', 'b=2']);
    expect(reply.headers['x-went-into-resp-headers']).toBe('true');
  });

  it('so does one without a body', async () => {
    expect((await send(mode, { path: '/v1/models' })).status).toBe(200);
  });

  it('trailers of request and answer survive', async () => {
    const reply = await send(mode, {
      body: [prompt.slice(0, 40_000), prompt.slice(40_000)],
      trailers: { 'x-sum': '42' },
      headers: { 'x-want': 'trailers' },
    });
    expect(reply.status).toBe(200);
    expect(last().body).toBe(prompt);
    expect(last().trailers).toEqual({ 'x-sum': '42' });
    expect(reply.trailers).toEqual({ 'x-end': 'yes' });
  });

  it('a model is rewritten where the body is seen, and the answer names the one that was asked for', async () => {
    const reply = await send(mode, { body: [prompt], headers: { 'x-llm-d-model-name-rewrite': 'served-by-this-one' } });
    expect(reply.status).toBe(200);
    // STREAMED shows the body when its request has long been on the way.
    const served = mode === 'STREAMED' ? 'asked' : 'served-by-this-one';
    expect(last().body).toBe(prompt.replace('asked', served));
    expect(JSON.parse(reply.body)).toMatchObject({ model: 'asked' });
    expect(last().headers['x-llm-d-model-name-rewrite']).toBeUndefined();
  });

  it('what is wrong is told at once, where the body is seen', async () => {
    const reply = await send(mode, { body: ['{"prompt":"no model"}'] });
    expect(reply.status).toBe(mode === 'STREAMED' ? 200 : 400);
    if (mode !== 'STREAMED') expect(reply.body).toMatch(/model not found in request body/);
  });
});
