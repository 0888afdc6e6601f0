import { once } from 'node:events';
import {
  createServer,
  request as httpRequest,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type OutgoingHttpHeaders,
  type Server,
  type ServerResponse,
} from 'node:http';
import { createServer as createTlsServer, request as httpsRequest } from 'node:https';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { parseSidecarConfig } from '../../src/sidecar/config.ts';
import { toHostPort } from '../../src/sidecar/host-port.ts';
import { type Sidecar, type SidecarDeps, startSidecar } from '../../src/sidecar/start.ts';
import { silentLogger } from '../../src/telemetry/log.ts';

/** A sidecar and engines that say what they got, on loopback. */

/** What is closed after each test, newest first. */
export const closers: (() => unknown)[] = [];
/** For `afterEach`. */
export async function closeAll(): Promise<void> {
  for (const close of closers.splice(0).reverse()) await close();
}

export interface Seen {
  readonly method: string;
  readonly url: string;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: bodies are asserted on field by field
  readonly body: any;
  readonly aborted: Promise<void>;
}

export type Behaviour = (res: ServerResponse, seen: Seen, req: IncomingMessage) => void;

/** An engine that records what it gets and answers as told. */
export async function engine(
  behaviour: Behaviour,
  options?: { readonly tls: { cert: string; key: string } },
  address = '127.0.0.1',
) {
  const seen: Seen[] = [];
  const listener = (req: IncomingMessage, res: ServerResponse) => {
    const chunks: Buffer[] = [];
    req.on('data', (chunk: Buffer) => chunks.push(chunk));
    req.on('end', () => {
      const text = Buffer.concat(chunks).toString();
      const one: Seen = {
        method: req.method ?? '',
        url: req.url ?? '',
        headers: req.headers,
        text,
        body: text.startsWith('{') ? JSON.parse(text) : undefined,
        aborted: new Promise((resolve) => res.on('close', () => res.writableFinished || resolve())),
      };
      if (req.url === '/health' || (req.url === '/metrics' && req.method === 'HEAD')) {
        res.end();
        return;
      }
      seen.push(one);
      behaviour(res, one, req);
    });
  };
  const server: Server = options ? createTlsServer(options.tls, listener) : createServer(listener);
  server.listen(0, address);
  await once(server, 'listening');
  const close = async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  };
  closers.push(close);
  const { port } = server.address() as AddressInfo;
  return { seen, port, hostPort: toHostPort(address, port), close, server };
}

export const json = (res: ServerResponse, body: unknown, status = 200) => {
  res.writeHead(status, { 'content-type': 'application/json' });
  res.end(JSON.stringify(body));
};

export const kvParams = {
  do_remote_prefill: true,
  do_remote_decode: false,
  remote_block_ids: [[1, 2, 3]],
  remote_engine_id: 'engine-1',
  remote_request_id: 'req-1',
  remote_host: '10.0.0.1',
  remote_port: 5600,
  tp_size: 1,
};
export const usage = (cached: number | null, prompt = 8) => ({
  prompt_tokens: prompt,
  completion_tokens: 4,
  total_tokens: prompt + 4,
  prompt_tokens_details: cached === null ? null : { cached_tokens: cached },
});
export const prefills: Behaviour = (res) =>
  json(res, {
    choices: [{ index: 0, message: { role: 'assistant', content: 'H' }, finish_reason: 'length' }],
    usage: usage(3),
    kv_transfer_params: kvParams,
  });
/** Answers as vLLM does: events when asked for a stream. */
export const decodes =
  (answer = 'Hi! How can I help?', cached: number | null = 8, prompt = 8): Behaviour =>
  (res, { body }) => {
    if (body?.stream !== true) {
      json(res, {
        choices: [{ index: 0, message: { role: 'assistant', content: answer }, finish_reason: 'stop' }],
        usage: usage(cached, prompt),
      });
      return;
    }
    res.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
    for (const piece of answer.match(/.{1,4}/g) ?? []) {
      res.write(`data: ${JSON.stringify({ choices: [{ index: 0, delta: { content: piece } }] })}\n\n`);
    }
    res.write(`data: ${JSON.stringify({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] })}\n\n`);
    res.write(`data: ${JSON.stringify({ choices: [], usage: usage(cached, prompt) })}\n\n`);
    res.end('data: [DONE]\n\n');
  };

export async function sidecar(
  decoderPort: number,
  flags: readonly string[] = [],
  deps: Partial<SidecarDeps> = {},
): Promise<Sidecar> {
  const parsed = parseSidecarConfig(
    [
      '--port=0',
      '--metrics-port=0',
      '--pod-address=127.0.0.1',
      '--pod-name=decode-0',
      `--decoder-port=${decoderPort}`,
      '--prefill-retry-backoff=5ms',
      ...flags,
    ],
    {},
  );
  if (parsed.kind !== 'config') throw new Error('help');
  const started = await startSidecar(parsed.config, { log: silentLogger, ...deps });
  closers.push(() => started.close(0));
  return started;
}

export interface Got {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: bodies are asserted on field by field
  readonly body: any;
  /** The answer broke off before its end. */
  readonly isCut: boolean;
}

export function call(
  base: string,
  path: string,
  options: { method?: string; headers?: OutgoingHttpHeaders; body?: unknown; ca?: string } = {},
): Promise<Got> {
  return new Promise((resolve, reject) => {
    const body =
      options.body === undefined || typeof options.body === 'string' || Buffer.isBuffer(options.body)
        ? options.body
        : JSON.stringify(options.body);
    const send = base.startsWith('https') ? httpsRequest : httpRequest;
    const req = send(
      `${base}${path}`,
      {
        method: options.method ?? (body === undefined ? 'GET' : 'POST'),
        headers: options.headers,
        agent: false,
        ...(options.ca ? { ca: options.ca } : {}),
      },
      (res) => {
        const chunks: Buffer[] = [];
        res.on('data', (chunk: Buffer) => chunks.push(chunk));
        res.on('error', () => {});
        res.on('close', () => {
          const text = Buffer.concat(chunks).toString();
          let parsed: unknown;
          try {
            parsed = JSON.parse(text);
          } catch {
            parsed = undefined;
          }
          resolve({ status: res.statusCode ?? 0, headers: res.headers, text, body: parsed, isCut: !res.complete });
        });
      },
    );
    req.on('error', reject);
    req.end(body);
  });
}

/** As `call`, with a request target that URL parsers would change. */
export async function callRaw(base: string, target: string, body: string): Promise<{ readonly status: number }> {
  const { hostname, port } = new URL(base);
  const req = httpRequest({ hostname, port, path: target, method: 'POST', agent: false });
  req.end(body);
  const [res] = (await once(req, 'response')) as [IncomingMessage];
  res.resume();
  await once(res, 'end');
  return { status: res.statusCode ?? 0 };
}

export const chat = '/v1/chat/completions';
export const hello = { model: 'm', messages: [{ role: 'user', content: 'Hello!' }] };
export const followUp = {
  model: 'm',
  messages: [
    { role: 'user', content: 'Hello!' },
    { role: 'assistant', content: 'Hi! How can I help?' },
    { role: 'user', content: "What's 2+2?" },
  ],
};
export const metricsOf = async (started: Sidecar) => (await call(started.metricsUrl, '/metrics')).text;
/** A port on which nothing listens. */
export const deadPort = async () => {
  const server = createTcpServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
};
