import type { ObjectRef } from '../kube/object.ts';

/** What a finished reconcile asks for next: nothing until something changes, or another look after a while. */
export type Outcome = { readonly kind: 'awaitChange' } | { readonly kind: 'requeueAfter'; readonly ms: number };

export const awaitChange = (): Outcome => ({ kind: 'awaitChange' });
export const requeueAfter = (ms: number): Outcome => ({ kind: 'requeueAfter', ms });

/**
 * Makes the world match one object.
 *
 * Flow: called with the name of an object, never with the event that caused the call, so it must look at
 * everything it needs. Calls for the same object never overlap; calls for different objects do.
 * Guarantees: a throw is logged and tried again with back-off (1 s doubling to 60 s, jittered, per object);
 * an AppError `conflict` is tried again at once without being counted; `TerminalError` waits for a change.
 * Assumptions: writes are idempotent; the caches read may be behind by what was just written.
 */
export type Reconciler = (ref: ObjectRef, signal: AbortSignal) => Promise<Outcome>;

/** An error that trying again cannot mend: the next change of a watched object does. */
export class TerminalError extends Error {
  constructor(message: string, options?: { readonly cause?: unknown }) {
    super(message, options);
    this.name = 'TerminalError';
  }
}
