import { statSync } from 'node:fs';
import { join } from 'node:path';
import { AppError } from '../errors.ts';
import { type ConfigOf, type Parsed, parseProgram, setting } from '../flags.ts';
import type { LogLevel } from '../telemetry/log.ts';
import type { Connector } from './connectors/connector.ts';
import { connectors, unsupportedConnectors } from './connectors/register.ts';
import { checkRanks } from './data-parallel.ts';
import type { SessionPolicy } from './decide.ts';
import { toHostPort } from './host-port.ts';

const MiB = 1024 * 1024;

/** Every flag: our own, and the names that other versions of such a sidecar take. */
export const sidecarSettings = {
  port: setting.port({ flag: 'port', default: 8000, description: 'Port to serve on; 0 takes a free one.' }),
  decoderPort: setting.port({
    flag: 'decoder-port',
    aliases: ['vllm-port', 'model-server-port'],
    default: 8001,
    description: 'Port of the local engine.',
  }),
  metricsPort: setting.port({
    flag: 'metrics-port',
    default: 9091,
    description: "Port of the sidecar's own /metrics and /debug/sessions; 0 takes a free one.",
  }),
  podAddress: setting.text({
    flag: 'pod-address',
    env: 'SIGNALBOX_POD_ADDRESS',
    placeholder: 'IP',
    description: 'Listen on this address only, and reach the local engine there instead of on 127.0.0.1.',
  }),
  podName: setting.text({
    flag: 'pod-name',
    env: 'POD_NAME',
    description: 'Name to show in x-signalbox-decode; the address and port when empty.',
  }),
  prefillUrl: setting.text({
    flag: 'prefill-url',
    placeholder: 'URL',
    description: 'Where to prefill when a request names no prefill pod, such as http://my-llm-kserve-prefill-svc:8000.',
  }),
  connector: setting.text({
    flag: 'connector',
    aliases: ['kv-connector'],
    default: 'nixlv2',
    placeholder: Object.keys(connectors).join('|'),
    description: 'How KV blocks travel from the prefill pod.',
  }),
  bootstrapPort: setting.port({
    flag: 'sglang-bootstrap-port',
    env: 'SGLANG_BOOTSTRAP_PORT',
    default: 8998,
    description: "Port of a prefill pod's bootstrap server, with --connector=sglang.",
  }),
  prefillFailure: setting.oneOf({
    flag: 'prefill-failure',
    choices: ['decode-local', 'error'],
    default: 'decode-local',
    description: 'What to do when no prefill pod answers: prefill in the local engine, or tell the client.',
  }),
  prefillMaxRetries: setting.integer({
    flag: 'prefill-max-retries',
    default: 0,
    max: 10,
    description: 'Further tries with the same prefill pod after 502, 503, 504 or a lost connection.',
  }),
  prefillRetryBackoffMs: setting.durationMs({
    flag: 'prefill-retry-backoff',
    default: 200,
    description: 'Pause before such a try, jittered.',
  }),
  prefillConnectTimeoutMs: setting.durationMs({
    flag: 'prefill-connect-timeout',
    default: 2000,
    description: 'Longest wait for a connection to a prefill pod.',
  }),
  prefillTimeoutMs: setting.durationMs({
    flag: 'prefill-timeout',
    default: 60_000,
    description: "Longest wait for a prefill pod's answer.",
  }),
  prefillHealthIntervalMs: setting.durationMs({
    flag: 'prefill-health-interval',
    default: 5000,
    description:
      'While a prefill lasts, how often the pod is asked whether it is alive; two misses end the wait. 0 never asks.',
  }),
  decoderConnectTimeoutMs: setting.durationMs({
    flag: 'decoder-connect-timeout',
    default: 2000,
    description: 'Longest wait for a connection to the local engine.',
  }),
  decoderTimeoutMs: setting.durationMs({
    flag: 'decoder-timeout',
    default: 30 * 60_000,
    description: "Longest wait for the beginning of the local engine's answer; streams may last.",
  }),
  prefillerSampling: setting.boolean({
    flag: 'enable-prefiller-sampling',
    env: 'ENABLE_PREFILLER_SAMPLING',
    default: false,
    description: 'Begin with a random prefill pod of the list that a request names, not the first.',
  }),
  sessionCacheSize: setting.integer({
    flag: 'session-cache-size',
    env: 'SESSION_CACHE_SIZE',
    default: 1000,
    max: 1_000_000,
    description: 'Conversations to remember, least recently used out first; 0 remembers none.',
  }),
  sessionPolicy: setting.oneOf({
    flag: 'session-policy',
    choices: ['prefer-session', 'prefer-header', 'off'],
    default: 'prefer-session',
    description:
      'Who decides about a known conversation: the session cache, the x-prefiller-host-port header, or no sessions.',
  }),
  sessionIdleMs: setting.durationMs({
    flag: 'session-idle-timeout',
    default: 3_600_000,
    description: 'A conversation unused for so long is forgotten.',
  }),
  sessionMaxNewTokens: setting.integer({
    flag: 'session-max-new-tokens',
    default: 0,
    description: 'A known conversation with more new prompt tokens (about) is prefilled remotely; 0 for no limit.',
  }),
  sessionMinCachedRatio: setting.number({
    flag: 'session-min-cached-ratio',
    default: 0.5,
    min: 0,
    description: 'Forget a conversation when the engine found less than this share of it in its cache.',
  }),
  decoderUseTls: setting.boolean({
    flag: 'decoder-use-tls',
    default: false,
    description: 'Speak TLS to the local engine.',
  }),
  prefillerUseTls: setting.boolean({
    flag: 'prefiller-use-tls',
    default: false,
    description: 'Speak TLS to prefill pods.',
  }),
  decoderInsecure: setting.boolean({
    flag: 'decoder-tls-insecure-skip-verify',
    default: false,
    description: "Take the local engine's certificate unseen.",
  }),
  prefillerInsecure: setting.boolean({
    flag: 'prefiller-tls-insecure-skip-verify',
    default: false,
    description: "Take prefill pods' certificates unseen.",
  }),
  enableTls: setting.list({
    flag: 'enable-tls',
    placeholder: 'prefiller,decoder',
    description: 'Legs that speak TLS: another spelling of the two flags.',
  }),
  insecureSkipVerify: setting.list({
    flag: 'tls-insecure-skip-verify',
    placeholder: 'prefiller,decoder',
    description: 'Legs whose certificates are taken unseen.',
  }),
  tlsServerName: setting.text({
    flag: 'tls-server-name',
    placeholder: 'NAME',
    description:
      'Name that the certificates of the local engine and of prefill pods must have, which are called by address; the address when empty.',
  }),
  secureProxy: setting.boolean({
    flag: 'secure-proxy',
    default: false,
    description: 'Serve HTTPS with tls.crt and tls.key of --cert-path.',
  }),
  certPath: setting.text({
    flag: 'cert-path',
    placeholder: 'DIR',
    description:
      'Folder with tls.crt and tls.key (with --secure-proxy) and, for calls by TLS, ca.crt or ca-certificates.crt.',
  }),
  ssrfProtection: setting.boolean({
    flag: 'enable-ssrf-protection',
    default: false,
    description: 'Call only ready prefill pods of the inference pool, on its ports, and the prefill URL.',
  }),
  inferencePool: setting.text({
    flag: 'inference-pool',
    env: 'INFERENCE_POOL',
    placeholder: 'NAMESPACE/NAME',
    description: 'The inference pool; the namespace is "default" when left out.',
  }),
  poolNamespace: setting.text({
    flag: 'inference-pool-namespace',
    env: 'INFERENCE_POOL_NAMESPACE',
    description: "The pool's namespace.",
  }),
  poolName: setting.text({
    flag: 'inference-pool-name',
    env: 'INFERENCE_POOL_NAME',
    description: "The pool's name.",
  }),
  poolGroup: setting.oneOf({
    flag: 'pool-group',
    choices: ['inference.networking.k8s.io', 'inference.networking.x-k8s.io'],
    default: 'inference.networking.k8s.io',
    description: 'API group of the pool.',
  }),
  kubeconfig: setting.text({
    flag: 'kubeconfig',
    env: 'KUBECONFIG',
    placeholder: 'FILE',
    description: "How to reach Kubernetes; else the pod's service account, else ~/.kube/config.",
  }),
  maxIdleConnections: setting.integer({
    flag: 'max-idle-conns-per-host',
    default: 1024,
    min: 1,
    description: 'Most connections to the local engine and to one prefill pod.',
  }),
  maxRequestBytes: setting.integer({
    flag: 'max-request-bytes',
    default: 64 * MiB,
    min: 1,
    description: 'Largest prompt request, in bytes; larger ones get 413.',
  }),
  drainTimeoutMs: setting.durationMs({
    flag: 'drain-timeout',
    default: 60_000,
    description: 'After SIGTERM, how long streams may go on.',
  }),
  logLevel: setting.oneOf({
    flag: 'log-level',
    choices: ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'],
    default: 'info',
    description: 'Least severe message to log.',
  }),
  dataParallelSize: setting.integer({
    flag: 'data-parallel-size',
    default: 1,
    min: 1,
    max: 64,
    description:
      'Data-parallel ranks of the local engine: rank i is served on --port + i for the engine on --decoder-port + i.',
  }),
  ecConnector: setting.text({ flag: 'ec-connector', hidden: true, description: 'Encoder connector; not supported.' }),
  p2pPull: setting.boolean({ flag: 'enable-p2p-pull', default: false, hidden: true, description: 'Not supported.' }),
  decodeChunkSize: setting.integer({
    flag: 'decode-chunk-size',
    default: 0,
    hidden: true,
    description: 'Not supported.',
  }),
} as const;

