import type { Gateway, HTTPRouteSpec } from '../api/foreign/gateway-api.ts';
import { modelNameOf } from '../api/v1alpha2/defaults.ts';
import type { LLMInferenceService, LLMInferenceServiceSpec } from '../api/v1alpha2/llm-inference-service.ts';
import { type ChildNames, childNames } from './names.ts';
import type { GroupMember } from './routing/group.ts';

/** Facts about the cluster and the operator's settings: everything that a manifest depends on beside the service. */
export interface Platform {
  readonly images: {
    readonly vllm: string;
    readonly epp: string;
    readonly sidecar: string;
    /** Picker and sidecar are upstream's: flags, environment and configuration are those that these know. */
    readonly flavour?: 'upstream';
  };
  /** Metrics of pickers are told to callers only that the API server lets read them. */
  readonly pickerMetricsAuth?: boolean;
  /** Conversations that a routing sidecar remembers. */
  readonly sidecarSessions: number;
  /** Which of the kinds that come from CRDs of others the API server serves. */
  readonly served: ServedKinds;
  readonly gateway: GatewayFacts;
  readonly routing: RoutingFacts;
  /** Names of the pull secrets of the namespace's default service account: our service accounts replace it. */
  readonly imagePullSecrets: readonly string[];
  /** Where the variant autoscaler's metric is read by KEDA. */
  readonly prometheus?: PrometheusFacts;
  readonly storage: StorageFacts;
  /** The service's certificate; undefined: its parts speak clear text. */
  readonly tls?: TlsFacts;
  /** Who may call pods; undefined: everybody. */
  readonly network?: NetworkFacts;
}

/** Which NetworkPolicies services get. */
export interface NetworkFacts {
  readonly mode: 'off' | 'internal' | 'strict';
  /** Namespaces and address ranges beside those of the service's Gateways that may send requests. */
  readonly callers: readonly string[];
  /** Namespaces and address ranges that may read metrics. */
  readonly scrapers: readonly string[];
}

/** The public half of a service's certificate, as PEM. */
export interface TlsFacts {
  readonly certificate: string;
  /** Every authority to trust, also those that are being replaced. */
  readonly authorities: string;
}

/** How weights come into pods where the service leaves it open. */
export interface StorageFacts {
  /** Image of the init container that copies weights. */
  readonly initializerImage: string;
  /** Who fetches models of the Hugging Face hub. */
  readonly huggingFace: 'engine' | 'initializer';
  /** How `oci://` images are read: by a container that links them, or as image volumes. */
  readonly ociMode: 'modelcar' | 'native';
  /** ConfigMap with certificate authorities for downloads, in the service's namespace. */
  readonly caBundle?: string;
  /** Directory of them in the init container. */
  readonly caBundlePath?: string;
  /** Requests and limits of that container. */
  readonly initializerResources?: ContainerResources;
  /** The container that links an image's weights. */
  readonly modelcar?: { readonly uid?: number; readonly resources?: ContainerResources };
  /** Names and values of credentials for every service. */
  readonly credentials?: CredentialFacts;
  /** ServiceAccounts of the namespace that the service's pods use, by name. */
  readonly accounts: Readonly<Record<string, AccountFacts>>;
}

/** Quantities as Kubernetes writes them; what is left out is the renderer's. */
export interface ContainerResources {
  readonly requests?: { readonly cpu?: string; readonly memory?: string };
  readonly limits?: { readonly cpu?: string; readonly memory?: string };
}

/** How credentials for downloads are called, and what holds where neither service nor ServiceAccount says otherwise. */
export interface CredentialFacts {
  /** Annotation of a service that names its Secret, beside those that are always known. */
  readonly secretAnnotation?: string;
  /** Key of a Secret with an account of Google's. */
  readonly gcsKey?: string;
  /** Environment variable → the key of a Secret that it is read from, where that is another. */
  readonly s3Keys?: Readonly<Record<string, string>>;
  /** Name of an annotation without `serving.kserve.io/` → its value where there is none. */
  readonly s3Defaults?: Readonly<Record<string, string>>;
}

/** What of a ServiceAccount downloads depend on. */
export interface AccountFacts {
  readonly secrets: readonly string[];
  readonly annotations: Readonly<Record<string, string>>;
}

