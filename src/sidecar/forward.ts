import { randomUUID } from 'node:crypto';
import { type IncomingMessage, type ServerResponse, STATUS_CODES } from 'node:http';
import { PassThrough, type Readable } from 'node:stream';
import type { Dispatcher, Pool } from 'undici';
import { AppError } from '../errors.ts';
import { errorBody } from '../openai/error-body.ts';

/** One call: what goes out. Headers are a flat list of names and values. */
export interface Hop {
  readonly method: string;
  readonly path: string;
  readonly headers: readonly string[];
  readonly body: Buffer | string | Readable | null;
  /** Longest wait for the answer's head. */
  readonly headersTimeoutMs: number;
}

/** What arrived, whole. */
export interface Collected {
  readonly status: number;
  readonly headers: IncomingHeaders;
  readonly body: Buffer;
}

export type IncomingHeaders = Readonly<Record<string, string | string[] | undefined>>;

export type FailureKind = 'refused' | 'timeout' | 'reset' | 'gone' | 'request' | 'other';

/** Why a call failed, told apart by what can be done about it. */
export function failureKindOf(error: unknown): FailureKind {
  const code = (error as { readonly code?: unknown } | null)?.code;
  switch (code) {
    case 'ECONNREFUSED':
    case 'EHOSTUNREACH':
    case 'ENETUNREACH':
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return 'refused';
    case 'UND_ERR_CONNECT_TIMEOUT':
    case 'UND_ERR_HEADERS_TIMEOUT':
    case 'UND_ERR_BODY_TIMEOUT':
    case 'ETIMEDOUT':
    case 'timeout':
      return 'timeout';
    case 'ECONNRESET':
    case 'EPIPE':
    case 'UND_ERR_SOCKET':
      return 'reset';
    case 'UND_ERR_INVALID_ARG':
    case 'UND_ERR_NOT_SUPPORTED':
      return 'request';
    default:
      return error instanceof ClientGone ? 'gone' : 'other';
  }
}

/** The reason of every abort that follows the client's leaving. */
export class ClientGone extends Error {
  constructor() {
    super('the client closed the connection');
    this.name = 'ClientGone';
  }
}

/** One request from the client and what is under way for it: when the client leaves, that ends. */
export class Exchange {
  readonly req: IncomingMessage;
  readonly res: ServerResponse;
  readonly startedMs: number;
  #isGone = false;
  #requestId: string | undefined;
  /** Ends what is under way; at most one thing is. */
  #cancel: ((reason: Error) => void) | undefined;

  constructor(req: IncomingMessage, res: ServerResponse) {
    this.req = req;
    this.res = res;
    this.startedMs = performance.now();
    res.on('close', () => {
      if (isAnswered(res)) return;
      this.#isGone = true;
      this.#cancel?.(new ClientGone());
    });
  }

  /** The request's name in logs, traces and towards engines: the first `x-request-id`, or one of our own. */
  get requestId(): string {
    if (this.#requestId === undefined) {
      const given = this.req.headers['x-request-id'];
      const first = typeof given === 'string' ? (given.split(',')[0] ?? '').trim() : '';
      this.#requestId = first === '' ? randomUUID() : first;
    }
    return this.#requestId;
  }

  get isGone(): boolean {
    return this.#isGone;
  }

  /** Ends what is under way, for another reason than the client's. False when nothing could be ended. */
  cancel(reason: Error): boolean {
    this.#cancel?.(reason);
    return this.#cancel !== undefined;
  }

  /** Registers how to end what is under way now; undefined when it is over. Called at once when the client has left. */
  onGone(cancel: ((reason: Error) => void) | undefined): void {
    this.#cancel = cancel;
    if (cancel && this.#isGone) cancel(new ClientGone());
  }
}

const COLON = 58;

const hopByHop: ReadonlySet<string> = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'proxy-authenticate',
  'proxy-authorization',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]);

