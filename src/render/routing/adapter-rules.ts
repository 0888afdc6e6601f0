import type { HTTPRouteMatch, HTTPRouteRule } from '../../api/foreign/gateway-api.ts';
import type { Context } from '../input.ts';
import { adaptersOf } from '../pod/lora.ts';
import type { GroupMember } from './group.ts';
import { backendsOf, endpoints, hasModelRouting, modelHeader, pathOf, prefixRule, publisherPrefix } from './rules.ts';

/** Routes of adapters: requests that name one, in the header or in the path, go where those of the model go. */

/**
 * Adapters whose header rules fit beside the service's own in one HTTPRoute, and in one of their own: each takes five
 * matches, and the Gateway API allows 16 rules of 64 matches, 128 matches in all.
 */
const besideRules = 20;
const perRoute = 24;
const perRule = 16;
/** A rule that takes a prefix off has one match, so each adapter has a rule for its path. */
const pathsPerRoute = 16;

export interface AdapterRules {
  /** Beside the service's own rules. */
  readonly beside: readonly HTTPRouteRule[];
  /** HTTPRoutes of their own, by what is added to the name. */
  readonly further: readonly { readonly suffix: string; readonly rules: readonly HTTPRouteRule[] }[];
}

/** Adapters that the same members have, who share their traffic. */
interface Part {
  readonly names: readonly string[];
  readonly members: readonly GroupMember[];
}

/** `share` puts the members' backends into rules of adapters; `room` is the number of rules left beside the service's own. */
export function renderAdapterRules(
  context: Context,
  members: readonly GroupMember[],
  share: (rules: readonly HTTPRouteRule[], members: readonly GroupMember[]) => readonly HTTPRouteRule[],
  room: number,
): AdapterRules {
  const names = adaptersOf(context.effective).map(({ name }) => name);
  if (names.length === 0) return { beside: [], further: [] };
  const parts = partsOf(names, members);
  const byHeader = hasModelRouting(context);
  const [first] = parts;
  const isBeside = byHeader && parts.length === 1 && room >= 3;
  const beside = isBeside && first ? first.names.slice(0, besideRules) : [];
  const headers = byHeader
    ? parts.flatMap(({ names: all, members: some }) =>
        chunk(all.slice(beside.length), perRoute).map((few) => share(headerRules(context, few), some)),
      )
    : [];
  const paths = chunk(
    parts.flatMap(({ names: all, members: some }) => all.flatMap((name) => share([pathRule(context, name)], some))),
    pathsPerRoute,
  );
  return {
    beside: beside.length > 0 ? share(headerRules(context, beside), first?.members ?? []) : [],
    further: [
      ...headers.map((rules, i) => ({ suffix: `-lora-${i + 1}`, rules })),
      ...paths.map((rules, i) => ({ suffix: `-lora-path-${i + 1}`, rules: numbered(rules) })),
    ],
  };
}

function partsOf(names: readonly string[], members: readonly GroupMember[]): readonly Part[] {
  const parts = new Map<string, { readonly names: string[]; readonly members: readonly GroupMember[] }>();
  for (const name of names) {
    const having = members.filter(({ adapters }) => adapters.includes(name));
    const key = having.map((member) => member.name).join(' ');
    const part = parts.get(key);
    if (part) part.names.push(name);
    else parts.set(key, { names: [name], members: having });
  }
  return [...parts.values()];
}

function headerRules(context: Context, names: readonly string[]): readonly HTTPRouteRule[] {
  const { toPods, toService } = backendsOf(context);
  const match = (name: string, path: string): HTTPRouteMatch => ({
    path: { type: 'PathPrefix', value: path },
    headers: [modelHeader(context, publisherPrefix(context.namespace, name))],
  });
  return [
    ...chunk(names, perRule).map((some, i) => ({
      name: `v1-lora-model-routing-${i}`,
      matches: some.flatMap((name) => endpoints.map((endpoint) => match(name, pathOf(endpoint)))),
      backendRefs: [toPods],
    })),
    {
      name: 'v1-lora-catch-all-model-routing',
      matches: names.map((name) => match(name, '/')),
      backendRefs: [toService],
    },
  ];
}

function pathRule(context: Context, name: string): HTTPRouteRule {
  const { toPods } = backendsOf(context);
  const rule = prefixRule('', publisherPrefix(context.namespace, name), '/v1', toPods);
  return rule;
}

function numbered(rules: readonly HTTPRouteRule[]): readonly HTTPRouteRule[] {
  return rules.map((rule, i) => ({ ...rule, name: `v1-lora-publisher-path-${i}` }));
}

function chunk<T>(list: readonly T[], size: number): readonly (readonly T[])[] {
  return Array.from({ length: Math.ceil(list.length / size) }, (_, i) => list.slice(i * size, (i + 1) * size));
}
