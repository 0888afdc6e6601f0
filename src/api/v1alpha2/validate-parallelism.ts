import type { Container } from '../foreign/pod.ts';
import type { Issue } from '../issue.ts';
import type { LLMInferenceService, WorkloadSpec } from './llm-inference-service.ts';
import { gpusPerPod, groupSizeOf, isMultiNode } from './parallelism.ts';

/**
 * What is wrong with how replicas are spread over pods.
 *
 * Caveats: a service with base configurations is judged once these are merged; here its own part may be half of it.
 */
export function checkTopology({ spec }: LLMInferenceService): readonly Issue[] {
  if ((spec.baseRefs ?? []).length > 0) return [];
  return workloadsOf(spec).flatMap(([path, workload]) => [
    ...checkParallelism(workload, `${path}.parallelism`),
    ...checkWorker(workload, path),
  ]);
}

/** A group's pods are numbered from the start: its size cannot change. */
export function checkSizeUnchanged(service: LLMInferenceService, old: LLMInferenceService): readonly Issue[] {
  const before = new Map(workloadsOf(old.spec));
  return workloadsOf(service.spec).flatMap(([path, { parallelism }]): readonly Issue[] => {
    const [was, is] = [groupSizeOf(before.get(path)?.parallelism), groupSizeOf(parallelism)];
    if (was === undefined || is === undefined || was === is) return [];
    const message = `total parallelism size is immutable, previous size ${was}, curr size ${is}`;
    return [{ path: `${path}.parallelism`, code: 'unsupported', message }];
  });
}

/** Resources of which one is one device for a rank; parts of GPUs and claims for devices are not judged. */
const gpuResources = ['nvidia.com/gpu', 'amd.com/gpu', 'habana.ai/gaudi', 'gpu.intel.com/xe', 'gpu.intel.com/i915'];

/** Pods that ask for fewer GPUs than their ranks need: vLLM ends at once. */
export function checkGpus({ spec }: LLMInferenceService): readonly Issue[] {
  return shortOfGpus(spec).flatMap(({ path, message, isOwnCommand }) =>
    isOwnCommand ? [] : [{ path: `${path}.parallelism`, code: 'invalid' as const, message }],
  );
}

/** The same where the user's own command decides what the parallelism means. */
export function warnGpus({ spec }: LLMInferenceService): readonly string[] {
  return shortOfGpus(spec).flatMap(({ path, message, isOwnCommand }) =>
    isOwnCommand ? [`${path}.parallelism: ${message}`] : [],
  );
}

function shortOfGpus(spec: LLMInferenceService['spec']) {
  return workloadsOf(spec).flatMap(([path, workload]) => {
    const needed = gpusPerPod(workload);
    const templates = [
      ['template', workload.template],
      ['worker', workload.worker],
    ] as const;
    return templates.flatMap(([field, template]) => {
      const main = containersOf(template).find((container) => container.name === 'main');
      const resource = gpuResources.find((name) => main?.resources?.limits?.[name] !== undefined);
      if (main === undefined || resource === undefined) return [];
      const gpus = Number(main.resources?.limits?.[resource]);
      if (!(gpus < needed)) return [];
      // With Ray the ranks of one pod may be elsewhere.
      const isOwnCommand =
        main.command !== undefined || (main.args ?? []).some((arg) => /distributed-executor-backend|\bray\b/.test(arg));
      const message = `${describe(workload)} needs ${needed} GPUs a pod, but container main of ${path}.${field} asks for ${gpus}; raise ${resource} or lower it`;
      return [{ path, message, isOwnCommand }];
    });
  });
}

/** A list of containers that has not been judged yet. */
function containersOf(template: WorkloadSpec['template']): readonly Container[] {
  const list: unknown = template?.containers;
  return Array.isArray(list) ? list.filter((one): one is Container => typeof one === 'object' && one !== null) : [];
}

/** What the StatefulSets of a group put behind its name in labels: a group's number, and a revision of ten digits. */
const revisionLength = 11;

/**
 * Pods of a LeaderWorkerSet carry a revision label `<name>-<group>-<revision>`, which ends at 63 characters: with a longer
 * name no pod would ever be made.
 */
