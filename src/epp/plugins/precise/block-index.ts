import { type BlockKey, keysOf, nextKey, rootKey } from './block-keys.ts';
import type { EngineHash, KvEvent } from './kv-event.ts';

/** Small and reused. */
type Slot = number;

/** A block that an engine holds: in each tier so many copies, eight bits a tier. */
interface Held {
  readonly key: BlockKey;
  copies: number;
}

interface Resident {
  readonly slot: Slot;
  /** In the order they were stored. */
  readonly blocks: Map<EngineHash, Held>;
  /** Blocks that a request sent lately will make it hold, until when. */
  readonly expected: Map<BlockKey, number>;
}

/** A place where engines keep blocks, and what a block there is worth, 0–1. */
export interface Tier {
  readonly name: string;
  readonly weight: number;
}

const maxTiers = 3;
/** In a holder's byte of tiers: expected only. */
const expectedBit = 1 << maxTiers;
const maxBlockSizes = 4;
const maxExpected = 65_536;
const maxCopies = 255;

/** For the blocks of one prompt: how many each endpoint holds from the start on, and what they are worth. */
export interface BlockMatch {
  /** Tokens, each counted with the weight of its tier. */
  tokensOf(endpointId: string): number;
}

/**
 * Which endpoint holds which blocks, as the engines' own events tell. A block's key covers its tokens and all before it,
 * so engines may hash as they like. Bounded: of more than `maxBlocks` in all, those an endpoint stored first are forgotten.
 */
export class BlockIndex {
  readonly #maxBlocks: number;
  readonly #tiers: readonly Tier[];
  readonly #seed: string;
  readonly #residents = new Map<string, Resident>();
  /** Slot and tiers of who holds a block, `slot << 4 | tiers`. */
  readonly #holders = new Map<BlockKey, number[]>();
  readonly #freeSlots: Slot[] = [];
  readonly #blockSizes: number[] = [];
  readonly #weights: readonly number[];
  #slotCount = 0;
  #size = 0;
  #orphans = 0;
  #queue: { readonly id: string; readonly key: BlockKey; readonly untilMs: number }[] = [];

