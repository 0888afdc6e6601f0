import type { Container, PodSpec } from '../../api/foreign/pod.ts';
import { sidecarContainer } from '../../api/labels.ts';
import { AppError } from '../../errors.ts';
import { renderSidecarProbes } from './probes.ts';
import { sidecarResources } from './resources.ts';
import { tracedServices } from './tracing.ts';

/** Where a routing sidecar shows its own metrics. */
export const sidecarMetricsPort = 9091;

/** What the pod webhook must know to inject the routing sidecar: the JSON of the pod's annotation. */
export interface SidecarSettings {
  readonly image: string;
  readonly port: number;
  readonly decoderPort: number;
  /** Service of the prefill pods: the way when the picker names none. */
  readonly prefillUrl: string;
  readonly connector: string;
  readonly poolNamespace: string;
  readonly poolName: string;
  readonly sessionCacheSize: number;
  /** The image is upstream's: it has other flags. */
  readonly flavour?: 'upstream';
  /** API group of the pool where it is not the newest. */
  readonly poolGroup?: string;
  /** With it the sidecar serves and calls by TLS; the pod has the volume already. */
  readonly tls?: {
    readonly volume: string;
    readonly path: string;
    /** DNS name in the certificates of pods, which are called by address. */
    readonly serverName: string;
  };
  /** With it the sidecar sends spans to that collector. */
  readonly tracing?: { readonly endpoint: string; readonly ratio: string };
}

/** What is the operator's own of it: not written into pod templates, so that an upgrade of the operator changes none. */
export type SidecarDefaults = Pick<SidecarSettings, 'image' | 'sessionCacheSize' | 'flavour'>;

const texts = ['image', 'prefillUrl', 'connector', 'poolNamespace', 'poolName'] as const;
const numbers = ['port', 'decoderPort', 'sessionCacheSize'] as const;

/**
 * Settings from the annotation's text over the operator's own.
 * @throws AppError `invalid` naming the field that is missing or of the wrong type
 */
export function parseSidecarSettings(text: string, defaults: SidecarDefaults): SidecarSettings {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (cause) {
    throw new AppError('invalid', `the routing sidecar's settings are not JSON: ${text.slice(0, 100)}`, { cause });
  }
  const given = (typeof parsed === 'object' && parsed !== null ? parsed : {}) as Readonly<Record<string, unknown>>;
  const settings: Readonly<Record<string, unknown>> = { ...defaults, ...given };
  for (const [fields, type] of [
    [texts, 'string'],
    [numbers, 'number'],
  ] as const)
    for (const field of fields)
      if (typeof settings[field] !== type)
        throw new AppError(
          'invalid',
          `the routing sidecar's settings need ${field}, a ${type}; got ${settings[field]}`,
        );
  const { tls } = settings;
  if (tls !== undefined)
    for (const field of ['volume', 'path', 'serverName'])
      if (typeof (tls as Readonly<Record<string, unknown>> | null)?.[field] !== 'string')
        throw new AppError('invalid', `the routing sidecar's settings need tls.${field}, a string`);
  const { tracing } = settings;
  if (tracing !== undefined)
    for (const field of ['endpoint', 'ratio'])
      if (typeof (tracing as Readonly<Record<string, unknown>> | null)?.[field] !== 'string')
        throw new AppError('invalid', `the routing sidecar's settings need tracing.${field}, a string`);
  return settings as unknown as SidecarSettings;
}

/**
 * The pod with the routing sidecar as its first init container, which runs beside the model server from before its
 * start until after its end. Undefined when the pod has one already, so that injecting twice changes nothing.
 */
export function injectSidecar<Pod extends Partial<PodSpec>>(pod: Pod, settings: SidecarSettings): Pod | undefined {
  const present = [...(pod.initContainers ?? []), ...(pod.containers ?? [])];
  if (present.some((container) => container.name === sidecarContainer)) return undefined;
  return { ...pod, initContainers: [renderSidecar(settings), ...(pod.initContainers ?? [])] };
}

