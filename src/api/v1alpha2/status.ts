import { z } from 'zod';
import { condition, int32, stringMap } from '../fields.ts';

/** What the operator says about a service. */

const objectReference = () =>
  z.object({
    group: z.string().optional(),
    kind: z.string().optional(),
    name: z.string(),
    namespace: z.string().optional(),
  });

const workloadReference = () =>
  z.object({
    apiGroup: z.string().optional(),
    kind: z.string(),
    name: z.string(),
    readyReplicas: int32(0).optional(),
  });

const address = () =>
  z.object({
    name: z.string().optional().describe('gateway-external, gateway-internal or internal.'),
    url: z.string().optional(),
    CACerts: z.string().optional(),
    audience: z.string().optional(),
    origin: objectReference().optional().describe('The object that gives this address.'),
    models: z.array(z.object({ name: z.string() })).optional(),
  });

export const llmInferenceServiceStatus = z
  .object({
    observedGeneration: z.int().optional().meta({ format: 'int64' }).describe('Generation that this status is about.'),
    conditions: z
      .array(condition())
      .optional()
      .meta({ 'x-kubernetes-list-type': 'map', 'x-kubernetes-list-map-keys': ['type'] }),
    annotations: stringMap().optional().describe('Presets that the service is pinned to.'),
    url: z.string().optional().describe('Where the model answers.'),
    address: address().optional(),
    addresses: z.array(address()).optional().describe('Every place where the model answers.'),
    router: z
      .object({
        gateways: z
          .array(
            objectReference().extend({
              listeners: z.array(z.string()).optional(),
              httpRoutes: z.array(objectReference()).optional(),
            }),
          )
          .optional(),
        scheduler: z
          .object({ inferencePool: objectReference().optional(), service: objectReference().optional() })
          .optional(),
        group: z
          .object({
            name: z.string(),
            members: z
              .array(
                z.object({
                  name: z.string(),
                  weight: int32(0).optional(),
                  stopped: z.boolean().optional(),
                  backendRef: objectReference().optional(),
                }),
              )
              .optional(),
          })
          .optional(),
      })
      .optional()
      .describe('The routing objects in use.'),
    workloads: z
      .object({
        primary: workloadReference().optional(),
        prefill: workloadReference().optional(),
        service: workloadReference().optional(),
        scheduler: workloadReference().optional(),
      })
      .optional()
      .describe('The workloads in use.'),
    appliedConfigs: z
      .array(
        z.object({
          name: z.string(),
          namespace: z.string().optional(),
          source: z.enum(['Preset', 'UserRef']),
        }),
      )
      .optional()
      .describe('Presets and base configurations that were merged, in order.'),
  })
  .describe('Observed state.');
