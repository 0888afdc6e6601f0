import type { ParentReference } from '../foreign/gateway-api.ts';
import type { PodTemplate } from '../foreign/pod.ts';
import { type Issue, showValue } from '../issue.ts';
import { labels, sidecarInjectionLabel } from '../labels.ts';
import type { LLMInferenceService, WorkloadSpec } from './llm-inference-service.ts';
import type { LLMInferenceServiceConfig } from './llm-inference-service-config.ts';
import { formOf, parseModelLocation, schemeOf, uriForms } from './model-uri.ts';
import { checkPickerConfig } from './picker-config.ts';
import { checkSupported } from './unsupported.ts';
import { checkSizeUnchanged, checkTopology, warnGpus } from './validate-parallelism.ts';
import { checkScaling } from './validate-scaling.ts';

type Check = (service: LLMInferenceService) => readonly Issue[];

/** Every rule that the schema cannot say, in the order in which its answers are shown. */
const checks: readonly Check[] = [
  checkName,
  checkModelUri,
  checkConfidential,
  checkLora,
  checkModelName,
  ({ spec }) => checkWorkload(spec, 'spec'),
  ({ spec }) => (spec.prefill ? checkWorkload(spec.prefill, 'spec.prefill') : []),
  checkTopology,
  checkScaling,
  checkRoute,
  checkGatewayRefs,
  checkScheduler,
  checkSupported,
];

/**
 * What is wrong with a service that a user wants to write; empty when it may be stored.
 *
 * Assumptions: `service` fits the CRD. An update that leaves the spec alone is always fine, and so is anything on an
 * object that is being deleted: finalizers and labels must stay writable whatever an older version had let in.
 */
export function validateService(service: LLMInferenceService, old?: LLMInferenceService): readonly Issue[] {
  if (service.metadata.deletionTimestamp !== undefined) return [];
  if (old !== undefined && isSame(service.spec, old.spec)) return [];
  return [...checks.flatMap((check) => check(service)), ...(old === undefined ? [] : checkSizeUnchanged(service, old))];
}

/** What a user should know about a service that may be stored. */
export function warnService(service: LLMInferenceService): readonly string[] {
  const warnings: string[] = [];
  const { spec } = service;
  const refs = spec.router?.gateway?.refs ?? [];
  const parents = spec.router?.route?.http?.spec?.parentRefs ?? [];
  if (refs.length > 0 && parents.length > 0) {
    warnings.push(
      'spec.router.route.http.spec.parentRefs can be omitted when spec.router.gateway.refs is set; the operator writes them from there',
    );
  }
  if (spec.tracing && spec.router?.scheduler) {
    warnings.push('spec.tracing: model servers send traces; the endpoint picker of Signalbox sends none yet');
  }
  if (spec.model.confidential?.enabled && /^(pvc|oci|oci\+native):/.test(spec.model.uri)) {
    warnings.push(
      `spec.model.confidential: has no effect with ${showValue(spec.model.uri)}; only weights that are copied into the pod are decrypted`,
    );
  }
  const { pool, template, config, replicas } = spec.router?.scheduler ?? {};
  if (pool?.ref && (pool.spec ?? template ?? config ?? replicas) !== undefined) {
    warnings.push(
      'spec.router.scheduler: with pool.ref no picker is made; pool.spec, template, config and replicas have no effect',
    );
  }
  warnings.push(...warnGpus(service));
  return warnings;
}

/** What is wrong with a base configuration; empty when it may be stored. */
export function validateServiceConfig(config: LLMInferenceServiceConfig): readonly Issue[] {
  if (config.metadata.deletionTimestamp !== undefined) return [];
  const issues: Issue[] = [];
  if ((config.spec?.baseRefs ?? []).length > 0) {
    issues.push({
      path: 'spec.baseRefs',
      code: 'forbidden',
      message: 'baseRefs is not a permitted field of a base configuration; list all bases in the service',
    });
  }
  const replicas = config.spec?.router?.scheduler?.replicas;
  if (replicas !== undefined && replicas < 1) issues.push(schedulerReplicas(replicas));
  return issues;
}

