import { mkdir } from 'node:fs/promises';
import { availableParallelism, totalmem } from 'node:os';
import { join } from 'node:path';
import { type Clock, systemClock } from '../clock.ts';
import type { Client } from '../kube/client.ts';
import { startEventRecorder } from '../kube/events.ts';
import { startInformer } from '../kube/informer.ts';
import type { KubeObject } from '../kube/object.ts';
import { resources } from '../kube/resources.ts';
import type { Logger } from '../telemetry/log.ts';
import type { ImageTable } from './images.ts';
import type { Network } from './network.ts';
import type { AddressAllocator } from './node/address.ts';
import { type KubeletCertificates, startLogServer } from './node/log-server.ts';
import { registerNode } from './node/node-object.ts';
import { createPodSources } from './node/pod-sources.ts';
import type { Pod } from './node/pod-spec.ts';
import { type BackOff, defaultBackOff } from './node/pod-state.ts';
import { type NodeContext, PodWorker } from './node/pod-worker.ts';
import { startReaper } from './node/reaper.ts';
import { volumeReferences } from './node/volumes.ts';

export interface NodeOptions {
  readonly client: Client;
  readonly name: string;
  readonly addresses: AddressAllocator;
  readonly images: ImageTable;
  /** Pods' files and logs are written below this folder. */
  readonly stateDir: string;
  /** For the pods' programs: where the API server is and which CA signs it. */
  readonly apiServer: { readonly url: string; readonly caFile: string };
  readonly network: Pick<Network, 'hookFile' | 'serviceEnv'>;
  /** With them the node answers `kubectl logs`. */
  readonly kubelet?: KubeletCertificates;
  readonly log: Logger;
  readonly clock?: Clock;
  /** What the scheduler may give away; defaults: 8 GPUs, this machine's processors and memory (at least 64 and 256Gi, for nothing real is used), 110 pods. */
  readonly gpus?: number;
  readonly cpu?: string;
  readonly memory?: string;
  readonly pods?: number;
  /** Waits of crashing containers and failing pulls; default the kubelet's. */
  readonly backOff?: BackOff;
  /** PATH of the containers, after their image's own tools. */
  readonly basePath?: string;
  /** Bound of one log file in bytes; the part before it is kept once more. */
  readonly maxLogBytes?: number;
}

/** A node of the embedded cluster: runs the pods bound to it as processes. */
export interface LocalNode {
  readonly name: string;
  /** Ends all processes, SIGKILL after `graceMs`; the pods stay in the API server. */
  close(graceMs?: number): Promise<void>;
}

const hostIP = '127.0.0.1';
const tokenCheckMs = 60_000;
const logCheckMs = 10_000;

/**
 * Registers a Node and runs its pods until closed.
 *
 * Guarantees: after `close` no process of a pod is left; when this process dies without it, the reaper kills them.
 */
