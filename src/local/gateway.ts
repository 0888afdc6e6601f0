import type { Gateway, GatewayClass, HTTPRoute } from '../api/foreign/gateway-api.ts';
import type { InferencePool, XInferencePool } from '../api/foreign/inference-pool.ts';
import type { Clock } from '../clock.ts';
import { messageOf } from '../errors.ts';
import type { Client } from '../kube/client.ts';
import { type Change, type Informer, startInformer } from '../kube/informer.ts';
import type { KubeObject, Resource } from '../kube/object.ts';
import { resources } from '../kube/resources.ts';
import { hasCode } from '../kube/status-error.ts';
import type { Logger } from '../telemetry/log.ts';
import type { AppliedResources, Envoy } from './envoy.ts';
import { allocateAddresses } from './gateway/addresses.ts';
import type { BackendTlsPolicy, ConfigMap, GatewayInput, Pod, ReferenceGrant, Service } from './gateway/shapes.ts';
import { type ListenerState, renderStatuses, type StatusWrite } from './gateway/statuses.ts';
import { selectGateways, translate } from './gateway/translate.ts';

export interface GatewayOptions {
  readonly client: Client;
  readonly envoy: Pick<Envoy, 'apply' | 'accessLogPath' | 'collector' | 'routesPath'>;
  /** Two or three numbers, `127.66` or `127.66.3`: each Gateway gets an address of its own below. */
  readonly addressPrefix: string;
  readonly log: Logger;
  readonly clock: Clock;
}

const debounceMs = 30;
/** How long kinds that may not be installed are waited for before the first translation. */
const optionalKindsMs = 2_000;
const retryMs = 5_000;
const parallelWrites = 8;

/**
 * Runs the GatewayClass controller `signalbox.io/local-envoy`: what Gateways, HTTPRoutes and InferencePools say becomes
 * Envoy's configuration, and what became of it becomes their statuses.
 *
 * Guarantees: one translation at a time, always of the newest state; statuses are written only when they change and
 * after Envoy has taken the configuration they speak of; a failure is logged and tried again.
 */
export function startGateway(options: GatewayOptions): { close(): Promise<void> } {
  const { client, envoy, clock, log } = options;
  const closing = new AbortController();
  const informers = startInformers(client, log, clock);

  let isDirty = false;
  let wake = () => {};
  const markDirty = () => {
    isDirty = true;
    wake();
  };
  const unsubscribe = [
    subscribeTo(informers.gatewayClasses, markDirty),
    subscribeTo(informers.gateways, markDirty),
    subscribeTo(informers.httpRoutes, markDirty),
    subscribeTo(informers.services, markDirty),
    subscribeTo(informers.namespaces, markDirty),
    subscribeTo(informers.inferencePools, markDirty),
    subscribeTo(informers.xInferencePools, markDirty),
    subscribeTo(informers.referenceGrants, markDirty),
    subscribeTo(informers.backendTlsPolicies, markDirty),
    informers.configMaps.subscribe((change) => {
      if (change.type !== 'updated' || change.object.data?.['ca.crt'] !== change.before.data?.['ca.crt']) markDirty();
    }),
    // Pods change all the time in ways that no route depends on.
    informers.pods.subscribe((change) => {
      if (change.type !== 'updated' || routingKey(change.object) !== routingKey(change.before)) markDirty();
    }),
  ];

  const translateOnce = async () => {
    const input = gatherInput(informers);
    const translation = translate(input, {
      addresses: allocateAddresses(options.addressPrefix, selectGateways(input)),
      accessLogPath: envoy.accessLogPath,
      collector: envoy.collector,
      routesPath: envoy.routesPath,
    });
    const applied = await envoy.apply(translation.resources);
    for (const rejection of applied.rejections) log.error({ rejection }, 'envoy refused a configuration');
    const now = `${new Date(clock.now()).toISOString().slice(0, 19)}Z`;
    const writes = renderStatuses(translation, input, stateReader(applied), now);
    await writeAll(client, writes, log, closing.signal);
    // A port may become free, a retired cluster idle, and Envoy does not look again by itself.
    const isReady = [...applied.listeners.values()].every((state) => state.kind === 'ready');
    return isReady && applied.rejections.length === 0 && applied.retiredClusters === 0;
  };

  const run = async () => {
    await awaitSynced(informers, clock, closing.signal);
    markDirty();
    let retryAt = Number.POSITIVE_INFINITY;
    while (!closing.signal.aborted) {
      await awaitDirty(retryAt);
      if (closing.signal.aborted) return;
      await clock.sleep(debounceMs, closing.signal);
      isDirty = false;
      try {
        retryAt = (await translateOnce()) ? Number.POSITIVE_INFINITY : clock.now() + retryMs;
      } catch (thrown) {
        if (closing.signal.aborted) return;
        log.error({ err: thrown }, 'the gateway could not be brought up to date; trying again');
        retryAt = clock.now() + retryMs;
      }
    }
  };
  const awaitDirty = async (retryAt: number) => {
    if (isDirty) return;
    const timer = new AbortController();
    const dirty = new Promise<void>((resolve) => {
      wake = resolve;
    });
    const waits: Promise<unknown>[] = [dirty];
    if (Number.isFinite(retryAt))
      waits.push(clock.sleep(Math.max(0, retryAt - clock.now()), timer.signal).catch(() => {}));
    await Promise.race(waits);
    timer.abort();
  };
  const running = run().catch((thrown: unknown) => {
    if (!closing.signal.aborted) log.error({ err: thrown }, 'the gateway controller ended');
  });

  return {
    close: async () => {
      closing.abort();
      wake();
      for (const stop of unsubscribe) stop();
      for (const informer of Object.values(informers)) informer.close();
      await running;
    },
  };
}

