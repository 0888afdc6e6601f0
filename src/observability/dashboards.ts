import type { DashboardSpec, PanelSpec, Unit, Variable } from './grafana.ts';
import { burnWindows, byService, objectives, recordedRatio, service } from './queries.ts';

const rate = '[$__rate_interval]';
/** Of the chosen services; the fleet's dashboard shows those of the chosen namespaces. */
const inFleet = 'namespace=~"$namespace"';
const one = `namespace="$namespace",${service}="$service"`;

const namespaces = (isMulti: boolean): Variable => ({
  name: 'namespace',
  query: 'label_values(llm_d_epp_ready_endpoints, namespace)',
  isMulti,
});
const services: Variable = {
  name: 'service',
  query: `label_values(llm_d_epp_ready_endpoints{namespace="$namespace"}, ${service})`,
  isMulti: false,
};

function panel(title: string, unit: Unit, width: number, ...queries: readonly [string, string][]): PanelSpec {
  return { title, kind: 'timeseries', unit, width, queries: queries.map(([expr, legend]) => ({ expr, legend })) };
}
const stat = (title: string, unit: Unit, width: number, expr: string, legend = ''): PanelSpec => {
  return { title, kind: 'stat', unit, width, queries: [{ expr, legend }] };
};

const quantile = (q: number, histogram: string, where: string, by = ''): string =>
  `histogram_quantile(${q}, sum by (${by ? `${by}, ` : ''}le) (rate(${histogram}_bucket{${where}}${rate})))`;
const quantiles = (histogram: string, where: string): readonly [string, string][] =>
  [0.5, 0.95, 0.99].map((q) => [quantile(q, histogram, where), `p${q * 100}`]);
const hitRatio = (hits: string, queries: string, where: string, by: string): string =>
  `sum by (${by}) (rate(${hits}{${where}}${rate})) / sum by (${by}) (rate(${queries}{${where}}${rate}))`;

const fleet: DashboardSpec = {
  uid: 'signalbox-fleet',
  title: 'Signalbox / Fleet',
  variables: [namespaces(true)],
  rows: [
    {
      title: 'Now',
      panels: [
        stat('Services', 'short', 4, `count(count by (${byService}) (llm_d_epp_ready_endpoints{${inFleet}}))`),
        stat('Ready endpoints', 'short', 4, `sum(llm_d_epp_ready_endpoints{${inFleet}})`),
        stat(
          'Services without an endpoint',
          'short',
          4,
          `count(llm_d_epp_ready_endpoints{${inFleet}} == 0) or vector(0)`,
        ),
        stat('Requests', 'reqps', 4, `sum(rate(llm_d_epp_request_total{${inFleet}}${rate}))`),
        stat('Tokens generated each second', 'short', 4, `sum(rate(vllm:generation_tokens_total{${inFleet}}${rate}))`),
        stat(
          'First certificate ends in',
          'dtdurations',
          4,
          'min(signalbox_certificate_expiry_timestamp_seconds) - time()',
        ),
      ],
    },
    {
      title: 'Objectives',
      panels: objectives.map((objective) => ({
        ...panel(`Burn rate: ${objective.name}`, 'short', 8, [
          `${recordedRatio(objective, '1h')}{${inFleet}} / ${Number((1 - objective.target).toFixed(6))}`,
          `{{namespace}}/{{${service}}}`,
        ]),
        description: `${objective.title}. 1 uses the budget up exactly; at ${burnWindows[0].factor} somebody is called.`,
      })),
    },
    {
      title: 'Services',
      panels: [
        panel('Requests', 'reqps', 8, [
          `sum by (${byService}) (rate(llm_d_epp_request_total{${inFleet}}${rate}))`,
          `{{namespace}}/{{${service}}}`,
        ]),
        panel('Time to the first token, p95', 's', 8, [
          quantile(0.95, 'llm_d_epp_request_ttft_seconds', `${inFleet},streaming="true"`, byService),
          `{{namespace}}/{{${service}}}`,
        ]),
        panel('Errors (5xx)', 'reqps', 8, [
          `sum by (${byService}, error_code) (rate(llm_d_epp_request_error_total{${inFleet},error_code=~"5.."}${rate}))`,
          `{{namespace}}/{{${service}}} {{error_code}}`,
        ]),
        panel('KV caches in use', 'percentunit', 8, [
          `avg by (${byService}) (vllm:kv_cache_usage_perc{${inFleet}})`,
          `{{namespace}}/{{${service}}}`,
        ]),
        panel('Prompt tokens found in caches', 'percentunit', 8, [
          hitRatio('vllm:prefix_cache_hits_total', 'vllm:prefix_cache_queries_total', inFleet, byService),
          `{{namespace}}/{{${service}}}`,
        ]),
        panel('Requests that wait', 'short', 8, [
          `sum by (${byService}) (vllm:num_requests_waiting{${inFleet}})`,
          `{{namespace}}/{{${service}}}`,
        ]),
      ],
    },
    {
      title: 'Operator',
      panels: [
        panel('Reconciles', 'ops', 8, [
          `sum by (controller, result) (rate(signalbox_reconcile_total${rate}))`,
          '{{controller}} {{result}}',
        ]),
        panel('Time of a reconcile, p99', 's', 8, [
          `histogram_quantile(0.99, sum by (controller, le) (rate(signalbox_reconcile_duration_seconds_bucket${rate})))`,
          '{{controller}}',
        ]),
        panel('Queue', 'short', 4, ['sum by (controller) (signalbox_queue_depth)', '{{controller}}']),
        panel('Requests to the API server', 'reqps', 4, [
          `sum by (method) (rate(signalbox_api_requests_total${rate}))`,
          '{{method}}',
        ]),
      ],
    },
  ],
};

