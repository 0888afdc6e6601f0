import { createHash } from 'node:crypto';
import type { HTTPBackendRef, HTTPRoute } from '../../api/foreign/gateway-api.ts';
import type { InferencePool, XInferencePool } from '../../api/foreign/inference-pool.ts';
import { type Endpoint, poolEndpoints, serviceEndpoints } from './endpoints.ts';
import {
  destinationClusterName,
  renderDestinationCluster,
  renderPodCluster,
  type UpstreamProtocol,
  type UpstreamTls,
} from './envoy-resources.ts';
import type { GatewayInput, JsonObject, ReferenceGrant, Service, Verdict } from './shapes.ts';

export const poolGroup = 'inference.networking.k8s.io';
export const xPoolGroup = 'inference.networking.x-k8s.io';
const routeGroup = 'gateway.networking.k8s.io';

/** Either pool kind, read into one shape. */
export interface Pool {
  readonly group: typeof poolGroup | typeof xPoolGroup;
  readonly namespace: string;
  readonly name: string;
  readonly generation: number | undefined;
  readonly selector: Readonly<Record<string, string>>;
  readonly ports: readonly number[];
  readonly protocol: UpstreamProtocol;
  readonly picker: PickerRef | undefined;
}

interface PickerRef {
  readonly group: string;
  readonly kind: string;
  readonly name: string;
  readonly port: number | undefined;
  readonly failOpen: boolean;
}

export function fromInferencePool(pool: InferencePool): Pool {
  const ref = pool.spec.endpointPickerRef;
  return {
    group: poolGroup,
    namespace: pool.metadata.namespace ?? '',
    name: pool.metadata.name,
    generation: pool.metadata.generation,
    selector: pool.spec.selector.matchLabels,
    ports: pool.spec.targetPorts.map((port) => port.number),
    protocol: pool.spec.appProtocol === 'kubernetes.io/h2c' ? 'http2' : 'http1',
    picker: ref && {
      group: ref.group ?? '',
      kind: ref.kind ?? 'Service',
      name: ref.name,
      port: ref.port?.number,
      failOpen: ref.failureMode === 'FailOpen',
    },
  };
}

/** The older kind; its picker listens on 9002 when nothing else is said. */
export function fromXInferencePool(pool: XInferencePool): Pool {
  const ref = pool.spec.extensionRef;
  return {
    group: xPoolGroup,
    namespace: pool.metadata.namespace ?? '',
    name: pool.metadata.name,
    generation: pool.metadata.generation,
    selector: pool.spec.selector,
    ports: [pool.spec.targetPortNumber],
    protocol: 'http1',
    picker: ref && {
      group: ref.group ?? '',
      kind: ref.kind ?? 'Service',
      name: ref.name,
      port: ref.portNumber ?? 9002,
      failOpen: ref.failureMode === 'FailOpen',
    },
  };
}

/** What a backendRef came to. */
export type Backend =
  | { readonly kind: 'service'; readonly cluster: string }
  | {
      readonly kind: 'pool';
      readonly pool: Pool;
      /** Takes requests that carry the destination header. */
      readonly destinationCluster: string;
      /** Takes requests that the picker gave no destination. */
      readonly fallbackCluster: string;
      readonly picker: { readonly cluster: string; readonly authority: string; readonly failOpen: boolean };
    }
  | { readonly kind: 'invalid'; readonly reason: string; readonly message: string; readonly pool?: Pool };

/** The pool's own conditions that hang on nothing but itself and its picker. */
export function checkPool(pool: Pool, services: readonly Service[]): { accepted: Verdict; resolvedRefs: Verdict } {
  const accepted: Verdict = pool.picker
    ? { type: 'Accepted', status: 'True', reason: 'Accepted', message: 'a route of this gateway sends requests here' }
    : {
        type: 'Accepted',
        status: 'False',
        reason: 'EndpointPickerRefMissing',
        message: 'spec.endpointPickerRef is missing; name the Service of an endpoint picker',
      };
  const failure = pool.picker && checkPicker(pool.namespace, pool.picker, services);
  return {
    accepted,
    resolvedRefs: failure
      ? { type: 'ResolvedRefs', status: 'False', reason: 'InvalidExtensionRef', message: failure }
      : { type: 'ResolvedRefs', status: 'True', reason: 'ResolvedRefs', message: 'the endpoint picker was found' },
  };
}

