import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import { z } from 'zod';
import { AppError } from '../../../errors.ts';
import type { Cycle, StateKey } from '../../framework/cycle-state.ts';
import type { Endpoint } from '../../framework/endpoint.ts';
import {
  type PluginContext,
  type PluginFactory,
  type Preparer,
  parseParameters,
  type Scorer,
} from '../../framework/plugin.ts';
import { matchedShare, prefixMatchKey } from '../../framework/prefix-match.ts';
import { type FromHost, figures, type HostData, type ModuleRequest, type ToHost } from './protocol.ts';

const duration = z
  .string()
  .regex(/^\d+(\.\d+)?(ms|s)$/, 'must be a duration such as 20ms')
  .transform((text) => (text.endsWith('ms') ? Number(text.slice(0, -2)) : Number(text.slice(0, -1)) * 1000))
  .pipe(z.number().min(1).max(10_000));

const parameters = z.strictObject({
  /** ES module in JavaScript or TypeScript; relative to the configuration's folder. */
  path: z.string().min(1),
  /** The longest that one request waits for the scores. */
  timeout: duration.prefault('20ms'),
  /** Request headers that the scorer may read. */
  headers: z.array(z.string().toLowerCase()).default([]),
  /** Given to the module's default export when that is a function. */
  parameters: z.unknown().optional(),
});

/** Requests that wait for scores at once; more go without. */
const maxWaiting = 1000;
/** A worker that answers nothing for so long is in an endless loop, or as good as. */
const hungMs = 2000;
const lifeCheckMs = 500;
/** Requests in turn that got no score in time; then nobody waits for a while. */
const lateInTurn = 5;
const minPauseMs = 1000;
const maxPauseMs = 60_000;
const startTimeoutMs = 10_000;
const maxHeapMb = 256;

/** The worker's file: beside this one in the sources, beside the binaries in a bundle. */
const hostUrl = import.meta.url.endsWith('.ts')
  ? new URL('./host.ts', import.meta.url)
  : [new URL('./module-host.mjs', import.meta.url), new URL('../module-host.mjs', import.meta.url)].find((url) =>
      existsSync(fileURLToPath(url)),
    );

interface Scores {
  readonly pool: readonly Endpoint[];
  readonly scores: Float64Array;
}

interface Waiting {
  settle(scores: Float64Array | undefined): void;
}

/**
 * A user's scorer, run in a worker of its own.
 *
 * Guarantees: a throw, a promise that never settles, an endless loop, an exit or a full heap in the module cost the
 * plugin its say (0 for every endpoint) and at most `timeout` of the request; a worker that hangs or dies is started
 * again, ever more seldom.
 * Caveats: the scores are those of the pool when the request came; an endpoint that came since has 0.
 */
export const createModuleScorer: PluginFactory = (context): Scorer & Preparer => {
  const settings = parseParameters(context, parameters);
  const path = resolve(context.baseDir, settings.path);
  if (!existsSync(path)) {
    throw new AppError('invalid', `${context.path}.path: there is no file ${path}`);
  }
  const data: HostData = {
    url: pathToFileURL(path).href,
    parameters: settings.parameters,
    timeoutMs: settings.timeout,
  };
  const host = new Host(context, data);
  const key: StateKey<Scores> = { name: context.name };
  return {
    type: context.type,
    name: context.name,
    ready: () => host.started,
    close: () => host.close(),
    prepare: (cycle) => {
      const asked = host.ask(cycle, toModuleRequest(cycle, settings.headers));
      return asked?.then((scores) => {
        if (scores !== undefined) cycle.set(key, { pool: cycle.pool, scores });
      });
    },
    score: (cycle, endpoints, scores) => {
      const known = cycle.get(key);
      if (known === undefined) return;
      const places = placesOf(known.pool);
      for (let i = 0; i < endpoints.length; i++) {
        const at = places.get(endpoints[i] as Endpoint);
        if (at !== undefined) scores[i] = known.scores[at] ?? 0;
      }
    },
  };
};