/** Besides hop-by-hop ones: what undici writes itself or refuses, and the header that is for the sidecar alone. */
const notForwarded: ReadonlySet<string> = new Set([
  ...hopByHop,
  'expect',
  'host',
  'content-length',
  'x-prefiller-host-port',
  'x-encoder-hosts-ports',
]);

/** The client's headers for an upstream call, as a flat list; `without` names more to leave out, in lower case. */
export function forwardedHeaders(req: IncomingMessage, without?: ReadonlySet<string>): string[] {
  const { rawHeaders } = req;
  const listed = connectionListed(req.headers.connection);
  const headers: string[] = [];
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    const name = rawHeaders[i] ?? '';
    // What HTTP/2 has for a request line.
    if (name.charCodeAt(0) === COLON) continue;
    const lower = name.toLowerCase();
    if (notForwarded.has(lower) || without?.has(lower) || listed?.has(lower)) continue;
    headers.push(name, rawHeaders[i + 1] ?? '');
  }
  return headers;
}

/** Headers that a Connection header names, which are for one hop; undefined for the usual values. */
function connectionListed(connection: string | undefined): ReadonlySet<string> | undefined {
  if (connection === undefined || connection === 'keep-alive' || connection === 'close') return undefined;
  return new Set(connection.split(',').map((name) => name.trim().toLowerCase()));
}

/** An upstream's headers for the client, as a flat list with `extra` at the end in place of headers of the same name. */
export function returnedHeaders(
  headers: IncomingHeaders,
  extra: Readonly<Record<string, string>>,
  isLengthKept: boolean,
): (string | string[])[] {
  const out: (string | string[])[] = [];
  for (const name in headers) {
    const value = headers[name];
    if (value === undefined || hopByHop.has(name) || name in extra) continue;
    if (!isLengthKept && name === 'content-length') continue;
    out.push(name, value);
  }
  for (const name in extra) out.push(name, extra[name] ?? '');
  return out;
}

/** Whether a client's request came over HTTP/2, whose compatibility layer lacks some of HTTP/1.1. */
function isHttp2(message: IncomingMessage | ServerResponse): boolean {
  return 'stream' in message;
}

/** Whether the whole answer went to the client; asked when `res` closes. A reset stream of HTTP/2 counts as finished for node. */
export function isAnswered(res: ServerResponse): boolean {
  const { stream } = res as ServerResponse & { readonly stream?: { readonly rstCode?: number } };
  return res.writableFinished && !stream?.rstCode;
}

/** Begins an answer. `headers` is a flat list, its values one or several. */
export function writeHead(
  res: ServerResponse,
  status: number,
  statusMessage: string,
  headers: readonly (string | string[])[],
): void {
  // @types/node lacks the flat list with repeated values, which node takes. HTTP/2 has no reason phrase.
  if (isHttp2(res)) res.writeHead(status, headers as string[]);
  else res.writeHead(status, statusMessage, headers as string[]);
}

/** Ends an answer so that the client sees that it is not whole. */
export function breakOff(res: ServerResponse): void {
  const { stream } = res as ServerResponse & { readonly stream?: { close(code: number): void } };
  if (stream) stream.close(http2InternalError);
  else res.destroy();
}

const http2InternalError = 2;

/** Answers with an OpenAI error body, unless an answer has begun. */
export function sendError(
  res: ServerResponse,
  status: number,
  message: string,
  options: { readonly param?: string; readonly headers?: Readonly<Record<string, string>> } = {},
): void {
  if (res.headersSent || res.destroyed) {
    breakOff(res);
    return;
  }
  const body = Buffer.from(JSON.stringify(errorBody(status, message, options.param ?? null)));
  const head = { ...options.headers, 'content-type': 'application/json', 'content-length': String(body.length) };
  const list = Object.entries(head).filter(([name]) => name !== 'connection' || !isHttp2(res));
  writeHead(res, status, STATUS_CODES[status] ?? '', list.flat());
  res.end(body);
}