  constructor(options: { readonly maxBlocks: number; readonly tiers: readonly Tier[]; readonly seed: string }) {
    this.#maxBlocks = options.maxBlocks;
    this.#tiers = options.tiers.slice(0, maxTiers);
    this.#seed = options.seed;
    const best = Math.max(...this.#tiers.map(({ weight }) => weight));
    this.#weights = Array.from({ length: expectedBit << 1 }, (_, mask) =>
      (mask & expectedBit) === 0
        ? Math.max(0, ...this.#tiers.filter((_tier, i) => (mask & (1 << i)) !== 0).map(({ weight }) => weight))
        : best,
    );
  }

  /** Blocks held over all endpoints. */
  get size(): number {
    return this.#size;
  }

  /** Blocks that were told without what they follow, and so could not be placed. */
  get orphans(): number {
    return this.#orphans;
  }

  /** Blocks that an endpoint holds. */
  sizeOf(endpointId: string): number {
    return this.#residents.get(endpointId)?.blocks.size ?? 0;
  }

  /** Takes over what an engine tells. `model` is what requests call it, empty when not known. */
  apply(endpointId: string, event: KvEvent, model: string): void {
    if (event.kind === 'cleared') {
      const resident = this.#residents.get(endpointId);
      if (resident !== undefined) this.#empty(resident);
      return;
    }
    const tier = this.#tierOf(event.medium);
    const resident = this.#resident(endpointId);
    if (event.kind === 'removed') {
      for (const hash of event.hashes) this.#remove(resident, hash, tier);
      return;
    }
    const { blockSize, tokens, hashes, extras } = event;
    if (!this.#blockSizes.includes(blockSize)) {
      if (this.#blockSizes.length >= maxBlockSizes) this.#blockSizes.shift();
      this.#blockSizes.push(blockSize);
    }
    let key =
      event.parent === undefined
        ? rootKey(event.adapter ?? model, blockSize, this.#seed)
        : resident.blocks.get(event.parent)?.key;
    if (key === undefined) {
      this.#orphans += hashes.length;
      return;
    }
    const bytes = new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength);
    for (let i = 0; i < hashes.length && (i + 1) * blockSize <= tokens.length; i++) {
      key = nextKey(key, bytes.subarray(i * blockSize * 4, (i + 1) * blockSize * 4), extras[i]);
      this.#store(resident, hashes[i] ?? 0, key, tier);
    }
  }

  /**
   * What of a prompt the endpoints hold; undefined when nobody holds even its first block.
   *
   * @param salt what the client set to keep its cache apart
   */
  match(
    models: readonly string[],
    tokens: Uint32Array,
    salt: string | undefined,
    maxBlocks: number,
  ): BlockMatch | undefined {
    let best: { readonly worth: Float64Array; readonly blockSize: number } | undefined;
    let most = 0;
    for (const blockSize of this.#blockSizes) {
      for (const model of models) {
        const worth = this.#walk(this.#keys(model, tokens, blockSize, salt, maxBlocks));
        if (worth === undefined) continue;
        const reach = Math.max(...worth) * blockSize;
        if (reach <= most) continue;
        most = reach;
        best = { worth, blockSize };
      }
    }
    if (best === undefined) return undefined;
    const { worth, blockSize } = best;
    return {
      tokensOf: (id) => {
        const slot = this.#residents.get(id)?.slot;
        return slot === undefined ? 0 : (worth[slot] ?? 0) * blockSize;
      },
    };
  }

  /** That endpoint was sent this prompt, and is taken to hold its blocks until it tells so itself. */
  expect(
    endpointId: string,
    model: string,
    tokens: Uint32Array,
    salt: string | undefined,
    maxBlocks: number,
    untilMs: number,
  ): void {
    const resident = this.#resident(endpointId);
    for (const blockSize of this.#blockSizes) {
      for (const key of this.#keys(model, tokens, blockSize, salt, maxBlocks)) {
        if (this.#queue.length >= maxExpected) return;
        resident.expected.set(key, untilMs);
        this.#queue.push({ id: endpointId, key, untilMs });
        this.#mark(key, resident.slot, expectedBit);
      }
    }
  }

  /** Forgets what was expected and did not come. */
  expire(nowMs: number): void {
    let done = 0;
    for (const { id, key, untilMs } of this.#queue) {
      if (untilMs > nowMs) break;
      done++;
      const resident = this.#residents.get(id);
      if (resident?.expected.get(key) !== untilMs) continue;
      resident.expected.delete(key);
      this.#unmark(key, resident.slot, expectedBit);
    }
    if (done > 0) this.#queue = this.#queue.slice(done);
  }

  /** Forgets an endpoint. */
  forget(endpointId: string): void {
    const resident = this.#residents.get(endpointId);
    if (resident === undefined) return;
    this.#empty(resident);
    for (const key of resident.expected.keys()) this.#unmark(key, resident.slot, expectedBit);
    this.#residents.delete(endpointId);
    this.#freeSlots.push(resident.slot);
  }

  #keys(
    model: string,
    tokens: Uint32Array,
    blockSize: number,
    salt: string | undefined,
    max: number,
  ): readonly BlockKey[] {
    return keysOf(rootKey(model, blockSize, this.#seed), tokens, blockSize, max, (i) => (i === 0 ? salt : undefined));
  }

  #walk(keys: readonly BlockKey[]): Float64Array | undefined {
    let depths: Uint32Array | undefined;
    let worth: Float64Array | undefined;
    for (let depth = 0; depth < keys.length; depth++) {
      const holders = this.#holders.get(keys[depth] ?? 0);
      if (holders === undefined) break;
      depths ??= new Uint32Array(this.#slotCount);
      worth ??= new Float64Array(this.#slotCount);
      let isAnyLeft = false;
      for (let h = 0; h < holders.length; h++) {
        const holder = holders[h] ?? 0;
        const slot = holder >>> 4;
        if (depths[slot] !== depth) continue;
        depths[slot] = depth + 1;
        worth[slot] = (worth[slot] ?? 0) + (this.#weights[holder & 15] ?? 0);
        isAnyLeft = true;
      }
      if (!isAnyLeft) break;
    }
    return worth;
  }

  #resident(id: string): Resident {
    let resident = this.#residents.get(id);
    if (resident === undefined) {
      resident = { slot: this.#freeSlots.pop() ?? this.#slotCount++, blocks: new Map(), expected: new Map() };
      this.#residents.set(id, resident);
    }
    return resident;
  }

  /** What is not among the tiers counts as the last of them. */
  #tierOf(medium: string | undefined): number {
    if (medium === undefined) return 0;
    const at = this.#tiers.findIndex(({ name }) => medium === name);
    return at < 0 ? this.#tiers.length - 1 : at;
  }

  #store(resident: Resident, hash: EngineHash, key: BlockKey, tier: number): void {
    const { blocks, slot } = resident;
    let held = blocks.get(hash);
    if (held === undefined) {
      held = { key, copies: 0 };
      blocks.set(hash, held);
      this.#size++;
    }
    const shift = tier * 8;
    if (((held.copies >>> shift) & 255) < maxCopies) held.copies += 1 << shift;
    this.#mark(key, slot, 1 << tier);
    if (resident.expected.delete(key)) this.#unmark(key, slot, expectedBit);
    if (this.#size <= this.#maxBlocks) return;
    for (const [oldest, { key: gone }] of blocks) {
      this.#drop(resident, oldest, gone);
      break;
    }
  }

  #remove(resident: Resident, hash: EngineHash, tier: number): void {
    const held = resident.blocks.get(hash);
    const shift = tier * 8;
    if (held === undefined || ((held.copies >>> shift) & 255) === 0) return;
    held.copies -= 1 << shift;
    if (((held.copies >>> shift) & 255) > 0) return;
    if (held.copies === 0) this.#drop(resident, hash, held.key);
    else this.#unmark(held.key, resident.slot, 1 << tier);
  }

  #drop(resident: Resident, hash: EngineHash, key: BlockKey): void {
    resident.blocks.delete(hash);
    this.#size--;
    this.#unmark(key, resident.slot, expectedBit - 1);
  }

  #empty(resident: Resident): void {
    for (const [hash, { key }] of resident.blocks) this.#drop(resident, hash, key);
  }

  #mark(key: BlockKey, slot: Slot, bits: number): void {
    const holders = this.#holders.get(key);
    if (holders === undefined) {
      this.#holders.set(key, [(slot << 4) | bits]);
      return;
    }
    for (let i = 0; i < holders.length; i++) {
      const holder = holders[i] ?? 0;
      if (holder >>> 4 !== slot) continue;
      holders[i] = holder | bits;
      return;
    }
    holders.push((slot << 4) | bits);
  }

  #unmark(key: BlockKey, slot: Slot, bits: number): void {
    const holders = this.#holders.get(key);
    if (holders === undefined) return;
    for (let i = 0; i < holders.length; i++) {
      const holder = holders[i] ?? 0;
      if (holder >>> 4 !== slot) continue;
      const left = holder & 15 & ~bits;
      if (left !== 0) holders[i] = (slot << 4) | left;
      else if (holders.length === 1) this.#holders.delete(key);
      else {
        const last = holders.pop();
        if (i < holders.length && last !== undefined) holders[i] = last;
      }
      return;
    }
  }
}