export const sidecarProgram = {
  name: 'signalbox-sidecar',
  summary: 'routes the requests of a decode pod: a prefill pod first where that pays, then the local engine',
  settings: sidecarSettings,
  epilog: [
    'Paths: POST */v1/chat/completions, completions, responses, messages and */inference/v1/generate may be prefilled',
    'elsewhere; GET /health and /ready are answered here; everything else goes to the local engine.',
  ].join('\n'),
};

export interface TlsLeg {
  readonly isTls: boolean;
  readonly isInsecure: boolean;
}

/** What `startSidecar` needs, checked. */
export interface SidecarConfig {
  readonly port: number;
  readonly metricsPort: number;
  /** Undefined listens on every interface. */
  readonly listenAddress: string | undefined;
  readonly decoder: TlsLeg & {
    readonly host: string;
    readonly port: number;
    readonly connectTimeoutMs: number;
    readonly timeoutMs: number;
  };
  /** Value of x-signalbox-decode. */
  readonly decodeName: string;
  readonly prefill: TlsLeg & {
    readonly url: URL | undefined;
    readonly failure: 'decode-local' | 'error';
    readonly maxRetries: number;
    readonly retryBackoffMs: number;
    readonly connectTimeoutMs: number;
    readonly timeoutMs: number;
    /** 0 = never. */
    readonly healthIntervalMs: number;
    readonly isSampled: boolean;
  };
  readonly connector: Connector;
  /** Of a prefill pod, for connectors that meet there. */
  readonly bootstrapPort: number;
  readonly sessions: {
    readonly policy: SessionPolicy;
    readonly maxEntries: number;
    readonly idleMs: number;
    readonly maxNewTokens: number;
    readonly minCachedRatio: number;
  };
  readonly certPath: string | undefined;
  /** Name that certificates of upstreams must have; undefined: that by which they are called. */
  readonly tlsServerName: string | undefined;
  readonly isSecure: boolean;
  readonly isSsrfProtected: boolean;
  readonly pool: { readonly namespace: string; readonly name: string; readonly group: string } | undefined;
  readonly kubeconfig: string | undefined;
  /** Above 1: `ranksOf` gives the configuration of each rank's sidecar. */
  readonly dataParallelSize: number;
  readonly maxConnections: number;
  readonly maxRequestBytes: number;
  readonly drainTimeoutMs: number;
  readonly logLevel: LogLevel;
}

