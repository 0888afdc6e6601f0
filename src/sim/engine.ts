import type { Clock } from '../clock.ts';
import { messageOf } from '../errors.ts';
import { extendHashes, KvCache } from './kv-cache.ts';
import type { CacheEvents } from './kv-events.ts';
import type { RemoteSource, TransferPlan } from './kv-transfer.ts';
import { type LatencyModel, stepMs, transferMs } from './latency.ts';
import { Leases } from './leases.ts';
import type { EngineMetrics } from './metrics.ts';
import type { Reply } from './reply.ts';
import type { Fetched, FetchKv } from './side-channel.ts';

export interface EngineOptions {
  readonly clock: Clock;
  readonly latency: LatencyModel;
  readonly metrics: EngineMetrics;
  readonly numBlocks: number;
  readonly blockSize: number;
  readonly hasPrefixCaching: boolean;
  readonly maxSequences: number;
  /** The most tokens computed in one step. */
  readonly maxBatchedTokens: number;
  /** The most LoRA adapters that run at a time; 0 or undefined = no limit. */
  readonly maxAdapters?: number;
  /** Told what the cache holds and no longer holds. */
  readonly events?: CacheEvents;
  /** Set where KV can be handed over. */
  readonly transfer?: {
    readonly fetch: FetchKv;
    readonly leaseMs: number;
    /** What to do when KV cannot be fetched: end the request with an error, or compute it here. */
    readonly onFailure: 'fail' | 'recompute';
    /** What both sides must agree on. */
    readonly compatibility: string;
    readonly bytesPerToken: number;
  };
}

export type FinishReason = 'stop' | 'length' | 'abort' | 'error';

export interface Finished {
  readonly reason: FinishReason;
  readonly promptTokens: number;
  readonly outputTokens: number;
  /** Prompt tokens that were not computed here. */
  readonly cachedTokens: number;
  /** Blocks that were kept for another process. */
  readonly pinned: { readonly blocks: readonly number[]; readonly tokens: number } | undefined;
  /** Why the request ended with `error`. */
  readonly error: string | undefined;
}

export interface Submission {
  readonly id: string;
  /** Taken over by the engine, which appends the answer's tokens. */
  readonly promptIds: number[];
  /** Keeps prompts with different salts apart in the cache. */
  readonly cacheRoot: number;
  /** The LoRA adapter that computes it. */
  readonly adapter?: { readonly id: number; readonly name: string };
  /** The prompt's cache_salt, for those who follow the cache's events. */
  readonly salt?: string;
  readonly reply: Reply;
  readonly maxTokens: number;
  /** Answers that were asked for together; 1 when undefined. */
  readonly choices?: number;
  readonly plan: TransferPlan;
  /** Called for each token, with its place in the reply. */
  readonly onToken?: (index: number) => void;
  /** Called once. */
  readonly onFinish: (finished: Finished) => void;
}

type State = 'waiting' | 'loading' | 'ready' | 'running' | 'done';

interface Job {
  readonly submission: Submission;
  readonly ids: number[];
  readonly promptTokens: number;
  readonly hashes: number[];
  readonly arrivedAt: number;
  /** Set while KV is fetched. */
  loading: AbortController | undefined;
  state: State;
  blocks: number[];
  /** Tokens whose KV is in the blocks. */
  computed: number;
  outputs: number;
  cachedTokens: number;
  /** Prompt tokens found in the cache here, and brought over. */
  localTokens: number;
  fetchedTokens: number;
  scheduledAt: number;
  firstTokenAt: number;
  lastTokenAt: number;
  /** The prompt's KV is in the blocks, or will not come from elsewhere any more. */
  isSettled: boolean;
  /** The prompt's KV should have come from elsewhere and was computed here. */
  isRecomputed: boolean;
}

interface Work {
  readonly job: Job;
  readonly tokens: number;
}

/** Ends a request from outside. */
export interface Ticket {
  abort(): void;
}

