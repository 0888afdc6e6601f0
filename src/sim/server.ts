import { randomBytes } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Clock } from '../clock.ts';
import { AppError } from '../errors.ts';
import { errorBody } from '../openai/error-body.ts';
import { apiOf, parseCompletion } from '../openai/request.ts';
import { createEventWriter, type Outcome, renderAnswer } from './answer.ts';
import { parseTask, type Task, type TaskLimits } from './completion.ts';
import type { Engine, Finished, Ticket } from './engine.ts';
import type { RemoteParams } from './kv-transfer.ts';

export interface ServerOptions {
  readonly clock: Clock;
  readonly engine: Engine;
  readonly limits: TaskLimits;
  /** As named on the command line. */
  readonly model: string;
  readonly servedNames: readonly [string, ...string[]];
  readonly version: string;
  readonly apiKeys: readonly string[];
  readonly maxWaiting: number;
  readonly maxBodyBytes: number;
  readonly showsPromptTokensDetails: boolean;
  readonly metricsPage: () => string;
  /** Where decode processes find KV that is kept here. */
  readonly remote:
    | { readonly engineId: string; readonly host: string; readonly port: number; readonly tpSize: number }
    | undefined;
}

export interface Handler {
  readonly handle: (request: IncomingMessage, response: ServerResponse) => void;
  /** From now on every new request is answered 503 and its connection closed. */
  drain(): void;
}

/** The HTTP interface of the server. */
export function createHandler(options: ServerOptions): Handler {
  const { engine, clock } = options;
  const createdSeconds = Math.floor(clock.now() / 1000);
  const startId = randomBytes(6).toString('hex');
  let isDraining = false;
  let active = 0;
  let serial = 0;

  const models = JSON.stringify({
    object: 'list',
    data: options.servedNames.map((id) => ({
      id,
      object: 'model',
      created: createdSeconds,
      owned_by: 'vllm',
      root: options.model,
      parent: null,
      max_model_len: options.limits.maxModelLen,
      permission: [],
    })),
  });

  const get: Readonly<Record<string, (response: ServerResponse) => void>> = {
    '/health': (response) => sendEmpty(response, 200),
    '/ping': (response) => sendEmpty(response, 200),
    '/version': (response) => sendJson(response, 200, JSON.stringify({ version: options.version })),
    '/v1/models': (response) => sendJson(response, 200, models),
    '/load': (response) => sendJson(response, 200, JSON.stringify({ server_load: active })),
    '/metrics': (response) => send(response, 200, 'text/plain; version=0.0.4; charset=utf-8', options.metricsPage()),
    '/sim/stats': (response) =>
      sendJson(
        response,
        200,
        JSON.stringify({ engine_id: options.remote?.engineId ?? null, ...engine.stats, connections_active: active }),
      ),
  };
  const post: Readonly<Record<string, (request: IncomingMessage, response: ServerResponse) => void>> = {
    '/ping': (request, response) => {
      request.resume();
      sendEmpty(response, 200);
    },
    '/v1/chat/completions': complete,
    '/v1/completions': complete,
  };

  function handle(request: IncomingMessage, response: ServerResponse): void {
    const path = pathOf(request.url ?? '/');
    try {
      if (isDraining) {
        response.setHeader('connection', 'close');
        throw new AppError('unavailable', 'the server is shutting down; send the request to another one');
      }
      if (options.apiKeys.length > 0 && path.startsWith('/v1')) authorize(request, options.apiKeys);
      if (request.method === 'POST' && post[path]) {
        post[path](request, response);
        return;
      }
      request.resume();
      const read = get[path];
      if (read && (request.method === 'GET' || request.method === 'HEAD')) {
        read(response);
        return;
      }
      if (read || post[path]) {
        sendJson(
          response,
          405,
          JSON.stringify(
            errorBody(405, `${path} is not for ${request.method ?? ''}; use ${post[path] ? 'POST' : 'GET'}`),
          ),
        );
        return;
      }
      throw new AppError('notFound', `there is no ${path} here`);
    } catch (thrown) {
      request.resume();
      sendError(response, thrown);
    }
  }

  function complete(request: IncomingMessage, response: ServerResponse): void {
    active++;
    let ticket: Ticket | undefined;
    response.once('close', () => {
      active--;
      ticket?.abort();
    });
    readBody(request, options.maxBodyBytes, (bytes) => {
      if (response.destroyed) return;
      try {
        if (bytes === undefined) {
          response.setHeader('connection', 'close');
          throw new AppError(
            'tooLarge',
            `the request body is larger than ${options.maxBodyBytes} bytes; shorten the prompt or raise --sim-max-body-bytes`,
          );
        }
        const parsed = parseCompletion(apiOf(request.url ?? '') ?? 'chat', bytes);
        if (parsed.model !== '' && !options.servedNames.includes(parsed.model)) {
          const message = `The model \`${parsed.model}\` does not exist; served here: ${options.servedNames.join(', ')}.`;
          sendJson(response, 404, JSON.stringify(errorBody(404, message, 'model')));
          return;
        }
        const task = parseTask(parsed, options.limits);
        if (engine.queued >= options.maxWaiting && engine.queued > 0) {
          throw new AppError('overloaded', `${engine.queued} requests are waiting already; try again later`);
        }
        ticket = start(task, parsed.model, request, response);
      } catch (thrown) {
        sendError(response, thrown);
      }
    });
  }

  function start(task: Task, model: string, request: IncomingMessage, response: ServerResponse): Ticket {
    const givenId = request.headers['x-request-id'];
    serial++;
    const unique = `${startId}${serial.toString(16).padStart(10, '0')}`;
    const name = typeof givenId === 'string' && givenId !== '' ? givenId : unique;
    const id = `${task.api === 'chat' ? 'chatcmpl' : 'cmpl'}-${name}`;
    const head = {
      id,
      created: Math.floor(clock.now() / 1000),
      model: model === '' ? options.servedNames[0] : model,
    };
    // A client may send an id twice; a handle has one of its own.
    const internalId = name === unique ? id : `${id}-${serial.toString(16).padStart(8, '0')}`;
    const outcomeOf = (finished: Finished): Outcome => ({
      finished,
      params: finished.pinned && options.remote ? remoteParams(finished.pinned, options.remote, internalId) : null,
      showsDetails: options.showsPromptTokensDetails,
    });
    const submission = {
      id: internalId,
      promptIds: task.promptIds,
      cacheRoot: task.cacheRoot,
      reply: task.reply,
      maxTokens: task.maxTokens,
      plan: task.plan,
    };
    if (!task.isStream) {
      return engine.submit({
        ...submission,
        onFinish: (finished) => {
          if (finished.reason === 'abort') response.destroy();
          else if (finished.reason === 'error') sendFailure(response, finished);
          else sendJson(response, 200, renderAnswer(task, head, outcomeOf(finished)));
        },
      });
    }

    const events = createEventWriter(task, head);
    let unsent = '';
    let isFlushing = false;
    const write = (text: string) => {
      unsent += text;
      if (isFlushing) return;
      // Tokens of the same moment go out together.
      isFlushing = true;
      queueMicrotask(() => {
        isFlushing = false;
        if (unsent !== '' && !response.writableEnded) response.write(unsent);
        unsent = '';
      });
    };
    return engine.submit({
      ...submission,
      onToken: (index) => {
        if (index === 0) {
          response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' });
          write(events.first());
        }
        const text = task.reply.deltas[index] ?? '';
        if (text !== '') write(events.delta(text));
      },
      onFinish: (finished) => {
        if (finished.reason === 'abort') response.destroy();
        else if (finished.reason !== 'error') {
          response.end(unsent + events.last(outcomeOf(finished)));
          unsent = '';
        } else if (!response.headersSent) sendFailure(response, finished);
        else response.end(`${unsent}data: ${JSON.stringify(errorBody(500, finished.error ?? ''))}\n\ndata: [DONE]\n\n`);
      },
    });
  }

  return {
    handle,
    drain: () => {
      isDraining = true;
    },
  };
}

