import type { Gateway, HTTPRouteSpec, ParentReference } from '../api/foreign/gateway-api.ts';
import type { LLMInferenceServiceStatus } from '../api/v1alpha2/llm-inference-service.ts';

/** Where a service answers: from the Gateways that its route hangs on and the paths of the route. */

export type Address = NonNullable<LLMInferenceServiceStatus['addresses']>[number];

export interface AddressInput {
  readonly route: HTTPRouteSpec;
  /** Namespace of the route: a parent without one lies there. */
  readonly namespace: string;
  readonly name: string;
  readonly models: readonly string[];
  readonly gatewayOf: (namespace: string, name: string) => Gateway | undefined;
}

/** Name in place of the star of a wildcard listener. */
const wildcardHost = 'inference';

/** Every address of a route, sorted by URL; none while no Gateway has an address. */
export function addressesOf(input: AddressInput): readonly Address[] {
  const paths = pathsOf(input.route);
  const found = new Map<string, Address>();
  for (const parent of input.route.parentRefs ?? []) {
    if ((parent.kind ?? 'Gateway') !== 'Gateway') continue;
    const namespace = parent.namespace ?? input.namespace;
    const gateway = input.gatewayOf(namespace, parent.name);
    if (!gateway) continue;
    for (const origin of originsOf(gateway, parent, input.route.hostnames ?? []))
      for (const { path, isModelRouting } of paths) {
        const url = `${origin.url}${path}`;
        found.set(url, {
          name: `gateway-${origin.isInternal ? 'internal' : 'external'}${isModelRouting ? '-model-routing' : ''}`,
          url,
          origin: { group: 'gateway.networking.k8s.io', kind: 'Gateway', name: parent.name, namespace },
          models: input.models.map((name) => ({ name })),
        });
      }
  }
  return [...found.values()].sort((a, b) => compareTexts(a.url ?? '', b.url ?? ''));
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
  return gateway.spec.listeners
    .filter(({ name, protocol }) =>
      parent.sectionName === undefined ? protocol === 'HTTP' || protocol === 'HTTPS' : name === parent.sectionName,
    )
    .flatMap((listener) => {
      const scheme = listener.protocol === 'HTTPS' || listener.protocol === 'TLS' ? 'https' : 'http';
      const isDefaultPort = listener.port === (scheme === 'https' ? 443 : 80);
      const hosts =
        hostnames.length > 0
          ? hostnames
          : listener.hostname
            ? [listener.hostname.replace(/^\*\./, `${wildcardHost}.`)]
            : addresses;
      return hosts.map((host) => ({
        url: `${scheme}://${host.includes(':') ? `[${host}]` : host}${isDefaultPort ? '' : `:${listener.port}`}`,
        isInternal: isInternalHost(host),
      }));
    });
}

/** The paths by which a route is entered: per kind of match, the shallowest. */
function pathsOf(route: HTTPRouteSpec): readonly { readonly path: string; readonly isModelRouting: boolean }[] {
  const shallowest = new Map<'own' | 'publisher' | 'header', string>();
  for (const match of (route.rules ?? []).flatMap((rule) => rule.matches ?? [])) {
    const path = (match.path?.value ?? '/').replace(/\/+$/, '');
    const bucket = (match.headers ?? []).length > 0 ? 'header' : path.startsWith('/publishers/') ? 'publisher' : 'own';
    const before = shallowest.get(bucket);
    if (before === undefined || depthOf(path) < depthOf(before)) shallowest.set(bucket, path);
  }
  return [...shallowest].map(([bucket, path]) => ({ path, isModelRouting: bucket === 'header' }));
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