function checkPicker(namespace: string, picker: PickerRef, services: readonly Service[]): string | undefined {
  if (picker.group !== '' || picker.kind !== 'Service')
    return `the endpoint picker is a ${picker.kind} of group "${picker.group}"; only a Service is supported`;
  const service = findService(services, namespace, picker.name);
  if (!service) return `Service ${namespace}/${picker.name} of the endpoint picker does not exist`;
  if (!findPort(service, picker.port))
    return `Service ${namespace}/${picker.name} of the endpoint picker has no port ${picker.port}`;
  return undefined;
}

/** Resolves backendRefs and collects the clusters they need, each once. */
export class BackendResolver {
  readonly #input: GatewayInput;
  readonly #pools: readonly Pool[];
  readonly #clusters = new Map<string, JsonObject>();

  constructor(input: GatewayInput, pools: readonly Pool[]) {
    this.#input = input;
    this.#pools = pools;
  }

  /** Sorted by name, so that equal input gives equal output. */
  get clusters(): readonly JsonObject[] {
    return [...this.#clusters.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, cluster]) => cluster);
  }

  resolve(route: HTTPRoute, ref: HTTPBackendRef): Backend {
    const group = ref.group ?? '';
    const kind = ref.kind ?? 'Service';
    const from = route.metadata.namespace ?? '';
    const namespace = ref.namespace ?? from;
    const isService = group === '' && kind === 'Service';
    const isPool = (group === poolGroup || group === xPoolGroup) && kind === 'InferencePool';
    if (!isService && !isPool) {
      return invalid(
        'InvalidKind',
        `backend ${ref.name} is a ${kind} of group "${group}"; use a Service or InferencePool`,
      );
    }
    if (
      namespace !== from &&
      !isGranted(this.#input.referenceGrants, from, { group, kind, namespace, name: ref.name })
    ) {
      return invalid(
        'RefNotPermitted',
        `no ReferenceGrant in namespace ${namespace} lets an HTTPRoute of ${from} refer to ${kind} ${ref.name}`,
      );
    }
    return isService ? this.#service(namespace, ref) : this.#pool(group, namespace, ref.name);
  }

  #service(namespace: string, ref: HTTPBackendRef): Backend {
    const service = findService(this.#input.services, namespace, ref.name);
    if (!service) return invalid('BackendNotFound', `Service ${namespace}/${ref.name} does not exist`);
    const port = findPort(service, ref.port);
    if (!port) {
      const has = (service.spec.ports ?? []).map((p) => p.port).join(', ') || 'none';
      return invalid(
        'BackendNotFound',
        `Service ${namespace}/${ref.name} has no port ${ref.port ?? '(none given)'}; it has ${has}`,
      );
    }
    const cluster = `service_${namespace}_${ref.name}_${port.port}`;
    const protocol: UpstreamProtocol = port.appProtocol === 'kubernetes.io/h2c' ? 'http2' : 'http1';
    const tls = this.#tlsOf(namespace, '', 'Service', ref.name);
    this.#add(cluster, () =>
      renderPodCluster(cluster, serviceEndpoints(service, port, this.#input.pods), protocol, { tls }),
    );
    return { kind: 'service', cluster };
  }

  #pool(group: string, namespace: string, name: string): Backend {
    const pool = this.#pools.find((p) => p.group === group && p.namespace === namespace && p.name === name);
    if (!pool) return invalid('BackendNotFound', `InferencePool.${group} ${namespace}/${name} does not exist`);
    if (!pool.picker) {
      return { ...invalid('BackendNotFound', `InferencePool ${namespace}/${name} names no endpoint picker`), pool };
    }
    const suffix = `${group === poolGroup ? 'v1' : 'v1alpha2'}_${namespace}_${name}`;
    const tls = this.#tlsOf(namespace, group, 'InferencePool', name);
    const destinationCluster = tls ? `destination_${suffix}` : destinationClusterName(pool.protocol);
    this.#add(destinationCluster, () => renderDestinationCluster(pool.protocol, destinationCluster, tls));
    const pickers = this.#pickerEndpoints(pool);
    // Replacing a cluster resets the streams to the picker, so a change of its pods makes a new cluster instead.
    const pickerTls = this.#pickerTls(pool);
    const pickerCluster = `picker_${suffix}_${hashOf([...pickers, pickerTls])}`;
    this.#add(pickerCluster, () =>
      renderPodCluster(pickerCluster, pickers, 'http2', { isPicker: true, tls: pickerTls }),
    );
    // Without a way to fail open, a request without destination has nowhere to go and is answered with 503.
    const fallbackCluster = pool.picker.failOpen ? `pool_${suffix}` : destinationCluster;
    if (pool.picker.failOpen) {
      this.#add(fallbackCluster, () => {
        const endpoints = poolEndpoints(namespace, pool.selector, pool.ports, this.#input.pods);
        return renderPodCluster(fallbackCluster, endpoints, pool.protocol, { tls });
      });
    }
    return {
      kind: 'pool',
      pool,
      destinationCluster,
      fallbackCluster,
      picker: {
        cluster: pickerCluster,
        authority: `${pool.picker.name}.${namespace}.svc:${pool.picker.port}`,
        failOpen: pool.picker.failOpen,
      },
    };
  }

