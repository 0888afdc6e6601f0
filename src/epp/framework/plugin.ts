import type { z } from 'zod';
import type { Clock } from '../../clock.ts';
import { AppError } from '../../errors.ts';
import type { Cycle } from './cycle-state.ts';
import type { Decision } from './decision.ts';
import type { Endpoint } from './endpoint.ts';
import type { ProfileResult } from './profile.ts';

/** One configured plugin. It takes part at every point whose method it has. */
export interface Plugin {
  readonly type: string;
  /** Unique in a configuration; the type unless named. */
  readonly name: string;
  /** Awaited before the first request; rejects with an AppError when the plugin cannot work at all. */
  ready?(): Promise<void>;
  /** Gives back what the plugin holds besides memory. */
  close?(): void | Promise<void>;
  /** What it knows at the moment, in figures, for people. */
  state?(): Readonly<Record<string, unknown>>;
}

/** Leaves the endpoints that may serve the request, in their order. */
export interface Filter extends Plugin {
  /** When it leaves nobody the pool is too busy, rather than unfit for the request. */
  readonly isDrainedByLoad?: boolean;
  filter(cycle: Cycle, endpoints: readonly Endpoint[]): readonly Endpoint[];
}

/** Writes 0–1 for each endpoint into `scores` (same length, all 0 before). Values outside are clamped, NaN is 0. */
export interface Scorer extends Plugin {
  score(cycle: Cycle, endpoints: readonly Endpoint[], scores: Float64Array): void;
}

/** Chooses from one or more endpoints by their weighted totals; the first is primary, the rest are fallbacks. */
export interface Picker extends Plugin {
  pick(cycle: Cycle, endpoints: readonly Endpoint[], totals: Float64Array): readonly Endpoint[];
}

export type ProfileResults = ReadonlyMap<string, ProfileResult>;

/** Says which profiles run, in turns, and which one's endpoint gets the request. */
export interface ProfileHandler extends Plugin {
  /** Profiles that this handler needs; told at start-up when one is missing. */
  check(profiles: ReadonlySet<string>): void;
  /** The profile to run next, or undefined when done. `results` holds those already run. */
  next(cycle: Cycle, results: ProfileResults): string | undefined;
  /** The profile whose endpoint the gateway is told. */
  readonly primary: (results: ProfileResults) => string;
  /** A profile that has run and turned out not to be wanted; asked once all have. */
  unwanted?(cycle: Cycle, results: ProfileResults): string | undefined;
}

/** Says whether a request is worth a stage of its own, such as a separate prefill. */
export interface Decider extends Plugin {
  isStageWanted(cycle: Cycle, decode: Endpoint): boolean;
}

/** Puts what scorers and deciders need into the cycle, once per request. */
export interface Producer extends Plugin {
  produce(cycle: Cycle): void;
}

/**
 * Asks somebody else before the choice, such as a worker. It settles in bounded time and never rejects: what could not
 * be learned is left out. The endpoints of the pool may have changed when the choice is made.
 */
export interface Preparer extends Plugin {
  /** Before the producers, which need what it learns; others are asked after them. */
  readonly isEarly?: boolean;
  prepare(cycle: Cycle): Promise<void> | undefined;
}

/** Says whether a request may be served at all, before the choice. Told to the client as it is. */
export interface Admitter extends Plugin {
  /** Why the request is turned away, or undefined. */
  admit(cycle: Cycle, endpoints: readonly Endpoint[]): AppError | undefined;
}

/** Watches how what was chosen turns out. Cheap: it is called for every request. */
export interface ExchangeObserver extends Plugin {
  /** The first byte of the answer has come. */
  onFirstToken?(cycle: Cycle, decision: Decision, ttftMs: number): void;
  /** The exchange is over. `usage` where the engine tells it, `tpotMs` where the answer was streamed. */
  onEnd?(
    cycle: Cycle,
    decision: Decision,
    outcome: {
      readonly isComplete: boolean;
      readonly outputTokens: number | undefined;
      readonly tpotMs: number | undefined;
    },
  ): void;
}

/** Called when the choice is made, before the answer leaves: remembers it, or adds request headers. */
export interface PreRequest extends Plugin {
  preRequest(cycle: Cycle, decision: Decision, headers: Map<string, string>): void;
}

