import { AppError, messageOf } from '../errors.ts';
import { type ConfigOf, type Parsed, type Program, parseProgram, setting } from '../flags.ts';
import { parseQuantity, quantityToNumber } from '../kube/quantity.ts';
import { toCiphers } from './tls-options.ts';

const size = (options: {
  readonly flag: string;
  readonly description: string;
  readonly default: number;
  readonly hidden?: boolean;
}) => {
  const base = setting.text({ ...options, default: String(options.default), placeholder: 'BYTES' });
  return {
    ...base,
    default: options.default,
    schema: base.schema.transform((text, context) => {
      const bytes = parseQuantity(text) === undefined ? 0 : Math.floor(quantityToNumber(text));
      if (bytes >= 1) return bytes;
      context.addIssue({ code: 'custom', message: 'must be a size such as 1048576 or 4Mi' });
      return 0;
    }),
  };
};

/** Accepted for compatibility; what it did elsewhere has no place here. */
const ignored = (flag: string, description: string) => setting.text({ flag, description, hidden: true });
const ignoredSwitch = (flag: string, description: string) =>
  setting.boolean({ flag, description, hidden: true, default: false });

/** Everything that `signalbox-epp` can be told. */
export const eppSettings = {
  poolName: setting.text({
    flag: 'pool-name',
    description: 'InferencePool whose endpoints are picked',
    placeholder: 'NAME',
  }),
  poolNamespace: setting.text({
    flag: 'pool-namespace',
    env: 'NAMESPACE',
    description: 'its namespace',
    default: 'default',
    placeholder: 'NAME',
  }),
  poolGroup: setting.oneOf({
    flag: 'pool-group',
    description: 'its API group',
    choices: ['inference.networking.k8s.io', 'inference.networking.x-k8s.io'],
    default: 'inference.networking.k8s.io',
  }),
  endpointSelector: setting.text({
    flag: 'endpoint-selector',
    description: 'label selector of the pods, instead of an InferencePool',
    placeholder: 'SELECTOR',
  }),
  endpointTargetPorts: setting.list({ flag: 'endpoint-target-ports', description: 'ports of those pods, 1 to 8' }),
  configFile: setting.text({
    flag: 'config-file',
    description: 'file with an EndpointPickerConfig',
    placeholder: 'FILE',
  }),
  configText: setting.text({ flag: 'config-text', description: 'an EndpointPickerConfig itself', placeholder: 'YAML' }),
  grpcPort: setting.port({ flag: 'grpc-port', description: "port of Envoy's external processing", default: 9002 }),
  grpcHealthPort: setting.port({ flag: 'grpc-health-port', description: 'port of gRPC health', default: 9003 }),
  metricsPort: setting.port({ flag: 'metrics-port', description: 'port of Prometheus metrics', default: 9090 }),
  podAddress: setting.text({
    flag: 'pod-address',
    env: 'SIGNALBOX_POD_ADDRESS',
    description: 'the only address to listen on; all when empty',
    placeholder: 'IP',
  }),
  secureServing: setting.boolean({
    flag: 'secure-serving',
    description: 'TLS for gateways; a certificate is made when --cert-path gives none',
    default: true,
  }),
  certPath: setting.text({ flag: 'cert-path', description: 'folder with tls.crt and tls.key', placeholder: 'DIR' }),
  enableCertReload: setting.boolean({
    flag: 'enable-cert-reload',
    description: 'read the certificate again when it changes',
    default: false,
  }),
  tlsMinVersion: setting.oneOf({
    flag: 'tls-min-version',
    description: 'oldest TLS version',
    choices: ['', 'VersionTLS12', 'VersionTLS13', '1.2', '1.3'],
    default: '',
  }),
  tlsCipherSuites: setting.list({
    flag: 'tls-cipher-suites',
    description: "cipher suites of TLS 1.2 by Go's names; OpenSSL's choice when empty",
  }),
  metricsEndpointAuth: setting.boolean({
    flag: 'metrics-endpoint-auth',
    description: 'the metrics port asks for a bearer token that may get the path (TokenReview, SubjectAccessReview)',
    default: false,
  }),
  metricsCertDir: setting.text({
    flag: 'metrics-cert-dir',
    description: 'folder with tls.crt and tls.key of the metrics port; plain HTTP when empty',
    placeholder: 'DIR',
  }),
  metricsClientCaFile: setting.text({
    flag: 'metrics-client-ca-file',
    description: 'authorities of the certificates that callers of the metrics port have to show',
    placeholder: 'FILE',
  }),
  tracing: setting.boolean({
    flag: 'tracing',
    description: 'send spans to the collector, where one is named',
    default: true,
  }),
  otlpEndpoint: setting.text({
    flag: 'otlp-endpoint',
    env: 'OTEL_EXPORTER_OTLP_ENDPOINT',
    description: 'address of an OpenTelemetry collector; no spans when empty',
    placeholder: 'URL',
  }),
  otelServiceName: setting.text({
    flag: 'otel-service-name',
    env: 'OTEL_SERVICE_NAME',
    description: 'name of this service in traces',
    default: 'llm-d-epp',
    placeholder: 'NAME',
  }),
  traceRatio: setting.text({
    flag: 'trace-ratio',
    env: 'OTEL_TRACES_SAMPLER_ARG',
    description: 'share of traces that are recorded where the caller has not decided, 0 to 1',
    default: '0.1',
    placeholder: 'RATIO',
  }),
  maxRequestBodyBytes: size({
    flag: 'max-request-body-bytes',
    description: 'larger request bodies are answered 413',
    default: 64 << 20,
  }),
  grpcMaxRecvMsgSize: size({
    flag: 'grpc-max-recv-msg-size',
    description: 'largest message of a gateway',
    default: 4 << 20,
  }),
  http2Engine: setting.oneOf({
    flag: 'http2-engine',
    description: 'who speaks HTTP/2 with gateways: our own code over sockets, or Node at twice the cost',
    choices: ['native', 'node'],
    default: 'native',
  }),
  refreshMetricsInterval: setting.durationMs({
    flag: 'refresh-metrics-interval',
    description: 'between two readings of an endpoint’s metrics, at least 50ms',
    default: 200,
  }),
  metricsStalenessThreshold: setting.durationMs({
    flag: 'metrics-staleness-threshold',
    description: 'older metrics count as unknown',
    default: 2000,
  }),
  legacyMetricNames: setting.boolean({
    flag: 'legacy-metric-names',
    description:
      'metrics also under inference_objective_, inference_pool_, inference_extension_ and llm_d_inference_scheduler_',
    default: false,
  }),
  endpointFailureThreshold: setting.integer({
    flag: 'endpoint-failure-threshold',
    description: 'answers 500, 502, 503 or 504 in turn after which an endpoint is avoided for 5s to 60s; 0 for never',
    default: 3,
    max: 1000,
  }),
  explainRequests: setting.integer({
    flag: 'explain-requests',
    description: 'latest requests whose choice /debug/explain on the metrics port can explain; 0 for none',
    default: 128,
    max: 10_000,
  }),
  grpcStreamMetrics: setting.boolean({
    flag: 'enable-grpc-stream-metrics',
    description: "count gateways' streams and how long they were open",
    default: false,
  }),
  emitEndpointScores: setting.boolean({
    flag: 'emit-endpoint-scores',
    description: 'tell the gateway the scores of the candidates, as dynamic metadata',
    default: false,
  }),
  disableEndpointSubsetFilter: setting.boolean({
    flag: 'disable-endpoint-subset-filter',
    description: "ignore the gateway's list of allowed endpoints",
    default: false,
  }),
  healthChecking: setting.boolean({
    flag: 'health-checking',
    description: 'serve health on the gRPC port too',
    default: false,
  }),
  leaderElection: setting.boolean({
    flag: 'ha-enable-leader-election',
    description: 'of several pickers only the holder of a lease is ready',
    default: false,
  }),
  drainTimeout: setting.durationMs({
    flag: 'drain-timeout',
    description: 'how long open streams may go on after a stop signal',
    default: 30_000,
  }),
  kubeconfig: setting.text({
    flag: 'kubeconfig',
    env: 'KUBECONFIG',
    description: 'how to reach the API server; the service account in a cluster',
    placeholder: 'FILE',
  }),
  verbosity: setting.integer({ flag: 'v', description: 'log level: 4 debug, 5 trace', default: 2, max: 10 }),
  podName: setting.text({
    flag: 'pod-name',
    env: 'POD_NAME',
    description: 'name of this pod, for the lease',
    placeholder: 'NAME',
  }),

  // Accepted with their upstream effect; only older installations give them.
  metricsScheme: setting.oneOf({
    flag: 'model-server-metrics-scheme',
    description: 'scheme of metrics pages',
    choices: ['http', 'https'],
    default: 'http',
    hidden: true,
  }),
  metricsPath: setting.text({
    flag: 'model-server-metrics-path',
    description: 'path of metrics pages',
    default: '/metrics',
    hidden: true,
  }),
  modelServerMetricsPort: setting.port({
    flag: 'model-server-metrics-port',
    description: 'port of metrics pages, 0 for the endpoint’s own',
    default: 0,
    hidden: true,
  }),
  metricsSkipVerify: setting.boolean({
    flag: 'model-server-metrics-https-insecure-skip-verify',
    description: 'do not check certificates of metrics pages',
    default: true,
    hidden: true,
  }),

  // Accepted without effect.
  enablePprof: ignoredSwitch('enable-pprof', 'there are no Go profiles'),
  experimentalPlugins: ignoredSwitch('allow-experimental-plugins', 'every plugin may be used'),
  grpcMaxSendMsgSize: ignored('grpc-max-send-msg-size', 'replies never exceed 64 KiB'),
  refreshPrometheusInterval: ignored('refresh-prometheus-metrics-interval', 'gauges are worked out when read'),
  zapEncoder: ignored('zap-encoder', 'logs are JSON'),
  zapLogLevel: ignored('zap-log-level', 'use -v'),
  zapDevel: ignoredSwitch('zap-devel', 'logs are JSON'),
  zapStacktraceLevel: ignored('zap-stacktrace-level', 'errors have their stack'),
  zapTimeEncoding: ignored('zap-time-encoding', 'times are ISO 8601'),

  // Refused when given: see parseEppArgs.
  queuedMetric: ignored('total-queued-requests-metric', 'removed'),
  runningMetric: ignored('total-running-requests-metric', 'removed'),
  kvMetric: ignored('kv-cache-usage-percentage-metric', 'removed'),
  loraMetric: ignored('lora-info-metric', 'removed'),
  cacheMetric: ignored('cache-info-metric', 'removed'),
};

