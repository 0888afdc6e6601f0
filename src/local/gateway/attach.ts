import type { Gateway, GatewayListener, HTTPRoute, ParentReference } from '../../api/foreign/gateway-api.ts';
import type { KubeObject } from '../../kube/object.ts';
import { type LabelSelector, matchesSelector } from '../../kube/selectors.ts';
import { checkFilters } from './filters.ts';
import { intersect } from './hostname.ts';
import { checkMatch } from './match.ts';
import type { Verdict } from './shapes.ts';

export const gatewayGroup = 'gateway.networking.k8s.io';

/** A route on a listener, for the hosts that both name. */
export interface Attachment {
  readonly route: HTTPRoute;
  readonly listener: GatewayListener;
  readonly hostnames: readonly string[];
}

export interface ParentAttachment {
  readonly parentRef: ParentReference;
  readonly gateway: Gateway;
  readonly accepted: Verdict;
  /** Empty unless accepted. */
  readonly attachments: readonly Attachment[];
}

/** Judges every parentRef of a route that names one of the gateways; the others belong to someone else. */
export function attachRoute(
  route: HTTPRoute,
  gateways: readonly Gateway[],
  namespaces: readonly KubeObject[],
): readonly ParentAttachment[] {
  return (route.spec.parentRefs ?? []).flatMap((parentRef) => {
    const gateway = findParent(route, parentRef, gateways);
    return gateway ? [attachToParent(route, parentRef, gateway, namespaces)] : [];
  });
}

function findParent(route: HTTPRoute, ref: ParentReference, gateways: readonly Gateway[]): Gateway | undefined {
  if ((ref.group ?? gatewayGroup) !== gatewayGroup || (ref.kind ?? 'Gateway') !== 'Gateway') return undefined;
  const namespace = ref.namespace ?? route.metadata.namespace;
  return gateways.find((g) => g.metadata.name === ref.name && g.metadata.namespace === namespace);
}

function attachToParent(
  route: HTTPRoute,
  parentRef: ParentReference,
  gateway: Gateway,
  namespaces: readonly KubeObject[],
): ParentAttachment {
  const refuse = (reason: string, message: string): ParentAttachment => ({
    parentRef,
    gateway,
    accepted: { type: 'Accepted', status: 'False', reason, message },
    attachments: [],
  });
  const name = `${gateway.metadata.namespace}/${gateway.metadata.name}`;

  const named = gateway.spec.listeners.filter(
    (listener) =>
      (parentRef.sectionName === undefined || listener.name === parentRef.sectionName) &&
      (parentRef.port === undefined || listener.port === parentRef.port),
  );
  if (named.length === 0) {
    const has = gateway.spec.listeners.map((l) => `${l.name} (port ${l.port})`).join(', ');
    return refuse('NoMatchingParent', `Gateway ${name} has no listener that sectionName and port name; it has ${has}`);
  }
  const allowing = named.filter((listener) => isAllowed(route, gateway, listener, namespaces));
  if (allowing.length === 0) {
    return refuse(
      'NotAllowedByListeners',
      `allowedRoutes of Gateway ${name} do not admit an HTTPRoute from namespace ${route.metadata.namespace}`,
    );
  }
  const attachments = allowing.flatMap((listener) => {
    const hostnames = sharedHostnames(route, listener);
    return hostnames.length > 0 ? [{ route, listener, hostnames }] : [];
  });
  if (attachments.length === 0) {
    return refuse(
      'NoMatchingListenerHostname',
      `no hostname of the route (${(route.spec.hostnames ?? []).join(', ')}) is one of Gateway ${name}`,
    );
  }
  const problem = checkRules(route);
  if (problem) return refuse(problem.reason, problem.message);
  return {
    parentRef,
    gateway,
    accepted: { type: 'Accepted', status: 'True', reason: 'Accepted', message: 'the route is attached' },
    attachments,
  };
}

function checkRules(route: HTTPRoute): { readonly reason: string; readonly message: string } | undefined {
  for (const [index, rule] of (route.spec.rules ?? []).entries()) {
    const where = `spec.rules[${index}]`;
    const problem = checkFilters(rule) ?? (rule.matches ?? []).map(checkMatch).find((reason) => reason !== undefined);
    if (problem) return { reason: 'UnsupportedValue', message: `${where}: ${problem}` };
    const types = (rule.filters ?? []).map((filter) => filter.type);
    if (types.includes('URLRewrite') && types.includes('RequestRedirect'))
      return { reason: 'IncompatibleFilters', message: `${where}: URLRewrite and RequestRedirect exclude each other` };
  }
  return undefined;
}

function sharedHostnames(route: HTTPRoute, listener: GatewayListener): readonly string[] {
  const own = listener.hostname || '*';
  const wanted = route.spec.hostnames?.length ? route.spec.hostnames : ['*'];
  return [...new Set(wanted.flatMap((hostname) => intersect(own, hostname) ?? []))];
}

function isAllowed(
  route: HTTPRoute,
  gateway: Gateway,
  listener: GatewayListener,
  namespaces: readonly KubeObject[],
): boolean {
  if (!supportedKinds(listener).some((kind) => kind.kind === 'HTTPRoute')) return false;
  const allowed = listener.allowedRoutes?.namespaces;
  switch (allowed?.from ?? 'Same') {
    case 'All':
      return true;
    case 'Same':
      return route.metadata.namespace === gateway.metadata.namespace;
    case 'Selector': {
      const namespace = namespaces.find((n) => n.metadata.name === route.metadata.namespace);
      return matchesSelector(knownSelector(allowed?.selector), namespace?.metadata.labels);
    }
    default:
      return false;
  }
}

/** The route kinds of a listener that this gateway serves. */
export function supportedKinds(
  listener: GatewayListener,
): readonly { readonly group: string; readonly kind: string }[] {
  const asked = listener.allowedRoutes?.kinds ?? [];
  const httpRoute = { group: gatewayGroup, kind: 'HTTPRoute' };
  if (asked.length === 0) return [httpRoute];
  return asked.some((k) => (k.group ?? gatewayGroup) === gatewayGroup && k.kind === 'HTTPRoute') ? [httpRoute] : [];
}

/** The API server does not check the operators of this selector; one that is unknown makes it select nothing. */
function knownSelector(
  selector: NonNullable<NonNullable<GatewayListener['allowedRoutes']>['namespaces']>['selector'],
): LabelSelector | undefined {
  const operators = ['In', 'NotIn', 'Exists', 'DoesNotExist'];
  const isKnown = (selector?.matchExpressions ?? []).every(({ operator }) => operators.includes(operator));
  return isKnown ? (selector as LabelSelector | undefined) : undefined;
}
