import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Command } from 'commander';
import { AppError } from '../../../errors.ts';
import { readRecord } from '../../cluster-record.ts';
import type { CliDeps } from '../../program.ts';

interface LogsOptions {
  readonly name: string;
  readonly container?: string;
  readonly namespace?: string;
}

/** `signalbox logs POD [-c NAME]`: what a container of a cluster has printed. */
export function logsCommand(deps: CliDeps): Command {
  return new Command('logs')
    .description('print the log of a container')
    .argument('<pod>', 'name of the pod')
    .option('-c, --container <name>', 'container; needed when the pod has several')
    .option('-n, --namespace <namespace>', 'namespace of the pod; needed when two have one of that name')
    .option('--name <name>', 'name of the cluster', 'local')
    .action(async (pod: string, options: LogsOptions) => {
      const record = await readRecord(deps.environment.stateDir, options.name);
      if (!record) throw new AppError('notFound', `no cluster ${options.name} is up; \`signalbox status\` lists them`);
      const found = (await readdir(record.logsDir))
        .map((file) => ({ file, parts: file.replace(/\.log$/, '').split('_') }))
        .filter(({ parts }) => parts.length === 3 && parts[1] === pod)
        .filter(({ parts }) => options.namespace === undefined || parts[0] === options.namespace)
        .filter(({ parts }) => options.container === undefined || parts[2] === options.container);
      const only = found[0];
      if (!only) {
        throw new AppError(
          'notFound',
          `pod ${pod}${options.container ? `, container ${options.container}` : ''} has no log in cluster ${options.name}; \`signalbox status\` lists the pods`,
        );
      }
      if (found.length > 1) {
        const names = found.map(({ parts }) => `${parts[0]}/${parts[2]}`).join(', ');
        throw new AppError('usage', `pod ${pod} has several logs (${names}); choose with -n and -c`);
      }
      deps.output.raw(await readFile(join(record.logsDir, only.file), 'utf8'));
    });
}
