import { type Clock, systemClock } from '../clock.ts';
import type { Client } from '../kube/client.ts';
import { type Informer, startInformer } from '../kube/informer.ts';
import type { KubeObject } from '../kube/object.ts';
import { resources } from '../kube/resources.ts';
import type { Logger } from '../telemetry/log.ts';
import { allowedTargets, type Pool, type PrefillPod, poolOf } from './allow-list.ts';

/** How long a target that left the list counts as one that has just gone. */
const leftForMs = 60_000;

/** The prefill targets that may be called now. */
export interface AllowListSource {
  /** Every `ip:port`; replaced as a whole on a change. */
  allowed(): ReadonlySet<string>;
  /** The same for encoders. */
  allowedEncoders(): ReadonlySet<string>;
  /** Whether this target was on the list within the last minute: a pod that has just gone, which the picker may still name. */
  hasLeft(hostPort: string): boolean;
  readonly isSynced: boolean;
  /** Resolves when the pool and its pods were listed for the first time. */
  readonly synced: Promise<void>;
  close(): void;
}

interface PodObject extends KubeObject {
  readonly spec?: unknown;
  readonly status?: {
    readonly podIP?: string;
    readonly podIPs?: readonly { readonly ip?: string }[];
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
  };
}

/**
 * Watches one InferencePool and the pods it selects, and keeps the set of prefill targets true. A pool that is gone leaves
 * the set empty: what is not known to be allowed is refused.
 */
export function startAllowList(
  client: Pick<Client, 'list' | 'watch'>,
  pool: { readonly namespace: string; readonly name: string; readonly group: string },
  deps: { readonly log: Logger; readonly clock?: Clock; readonly onChange: (allowed: ReadonlySet<string>) => void },
): AllowListSource {
  const { log } = deps;
  const clock = deps.clock ?? systemClock;
  const resource = pool.group === resources.inferencePools.group ? resources.inferencePools : resources.xInferencePools;
  let current: Pool | undefined;
  let selector: string | undefined;
  let pods: Informer<PodObject> | undefined;
  let stopPods = () => {};
  let allowed: ReadonlySet<string> = new Set();
  let encoders: ReadonlySet<string> = new Set();
  /** Targets that left the list, and when. */
  const left = new Map<string, number>();
  let isSynced = false;
  let isClosed = false;
  let setSynced = () => {};
  const synced = new Promise<void>((resolve) => {
    setSynced = resolve;
  });

  const rebuild = () => {
    // While a new list of pods fills, the old set stands: a half list would refuse good targets.
    if (isClosed || (pods && !pods.isSynced)) return;
    const selected = pods ? pods.store.list(pool.namespace).map(toPrefillPod) : [];
    const next = allowedTargets(current, selected);
    encoders = allowedTargets(current, selected, 'encode');
    if (!isSynced) {
      isSynced = true;
      setSynced();
    } else if (isSameSet(next, allowed)) return;
    const now = clock.now();
    for (const hostPort of allowed) if (!next.has(hostPort)) left.set(hostPort, now);
    for (const [hostPort, leftAt] of left) if (now - leftAt > leftForMs || next.has(hostPort)) left.delete(hostPort);
    allowed = next;
    deps.onChange(allowed);
    log.debug({ targets: allowed.size }, 'prefill targets changed');
  };

  const watchPods = (wanted: string | undefined) => {
    if (wanted === selector && (pods !== undefined || wanted === undefined)) return;
    stopPods();
    selector = wanted;
    pods = undefined;
    if (wanted === undefined) return;
    const informer = startInformer<PodObject>(
      client,
      resources.pods,
      { namespace: pool.namespace, labelSelector: wanted, transform: trimmed },
      { log },
    );
    pods = informer;
    const unsubscribe = informer.subscribe(() => rebuild());
    stopPods = () => {
      unsubscribe();
      informer.close();
    };
    void informer.synced.then(() => {
      if (pods === informer) rebuild();
    });
  };

  const pools = startInformer<KubeObject>(
    client,
    resource,
    { namespace: pool.namespace, fieldSelector: `metadata.name=${pool.name}` },
    { log },
  );
  const look = () => {
    if (isClosed || !pools.isSynced) return;
    const object = pools.store.get(pool);
    current = poolOf(object);
    if (!object) log.warn({ pool }, 'the inference pool does not exist: no prefill target is allowed');
    else if (!current)
      log.warn({ pool }, 'the inference pool has no selector or no ports: no prefill target is allowed');
    watchPods(
      current &&
        Object.entries(current.selector)
          .map(([key, value]) => `${key}=${value}`)
          .sort()
          .join(','),
    );
    rebuild();
  };
  const unsubscribePools = pools.subscribe(look);
  void pools.synced.then(look);

  return {
    allowed: () => allowed,
    allowedEncoders: () => encoders,
    hasLeft: (hostPort) => clock.now() - (left.get(hostPort) ?? Number.NEGATIVE_INFINITY) <= leftForMs,
    get isSynced() {
      return isSynced;
    },
    synced,
    close() {
      isClosed = true;
      unsubscribePools();
      pools.close();
      stopPods();
    },
  };
}

/** Keeps of a pod what decides, so that a large pool costs little memory. */
function trimmed(pod: PodObject): PodObject {
  const { name, namespace, uid, resourceVersion, labels: podLabels, deletionTimestamp } = pod.metadata;
  return {
    apiVersion: pod.apiVersion,
    kind: pod.kind,
    metadata: {
      name,
      ...(namespace === undefined ? {} : { namespace }),
      ...(uid === undefined ? {} : { uid }),
      ...(resourceVersion === undefined ? {} : { resourceVersion }),
      ...(podLabels === undefined ? {} : { labels: podLabels }),
      ...(deletionTimestamp === undefined ? {} : { deletionTimestamp }),
    },
    status: {
      ...(pod.status?.podIP === undefined ? {} : { podIP: pod.status.podIP }),
      podIPs: pod.status?.podIPs ?? [],
      conditions: (pod.status?.conditions ?? []).filter((condition) => condition.type === 'Ready'),
    },
  };
}

function toPrefillPod(pod: PodObject): PrefillPod {
  const addresses = new Set<string>();
  if (pod.status?.podIP) addresses.add(pod.status.podIP);
  for (const { ip } of pod.status?.podIPs ?? []) if (ip) addresses.add(ip);
  return {
    name: pod.metadata.name,
    labels: pod.metadata.labels ?? {},
    addresses: [...addresses],
    isReady:
      pod.metadata.deletionTimestamp === undefined &&
      (pod.status?.conditions ?? []).some((condition) => condition.type === 'Ready' && condition.status === 'True'),
  };
}

function isSameSet(a: ReadonlySet<string>, b: ReadonlySet<string>): boolean {
  if (a.size !== b.size) return false;
  for (const item of a) if (!b.has(item)) return false;
  return true;
}