/** After an early refusal, how long the rest of an upload is read before the connection ends, so that the client sees the answer. */
const lingerMs = 1000;

/**
 * Reads a request's body.
 *
 * @throws AppError `tooLarge` beyond `maxBytes`; ClientGone when the client leaves
 */
export function readBody(req: IncomingMessage, maxBytes: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const tooLarge = () => {
      req.removeAllListeners('data');
      req.resume();
      setTimeout(() => req.destroy(), lingerMs).unref();
      reject(
        new AppError(
          'tooLarge',
          `the request body is larger than ${maxBytes} bytes; shorten it or raise --max-request-bytes`,
        ),
      );
    };
    const declared = Number(req.headers['content-length'] ?? 0);
    let first: Buffer | undefined;
    let more: Buffer[] | undefined;
    let size = 0;
    req.on('error', () => reject(new ClientGone()));
    req.on('aborted', () => reject(new ClientGone()));
    req.on('close', () => {
      if (!req.complete) reject(new ClientGone());
    });
    if (declared > maxBytes) {
      tooLarge();
      return;
    }
    req.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size > maxBytes) {
        tooLarge();
        return;
      }
      if (!first) first = chunk;
      else if (more) more.push(chunk);
      else more = [first, chunk];
    });
    req.on('end', () => resolve(more ? Buffer.concat(more) : (first ?? Buffer.alloc(0))));
  });
}

/** One missed health check may be a pause; two in a row are not. */
const maxHealthMisses = 2;

/** Calls an upstream and keeps the whole answer, at most `maxBytes`, within `timeoutMs` from now. */
export function collect(
  pool: Pool,
  hop: Hop,
  exchange: Pick<Exchange, 'onGone'>,
  limits: {
    readonly timeoutMs: number;
    readonly maxBytes: number;
    /** Asked while the answer is awaited: an upstream that answers neither is given up before the time is over. */
    readonly health?: { readonly intervalMs: number; isAnswering(): Promise<boolean> };
  },
): Promise<Collected> {
  return new Promise((resolve, reject) => {
    let controller: Dispatcher.DispatchController | undefined;
    let stopped: Error | undefined;
    let status = 0;
    let headers: IncomingHeaders = {};
    const chunks: Buffer[] = [];
    let size = 0;
    let isSettled = false;
    let healthTimer: NodeJS.Timeout | undefined;
    const settle = () => {
      isSettled = true;
      clearTimeout(timer);
      clearTimeout(healthTimer);
      exchange.onGone(undefined);
    };
    const stop = (reason: Error) => {
      if (stopped) return;
      stopped = reason;
      settle();
      controller?.abort(reason);
      reject(reason);
    };
    const timer = setTimeout(
      () => stop(new AppError('timeout', `no answer within ${Math.round(limits.timeoutMs / 1000)} s`)),
      limits.timeoutMs,
    );
    const { health } = limits;
    let misses = 0;
    const askHealth = () => {
      void health?.isAnswering().then((isFine) => {
        if (isSettled) return;
        misses = isFine ? 0 : misses + 1;
        if (misses >= maxHealthMisses)
          stop(new AppError('timeout', 'it answers neither the request nor health checks'));
        else healthTimer = setTimeout(askHealth, isFine ? health.intervalMs : health.intervalMs / 5);
      });
    };
    if (health) healthTimer = setTimeout(askHealth, health.intervalMs);
    pool.dispatch(
      {
        method: hop.method,
        path: hop.path,
        headers: hop.headers as string[],
        body: hop.body,
        headersTimeout: limits.timeoutMs,
        bodyTimeout: limits.timeoutMs,
      },
      {
        onRequestStart(started) {
          controller = started;
          if (stopped) started.abort(stopped);
        },
        onResponseStart(_controller, code, received) {
          status = code;
          headers = received;
        },
        onResponseData(_controller, chunk) {
          size += chunk.length;
          if (size > limits.maxBytes) {
            stop(new AppError('badGateway', `the answer is larger than ${limits.maxBytes} bytes`));
          } else chunks.push(chunk);
        },
        onResponseEnd() {
          settle();
          const [only] = chunks;
          resolve({ status, headers, body: chunks.length === 1 && only ? only : Buffer.concat(chunks) });
        },
        onResponseError(_controller, error) {
          settle();
          reject(error);
        },
      },
    );
    if (!stopped) exchange.onGone(stop);
  });
}

