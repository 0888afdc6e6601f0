import { conditionTypes, reasons } from '../../api/conditions.ts';
import { formatIssues } from '../../api/issue.ts';
import { validateService } from '../../api/v1alpha2/validate.ts';
import type { Verdict } from '../check.ts';
import type { CheckInput } from '../observed.ts';

/** The rules of admission, on the merged spec. */
export function checkSpec({ service, effective }: CheckInput): Verdict | undefined {
  const issues = validateService({ ...service, spec: effective });
  if (issues.length === 0) return undefined;
  return { condition: conditionTypes.presetsCombined, reason: reasons.invalidSpec, message: formatIssues(issues) };
}
