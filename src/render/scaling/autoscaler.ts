import { components } from '../../api/labels.ts';
import type { ScalingSpec, WorkloadSpec } from '../../api/v1alpha2/llm-inference-service.ts';
import { isMultiNode } from '../../api/v1alpha2/parallelism.ts';
import type { Manifest } from '../../kube/object.ts';
import type { Context } from '../input.ts';
import { componentLabels, type Role } from '../labels.ts';
import { ownerOf } from '../manifest.ts';
import { workloadsOf } from '../workload/workloads.ts';
import { renderHorizontalPodAutoscaler } from './hpa.ts';
import { renderScaledObject } from './keda.ts';

/** What an autoscaler is rendered from. */
export interface Scaled {
  readonly context: Context;
  readonly scaling: ScalingSpec;
  readonly metadata: Manifest['metadata'];
  readonly target: { readonly apiVersion: string; readonly kind: string; readonly name: string };
}

/** The autoscalers of a service: none where the KEDA API would be needed and is not served. */
export function renderAutoscalers(context: Context): readonly Manifest[] {
  return workloadsOf(context).flatMap(({ workload, role }) => {
    const { scaling } = workload;
    if (!scaling) return [];
    const target = targetOf(context, workload, role);
    if (scaling.wva?.hpa)
      return [
        renderHorizontalPodAutoscaler({ context, scaling, target, metadata: metadataOf(context, workload, role) }),
      ];
    if (!context.platform.served.scaledObject) return [];
    return renderScaledObject({ context, scaling, target, metadata: metadataOf(context, workload, role) });
  });
}

function targetOf({ names }: Context, workload: WorkloadSpec, role: Role): Scaled['target'] {
  const isPrefill = role === 'prefill';
  return isMultiNode(workload)
    ? {
        apiVersion: 'leaderworkerset.x-k8s.io/v1',
        kind: 'LeaderWorkerSet',
        name: isPrefill ? names.prefillMultiNode : names.mainMultiNode,
      }
    : { apiVersion: 'apps/v1', kind: 'Deployment', name: isPrefill ? names.prefill : names.main };
}

const acceleratorLabel = 'inference.optimization/acceleratorName';

/** Name and labels; with the variant autoscaler also what it knows a variant by. */
function metadataOf(context: Context, workload: WorkloadSpec, role: Role): Manifest['metadata'] {
  const { service, name, namespace, names, modelName } = context;
  const isPrefill = role === 'prefill';
  const wva = workload.scaling?.wva;
  const isHpa = wva?.hpa !== undefined;
  return {
    name: isHpa ? (isPrefill ? names.prefillHpa : names.mainHpa) : isPrefill ? names.prefillKeda : names.mainKeda,
    namespace,
    labels: {
      ...componentLabels(name, isPrefill ? components.workloadPrefill : components.workload),
      ...(wva ? { [acceleratorLabel]: workload.labels?.[acceleratorLabel] ?? 'unknown' } : {}),
    },
    ...(wva
      ? {
          annotations: {
            'llm-d.ai/managed': 'true',
            'llm-d.ai/model-id': modelName,
            'llm-d.ai/variant-cost': wva.variantCost ?? '10.0',
          },
        }
      : {}),
    ownerReferences: ownerOf(service),
  };
}
