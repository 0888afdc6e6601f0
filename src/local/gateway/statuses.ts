import type { Gateway, ParentReference, RouteParentStatus } from '../../api/foreign/gateway-api.ts';
import type { KubeObject, Resource } from '../../kube/object.ts';
import { resources } from '../../kube/resources.ts';
import { gatewayGroup } from './attach.ts';
import { poolGroup } from './backends.ts';
import type { GatewayInput, PoolParent, Verdict, XPoolParent } from './shapes.ts';
import { controllerName, type GatewayPlan, type ListenerPlan, type Translation } from './translate.ts';

/** How one Envoy listener is doing. */
export type ListenerState =
  | { readonly kind: 'ready' }
  | { readonly kind: 'pending' }
  | { readonly kind: 'failed'; readonly message: string };

/** A status that differs from what the API server has. `status` replaces the named fields as a whole. */
export interface StatusWrite {
  readonly resource: Resource;
  readonly object: KubeObject;
  readonly status: Readonly<Record<string, unknown>>;
}

/** A condition as it is read: of either schema, which write optional fields differently. */
interface Condition {
  readonly type: string;
  readonly status: 'True' | 'False' | 'Unknown';
  readonly reason?: string | undefined;
  readonly message?: string | undefined;
  readonly lastTransitionTime?: string | undefined;
}

type WrittenCondition = Verdict & { readonly observedGeneration: number; readonly lastTransitionTime: string };

/**
 * The statuses to write, given what Envoy says of its listeners: none when nothing changed.
 *
 * @param now time stamped on conditions whose status changed, RFC 3339 without fractions
 */
export function renderStatuses(
  translation: Translation,
  input: GatewayInput,
  stateOf: (envoyListener: string) => ListenerState,
  now: string,
): readonly StatusWrite[] {
  const writes: StatusWrite[] = [
    ...translation.classes.map(({ gatewayClass, accepted }) => ({
      resource: resources.gatewayClasses,
      object: gatewayClass,
      status: {
        conditions: mergeConditions(gatewayClass.status?.conditions, [accepted], gatewayClass.metadata.generation, now),
        supportedFeatures: supportedFeatures.map((name) => ({ name })),
      },
    })),
    ...translation.gateways.map((plan) => ({
      resource: resources.gateways,
      object: plan.gateway,
      status: renderGatewayStatus(plan, stateOf, now),
    })),
    ...renderRouteStatuses(translation, input, now),
    ...renderPoolStatuses(translation, input, now),
  ];
  return writes.filter(({ object, status }) => {
    const live: Readonly<Record<string, unknown>> =
      (object as { status?: Readonly<Record<string, unknown>> }).status ?? {};
    return Object.entries(status).some(([field, value]) => !isEqual(live[field] ?? emptyOf(value), value));
  });
}

const emptyOf = (value: unknown) => (Array.isArray(value) ? [] : undefined);

function renderGatewayStatus(plan: GatewayPlan, stateOf: (name: string) => ListenerState, now: string) {
  const { gateway, address, accepted } = plan;
  const { generation } = gateway.metadata;
  const listeners = plan.listeners.map((listener) => {
    const live = gateway.status?.listeners?.find((l) => l.name === listener.name)?.conditions;
    return {
      name: listener.name,
      attachedRoutes: listener.attachedRoutes,
      supportedKinds: listener.supportedKinds,
      conditions: mergeConditions(live, judgeListener(listener, stateOf), generation, now),
    };
  });
  const programmed = judgeProgrammed(plan, stateOf);
  return {
    addresses: address !== undefined && accepted.status === 'True' ? [{ type: 'IPAddress', value: address }] : [],
    conditions: mergeConditions(gateway.status?.conditions, [accepted, programmed], generation, now),
    listeners,
  };
}

function judgeListener(listener: ListenerPlan, stateOf: (name: string) => ListenerState): readonly Verdict[] {
  const type = 'Programmed';
  if (listener.envoyListener === undefined) {
    return [...listener.verdicts, { type, status: 'False', reason: 'Invalid', message: 'the listener is not served' }];
  }
  const state = stateOf(listener.envoyListener);
  if (state.kind === 'failed') {
    // A port that cannot be bound is the listener's fault; the API has a word for it.
    const accepted: Verdict = { type: 'Accepted', status: 'False', reason: 'PortUnavailable', message: state.message };
    return [
      ...listener.verdicts.map((v) => (v.type === 'Accepted' && isBindFailure(state.message) ? accepted : v)),
      { type, status: 'False', reason: 'Invalid', message: state.message },
    ];
  }
  return [
    ...listener.verdicts,
    state.kind === 'ready'
      ? { type, status: 'True', reason: 'Programmed', message: 'the proxy listens' }
      : { type, status: 'False', reason: 'Pending', message: 'the proxy has not taken it yet' },
  ];
}

