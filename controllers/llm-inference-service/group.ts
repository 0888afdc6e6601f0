import type { HTTPRoute } from '../../src/api/foreign/gateway-api.ts';
import { annotations } from '../../src/api/labels.ts';
import { modelNameOf } from '../../src/api/v1alpha2/defaults.ts';
import type { LLMInferenceService, LLMInferenceServiceSpec } from '../../src/api/v1alpha2/llm-inference-service.ts';
import { isControlledBy } from '../../src/kube/apply.ts';
import { type KubeObject, keyOf } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import type { DeploymentState, ObservedGroup } from '../../src/plan/observed.ts';
import { isParentCurrent } from '../../src/plan/router-status.ts';
import { childNames } from '../../src/render/names.ts';
import { type GroupMember, maxSharing, sharingOf } from '../../src/render/routing/group.ts';
import { hasWishChanged, type Trigger } from '../../src/runtime/triggers.ts';
import { byOwner } from './caches.ts';
import type { Gathered, Sources } from './gather.ts';

/** Services that share traffic: who they are, who wakes whom, and how one leaves without a request lost. */

function groupOf({ bases }: Sources, service: LLMInferenceService): string | undefined {
  return bases.of(service).effective.router?.route?.group;
}

/** Whether the service is about to lose its backends: stopped or being deleted. */
function isLeaving({ metadata }: LLMInferenceService): boolean {
  return metadata.deletionTimestamp !== undefined || metadata.annotations?.[annotations.stop] === 'true';
}

function membersOf(sources: Sources, namespace: string, groups: ReadonlySet<string>): readonly LLMInferenceService[] {
  return sources.caches.services.store.list(namespace).flatMap((cached) => {
    const service = sources.writes.newest(resources.llmInferenceServices, cached.metadata, cached);
    const group = service && groupOf(sources, service);
    return service && group !== undefined && groups.has(group) ? [service] : [];
  });
}

/** Every member of the service's group, itself among them; undefined without a group. */
export function gatherGroup(sources: Sources, service: LLMInferenceService): readonly GroupMember[] | undefined {
  const group = groupOf(sources, service);
  if (group === undefined) return undefined;
  const own = service.metadata.name;
  const others = membersOf(sources, service.metadata.namespace ?? 'default', new Set([group])).filter(
    ({ metadata }) => metadata.name !== own,
  );
  return [service, ...others].map((member) => toMember(sources, member));
}

function toMember(sources: Sources, service: LLMInferenceService): GroupMember {
  const { effective } = sources.bases.of(service);
  const { name } = service.metadata;
  const names = childNames(name);
  const { router } = effective;
  const pool = router?.scheduler && (router.scheduler.pool?.ref?.name ?? names.pool);
  return {
    name,
    weight: router?.route?.weight ?? 1,
    modelName: modelNameOf({ ...service, spec: effective }),
    adapters: (effective.model.lora?.adapters ?? []).flatMap((adapter) => (adapter.name ? [adapter.name] : [])),
    pool: pool === undefined ? undefined : { name: pool },
    workloadService: names.workloadService,
    isLeaving: isLeaving(service),
    isServing: isServing(sources, service, effective),
  };
}

/** The group as it is told to the user. */
export function observeGroup(
  { service, effective, platform: { served } }: Pick<Gathered, 'service' | 'effective' | 'platform'>,
  members: readonly GroupMember[],
): ObservedGroup {
  const namespace = service.metadata.namespace ?? 'default';
  const modelName = modelNameOf({ ...service, spec: effective });
  const { divergent, beyond, waiting } = sharingOf(members, modelName);
  const poolGroup = served.pool ? 'inference.networking.k8s.io' : 'inference.networking.x-k8s.io';
  const byName = [...members].sort((a, b) => (a.name < b.name ? -1 : 1));
  return {
    name: effective.router?.route?.group ?? '',
    members: byName.map(({ name, weight, isLeaving: stopped, pool, workloadService }) => ({
      name,
      weight,
      stopped,
      backendRef:
        pool && (served.pool || served.xPool)
          ? { group: pool.group ?? poolGroup, kind: 'InferencePool', name: pool.name, namespace }
          : { group: '', kind: 'Service', name: workloadService, namespace },
    })),
    apart: [
      ...divergent.map(({ name, modelName: other }) => ({
        name,
        why: `serves model ${other}, this service ${modelName}: only services of one model share traffic`,
      })),
      ...beyond.map(({ name }) => ({ name, why: `finds no place: a rule leads to ${maxSharing} services at most` })),
      ...waiting.map(({ name }) => ({ name, why: 'gets traffic once a pod of it answers' })),
    ],
  };
}

