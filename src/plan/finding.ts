import type { ConditionType } from '../api/conditions.ts';

/** What is said of one part of a service, and how several such are put together. */

/** One condition before its times. */
export interface Finding {
  readonly type: ConditionType;
  readonly isTrue: boolean;
  readonly reason?: string;
  readonly message?: string;
}

export function success(type: ConditionType): Finding {
  return { type, isTrue: true };
}

export function summary(type: ConditionType, parts: readonly Finding[]): Finding {
  const bad = parts.find((part) => !part.isTrue);
  return bad ? { ...bad, type } : success(type);
}

/** Findings with others in place of those of the same type; the first of several counts. */
export function overlay(findings: readonly Finding[], over: readonly Finding[]): readonly Finding[] {
  const first = over.filter(({ type }, i) => over.findIndex((other) => other.type === type) === i);
  return [...first, ...findings.filter(({ type }) => !first.some((other) => other.type === type))];
}