const isBindFailure = (message: string) => /cannot bind|permission denied|address already in use/i.test(message);

function judgeProgrammed(plan: GatewayPlan, stateOf: (name: string) => ListenerState): Verdict {
  const type = 'Programmed';
  if (plan.accepted.status === 'False')
    return { type, status: 'False', reason: 'Invalid', message: plan.accepted.message };
  if (plan.address === undefined)
    return { type, status: 'False', reason: 'AddressNotAssigned', message: 'no address is free' };
  const states = plan.listeners.flatMap((listener) =>
    listener.envoyListener === undefined ? [] : [{ name: listener.name, state: stateOf(listener.envoyListener) }],
  );
  const failed = states.flatMap(({ name, state }) => (state.kind === 'failed' ? [`${name}: ${state.message}`] : []));
  if (failed.length > 0) return { type, status: 'False', reason: 'Invalid', message: failed.join('; ') };
  if (states.some(({ state }) => state.kind === 'pending'))
    return { type, status: 'False', reason: 'Pending', message: 'the proxy has not taken the configuration yet' };
  return { type, status: 'True', reason: 'Programmed', message: `the proxy listens on ${plan.address}` };
}

/** Also routes that no longer name a gateway of ours but still carry what we said of them. */
function renderRouteStatuses(translation: Translation, input: GatewayInput, now: string): readonly StatusWrite[] {
  const plans = new Map(translation.routes.map((plan) => [plan.route, plan.parents]));
  return input.httpRoutes.flatMap((route) => {
    const live = route.status?.parents ?? [];
    const own = live.filter((parent) => parent.controllerName === controllerName);
    const parents = plans.get(route) ?? [];
    if (parents.length === 0 && own.length === 0) return [];
    const said = parents.map(({ parentRef, verdicts }): RouteParentStatus => {
      const before = own.find((parent) => isSameParent(parent.parentRef, parentRef, route.metadata.namespace));
      return {
        parentRef,
        controllerName,
        conditions: mergeConditions(before?.conditions, verdicts, route.metadata.generation, now),
      };
    });
    const others = live.filter((parent) => parent.controllerName !== controllerName);
    return [{ resource: resources.httpRoutes, object: route, status: { parents: [...others, ...said] } }];
  });
}

function isSameParent(a: ParentReference, b: ParentReference, namespace: string | undefined): boolean {
  const key = (ref: ParentReference) =>
    [
      ref.group ?? gatewayGroup,
      ref.kind ?? 'Gateway',
      ref.namespace ?? namespace,
      ref.name,
      ref.sectionName,
      ref.port,
    ].join('/');
  return key(a) === key(b);
}

