import xxhash, { type XXHashAPI } from 'xxhash-wasm';
import { z } from 'zod';
import type { Cycle, StateKey } from '../../framework/cycle-state.ts';
import type { Endpoint } from '../../framework/endpoint.ts';
import { type PluginFactory, type PreRequest, type Producer, parseParameters } from '../../framework/plugin.ts';
import { type PrefixMatch, prefixMatchKey } from '../../framework/prefix-match.ts';
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

const hashesKey: StateKey<readonly number[]> = { name: 'prefix-hashes' };

// Compiled once for the process; a few milliseconds.
const hasher: XXHashAPI = await xxhash();

/**
 * Two chained 32-bit hashes joined to 53 bits: a plain number is a far cheaper key than a bigint, and with a million
 * blocks the chance of any false match stays under one in ten thousand.
 */
export function hashBlocks(model: string, text: string, blockBytes: number, maxBlocks: number): readonly number[] {
  const bytes = Buffer.from(text.length > maxBlocks * blockBytes ? text.slice(0, maxBlocks * blockBytes) : text);
  const count = Math.min(maxBlocks, Math.floor(bytes.length / blockBytes));
  const hashes: number[] = [];
  let low = hasher.h32(model, 1);
  let high = hasher.h32(model, 2);
  for (let i = 0; i < count; i++) {
    const block = bytes.subarray(i * blockBytes, (i + 1) * blockBytes);
    low = hasher.h32Raw(block, low);
    high = hasher.h32Raw(block, high);
    hashes.push((high >>> 11) * 0x1_0000_0000 + (low >>> 0));
  }
  return hashes;
}

class Match implements PrefixMatch {
  readonly totalBlocks: number;
  readonly blockTokens: number;
  readonly promptTokens: number;
  readonly isWarm: boolean;
  readonly #index: PrefixIndex;
  readonly #matched: Uint32Array | undefined;
  readonly #sessionEndpoints: readonly string[];

  constructor(
    index: PrefixIndex,
    matched: Uint32Array | undefined,
    sessionEndpoints: readonly string[],
    sizes: { readonly totalBlocks: number; readonly blockTokens: number; readonly promptTokens: number },
  ) {
    this.totalBlocks = sizes.totalBlocks;
    this.blockTokens = sizes.blockTokens;
    this.promptTokens = sizes.promptTokens;
    this.isWarm = matched !== undefined || sessionEndpoints.length > 0;
    this.#index = index;
    this.#matched = matched;
    this.#sessionEndpoints = sessionEndpoints;
  }

  matchedBlocks(endpoint: Endpoint): number {
    if (this.hasSession(endpoint)) return this.totalBlocks;
    if (this.#matched === undefined) return 0;
    const slot = this.#index.slotOf(endpoint.id);
    return slot === undefined ? 0 : (this.#matched[slot] ?? 0);
  }

  hasSession(endpoint: Endpoint): boolean {
    return this.#sessionEndpoints.length > 0 && this.#sessionEndpoints.includes(endpoint.id);
  }
}

/**
 * Remembers which prompts were sent where, as hashes of blocks of the prompt's text, and which conversations; says
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
      const hashes = hashBlocks(request.model, text, blockBytes, maxBlocks);
      const session = sessionOf(cycle);
      cycle.set(hashesKey, hashes);
      cycle.set(
        prefixMatchKey,
        new Match(index, index.match(hashes), session === undefined ? [] : sessions.endpointsOf(session), {
          totalBlocks: hashes.length,
          blockTokens: settings.blockSizeTokens,
          promptTokens: Math.ceil(text.length / bytesPerToken),
        }),
      );
    },
    preRequest: (cycle, decision) => {
      const hashes = cycle.get(hashesKey);
      if (hashes === undefined) return;
      const session = sessionOf(cycle);
      for (const result of decision.results.values()) {
        const endpoint = result.picked[0];
        if (endpoint === undefined) continue;
        index.record(endpoint.id, hashes);
        if (session !== undefined) sessions.record(session, endpoint.id);
      }
    },
  };
};