function remoteParams(
  pinned: { readonly blocks: readonly number[]; readonly tokens: number },
  remote: NonNullable<ServerOptions['remote']>,
  requestId: string,
): RemoteParams {
  return {
    do_remote_prefill: true,
    do_remote_decode: false,
    remote_block_ids: [pinned.blocks],
    remote_engine_id: remote.engineId,
    remote_request_id: requestId,
    remote_host: remote.host,
    remote_port: remote.port,
    tp_size: remote.tpSize,
    remote_num_tokens: pinned.tokens,
  };
}

function authorize(request: IncomingMessage, keys: readonly string[]): void {
  const token = /^Bearer (.*)$/i.exec(request.headers.authorization ?? '')?.[1];
  if (token === undefined || !keys.includes(token)) {
    throw new AppError('unauthorized', 'the request needs the header Authorization: Bearer with a valid API key');
  }
}

/** Calls back once with the body, or undefined when it is too large; not at all when the client goes away. */
function readBody(request: IncomingMessage, maxBytes: number, done: (bytes: Buffer | undefined) => void): void {
  const chunks: Buffer[] = [];
  let size = 0;
  request.on('data', (chunk: Buffer) => {
    const before = size;
    size += chunk.length;
    if (size <= maxBytes) chunks.push(chunk);
    else if (before <= maxBytes) done(undefined);
  });
  request.on('end', () => {
    if (size <= maxBytes) done(chunks.length === 1 ? chunks[0] : Buffer.concat(chunks));
  });
  // The response's close speaks for a connection that broke.
  request.on('error', () => {});
}

function pathOf(url: string): string {
  const end = url.indexOf('?');
  return end < 0 ? url : url.slice(0, end);
}

function sendFailure(response: ServerResponse, finished: Finished): void {
  sendJson(response, 500, JSON.stringify(errorBody(500, finished.error ?? 'the request failed')));
}

function sendError(response: ServerResponse, thrown: unknown): void {
  const error = AppError.from(thrown);
  if (response.headersSent) response.destroy();
  else sendJson(response, error.http, JSON.stringify(errorBody(error.http, error.message)));
}

function sendJson(response: ServerResponse, status: number, text: string): void {
  send(response, status, 'application/json', text);
}

function sendEmpty(response: ServerResponse, status: number): void {
  response.writeHead(status, { 'content-length': 0 });
  response.end();
}

function send(response: ServerResponse, status: number, type: string, text: string): void {
  response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(text) });
  response.end(text);
}