/**
 * Reads argv and env.
 *
 * @throws AppError `usage` naming every flag at fault, its value and the remedy
 */
export function parseSidecarConfig(
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): { readonly kind: 'help'; readonly text: string } | { readonly kind: 'config'; readonly config: SidecarConfig } {
  const parsed: Parsed<typeof sidecarSettings> = parseProgram(sidecarProgram, argv, env);
  if (parsed.kind === 'help') return parsed;
  const problems: string[] = [];
  if (parsed.rest.length > 0) problems.push(`unexpected argument "${parsed.rest[0]}"`);
  const config = toSidecarConfig(parsed.config, problems);
  if (problems.length > 0 || !config) throw new AppError('usage', `signalbox-sidecar: ${problems.join('; ')}`);
  return { kind: 'config', config };
}

function toSidecarConfig(raw: ConfigOf<typeof sidecarSettings>, problems: string[]): SidecarConfig | undefined {
  const connector = connectors[raw.connector];
  if (!connector) {
    const supported = Object.keys(connectors).join(', ');
    problems.push(
      unsupportedConnectors.includes(raw.connector)
        ? `--connector: "${raw.connector}" is not supported yet; use ${supported}`
        : `--connector: "${raw.connector}" is unknown; use ${supported}`,
    );
  }
  if (raw.dataParallelSize > 1) {
    const bases = { port: raw.port, 'decoder-port': raw.decoderPort, 'metrics-port': raw.metricsPort };
    problems.push(...checkRanks(raw.dataParallelSize, bases));
  }
  if (raw.ecConnector !== '') problems.push(`--ec-connector: "${raw.ecConnector}" is not supported; leave it out`);
  if (raw.p2pPull) problems.push('--enable-p2p-pull is not supported; leave it out');
  if (raw.decodeChunkSize !== 0) problems.push('--decode-chunk-size is not supported; leave it at 0');
  for (const [flag, legs] of [
    ['enable-tls', raw.enableTls],
    ['tls-insecure-skip-verify', raw.insecureSkipVerify],
  ] as const) {
    for (const leg of legs) {
      if (leg !== 'prefiller' && leg !== 'decoder') {
        problems.push(`--${flag}: "${leg}" is not a supported leg; use prefiller, decoder or both`);
      }
    }
  }
  const port = raw.port;
  if (port !== 0 && port === raw.decoderPort) {
    problems.push(`--port and --decoder-port are both ${port}; the engine needs a port of its own`);
  }
  if (raw.decoderPort === 0) problems.push('--decoder-port: 0 is not a port; give the one that the engine serves on');
  if (raw.prefillMaxRetries > 0 && raw.prefillRetryBackoffMs <= 0) {
    problems.push('--prefill-retry-backoff must be longer than 0 when --prefill-max-retries is set');
  }
  const url = prefillUrlOf(raw.prefillUrl, problems);
  const pool = poolOf(raw, problems);
  if (raw.ssrfProtection && !pool) {
    problems.push(
      '--enable-ssrf-protection needs to know the pool: set --inference-pool NAMESPACE/NAME, or INFERENCE_POOL_NAMESPACE and INFERENCE_POOL_NAME',
    );
  }
  const certPath = raw.certPath === '' ? undefined : raw.certPath;
  if (raw.secureProxy) {
    const lacking = ['tls.crt', 'tls.key'].filter((file) => !certPath || !isFile(join(certPath, file)));
    if (lacking.length > 0) {
      problems.push(
        `--secure-proxy needs tls.crt and tls.key in --cert-path${certPath ? ` (${certPath} lacks ${lacking.join(' and ')})` : ''}; give a folder that has them, or --secure-proxy=false`,
      );
    }
  }
  if (!connector || problems.length > 0) return undefined;
  const host = raw.podAddress === '' ? '127.0.0.1' : raw.podAddress;
  return {
    port,
    metricsPort: raw.metricsPort,
    listenAddress: raw.podAddress === '' ? undefined : raw.podAddress,
    decoder: {
      host,
      port: raw.decoderPort,
      isTls: raw.decoderUseTls || raw.enableTls.includes('decoder'),
      isInsecure: raw.decoderInsecure || raw.insecureSkipVerify.includes('decoder'),
      connectTimeoutMs: raw.decoderConnectTimeoutMs,
      timeoutMs: raw.decoderTimeoutMs,
    },
    decodeName: raw.podName === '' ? toHostPort(host, port) : raw.podName,
    prefill: {
      url,
      isTls: raw.prefillerUseTls || raw.enableTls.includes('prefiller'),
      isInsecure: raw.prefillerInsecure || raw.insecureSkipVerify.includes('prefiller'),
      failure: raw.prefillFailure,
      maxRetries: raw.prefillMaxRetries,
      retryBackoffMs: raw.prefillRetryBackoffMs,
      connectTimeoutMs: raw.prefillConnectTimeoutMs,
      timeoutMs: raw.prefillTimeoutMs,
      healthIntervalMs: raw.prefillHealthIntervalMs,
      isSampled: raw.prefillerSampling,
    },
    connector,
    bootstrapPort: raw.bootstrapPort,
    sessions: {
      policy: raw.sessionCacheSize === 0 ? 'off' : raw.sessionPolicy,
      maxEntries: raw.sessionCacheSize,
      idleMs: raw.sessionIdleMs,
      maxNewTokens: raw.sessionMaxNewTokens,
      minCachedRatio: raw.sessionMinCachedRatio,
    },
    certPath,
    tlsServerName: raw.tlsServerName === '' ? undefined : raw.tlsServerName,
    isSecure: raw.secureProxy,
    isSsrfProtected: raw.ssrfProtection,
    pool,
    kubeconfig: raw.kubeconfig === '' ? undefined : raw.kubeconfig,
    dataParallelSize: raw.dataParallelSize,
    maxConnections: raw.maxIdleConnections,
    maxRequestBytes: raw.maxRequestBytes,
    drainTimeoutMs: raw.drainTimeoutMs,
    logLevel: raw.logLevel,
  };
}