export type EppConfig = ConfigOf<typeof eppSettings>;

export const eppProgram: Program<typeof eppSettings> = {
  name: 'signalbox-epp',
  summary: 'picks the endpoint for each request that a gateway shows it',
  settings: eppSettings,
  epilog: `Without Kubernetes: a configuration with a file-discovery plugin, and
  signalbox-epp --pool-name P --config-file F --secure-serving=false`,
};

const removedFlags = ['queuedMetric', 'runningMetric', 'kvMetric', 'loraMetric', 'cacheMetric'] as const;

/** @throws AppError `usage` naming every flag that is wrong, or wrong beside another */
export function parseEppArgs(
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): Parsed<typeof eppSettings> {
  const parsed = parseProgram(eppProgram, argv, env);
  if (parsed.kind === 'help') return parsed;
  const { config, given, rest } = parsed;
  const problems: string[] = [];
  if (rest.length > 0) problems.push(`unexpected argument ${rest[0]}`);
  if (config.configFile !== '' && config.configText !== '') {
    problems.push('--config-file and --config-text exclude each other; give one');
  }
  if ((config.poolName === '') === (config.endpointSelector === '')) {
    problems.push('exactly one of --pool-name and --endpoint-selector is needed');
  }
  if (config.endpointSelector !== '') {
    const { length } = config.endpointTargetPorts;
    if (length < 1 || length > 8) problems.push('--endpoint-selector needs 1 to 8 ports in --endpoint-target-ports');
  }
  for (const port of config.endpointTargetPorts) {
    if (!/^\d+$/.test(port) || Number(port) < 1 || Number(port) > 65_535) {
      problems.push(`--endpoint-target-ports: "${port}" is not a port`);
    }
  }
  for (const key of removedFlags) {
    if (given.has(key)) {
      problems.push(`--${eppSettings[key].flag} was removed; use engineConfigs of the core-metrics-extractor plugin`);
    }
  }
  try {
    toCiphers(config.tlsCipherSuites);
  } catch (thrown) {
    problems.push(messageOf(thrown));
  }
  const ratio = Number(config.traceRatio);
  if (!(ratio >= 0 && ratio <= 1)) problems.push(`--trace-ratio: "${config.traceRatio}" is not between 0 and 1`);
  if (config.metricsClientCaFile !== '' && config.metricsCertDir === '') {
    problems.push('--metrics-client-ca-file needs --metrics-cert-dir: callers show certificates over TLS only');
  }
  if (problems.length > 0) throw new AppError('usage', `${eppProgram.name}: ${problems.join('; ')}`);
  return parsed;
}
