import type { MetricObjectWithValues, MetricValue, Registry } from 'prom-client';

/** What a metric was called by pickers of before: its labels as `new` or `old=new`; labels left out are summed over. */
interface OldName {
  readonly from: string;
  readonly to: string;
  readonly labels: readonly string[];
}

const model = ['model_name', 'target_model_name'] as const;

/** Names that dashboards and autoscalers were built on, in the order of the page. */
const oldNames: readonly OldName[] = [
  { from: 'llm_d_epp_request_total', to: 'inference_objective_request_total', labels: [...model, 'priority'] },
  {
    from: 'llm_d_epp_request_error_total',
    to: 'inference_objective_request_error_total',
    labels: [...model, 'error_code'],
  },
  { from: 'llm_d_epp_request_duration_seconds', to: 'inference_objective_request_duration_seconds', labels: model },
  { from: 'llm_d_epp_request_ttft_seconds', to: 'inference_objective_request_ttft_seconds', labels: model },
  { from: 'llm_d_epp_request_size_bytes', to: 'inference_objective_request_sizes', labels: model },
  { from: 'llm_d_epp_response_size_bytes', to: 'inference_objective_response_sizes', labels: model },
  { from: 'llm_d_epp_request_input_tokens', to: 'inference_objective_input_tokens', labels: model },
  { from: 'llm_d_epp_request_output_tokens', to: 'inference_objective_output_tokens', labels: model },
  { from: 'llm_d_epp_request_cached_tokens', to: 'inference_objective_prompt_cached_tokens', labels: model },
  { from: 'llm_d_epp_request_running', to: 'inference_objective_running_requests', labels: ['model_name'] },

  {
    from: 'llm_d_epp_average_kv_cache_utilization',
    to: 'inference_pool_average_kv_cache_utilization',
    labels: ['name'],
  },
  { from: 'llm_d_epp_average_queue_size', to: 'inference_pool_average_queue_size', labels: ['name'] },
  { from: 'llm_d_epp_average_running_requests', to: 'inference_pool_average_running_requests', labels: ['name'] },
  { from: 'llm_d_epp_ready_endpoints', to: 'inference_pool_ready_pods', labels: ['name'] },
  {
    from: 'llm_d_epp_per_endpoint_queue_size',
    to: 'inference_pool_per_pod_queue_size',
    labels: ['name', 'model_server_pod=model_server_endpoint'],
  },

  {
    from: 'llm_d_epp_scheduler_e2e_duration_seconds',
    to: 'inference_extension_scheduler_e2e_duration_seconds',
    labels: [],
  },
  {
    from: 'llm_d_epp_scheduler_attempts_total',
    to: 'inference_extension_scheduler_attempts_total',
    labels: ['status', 'target_model_name', 'pod_name=endpoint_name', 'namespace', 'port'],
  },
  { from: 'llm_d_epp_info', to: 'inference_extension_info', labels: ['commit', 'build_ref'] },

  ...[
    {
      name: 'request_queue_duration_seconds',
      labels: ['fairness_id', 'priority', 'outcome', 'inference_pool', ...model],
    },
    { name: 'request_enqueue_duration_seconds', labels: ['fairness_id', 'priority', 'outcome'] },
    { name: 'dispatch_cycle_duration_seconds', labels: [] },
    { name: 'queue_size', labels: ['fairness_id', 'priority', 'inference_pool', ...model] },
    { name: 'queue_bytes', labels: ['fairness_id', 'priority', 'inference_pool', ...model] },
    { name: 'pool_saturation', labels: ['inference_pool', 'stage'] },
  ].map(({ name, labels }) => ({
    from: `llm_d_epp_flow_control_${name}`,
    to: `inference_extension_flow_control_${name}`,
    labels,
  })),
  {
    from: 'llm_d_epp_model_rewrite_decisions_total',
    to: 'inference_extension_model_rewrite_decisions_total',
    labels: ['model_rewrite_name', 'model_name', 'target_model'],
  },

  ...(
    [
      ['request_ntpot_seconds', 'normalized_time_per_output_token_seconds'],
      ['request_streaming_tpot_seconds', 'request_tpot_seconds'],
      ['request_predicted_ttft_seconds', 'request_predicted_ttft_seconds'],
      ['request_predicted_tpot_seconds', 'request_predicted_tpot_seconds'],
      ['request_ttft_prediction_duration_seconds', 'request_ttft_prediction_duration_seconds'],
      ['request_tpot_prediction_duration_seconds', 'request_tpot_prediction_duration_seconds'],
    ] as const
  ).map(([from, to]) => ({ from: `llm_d_epp_${from}`, to: `inference_objective_${to}`, labels: model })),
  ...['inference_request_metric', 'request_slo_violation_total'].map((name) => ({
    from: `llm_d_epp_${name}`,
    to: `inference_objective_${name}`,
    labels: [...model, 'type'],
  })),
  ...['size', 'hit_ratio', 'hit_bytes'].map((name) => ({
    from: `llm_d_epp_prefix_indexer_${name}`,
    to: `inference_extension_prefix_indexer_${name}`,
    labels: [],
  })),
  {
    from: 'llm_d_epp_plugin_duration_seconds',
    to: 'inference_extension_plugin_duration_seconds',
    labels: ['extension_point', 'plugin_type', 'plugin_name'],
  },
  {
    from: 'llm_d_epp_datalayer_extract_errors_total',
    to: 'llm_d_inference_scheduler_datalayer_extract_errors_total',
    labels: ['source_type'],
  },
  ...['pd_decision_total', 'disagg_decision_total'].map((name) => ({
    from: 'llm_d_epp_disagg_decision_total',
    to: `llm_d_inference_scheduler_${name}`,
    labels: ['model_name', 'decision_type'],
  })),
  {
    from: 'llm_d_epp_datalayer_poll_errors_total',
    to: 'llm_d_inference_scheduler_datalayer_poll_errors_total',
    labels: ['source_type'],
  },
];

/** Histograms tell the name of each sample. */
type Metric = MetricObjectWithValues<MetricValue<string> & { readonly metricName?: string }>;

/** The registry's metrics once more, under the names of before, as Prometheus text. */
export async function renderOldNames(registry: Registry): Promise<string> {
  const metrics = new Map((await registry.getMetricsAsJSON()).map((metric) => [metric.name, metric as Metric]));
  const lines: string[] = [];
  for (const old of oldNames) {
    const metric = metrics.get(old.from);
    if (metric !== undefined) lines.push(...renderOldName(old, metric));
  }
  return lines.length === 0 ? '' : `${lines.join('\n')}\n`;
}

function renderOldName({ from, to, labels }: OldName, metric: Metric): readonly string[] {
  const sums = new Map<string, number>();
  for (const { labels: given, value, metricName } of metric.values) {
    const name = to + (metricName ?? from).slice(from.length);
    const pairs = labels.map((label) => {
      const [before = '', now = before] = label.split('=');
      return `${before}="${toLabelValue(String(given[now] ?? ''))}"`;
    });
    if (given.le !== undefined) pairs.push(`le="${given.le}"`);
    const series = pairs.length === 0 ? name : `${name}{${pairs.join(',')}}`;
    sums.set(series, (sums.get(series) ?? 0) + value);
  }
  const type = String(metric.type);
  return [
    `# HELP ${to} As ${from}.`,
    `# TYPE ${to} ${type}`,
    ...[...sums].map(([series, value]) => `${series} ${Number.isNaN(value) ? 'NaN' : value}`),
  ];
}

function toLabelValue(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n').replaceAll('"', '\\"');
}
