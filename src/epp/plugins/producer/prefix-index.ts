/** Endpoint number, small and reused. */
type Slot = number;

/** No entry; entries are numbered from 1, so that fresh memory is empty. */
const none = 0;
const minCapacity = 1024;

/** What is remembered of one endpoint: its blocks form a list from the least to the most recently used. */
interface Resident {
  readonly slot: Slot;
  oldest: number;
  newest: number;
  count: number;
}

/**
 * Which endpoints are believed to hold which prompt blocks. Bounded: each endpoint remembers `blocksPerEndpoint`
 * blocks, the least recently used go first. Block hashes cover all blocks before them, so equal hash means equal prefix.
 *
 * One entry is one block at one endpoint. Entries lie in typed arrays, 28 bytes each and 8 to 16 in two open hash tables
 * (by block; by block and endpoint): a third of what maps of objects take, and nothing for the garbage collector to visit.
 */
export class PrefixIndex {
  readonly #blocksPerEndpoint: number;
  readonly #residents = new Map<string, Resident>();
  readonly #bySlot: (Resident | undefined)[] = [];
  readonly #freeSlots: Slot[] = [];

  #capacity = minCapacity;
  /** Entries ever used, and the first of those given back; `#newer` links them. */
  #used = 0;
  #free = none;
  #hash = new Float64Array(minCapacity + 1);
  #slot = new Int32Array(minCapacity + 1);
  /** Neighbours in the endpoint's list, and in the list of the block's holders. */
  #older = new Int32Array(minCapacity + 1);
  #newer = new Int32Array(minCapacity + 1);
  #nextHolder = new Int32Array(minCapacity + 1);
  #previousHolder = new Int32Array(minCapacity + 1);
  /** First holder of each block, and each entry. At most half full; searched on from where the hash points. */
  #heads = new Int32Array(2 * minCapacity);
  #entries = new Int32Array(2 * minCapacity);
  #mask = 2 * minCapacity - 1;

  constructor(blocksPerEndpoint: number) {
    this.#blocksPerEndpoint = blocksPerEndpoint;
  }

  /** Blocks held over all endpoints, for metrics and tests. */
  get size(): number {
    let total = 0;
    for (const resident of this.#residents.values()) total += resident.count;
    return total;
  }

  /**
   * For each endpoint that holds the start of `hashes`, how many blocks it holds without a gap.
   * Undefined when no endpoint holds even the first.
   */
  match(hashes: readonly number[]): Uint32Array | undefined {
    const slots = this.#slot;
    const next = this.#nextHolder;
    let matched: Uint32Array | undefined;
    for (let depth = 0; depth < hashes.length; depth++) {
      let entry = this.#heads[this.#headAt(hashes[depth] ?? 0)] ?? none;
      if (entry === none) break;
      matched ??= new Uint32Array(this.#bySlot.length);
      let isAnyLeft = false;
      for (; entry !== none; entry = next[entry] ?? none) {
        const slot = slots[entry] ?? 0;
        if (matched[slot] === depth) {
          matched[slot] = depth + 1;
          isAnyLeft = true;
        }
      }
      if (!isAnyLeft) break;
    }
    return matched;
  }

  /** Where `match` keeps an endpoint's count, or undefined when nothing of it is remembered. */
  slotOf(endpointId: string): Slot | undefined {
    return this.#residents.get(endpointId)?.slot;
  }

  /** The endpoint is about to hold all these blocks. */
  record(endpointId: string, hashes: readonly number[]): void {
    if (hashes.length === 0) return;
    let resident = this.#residents.get(endpointId);
    if (resident === undefined) {
      const slot = this.#freeSlots.pop() ?? this.#bySlot.length;
      resident = { slot, oldest: none, newest: none, count: 0 };
      this.#residents.set(endpointId, resident);
      this.#bySlot[slot] = resident;
    }
    // From the end, so that the start of a prompt, which others share, is forgotten last.
    for (let i = hashes.length - 1; i >= 0; i--) {
      const hash = hashes[i] ?? 0;
      const known = this.#entries[this.#entryAt(hash, resident.slot)] ?? none;
      if (known === none) this.#add(resident, hash);
      else if (known !== resident.newest) {
        this.#unlink(resident, known);
        this.#link(resident, known);
      }
    }
    while (resident.count > this.#blocksPerEndpoint) this.#remove(resident, resident.oldest);
  }

  /** Forgets every endpoint that is not in `ids`. */
  retain(ids: ReadonlySet<string>): void {
    for (const [id, resident] of this.#residents) {
      if (ids.has(id)) continue;
      while (resident.oldest !== none) this.#remove(resident, resident.oldest);
      this.#residents.delete(id);
      this.#bySlot[resident.slot] = undefined;
      this.#freeSlots.push(resident.slot);
    }
  }

  #add(resident: Resident, hash: number): void {
    let entry = this.#free;
    if (entry !== none) this.#free = this.#newer[entry] ?? none;
    else {
      if (this.#used === this.#capacity) this.#grow();
      entry = ++this.#used;
    }
    this.#hash[entry] = hash;
    this.#slot[entry] = resident.slot;
    this.#entries[this.#entryAt(hash, resident.slot)] = entry;
    const head = this.#headAt(hash);
    const first = this.#heads[head] ?? none;
    this.#nextHolder[entry] = first;
    this.#previousHolder[entry] = none;
    if (first !== none) this.#previousHolder[first] = entry;
    this.#heads[head] = entry;
    this.#link(resident, entry);
    resident.count++;
  }

  #remove(resident: Resident, entry: number): void {
    const hash = this.#hash[entry] ?? 0;
    this.#unlink(resident, entry);
    resident.count--;
    this.#vacate(this.#entries, this.#entryAt(hash, resident.slot), true);
    const next = this.#nextHolder[entry] ?? none;
    const previous = this.#previousHolder[entry] ?? none;
    if (next !== none) this.#previousHolder[next] = previous;
    if (previous !== none) this.#nextHolder[previous] = next;
    else {
      const head = this.#headAt(hash);
      if (next !== none) this.#heads[head] = next;
      else this.#vacate(this.#heads, head, false);
    }
    this.#newer[entry] = this.#free;
    this.#free = entry;
  }

  /** Makes an entry the most recently used of its endpoint. */
  #link(resident: Resident, entry: number): void {
    this.#older[entry] = resident.newest;
    this.#newer[entry] = none;
    if (resident.newest === none) resident.oldest = entry;
    else this.#newer[resident.newest] = entry;
    resident.newest = entry;
  }

  #unlink(resident: Resident, entry: number): void {
    const older = this.#older[entry] ?? none;
    const newer = this.#newer[entry] ?? none;
    if (older === none) resident.oldest = newer;
    else this.#newer[older] = newer;
    if (newer === none) resident.newest = older;
    else this.#older[newer] = older;
  }

