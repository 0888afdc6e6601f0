import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Registry } from 'prom-client';
import { AppError, messageOf } from '../errors.ts';

/** Serves `GET /metrics`. Rejects with AppError `unavailable` when the port cannot be had. */
export async function startMetricsServer(options: {
  readonly registry: Registry;
  readonly address: string | undefined;
  readonly port: number;
}): Promise<{ readonly port: number; close(): Promise<void> }> {
  const { registry, address, port } = options;
  const server = createServer((request, response) => {
    const path = (request.url ?? '').split('?')[0];
    if (path !== '/metrics' || (request.method !== 'GET' && request.method !== 'HEAD')) {
      response.writeHead(404, { 'content-type': 'text/plain' }).end('metrics are at GET /metrics\n');
      return;
    }
    registry.metrics().then(
      (page) => response.writeHead(200, { 'content-type': registry.contentType }).end(page),
      (thrown) => response.writeHead(500, { 'content-type': 'text/plain' }).end(`${messageOf(thrown)}\n`),
    );
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      const where = `${address ?? '*'}:${port}`;
      reject(new AppError('unavailable', `cannot listen on ${where}: ${messageOf(error)}`, { cause: error }));
    });
    server.listen({ port, ...(address === undefined ? {} : { host: address }) }, resolve);
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