const oneService: DashboardSpec = {
  uid: 'signalbox-service',
  title: 'Signalbox / Service',
  variables: [namespaces(false), services],
  rows: [
    {
      title: 'What clients see',
      panels: [
        panel('Requests', 'reqps', 8, [
          `sum by (model_name) (rate(llm_d_epp_request_total{${one}}${rate}))`,
          '{{model_name}}',
        ]),
        panel('Errors', 'reqps', 8, [
          `sum by (error_code) (rate(llm_d_epp_request_error_total{${one}}${rate}))`,
          '{{error_code}}',
        ]),
        panel('Whole answer', 's', 8, ...quantiles('llm_d_epp_request_duration_seconds', one)),
        panel(
          'Time to the first token',
          's',
          8,
          ...quantiles('llm_d_epp_request_ttft_seconds', `${one},streaming="true"`),
        ),
        panel('Time for each further token', 's', 8, ...quantiles('llm_d_epp_request_streaming_tpot_seconds', one)),
        panel('Pause between two pieces', 's', 8, ...quantiles('llm_d_epp_request_streaming_itl_seconds', one)),
      ],
    },
    {
      title: 'Objectives',
      panels: objectives.map((objective) => ({
        ...panel(
          `Burn rate: ${objective.name}`,
          'short',
          8,
          ...burnWindows.map(({ long }): [string, string] => [
            `${recordedRatio(objective, long)}{${one}} / ${Number((1 - objective.target).toFixed(6))}`,
            long,
          ]),
        ),
        description: objective.title,
      })),
    },
    {
      title: 'Engines',
      panels: [
        panel('Requests that run', 'short', 8, [`sum by (pod) (vllm:num_requests_running{${one}})`, '{{pod}}']),
        panel('Requests that wait', 'short', 8, [`sum by (pod) (vllm:num_requests_waiting{${one}})`, '{{pod}}']),
        panel('KV cache in use', 'percentunit', 8, [`max by (pod) (vllm:kv_cache_usage_perc{${one}})`, '{{pod}}']),
        panel('Tokens generated each second', 'short', 8, [
          `sum by (pod) (rate(vllm:generation_tokens_total{${one}}${rate}))`,
          '{{pod}}',
        ]),
        panel('Prompt tokens each second', 'short', 8, [
          `sum by (pod) (rate(vllm:prompt_tokens_total{${one}}${rate}))`,
          '{{pod}}',
        ]),
        panel('Prompt tokens found in the cache', 'percentunit', 8, [
          hitRatio('vllm:prefix_cache_hits_total', 'vllm:prefix_cache_queries_total', one, 'pod'),
          '{{pod}}',
        ]),
        panel('Time in the queue, p95', 's', 8, [
          quantile(0.95, 'vllm:request_queue_time_seconds', one, 'pod'),
          '{{pod}}',
        ]),
        panel('Time of prefill, p95', 's', 8, [
          quantile(0.95, 'vllm:request_prefill_time_seconds', one, 'pod'),
          '{{pod}}',
        ]),
        panel('Preemptions', 'ops', 8, [`sum by (pod) (rate(vllm:num_preemptions_total{${one}}${rate}))`, '{{pod}}']),
        panel('Finished requests', 'reqps', 8, [
          `sum by (finished_reason) (rate(vllm:request_success_total{${one}}${rate}))`,
          '{{finished_reason}}',
        ]),
        panel('KV transfers, p95', 's', 8, [quantile(0.95, 'vllm:nixl_xfer_time_seconds', one, 'pod'), '{{pod}}']),
        panel('KV transfers that failed', 'ops', 8, [
          `sum by (pod) (rate(vllm:nixl_num_failed_transfers_total{${one}}${rate}))`,
          '{{pod}}',
        ]),
      ],
    },
  ],
};

