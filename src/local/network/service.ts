import type { KubeObject } from '../../kube/object.ts';
import { type Container, type Pod, type Port, portNumberOf } from '../node/pod-spec.ts';

export interface ServicePort {
  readonly name?: string;
  readonly protocol?: string;
  readonly port: number;
  readonly targetPort?: Port;
}

/** The parts of a Service that the network reads. */
export interface Service extends KubeObject {
  readonly spec: {
    readonly clusterIP?: string;
    readonly type?: string;
    readonly selector?: Readonly<Record<string, string>>;
    readonly ports?: readonly ServicePort[];
    readonly publishNotReadyAddresses?: boolean;
  };
}

export interface Backend {
  readonly host: string;
  readonly port: number;
}

/** Something that wants to be reachable at an address and port, and where its connections go. */
export interface VirtualServer {
  readonly host: string;
  readonly port: number;
  /** `namespace/service` for messages. */
  readonly service: string;
  readonly backends: readonly Backend[];
}

export type NetworkPod = Pick<Pod, 'apiVersion' | 'kind' | 'metadata' | 'spec' | 'status'>;

/** Whether the pod may get new connections: ready, with an address, and not going away. */
export function isServing(pod: NetworkPod): boolean {
  return (
    pod.metadata.deletionTimestamp === undefined &&
    pod.status?.podIP !== undefined &&
    pod.status.conditions?.some((condition) => condition.type === 'Ready' && condition.status === 'True') === true
  );
}

/** The pods that a Service selects; none where it has no selector. */
export function podsOf(service: Service, pods: readonly NetworkPod[]): readonly NetworkPod[] {
  const selector = Object.entries(service.spec.selector ?? {});
  if (selector.length === 0) return [];
  return pods.filter(
    (pod) =>
      pod.metadata.namespace === service.metadata.namespace &&
      selector.every(([key, value]) => pod.metadata.labels?.[key] === value),
  );
}

/** Where connections to one port of a Service go: the serving pods, each at its own number of a named port. */
export function backendsOf(service: Service, port: ServicePort, pods: readonly NetworkPod[]): readonly Backend[] {
  return podsOf(service, pods)
    .filter((pod) =>
      service.spec.publishNotReadyAddresses === true ? pod.status?.podIP !== undefined : isServing(pod),
    )
    .flatMap((pod) => {
      const containers: readonly Container[] = [...(pod.spec.initContainers ?? []), ...pod.spec.containers];
      const number = portNumberOf(port.targetPort ?? port.port, containers);
      const host = pod.status?.podIP;
      return number === undefined || host === undefined ? [] : [{ host, port: number }];
    })
    .sort((a, b) => (a.host < b.host ? -1 : 1));
}

export function isHeadless(service: Service): boolean {
  return service.spec.clusterIP === 'None';
}

function hasClusterIP(service: Service): boolean {
  return service.spec.clusterIP !== undefined && service.spec.clusterIP !== '' && !isHeadless(service);
}

/** Everything that must be listened on. The `kubernetes` Service has no selector; it leads to the API server. */
export function virtualServers(
  services: readonly Service[],
  pods: readonly NetworkPod[],
  apiServer: Backend,
): readonly VirtualServer[] {
  return services.filter(hasClusterIP).flatMap((service) => {
    const isApi = service.metadata.namespace === 'default' && service.metadata.name === 'kubernetes';
    return (service.spec.ports ?? [])
      .filter((port) => (port.protocol ?? 'TCP') === 'TCP')
      .map((port) => ({
        host: service.spec.clusterIP ?? '',
        port: port.port,
        service: `${service.metadata.namespace}/${service.metadata.name}`,
        backends: isApi ? [apiServer] : backendsOf(service, port, pods),
      }));
  });
}

/**
 * The names of the cluster, each as `<service>.<namespace>`: a ClusterIP, the pods of a headless Service, and
 * `<hostname>.<service>.<namespace>` for the pods that name a headless Service as their subdomain.
 */
export function serviceNames(
  services: readonly Service[],
  pods: readonly NetworkPod[],
): Readonly<Record<string, readonly string[]>> {
  const names: Record<string, readonly string[]> = {};
  for (const service of services) {
    const { name, namespace } = service.metadata;
    const key = `${name}.${namespace}`;
    if (hasClusterIP(service)) names[key] = [service.spec.clusterIP ?? ''];
    if (!isHeadless(service)) continue;
    const members = podsOf(service, pods).filter((pod) =>
      service.spec.publishNotReadyAddresses === true ? pod.status?.podIP !== undefined : isServing(pod),
    );
    names[key] = members.flatMap((pod) => pod.status?.podIP ?? []).sort();
    for (const pod of members) {
      const host = pod.spec.hostname;
      if (host && pod.spec.subdomain === name && pod.status?.podIP) names[`${host}.${key}`] = [pod.status.podIP];
    }
  }
  return names;
}

/** The variables by which a container finds the services of its namespace, as `enableServiceLinks` promises. */
export function serviceEnv(services: readonly Service[], namespace: string): Readonly<Record<string, string>> {
  const env: Record<string, string> = {};
  for (const service of services) {
    if (service.metadata.namespace !== namespace || !hasClusterIP(service)) continue;
    if (namespace === 'default' && service.metadata.name === 'kubernetes') continue;
    const prefix = service.metadata.name.toUpperCase().replaceAll('-', '_');
    const host = service.spec.clusterIP ?? '';
    const [first] = service.spec.ports ?? [];
    if (!first) continue;
    env[`${prefix}_SERVICE_HOST`] = host;
    env[`${prefix}_SERVICE_PORT`] = String(first.port);
    env[`${prefix}_PORT`] = `${(first.protocol ?? 'TCP').toLowerCase()}://${host}:${first.port}`;
    for (const { name, port, protocol = 'TCP' } of service.spec.ports ?? []) {
      if (name) env[`${prefix}_SERVICE_PORT_${name.toUpperCase().replaceAll('-', '_')}`] = String(port);
      const key = `${prefix}_PORT_${port}_${protocol}`;
      env[key] = `${protocol.toLowerCase()}://${host}:${port}`;
      env[`${key}_PROTO`] = protocol.toLowerCase();
      env[`${key}_PORT`] = String(port);
      env[`${key}_ADDR`] = host;
    }
  }
  return env;
}
