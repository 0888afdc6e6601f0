import type { HTTPRoute, RouteParentStatus } from '../api/foreign/gateway-api.ts';

/** In which of the two APIs routes lead to a pool: a gateway may know only the older one while both are served. */

const newest = 'inference.networking.k8s.io';
const older = 'inference.networking.x-k8s.io';

export interface PoolApi {
  readonly group: typeof newest | typeof older;
  /** Whether to go on asking the gateways for the newest. */
  readonly isProbing: boolean;
}

/**
 * The newest at first. The older one where a gateway does not know the kind, and while a route that leads there works:
 * until every gateway has resolved a probe that leads to the newest, so that no request meets a route that does not work.
 * Decided from the live objects alone.
 */
export function choosePoolApi(route: HTTPRoute | undefined, probe: HTTPRoute | undefined): PoolApi {
  const inRoute = route && groupIn(route);
  if (inRoute === undefined) return { group: newest, isProbing: false };
  const parents = route?.status?.parents ?? [];
  if (inRoute === newest)
    return parents.some(isUnknownKind) ? { group: older, isProbing: true } : { group: newest, isProbing: false };
  // Nobody serves the route, so nobody is cut off.
  if (parents.length === 0) return { group: newest, isProbing: false };
  const answers = probe?.status?.parents ?? [];
  const isKnown =
    answers.length >= parents.length && answers.every((parent) => isResolved(parent, probe?.metadata.generation ?? 0));
  return isKnown ? { group: newest, isProbing: false } : { group: older, isProbing: true };
}

function groupIn(route: HTTPRoute): string | undefined {
  const backends = (route.spec.rules ?? []).flatMap((rule) => rule.backendRefs ?? []);
  return backends.find(({ kind }) => kind === 'InferencePool')?.group;
}

function isUnknownKind({ conditions }: RouteParentStatus): boolean {
  return (conditions ?? []).some(
    ({ type, status, reason }) => type === 'ResolvedRefs' && status === 'False' && reason === 'InvalidKind',
  );
}

function isResolved({ conditions }: RouteParentStatus, generation: number): boolean {
  return (conditions ?? []).some(
    ({ type, status, observedGeneration }) =>
      type === 'ResolvedRefs' && status === 'True' && (observedGeneration ?? 0) >= generation,
  );
}
