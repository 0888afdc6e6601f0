import { createServer, type IncomingMessage, type RequestListener, type Server, type ServerResponse } from 'node:http';
import type { Server as TlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { type Clock, systemClock } from '../clock.ts';
import { AppError, messageOf } from '../errors.ts';
import type { Client } from '../kube/client.ts';
import { errorBody } from '../openai/error-body.ts';
import { parseCompletionText, plainPath } from '../openai/request.ts';
import type { Logger } from '../telemetry/log.ts';
import { createSidecarMetrics } from '../telemetry/sidecar-metrics.ts';
import type { Tracing } from '../telemetry/tracing.ts';
import { startAllowList } from './allow-list-source.ts';
import { originForm, withoutPrivateFields } from './client-body.ts';
import type { SidecarConfig } from './config.ts';
import { decoderFailure } from './decode.ts';
import { isEngineHealthy, startEngineWatch } from './engine-watch.ts';
import {
  breakOff,
  ClientGone,
  Exchange,
  forwardedHeaders,
  isAnswered,
  passedBody,
  readBody,
  relay,
  sendError,
} from './forward.ts';
import { toHostPort } from './host-port.ts';
import { serveHttp2 } from './http2.ts';
import { createPipeline } from './pipeline.ts';
import { routeOf } from './routes.ts';
import { Sessions } from './sessions.ts';
import { createTrust, readServingCertificate, watchCertificates } from './tls.ts';
import { createPool, Pools } from './upstream-pools.ts';

export interface SidecarDeps {
  readonly log: Logger;
  /** Needed where a pool is watched: with SSRF protection, or to find prefill pods without a URL. */
  readonly client?: Client;
  readonly clock?: Clock;
  readonly random?: () => number;
  readonly tracing?: Tracing;
}

export interface Sidecar {
  /** `http(s)://address:port` that serves. */
  readonly url: string;
  readonly metricsUrl: string;
  /** Stops taking requests, lets streams finish for at most `drainTimeoutMs`, then ends them. */
  close(drainTimeoutMs?: number): Promise<void>;
}

/** Whether this configuration watches the pool, and so needs a Kubernetes client. */
export function needsKubernetes(config: SidecarConfig): boolean {
  return config.pool !== undefined && (config.isSsrfProtected || config.prefill.url === undefined);
}

const maxHeaderBytes = 64 * 1024;
const headersTimeoutMs = 30_000;
/** How often connections are looked at for a client that sends too slowly. */
const timeoutCheckMs = 5000;
/** Longest time for a client to send one request. */
const uploadTimeoutMs = 600_000;
/** Longer than gateways keep idle connections that they may use again. */
const keepAliveTimeoutMs = 300_000;

/**
 * Serves a decode pod's requests.
 *
 * @throws AppError `usage` when a port is taken or a certificate cannot be read
 */
export async function startSidecar(config: SidecarConfig, deps: SidecarDeps): Promise<Sidecar> {
  const { log } = deps;
  const clock = deps.clock ?? systemClock;
  let isDraining = false;
  let inFlight = 0;
  /** Those of them that came before draining began. */
  let early = 0;
  let onEarlyDone = () => {};
  const metrics = createSidecarMetrics({ inFlight: () => inFlight, sessions: () => sessions.size });
  const isTrusting = config.decoder.isTls || config.prefill.isTls || config.prefill.url?.protocol === 'https:';
  const trust = await createTrust(config.certPath, isTrusting || config.encode?.isTls === true);
  const shared = { trust, serverName: config.tlsServerName, maxConnections: config.maxConnections };
  const decoder = createPool(toHostPort(config.decoder.host, config.decoder.port), { ...shared, ...config.decoder });
  const prefillPools = new Pools({ ...shared, ...config.prefill });
  const encodePools = new Pools({ ...shared, ...(config.encode ?? config.prefill) });
  const sessions: Sessions = new Sessions({ ...config.sessions, clock, onEvict: () => metrics.sessionEvictions.inc() });

  const forget = (reason: 'refused' | 'restart' | 'reset') => {
    const count = sessions.clear();
    if (count === 0) return;
    metrics.sessionInvalidations.inc({ reason }, count);
    log.info({ reason, count }, 'the local engine lost its cache; its conversations are forgotten');
  };
  const engineWatch = config.sessions.policy === 'off' ? undefined : startEngineWatch(decoder, clock, forget);

  let allowList: ReturnType<typeof startAllowList> | undefined;
  if (config.pool && needsKubernetes(config)) {
    if (!deps.client) throw new AppError('usage', 'watching the inference pool needs access to Kubernetes');
    allowList = startAllowList(deps.client, config.pool, {
      log,
      onChange: (allowed) => metrics.allowedTargets.set(allowed.size),
    });
  }

  const pipeline = createPipeline({
    config,
    decoder,
    prefillPools,
    encodePools,
    sessions,
    allowList,
    metrics,
    log,
    clock,
    random: deps.random ?? Math.random,
    tracing: deps.tracing,
    onDecoderRefused: () => forget('refused'),
  });

  const counters = new Map<string, { inc(): void }>();
  const count = (kind: string, code: number) => {
    const key = `${kind}${code}`;
    let counter = counters.get(key);
    if (!counter) {
      counter = metrics.requests.labels(kind, String(code));
      counters.set(key, counter);
    }
    counter.inc();
  };

  const passThrough = async (exchange: Exchange, isGuarded: boolean) => {
    const { req, res } = exchange;
    try {
      const body = isGuarded ? guardedBody(await readBody(req, config.maxRequestBytes)) : await passedBody(req);
      const headers = forwardedHeaders(req);
      // A streamed body keeps the length that the client declared.
      if (body !== null && !Buffer.isBuffer(body) && req.headers['content-length'] !== undefined) {
        headers.push('content-length', req.headers['content-length']);
      }
      const hop = {
        method: req.method ?? 'GET',
        path: originForm(req.url ?? '/'),
        headers,
        body,
        headersTimeoutMs: config.decoder.timeoutMs,
      };
      relay(decoder, hop, exchange, {
        extra: {},
        onDone: (status) => {
          if (status < 300 && req.method === 'POST' && emptiesCache(req.url ?? '/')) forget('reset');
        },
        onFailed: (error, isStarted) => {
          if (exchange.isGone) return;
          const { requestId } = exchange;
          const failure = decoderFailure(error, requestId, {
            config,
            metrics,
            log,
            onDecoderRefused: () => forget('refused'),
          });
          if (isStarted) breakOff(res);
          else sendError(res, failure.status, failure.message);
        },
      });
    } catch (thrown) {
      if (thrown instanceof ClientGone || exchange.isGone) return;
      const error = AppError.from(thrown);
      if (error.code === 'internal') log.error({ err: thrown, requestId: exchange.requestId }, 'a request failed');
      sendError(res, error.http, error.code === 'internal' ? 'the routing sidecar failed' : error.message, {
        headers: error.code === 'tooLarge' ? { connection: 'close' } : {},
      });
    }
  };

  /** The answer that is under way on a connection. */
  const answers = new WeakMap<object, ServerResponse>();
  const listener: RequestListener = (req: IncomingMessage, res: ServerResponse) => {
    const route = routeOf(req.method ?? 'GET', req.url ?? '/');
    if (isDraining && req.httpVersionMajor === 1) res.shouldKeepAlive = false;
    if (req.httpVersionMajor === 2 && guardHttp2(req, res) === 'refused') return;
    switch (route.kind) {
      case 'health':
        sendText(res, 200, 'ok\n');
        return;
      case 'ready':
        void readiness().then((why) => sendText(res, why === undefined ? 200 : 503, `${why ?? 'ok'}\n`));
        return;
      case 'completion':
      case 'guarded':
      case 'passthrough': {
        inFlight++;
        const isEarly = !isDraining;
        if (isEarly) early++;
        const kind = route.kind === 'completion' ? 'completion' : 'passthrough';
        answers.set(req.socket, res);
        res.on('close', () => {
          if (answers.get(req.socket) === res) answers.delete(req.socket);
          inFlight--;
          if (isEarly && --early === 0) onEarlyDone();
          count(kind, isAnswered(res) ? res.statusCode : 499);
        });
        const exchange = new Exchange(req, res);
        void (route.kind === 'completion'
          ? pipeline.serve(route, exchange)
          : passThrough(exchange, route.kind === 'guarded'));
      }
    }
  };

  /** Why this sidecar should not get requests, or undefined. */
  const readiness = async (): Promise<string | undefined> => {
    if (isDraining) return 'draining';
    if (allowList && !allowList.isSynced) return 'the prefill pods of the inference pool are not listed yet';
    return (await isEngineHealthy(decoder)) ? undefined : 'the local engine is not healthy';
  };

  const serverOptions = {
    maxHeaderSize: maxHeaderBytes,
    headersTimeout: headersTimeoutMs,
    keepAliveTimeout: keepAliveTimeoutMs,
    requestTimeout: uploadTimeoutMs,
    connectionsCheckingInterval: timeoutCheckMs,
    noDelay: true,
  };
  let server: Server | TlsServer;
  let tlsServer: TlsServer | undefined;
  if (config.isSecure && config.certPath !== undefined) {
    tlsServer = await createTls(config.certPath, serverOptions, listener);
    server = tlsServer;
  } else server = createServer(serverOptions, listener);
  const certificateWatch =
    config.certPath === undefined ? undefined : watchCertificates(config.certPath, { server: tlsServer, trust }, log);
  const http2 = serveHttp2(
    server,
    tlsServer ? 'secureConnection' : 'connection',
    { maxHeaderBytes, headersTimeoutMs, idleTimeoutMs: keepAliveTimeoutMs },
    listener,
  );
  server.on('clientError', (error: NodeJS.ErrnoException, socket: Duplex) => {
    if (answers.get(socket)?.headersSent || !socket.writable || error.code === 'ECONNRESET') socket.destroy();
    else refuseMalformed(socket, error.code);
  });
  const own = createServer({ headersTimeout: headersTimeoutMs }, (req, res) => void serveOwn(req, res));

  const startedAt = clock.now().toString(36);
  /** For pickers, which ask again and again: nothing is sent when nothing has changed. */
  const serveSessionKeys = (req: IncomingMessage, res: ServerResponse) => {
    const etag = `"${startedAt}-${sessions.version}"`;
    const isKnown = req.headers['if-none-match'] === etag;
    const text = isKnown ? '' : sessions.publicKeys(maxPublicKeys).join('\n');
    res.writeHead(isKnown ? 304 : 200, { etag, 'content-type': 'text/plain', 'content-length': text.length });
    res.end(text);
  };

  const serveOwn = async (req: IncomingMessage, res: ServerResponse) => {
    const path = (req.url ?? '/').split('?')[0];
    if (req.method !== 'GET') sendText(res, 405, 'only GET is served here\n');
    else if (path === '/metrics') {
      const text = await metrics.registry.metrics();
      res.writeHead(200, { 'content-type': metrics.registry.contentType });
      res.end(text);
    } else if (path === '/debug/sessions') {
      res.writeHead(200, { 'content-type': 'application/json' });
      res.end(`${JSON.stringify({ max: config.sessions.maxEntries, sessions: sessions.view() })}\n`);
    } else if (path === '/sessions') serveSessionKeys(req, res);
    else if (path === '/health') sendText(res, 200, 'ok\n');
    else sendText(res, 404, 'try /metrics, /sessions, /debug/sessions or /health\n');
  };

  const release = async () => {
    engineWatch?.close();
    allowList?.close();
    certificateWatch?.close();
    await Promise.all([decoder.destroy(), prefillPools.close(), encodePools.close()]);
  };

  try {
    await listen(server, config.port, config.listenAddress, '--port');
    await listen(own, config.metricsPort, config.listenAddress, '--metrics-port');
  } catch (thrown) {
    server.close();
    own.close();
    http2.close();
    await release();
    throw thrown;
  }
  const url = urlOf(server, config.isSecure ? 'https' : 'http', config.listenAddress);
  const metricsUrl = urlOf(own, 'http', config.listenAddress);
  log.info({ url, metricsUrl, decoder: toHostPort(config.decoder.host, config.decoder.port) }, 'listening');

  return {
    url,
    metricsUrl,
    async close(drainTimeoutMs = config.drainTimeoutMs) {
      isDraining = true;
      const abort = new AbortController();
      const deadline = clock.sleep(drainTimeoutMs, abort.signal).catch(() => {});
      // While there is something to wait for, /ready says why, and what still comes is served.
      if (early > 0) {
        const earlyDone = new Promise<void>((resolve) => {
          onEarlyDone = resolve;
        });
        await Promise.race([earlyDone, deadline]);
      }
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeIdleConnections();
      http2.drain();
      await Promise.race([closed, deadline]);
      abort.abort();
      if (inFlight > 0) log.warn({ inFlight }, 'the drain time is over; requests are cut');
      server.closeAllConnections();
      http2.close();
      await closed;
      await release();
      await new Promise<void>((resolve) => {
        own.close(() => resolve());
        own.closeAllConnections();
      });
    },
  };
}

/** What Node does for a request of HTTP/1.1: no CONNECT, and an end to an upload that takes too long. */
function guardHttp2(req: IncomingMessage, res: ServerResponse): 'refused' | undefined {
  if (req.method === 'CONNECT') {
    sendError(res, 405, 'CONNECT is not served here');
    return 'refused';
  }
  const { stream } = req as IncomingMessage & { readonly stream?: { readonly endAfterHeaders: boolean } };
  if (stream?.endAfterHeaders) return undefined;
  const timer = setTimeout(() => sendError(res, 408, 'the request was not sent in time'), uploadTimeoutMs);
  timer.unref();
  for (const event of ['end', 'aborted', 'close']) req.once(event, () => clearTimeout(timer));
  return undefined;
}

/** Answers what is no HTTP request, and ends its connection: what follows on it cannot be told apart. */
function refuseMalformed(socket: Duplex, code: string | undefined): void {
  const [status, reason, message] =
    code === 'HPE_HEADER_OVERFLOW'
      ? [431, 'Request Header Fields Too Large', `the request's headers are larger than ${maxHeaderBytes} bytes`]
      : code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? [408, 'Request Timeout', 'the request was not sent in time']
        : [400, 'Bad Request', `the request is not valid HTTP/1.1 (${code ?? 'unknown'})`];
  const body = JSON.stringify(errorBody(status, message));
  socket.end(
    `HTTP/1.1 ${status} ${reason}\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
  );
  // A client that sends on and reads nothing keeps no connection.
  setTimeout(() => socket.destroy(), refusedLingerMs).unref();
}

/** Keys of conversations told to a picker at most, the latest ones: 170 KB. */
const maxPublicKeys = 10_000;

const refusedLingerMs = 1000;

/** Paths after which an engine has lost cached blocks: of all conversations, or of an adapter's. */
const emptyingPaths = ['/reset_prefix_cache', '/sleep', '/v1/unload_lora_adapter', '/v1/load_lora_adapter'] as const;

function emptiesCache(url: string): boolean {
  const path = plainPath(url);
  return emptyingPaths.some((end) => path.endsWith(end));
}

/** A completion's body on a path that is none of the APIs': nothing in it may tell the engine where to fetch KV blocks. */
function guardedBody(bytes: Buffer): Buffer {
  if (bytes.length === 0) return bytes;
  const text = bytes.toString('utf8');
  const clean = withoutPrivateFields(parseCompletionText('chat', text), text);
  return clean === undefined ? bytes : Buffer.from(clean);
}

async function createTls(dir: string, options: object, listener: RequestListener): Promise<TlsServer> {
  const certificate = readServingCertificate(dir);
  const { createServer: createTlsServer } = await import('node:https');
  const protocols = { minVersion: 'TLSv1.2', ALPNProtocols: ['h2', 'http/1.1'] } as const;
  try {
    return createTlsServer({ ...options, ...certificate, ...protocols }, listener);
  } catch (thrown) {
    throw new AppError('usage', `--cert-path: tls.crt and tls.key in ${dir} cannot be used: ${messageOf(thrown)}`, {
      cause: thrown,
    });
  }
}

function sendText(res: ServerResponse, status: number, text: string): void {
  res.writeHead(status, { 'content-type': 'text/plain', 'content-length': Buffer.byteLength(text) });
  res.end(text);
}

function listen(server: Server | TlsServer, port: number, address: string | undefined, flag: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error) =>
      reject(
        new AppError(
          'usage',
          `${flag}: cannot listen on ${address ?? '*'}:${port}: ${messageOf(error)}; choose another`,
          {
            cause: error,
          },
        ),
      ),
    );
    server.listen({ port, ...(address === undefined ? {} : { host: address }), backlog: 4096 }, () => {
      server.removeAllListeners('error');
      server.on('error', () => {});
      resolve();
    });
  });
}

function urlOf(server: Server | TlsServer, scheme: string, address: string | undefined): string {
  const bound = server.address() as AddressInfo;
  return `${scheme}://${toHostPort(address ?? '127.0.0.1', bound.port)}`;
}
