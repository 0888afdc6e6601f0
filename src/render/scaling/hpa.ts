import type { Manifest } from '../../kube/object.ts';
import { manifestOf } from '../manifest.ts';
import type { Scaled } from './autoscaler.ts';

/** The metric by which the variant autoscaler says how many replicas it wants. */
export const desiredReplicasMetric = 'wva_desired_replicas';

/** Follows the number that the variant autoscaler asks for. */
export function renderHorizontalPodAutoscaler({ scaling, metadata, target }: Scaled): Manifest {
  const behavior = scaling.wva?.hpa?.behavior;
  return manifestOf({ group: 'autoscaling', version: 'v2', kind: 'HorizontalPodAutoscaler' }, metadata, {
    spec: {
      scaleTargetRef: target,
      minReplicas: scaling.minReplicas ?? 1,
      maxReplicas: scaling.maxReplicas,
      metrics: [
        {
          type: 'External',
          external: {
            metric: {
              name: desiredReplicasMetric,
              selector: { matchLabels: { variant_name: metadata.name } },
            },
            target: { type: 'AverageValue', averageValue: '1' },
          },
        },
      ],
      ...(behavior ? { behavior } : {}),
    },
  });
}