export interface EngineStats {
  readonly served: { readonly prefillOnly: number; readonly remoteDecode: number; readonly local: number };
  readonly aborted: number;
  readonly failed: number;
  readonly recomputed: number;
  readonly preemptions: number;
  readonly running: number;
  readonly waiting: number;
  readonly blocks: { readonly total: number; readonly free: number; readonly cached: number };
  readonly handles: {
    readonly live: number;
    readonly created: number;
    readonly used: number;
    readonly expired: number;
  };
}

/** Debt of time that is made up for; a longer pause of the process is not. */
const maxDebtMs = 20;
/** Steps that may run without giving way to other work. */
const maxStepsAtOnce = 128;

/**
 * The scheduler of a model server, step by step: sequences that run get a token each, waiting ones are let in while
 * there is room and their prompts computed in pieces, the one let in last makes room when blocks run out.
 *
 * Flow: waiting → (loading, while KV comes from another process, → waiting) → running → done.
 */
export class Engine {
  readonly cache: KvCache;
  readonly leases: Leases | undefined;
  readonly #options: EngineOptions;
  readonly #metrics: EngineMetrics;
  readonly #clock: Clock;
  #waiting: Job[] = [];
  readonly #loading = new Set<Job>();
  /** Loaded, with blocks, not yet running: they go first, as they hold room. */
  #ready: Job[] = [];
  #running: Job[] = [];
  #isStepping = false;
  /** When the current step ends, in fractions of milliseconds. */
  #due = 0;
  #preemptions = 0;
  #aborted = 0;
  #failed = 0;
  #recomputed = 0;
  readonly #served = { prefillOnly: 0, remoteDecode: 0, local: 0 };
  #idle: (() => void)[] = [];

  constructor(options: EngineOptions) {
    this.#options = options;
    this.#metrics = options.metrics;
    this.#clock = options.clock;
    const { events } = options;
    this.cache = new KvCache({ ...options, ...(events ? { onRemoved: (hash) => events.removed(hash) } : {}) });
    this.leases = options.transfer
      ? new Leases({
          clock: options.clock,
          leaseMs: options.transfer.leaseMs,
          release: (handle, why) => {
            this.cache.release(handle.blocks);
            if (why === 'expired') this.#metrics.nixlExpired.add();
            this.#wake();
          },
        })
      : undefined;
  }

  get running(): number {
    return this.#running.length;
  }

  /** Requests that wait for a place or for room. */
  get queued(): number {
    return this.#waiting.length + this.#ready.length;
  }

  /** Requests that wait for KV from another process. */
  get loading(): number {
    return this.#loading.size;
  }

