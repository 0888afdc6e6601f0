import type { HTTPBackendRef, HTTPRouteMatch, HTTPRouteRule } from '../../api/foreign/gateway-api.ts';
import { annotations } from '../../api/labels.ts';
import type { Context } from '../input.ts';
import { servingPort } from '../pod/main.ts';
import { hasModelRouting } from './rules.ts';

/** Rules that are not built in: the service's own, which come first, and those of presets, which take our place. */

export interface GivenRules {
  /** Of the service itself. */
  readonly own: readonly HTTPRouteRule[];
  /** In place of the built-in ones; undefined where no base configuration has any. */
  readonly base: readonly HTTPRouteRule[] | undefined;
  /** Laid over rules of the same name, or over all without a name: rules that say nothing else. */
  readonly timeouts: readonly HTTPRouteRule[];
  /** Whether the service's own rules are all that it wants. */
  readonly isReplacing: boolean;
}

/** Whether a service's own rules are all that it wants, rather than being added to the defaults. */
export function replacesRules(annotationsOfService: Readonly<Record<string, string>> | undefined): boolean {
  return annotationsOfService?.[annotations.routeRules] === 'replace';
}

/** The rules of the effective spec, the service's own first in it, told apart. */
export function givenRules({ service, routeSpec }: Context): GivenRules {
  const count = service.spec.router?.route?.http?.spec?.rules?.length ?? 0;
  const rules = routeSpec?.rules;
  const own = (rules ?? []).slice(0, count);
  const isTimeoutOnly = (rule: HTTPRouteRule) =>
    rule.timeouts !== undefined && Object.keys(rule).every((key) => key === 'timeouts' || key === 'name');
  const base = rules && (count === 0 || rules.length > count) ? rules.slice(count) : undefined;
  return {
    own: own.filter((rule) => !isTimeoutOnly(rule)),
    base,
    timeouts: own.filter(isTimeoutOnly),
    isReplacing: replacesRules(service.metadata.annotations) && own.some((rule) => !isTimeoutOnly(rule)),
  };
}

/** Rules of others that lead to the service's pool lead to it in the API that is served, or to the Service without one. */
export function withPool(context: Context, own: HTTPRouteRule): HTTPRouteRule {
  const { pool, poolName, names } = context;
  if (!own.backendRefs?.some(({ kind, name }) => kind === 'InferencePool' && name === names.pool)) return own;
  const backendRefs = own.backendRefs.map((backend): HTTPBackendRef => {
    if (backend.kind !== 'InferencePool' || backend.name !== names.pool) return backend;
    if (pool) return { ...backend, group: pool, name: poolName };
    return { ...backend, group: '', kind: 'Service', name: names.workloadService, port: backend.port ?? servingPort };
  });
  return { ...own, backendRefs };
}

/** Without model routing a preset's matches by the header go, and rules that have no others with them. */
export function stripModelRouting(context: Context, rules: readonly HTTPRouteRule[]): readonly HTTPRouteRule[] {
  if (hasModelRouting(context)) return rules;
  const wanted = context.platform.routing.modelHeader.toLowerCase();
  const isByModel = ({ headers }: HTTPRouteMatch) =>
    headers?.some(({ name }) => name.toLowerCase() === wanted) ?? false;
  return rules.flatMap((rule) => {
    const matches = rule.matches?.filter((match) => !isByModel(match));
    if (matches?.length === rule.matches?.length) return [rule];
    return matches && matches.length > 0 ? [{ ...rule, matches }] : [];
  });
}
