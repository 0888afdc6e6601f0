/** One thing that is wrong with an object, said about the field that has to change. */
export interface Issue {
  /** Dotted from the root: `spec.prefill.parallelism.tensor`, `spec.router.gateway.refs[1].name`. */
  readonly path: string;
  readonly code: 'required' | 'invalid' | 'duplicate' | 'forbidden' | 'unsupported';
  /** What is wrong, with the value, and what to do. */
  readonly message: string;
}

/** All issues as one line for an admission answer or a terminal. */
export function formatIssues(issues: readonly Issue[]): string {
  return issues.map((issue) => `${issue.path}: ${issue.message}`).join('; ');
}

/** A value as it is shown in a message: JSON, cut at 80 characters. */
export function showValue(value: unknown): string {
  const text = JSON.stringify(value) ?? 'null';
  return text.length <= 80 ? text : `${text.slice(0, 77)}...`;
}
