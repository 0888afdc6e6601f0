import { components, labels } from '../api/labels.ts';
import type { LLMInferenceService } from '../api/v1alpha2/llm-inference-service.ts';
import type { Manifest } from '../kube/object.ts';
import type { DeploymentState, Observed } from './observed.ts';

/** Lookups among what was rendered, and what a live Deployment says of itself. */

export function namespaceOf(service: LLMInferenceService): string {
  return service.metadata.namespace ?? 'default';
}

export function findDeployment(observed: Observed, component: string): Manifest | undefined {
  return observed.desired.find(
    (manifest) => manifest.kind === 'Deployment' && manifest.metadata.labels?.[labels.component] === component,
  );
}

export function findService(observed: Observed, component: string = components.workload): Manifest | undefined {
  return observed.desired.find(
    (manifest) => manifest.kind === 'Service' && manifest.metadata.labels?.[labels.component] === component,
  );
}

export function conditionOf(deployment: DeploymentState, type: string) {
  return deployment.status?.conditions?.find((condition) => condition.type === type);
}

/** What the Deployment itself complains about: pods that cannot be created, a rollout that does not get on. */
export function failureOf(
  deployment: DeploymentState,
): { readonly reason: string; readonly message?: string } | undefined {
  const failure = conditionOf(deployment, 'ReplicaFailure');
  if (failure?.status === 'True')
    return {
      reason: failure.reason ?? 'ReplicaFailure',
      message: `pods cannot be created: ${failure.message ?? failure.reason ?? 'no reason given'}`,
    };
  const progressing = conditionOf(deployment, 'Progressing');
  if (progressing?.status === 'False')
    return {
      reason: progressing.reason ?? 'ProgressDeadlineExceeded',
      ...(progressing.message ? { message: progressing.message } : {}),
    };
  return undefined;
}
