import type { Completion } from '../../openai/request.ts';
import type { Endpoint } from './endpoint.ts';

/** A request as plugins see it. */
export interface PickRequest {
  readonly id: string;
  /** Empty when the request names none. */
  readonly model: string;
  /** The conversation, when the client names one. */
  readonly sessionId: string | undefined;
  /** Absent for requests without a prompt, such as `GET /v1/models`. */
  readonly completion: Completion | undefined;
  /** The value of a header by its lower-case name. */
  header(name: string): string | undefined;
  /** Hashes by which sidecars publish the conversation, its id's first. Built at the first call. */
  sessionKeys?(): readonly string[];
  /** The text whose blocks the engine caches; empty when there is no prompt. Built at the first call. */
  promptText(): string;
}

/** Names a value in a cycle's state together with its type. */
export interface StateKey<T> {
  readonly name: string;
  readonly empty?: T;
}

/** What plugins tell each other during the choice for one request. */
export class Cycle {
  readonly request: PickRequest;
  /** Every endpoint of the pool, not only the candidates. */
  readonly pool: readonly Endpoint[];
  /** Asked for an explanation only: nothing may be remembered of it. */
  readonly isTrial: boolean;
  /** Higher goes first; negative may be shed. */
  readonly priority: number;
  /** The first choice of each profile that has run, in order. */
  readonly picked: Endpoint[] = [];
  /** Told how long each plugin took, where that is measured. */
  timing:
    | ((point: string, plugin: { readonly type: string; readonly name: string }, seconds: number) => void)
    | undefined;
  /** The producers have run. */
  isProduced = false;
  #values: Map<StateKey<unknown>, unknown> | undefined;

  constructor(request: PickRequest, pool: readonly Endpoint[], isTrial = false, priority = 0) {
    this.request = request;
    this.pool = pool;
    this.isTrial = isTrial;
    this.priority = priority;
  }

  get<T>(key: StateKey<T>): T | undefined {
    return this.#values?.get(key) as T | undefined;
  }

  set<T>(key: StateKey<T>, value: T): void {
    this.#values ??= new Map();
    this.#values.set(key, value);
  }
}
