import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { AppError, messageOf } from '../errors.ts';

/** Undefined when well, otherwise why not. */
export type HealthCheck = () => string | undefined | Promise<string | undefined>;

export interface HealthOptions {
  /** Undefined: all interfaces. */
  readonly host?: string;
  /** 0 picks a free one. */
  readonly port: number;
  /** Named checks of /readyz. */
  readonly ready?: Readonly<Record<string, HealthCheck>>;
  /** Named checks of /healthz: failing them gets the process restarted, so only for what a restart mends. */
  readonly alive?: Readonly<Record<string, HealthCheck>>;
  /** Served under /metrics where given; prom-client's Registry fits. */
  readonly metrics?: { readonly contentType: string; metrics(): Promise<string> };
}

export interface HealthServer {
  readonly port: number;
  close(): Promise<void>;
}

const checkTimeoutMs = 2_000;

/** Answers /healthz, /readyz and /metrics over plain HTTP. Errors: `unavailable` when the port is taken. */
export async function startHealthServer(options: HealthOptions): Promise<HealthServer> {
  const answer = async (path: string, response: ServerResponse): Promise<void> => {
    switch (path) {
      case '/healthz':
      case '/livez':
        return sendChecks(response, options.alive ?? {});
      case '/readyz':
        return sendChecks(response, options.ready ?? {});
      case '/metrics':
        if (options.metrics) {
          const text = await options.metrics.metrics();
          return send(response, 200, text, options.metrics.contentType);
        }
    }
    return send(response, 404, `no ${path} here\n`);
  };
  const server = createServer((request, response) => {
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      send(response, 405, 'only GET is answered\n');
      return;
    }
    const path = (request.url ?? '/').split('?')[0] ?? '/';
    answer(path, response).catch((thrown: unknown) => {
      if (!response.headersSent) send(response, 500, `${messageOf(thrown)}\n`);
      else response.destroy();
    });
  });
  server.requestTimeout = 10_000;
  server.headersTimeout = 5_000;
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      reject(
        new AppError('unavailable', `cannot listen on ${options.host ?? ''}:${options.port}: ${error.message}`, {
          cause: error,
        }),
      );
    });
    server.listen({ port: options.port, ...(options.host ? { host: options.host } : {}) }, () => resolve());
  });
  return {
    port: (server.address() as AddressInfo).port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** One line per check, as the API server's own endpoints write them. */
async function sendChecks(response: ServerResponse, checks: Readonly<Record<string, HealthCheck>>): Promise<void> {
  const results = await Promise.all(
    Object.entries(checks).map(async ([name, check]) => ({ name, why: await runCheck(check) })),
  );
  const isWell = results.every(({ why }) => why === undefined);
  if (isWell) return send(response, 200, 'ok\n');
  const lines = results.map(({ name, why }) => (why === undefined ? `[+] ${name} ok` : `[-] ${name}: ${why}`));
  send(response, 503, `${lines.join('\n')}\n`);
}

async function runCheck(check: HealthCheck): Promise<string | undefined> {
  let timer: NodeJS.Timeout | undefined;
  try {
    return await Promise.race([
      Promise.resolve(check()),
      new Promise<string>((resolve) => {
        timer = setTimeout(() => resolve(`no answer within ${checkTimeoutMs} ms`), checkTimeoutMs);
      }),
    ]);
  } catch (thrown) {
    return messageOf(thrown);
  } finally {
    clearTimeout(timer);
  }
}

function send(response: ServerResponse, status: number, text: string, contentType = 'text/plain; charset=utf-8'): void {
  response.writeHead(status, { 'content-type': contentType, 'content-length': Buffer.byteLength(text) });
  response.end(text);
}