interface Informers {
  readonly gatewayClasses: Informer<GatewayClass>;
  readonly gateways: Informer<Gateway>;
  readonly httpRoutes: Informer<HTTPRoute>;
  readonly services: Informer<Service>;
  readonly pods: Informer<Pod>;
  readonly namespaces: Informer<KubeObject>;
  readonly inferencePools: Informer<InferencePool>;
  readonly xInferencePools: Informer<XInferencePool>;
  readonly referenceGrants: Informer<ReferenceGrant>;
  readonly backendTlsPolicies: Informer<BackendTlsPolicy>;
  readonly configMaps: Informer<ConfigMap>;
}

function startInformers(client: Client, log: Logger, clock: Clock): Informers {
  const start = <T extends KubeObject>(resource: Resource, transform?: (object: T) => T) =>
    startInformer<T>(client, resource, transform ? { transform } : {}, { log, clock });
  return {
    gatewayClasses: start<GatewayClass>(resources.gatewayClasses),
    gateways: start<Gateway>(resources.gateways),
    httpRoutes: start<HTTPRoute>(resources.httpRoutes),
    services: start<Service>(resources.services),
    pods: start<Pod>(resources.pods, keepRouting),
    namespaces: start<KubeObject>(resources.namespaces),
    inferencePools: start<InferencePool>(resources.inferencePools),
    xInferencePools: start<XInferencePool>(resources.xInferencePools),
    referenceGrants: start<ReferenceGrant>(resources.referenceGrants),
    backendTlsPolicies: start<BackendTlsPolicy>(resources.backendTlsPolicies),
    configMaps: start<ConfigMap>(resources.configMaps, keepAuthorities),
  };
}

function subscribeTo<T extends KubeObject>(informer: Informer<T>, markDirty: () => void): () => void {
  return informer.subscribe((change: Change<T>) => {
    if (change.type !== 'updated' || change.object.metadata.resourceVersion !== change.before.metadata.resourceVersion)
      markDirty();
  });
}

/** Of ConfigMaps only certificate authorities are read. */
function keepAuthorities({ apiVersion, kind, metadata, data }: ConfigMap): ConfigMap {
  const { name, namespace = '', resourceVersion = '' } = metadata;
  const authorities = data?.['ca.crt'];
  return {
    apiVersion,
    kind,
    metadata: { name, namespace, resourceVersion },
    ...(authorities === undefined ? {} : { data: { 'ca.crt': authorities } }),
  };
}