/** Looks at an answer's bytes, and may change them, on their way to the client. */
export interface Tap {
  /** Bytes to send now. */
  push(chunk: Buffer): Buffer;
  /** Bytes left at the end. */
  flush(): Buffer | undefined;
  /** False when the length may change. */
  readonly isLengthKept: boolean;
}

/** Holds an answer back until it is known whether it is for the client. */
export interface Judge {
  push(chunk: Buffer): 'send' | 'refuse' | undefined;
  end(): 'send' | 'refuse';
}

export interface RelayHooks {
  /** Added to the answer's headers. */
  readonly extra: Readonly<Record<string, string>>;
  /** Undefined sends the answer on as it comes. What the judge refuses ends as a failure. */
  judge?(status: number, headers: IncomingHeaders): Judge | undefined;
  /** Sees the head before the client does. `refuse` ends the call instead, as a failure. */
  onHead?(status: number, headers: IncomingHeaders): Tap | 'refuse' | undefined;
  /** The whole answer was handed to the client's connection. */
  onDone(status: number): void;
  /** The call failed. `isStarted`: the client has part of an answer already. */
  onFailed(error: Error, isStarted: boolean): void;
}

/** A call was ended because its head was refused. */
export class Refused extends Error {
  readonly status: number;
  constructor(status: number) {
    super(`the upstream answered ${status}`);
    this.name = 'Refused';
    this.status = status;
  }
}

/** Streams one upstream answer to the client: constant memory, the slower side sets the pace, no time-out once it flows. */
class Relay implements Dispatcher.DispatchHandler {
  readonly #exchange: Exchange;
  readonly #hooks: RelayHooks;
  #tap: Tap | undefined;
  #status = 0;
  /** The answer so far, while it is not known whether the client gets it. */
  #held:
    | {
        readonly judge: Judge;
        readonly status: number;
        readonly headers: IncomingHeaders;
        readonly statusMessage: string;
        readonly chunks: Buffer[];
      }
    | undefined;

  constructor(exchange: Exchange, hooks: RelayHooks) {
    this.#exchange = exchange;
    this.#hooks = hooks;
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#exchange.onGone((reason) => controller.abort(reason));
  }

  onResponseStart(
    controller: Dispatcher.DispatchController,
    status: number,
    headers: IncomingHeaders,
    statusMessage = '',
  ): void {
    if (status < 200) return;
    const judge = this.#hooks.judge?.(status, headers);
    if (judge) this.#held = { judge, status, headers, statusMessage, chunks: [] };
    else this.#begin(controller, status, headers, statusMessage);
  }

