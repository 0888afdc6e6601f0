/** PromQL in pieces that dashboards and alerts share. Every query is parsed and held against the metrics by a test. */

/** What Prometheus adds to what pods of a service export: the pod monitors copy the label that names the service. */
export const service = 'app_kubernetes_io_name';
export const byService = `namespace, ${service}`;

/** The part of answers that may fail, or be late, and still be within the objective. */
export interface Objective {
  /** Of recorded series and alerts. */
  readonly name: 'availability' | 'ttft' | 'tpot';
  readonly title: string;
  /** Share that is to be good, 0–1. */
  readonly target: number;
  /** Share of what was bad within the window, by service. */
  readonly badRatio: (window: string) => string;
}

/** Bounds that count as in time; each is one of the histogram's buckets. */
const ttftBoundS = 2;
const tpotBoundS = 0.1;

/** Prometheus 3 writes whole bounds with a fraction, earlier ones as they are exported. */
const atMost = (bound: number): string => (Number.isInteger(bound) ? `le=~"${bound}|${bound}\\\\.0"` : `le="${bound}"`);

const lateRatio = (histogram: string, bound: number, labels: string, window: string): string =>
  [
    `1 - sum by (${byService}) (rate(${histogram}_bucket{${[...(labels ? [labels] : []), atMost(bound)].join(',')}}[${window}]))`,
    `/ sum by (${byService}) (rate(${histogram}_count${labels ? `{${labels}}` : ''}[${window}]))`,
  ].join(' ');

/** What a service promises, unless its owner writes other rules. */
export const objectives: readonly Objective[] = [
  {
    name: 'availability',
    title: '99.9 % of requests are answered without an error of ours (5xx)',
    target: 0.999,
    // Requests without an endpoint are attempts too, but were never sent.
    badRatio: (window) =>
      `clamp_max(sum by (${byService}) (rate(llm_d_epp_request_error_total{error_code=~"5.."}[${window}])) / sum by (${byService}) (rate(llm_d_epp_scheduler_attempts_total[${window}])), 1)`,
  },
  {
    name: 'ttft',
    title: `95 % of streamed answers begin within ${ttftBoundS} s`,
    target: 0.95,
    badRatio: (window) => lateRatio('llm_d_epp_request_ttft_seconds', ttftBoundS, 'streaming="true"', window),
  },
  {
    name: 'tpot',
    title: `95 % of requests get their tokens within ${tpotBoundS * 1000} ms each`,
    target: 0.95,
    badRatio: (window) => lateRatio('vllm:request_time_per_output_token_seconds', tpotBoundS, '', window),
  },
];

/** The name under which a share of bad answers is recorded. */
export const recordedRatio = (objective: Objective, window: string): string =>
  `signalbox:${objective.name}_bad:ratio_rate${window}`;

/** Pairs of windows: a fast burn is told within minutes, a slow one within days; the short window ends the alert soon. */
export const burnWindows = [
  { long: '1h', short: '5m', factor: 14.4, forTime: '2m', severity: 'critical' },
  { long: '6h', short: '30m', factor: 6, forTime: '15m', severity: 'critical' },
  { long: '1d', short: '2h', factor: 3, forTime: '1h', severity: 'warning' },
  { long: '3d', short: '6h', factor: 1, forTime: '3h', severity: 'warning' },
] as const;
