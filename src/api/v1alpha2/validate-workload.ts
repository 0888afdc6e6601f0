import type { Container, PodTemplate } from '../foreign/pod.ts';
import { type Issue, showValue } from '../issue.ts';
import { labels, sidecarInjectionLabel } from '../labels.ts';
import type { LLMInferenceService, WorkloadSpec } from './llm-inference-service.ts';
import { checkKubernetes, checkPodTemplate } from './validate-pod.ts';

/** The rules that `spec` and `spec.prefill` share. */

/** What is wrong with the pods of one workload. */
export function checkWorkload(workload: WorkloadSpec, path: string): readonly Issue[] {
  return [
    ...checkLabels(workload.labels, `${path}.labels`),
    ...checkAnnotations(workload.annotations, `${path}.annotations`),
    ...checkPodTemplate(workload.template, `${path}.template`),
    ...checkPodTemplate(workload.worker, `${path}.worker`),
    ...checkMain(workload.template, `${path}.template`),
    ...checkMain(workload.worker, `${path}.worker`),
    ...checkRollout(workload.rolloutStrategy, `${path}.rolloutStrategy`),
    ...checkOffloading(workload.kvCacheOffloading, `${path}.kvCacheOffloading`),
  ];
}

const qualifiedName = /^([a-z0-9]([-a-z0-9.]*[a-z0-9])?\/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$/;
const labelValue = /^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$/;

/** Labels by which the operator finds its own pods: a user's value would take pods out of their Service. */
const reservedLabels: ReadonlySet<string> = new Set([
  labels.name,
  labels.partOf,
  labels.component,
  labels.kserveComponent,
  labels.role,
  sidecarInjectionLabel,
]);

export function checkLabels(given: Readonly<Record<string, string>> | undefined, path: string): readonly Issue[] {
  return Object.entries(given ?? {}).flatMap(([key, value]): readonly Issue[] => {
    const at = `${path}[${key}]`;
    if (reservedLabels.has(key)) {
      return [{ path: at, code: 'forbidden', message: `${showValue(value)}: the operator sets this label; remove it` }];
    }
    if (!qualifiedName.test(key)) {
      return [{ path: at, code: 'invalid', message: `${showValue(key)} is not a label name; use prefix/name` }];
    }
    if (labelValue.test(value)) return [];
    const message = `${showValue(value)} is not a label value; use at most 63 letters, digits and -_. between them`;
    return [{ path: at, code: 'invalid', message }];
  });
}

export function checkAnnotations(given: Readonly<Record<string, string>> | undefined, path: string): readonly Issue[] {
  return Object.keys(given ?? {})
    .filter((key) => !qualifiedName.test(key))
    .map((key) => ({
      path: `${path}[${key}]`,
      code: 'invalid',
      message: `${showValue(key)} is not an annotation name; use prefix/name`,
    }));
}

function checkRollout(strategy: WorkloadSpec['rolloutStrategy'], path: string): readonly Issue[] {
  if (!strategy) return [];
  const issues: Issue[] = [];
  for (const field of ['maxUnavailable', 'maxSurge'] as const) {
    const value = strategy[field];
    if (value === undefined) continue;
    const at = `${path}.${field}`;
    if (typeof value === 'string' && !/^[0-9]+%$/.test(value)) {
      issues.push({
        path: at,
        code: 'invalid',
        message: `${showValue(value)} must be a number such as 1 or a percentage such as 25%`,
      });
    } else if (typeof value === 'number' && value < 0) {
      issues.push({ path: at, code: 'invalid', message: `${value} must be greater than or equal to 0` });
    } else if (field === 'maxUnavailable' && typeof value === 'string' && Number.parseInt(value, 10) > 100) {
      issues.push({ path: at, code: 'invalid', message: `${showValue(value)} must not be greater than 100%` });
    }
  }
  const isZero = (value: number | string | undefined): boolean => value !== undefined && /^0+%?$/.test(String(value));
  if (isZero(strategy.maxUnavailable) && isZero(strategy.maxSurge)) {
    issues.push({
      path,
      code: 'invalid',
      message: 'maxUnavailable and maxSurge cannot both be zero; this would prevent any rolling update progress',
    });
  }
  return issues;
}

/** Host memory is the tier that all others hang on, and each of those is exactly one kind of place. */
function checkOffloading(offloading: WorkloadSpec['kvCacheOffloading'], path: string): readonly Issue[] {
  if (!offloading) return [];
  const issues: Issue[] = [];
  const add = (at: string, code: Issue['code'], message: string) =>
    issues.push({ path: `${path}${at}`, code, message });
  const isZero = (amount: string | number) => !/^\+?(?=.*[1-9])/.test(String(amount).replace(/[eE].*/, ''));
  const positive = (at: string, amount: string | number) => {
    if (!isZero(amount)) return;
    add(at, 'invalid', `${showValue(amount)}: must be greater than zero; write an amount such as 100Gi`);
  };
  const tiers = offloading.secondary ?? [];
  const cpu = (offloading as { readonly cpu?: string | number }).cpu;
  if (tiers.length === 0) {
    if (cpu !== undefined && cpu !== '') positive('.cpu', cpu);
  } else if (cpu === undefined || cpu === '' || isZero(cpu))
    add('.cpu', 'required', 'cpu must be set when secondary tiers are configured');
  for (const [i, { fileSystem }] of tiers.entries()) {
    const at = `.secondary[${i}].fileSystem`;
    if (!fileSystem) {
      add(at, 'required', 'only fileSystem tiers are supported; fileSystem must be set');
      continue;
    }
    const { emptyDir, pvc } = fileSystem;
    if ((emptyDir === undefined) === (pvc === undefined)) {
      add(at, 'invalid', `exactly one of emptyDir or pvc must be set${emptyDir ? '; multiple are set' : ''}`);
      continue;
    }
    if (emptyDir?.size !== undefined) positive(`${at}.emptyDir.size`, emptyDir.size);
    if (!pvc) continue;
    if (pvc.spec) issues.push(...checkKubernetes(pvc.spec, 'PersistentVolumeClaimSpec', `${path}${at}.pvc.spec`));
    if ((pvc.spec === undefined) === (pvc.ref === undefined))
      add(`${at}.pvc`, 'invalid', `exactly one of spec or ref must be set${pvc.spec ? '; multiple are set' : ''}`);
    else if (pvc.ref && !pvc.ref.name) add(`${at}.pvc.ref.name`, 'required', 'name is required');
    else if (pvc.ref?.path?.split('/').some((part) => part === '..') || pvc.ref?.path?.startsWith('/'))
      add(`${at}.pvc.ref.path`, 'invalid', `${showValue(pvc.ref.path)}: must be a path inside the claim, without ".."`);
  }
  return issues;
}

/**
 * A template adds to the model server by the name `main`. Where there is none and another container looks like a model
 * server, the pod would have two of them.
 */
function checkMain(template: PodTemplate | undefined, path: string): readonly Issue[] {
  return containersBesideMain(template).flatMap((container, i): readonly Issue[] => {
    const device = acceleratorOf(container);
    const words = [...(container.command ?? []), ...(container.args ?? [])];
    const does = device
      ? `asks for ${device}`
      : words.some((word) => /\bvllm\b/.test(String(word)))
        ? 'runs vllm'
        : undefined;
    if (does === undefined) return [];
    const message = `${showValue(container.name)} ${does} and no container is called main; the model server is the container main, so rename it`;
    return [{ path: `${path}.containers[${i}].name`, code: 'invalid', message }];
  });
}

/** Templates that have containers and no `main` among them: the operator adds it. */
export function warnContainers({ spec }: LLMInferenceService): readonly string[] {
  const templates = [
    ['spec.template', spec.template, 'model server'],
    ['spec.worker', spec.worker, 'model server'],
    ['spec.prefill.template', spec.prefill?.template, 'model server'],
    ['spec.prefill.worker', spec.prefill?.worker, 'model server'],
    ['spec.router.scheduler.template', spec.router?.scheduler?.template, 'endpoint picker'],
  ] as const;
  return templates.flatMap(([path, template, what]) => {
    const others = containersBesideMain(template);
    if (others.length === 0) return [];
    const names = others.map(({ name }) => name).join(', ');
    return [`${path}.containers: none is called main, so the ${what} runs beside ${names} as the operator makes it`];
  });
}

/** The containers of a template in which none is `main`. */
function containersBesideMain(template: PodTemplate | undefined): readonly Container[] {
  const containers: unknown = template?.containers;
  if (!Array.isArray(containers)) return [];
  const named = containers.filter((one): one is Container => typeof one === 'object' && one !== null);
  return named.some(({ name }) => name === 'main') ? [] : named;
}

/** A resource such as `nvidia.com/gpu`: one with a domain that is not Kubernetes' own. */
function acceleratorOf({ resources }: Container): string | undefined {
  return Object.keys(resources?.limits ?? {}).find((key) =>
    /^(?!.*kubernetes\.io\/)[^/]+\/.*(gpu|gaudi|tpu|xe|i915|neuron|npu|mig-)/.test(key),
  );
}
