import type { ParentReference } from '../foreign/gateway-api.ts';
import { type Issue, showValue } from '../issue.ts';
import { annotations } from '../labels.ts';
import { checkDevices, deviceAnnotationsOf } from './devices.ts';
import { checkVersions, warnVersions } from './engine-version.ts';
import type { LLMInferenceService } from './llm-inference-service.ts';
import type { LLMInferenceServiceConfig } from './llm-inference-service-config.ts';
import { formOf, parseModelLocation, schemeOf, uriForms } from './model-uri.ts';
import { checkPickerConfig, checkPluginTypes, isOwnPicker } from './picker-config.ts';
import { checkSupported } from './unsupported.ts';
import { checkGpus, checkGroupNames, checkSizeUnchanged, checkTopology, warnGpus } from './validate-parallelism.ts';
import { checkPodTemplate } from './validate-pod.ts';
import { checkScaling } from './validate-scaling.ts';
import { checkAnnotations, checkLabels, checkWorkload, warnContainers } from './validate-workload.ts';

type Check = (service: LLMInferenceService) => readonly Issue[];

/** Every rule that the schema cannot say, in the order in which its answers are shown. */
const checks: readonly Check[] = [
  checkName,
  checkTlsAnnotation,
  checkModelUri,
  checkConfidential,
  checkLora,
  checkModelName,
  ({ spec }) => checkWorkload(spec, 'spec'),
  ({ spec }) => (spec.prefill ? checkWorkload(spec.prefill, 'spec.prefill') : []),
  checkTopology,
  checkGpus,
  checkVersions,
  checkGroupNames,
  checkScaling,
  checkRoute,
  checkTraffic,
  checkGatewayRefs,
  checkScheduler,
  checkDevices,
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
  const isUnchanged =
    old !== undefined &&
    isSame(service.spec, old.spec) &&
    isSame(deviceAnnotationsOf(service), deviceAnnotationsOf(old));
  if (isUnchanged) return [];
  return [...checks.flatMap((check) => check(service)), ...(old === undefined ? [] : checkSizeUnchanged(service, old))];
}

function checkTlsAnnotation({ metadata }: LLMInferenceService): readonly Issue[] {
  const value = metadata.annotations?.[annotations.tls];
  if (value === undefined || value === 'true' || value === 'false') return [];
  const message = `${showValue(value)} is neither "true" nor "false"; write one of them, or leave the annotation out for the cluster's choice`;
  return [{ path: `metadata.annotations[${annotations.tls}]`, code: 'invalid', message }];
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
  if (spec.model.confidential?.enabled && /^(pvc|oci|oci\+native):/.test(spec.model.uri)) {
    warnings.push(
      `spec.model.confidential: has no effect with ${showValue(spec.model.uri)}; only weights that are copied into the pod are decrypted`,
    );
  }
  if (spec.router?.ingress) {
    warnings.push('spec.router.ingress: has no effect; requests come by spec.router.gateway and spec.router.route');
  }
  const { pool, template, config, replicas } = spec.router?.scheduler ?? {};
  if (pool?.ref && (pool.spec ?? template ?? config ?? replicas) !== undefined) {
    warnings.push(
      'spec.router.scheduler: with pool.ref no picker is made; pool.spec, template, config and replicas have no effect',
    );
  }
  warnings.push(...warnContainers(service), ...warnGpus(service), ...warnVersions(service));
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
  const { template, worker, prefill, router } = config.spec ?? {};
  const templates = {
    template,
    worker,
    'prefill.template': prefill?.template,
    'prefill.worker': prefill?.worker,
    'router.scheduler.template': router?.scheduler?.template,
    'router.scheduler.tokenizer.template': router?.scheduler?.tokenizer?.template,
  };
  // Another layer may bring what is missing.
  for (const [path, pod] of Object.entries(templates))
    issues.push(...checkPodTemplate(pod, `spec.${path}`, { isPartial: true }));
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

function checkRoute({ spec, metadata }: LLMInferenceService): readonly Issue[] {
  const http = spec.router?.route?.http;
  if (!http) return [];
  const issues: Issue[] = [];
  const at = 'spec.router.route.http';
  const gatewayPath = 'spec.router.gateway.refs';
  const refs = http.refs ?? [];
  const gateway = spec.router?.gateway;
  const gatewayRefs = gateway?.refs ?? [];
  if (refs.length > 0 && http.spec) {
    issues.push({
      path: at,
      code: 'invalid',
      message: `unsupported configuration: cannot use both custom HTTPRoute refs ('${at}.refs') and an inline route spec ('${at}.spec'); choose one`,
    });
  }
  if (refs.length > 0 && gateway && gatewayRefs.length === 0) {
    issues.push({
      path: `${at}.refs`,
      code: 'invalid',
      message: `unsupported configuration: custom HTTP routes ('${at}.refs') cannot be used with a managed gateway ('spec.router.gateway'); either remove '${at}.refs' or set '${gatewayPath}'`,
    });
  }
  const parents = http.spec?.parentRefs ?? [];
  if (parents.length > 0 && gatewayRefs.length > 0) {
    const wanted = gatewayRefs.map((ref) => parentKey(ref, metadata.namespace)).sort();
    const given = parents.map((ref) => parentKey(ref, metadata.namespace)).sort();
    if (!isSame(wanted, given)) {
      issues.push({
        path: `${at}.spec`,
        code: 'invalid',
        message: `unsupported configuration: managed HTTP route spec ('${at}.spec') has parentRefs that conflict with custom gateway refs ('${gatewayPath}'); either remove '${gatewayPath}' or '${at}.spec.parentRefs'`,
      });
    }
  }
  return issues;
}

/** A share of the traffic needs both a group and a weight, and routes that the operator makes. */
function checkTraffic({ spec }: LLMInferenceService): readonly Issue[] {
  const { route, ingress } = spec.router ?? {};
  const { group, weight } = route ?? {};
  if (group === undefined && weight === undefined) return [];
  const path = 'spec.router.route';
  const issue = (field: 'group' | 'weight', code: Issue['code'], message: string): readonly Issue[] => [
    { path: `${path}.${field}`, code, message },
  ];
  if (ingress !== undefined)
    return issue(
      'group',
      'invalid',
      'traffic splitting requires Gateway API routing; the controller manages HTTPRoutes, not Ingress resources',
    );
  if (group === undefined) return issue('group', 'required', 'weight requires group');
  if (weight === undefined) return issue('weight', 'required', 'group requires weight');
  if ((route?.http?.refs ?? []).length === 0) return [];
  return issue(
    'group',
    'invalid',
    'traffic splitting cannot be used with custom HTTPRoute refs; use routes that the operator makes (route.http.spec or route.http: {})',
  );
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
    ...checkPodTemplate(scheduler.template, `${path}.template`),
    ...checkPodTemplate(scheduler.tokenizer?.template, `${path}.tokenizer.template`),
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
    if (config.inline !== undefined)
      issues.push(
        ...checkPickerConfig(config.inline, `${path}.config.inline`),
        ...(isOwnPicker(scheduler) ? [] : checkPluginTypes(config.inline, `${path}.config.inline`)),
      );
  }
  return issues;
}
