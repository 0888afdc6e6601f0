import type { HTTPBackendRef, HTTPRouteMatch, HTTPRouteRule } from '../../api/foreign/gateway-api.ts';
import type { PoolGroup } from '../input.ts';

/**
 * Services that share the traffic of one model. Every member has a route of its own, and the rules that go by the model's
 * name are the same in all of them, with the backends of all: whichever route a gateway prefers, the shares are the same,
 * and no member's going takes the others' way with it.
 */

/** One service of a group, as the routes of all members see it. */
export interface GroupMember {
  readonly name: string;
  readonly weight: number;
  readonly modelName: string;
  /** Names of its adapters. */
  readonly adapters: readonly string[];
  /** Its pool; the group is left out where it is that of the route's own pool. */
  readonly pool: { readonly name: string; readonly group?: PoolGroup } | undefined;
  readonly workloadService: string;
  /** It is stopped or being deleted, and its backends are about to go. */
  readonly isLeaving: boolean;
  /** It has a pod that answers, or is scaled to none and comes back with requests. */
  readonly isServing: boolean;
}

/** The Gateway API allows as many backends in a rule. */
export const maxSharing = 16;

export interface Sharing {
  /** Who gets traffic, by name. */
  readonly sharing: readonly GroupMember[];
  /** Members of another model: names of models differ in one group. */
  readonly divergent: readonly GroupMember[];
  /** Members without a pod that answers, while others have one. */
  readonly waiting: readonly GroupMember[];
  /** Members that find no place in a rule. */
  readonly beyond: readonly GroupMember[];
}

/**
 * Who shares the traffic of a model. A member without a pod that answers gets none while another has one, so that joining
 * and failing members cost no request.
 */
export function sharingOf(members: readonly GroupMember[], modelName: string): Sharing {
  const staying = members
    .filter(({ isLeaving }) => !isLeaving)
    .sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  const alike = staying.filter((member) => member.modelName === modelName);
  const serving = alike.filter(({ isServing }) => isServing);
  const all = serving.length > 0 ? serving : alike;
  return {
    sharing: all.slice(0, maxSharing),
    divergent: staying.filter((member) => member.modelName !== modelName),
    waiting: alike.filter((member) => !all.includes(member)),
    beyond: all.slice(maxSharing),
  };
}

/** What of a route's own its rules are recognised by. */
export interface SharedRoute {
  readonly members: readonly GroupMember[];
  readonly ownPool: { readonly name: string; readonly group: PoolGroup } | undefined;
  readonly ownService: string;
  /** Whether a match goes by a name that members share, and by which; own paths are nobody else's. */
  readonly sharedName: (match: HTTPRouteMatch) => string | undefined;
}

/** The rules with the backends of all members in those that go by a shared name. */
export function shareRules(rules: readonly HTTPRouteRule[], route: SharedRoute): readonly HTTPRouteRule[] {
  return rules.map((rule) => {
    const names = new Set((rule.matches ?? []).map(route.sharedName));
    if (names.size === 0 || names.has(undefined)) return rule;
    const isOurs = ({ kind, name }: HTTPBackendRef) =>
      kind === 'InferencePool' ? name === route.ownPool?.name : name === route.ownService;
    const own = rule.backendRefs?.find(isOurs);
    if (!own || route.members.length === 0) return rule;
    const others = rule.backendRefs?.filter((backend) => !isOurs(backend)) ?? [];
    const backends = route.members.map((member) => backendOf(member, own, route.ownPool?.group));
    return { ...rule, backendRefs: [...others, ...backends].slice(0, maxSharing) };
  });
}

function backendOf(member: GroupMember, own: HTTPBackendRef, ownGroup: PoolGroup | undefined): HTTPBackendRef {
  const { weight, pool } = member;
  const group = pool?.group ?? ownGroup;
  return own.kind === 'InferencePool' && pool && group
    ? { ...own, group, name: pool.name, weight }
    : { ...own, group: '', kind: 'Service', name: member.workloadService, weight };
}