function isSame(a: unknown, b: unknown): boolean {
  // Both come from the API server, which writes keys in one order.
  return JSON.stringify(a) === JSON.stringify(b);
}

/** Children are Services and carry the name as a label, so it must be both. */
function checkName({ metadata: { name } }: LLMInferenceService): readonly Issue[] {
  if (/^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$/.test(name)) return [];
  const message = `"${name}" cannot name Services; use at most 63 lower-case letters, digits and "-", a letter first`;
  return [{ path: 'metadata.name', code: 'invalid', message }];
}

function checkModelUri({ spec }: LLMInferenceService): readonly Issue[] {
  return checkUri(spec.model.uri, 'spec.model.uri');
}

function checkUri(uri: string, path: string): readonly Issue[] {
  if (parseModelLocation(uri)) return [];
  const form = formOf(schemeOf(uri) ?? '');
  const message =
    form === undefined
      ? `unsupported schema in model URI: ${showValue(uri)}; use one of ${uriForms.join(', ')}`
      : `${showValue(uri)} is not of the form ${form}; write it so`;
  return [{ path, code: 'invalid', message }];
}

/** Weights are decrypted where they are copied, so there must be a key, and a copy. */
function checkConfidential({ spec }: LLMInferenceService): readonly Issue[] {
  const { confidential } = spec.model;
  const path = 'spec.model.confidential.resourceId';
  if (
    confidential?.resourceId !== undefined &&
    !/^kbs:\/\/\/[^/\s]+\/[^/\s]+\/[^/\s]+$/.test(confidential.resourceId)
  ) {
    const message = `${showValue(confidential.resourceId)} must be of the form kbs:///repo/type/tag`;
    return [{ path, code: 'invalid', message }];
  }
  if (!confidential?.enabled || confidential.resourceId !== undefined) return [];
  return [
    { path, code: 'required', message: 'resourceId is required when confidential is enabled; kbs:///repo/type/tag' },
  ];
}

/** Adapters stand beside the model: each has a name of its own that requests and routes can carry, and a place. */
function checkLora({ metadata, spec }: LLMInferenceService): readonly Issue[] {
  const { lora } = spec.model;
  const path = 'spec.model.lora';
  const issues: Issue[] = [];
  for (const field of ['maxRank', 'maxAdapters', 'maxCpuAdapters'] as const)
    if ((lora?.[field] ?? 1) < 1)
      issues.push({
        path: `${path}.${field}`,
        code: 'invalid',
        message: `${lora?.[field]}: ${field} must be at least 1`,
      });
  const base = spec.model.name ?? metadata.name;
  const seen = new Map<string, number>();
  for (const [i, { name = '', uri = '' }] of (lora?.adapters ?? []).entries()) {
    const at = `${path}.adapters[${i}]`;
    const first = seen.get(name);
    if (first === undefined) seen.set(name, i);
    const wrong = (code: Issue['code'], message: string) => issues.push({ path: `${at}.name`, code, message });
    if (name === '') wrong('required', 'adapter name is required; requests ask for the adapter by it');
    else if (name.split('/').some((part) => part === '.' || part === '..'))
      wrong('invalid', `${showValue(name)}: adapter name must not include "." or ".." (path traversal risk)`);
    else if (first !== undefined) wrong('duplicate', `${showValue(name)}: duplicate name (same as adapters[${first}])`);
    else if (name === base) wrong('invalid', `adapter name must differ from base model name ${showValue(base)}`);
    else issues.push(...checkNameInPath(name, `${at}.name`));
    issues.push(...checkUri(uri, `${at}.uri`));
  }
  return issues;
}

/** The name becomes part of a route's path and of a header value. */
function checkModelName({ spec }: LLMInferenceService): readonly Issue[] {
  const { name } = spec.model;
  return name === undefined ? [] : checkNameInPath(name, 'spec.model.name');
}

