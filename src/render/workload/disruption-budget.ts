import { components, labels } from '../../api/labels.ts';
import { isMultiNode } from '../../api/v1alpha2/parallelism.ts';
import type { Manifest } from '../../kube/object.ts';
import type { Context } from '../input.ts';
import { componentLabels } from '../labels.ts';
import { manifestOf, ownerOf } from '../manifest.ts';
import { componentOf } from './pod-template.ts';
import { workloadsOf } from './workloads.ts';

/**
 * Lets a drain take one pod of a workload at a time, where there may be several: a model takes minutes to load, and two
 * nodes that are emptied at once would take two of them. Pods that do not work may always go. In a group every pod
 * counts, for losing one is losing the group.
 */
export function renderDisruptionBudgets(context: Context): readonly Manifest[] {
  const { service, name, namespace, names } = context;
  return workloadsOf(context).flatMap(({ workload, role }) => {
    if ((workload.scaling?.maxReplicas ?? workload.replicas ?? 1) < 2) return [];
    const isPrefill = role === 'prefill';
    const own = componentLabels(name, componentOf(role));
    const groups = isPrefill
      ? [components.workloadLeaderPrefill, components.workloadWorkerPrefill]
      : [components.workloadLeader, components.workloadWorker];
    const { [labels.component]: _, ...ofService } = own;
    const isGroup = isMultiNode(workload);
    return [
      manifestOf(
        { group: 'policy', version: 'v1', kind: 'PodDisruptionBudget' },
        {
          name: isGroup
            ? isPrefill
              ? names.prefillMultiNode
              : names.mainMultiNode
            : isPrefill
              ? names.prefill
              : names.main,
          namespace,
          labels: own,
          ownerReferences: ownerOf(service),
        },
        {
          spec: {
            maxUnavailable: 1,
            unhealthyPodEvictionPolicy: 'AlwaysAllow',
            selector: isGroup
              ? {
                  matchLabels: ofService,
                  matchExpressions: [{ key: labels.component, operator: 'In', values: groups }],
                }
              : { matchLabels: own },
          },
        },
      ),
    ];
  });
}
