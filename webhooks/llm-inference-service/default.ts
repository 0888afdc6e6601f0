import { defaultService } from '../../src/api/v1alpha2/defaults.ts';
import type { LLMInferenceService } from '../../src/api/v1alpha2/llm-inference-service.ts';
import { Capability, LLMInferenceServiceKind, serviceKind } from '../capability.ts';

/** Fills in what a service leaves open. */
export const defaulting = new Capability({
  name: 'llm-inference-service-default',
  description: 'Defaults of LLMInferenceService',
});

defaulting
  .When(LLMInferenceServiceKind, serviceKind)
  .IsCreatedOrUpdated()
  .Mutate((request) => {
    request.Raw = defaultService(request.Raw as unknown as LLMInferenceService) as unknown as LLMInferenceServiceKind;
  });
