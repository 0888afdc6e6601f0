import type {
  HTTPBackendRef,
  HTTPRouteFilter,
  HTTPRouteMatch,
  HTTPRouteRule,
  HTTPRouteSpec,
} from '../../api/foreign/gateway-api.ts';
import { components } from '../../api/labels.ts';
import { routeRefsOf } from '../../api/v1alpha2/router-wishes.ts';
import type { Manifest } from '../../kube/object.ts';
import type { Context } from '../input.ts';
import { componentLabels } from '../labels.ts';
import { manifestOf, ownerOf } from '../manifest.ts';
import { childName } from '../names.ts';
import { type Adapter, adaptersOf } from '../pod/lora.ts';
import { servingPort } from '../pod/main.ts';
import { gatewayParents } from './gateway.ts';

/** The four endpoints that generate tokens; only they need a picker. */
const endpoints = ['completions', 'chat-completions', 'responses', 'messages'] as const;

const pathOf = (endpoint: (typeof endpoints)[number]) => `/v1/${endpoint.replace('chat-', 'chat/')}`;

/** `"true"` in `spec.annotations`: route by the header below too, without any path prefix. */
export const modelRoutingAnnotation = 'serving.kserve.io/model-based-routing-enabled';
export const modelRoutingHeader = 'X-Gateway-Model-Name';

/** Path prefixes under which a service answers. */
export function servicePrefix(namespace: string, name: string): string {
  return `/${namespace}/${name}`;
}
export function publisherPrefix(namespace: string, modelName: string): string {
  return `/publishers/${namespace}/models/${modelName}`;
}

/** Whether a service is also reached by the model's name in a header. */
export function hasModelRouting(spec: {
  readonly annotations?: Readonly<Record<string, string>> | undefined;
}): boolean {
  return spec.annotations?.[modelRoutingAnnotation] === 'true';
}

/**
 * Adapters whose rules fit beside the service's own in one HTTPRoute, and in one of their own: each takes five matches, and
 * the Gateway API allows 16 rules of 64 matches, 128 matches in all.
 */
const adaptersBesideRules = 20;
const adaptersPerRoute = 24;
const adaptersPerRule = 16;

/** The HTTPRoutes that the operator makes, where the service asks for one: one, and more where adapters need them. */
export function renderRoute(context: Context): readonly Manifest[] {
  const { service, name, namespace, names, effective, routeSpec } = context;
  if (!context.platform.served.gatewayApi || effective.router?.route === undefined) return [];
  if (routeRefsOf(effective).length > 0) return [];
  const routed = routeSpec?.rules === undefined && hasModelRouting(effective) ? adaptersOf(effective) : [];
  const beside = routed.slice(0, adaptersBesideRules);
  const rest = chunk(routed.slice(adaptersBesideRules), adaptersPerRoute);
  const route = (suffix: string, rules: readonly HTTPRouteRule[]) => {
    const spec: HTTPRouteSpec = { ...routeSpec, parentRefs: gatewayParents(context), rules };
    return manifestOf(
      { group: 'gateway.networking.k8s.io', version: 'v1', kind: 'HTTPRoute' },
      {
        name: suffix === '' ? names.route : childName(name, `-kserve-route${suffix}`),
        namespace,
        labels: componentLabels(name, components.router),
        ownerReferences: ownerOf(service),
      },
      { spec },
    );
  };
  return [
    route('', [
      ...(routeSpec?.rules?.map((own) => withPool(context, own)) ?? renderRules(context)),
      ...renderAdapterRules(context, beside),
    ]),
    ...rest.map((adapters, i) => route(`-lora-${i + 1}`, renderAdapterRules(context, adapters))),
  ];
}

/** Rules of others that lead to the service's pool lead to it in the API that is served, or to the Service without one. */
function withPool(context: Context, own: HTTPRouteRule): HTTPRouteRule {
  const { pool, poolName, names } = context;
  if (!own.backendRefs?.some(({ kind, name }) => kind === 'InferencePool' && name === names.pool)) return own;
  const backendRefs = own.backendRefs.map((backend): HTTPBackendRef => {
    if (backend.kind !== 'InferencePool' || backend.name !== names.pool) return backend;
    if (pool) return { ...backend, group: pool, name: poolName };
    return { ...backend, group: '', kind: 'Service', name: names.workloadService, port: backend.port ?? servingPort };
  });
  return { ...own, backendRefs };
}

