import { Command } from 'commander';
import { messageOf } from '../../../errors.ts';
import { loadKubeConfig } from '../../../kube/config.ts';
import type { KubeObject } from '../../../kube/object.ts';
import { resources } from '../../../kube/resources.ts';
import { createClient } from '../../../kube/rest-client.ts';
import { hasCode } from '../../../kube/status-error.ts';
import { listRecords } from '../../cluster-record.ts';
import { renderTable } from '../../output.ts';
import type { CliDeps } from '../../program.ts';
import { serviceTable } from '../demo/service-table.ts';

interface Pod extends KubeObject {
  readonly status?: {
    readonly phase?: string;
    readonly podIP?: string;
    readonly containerStatuses?: readonly { readonly ready: boolean; readonly restartCount: number }[];
    readonly initContainerStatuses?: readonly { readonly ready: boolean; readonly restartCount: number }[];
  };
}

/** `signalbox status`: the clusters that are up, their services and pods. */
export function statusCommand(deps: CliDeps): Command {
  return new Command('status')
    .description('show the clusters that are up, their services and pods')
    .action(async () => {
      const { output } = deps;
      const records = await listRecords(deps.environment.stateDir);
      if (records.length === 0) {
        output.line('no cluster is up; `signalbox up` starts one');
        return;
      }
      for (const record of records) {
        output.line(`${output.bold(record.name)}  ${record.phase}, pid ${record.pid}, since ${record.startedAt}`);
        if (!record.kubeconfig) continue;
        output.line(`  kubeconfig ${record.kubeconfig}\n`);
        if (record.phase !== 'ready') continue;
        const client = createClient(await loadKubeConfig({ path: record.kubeconfig }), { log: deps.log });
        try {
          output.line(
            await serviceTable(client).catch((thrown: unknown) => {
              if (hasCode(thrown, 'notFound')) return 'Signalbox is not installed in it.';
              throw thrown;
            }),
          );
          const pods = await client.list<Pod>(resources.pods, {}, deps.signal);
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
        } catch (thrown) {
          // The others are shown all the same.
          output.line(`  its API server does not answer as it should: ${messageOf(thrown)}`);
          if (deps.signal.aborted) throw thrown;
        } finally {
          await client.close();
        }
      }
    });
}
