import type { Gateway, GatewayClass, HTTPRoute } from '../../src/api/foreign/gateway-api.ts';
import type { InferencePool, XInferencePool } from '../../src/api/foreign/inference-pool.ts';
import { labels, partOf } from '../../src/api/labels.ts';
import type { LLMInferenceService } from '../../src/api/v1alpha2/llm-inference-service.ts';
import type { LLMInferenceServiceConfig } from '../../src/api/v1alpha2/llm-inference-service-config.ts';
import type { Clock } from '../../src/clock.ts';
import { controllerOf } from '../../src/kube/apply.ts';
import type { Client } from '../../src/kube/client.ts';
import { startDefinitions } from '../../src/kube/definitions.ts';
import { shareFields } from '../../src/kube/fields.ts';
import { type Indexes, type Informer, type InformerOptions, startInformer } from '../../src/kube/informer.ts';
import { apiVersionOf, type KubeObject, type Resource } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { hasCode } from '../../src/kube/status-error.ts';
import type { PodState } from '../../src/plan/causes.ts';
import type { DeploymentState } from '../../src/plan/observed.ts';
import type { Logger } from '../../src/telemetry/log.ts';
import { NamedObjects } from './named-objects.ts';

import { type Lease, rivalDeployment, rivalLease, type Scaled } from './take-over.ts';

/** A service account as far as we read it. */
export interface ServiceAccount extends KubeObject {
  readonly imagePullSecrets?: readonly { readonly name?: string }[];
  readonly secrets?: readonly { readonly name?: string }[];
}

/** A Service as far as we read it. */
export interface PortedService extends KubeObject {
  readonly spec?: { readonly ports?: readonly { readonly port: number }[] };
}

export interface ConfigMap extends KubeObject {
  readonly data?: Readonly<Record<string, string>>;
}

/** Every watch of the controller. No reconcile reads from the API server. */
export interface Caches {
  readonly services: Informer<LLMInferenceService>;
  readonly configs: Informer<LLMInferenceServiceConfig>;
  /** ConfigMap `inferenceservice-config` of the system namespace. */
  readonly globalConfig: Informer<ConfigMap>;
  readonly deployments: Informer<DeploymentState>;
  readonly leaderWorkerSets: Informer<DeploymentState>;
  readonly pods: Informer<PodState>;
  readonly gateways: Informer<Gateway>;
  readonly gatewayClasses: Informer<GatewayClass>;
  /** Services in front of Gateways, whoever made them. */
  readonly gatewayServices: Informer<PortedService>;
  readonly routes: Informer<HTTPRoute>;
  readonly pools: Informer<InferencePool>;
  readonly xPools: Informer<XInferencePool>;
  /** Deployment and lease of KServe's own controller. */
  readonly rivalDeployments: Informer<Scaled>;
  readonly rivalLeases: Informer<Lease>;
  /** Every ServiceAccount, whoever made it: pods may name any. */
  readonly accounts: Informer<ServiceAccount>;
  /** Objects of the users' own, each watched while a service names it. */
  readonly named: NamedObjects;
  /** Kinds of children, each with its informer of the objects that carry our label. */
  readonly children: readonly Kept[];
  /** Synced before the first reconcile. */
  readonly required: readonly Informer<KubeObject>[];
  /** Calls back whenever the definition of a kind of others has come or gone. */
  readonly onServed: (handler: () => void) => () => void;
  /** Not waited for: their definitions are missing, and what tells of definitions that come. */
  readonly missing: readonly Informer<KubeObject>[];
}

export interface Kept {
  readonly resource: Resource;
  readonly informer: Informer<KubeObject>;
}

/** The ConfigMap of settings for every service, as KServe names it. */
export const globalConfigName = 'inferenceservice-config';

/** Index of children by the uid of the service that controls them. */
export const byOwner = 'owner';
/** Label by which controllers of Gateways tell whose a Service is. */
export const gatewayLabel = 'gateway.networking.k8s.io/gateway-name';
/** Index of Services of Gateways by `namespace/gateway`. */
export const byGateway = 'gateway';
/** Index of pods by `namespace/service/component`. */
export const byComponent = 'component';

