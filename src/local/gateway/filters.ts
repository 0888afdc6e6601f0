import type { HTTPRouteFilter, HTTPRouteMatch, HTTPRouteRule } from '../../api/foreign/gateway-api.ts';
import { pathOf, trimSlash } from './match.ts';
import type { HeaderModifier, JsonObject, PathModifier } from './shapes.ts';

const supported = ['RequestHeaderModifier', 'ResponseHeaderModifier', 'URLRewrite', 'RequestRedirect'];

/** Why the rule's filters cannot be obeyed, or undefined. */
export function checkFilters(rule: HTTPRouteRule): string | undefined {
  for (const filter of rule.filters ?? []) {
    if (!supported.includes(filter.type))
      return `filter ${filter.type} is not supported; supported are ${supported.join(', ')}`;
    const path = filter.urlRewrite?.path ?? filter.requestRedirect?.path;
    const onlyPrefixes = (rule.matches ?? []).every((match) => pathOf(match).type === 'PathPrefix');
    if (path?.type === 'ReplacePrefixMatch' && !onlyPrefixes)
      return `${filter.type} with ReplacePrefixMatch needs every match of the rule to be a PathPrefix`;
  }
  for (const ref of rule.backendRefs ?? []) {
    const filter = (ref.filters ?? []).find((f) => !supported.slice(0, 2).includes(f.type));
    if (filter) return `filter ${filter.type} on a backendRef is not supported; put it on the rule`;
  }
  return undefined;
}

/** The header changes of some filters, as fields of an Envoy Route or of a weighted cluster. */
export function renderHeaderFilters(filters: readonly HTTPRouteFilter[]): JsonObject {
  const present = (modifier: HeaderModifier | undefined): readonly HeaderModifier[] => (modifier ? [modifier] : []);
  const request = filters.flatMap((filter) => present(filter.requestHeaderModifier));
  const response = filters.flatMap((filter) => present(filter.responseHeaderModifier));
  // Envoy refuses changes of the host here; setting it is a host rewrite, removing it has no meaning.
  const isHost = (name: string) => name.toLowerCase() === 'host' || name.startsWith(':');
  const fields = {
    request_headers_to_add: request.flatMap(renderAdditions).filter((option) => !isHost(option.header.key)),
    request_headers_to_remove: request.flatMap((m) => m.remove ?? []).filter((name) => !isHost(name)),
    response_headers_to_add: response.flatMap(renderAdditions).filter((option) => !isHost(option.header.key)),
    response_headers_to_remove: response.flatMap((m) => m.remove ?? []).filter((name) => !isHost(name)),
  };
  return Object.fromEntries(Object.entries(fields).filter(([, list]) => list.length > 0));
}

function renderAdditions(modifier: HeaderModifier) {
  const option = (header: { readonly name: string; readonly value: string }, action: string) => ({
    // A percent sign starts a command operator in Envoy.
    header: { key: header.name, value: header.value.replaceAll('%', '%%') },
    append_action: action,
  });
  return [
    ...(modifier.set ?? []).map((header) => option(header, 'OVERWRITE_IF_EXISTS_OR_ADD')),
    ...(modifier.add ?? []).map((header) => option(header, 'APPEND_IF_EXISTS_OR_ADD')),
  ];
}

/** The URLRewrite of a rule as fields of an Envoy RouteAction, for requests that came by one of its matches. */
export function renderRewrite(filters: readonly HTTPRouteFilter[], match: HTTPRouteMatch): JsonObject {
  const rewrite = filters.find((filter) => filter.type === 'URLRewrite')?.urlRewrite;
  const host =
    rewrite?.hostname ??
    filters
      .flatMap((filter) => filter.requestHeaderModifier?.set ?? [])
      .find((header) => header.name.toLowerCase() === 'host')?.value;
  return {
    ...(host ? { host_rewrite_literal: host } : {}),
    ...(rewrite?.path ? renderPathChange(rewrite.path, match) : {}),
  };
}

/**
 * A changed path. Envoy's `prefix_rewrite` replaces characters, the Gateway API path elements: where one side is `/`,
 * characters would double or lose a slash, so a regular expression does it. The query stays as it is in both.
 */
function renderPathChange(path: PathModifier, match: HTTPRouteMatch): JsonObject {
  if (path.type === 'ReplaceFullPath') return renderRegexRewrite('^.*$', path.replaceFullPath || '/');
  const prefix = trimSlash(pathOf(match).value);
  const replacement = trimSlash(path.replacePrefixMatch ?? '');
  if (prefix === '' && replacement === '') return {};
  if (prefix === '') return renderRegexRewrite('^/', `${replacement}/`);
  if (replacement === '') return renderRegexRewrite(`^${escapePattern(prefix)}/?`, '/');
  return { prefix_rewrite: replacement };
}

function renderRegexRewrite(regex: string, substitution: string): JsonObject {
  return { regex_rewrite: { pattern: { regex }, substitution: substitution.replaceAll('\\', '\\\\') } };
}

const escapePattern = (text: string) => text.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&');

const redirectCodes: Readonly<Record<number, string>> = {
  301: 'MOVED_PERMANENTLY',
  302: 'FOUND',
  303: 'SEE_OTHER',
  307: 'TEMPORARY_REDIRECT',
  308: 'PERMANENT_REDIRECT',
};

/** The RequestRedirect of a rule as an Envoy RedirectAction, or undefined when it has none. */
export function renderRedirect(
  filters: readonly HTTPRouteFilter[],
  match: HTTPRouteMatch,
  listenerPort: number,
): JsonObject | undefined {
  const redirect = filters.find((filter) => filter.type === 'RequestRedirect')?.requestRedirect;
  if (!redirect) return undefined;
  const path = redirect.path;
  const wellKnown = redirect.scheme === 'https' ? 443 : 80;
  // Without a port: the scheme's own port when the scheme changes, the listener's otherwise.
  const port = redirect.port ?? (redirect.scheme ? wellKnown : listenerPort);
  return {
    ...(redirect.scheme ? { scheme_redirect: redirect.scheme } : {}),
    ...(redirect.hostname ? { host_redirect: redirect.hostname } : {}),
    ...(port === wellKnown && !redirect.port && !redirect.scheme ? {} : { port_redirect: port }),
    ...(path?.type === 'ReplaceFullPath' ? { path_redirect: path.replaceFullPath || '/' } : {}),
    ...(path?.type === 'ReplacePrefixMatch' ? renderPathChange(path, match) : {}),
    response_code: redirectCodes[redirect.statusCode ?? 302] ?? 'FOUND',
  };
}
