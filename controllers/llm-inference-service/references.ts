import { parse } from 'yaml';
import { reasons } from '../../src/api/conditions.ts';
import type { HTTPRoute } from '../../src/api/foreign/gateway-api.ts';
import type { InferencePool, XInferencePool } from '../../src/api/foreign/inference-pool.ts';
import { formatIssues } from '../../src/api/issue.ts';
import type { LLMInferenceService, LLMInferenceServiceSpec } from '../../src/api/v1alpha2/llm-inference-service.ts';
import { checkPickerConfig } from '../../src/api/v1alpha2/picker-config.ts';
import { routeRefsOf } from '../../src/api/v1alpha2/router-wishes.ts';
import { messageOf } from '../../src/errors.ts';
import type { KubeObject } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import type { Combined, Referenced, Surroundings } from '../../src/plan/observed.ts';
import type { ConfigMap } from './caches.ts';
import type { Named, NamedObjects } from './named-objects.ts';

/** The objects of the user's own that a spec names, and what becomes of the spec with them. */

/** Only ConfigMaps of the system namespace that are named so may be used from other namespaces. */
const sharedConfigPrefix = 'config-scheduler-';

interface Input {
  readonly service: LLMInferenceService;
  readonly effective: LLMInferenceServiceSpec;
  readonly served: Surroundings['served'];
  readonly systemNamespace: string;
}

interface Places {
  /** First the namespace of the service. */
  readonly configMaps: readonly Named[];
  readonly routes: readonly Named[];
  readonly pool?: Named;
  readonly xPool?: Named;
}

function placesOf({ service, effective, served, systemNamespace }: Input): Places {
  const namespace = service.metadata.namespace ?? 'default';
  const scheduler = effective.router?.scheduler;
  const config = scheduler?.config?.ref?.name;
  const pool = scheduler?.pool?.ref?.name;
  const configMap = (at: string, name: string): Named => ({
    resource: resources.configMaps,
    ref: { namespace: at, name },
  });
  return {
    configMaps: config
      ? [
          configMap(namespace, config),
          ...(config.startsWith(sharedConfigPrefix) && namespace !== systemNamespace
            ? [configMap(systemNamespace, config)]
            : []),
        ]
      : [],
    routes: served.gatewayApi
      ? routeRefsOf(effective).map((name) => ({ resource: resources.httpRoutes, ref: { namespace, name } }))
      : [],
    ...(pool && served.pool ? { pool: { resource: resources.inferencePools, ref: { namespace, name: pool } } } : {}),
    ...(pool && served.xPool ? { xPool: { resource: resources.xInferencePools, ref: { namespace, name: pool } } } : {}),
  };
}

/** Everything that a service names, to be watched. */
export function namedBy(input: Input): readonly Named[] {
  const { configMaps, routes, pool, xPool } = placesOf(input);
  return [...configMaps, ...routes, ...(pool ? [pool] : []), ...(xPool ? [xPool] : [])];
}

export interface Resolved {
  /** With the picker's configuration in place of the reference to it. */
  readonly effective: LLMInferenceServiceSpec;
  readonly referenced: Referenced;
  /** Why the spec cannot be rendered as it is. */
  readonly refusal?: Combined['refusal'];
}

/** Reads what a service names; what has not been looked for yet refuses, so that nothing is decided by its absence. */
export function resolveReferences(named: NamedObjects, input: Input): Resolved {
  const places = placesOf(input);
  const { effective } = input;
  const unknown: string[] = [];
  const read = <T extends KubeObject>(one: Named | undefined): T | undefined => {
    const found = one && named.get<T>(one);
    if (found !== 'unknown') return found;
    unknown.push(`${one?.resource.kind} ${one?.ref.namespace}/${one?.ref.name}`);
    return undefined;
  };
  const routes = places.routes.map((one) => ({
    name: one.ref.name,
    live: read(one) as unknown as HTTPRoute | undefined,
  }));
  const pool = read(places.pool) as unknown as InferencePool | undefined;
  const xPool = read(places.xPool) as unknown as XInferencePool | undefined;
  const referenced: Referenced = { routes, ...(pool ? { pool } : {}), ...(xPool ? { xPool } : {}) };
  const maps = places.configMaps.map((one) => read<ConfigMap>(one));
  if (unknown.length > 0) {
    const message = `${unknown.join(', ')} cannot be read from the API server yet`;
    return { effective, referenced, refusal: { reason: reasons.refsInvalid, message } };
  }
  const ref = effective.router?.scheduler?.config?.ref;
  if (!ref) return { effective, referenced };
  const config = pickerConfigOf(ref, maps, places.configMaps);
  if (typeof config === 'string')
    return { effective, referenced, refusal: { reason: reasons.configNotFound, message: config } };
  if (config === undefined) return { effective: withConfig(effective, undefined), referenced };
  if ('problem' in config)
    return { effective, referenced, refusal: { reason: reasons.invalidSpec, message: config.problem } };
  return { effective: withConfig(effective, config.inline), referenced };
}

type ConfigRef = NonNullable<
  NonNullable<NonNullable<NonNullable<LLMInferenceServiceSpec['router']>['scheduler']>['config']>['ref']
>;

/** The configuration; undefined where the user does without; text: why it is not there. */
function pickerConfigOf(
  ref: ConfigRef,
  maps: readonly (ConfigMap | undefined)[],
  places: readonly Named[],
): { readonly inline: Readonly<Record<string, unknown>> } | { readonly problem: string } | string | undefined {
  const path = 'spec.router.scheduler.config.ref';
  const map = maps.find((one) => one !== undefined);
  const key = ref.key || 'epp';
  const text = map?.data?.[key];
  if (text === undefined) {
    if (ref.optional === true) return undefined;
    if (map) {
      const keys = Object.keys(map.data ?? {}).join(', ') || 'none';
      return `${path}: ConfigMap ${map.metadata.namespace}/${map.metadata.name} has no key "${key}" (it has: ${keys}); add it or correct the key`;
    }
    const tried = places.map(({ ref: at }) => `${at.namespace}/${at.name}`).join(' nor ');
    return `${path}: there is no ConfigMap ${tried}; make it or correct the name`;
  }
  const at = `ConfigMap ${map?.metadata.namespace}/${map?.metadata.name}, key "${key}"`;
  let inline: unknown;
  try {
    inline = parse(text);
  } catch (thrown) {
    return { problem: `${path}: ${at}: ${messageOf(thrown)}; write an EndpointPickerConfig in YAML` };
  }
  const issues = checkPickerConfig(inline, at, 'the configuration');
  if (issues.length > 0) return { problem: `${path}: ${formatIssues(issues)}` };
  return { inline: inline as Readonly<Record<string, unknown>> };
}

function withConfig(
  spec: LLMInferenceServiceSpec,
  inline: Readonly<Record<string, unknown>> | undefined,
): LLMInferenceServiceSpec {
  const { config: _, ...scheduler } = spec.router?.scheduler ?? {};
  return {
    ...spec,
    router: { ...spec.router, scheduler: { ...scheduler, ...(inline ? { config: { inline } } : {}) } },
  };
}
