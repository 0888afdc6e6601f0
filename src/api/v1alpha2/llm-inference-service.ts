import { z } from 'zod';
import { type Immutable, int32, localObjectReference } from '../fields.ts';
import { routerSpec, type schedulerSpec } from './router.ts';
import type { llmInferenceServiceStatus } from './status.ts';
import { type parallelismSpec, replicasOrScaling, type scalingSpec, workloadShape, workloadSpec } from './workload.ts';

/** LLMInferenceService, serving.kserve.io/v1alpha2. The zod schemas are the source of the CRD and of the types. */

export const modelSpec = z
  .object({
    uri: z
      .string()
      .min(1)
      .max(4096)
      .describe(
        'Where the weights are: hf://organisation/model[:revision], pvc://claim/path, oci://image, s3://bucket/path, …',
      ),
    name: z.string().min(1).max(253).optional().describe('Name in requests; the name of the service when absent.'),
    lora: z
      .object({
        adapters: z
          .array(z.looseObject({ name: z.string().optional(), uri: z.string().optional() }))
          .max(256)
          .optional()
          .describe('Adapters that are there from the start.'),
        maxRank: int32(1).optional(),
        maxAdapters: int32(1).optional(),
        maxCpuAdapters: int32(1).optional(),
      })
      .optional()
      .describe('Low-rank adapters of the model.'),
    confidential: z
      .object({
        enabled: z.boolean(),
        resourceId: z.string().max(1024).optional().describe('Key of the weights: kbs:///repository/type/tag.'),
      })
      .optional()
      .describe('Weights that are decrypted inside a confidential container.'),
  })
  .describe('The model to serve.');

const specShape = () => ({
  model: modelSpec,
  storageInitializer: z
    .object({ enabled: z.boolean().optional() })
    .optional()
    .describe(
      'Whether the operator brings the weights into the pods: false leaves /mnt/models to you; true copies also hf:// models.',
    ),
  ...workloadShape(),
  router: routerSpec.optional(),
  prefill: workloadSpec.optional().describe('Pods that only prefill; the pods of spec then only decode.'),
  tracing: z
    .object({
      exporterEndpoint: z.string().optional(),
      sampler: z.string().optional(),
      samplerArg: z.string().optional(),
      exporter: z.string().optional(),
    })
    .optional()
    .describe('OpenTelemetry traces of model servers and picker.'),
  baseRefs: z
    .array(localObjectReference())
    .max(32)
    .optional()
    .describe('LLMInferenceServiceConfigs that this service is laid over, in order.'),
});

export const llmInferenceServiceSpec = z.object(specShape()).describe('Desired state.').meta(replicasOrScaling);

export type ModelSpec = Immutable<z.input<typeof modelSpec>>;
export type ParallelismSpec = Immutable<z.input<typeof parallelismSpec>>;
export type ScalingSpec = Immutable<z.input<typeof scalingSpec>>;
export type WorkloadSpec = Immutable<z.input<typeof workloadSpec>>;
export type SchedulerSpec = Immutable<z.input<typeof schedulerSpec>>;
export type RouterSpec = Immutable<z.input<typeof routerSpec>>;
export type LLMInferenceServiceSpec = Immutable<z.input<typeof llmInferenceServiceSpec>>;
export type LLMInferenceServiceStatus = Immutable<z.input<typeof llmInferenceServiceStatus>>;

export const llmInferenceServiceApiVersion = 'serving.kserve.io/v1alpha2';

/** The fields of metadata that the API's own rules read. */
export interface ServiceMetadata {
  readonly name: string;
  readonly namespace?: string;
  readonly uid?: string;
  readonly resourceVersion?: string;
  readonly generation?: number;
  readonly creationTimestamp?: string;
  readonly deletionTimestamp?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly finalizers?: readonly string[];
}

export interface LLMInferenceService {
  readonly apiVersion: typeof llmInferenceServiceApiVersion;
  readonly kind: 'LLMInferenceService';
  readonly metadata: ServiceMetadata;
  readonly spec: LLMInferenceServiceSpec;
  readonly status?: LLMInferenceServiceStatus;
}
