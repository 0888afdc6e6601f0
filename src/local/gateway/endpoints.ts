import type { Pod, Service, ServicePort } from './shapes.ts';

/** One address that serves. */
export interface Endpoint {
  readonly address: string;
  readonly port: number;
}

/** Whether the pod takes traffic: it has an address, is ready and is not going away. */
export function isServing(pod: Pod): boolean {
  return (
    Boolean(pod.status?.podIP) &&
    pod.metadata.deletionTimestamp === undefined &&
    (pod.status?.conditions ?? []).some((condition) => condition.type === 'Ready' && condition.status === 'True')
  );
}

/** The serving pods of a namespace that carry all the labels. An empty selector selects none. */
export function selectPods(
  pods: readonly Pod[],
  namespace: string,
  selector: Readonly<Record<string, string>> | undefined,
): readonly Pod[] {
  const wanted = Object.entries(selector ?? {});
  if (wanted.length === 0) return [];
  return pods.filter(
    (pod) =>
      pod.metadata.namespace === namespace &&
      isServing(pod) &&
      wanted.every(([key, value]) => pod.metadata.labels?.[key] === value),
  );
}

/** The ready endpoints of one port of a Service, in a stable order; a named target port is looked up in each pod. */
export function serviceEndpoints(service: Service, port: ServicePort, pods: readonly Pod[]): readonly Endpoint[] {
  const selected = selectPods(pods, service.metadata.namespace ?? '', service.spec.selector);
  return sortEndpoints(
    selected.flatMap((pod) => {
      const target = targetPort(pod, port);
      return target === undefined ? [] : [{ address: pod.status?.podIP ?? '', port: target }];
    }),
  );
}

/** Every target port of every ready pod of a pool. */
export function poolEndpoints(
  namespace: string,
  selector: Readonly<Record<string, string>>,
  ports: readonly number[],
  pods: readonly Pod[],
): readonly Endpoint[] {
  const selected = selectPods(pods, namespace, selector);
  return sortEndpoints(selected.flatMap((pod) => ports.map((port) => ({ address: pod.status?.podIP ?? '', port }))));
}

function targetPort(pod: Pod, port: ServicePort): number | undefined {
  const target = port.targetPort ?? port.port;
  if (typeof target === 'number') return target;
  for (const container of [...pod.spec.containers, ...(pod.spec.initContainers ?? [])]) {
    const named = container.ports?.find((p) => p.name === target);
    if (named) return named.containerPort;
  }
  return undefined;
}

function sortEndpoints(endpoints: readonly Endpoint[]): readonly Endpoint[] {
  const key = (endpoint: Endpoint) => `${endpoint.address}:${endpoint.port}`;
  return [...endpoints].sort((a, b) => (key(a) < key(b) ? -1 : 1));
}
