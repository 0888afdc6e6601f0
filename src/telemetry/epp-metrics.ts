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

const plugin = ['plugin_name', 'plugin_type'] as const;
const prediction = [...plugin, 'model_name', 'target_model_name'] as const;
const inFlight = ['endpoint_name', 'namespace', 'producer_name', 'fairness_id', 'priority'] as const;
const ratios = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1];
const tokenSeconds = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10];
const pluginSeconds = [0.000_001, 0.000_005, 0.000_01, 0.000_05, 0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1];

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
  flowEvictions: counter(
    'llm_d_epp_flow_control_revocations_issued_total',
    'Requests of negative priority that were ended for higher ones.',
    ['priority', 'inference_pool'],
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
  processing: histogram(
    'llm_d_epp_request_processing_duration_seconds',
    'Own work for a request, from its last byte to the answer to the gateway; without what it waits for.',
    [],
    decisionSeconds,
  ),
  responseProcessing: histogram(
    'llm_d_epp_response_processing_duration_seconds',
    'Own work for an answer, all its pieces together.',
    [],
    decisionSeconds,
  ),
  timePerToken: histogram(
    'llm_d_epp_request_ntpot_seconds',
    'Time of the whole exchange for each token of the answer.',
    request,
    tokenSeconds,
  ),
  streamingTimePerToken: histogram(
    'llm_d_epp_request_streaming_tpot_seconds',
    'Time for each token after the first of a streamed answer.',
    request,
    tokenSeconds,
  ),
  streamingPause: histogram(
    'llm_d_epp_request_streaming_itl_seconds',
    'Time between two pieces of a streamed answer.',
    request,
    tokenSeconds,
  ),
  deviationQueue: gauge('llm_d_epp_std_dev_queue_size', 'Standard deviation of the queues behind the mean.', ['name']),
  deviationRunning: gauge(
    'llm_d_epp_std_dev_running_requests',
    'Standard deviation of the running requests behind the mean.',
    ['name'],
  ),
  deviationKvCache: gauge(
    'llm_d_epp_std_dev_kv_cache_utilization',
    'Standard deviation of the KV cache use behind the mean.',
    ['name'],
  ),
  pluginDuration: histogram(
    'llm_d_epp_plugin_duration_seconds',
    'Time of one call of a plugin; of every eighth request.',
    ['extension_point', 'plugin_type', 'plugin_name'],
    pluginSeconds,
  ),
  scopeViolations: counter(
    'llm_d_epp_plugin_data_scope_violations_total',
    'No series: plugins cannot reach data that is not theirs.',
    ['extension_point', 'plugin_type', 'plugin_name', 'access'],
  ),
  pdDecisions: counter('llm_d_epp_pd_decision_total', 'As llm_d_epp_disagg_decision_total.', [
    'plugin_name',
    'plugin_type',
    'model_name',
    'decision_type',
  ]),
  extractErrors: counter('llm_d_epp_datalayer_extract_errors_total', 'Metrics pages that lacked what was looked for.', [
    'source_type',
    'extractor_type',
  ]),
  streamDuration: histogram(
    'llm_d_epp_extproc_stream_duration_seconds',
    "Time that a gateway's stream was open; with --enable-grpc-stream-metrics.",
    [],
    [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600],
  ),
  streams: counter('llm_d_epp_extproc_streams_total', 'Streams that ended; with --enable-grpc-stream-metrics.', [
    'code',
  ]),
  prefixIndexSize: gauge('llm_d_epp_prefix_indexer_size', 'Blocks that the index of prefixes holds.', plugin),
  prefixHitRatio: histogram(
    'llm_d_epp_prefix_indexer_hit_ratio',
    'Share of the prompt that the chosen endpoint was believed to hold.',
    plugin,
    ratios,
  ),
  prefixHitBytes: histogram(
    'llm_d_epp_prefix_indexer_hit_bytes',
    'That part of the prompt in bytes, at four a token.',
    plugin,
    bytes,
  ),
  inFlightRequests: gauge('llm_d_epp_inflight_requests', 'Requests that were sent and have not ended.', inFlight),
  inFlightTokens: gauge(
    'llm_d_epp_inflight_tokens',
    'Prompt tokens that were sent and are yet to be computed.',
    inFlight,
  ),
  encoderQueries: counter('llm_d_epp_encoder_cache_queries_total', 'Media in requests.', [
    ...plugin,
    'modality',
  ] as const),
  encoderHits: counter('llm_d_epp_encoder_cache_hits_total', 'Media that the chosen endpoint had encoded before.', [
    ...plugin,
    'modality',
    'pod',
  ] as const),
  encoderHitRatio: histogram(
    'llm_d_epp_encoder_cache_hit_ratio',
    "Share of a request's media that the chosen endpoint had encoded before.",
    plugin,
    ratios,
  ),
  latencyMetric: gauge(
    'llm_d_epp_inference_request_metric',
    'Latest latency, seen and predicted, in seconds: type is ttft, tpot, predicted_ttft or predicted_tpot.',
    [...plugin, 'model_name', 'target_model_name', 'type'] as const,
  ),
  predictedTtft: histogram(
    'llm_d_epp_request_predicted_ttft_seconds',
    'Predicted time to the first token at the chosen endpoint.',
    prediction,
    requestSeconds,
  ),
  ttftPrediction: histogram(
    'llm_d_epp_request_ttft_prediction_duration_seconds',
    'Time that the prediction took.',
    prediction,
    decisionSeconds,
  ),
  predictedTpot: histogram(
    'llm_d_epp_request_predicted_tpot_seconds',
    'Predicted time for each further token at the chosen endpoint.',
    prediction,
    tokenSeconds,
  ),
  tpotPrediction: histogram(
    'llm_d_epp_request_tpot_prediction_duration_seconds',
    'Time that the prediction took; it is the same one.',
    prediction,
    decisionSeconds,
  ),
  sloViolations: counter('llm_d_epp_request_slo_violation_total', 'Answers later than the client asked for.', [
    ...prediction,
    'type',
  ] as const),
  kvEvents: gauge('llm_d_epp_kv_cache_events', "Engines' cache events since the start, by what became of them.", [
    ...plugin,
    'result',
  ] as const),
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
