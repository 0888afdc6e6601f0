import type { Manifest } from '../../kube/object.ts';
import { manifestOf } from '../manifest.ts';
import type { Scaled } from './autoscaler.ts';
import { desiredReplicasMetric } from './hpa.ts';

/** The ScaledObject of a workload; none where its trigger needs a Prometheus that nobody has named. */
export function renderScaledObject(scaled: Scaled): readonly Manifest[] {
  const { scaling, metadata, target } = scaled;
  const keda = scaling.keda ?? scaling.wva?.keda;
  const triggers = scaling.keda?.triggers ?? variantTriggers(scaled);
  if (!keda || !triggers) return [];
  const { pollingInterval, cooldownPeriod, initialCooldownPeriod, idleReplicaCount, fallback, advanced } = keda;
  const settings = {
    pollingInterval,
    cooldownPeriod,
    initialCooldownPeriod,
    idleReplicaCount,
    fallback,
    advanced,
  };
  return [
    manifestOf({ group: 'keda.sh', version: 'v1alpha1', kind: 'ScaledObject' }, metadata, {
      spec: {
        scaleTargetRef: target,
        minReplicaCount: scaling.minReplicas ?? 1,
        maxReplicaCount: scaling.maxReplicas,
        ...Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined)),
        triggers,
      },
    }),
  ];
}

function variantTriggers({ context, metadata }: Scaled): readonly object[] | undefined {
  const { prometheus } = context.platform;
  if (!prometheus) return undefined;
  const { url, isInsecure, authModes, triggerAuthentication } = prometheus;
  return [
    {
      type: 'prometheus',
      name: 'wva-desired-replicas',
      metadata: {
        serverAddress: url,
        query: `${desiredReplicasMetric}{variant_name="${metadata.name}",exported_namespace="${metadata.namespace}"}`,
        threshold: '1',
        activationThreshold: '0',
        unsafeSsl: String(isInsecure),
        ...(authModes ? { authModes } : {}),
      },
      ...(triggerAuthentication ? { authenticationRef: triggerAuthentication } : {}),
    },
  ];
}