export async function startNode(options: NodeOptions): Promise<LocalNode> {
  const { client, name, stateDir } = options;
  const log = options.log.child({ node: name });
  const clock = options.clock ?? systemClock;
  const closing = new AbortController();
  const { signal } = closing;
  const capacity: Readonly<Record<string, string>> = {
    cpu: options.cpu ?? String(Math.max(64, availableParallelism())),
    memory: options.memory ?? `${Math.max(256, Math.floor(totalmem() / 2 ** 30))}Gi`,
    pods: String(options.pods ?? 110),
    'ephemeral-storage': '1Ti',
    'nvidia.com/gpu': String(options.gpus ?? 8),
  };
  await mkdir(join(stateDir, 'logs'), { recursive: true });
  await mkdir(join(stateDir, 'pods'), { recursive: true });
  const workers = new Map<string, PodWorker>();
  const isRunning = (namespace: string, pod: string) =>
    [...workers.values()].some(({ pod: { metadata } }) => metadata.namespace === namespace && metadata.name === pod);
  const logs = options.kubelet
    ? await startLogServer({ host: hostIP, stateDir, certificates: options.kubelet, isRunning, clock })
    : undefined;
  const address = { address: hostIP, ...(logs ? { kubeletPort: logs.port } : {}) };
  await registerNode(client, { name, capacity, ...address }, { clock, log, signal });

  const reaper = startReaper();
  const events = startEventRecorder(client, { component: 'kubelet', instance: name }, { clock, log });
  const sources = createPodSources(client, clock, signal);
  const said = new Set<string>();
  const context: NodeContext = {
    client,
    clock,
    log,
    nodeName: name,
    hostIP,
    allocatable: capacity,
    images: options.images,
    addresses: options.addresses,
    network: options.network,
    apiServer: options.apiServer,
    stateDir,
    backOff: options.backOff ?? defaultBackOff,
    basePath: options.basePath ?? '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    reaper,
    sourcesOf: sources.sourcesOf,
    record: (pod, { level, reason, message, fieldPath }) =>
      events.record({ ...pod, apiVersion: 'v1', kind: 'Pod' }, level, reason, message, fieldPath),
    sayOnce: (line) => {
      if (said.has(line)) return;
      said.add(line);
      log.info(line);
    },
  };

  const pods = startInformer<Pod>(
    client,
    resources.pods,
    { fieldSelector: `spec.nodeName=${name}`, transform: withoutManagedFields },
    { log, clock },
  );
  const run = (pod: Pod): void => {
    const uid = pod.metadata.uid ?? '';
    const worker = new PodWorker(context, pod);
    workers.set(uid, worker);
    void worker.gone.then(() => {
      workers.delete(uid);
      sources.forget(uid);
    });
    worker.start();
  };
  const unsubscribe = pods.subscribe((change) => {
    const { object } = change;
    const worker = workers.get(object.metadata.uid ?? '');
    if (change.type === 'deleted') {
      worker?.vanish();
      return;
    }
    if (change.type === 'updated' && change.before.metadata.uid !== object.metadata.uid) {
      // The deletion of the pod before and the creation of this one were seen as one change.
      workers.get(change.before.metadata.uid ?? '')?.vanish();
    }
    if (worker) worker.update(object);
    else run(object);
  });

  const dataChanged = (kind: 'configMaps' | 'secrets') => (object: KubeObject) => {
    for (const worker of workers.values()) {
      if (worker.pod.metadata.namespace !== object.metadata.namespace) continue;
      if (volumeReferences(worker.pod)[kind].has(object.metadata.name)) worker.refreshVolumes();
    }
  };
  // Only names and versions are kept: the content is read when a pod shows it.
  const watchData = (kind: 'configMaps' | 'secrets') => {
    const informer = startInformer<KubeObject>(client, resources[kind], { transform: toIdentity }, { log, clock });
    const changed = dataChanged(kind);
    informer.subscribe((change) => {
      if (change.type !== 'deleted' && informer.isSynced) changed(change.object);
    });
    return informer;
  };
  const data = [watchData('configMaps'), watchData('secrets')];

  const stopRefresh = clock.interval(tokenCheckMs, () => {
    for (const [uid, worker] of workers) if (sources.isTokenDue(uid)) worker.refreshVolumes();
  });
  const stopLogs = clock.interval(logCheckMs, () => {
    for (const worker of workers.values()) void worker.boundLogs(options.maxLogBytes ?? 10 * 2 ** 20).catch(() => {});
  });
  await pods.synced;
  return {
    name,
    close: async (graceMs = 3_000) => {
      unsubscribe();
      pods.close();
      for (const informer of data) informer.close();
      stopRefresh();
      stopLogs();
      await Promise.all([...workers.values()].map((worker) => worker.close(graceMs)));
      closing.abort(new Error('closed'));
      await events.close();
      await logs?.close();
      await reaper.close();
    },
  };
}

function withoutManagedFields(pod: Pod): Pod {
  const { managedFields: _, ...metadata } = pod.metadata;
  return { ...pod, metadata };
}

function toIdentity(object: KubeObject): KubeObject {
  const { name, namespace, uid, resourceVersion } = object.metadata;
  return {
    apiVersion: object.apiVersion,
    kind: object.kind,
    metadata: {
      name,
      ...(namespace ? { namespace } : {}),
      ...(uid ? { uid } : {}),
      ...(resourceVersion ? { resourceVersion } : {}),
    },
  };
}
