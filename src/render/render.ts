import type { Manifest } from '../kube/object.ts';
import { type Context, createContext, type RenderInput } from './input.ts';
import { renderNetworkPolicies } from './network-policy.ts';
import { renderDeviceClaims } from './pod/devices.ts';
import { renderPodMonitors } from './pod-monitor.ts';
import { renderGateway } from './routing/gateway.ts';
import { renderRoute } from './routing/http-route.ts';
import { renderInferencePools } from './routing/inference-pool.ts';
import { renderAutoscalers } from './scaling/autoscaler.ts';
import { renderPickerDeployment } from './scheduler/deployment.ts';
import { renderPickerAccess } from './scheduler/rbac.ts';
import { renderPickerService } from './scheduler/service.ts';
import { renderTokenizer } from './scheduler/tokenizer.ts';
import { renderTrust } from './tls.ts';
import { renderWorkloads } from './workload/deployment.ts';
import { renderDisruptionBudgets } from './workload/disruption-budget.ts';
import { renderWorkloadAccess } from './workload/rbac.ts';
import { renderWorkloadServices } from './workload/service.ts';

/**
 * Every object that a service needs, in the order in which one reads them. The same input gives the same manifests.
 * @throws AppError when the spec cannot be rendered; the checks of `src/plan` say so beforehand
 */
export function render(input: RenderInput): readonly Manifest[] {
  const context = createContext(input);
  return [
    ...renderWorkloadAccess(context),
    ...renderDeviceClaims(context),
    ...renderWorkloads(context),
    ...renderDisruptionBudgets(context),
    ...renderAutoscalers(context),
    ...renderWorkloadServices(context),
    ...renderTrust(context),
    ...renderNetworkPolicies(context),
    ...renderPodMonitors(context),
    ...renderScheduler(context),
    ...renderGateway(context),
    ...renderRoute(context),
  ];
}

function renderScheduler(context: Context): readonly Manifest[] {
  // Without a pool a picker has nothing to pick from.
  if (!context.hasPicker) return [];
  return [
    ...renderPickerAccess(context),
    renderPickerDeployment(context),
    renderPickerService(context),
    ...renderTokenizer(context),
    ...renderInferencePools(context),
  ];
}
