import { describe, expect, it } from '@jest/globals';
import type { LLMInferenceServiceSpec } from './llm-inference-service.ts';
import { validateService } from './validate.ts';

const told = (spec: Partial<LLMInferenceServiceSpec>) =>
  validateService({
    apiVersion: 'serving.kserve.io/v1alpha2',
    kind: 'LLMInferenceService',
    metadata: { name: 'chat', namespace: 'default' },
    spec: { model: { uri: 'hf://a/b' }, ...spec },
  }).map(({ path, message }) => `${path}: ${message}`);

const triggers = [{ type: 'cron' }];
const keda = { triggers };

describe('scaling', () => {
  it.each<[string, Partial<LLMInferenceServiceSpec>]>([
    ['triggers of the user', { scaling: { maxReplicas: 2, keda } }],
    ['idling', { scaling: { minReplicas: 1, maxReplicas: 2, keda: { triggers, idleReplicaCount: 0 } } }],
    [
      'both workloads in one way',
      { scaling: { maxReplicas: 2, keda }, prefill: { scaling: { maxReplicas: 1, keda } } },
    ],
    ['one workload alone', { scaling: { maxReplicas: 2, wva: { hpa: {} } }, prefill: { replicas: 2 } }],
    [
      'empty modifiers',
      { scaling: { maxReplicas: 2, wva: { keda: { advanced: { scalingModifiers: { target: '' } } } } } },
    ],
  ])('accepts %s', (_, spec) => expect(told(spec)).toEqual([]));

  it.each<[string, Partial<LLMInferenceServiceSpec>, string]>([
    [
      'a number as well',
      { replicas: 1, scaling: { maxReplicas: 2, keda } },
      'spec.scaling: scaling and replicas are mutually',
    ],
    [
      'more at least than at most',
      { scaling: { minReplicas: 3, maxReplicas: 2, keda } },
      'minReplicas (3) cannot exceed maxReplicas (2)',
    ],
    ['two mechanisms', { scaling: { maxReplicas: 2, keda, wva: { hpa: {} } } }, 'wva and keda are mutually exclusive'],
    ['no mechanism', { scaling: { maxReplicas: 2 } }, 'either wva or keda must be specified'],
    [
      'two actuators',
      { scaling: { maxReplicas: 2, wva: { hpa: {}, keda: {} } } },
      'hpa and keda are mutually exclusive',
    ],
    [
      'no actuator',
      { prefill: { scaling: { maxReplicas: 2, wva: {} } } },
      'spec.prefill.scaling.wva: either hpa or keda',
    ],
    ['no trigger', { scaling: { maxReplicas: 2, keda: { triggers: [] } } }, 'at least one trigger is required'],
    ['a trigger without type', { scaling: { maxReplicas: 2, keda: { triggers: [{}] } } }, 'triggers[0].type'],
    [
      'idling without a least',
      { scaling: { maxReplicas: 2, keda: { triggers, idleReplicaCount: 0 } } },
      'minReplicas is required when idleReplicaCount is set',
    ],
    [
      'idling at the least',
      { scaling: { minReplicas: 1, maxReplicas: 2, wva: { keda: { idleReplicaCount: 1 } } } },
      'spec.scaling.wva.keda.idleReplicaCount: idleReplicaCount (1) must be less than minReplicas (1)',
    ],
    [
      'a name for the autoscaler',
      { scaling: { maxReplicas: 2, keda: { triggers, advanced: { horizontalPodAutoscalerConfig: { name: 'x' } } } } },
      'horizontalPodAutoscalerConfig.name must not be set',
    ],
    [
      'a formula for the variant autoscaler',
      { scaling: { maxReplicas: 2, wva: { keda: { advanced: { scalingModifiers: { formula: 'a+b' } } } } } },
      'scalingModifiers must not be set',
    ],
    [
      'another mechanism for prefill',
      { scaling: { maxReplicas: 2, keda }, prefill: { scaling: { maxReplicas: 2, wva: { hpa: {} } } } },
      'spec.prefill.scaling: decode and prefill must use the same scaling mode',
    ],
    [
      'another actuator for prefill',
      { scaling: { maxReplicas: 2, wva: { hpa: {} } }, prefill: { scaling: { maxReplicas: 2, wva: { keda: {} } } } },
      'spec.prefill.scaling.wva: decode and prefill must use the same actuator backend',
    ],
  ])('refuses %s', (_, spec, message) => expect(told(spec).join('\n')).toContain(message));
});
