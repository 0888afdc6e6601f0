/** Endpoint number, small and reused. */
type Slot = number;

interface Resident {
  readonly slot: Slot;
  /** Block hashes in order of last use, oldest first. */
  readonly blocks: Map<number, true>;
}

/**
 * Which endpoints are believed to hold which prompt blocks. Bounded: each endpoint remembers `blocksPerEndpoint`
 * blocks, the least recently used go first. Block hashes cover all blocks before them, so equal hash means equal prefix.
 */
export class PrefixIndex {
  readonly #blocksPerEndpoint: number;
  readonly #residents = new Map<string, Resident>();
  readonly #holders = new Map<number, Slot[]>();
  readonly #freeSlots: Slot[] = [];
  #slotCount = 0;

  constructor(blocksPerEndpoint: number) {
    this.#blocksPerEndpoint = blocksPerEndpoint;
  }

  /** Blocks held over all endpoints, for metrics and tests. */
  get size(): number {
    let total = 0;
    for (const resident of this.#residents.values()) total += resident.blocks.size;
    return total;
  }

  /**
   * For each endpoint that holds the start of `hashes`, how many blocks it holds without a gap.
   * Undefined when no endpoint holds even the first.
   */
  match(hashes: readonly number[]): Uint32Array | undefined {
    let matched: Uint32Array | undefined;
    for (let depth = 0; depth < hashes.length; depth++) {
      const holders = this.#holders.get(hashes[depth] ?? 0);
      if (holders === undefined) break;
      matched ??= new Uint32Array(this.#slotCount);
      let isAnyLeft = false;
      for (let h = 0; h < holders.length; h++) {
        const slot = holders[h] ?? 0;
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
      resident = { slot: this.#freeSlots.pop() ?? this.#slotCount++, blocks: new Map() };
      this.#residents.set(endpointId, resident);
    }
    const { slot, blocks } = resident;
    // From the end, so that the start of a prompt, which others share, is forgotten last.
    for (let i = hashes.length - 1; i >= 0; i--) {
      const hash = hashes[i] ?? 0;
      if (blocks.delete(hash)) {
        blocks.set(hash, true);
        continue;
      }
      blocks.set(hash, true);
      const holders = this.#holders.get(hash);
      if (holders === undefined) this.#holders.set(hash, [slot]);
      else holders.push(slot);
    }
    while (blocks.size > this.#blocksPerEndpoint) {
      const oldest = blocks.keys().next();
      if (oldest.done) break;
      blocks.delete(oldest.value);
      this.#drop(oldest.value, slot);
    }
  }

  /** Forgets every endpoint that is not in `ids`. */
  retain(ids: ReadonlySet<string>): void {
    for (const [id, resident] of this.#residents) {
      if (ids.has(id)) continue;
      for (const hash of resident.blocks.keys()) this.#drop(hash, resident.slot);
      this.#residents.delete(id);
      this.#freeSlots.push(resident.slot);
    }
  }

  #drop(hash: number, slot: Slot): void {
    const holders = this.#holders.get(hash);
    if (holders === undefined) return;
    const at = holders.indexOf(slot);
    if (at < 0) return;
    if (holders.length === 1) this.#holders.delete(hash);
    else {
      const last = holders.pop();
      if (at < holders.length && last !== undefined) holders[at] = last;
    }
  }
}
