import { type Clock, systemClock } from '../clock.ts';
import { AppError, messageOf } from '../errors.ts';
import type { Client } from '../kube/client.ts';
import type { Informer } from '../kube/informer.ts';
import { type LeaderElection, type LeaderElectionOptions, startLeaderElection } from '../kube/leader-election.ts';
import type { KubeObject } from '../kube/object.ts';
import type { Logger } from '../telemetry/log.ts';
import { type Controller, type ControllerDefinition, startController } from './controller.ts';
import type { ControllerMetrics } from './metrics.ts';

export interface ManagerOptions {
  readonly controllers: readonly ControllerDefinition[];
  /** Must all be synced before any controller starts; closed with the manager. */
  readonly informers: readonly Informer<KubeObject>[];
  /** Of kinds whose definition may be missing: closed with the manager, not waited for. */
  readonly optionalInformers?: readonly Informer<KubeObject>[];
  /** Left out: this process is the only one. */
  readonly election?: Omit<LeaderElectionOptions, 'onLost'>;
}

export interface ManagerDeps {
  readonly client: Client;
  readonly log: Logger;
  readonly clock?: Clock;
  readonly metrics?: ControllerMetrics;
}

export interface Manager {
  /** Resolves when the controllers run: caches synced and, where elections are held, leading. */
  readonly started: Promise<void>;
  readonly isSynced: boolean;
  readonly isLeading: boolean;
  /** Resolves with the reason why this process must end: another leads. */
  readonly failed: Promise<AppError>;
  /** Stops in order: no new work, running reconciles up to the deadline, the lease given back, informers. */
  close(deadlineMs?: number): Promise<void>;
}

/** Runs controllers over shared informers, while leading. */
export function startManager(options: ManagerOptions, deps: ManagerDeps): Manager {
  const { log, client } = deps;
  const clock = deps.clock ?? systemClock;
  const closing = new AbortController();
  const closed = new Promise<never>((_, reject) => {
    closing.signal.addEventListener('abort', () => reject(closing.signal.reason), { once: true });
  });
  closed.catch(() => {});
  let running: readonly Controller[] = [];
  let fail: (error: AppError) => void = () => {};
  const failed = new Promise<AppError>((resolve) => {
    fail = resolve;
  });
  const stopControllers = (deadlineMs: number) =>
    Promise.all(running.map((controller) => controller.close(deadlineMs))).then(() => {});

  const election: LeaderElection | undefined = options.election
    ? startLeaderElection(
        client,
        {
          ...options.election,
          onLost: (reason) => {
            // Another may act already: whatever runs is cut off at once.
            void stopControllers(0);
            fail(new AppError('unavailable', `leadership lost: ${reason}`));
          },
        },
        { log, clock },
      )
    : undefined;

  let wasSynced = false;
  /** For good once true: a definition that is removed later makes no process unready. */
  const isSynced = () => {
    wasSynced ||= options.informers.every((informer) => informer.isSynced);
    return wasSynced;
  };
  const start = async () => {
    await Promise.race([Promise.all(options.informers.map((informer) => informer.synced)), closed]);
    if (election) await Promise.race([election.leading, closed]);
    if (closing.signal.aborted) return;
    running = options.controllers.map((definition) =>
      startController(definition, { log, clock, ...(deps.metrics ? { metrics: deps.metrics } : {}) }),
    );
    log.info({ controllers: running.map((controller) => controller.name) }, 'controllers run');
  };
  const started = start();
  started.catch((thrown: unknown) => {
    if (!closing.signal.aborted) fail(new AppError('internal', messageOf(thrown), { cause: thrown }));
  });
  let closingDone: Promise<void> | undefined;

  return {
    started,
    failed,
    get isSynced() {
      return isSynced();
    },
    get isLeading() {
      return election?.isLeading ?? true;
    },
    close(deadlineMs = 10_000) {
      closingDone ??= (async () => {
        closing.abort(new AppError('unavailable', 'the manager was closed'));
        await stopControllers(deadlineMs);
        await election?.close();
        for (const informer of [...options.informers, ...(options.optionalInformers ?? [])]) informer.close();
      })();
      return closingDone;
    },
  };
}
