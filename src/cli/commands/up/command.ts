import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Command } from 'commander';
import { systemClock } from '../../../clock.ts';
import { AppError } from '../../../errors.ts';
import { isAlive, readRecord } from '../../cluster-record.ts';
import { checkName, isUpAlready, orFailure, startLocalCluster } from '../../local-cluster.ts';
import type { CliDeps } from '../../program.ts';
import { parseGpus, untilAborted } from '../demo/command.ts';

interface UpOptions {
  readonly name: string;
  readonly gpus: string;
  readonly detach?: boolean;
  readonly bare?: boolean;
}

/** `signalbox up`: the cluster alone, in the foreground or behind. */
export function upCommand(deps: CliDeps): Command {
  return new Command('up')
    .description('start a cluster with Signalbox installed')
    .option('--name <name>', 'name of the cluster', 'local')
    .option('--gpus <n>', 'GPUs of the simulated node', '8')
    .option('--bare', 'without Signalbox: to install it by hand, with Helm or kubectl')
    .option('--detach', 'return when it is ready; `signalbox down` stops it')
    .action(async (options: UpOptions) => {
      const gpus = parseGpus(options.gpus);
      if (options.detach) return startDetached(deps, options);
      const cluster = await startLocalCluster(deps, { name: options.name, gpus, bare: options.bare === true });
      try {
        deps.output.line(`\n  export KUBECONFIG=${cluster.kubeconfigPath}\n`);
        if (deps.output.isTerminal) deps.output.line(deps.output.dim('The cluster stays up until Ctrl-C.'));
        await orFailure(deps, cluster, untilAborted);
      } finally {
        await cluster.close();
      }
    });
}

/** Starts this program again, with its output in a file, and waits until the cluster says that it is ready. */
async function startDetached(deps: CliDeps, options: UpOptions): Promise<void> {
  const stateRoot = deps.environment.stateDir;
  checkName(options.name);
  if (await readRecord(stateRoot, options.name)) throw isUpAlready(options.name);
  await mkdir(stateRoot, { recursive: true });
  const logFile = join(stateRoot, `${options.name}.log`);
  const log = openSync(logFile, 'w');
  const args = ['up', '--name', options.name, '--gpus', options.gpus, ...(options.bare ? ['--bare'] : [])];
  const child = spawn(process.execPath, [deps.self, ...args], {
    detached: true,
    stdio: ['ignore', log, log],
  });
  closeSync(log);
  child.unref();
  let told = 0;
  for (;;) {
    const lines = (await readFile(logFile, 'utf8')).split('\n').slice(0, -1);
    const fresh = lines.slice(told).filter((line) => /^ +[\d.]+ s /.test(line));
    for (const line of fresh) deps.output.line(line);
    told = lines.length;
    const record = await readRecord(stateRoot, options.name);
    if (record?.phase === 'ready' && record.pid === child.pid) {
      deps.output.line(`\n  export KUBECONFIG=${record.kubeconfig}\n`);
      deps.output.line(`\`signalbox down --name ${options.name}\` stops it.`);
      return;
    }
    if (child.pid === undefined || !isAlive(child.pid) || child.exitCode !== null) {
      const why = lines.findLastIndex((line) => line.startsWith('signalbox: '));
      const text = why < 0 ? `${logFile} says why` : lines.slice(why).join('\n').replace('signalbox: ', '');
      throw new AppError('internal', `the cluster did not start: ${text}`);
    }
    if (deps.signal.aborted) {
      process.kill(child.pid, 'SIGTERM');
      deps.signal.throwIfAborted();
    }
    await systemClock.sleep(100);
  }
}
