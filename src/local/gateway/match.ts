import type { HTTPRouteMatch } from '../../api/foreign/gateway-api.ts';
import type { Json, JsonObject } from './shapes.ts';

/** The path of a match with the API's defaults filled in. */
export interface PathMatch {
  readonly type: string;
  readonly value: string;
}

export function pathOf(match: HTTPRouteMatch): PathMatch {
  return { type: match.path?.type ?? 'PathPrefix', value: match.path?.value ?? '/' };
}

/** A prefix without its trailing slash: `/` becomes empty. */
export function trimSlash(path: string): string {
  return path.replace(/\/+$/, '');
}

/** Why Envoy would refuse the match, or undefined. A refused route would hold back every other one of its Gateway. */
export function checkMatch(match: HTTPRouteMatch): string | undefined {
  const path = pathOf(match);
  if (!['Exact', 'PathPrefix', 'RegularExpression'].includes(path.type))
    return `path match type ${path.type} is not supported; use Exact, PathPrefix or RegularExpression`;
  const patterns = [
    ...(path.type === 'RegularExpression' ? [path.value] : []),
    ...[...(match.headers ?? []), ...(match.queryParams ?? [])]
      .filter((value) => value.type === 'RegularExpression')
      .map((value) => value.value),
  ];
  for (const pattern of patterns) {
    const reason = checkPattern(pattern);
    if (reason) return reason;
  }
  return undefined;
}

function checkPattern(pattern: string): string | undefined {
  // Envoy's engine is RE2: no look-around and no back-references.
  if (/\(\?<?[=!]/.test(pattern) || /\\[1-9]/.test(pattern))
    return `regular expression ${pattern} uses look-around or back-references, which the proxy does not have`;
  try {
    new RegExp(pattern);
    return undefined;
  } catch {
    return `regular expression ${pattern} cannot be parsed`;
  }
}

/** Envoy's RouteMatch. */
export function renderMatch(match: HTTPRouteMatch): JsonObject {
  const headers = [
    ...(match.method ? [{ name: ':method', string_match: { exact: match.method } }] : []),
    ...firstOfEach(match.headers ?? [], (name) => name.toLowerCase()).map((header) => ({
      name: header.name,
      string_match: renderValue(header),
    })),
  ];
  const query = firstOfEach(match.queryParams ?? [], (name) => name).map((parameter) => ({
    name: parameter.name,
    string_match: renderValue(parameter),
  }));
  return {
    ...renderPath(pathOf(match)),
    ...(headers.length > 0 ? { headers } : {}),
    ...(query.length > 0 ? { query_parameters: query } : {}),
  };
}

function renderPath(path: PathMatch): JsonObject {
  if (path.type === 'Exact') return { path: path.value };
  if (path.type === 'RegularExpression') return { safe_regex: { regex: path.value } };
  const prefix = trimSlash(path.value);
  return prefix === '' ? { prefix: '/' } : { path_separated_prefix: prefix };
}

interface NamedValue {
  readonly type?: string | undefined;
  readonly name: string;
  readonly value: string;
}

function renderValue(value: NamedValue): Json {
  return value.type === 'RegularExpression' ? { safe_regex: { regex: value.value } } : { exact: value.value };
}

/** Of several entries with one name only the first counts. */
function firstOfEach<T extends NamedValue>(values: readonly T[], key: (name: string) => string): readonly T[] {
  const seen = new Set<string>();
  return values.filter((value) => {
    const name = key(value.name);
    if (seen.has(name)) return false;
    seen.add(name);
    return true;
  });
}

/** What decides between two matches that both fit a request. */
export interface Precedence {
  readonly match: HTTPRouteMatch;
  readonly createdAt: string;
  /** `namespace/name` of the route. */
  readonly route: string;
  readonly ruleIndex: number;
  readonly matchIndex: number;
}

/**
 * Sorts the stronger match first: exact path, regular expression, longest prefix, method, most headers, most
 * query parameters, oldest route, route name, order in the route (Gateway API, HTTPRouteRule.matches).
 */
export function comparePrecedence(a: Precedence, b: Precedence): number {
  return (
    pathRank(a.match) - pathRank(b.match) ||
    pathLength(b.match) - pathLength(a.match) ||
    Number(Boolean(b.match.method)) - Number(Boolean(a.match.method)) ||
    (b.match.headers?.length ?? 0) - (a.match.headers?.length ?? 0) ||
    (b.match.queryParams?.length ?? 0) - (a.match.queryParams?.length ?? 0) ||
    compareText(a.createdAt, b.createdAt) ||
    compareText(a.route, b.route) ||
    a.ruleIndex - b.ruleIndex ||
    a.matchIndex - b.matchIndex
  );
}

const pathRank = (match: HTTPRouteMatch) => ['Exact', 'RegularExpression', 'PathPrefix'].indexOf(pathOf(match).type);

/** Exact paths cannot both fit a request, so their length says nothing. */
const pathLength = (match: HTTPRouteMatch) => {
  const path = pathOf(match);
  return path.type === 'Exact' ? 0 : path.type === 'PathPrefix' ? trimSlash(path.value).length : path.value.length;
};

const compareText = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0);
