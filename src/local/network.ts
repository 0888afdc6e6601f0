import { mkdir, rename, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type Clock, systemClock } from '../clock.ts';
import { AppError, messageOf } from '../errors.ts';
import type { Client } from '../kube/client.ts';
import { startInformer } from '../kube/informer.ts';
import { resources } from '../kube/resources.ts';
import type { Logger } from '../telemetry/log.ts';
import { createServiceProxy } from './network/proxy.ts';
import { type NetworkPod, type Service, serviceEnv, serviceNames, virtualServers } from './network/service.ts';
import { renderResolveHook } from './resolve-hook.ts';

export interface NetworkOptions {
  readonly client: Client;
  readonly log: Logger;
  /** The names file and the resolve hook are written below this folder. */
  readonly stateDir: string;
  /** Where the `kubernetes` Service leads: the API server's URL. */
  readonly apiServer: { readonly url: string };
  readonly clock?: Clock;
}

/** The cluster's network: ClusterIPs that answer and names that resolve. */
export interface Network {
  /** Loaded first by every Node process of a pod. */
  readonly hookFile: string;
  /** Variables for the services of a namespace, as of now. */
  serviceEnv(namespace: string): Readonly<Record<string, string>>;
  /** Resolves once the first list of services and pods is in force. */
  readonly synced: Promise<void>;
  close(): Promise<void>;
}

/** Many changes at once (a rollout) lead to one look at everything. */
const settleMs = 20;

/** Listens on every ClusterIP and keeps the names of services true until closed. */
export async function startNetwork(options: NetworkOptions): Promise<Network> {
  const { client, log } = options;
  const clock = options.clock ?? systemClock;
  const url = new URL(options.apiServer.url);
  const apiServer = { host: url.hostname, port: Number(url.port || 443) };
  if (!/^[\d.]+$/.test(apiServer.host)) {
    throw new AppError('usage', `API server ${options.apiServer.url}: give its address instead of a host name`);
  }
  const namesFile = join(options.stateDir, 'network', 'names.json');
  const hookFile = join(options.stateDir, 'network', 'resolve-hook.cjs');
  await mkdir(dirname(namesFile), { recursive: true });
  await writeFile(namesFile, '{}');
  await writeFile(hookFile, renderResolveHook(namesFile));

  const proxy = createServiceProxy(log);
  const services = startInformer<Service>(client, resources.services, {}, { log, clock });
  const pods = startInformer<NetworkPod>(client, resources.pods, { transform: toNetworkPod }, { log, clock });
  const closing = new AbortController();
  let written = '{}';
  let writing: Promise<void> = Promise.resolve();
  let pending = false;

  const refresh = async (): Promise<void> => {
    pending = false;
    if (closing.signal.aborted || !services.isSynced || !pods.isSynced) return;
    const allServices = services.store.list();
    const allPods = pods.store.list();
    proxy.update(virtualServers(allServices, allPods, apiServer));
    const text = JSON.stringify(serviceNames(allServices, allPods));
    if (text !== written) {
      await writeFile(`${namesFile}.tmp`, text);
      await rename(`${namesFile}.tmp`, namesFile);
      written = text;
    }
    await proxy.settled();
  };
  const run = (): Promise<void> => {
    writing = writing.then(refresh).catch((thrown) => {
      log.error({ err: thrown }, `the names of services could not be written to ${namesFile}: ${messageOf(thrown)}`);
    });
    return writing;
  };
  const schedule = (): void => {
    if (pending) return;
    pending = true;
    clock.sleep(settleMs, closing.signal).then(run, () => {});
  };
  services.subscribe(schedule);
  pods.subscribe(schedule);
  return {
    hookFile,
    serviceEnv: (namespace) => serviceEnv(services.store.list(namespace), namespace),
    synced: Promise.all([services.synced, pods.synced]).then(run),
    close: async () => {
      closing.abort(new Error('closed'));
      services.close();
      pods.close();
      await writing;
      await proxy.close();
    },
  };
}

/** Only what backends and names are made of stays in memory. */
function toNetworkPod(pod: NetworkPod): NetworkPod {
  const { apiVersion, kind, metadata, spec, status } = pod;
  const { managedFields: _, annotations: __, ...kept } = metadata;
  const slim = (containers: NetworkPod['spec']['containers']) =>
    containers.filter((container) => container.ports).map(({ name, ports }) => ({ name, ...(ports ? { ports } : {}) }));
  return {
    apiVersion,
    kind,
    metadata: kept,
    spec: {
      containers: slim(spec.containers),
      ...(spec.initContainers ? { initContainers: slim(spec.initContainers) } : {}),
      ...(spec.hostname ? { hostname: spec.hostname } : {}),
      ...(spec.subdomain ? { subdomain: spec.subdomain } : {}),
    },
    status: {
      ...(status?.podIP ? { podIP: status.podIP } : {}),
      ...(status?.conditions ? { conditions: status.conditions.filter(({ type }) => type === 'Ready') } : {}),
    },
  };
}