export function checkGroupNames({ metadata, spec }: LLMInferenceService): readonly Issue[] {
  return workloadsOf(spec).flatMap(([path, workload]): readonly Issue[] => {
    if (!isMultiNode(workload)) return [];
    const suffix = path === 'spec' ? '-kserve-mn' : '-kserve-mn-prefill';
    const surge = workload.rolloutStrategy?.maxSurge;
    const most = (workload.scaling?.maxReplicas ?? workload.replicas ?? 1) + (typeof surge === 'number' ? surge : 0);
    const taken = suffix.length + 1 + String(Math.max(most - 1, 0)).length + revisionLength;
    if (metadata.name.length + taken <= 63) return [];
    const message = `"${metadata.name}" is too long for ${path}.worker: the pods of a group carry its name with ${taken} more characters in a label of 63; use at most ${63 - taken}`;
    return [{ path: 'metadata.name', code: 'invalid', message }];
  });
}

function describe({ parallelism }: WorkloadSpec): string {
  return (['tensor', 'pipeline', 'data', 'dataLocal'] as const)
    .flatMap((field) => (parallelism?.[field] === undefined ? [] : [`${field} ${parallelism[field]}`]))
    .join(', ');
}

function workloadsOf(spec: LLMInferenceService['spec']): readonly (readonly [string, WorkloadSpec])[] {
  return [['spec', spec], ...(spec.prefill ? ([['spec.prefill', spec.prefill]] as const) : [])];
}

function checkParallelism({ parallelism, worker }: WorkloadSpec, path: string): readonly Issue[] {
  const { data, dataLocal, pipeline } = parallelism ?? {};
  const issues: Issue[] = [];
  const say = (at: string, message: string) => issues.push({ path: at, code: 'invalid', message });
  if (pipeline !== undefined && (data !== undefined || dataLocal !== undefined))
    say(path, 'cannot set both pipeline parallelism and data parallelism (data or dataLocal) simultaneously');
  if (data !== undefined && dataLocal === undefined) say(`${path}.dataLocal`, 'dataLocal must be set when data is set');
  if (data === undefined && dataLocal !== undefined) say(`${path}.data`, 'data must be set when dataLocal is set');
  for (const field of ['pipeline', 'data', 'dataLocal'] as const)
    if ((parallelism?.[field] ?? 1) < 1)
      say(`${path}.${field}`, `${parallelism?.[field]}: ${field} parallelism must be greater than 0`);
  if (data !== undefined && dataLocal !== undefined && dataLocal > 0) {
    if (data % dataLocal !== 0)
      say(
        `${path}.data`,
        `${data} must be a multiple of dataLocal ${dataLocal}: each pod of a group holds as many ranks`,
      );
    else if (data > dataLocal && worker === undefined)
      say(
        `${path}.data`,
        `${data} with dataLocal ${dataLocal} needs ${data / dataLocal} pods a replica; describe them in worker, or set dataLocal to ${data}`,
      );
  }
  return issues;
}

function checkWorker(workload: WorkloadSpec, path: string): readonly Issue[] {
  if (!isMultiNode(workload)) return [];
  const { parallelism, worker, rolloutStrategy } = workload;
  const issues: Issue[] = [];
  if (groupSizeOf(parallelism) === undefined && parallelism?.data === undefined && parallelism?.dataLocal === undefined)
    issues.push({
      path: `${path}.worker`,
      code: 'invalid',
      message:
        'when worker is specified, parallelism must be configured for either data parallelism or pipeline parallelism',
    });
  const main = containersOf(worker).find((container) => container.name === 'main');
  const isTaken = (main?.args ?? []).some((arg) => arg === '--config' || arg.startsWith('--config='));
  if (isTaken && main?.command === undefined && (parallelism?.dataLocal ?? 1) > 1)
    issues.push({
      path: `${path}.worker.containers[main].args`,
      code: 'invalid',
      message:
        '--config is where a worker finds its first data-parallel rank when dataLocal is above 1; give the fields of your file as arguments',
    });
  const isZero = (value: number | string | undefined) => value !== undefined && /^0+%?$/.test(String(value));
  if (isZero(rolloutStrategy?.maxUnavailable) && rolloutStrategy?.maxSurge === undefined)
    issues.push({
      path: `${path}.rolloutStrategy.maxSurge`,
      code: 'required',
      message:
        'maxSurge is required for multi-node workloads when maxUnavailable is 0, otherwise no rolling update progress is possible',
    });
  return issues;
}
