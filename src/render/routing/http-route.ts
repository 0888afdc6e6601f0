import type { HTTPRouteMatch, HTTPRouteRule, HTTPRouteSpec } from '../../api/foreign/gateway-api.ts';
import { components, labels } from '../../api/labels.ts';
import { routeRefsOf } from '../../api/v1alpha2/router-wishes.ts';
import type { Manifest } from '../../kube/object.ts';
import type { Context } from '../input.ts';
import { componentLabels } from '../labels.ts';
import { manifestOf, ownerOf } from '../manifest.ts';
import { childName } from '../names.ts';
import { servingPort } from '../pod/main.ts';
import { renderAdapterRules } from './adapter-rules.ts';
import { gatewayParents } from './gateway.ts';
import { type GroupMember, shareRules, sharingOf } from './group.ts';
import { givenRules, stripModelRouting, withPool } from './own-rules.ts';
import { publisherPrefix, renderDefaultRules, servicePrefix } from './rules.ts';

/** The Gateway API allows as many rules in a route, and as many matches in all of them. */
const maxRules = 16;
const maxMatches = 128;

/**
 * The HTTPRoutes that the operator makes, where the service asks for one: one, and more where rules exceed what the Gateway
 * API allows in one.
 */
export function renderRoute(context: Context): readonly Manifest[] {
  const { service, name, namespace, names, effective, routeSpec } = context;
  if (!context.platform.served.gatewayApi || effective.router?.route === undefined) return [];
  if (routeRefsOf(effective).length > 0) return [];
  const group = effective.router.route.group;
  const route = (suffix: string, rules: readonly HTTPRouteRule[], more: Readonly<Record<string, string>> = {}) => {
    const { parentRefs: _parents, rules: _rules, ...rest } = routeSpec ?? {};
    const spec: HTTPRouteSpec = {
      ...rest,
      parentRefs: gatewayParents(context),
      rules: rules.map((rule) => fitted(context, rule)),
    };
    return manifestOf(
      { group: 'gateway.networking.k8s.io', version: 'v1', kind: 'HTTPRoute' },
      {
        name: suffix === '' ? names.route : childName(name, `-kserve-route${suffix}`),
        namespace,
        labels: {
          ...componentLabels(name, components.router),
          ...(group ? { [labels.routingGroup]: group } : {}),
          ...more,
        },
        ownerReferences: ownerOf(service),
      },
      { spec },
    );
  };
  const { own, base, timeouts, isReplacing } = givenRules(context);
  const members = context.group ? sharingOf(context.group, context.modelName).sharing : [];
  const share = (rules: readonly HTTPRouteRule[], some: readonly GroupMember[] = members) =>
    shareRules(rules, {
      members: some,
      ownPool: context.pool && { name: context.poolName, group: context.pool },
      ownService: names.workloadService,
      sharedName: (match) => sharedNameOf(context, match),
    });
  // A default of the same name is what the service's own rule stands for.
  const taken = new Set(own.map((rule) => rule.name).filter((one) => one !== undefined));
  const defaults = isReplacing
    ? []
    : (base ? stripModelRouting(context, base) : renderDefaultRules(context)).filter(
        (rule) => rule.name === undefined || !taken.has(rule.name),
      );
  const overlaid = (rule: HTTPRouteRule): HTTPRouteRule => {
    const over = timeouts.filter(({ name: of }) => of === undefined || of === rule.name);
    if (over.length === 0) return rule;
    return { ...rule, timeouts: Object.assign({}, rule.timeouts, ...over.map((one) => one.timeouts)) };
  };
  const [first = [], ...rest] = inRoutes(share([...own, ...defaults].map((rule) => overlaid(withPool(context, rule)))));
  const adapters = isReplacing
    ? { beside: [], further: [] }
    : renderAdapterRules(context, memberOrSelf(context), share, rest.length > 0 ? 0 : maxRules - first.length);
  const fits = matchesOf([...first, ...adapters.beside]) <= maxMatches;
  return [
    route('', [...first, ...(fits ? adapters.beside : []).map(overlaid)]),
    ...rest.map((rules, i) => route(`-${i + 2}`, rules)),
    ...(fits || adapters.beside.length === 0 ? [] : [route('-lora-0', adapters.beside.map(overlaid))]),
    ...(context.probesPool && context.hasPicker
      ? [route('-pool-probe', [probeRule(context)], { [labels.probe]: 'pool' })]
      : []),
    ...adapters.further.map(({ suffix, rules }) => route(suffix, rules.map(overlaid))),
  ];
}

/** Who may share adapters: the group, where there is one. */
function memberOrSelf(context: Context): readonly GroupMember[] {
  return context.group ? sharingOf(context.group, context.modelName).sharing : [];
}

/** Leads a path that nobody calls to the pool in its newest API: the gateway's verdict on it is all that is wanted. */
function probeRule({ namespace, name, names }: Context): HTTPRouteRule {
  return {
    name: 'pool-probe',
    matches: [{ path: { type: 'Exact', value: `${servicePrefix(namespace, name)}/.pool-probe` } }],
    backendRefs: [
      { group: 'inference.networking.k8s.io', kind: 'InferencePool', name: names.pool, port: servingPort, weight: 1 },
    ],
  };
}

/** In as few routes as the limits allow, in their order. */
function inRoutes(rules: readonly HTTPRouteRule[]): readonly (readonly HTTPRouteRule[])[] {
  const routes: HTTPRouteRule[][] = [];
  for (const rule of rules) {
    const last = routes.at(-1);
    if (last && last.length < maxRules && matchesOf([...last, rule]) <= maxMatches) last.push(rule);
    else routes.push([rule]);
  }
  return routes;
}

function matchesOf(rules: readonly HTTPRouteRule[]): number {
  return rules.reduce((sum, { matches }) => sum + Math.max(1, matches?.length ?? 0), 0);
}

/** The model or adapter that a match goes by: in its path or in the header. */
function sharedNameOf({ namespace, name, platform }: Context, { path, headers }: HTTPRouteMatch): string | undefined {
  const models = `${publisherPrefix(namespace, '')}`;
  const wanted = platform.routing.modelHeader.toLowerCase();
  const value = headers?.find((header) => header.name.toLowerCase() === wanted)?.value;
  if (value !== undefined && `/${value}`.startsWith(models)) return value;
  const text = path?.value ?? '/';
  if (text === servicePrefix(namespace, name) || text.startsWith(`${servicePrefix(namespace, name)}/`))
    return undefined;
  return text.startsWith(models) ? text : undefined;
}

/**
 * The rule as the gateways of the service take it. Generating takes as long as it takes, but Envoy gives up after 15 s
 * unless told otherwise, and Google's gateway refuses routes that speak of time-outs. Istio keeps one picker for each name
 * of a rule, whichever route the rule is in.
 */
function fitted({ namespace, name, platform: { routing } }: Context, rule: HTTPRouteRule): HTTPRouteRule {
  const { timeouts, ...rest } = rule;
  const named =
    routing.needsUniqueNames && rest.name !== undefined ? { ...rest, name: `${namespace}.${name}.${rest.name}` } : rest;
  if (routing.omitsTimeouts) return named;
  return { ...named, timeouts: { request: '0s', backendRequest: '0s', ...timeouts } };
}
