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

/** What a user should know about the GPUs that pods ask for. */
export function warnGpus({ spec }: LLMInferenceService): readonly string[] {
  return workloadsOf(spec).flatMap(([path, workload]) => {
    const needed = gpusPerPod(workload);
    const templates = [
      ['template', workload.template],
      ['worker', workload.worker],
    ] as const;
    return templates.flatMap(([field, template]) => {
      const main = template?.containers?.find((container) => container.name === 'main');
      const gpus = Number(main?.resources?.limits?.['nvidia.com/gpu'] ?? Number.NaN);
      if (!(gpus < needed)) return [];
      return [
        `${path}.parallelism: ${describe(workload)} needs ${needed} GPUs a pod, but container main of ${path}.${field} asks for ${gpus}; raise nvidia.com/gpu or lower it`,
      ];
    });
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
  if (data !== undefined && dataLocal !== undefined) {
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
  const main = worker?.containers?.find((container) => container.name === 'main');
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
      message: 'maxSurge is required for multi-node workloads when maxUnavailable is 0, or no group could be replaced',
    });
  return issues;
}
