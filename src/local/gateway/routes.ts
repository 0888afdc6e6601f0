import type { HTTPBackendRef, HTTPRoute, HTTPRouteMatch, HTTPRouteRule } from '../../api/foreign/gateway-api.ts';
import type { Attachment } from './attach.ts';
import type { Backend } from './backends.ts';
import { destinationHeader, invalidBackendCluster, renderPickerOverride } from './envoy-resources.ts';
import { renderHeaderFilters, renderRedirect, renderRewrite } from './filters.ts';
import { compareHostnames, covers } from './hostname.ts';
import { comparePrecedence, type Precedence, renderMatch } from './match.ts';
import type { JsonObject } from './shapes.ts';

/** The rules of one route with their backends looked up. */
export interface ResolvedRule {
  readonly rule: HTTPRouteRule;
  readonly backends: readonly { readonly ref: HTTPBackendRef; readonly backend: Backend }[];
}

interface Entry extends Precedence {
  readonly hostname: string;
  readonly listenerHostname: string;
  readonly resolved: ResolvedRule;
}

/**
 * The route configuration of one address and port.
 *
 * Guarantees: a request belongs to the listener with the narrowest hostname that fits; among that listener's routes the
 * narrowest hostname wins, then the precedence of matches. A host that nothing names is answered with 404.
 */
export function renderRouteConfiguration(
  name: string,
  port: number,
  listenerHostnames: readonly string[],
  attachments: readonly Attachment[],
  resolve: (route: HTTPRoute) => readonly ResolvedRule[],
): JsonObject {
  const entries = attachments.flatMap((attachment) => toEntries(attachment, resolve(attachment.route)));
  const domains = [...new Set([...listenerHostnames, ...entries.map((entry) => entry.hostname)])].sort(
    compareHostnames,
  );
  const listeners = [...listenerHostnames].sort(compareHostnames);
  return {
    name,
    ignore_port_in_host_matching: true,
    // A cluster that is gone must cost its own requests only, never the update of all routes.
    validate_clusters: false,
    virtual_hosts: domains.map((domain) => {
      const listener = listeners.find((hostname) => covers(hostname, domain));
      const fitting = entries
        .filter((entry) => entry.listenerHostname === listener && covers(entry.hostname, domain))
        .sort((a, b) => compareHostnames(a.hostname, b.hostname) || comparePrecedence(a, b));
      return { name: domain, domains: [domain], routes: fitting.flatMap((entry) => renderEntry(entry, port)) };
    }),
  };
}

const everything: HTTPRouteMatch = { path: { type: 'PathPrefix', value: '/' } };

function toEntries(attachment: Attachment, rules: readonly ResolvedRule[]): readonly Entry[] {
  const { route, listener, hostnames } = attachment;
  return hostnames.flatMap((hostname) =>
    rules.flatMap((resolved, ruleIndex) =>
      (resolved.rule.matches?.length ? resolved.rule.matches : [everything]).map((match, matchIndex) => ({
        match,
        createdAt: route.metadata.creationTimestamp ?? '',
        route: `${route.metadata.namespace}/${route.metadata.name}`,
        ruleIndex,
        matchIndex,
        hostname,
        listenerHostname: listener.hostname || '*',
        resolved,
      })),
    ),
  );
}

/** One Envoy route; two when a pool may fail open, because the destination is known only after the picker was asked. */
function renderEntry(entry: Entry, port: number): readonly JsonObject[] {
  const { rule, backends } = entry.resolved;
  const filters = rule.filters ?? [];
  const match = renderMatch(entry.match);
  const base = { name: `${entry.route}/${rule.name ?? entry.ruleIndex}`, match, ...renderHeaderFilters(filters) };
  const redirect = renderRedirect(filters, entry.match, port);
  if (redirect) return [{ ...base, redirect }];

  const weighted = backends.filter(({ ref }) => (ref.weight ?? 1) > 0);
  if (weighted.every(({ backend }) => backend.kind === 'invalid')) {
    return [{ ...base, direct_response: { status: 500, body: { inline_string: 'no valid backend\n' } } }];
  }
  const action = (hasDestination: boolean) => ({
    weighted_clusters: {
      clusters: weighted.map(({ ref, backend }) => ({
        weight: ref.weight ?? 1,
        ...renderHeaderFilters(ref.filters ?? []),
        ...renderTarget(backend, hasDestination),
      })),
    },
    cluster_not_found_response_code: 'INTERNAL_SERVER_ERROR',
    timeout: renderTimeout(rule),
    ...renderRewrite(filters, entry.match),
  });
  const mayFailOpen = weighted.some(({ backend }) => backend.kind === 'pool' && backend.picker.failOpen);
  if (!mayFailOpen) return [{ ...base, route: action(true) }];
  const headers = Array.isArray(match.headers) ? match.headers : [];
  return [
    {
      ...base,
      match: { ...match, headers: [...headers, { name: destinationHeader, present_match: true }] },
      route: action(true),
    },
    { ...base, route: action(false) },
  ];
}

function renderTarget(backend: Backend, hasDestination: boolean): JsonObject {
  switch (backend.kind) {
    case 'invalid':
      return { name: invalidBackendCluster };
    case 'service':
      return { name: backend.cluster };
    case 'pool':
      return {
        name: hasDestination ? backend.destinationCluster : backend.fallbackCluster,
        typed_per_filter_config: renderPickerOverride(backend.picker),
      };
  }
}

/** The shorter of a rule's time-outs that is not zero; none is no limit, so that streams live as long as they need. */
function renderTimeout(rule: HTTPRouteRule): string {
  const limits = [rule.timeouts?.request, rule.timeouts?.backendRequest]
    .map((text) => parseDurationMs(text ?? '0s'))
    .filter((ms) => ms > 0);
  return `${limits.length > 0 ? Math.min(...limits) / 1000 : 0}s`;
}

const unitMs: Readonly<Record<string, number>> = { h: 3_600_000, m: 60_000, s: 1000, ms: 1 };

/** Milliseconds of a Gateway API duration such as `1h30m` or `500ms`. */
export function parseDurationMs(text: string): number {
  return [...text.matchAll(/(\d+)(ms|h|m|s)/g)].reduce(
    (sum, [, count, unit]) => sum + Number(count) * (unitMs[unit ?? ''] ?? 0),
    0,
  );
}
