import { type Issue, showValue } from '../issue.ts';
import type { LLMInferenceService } from './llm-inference-service.ts';

/**
 * Fields that the API has and the operator does not act on: each is refused rather than ignored.
 * A change that makes a field work deletes its row.
 */
interface Row {
  /** Below `spec`. */
  readonly path: string;
  readonly what: string;
  readonly remedy: string;
}

const serviceRows: readonly Row[] = [];

/** One issue for each field in use that the operator does not act on. */
export function checkSupported(service: LLMInferenceService): readonly Issue[] {
  const issues: Issue[] = [];
  for (const row of serviceRows) {
    const value = valueAt(service.spec, row.path);
    if (isUnset(value)) continue;
    issues.push(unsupported(`spec.${row.path}`, value, row.what, row.remedy));
  }
  return issues;
}

/** An issue that says: not supported yet. */
export function unsupported(path: string, value: unknown, what: string, remedy: string): Issue {
  return { path, code: 'unsupported', message: `${showValue(value)}: ${what}: not supported yet; ${remedy}` };
}

/** `false` and empty lists ask for nothing; an empty object does (`tracing: {}` turns tracing on). */
function isUnset(value: unknown): boolean {
  return value === undefined || value === null || value === false || (Array.isArray(value) && value.length === 0);
}

function valueAt(root: unknown, path: string): unknown {
  let value = root;
  for (const part of path.split('.')) {
    if (typeof value !== 'object' || value === null) return undefined;
    value = (value as Readonly<Record<string, unknown>>)[part];
  }
  return value;
}