function renderPoolStatuses(translation: Translation, input: GatewayInput, now: string): readonly StatusWrite[] {
  const ours = new Set(translation.gateways.map((plan) => nameOf(plan.gateway)));
  const known = new Set(input.gateways.map(nameOf));
  // The older kind has no controllerName: an entry is ours when its Gateway is, and nobody's when that is gone.
  const isForeign = (parent: XPoolParent, namespace: string | undefined) => {
    const kind = parent.parentRef.kind ?? 'Status';
    // The kind `Status` is the API's placeholder for "no gateway has spoken yet".
    if (kind !== 'Gateway') return kind !== 'Status';
    const name = `${parent.parentRef.namespace ?? namespace}/${parent.parentRef.name}`;
    return known.has(name) && !ours.has(name);
  };
  return translation.pools.flatMap(({ pool, parents }): readonly StatusWrite[] => {
    const refOf = (gateway: { readonly namespace: string; readonly name: string }) => ({
      group: gatewayGroup,
      kind: 'Gateway',
      namespace: gateway.namespace,
      name: gateway.name,
    });
    const isParent =
      (parent: {
        readonly parentRef: { readonly name?: string | undefined; readonly namespace?: string | undefined };
      }) =>
      (gateway: { readonly namespace: string; readonly name: string }) =>
        parent.parentRef.name === gateway.name && (parent.parentRef.namespace ?? pool.namespace) === gateway.namespace;
    const isPool = (object: { readonly metadata: { readonly name: string; readonly namespace?: string } }) =>
      object.metadata.name === pool.name && object.metadata.namespace === pool.namespace;

    if (pool.group === poolGroup) {
      const object = input.inferencePools.find(isPool);
      if (!object) return [];
      const live = object.status?.parents ?? [];
      const own = live.filter((parent) => parent.controllerName === controllerName);
      if (parents.length === 0 && own.length === 0) return [];
      const said = parents.map(({ gateway, verdicts }): PoolParent => {
        const before = own.find((parent) => isParent(parent)(gateway))?.conditions;
        return {
          parentRef: refOf(gateway),
          controllerName,
          conditions: mergeConditions(before, verdicts, pool.generation, now),
        };
      });
      const others = live.filter((parent) => parent.controllerName !== controllerName);
      return [{ resource: resources.inferencePools, object, status: { parents: [...others, ...said] } }];
    }
    const object = input.xInferencePools.find(isPool);
    if (!object) return [];
    const live = object.status?.parent ?? [];
    const others = live.filter((parent) => isForeign(parent, pool.namespace));
    const own = live.filter((parent) => !others.includes(parent));
    if (parents.length === 0 && own.length === 0) return [];
    const said = parents.map(({ gateway, verdicts }): XPoolParent => {
      const before = own.find((parent) => isParent(parent)(gateway))?.conditions;
      return { parentRef: refOf(gateway), conditions: mergeConditions(before, verdicts, pool.generation, now) };
    });
    return [{ resource: resources.xInferencePools, object, status: { parent: [...others, ...said] } }];
  });
}

const nameOf = (gateway: Gateway) => `${gateway.metadata.namespace}/${gateway.metadata.name}`;

/** Conditions of other types stay; the time of a condition moves only with its status. */
function mergeConditions<C extends Condition>(
  live: readonly C[] | undefined,
  verdicts: readonly Verdict[],
  generation: number | undefined,
  now: string,
): readonly (C | WrittenCondition)[] {
  const said = verdicts.map((verdict) => {
    const before = live?.find((condition) => condition.type === verdict.type);
    const lastTransitionTime = (before?.status === verdict.status && before.lastTransitionTime) || now;
    return {
      ...verdict,
      // The API allows 32768 bytes.
      message: verdict.message.slice(0, 8000),
      observedGeneration: generation ?? 0,
      lastTransitionTime,
    };
  });
  const others = (live ?? []).filter((condition) => !verdicts.some((verdict) => verdict.type === condition.type));
  return [...others, ...said];
}

/** Deep equality of JSON values: an absent field equals an undefined one, the order of conditions does not count. */
function isEqual(a: unknown, b: unknown): boolean {
  return JSON.stringify(canonical(a)) === JSON.stringify(canonical(b));
}

function canonical(value: unknown): unknown {
  if (Array.isArray(value)) {
    const items = value.map(canonical);
    const isConditions = items.every(
      (item) => typeof item === 'object' && item !== null && 'lastTransitionTime' in item,
    );
    return isConditions ? items.map((item) => JSON.stringify(item)).sort() : items;
  }
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, field]) => field !== undefined)
      .sort(([x], [y]) => (x < y ? -1 : 1))
      .map(([key, field]) => [key, canonical(field)]),
  );
}

/** What this gateway claims to support beyond the core, in the words of the Gateway API's conformance tests. */
const supportedFeatures = [
  'Gateway',
  'GatewayHTTPListenerIsolation',
  'GatewayPort8080',
  'HTTPRoute',
  'HTTPRouteBackendProtocolH2C',
  'HTTPRouteBackendRequestHeaderModification',
  'HTTPRouteBackendTimeout',
  'HTTPRouteHostRewrite',
  'HTTPRouteMethodMatching',
  'HTTPRouteNamedRouteRule',
  'HTTPRouteParentRefPort',
  'HTTPRoutePathRedirect',
  'HTTPRoutePathRewrite',
  'HTTPRoutePortRedirect',
  'HTTPRouteQueryParamMatching',
  'HTTPRouteRequestTimeout',
  'HTTPRouteResponseHeaderModification',
  'HTTPRouteSchemeRedirect',
  'ReferenceGrant',
] as const;
