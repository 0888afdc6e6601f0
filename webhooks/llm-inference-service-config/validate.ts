import { formatIssues } from '../../src/api/issue.ts';
import type { LLMInferenceServiceConfig } from '../../src/api/v1alpha2/llm-inference-service-config.ts';
import { validateServiceConfig } from '../../src/api/v1alpha2/validate.ts';
import { checkTemplates } from '../../src/render/combine.ts';
import { Capability, LLMInferenceServiceConfigKind, serviceConfigKind } from '../capability.ts';

/** Refuses base configurations that could never be merged. */
export const validation = new Capability({
  name: 'llm-inference-service-config-validate',
  description: 'Rules of LLMInferenceServiceConfig',
});

validation
  .When(LLMInferenceServiceConfigKind, serviceConfigKind)
  .IsCreatedOrUpdated()
  .Validate((request) => {
    const config = request.Raw as unknown as LLMInferenceServiceConfig;
    const issues = [...validateServiceConfig(config), ...checkTemplates(config.spec ?? {}, 'spec')];
    return issues.length > 0 ? request.Deny(formatIssues(issues), 422) : request.Approve();
  });