const knownPlaces = new WeakMap<readonly Endpoint[], ReadonlyMap<Endpoint, number>>();

/** Where each endpoint of a pool stands in it. */
function placesOf(pool: readonly Endpoint[]): ReadonlyMap<Endpoint, number> {
  let places = knownPlaces.get(pool);
  if (places === undefined) {
    places = new Map(pool.map((endpoint, at) => [endpoint, at]));
    knownPlaces.set(pool, places);
  }
  return places;
}

function toModuleRequest({ request }: Cycle, headers: readonly string[]): ModuleRequest {
  const given: Record<string, string> = {};
  for (const name of headers) {
    const value = request.header(name);
    if (value !== undefined) given[name] = value;
  }
  return {
    id: request.id,
    model: request.model,
    sessionId: request.sessionId,
    promptTokens: Math.ceil(request.promptText().length / 4),
    isStreaming: request.completion?.stream ?? false,
    headers: given,
  };
}

/** The worker and those who wait for it. */
class Host {
  readonly started: Promise<void>;
  readonly #context: PluginContext;
  readonly #data: HostData;
  readonly #waiting = new Map<number, Waiting>();
  #worker: Worker | undefined;
  /** The pool that the worker knows. */
  #told: readonly Endpoint[] | undefined;
  #ticket = 0;
  #isUp = false;
  #isClosed = false;
  #lates = 0;
  #pauseMs = minPauseMs;
  #pausedUntilMs = 0;
  #restart: NodeJS.Timeout | undefined;
  #watch: NodeJS.Timeout | undefined;
  #pingedAtMs: number | undefined;

  constructor(context: PluginContext, data: HostData) {
    this.#context = context;
    this.#data = data;
    this.started = this.#start();
    // Whoever awaits it sees the failure; nobody else shall die of it.
    this.started.catch(() => {});
  }