const ours = { labelSelector: `${labels.partOf}=${partOf}` } as const;
const owned = {
  ...ours,
  transform: shareFields,
  indexes: { [byOwner]: (object: KubeObject) => [controllerOf(object)?.uid ?? ''] },
} as const;

/** Kinds that come from CRDs of others and may be missing, now or for ever. */
const optional = [
  resources.podMonitors,
  resources.backendTlsPolicies,
  resources.scaledObjects,
  resources.resourceClaimTemplates,
  resources.leaderWorkerSets,
  resources.gateways,
  resources.gatewayClasses,
  resources.httpRoutes,
  resources.inferencePools,
  resources.xInferencePools,
] as const;

const isOptional = (resource: Resource) => optional.some((one) => one === resource);

/**
 * Starts every watch. Kinds whose definition is missing are not waited for; that they are is asked once, so that a
 * restart does not take the picker away before its pool has been listed.
 */
export async function startCaches(
  client: Client,
  deps: {
    readonly log: Logger;
    readonly clock?: Clock;
    readonly systemNamespace: string;
    readonly serviceIndexes?: Indexes<LLMInferenceService>;
  },
  signal?: AbortSignal,
): Promise<Caches> {
  const served = await gatherServed(client, signal);
  const handlers = new Set<() => void>();
  const onServed = () => {
    for (const handler of handlers) handler();
  };
  const definitions = startDefinitions(client, deps);
  const start = <T extends KubeObject>(resource: Resource, options: InformerOptions<T>): Informer<T> =>
    startInformer<T>(client, resource, isOptional(resource) ? { ...options, onServed, definitions } : options, deps);

  const services = start<LLMInferenceService>(resources.llmInferenceServices, {
    transform: withoutManagers,
    ...(deps.serviceIndexes ? { indexes: deps.serviceIndexes } : {}),
  });
  const configs = start<LLMInferenceServiceConfig>(resources.llmInferenceServiceConfigs, {
    transform: withoutManagers,
  });
  const globalConfig = start<ConfigMap>(resources.configMaps, {
    namespace: deps.systemNamespace,
    fieldSelector: `metadata.name=${globalConfigName}`,
  });
  const rivalDeployments = start<Scaled>(resources.deployments, {
    fieldSelector: `metadata.name=${rivalDeployment}`,
    transform: withoutManagers,
  });
  const rivalLeases = start<Lease>(resources.leases, {
    fieldSelector: `metadata.name=${rivalLease}`,
    transform: withoutManagers,
  });
  const deployments = start<DeploymentState>(resources.deployments, owned);
  const leaderWorkerSets = start<DeploymentState>(resources.leaderWorkerSets, owned);
  const pods = start<PodState>(resources.pods, {
    ...ours,
    transform: withoutBallast,
    indexes: { [byComponent]: (pod) => [componentKey(pod)] },
  });
  const gateways = start<Gateway>(resources.gateways, {});
  const gatewayClasses = start<GatewayClass>(resources.gatewayClasses, {});
  const gatewayServices = start<PortedService>(resources.services, {
    labelSelector: gatewayLabel,
    transform: withoutManagers,
    indexes: { [byGateway]: ({ metadata }) => [`${metadata.namespace}/${metadata.labels?.[gatewayLabel]}`] },
  });
  const routes = start<HTTPRoute>(resources.httpRoutes, owned);
  const pools = start<InferencePool>(resources.inferencePools, owned);
  const xPools = start<XInferencePool>(resources.xInferencePools, owned);
  const accounts = start<ServiceAccount>(resources.serviceAccounts, { transform: withoutManagers });
  const kept = (resource: Resource): Kept => ({ resource, informer: start<KubeObject>(resource, owned) });
  const children: readonly Kept[] = [
    { resource: resources.deployments, informer: deployments as unknown as Informer<KubeObject> },
    {
      resource: resources.leaderWorkerSets,
      informer: leaderWorkerSets as unknown as Informer<KubeObject>,
    },
    { resource: resources.httpRoutes, informer: routes as unknown as Informer<KubeObject> },
    { resource: resources.inferencePools, informer: pools as unknown as Informer<KubeObject> },
    { resource: resources.xInferencePools, informer: xPools as unknown as Informer<KubeObject> },
    kept(resources.scaledObjects),
    kept(resources.backendTlsPolicies),
    kept(resources.podMonitors),
    kept(resources.networkPolicies),
    kept(resources.configMaps),
    kept(resources.resourceClaimTemplates),
    kept(resources.horizontalPodAutoscalers),
    kept(resources.podDisruptionBudgets),
    kept(resources.services),
    kept(resources.serviceAccounts),
    kept(resources.roles),
    kept(resources.roleBindings),
  ];
  const byResource = new Map<Resource, Informer<KubeObject>>([
    ...children.map(({ resource, informer }) => [resource, informer] as const),
    [resources.gateways, gateways as unknown as Informer<KubeObject>],
    [resources.gatewayClasses, gatewayClasses as unknown as Informer<KubeObject>],
  ]);
  const missing = new Set(
    optional.filter((resource) => !served.has(resource)).map((resource) => byResource.get(resource)),
  );
  const all = [
    ...byResource.values(),
    services as unknown as Informer<KubeObject>,
    configs as unknown as Informer<KubeObject>,
    globalConfig as unknown as Informer<KubeObject>,
    pods as unknown as Informer<KubeObject>,
    accounts as unknown as Informer<KubeObject>,
    gatewayServices as unknown as Informer<KubeObject>,
    rivalDeployments as unknown as Informer<KubeObject>,
    rivalLeases as unknown as Informer<KubeObject>,
  ];
  return {
    services,
    configs,
    globalConfig,
    deployments,
    leaderWorkerSets,
    pods,
    gateways,
    gatewayClasses,
    gatewayServices,
    routes,
    pools,
    xPools,
    rivalDeployments,
    rivalLeases,
    accounts,
    named: new NamedObjects(({ resource, ref: { name, namespace } }) =>
      start<KubeObject>(resource, {
        ...(namespace === undefined ? {} : { namespace }),
        fieldSelector: `metadata.name=${name}`,
      }),
    ),
    children,
    onServed: (handler) => {
      handlers.add(handler);
      return () => handlers.delete(handler);
    },
    required: all.filter((informer) => !missing.has(informer)),
    missing: [definitions.informer, ...all.filter((informer) => missing.has(informer))],
  };
}

