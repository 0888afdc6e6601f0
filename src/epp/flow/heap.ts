/** A binary heap that knows where its items are, so that any of them can be taken out. `isBefore` must not change while an item is held. */
export class IndexedHeap<T> {
  readonly #isBefore: (a: T, b: T) => boolean;
  readonly #items: T[] = [];
  readonly #places = new Map<T, number>();

  constructor(isBefore: (a: T, b: T) => boolean) {
    this.#isBefore = isBefore;
  }

  get size(): number {
    return this.#items.length;
  }

  get first(): T | undefined {
    return this.#items[0];
  }

  push(item: T): void {
    this.#items.push(item);
    this.#places.set(item, this.#items.length - 1);
    this.#rise(item, this.#items.length - 1);
  }

  /** False when it is not held. */
  remove(item: T): boolean {
    const at = this.#places.get(item);
    if (at === undefined) return false;
    this.#places.delete(item);
    const last = this.#items.pop();
    if (last === undefined || last === item) return true;
    this.#put(last, at);
    this.#rise(last, at);
    this.#sink(last, this.#places.get(last) ?? at);
    return true;
  }

  #put(item: T, at: number): void {
    this.#items[at] = item;
    this.#places.set(item, at);
  }

  #rise(item: T, from: number): void {
    let at = from;
    while (at > 0) {
      const up = (at - 1) >> 1;
      const parent = this.#items[up];
      if (parent === undefined || !this.#isBefore(item, parent)) break;
      this.#put(parent, at);
      at = up;
    }
    if (at !== from) this.#put(item, at);
  }

  #sink(item: T, from: number): void {
    let at = from;
    for (;;) {
      let down = 2 * at + 1;
      const left = this.#items[down];
      const right = this.#items[down + 1];
      if (left === undefined) break;
      let child = left;
      if (right !== undefined && this.#isBefore(right, left)) {
        child = right;
        down++;
      }
      if (!this.#isBefore(child, item)) break;
      this.#put(child, at);
      at = down;
    }
    if (at !== from) this.#put(item, at);
  }
}
