import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Command } from 'commander';
import { systemClock } from '../../../clock.ts';
import { AppError } from '../../../errors.ts';
import { isRunning, readRecord } from '../../cluster-record.ts';
import type { CliDeps } from '../../program.ts';

/** `signalbox down`: stops a cluster and waits until nothing of it is left. */
export function downCommand(deps: CliDeps): Command {
  return new Command('down')
    .description('stop a cluster')
    .option('--name <name>', 'name of the cluster', 'local')
    .action(async (options: { readonly name: string }) => {
      const record = await readRecord(deps.environment.stateDir, options.name);
      if (!record) throw new AppError('notFound', `no cluster ${options.name} is up; \`signalbox status\` lists them`);
      process.kill(record.pid, 'SIGTERM');
      const deadline = Date.now() + 60_000;
      while (isRunning(record)) {
        if (Date.now() > deadline)
          throw new AppError('timeout', `process ${record.pid} of cluster ${options.name} has not ended after 60 s`);
        await systemClock.sleep(100, deps.signal);
      }
      await rm(join(deps.environment.stateDir, `${options.name}.log`), { force: true });
      deps.output.line(`cluster ${options.name} is down`);
    });
}
