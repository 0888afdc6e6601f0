import type { ParentReference } from '../../api/foreign/gateway-api.ts';
import { annotations, labels } from '../../api/labels.ts';
import { hasDefaultGateway } from '../../api/v1alpha2/router-wishes.ts';
import type { Manifest } from '../../kube/object.ts';
import type { Context } from '../input.ts';
import { manifestOf } from '../manifest.ts';

/** Value of `app.kubernetes.io/managed-by` on a Gateway that the operator made and therefore may change. */
export const gatewayManager = 'signalbox';

/**
 * The default Gateway, when a service hangs on it and it is either missing or one that we made. A Gateway of anyone
 * else's is left alone. It is shared by all services, so it belongs to none and stays when the last one goes: routes
 * of others may hang on it, and its address should outlive a service.
 */
export function renderGateway(context: Context): readonly Manifest[] {
  const { name, namespace, port, className, live } = context.platform.gateway;
  if (!hasDefaultGateway(context.effective) || !context.platform.served.gatewayApi) return [];
  if (live && live.metadata.labels?.[labels.managedBy] !== gatewayManager) return [];
  // What it runs on is decided once: another class would be another load balancer with another address.
  const gatewayClassName = live?.spec.gatewayClassName ?? className;
  if (gatewayClassName === undefined) return [];
  return [
    manifestOf(
      { group: 'gateway.networking.k8s.io', version: 'v1', kind: 'Gateway' },
      {
        name,
        namespace,
        labels: { [labels.managedBy]: gatewayManager },
        annotations: {
          [annotations.gatewayOwner]:
            live?.metadata.annotations?.[annotations.gatewayOwner] ?? `${context.namespace}/${context.name}`,
        },
      },
      {
        spec: {
          gatewayClassName,
          listeners: [{ name: 'http', port, protocol: 'HTTP', allowedRoutes: { namespaces: { from: 'All' } } }],
        },
      },
    ),
  ];
}

/** The Gateways that a service's route hangs on: those it names, else the default one. */
export function gatewayParents(context: Context): readonly ParentReference[] {
  const refs = context.effective.router?.gateway?.refs ?? [];
  const kind = { group: 'gateway.networking.k8s.io', kind: 'Gateway' };
  if (refs.length > 0)
    return refs.map((ref) => ({
      ...kind,
      name: ref.name,
      ...(ref.namespace ? { namespace: ref.namespace } : {}),
      ...(ref.sectionName ? { sectionName: ref.sectionName } : {}),
    }));
  const { name, namespace } = context.platform.gateway;
  return context.routeSpec?.parentRefs ?? [{ ...kind, name, namespace }];
}
