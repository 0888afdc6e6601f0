import type {
  Gateway,
  HTTPRouteMatch,
  HTTPRouteRule,
  HTTPRouteSpec,
  ParentReference,
} from '../api/foreign/gateway-api.ts';
import type { LLMInferenceServiceStatus } from '../api/v1alpha2/llm-inference-service.ts';

/** Where a service answers: from the Gateways that its route hangs on and the paths of the route. */

export type Address = NonNullable<LLMInferenceServiceStatus['addresses']>[number];

export interface AddressInput {
  readonly routes: readonly HTTPRouteSpec[];
  /** Names of the service's own pool and Services: rules that lead elsewhere are no way to it. */
  readonly backends: readonly string[];
  /** Namespace of the routes: a parent without one lies there. */
  readonly namespace: string;
  readonly models: readonly string[];
  /** Header by whose value requests are routed without a path. */
  readonly modelHeader: string;
  readonly gatewayOf: (namespace: string, name: string) => Gateway | undefined;
  /** The Service by which the cluster calls a Gateway. */
  readonly gatewayServiceOf?: ((namespace: string, name: string) => GatewayService | undefined) | undefined;
}

/** A Service in front of a Gateway's proxies. */
export interface GatewayService {
  readonly name: string;
  readonly namespace: string;
  readonly ports: readonly number[];
}

/** Name in place of the star of a wildcard listener. */
const wildcardHost = 'inference';

/** Every address of a service's routes, sorted by URL; none while no Gateway has an address or a Service. */
export function addressesOf(input: AddressInput): readonly Address[] {
  const found = new Map<string, Address>();
  for (const route of input.routes)
    for (const address of addressesOfRoute(input, route)) found.set(address.url, address);
  return [...found.values()].sort((a, b) => compareTexts(a.url ?? '', b.url ?? ''));
}

function addressesOfRoute(input: AddressInput, route: HTTPRouteSpec): readonly (Address & { readonly url: string })[] {
  const paths = pathsOf(route, input);
  const found: (Address & { readonly url: string })[] = [];
  for (const parent of route.parentRefs ?? []) {
    if ((parent.kind ?? 'Gateway') !== 'Gateway') continue;
    const namespace = parent.namespace ?? input.namespace;
    const gateway = input.gatewayOf(namespace, parent.name);
    if (!gateway) continue;
    const hostnames = route.hostnames ?? [];
    const service = input.gatewayServiceOf?.(namespace, parent.name);
    for (const origin of [
      ...originsOf(gateway, parent, hostnames),
      ...(service && hostnames.length === 0 ? originsInside(gateway, parent, service) : []),
    ])
      for (const { path, isModelRouting } of paths) {
        const url = `${origin.url}${path}`;
        found.push({
          name: `gateway-${origin.isInternal ? 'internal' : 'external'}${isModelRouting ? '-model-routing' : ''}`,
          url,
          origin: { group: 'gateway.networking.k8s.io', kind: 'Gateway', name: parent.name, namespace },
          models: input.models.map((name) => ({ name })),
        });
      }
  }
  return found;
}

/**
 * The one address to show: the service's own path from outside, else any from outside, else the same from inside; where
 * both schemes are there, the preferred one.
 */
export function mainUrlOf(
  addresses: readonly Address[],
  namespace: string,
  name: string,
  scheme: 'http' | 'https',
): string | undefined {
  const isOwn = ({ url }: Address) => url?.endsWith(`/${namespace}/${name}`) ?? false;
  const isExternal = (address: Address) => address.name?.startsWith('gateway-external') ?? false;
  const isPreferred = ({ url }: Address) => url?.startsWith(`${scheme}://`) ?? false;
  const ordered = [...addresses.filter(isPreferred), ...addresses.filter((address) => !isPreferred(address))];
  const external = ordered.filter(isExternal);
  return (external.find(isOwn) ?? external[0] ?? ordered.find(isOwn) ?? ordered[0])?.url;
}

function originsOf(
  gateway: Gateway,
  parent: ParentReference,
  hostnames: readonly string[],
): readonly { readonly url: string; readonly isInternal: boolean }[] {
  const addresses = (gateway.status?.addresses ?? []).map(({ value }) => value);
  if (addresses.length === 0) return [];
  return listenersOf(gateway, parent).flatMap((listener) => {
    const hosts =
      hostnames.length > 0
        ? hostnames
        : listener.hostname
          ? [listener.hostname.replace(/^\*\./, `${wildcardHost}.`)]
          : addresses;
    return hosts.map((host) => ({ url: originOf(listener, host), isInternal: isInternalHost(host) }));
  });
}

