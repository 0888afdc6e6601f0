import { quantityToNumber } from '../../kube/quantity.ts';
import type { Container, EnvVar, Pod, ResourceFieldRef } from './pod-spec.ts';
import { containersOf } from './pod-spec.ts';

/** What env values may refer to besides the pod itself. */
export interface EnvSources {
  readonly podIP: string;
  readonly hostIP: string;
  readonly nodeName: string;
  /** Stands in for a limit that is not set. */
  readonly allocatable: Readonly<Record<string, string>>;
  /** Variables for the services of the namespace; everything else may refer to them. */
  readonly services: Readonly<Record<string, string>>;
  /** Data of a ConfigMap or Secret of the pod's namespace as text; undefined when there is none. */
  configMap(name: string): Promise<Readonly<Record<string, string>> | undefined>;
  secret(name: string): Promise<Readonly<Record<string, string>> | undefined>;
}

export type Resolved<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly message: string };

/** The environment of a container, in the kubelet's order: services, envFrom, env; `$(VAR)` sees what came before. */
export async function resolveEnv(
  pod: Pod,
  container: Container,
  sources: EnvSources,
): Promise<Resolved<Readonly<Record<string, string>>>> {
  const env: Record<string, string> = { ...sources.services };
  const namespace = pod.metadata.namespace ?? 'default';
  for (const from of container.envFrom ?? []) {
    const ref = from.configMapRef ?? from.secretRef;
    if (!ref) continue;
    const kind = from.configMapRef ? 'configmap' : 'secret';
    const name = ref.name ?? '';
    const data = await (kind === 'configmap' ? sources.configMap(name) : sources.secret(name));
    if (!data) {
      if (ref.optional) continue;
      return { ok: false, message: `${kind} "${name}" not found` };
    }
    for (const [key, value] of Object.entries(data)) {
      const variable = `${from.prefix ?? ''}${key}`;
      if (/^[-._a-zA-Z][-._a-zA-Z0-9]*$/.test(variable)) env[variable] = value;
    }
  }
  for (const variable of container.env ?? []) {
    const value = await resolveVariable(variable, pod, container, namespace, env, sources);
    if (!value.ok) return value;
    if (value.value !== undefined) env[variable.name] = value.value;
  }
  return { ok: true, value: env };
}

async function resolveVariable(
  variable: EnvVar,
  pod: Pod,
  container: Container,
  namespace: string,
  env: Readonly<Record<string, string>>,
  sources: EnvSources,
): Promise<Resolved<string | undefined>> {
  const from = variable.valueFrom;
  if (!from) return { ok: true, value: expandVariables(variable.value ?? '', env) };
  if (from.fieldRef) {
    const value = readField(pod, from.fieldRef.fieldPath, sources);
    return value === undefined
      ? { ok: false, message: `env ${variable.name}: unsupported fieldPath: ${from.fieldRef.fieldPath}` }
      : { ok: true, value };
  }
  if (from.resourceFieldRef) return readResource(pod, container, from.resourceFieldRef, sources.allocatable);
  const ref = from.configMapKeyRef ?? from.secretKeyRef;
  if (!ref) return { ok: false, message: `env ${variable.name}: no source that this node knows` };
  const kind = from.configMapKeyRef ? 'configmap' : 'secret';
  const name = ref.name ?? '';
  const data = await (kind === 'configmap' ? sources.configMap(name) : sources.secret(name));
  const value = data?.[ref.key];
  if (value !== undefined) return { ok: true, value };
  if (ref.optional) return { ok: true, value: undefined };
  const where = kind === 'configmap' ? 'ConfigMap' : 'Secret';
  return {
    ok: false,
    message: data ? `couldn't find key ${ref.key} in ${where} ${namespace}/${name}` : `${kind} "${name}" not found`,
  };
}

/** `$(NAME)` becomes its value, `$$` a dollar sign; a name that is not set stays as it is written. */
export function expandVariables(text: string, env: Readonly<Record<string, string>>): string {
  return text.replace(/\$(?:\$|\(([^)]*)\))/g, (whole, name: string | undefined) => {
    if (name === undefined) return '$';
    return Object.hasOwn(env, name) ? (env[name] ?? '') : whole;
  });
}

/** A field of the pod as the downward API gives it; undefined when it gives no such field. */
export function readField(
  pod: Pod,
  fieldPath: string,
  sources: Pick<EnvSources, 'podIP' | 'hostIP' | 'nodeName'>,
): string | undefined {
  const { metadata, spec } = pod;
  const keyed = /^metadata\.(labels|annotations)\['(.+)'\]$/.exec(fieldPath);
  if (keyed) return (keyed[1] === 'labels' ? metadata.labels : metadata.annotations)?.[keyed[2] ?? ''] ?? '';
  switch (fieldPath) {
    case 'metadata.name':
      return metadata.name;
    case 'metadata.namespace':
      return metadata.namespace ?? 'default';
    case 'metadata.uid':
      return metadata.uid ?? '';
    case 'metadata.labels':
      return renderMap(metadata.labels);
    case 'metadata.annotations':
      return renderMap(metadata.annotations);
    case 'spec.nodeName':
      return sources.nodeName;
    case 'spec.serviceAccountName':
      return spec.serviceAccountName ?? 'default';
    case 'status.podIP':
    case 'status.podIPs':
      return sources.podIP;
    case 'status.hostIP':
    case 'status.hostIPs':
      return sources.hostIP;
    default:
      return undefined;
  }
}

function renderMap(map: Readonly<Record<string, string>> | undefined): string {
  return Object.entries(map ?? {})
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, value]) => `${key}=${JSON.stringify(value)}`)
    .join('\n');
}

/** A request or limit of a container in units of `divisor`, rounded up; an unset limit is what the node can give. */
export function readResource(
  pod: Pod,
  container: Container | undefined,
  ref: ResourceFieldRef,
  allocatable: Readonly<Record<string, string>>,
): Resolved<string> {
  const target = ref.containerName
    ? containersOf(pod.spec).find((placed) => placed.container.name === ref.containerName)?.container
    : container;
  const [side, ...rest] = ref.resource.split('.');
  const name = rest.join('.');
  if (!target) return { ok: false, message: `container ${ref.containerName ?? ''} not found` };
  if ((side !== 'limits' && side !== 'requests') || name === '') {
    return { ok: false, message: `unsupported container resource: ${ref.resource}` };
  }
  const amount = target.resources?.[side]?.[name] ?? (side === 'limits' ? (allocatable[name] ?? 0) : 0);
  const divisor = quantityToNumber(ref.divisor ?? 1) || 1;
  // Binary fractions: 0.3 / 0.001 must be 300, not 301.
  return { ok: true, value: String(Math.ceil(Number((quantityToNumber(amount) / divisor).toFixed(6)))) };
}
