import { type Issue, showValue } from '../issue.ts';
import type { LLMInferenceService, ScalingSpec } from './llm-inference-service.ts';

/** What is wrong with autoscaling: the CRD's own rules again, for merged specs, and that both workloads agree. */
export function checkScaling({ spec }: LLMInferenceService): readonly Issue[] {
  const issues = [
    ...checkOne(spec.scaling, spec.replicas, 'spec.scaling'),
    ...checkOne(spec.prefill?.scaling, spec.prefill?.replicas, 'spec.prefill.scaling'),
  ];
  const [decode, prefill] = [spec.scaling, spec.prefill?.scaling];
  if (!decode || !prefill) return issues;
  const path = 'spec.prefill.scaling';
  if ((decode.wva === undefined) !== (prefill.wva === undefined)) {
    const message = 'decode and prefill must use the same scaling mode; give both wva or both keda';
    return [...issues, { path, code: 'invalid', message }];
  }
  if (decode.wva && prefill.wva && (decode.wva.hpa === undefined) !== (prefill.wva.hpa === undefined)) {
    const message = 'decode and prefill must use the same actuator backend; give both hpa or both keda';
    return [...issues, { path: `${path}.wva`, code: 'invalid', message }];
  }
  return issues;
}

function checkOne(scaling: ScalingSpec | undefined, replicas: number | undefined, path: string): readonly Issue[] {
  if (!scaling) return [];
  const issues: Issue[] = [];
  const say = (at: string, message: string) => issues.push({ path: at, code: 'invalid', message });
  const { minReplicas, maxReplicas, wva, keda } = scaling;
  if (replicas !== undefined)
    say(path, 'scaling and replicas are mutually exclusive; remove replicas when scaling is set');
  if (minReplicas !== undefined && minReplicas > maxReplicas)
    say(`${path}.minReplicas`, `minReplicas (${minReplicas}) cannot exceed maxReplicas (${maxReplicas})`);
  if (wva && keda) say(path, 'wva and keda are mutually exclusive; choose one scaling mechanism');
  if (!wva && !keda) say(path, 'either wva or keda must be specified when scaling is configured');
  if (wva?.hpa && wva.keda) say(`${path}.wva`, 'hpa and keda are mutually exclusive; choose one actuator backend');
  if (wva && !wva.hpa && !wva.keda) say(`${path}.wva`, 'either hpa or keda must be specified as the actuator backend');
  if (keda && (keda.triggers ?? []).length === 0)
    say(`${path}.keda.triggers`, 'at least one trigger is required when using direct KEDA scaling');
  for (const [i, trigger] of (keda?.triggers ?? []).entries())
    if (typeof (trigger as { readonly type?: unknown }).type !== 'string')
      say(`${path}.keda.triggers[${i}].type`, `${showValue(trigger)} needs a type such as prometheus or cron`);
  const [at, ofKeda] = keda ? [`${path}.keda`, keda] : [`${path}.wva.keda`, wva?.keda];
  const idle = ofKeda?.idleReplicaCount;
  if (idle !== undefined && minReplicas === undefined)
    say(
      `${at}.idleReplicaCount`,
      'minReplicas is required when idleReplicaCount is set; give how many run once there is work',
    );
  else if (idle !== undefined && minReplicas !== undefined && idle >= minReplicas)
    say(
      `${at}.idleReplicaCount`,
      `idleReplicaCount (${idle}) must be less than minReplicas (${minReplicas}); lower it`,
    );
  if (ofKeda?.advanced?.horizontalPodAutoscalerConfig?.name)
    say(
      `${at}.advanced.horizontalPodAutoscalerConfig.name`,
      'horizontalPodAutoscalerConfig.name must not be set; the operator names the autoscaler',
    );
  if (
    wva?.keda?.advanced?.scalingModifiers &&
    Object.values(wva.keda.advanced.scalingModifiers).some((value) => value !== '')
  )
    say(`${at}.advanced.scalingModifiers`, 'scalingModifiers must not be set; the autoscaler computes the metric');
  return issues;
}