export const isFilter = (plugin: Plugin): plugin is Filter => 'filter' in plugin;
export const isScorer = (plugin: Plugin): plugin is Scorer => 'score' in plugin;
export const isPicker = (plugin: Plugin): plugin is Picker => 'pick' in plugin;
export const isProfileHandler = (plugin: Plugin): plugin is ProfileHandler => 'next' in plugin && 'primary' in plugin;
export const isDecider = (plugin: Plugin): plugin is Decider => 'isStageWanted' in plugin;
export const isPreparer = (plugin: Plugin): plugin is Preparer => 'prepare' in plugin;
export const isProducer = (plugin: Plugin): plugin is Producer => 'produce' in plugin;
export const isAdmitter = (plugin: Plugin): plugin is Admitter => 'admit' in plugin;
export const isExchangeObserver = (plugin: Plugin): plugin is ExchangeObserver =>
  'onFirstToken' in plugin || 'onEnd' in plugin;
export const isPreRequest = (plugin: Plugin): plugin is PreRequest => 'preRequest' in plugin;

/** Why a plugin had no say: it threw, was not there in time, or gave what is no score. */
export type PluginFailure = 'threw' | 'late' | 'invalid' | 'down';

/** The pool's endpoints apart from any request. */
export interface PoolView {
  current(): readonly Endpoint[];
  /** Calls back after every change; returns how to stop. */
  subscribe(listener: () => void): () => void;
}

/** What a factory gets to make one plugin of a configuration. */
export interface PluginContext {
  readonly type: string;
  readonly name: string;
  readonly parameters: unknown;
  /** Where the parameters stand, for messages: `plugins[2].parameters`. */
  readonly path: string;
  readonly clock: Clock;
  readonly pool: PoolView;
  /** The one of the candidates that a misspelt name means, if any. */
  readonly nearest: (name: string, candidates: readonly string[]) => string | undefined;
  /** 0 ≤ x < 1. */
  readonly random: () => number;
  /** Folder that relative paths in parameters start from. */
  readonly baseDir: string;
  /** Tells that the plugin had no say in a choice. Cheap: what is told often is logged seldom. */
  readonly report: (reason: PluginFailure, message: string) => void;
  /** Another plugin of the configuration by its name; made first if need be. `from` is the field that names it. */
  plugin(name: string, from: string): Plugin;
}

export type PluginFactory = (context: PluginContext) => Plugin;

/**
 * The plugin's parameters by its schema.
 *
 * @throws AppError `invalid` naming every wrong field with its path
 */
export function parseParameters<T>(context: PluginContext, schema: z.ZodType<T>): T {
  const result = schema.safeParse(context.parameters ?? {});
  if (result.success) return result.data;
  const problems = result.error.issues.flatMap((issue) => {
    const at = [context.path, ...issue.path].join('.');
    if (issue.code !== 'unrecognized_keys') return [`${at}: ${issue.message}`];
    const known = keysAt(schema, issue.path);
    return issue.keys.map((key) => {
      const meant = context.nearest(key, known);
      const hint =
        meant === undefined
          ? known.length === 0
            ? ''
            : `; known are ${known.join(', ')}`
          : `, did you mean ${meant}?`;
      return `${at}.${key}: unknown field${hint}`;
    });
  });
  throw new AppError('invalid', `plugin ${context.name} (type ${context.type}): ${problems.join('; ')}`);
}

interface Definition {
  readonly innerType?: z.ZodType;
  readonly element?: z.ZodType;
  readonly in?: z.ZodType;
  readonly shape?: Readonly<Record<string, z.ZodType>>;
}

/** The fields that a schema knows at a place within it. */
function keysAt(schema: z.ZodType, path: readonly PropertyKey[]): readonly string[] {
  let at: z.ZodType | undefined = schema;
  for (const step of [...path, undefined]) {
    let definition: Definition | undefined = at?.def as Definition | undefined;
    // Defaults, optional fields and transformations around what is meant.
    for (let inner = definition?.innerType ?? definition?.in; inner !== undefined; ) {
      definition = inner.def as Definition;
      inner = definition.innerType ?? definition.in;
    }
    if (step === undefined) return Object.keys(definition?.shape ?? {});
    at = typeof step === 'number' ? definition?.element : definition?.shape?.[String(step)];
  }
  return [];
}
