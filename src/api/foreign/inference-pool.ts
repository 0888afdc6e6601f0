import { z } from 'zod';
import { cel, condition, type Immutable, int32 } from '../fields.ts';

/**
 * InferencePool in its two groups: `inference.networking.k8s.io/v1` and `inference.networking.x-k8s.io/v1alpha2`.
 * The shapes follow the published API of the Gateway API Inference Extension.
 */

const labelMap = () =>
  z
    .record(z.string(), z.string().max(63))
    .describe('Labels that a pod must all carry, in the namespace of the pool.')
    .meta({ minProperties: 1, maxProperties: 64 });

const failureMode = () =>
  z
    .enum(['FailOpen', 'FailClose'])
    .default('FailClose')
    .describe('What a gateway does when the picker does not answer: any endpoint (FailOpen) or an error (FailClose).');

const groupName = () => z.string().max(253);
const kindName = () => z.string().min(1).max(63);

/** `spec.endpointPickerRef` of v1. */
export const endpointPickerRef = z
  .object({
    group: groupName().default('').describe('API group of the picker; empty for a Service.'),
    kind: kindName().default('Service'),
    name: z.string().min(1).max(253),
    port: z
      .object({ number: int32(1, 65_535) })
      .optional()
      .describe('Port of the picker; required for a Service.'),
    failureMode: failureMode(),
  })
  .describe('The endpoint picker that a gateway asks for each request.')
  .meta(
    cel({
      rule: "self.kind != 'Service' || has(self.port)",
      message: "port is required when kind is 'Service' or unspecified (defaults to 'Service')",
    }),
  );

export const inferencePoolSpec = z.object({
  selector: z.object({ matchLabels: labelMap() }).describe('Which pods serve.'),
  targetPorts: z
    .array(z.object({ number: int32(1, 65_535) }))
    .min(1)
    .max(8)
    .describe('Ports of each pod; every port is an endpoint of its own.')
    .meta({
      'x-kubernetes-list-type': 'atomic',
      ...cel({
        rule: 'self.all(p1, self.exists_one(p2, p1.number==p2.number))',
        message: 'port number must be unique',
      }),
    }),
  appProtocol: z.enum(['http', 'kubernetes.io/h2c']).default('http').describe('Protocol that the endpoints speak.'),
  endpointPickerRef: endpointPickerRef.optional(),
});

const parentRef = () =>
  z.object({
    group: groupName().default('gateway.networking.k8s.io'),
    kind: kindName().default('Gateway'),
    name: z.string().min(1).max(253),
    namespace: z.string().min(1).max(63).optional(),
  });

export const inferencePoolStatus = z
  .object({
    parents: z
      .array(
        z.object({
          parentRef: parentRef(),
          controllerName: z.string().max(253).optional(),
          conditions: z
            .array(condition())
            .max(8)
            .optional()
            .meta({ 'x-kubernetes-list-type': 'map', 'x-kubernetes-list-map-keys': ['type'] }),
        }),
      )
      .max(32)
      .optional()
      .meta({ 'x-kubernetes-list-type': 'atomic' })
      .describe('What each gateway says; written by gateways.'),
  })
  .describe('Observed state, written by gateways.');

export const xInferencePoolSpec = z.object({
  selector: z.record(z.string(), z.string().max(63)).describe('Labels that a pod must all carry.'),
  targetPortNumber: int32(1, 65_535).describe('Port of each pod.'),
  extensionRef: z
    .object({
      group: groupName().default(''),
      kind: kindName().default('Service'),
      name: z.string().min(1).max(253),
      portNumber: int32(1, 65_535).optional().describe('Port of the picker, 9002 when absent.'),
      failureMode: failureMode(),
    })
    .describe('The endpoint picker that a gateway asks for each request.'),
});

export const xInferencePoolStatus = z
  .object({
    parent: z
      .array(
        z.object({
          parentRef: parentRef().extend({
            kind: kindName().default('Status'),
            name: z.string().min(1).max(253).default('default'),
          }),
          conditions: z
            .array(condition())
            .max(8)
            .optional()
            .meta({ 'x-kubernetes-list-type': 'map', 'x-kubernetes-list-map-keys': ['type'] }),
        }),
      )
      .max(32)
      .optional()
      .meta({ 'x-kubernetes-list-type': 'atomic' })
      .describe('What each gateway says; written by gateways.'),
  })
  .describe('Observed state, written by gateways.');

export type InferencePoolSpec = Immutable<z.input<typeof inferencePoolSpec>>;
export type InferencePoolStatus = Immutable<z.input<typeof inferencePoolStatus>>;
export type XInferencePoolSpec = Immutable<z.input<typeof xInferencePoolSpec>>;
export type XInferencePoolStatus = Immutable<z.input<typeof xInferencePoolStatus>>;

/** inference.networking.k8s.io/v1 */
export interface InferencePool {
  readonly apiVersion: 'inference.networking.k8s.io/v1';
  readonly kind: 'InferencePool';
  readonly metadata: { readonly name: string; readonly namespace?: string; readonly generation?: number };
  readonly spec: InferencePoolSpec;
  readonly status?: InferencePoolStatus;
}

/** inference.networking.x-k8s.io/v1alpha2 */
export interface XInferencePool {
  readonly apiVersion: 'inference.networking.x-k8s.io/v1alpha2';
  readonly kind: 'InferencePool';
  readonly metadata: { readonly name: string; readonly namespace?: string; readonly generation?: number };
  readonly spec: XInferencePoolSpec;
  readonly status?: XInferencePoolStatus;
}
