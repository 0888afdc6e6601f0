import { z } from 'zod';
import { cel, int32, intOrString, preserved, quantity, stringMap } from '../fields.ts';
import type { PodTemplate } from '../foreign/pod.ts';

/** What one set of model-server pods is: the fields that `spec` and `spec.prefill` share. */

const kedaShape = () => ({
  pollingInterval: int32(1).optional().describe('Seconds between two looks at the triggers.'),
  cooldownPeriod: int32(0).optional().describe('Seconds to wait after the last active trigger before scaling in.'),
  initialCooldownPeriod: int32(0).optional().describe('Seconds to wait after creation before scaling in.'),
  idleReplicaCount: int32(0).optional().describe('Replicas while no trigger is active; below minReplicas.'),
  fallback: preserved<object>('KEDA fallback, as it is.').optional(),
  advanced: z
    .looseObject({
      restoreToOriginalReplicaCount: z.boolean().optional(),
      horizontalPodAutoscalerConfig: z
        .looseObject({ name: z.string().optional(), behavior: preserved<object>('HPA behavior, as it is.').optional() })
        .optional(),
      scalingModifiers: z
        .looseObject({
          formula: z.string().optional(),
          target: z.string().optional(),
          activationTarget: z.string().optional(),
          metricType: z.string().optional(),
        })
        .optional(),
    })
    .optional()
    .describe('KEDA advanced settings.')
    .meta(
      cel({
        rule: "!has(self.horizontalPodAutoscalerConfig) || !has(self.horizontalPodAutoscalerConfig.name) || self.horizontalPodAutoscalerConfig.name == ''",
        message: 'horizontalPodAutoscalerConfig.name must not be set; the operator names the autoscaler',
      }),
    ),
});

/** Each of the four may be absent, so each is asked for with has() before it is read. */
const noScalingModifiers = ['formula', 'target', 'activationTarget', 'metricType']
  .map((field) => {
    const path = `self.keda.advanced.scalingModifiers.${field}`;
    return `(!has(${path}) || ${path} == '')`;
  })
  .join(' && ');

const wva = z
  .object({
    variantCost: z
      .string()
      .regex(/^\d+(\.\d+)?$/)
      .default('10.0')
      .describe('Relative cost of one replica, a number as text.'),
    hpa: z
      .object({ behavior: preserved<object>('HPA behavior, as it is.').optional() })
      .optional()
      .describe('Act through a HorizontalPodAutoscaler.'),
    keda: z.object(kedaShape()).optional().describe('Act through a KEDA ScaledObject.'),
  })
  .describe('Scaling by the workload variant autoscaler.')
  .meta(
    cel(
      {
        rule: '!(has(self.hpa) && has(self.keda))',
        message: 'hpa and keda are mutually exclusive; choose one actuator backend',
      },
      {
        rule: 'has(self.hpa) || has(self.keda)',
        message: 'either hpa or keda must be specified as the actuator backend',
      },
      {
        rule: `!has(self.keda) || !has(self.keda.advanced) || !has(self.keda.advanced.scalingModifiers) || (${noScalingModifiers})`,
        message: 'scalingModifiers must not be set; the autoscaler computes the metric',
      },
    ),
  );

