import type { HTTPRoute } from '../../src/api/foreign/gateway-api.ts';
import type { GlobalValues } from '../../src/api/global-config.ts';
import type { LLMInferenceService, LLMInferenceServiceSpec } from '../../src/api/v1alpha2/llm-inference-service.ts';
import { type KubeObject, keyOf, type Manifest, type ObjectRef, type Resource } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import type { GatewayService } from '../../src/plan/addresses.ts';
import type { Combined, Observed, Surroundings } from '../../src/plan/observed.ts';
import { choosePoolApi, type PoolApi } from '../../src/plan/pool-api.ts';
import type { Platform } from '../../src/render/input.ts';
import { childNames, probeRouteName } from '../../src/render/names.ts';
import { accountOf } from '../../src/render/pod/credentials.ts';
import { modelRoutingAnnotation, modelRoutingHeader } from '../../src/render/routing/rules.ts';
import type { BaseConfigs } from './base-configs.ts';
import { byComponent, byGateway, byOwner, type Caches } from './caches.ts';
import type { GlobalConfig } from './global-config.ts';
import { gatherGroup, observeGroup } from './group.ts';
import { namedBy, type Resolved, resolveReferences } from './references.ts';
import type { Writes } from './writes.ts';

/** The operator's settings as far as services depend on them. */
export interface Settings {
  readonly images: Platform['images'];
  readonly sidecarSessions: number;
  readonly pickerMetricsAuth?: boolean;
  readonly storage: Omit<Platform['storage'], 'accounts'>;
  readonly systemNamespace: string;
  /** What the chart and ConfigMap `inferenceservice-config` set for every service, key by key. */
  readonly globals: GlobalValues;
  /** Name of the operator's release. */
  readonly release: string;
  /** What names of presets begin with. */
  readonly configPrefix: string;
  readonly urlScheme: 'http' | 'https';
  readonly network: NonNullable<Platform['network']>;
  readonly prometheus?: Platform['prometheus'];
  readonly gateway: {
    readonly name: string;
    readonly namespace: string;
    /** Empty: the only accepted class. */
    readonly className: string;
    readonly port: number;
  };
}

/** Everything that one reconcile decides by, read from caches. */
export interface Gathered {
  readonly service: LLMInferenceService;
  readonly effective: LLMInferenceServiceSpec;
  readonly combined: Combined;
  readonly platform: Platform;
  readonly surroundings: Surroundings;
  readonly referenced: Resolved['referenced'];
  readonly group: ReturnType<typeof gatherGroup>;
  readonly poolApi: PoolApi | undefined;
  /** Live objects that the service controls. */
  readonly children: readonly KubeObject[];
}

export interface Sources {
  readonly caches: Caches;
  readonly writes: Writes;
  /** The operator's settings, as the cluster's own configuration changes them. */
  readonly globals: Pick<GlobalConfig, 'settings' | 'notes'>;
  readonly bases: BaseConfigs;
}

/** The service as it is now, or undefined when it is gone. */
export function gatherService({ caches, writes }: Sources, ref: ObjectRef): LLMInferenceService | undefined {
  const cached = caches.services.store.get(ref);
  return cached && writes.newest(resources.llmInferenceServices, ref, cached);
}

/** How long a reconcile waits for what its service names to be looked for. */
const lookMs = 5_000;

/** Watches what the service names, and waits until all of it has been looked for once; a service that is gone names nothing. */
export async function watchReferences(sources: Sources, service: ObjectRef, signal: AbortSignal): Promise<void> {
  const { named } = sources.caches;
  const key = keyOf(service);
  const live = gatherService(sources, service);
  named.use(key, live && !live.metadata.deletionTimestamp ? namedBy(referenceInput(sources, live)) : []);
  await named.settled(key, signal, lookMs);
}

function referenceInput(sources: Sources, service: LLMInferenceService) {
  return {
    service,
    effective: sources.bases.of(service).effective,
    served: gatherServed(sources.caches),
    systemNamespace: sources.globals.settings.systemNamespace,
  };
}