/** By the Gateway's Service: not where a listener wants a host name, which its own is not. */
function originsInside(
  gateway: Gateway,
  parent: ParentReference,
  { name, namespace, ports }: GatewayService,
): readonly { readonly url: string; readonly isInternal: boolean }[] {
  return listenersOf(gateway, parent)
    .filter(({ hostname, port }) => !hostname && ports.includes(port))
    .map((listener) => ({ url: originOf(listener, `${name}.${namespace}.svc.cluster.local`), isInternal: true }));
}

type Listener = Gateway['spec']['listeners'][number];

/** The listeners that a route hangs on. */
function listenersOf(gateway: Gateway, { sectionName }: ParentReference): readonly Listener[] {
  return gateway.spec.listeners.filter(({ name, protocol }) =>
    sectionName === undefined ? protocol === 'HTTP' || protocol === 'HTTPS' : name === sectionName,
  );
}

function originOf({ protocol, port }: Listener, host: string): string {
  const scheme = protocol === 'HTTPS' || protocol === 'TLS' ? 'https' : 'http';
  const isDefaultPort = port === (scheme === 'https' ? 443 : 80);
  return `${scheme}://${host.includes(':') ? `[${host}]` : host}${isDefaultPort ? '' : `:${port}`}`;
}

type Bucket = 'own' | 'publisher' | 'header';

/**
 * The paths by which a route is entered: per kind of match, the shallowest of the rules that lead to the Service, which
 * take every path, else of those that lead to the pool.
 */
function pathsOf(
  route: HTTPRouteSpec,
  { backends, modelHeader }: Pick<AddressInput, 'backends' | 'modelHeader'>,
): readonly { readonly path: string; readonly isModelRouting: boolean }[] {
  const all = route.rules ?? [];
  const leadsHere = (rule: HTTPRouteRule) => rule.backendRefs?.some(({ name }) => backends.includes(name)) ?? false;
  // Users may lead to the pods by Services that we do not know.
  const rules = all.some(leadsHere) ? all.filter(leadsHere) : all;
  const isOfService = (rule: HTTPRouteRule) =>
    rule.backendRefs?.some(({ kind }) => (kind ?? 'Service') === 'Service') ?? false;
  const shallowest = new Map<Bucket, string>();
  for (const some of [rules.filter(isOfService), rules.filter((rule) => !isOfService(rule))]) {
    const found = new Map<Bucket, string>();
    for (const match of some.flatMap(matchesOf)) {
      const path = (match.path?.value ?? '/').replace(/\/+$/, '');
      const bucket = bucketOf(match, path, modelHeader);
      if (!bucket || shallowest.has(bucket)) continue;
      const before = found.get(bucket);
      if (before === undefined || depthOf(path) < depthOf(before)) found.set(bucket, path);
    }
    for (const [bucket, path] of found) shallowest.set(bucket, path);
  }
  return [...shallowest].map(([bucket, path]) => ({ path, isModelRouting: bucket === 'header' }));
}

/** A rule without matches takes every request. */
function matchesOf(rule: HTTPRouteRule): readonly HTTPRouteMatch[] {
  return (rule.matches ?? []).length > 0 ? (rule.matches ?? []) : [{ path: { type: 'PathPrefix', value: '/' } }];
}

/** Requests that need further headers have no address that says so. */
function bucketOf({ headers, path: wanted }: HTTPRouteMatch, path: string, modelHeader: string): Bucket | undefined {
  if (wanted?.type === 'RegularExpression') return undefined;
  if ((headers ?? []).length === 0) return path.startsWith('/publishers/') ? 'publisher' : 'own';
  return headers?.some(({ name }) => name.toLowerCase() === modelHeader.toLowerCase()) ? 'header' : undefined;
}

function depthOf(path: string): number {
  return path.split('/').length;
}

/** Names and addresses that only the cluster or the machine itself can reach. */
export function isInternalHost(host: string): boolean {
  return (
    host === 'localhost' ||
    /\.(svc|local|localhost|internal)$/.test(host) ||
    /^(127|10)\.|^192\.168\.|^172\.(1[6-9]|2\d|3[01])\.|^169\.254\.|^100\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7])\./.test(
      host,
    ) ||
    /^(::1$|f[cd][0-9a-f]{2}:|fe80:)/i.test(host)
  );
}

function compareTexts(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
