import type {
  Gateway,
  GatewayClass,
  HTTPRoute,
  HTTPRouteFilter,
  RouteParentStatus,
} from '../../api/foreign/gateway-api.ts';
import type { InferencePool, XInferencePool } from '../../api/foreign/inference-pool.ts';
import type { KubeObject } from '../../kube/object.ts';

/** A status condition as this controller writes it. */
export interface Verdict {
  readonly type: string;
  readonly status: 'True' | 'False' | 'Unknown';
  readonly reason: string;
  readonly message: string;
}

export type HeaderModifier = NonNullable<HTTPRouteFilter['requestHeaderModifier']>;
export type PathModifier = NonNullable<NonNullable<HTTPRouteFilter['urlRewrite']>['path']>;
export type PoolParent = NonNullable<NonNullable<InferencePool['status']>['parents']>[number];
export type XPoolParent = NonNullable<NonNullable<XInferencePool['status']>['parent']>[number];
export type RouteParent = RouteParentStatus;

export interface ServicePort {
  readonly name?: string;
  readonly port: number;
  readonly targetPort?: number | string;
  readonly appProtocol?: string;
}

/** The part of a core/v1 Service that is read. */
export interface Service extends KubeObject {
  readonly spec: { readonly selector?: Readonly<Record<string, string>>; readonly ports?: readonly ServicePort[] };
}

interface PortedContainer {
  readonly ports?: readonly { readonly name?: string; readonly containerPort: number }[];
}

/** The part of a core/v1 Pod that is read. */
export interface Pod extends KubeObject {
  readonly spec: {
    readonly containers: readonly PortedContainer[];
    readonly initContainers?: readonly PortedContainer[];
  };
  readonly status?: {
    readonly podIP?: string;
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
  };
}

/** gateway.networking.k8s.io/v1beta1 */
export interface ReferenceGrant extends KubeObject {
  readonly spec: {
    readonly from: readonly { readonly group: string; readonly kind: string; readonly namespace: string }[];
    readonly to: readonly { readonly group: string; readonly kind: string; readonly name?: string }[];
  };
}

/** gateway.networking.k8s.io/v1: how backends are called by TLS. */
export interface BackendTlsPolicy extends KubeObject {
  readonly spec: {
    readonly targetRefs: readonly { readonly group?: string; readonly kind: string; readonly name: string }[];
    readonly validation: {
      readonly hostname: string;
      readonly caCertificateRefs?: readonly { readonly group?: string; readonly kind: string; readonly name: string }[];
    };
  };
}

/** The part of a core/v1 ConfigMap that is read. */
export interface ConfigMap extends KubeObject {
  readonly data?: Readonly<Record<string, string>>;
}

/** Everything that the translation reads, as the API server gives it. */
export interface GatewayInput {
  readonly gatewayClasses: readonly GatewayClass[];
  readonly gateways: readonly Gateway[];
  readonly httpRoutes: readonly HTTPRoute[];
  readonly services: readonly Service[];
  readonly pods: readonly Pod[];
  readonly namespaces: readonly KubeObject[];
  readonly inferencePools: readonly InferencePool[];
  readonly xInferencePools: readonly XInferencePool[];
  readonly referenceGrants: readonly ReferenceGrant[];
  readonly backendTlsPolicies?: readonly BackendTlsPolicy[];
  readonly configMaps?: readonly ConfigMap[];
}

/** A piece of Envoy configuration in proto3 JSON. */
export type Json = null | boolean | number | string | readonly Json[] | JsonObject;
export interface JsonObject {
  readonly [field: string]: Json;
}
