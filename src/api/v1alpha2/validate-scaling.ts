import { type Issue, showValue } from '../issue.ts';
import type { LLMInferenceService, ScalingSpec } from './llm-inference-service.ts';
import { checkKubernetes } from './validate-pod.ts';

/** What is wrong with autoscaling: the CRD's own rules again, for merged specs, and that both workloads agree. */
export function checkScaling({ spec }: LLMInferenceService): readonly Issue[] {
  const issues = [
    ...checkOne(spec.scaling, spec.replicas, 'spec.scaling'),
    ...checkOne(spec.prefill?.scaling, spec.prefill?.replicas, 'spec.prefill.scaling'),
  ];
  const [decode, prefill] = [spec.scaling, spec.prefill?.scaling];
  if (!decode || !prefill) return issues;
  const path = 'spec.prefill.scaling';
  const modeOf = ({ keda }: ScalingSpec) => (keda ? 'direct keda' : 'wva');
  if (modeOf(decode) !== modeOf(prefill)) {
    const message = `decode and prefill must use the same scaling mode; decode uses ${modeOf(decode)} but prefill uses ${modeOf(prefill)}`;
    return [...issues, { path, code: 'invalid', message }];
  }
  const backendOf = ({ hpa }: NonNullable<ScalingSpec['wva']>) => (hpa ? 'hpa' : 'keda');
  if (decode.wva && prefill.wva && backendOf(decode.wva) !== backendOf(prefill.wva)) {
    const message = `decode and prefill must use the same actuator backend; decode uses ${backendOf(decode.wva)} but prefill uses ${backendOf(prefill.wva)}`;
    return [...issues, { path: `${path}.wva`, code: 'invalid', message }];
  }
  return issues;
}

function checkOne(scaling: ScalingSpec | undefined, replicas: number | undefined, path: string): readonly Issue[] {
  if (!scaling) return [];
  const issues: Issue[] = [];
  const say = (at: string, message: string, code: Issue['code'] = 'invalid') =>
    issues.push({ path: at, code, message });
  const { minReplicas, maxReplicas, wva, keda } = scaling;
  if (replicas !== undefined)
    say(
      path,
      'scaling and replicas are mutually exclusive; use scaling for autoscaled deployments or replicas for static deployments',
    );
  if (minReplicas !== undefined && minReplicas > maxReplicas)
    say(`${path}.minReplicas`, `minReplicas (${minReplicas}) cannot exceed maxReplicas (${maxReplicas})`);
  if (wva && keda) say(path, 'wva and keda are mutually exclusive; choose one scaling mechanism');
  if (!wva && !keda) say(path, 'either wva or keda must be specified when scaling is configured', 'required');
  if (wva?.hpa && wva.keda) say(`${path}.wva`, 'hpa and keda are mutually exclusive; choose one actuator backend');
  if (wva && !wva.hpa && !wva.keda)
    say(`${path}.wva`, 'either hpa or keda must be specified as the actuator backend', 'required');
  if (wva?.variantCost && !/^\d+(\.\d+)?$/.test(wva.variantCost))
    say(
      `${path}.wva.variantCost`,
      `${showValue(wva.variantCost)}: variantCost must be a non-negative numeric string (e.g., "10", "10.0", "0.5")`,
    );
  if (keda && (keda.triggers ?? []).length === 0)
    say(`${path}.keda.triggers`, 'at least one trigger is required when using direct KEDA scaling', 'required');
  for (const [i, trigger] of (keda?.triggers ?? []).entries())
    if (typeof (trigger as { readonly type?: unknown }).type !== 'string')
      say(`${path}.keda.triggers[${i}].type`, `${showValue(trigger)} needs a type such as prometheus or cron`);
  issues.push(...checkBehavior(wva?.hpa?.behavior, `${path}.wva.hpa.behavior`));
  const [at, ofKeda] = keda ? [`${path}.keda`, keda] : [`${path}.wva.keda`, wva?.keda];
  return [...issues, ...checkKeda(ofKeda, minReplicas, path, at, wva !== undefined)];
}

/** What both ways of scaling by KEDA share. `isMetricTaken`: the formula of the metric is not the user's. */
function checkKeda(
  keda: NonNullable<ScalingSpec['wva']>['keda'],
  minReplicas: number | undefined,
  scaling: string,
  at: string,
  isMetricTaken: boolean,
): readonly Issue[] {
  const issues: Issue[] = [];
  const idle = keda?.idleReplicaCount;
  if (idle !== undefined && minReplicas === undefined)
    issues.push({
      path: `${scaling}.minReplicas`,
      code: 'required',
      message: `minReplicas is required when idleReplicaCount is set; idleReplicaCount (${idle}) must be less than minReplicas`,
    });
  else if (idle !== undefined && minReplicas !== undefined && idle >= minReplicas)
    issues.push({
      path: `${at}.idleReplicaCount`,
      code: 'invalid',
      message: `idleReplicaCount (${idle}) must be less than minReplicas (${minReplicas}); it is how many run while no trigger is active`,
    });
  const { horizontalPodAutoscalerConfig: autoscaler, scalingModifiers: modifiers } = keda?.advanced ?? {};
  if (autoscaler?.name)
    issues.push({
      path: `${at}.advanced.horizontalPodAutoscalerConfig.name`,
      code: 'forbidden',
      message: 'horizontalPodAutoscalerConfig.name must not be set; the operator names the autoscaler',
    });
  if (isMetricTaken && modifiers && Object.values(modifiers).some((value) => value !== ''))
    issues.push({
      path: `${at}.advanced.scalingModifiers`,
      code: 'forbidden',
      message: 'scalingModifiers must not be set; the variant autoscaler computes the metric',
    });
  return [...issues, ...checkBehavior(autoscaler?.behavior, `${at}.advanced.horizontalPodAutoscalerConfig.behavior`)];
}

function checkBehavior(behavior: object | undefined, path: string): readonly Issue[] {
  return behavior === undefined ? [] : checkKubernetes(behavior, 'HorizontalPodAutoscalerBehavior', path);
}
