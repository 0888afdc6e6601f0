import { burnWindows, byService, type Objective, objectives, recordedRatio } from './queries.ts';

export interface RecordingRule {
  readonly record: string;
  readonly expr: string;
}

export interface AlertRule {
  readonly alert: string;
  readonly expr: string;
  readonly for: string;
  readonly labels: { readonly severity: 'critical' | 'warning' };
  readonly annotations: { readonly summary: string; readonly description: string; readonly runbook: string };
}

export interface RuleGroup {
  readonly name: string;
  readonly interval?: string;
  readonly rules: readonly (RecordingRule | AlertRule)[];
}

const ofService = '{{ $labels.namespace }}/{{ $labels.app_kubernetes_io_name }}';
const value = '{{ $value | humanize }}';
const share = '{{ $value | humanizePercentage }}';

const runbookOf = (alert: string): string => `config/observability/runbooks/${alert}.md`;

function alert(
  name: string,
  severity: 'critical' | 'warning',
  forTime: string,
  expr: string,
  summary: string,
  description: string,
): AlertRule {
  return {
    alert: name,
    expr,
    for: forTime,
    labels: { severity },
    annotations: { summary, description, runbook: runbookOf(name) },
  };
}

const burnNames = {
  availability: 'SignalboxAvailabilityBurn',
  ttft: 'SignalboxTtftBurn',
  tpot: 'SignalboxTpotBurn',
} as const satisfies Record<Objective['name'], string>;

const windows = [...new Set(burnWindows.flatMap(({ long, short }) => [short, long]))];

function burnAlerts(objective: Objective): readonly AlertRule[] {
  const budget = Number((1 - objective.target).toFixed(6));
  return burnWindows.map(({ long, short, factor, forTime, severity }) => {
    const limit = Number((factor * budget).toFixed(6));
    return alert(
      burnNames[objective.name],
      severity,
      forTime,
      `${recordedRatio(objective, long)} > ${limit} and ${recordedRatio(objective, short)} > ${limit}`,
      `${ofService} uses up its error budget ${factor} times too fast`,
      `Objective: ${objective.title}. Over ${long} ${share} were not.`,
    );
  });
}