  /** None for a picker that cannot be found: then the failure mode decides, as for a dead one. */
  #pickerEndpoints(pool: Pool): readonly Endpoint[] {
    const picker = pool.picker;
    if (!picker || checkPicker(pool.namespace, picker, this.#input.services) !== undefined) return [];
    const service = findService(this.#input.services, pool.namespace, picker.name);
    const port = service && findPort(service, picker.port);
    return service && port ? serviceEndpoints(service, port, this.#input.pods) : [];
  }

  /** As the first BackendTLSPolicy says, once its authorities are there: Envoy takes no cluster without them. */
  #tlsOf(namespace: string, group: string, kind: string, name: string): UpstreamTls | undefined {
    const policy = [...(this.#input.backendTlsPolicies ?? [])]
      .filter(({ metadata }) => metadata.namespace === namespace)
      .sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1))
      .find(({ spec }) =>
        spec.targetRefs.some((ref) => (ref.group ?? '') === group && ref.kind === kind && ref.name === name),
      );
    if (!policy) return undefined;
    const { hostname, caCertificateRefs = [] } = policy.spec.validation;
    const authorities = caCertificateRefs.map(
      (ref) =>
        this.#input.configMaps?.find(
          ({ metadata }) => metadata.namespace === namespace && metadata.name === ref.name && ref.kind === 'ConfigMap',
        )?.data?.['ca.crt'] ?? '',
    );
    return authorities.join('') === '' ? undefined : { serverName: hostname, authorities: authorities.join('') };
  }

  /** Gateways take a picker's certificate unseen: pickers make their own. */
  #pickerTls({ namespace, picker }: Pool): UpstreamTls | undefined {
    const service = picker && findService(this.#input.services, namespace, picker.name);
    const port = service && findPort(service, picker.port);
    return port?.appProtocol === 'https'
      ? { serverName: `${picker?.name}.${namespace}.svc`, authorities: undefined }
      : undefined;
  }

  #add(name: string, render: () => JsonObject): void {
    if (!this.#clusters.has(name)) this.#clusters.set(name, render());
  }
}

const hashOf = (endpoints: readonly (Endpoint | UpstreamTls | undefined)[]) =>
  createHash('sha256').update(JSON.stringify(endpoints)).digest('hex').slice(0, 8);

const invalid = (reason: string, message: string) => ({ kind: 'invalid', reason, message }) as const;

function findService(services: readonly Service[], namespace: string, name: string): Service | undefined {
  return services.find((service) => service.metadata.namespace === namespace && service.metadata.name === name);
}

function findPort(service: Service, port: number | undefined) {
  return (service.spec.ports ?? []).find((candidate) => candidate.port === port);
}

function isGranted(
  grants: readonly ReferenceGrant[],
  fromNamespace: string,
  to: { readonly group: string; readonly kind: string; readonly namespace: string; readonly name: string },
): boolean {
  return grants.some(
    (grant) =>
      grant.metadata.namespace === to.namespace &&
      grant.spec.from.some((f) => f.group === routeGroup && f.kind === 'HTTPRoute' && f.namespace === fromNamespace) &&
      grant.spec.to.some((t) => t.group === to.group && t.kind === to.kind && (!t.name || t.name === to.name)),
  );
}