  get stats(): EngineStats {
    return {
      served: { ...this.#served },
      aborted: this.#aborted,
      failed: this.#failed,
      recomputed: this.#recomputed,
      preemptions: this.#preemptions,
      running: this.running,
      waiting: this.queued + this.loading,
      blocks: { total: this.cache.numBlocks, free: this.cache.freeBlocks, cached: this.cache.cachedBlocks },
      handles: this.leases?.counts ?? { live: 0, created: 0, used: 0, expired: 0 },
    };
  }

  submit(submission: Submission): Ticket {
    const { plan } = submission;
    const job: Job = {
      submission,
      ids: submission.promptIds,
      promptTokens: submission.promptIds.length,
      hashes: [],
      arrivedAt: this.#clock.now(),
      loading: undefined,
      state: 'waiting',
      blocks: [],
      computed: 0,
      outputs: 0,
      cachedTokens: -1,
      localTokens: 0,
      fetchedTokens: 0,
      scheduledAt: 0,
      firstTokenAt: 0,
      lastTokenAt: 0,
      isSettled: plan.kind === 'local' || plan.kind === 'produce',
      isRecomputed: false,
    };
    extendHashes(job.hashes, job.ids, this.#options.blockSize, submission.cacheRoot);
    this.#waiting.push(job);
    this.#wake();
    return {
      abort: () => {
        if (job.state === 'done') return;
        this.#leave(job);
        this.#finish(job, 'abort');
        this.#wake();
      },
    };
  }

  /** LoRA adapters by whether a request of theirs runs or only waits. */
  get adapters(): { readonly running: readonly string[]; readonly waiting: readonly string[] } {
    const of = (jobs: Iterable<Job>) => {
      const names = new Set<string>();
      for (const { submission } of jobs) if (submission.adapter !== undefined) names.add(submission.adapter.name);
      return names;
    };
    const running = of(this.#running);
    const waiting = of([...this.#waiting, ...this.#loading, ...this.#ready]);
    return { running: [...running].sort(), waiting: [...waiting].filter((name) => !running.has(name)).sort() };
  }

  /** Forgets what is cached; what runs goes on. */
  resetCache(): void {
    this.cache.reset();
    this.#options.events?.cleared();
    this.#options.events?.flush();
  }

  /** Resolves when no request is left. */
  idle(): Promise<void> {
    if (this.#isEmpty()) return Promise.resolve();
    return new Promise((resolve) => this.#idle.push(resolve));
  }

  /** Aborts what is left and ends timers. */
  close(): void {
    for (const job of [...this.#waiting, ...this.#loading, ...this.#ready, ...this.#running]) {
      this.#leave(job);
      this.#finish(job, 'abort');
    }
    this.leases?.close();
  }

  #isEmpty(): boolean {
    return this.running + this.queued + this.loading === 0;
  }

  #wake(): void {
    if (this.#isStepping) return;
    this.#isStepping = true;
    // Later, so that a request is never finished before submit() has returned.
    queueMicrotask(() => void this.#run());
  }

  async #run(): Promise<void> {
    this.#due = Math.max(this.#due, this.#clock.now());
    try {
      for (let steps = 1; ; steps++) {
        const batch = this.#schedule();
        if (batch.length === 0) return;
        const now = this.#clock.now();
        this.#due = Math.max(this.#due, now - maxDebtMs) + this.#durationMs(batch);
        const waitMs = this.#due - now;
        // Timers are no finer than a millisecond; what is shorter is waited for later.
        if (waitMs >= 1) await this.#clock.sleep(waitMs);
        else if (steps % maxStepsAtOnce === 0) await new Promise((resolve) => setImmediate(resolve));
        this.#commit(batch);
        this.#options.events?.flush();
      }
    } finally {
      this.#isStepping = false;
    }
  }

  #durationMs(batch: readonly Work[]): number {
    let prefillTokens = 0;
    for (const { job, tokens } of batch) {
      if (job.computed < job.promptTokens || tokens > 1) prefillTokens += tokens;
    }
    return stepMs(this.#options.latency, {
      prefillTokens,
      sequences: batch.length,
      maxSequences: this.#options.maxSequences,
    });
  }

  #schedule(): readonly Work[] {
    const batch: Work[] = [];
    let budget = this.#options.maxBatchedTokens;
    const preemptionsBefore = this.#preemptions;
    for (let i = 0; i < this.#running.length && budget > 0; i++) {
      const job = this.#running[i];
      if (!job) break;
      const tokens = Math.min(budget, job.ids.length - job.computed);
      if (!this.#growTo(job, job.computed + tokens)) break;
      budget -= tokens;
      batch.push({ job, tokens });
    }
    // Who just lost a place must not take the room that it lost it for.
    if (this.#preemptions > preemptionsBefore) return batch;
    while (budget > 0 && this.#running.length < this.#options.maxSequences) {
      const job = this.#takeReady() ?? this.#admitNext();
      if (!job) break;
      if (job.state === 'loading' || job.state === 'done') continue;
      job.state = 'running';
      this.#running.push(job);
      if (job.scheduledAt === 0) {
        job.scheduledAt = this.#clock.now();
        this.#metrics.queueSeconds.observe((job.scheduledAt - job.arrivedAt) / 1000);
      }
      const tokens = Math.min(budget, job.ids.length - job.computed);
      budget -= tokens;
      batch.push({ job, tokens });
    }
    return batch;
  }

  /** Makes room for `tokens` tokens of a running job, at the cost of those let in later. False when it lost its own place. */
  #growTo(job: Job, tokens: number): boolean {
    while (job.blocks.length < this.cache.blocksFor(tokens)) {
      const block = this.cache.allocateOne();
      if (block !== undefined) {
        job.blocks.push(block);
        continue;
      }
      const victim = this.#running.pop();
      if (!victim) return false;
      this.#preemptions++;
      this.#metrics.preemptions.add();
      this.cache.release(victim.blocks);
      victim.blocks = [];
      victim.computed = 0;
      victim.state = 'waiting';
      this.#waiting.unshift(victim);
      if (victim === job) return false;
    }
    return true;
  }

  /** Whether the job's adapter runs already, or there is a place for it. */
  #hasAdapterPlace(job: Job): boolean {
    const { adapter } = job.submission;
    const { maxAdapters } = this.#options;
    if (!adapter || !maxAdapters) return true;
    const ids = new Set(this.#running.map(({ submission }) => submission.adapter?.id));
    ids.delete(undefined);
    return ids.has(adapter.id) || ids.size < maxAdapters;
  }

  #takeReady(): Job | undefined {
    const at = this.#ready.findIndex((job) => this.#hasAdapterPlace(job));
    return at < 0 ? undefined : this.#ready.splice(at, 1)[0];
  }

  /** Gives the first waiting job its blocks, those passed over whose adapter has no place; undefined when there is none or no room. The job may be loading or done afterwards. */
  #admitNext(): Job | undefined {
    const at = this.#waiting.findIndex((waiting) => this.#hasAdapterPlace(waiting));
    const job = this.#waiting[at];
    if (!job) return undefined;
    const { plan } = job.submission;
    const { blockSize } = this.#options;
    // The last token is always computed: its output is the next one.
    const limit = Math.floor((job.ids.length - 1) / blockSize);
    const cached = this.cache.countCached(job.hashes, limit);
    const blocks = this.cache.allocate(job.hashes, cached, this.cache.blocksFor(job.ids.length));
    if (!blocks) return undefined;
    this.#waiting.splice(at, 1);
    job.blocks = blocks;
    job.computed = cached * blockSize;
    if (job.cachedTokens < 0) {
      job.cachedTokens = job.computed;
      job.localTokens = job.computed;
      this.#metrics.prefixQueries.add(job.promptTokens);
      this.#metrics.prefixHits.add(job.computed);
    }
    if (!job.isSettled && plan.kind === 'broken') this.#settleFailure(job, plan.why);
    if (!job.isSettled && plan.kind === 'consume') void this.#load(job, plan.source);
    return job;
  }

  /** Fetches the KV of a prompt; the job then waits, first in line, for its place. */
  async #load(job: Job, source: RemoteSource): Promise<void> {
    const { transfer, latency, blockSize } = this.#options;
    if (!transfer) {
      this.#settleFailure(job, 'this server has no KV connector');
      return;
    }
    const loading = new AbortController();
    job.loading = loading;
    job.state = 'loading';
    this.#loading.add(job);
    const startedAt = this.#clock.now();
    let why: string | undefined;
    try {
      const fullBlocks = Math.floor(job.promptTokens / blockSize);
      const result = await transfer.fetch(
        source,
        { compatibility: transfer.compatibility, fullBlocks },
        loading.signal,
      );
      why = result.kind === 'failed' ? result.why : mismatch(job, result.fetched, fullBlocks);
      const waitMs = transferMs(latency, job.promptTokens - job.computed);
      if (why === undefined && waitMs >= 1) await this.#clock.sleep(waitMs, loading.signal);
    } catch (thrown) {
      why = messageOf(thrown);
    }
    // Aborted meanwhile: it has left already.
    if (job.state !== 'loading') return;
    this.#loading.delete(job);
    // Nothing is left to abort, and an abort costs an exception with its stack.
    job.loading = undefined;
    job.state = 'ready';
    if (why === undefined) {
      const tokens = job.promptTokens - job.computed;
      job.fetchedTokens = tokens;
      this.#metrics.externalQueries.add(tokens);
      this.#metrics.externalHits.add(tokens);
      this.#metrics.nixlTransferSeconds.observe((this.#clock.now() - startedAt) / 1000);
      this.#metrics.nixlPostSeconds.observe(0);
      this.#metrics.nixlBytes.observe(tokens * transfer.bytesPerToken);
      this.#metrics.nixlDescriptors.observe(this.cache.blocksFor(tokens));
      job.isSettled = true;
      job.computed = job.promptTokens - 1;
      job.cachedTokens = job.computed;
      this.#publish(job, 0, job.hashes.length);
      this.#options.events?.flush();
      this.#ready.push(job);
    } else {
      this.#metrics.nixlFailedTransfers.add();
      if (this.#settleFailure(job, why)) this.#ready.push(job);
    }
    this.#wake();
  }

  /** What follows when KV cannot be had: true when the prompt is computed here. */
  #settleFailure(job: Job, why: string): boolean {
    job.isSettled = true;
    if (this.#options.transfer?.onFailure === 'recompute') {
      this.#recomputed++;
      job.isRecomputed = true;
      return true;
    }
    this.#finish(job, 'error', `KV of the prompt could not be loaded: ${why}`);
    return false;
  }

  #commit(batch: readonly Work[]): void {
    const { blockSize } = this.#options;
    const now = this.#clock.now();
    this.#metrics.iterationTokens.observe(batch.reduce((sum, { tokens }) => sum + tokens, 0));
    for (const { job, tokens } of batch) {
      if (job.state !== 'running') continue;
      const firstFull = Math.floor(job.computed / blockSize);
      job.computed += tokens;
      const full = Math.floor(job.computed / blockSize);
      if (full > job.hashes.length) extendHashes(job.hashes, job.ids, blockSize, job.submission.cacheRoot);
      this.#publish(job, firstFull, full);
      if (job.computed === job.ids.length) this.#sample(job, now);
    }
  }

  /** Makes the blocks `from` to `to` of a job findable, and tells of those that were not, run by run. */
  #publish(job: Job, from: number, to: number): void {
    const { events, blockSize } = this.#options;
    let start = from;
    for (let index = from; index <= to; index++) {
      const block = job.blocks[index];
      const hash = job.hashes[index];
      const isNew = index < to && block !== undefined && hash !== undefined && this.cache.publish(block, hash);
      if (isNew) continue;
      if (events && index > start) {
        events.stored({
          hashes: job.hashes.slice(start, index),
          parent: start === 0 ? undefined : job.hashes[start - 1],
          tokenIds: job.ids.slice(start * blockSize, index * blockSize),
          blockSize,
          adapter: job.submission.adapter,
          salt: start === 0 ? job.submission.salt : undefined,
        });
      }
      start = index + 1;
    }
  }