  /** False when the answer was refused. */
  #begin(
    controller: Dispatcher.DispatchController,
    status: number,
    headers: IncomingHeaders,
    statusMessage: string,
  ): boolean {
    const verdict = this.#hooks.onHead?.(status, headers);
    if (verdict === 'refuse') {
      controller.abort(new Refused(status));
      return false;
    }
    this.#tap = verdict;
    this.#status = status;
    const { res } = this.#exchange;
    const list = returnedHeaders(headers, this.#hooks.extra, this.#tap?.isLengthKept ?? true);
    writeHead(res, status, statusMessage, list);
    // The head of a stream goes out before its first token.
    if (headers['content-length'] === undefined) res.flushHeaders();
    return true;
  }

  #release(controller: Dispatcher.DispatchController): void {
    const held = this.#held;
    this.#held = undefined;
    if (!held || !this.#begin(controller, held.status, held.headers, held.statusMessage)) return;
    for (const chunk of held.chunks) this.onResponseData(controller, chunk);
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    const held = this.#held;
    if (held) {
      held.chunks.push(chunk);
      const verdict = held.judge.push(chunk);
      if (verdict === 'refuse') controller.abort(new Refused(held.status));
      else if (verdict === 'send') this.#release(controller);
      return;
    }
    const bytes = this.#tap ? this.#tap.push(chunk) : chunk;
    if (bytes.length === 0) return;
    const { res } = this.#exchange;
    if (!res.write(bytes)) {
      controller.pause();
      res.once('drain', () => controller.resume());
    }
  }

  onResponseEnd(controller: Dispatcher.DispatchController, trailers?: IncomingHeaders): void {
    const held = this.#held;
    if (held) {
      if (held.judge.end() === 'refuse') {
        this.onResponseError(controller, new Refused(held.status));
        return;
      }
      this.#release(controller);
    }
    this.#exchange.onGone(undefined);
    const { res } = this.#exchange;
    const rest = this.#tap?.flush();
    if (rest && rest.length > 0) res.write(rest);
    if (trailers) addTrailers(res, trailers);
    res.end();
    this.#hooks.onDone(this.#status);
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    this.#exchange.onGone(undefined);
    this.#hooks.onFailed(error, this.#status !== 0);
  }
}

/** Hands trailers on where the client's connection can carry them: a chunked answer, or HTTP/2. */
function addTrailers(res: ServerResponse, trailers: IncomingHeaders): void {
  const list: Record<string, string | string[]> = {};
  for (const name in trailers) {
    const value = trailers[name];
    if (value !== undefined && !hopByHop.has(name)) list[name] = value;
  }
  if (Object.keys(list).length > 0) res.addTrailers(list as Record<string, string>);
}

/**
 * Calls an upstream and streams its answer to the client. A connection that was lost before any answer (the other side
 * closed it while it idled) is tried once more when the body can be sent again.
 */
export function relay(pool: Pool, hop: Hop, exchange: Exchange, hooks: RelayHooks): void {
  const options: Dispatcher.DispatchOptions = {
    method: hop.method,
    path: hop.path,
    headers: hop.headers as string[],
    body: hop.body,
    headersTimeout: hop.headersTimeoutMs,
    bodyTimeout: 0,
  };
  const isRepeatable = hop.body === null || typeof hop.body === 'string' || Buffer.isBuffer(hop.body);
  const first: RelayHooks = isRepeatable
    ? {
        extra: hooks.extra,
        ...(hooks.judge ? { judge: hooks.judge } : {}),
        ...(hooks.onHead ? { onHead: hooks.onHead } : {}),
        onDone: hooks.onDone,
        onFailed: (error, isStarted) => {
          if (!isStarted && !exchange.isGone && failureKindOf(error) === 'reset') {
            pool.dispatch(options, new Relay(exchange, hooks));
          } else hooks.onFailed(error, isStarted);
        },
      }
    : hooks;
  pool.dispatch(options, new Relay(exchange, first));
}

/** A body that is no longer than this is read before it is sent on: cheaper, and it can be sent again. */
const smallBodyBytes = 64 * 1024;

/** The body to send on: nothing, a small one read whole, or a stream whose failure leaves the client's connection whole. */
export async function passedBody(req: IncomingMessage): Promise<Buffer | Readable | null> {
  const length = req.headers['content-length'];
  const { stream } = req as IncomingMessage & { readonly stream?: { readonly endAfterHeaders: boolean } };
  if (stream ? stream.endAfterHeaders || length !== undefined : req.headers['transfer-encoding'] === undefined) {
    if (stream?.endAfterHeaders || length === undefined || length === '0') return null;
    if (Number(length) <= smallBodyBytes) return readBody(req, smallBodyBytes);
  }
  const body = new PassThrough();
  req.pipe(body);
  return body;
}
