/** A metric of the endpoint picker. */
export interface EppMetric {
  readonly name: string;
  readonly help: string;
  readonly type: 'gauge' | 'counter' | 'histogram';
  readonly labels: readonly string[];
  /** Upper bounds of a histogram's buckets. */
  readonly buckets?: readonly number[];
}

const decisionSeconds = [0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1];
const requestSeconds = [
  0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60, 120, 180, 240,
  300, 360, 480, 600, 900, 1200, 1800, 2700, 3600,
];
const bytes = [64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864];
// 32778 instead of 32768 is what dashboards for this metric were built on.
const tokens = [
  1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_778, 65_536, 131_072, 262_144, 524_288, 1_048_576,
];

const request = ['model_name', 'target_model_name', 'fairness_id', 'priority'] as const;

const counter = <const L extends readonly string[]>(name: string, help: string, labels: L) =>
  ({ name, help, type: 'counter', labels }) as const;
const gauge = <const L extends readonly string[]>(name: string, help: string, labels: L) =>
  ({ name, help, type: 'gauge', labels }) as const;
const histogram = <const L extends readonly string[]>(
  name: string,
  help: string,
  labels: L,
  buckets: readonly number[],
) => ({ name, help, type: 'histogram', labels, buckets }) as const;

/** Every metric of the endpoint picker. */
export const eppMetrics = {
  schedulerRequests: counter(
    'scheduler_requests_total',
    'Runs of a scheduling profile: selected, or rejected when no endpoint was left.',
    ['profile', 'decision'],
  ),
  schedulerPodScore: gauge('scheduler_pod_score', 'Weighted total of each endpoint in the latest run of the profile.', [
    'pod',
    'profile',
  ]),
  schedulerDecision: histogram(
    'scheduler_decision_duration_seconds',
    'Time that one run of a profile took.',
    ['profile'],
    decisionSeconds,
  ),
  schedulerCacheHits: counter('scheduler_cache_hits_total', 'Choices of an endpoint that held part of the prompt.', [
    'profile',
  ]),
  schedulerCacheMisses: counter(
    'scheduler_cache_misses_total',
    'Choices of an endpoint that held nothing of the prompt.',
    ['profile'],
  ),

  requests: counter('llm_d_epp_request_total', 'Requests that were sent to an endpoint.', request),
  requestErrors: counter(
    'llm_d_epp_request_error_total',
    'Requests that were refused, or that an endpoint answered with an error.',
    [...request, 'error_code'] as const,
  ),
  requestDuration: histogram(
    'llm_d_epp_request_duration_seconds',
    'From the choice to the end of the answer.',
    request,
    requestSeconds,
  ),
  requestTtft: histogram(
    'llm_d_epp_request_ttft_seconds',
    'From the choice to the first byte of the answer.',
    [...request, 'streaming'] as const,
    requestSeconds,
  ),
  requestBytes: histogram('llm_d_epp_request_size_bytes', 'Size of request bodies.', request, bytes),
  responseBytes: histogram('llm_d_epp_response_size_bytes', 'Size of answers.', request, bytes),
  inputTokens: histogram(
    'llm_d_epp_request_input_tokens',
    'Prompt tokens, as the engine counted them.',
    request,
    tokens,
  ),
  outputTokens: histogram(
    'llm_d_epp_request_output_tokens',
    'Tokens of the answer, as the engine counted them.',
    request,
    tokens,
  ),
  cachedTokens: histogram(
    'llm_d_epp_request_cached_tokens',
    "Prompt tokens that came from the engine's cache.",
    request,
    tokens,
  ),
  requestsRunning: gauge('llm_d_epp_request_running', 'Requests between choice and end of the answer.', request),
  schedulerE2e: histogram(
    'llm_d_epp_scheduler_e2e_duration_seconds',
    'Time that the whole choice took, all profiles.',
    [],
    decisionSeconds,
  ),
  schedulerAttempts: counter('llm_d_epp_scheduler_attempts_total', 'Choices by outcome and endpoint.', [
    'status',
    'target_model_name',
    'endpoint_name',
    'namespace',
    'port',
  ]),
  modelRewrites: counter('llm_d_epp_model_rewrite_decisions_total', 'Requests whose model was rewritten.', [
    'model_rewrite_name',
    'model_name',
    'target_model',
  ]),
  disaggDecisions: counter('llm_d_epp_disagg_decision_total', 'Choices with and without a prefill endpoint.', [
    'plugin_name',
    'plugin_type',
    'model_name',
    'decision_type',
  ]),
  flowQueueDuration: histogram(
    'llm_d_epp_flow_control_request_queue_duration_seconds',
    'Time between arrival and going on, or being given up.',
    ['fairness_id', 'priority', 'outcome', 'inference_pool', 'model_name', 'target_model_name'],
    requestSeconds,
  ),
  flowEnqueueDuration: histogram(
    'llm_d_epp_flow_control_request_enqueue_duration_seconds',
    'Time to let a request through, refuse it or put it into the queue.',
    ['fairness_id', 'priority', 'outcome'],
    decisionSeconds,
  ),
  flowCycleDuration: histogram(
    'llm_d_epp_flow_control_dispatch_cycle_duration_seconds',
    'Time of one look for waiting requests that may go.',
    [],
    decisionSeconds,
  ),
  flowQueueSize: gauge('llm_d_epp_flow_control_queue_size', 'Requests that wait.', [
    'fairness_id',
    'priority',
    'inference_pool',
    'model_name',
    'target_model_name',
  ]),
  flowQueueBytes: gauge('llm_d_epp_flow_control_queue_bytes', 'Bodies of the requests that wait.', [
    'fairness_id',
    'priority',
    'inference_pool',
    'model_name',
    'target_model_name',
  ]),
  flowSaturation: gauge(
    'llm_d_epp_flow_control_pool_saturation',
    'How full the endpoints are: 1 is full; effective is the fullest stage.',
    ['inference_pool', 'stage'],
  ),
  flowStaleEndpoints: gauge(
    'llm_d_epp_flow_control_stale_endpoints',
    'Ready endpoints that are judged without fresh metrics.',
    ['detector'],
  ),
  flowCapacityRequests: gauge(
    'llm_d_epp_flow_control_capacity_utilization_requests',
    'Share of the requests that may wait with this priority.',
    ['priority', 'inference_pool'],
  ),
  flowCapacityBytes: gauge(
    'llm_d_epp_flow_control_capacity_utilization_bytes',
    'Share of the bytes that may wait with this priority.',
    ['priority', 'inference_pool'],
  ),
  flowGlobalCapacityRequests: gauge(
    'llm_d_epp_flow_control_global_capacity_utilization_requests',
    'Share of the requests that may wait; 0 without a limit.',
    ['inference_pool'],
  ),
  flowGlobalCapacityBytes: gauge(
    'llm_d_epp_flow_control_global_capacity_utilization_bytes',
    'Share of the bytes that may wait; 0 without a limit.',
    ['inference_pool'],
  ),
  flowRequests: counter('llm_d_epp_flow_control_requests_total', 'Requests by what became of them.', [
    'outcome',
    'priority',
    'inference_pool',
  ]),
  pluginFailures: counter(
    'signalbox_epp_plugin_failures_total',
    'Choices made without the say of a plugin: it threw, was late, gave no number, or is down.',
    ['plugin_name', 'reason'],
  ),
  configReloads: counter('signalbox_epp_config_reloads_total', 'Changes of the configuration, taken or refused.', [
    'result',
  ]),
  avoidances: counter(
    'signalbox_epp_endpoint_avoidances_total',
    'Times that an endpoint failed so often in turn that it was avoided for a while.',
    ['endpoint_name'],
  ),
  avoidedEndpoints: gauge('signalbox_epp_avoided_endpoints', 'Endpoints that are avoided at the moment.', ['name']),
  readyEndpoints: gauge('llm_d_epp_ready_endpoints', 'Endpoints that can be chosen.', ['name']),
  averageQueue: gauge('llm_d_epp_average_queue_size', 'Mean queue of the ready endpoints with known load.', ['name']),
  averageRunning: gauge(
    'llm_d_epp_average_running_requests',
    'Mean of running requests of the ready endpoints with known load.',
    ['name'],
  ),
  averageKvCache: gauge(
    'llm_d_epp_average_kv_cache_utilization',
    'Mean KV cache use of the ready endpoints with known load, 0 to 1.',
    ['name'],
  ),
  endpointQueue: gauge('llm_d_epp_per_endpoint_queue_size', 'Queue of each ready endpoint with known load.', [
    'name',
    'model_server_endpoint',
  ]),
  scrapeErrors: counter('llm_d_epp_datalayer_poll_errors_total', 'Metrics pages that could not be read.', [
    'source_type',
  ]),
  streamsInFlight: gauge('llm_d_epp_extproc_streams_inflight', 'Open streams of gateways.', []),
  info: gauge('llm_d_epp_info', 'Always 1; the labels tell the build.', ['commit', 'build_ref']),
} as const satisfies Record<string, EppMetric>;