  /** Where the table of blocks has the block, or has room for it. */
  #headAt(hash: number): number {
    for (let at = hash & this.#mask; ; at = (at + 1) & this.#mask) {
      const entry = this.#heads[at] ?? none;
      if (entry === none || this.#hash[entry] === hash) return at;
    }
  }

  /** Where the table of entries has the block of that endpoint, or has room for it. */
  #entryAt(hash: number, slot: Slot): number {
    for (let at = mix(hash, slot) & this.#mask; ; at = (at + 1) & this.#mask) {
      const entry = this.#entries[at] ?? none;
      if (entry === none || (this.#hash[entry] === hash && this.#slot[entry] === slot)) return at;
    }
  }

  /** Empties a place, and moves those up that were put behind it for want of room. */
  #vacate(table: Int32Array, place: number, isOfEntries: boolean): void {
    let hole = place;
    for (let at = (hole + 1) & this.#mask; ; at = (at + 1) & this.#mask) {
      const entry = table[at] ?? none;
      if (entry === none) break;
      const hash = this.#hash[entry] ?? 0;
      const home = (isOfEntries ? mix(hash, this.#slot[entry] ?? 0) : hash) & this.#mask;
      // It may move when its home is not between the hole and where it is.
      if (((at - home) & this.#mask) >= ((at - hole) & this.#mask)) {
        table[hole] = entry;
        hole = at;
      }
    }
    table[hole] = none;
  }

  /** Twice the room. */
  #grow(): void {
    const capacity = 2 * this.#capacity;
    const larger = (from: Int32Array<ArrayBuffer>): Int32Array<ArrayBuffer> => {
      const to = new Int32Array(capacity + 1);
      to.set(from);
      return to;
    };
    const hash = new Float64Array(capacity + 1);
    hash.set(this.#hash);
    this.#hash = hash;
    this.#slot = larger(this.#slot);
    this.#older = larger(this.#older);
    this.#newer = larger(this.#newer);
    this.#nextHolder = larger(this.#nextHolder);
    this.#previousHolder = larger(this.#previousHolder);
    this.#capacity = capacity;
    this.#mask = 2 * capacity - 1;
    this.#heads = new Int32Array(2 * capacity);
    this.#entries = new Int32Array(2 * capacity);
    // Called when no entry is free, so all of them are in use.
    for (let entry = 1; entry <= this.#used; entry++) {
      this.#entries[this.#entryAt(hash[entry] ?? 0, this.#slot[entry] ?? 0)] = entry;
      if (this.#previousHolder[entry] === none) this.#heads[this.#headAt(hash[entry] ?? 0)] = entry;
    }
  }
}

/** Spreads a block's endpoints over the table; a hash's low bits are already as good as random. */
function mix(hash: number, slot: Slot): number {
  const mixed = Math.imul((hash | 0) ^ Math.imul(slot + 1, 0x9e3779b1), 0x85ebca6b);
  return mixed ^ (mixed >>> 15);
}
