/** What the picker and the worker that runs a user's module tell each other. */

/** A request as a user's scorer sees it. */
export interface ModuleRequest {
  readonly id: string;
  /** Empty when the request names none. */
  readonly model: string;
  readonly sessionId: string | undefined;
  /** Estimated tokens of the prompt; 0 without one. */
  readonly promptTokens: number;
  readonly isStreaming: boolean;
  /** Those that the configuration's `headers` names, by lower-case name. */
  readonly headers: Readonly<Record<string, string>>;
}

/** A pod's figures as a user's scorer sees them. */
export interface ModuleMetrics {
  /** False before the first reading and when the last one is too old. */
  readonly isKnown: boolean;
  /** Infinity before the first reading. */
  readonly ageMs: number;
  readonly waiting: number;
  readonly running: number;
  /** 0–1. */
  readonly kvUsage: number;
  readonly inFlight: number;
  readonly requestsPerSecond: number;
  /** 0–1: the share of the prompt that the pod holds. */
  readonly cachedShare: number;
  /** Custom metrics by the keys of the configuration; a key is missing while its series is. */
  readonly custom: Readonly<Record<string, number>>;
}

/** An endpoint as a user's scorer sees it. */
export interface ModulePod {
  readonly id: string;
  readonly name: string;
  readonly namespace: string;
  readonly address: string;
  readonly port: number;
  readonly labels: Readonly<Record<string, string>>;
  readonly metrics: ModuleMetrics;
}

/** What a module's default export is, or returns when it is a function (it is given the configuration's `parameters`). */
export interface ModuleScorer {
  /** 0–1, higher is better; `pods` are all of the pool. */
  score(request: ModuleRequest, pod: ModulePod, pods: readonly ModulePod[]): number | Promise<number>;
}

export type ModulePlace = Omit<ModulePod, 'metrics'>;

/** Figures of one pod in a flat array. */
export const figures = [
  'isKnown',
  'ageMs',
  'waiting',
  'running',
  'kvUsage',
  'inFlight',
  'requestsPerSecond',
  'cachedShare',
] as const;

export type ToHost =
  | { readonly kind: 'ping' }
  | { readonly kind: 'pods'; readonly places: readonly ModulePlace[] }
  | {
      readonly kind: 'score';
      readonly ticket: number;
      readonly request: ModuleRequest;
      /** `figures` of each pod in turn. */
      readonly figures: Float64Array;
      readonly custom: readonly (Readonly<Record<string, number>> | undefined)[] | undefined;
    };

export type FromHost =
  | { readonly kind: 'pong' }
  | { readonly kind: 'ready' }
  | { readonly kind: 'failed'; readonly message: string }
  | { readonly kind: 'scores'; readonly ticket: number; readonly scores: Float64Array }
  | {
      readonly kind: 'error';
      readonly ticket: number;
      readonly reason: 'threw' | 'late' | 'invalid';
      readonly message: string;
    };

/** What the worker starts with. */
export interface HostData {
  /** `file:` URL of the module. */
  readonly url: string;
  readonly parameters: unknown;
  readonly timeoutMs: number;
}
