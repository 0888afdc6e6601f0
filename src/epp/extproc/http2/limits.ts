/** Bounds of one connection. A gateway needs far less; who goes over is cut off with ENHANCE_YOUR_CALM. */
export const limits = {
  maxConcurrentStreams: 65_536,
  /** Bytes of a header block as sent, and of its fields as HPACK counts. */
  maxBlockBytes: 64 * 1024,
  maxHeaderListBytes: 64 * 1024,
  /** Frames that one header block may be cut into. */
  maxContinuations: 64,
  /** Frames that ask for work and carry none: settings, pings, priorities, empty data, frames to closed streams. */
  controlBurst: 10_000,
  controlsPerSecond: 1_000,
  /** Bytes written to a socket that its peer has not taken; above, nothing more is read from it. */
  maxUnsentBytes: 4 << 20,
  /** Bytes held back because the peer's windows are closed; above, its own window is not opened further. */
  maxHeldBytes: 64 << 20,
  /** The time for the preface and settings, for the rest of a frame or header block, and for unsent bytes to move. */
  handshakeMs: 10_000,
  partialMs: 30_000,
  stallMs: 60_000,
  maxConnections: 4096,
} as const;

/** A bucket of tokens: so many at once, and so many each second. */
export class Allowance {
  readonly #burst: number;
  readonly #perSecond: number;
  #left: number;
  readonly #now: () => number;
  #filledAtMs: number;

  /** @param now milliseconds of a clock that never goes back */
  constructor(burst: number, perSecond: number, now = () => performance.now()) {
    this.#now = now;
    this.#filledAtMs = now();
    this.#burst = burst;
    this.#perSecond = perSecond;
    this.#left = burst;
  }

  /** False when none is left. The clock is looked at only then. */
  take(count = 1): boolean {
    this.#left -= count;
    if (this.#left >= 0) return true;
    const nowMs = this.#now();
    const refill = ((nowMs - this.#filledAtMs) * this.#perSecond) / 1000;
    this.#filledAtMs = nowMs;
    this.#left = Math.min(this.#burst - count, this.#left + refill);
    return this.#left >= 0;
  }
}