function prefillUrlOf(text: string, problems: string[]): URL | undefined {
  if (text === '') return undefined;
  const url = URL.parse(/^https?:\/\//i.test(text) ? text : `http://${text}`);
  if (!url || url.hostname === '' || (url.pathname !== '/' && url.pathname !== '') || url.search !== '') {
    problems.push(
      `--prefill-url: "${text}" is not valid; give scheme, host and port only, such as http://prefill:8000`,
    );
    return undefined;
  }
  return url;
}

function poolOf(
  raw: ConfigOf<typeof sidecarSettings>,
  problems: string[],
): { readonly namespace: string; readonly name: string; readonly group: string } | undefined {
  const group = raw.poolGroup;
  if (raw.inferencePool !== '') {
    const parts = raw.inferencePool.split('/');
    const [first = '', second] = parts;
    if (parts.length > 2 || first === '' || second === '') {
      problems.push(`--inference-pool: "${raw.inferencePool}" is not valid; give NAMESPACE/NAME or NAME`);
      return undefined;
    }
    return second === undefined
      ? { namespace: raw.poolNamespace || 'default', name: first, group }
      : { namespace: first, name: second, group };
  }
  return raw.poolName === '' ? undefined : { namespace: raw.poolNamespace || 'default', name: raw.poolName, group };
}

function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() === true;
}
