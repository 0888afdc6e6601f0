import type { ConditionType } from '../api/conditions.ts';

/** Why something may not be so, said through the condition that shows it. */
export interface Verdict {
  readonly condition: ConditionType;
  readonly reason: string;
  /** For the user: what, and what to do. */
  readonly message: string;
}

/** One rule: a verdict when it is violated. */
export type Check<I> = (input: I) => Verdict | undefined;

/** The verdict of the first violated rule of a chain. */
export function firstViolation<I>(chain: readonly Check<I>[], input: I): Verdict | undefined {
  for (const check of chain) {
    const verdict = check(input);
    if (verdict) return verdict;
  }
  return undefined;
}

/** The verdicts of every violated rule of a chain, in its order. */
export function allViolations<I>(chain: readonly Check<I>[], input: I): readonly Verdict[] {
  return chain.flatMap((check) => check(input) ?? []);
}
