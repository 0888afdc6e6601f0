import type { HTTPBackendRef, HTTPRouteFilter, HTTPRouteMatch, HTTPRouteRule } from '../../api/foreign/gateway-api.ts';
import type { Context } from '../input.ts';
import { servingPort } from '../pod/main.ts';

/** The four endpoints that generate tokens; only they need a picker. */
export const endpoints = ['completions', 'chat-completions', 'responses', 'messages'] as const;

export const pathOf = (endpoint: (typeof endpoints)[number]) => `/v1/${endpoint.replace('chat-', 'chat/')}`;

/** `"false"` in `spec.annotations`, or on a Gateway: no routes by the header below. */
export const modelRoutingAnnotation = 'serving.kserve.io/model-based-routing-enabled';
/** The header that names the model, unless the global configuration names another. */
export const modelRoutingHeader = 'X-Gateway-Model-Name';

/** Path prefixes under which a service answers. */
export function servicePrefix(namespace: string, name: string): string {
  return `/${namespace}/${name}`;
}
export function publisherPrefix(namespace: string, modelName: string): string {
  return `/publishers/${namespace}/models/${modelName}`;
}

/** Whether a service is also reached by the model's name in a header, without any path prefix. */
export function hasModelRouting({ effective, platform: { routing } }: Context): boolean {
  if (routing.modelMode === 'disabled' || effective.annotations?.[modelRoutingAnnotation] === 'false') return false;
  return routing.modelMode === 'forced' || !routing.isModelRefused;
}

export function modelHeader({ platform }: Context, prefix: string) {
  return { type: 'Exact' as const, name: platform.routing.modelHeader, value: prefix.slice(1) };
}

/** Where requests go: to the pool, so that the picker chooses the pod, or to the Service of all pods. */
export function backendsOf(context: Context): { readonly toPods: HTTPBackendRef; readonly toService: HTTPBackendRef } {
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
 * `/v1/models`, go to the Service.
 */
export function renderDefaultRules(context: Context): readonly HTTPRouteRule[] {
  const { namespace, name, modelName } = context;
  const { toPods, toService } = backendsOf(context);
  const byPath = servicePrefix(namespace, name);
  const byPublisher = publisherPrefix(namespace, modelName);
  const header = modelHeader(context, byPublisher);
  const modelRouting = hasModelRouting(context);
  return [
    ...endpoints.map((endpoint) => prefixRule(`v1-${endpoint}-path`, byPath, pathOf(endpoint), toPods)),
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
    ...endpoints.map((endpoint) => prefixRule(`v1-${endpoint}-publisher-path`, byPublisher, pathOf(endpoint), toPods)),
    prefixRule('v1-publisher-path-catch-all', byPublisher, '', toService),
    prefixRule('v1-catch-all-path', byPath, '', toService),
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

/** A rule for everything below a prefix, which is taken off but for `path`. The Gateway API allows one match beside that. */
export function prefixRule(name: string, prefix: string, path: string, backend: HTTPBackendRef): HTTPRouteRule {
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
