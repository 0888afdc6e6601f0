import type { Container, PodSpec } from '../api/foreign/pod.ts';
import { annotations, components } from '../api/labels.ts';
import type { LLMInferenceService } from '../api/v1alpha2/llm-inference-service.ts';
import type { Manifest } from '../kube/object.ts';
import type { Context } from './input.ts';
import { componentLabels } from './labels.ts';
import { manifestOf, ownerOf } from './manifest.ts';
import { childNames } from './names.ts';
import { hasFlag } from './pod/vllm-args.ts';

/**
 * TLS between the parts of a service. One certificate serves all of its pods: it names Services and no pod, so that a
 * new pod needs no new key. It lies in a Secret that every pod mounts and reads again when it changes.
 */

/** Where pods find `tls.crt`, `tls.key` and `ca.crt`; presets of KServe know both names. */
export const certificatesPath = '/var/run/kserve/tls';
export const certificatesVolume = 'tls-certs';

/** Whether the parts of a service speak TLS: as its annotation says, else as the cluster's configuration does. */
export function hasTls(service: LLMInferenceService, byDefault: boolean): boolean {
  const own = service.metadata.annotations?.[annotations.tls];
  return own === undefined ? byDefault : own === 'true';
}

/** Every DNS name under which a part of the service is called; the first is what callers by pod address ask for. */
export function certificateNames(
  service: LLMInferenceService,
  pickerService?: string,
  withTokenizer = false,
): readonly string[] {
  const names = childNames(service.metadata.name);
  const namespace = service.metadata.namespace ?? 'default';
  const services = [
    names.workloadService,
    names.prefillService,
    pickerService ?? names.schedulerService,
    ...(withTokenizer ? [names.tokenizer] : []),
  ];
  return [
    ...services.flatMap((name) => [`${name}.${namespace}.svc.cluster.local`, `${name}.${namespace}.svc`]),
    'localhost',
  ];
}

/** The name that callers by address verify a pod by. */
export function serverNameOf({ namespace, names }: Context): string {
  return `${names.workloadService}.${namespace}.svc.cluster.local`;
}

export function schemeOf({ platform }: Pick<Context, 'platform'>): 'http' | 'https' {
  return platform.tls ? 'https' : 'http';
}

/** The volume of the service's Secret; none without TLS. */
export function certificateVolumes({ platform, names }: Context): NonNullable<PodSpec['volumes']> {
  return platform.tls ? [{ name: certificatesVolume, secret: { secretName: names.certificates } }] : [];
}

/** Where a container finds it; none without TLS. */
export function certificateMounts({ platform }: Context): NonNullable<Container['volumeMounts']> {
  return platform.tls ? [{ mountPath: certificatesPath, name: certificatesVolume, readOnly: true }] : [];
}

/** vLLM's flags, unless the user brings a certificate of his own. */
export function renderTlsArgs({ platform }: Context, own: readonly string[]): readonly (readonly string[])[] {
  if (!platform.tls || hasFlag(own, '--ssl-certfile') || hasFlag(own, '--ssl-keyfile')) return [];
  return [
    ['--ssl-certfile', `${certificatesPath}/tls.crt`],
    ['--ssl-keyfile', `${certificatesPath}/tls.key`],
    ['--enable-ssl-refresh'],
  ];
}

/**
 * What others need to trust the service: a ConfigMap with its authorities (`ca.crt`) and its certificate (`tls.crt`, by
 * which the operator knows when to renew it), and the policy by which gateways call it by TLS.
 */
export function renderTrust(context: Context): readonly Manifest[] {
  const { platform, service, name, namespace, names } = context;
  if (!platform.tls) return [];
  const metadataOf = (own: string) => ({
    name: own,
    namespace,
    labels: componentLabels(name, components.workload),
    ownerReferences: ownerOf(service),
  });
  const configMap = manifestOf({ group: '', version: 'v1', kind: 'ConfigMap' }, metadataOf(names.certificates), {
    data: { 'ca.crt': platform.tls.authorities, 'tls.crt': platform.tls.certificate },
  });
  if (!platform.served.backendTlsPolicy) return [configMap];
  const pools = context.pool ? [{ group: context.pool, kind: 'InferencePool', name: names.pool }] : [];
  return [
    configMap,
    manifestOf(
      { group: 'gateway.networking.k8s.io', version: 'v1', kind: 'BackendTLSPolicy' },
      metadataOf(names.backendTls),
      {
        spec: {
          targetRefs: [{ group: '', kind: 'Service', name: names.workloadService }, ...pools],
          validation: {
            hostname: serverNameOf(context),
            caCertificateRefs: [{ group: '', kind: 'ConfigMap', name: names.certificates }],
          },
        },
      },
    ),
  ];
}
