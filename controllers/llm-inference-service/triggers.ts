import type { Gateway, HTTPRoute } from '../../src/api/foreign/gateway-api.ts';
import { labels } from '../../src/api/labels.ts';
import type { LLMInferenceService } from '../../src/api/v1alpha2/llm-inference-service.ts';
import { hasDefaultGateway, routeRefsOf } from '../../src/api/v1alpha2/router-wishes.ts';
import type { Change, Informer } from '../../src/kube/informer.ts';
import { type KubeObject, keyOf, type ObjectRef, type Resource } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { causeOf } from '../../src/plan/causes.ts';
import { keysOfChange, ownersOf, type Trigger, triggerLabel, triggerMapped } from '../../src/runtime/triggers.ts';
import { gatewayLabel, type ServiceAccount } from './caches.ts';
import { accountsOf, type Sources } from './gather.ts';
import { createGroupTriggers } from './group.ts';
import { digestOfLease } from './take-over.ts';

const owner = { group: resources.llmInferenceServices.group, kind: resources.llmInferenceServices.kind };

/** Everything that wakes a service, and nothing that could not change its children or its status. */
export function createTriggers(sources: Sources): readonly Trigger[] {
  const { caches } = sources;
  const all = () => caches.services.store.list();
  const usersOf = (match: (service: LLMInferenceService) => boolean) =>
    all()
      .filter(match)
      .map(({ metadata }) => metadata);
  return [
    triggerUnlessEcho(
      sources,
      resources.llmInferenceServices,
      caches.services as unknown as Informer<KubeObject>,
      (service) => [service.metadata],
    ),
    ...caches.children.map(({ resource, informer }) => triggerUnlessEcho(sources, resource, informer, refsOfOwner)),
    triggerLabel(caches.pods, labels.name, { when: (before, after) => causeOf(before) !== causeOf(after) }),
    triggerMapped(
      caches.gateways,
      ({ metadata }) => usersOf((service) => isUsedBy(sources, service, metadata.namespace ?? '', metadata.name)),
      { when: (before, after) => digestOf(before) !== digestOf(after) },
    ),
    triggerMapped(
      caches.gatewayServices,
      ({ metadata }) => {
        const gateway = metadata.labels?.[gatewayLabel] ?? '';
        return usersOf((service) => isUsedBy(sources, service, metadata.namespace ?? '', gateway));
      },
      { when: (before, after) => JSON.stringify(before.spec?.ports) !== JSON.stringify(after.spec?.ports) },
    ),
    triggerMapped(
      caches.gatewayClasses,
      () => usersOf((service) => sources.bases.of(service).effective.router !== undefined),
      {
        when: (before, after) => JSON.stringify(before.status?.conditions) !== JSON.stringify(after.status?.conditions),
      },
    ),
    caches.named.trigger,
    ...createGroupTriggers(sources),
    triggerMapped(
      caches.accounts,
      (account) =>
        // As good as none: among them those that every service is given.
        isPlain(account)
          ? []
          : usersOf(
              (service) =>
                service.metadata.namespace === account.metadata.namespace &&
                accountsOf({ ...service, spec: sources.bases.of(service).effective }).includes(account.metadata.name),
            ),
      { when: (before, after) => digestOfAccount(before) !== digestOfAccount(after) },
    ),
    triggerMapped(caches.configs, (config) => usersOf((service) => sources.bases.concerns(service, config)), {
      when: (before, after) => before.metadata.generation !== after.metadata.generation,
    }),
    triggerMapped(caches.globalConfig, () => usersOf(() => true), {
      when: (before, after) => JSON.stringify(before.data) !== JSON.stringify(after.data),
    }),
    triggerMapped(caches.rivalDeployments, () => usersOf(() => true), {
      when: (before, after) =>
        JSON.stringify([before.spec, before.status]) !== JSON.stringify([after.spec, after.status]),
    }),
    triggerMapped(caches.rivalLeases, () => usersOf(() => true), {
      when: (before, after) => digestOfLease(before) !== digestOfLease(after),
    }),
    // Definitions that come or go change what can be rendered for everyone.
    (enqueue) =>
      caches.onServed(() => {
        for (const service of all()) enqueue(keyOf(service.metadata));
      }),
  ];
}

/** Wakes for changes that others made: what we wrote ourselves was taken into account when we wrote it. */
function triggerUnlessEcho(
  { writes }: Sources,
  resource: Resource,
  informer: Informer<KubeObject>,
  map: (object: KubeObject) => readonly ObjectRef[],
): Trigger {
  return (enqueue) =>
    informer.subscribe((change: Change<KubeObject>) => {
      if (change.type === 'deleted') writes.dropped(resource, change.object);
      else if (writes.takeEcho(resource, change.object)) return;
      for (const key of keysOfChange(change, map)) enqueue(key);
    });
}

/** By owner reference, and by label should somebody have taken the reference away. */
function refsOfOwner(child: KubeObject): readonly ObjectRef[] {
  const name = child.metadata.labels?.[labels.name];
  const byLabel = name ? [{ namespace: child.metadata.namespace ?? '', name }] : [];
  return [...ownersOf(child, owner), ...byLabel];
}

function isUsedBy(
  { globals: { settings }, bases, caches }: Sources,
  service: LLMInferenceService,
  namespace: string,
  name: string,
): boolean {
  const { metadata } = service;
  const spec = bases.of(service).effective;
  if (hasDefaultGateway(spec)) return settings.gateway.name === name && settings.gateway.namespace === namespace;
  const parents = routeRefsOf(spec).flatMap((route) => {
    const live = caches.named.get<HTTPRoute & KubeObject>({
      resource: resources.httpRoutes,
      ref: { namespace: metadata.namespace ?? 'default', name: route },
    });
    return live === undefined || live === 'unknown' ? [] : (live.spec.parentRefs ?? []);
  });
  const refs = [
    ...(spec.router?.gateway?.refs ?? []),
    ...(spec.router?.route?.http?.spec?.parentRefs ?? []),
    ...parents,
  ];
  return refs.some((ref) => ref.name === name && (ref.namespace ?? metadata.namespace) === namespace);
}

/** What of a ServiceAccount matters: pods are given their tokens by others. */
function digestOfAccount({ metadata, imagePullSecrets, secrets }: ServiceAccount): string {
  return JSON.stringify([metadata.annotations, imagePullSecrets, secrets]);
}

function isPlain({ metadata, imagePullSecrets = [], secrets = [] }: ServiceAccount): boolean {
  return Object.keys(metadata.annotations ?? {}).length + imagePullSecrets.length + secrets.length === 0;
}

/** What of a Gateway matters: not how many routes hang on it, which changes with every service. */
function digestOf({ metadata, spec, status }: Gateway): string {
  return JSON.stringify([metadata.labels, metadata.annotations, spec, status?.addresses, status?.conditions]);
}
