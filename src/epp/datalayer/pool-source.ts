import type { Indexes, Informer } from '../../kube/informer.ts';
import type { KubeObject, Resource } from '../../kube/object.ts';
import { resources } from '../../kube/resources.ts';
import type { Logger } from '../../telemetry/log.ts';
import type { Datastore, EndpointSpec } from './datastore.ts';

/** The fields of an InferencePool of either group that the picker reads. */
export interface PoolObject extends KubeObject {
  readonly spec?: {
    /** v1: `{matchLabels}`; v1alpha2: the labels themselves. */
    readonly selector?: { readonly matchLabels?: Readonly<Record<string, string>> } | Readonly<Record<string, string>>;
    readonly targetPorts?: readonly { readonly number: number }[];
    readonly targetPortNumber?: number;
  };
}

/** The fields of a pod that the picker reads. */
export interface PodObject extends KubeObject {
  readonly status?: {
    readonly podIP?: string;
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
  };
}

/** What the source needs of a Kubernetes client: informers. */
export interface Watches {
  watch<T extends KubeObject>(
    resource: Resource,
    options: { readonly namespace: string; readonly labelSelector?: string; readonly fieldSelector?: string },
    indexes?: Indexes<T>,
  ): Informer<T>;
}

export const poolResources: Readonly<Record<string, Resource>> = {
  'inference.networking.k8s.io': resources.inferencePools,
  'inference.networking.x-k8s.io': resources.xInferencePools,
};

/** Labels that a pod must have, of a pool of either group. */
export function selectorOf(pool: PoolObject): Readonly<Record<string, string>> {
  const selector = pool.spec?.selector ?? {};
  const nested = (selector as { readonly matchLabels?: unknown }).matchLabels;
  return (typeof nested === 'object' && nested !== null ? nested : selector) as Readonly<Record<string, string>>;
}

/** Ports of each pod, of a pool of either group. */
export function portsOf(pool: PoolObject): readonly number[] {
  const { targetPorts, targetPortNumber } = pool.spec ?? {};
  if (targetPorts !== undefined) return targetPorts.map((port) => port.number);
  return targetPortNumber === undefined ? [] : [targetPortNumber];
}

const activePortsAnnotations = ['llm-d.ai/active-ports', 'inference.networking.k8s.io/active-ports'];

/** A pod's endpoints: one for each of the pool's ports; none while it has no IP or is being deleted. */
export function endpointsOf(pod: PodObject, ports: readonly number[]): readonly EndpointSpec[] {
  const { name, namespace = 'default', labels = {}, annotations = {}, deletionTimestamp } = pod.metadata;
  const address = pod.status?.podIP;
  if (address === undefined || address === '' || deletionTimestamp !== undefined) return [];
  const isReady = pod.status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') ?? false;
  const active = activePortsAnnotations.map((key) => annotations[key]).find((value) => value !== undefined);
  const allowed = active === undefined ? undefined : new Set(active.split(',').map((text) => Number(text.trim())));
  return ports.flatMap((port, rank) =>
    allowed === undefined || allowed.has(port)
      ? [{ id: `${namespace}/${name}-rank-${rank}`, name, namespace, address, port, labels, isReady }]
      : [],
  );
}

/**
 * Keeps the datastore equal to an InferencePool's pods: watches the pool by name, then only the pods that its selector
 * names. A pool that is gone has no endpoints.
 */
export function startPoolSource(options: {
  readonly watches: Watches;
  readonly resource: Resource;
  readonly namespace: string;
  readonly name: string;
  readonly datastore: Datastore;
  readonly log: Logger;
}): { close(): void } {
  const { watches, namespace, name, datastore, log } = options;
  let pods:
    | { readonly selector: string; readonly informer: Informer<PodObject>; readonly stop: () => void }
    | undefined;
  let isClosed = false;
  let isQueued = false;

  const pools = watches.watch<PoolObject>(options.resource, { namespace, fieldSelector: `metadata.name=${name}` });
  const currentPool = (): PoolObject | undefined => pools.store.get({ namespace, name });

  const publish = (): void => {
    isQueued = false;
    if (isClosed || !pools.isSynced) return;
    const pool = currentPool();
    if (pool === undefined) {
      datastore.replace([]);
      return;
    }
    // Until the first list is complete the endpoints before it are the better truth.
    if (pods === undefined || !pods.informer.isSynced) return;
    const ports = portsOf(pool);
    const specs = pods.informer.store.list(namespace).flatMap((pod) => endpointsOf(pod, ports));
    datastore.replace([...specs].sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0)));
  };
  /** Many changes in one turn of the event loop become one new list. */
  const queue = (): void => {
    if (isQueued || isClosed) return;
    isQueued = true;
    setImmediate(publish);
  };

  const followPool = (): void => {
    if (isClosed) return;
    const pool = currentPool();
    const labels = pool === undefined ? {} : selectorOf(pool);
    const selector = Object.entries(labels)
      .map(([key, value]) => `${key}=${value}`)
      .sort()
      .join(',');
    if (pods?.selector !== selector) {
      pods?.stop();
      pods = undefined;
      if (selector !== '') {
        log.info({ pool: `${namespace}/${name}`, selector }, 'following the pods of the pool');
        const informer = watches.watch<PodObject>(resources.pods, { namespace, labelSelector: selector });
        const unsubscribe = informer.subscribe(queue);
        informer.synced.then(queue, () => {});
        pods = {
          selector,
          informer,
          stop: () => {
            unsubscribe();
            informer.close();
          },
        };
      } else if (pool !== undefined) {
        log.warn({ pool: `${namespace}/${name}` }, 'the pool selects no pods: its selector is empty');
      }
    }
    queue();
  };

  pools.subscribe(followPool);
  pools.synced.then(
    () => {
      if (currentPool() === undefined) log.warn({ pool: `${namespace}/${name}` }, 'the pool does not exist yet');
      followPool();
    },
    () => {},
  );
  return {
    close: () => {
      isClosed = true;
      pods?.stop();
      pools.close();
    },
  };
}

/** Keeps the datastore equal to the pods of a label selector, without an InferencePool. */
export function startSelectorSource(options: {
  readonly watches: Watches;
  readonly namespace: string;
  readonly selector: string;
  readonly ports: readonly number[];
  readonly datastore: Datastore;
}): { close(): void } {
  const { watches, namespace, selector, ports, datastore } = options;
  const pods = watches.watch<PodObject>(resources.pods, { namespace, labelSelector: selector });
  const publish = (): void => {
    if (pods.isSynced) datastore.replace(pods.store.list(namespace).flatMap((pod) => endpointsOf(pod, ports)));
  };
  pods.subscribe(publish);
  pods.synced.then(publish, () => {});
  return { close: () => pods.close() };
}