export const scalingSpec = z
  .object({
    minReplicas: int32(1).optional().describe('Fewest replicas, 1 when absent.'),
    maxReplicas: int32(1).describe('Most replicas.'),
    wva: wva.optional(),
    keda: z
      .object({
        ...kedaShape(),
        triggers: z.array(preserved<object>('A KEDA trigger, as it is.')).min(1).max(64).describe('KEDA triggers.'),
      })
      .optional()
      .describe('Scaling by KEDA triggers of your own.'),
  })
  .describe('Autoscaling; excludes replicas.')
  .meta(
    cel(
      {
        rule: '!(has(self.wva) && has(self.keda))',
        message: 'wva and keda are mutually exclusive; choose one scaling mechanism',
      },
      {
        rule: 'has(self.wva) || has(self.keda)',
        message: 'either wva or keda must be specified when scaling is configured',
      },
      {
        rule: '!has(self.minReplicas) || self.minReplicas <= self.maxReplicas',
        message: 'minReplicas cannot exceed maxReplicas',
      },
      ...['self.keda', 'self.wva.keda'].flatMap((keda) => {
        const present = keda
          .split('.')
          .slice(1)
          .map((_, i, parts) => `has(self.${parts.slice(0, i + 1).join('.')})`)
          .join(' && ');
        const idle = `${present} && has(${keda}.idleReplicaCount)`;
        return [
          {
            rule: `!(${idle}) || has(self.minReplicas)`,
            message: 'minReplicas is required when idleReplicaCount is set',
          },
          {
            rule: `!(${idle}) || !has(self.minReplicas) || ${keda}.idleReplicaCount < self.minReplicas`,
            message: 'idleReplicaCount must be less than minReplicas',
          },
        ];
      }),
    ),
  );

export const parallelismSpec = z
  .object({
    tensor: int32(1).optional().describe('GPUs that share each layer of the model.'),
    pipeline: int32(1).optional().describe('Nodes that each hold a run of layers.'),
    data: int32(1).optional().describe('Data-parallel ranks in all; set together with dataLocal.'),
    dataLocal: int32(1).optional().describe('Data-parallel ranks on one node; set together with data.'),
    dataRPCPort: int32(1, 65_535).optional().describe('Port of the data-parallel coordinator, 5555 when absent.'),
    expert: z.boolean().optional().describe('Spread the experts of a mixture-of-experts model over the ranks.'),
  })
  .describe('How one replica is spread over GPUs and nodes.');

const kvCacheOffloading = z
  .object({
    cpu: quantity().describe('Bytes of host memory for KV cache blocks.'),
    evictionPolicy: z.enum(['lru', 'arc']).default('lru'),
    secondary: z
      .array(
        z.object({
          fileSystem: z
            .object({
              emptyDir: z
                .object({ size: quantity().optional() })
                .optional()
                .describe("Space on the node's disk, gone with the pod."),
              pvc: z
                .object({
                  spec: preserved<object>('A PersistentVolumeClaimSpec for a claim per pod.').optional(),
                  ref: z
                    .object({ name: z.string().max(253).optional(), path: z.string().max(4096).optional() })
                    .optional()
                    .describe('A claim that exists.'),
                })
                .optional(),
            })
            .optional(),
        }),
      )
      .max(16)
      .optional()
      .describe('Slower tiers behind host memory.'),
  })
  .describe('Where KV cache blocks go when GPU memory is short.');

export const workloadShape = () => ({
  replicas: int32(0).optional().describe('Copies of the model server; absent leaves the number to others.'),
  scaling: scalingSpec.optional(),
  parallelism: parallelismSpec.optional(),
  labels: stringMap().optional().describe('Labels of the pods and of the workload Service.'),
  annotations: stringMap().optional().describe('Annotations of the pods and of the workload Service.'),
  template: preserved<PodTemplate>(
    'A PodSpec; the container named main is the model server. Absent parts come from presets.',
  ).optional(),
  worker: preserved<PodTemplate>('A PodSpec of the worker pods; makes the workload multi-node.').optional(),
  kvCacheOffloading: kvCacheOffloading.optional(),
  rolloutStrategy: z
    .object({
      maxUnavailable: intOrString().optional().describe('Pods that may be missing during a rollout: 1 or 25%.'),
      maxSurge: intOrString().optional().describe('Pods that may be there in addition during a rollout: 1 or 25%.'),
    })
    .optional()
    .describe('How pods are replaced.'),
});

export const replicasOrScaling = cel({
  rule: '!(has(self.replicas) && has(self.scaling))',
  message: 'scaling and replicas are mutually exclusive; remove replicas when scaling is set',
});

export const workloadSpec = z.object(workloadShape()).meta(replicasOrScaling);
