/** What a cache tells about itself. Told at once what belongs to one step of the engine. */
export interface CacheEvents {
  stored(blocks: StoredBlocks): void;
  removed(hash: number): void;
  cleared(): void;
  /** Sends what was told since the last time. */
  flush(): void;
}

/** Blocks of one prompt, in turn, that can be found from now on. */
export interface StoredBlocks {
  readonly hashes: readonly number[];
  /** The block before the first of these; undefined at the start of a prompt. */
  readonly parent: number | undefined;
  readonly tokenIds: readonly number[];
  readonly blockSize: number;
  readonly adapter: { readonly id: number; readonly name: string } | undefined;
  /** The prompt's cache_salt, when these are its first blocks. */
  readonly salt: string | undefined;
}

/** An event as vLLM writes it: a list that begins with its type; fields at the end that hold nothing are left out. */
export type WireEvent = readonly [type: string, ...fields: unknown[]];

/** Kept in the memory of an accelerator. */
const medium = 'GPU';

/**
 * Gathers the events of a step in vLLM's form.
 *
 * @param send takes a step's events, at least one
 */
export function createCacheEvents(send: (events: readonly WireEvent[]) => void): CacheEvents {
  let pending: WireEvent[] = [];
  /** Hashes of the removal at the end of `pending`. */
  let removals: number[] | undefined;
  return {
    stored: (blocks) => {
      removals = undefined;
      pending.push(toStored(blocks));
    },
    removed: (hash) => {
      if (removals) {
        removals.push(hash);
        return;
      }
      removals = [hash];
      pending.push(['BlockRemoved', removals, medium]);
    },
    cleared: () => {
      removals = undefined;
      pending.push(['AllBlocksCleared']);
    },
    flush: () => {
      if (pending.length === 0) return;
      const events = pending;
      pending = [];
      removals = undefined;
      send(events);
    },
  };
}

function toStored(blocks: StoredBlocks): WireEvent {
  const { adapter, salt, hashes } = blocks;
  const event = [
    'BlockStored',
    hashes,
    blocks.parent ?? null,
    blocks.tokenIds,
    blocks.blockSize,
    adapter?.id ?? null,
    medium,
    adapter?.name ?? null,
  ] as const;
  if (adapter === undefined && salt === undefined) return event;
  // What beside the tokens went into each hash.
  const own = adapter ? [adapter.name] : [];
  const extras = hashes.map((_, index) => {
    const keys = index === 0 && salt !== undefined ? [...own, salt] : own;
    return keys.length > 0 ? keys : null;
  });
  return [...event, extras];
}
