import { readFile } from 'node:fs/promises';
import { Command } from 'commander';
import { AppError, messageOf } from '../../../errors.ts';
import { loadKubeConfig } from '../../../kube/config.ts';
import { createClient } from '../../../kube/rest-client.ts';
import type { CliDeps } from '../../program.ts';
import { fetchExplanation, findPicker } from './run.ts';

interface ExplainOptions {
  readonly url?: string;
  readonly service?: string;
  readonly kubeconfig?: string;
  readonly file?: string;
  readonly path?: string;
  readonly json?: true;
}

/** `signalbox epp`: asks a running endpoint picker. */
export function eppCommand(deps: CliDeps): Command {
  const epp = new Command('epp').description('ask an endpoint picker');
  const explain = new Command('explain')
    .description('why a request went to its pod, or where one would go: verdicts, scores, age of the metrics')
    .argument('[request-id]', 'value of x-request-id; without it the latest requests are listed')
    .option('--file <file>', 'a request body in JSON: where it would go, without being sent')
    .option('--path <path>', 'request path that goes with --file', '/v1/chat/completions')
    .option('--url <url>', "the picker's metrics port", 'http://127.0.0.1:9090')
    .option('--service <namespace/name>', 'the picker of this LLMInferenceService; its pod must be reachable from here')
    .option('--kubeconfig <file>', 'how to find the service; the usual places without it')
    .option('--json', 'the whole explanation as JSON')
    .action(async (requestId: string | undefined, options: ExplainOptions) => {
      if (requestId !== undefined && options.file !== undefined) {
        throw new AppError('usage', 'give a request id or --file, not both');
      }
      const body = options.file === undefined ? undefined : await read(options.file);
      const base =
        options.service === undefined ? options.url : await locate(deps, options.service, options.kubeconfig);
      const text = await fetchExplanation({
        url: base ?? '',
        requestId,
        body,
        path: options.path,
        isJson: options.json === true,
        signal: deps.signal,
      });
      deps.output.raw(text === '' ? 'no request has been seen yet\n' : text);
    });
  // Errors are told once, by the program.
  const quiet = { writeErr: () => {}, writeOut: (text: string) => deps.output.raw(text) };
  epp.action(() => deps.output.raw(epp.helpInformation()));
  return epp.addCommand(explain.exitOverride().configureOutput(quiet));
}

async function read(file: string): Promise<Buffer> {
  try {
    return await readFile(file);
  } catch (thrown) {
    throw new AppError('usage', `--file: cannot read ${file}: ${messageOf(thrown)}`, { cause: thrown });
  }
}

async function locate(deps: CliDeps, service: string, kubeconfig: string | undefined): Promise<string> {
  const client = createClient(await loadKubeConfig(kubeconfig === undefined ? {} : { path: kubeconfig }), {
    log: deps.log,
  });
  try {
    return await findPicker(client, service, deps.signal);
  } finally {
    await client.close();
  }
}
