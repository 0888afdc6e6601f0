import { Command } from 'commander';
import { AppError } from '../../../errors.ts';
import { addClusterOptions, type ClusterOptions, parseServiceRef, withCluster } from '../../connection.ts';
import { addOutputOption, parseOutputFormat, printResult } from '../../output-format.ts';
import type { CliDeps } from '../../program.ts';
import { explainService } from './explain.ts';
import { gatherExplanation } from './gather.ts';
import { rootCauses, treeLines } from './tree.ts';

interface ExplainOptions extends ClusterOptions {
  readonly all?: true;
  readonly output: string;
}

/** `signalbox explain SERVICE`: one tree of causes, from the service down to the container. */
export function explainCommand(deps: CliDeps): Command {
  const command = new Command('explain')
    .description(
      'why a service is not ready: causes down to container, image, GPU, route or certificate, with what to do',
    )
    .argument('<service>', 'NAME or NAMESPACE/NAME')
    .option('--all', 'show what is well in full, too')
    .action(async (text: string, options: ExplainOptions) => {
      const format = parseOutputFormat(options.output);
      const tree = await withCluster(deps, options, async ({ client, namespace }) =>
        explainService(await gatherExplanation(client, parseServiceRef(text, namespace), deps.signal)),
      );
      const { output } = deps;
      printResult(output, format, tree, () => {
        for (const line of treeLines(tree, output, options.all === true)) output.line(line);
      });
      const roots = rootCauses(tree);
      if (roots.length > 0)
        throw new AppError('unavailable', `${tree.what} is not well: ${roots.map(({ what }) => what).join(', ')}`);
    });
  return addOutputOption(addClusterOptions(command));
}
