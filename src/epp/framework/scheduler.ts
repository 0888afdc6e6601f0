import { AppError } from '../../errors.ts';
import type { Cycle } from './cycle-state.ts';
import { Decision } from './decision.ts';
import type { Endpoint } from './endpoint.ts';
import type { Admitter, ExchangeObserver, Preparer, PreRequest, Producer, ProfileHandler } from './plugin.ts';
import type { Profile, ProfileResult } from './profile.ts';

export interface SchedulerParts {
  readonly handler: ProfileHandler;
  readonly profiles: readonly Profile[];
  readonly producers: readonly Producer[];
  readonly preRequests: readonly PreRequest[];
  readonly preparers?: readonly Preparer[];
  readonly admitters?: readonly Admitter[];
  readonly exchangeObservers?: readonly ExchangeObserver[];
  /** Told of every profile run; seconds on a monotonic clock. */
  readonly observe?: (result: ProfileResult, seconds: number, cycle: Cycle) => void;
}

/** Runs producers, then the profiles that the handler names, then the hooks that remember the choice. */
export class Scheduler {
  readonly #parts: SchedulerParts;
  readonly #profiles: ReadonlyMap<string, Profile>;

  constructor(parts: SchedulerParts) {
    this.#parts = parts;
    this.#profiles = new Map(parts.profiles.map((profile) => [profile.name, profile]));
    parts.handler.check(new Set(this.#profiles.keys()));
  }

  /** Those who watch how choices turn out. */
  get exchangeObservers(): readonly ExchangeObserver[] {
    return this.#parts.exchangeObservers ?? [];
  }

  /** What has to be waited for before `schedule`; undefined when nothing, as without plugins that ask others. */
  prepare(cycle: Cycle): Promise<unknown> | undefined {
    const { preparers } = this.#parts;
    if (preparers === undefined || preparers.length === 0) return undefined;
    const ask = (isEarly: boolean): Promise<unknown> | undefined => {
      const pending: Promise<void>[] = [];
      for (const preparer of preparers) {
        const promise = (preparer.isEarly ?? false) === isEarly ? preparer.prepare(cycle) : undefined;
        if (promise !== undefined) pending.push(promise);
      }
      return pending.length === 0 ? undefined : Promise.all(pending);
    };
    const askLate = (): Promise<unknown> | undefined => {
      // So that those who are asked can be told what is cached where.
      this.#produce(cycle);
      return ask(false);
    };
    return ask(true)?.then(askLate) ?? askLate();
  }

  /**
   * Chooses among `candidates` (the pool, or the gateway's subset of it).
   *
   * @param gate throws where the choice is not to be; nothing is remembered of it then
   * @param headers request headers that plugins add, by lower-case name
   * @throws AppError `unavailable` when no endpoint is left in the primary profile, or what an admitter says
   */
  schedule(
    cycle: Cycle,
    candidates: readonly Endpoint[],
    headers: Map<string, string>,
    gate?: (decision: Decision) => void,
  ): Decision {
    const { handler, preRequests, admitters, observe } = this.#parts;
    this.#produce(cycle);
    if (admitters !== undefined) {
      for (const admitter of admitters) {
        const denied = admitter.admit(cycle, candidates);
        if (denied !== undefined) throw denied;
      }
    }
    const results = new Map<string, ProfileResult>();
    for (;;) {
      const name = handler.next(cycle, results);
      if (name === undefined) break;
      const profile = this.#profiles.get(name);
      if (profile === undefined || results.has(name)) {
        throw new AppError('internal', `profile handler ${handler.name} asked for profile ${name} out of turn`);
      }
      const start = performance.now();
      const result = profile.run(cycle, candidates);
      if (!cycle.isTrial) observe?.(result, (performance.now() - start) / 1000, cycle);
      results.set(name, result);
      if (result.picked[0] !== undefined) cycle.picked.push(result.picked[0]);
    }
    const unwanted = handler.unwanted?.(cycle, results);
    if (unwanted !== undefined) results.delete(unwanted);
    const primary = handler.primary(results);
    const chosen = results.get(primary);
    const [first, ...rest] = chosen?.picked ?? [];
    if (first === undefined) {
      if (chosen?.isDrainedByLoad === true) {
        throw new AppError('overloaded', 'every endpoint that could serve the request is full; try again later');
      }
      throw new AppError('unavailable', `no endpoint of the pool can serve the request (profile ${primary})`);
    }
    const decision = new Decision(results, primary, [first, ...rest]);
    if (cycle.isTrial) return decision;
    gate?.(decision);
    const { timing } = cycle;
    for (const hook of preRequests) {
      const startMs = timing === undefined ? 0 : performance.now();
      hook.preRequest(cycle, decision, headers);
      timing?.('PreRequest', hook, (performance.now() - startMs) / 1000);
    }
    return decision;
  }

  #produce(cycle: Cycle): void {
    if (cycle.isProduced) return;
    cycle.isProduced = true;
    const { timing } = cycle;
    for (const producer of this.#parts.producers) {
      const startMs = timing === undefined ? 0 : performance.now();
      producer.produce(cycle);
      timing?.('DataProducer', producer, (performance.now() - startMs) / 1000);
    }
  }
}