/** The optional kinds that the API server serves now. */
async function gatherServed(client: Client, signal: AbortSignal | undefined): Promise<ReadonlySet<Resource>> {
  const versions = [...new Set(optional.map(apiVersionOf))];
  const lists = await Promise.all(
    versions.map(async (version) => {
      try {
        const list = await client.request<{ readonly resources?: readonly { readonly name: string }[] }>(
          'GET',
          `/apis/${version}`,
          undefined,
          {},
          signal,
        );
        return (list.resources ?? []).map(({ name }) => `${version}/${name}`);
      } catch (thrown) {
        if (hasCode(thrown, 'notFound')) return [];
        throw thrown;
      }
    }),
  );
  const names = new Set(lists.flat());
  return new Set(optional.filter((resource) => names.has(`${apiVersionOf(resource)}/${resource.plural}`)));
}

/** Of pods only what readiness is explained by is kept: there may be thousands. */
function withoutBallast(pod: PodState): PodState {
  const { managedFields: _m, annotations: _a, ...metadata } = pod.metadata;
  const slim = (containers: NonNullable<PodState['spec']>['containers']) =>
    (containers ?? []).map(({ name, restartPolicy, startupProbe, readinessProbe }) => ({
      name,
      ...(restartPolicy ? { restartPolicy } : {}),
      ...(startupProbe ? { startupProbe } : {}),
      ...(readinessProbe ? { readinessProbe } : {}),
    }));
  return {
    apiVersion: pod.apiVersion,
    kind: pod.kind,
    metadata,
    spec: { containers: slim(pod.spec?.containers), initContainers: slim(pod.spec?.initContainers) },
    ...(pod.status ? { status: pod.status } : {}),
  };
}

function withoutManagers<T extends KubeObject>(object: T): T {
  const { managedFields: _m, ...metadata } = object.metadata;
  return { ...object, metadata };
}

function componentKey(pod: KubeObject): string {
  const own = pod.metadata.labels ?? {};
  return `${pod.metadata.namespace}/${own[labels.name]}/${own[labels.component]}`;
}
