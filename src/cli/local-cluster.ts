import { randomBytes } from 'node:crypto';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../clock.ts';
import { AppError } from '../errors.ts';
import type { KubeObject } from '../kube/object.ts';
import { resources } from '../kube/resources.ts';
import { type Cluster, startCluster } from '../local/cluster.ts';
import { renderInstallManifests } from '../local/helm.ts';
import { applyManifests } from '../local/install.ts';
import { lastLines } from '../local/launch.ts';
import { type ClusterRecord, claimRecord, listRecords, startOf, writeRecord } from './cluster-record.ts';
import type { CliDeps } from './program.ts';

export interface LocalClusterOptions {
  readonly name: string;
  readonly gpus: number;
  /** Without Signalbox in it. */
  readonly bare?: boolean;
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
  checkName(options.name);
  // Also removes what killed clusters have left.
  const others = await listRecords(environment.stateDir);
  if (others.some((other) => other.name === options.name)) {
    throw isUpAlready(options.name);
  }
  const stateDir = join(environment.stateDir, options.name);
  const pidStart = startOf(process.pid);
  const record: ClusterRecord = {
    name: options.name,
    pid: process.pid,
    ...(pidStart === undefined ? {} : { pidStart }),
    phase: 'starting',
    stateDir,
    logsDir: join(stateDir, 'logs'),
    startedAt: new Date().toISOString(),
  };
  if (!(await claimRecord(record))) throw isUpAlready(options.name);
  const startedAt = Date.now();
  const progress = (line: string) =>
    deps.output.line(`  ${deps.output.dim(`${((Date.now() - startedAt) / 1000).toFixed(1)} s`.padStart(7))}  ${line}`);
  let cluster: Cluster | undefined;
  try {
    const running = await startCluster({
      environment,
      stateDir,
      gpus: options.gpus,
      onProgress: progress,
      log: deps.log,
      signal: deps.signal,
    });
    cluster = running;
    if (!options.bare) {
      await orFailure(deps, running, (signal) => install({ environment, signal }, running, progress));
    }
    const ready: ClusterRecord = {
      ...record,
      phase: 'ready',
      kubeconfig: running.kubeconfigPath,
      server: running.server,
    };
    await writeRecord(ready);
    const { close } = running;
    return {
      ...running,
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

/** @throws AppError `usage` */
export function checkName(name: string): void {
  if (/^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/.test(name)) return;
  throw new AppError('usage', `--name ${name}: must be 1 to 32 lower-case letters, digits and dashes`);
}

export const isUpAlready = (name: string): AppError =>
  new AppError('usage', `cluster ${name} is up already; \`signalbox down --name ${name}\` stops it`);

/** The task's result, or the crash of a component when that comes first; the task is aborted then. */
export function orFailure<T>(
  deps: Pick<CliDeps, 'signal'>,
  cluster: Pick<Cluster, 'failed'>,
  task: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const crash = new AbortController();
  void cluster.failed.then((error) => crash.abort(error));
  const done = task(AbortSignal.any([deps.signal, crash.signal])).then((result) => {
    // A task that takes an abort for its end must not hide the crash behind it.
    crash.signal.throwIfAborted();
    return result;
  });
  return Promise.race([cluster.failed.then((error) => Promise.reject(error)), done]);
}

const systemNamespace = 'signalbox-system';

async function install(
  deps: Pick<CliDeps, 'environment' | 'signal'>,
  cluster: Cluster,
  progress: (line: string) => void,
): Promise<void> {
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
      throw new AppError('timeout', `the operator is not available after 120 s. ${await operatorLog(cluster.logsDir)}`);
    }
    await systemClock.sleep(200, deps.signal);
  }
}

/** The end of what the operator's pods have printed; the pods go with the cluster. */
async function operatorLog(logsDir: string): Promise<string> {
  const files = (await readdir(logsDir)).filter((file) => file.startsWith(`${systemNamespace}_signalbox-operator`));
  const logs = await Promise.all(files.map((file) => lastLines(join(logsDir, file))));
  return logs.length === 0 ? 'It has not started.' : `Its last lines:\n${logs.join('\n')}`;
}