function renderSidecar(settings: SidecarSettings): Container {
  const { tls } = settings;
  return {
    name: sidecarContainer,
    image: settings.image,
    restartPolicy: 'Always',
    ...(settings.flavour === 'upstream' ? renderUpstream(settings) : renderOurs(settings)),
    ...(tls ? { volumeMounts: [{ mountPath: tls.path, name: tls.volume, readOnly: true }] } : {}),
    ...renderSidecarProbes(settings.port, tls ? 'HTTPS' : 'HTTP'),
    resources: sidecarResources,
    securityContext: {
      allowPrivilegeEscalation: false,
      capabilities: { drop: ['ALL'] },
      readOnlyRootFilesystem: true,
      runAsNonRoot: true,
      runAsUser: 65_532,
      seccompProfile: { type: 'RuntimeDefault' },
    },
  };
}

type Program = Required<Pick<Container, 'args' | 'env' | 'ports'>>;

function renderOurs(settings: SidecarSettings): Program {
  const { tls, tracing } = settings;
  return {
    args: [
      `--port=${settings.port}`,
      `--decoder-port=${settings.decoderPort}`,
      `--decoder-use-tls=${tls !== undefined}`,
      `--prefiller-use-tls=${tls !== undefined}`,
      `--prefill-url=${settings.prefillUrl}`,
      `--connector=${settings.connector}`,
      `--cert-path=${tls?.path ?? '/etc/ssl/certs'}`,
      ...(tls ? ['--secure-proxy=true', `--tls-server-name=${tls.serverName}`] : []),
      '--enable-ssrf-protection=true',
    ],
    env: [
      { name: 'INFERENCE_POOL_NAMESPACE', value: settings.poolNamespace },
      { name: 'INFERENCE_POOL_NAME', value: settings.poolName },
      { name: 'SESSION_CACHE_SIZE', value: String(settings.sessionCacheSize) },
      { name: 'POD_NAME', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } },
      { name: 'POD_IP', valueFrom: { fieldRef: { fieldPath: 'status.podIP' } } },
      ...(tracing
        ? [
            { name: 'OTEL_SERVICE_NAME', value: tracedServices.sidecar },
            { name: 'OTEL_EXPORTER_OTLP_ENDPOINT', value: tracing.endpoint },
            { name: 'OTEL_TRACES_SAMPLER_ARG', value: tracing.ratio },
          ]
        : []),
    ],
    ports: [
      { containerPort: settings.port, name: tls ? 'https' : 'http', protocol: 'TCP' },
      { containerPort: sidecarMetricsPort, name: 'metrics', protocol: 'TCP' },
    ],
  };
}

/**
 * Flags that upstream's sidecar knows since its version 0.8. It keeps no conversations, has no prefill Service to fall back
 * to and no metrics of its own. It calls prefill pods by address, which certificates do not name, so it cannot check them.
 */
function renderUpstream(settings: SidecarSettings): Program {
  const { tls } = settings;
  return {
    args: [
      `--port=${settings.port}`,
      `--vllm-port=${settings.decoderPort}`,
      `--kv-connector=${settings.connector}`,
      `--secure-proxy=${tls !== undefined}`,
      ...(tls
        ? [
            `--cert-path=${tls.path}`,
            ...['decoder', 'prefiller'].flatMap((leg) => [`--enable-tls=${leg}`, `--tls-insecure-skip-verify=${leg}`]),
          ]
        : []),
      '--enable-ssrf-protection=true',
      `--pool-group=${settings.poolGroup ?? 'inference.networking.k8s.io'}`,
      `--inference-pool=${settings.poolNamespace}/${settings.poolName}`,
    ],
    env: [
      { name: 'INFERENCE_POOL', value: `${settings.poolNamespace}/${settings.poolName}` },
      { name: 'POD_NAME', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } },
      { name: 'POD_IP', valueFrom: { fieldRef: { fieldPath: 'status.podIP' } } },
    ],
    ports: [{ containerPort: settings.port, name: tls ? 'https' : 'http', protocol: 'TCP' }],
  };
}
