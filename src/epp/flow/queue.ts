import type { FairnessPolicy, FlowHead, OrderingPolicy, Waiting } from '../framework/flow-policy.ts';
import { IndexedHeap } from './heap.ts';

/** How much may wait; 0 for any amount. */
export interface QueueLimits {
  readonly maxRequests: number;
  readonly maxBytes: number;
}

export interface BandSettings extends QueueLimits {
  readonly ordering: OrderingPolicy;
  readonly fairness: FairnessPolicy;
}

/** A request in the queue. */
export interface QueueItem extends Waiting {
  readonly priority: number;
  readonly bytes: number;
}

interface Ranked<T> {
  readonly item: T;
  readonly rank: number;
  /** Equals go as they came. */
  readonly turn: number;
}

interface Flow<T extends QueueItem> {
  readonly fairnessId: string;
  readonly heap: IndexedHeap<Ranked<T>>;
}

/** All that waits with one priority. */
export interface Band<T extends QueueItem> {
  readonly priority: number;
  readonly settings: BandSettings;
  readonly requests: number;
  readonly bytes: number;
  readonly flows: ReadonlyMap<string, { readonly heap: { readonly size: number } } & FlowHeadOf<T>>;
}
type FlowHeadOf<T> = { readonly fairnessId: string; readonly heap: { readonly first: Ranked<T> | undefined } };

interface LiveBand<T extends QueueItem> {
  readonly priority: number;
  readonly settings: BandSettings;
  requests: number;
  bytes: number;
  /** Those served last stand at the end; one without requests is not there. */
  readonly flows: Map<string, Flow<T>>;
}

const before = <T>(a: Ranked<T>, b: Ranked<T>): boolean => a.rank < b.rank || (a.rank === b.rank && a.turn < b.turn);

/**
 * Requests that wait, by priority and flow, bounded in number and bytes for each priority and together. A priority or
 * flow without requests takes no memory.
 */
export class FlowQueue<T extends QueueItem> {
  #limits: QueueLimits;
  #settingsOf: (priority: number) => BandSettings;
  readonly #bands = new Map<number, LiveBand<T>>();
  readonly #places = new Map<T, { readonly band: LiveBand<T>; readonly flow: Flow<T>; readonly ranked: Ranked<T> }>();
  readonly #deadlines = new IndexedHeap<T>((a, b) => a.deadlineMs < b.deadlineMs);
  #sorted: readonly LiveBand<T>[] = [];
  #bytes = 0;
  #turns = 0;

  constructor(limits: QueueLimits, settingsOf: (priority: number) => BandSettings) {
    this.#limits = limits;
    this.#settingsOf = settingsOf;
  }

  /**
   * Other bounds and policies from now on. What waits keeps its place in time; it stays even where it is more than may wait now.
   */
  reconfigure(limits: QueueLimits, settingsOf: (priority: number) => BandSettings): void {
    const waiting = [...this.#places.values()].sort((a, b) => a.ranked.turn - b.ranked.turn);
    for (const { ranked } of waiting) this.remove(ranked.item);
    this.#limits = limits;
    this.#settingsOf = settingsOf;
    for (const { ranked } of waiting) this.#file(ranked.item);
  }

  get limits(): QueueLimits {
    return this.#limits;
  }

  get requests(): number {
    return this.#places.size;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Those with requests, the highest priority first. */
  get bands(): readonly Band<T>[] {
    return this.#sorted;
  }

  items(): IterableIterator<T> {
    return this.#places.keys();
  }

  /** False when there is no room for it. */
  push(item: T): boolean {
    const band = this.#bands.get(item.priority);
    const settings = band?.settings ?? this.#settingsOf(item.priority);
    const isFull = (limits: QueueLimits, requests: number, bytes: number): boolean =>
      (limits.maxRequests > 0 && requests + 1 > limits.maxRequests) ||
      (limits.maxBytes > 0 && bytes + item.bytes > limits.maxBytes);
    if (isFull(this.#limits, this.requests, this.#bytes) || isFull(settings, band?.requests ?? 0, band?.bytes ?? 0)) {
      return false;
    }
    this.#file(item);
    return true;
  }

  #file(item: T): void {
    let band = this.#bands.get(item.priority);
    const settings = band?.settings ?? this.#settingsOf(item.priority);
    if (band === undefined) {
      band = { priority: item.priority, settings, requests: 0, bytes: 0, flows: new Map() };
      this.#bands.set(item.priority, band);
      this.#sort();
    }
    let flow = band.flows.get(item.fairnessId);
    if (flow === undefined) {
      flow = { fairnessId: item.fairnessId, heap: new IndexedHeap<Ranked<T>>(before) };
      band.flows.set(item.fairnessId, flow);
    }
    const ranked = { item, rank: settings.ordering.rank(item), turn: this.#turns++ };
    flow.heap.push(ranked);
    this.#places.set(item, { band, flow, ranked });
    this.#deadlines.push(item);
    band.requests++;
    band.bytes += item.bytes;
    this.#bytes += item.bytes;
  }

  /** Takes the request whose turn it is in that band. */
  take({ priority }: Band<T>, nowMs: number): T | undefined {
    const band = this.#bands.get(priority);
    if (band === undefined) return undefined;
    const chosen = band.settings.fairness.nextFlow(headsOf(band), nowMs) ?? '';
    const flow = band.flows.get(chosen) ?? band.flows.values().next().value;
    const item = flow?.heap.first?.item;
    if (flow === undefined || item === undefined) return undefined;
    this.remove(item);
    // To the end: it had its turn.
    if (band.flows.delete(flow.fairnessId)) band.flows.set(flow.fairnessId, flow);
    return item;
  }

  /** Takes a request whose time is over. */
  takeExpired(nowMs: number): T | undefined {
    const item = this.#deadlines.first;
    if (item === undefined || item.deadlineMs > nowMs) return undefined;
    this.remove(item);
    return item;
  }

  /** Takes any request; the one that would be given up first. */
  takeAny(): T | undefined {
    return this.takeExpired(Number.POSITIVE_INFINITY);
  }

  /** False when it does not wait any more. */
  remove(item: T): boolean {
    const place = this.#places.get(item);
    if (place === undefined) return false;
    const { band, flow, ranked } = place;
    this.#places.delete(item);
    this.#deadlines.remove(item);
    flow.heap.remove(ranked);
    band.requests--;
    band.bytes -= item.bytes;
    this.#bytes -= item.bytes;
    if (flow.heap.size === 0) band.flows.delete(flow.fairnessId);
    if (band.requests === 0) {
      this.#bands.delete(band.priority);
      this.#sort();
    }
    return true;
  }

  #sort(): void {
    this.#sorted = [...this.#bands.values()].sort((a, b) => b.priority - a.priority);
  }
}

function* headsOf<T extends QueueItem>(band: LiveBand<T>): Generator<FlowHead> {
  for (const { fairnessId, heap } of band.flows.values()) {
    if (heap.first !== undefined)
      yield { fairnessId, head: heap.first.item, rank: heap.first.rank, turn: heap.first.turn };
  }
}
