import { Command } from 'commander';
import { systemClock } from '../../../clock.ts';
import { AppError, messageOf } from '../../../errors.ts';
import { parseDurationMs } from '../../../flags.ts';
import type { Client } from '../../../kube/client.ts';
import { loadKubeConfig } from '../../../kube/config.ts';
import { resources } from '../../../kube/resources.ts';
import { createClient } from '../../../kube/rest-client.ts';
import { hasCode } from '../../../kube/status-error.ts';
import { listRecords } from '../../cluster-record.ts';
import { watchConditions } from '../../condition-lines.ts';
import { addClusterOptions, type ClusterOptions, parseServiceRef, withCluster } from '../../connection.ts';
import { renderTable } from '../../output.ts';
import { addOutputOption, parseOutputFormat, printResult } from '../../output-format.ts';
import type { CliDeps } from '../../program.ts';
import { getService, type PodObject, type ServiceObject } from '../../service.ts';
import { serviceTable } from '../../service-table.ts';

interface StatusOptions extends ClusterOptions {
  readonly watch?: true;
  readonly wait?: string;
  readonly output: string;
}

const redrawMs = 1_000;

/** `signalbox status`: how services are; without a cluster named, the embedded clusters that are up. */
export function statusCommand(deps: CliDeps): Command {
  const command = new Command('status')
    .description('how services are: those of the cluster named by a flag, or of the embedded clusters that are up')
    .argument('[service]', 'NAME or NAMESPACE/NAME: its conditions')
    .option('-w, --watch', 'go on showing what changes')
    .option('--wait <duration>', 'wait until the service is Ready; exit 1 when it is not by then')
    .action(async (text: string | undefined, options: StatusOptions) => {
      const format = parseOutputFormat(options.output);
      if (text !== undefined) return showService(deps, text, options);
      if (options.wait !== undefined) throw new AppError('usage', '--wait needs a service to wait for');
      if (!isClusterNamed(options)) {
        if (format !== 'text') throw new AppError('usage', `-o ${format} needs --kubeconfig, --context or --namespace`);
        return repeat(deps, options, () => showLocalClusters(deps));
      }
      return repeat(deps, options, () =>
        withCluster(deps, options, async ({ client }) => {
          const scope = options.namespace === undefined ? {} : { namespace: options.namespace };
          if (format === 'text') return deps.output.line(await serviceTable(client, options.namespace));
          const { items } = await client.list<ServiceObject>(resources.llmInferenceServices, scope, deps.signal);
          printResult(deps.output, format, items.map(summaryOf), () => {});
        }),
      );
    });
  return addOutputOption(addClusterOptions(command));
}

function isClusterNamed({ kubeconfig, context, namespace }: StatusOptions): boolean {
  return kubeconfig !== undefined || context !== undefined || namespace !== undefined;
}

/** Once, or anew each second on a cleared screen. */
async function repeat({ output, signal }: CliDeps, { watch }: StatusOptions, show: () => Promise<void>): Promise<void> {
  for (;;) {
    if (watch && output.isTerminal) output.raw('\u001b[H\u001b[J');
    await show();
    if (!watch) return;
    await systemClock.sleep(redrawMs, signal);
  }
}

async function showService(deps: CliDeps, text: string, options: StatusOptions): Promise<void> {
  const format = parseOutputFormat(options.output);
  const waitMs = options.wait === undefined ? undefined : parseDurationMs(options.wait);
  if (options.wait !== undefined && waitMs === undefined)
    throw new AppError('usage', `--wait ${options.wait}: must be a duration such as 10m`);
  await withCluster(deps, options, async ({ client, namespace }) => {
    const ref = parseServiceRef(text, namespace);
    const service = await getService(client, ref, deps.signal);
    if (waitMs !== undefined || options.watch)
      await watchConditions({ ...deps, client, ref, timeoutMs: options.watch ? undefined : waitMs });
    else printResult(deps.output, format, summaryOf(service), () => showConditions(deps, service));
  });
}

function summaryOf({ metadata, spec, status }: ServiceObject) {
  return {
    namespace: metadata.namespace,
    name: metadata.name,
    model: spec.model?.name ?? metadata.name,
    ready: status?.conditions?.find(({ type }) => type === 'Ready')?.status === 'True',
    ...(status?.url === undefined ? {} : { url: status.url }),
    conditions: status?.conditions ?? [],
  };
}

function showConditions({ output }: CliDeps, service: ServiceObject): void {
  const { namespace, name } = service.metadata;
  output.line(`${output.bold(`${namespace}/${name}`)}  ${service.status?.url ?? 'no URL yet'}`);
  for (const { type, status, reason, message } of service.status?.conditions ?? []) {
    const isTrue = status === 'True';
    output.line(
      `  ${isTrue ? output.good('✓') : output.bad('✗')} ${type.padEnd(28)} ${isTrue ? '' : (message ?? reason ?? '')}`.trimEnd(),
    );
  }
}

async function showLocalClusters(deps: CliDeps): Promise<void> {
  const { output } = deps;
  const records = await listRecords(deps.environment.stateDir);
  if (records.length === 0) {
    output.line(
      'no embedded cluster is up (`signalbox up` starts one); for another cluster give --kubeconfig, --context or --namespace',
    );
    return;
  }
  for (const record of records) {
    output.line(`${output.bold(record.name)}  ${record.phase}, pid ${record.pid}, since ${record.startedAt}`);
    if (!record.kubeconfig) continue;
    output.line(`  kubeconfig ${record.kubeconfig}\n`);
    if (record.phase !== 'ready') continue;
    const client = createClient(await loadKubeConfig({ path: record.kubeconfig }), { log: deps.log });
    try {
      await showCluster(deps, client);
    } catch (thrown) {
      // The others are shown all the same.
      output.line(`  its API server does not answer as it should: ${messageOf(thrown)}`);
      if (deps.signal.aborted) throw thrown;
    } finally {
      await client.close();
    }
  }
}

async function showCluster({ output, signal }: CliDeps, client: Client): Promise<void> {
  output.line(
    await serviceTable(client).catch((thrown: unknown) => {
      if (hasCode(thrown, 'notFound')) return 'Signalbox is not installed in it.';
      throw thrown;
    }),
  );
  const pods = await client.list<PodObject>(resources.pods, {}, signal);
  output.line();
  output.line(
    renderTable([
      ['NAMESPACE', 'POD', 'READY', 'PHASE', 'RESTARTS', 'ADDRESS'],
      ...pods.items.map((pod) => {
        const containers = pod.status?.containerStatuses ?? [];
        const restarts = [...containers, ...(pod.status?.initContainerStatuses ?? [])];
        return [
          pod.metadata.namespace ?? '',
          pod.metadata.name,
          `${containers.filter((c) => c.ready).length}/${containers.length}`,
          pod.status?.phase ?? '',
          String(restarts.reduce((sum, c) => sum + c.restartCount, 0)),
          pod.status?.podIP ?? '',
        ];
      }),
    ]),
  );
}
