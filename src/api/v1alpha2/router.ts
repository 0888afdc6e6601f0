import { z } from 'zod';
import { int32, localObjectReference, preserved, stringMap } from '../fields.ts';
import { httpRouteSpec } from '../foreign/gateway-api.ts';
import { inferencePoolSpec } from '../foreign/inference-pool.ts';
import type { PodTemplate } from '../foreign/pod.ts';

/** How requests reach the model servers: Gateway, HTTPRoute, InferencePool and endpoint picker. */

/** A whole InferencePoolSpec is not asked for: what is absent comes from presets. */
const poolSpec = inferencePoolSpec.partial();

export const schedulerSpec = z
  .object({
    pool: z
      .object({
        spec: poolSpec.optional().describe('Laid over the InferencePool that the operator makes.'),
        ref: localObjectReference().optional().describe('An InferencePool of your own: none is made, and no picker.'),
      })
      .optional()
      .describe('The pool that requests are scheduled over.'),
    labels: stringMap().optional().describe("Labels of the picker's pods."),
    annotations: stringMap().optional().describe("Annotations of the picker's pods."),
    template: preserved<PodTemplate>("A PodSpec laid over the picker's own.").optional(),
    config: z
      .object({
        inline: preserved<Readonly<Record<string, unknown>>>('An EndpointPickerConfig object.').optional(),
        ref: z
          .object({
            name: z.string().max(253).optional(),
            key: z.string().min(1).max(253),
            optional: z.boolean().optional(),
          })
          .optional()
          .describe('A key of a ConfigMap that holds an EndpointPickerConfig.'),
      })
      .optional()
      .describe('Configuration of the picker: which plugins, with which weights.'),
    replicas: int32(1).optional().describe('Copies of the picker; more than one elect a leader.'),
    tokenizer: z
      .object({ template: preserved<PodTemplate>('A PodSpec laid over the tokenizer preset.').optional() })
      .optional()
      .describe('A tokenizer of its own for the picker.'),
  })
  .describe('The endpoint picker and its InferencePool.');

export const routerSpec = z
  .object({
    route: z
      .object({
        http: z
          .object({
            refs: z
              .array(localObjectReference())
              .max(32)
              .optional()
              .describe('HTTPRoutes of your own in the same namespace.'),
            spec: httpRouteSpec
              .optional()
              .describe('An HTTPRouteSpec; its rules replace the generated ones as a whole.'),
          })
          .optional(),
        group: z
          .string()
          .min(1)
          .max(63)
          .regex(/^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/)
          .optional()
          .describe('Services of the same group share traffic by weight.'),
        weight: int32(0, 1_000_000).optional().describe('Share of the traffic of the group.'),
      })
      .optional()
      .describe('The HTTPRoute; {} for the generated one.'),
    gateway: z
      .object({
        refs: z
          .array(
            z.object({
              name: z.string().min(1).max(253),
              namespace: z.string().min(1).max(63).optional(),
              sectionName: z.string().min(1).max(253).optional(),
            }),
          )
          .max(32)
          .optional()
          .describe('Gateways that the route attaches to.'),
      })
      .optional()
      .describe('The Gateway; {} for the default one.'),
    ingress: z
      .object({
        refs: z
          .array(z.object({ name: z.string().min(1).max(253), namespace: z.string().min(1).max(63).optional() }))
          .max(32)
          .optional(),
      })
      .optional()
      .describe('Ingress objects of your own.'),
    scheduler: schedulerSpec.optional(),
  })
  .describe('How requests reach the model servers; absent: only the workload Service.');
