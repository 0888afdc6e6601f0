import type {
  Gateway,
  GatewayClass,
  GatewayListener,
  HTTPRoute,
  ParentReference,
} from '../../api/foreign/gateway-api.ts';
import { keyOf } from '../../kube/object.ts';
import { type Attachment, attachRoute, gatewayGroup, type ParentAttachment, supportedKinds } from './attach.ts';
import {
  type Backend,
  BackendResolver,
  checkPool,
  fromInferencePool,
  fromXInferencePool,
  type Pool,
} from './backends.ts';
import { renderListener } from './envoy-resources.ts';
import { type ResolvedRule, renderRouteConfiguration } from './routes.ts';
import type { GatewayInput, JsonObject, Verdict } from './shapes.ts';
import type { Collector } from './tracing.ts';

/** The name under which this controller claims GatewayClasses and signs statuses. */
export const controllerName = 'signalbox.io/local-envoy';

export interface TranslateOptions {
  /** Loopback address by `namespace/name` of the Gateway. A Gateway without one is not served. */
  readonly addresses: ReadonlyMap<string, string>;
  readonly accessLogPath: string;
  readonly collector?: Collector | undefined;
  /** The file in which a route configuration is delivered. */
  routesPath(name: string): string;
}

/** Everything Envoy is to have; equal input gives equal output. */
export interface EnvoyResources {
  readonly listeners: readonly JsonObject[];
  readonly clusters: readonly JsonObject[];
  readonly routes: ReadonlyMap<string, JsonObject>;
}

export interface ListenerPlan {
  readonly name: string;
  /** The Envoy listener that serves it, or undefined when it is refused. */
  readonly envoyListener: string | undefined;
  readonly attachedRoutes: number;
  readonly supportedKinds: readonly { readonly group: string; readonly kind: string }[];
  readonly verdicts: readonly Verdict[];
}

export interface GatewayPlan {
  readonly gateway: Gateway;
  readonly address: string | undefined;
  readonly accepted: Verdict;
  readonly listeners: readonly ListenerPlan[];
}

export interface RoutePlan {
  readonly route: HTTPRoute;
  readonly parents: readonly { readonly parentRef: ParentReference; readonly verdicts: readonly Verdict[] }[];
}

export interface PoolPlan {
  readonly pool: Pool;
  readonly parents: readonly {
    readonly gateway: { readonly namespace: string; readonly name: string };
    readonly verdicts: readonly Verdict[];
  }[];
}

/** What is to be said about each object, short of what only Envoy knows. */
export interface Translation {
  readonly resources: EnvoyResources;
  readonly classes: readonly { readonly gatewayClass: GatewayClass; readonly accepted: Verdict }[];
  readonly gateways: readonly GatewayPlan[];
  readonly routes: readonly RoutePlan[];
  readonly pools: readonly PoolPlan[];
}

/** Turns the objects of the Gateway API into Envoy's configuration and the verdicts about them. Pure. */
export function translate(input: GatewayInput, options: TranslateOptions): Translation {
  const classes = input.gatewayClasses
    .filter((gatewayClass) => gatewayClass.spec.controllerName === controllerName)
    .map((gatewayClass) => ({ gatewayClass, accepted: checkClass(gatewayClass) }));
  const gateways = sortByKey(selectGateways(input));
  const pools = [...input.inferencePools.map(fromInferencePool), ...input.xInferencePools.map(fromXInferencePool)];
  const resolver = new BackendResolver(input, pools);

  const routes = sortByKey(input.httpRoutes)
    .filter((route) => route.metadata.deletionTimestamp === undefined)
    .map((route) => ({ route, parents: attachRoute(route, gateways, input.namespaces) }))
    .filter(({ parents }) => parents.length > 0)
    .map(({ route, parents }) => ({ route, parents, rules: resolveRules(route, resolver) }));
  const rulesOf = new Map(routes.map(({ route, rules }) => [route, rules]));

  const served = gateways.map((gateway) => {
    const attachments = uniqueAttachments(
      routes.flatMap(({ parents }) => parents.filter((p) => p.gateway === gateway).flatMap((p) => p.attachments)),
    );
    return planGateway(gateway, attachments, options, (route) => rulesOf.get(route) ?? []);
  });

  return {
    resources: {
      listeners: served.flatMap((gateway) => gateway.listeners),
      routes: new Map(served.flatMap((gateway) => gateway.routes)),
      clusters: resolver.clusters,
    },
    classes,
    gateways: served.map((gateway) => gateway.plan),
    routes: routes.map(({ route, parents, rules }) => planRoute(route, parents, rules)),
    pools: pools.map((pool) => planPool(pool, input, routes)),
  };
}

