import { Command } from 'commander';
import type { LLMInferenceService } from '../../../api/v1alpha2/llm-inference-service.ts';
import { AppError } from '../../../errors.ts';
import type { Client } from '../../../kube/client.ts';
import type { KubeObject, Manifest } from '../../../kube/object.ts';
import { resources } from '../../../kube/resources.ts';
import { pathOf } from '../../../kube/rest-client.ts';
import { hasCode } from '../../../kube/status-error.ts';
import { addClusterOptions, type ClusterOptions, withCluster } from '../../connection.ts';
import type { Write } from '../../dry-client.ts';
import { addOutputOption, parseOutputFormat, printResult } from '../../output-format.ts';
import type { CliDeps } from '../../program.ts';
import { readCapacity } from '../explain/gather.ts';
import { readObjects } from '../validate/command.ts';
import { completeService } from '../validate/run.ts';
import { planChanges, planGpus, planLines, type ServicePlan } from './plan.ts';

interface PlanOptions extends ClusterOptions {
  readonly exitCode?: true;
  readonly output: string;
}

/** With `--exit-code`: something would change. */
const changedExit = 3;

/** `signalbox plan FILE…`: what applying services would change in the cluster. */
export function planCommand(deps: CliDeps): Command {
  const command = new Command('plan')
    .description(
      'say what applying services would change: objects with the reason, pods that restart, GPUs needed and free',
    )
    .argument('<files...>', 'YAML or JSON files with services and their base configurations; - for standard input')
    .option('--exit-code', `exit with ${changedExit} when something would change`)
    .action(async (files: readonly string[], options: PlanOptions) => {
      const format = parseOutputFormat(options.output);
      const objects = await readObjects(files);
      const { inNamespace } = await import('../render/render.ts');
      const plans = await withCluster(deps, options, async ({ client, namespace }) => {
        const own = objects.map(({ object, source }) => inNamespace(completeService(object, source), namespace));
        const services = own.filter(({ kind }) => kind === 'LLMInferenceService');
        if (services.length === 0) throw new AppError('usage', `${files.join(', ')}: no LLMInferenceService in it`);
        const others = own.filter(({ kind }) => kind === 'LLMInferenceServiceConfig');
        const result: ServicePlan[] = [];
        for (const service of services) result.push(await planService(deps, client, service, others));
        return result;
      });
      printResult(deps.output, format, plans, (all) => {
        for (const plan of all) for (const line of planLines(plan, deps.output)) deps.output.line(line);
      });
      const refused = plans.filter(({ refusal }) => refusal !== undefined);
      if (refused.length > 0)
        throw new AppError('invalid', `${refused.map(({ service }) => service).join(', ')}: would be refused`);
      if (options.exitCode && plans.some(({ changes }) => changes.length > 0)) deps.setExitCode(changedExit);
    });
  return addOutputOption(addClusterOptions(command));
}

async function planService(
  deps: CliDeps,
  client: Client,
  service: Manifest,
  others: readonly Manifest[],
): Promise<ServicePlan> {
  const { previewService, readOperatorConfig } = await import('../../preview.ts');
  const { signal } = deps;
  const { stored, isNew } = await tryStore(client, service, signal);
  const config = await readOperatorConfig(client, signal);
  const { writes, status } = await previewService({
    ...deps,
    source: client,
    config,
    service: stored,
    others: others.map(asStored),
  });
  const now = new Map<Write, KubeObject | undefined>();
  for (const write of writes) now.set(write, await client.get(write.resource, write.ref, signal));
  const live = (write: Write) => now.get(write);
  const { capacity, nodes } = await readCapacity(client, signal);
  const refusal = status?.conditions?.find(({ type, status: is }) => type === 'PresetsCombined' && is === 'False');
  return {
    service: `${service.metadata.namespace}/${service.metadata.name}`,
    isNew,
    ...(refusal ? { refusal: refusal.message ?? refusal.reason ?? '' } : {}),
    changes: planChanges(writes, live),
    gpus: planGpus(writes, live, capacity, nodes),
  };
}

/** What the API server would store, admission included. Who may not write gets what we know of defaults. */
async function tryStore(
  client: Client,
  service: Manifest,
  signal: AbortSignal,
): Promise<{ readonly stored: LLMInferenceService; readonly isNew: boolean }> {
  const resource = resources.llmInferenceServices;
  const { namespace = 'default', name } = service.metadata;
  const live = await client.get<KubeObject>(resource, { namespace, name }, signal);
  const path = live ? pathOf(resource, { namespace, name }) : pathOf(resource, { namespace });
  const wanted = live
    ? {
        ...live,
        ...service,
        metadata: {
          ...live.metadata,
          ...service.metadata,
          annotations: { ...live.metadata.annotations, ...service.metadata.annotations },
        },
      }
    : service;
  try {
    const stored = await client.request<LLMInferenceService>(
      live ? 'PUT' : 'POST',
      `${path}?dryRun=All`,
      wanted,
      {},
      signal,
    );
    return { stored, isNew: !live };
  } catch (thrown) {
    if (!hasCode(thrown, 'forbidden')) throw thrown;
    const metadata = { uid: 'preview', ...wanted.metadata, generation: (live?.metadata.generation ?? 0) + 1 };
    return { stored: { ...wanted, metadata } as unknown as LLMInferenceService, isNew: !live };
  }
}

/** A configuration as the next to be stored. */
function asStored(object: Manifest): KubeObject {
  return { ...object, metadata: { ...object.metadata, uid: `preview-${object.metadata.name}`, generation: 1 } };
}
