import type { WorkloadSpec } from '../../api/v1alpha2/llm-inference-service.ts';
import type { Context } from '../input.ts';
import type { Role } from '../labels.ts';

/** The workloads of a service with the roles of their pods. */
export function workloadsOf(context: Context): readonly { readonly workload: WorkloadSpec; readonly role: Role }[] {
  const { effective } = context;
  return [
    { workload: effective, role: context.hasPrefill ? 'decode' : 'both' },
    ...(effective.prefill ? [{ workload: effective.prefill, role: 'prefill' as const }] : []),
  ];
}

/** The replicas to write down: none where the number is left to others, an autoscaler above all. */
export function replicasOf({ replicas, scaling }: WorkloadSpec): { readonly replicas?: number } {
  return replicas === undefined || scaling ? {} : { replicas };
}