function checkClass(gatewayClass: GatewayClass): Verdict {
  const type = 'Accepted';
  return gatewayClass.spec.parametersRef
    ? { type, status: 'False', reason: 'InvalidParameters', message: 'spec.parametersRef is not supported; remove it' }
    : { type, status: 'True', reason: 'Accepted', message: 'served by a local Envoy' };
}

/** The gateways that are ours to serve: those of accepted classes with our controller's name. */
export function selectGateways(input: Pick<GatewayInput, 'gatewayClasses' | 'gateways'>): readonly Gateway[] {
  const names = new Set(
    input.gatewayClasses
      .filter((c) => c.spec.controllerName === controllerName && checkClass(c).status === 'True')
      .map((c) => c.metadata.name),
  );
  return input.gateways.filter(
    (gateway) => names.has(gateway.spec.gatewayClassName) && gateway.metadata.deletionTimestamp === undefined,
  );
}

function resolveRules(route: HTTPRoute, resolver: BackendResolver): readonly ResolvedRule[] {
  return (route.spec.rules ?? []).map((rule) => ({
    rule,
    backends: (rule.backendRefs ?? []).map((ref) => ({ ref, backend: resolver.resolve(route, ref) })),
  }));
}

/** Two parentRefs of one route may name the same listener. */
function uniqueAttachments(attachments: readonly Attachment[]): readonly Attachment[] {
  return attachments.filter(
    (a, index) => attachments.findIndex((b) => a.route === b.route && a.listener === b.listener) === index,
  );
}

function planGateway(
  gateway: Gateway,
  attachments: readonly Attachment[],
  options: TranslateOptions,
  resolve: (route: HTTPRoute) => readonly ResolvedRule[],
): {
  readonly plan: GatewayPlan;
  readonly listeners: readonly JsonObject[];
  readonly routes: readonly (readonly [string, JsonObject])[];
} {
  const key = keyOf(gateway.metadata);
  const address = options.addresses.get(key);
  const wishes = (gateway.spec.addresses ?? []).filter((a) => a.value !== undefined && a.value !== address);
  const envoyName = (port: number) => `${key.replace('/', '_')}_${port}`;
  const isServed = address !== undefined && wishes.length === 0;

  const plans = gateway.spec.listeners.map((listener): ListenerPlan => {
    const verdicts = checkListener(listener, gateway.spec.listeners);
    const kinds = listener.protocol === 'HTTP' ? supportedKinds(listener) : [];
    const isValid = kinds.length > 0 && !verdicts.some((v) => v.type === 'Conflicted' && v.status === 'True');
    return {
      name: listener.name,
      envoyListener: isValid && isServed ? envoyName(listener.port) : undefined,
      attachedRoutes: attachments.filter((attachment) => attachment.listener === listener).length,
      supportedKinds: kinds,
      verdicts,
    };
  });
  const working = gateway.spec.listeners.filter((_, index) => plans[index]?.envoyListener !== undefined);
  const ports = [...new Set(working.map((listener) => listener.port))].sort((a, b) => a - b);

  return {
    plan: { gateway, address, accepted: checkGateway(plans, wishes, isServed), listeners: plans },
    listeners: ports.map((port) =>
      renderListener({
        name: envoyName(port),
        address: address ?? '',
        port,
        accessLogPath: options.accessLogPath,
        collector: options.collector,
        routesPath: options.routesPath(envoyName(port)),
      }),
    ),
    routes: ports.map((port) => {
      const here = working.filter((listener) => listener.port === port);
      const hostnames = here.map((listener) => listener.hostname || '*');
      const attached = attachments.filter((attachment) => here.includes(attachment.listener));
      return [envoyName(port), renderRouteConfiguration(envoyName(port), port, hostnames, attached, resolve)] as const;
    }),
  };
}

function checkGateway(
  listeners: readonly ListenerPlan[],
  wishes: readonly { readonly value?: string }[],
  isServed: boolean,
): Verdict {
  const type = 'Accepted';
  if (wishes.length > 0) {
    const values = wishes.map((wish) => wish.value).join(', ');
    return {
      type,
      status: 'False',
      reason: 'UnsupportedAddress',
      message: `spec.addresses (${values}) cannot be chosen; leave them out and read status.addresses`,
    };
  }
  const refused = listeners.filter((listener) => listener.envoyListener === undefined).map((listener) => listener.name);
  if (isServed && refused.length > 0) {
    return {
      type,
      status: refused.length === listeners.length ? 'False' : 'True',
      reason: 'ListenersNotValid',
      message: `listeners ${refused.join(', ')} are not valid; see their conditions`,
    };
  }
  return { type, status: 'True', reason: 'Accepted', message: 'the gateway is valid' };
}

