import { execFile } from 'node:child_process';
import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { systemClock } from '../clock.ts';
import type { AppError } from '../errors.ts';
import type { Client } from '../kube/client.ts';
import { loadKubeConfig } from '../kube/config.ts';
import type { Manifest } from '../kube/object.ts';
import { createClient } from '../kube/rest-client.ts';
import type { Logger } from '../telemetry/log.ts';
import { startControlPlane } from './control-plane.ts';
import { startEnvoy } from './envoy.ts';
import { findGatewayApiCrds } from './gateway/crds.ts';
import { renderGatewayClass } from './gateway/gateway-class.ts';
import { parseCollector } from './gateway/tracing.ts';
import { startGateway } from './gateway.ts';
import { createImageTable } from './images.ts';
import { applyManifests, parseManifests } from './install.ts';
import { startNetwork } from './network.ts';
import { createAddressAllocator, reserveLoopbackNetworks } from './node/address.ts';
import { startNode } from './node.ts';
import { findBinaries, type LocalEnvironment } from './paths.ts';

export interface ClusterOptions {
  readonly environment: LocalEnvironment;
  /** Everything the cluster writes; `close` removes it. */
  readonly stateDir: string;
  /** GPUs that the node offers; nothing real stands behind them. */
  readonly gpus?: number;
  readonly onProgress: (line: string) => void;
  readonly log: Logger;
  readonly signal?: AbortSignal;
}

/** A control plane, one node, the network and a gateway, all on loopback. */
export interface Cluster {
  readonly client: Client;
  readonly kubeconfigPath: string;
  readonly server: string;
  /** Logs of the components and, as `namespace_pod_container.log`, of the containers. */
  readonly logsDir: string;
  /** Envoy's access log: one JSON object a request. */
  readonly accessLogPath: string;
  /** Resolves when a component has crashed: which one, with its last log lines. */
  readonly failed: Promise<AppError>;
  close(): Promise<void>;
}

/** The node's name, as `kubectl get nodes` shows it. */
export const nodeName = 'signalbox-local';

/**
 * Starts a cluster. Other clusters on the machine are not met: ports and networks are taken from what is free.
 *
 * Guarantees: `close` leaves no process and no file below `stateDir`; a failure half-way does the same.
 */
export async function startCluster(options: ClusterOptions): Promise<Cluster> {
  const { environment, stateDir, log, onProgress, signal } = options;
  /** Aborted by the crash of a component, too, with that crash as the reason. */
  const crash = new AbortController();
  const withSignal = { signal: signal ? AbortSignal.any([signal, crash.signal]) : crash.signal };
  /** What has been started, newest last. */
  const started: (() => Promise<unknown>)[] = [];
  let closing: Promise<void> | undefined;
  const close = () => {
    closing ??= (async () => {
      for (const stop of [...started].reverse()) {
        await stop().catch((thrown: unknown) => log.warn({ err: thrown }, 'a component did not stop cleanly'));
      }
      await rm(stateDir, { recursive: true, force: true, maxRetries: 5 });
    })();
    return closing;
  };

  try {
    const names = ['etcd', 'kube-apiserver', 'kube-controller-manager', 'kube-scheduler', 'envoy'] as const;
    const binaries = await findBinaries(names, environment, onProgress, signal);
    const definitions = await findGatewayApiCrds({ cacheDir: environment.cacheDir, run, onProgress });
    const networks = await reserveLoopbackNetworks();
    started.push(() => networks.close());

    const plane = await startControlPlane({
      stateDir,
      binaries: {
        etcd: binaries.etcd,
        kubeApiserver: binaries['kube-apiserver'],
        kubeControllerManager: binaries['kube-controller-manager'],
        kubeScheduler: binaries['kube-scheduler'],
      },
      serviceNetwork: networks.services,
      // Not a pod's: their addresses begin at .0.10.
      host: `${networks.pods}.0.2`,
      onProgress,
      ...withSignal,
    });
    started.push(() => plane.stop());
    void plane.failed.then((error) => crash.abort(error));
    const client = createClient(await loadKubeConfig({ path: plane.kubeconfigPath }), {
      log,
      userAgent: 'signalbox-local',
    });
    started.push(() => client.close());

    onProgress('starting the network, the node and Envoy');
    const collector = environment.collector === undefined ? {} : { collector: parseCollector(environment.collector) };
    const envoy = await startEnvoy({ binary: binaries.envoy, stateDir, ...collector, ...withSignal });
    started.push(() => envoy.close());
    const network = await startNetwork({ client, log, stateDir, apiServer: { url: plane.server } });
    started.push(() => network.close());
    const node = await startNode({
      client,
      log,
      stateDir,
      network,
      name: nodeName,
      addresses: createAddressAllocator(networks.pods),
      images: createImageTable({ root: environment.root, node: environment.node, stateDir }),
      apiServer: { url: plane.server, caFile: plane.caFile },
      kubelet: plane.kubelet,
      ...(options.gpus === undefined ? {} : { gpus: options.gpus }),
    });
    started.push(() => node.close(2000));

    onProgress('installing the Gateway API and InferencePool definitions');
    const manifests: Manifest[] = [];
    const own = join(environment.root, 'src', 'local', 'crds');
    const ownFiles = (await readdir(own)).filter((file) => file.endsWith('.yaml')).map((file) => join(own, file));
    for (const file of [...definitions, ...ownFiles])
      manifests.push(...parseManifests(await readFile(file, 'utf8'), file));
    manifests.push(renderGatewayClass());
    await applyManifests(client, manifests, { fieldManager: 'signalbox-local', clock: systemClock, ...withSignal });
    const gateway = startGateway({ client, envoy, log, clock: systemClock, addressPrefix: networks.gateways });
    started.push(() => gateway.close());

    return {
      client,
      kubeconfigPath: plane.kubeconfigPath,
      server: plane.server,
      logsDir: join(stateDir, 'logs'),
      accessLogPath: envoy.accessLogPath,
      failed: Promise.race([plane.failed, envoy.failed]),
      close,
    };
  } catch (thrown) {
    await close();
    // What fails because a component has gone is told by what the component says.
    if (crash.signal.aborted) throw crash.signal.reason;
    throw thrown;
  }
}

const execute = promisify(execFile);

async function run(command: string, args: readonly string[]): Promise<string> {
  const { stdout } = await execute(command, [...args], { maxBuffer: 64 * 1024 * 1024, timeout: 300_000 });
  return stdout;
}