function chunk<T>(list: readonly T[], size: number): readonly (readonly T[])[] {
  return Array.from({ length: Math.ceil(list.length / size) }, (_, i) => list.slice(i * size, (i + 1) * size));
}

/** Requests that name an adapter in the header go where those of the model go. */
function renderAdapterRules(context: Context, adapters: readonly Adapter[]): readonly HTTPRouteRule[] {
  if (adapters.length === 0) return [];
  const { toPods, toService } = backendsOf(context);
  const match = ({ name }: Adapter, path: string): HTTPRouteMatch => ({
    path: { type: 'PathPrefix', value: path },
    headers: [modelHeader(publisherPrefix(context.namespace, name))],
  });
  return [
    ...chunk(adapters, adaptersPerRule).map((some, i) => ({
      name: `v1-lora-model-routing-${i}`,
      matches: some.flatMap((adapter) => endpoints.map((endpoint) => match(adapter, pathOf(endpoint)))),
      backendRefs: [toPods],
    })),
    {
      name: 'v1-lora-catch-all-model-routing',
      matches: adapters.map((adapter) => match(adapter, '/')),
      backendRefs: [toService],
    },
  ];
}

function modelHeader(prefix: string) {
  return { type: 'Exact' as const, name: modelRoutingHeader, value: prefix.slice(1) };
}

/** Where requests go: to the pool, so that the picker chooses the pod, or to the Service of all pods. */
function backendsOf(context: Context): { readonly toPods: HTTPBackendRef; readonly toService: HTTPBackendRef } {
  const toService: HTTPBackendRef = {
    group: '',
    kind: 'Service',
    name: context.names.workloadService,
    port: servingPort,
    weight: 1,
  };
  const toPods: HTTPBackendRef = context.pool
    ? { group: context.pool, kind: 'InferencePool', name: context.poolName, port: servingPort, weight: 1 }
    : toService;
  return { toPods, toService };
}

/**
 * Requests that generate tokens go to the pool, so that the picker chooses the pod; all others, such as
 * `/v1/models`, go to the Service. Time-outs are left out: generating takes as long as it takes.
 */
function renderRules(context: Context): readonly HTTPRouteRule[] {
  const { namespace, name, modelName } = context;
  const { toPods, toService } = backendsOf(context);
  const byPath = servicePrefix(namespace, name);
  const byPublisher = publisherPrefix(namespace, modelName);
  const header = modelHeader(byPublisher);
  const modelRouting = hasModelRouting(context.effective);
  return [
    ...endpoints.map((endpoint) => rule(`v1-${endpoint}-path`, byPath, pathOf(endpoint), toPods)),
    ...(modelRouting
      ? [
          {
            name: 'v1-model-routing',
            matches: endpoints.flatMap((endpoint) =>
              [pathOf(endpoint), `${pathOf(endpoint)}/`].map(
                (value): HTTPRouteMatch => ({ path: { type: 'Exact', value }, headers: [header] }),
              ),
            ),
            backendRefs: [toPods],
          },
        ]
      : []),
    ...endpoints.map((endpoint) => rule(`v1-${endpoint}-publisher-path`, byPublisher, pathOf(endpoint), toPods)),
    rule('v1-publisher-path-catch-all', byPublisher, '', toService),
    rule('v1-catch-all-path', byPath, '', toService),
    ...(modelRouting
      ? [
          {
            name: 'v1-catch-all-model-routing',
            matches: [{ path: { type: 'PathPrefix' as const, value: '/' }, headers: [header] }],
            backendRefs: [toService],
          },
        ]
      : []),
  ];
}

function rule(name: string, prefix: string, path: string, backend: HTTPBackendRef): HTTPRouteRule {
  const filter: HTTPRouteFilter = {
    type: 'URLRewrite',
    urlRewrite: { path: { type: 'ReplacePrefixMatch', replacePrefixMatch: path || '/' } },
  };
  return {
    name,
    matches: [{ path: { type: 'PathPrefix', value: prefix + path } }],
    filters: [filter],
    backendRefs: [backend],
  };
}
