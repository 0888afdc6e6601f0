import { randomBytes, randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Clock } from '../clock.ts';
import { AppError } from '../errors.ts';
import { errorBody } from '../openai/error-body.ts';
import { apiOf, type Completion, parseCompletion, plainPath } from '../openai/request.ts';
import type { Tracing } from '../telemetry/tracing.ts';
import { type AnswerHead, createEventWriter, type EventWriter, type Outcome, renderAnswer } from './answer.ts';
import { parseTask, type Task, type TaskLimits } from './completion.ts';
import { parseEmbeddings, renderEmbeddings } from './embeddings.ts';
import type { Engine, Finished, Ticket } from './engine.ts';
import { type Fault, type Faults, toFault } from './faults.ts';
import type { RemoteParams } from './kv-transfer.ts';
import type { Adapter, Adapters } from './lora.ts';
import { createMessageEvents, messageError, messagesToChat, renderMessage } from './messages.ts';
import { pickRank, type Rank, type RemoteAddress, sumStats } from './rank.ts';
import { answerMessages, createResponseEvents, renderResponse, responsesToChat } from './responses.ts';
import { pool, rerank, score } from './scoring.ts';
import { createTokenApi } from './tokens.ts';
import { traceRequest } from './trace.ts';

export interface ServerOptions {
  readonly clock: Clock;
  readonly ranks: readonly [Rank, ...Rank[]];
  readonly limits: TaskLimits;
  /** As named on the command line. */
  readonly model: string;
  readonly servedNames: readonly [string, ...string[]];
  readonly version: string;
  readonly apiKeys: readonly string[];
  /** Undefined without `--otlp-traces-endpoint`. */
  readonly tracing?: Tracing;
  readonly adapters: Adapters;
  /** Adapters may come and go. */
  readonly hasLoraUpdates: boolean;
  readonly hasSleepMode: boolean;
  readonly isDevMode: boolean;
  readonly hasResponseStore: boolean;
  /** Answers carry the request's id, or a new one. */
  readonly hasRequestIdHeaders: boolean;
  readonly faults: Faults;
  /** Ends the process as a crash does. */
  readonly crash: (exitCode: number) => void;
  /** Closes the port for so many milliseconds. */
  readonly refuse: (durationMs: number) => void;
  readonly prefillUsPerToken: number;
  readonly maxWaiting: number;
  readonly maxBodyBytes: number;
  readonly showsPromptTokensDetails: boolean;
  readonly metricsPage: () => string;
}

export interface Handler {
  readonly handle: (request: IncomingMessage, response: ServerResponse) => void;
  /** 0 = awake, else the level of sleep. */
  readonly sleepLevel: () => number;
  /** From now on every new request is answered 503 and its connection closed. */
  drain(): void;
}

