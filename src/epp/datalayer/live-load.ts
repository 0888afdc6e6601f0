import type { Clock } from '../../clock.ts';
import type { Adapters, Load } from '../framework/endpoint.ts';

/** One reading of an engine's metrics page. */
export interface Reading {
  readonly waiting: number;
  readonly running: number;
  /** 0–1. */
  readonly kvUsage: number;
  readonly adapters?: Adapters;
  /** By the keys of the configuration's custom metrics. */
  readonly custom?: Readonly<Record<string, number>>;
}

/** How long an endpoint that fails is avoided, at first and at most. */
const minAvoidMs = 5_000;
const maxAvoidMs = 60_000;

/** Time constant of the request rate, seconds. */
const rateWindowS = 5;

/**
 * An endpoint's load: the last reading, plus what this picker has sent since.
 *
 * A request is counted the moment it is chosen, so that the next choice, microseconds later, sees it. A reading takes
 * over the requests that were sent before its page was asked for; those sent while it was under way still count.
 */
export class LiveLoad implements Load {
  readonly #clock: Clock;
  readonly #stalenessMs: number;
  #reading: Reading | undefined;
  #readAtMs = Number.NEGATIVE_INFINITY;
  /** Requests sent so far; the number of each is its turn. */
  #sent = 0;
  #inFlight = 0;
  #inFlightTokens = 0;
  #failuresInTurn = 0;
  #avoidMs = minAvoidMs;
  #avoidedUntilMs = 0;
  /** Turn of the last request that the reading covers, and how many later ones have ended. */
  #coveredTurn = 0;
  #endedAfterCovered = 0;
  #scrapeTurn = 0;
  #endedAfterScrape = 0;
  #rate = 0;
  #rateAtMs = 0;

  constructor(clock: Clock, stalenessMs: number) {
    this.#clock = clock;
    this.#stalenessMs = stalenessMs;
  }

  get isKnown(): boolean {
    return this.#reading !== undefined && this.#clock.now() - this.#readAtMs <= this.#stalenessMs;
  }

  get waiting(): number {
    const sinceReading = this.#sent - this.#coveredTurn - this.#endedAfterCovered;
    const waiting = (this.#reading?.waiting ?? 0) + sinceReading;
    // Requests that are still at a prefill pod are in flight, yet the decode engine does not know them.
    return Math.max(waiting, this.#inFlight - this.running);
  }

  get running(): number {
    return this.#reading?.running ?? 0;
  }

  get kvUsage(): number {
    return this.#reading?.kvUsage ?? 0;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  get inFlightTokens(): number {
    return this.#inFlightTokens;
  }

  get requestsPerSecond(): number {
    const seconds = (this.#clock.now() - this.#rateAtMs) / 1000;
    return this.#rate * Math.exp(-seconds / rateWindowS);
  }

  get adapters(): Adapters | undefined {
    return this.#reading?.adapters;
  }

  get readAtMs(): number {
    return this.#readAtMs;
  }

  get custom(): Readonly<Record<string, number>> | undefined {
    return this.#reading?.custom;
  }

  /** Counts a request as sent; the returned function counts it as ended, once. */
  begin(): () => void {
    const turn = ++this.#sent;
    this.#inFlight++;
    this.#rate = this.requestsPerSecond + 1 / rateWindowS;
    this.#rateAtMs = this.#clock.now();
    let isEnded = false;
    return () => {
      if (isEnded) return;
      isEnded = true;
      this.#inFlight--;
      if (turn > this.#coveredTurn) this.#endedAfterCovered++;
      if (turn > this.#scrapeTurn) this.#endedAfterScrape++;
    };
  }

  get isAvoided(): boolean {
    return this.#avoidedUntilMs !== 0 && this.#clock.now() < this.#avoidedUntilMs;
  }

  /** An answer that was no failure of the endpoint. */
  succeeded(): void {
    this.#failuresInTurn = 0;
    this.#avoidMs = minAvoidMs;
  }

  /** A failure of the endpoint; returns how many there have been in turn. */
  failed(): number {
    return ++this.#failuresInTurn;
  }

  /** Stays away from the endpoint for a while, each time for longer; after that the next failure counts at once. */
  avoid(): void {
    this.#avoidedUntilMs = this.#clock.now() + this.#avoidMs;
    this.#avoidMs = Math.min(2 * this.#avoidMs, maxAvoidMs);
  }

  /** Counts prompt tokens as to be computed; call with their negative once they are. */
  addTokens(tokens: number): void {
    this.#inFlightTokens = Math.max(0, this.#inFlightTokens + tokens);
  }

  /** The metrics page is being asked for now. */
  beginReading(): void {
    this.#scrapeTurn = this.#sent;
    this.#endedAfterScrape = 0;
  }

  /** The page that was asked for has come. */
  endReading(reading: Reading): void {
    this.#reading = reading;
    this.#readAtMs = this.#clock.now();
    this.#coveredTurn = this.#scrapeTurn;
    this.#endedAfterCovered = this.#endedAfterScrape;
  }
}
