import type { Cycle, StateKey } from './cycle-state.ts';
import type { Endpoint } from './endpoint.ts';

/** How much of a request's prompt each endpoint is believed to hold in its KV cache. Tokens may be estimated at four bytes each. */
export interface PrefixMatch {
  /** Tokens of the whole prompt. */
  readonly promptTokens: number;
  /** Tokens from the start without a gap. All of them where the request's session is known. */
  matchedTokens(endpoint: Endpoint): number;
  /** The request's session was served there and is still remembered. */
  hasSession(endpoint: Endpoint): boolean;
  /** True when any endpoint matches at all. */
  readonly isWarm: boolean;
}

/** Written by the producer of prefix matches, read by scorers and deciders. Of several producers the first to know counts. */
export const prefixMatchKey: StateKey<PrefixMatch> = { name: 'prefix-match' };

const namedKeys = new Map<string, StateKey<PrefixMatch>>();

/** Where one producer's match is, for those that name the producer; without a name the one that counts for all. */
export function prefixMatchKeyOf(producer: string | undefined): StateKey<PrefixMatch> {
  if (producer === undefined) return prefixMatchKey;
  let key = namedKeys.get(producer);
  if (key === undefined) {
    key = { name: `prefix-match of ${producer}` };
    namedKeys.set(producer, key);
  }
  return key;
}

/** What a producer found. */
export function setPrefixMatch(cycle: Cycle, producer: string, match: PrefixMatch): void {
  cycle.set(prefixMatchKeyOf(producer), match);
  if (cycle.get(prefixMatchKey) === undefined) cycle.set(prefixMatchKey, match);
}

/** 0–1: the share of the prompt that the endpoint holds. */
export function matchedShare(match: PrefixMatch | undefined, endpoint: Endpoint): number {
  if (match === undefined || !match.isWarm) return 0;
  if (match.hasSession(endpoint)) return 1;
  return match.promptTokens === 0 ? 0 : match.matchedTokens(endpoint) / match.promptTokens;
}
