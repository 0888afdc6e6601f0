import type { Manifest } from '../../kube/object.ts';
import { controllerName } from './translate.ts';

/** Name of the GatewayClass that the embedded cluster offers. */
export const gatewayClassName = 'signalbox-local';

/** The GatewayClass of the embedded cluster. */
export function renderGatewayClass(name: string = gatewayClassName): Manifest {
  return {
    apiVersion: 'gateway.networking.k8s.io/v1',
    kind: 'GatewayClass',
    metadata: { name },
    spec: { controllerName, description: 'Envoy on the loopback network' },
  };
}
