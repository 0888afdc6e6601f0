import { setting } from '../flags.ts';
import { connectors } from './connectors/register.ts';
import { ecConnectors } from './encode-request.ts';

const MiB = 1024 * 1024;

/** Every flag: our own, and the names that other versions of such a sidecar take. What we do not do is refused by name. */
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
    placeholder: 'prefiller,decoder,encoder',
    description: 'Legs that speak TLS: another spelling of the three flags.',
  }),
  insecureSkipVerify: setting.list({
    flag: 'tls-insecure-skip-verify',
    placeholder: 'prefiller,decoder,encoder',
    description: 'Legs whose certificates are taken unseen.',
  }),
  tlsServerName: setting.text({
    flag: 'tls-server-name',
    placeholder: 'NAME',
    description:
      'Name that the certificates of the local engine, of prefill pods and of encoders must have, which are called by address; the address when empty.',
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
  ecConnector: setting.text({
    flag: 'ec-connector',
    placeholder: ecConnectors.join('|'),
    description:
      'How embeddings of images, audio and video travel from the encoders that x-encoder-hosts-ports names; empty: no encode stage.',
  }),
  encoderUseTls: setting.boolean({
    flag: 'encoder-use-tls',
    default: false,
    description: 'Speak TLS to encoders.',
  }),
  encoderInsecure: setting.boolean({
    flag: 'encoder-tls-insecure-skip-verify',
    default: false,
    description: "Take encoders' certificates unseen.",
  }),
  encodeFailure: setting.oneOf({
    flag: 'encode-failure',
    choices: ['encode-local', 'error'],
    default: 'encode-local',
    description:
      'What to do when an item cannot be encoded elsewhere: leave all items to the engine that prefills, or tell the client.',
  }),
  encodeTimeoutMs: setting.durationMs({
    flag: 'encode-timeout',
    default: 60_000,
    description: 'Longest wait until all items of a request are encoded.',
  }),
  configuration: setting.text({
    flag: 'configuration',
    placeholder: 'YAML',
    description: 'Settings as YAML, flag names as keys; flags and environment win over it.',
  }),
  configurationFile: setting.text({
    flag: 'configuration-file',
    placeholder: 'FILE',
    description: 'The same in a file; not together with --configuration.',
  }),
  zapLogLevel: setting.text({
    flag: 'zap-log-level',
    placeholder: 'LEVEL',
    description: 'Former name of --log-level: debug, info, error, panic, or a verbosity (1 debug, from 2 on trace).',
  }),
  zapEncoder: setting.text({
    flag: 'zap-encoder',
    placeholder: 'json|console',
    description: 'Without effect: the log is JSON.',
  }),
  zapDevel: setting.boolean({ flag: 'zap-devel', default: false, description: 'Without effect.' }),
  zapStacktraceLevel: setting.text({ flag: 'zap-stacktrace-level', description: 'Without effect.' }),
  zapTimeEncoding: setting.text({ flag: 'zap-time-encoding', description: 'Without effect.' }),
  tracing: setting.boolean({
    flag: 'tracing',
    default: true,
    description: 'Send spans to the collector, where one is named; otherwise trace headers are only passed on.',
  }),
  otlpEndpoint: setting.text({
    flag: 'otlp-endpoint',
    env: 'OTEL_EXPORTER_OTLP_ENDPOINT',
    placeholder: 'URL',
    description: 'Address of an OpenTelemetry collector; no spans when empty.',
  }),
  otelServiceName: setting.text({
    flag: 'otel-service-name',
    env: 'OTEL_SERVICE_NAME',
    default: 'llm-d-routing-sidecar',
    placeholder: 'NAME',
    description: 'Name of this service in traces.',
  }),
  traceRatio: setting.text({
    flag: 'trace-ratio',
    env: 'OTEL_TRACES_SAMPLER_ARG',
    default: '0.1',
    placeholder: 'RATIO',
    description: 'Share of traces that are recorded where the caller has not decided, 0 to 1.',
  }),
  p2pPull: setting.boolean({
    flag: 'enable-p2p-pull',
    default: false,
    description: 'Only false: prefixes are not pulled from a third pod.',
  }),
  p2pPort: setting.port({
    flag: 'p2p-connector-port',
    env: 'P2P_CONNECTOR_PORT',
    default: 7777,
    description: 'Without effect: of a connector that is not supported.',
  }),
  mooncakePort: setting.port({
    flag: 'mooncake-bootstrap-port',
    env: 'MOONCAKE_BOOTSTRAP_PORT',
    default: 8998,
    description: 'Without effect: of a connector that is not supported.',
  }),
  decodeChunkSize: setting.integer({
    flag: 'decode-chunk-size',
    default: 0,
    description: 'Only 0: answers are not decoded in chunks.',
  }),
  moriioWriteMode: setting.boolean({
    flag: 'moriio-write-mode',
    default: false,
    description: 'Only false: MoRI-IO is not supported, and its further flags are unknown.',
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
