import { z } from 'zod';
import { xInferencePoolSpec } from '../foreign/inference-pool.ts';
import { llmInferenceServiceSpec as hubSpec, modelSpec } from '../v1alpha2/llm-inference-service.ts';
import { routerSpec, schedulerSpec } from '../v1alpha2/router.ts';
import { llmInferenceServiceStatus as hubStatus } from '../v1alpha2/status.ts';
import { replicasOrScaling, workloadSpec } from '../v1alpha2/workload.ts';

/** serving.kserve.io/v1alpha1 as differences to v1alpha2: served for clients that still speak it, never stored. */

export const criticality = z
  .enum(['Critical', 'Standard', 'Sheddable'])
  .describe('How important requests for the model are when there is not enough for all.');

const hubLora = modelSpec.shape.lora.unwrap();

const lora = hubLora
  .extend({
    adapters: z
      .array(hubLora.shape.adapters.unwrap().element.extend({ criticality: criticality.optional() }))
      .max(256)
      .optional()
      .describe('Adapters that are there from the start.'),
  })
  .describe('Low-rank adapters of the model.');

const model = modelSpec
  .omit({ confidential: true })
  .extend({ criticality: criticality.optional(), lora: lora.optional() })
  .describe('The model to serve.');

const pool = z
  .object({
    spec: xInferencePoolSpec
      .partial()
      .optional()
      .describe('Laid over the InferencePool that the operator makes; in the shape of v1alpha2 of that kind.'),
    ref: schedulerSpec.shape.pool.unwrap().shape.ref,
  })
  .describe('The pool that requests are scheduled over.');

const scheduler = schedulerSpec
  .extend({ pool: pool.optional() })
  .describe('The endpoint picker and its InferencePool.');

const router = routerSpec
  .extend({ scheduler: scheduler.optional() })
  .describe('How requests reach the model servers; absent: only the workload Service.');

export const llmInferenceServiceSpec = hubSpec
  .omit({ kvCacheOffloading: true })
  .extend({
    model,
    router: router.optional(),
    prefill: workloadSpec
      .omit({ kvCacheOffloading: true })
      .meta(replicasOrScaling)
      .optional()
      .describe('Pods that only prefill; the pods of spec then only decode.'),
  })
  .describe('Desired state.')
  .meta(replicasOrScaling);

const hubAddress = hubStatus.shape.address.unwrap();
const address = () => hubAddress.omit({ origin: true, models: true });

export const llmInferenceServiceStatus = hubStatus
  .omit({ workloads: true, appliedConfigs: true })
  .extend({
    address: address().optional(),
    addresses: z.array(address()).optional().describe('Every place where the model answers.'),
    router: hubStatus.shape.router.unwrap().omit({ group: true }).optional().describe('The routing objects in use.'),
  })
  .describe('Observed state.');
