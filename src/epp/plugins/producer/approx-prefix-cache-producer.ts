import xxhash, { type XXHashAPI } from 'xxhash-wasm';
import { z } from 'zod';
import type { Cycle, StateKey } from '../../framework/cycle-state.ts';
import type { Endpoint } from '../../framework/endpoint.ts';
import { type PluginFactory, type PreRequest, type Producer, parseParameters } from '../../framework/plugin.ts';
import { type PrefixMatch, setPrefixMatch } from '../../framework/prefix-match.ts';
import { PrefixIndex } from './prefix-index.ts';
import { SessionIndex } from './session-index.ts';

const bytesPerToken = 4;

const parameters = z.strictObject({
  /** Tokens of one block, at four bytes a token. */
  blockSizeTokens: z.number().int().min(1).default(64),
  /** Accepted and not used: the block size above is exact enough for an approximate index. */
  autoTune: z.boolean().optional(),
  /** Blocks of a prompt that are looked at; the rest is taken to match nowhere. */
  maxPrefixBlocksToMatch: z.number().int().min(1).default(2048),
  maxPrefixTokensToMatch: z.number().int().min(1).default(131_072),
  /** Blocks remembered for each endpoint. */
  lruCapacityPerServer: z.number().int().min(1).default(31_250),
  /** Conversations remembered over all endpoints. */
  maxSessions: z.number().int().min(1).default(65_536),
});

/** A prompt in units: blocks of a fixed size, cut also where a message begins. */
interface Units {
  /** Each covers all units before it. */
  readonly hashes: readonly number[];
  /** Bytes of the prompt up to and with each unit. */
  readonly ends: readonly number[];
}

const unitsKey: StateKey<Units> = { name: 'prefix-units' };

// Compiled once for the process; a few milliseconds.
const hasher: XXHashAPI = await xxhash();

const messageStart = Buffer.from('\n<|');

/**
 * Cuts a prompt into units and hashes each with all before it. A unit ends after `blockBytes`, or where the next
 * message starts, so that the turns of a short conversation match too; the last may be shorter.
 *
 * Two chained 32-bit hashes are joined to 53 bits: a plain number is a far cheaper key than a bigint, and with a
 * million units the chance of any false match stays under one in ten thousand.
 */
export function hashPrompt(model: string, text: string, blockBytes: number, maxUnits: number): Units {
  const bytes = Buffer.from(text.length > maxUnits * blockBytes ? text.slice(0, maxUnits * blockBytes) : text);
  const hashes: number[] = [];
  const ends: number[] = [];
  let low = hasher.h32(model, 1);
  let high = hasher.h32(model, 2);
  let nextMessage = bytes.indexOf(messageStart);
  for (let start = 0; start < bytes.length && hashes.length < maxUnits; ) {
    let end = Math.min(start + blockBytes, bytes.length);
    if (nextMessage >= 0 && nextMessage < end) {
      end = nextMessage + 1;
      nextMessage = bytes.indexOf(messageStart, end);
    }
    const unit = bytes.subarray(start, end);
    low = hasher.h32Raw(unit, low);
    high = hasher.h32Raw(unit, high);
    hashes.push((high >>> 11) * 0x1_0000_0000 + (low >>> 0));
    ends.push(end);
    start = end;
  }
  return { hashes, ends };
}

class Match implements PrefixMatch {
  readonly promptTokens: number;
  readonly isWarm: boolean;
  readonly #index: PrefixIndex;
  readonly #units: Units;
  readonly #matched: Uint32Array | undefined;
  readonly #sessionEndpoints: readonly string[];

  constructor(
    index: PrefixIndex,
    units: Units,
    promptTokens: number,
    matched: Uint32Array | undefined,
    sessionEndpoints: readonly string[],
  ) {
    this.promptTokens = promptTokens;
    this.isWarm = matched !== undefined || sessionEndpoints.length > 0;
    this.#index = index;
    this.#units = units;
    this.#matched = matched;
    this.#sessionEndpoints = sessionEndpoints;
  }

  matchedTokens(endpoint: Endpoint): number {
    if (this.hasSession(endpoint)) return this.promptTokens;
    if (this.#matched === undefined) return 0;
    const slot = this.#index.slotOf(endpoint.id);
    const units = slot === undefined ? 0 : (this.#matched[slot] ?? 0);
    return units === 0 ? 0 : (this.#units.ends[units - 1] ?? 0) / bytesPerToken;
  }

  hasSession(endpoint: Endpoint): boolean {
    return this.#sessionEndpoints.length > 0 && this.#sessionEndpoints.includes(endpoint.id);
  }
}

/**
 * Remembers which prompts were sent where, as hashes over the prompt's text, and which conversations; says
 * how much of a new prompt each endpoint should still have. Approximate: engines evict without telling.
 */
export const createApproxPrefixCacheProducer: PluginFactory = (context): Producer & PreRequest => {
  const settings = parseParameters(context, parameters);
  const blockBytes = settings.blockSizeTokens * bytesPerToken;
  const maxBlocks = Math.min(
    settings.maxPrefixBlocksToMatch,
    Math.max(1, Math.floor(settings.maxPrefixTokensToMatch / settings.blockSizeTokens)),
  );
  const index = new PrefixIndex(settings.lruCapacityPerServer);
  const sessions = new SessionIndex(settings.maxSessions);
  let lastPool: readonly Endpoint[] | undefined;

  const sessionOf = ({ request }: Cycle): string | undefined =>
    request.sessionId === undefined ? undefined : `${request.model}\0${request.sessionId}`;

  return {
    type: context.type,
    name: context.name,
    produce: (cycle) => {
      const { request, pool } = cycle;
      if (request.completion === undefined) return;
      if (pool !== lastPool) {
        lastPool = pool;
        index.retain(new Set(pool.map((endpoint) => endpoint.id)));
      }
      const text = request.promptText();
      const units = hashPrompt(request.model, text, blockBytes, maxBlocks);
      const promptBytes = Math.max(text.length, units.ends[units.ends.length - 1] ?? 0);
      const session = sessionOf(cycle);
      cycle.set(unitsKey, units);
      setPrefixMatch(
        cycle,
        context.name,
        new Match(
          index,
          units,
          promptBytes / bytesPerToken,
          index.match(units.hashes),
          session === undefined ? [] : sessions.endpointsOf(session),
        ),
      );
    },
    state: () => ({ blocks: index.size }),
    preRequest: (cycle, decision) => {
      const units = cycle.get(unitsKey);
      if (units === undefined) return;
      const session = sessionOf(cycle);
      for (const result of decision.results.values()) {
        const endpoint = result.picked[0];
        if (endpoint === undefined) continue;
        index.record(endpoint.id, units.hashes);
        if (session !== undefined) sessions.record(session, endpoint.id);
      }
    },
  };
};
