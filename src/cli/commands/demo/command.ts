import { Command } from 'commander';
import { AppError } from '../../../errors.ts';
import { orFailure, startLocalCluster, temporaryName } from '../../local-cluster.ts';
import type { CliDeps } from '../../program.ts';
import { serviceTable } from '../../service-table.ts';
import { runDemo } from './run.ts';

/** `signalbox demo`: the whole way from `kubectl apply` to a streamed answer, on a cluster of its own. */
export function demoCommand(deps: CliDeps): Command {
  return new Command('demo')
    .description('start a cluster, install Signalbox, serve a model and hold a conversation with it')
    .option('--once', 'stop after the conversation: exit 0 when all of it was true (the default without a terminal)')
    .option('--name <name>', 'name of the cluster')
    .option('--gpus <n>', 'GPUs of the simulated node', '8')
    .action(async (options: { readonly once?: boolean; readonly name?: string; readonly gpus: string }) => {
      const { output } = deps;
      const startedAt = Date.now();
      output.line(output.bold('Starting a cluster'));
      const cluster = await startLocalCluster(deps, {
        name: options.name ?? temporaryName(),
        gpus: parseGpus(options.gpus),
      });
      try {
        const result = await orFailure(deps, cluster, (signal) =>
          runDemo({ client: cluster.client, root: deps.environment.root, output, log: deps.log, signal }),
        );
        output.line(output.bold('\nkubectl get llmisvc'));
        output.line(await serviceTable(cluster.client));
        output.line(
          `\n  export KUBECONFIG=${cluster.kubeconfigPath}\n` +
            `  curl -N ${result.url}/v1/chat/completions -H 'content-type: application/json' \\\n` +
            `    -d '{"model":"${result.model}","stream":true,"messages":[{"role":"user","content":"Hello!"}]}'`,
        );
        if (result.problems.length > 0) {
          throw new AppError('internal', `the demo is not as promised: ${result.problems.join('; ')}`);
        }
        output.line(`\n${output.good('✓')} all of it was true, in ${((Date.now() - startedAt) / 1000).toFixed(0)} s`);
        if (options.once || !output.isTerminal) return;
        output.line(output.dim('The cluster stays up until Ctrl-C.'));
        await orFailure(deps, cluster, untilAborted);
      } finally {
        await cluster.close();
      }
    });
}

export function parseGpus(text: string): number {
  const gpus = Number(text);
  if (!Number.isInteger(gpus) || gpus < 0 || gpus > 1024) {
    throw new AppError('usage', `--gpus ${text}: must be a whole number from 0 to 1024`);
  }
  return gpus;
}

/** Resolves at Ctrl-C or SIGTERM. */
export function untilAborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}
