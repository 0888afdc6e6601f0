import type { WorkloadSpec } from '../../api/v1alpha2/llm-inference-service.ts';
import { isMultiNode } from '../../api/v1alpha2/parallelism.ts';
import type { Manifest } from '../../kube/object.ts';
import type { Context } from '../input.ts';
import { componentLabels, podLabelsOf, type Role } from '../labels.ts';
import { manifestOf, ownerOf } from '../manifest.ts';
import { startupBudgetSeconds } from '../pod/probes.ts';
import { renderLeaderWorkerSet } from './leader-worker-set.ts';
import { componentOf, renderPodTemplate } from './pod-template.ts';
import { replicasOf, workloadsOf } from './workloads.ts';

const deployment = { group: 'apps', version: 'v1', kind: 'Deployment' } as const;

/** Seconds without progress after which a rollout counts as failed: longer than a model may take to load. */
const progressDeadlineSeconds = startupBudgetSeconds + 300;

/** The model servers: main or decode, and prefill, each a Deployment or a LeaderWorkerSet. */
export function renderWorkloads(context: Context): readonly Manifest[] {
  return workloadsOf(context).map(({ workload, role }) =>
    isMultiNode(workload) ? renderLeaderWorkerSet(context, workload, role) : renderDeployment(context, workload, role),
  );
}

function renderDeployment(context: Context, workload: WorkloadSpec, role: Role): Manifest {
  const { service, name, namespace, names } = context;
  const own = componentLabels(name, componentOf(role));
  return manifestOf(
    deployment,
    {
      name: role === 'prefill' ? names.prefill : names.main,
      namespace,
      labels: { ...podLabelsOf(service.metadata.labels), ...own },
      ownerReferences: ownerOf(service),
    },
    {
      spec: {
        ...replicasOf(workload),
        selector: { matchLabels: own },
        ...(workload.rolloutStrategy
          ? { strategy: { type: 'RollingUpdate', rollingUpdate: workload.rolloutStrategy } }
          : {}),
        progressDeadlineSeconds,
        template: renderPodTemplate(context, workload, role, 'single'),
      },
    },
  );
}
