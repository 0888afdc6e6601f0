import { formatIssues } from '../../src/api/issue.ts';
import type { LLMInferenceService } from '../../src/api/v1alpha2/llm-inference-service.ts';
import { validateService, warnService } from '../../src/api/v1alpha2/validate.ts';
import { Capability, LLMInferenceServiceKind, serviceKind } from '../capability.ts';

/** Refuses services that break a rule or use what is not supported yet, naming every field at once. */
export const validation = new Capability({
  name: 'llm-inference-service-validate',
  description: 'Rules of LLMInferenceService',
});

validation
  .When(LLMInferenceServiceKind, serviceKind)
  .IsCreatedOrUpdated()
  .Validate((request) => {
    const service = request.Raw as unknown as LLMInferenceService;
    const old = request.OldResource as unknown as LLMInferenceService | null | undefined;
    const issues = validateService(service, old ?? undefined);
    return issues.length > 0 ? request.Deny(formatIssues(issues), 422) : request.Approve([...warnService(service)]);
  });
