import { type Clock, systemClock } from '../clock.ts';
import { AppError, messageOf } from '../errors.ts';
import { refOf } from '../kube/object.ts';
import type { Logger } from '../telemetry/log.ts';
import { type ControllerMetrics, noControllerMetrics, type ReconcileResult } from './metrics.ts';
import { WorkQueue } from './queue.ts';
import { type Reconciler, TerminalError } from './reconcile.ts';
import type { Trigger } from './triggers.ts';

/** A controller as data: what it does and what wakes it. */
export interface ControllerDefinition {
  readonly name: string;
  readonly reconcile: Reconciler;
  readonly triggers: readonly Trigger[];
  /** Objects worked on at the same time; default 4. */
  readonly workers?: number;
  /** One reconcile may not take longer; default 2 minutes. */
  readonly timeoutMs?: number;
}

export interface ControllerDeps {
  readonly log: Logger;
  readonly clock?: Clock;
  readonly metrics?: ControllerMetrics;
}

export interface Controller {
  readonly name: string;
  readonly queue: WorkQueue;
  /** Takes no more work, awaits what runs up to `deadlineMs`, then aborts it. */
  close(deadlineMs?: number): Promise<void>;
}

/** Lets the cache catch up with whoever won. */
const conflictDelayMs = 50;
/** A conflict that does not end is a failure like any other. */
const maxConflicts = 10;

/** Runs one controller: THE loop, and the only place that gives outcomes and errors their meaning. */
export function startController(definition: ControllerDefinition, deps: ControllerDeps): Controller {
  const { name, reconcile, timeoutMs = 120_000 } = definition;
  const clock = deps.clock ?? systemClock;
  const metrics = deps.metrics ?? noControllerMetrics;
  const log = deps.log.child({ controller: name });
  const queue = new WorkQueue({ clock });
  const conflicts = new Map<string, number>();
  const aborting = new AbortController();
  metrics.observeQueue(name, () => queue.depth);

  const runOne = async (key: string): Promise<ReconcileResult> => {
    const abort = new AbortController();
    const stop = () => abort.abort(aborting.signal.reason);
    aborting.signal.addEventListener('abort', stop, { once: true });
    const timer = setTimeout(() => {
      abort.abort(new AppError('timeout', `the reconcile took longer than ${timeoutMs} ms`));
    }, timeoutMs);
    try {
      const outcome = await reconcile(refOf(key), abort.signal);
      conflicts.delete(key);
      queue.forget(key);
      switch (outcome.kind) {
        case 'awaitChange':
          return 'success';
        case 'requeueAfter':
          queue.addAfter(key, outcome.ms);
          return 'requeue';
      }
    } catch (thrown) {
      return interpret(key, thrown);
    } finally {
      clearTimeout(timer);
      aborting.signal.removeEventListener('abort', stop);
    }
  };

  const interpret = (key: string, thrown: unknown): ReconcileResult => {
    if (aborting.signal.aborted) return 'error';
    if (thrown instanceof TerminalError) {
      conflicts.delete(key);
      queue.forget(key);
      log.error({ object: key, error: thrown.message }, 'reconcile failed; waiting for a change');
      return 'terminal';
    }
    if (thrown instanceof AppError && thrown.code === 'conflict') {
      const count = (conflicts.get(key) ?? 0) + 1;
      if (count <= maxConflicts) {
        conflicts.set(key, count);
        log.debug({ object: key, error: thrown.message }, 'conflict; trying again');
        queue.addAfter(key, conflictDelayMs);
        return 'conflict';
      }
    }
    conflicts.delete(key);
    const retryMs = queue.addFailed(key);
    const isBug = !(thrown instanceof AppError);
    log.error(
      { object: key, retryMs, ...(isBug ? { err: thrown } : { error: messageOf(thrown) }) },
      'reconcile failed',
    );
    return 'error';
  };

  const work = async (): Promise<void> => {
    for (;;) {
      const key = await queue.take();
      if (key === undefined) return;
      const startMs = performance.now();
      let result: ReconcileResult = 'error';
      try {
        result = await runOne(key);
      } finally {
        metrics.reconciled(name, result, (performance.now() - startMs) / 1000);
        queue.done(key);
      }
    }
  };

  const unsubscribe = definition.triggers.map((trigger) => trigger((key) => queue.add(key)));
  const working = Promise.all(Array.from({ length: definition.workers ?? 4 }, work));
  let closing: Promise<void> | undefined;

  return {
    name,
    queue,
    close(deadlineMs = 10_000) {
      closing ??= (async () => {
        for (const stop of unsubscribe) stop();
        queue.close();
        const timer = new AbortController();
        const isDone = await Promise.race([
          working.then(() => true),
          clock.sleep(deadlineMs, timer.signal).then(
            () => false,
            () => true,
          ),
        ]);
        timer.abort();
        if (isDone) return;
        log.warn({ running: queue.running, deadlineMs }, 'reconciles did not end in time; aborting them');
        aborting.abort(new AppError('unavailable', 'the controller is stopping'));
        // An aborted reconcile that still does not return is left behind: the process ends anyway.
        const last = new AbortController();
        await Promise.race([working, clock.sleep(1_000, last.signal).catch(() => {})]);
        last.abort();
      })();
      return closing;
    },
  };
}