/** The HTTP interface of the server. */
export function createHandler(options: ServerOptions): Handler {
  const { ranks, clock } = options;
  const createdSeconds = Math.floor(clock.now() / 1000);
  const startId = randomBytes(6).toString('hex');
  let isDraining = false;
  let active = 0;
  let serial = 0;

  let sleepLevel = 0;
  /** Messages of the latest responses, for requests that go on from them. */
  const responses = new Map<string, readonly Fields[]>();
  const tokens = createTokenApi(options.limits);

  const models = () =>
    JSON.stringify({
      object: 'list',
      data: [
        ...options.servedNames.map((id) => modelOf(id, options.model, null, createdSeconds)),
        ...options.adapters
          .list()
          .map(({ name, path, createdSeconds: since }) => modelOf(name, path, options.servedNames[0], since)),
      ],
    });
  const modelOf = (id: string, root: string, parent: string | null, created: number) => ({
    id,
    object: 'model',
    created,
    owned_by: 'vllm',
    root,
    parent,
    max_model_len: options.limits.maxModelLen,
    permission: [],
  });

  type Get = (response: ServerResponse) => void;
  const get: Readonly<Record<string, Get>> = {
    '/health': (response) => sendEmpty(response, 200),
    '/ping': (response) => sendEmpty(response, 200),
    '/version': (response) => sendJson(response, 200, JSON.stringify({ version: options.version })),
    '/v1/models': (response) => sendJson(response, 200, models()),
    '/load': (response) => sendJson(response, 200, JSON.stringify({ server_load: active })),
    '/metrics': (response) => send(response, 200, 'text/plain; version=0.0.4; charset=utf-8', options.metricsPage()),
    '/sim/stats': (response) =>
      sendJson(
        response,
        200,
        JSON.stringify({
          engine_id: ranks[0].remote?.engineId ?? null,
          ...sumStats(ranks),
          connections_active: active,
          ...(ranks.length > 1
            ? {
                ranks: ranks.map(({ rank, engine, remote }) => ({
                  rank,
                  engine_id: remote?.engineId,
                  ...engine.stats,
                })),
              }
            : {}),
        }),
      ),
    '/sim/faults': (response) => sendJson(response, 200, JSON.stringify({ faults: options.faults.view() })),
    ...(options.isDevMode && options.hasSleepMode
      ? { '/is_sleeping': (response: ServerResponse) => sendJson(response, 200, `{"is_sleeping":${sleepLevel > 0}}`) }
      : {}),
  };
  type Post = (request: IncomingMessage, response: ServerResponse) => void;
  /** A handler of a JSON body; what it throws is answered. */
  const withBody =
    (handler: (body: Fields, response: ServerResponse, request: IncomingMessage) => void): Post =>
    (request, response) =>
      readBody(request, options.maxBodyBytes, (bytes) => {
        try {
          handler(parseCompletion('chat', bodyOf(bytes)).body, response, request);
        } catch (thrown) {
          sendError(response, thrown);
        }
      });
  const answered = (answer: (body: Fields) => object): Post =>
    withBody((body, response) => sendJson(response, 200, JSON.stringify(answer(body))));
  const renderHead = (body: Fields) => {
    const model = modelOfBody(body);
    checkModel(model);
    return { id: nextId(), model: model === '' ? options.servedNames[0] : model };
  };
  const plain =
    (handler: (request: IncomingMessage) => void): Post =>
    (request, response) => {
      request.resume();
      handler(request);
      sendEmpty(response, 200);
    };
  const post: Readonly<Record<string, Post>> = {
    '/ping': plain(() => {}),
    '/v1/chat/completions': complete,
    '/v1/completions': complete,
    '/v1/responses': complete,
    '/v1/messages': complete,
    '/inference/v1/generate': complete,
    '/v1/messages/count_tokens': answered(tokens.countTokens),
    '/v1/chat/completions/render': answered((body) => tokens.render('chat', body, renderHead(body))),
    '/v1/completions/render': answered((body) => tokens.render('completions', body, renderHead(body))),
    '/v1/embeddings': withBody(embed),
    ...Object.fromEntries(['/score', '/v1/score'].map((path) => [path, scored(score)])),
    ...Object.fromEntries(['/rerank', '/v1/rerank', '/v2/rerank'].map((path) => [path, scored(rerank)])),
    '/pooling': scored(pool),
    '/tokenize': answered((body) => {
      checkModel(modelOfBody(body));
      return tokens.tokenize(body);
    }),
    '/detokenize': answered((body) => {
      checkModel(modelOfBody(body));
      return tokens.detokenize(body);
    }),
    '/sim/faults': withBody((body, response) => {
      if (!Array.isArray(body.faults))
        throw new AppError('invalid', 'faults must be a list such as [{"kind":"slow","value":500}]');
      const faults = body.faults.map(toFault);
      options.faults.set(faults);
      const refusal = faults.find(({ kind }) => kind === 'refuse');
      if (refusal) response.once('finish', () => options.refuse(refusal.value));
      sendJson(response, 200, JSON.stringify({ faults: options.faults.view() }));
    }),
    ...(options.hasLoraUpdates
      ? {
          '/v1/load_lora_adapter': withBody((body, response) => {
            const { name } = options.adapters.load(body);
            send(response, 200, 'text/plain', `Success: LoRA adapter '${name}' added successfully.`);
          }),
          '/v1/unload_lora_adapter': withBody((body, response) => {
            const name = options.adapters.unload(body);
            send(response, 200, 'text/plain', `Success: LoRA adapter '${name}' removed successfully.`);
          }),
        }
      : {}),
    ...(options.isDevMode
      ? {
          '/reset_prefix_cache': plain(() => resetCaches()),
          ...(options.hasSleepMode
            ? {
                '/sleep': plain((request) => {
                  const level = Number(new URL(request.url ?? '/', 'http://sim').searchParams.get('level') ?? 1);
                  sleepLevel = level === 2 ? 2 : 1;
                  resetCaches();
                }),
                '/wake_up': plain(() => {
                  sleepLevel = 0;
                }),
              }
            : {}),
        }
      : {}),
  };

  function resetCaches(): void {
    for (const { engine } of ranks) engine.resetCache();
  }

  function bodyOf(bytes: Buffer | undefined): Buffer {
    if (bytes) return bytes;
    throw new AppError(
      'tooLarge',
      `the request body is larger than ${options.maxBodyBytes} bytes; shorten the prompt or raise --sim-max-body-bytes`,
    );
  }

  function handle(request: IncomingMessage, response: ServerResponse): void {
    const path = plainPath(request.url ?? '/');
    if (options.hasRequestIdHeaders) {
      response.setHeader('x-request-id', request.headers['x-request-id'] ?? randomUUID().replaceAll('-', ''));
    }
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
      if (request.method === 'DELETE' && path === '/sim/faults') {
        options.faults.set([]);
        sendEmpty(response, 200);
        return;
      }
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

  function embed(body: Fields, response: ServerResponse): void {
    const head = pooledHead(body);
    const task = parseEmbeddings(body, options.limits.maxModelLen);
    const tokens = task.inputs.reduce((sum, ids) => sum + ids.length, 0);
    answerAfter(response, tokens, () => renderEmbeddings(task, { ...head, id: `embd-${head.id}` }));
  }

  function scored(judge: typeof score): Post {
    return withBody((body, response) => {
      const result = judge(body, pooledHead(body), options.limits.maxModelLen);
      answerAfter(response, result.tokens, () => JSON.stringify(result.body));
    });
  }

  function pooledHead(body: Fields): { readonly id: string; readonly created: number; readonly model: string } {
    checkModel(modelOfBody(body));
    return { id: nextId(), created: Math.floor(clock.now() / 1000), model: options.servedNames[0] };
  }

  /** When the prompt's tokens would be computed. */
  function answerAfter(response: ServerResponse, tokens: number, render: () => string): void {
    const answer = () => {
      if (!response.destroyed) sendJson(response, 200, render());
    };
    const waitMs = (tokens * options.prefillUsPerToken) / 1000;
    if (waitMs < 1) answer();
    else void clock.sleep(waitMs).then(answer, () => response.destroy());
  }

  /** The adapter that a request names, or undefined for the model itself. */
  function checkModel(name: string): Adapter | undefined {
    if (name === '' || options.servedNames.includes(name)) return undefined;
    const adapter = options.adapters.get(name);
    if (adapter) return adapter;
    const served = [...options.servedNames, ...options.adapters.list().map((item) => item.name)].join(', ');
    throw new AppError('notFound', `The model \`${name}\` does not exist; served here: ${served}.`);
  }

  function complete(request: IncomingMessage, response: ServerResponse): void {
    active++;
    let tickets: readonly Ticket[] = [];
    response.once('close', () => {
      active--;
      for (const ticket of tickets) ticket.abort();
    });
    const api = apiOf(request.url ?? '') ?? 'chat';
    const fail = (thrown: unknown) => {
      const error = AppError.from(thrown);
      if (api !== 'messages' || response.headersSent) sendError(response, thrown);
      else sendJson(response, error.http, JSON.stringify(messageError(error.http, error.message)));
    };
    readBody(request, options.maxBodyBytes, (bytes) => {
      if (response.destroyed) return;
      const begin = (fault: Fault | undefined) => {
        if (response.destroyed) return;
        try {
          const parsed = parseCompletion(api, bodyOf(bytes));
          const adapter = checkModel(parsed.model);
          if (sleepLevel > 0) throw new AppError('unavailable', 'the engine sleeps; POST /wake_up first');
          const task = parseTask(asChat(parsed), options.limits);
          const named = request.headers['x-data-parallel-rank'];
          const target = pickRank(ranks, typeof named === 'string' ? named : undefined, serial);
          const { engine } = target;
          if (engine.queued >= options.maxWaiting && engine.queued > 0) {
            throw new AppError('overloaded', `${engine.queued} requests are waiting already; try again later`);
          }
          tickets = start({
            target,
            task,
            parsed,
            adapter,
            request,
            response,
            fail,
            cutAfter: fault?.kind === 'cut' ? fault.value : undefined,
          });
        } catch (thrown) {
          fail(thrown);
        }
      };
      const fault = options.faults.next();
      switch (fault?.kind) {
        case 'hang':
          return;
        case 'slow':
          void clock.sleep(fault.value).then(
            () => begin(undefined),
            () => response.destroy(),
          );
          return;
        case 'wrong-json':
          sendJson(response, 200, '{"id":"chatcmpl-1","choices":[{"index":0,');
          return;
        case 'status':
          sendJson(response, fault.value, JSON.stringify(errorBody(fault.value, 'an error was asked for')));
          return;
        case 'oom':
          options.crash(fault.value);
          return;
        default:
          begin(fault);
      }
    });
  }

  /** The request in the form that tasks are read from: the newer APIs become chats. */
  function asChat(parsed: Completion): Completion {
    if (parsed.api === 'messages') return { ...parsed, body: messagesToChat(parsed.body) };
    if (parsed.api !== 'responses') return parsed;
    const earlier = parsed.body.previous_response_id;
    const found = typeof earlier === 'string' ? responses.get(earlier) : [];
    if (!found) throw new AppError('notFound', `Response with id '${String(earlier)}' not found.`);
    return { ...parsed, body: responsesToChat(parsed.body, found) };
  }

  function nextId(): string {
    serial++;
    return `${startId}${serial.toString(16).padStart(10, '0')}`;
  }

  function start(job: {
    readonly target: Rank;
    readonly task: Task;
    readonly parsed: Completion;
    readonly adapter: Adapter | undefined;
    readonly request: IncomingMessage;
    readonly response: ServerResponse;
    readonly fail: (thrown: unknown) => void;
    /** Tokens after which the connection breaks. */
    readonly cutAfter: number | undefined;
  }): readonly Ticket[] {
    const { task, parsed, adapter, response } = job;
    const { engine, remote } = job.target;
    const givenId = job.request.headers['x-request-id'];
    const unique = nextId();
    const name = typeof givenId === 'string' && givenId !== '' ? givenId : unique;
    const id = `${idPrefixes[task.api]}${name}`;
    const head: AnswerHead = {
      id,
      created: Math.floor(clock.now() / 1000),
      model: parsed.model === '' ? options.servedNames[0] : parsed.model,
    };
    // A client may send an id twice; a handle has one of its own.
    const internalId = name === unique ? id : `${id}-${serial.toString(16).padStart(8, '0')}`;
    const done: Finished[] = [];
    let doneCount = 0;
    let isOver = false;
    const about = { id, model: head.model, maxTokens: task.maxTokens, choices: task.replies.length };
    traceRequest(options.tracing, job.request, response, about, () => done[0]);
    const outcome = (): Outcome => ({
      finished: done,
      params: paramsOf(done[0]),
      showsDetails: options.showsPromptTokensDetails,
    });
    const paramsOf = (finished: Finished | undefined) =>
      finished?.pinned && remote ? remoteParams(finished.pinned, remote, internalId) : null;
    const failed = (finished: Finished) => new AppError('internal', finished.error ?? 'the request failed');
    const remember = () => {
      if (task.api !== 'responses' || !options.hasResponseStore || parsed.body.store === false) return;
      const { messages } = asChat(parsed).body as { readonly messages: readonly Fields[] };
      const spoken = messages.filter(({ role }) => role !== 'system');
      responses.set(id, [...spoken, ...answerMessages(task, done[0])]);
      const oldest = responses.size > maxResponses ? responses.keys().next().value : undefined;
      if (oldest !== undefined) responses.delete(oldest);
    };
    const submission = (choice: number) => ({
      id: choice === 0 ? internalId : `${internalId}_${choice}`,
      // The engine appends to it.
      promptIds: choice === 0 ? task.promptIds : task.promptIds.slice(0, task.promptTokens),
      cacheRoot: adapter ? task.cacheRoot ^ adapter.cacheRoot : task.cacheRoot,
      ...(adapter ? { adapter } : {}),
      ...(task.salt === undefined ? {} : { salt: task.salt }),
      reply: task.replies[choice] ?? task.replies[0],
      maxTokens: task.maxTokens,
      choices: task.replies.length,
      plan: task.plan,
    });
    const isCut = (tokens: number) => job.cutAfter !== undefined && tokens > job.cutAfter;
    /** All choices at once; the copies of the prompt are made before the engine appends to the first. */
    const submitAll = (hooks: (choice: number) => Pick<Parameters<Engine['submit']>[0], 'onToken' | 'onFinish'>) =>
      task.replies
        .map((_, choice) => submission(choice))
        .map((one, choice) => engine.submit({ ...one, ...hooks(choice) }));

    if (!task.isStream) {
      return submitAll((choice) => ({
        ...(job.cutAfter === undefined ? {} : { onToken: (index) => void (isCut(index) && response.destroy()) }),
        onFinish: (finished) => {
          if (isOver) return;
          done[choice] = finished;
          isOver = finished.reason === 'abort' || finished.reason === 'error';
          if (finished.reason === 'abort') response.destroy();
          else if (finished.reason === 'error') job.fail(failed(finished));
          else if (++doneCount === task.replies.length) {
            remember();
            sendJson(response, 200, render(task, head, parsed.body, outcome()));
          }
        },
      }));
    }

    const events = createEvents(task, head, parsed.body);
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
    return submitAll((choice) => ({
      onToken: (index) => {
        if (isOver) return;
        if (isCut(index)) {
          isOver = true;
          // What was written before goes out first.
          if (response.headersSent) response.write('', () => response.destroy());
          else response.destroy();
          return;
        }
        if (!response.headersSent) {
          response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' });
          write(events.first());
        }
        const text = events.token(choice, index);
        if (text !== '') write(text);
      },
      onFinish: (finished) => {
        if (isOver) return;
        done[choice] = finished;
        if (finished.reason === 'abort') {
          isOver = true;
          response.destroy();
        } else if (finished.reason === 'error') {
          isOver = true;
          if (!response.headersSent) job.fail(failed(finished));
          else
            response.end(`${unsent}data: ${JSON.stringify(errorBody(500, finished.error ?? ''))}\n\ndata: [DONE]\n\n`);
        } else {
          const text = events.finish(choice, finished, choice === 0 ? paramsOf(finished) : null);
          if (++doneCount < task.replies.length) {
            write(text);
            return;
          }
          remember();
          response.end(unsent + text + events.end(outcome()));
          unsent = '';
        }
      },
    }));
  }

  return {
    handle,
    sleepLevel: () => sleepLevel,
    drain: () => {
      isDraining = true;
    },
  };
}

type Fields = Readonly<Record<string, unknown>>;

const maxResponses = 1000;

function modelOfBody(body: Fields): string {
  return typeof body.model === 'string' ? body.model : '';
}

const idPrefixes: Readonly<Record<Task['api'], string>> = {
  chat: 'chatcmpl-',
  completions: 'cmpl-',
  generate: 'generate-tokens-',
  responses: 'resp_',
  messages: 'msg_',
};

function render(task: Task, head: AnswerHead, body: Fields, outcome: Outcome): string {
  if (task.api === 'messages') return renderMessage(task, head, outcome);
  if (task.api === 'responses') return renderResponse(task, head, body, outcome);
  return renderAnswer(task, head, outcome);
}

function createEvents(task: Task, head: AnswerHead, body: Fields): EventWriter {
  if (task.api === 'messages') return createMessageEvents(task, head);
  if (task.api === 'responses') return createResponseEvents(task, head, body);
  return createEventWriter(task, head);
}

function remoteParams(
  pinned: { readonly blocks: readonly number[]; readonly tokens: number },
  remote: RemoteAddress,
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

function sendError(response: ServerResponse, thrown: unknown): void {
  const error = AppError.from(thrown);
  if (response.headersSent) response.destroy();
  else {
    const param = error.message.startsWith('The model ') ? 'model' : null;
    if (error.code === 'tooLarge') response.setHeader('connection', 'close');
    sendJson(response, error.http, JSON.stringify(errorBody(error.http, error.message, param)));
  }
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
