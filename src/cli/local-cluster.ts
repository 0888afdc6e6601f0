import { randomBytes } from 'node:crypto';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../clock.ts';
import { AppError } from '../errors.ts';
import type { KubeObject } from '../kube/object.ts';
import { resources } from '../kube/resources.ts';
import { type Cluster, startCluster } from '../local/cluster.ts';
import { renderInstallManifests } from '../local/helm.ts';
import { applyManifests } from '../local/install.ts';
import { type ClusterRecord, readRecord, writeRecord } from './cluster-record.ts';
import type { CliDeps } from './program.ts';

export interface LocalClusterOptions {
  readonly name: string;
  readonly gpus: number;
}

export interface LocalCluster extends Cluster {
  readonly record: ClusterRecord;
}

/** A name for a cluster that nobody chose one for. */
export const temporaryName = (): string => `demo-${randomBytes(3).toString('hex')}`;

interface Deployment extends KubeObject {
  readonly status?: { readonly availableReplicas?: number };
}

/**
 * Starts an embedded cluster with Signalbox installed from its Helm chart.
 *
 * Guarantees: `close` leaves no process and no file but the cache; so does a failure half-way.
 */
export async function startLocalCluster(deps: CliDeps, options: LocalClusterOptions): Promise<LocalCluster> {
  const { environment } = deps;
  if (!/^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/.test(options.name)) {
    throw new AppError('usage', `--name ${options.name}: must be 1 to 32 lower-case letters, digits and dashes`);
  }
  if (await readRecord(environment.stateDir, options.name)) {
    throw new AppError(
      'usage',
      `cluster ${options.name} is up already; \`signalbox down --name ${options.name}\` stops it`,
    );
  }
  const stateDir = join(environment.stateDir, options.name);
  await rm(stateDir, { recursive: true, force: true });
  const record: ClusterRecord = {
    name: options.name,
    pid: process.pid,
    phase: 'starting',
    stateDir,
    logsDir: join(stateDir, 'logs'),
    startedAt: new Date().toISOString(),
  };
  await writeRecord(record);
  const startedAt = Date.now();
  const progress = (line: string) =>
    deps.output.line(`  ${deps.output.dim(`${((Date.now() - startedAt) / 1000).toFixed(1)} s`.padStart(7))}  ${line}`);
  let cluster: Cluster | undefined;
  try {
    cluster = await startCluster({
      environment,
      stateDir,
      gpus: options.gpus,
      onProgress: progress,
      log: deps.log,
      signal: deps.signal,
    });
    await orFailure(cluster, install(deps, cluster, progress));
    const ready: ClusterRecord = {
      ...record,
      phase: 'ready',
      kubeconfig: cluster.kubeconfigPath,
      server: cluster.server,
    };
    await writeRecord(ready);
    const { close } = cluster;
    return {
      ...cluster,
      record: ready,
      close: async () => {
        await close();
        await rm(stateDir, { recursive: true, force: true });
      },
    };
  } catch (thrown) {
    await cluster?.close().catch(() => {});
    await rm(stateDir, { recursive: true, force: true });
    throw thrown;
  }
}

/** The task's result, or the crash of a component when that comes first. */
export function orFailure<T>(cluster: Pick<Cluster, 'failed'>, task: Promise<T>): Promise<T> {
  return Promise.race([task, cluster.failed.then((error) => Promise.reject(error))]);
}

const systemNamespace = 'signalbox-system';

async function install(deps: CliDeps, cluster: Cluster, progress: (line: string) => void): Promise<void> {
  const { manifests, source } = await renderInstallManifests({
    root: deps.environment.root,
    path: deps.environment.path,
    namespace: systemNamespace,
    signal: deps.signal,
  });
  progress(`installing Signalbox from ${source}`);
  await applyManifests(cluster.client, manifests, { fieldManager: 'helm', clock: systemClock, signal: deps.signal });
  progress('waiting for the operator');
  const deadline = Date.now() + 120_000;
  for (;;) {
    deps.signal.throwIfAborted();
    const ref = { namespace: systemNamespace, name: 'signalbox-operator' };
    const deployment = await cluster.client.get<Deployment>(resources.deployments, ref, deps.signal);
    if ((deployment?.status?.availableReplicas ?? 0) > 0) return;
    if (Date.now() > deadline) {
      const log = await readFile(join(cluster.logsDir, 'operator.log'), 'utf8').catch(() => '');
      throw new AppError(
        'timeout',
        `the operator is not available after 120 s; \`kubectl --kubeconfig ${cluster.kubeconfigPath} -n ${systemNamespace} describe pods\` says why${log}`,
      );
    }
    await systemClock.sleep(200, deps.signal);
  }
}