/** Reads what a service's manifests and verdicts depend on. */
export function gather(sources: Sources, service: LLMInferenceService): Gathered {
  const surroundings = gatherSurroundings(sources);
  const { className, live } = surroundings.gateway;
  const { caches, bases } = sources;
  const { settings, notes } = sources.globals;
  const { combined } = bases.of(service);
  const { effective, referenced, refusal } = resolveReferences(caches.named, referenceInput(sources, service));
  const account = caches.accounts.store.get({
    namespace: service.metadata.namespace ?? 'default',
    name: 'default',
  });
  return {
    service,
    effective,
    combined: { ...(refusal ? { refusal } : {}), ...combined, notes },
    surroundings,
    referenced,
    group: gatherGroup(sources, service),
    poolApi: gatherPoolApi(sources, service, surroundings.served),
    platform: {
      images: settings.images,
      sidecarSessions: settings.sidecarSessions,
      ...(settings.pickerMetricsAuth ? { pickerMetricsAuth: true } : {}),
      served: {
        ...surroundings.served,
        backendTlsPolicy: isServed(caches, resources.backendTlsPolicies),
        podMonitor: isServed(caches, resources.podMonitors),
      },
      network: settings.network,
      ...(settings.prometheus ? { prometheus: settings.prometheus } : {}),
      gateway: {
        name: settings.gateway.name,
        namespace: settings.gateway.namespace,
        port: settings.gateway.port,
        ...(className === undefined ? {} : { className }),
        ...(live ? { live } : {}),
      },
      storage: { ...settings.storage, accounts: gatherAccounts(sources, { ...service, spec: effective }) },
      routing: gatherRouting(sources, service, effective),
      imagePullSecrets: (account?.imagePullSecrets ?? []).flatMap(({ name }) => (name ? [name] : [])),
    },
    children: gatherChildren(sources, service),
  };
}

/** The ServiceAccounts that the service's pods name, and the default one. */
export function accountsOf({ spec }: LLMInferenceService): readonly string[] {
  const templates = [spec.template, spec.worker, spec.prefill?.template, spec.prefill?.worker];
  return [...new Set(['default', ...templates.map(accountOf)])];
}

function gatherAccounts({ caches }: Sources, service: LLMInferenceService): Platform['storage']['accounts'] {
  const namespace = service.metadata.namespace ?? 'default';
  return Object.fromEntries(
    accountsOf(service).flatMap((name) => {
      const account = caches.accounts.store.get({ namespace, name });
      if (!account) return [];
      const secrets = (account.secrets ?? []).flatMap((secret) => secret.name ?? []);
      return [[name, { secrets, annotations: account.metadata.annotations ?? {} }]];
    }),
  );
}

function gatherSurroundings({ caches, writes, globals: { settings } }: Sources): Surroundings {
  const { name, namespace, className: configured } = settings.gateway;
  const classes = caches.gatewayClasses.store.list();
  const accepted = classes
    .filter(({ status }) => status?.conditions?.some(({ type, status: is }) => type === 'Accepted' && is === 'True'))
    .map(({ metadata }) => metadata.name)
    .sort();
  const className =
    configured === ''
      ? accepted.length === 1
        ? accepted[0]
        : undefined
      : classes.some(({ metadata }) => metadata.name === configured)
        ? configured
        : undefined;
  const live = writes.newest(resources.gateways, { namespace, name }, caches.gateways.store.get({ namespace, name }));
  return {
    served: gatherServed(caches),
    gateway: { name, namespace, ...(className === undefined ? {} : { className }), ...(live ? { live } : {}) },
    acceptedClasses: accepted,
    configuredClass: configured,
    urlScheme: settings.urlScheme,
    modelHeader: settings.globals.ingress.modelBasedRoutingHeaderName ?? modelRoutingHeader,
    hasPrometheus: settings.prometheus !== undefined,
  };
}

/** Only where both APIs are served is there a choice. */
function gatherPoolApi(
  sources: Sources,
  { metadata }: LLMInferenceService,
  served: Surroundings['served'],
): PoolApi | undefined {
  if (!served.pool || !served.xPool) return undefined;
  const live = (name: string) =>
    gatherLive<KubeObject>(sources, resources.httpRoutes, { namespace: metadata.namespace ?? 'default', name }) as
      | HTTPRoute
      | undefined;
  return choosePoolApi(live(childNames(metadata.name).route), live(probeRouteName(metadata.name)));
}

/** Controllers whose gateways refuse a route that speaks of time-outs. */
const withoutTimeouts = /^networking\.gke\.io\//;
/** Controllers that keep one picker for each name of a rule. */
const withRuleNames = /^istio\.io\//;

