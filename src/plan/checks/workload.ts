import { conditionTypes, reasons } from '../../api/conditions.ts';
import { annotations } from '../../api/labels.ts';
import { deviceClaimOf } from '../../api/v1alpha2/devices.ts';
import { isMultiNode } from '../../api/v1alpha2/parallelism.ts';
import type { Verdict } from '../check.ts';
import type { CheckInput } from '../observed.ts';

/** LeaderWorkerSets are served, where a replica is spread over several pods. */
export function checkLeaderWorkerSetApi({ service, effective, surroundings }: CheckInput): Verdict | undefined {
  if (surroundings.served.leaderWorkerSet || service.metadata.annotations?.[annotations.stop] === 'true')
    return undefined;
  const isMain = isMultiNode(effective);
  if (!isMain && !(effective.prefill && isMultiNode(effective.prefill))) return undefined;
  return {
    condition: isMain ? conditionTypes.workerWorkloadReady : conditionTypes.prefillWorkerWorkloadReady,
    reason: reasons.leaderWorkerSetNotServed,
    message: `the API server does not serve leaderworkerset.x-k8s.io/v1; install the LeaderWorkerSet controller with its CRD, or remove ${isMain ? 'spec.worker' : 'spec.prefill.worker'}`,
  };
}

/** Claims for devices are served, where the service asks for devices by them. */
export function checkDeviceClaimApi({ service, surroundings }: CheckInput): Verdict | undefined {
  if (surroundings.served.deviceClaims || deviceClaimOf(service) === undefined) return undefined;
  return {
    condition: conditionTypes.mainWorkloadReady,
    reason: reasons.deviceClaimsNotServed,
    message: `the API server does not serve resource.k8s.io/v1; use Kubernetes 1.34 or newer, or remove the annotation ${annotations.deviceClass}`,
  };
}
