import { reasons } from '../api/conditions.ts';
import { labels } from '../api/labels.ts';
import type { ScalingSpec } from '../api/v1alpha2/llm-inference-service.ts';
import type { AutoscalerState, Observed } from './observed.ts';

/** Why the autoscaler of a workload does not work; undefined when it does. */
export function scalingOf(
  observed: Observed,
  component: string,
  scaling: ScalingSpec,
): { readonly reason: string; readonly message: string } | undefined {
  const kind = scaling.wva?.hpa ? 'HorizontalPodAutoscaler' : 'ScaledObject';
  const desired = observed.desired.find(
    (manifest) => manifest.kind === kind && manifest.metadata.labels?.[labels.component] === component,
  );
  if (!desired) {
    if (!observed.surroundings.served.scaledObject)
      return {
        reason: reasons.scalingCrdNotFound,
        message: 'the API server does not serve keda.sh/v1alpha1; install KEDA, or scale by wva.hpa',
      };
    return {
      reason: reasons.scalingNotConfigured,
      message:
        "wva.keda reads its metric from a Prometheus and none is known; name one by the operator's --prometheus-url, or use wva.hpa",
    };
  }
  const { name } = desired.metadata;
  const conditions = observed.autoscaler(kind, name)?.status?.conditions ?? [];
  const of = (type: string) => conditions.find((condition) => condition.type === type);
  return kind === 'HorizontalPodAutoscaler'
    ? hpaProblem(name, [of('AbleToScale'), of('ScalingActive')])
    : scaledObjectProblem(name, of('Ready'));
}

type Condition = NonNullable<NonNullable<AutoscalerState['status']>['conditions']>[number];

function hpaProblem(name: string, conditions: readonly (Condition | undefined)[]) {
  const bad = conditions.find((condition) => condition?.status === 'False');
  if (bad) return { reason: bad.reason ?? bad.type, message: textOf(`HorizontalPodAutoscaler ${name}`, bad) };
  if (conditions.some((condition) => condition !== undefined)) return undefined;
  return { reason: reasons.hpaProgressing, message: `HorizontalPodAutoscaler ${name} has not been looked at yet` };
}

function scaledObjectProblem(name: string, ready: Condition | undefined) {
  if (ready?.status === 'True') return undefined;
  if (ready?.status === 'False')
    return { reason: ready.reason ?? 'NotReady', message: textOf(`ScaledObject ${name}`, ready) };
  return { reason: reasons.scaledObjectProgressing, message: `ScaledObject ${name} waits for KEDA to look at it` };
}

function textOf(what: string, { type, reason, message }: Condition): string {
  return `${what} is not ${type}: ${message ?? reason ?? 'no reason given'}`;
}
