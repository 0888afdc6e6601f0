import { createReadStream } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { Clock } from '../../clock.ts';
import { AppError } from '../../errors.ts';
import { containerLogPath, readTail } from './container-log.ts';

/** What the API server asks a node for on behalf of `kubectl logs`: the one part of a kubelet's API that is here. */

/** Files of the node's serving certificate, and of the authority that signs the API server's own. */
export interface KubeletCertificates {
  readonly certificateFile: string;
  readonly keyFile: string;
  readonly clientCaFile: string;
}

export interface LogServer {
  readonly port: number;
  close(): Promise<void>;
}

/** A log of which no bound is asked is still read in one go up to here. */
const maxTailBytes = 64 * 2 ** 20;
const pollMs = 200;

/**
 * Serves `GET /containerLogs/NAMESPACE/POD/CONTAINER` with `follow`, `tailLines` and `limitBytes`; other parameters are not
 * known to it. Only who shows a certificate of the cluster's authority is answered.
 *
 * @param isRunning whether the pod still runs here: following its log ends with it
 */
export async function startLogServer(options: {
  readonly host: string;
  readonly stateDir: string;
  readonly certificates: KubeletCertificates;
  readonly isRunning: (namespace: string, pod: string) => boolean;
  readonly clock: Clock;
}): Promise<LogServer> {
  const { certificates, host } = options;
  const closing = new AbortController();
  const [cert, key, ca] = await Promise.all(
    [certificates.certificateFile, certificates.keyFile, certificates.clientCaFile].map((file) => readFile(file)),
  );
  const server = createServer(
    { cert, key, ca, requestCert: true, rejectUnauthorized: true, requestTimeout: 10_000 },
    (request, response) => {
      void serve(request, response, options, closing.signal).catch((thrown: unknown) => {
        const error = AppError.from(thrown);
        if (response.headersSent) response.destroy();
        else response.writeHead(error.http, { 'content-type': 'text/plain' }).end(error.message);
      });
    },
  );
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, host, resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    close: () => {
      closing.abort();
      server.closeAllConnections();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}

async function serve(
  request: IncomingMessage,
  response: ServerResponse,
  { stateDir, isRunning, clock }: Parameters<typeof startLogServer>[0],
  closing: AbortSignal,
): Promise<void> {
  const url = new URL(request.url ?? '/', 'https://node');
  const name = '([a-z0-9][-a-z0-9.]*)';
  const [, namespace, pod, container] = new RegExp(`^/containerLogs/${name}/${name}/${name}$`).exec(url.pathname) ?? [];
  if (request.method !== 'GET' || !namespace || !pod || !container)
    throw new AppError('notFound', `${request.method} ${url.pathname}: this node only serves logs`);
  if (url.searchParams.get('previous') === 'true')
    throw new AppError('invalid', `the log of ${container} holds all its runs: leave --previous out`);
  const path = containerLogPath(stateDir, namespace, pod, container);
  const before = await stat(path).catch(() => undefined);
  if (!before)
    throw new AppError('notFound', `container ${container} of pod ${namespace}/${pod} has not printed anything here`);
  const tailLines = numberOf(url, 'tailLines');
  const limitBytes = numberOf(url, 'limitBytes') ?? maxTailBytes;
  const whole = await readTail(path, maxTailBytes);
  const text = Buffer.from(tailLines === undefined ? whole : lastLinesOf(whole, tailLines)).subarray(0, limitBytes);
  response.writeHead(200, { 'content-type': 'text/plain' });
  if (url.searchParams.get('follow') !== 'true') return void response.end(text);
  response.write(text);
  await follow(path, before.size, response, () => isRunning(namespace, pod) && !closing.aborted, clock);
}

/** Sends what a file grows by until nobody listens or `goesOn` says no. A file that shrank was emptied: it is read from its start. */
async function follow(
  path: string,
  from: number,
  response: ServerResponse,
  goesOn: () => boolean,
  clock: Clock,
): Promise<void> {
  let sent = from;
  for (;;) {
    // Looked at before the size: what is printed last is still sent.
    const isLast = !goesOn();
    const size = (await stat(path).catch(() => undefined))?.size ?? 0;
    if (size < sent) sent = 0;
    if (size > sent) {
      for await (const chunk of createReadStream(path, { start: sent, end: size - 1 })) response.write(chunk);
      sent = size;
    }
    if (isLast || response.destroyed) break;
    await clock.sleep(pollMs);
  }
  response.end();
}

function numberOf(url: URL, name: string): number | undefined {
  const text = url.searchParams.get(name);
  if (text === null) return undefined;
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0)
    throw new AppError('invalid', `${name} ${text}: must be a whole number from 0`);
  return value;
}

function lastLinesOf(text: string, count: number): string {
  if (count === 0) return '';
  const end = text.endsWith('\n') ? text.length - 1 : text.length;
  let start = end;
  for (let lines = 0; lines < count && start > 0; lines++) start = text.lastIndexOf('\n', start - 1);
  return text.slice(start <= 0 ? 0 : start + 1);
}
