import { describe, expect, it } from '@jest/globals';
import { PrefixIndex } from './prefix-index.ts';

/** The same in a few lines, however slow. */
class Model {
  readonly blocks = new Map<string, number[]>();
  readonly limit: number;

  constructor(limit: number) {
    this.limit = limit;
  }

  record(id: string, hashes: readonly number[]): void {
    const kept = (this.blocks.get(id) ?? []).filter((hash) => !hashes.includes(hash));
    // Latest last; the start of a prompt is the latest of it.
    const all = [...kept, ...[...new Set(hashes)].reverse()];
    this.blocks.set(id, all.slice(Math.max(0, all.length - this.limit)));
  }

  matched(id: string, hashes: readonly number[]): number {
    const held = this.blocks.get(id) ?? [];
    const gap = hashes.findIndex((hash) => !held.includes(hash));
    return gap < 0 ? hashes.length : gap;
  }
}

describe('the index of prefixes', () => {
  it('remembers what a plain list would, through growth, eviction, and endpoints that come and go', () => {
    let seed = 11;
    const next = (below: number): number => {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) & 0x7fffffff;
      return (seed >>> 8) % below;
    };
    const limit = 700;
    const index = new PrefixIndex(limit);
    const model = new Model(limit);
    const ids = ['a', 'b', 'c', 'd', 'e'];
    // Hashes of 53 bits, half of which fall on the same places of the tables.
    const hashOf = (prompt: number, block: number): number => {
      const own = prompt * 100 + block;
      return own % 2 === 0
        ? own * 0x1_0000_0000 + 5
        : own * 0x1_0000_0000 + Math.imul(own, 0x9e3779b1) / 1024 + 2 ** 21;
    };
    const whole = (hash: number): number => Math.floor(hash);
    const prompt = (): readonly number[] => {
      const number = next(120);
      return Array.from({ length: 1 + next(40) }, (_, block) => whole(hashOf(block < 4 ? 0 : number, block)));
    };
    for (let step = 0; step < 1500; step++) {
      const hashes = prompt();
      const id = ids[next(ids.length)] ?? 'a';
      const matched = index.match(hashes);
      for (const endpoint of ids) {
        const slot = index.slotOf(endpoint);
        const seen = slot === undefined || matched === undefined ? 0 : (matched[slot] ?? 0);
        expect([step, endpoint, seen]).toEqual([step, endpoint, model.matched(endpoint, hashes)]);
      }
      index.record(id, hashes);
      model.record(id, hashes);
      if (step % 100 === 99) {
        const gone = ids[next(ids.length)] ?? 'a';
        index.retain(new Set(ids.filter((other) => other !== gone)));
        model.blocks.delete(gone);
        expect(index.slotOf(gone)).toBeUndefined();
      }
      const size = [...model.blocks.values()].reduce((sum, { length }) => sum + length, 0);
      expect(index.size).toBe(size);
    }
    index.retain(new Set());
    expect(index.size).toBe(0);
    expect(index.match(prompt())).toBeUndefined();
  });
});