  /** Asks for scores of the cycle's pool; undefined when it makes no sense to wait. */
  ask(cycle: Cycle, request: ModuleRequest): Promise<Float64Array | undefined> | undefined {
    const { pool } = cycle;
    const nowMs = performance.now();
    if (pool.length === 0) return undefined;
    if (!this.#isUp || this.#worker === undefined) {
      this.#context.report('down', 'the module does not run');
      return undefined;
    }
    if (nowMs < this.#pausedUntilMs || this.#waiting.size >= maxWaiting) {
      this.#context.report('late', 'the module is too slow; requests go on without it for a while');
      return undefined;
    }
    if (pool !== this.#told) {
      this.#told = pool;
      this.#post({
        kind: 'pods',
        places: pool.map(({ id, name, namespace, address, port, labels }) => ({
          id,
          name,
          namespace,
          address,
          port,
          labels: { ...labels },
        })),
      });
    }
    const ticket = ++this.#ticket;
    const isAnyCustom = pool.some(({ load }) => load.custom !== undefined);
    const custom = isAnyCustom ? pool.map(({ load }) => load.custom) : undefined;
    this.#post({ kind: 'score', ticket, request, figures: this.#figuresOf(cycle), custom });
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(ticket);
        this.#late(`no score after ${this.#data.timeoutMs} ms`);
        resolve(undefined);
      }, this.#data.timeoutMs);
      this.#waiting.set(ticket, {
        settle: (scores) => {
          clearTimeout(timer);
          this.#waiting.delete(ticket);
          resolve(scores);
        },
      });
    });
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#restart);
    await this.#stop();
  }

  #figuresOf(cycle: Cycle): Float64Array {
    const { pool } = cycle;
    const match = cycle.get(prefixMatchKey);
    const nowMs = this.#context.clock.now();
    const values = new Float64Array(pool.length * figures.length);
    for (let i = 0, at = 0; i < pool.length; i++) {
      const endpoint = pool[i] as Endpoint;
      const { load } = endpoint;
      values[at++] = load.isKnown ? 1 : 0;
      values[at++] = nowMs - load.readAtMs;
      values[at++] = load.waiting;
      values[at++] = load.running;
      values[at++] = load.kvUsage;
      values[at++] = load.inFlight;
      values[at++] = load.requestsPerSecond;
      values[at++] = matchedShare(match, endpoint);
    }
    return values;
  }

  #post(message: ToHost): void {
    this.#worker?.postMessage(message);
  }

  #start(): Promise<void> {
    const { path, name } = this.#context;
    if (hostUrl === undefined) {
      return Promise.reject(new AppError('internal', 'module-host.mjs is missing beside the binary; install it whole'));
    }
    const worker = new Worker(hostUrl, {
      workerData: this.#data,
      resourceLimits: { maxOldGenerationSizeMb: maxHeapMb },
      // A module prints where the picker logs, and sees none of its secrets.
      env: {},
    });
    worker.unref();
    this.#worker = worker;
    this.#told = undefined;
    return new Promise((resolve, reject) => {
      const fail = (message: string): void => {
        clearTimeout(timer);
        reject(new AppError('invalid', `${path}.path: ${this.#data.url} cannot be used: ${message}`));
        if (this.#worker === worker) this.#down(message);
      };
      const timer = setTimeout(() => fail(`it did not load within ${startTimeoutMs} ms`), startTimeoutMs);
      worker.on('message', (message: FromHost) => {
        if (message.kind === 'failed') fail(message.message);
        else if (message.kind === 'ready') {
          clearTimeout(timer);
          this.#isUp = true;
          this.#pingedAtMs = undefined;
          this.#watch = setInterval(() => this.#checkLife(), lifeCheckMs);
          this.#watch.unref();
          resolve();
        } else if (message.kind === 'pong') this.#pingedAtMs = undefined;
        else this.#onAnswer(message);
      });
      worker.on('error', (error) => fail(error instanceof Error ? error.message : String(error)));
      worker.on('exit', (code) => fail(`plugin ${name}: its worker ended with ${code}`));
    });
  }

  #onAnswer(message: Extract<FromHost, { ticket: number }>): void {
    const asked = this.#waiting.get(message.ticket);
    // Too late for its request.
    if (asked === undefined) return;
    if (message.kind === 'scores') {
      this.#lates = 0;
      this.#pauseMs = minPauseMs;
      asked.settle(message.scores);
    } else {
      if (message.reason === 'late') this.#late(message.message);
      else this.#context.report(message.reason, message.message);
      asked.settle(undefined);
    }
  }

  #late(message: string): void {
    this.#context.report('late', message);
    if (++this.#lates < lateInTurn) return;
    this.#lates = 0;
    this.#pausedUntilMs = performance.now() + this.#pauseMs;
    this.#pauseMs = Math.min(2 * this.#pauseMs, maxPauseMs);
  }

  /** An endless loop answers nothing at all; a promise that never settles leaves the worker free to. */
  #checkLife(): void {
    const nowMs = performance.now();
    if (this.#pingedAtMs === undefined) {
      this.#pingedAtMs = nowMs;
      this.#post({ kind: 'ping' });
    } else if (nowMs - this.#pingedAtMs > hungMs) this.#down(`it answered nothing for ${hungMs} ms and was stopped`);
  }

  #down(message: string): void {
    const wasUp = this.#isUp;
    this.#isUp = false;
    void this.#stop();
    if (this.#isClosed || !wasUp) return;
    this.#context.report('down', message);
    this.#again();
  }

  #again(): void {
    const pauseMs = this.#pauseMs;
    this.#pauseMs = Math.min(2 * pauseMs, maxPauseMs);
    this.#restart = setTimeout(() => {
      if (this.#isClosed) return;
      this.#start().catch((thrown) => {
        this.#context.report('down', thrown instanceof Error ? thrown.message : String(thrown));
        if (!this.#isClosed) this.#again();
      });
    }, pauseMs);
    this.#restart.unref();
  }

  async #stop(): Promise<void> {
    clearInterval(this.#watch);
    const worker = this.#worker;
    this.#worker = undefined;
    for (const { settle } of [...this.#waiting.values()]) settle(undefined);
    await worker?.terminate();
  }
}
