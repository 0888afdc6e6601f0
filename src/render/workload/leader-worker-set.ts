import type { WorkloadSpec } from '../../api/v1alpha2/llm-inference-service.ts';
import { groupSizeOf } from '../../api/v1alpha2/parallelism.ts';
import type { Manifest } from '../../kube/object.ts';
import type { Context } from '../input.ts';
import { componentLabels, groupAnnotationsOf, podLabelsOf, type Role } from '../labels.ts';
import { manifestOf, ownerOf } from '../manifest.ts';
import { componentOf, renderPodTemplate } from './pod-template.ts';
import { replicasOf } from './workloads.ts';

const leaderWorkerSet = { group: 'leaderworkerset.x-k8s.io', version: 'v1', kind: 'LeaderWorkerSet' } as const;

/** Groups of pods, each group one replica: a leader that is called and workers that share its model. */
export function renderLeaderWorkerSet(context: Context, workload: WorkloadSpec, role: Role): Manifest {
  const { service, name, namespace, names } = context;
  const { parallelism, rolloutStrategy } = workload;
  const size = groupSizeOf(parallelism) ?? 1;
  const own = groupAnnotationsOf(service.metadata.annotations);
  return manifestOf(
    leaderWorkerSet,
    {
      name: role === 'prefill' ? names.prefillMultiNode : names.mainMultiNode,
      namespace,
      labels: { ...podLabelsOf(service.metadata.labels), ...componentLabels(name, componentOf(role)) },
      ...(Object.keys(own).length > 0 ? { annotations: own } : {}),
      ownerReferences: ownerOf(service),
    },
    {
      spec: {
        ...replicasOf(workload),
        startupPolicy: 'LeaderCreated',
        rolloutStrategy: {
          type: 'RollingUpdate',
          rollingUpdateConfiguration: {
            maxUnavailable: rolloutStrategy?.maxUnavailable ?? 1,
            maxSurge: rolloutStrategy?.maxSurge ?? 0,
          },
        },
        leaderWorkerTemplate: {
          size,
          // A group that lost one pod has lost its collective communication: only all of them together start again.
          restartPolicy: 'RecreateGroupOnPodRestart',
          ...(role === 'prefill' && parallelism?.data !== undefined ? { subGroupPolicy: { subGroupSize: size } } : {}),
          leaderTemplate: renderPodTemplate(context, workload, role, 'leader'),
          workerTemplate: renderPodTemplate(context, workload, role, 'worker'),
        },
      },
    },
  );
}
