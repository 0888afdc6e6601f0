import type { Gateway, HTTPRoute } from '../api/foreign/gateway-api.ts';
import type { InferencePool, XInferencePool } from '../api/foreign/inference-pool.ts';
import type {
  LLMInferenceService,
  LLMInferenceServiceSpec,
  LLMInferenceServiceStatus,
} from '../api/v1alpha2/llm-inference-service.ts';
import type { KubeObject, Manifest } from '../kube/object.ts';
import type { GatewayService } from './addresses.ts';
import type { PodState } from './causes.ts';
import type { Verdict } from './check.ts';

/** A Deployment or LeaderWorkerSet as far as its readiness goes. */
export interface DeploymentState extends KubeObject {
  readonly spec?: { readonly replicas?: number };
  readonly status?: {
    readonly observedGeneration?: number;
    readonly replicas?: number;
    readonly updatedReplicas?: number;
    readonly readyReplicas?: number;
    readonly availableReplicas?: number;
    readonly conditions?: readonly {
      readonly type: string;
      readonly status: string;
      readonly reason?: string;
      readonly message?: string;
    }[];
  };
}

/** A HorizontalPodAutoscaler or ScaledObject as far as it works. */
export interface AutoscalerState extends KubeObject {
  readonly status?: {
    readonly conditions?: readonly {
      readonly type: string;
      readonly status: string;
      readonly reason?: string;
      readonly message?: string;
    }[];
  };
}

/** What the cluster offers, as far as decisions depend on it. */
export interface Surroundings {
  readonly served: {
    readonly gatewayApi: boolean;
    readonly pool: boolean;
    readonly xPool: boolean;
    readonly leaderWorkerSet: boolean;
    readonly scaledObject: boolean;
    readonly deviceClaims: boolean;
  };
  readonly gateway: {
    readonly name: string;
    readonly namespace: string;
    /** The class a Gateway would be made of; undefined when there is no single choice. */
    readonly className?: string;
    readonly live?: Gateway;
  };
  /** Classes that their controller has accepted, by name. */
  readonly acceptedClasses: readonly string[];
  /** The class that the operator's settings name; empty for none. */
  readonly configuredClass: string;
  /** Scheme of the URL to show where a Gateway listens for both. */
  readonly urlScheme: 'http' | 'https';
  /** Header by whose value requests are routed to a model. */
  readonly modelHeader: string;
  /** Whether the operator knows a Prometheus for the variant autoscaler's metric. */
  readonly hasPrometheus: boolean;
}

/** Objects of the user's own that the spec names, as they are; absent ones do not exist. */
export interface Referenced {
  readonly routes: readonly { readonly name: string; readonly live: HTTPRoute | undefined }[];
  readonly pool?: InferencePool;
  readonly xPool?: XInferencePool;
}

/** The group whose traffic the service shares. */
export interface ObservedGroup {
  readonly name: string;
  readonly members: NonNullable<NonNullable<NonNullable<LLMInferenceServiceStatus['router']>['group']>['members']>;
  /** Members that get none of this service's traffic, and why. */
  readonly apart: readonly { readonly name: string; readonly why: string }[];
}

/** How the effective spec came about: which base configurations the service is laid over. */
export interface Combined {
  /** Why there is no effective spec; what is there of children stays. */
  readonly refusal?: Pick<Verdict, 'reason' | 'message'>;
  /** Lowest first. */
  readonly applied: NonNullable<NonNullable<LLMInferenceService['status']>['appliedConfigs']>;
  /** `namespace/name` of the configuration that a field such as `spec.prefill.replicas` comes from; undefined: the service. */
  readonly sourceOf: (path: string) => string | undefined;
  /** What the user should know all the same. */
  readonly notes: readonly string[];
  /** What of base configurations is the user's: their specs, lowest first. */
  readonly inputs?: readonly unknown[];
  /** Releases of the presets that ship with the operator. */
  readonly presetReleases?: readonly string[];
  /** What the status says of pins: release of the pods, names of presets. */
  readonly pins?: Readonly<Record<string, string>>;
}

/** What the checks judge. */
export interface CheckInput {
  readonly service: LLMInferenceService;
  readonly effective: LLMInferenceServiceSpec;
  readonly combined?: Combined;
  readonly surroundings: Surroundings;
}

/** Everything that a status is worked out from. Lookups answer from caches; undefined is "not there". */
export interface Observed extends CheckInput {
  /** What was rendered; empty while stopped. */
  readonly desired: readonly Manifest[];
  /** What went wrong while applying it. */
  readonly problems?: readonly Verdict[];
  readonly deployment: (name: string) => DeploymentState | undefined;
  readonly leaderWorkerSet: (name: string) => DeploymentState | undefined;
  readonly autoscaler: (kind: AutoscalerState['kind'], name: string) => AutoscalerState | undefined;
  /** Pods of the service with this value of `app.kubernetes.io/component`. */
  readonly pods: (component: string) => readonly PodState[];
  readonly gatewayOf: (namespace: string, name: string) => Gateway | undefined;
  /** The Service by which the cluster calls a Gateway. */
  readonly gatewayServiceOf?: (namespace: string, name: string) => GatewayService | undefined;
  readonly route: HTTPRoute | undefined;
  /** Further HTTPRoutes, which a service with many adapters has. */
  readonly routeOf?: (name: string) => HTTPRoute | undefined;
  readonly referenced?: Referenced;
  readonly group?: ObservedGroup;
  /** The pool of the service, its own or the one that it names. */
  readonly pool: InferencePool | undefined;
  readonly xPool: XInferencePool | undefined;
}
