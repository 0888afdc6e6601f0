import { writeFile } from 'node:fs/promises';
import { Command } from 'commander';
import { AppError, messageOf } from '../../../errors.ts';
import { addClusterOptions, type ClusterOptions, withCluster } from '../../connection.ts';
import type { CliDeps } from '../../program.ts';
import { gatherBundle, packBundle } from './run.ts';

interface BundleCommandOptions extends ClusterOptions {
  readonly file?: string;
  readonly logLines: string;
}

/** `signalbox bundle`: an archive for whoever is to help. */
export function bundleCommand(deps: CliDeps): Command {
  const command = new Command('bundle')
    .description('write a support archive: objects, events, logs, metrics and explanations, without secrets')
    .option('-f, --file <file>', 'where to write it; signalbox-bundle-<time>.tar.gz here without it')
    .option('--log-lines <n>', 'last lines of each log', '2000')
    .action(async (options: BundleCommandOptions) => {
      const logLines = Number(options.logLines);
      if (!Number.isInteger(logLines) || logLines < 0)
        throw new AppError('usage', `--log-lines ${options.logLines}: must be a whole number from 0`);
      const folder = `signalbox-bundle-${new Date().toISOString().slice(0, 19).replaceAll(':', '')}`;
      const file = options.file ?? `${folder}.tar.gz`;
      const { output, signal, version } = deps;
      const onProgress = (text: string) => {
        if (output.isTerminal) output.raw(`\r\u001b[K${output.dim(text)}`);
      };
      const files = await withCluster(deps, options, ({ client }) =>
        gatherBundle(client, { namespace: options.namespace, logLines, version, signal, onProgress }),
      );
      if (output.isTerminal) output.raw('\r\u001b[K');
      try {
        // For the eyes of whoever asked: logs may say more than we can take out.
        await writeFile(file, await packBundle(folder, files), { mode: 0o600, flag: 'wx' });
      } catch (thrown) {
        throw new AppError('usage', `--file: cannot write ${file}: ${messageOf(thrown)}`, { cause: thrown });
      }
      const problems = (files.get('problems.txt') ?? '').trim().split('\n');
      output.line(
        `${file}: ${files.size} files${problems[0] === 'everything could be read' ? '' : `, ${problems.length} could not be read (problems.txt)`}`,
      );
      output.line(
        'Credentials have been taken out by their names and shapes; look through the logs before you hand it on.',
      );
    });
  return addClusterOptions(command);
}