/** The part of a pod that routing reads. */
function keepRouting(pod: Pod): Pod {
  const ports = (container: Pod['spec']['containers'][number]) => (container.ports ? { ports: container.ports } : {});
  const { name, namespace, uid, resourceVersion, labels, deletionTimestamp } = pod.metadata;
  return {
    apiVersion: pod.apiVersion,
    kind: pod.kind,
    metadata: {
      name,
      ...(namespace === undefined ? {} : { namespace }),
      ...(uid === undefined ? {} : { uid }),
      ...(resourceVersion === undefined ? {} : { resourceVersion }),
      ...(labels === undefined ? {} : { labels }),
      ...(deletionTimestamp === undefined ? {} : { deletionTimestamp }),
    },
    spec: {
      containers: pod.spec.containers.map(ports),
      initContainers: (pod.spec.initContainers ?? []).map(ports),
    },
    status: {
      ...(pod.status?.podIP === undefined ? {} : { podIP: pod.status.podIP }),
      conditions: (pod.status?.conditions ?? []).flatMap(({ type, status }) =>
        type === 'Ready' ? [{ type, status }] : [],
      ),
    },
  };
}

const routingKey = (pod: Pod) =>
  JSON.stringify([pod.metadata.labels, pod.metadata.deletionTimestamp, pod.spec, pod.status]);

/** All kinds that must be there; the others get a moment, because they may never be installed. */
async function awaitSynced(informers: Informers, clock: Clock, signal: AbortSignal): Promise<void> {
  const { inferencePools, xInferencePools, referenceGrants, backendTlsPolicies, ...needed } = informers;
  const aborted = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
  await Promise.race([Promise.all(Object.values(needed).map((informer) => informer.synced)), aborted]);
  const optional = [inferencePools, xInferencePools, referenceGrants, backendTlsPolicies].map(
    (informer) => informer.synced,
  );
  await Promise.race([Promise.all(optional), clock.sleep(optionalKindsMs, signal)]);
}

function gatherInput(informers: Informers): GatewayInput {
  return {
    gatewayClasses: informers.gatewayClasses.store.list(),
    gateways: informers.gateways.store.list(),
    httpRoutes: informers.httpRoutes.store.list(),
    services: informers.services.store.list(),
    pods: informers.pods.store.list(),
    namespaces: informers.namespaces.store.list(),
    inferencePools: informers.inferencePools.store.list(),
    xInferencePools: informers.xInferencePools.store.list(),
    referenceGrants: informers.referenceGrants.store.list(),
    backendTlsPolicies: informers.backendTlsPolicies.store.list(),
    configMaps: informers.configMaps.store.list(),
  };
}

/** A refused delivery of routes or clusters concerns every listener: none may claim to be up to date. */
function stateReader(applied: AppliedResources): (name: string) => ListenerState {
  const rejection = applied.rejections[0];
  return (name) => {
    const state = applied.listeners.get(name) ?? { kind: 'pending' };
    return rejection !== undefined && state.kind === 'ready' ? { kind: 'failed', message: rejection } : state;
  };
}

async function writeAll(
  client: Client,
  writes: readonly StatusWrite[],
  log: Logger,
  signal: AbortSignal,
): Promise<void> {
  const queue = [...writes];
  const worker = async () => {
    for (let write = queue.shift(); write; write = queue.shift()) await writeOne(client, write, log, signal);
  };
  await Promise.all(Array.from({ length: Math.min(parallelWrites, writes.length) }, worker));
}

/** Names the version it judged, so that it never overwrites what others wrote meanwhile: their change brings a new turn. */
async function writeOne(client: Client, write: StatusWrite, log: Logger, signal: AbortSignal): Promise<void> {
  const { name, namespace, resourceVersion } = write.object.metadata;
  const ref = { name, ...(namespace === undefined ? {} : { namespace }) };
  try {
    await client.mergePatch(
      write.resource,
      ref,
      { metadata: { resourceVersion }, status: write.status },
      { subresource: 'status', fieldManager: 'signalbox-local-gateway' },
      signal,
    );
  } catch (thrown) {
    if (hasCode(thrown, 'conflict') || hasCode(thrown, 'notFound')) return;
    log.warn({ kind: write.object.kind, ...ref, reason: messageOf(thrown) }, 'a status could not be written');
    throw thrown;
  }
}