function checkNameInPath(name: string, path: string): readonly Issue[] {
  const isShort = name.length <= 253;
  const isFine =
    isShort &&
    /^[A-Za-z0-9._~:@+/-]+$/.test(name) &&
    !name.split('/').some((part) => part === '' || part === '.' || part === '..');
  if (isFine) return [];
  const message = `${showValue(name)} cannot stand in a URL path; use at most 253 letters, digits and ._~:@+-, with single "/" between parts`;
  return [{ path, code: 'invalid', message }];
}

function checkWorkload(workload: WorkloadSpec, path: string): readonly Issue[] {
  return [
    ...checkLabels(workload.labels, `${path}.labels`),
    ...checkAnnotations(workload.annotations, `${path}.annotations`),
    ...checkTemplate(workload.template, `${path}.template`),
    ...checkTemplate(workload.worker, `${path}.worker`),
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

function checkLabels(given: Readonly<Record<string, string>> | undefined, path: string): readonly Issue[] {
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

function checkAnnotations(given: Readonly<Record<string, string>> | undefined, path: string): readonly Issue[] {
  return Object.keys(given ?? {})
    .filter((key) => !qualifiedName.test(key))
    .map((key) => ({
      path: `${path}[${key}]`,
      code: 'invalid',
      message: `${showValue(key)} is not an annotation name; use prefix/name`,
    }));
}

/** Pod templates are kept as they are, so the little that the renderer relies on is looked at here. */
function checkTemplate(template: PodTemplate | undefined, path: string): readonly Issue[] {
  const issues: Issue[] = [];
  const seen = new Set<string>();
  for (const field of ['containers', 'initContainers'] as const) {
    const list: unknown = template?.[field];
    if (list === undefined || list === null) continue;
    if (!Array.isArray(list)) {
      issues.push({
        path: `${path}.${field}`,
        code: 'invalid',
        message: `${showValue(list)} must be a list of containers`,
      });
      continue;
    }
    for (const [i, container] of list.entries()) {
      const name: unknown = (container as { readonly name?: unknown } | null)?.name;
      const at = `${path}.${field}[${i}].name`;
      if (typeof name !== 'string' || name === '') {
        issues.push({
          path: at,
          code: 'required',
          message: 'a container needs a name; the model server is called main',
        });
      } else if (seen.has(name)) {
        issues.push({
          path: at,
          code: 'duplicate',
          message: `"${name}" is there twice; names of a pod's containers differ`,
        });
      } else seen.add(name);
    }
  }
  return issues;
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
      message: 'maxUnavailable and maxSurge cannot both be zero; no pod could ever be replaced',
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
  const positive = (at: string, amount: string | number) => {
    if (/^\+?(?=.*[1-9])/.test(String(amount).replace(/[eE].*/, ''))) return;
    add(at, 'invalid', `${showValue(amount)}: must be greater than zero; write an amount such as 100Gi`);
  };
  const tiers = offloading.secondary ?? [];
  const cpu = (offloading as { readonly cpu?: string | number }).cpu;
  if (cpu !== undefined && cpu !== '') positive('.cpu', cpu);
  else if (tiers.length > 0) add('.cpu', 'required', 'cpu must be set when secondary tiers are configured');
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
    if ((pvc.spec === undefined) === (pvc.ref === undefined))
      add(`${at}.pvc`, 'invalid', `exactly one of spec or ref must be set${pvc.spec ? '; multiple are set' : ''}`);
    else if (pvc.ref && !pvc.ref.name) add(`${at}.pvc.ref.name`, 'required', 'name is required');
    else if (pvc.ref?.path?.split('/').some((part) => part === '..') || pvc.ref?.path?.startsWith('/'))
      add(`${at}.pvc.ref.path`, 'invalid', `${showValue(pvc.ref.path)}: must be a path inside the claim, without ".."`);
  }
  return issues;
}

function checkRoute({ spec, metadata }: LLMInferenceService): readonly Issue[] {
  const http = spec.router?.route?.http;
  if (!http) return [];
  const issues: Issue[] = [];
  const refs = http.refs ?? [];
  const gateway = spec.router?.gateway;
  const gatewayRefs = gateway?.refs ?? [];
  if (refs.length > 0 && http.spec) {
    issues.push({
      path: 'spec.router.route.http',
      code: 'invalid',
      message: `unsupported configuration: cannot use both custom HTTPRoute refs (${showValue(refs)}) and an inline route spec (${showValue(http.spec)}); choose one`,
    });
  }
  if (refs.length > 0 && gateway && gatewayRefs.length === 0) {
    issues.push({
      path: 'spec.router.route.http.refs',
      code: 'invalid',
      message: `unsupported configuration: custom HTTP routes (${showValue(refs)}) cannot be used with a managed gateway ({}); either remove spec.router.gateway or set spec.router.gateway.refs`,
    });
  }
  const parents = http.spec?.parentRefs ?? [];
  if (parents.length > 0 && gatewayRefs.length > 0) {
    const wanted = gatewayRefs.map((ref) => parentKey(ref, metadata.namespace)).sort();
    const given = parents.map((ref) => parentKey(ref, metadata.namespace)).sort();
    if (!isSame(wanted, given)) {
      issues.push({
        path: 'spec.router.route.http.spec.parentRefs',
        code: 'invalid',
        message: `unsupported configuration: inline HTTPRoute has parentRefs (${showValue(parents)}) that conflict with custom gateway refs (${showValue(gatewayRefs)}); name Gateways in one of the two`,
      });
    }
  }
  return issues;
}

function parentKey(ref: Pick<ParentReference, 'name' | 'namespace' | 'sectionName'>, namespace: string | undefined) {
  return JSON.stringify([ref.namespace ?? namespace ?? '', ref.name, ref.sectionName ?? '']);
}

function checkGatewayRefs({ spec, metadata }: LLMInferenceService): readonly Issue[] {
  const seen = new Set<string>();
  return (spec.router?.gateway?.refs ?? []).flatMap((ref, i): readonly Issue[] => {
    const key = parentKey(ref, metadata.namespace);
    if (!seen.has(key)) {
      seen.add(key);
      return [];
    }
    const message = `${showValue(ref)} is there twice; remove one`;
    return [{ path: `spec.router.gateway.refs[${i}]`, code: 'duplicate', message }];
  });
}

function schedulerReplicas(replicas: number): Issue {
  return {
    path: 'spec.router.scheduler.replicas',
    code: 'invalid',
    message: `${replicas}: scheduler replicas must be greater than zero`,
  };
}

function checkScheduler({ spec }: LLMInferenceService): readonly Issue[] {
  const scheduler = spec.router?.scheduler;
  if (!scheduler) return [];
  const path = 'spec.router.scheduler';
  const { replicas, config } = scheduler;
  const issues: Issue[] = [
    ...checkLabels(scheduler.labels, `${path}.labels`),
    ...checkAnnotations(scheduler.annotations, `${path}.annotations`),
    ...checkTemplate(scheduler.template, `${path}.template`),
  ];
  if (replicas !== undefined && replicas < 1) issues.push(schedulerReplicas(replicas));
  if (config) {
    if (config.inline === undefined && config.ref === undefined) {
      issues.push({ path: `${path}.config`, code: 'required', message: 'either inline or ref is required' });
    } else if (config.inline !== undefined && config.ref !== undefined) {
      issues.push({
        path: `${path}.config`,
        code: 'invalid',
        message: 'both inline and ref are set, either specify inline or ref',
      });
    }
    if (config.ref !== undefined && !config.ref.name)
      issues.push({ path: `${path}.config.ref.name`, code: 'required', message: 'name is empty; name a ConfigMap' });
    if (config.inline !== undefined) issues.push(...checkPickerConfig(config.inline, `${path}.config.inline`));
  }
  return issues;
}
