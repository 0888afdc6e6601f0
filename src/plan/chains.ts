import type { Check } from './check.ts';
import { checkCombined } from './checks/presets.ts';
import { checkGatewayApi, checkGatewayClass, checkInferencePoolApi } from './checks/router.ts';
import { checkSpec } from './checks/spec.ts';
import { checkDeviceClaimApi, checkLeaderWorkerSetApi } from './checks/workload.ts';
import type { CheckInput } from './observed.ts';

/** What must hold before anything is rendered: children stay as they are while it does not. */
export const beforeRendering: readonly Check<CheckInput>[] = [
  // Nothing else can be said about a spec that does not come about.
  checkCombined,
  // Admission says the same, but objects may be older than the webhook or have passed while it was away.
  checkSpec,
  // Without groups nothing could serve: what serves now, perhaps on one node, stays until they can be had.
  checkLeaderWorkerSetApi,
  // Pods that name a claim without its template would wait for ever.
  checkDeviceClaimApi,
];

/** What the router needs of the cluster; the model servers run without it. Every violation is shown. */
export const routerNeeds: readonly Check<CheckInput>[] = [
  // Without the Gateway API there is nothing to make a Gateway or a route of.
  checkGatewayApi,
  // A Gateway that has to be made needs a class.
  checkGatewayClass,
  // Without a pool API the route leads to the Service, and no picker can run.
  checkInferencePoolApi,
];