/** A Prometheus as KEDA asks it. */
export interface PrometheusFacts {
  readonly url: string;
  /** Certificates are not checked. */
  readonly isInsecure: boolean;
  /** KEDA's `authModes`, such as `bearer`. */
  readonly authModes?: string;
  readonly triggerAuthentication?: { readonly name: string; readonly kind: string };
}

/** What routes of a service depend on: settings, and the Gateways that it hangs on. */
export interface RoutingFacts {
  /** Header that names the model. */
  readonly modelHeader: string;
  /** `forced`: whatever Gateways say. */
  readonly modelMode: 'enabled' | 'forced' | 'disabled';
  /** A Gateway of the service wants no routes by that header. */
  readonly isModelRefused: boolean;
  /** A Gateway refuses routes with time-outs, or the operator is told to leave them out. */
  readonly omitsTimeouts: boolean;
  /** A Gateway mixes up rules of the same name in different routes. */
  readonly needsUniqueNames: boolean;
}

export interface ServedKinds {
  readonly gatewayApi: boolean;
  /** inference.networking.k8s.io/v1 */
  readonly pool: boolean;
  /** inference.networking.x-k8s.io/v1alpha2 */
  readonly xPool: boolean;
  /** leaderworkerset.x-k8s.io/v1 */
  readonly leaderWorkerSet: boolean;
  /** monitoring.coreos.com/v1 PodMonitor */
  readonly podMonitor: boolean;
  /** gateway.networking.k8s.io/v1 BackendTLSPolicy */
  readonly backendTlsPolicy: boolean;
  /** keda.sh/v1alpha1 */
  readonly scaledObject: boolean;
  /** resource.k8s.io/v1 */
  readonly deviceClaims: boolean;
}

/** The Gateway of services that name none. */
export interface GatewayFacts {
  readonly name: string;
  readonly namespace: string;
  readonly port: number;
  /** The class that a Gateway would be made of; undefined when there is no single choice. */
  readonly className?: string;
  /** The live object, when there is one. */
  readonly live?: Gateway;
}

export type PoolGroup = 'inference.networking.k8s.io' | 'inference.networking.x-k8s.io';

export interface RenderInput {
  readonly service: LLMInferenceService;
  /** The spec after presets: what is rendered. */
  readonly effective: LLMInferenceServiceSpec;
  readonly platform: Platform;
  /** Group in which the pool of `router.scheduler.pool.ref` was found. */
  readonly ownPoolGroup?: PoolGroup | undefined;
  /** Group of the service's own pool in routes, where gateways may not know the newest that is served. */
  readonly poolGroup?: PoolGroup | undefined;
  /** Whether a route of no consequence asks the gateways if they know the newest by now. */
  readonly probesPool?: boolean;
  /** Every member of the service's group, itself among them. */
  readonly group?: readonly GroupMember[] | undefined;
}

/** What the parts of the renderer ask again and again, worked out once. */
export interface Context extends RenderInput {
  readonly name: string;
  readonly namespace: string;
  readonly names: ChildNames;
  /** Name of the model in requests. */
  readonly modelName: string;
  readonly hasPrefill: boolean;
  /** The pool's group, or undefined when no pool is wanted or none can be had. */
  readonly pool: PoolGroup | undefined;
  readonly poolName: string;
  /** Whether a picker and its pool are to be made: not for a pool of the user's, which has its own. */
  readonly hasPicker: boolean;
  readonly routeSpec: HTTPRouteSpec | undefined;
}

export function createContext(input: RenderInput): Context {
  const { service, effective, platform } = input;
  const scheduler = effective.router?.scheduler;
  const names = childNames(service.metadata.name);
  const { served } = platform;
  const best = served.pool ? 'inference.networking.k8s.io' : served.xPool ? 'inference.networking.x-k8s.io' : undefined;
  const pool = scheduler && ((scheduler.pool?.ref ? input.ownPoolGroup : input.poolGroup) ?? best);
  return {
    ...input,
    name: service.metadata.name,
    namespace: service.metadata.namespace ?? 'default',
    names,
    modelName: modelNameOf({ ...service, spec: effective }),
    hasPrefill: effective.prefill !== undefined,
    pool,
    poolName: scheduler?.pool?.ref?.name ?? names.pool,
    hasPicker: pool !== undefined && scheduler?.pool?.ref === undefined,
    routeSpec: effective.router?.route?.http?.spec,
  };
}