  #sample(job: Job, now: number): void {
    const { reply, onToken } = job.submission;
    const index = job.outputs++;
    job.ids.push(reply.ids[index] ?? 0);
    if (index === 0) {
      job.firstTokenAt = now;
      this.#metrics.promptTokens.add(job.promptTokens);
      const { local_compute, local_cache_hit, external_kv_transfer } = this.#metrics.promptTokensBySource;
      local_cache_hit.add(job.localTokens);
      external_kv_transfer.add(job.fetchedTokens);
      local_compute.add(job.promptTokens - job.localTokens - job.fetchedTokens);
      this.#metrics.firstTokenSeconds.observe((now - job.arrivedAt) / 1000);
      this.#metrics.prefillSeconds.observe((now - job.scheduledAt) / 1000);
    } else {
      this.#metrics.interTokenSeconds.observe((now - job.lastTokenAt) / 1000);
    }
    job.lastTokenAt = now;
    this.#metrics.generationTokens.add();
    guard(() => onToken?.(index));
    if (job.outputs >= reply.ids.length && job.state === 'running') {
      this.#running.splice(this.#running.indexOf(job), 1);
      this.#finish(job, reply.finishReason);
    }
  }

  /** Takes a job out of whatever line it stands in. */
  #leave(job: Job): void {
    if (job.state === 'waiting') this.#waiting = this.#waiting.filter((other) => other !== job);
    else if (job.state === 'running') this.#running = this.#running.filter((other) => other !== job);
    else if (job.state === 'ready') this.#ready = this.#ready.filter((other) => other !== job);
    else if (job.state === 'loading') this.#loading.delete(job);
  }

  #finish(job: Job, reason: FinishReason, error?: string): void {
    const { submission } = job;
    job.state = 'done';
    job.loading?.abort();
    let pinned: Finished['pinned'];
    const isOver = reason === 'stop' || reason === 'length';
    if (isOver && submission.plan.kind === 'produce' && this.leases) {
      const blocks = job.blocks.slice(0, this.cache.blocksFor(job.computed));
      this.cache.release(job.blocks.slice(blocks.length));
      const hashes = job.hashes.slice(0, Math.floor(job.computed / this.#options.blockSize));
      this.leases.add({ requestId: submission.id, blocks, hashes, tokens: job.computed });
      pinned = { blocks, tokens: job.computed };
    } else {
      this.cache.release(job.blocks);
    }
    job.blocks = [];
    this.#count(job, reason);
    const finished: Finished = {
      reason,
      promptTokens: job.promptTokens,
      outputTokens: job.outputs,
      cachedTokens: Math.max(0, job.cachedTokens),
      pinned,
      error,
    };
    guard(() => submission.onFinish(finished));
    if (this.#isEmpty()) for (const resolve of this.#idle.splice(0)) resolve();
  }

  #count(job: Job, reason: FinishReason): void {
    const metrics = this.#metrics;
    metrics.success[reason].add();
    if (reason === 'abort') this.#aborted++;
    else if (reason === 'error') this.#failed++;
    else {
      const { plan } = job.submission;
      if (plan.kind === 'produce') this.#served.prefillOnly++;
      else if (plan.kind === 'local' || job.isRecomputed) this.#served.local++;
      else this.#served.remoteDecode++;
      const now = this.#clock.now();
      metrics.endToEndSeconds.observe((now - job.arrivedAt) / 1000);
      metrics.inferenceSeconds.observe((now - job.scheduledAt) / 1000);
      metrics.decodeSeconds.observe((now - job.firstTokenAt) / 1000);
      if (job.outputs > 1) metrics.outputTokenSeconds.observe((now - job.firstTokenAt) / 1000 / (job.outputs - 1));
      metrics.requestPromptTokens.observe(job.promptTokens);
      metrics.requestGenerationTokens.observe(job.outputs);
      metrics.requestMaxGenerationTokens.observe(job.outputs);
      metrics.requestMaxTokens.observe(job.submission.maxTokens);
      metrics.requestN.observe(job.submission.choices ?? 1);
    }
  }
}

/** A caller's failure is the caller's: the engine goes on. */
function guard(call: () => void): void {
  try {
    call();
  } catch {
    // The connection's own error handling speaks of it.
  }
}

/** Why fetched KV is not that of the prompt, or undefined when it is. */
function mismatch(job: Job, fetched: Fetched, fullBlocks: number): string | undefined {
  if (fetched.tokens < job.promptTokens) {
    return `the prefill process holds ${fetched.tokens} tokens and the prompt has ${job.promptTokens}`;
  }
  if (fullBlocks > 0 && job.hashes[fullBlocks - 1] !== fetched.hash) {
    return 'the prefill process holds the KV of another prompt';
  }
  return undefined;
}