function gatherRouting(
  { caches, globals: { settings } }: Sources,
  { metadata }: LLMInferenceService,
  effective: LLMInferenceServiceSpec,
): Platform['routing'] {
  const named = effective.router?.gateway?.refs ?? [];
  const parents = named.length > 0 ? named : (effective.router?.route?.http?.spec?.parentRefs ?? [settings.gateway]);
  const gateways = parents.flatMap(({ name, namespace }) => {
    const gateway = caches.gateways.store.get({ namespace: namespace ?? metadata.namespace ?? 'default', name });
    return gateway ? [gateway] : [];
  });
  const controllers = gateways.map(
    ({ spec }) => caches.gatewayClasses.store.get({ name: spec.gatewayClassName })?.spec.controllerName ?? '',
  );
  const { ingress } = settings.globals;
  return {
    modelHeader: ingress.modelBasedRoutingHeaderName ?? modelRoutingHeader,
    modelMode: ingress.modelBasedRoutingMode ?? 'enabled',
    isModelRefused: gateways.some((gateway) => gateway.metadata.annotations?.[modelRoutingAnnotation] === 'false'),
    omitsTimeouts: ingress.disableHTTPRouteTimeout === true || controllers.some((one) => withoutTimeouts.test(one)),
    needsUniqueNames: controllers.some((one) => withRuleNames.test(one)),
  };
}

function gatherServed(caches: Caches): Surroundings['served'] {
  return {
    gatewayApi: caches.gateways.isSynced && caches.gatewayClasses.isSynced && caches.routes.isSynced,
    pool: caches.pools.isSynced,
    xPool: caches.xPools.isSynced,
    leaderWorkerSet: caches.leaderWorkerSets.isSynced,
    scaledObject: isServed(caches, resources.scaledObjects),
    deviceClaims: isServed(caches, resources.resourceClaimTemplates),
  };
}

/** Whether a kind of children that may be missing is there. */
function isServed({ children }: Caches, resource: Resource): boolean {
  return children.some((kept) => kept.resource === resource && kept.informer.isSynced);
}

function gatherChildren({ caches, writes }: Sources, service: LLMInferenceService): readonly KubeObject[] {
  const uid = service.metadata.uid ?? '';
  return caches.children.flatMap(({ resource, informer }) =>
    informer.store.byIndex(byOwner, uid).flatMap((child) => writes.newest(resource, child.metadata, child) ?? []),
  );
}

/** A live object of a kind that is watched. */
export function gatherLive<T extends KubeObject = KubeObject>(
  { caches, writes }: Sources,
  resource: Resource,
  ref: ObjectRef,
): T | undefined {
  const informer =
    resource === resources.gateways
      ? caches.gateways
      : caches.children.find((kept) => kept.resource === resource)?.informer;
  return writes.newest<KubeObject>(resource, ref, informer?.store.get(ref)) as T | undefined;
}

/** Of several the first by name. */
function gatherGatewayService({ caches }: Sources, namespace: string, gateway: string): GatewayService | undefined {
  const found = caches.gatewayServices.store
    .byIndex(byGateway, `${namespace}/${gateway}`)
    .toSorted((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1))[0];
  if (!found) return undefined;
  const ports = (found.spec?.ports ?? []).map(({ port }) => port);
  return { name: found.metadata.name, namespace: found.metadata.namespace ?? 'default', ports };
}

/** What is there now of what was rendered: read after applying, so that what was just written counts. */
export function gatherObserved(
  sources: Sources,
  gathered: Gathered,
  desired: readonly Manifest[],
  problems: NonNullable<Observed['problems']>,
): Observed {
  const { caches } = sources;
  const { service, referenced } = gathered;
  const ownPool = gathered.effective.router?.scheduler?.pool?.ref !== undefined;
  const namespace = service.metadata.namespace ?? 'default';
  const names = childNames(service.metadata.name);
  const live = <T>(resource: Resource, name: string, inNamespace = namespace) =>
    gatherLive(sources, resource, { namespace: inNamespace, name }) as T | undefined;
  return {
    service,
    effective: gathered.effective,
    combined: gathered.combined,
    surroundings: gathered.surroundings,
    desired,
    problems,
    deployment: (name) => live(resources.deployments, name),
    leaderWorkerSet: (name) => live(resources.leaderWorkerSets, name),
    autoscaler: (kind, name) =>
      live(kind === 'ScaledObject' ? resources.scaledObjects : resources.horizontalPodAutoscalers, name),
    pods: (component) => caches.pods.store.byIndex(byComponent, `${namespace}/${service.metadata.name}/${component}`),
    gatewayOf: (inNamespace, name) => live(resources.gateways, name, inNamespace),
    gatewayServiceOf: (inNamespace, name) => gatherGatewayService(sources, inNamespace, name),
    route: live(resources.httpRoutes, names.route),
    routeOf: (name) => live(resources.httpRoutes, name),
    referenced,
    ...(gathered.group ? { group: observeGroup(gathered, gathered.group) } : {}),
    pool: ownPool ? referenced.pool : live(resources.inferencePools, names.pool),
    xPool: ownPool ? referenced.xPool : live(resources.xInferencePools, names.pool),
  };
}