const picker: DashboardSpec = {
  uid: 'signalbox-picker',
  title: 'Signalbox / Picker',
  variables: [namespaces(false), services],
  rows: [
    {
      title: 'Choices',
      panels: [
        panel('Choices', 'reqps', 8, [
          `sum by (status) (rate(llm_d_epp_scheduler_attempts_total{${one}}${rate}))`,
          '{{status}}',
        ]),
        panel('By endpoint', 'reqps', 8, [
          `sum by (endpoint_name) (rate(llm_d_epp_scheduler_attempts_total{${one}}${rate}))`,
          '{{endpoint_name}}',
        ]),
        panel('With and without prefill', 'reqps', 8, [
          `sum by (decision_type) (rate(llm_d_epp_disagg_decision_total{${one}}${rate}))`,
          '{{decision_type}}',
        ]),
        panel('Time of a choice', 's', 8, ...quantiles('llm_d_epp_scheduler_e2e_duration_seconds', one)),
        panel('Own work for a request', 's', 8, ...quantiles('llm_d_epp_request_processing_duration_seconds', one)),
        panel('Time of a plugin, p99', 's', 8, [
          quantile(0.99, 'llm_d_epp_plugin_duration_seconds', one, 'plugin_name, extension_point'),
          '{{plugin_name}} {{extension_point}}',
        ]),
        panel('Share of the prompt believed cached, mean', 'percentunit', 8, [
          `sum by (plugin_name) (rate(llm_d_epp_prefix_indexer_hit_ratio_sum{${one}}${rate})) / sum by (plugin_name) (rate(llm_d_epp_prefix_indexer_hit_ratio_count{${one}}${rate}))`,
          '{{plugin_name}}',
        ]),
        panel('Blocks in the index of prefixes', 'short', 8, [
          `sum by (plugin_name) (llm_d_epp_prefix_indexer_size{${one}})`,
          '{{plugin_name}}',
        ]),
        panel('Open streams of gateways', 'short', 8, [
          `sum by (pod) (llm_d_epp_extproc_streams_inflight{${one}})`,
          '{{pod}}',
        ]),
      ],
    },
    {
      title: 'Endpoints',
      panels: [
        panel(
          'Ready and avoided',
          'short',
          8,
          [`sum(llm_d_epp_ready_endpoints{${one}})`, 'ready'],
          [`sum(signalbox_epp_avoided_endpoints{${one}})`, 'avoided'],
        ),
        panel(
          'Mean load',
          'short',
          8,
          [`avg(llm_d_epp_average_queue_size{${one}})`, 'waiting'],
          [`avg(llm_d_epp_average_running_requests{${one}})`, 'running'],
        ),
        panel(
          'Deviation between endpoints',
          'short',
          8,
          [`avg(llm_d_epp_std_dev_running_requests{${one}})`, 'running'],
          [`avg(llm_d_epp_std_dev_queue_size{${one}})`, 'waiting'],
        ),
      ],
    },
    {
      title: 'Waiting in the picker',
      panels: [
        panel('Requests that wait', 'short', 6, [
          `sum by (priority) (llm_d_epp_flow_control_queue_size{${one}})`,
          'priority {{priority}}',
        ]),
        panel('What became of them', 'reqps', 6, [
          `sum by (outcome) (rate(llm_d_epp_flow_control_requests_total{${one}}${rate}))`,
          '{{outcome}}',
        ]),
        panel(
          'How long they waited',
          's',
          6,
          ...quantiles('llm_d_epp_flow_control_request_queue_duration_seconds', one),
        ),
        panel('How full the pool is', 'short', 6, [
          `max by (stage) (llm_d_epp_flow_control_pool_saturation{${one}})`,
          '{{stage}}',
        ]),
      ],
    },
    {
      title: 'Errors',
      panels: [
        panel('Plugins that failed', 'ops', 8, [
          `sum by (plugin_name, reason) (rate(signalbox_epp_plugin_failures_total{${one}}${rate}))`,
          '{{plugin_name}} {{reason}}',
        ]),
        panel(
          'Metrics pages not read',
          'ops',
          8,
          [`sum(rate(llm_d_epp_datalayer_poll_errors_total{${one}}${rate}))`, 'unreadable'],
          [`sum(rate(llm_d_epp_datalayer_extract_errors_total{${one}}${rate}))`, 'incomplete'],
        ),
        panel('Changes of the configuration', 'short', 8, [
          `sum by (result) (increase(signalbox_epp_config_reloads_total{${one}}[1h]))`,
          '{{result}}',
        ]),
      ],
    },
  ],
};

