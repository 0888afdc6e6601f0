import { type Clock, systemClock } from '../clock.ts';

export interface QueueOptions {
  readonly clock?: Clock;
  /** First delay after a failure, doubling up to `maxBackoffMs`. */
  readonly minBackoffMs?: number;
  readonly maxBackoffMs?: number;
  /** Between 0 and 1; spreads back-off by ±25 %. */
  readonly random?: () => number;
}

/** Timers of Node overflow beyond 24.8 days. */
const maxDelayMs = 86_400_000;

/**
 * Keys that wait to be worked on.
 *
 * Guarantees: a key is in the queue at most once and handed to one worker at a time; added while it is worked on, it comes
 * again after `done`, so no change is missed; of several delays the earliest counts; an immediate `add` replaces a delay,
 * for the run that follows decides anew.
 */
export class WorkQueue {
  readonly #clock: Clock;
  readonly #minBackoffMs: number;
  readonly #maxBackoffMs: number;
  readonly #random: () => number;
  readonly #ready = new Set<string>();
  readonly #running = new Set<string>();
  readonly #addedWhileRunning = new Set<string>();
  readonly #delayed = new Map<string, { readonly dueMs: number; readonly timer: AbortController }>();
  readonly #failures = new Map<string, number>();
  readonly #waiting: ((key: string | undefined) => void)[] = [];
  #isClosed = false;

  constructor(options: QueueOptions = {}) {
    this.#clock = options.clock ?? systemClock;
    this.#minBackoffMs = options.minBackoffMs ?? 1_000;
    this.#maxBackoffMs = options.maxBackoffMs ?? 60_000;
    this.#random = options.random ?? Math.random;
  }

  /** Keys that are ready and not yet taken. */
  get depth(): number {
    return this.#ready.size;
  }

  /** Keys that wait for their time. */
  get delayed(): number {
    return this.#delayed.size;
  }

  get running(): number {
    return this.#running.size;
  }

  add(key: string): void {
    if (this.#isClosed) return;
    this.#cancelDelay(key);
    if (this.#running.has(key)) {
      this.#addedWhileRunning.add(key);
      return;
    }
    const worker = this.#waiting.shift();
    if (worker && !this.#ready.has(key)) {
      this.#running.add(key);
      worker(key);
      return;
    }
    if (worker) this.#waiting.unshift(worker);
    this.#ready.add(key);
  }

  addAfter(key: string, ms: number): void {
    if (this.#isClosed) return;
    if (!(ms > 0)) {
      this.add(key);
      return;
    }
    if (this.#ready.has(key) || this.#addedWhileRunning.has(key)) return;
    const delayMs = Math.min(ms, maxDelayMs);
    const dueMs = this.#clock.now() + delayMs;
    const present = this.#delayed.get(key);
    if (present && present.dueMs <= dueMs) return;
    this.#cancelDelay(key);
    const timer = new AbortController();
    const item = { dueMs, timer };
    this.#delayed.set(key, item);
    this.#clock.sleep(delayMs, timer.signal).then(
      () => {
        if (this.#delayed.get(key) === item) this.add(key);
      },
      () => {},
    );
  }

  /** Puts a key that failed back, after its back-off; returns the delay in milliseconds. */
  addFailed(key: string): number {
    const failures = this.#failures.get(key) ?? 0;
    this.#failures.set(key, failures + 1);
    const base = Math.min(this.#maxBackoffMs, this.#minBackoffMs * 2 ** Math.min(failures, 30));
    const delayMs = Math.round(base * (0.75 + this.#random() / 2));
    this.addAfter(key, delayMs);
    return delayMs;
  }

  /** The key succeeded: its next failure starts at the shortest back-off again. */
  forget(key: string): void {
    this.#failures.delete(key);
  }

  /** The next key, waiting for one; undefined when the queue was closed. The taker must call `done`. */
  take(): Promise<string | undefined> {
    if (this.#isClosed) return Promise.resolve(undefined);
    for (const key of this.#ready) {
      this.#ready.delete(key);
      this.#running.add(key);
      return Promise.resolve(key);
    }
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
    });
  }

  done(key: string): void {
    this.#running.delete(key);
    if (this.#addedWhileRunning.delete(key)) this.add(key);
  }

  /** No key is handed out any more; waiting takers get undefined. */
  close(): void {
    this.#isClosed = true;
    for (const { timer } of this.#delayed.values()) timer.abort();
    this.#delayed.clear();
    this.#ready.clear();
    this.#addedWhileRunning.clear();
    for (const worker of this.#waiting.splice(0)) worker(undefined);
  }

  #cancelDelay(key: string): void {
    this.#delayed.get(key)?.timer.abort();
    this.#delayed.delete(key);
  }
}
