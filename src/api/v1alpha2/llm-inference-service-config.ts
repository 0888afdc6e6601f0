import { z } from 'zod';
import { condition, type Immutable, type PartialDeep } from '../fields.ts';
import type { LLMInferenceServiceSpec, ServiceMetadata } from './llm-inference-service.ts';

/** LLMInferenceServiceConfig: a base that services are laid over. Its spec may hold a part of anything, and template expressions. */

export const llmInferenceServiceConfigStatus = z
  .object({
    observedGeneration: z.int().optional().meta({ format: 'int64' }),
    conditions: z
      .array(condition())
      .optional()
      .meta({ 'x-kubernetes-list-type': 'map', 'x-kubernetes-list-map-keys': ['type'] }),
    referencedBy: z
      .array(z.object({ name: z.string(), namespace: z.string().optional() }))
      .optional()
      .describe('Services that are laid over this base.'),
  })
  .describe('Observed state.');

export interface LLMInferenceServiceConfig {
  readonly apiVersion: 'serving.kserve.io/v1alpha2';
  readonly kind: 'LLMInferenceServiceConfig';
  readonly metadata: ServiceMetadata;
  readonly spec?: PartialDeep<LLMInferenceServiceSpec>;
  readonly status?: Immutable<z.input<typeof llmInferenceServiceConfigStatus>>;
}
