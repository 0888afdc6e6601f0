import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createSecureServer, type Server as SecureServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { Registry } from 'prom-client';
import { AppError, messageOf } from '../errors.ts';
import { errorBody } from '../openai/error-body.ts';
import type { DebugAnswer } from './explain.ts';
import { renderOldNames } from './legacy-metrics.ts';
import type { MetricsAuth } from './metrics-auth.ts';

/** Answers a call of `/debug/explain`; an AppError that it throws becomes its HTTP status. */
export type DebugHandler = (call: {
  readonly method: string;
  readonly query: URLSearchParams;
  readonly body: Buffer;
}) => Promise<DebugAnswer>;

export interface MetricsTls {
  readonly cert: string | Buffer;
  readonly key: string | Buffer;
  /** Authorities of the certificates that callers have to show; none is asked for when absent. */
  readonly ca?: string | Buffer;
}

function withClients(tls: MetricsTls) {
  return tls.ca === undefined ? tls : { ...tls, requestCert: true, rejectUnauthorized: true };
}

const bodyTimeoutMs = 10_000;

/** Serves `GET /metrics`, `/debug/explain` and `/debug/plugins/state`. Rejects with AppError `unavailable` when the port cannot be had. */
export async function startMetricsServer(options: {
  readonly registry: Registry;
  /** Also under the names of before. */
  readonly hasOldNames: boolean;
  readonly explain: DebugHandler;
  /** What each plugin knows at the moment, by its name. */
  readonly pluginState: () => Readonly<Record<string, unknown>>;
  readonly maxBodyBytes: number;
  /** Lets a caller pass or rejects; everybody passes without. */
  readonly auth?: MetricsAuth;
  readonly tls?: MetricsTls;
  readonly address: string | undefined;
  readonly port: number;
}): Promise<{ readonly port: number; setTls(tls: MetricsTls): void; close(): Promise<void> }> {
  const { registry, address, port } = options;

  const answer = async (request: IncomingMessage): Promise<DebugAnswer> => {
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://localhost');
    const method = request.method ?? 'GET';
    await options.auth?.(request.headers.authorization, pathname);
    const isRead = method === 'GET' || method === 'HEAD';
    if (pathname === '/metrics' && isRead) {
      const old = options.hasOldNames ? await renderOldNames(registry) : '';
      return { status: 200, contentType: registry.contentType, body: (await registry.metrics()) + old };
    }
    if (pathname === '/debug/plugins/state' && isRead) {
      const body = `${JSON.stringify(options.pluginState(), null, 2)}\n`;
      return { status: 200, contentType: 'application/json', body };
    }
    if (pathname === '/debug/explain' && (isRead || method === 'POST')) {
      const body = isRead ? Buffer.alloc(0) : await readBody(request, options.maxBodyBytes);
      return options.explain({ method, query: searchParams, body });
    }
    const body =
      'metrics are at GET /metrics, choices at GET and POST /debug/explain, plugins at GET /debug/plugins/state\n';
    return { status: 404, contentType: 'text/plain', body };
  };

  const serve = (request: IncomingMessage, response: ServerResponse): void => {
    answer(request).then(
      (given) => send(response, given),
      (thrown) => {
        const error = AppError.from(thrown);
        const body = `${JSON.stringify(errorBody(error.http, error.message))}\n`;
        if (error.code === 'unauthorized') response.setHeader('www-authenticate', 'Bearer');
        send(response, { status: error.http, contentType: 'application/json', body });
      },
    );
  };
  const secure: SecureServer | undefined =
    options.tls && createSecureServer({ requestTimeout: bodyTimeoutMs, ...withClients(options.tls) }, serve);
  const server = secure ?? createServer({ requestTimeout: bodyTimeoutMs }, serve);
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      const where = `${address ?? '*'}:${port}`;
      reject(new AppError('unavailable', `cannot listen on ${where}: ${messageOf(error)}`, { cause: error }));
    });
    server.listen({ port, ...(address === undefined ? {} : { host: address }) }, resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    setTls: (tls) => secure?.setSecureContext(tls),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function send(response: ServerResponse, { status, contentType, body }: DebugAnswer): void {
  response.writeHead(status, { 'content-type': contentType }).end(body);
}

async function readBody(request: IncomingMessage, maxBytes: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > maxBytes) throw new AppError('tooLarge', `the request is larger than ${maxBytes} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, size);
}
