import type {
  HTTPBackendRef,
  HTTPRouteFilter,
  HTTPRouteMatch,
  HTTPRouteRule,
  HTTPRouteSpec,
} from '../../api/foreign/gateway-api.ts';
import { components } from '../../api/labels.ts';
import type { Manifest } from '../../kube/object.ts';
import type { Context } from '../input.ts';
import { componentLabels } from '../labels.ts';
import { manifestOf, ownerOf } from '../manifest.ts';
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

/** The HTTPRoute that the operator makes, where the service asks for one. */
export function renderRoute(context: Context): readonly Manifest[] {
  const { service, name, namespace, names, effective, routeSpec } = context;
  if (!context.platform.served.gatewayApi || effective.router?.route === undefined) return [];
  const spec: HTTPRouteSpec = {
    ...routeSpec,
    parentRefs: gatewayParents(context),
    rules: routeSpec?.rules ?? renderRules(context),
  };
  return [
    manifestOf(
      { group: 'gateway.networking.k8s.io', version: 'v1', kind: 'HTTPRoute' },
      {
        name: names.route,
        namespace,
        labels: componentLabels(name, components.router),
        ownerReferences: ownerOf(service),
      },
      { spec },
    ),
  ];
}

/**
 * Requests that generate tokens go to the pool, so that the picker chooses the pod; all others, such as
 * `/v1/models`, go to the Service. Time-outs are left out: generating takes as long as it takes.
 */
function renderRules(context: Context): readonly HTTPRouteRule[] {
  const { namespace, name, names, modelName } = context;
  const toService: HTTPBackendRef = {
    group: '',
    kind: 'Service',
    name: names.workloadService,
    port: servingPort,
    weight: 1,
  };
  const toPods: HTTPBackendRef = context.pool
    ? { group: context.pool, kind: 'InferencePool', name: context.names.pool, port: servingPort, weight: 1 }
    : toService;
  const byPath = servicePrefix(namespace, name);
  const byPublisher = publisherPrefix(namespace, modelName);
  const header = { type: 'Exact' as const, name: modelRoutingHeader, value: byPublisher.slice(1) };
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
