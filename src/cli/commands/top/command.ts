import { Command } from 'commander';
import { labels } from '../../../api/labels.ts';
import { systemClock } from '../../../clock.ts';
import { AppError } from '../../../errors.ts';
import { parseDurationMs } from '../../../flags.ts';
import type { Client } from '../../../kube/client.ts';
import type { ObjectRef } from '../../../kube/object.ts';
import { resources } from '../../../kube/resources.ts';
import { addClusterOptions, type ClusterOptions, parseServiceRef, shortReason, withCluster } from '../../connection.ts';
import { renderTable } from '../../output.ts';
import { addOutputOption, parseOutputFormat, printResult } from '../../output-format.ts';
import { readPod } from '../../pod-access.ts';
import type { CliDeps } from '../../program.ts';
import { getService, isPodReady, type PodObject } from '../../service.ts';
import { loadBetween, loadTable, type PodLoad, parseReading, type Reading, roleOf, unreadable } from './run.ts';

interface TopOptions extends ClusterOptions {
  readonly interval: string;
  readonly once?: true;
  readonly output: string;
}

const modelPort = 8000;

/** `signalbox top SERVICE`: what each model server does right now. */
export function topCommand(deps: CliDeps): Command {
  const command = new Command('top')
    .description('requests, tokens, time to first token, KV cache and cache hits of each pod of a service, live')
    .argument('<service>', 'NAME or NAMESPACE/NAME')
    .option('--interval <duration>', 'time between two readings', '2s')
    .option('--once', 'print one table and end (the default without a terminal)')
    .action(async (text: string, options: TopOptions) => {
      const format = parseOutputFormat(options.output);
      const intervalMs = parseDurationMs(options.interval);
      if (intervalMs === undefined || intervalMs < 100)
        throw new AppError('usage', `--interval ${options.interval}: must be a duration from 100ms, such as 2s`);
      const isLive = deps.output.isTerminal && !options.once && format === 'text';
      await withCluster(deps, options, async ({ client, namespace }) => {
        const ref = parseServiceRef(text, namespace);
        await getService(client, ref, deps.signal);
        let before = await readAll(client, ref, deps.signal);
        do {
          await systemClock.sleep(intervalMs, deps.signal);
          const after = await readAll(client, ref, deps.signal);
          const loads = after.map((now) =>
            loadOf(
              now,
              before.find(({ pod }) => pod === now.pod),
            ),
          );
          before = after;
          // Home, then clear what is below: no flicker.
          if (isLive) deps.output.raw('\u001b[H\u001b[J');
          printResult(deps.output, format, loads, () => {
            deps.output.line(`${deps.output.bold(`${ref.namespace}/${ref.name}`)}  every ${options.interval}\n`);
            deps.output.line(renderTable(loadTable(loads)));
          });
        } while (isLive);
      });
    });
  return addOutputOption(addClusterOptions(command));
}

interface Sample {
  readonly pod: string;
  readonly role: string;
  readonly reading?: Reading;
  readonly problem?: string;
}

async function readAll(client: Client, ref: Required<ObjectRef>, signal: AbortSignal): Promise<readonly Sample[]> {
  const labelSelector = `${labels.name}=${ref.name},${labels.kserveComponent}=workload`;
  const { items } = await client.list<PodObject>(resources.pods, { namespace: ref.namespace, labelSelector }, signal);
  return Promise.all(
    items.map(async (pod): Promise<Sample> => {
      const base = { pod: pod.metadata.name, role: roleOf(pod.metadata.labels) };
      if (!isPodReady(pod)) return { ...base, problem: `not ready (${pod.status?.phase ?? 'unknown'})` };
      try {
        const page = await readPod(client, pod, { port: modelPort, path: '/metrics' }, signal);
        return { ...base, reading: parseReading(page, Date.now()) };
      } catch (thrown) {
        if (signal.aborted) throw thrown;
        return { ...base, problem: `its metrics cannot be read: ${shortReason(thrown)}` };
      }
    }),
  );
}

function loadOf(now: Sample, before: Sample | undefined): PodLoad {
  if (now.reading === undefined) return unreadable(now.pod, now.role, now.problem ?? 'no figures');
  return loadBetween(now.pod, now.role, before?.reading ?? now.reading, now.reading);
}
