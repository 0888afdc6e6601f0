import type { Endpoint } from './endpoint.ts';
import type { Filter, Plugin } from './plugin.ts';

/** Says how full endpoints are, together and, as a filter, one by one. */
export interface SaturationDetector extends Filter {
  /**
   * 0 for idle, 1 for full, more for more than that.
   *
   * @param endpoints ready ones, not empty
   * @param placing requests that were let through and are not yet counted at an endpoint
   */
  saturation(endpoints: readonly Endpoint[], placing: number): number;
  /** Endpoints whose load is judged without fresh metrics; 0 where none are needed. */
  staleCount(endpoints: readonly Endpoint[]): number;
}

/** A request that waits for its turn. */
export interface Waiting {
  /** Who sent it: requests of one id and priority are one flow. */
  readonly fairnessId: string;
  readonly enqueuedAtMs: number;
  /** When it is given up. */
  readonly deadlineMs: number;
  /** What the client asks for, ms to the first token. */
  readonly ttftMs: number | undefined;
}

/** Says in which order the requests of one flow go. */
export interface OrderingPolicy extends Plugin {
  /** Smaller goes first, equals as they came. Never changes while the request waits. */
  rank(request: Waiting): number;
}

/** What a fairness policy sees of a flow that has requests waiting. */
export interface FlowHead {
  readonly fairnessId: string;
  /** The request that goes first in this flow, and its rank. */
  readonly head: Waiting;
  readonly rank: number;
  /** Of two with the same rank the smaller came first. */
  readonly turn: number;
}

/** Says whose turn it is among the flows of a priority. */
export interface FairnessPolicy extends Plugin {
  /** @param flows at least one, those that were served last at the end */
  nextFlow(flows: Iterable<FlowHead>, nowMs: number): string | undefined;
  /** The engine's figures about a request of that flow, when it is over. */
  used?(
    fairnessId: string,
    usage: { readonly promptTokens: number; readonly completionTokens: number },
    nowMs: number,
  ): void;
}

/** Says up to which saturation each priority is served. */
export interface UsageLimitPolicy extends Plugin {
  /**
   * @param priorities every one that may have requests, the highest first
   * @returns a ceiling for each
   */
  ceilings(priorities: readonly number[], saturation: number): readonly number[];
}

export const isSaturationDetector = (plugin: Plugin): plugin is SaturationDetector => 'saturation' in plugin;
export const isOrderingPolicy = (plugin: Plugin): plugin is OrderingPolicy => 'rank' in plugin;
export const isFairnessPolicy = (plugin: Plugin): plugin is FairnessPolicy => 'nextFlow' in plugin;
export const isUsageLimitPolicy = (plugin: Plugin): plugin is UsageLimitPolicy => 'ceilings' in plugin;
