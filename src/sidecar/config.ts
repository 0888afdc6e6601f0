import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { AppError, messageOf } from '../errors.ts';
import { type ConfigOf, type Parsed, parseProgram } from '../flags.ts';
import type { LogLevel } from '../telemetry/log.ts';
import type { Connector } from './connectors/connector.ts';
import { connectors, unsupportedConnectors } from './connectors/register.ts';
import { checkRanks } from './data-parallel.ts';
import type { SessionPolicy } from './decide.ts';
import { type EcConnector, ecConnectors } from './encode-request.ts';
import { toHostPort } from './host-port.ts';
import { sidecarProgram, type sidecarSettings } from './settings.ts';

export { sidecarProgram };

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
  /** Undefined without an encode stage. */
  readonly encode:
    | (TlsLeg & {
        readonly connector: EcConnector;
        readonly failure: 'encode-local' | 'error';
        readonly connectTimeoutMs: number;
        readonly timeoutMs: number;
      })
    | undefined;
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
  /** Undefined: no spans. */
  readonly tracing: { readonly endpoint: string; readonly service: string; readonly ratio: number } | undefined;
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
  let parsed: Parsed<typeof sidecarSettings> = parseProgram(sidecarProgram, argv, env);
  if (parsed.kind === 'help') return parsed;
  const file = configurationOf(parsed.config);
  if (file !== undefined) parsed = parseProgram(sidecarProgram, argv, env, file);
  if (parsed.kind === 'help') return parsed;
  const problems = conflictsOf(parsed.config, parsed.given);
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
  const ecConnector = ecConnectors.find((name) => name === raw.ecConnector);
  if (raw.ecConnector !== '' && !ecConnector) {
    problems.push(`--ec-connector: "${raw.ecConnector}" is unknown; use ${ecConnectors.join(' or ')}`);
  }
  const traceRatio = Number(raw.traceRatio);
  const isTracing = raw.tracing && raw.otlpEndpoint !== '';
  if (isTracing && !URL.canParse(raw.otlpEndpoint)) {
    problems.push(
      `--otlp-endpoint (OTEL_EXPORTER_OTLP_ENDPOINT): "${raw.otlpEndpoint}" is no URL; give one such as http://otel-collector:4318`,
    );
  }
  if (!(traceRatio >= 0 && traceRatio <= 1)) {
    problems.push(
      `--trace-ratio (OTEL_TRACES_SAMPLER_ARG): "${raw.traceRatio}" is not a share; give a number from 0 to 1`,
    );
  }
  if (raw.moriioWriteMode) problems.push('--moriio-write-mode is not supported; use --connector=nixlv2');
  const logLevel = logLevelOf(raw, problems);
  if (raw.p2pPull) problems.push('--enable-p2p-pull is not supported; leave it out');
  if (raw.decodeChunkSize !== 0) problems.push('--decode-chunk-size is not supported; leave it at 0');
  for (const [flag, legs] of [
    ['enable-tls', raw.enableTls],
    ['tls-insecure-skip-verify', raw.insecureSkipVerify],
  ] as const) {
    for (const leg of legs) {
      if (leg !== 'prefiller' && leg !== 'decoder' && leg !== 'encoder') {
        problems.push(`--${flag}: "${leg}" is not a leg; use prefiller, decoder, encoder or several of them`);
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
    encode: ecConnector && {
      connector: ecConnector,
      isTls: raw.encoderUseTls || raw.enableTls.includes('encoder'),
      isInsecure: raw.encoderInsecure || raw.insecureSkipVerify.includes('encoder'),
      failure: raw.encodeFailure,
      connectTimeoutMs: raw.prefillConnectTimeoutMs,
      timeoutMs: raw.encodeTimeoutMs,
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
    tracing: isTracing ? { endpoint: raw.otlpEndpoint, service: raw.otelServiceName, ratio: traceRatio } : undefined,
    logLevel,
  };
}

/** The text of the configuration file, or of --configuration. */
function configurationOf(raw: ConfigOf<typeof sidecarSettings>): string | undefined {
  if (raw.configurationFile === '') return raw.configuration === '' ? undefined : raw.configuration;
  if (raw.configuration !== '') {
    throw new AppError('usage', 'signalbox-sidecar: --configuration and --configuration-file are both given; give one');
  }
  try {
    return readFileSync(raw.configurationFile, 'utf8');
  } catch (thrown) {
    throw new AppError('usage', `signalbox-sidecar: --configuration-file cannot be read: ${messageOf(thrown)}`, {
      cause: thrown,
    });
  }
}

/** Settings that say the same thing differently. */
function conflictsOf(
  raw: ConfigOf<typeof sidecarSettings>,
  given: ReadonlySet<keyof typeof sidecarSettings>,
): string[] {
  const problems: string[] = [];
  const legs = [
    ['prefiller', 'prefillerUseTls', 'prefillerInsecure'],
    ['decoder', 'decoderUseTls', 'decoderInsecure'],
    ['encoder', 'encoderUseTls', 'encoderInsecure'],
  ] as const;
  for (const [leg, useTls, insecure] of legs) {
    if (raw.enableTls.includes(leg) && given.has(useTls) && !raw[useTls]) {
      problems.push(`--enable-tls names ${leg} and --${leg}-use-tls is false; give one of them`);
    }
    if (raw.insecureSkipVerify.includes(leg) && given.has(insecure) && !raw[insecure]) {
      problems.push(
        `--tls-insecure-skip-verify names ${leg} and --${leg}-tls-insecure-skip-verify is false; give one of them`,
      );
    }
  }
  const [first = '', second] = raw.inferencePool.split('/');
  const [namespace, name] = second === undefined ? [undefined, first] : [first, second];
  if (raw.inferencePool !== '' && raw.poolName !== '' && raw.poolName !== name) {
    problems.push(
      `--inference-pool "${raw.inferencePool}" and --inference-pool-name (INFERENCE_POOL_NAME) "${raw.poolName}" name two pools; give one`,
    );
  }
  if (namespace !== undefined && raw.poolNamespace !== '' && raw.poolNamespace !== namespace) {
    problems.push(
      `--inference-pool "${raw.inferencePool}" and --inference-pool-namespace (INFERENCE_POOL_NAMESPACE) "${raw.poolNamespace}" name two namespaces; give one`,
    );
  }
  if (given.has('logLevel') && given.has('zapLogLevel')) {
    problems.push('--log-level and --zap-log-level are both given; give --log-level');
  }
  return problems;
}

function logLevelOf(raw: ConfigOf<typeof sidecarSettings>, problems: string[]): LogLevel {
  const zap = raw.zapLogLevel.toLowerCase();
  if (zap === '') return raw.logLevel;
  if (/^\d+$/.test(zap)) return zap === '0' ? 'info' : zap === '1' ? 'debug' : 'trace';
  if (zap === 'debug' || zap === 'info' || zap === 'warn' || zap === 'error') return zap;
  if (zap === 'panic') return 'fatal';
  problems.push(
    `--zap-log-level: "${raw.zapLogLevel}" is not a level; use debug, info, warn, error, panic or a number`,
  );
  return raw.logLevel;
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