/** Every rule, in the groups in which Prometheus works them out. */
export const ruleGroups: readonly RuleGroup[] = [
  {
    name: 'signalbox-objectives',
    interval: '30s',
    rules: objectives.flatMap((objective) =>
      windows.map((window) => ({ record: recordedRatio(objective, window), expr: objective.badRatio(window) })),
    ),
  },
  { name: 'signalbox-burn-rates', rules: objectives.flatMap(burnAlerts) },
  {
    name: 'signalbox-saturation',
    rules: [
      alert(
        'SignalboxKvCacheFull',
        'warning',
        '10m',
        `avg by (${byService}) (vllm:kv_cache_usage_perc) > 0.9`,
        `The KV caches of ${ofService} are nearly full`,
        `${share} of the blocks are in use; further requests wait or are preempted.`,
      ),
      alert(
        'SignalboxRequestsWait',
        'warning',
        '10m',
        `avg by (${byService}) (vllm:num_requests_waiting) > 10`,
        `Requests of ${ofService} wait in its engines`,
        `${value} wait in each engine on average.`,
      ),
      alert(
        'SignalboxPreemptions',
        'warning',
        '15m',
        `sum by (${byService}) (rate(vllm:num_preemptions_total[5m])) > 0.1`,
        `Engines of ${ofService} throw away what they have computed`,
        `${value} requests a second give up their blocks to others.`,
      ),
      alert(
        'SignalboxRequestsShed',
        'warning',
        '5m',
        `sum by (${byService}) (rate(llm_d_epp_flow_control_requests_total{outcome=~"RejectedCapacity|EvictedTTL"}[5m])) > 0`,
        `${ofService} turns requests away`,
        `${value} requests a second found the queue full or waited too long in it.`,
      ),
      alert(
        'SignalboxNoReadyEndpoint',
        'critical',
        '2m',
        `sum by (${byService}) (llm_d_epp_ready_endpoints) == 0`,
        `${ofService} has no pod that can serve`,
        'The picker knows no ready endpoint; requests are answered 503.',
      ),
    ],
  },
  {
    name: 'signalbox-picker',
    rules: [
      alert(
        'SignalboxPickerPluginFails',
        'warning',
        '10m',
        `sum by (${byService}, plugin_name, reason) (rate(signalbox_epp_plugin_failures_total[5m])) > 0`,
        `A plugin of the picker of ${ofService} fails`,
        `{{ $labels.plugin_name }}: {{ $labels.reason }}, ${value} times a second; choices are made without it.`,
      ),
      alert(
        'SignalboxPickerScrapeFails',
        'warning',
        '10m',
        `sum by (${byService}) (rate(llm_d_epp_datalayer_poll_errors_total[5m])) > 1`,
        `The picker of ${ofService} cannot read engines' metrics`,
        `${value} pages a second could not be read; the load of those engines is not known.`,
      ),
      alert(
        'SignalboxPickerConfigRefused',
        'warning',
        '0m',
        `sum by (${byService}) (increase(signalbox_epp_config_reloads_total{result="refused"}[15m])) > 0`,
        `The picker of ${ofService} refuses its changed configuration`,
        'It works on with the one before; a restart would fail.',
      ),
      alert(
        'SignalboxEndpointAvoided',
        'warning',
        '5m',
        `sum by (${byService}) (signalbox_epp_avoided_endpoints) > 0`,
        `The picker of ${ofService} avoids pods that fail`,
        `${value} pods failed several requests in turn.`,
      ),
      alert(
        'SignalboxPickerSlow',
        'warning',
        '10m',
        `histogram_quantile(0.99, sum by (${byService}, le) (rate(llm_d_epp_scheduler_e2e_duration_seconds_bucket[5m]))) > 0.05`,
        `The picker of ${ofService} chooses slowly`,
        `One choice in a hundred takes longer than ${value} s.`,
      ),
    ],
  },
  {
    name: 'signalbox-sidecar',
    rules: [
      alert(
        'SignalboxPrefillFails',
        'warning',
        '10m',
        `sum by (${byService}) (rate(signalbox_sidecar_prefill_attempts_total{result=~"error|unreachable|timeout"}[5m])) / sum by (${byService}) (rate(signalbox_sidecar_prefill_attempts_total[5m])) > 0.05`,
        `Prefill pods of ${ofService} fail`,
        `${share} of the calls fail; prompts go to other pods or are computed by decode pods.`,
      ),
      alert(
        'SignalboxDecoderFails',
        'critical',
        '5m',
        `sum by (${byService}) (rate(signalbox_sidecar_decoder_errors_total[5m])) > 0.1`,
        `Model servers of ${ofService} cannot be called by their sidecars`,
        `${value} calls a second fail.`,
      ),
      alert(
        'SignalboxPrefillTargetDenied',
        'warning',
        '0m',
        `sum by (${byService}) (increase(signalbox_sidecar_targets_denied_total[15m])) > 0`,
        `Requests to ${ofService} named prefill pods that are not in its pool`,
        `${value} targets were refused.`,
      ),
      alert(
        'SignalboxKvTransferFails',
        'warning',
        '10m',
        `sum by (${byService}) (rate(vllm:nixl_num_failed_transfers_total[5m])) + sum by (${byService}) (rate(vllm:nixl_num_kv_expired_reqs_total[5m])) > 0`,
        `KV caches of ${ofService} do not reach the decode pods`,
        `${value} transfers a second fail or come too late.`,
      ),
    ],
  },
  {
    name: 'signalbox-operator',
    rules: [
      alert(
        'SignalboxOperatorDown',
        'critical',
        '10m',
        'absent(signalbox_api_requests_total)',
        'No operator is scraped',
        'Changes to services are not carried out, and the API server refuses new ones without the webhooks. What serves goes on serving.',
      ),
      alert(
        'SignalboxReconcileErrors',
        'warning',
        '15m',
        'sum by (controller) (rate(signalbox_reconcile_total{result="error"}[10m])) > 0.01',
        'The operator fails to reconcile {{ $labels.controller }}',
        `${value} errors a second.`,
      ),
      alert(
        'SignalboxReconcileBacklog',
        'warning',
        '15m',
        'sum by (controller) (signalbox_queue_depth) > 100',
        'The operator does not keep up with {{ $labels.controller }}',
        `${value} objects wait to be reconciled.`,
      ),
      alert(
        'SignalboxCertificateExpiry',
        'warning',
        '1h',
        'min by (certificate) (signalbox_certificate_expiry_timestamp_seconds) - time() < 1814400',
        'Certificate {{ $labels.certificate }} of the operator was not renewed',
        'It ends in {{ $value | humanizeDuration }}; it is renewed a month before, so something hinders the operator.',
      ),
      alert(
        'SignalboxCertificateExpiry',
        'critical',
        '10m',
        'min by (certificate) (signalbox_certificate_expiry_timestamp_seconds) - time() < 259200',
        'Certificate {{ $labels.certificate }} of the operator is about to end',
        'It ends in {{ $value | humanizeDuration }}; then the API server refuses every LLMInferenceService.',
      ),
    ],
  },
];

/** Names of the alerts, each once. */
export const alertNames: readonly string[] = [
  ...new Set(ruleGroups.flatMap(({ rules }) => rules.flatMap((rule) => ('alert' in rule ? [rule.alert] : [])))),
];