function checkListener(listener: GatewayListener, all: readonly GatewayListener[]): readonly Verdict[] {
  const isHttp = listener.protocol === 'HTTP';
  const accepted: Verdict = isHttp
    ? { type: 'Accepted', status: 'True', reason: 'Accepted', message: 'the listener is valid' }
    : {
        type: 'Accepted',
        status: 'False',
        reason: 'UnsupportedProtocol',
        message: `protocol ${listener.protocol} is not supported; use HTTP`,
      };
  const askedKinds = listener.allowedRoutes?.kinds ?? [];
  const unknown = askedKinds.filter((k) => (k.group ?? gatewayGroup) !== gatewayGroup || k.kind !== 'HTTPRoute');
  const resolvedRefs: Verdict =
    unknown.length > 0
      ? {
          type: 'ResolvedRefs',
          status: 'False',
          reason: 'InvalidRouteKinds',
          message: `allowedRoutes.kinds ${unknown.map((k) => k.kind).join(', ')} are not supported; use HTTPRoute`,
        }
      : { type: 'ResolvedRefs', status: 'True', reason: 'ResolvedRefs', message: 'all references are resolved' };
  const onPort = all.filter((other) => other !== listener && other.port === listener.port);
  const twin = onPort.find((other) => (other.hostname || '*') === (listener.hostname || '*'));
  const stranger = onPort.find((other) => other.protocol !== listener.protocol);
  const conflict = stranger
    ? { reason: 'ProtocolConflict', message: `listener ${stranger.name} has another protocol on port ${listener.port}` }
    : twin && { reason: 'HostnameConflict', message: `listener ${twin.name} has the same port and hostname` };
  const conflicted: Verdict = conflict
    ? { type: 'Conflicted', status: 'True', ...conflict }
    : { type: 'Conflicted', status: 'False', reason: 'NoConflicts', message: 'no other listener is in the way' };
  return [accepted, resolvedRefs, conflicted];
}

function planRoute(route: HTTPRoute, parents: readonly ParentAttachment[], rules: readonly ResolvedRule[]): RoutePlan {
  const failures = rules.flatMap(({ backends }) =>
    backends.flatMap(({ backend }) => (backend.kind === 'invalid' ? [backend] : [])),
  );
  const first = failures[0];
  const resolvedRefs: Verdict = first
    ? {
        type: 'ResolvedRefs',
        status: 'False',
        reason: first.reason,
        message: [...new Set(failures.map((failure) => failure.message))].join('; '),
      }
    : { type: 'ResolvedRefs', status: 'True', reason: 'ResolvedRefs', message: 'all backends were found' };
  return {
    route,
    parents: parents.map(({ parentRef, accepted }) => ({ parentRef, verdicts: [accepted, resolvedRefs] })),
  };
}

/** A pool's parents are the gateways whose routes send to it. */
function planPool(
  pool: Pool,
  input: GatewayInput,
  routes: readonly { readonly parents: readonly ParentAttachment[]; readonly rules: readonly ResolvedRule[] }[],
): PoolPlan {
  const { accepted, resolvedRefs } = checkPool(pool, input.services);
  const isOurs = (backend: Backend) => backend.kind !== 'service' && backend.pool === pool;
  const parents = routes
    .filter(({ rules }) => rules.some(({ backends }) => backends.some(({ backend }) => isOurs(backend))))
    .flatMap((route) => route.parents);
  const byGateway = new Map<Gateway, ParentAttachment[]>();
  for (const parent of parents) byGateway.set(parent.gateway, [...(byGateway.get(parent.gateway) ?? []), parent]);
  return {
    pool,
    parents: [...byGateway].map(([gateway, references]) => {
      const isAttached = references.some((parent) => parent.accepted.status === 'True');
      const verdict: Verdict =
        isAttached || accepted.status === 'False'
          ? accepted
          : {
              type: 'Accepted',
              status: 'False',
              reason: 'HTTPRouteNotAccepted',
              message: 'no route that sends requests here is accepted by this gateway',
            };
      return {
        gateway: { namespace: gateway.metadata.namespace ?? '', name: gateway.metadata.name },
        verdicts: [verdict, resolvedRefs],
      };
    }),
  };
}

function sortByKey<T extends { readonly metadata: { readonly name: string; readonly namespace?: string } }>(
  objects: readonly T[],
): readonly T[] {
  return [...objects].sort((a, b) => (keyOf(a.metadata) < keyOf(b.metadata) ? -1 : 1));
}