const sidecar: DashboardSpec = {
  uid: 'signalbox-sidecar',
  title: 'Signalbox / Sidecar',
  variables: [namespaces(false), services],
  rows: [
    {
      title: 'Requests',
      panels: [
        panel('Answers', 'reqps', 8, [
          `sum by (kind, code) (rate(signalbox_sidecar_requests_total{${one}}${rate}))`,
          '{{kind}} {{code}}',
        ]),
        panel('In flight', 'short', 8, [`sum by (pod) (signalbox_sidecar_requests_in_flight{${one}})`, '{{pod}}']),
        panel('Time to the first byte, p95', 's', 8, [
          quantile(0.95, 'signalbox_sidecar_first_byte_seconds', one, 'prefill'),
          'prefill {{prefill}}',
        ]),
      ],
    },
    {
      title: 'Prefill',
      panels: [
        panel('Where prompts are computed', 'reqps', 8, [
          `sum by (decision) (rate(signalbox_sidecar_decisions_total{${one}}${rate}))`,
          '{{decision}}',
        ]),
        panel('Calls of prefill pods', 'reqps', 8, [
          `sum by (result) (rate(signalbox_sidecar_prefill_attempts_total{${one}}${rate}))`,
          '{{result}}',
        ]),
        panel('Time of prefill', 's', 8, ...quantiles('signalbox_sidecar_prefill_seconds', one)),
        panel('Retries', 'ops', 8, [
          `sum by (with) (rate(signalbox_sidecar_prefill_retries_total{${one}}${rate}))`,
          '{{with}}',
        ]),
        panel('Left to the local engine', 'ops', 8, [
          `sum by (reason) (rate(signalbox_sidecar_prefill_fallbacks_total{${one}}${rate}))`,
          '{{reason}}',
        ]),
        panel('Refused targets', 'ops', 8, [
          `sum by (pod) (rate(signalbox_sidecar_targets_denied_total{${one}}${rate}))`,
          '{{pod}}',
        ]),
      ],
    },
    {
      title: 'Encoders',
      panels: [
        panel('Calls of encoders', 'reqps', 8, [
          `sum by (result) (rate(signalbox_sidecar_encode_attempts_total{${one}}${rate}))`,
          '{{result}}',
        ]),
        panel('Time until all is encoded', 's', 8, ...quantiles('signalbox_sidecar_encode_seconds', one)),
        panel('Left to the engines', 'ops', 8, [
          `sum by (reason) (rate(signalbox_sidecar_encode_fallbacks_total{${one}}${rate}))`,
          '{{reason}}',
        ]),
      ],
    },
    {
      title: 'Conversations',
      panels: [
        panel('Known', 'percentunit', 8, [
          `sum(rate(signalbox_sidecar_session_lookups_total{${one},result="hit"}${rate})) / sum(rate(signalbox_sidecar_session_lookups_total{${one}}${rate}))`,
          'share of turns',
        ]),
        panel('Remembered', 'short', 8, [`sum by (pod) (signalbox_sidecar_sessions{${one}})`, '{{pod}}']),
        panel(
          'Forgotten',
          'ops',
          8,
          [`sum by (reason) (rate(signalbox_sidecar_session_invalidations_total{${one}}${rate}))`, '{{reason}}'],
          [`sum(rate(signalbox_sidecar_session_evictions_total{${one}}${rate}))`, 'to make room'],
        ),
      ],
    },
    {
      title: 'Local engine',
      panels: [
        panel('Calls that failed', 'ops', 12, [
          `sum by (kind) (rate(signalbox_sidecar_decoder_errors_total{${one}}${rate}))`,
          '{{kind}}',
        ]),
        panel('Prefill targets that may be called', 'short', 12, [
          `min by (pod) (signalbox_sidecar_allowed_targets{${one}})`,
          '{{pod}}',
        ]),
      ],
    },
  ],
};

/** Every dashboard by the name of its file. */
export const dashboards: Readonly<Record<string, DashboardSpec>> = { fleet, service: oneService, picker, sidecar };
