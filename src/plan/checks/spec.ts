import { conditionTypes, reasons } from '../../api/conditions.ts';
import { formatIssues } from '../../api/issue.ts';
import { validateService } from '../../api/v1alpha2/validate.ts';
import type { Verdict } from '../check.ts';
import type { CheckInput } from '../observed.ts';

/** The rules of admission, on the merged spec. What comes from a base configuration is said to. */
export function checkSpec({ service, effective, combined }: CheckInput): Verdict | undefined {
  const issues = validateService({ ...service, spec: effective });
  if (issues.length === 0) return undefined;
  const told = issues.map((issue) => {
    const source = combined?.sourceOf(issue.path);
    return source === undefined
      ? issue
      : { ...issue, message: `${issue.message} (from LLMInferenceServiceConfig ${source})` };
  });
  return { condition: conditionTypes.presetsCombined, reason: reasons.invalidSpec, message: formatIssues(told) };
}
