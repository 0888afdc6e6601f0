/** What is counted of an operator under test, each since its start. */
export interface Counters {
  readonly reconciles: () => number;
  /** Requests to the API server. */
  readonly requests: () => number;
}

/** Waits until neither a reconcile nor a request has been seen for `quietMs`. */
export async function awaitQuiet({ reconciles, requests }: Counters, quietMs = 500): Promise<void> {
  let before = '';
  for (;;) {
    const now = `${reconciles()} ${requests()}`;
    if (now === before) return;
    before = now;
    await new Promise((resolve) => setTimeout(resolve, quietMs));
  }
}

/**
 * The fewest requests that followed `touch`, which must cause a reconcile, in up to `rounds` rounds: what a slow machine still
 * does about an earlier change may fall into one round, what each reconcile costs is in all of them.
 */
export async function requestsAfter(touch: () => Promise<unknown>, counters: Counters, rounds = 4): Promise<number> {
  let fewest = Number.POSITIVE_INFINITY;
  for (let round = 0; round < rounds && fewest > 0; round++) {
    await awaitQuiet(counters);
    const [sent, before] = [counters.requests(), counters.reconciles()];
    await touch();
    while (counters.reconciles() === before) await new Promise((resolve) => setTimeout(resolve, 25));
    await awaitQuiet(counters);
    fewest = Math.min(fewest, counters.requests() - sent);
  }
  return fewest;
}