function isServing(
  { caches }: Sources,
  { metadata }: LLMInferenceService,
  { scaling }: LLMInferenceServiceSpec,
): boolean {
  const namespace = metadata.namespace ?? 'default';
  const names = childNames(metadata.name);
  const live =
    caches.deployments.store.get({ namespace, name: names.main }) ??
    caches.leaderWorkerSets.store.get({ namespace, name: names.mainMultiNode });
  return live !== undefined && answers(live, scaling !== undefined);
}

/** With an autoscaler, none wanted means that requests bring the pods back. */
function answers({ spec, status }: DeploymentState, isScaled: boolean): boolean {
  return (status?.readyReplicas ?? 0) > 0 || (isScaled && spec?.replicas === 0);
}

/** A change of one member, or of whether its pods answer, wakes the others. */
export function createGroupTriggers(sources: Sources): readonly Trigger[] {
  const { caches } = sources;
  const wakePeers = (enqueue: (key: string) => void, service: LLMInferenceService, before?: LLMInferenceService) => {
    const groups = new Set(
      [groupOf(sources, service), before?.spec.router?.route?.group].filter((group) => group !== undefined),
    );
    if (groups.size === 0) return;
    for (const { metadata } of membersOf(sources, service.metadata.namespace ?? 'default', groups))
      if (metadata.name !== service.metadata.name) enqueue(keyOf(metadata));
  };
  const byReadiness =
    (informer: typeof caches.deployments): Trigger =>
    (enqueue) =>
      informer.subscribe((change) => {
        const before = change.type === 'updated' ? change.before : undefined;
        const differs = (isScaled: boolean) =>
          before === undefined || answers(before, isScaled) !== answers(change.object, isScaled);
        if (!differs(false) && !differs(true)) return;
        const { namespace, labels, ownerReferences } = change.object.metadata;
        const name = ownerReferences?.find(({ controller }) => controller)?.name ?? labels?.['app.kubernetes.io/name'];
        const service = name && caches.services.store.get({ namespace: namespace ?? 'default', name });
        if (service) wakePeers(enqueue, service);
      });
  return [
    (enqueue) =>
      caches.services.subscribe((change) => {
        if (change.type !== 'updated') wakePeers(enqueue, change.object);
        else if (hasWishChanged(change.before as unknown as KubeObject, change.object as unknown as KubeObject))
          wakePeers(enqueue, change.object, change.before);
      }),
    byReadiness(caches.deployments),
    byReadiness(caches.leaderWorkerSets),
  ];
}

/**
 * The routes of other members that still lead to this service, or whose gateways have not looked at them since: while
 * there are any, its backends must stay.
 */
export function gatherHolders(sources: Sources, service: LLMInferenceService): readonly string[] {
  const group = groupOf(sources, service);
  if (group === undefined) return [];
  const namespace = service.metadata.namespace ?? 'default';
  const names = childNames(service.metadata.name);
  const pool = sources.bases.of(service).effective.router?.scheduler?.pool?.ref?.name ?? names.pool;
  const peers = membersOf(sources, namespace, new Set([group])).filter(
    (member) => member.metadata.name !== service.metadata.name && !isLeaving(member),
  );
  if (peers.length === 0) return [];
  const routesOf = ({ metadata }: LLMInferenceService) => liveRoutesOf(sources, metadata.uid ?? '');
  const isOwnBackend = ({ kind, name }: { readonly kind?: string | undefined; readonly name: string }) =>
    kind === 'InferencePool' ? name === pool : name === names.workloadService;
  const held = peers.flatMap(routesOf).filter((route) => {
    const leadsHere = route.spec.rules?.some((rule) => rule.backendRefs?.some(isOwnBackend));
    return leadsHere || !isObserved(route);
  });
  // Of its own routes those rules matter that have been handed to the others.
  const pending = routesOf(service).filter((route) => !isObserved(route));
  return [...held, ...pending].map(({ metadata }) => metadata.name);
}

function liveRoutesOf({ caches, writes }: Sources, uid: string): readonly HTTPRoute[] {
  return caches.routes.store
    .byIndex(byOwner, uid)
    .flatMap((route) => writes.newest(resources.httpRoutes, route.metadata, route as unknown as KubeObject) ?? [])
    .filter((route) => isControlledBy(route, uid)) as unknown as readonly HTTPRoute[];
}

/** Whether every gateway that has ever said something of the route has looked at it as it is now. */
function isObserved(route: HTTPRoute): boolean {
  return (route.status?.parents ?? []).every((parent) => isParentCurrent(parent, route.metadata.generation ?? 0));
}
