import type { Clock } from '../clock.ts';

/** What a prefill process keeps for a decode process until it is fetched. */
export interface Handle {
  readonly requestId: string;
  readonly blocks: readonly number[];
  /** Hashes of the full blocks among them, in order. */
  readonly hashes: readonly number[];
  /** Tokens whose KV is in the blocks. */
  readonly tokens: number;
}

export type Taken =
  | { readonly kind: 'taken'; readonly handle: Handle }
  | { readonly kind: 'missing'; readonly why: 'unknown' | 'used' | 'expired' };

export interface LeaseCounts {
  readonly live: number;
  readonly created: number;
  readonly used: number;
  readonly expired: number;
}

const maxRemembered = 4096;

/** Handles of pinned blocks: each can be taken once and ends after a fixed time. */
export class Leases {
  readonly #clock: Clock;
  readonly #leaseMs: number;
  readonly #release: (handle: Handle, why: 'used' | 'expired') => void;
  /** In order of expiry, as the lease is the same for all. */
  readonly #live = new Map<string, { readonly handle: Handle; readonly endsAt: number }>();
  /** Why the latest handles are gone, for messages. */
  readonly #gone = new Map<string, 'used' | 'expired'>();
  readonly #closed = new AbortController();
  #isSweeping = false;
  #created = 0;
  #used = 0;
  #expired = 0;

  /** @param release called once for each handle, when its blocks are no longer needed */
  constructor(options: {
    readonly clock: Clock;
    readonly leaseMs: number;
    readonly release: (handle: Handle, why: 'used' | 'expired') => void;
  }) {
    this.#clock = options.clock;
    this.#leaseMs = options.leaseMs;
    this.#release = options.release;
  }

  get counts(): LeaseCounts {
    return { live: this.#live.size, created: this.#created, used: this.#used, expired: this.#expired };
  }

  add(handle: Handle): void {
    this.#created++;
    this.#live.set(handle.requestId, { handle, endsAt: this.#clock.now() + this.#leaseMs });
    if (!this.#isSweeping) void this.#sweep();
  }

  take(requestId: string): Taken {
    const found = this.#live.get(requestId);
    if (!found) return { kind: 'missing', why: this.#gone.get(requestId) ?? 'unknown' };
    if (found.endsAt <= this.#clock.now()) {
      this.#end(found.handle, 'expired');
      return { kind: 'missing', why: 'expired' };
    }
    this.#end(found.handle, 'used');
    return { kind: 'taken', handle: found.handle };
  }

  /** Ends the timer; what is pinned stays so. */
  close(): void {
    this.#closed.abort();
  }

  async #sweep(): Promise<void> {
    this.#isSweeping = true;
    try {
      for (;;) {
        const first = this.#live.values().next().value;
        if (!first) return;
        const waitMs = first.endsAt - this.#clock.now();
        if (waitMs > 0) await this.#clock.sleep(waitMs, this.#closed.signal);
        else this.#end(first.handle, 'expired');
      }
    } catch {
      // Closed while waiting.
    } finally {
      this.#isSweeping = false;
    }
  }

  #end(handle: Handle, why: 'used' | 'expired'): void {
    this.#live.delete(handle.requestId);
    if (why === 'used') this.#used++;
    else this.#expired++;
    this.#gone.set(handle.requestId, why);
    if (this.#gone.size > maxRemembered) {
      const oldest = this.#gone.keys().next().value;
      if (oldest !== undefined) this.#gone.delete(oldest);
    }
    this.#release(handle, why);
  }
}
