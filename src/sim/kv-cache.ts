/**
 * The paged KV cache: blocks with reference counts, found again by the hash of all tokens up to their end.
 * Blocks that nobody uses stay findable until they are taken for something else, least recently used first.
 */
export class KvCache {
  readonly numBlocks: number;
  readonly blockSize: number;
  readonly #hasPrefixCaching: boolean;
  readonly #onRemoved: ((hash: number) => void) | undefined;
  readonly #references: Int32Array;
  /** 0 = not findable. */
  readonly #hashOf: Float64Array;
  readonly #blockOf = new Map<number, number>();
  /** A ring through all free blocks, least recently used first; index numBlocks is its head. */
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  #free: number;

  /** @param options.onRemoved told the hash of each block that is taken for something else */
  constructor(options: {
    readonly numBlocks: number;
    readonly blockSize: number;
    readonly hasPrefixCaching: boolean;
    readonly onRemoved?: (hash: number) => void;
  }) {
    const { numBlocks, blockSize } = options;
    this.numBlocks = numBlocks;
    this.blockSize = blockSize;
    this.#hasPrefixCaching = options.hasPrefixCaching;
    this.#onRemoved = options.onRemoved;
    this.#references = new Int32Array(numBlocks);
    this.#hashOf = new Float64Array(numBlocks);
    this.#next = new Int32Array(numBlocks + 1);
    this.#previous = new Int32Array(numBlocks + 1);
    for (let block = 0; block <= numBlocks; block++) {
      this.#next[block] = block === numBlocks ? 0 : block + 1;
      this.#previous[block] = block === 0 ? numBlocks : block - 1;
    }
    this.#free = numBlocks;
  }

  /** Blocks that can be taken now, findable ones included. */
  get freeBlocks(): number {
    return this.#free;
  }

  /** Share of blocks in use, 0 to 1. */
  get usage(): number {
    return 1 - this.#free / this.numBlocks;
  }

  /** Blocks that can be found by their hash. */
  get cachedBlocks(): number {
    return this.#blockOf.size;
  }

  /** Blocks that hold `tokens` tokens. */
  blocksFor(tokens: number): number {
    return Math.ceil(tokens / this.blockSize);
  }

  /** How many of the first `limit` blocks of a chain are here. */
  countCached(hashes: readonly number[], limit: number): number {
    let count = 0;
    while (count < limit && count < hashes.length && this.#blockOf.has(hashes[count] ?? 0)) count++;
    return count;
  }

  /**
   * Takes `total` blocks of which the first `cached` are the known ones of the chain.
   *
   * @returns block ids in order, or undefined (and nothing taken) when there is no room
   */
  allocate(hashes: readonly number[], cached: number, total: number): number[] | undefined {
    const known: number[] = [];
    let knownFree = 0;
    for (let i = 0; i < cached; i++) {
      const block = this.#blockOf.get(hashes[i] ?? 0);
      if (block === undefined) throw new RangeError(`block ${i} of the chain is not cached`);
      if (this.#references[block] === 0) knownFree++;
      known.push(block);
    }
    if (this.#free - knownFree < total - cached) return undefined;
    for (const block of known) this.retain(block);
    for (let i = cached; i < total; i++) known.push(this.#take());
    return known;
  }

  /** Takes one more block; undefined when none is free. */
  allocateOne(): number | undefined {
    return this.#free === 0 ? undefined : this.#take();
  }

  /** One more user of a block. */
  retain(block: number): void {
    if (this.#references[block] === 0) this.#unlink(block);
    this.#references[block] = (this.#references[block] ?? 0) + 1;
  }

  /**
   * Makes a full, computed block findable. The first block with a hash keeps it.
   *
   * @returns whether it could not be found before
   */
  publish(block: number, hash: number): boolean {
    if (!this.#hasPrefixCaching || this.#hashOf[block] !== 0 || this.#blockOf.has(hash)) return false;
    this.#hashOf[block] = hash;
    this.#blockOf.set(hash, block);
    return true;
  }

  /** One user less of each block. A chain's end is forgotten before its beginning. */
  release(blocks: readonly number[]): void {
    for (let i = blocks.length - 1; i >= 0; i--) {
      const block = blocks[i] ?? 0;
      const references = (this.#references[block] ?? 0) - 1;
      if (references < 0) throw new RangeError(`block ${block} released more often than taken`);
      this.#references[block] = references;
      if (references === 0) this.#link(block);
    }
  }

  /** Forgets every hash; blocks in use stay in use. */
  reset(): void {
    this.#blockOf.clear();
    this.#hashOf.fill(0);
  }

  #take(): number {
    const block = this.#next[this.numBlocks] ?? 0;
    this.#unlink(block);
    const hash = this.#hashOf[block] ?? 0;
    if (hash !== 0) {
      this.#blockOf.delete(hash);
      this.#hashOf[block] = 0;
      this.#onRemoved?.(hash);
    }
    this.#references[block] = 1;
    return block;
  }

  #link(block: number): void {
    const head = this.numBlocks;
    const last = this.#previous[head] ?? head;
    this.#next[last] = block;
    this.#previous[block] = last;
    this.#next[block] = head;
    this.#previous[head] = block;
    this.#free++;
  }

  #unlink(block: number): void {
    const before = this.#previous[block] ?? 0;
    const after = this.#next[block] ?? 0;
    this.#next[before] = after;
    this.#previous[after] = before;
    this.#free--;
  }
}

/** The hash of a block: of its tokens `ids[from..to)` and, by `previous`, of all before. A positive whole number below 2^53. */
export function hashBlock(previous: number, ids: readonly number[], from: number, to: number): number {
  let low = (previous >>> 0) ^ 0x9e3779b9;
  let high = Math.floor(previous / 0x1_0000_0000) ^ 0x7f4a7c15;
  for (let i = from; i < to; i++) {
    const id = ids[i] ?? 0;
    low = Math.imul(low ^ id, 0x85ebca6b);
    low ^= low >>> 13;
    high = Math.imul((high << 5) | (high >>> 27), 0xc2b2ae35) ^ Math.imul(id, 0x27d4eb2f);
    high ^= high >>> 15;
  }
  low = Math.imul(low ^ (high >>> 7), 0xc2b2ae35);
  low ^= low >>> 16;
  return (high & 0x1f_ffff) * 0x1_0000_0000 + (low >>> 0) || 1;
}

/** Appends to `hashes` the hashes of all blocks of `ids` that are full and not yet hashed. */
export function extendHashes(hashes: number[], ids: readonly number[], blockSize: number, root: number): void {
  for (let block = hashes.length; (block + 1) * blockSize <= ids.length; block++) {
    hashes.push(hashBlock(hashes[block - 1] ?? root, ids, block * blockSize, (block + 1) * blockSize));
  }
}
