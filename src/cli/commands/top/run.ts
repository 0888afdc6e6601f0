import { labels } from '../../../api/labels.ts';

/** What one reading of a model server's metrics says, sums over its series. */
export interface Reading {
  readonly atMs: number;
  readonly running: number;
  readonly waiting: number;
  /** 0 to 1. */
  readonly kvUsage: number;
  readonly requests: number;
  readonly promptTokens: number;
  readonly generatedTokens: number;
  readonly firstTokenSeconds: number;
  readonly firstTokens: number;
  readonly prefixQueries: number;
  readonly prefixHits: number;
}

/** One line of `top`: rates over the time between two readings. */
export interface PodLoad {
  readonly pod: string;
  readonly role: string;
  readonly running: number;
  readonly waiting: number;
  readonly kvUsagePercent: number;
  readonly requestsPerSecond: number;
  readonly promptTokensPerSecond: number;
  readonly generatedTokensPerSecond: number;
  /** Mean over the requests that got their first token in between; absent when none did. */
  readonly firstTokenMs?: number;
  /** Share of prompt tokens found in the prefix cache in between; absent when none were looked up. */
  readonly cacheHitPercent?: number;
  /** Why there are no figures. */
  readonly problem?: string;
}

/** Reads a Prometheus page of vLLM. Series that are missing count as 0. */
export function parseReading(page: string, atMs: number): Reading {
  const sum = (...names: readonly string[]) => {
    for (const name of names) {
      const pattern = new RegExp(`^${name}(?:\\{.*\\})? (\\S+)`, 'gm');
      const values = [...page.matchAll(pattern)].map((match) => Number(match[1]));
      if (values.length > 0) return values.reduce((total, value) => total + (Number.isFinite(value) ? value : 0), 0);
    }
    return 0;
  };
  return {
    atMs,
    running: sum('vllm:num_requests_running'),
    waiting: sum('vllm:num_requests_waiting'),
    kvUsage: sum('vllm:kv_cache_usage_perc', 'vllm:gpu_cache_usage_perc'),
    requests: sum('vllm:request_success_total'),
    promptTokens: sum('vllm:prompt_tokens_total'),
    generatedTokens: sum('vllm:generation_tokens_total'),
    firstTokenSeconds: sum('vllm:time_to_first_token_seconds_sum'),
    firstTokens: sum('vllm:time_to_first_token_seconds_count'),
    prefixQueries: sum('vllm:prefix_cache_queries_total', 'vllm:gpu_prefix_cache_queries_total'),
    prefixHits: sum('vllm:prefix_cache_hits_total', 'vllm:gpu_prefix_cache_hits_total'),
  };
}

/** What happened on a pod between two readings. A counter that went back, as after a restart, counts from 0. */
export function loadBetween(pod: string, role: string, before: Reading, after: Reading): PodLoad {
  const seconds = Math.max(0.001, (after.atMs - before.atMs) / 1000);
  const grown = (key: Exclude<keyof Reading, 'atMs' | 'running' | 'waiting' | 'kvUsage'>) =>
    after[key] >= before[key] ? after[key] - before[key] : after[key];
  const firstTokens = grown('firstTokens');
  const queries = grown('prefixQueries');
  return {
    pod,
    role,
    running: after.running,
    waiting: after.waiting,
    kvUsagePercent: round(after.kvUsage * 100),
    requestsPerSecond: round(grown('requests') / seconds),
    promptTokensPerSecond: round(grown('promptTokens') / seconds),
    generatedTokensPerSecond: round(grown('generatedTokens') / seconds),
    ...(firstTokens > 0 ? { firstTokenMs: round((grown('firstTokenSeconds') / firstTokens) * 1000) } : {}),
    ...(queries > 0 ? { cacheHitPercent: round((grown('prefixHits') / queries) * 100) } : {}),
  };
}

/** The line of a pod that gives no figures. */
export function unreadable(pod: string, role: string, problem: string): PodLoad {
  const none = { running: 0, waiting: 0, kvUsagePercent: 0, requestsPerSecond: 0 };
  return { pod, role, ...none, promptTokensPerSecond: 0, generatedTokensPerSecond: 0, problem };
}

/** What a pod does for its service, by its labels. */
export function roleOf(podLabels: Readonly<Record<string, string>> | undefined): string {
  return podLabels?.[labels.role] ?? 'both';
}

export function loadTable(loads: readonly PodLoad[]): readonly (readonly string[])[] {
  const header = ['POD', 'ROLE', 'RUN', 'WAIT', 'KV', 'HITS', 'REQ/S', 'PROMPT TOK/S', 'TOK/S', 'TTFT'];
  const rows = loads.map((load) =>
    load.problem === undefined
      ? [
          load.pod,
          load.role,
          String(load.running),
          String(load.waiting),
          `${load.kvUsagePercent} %`,
          load.cacheHitPercent === undefined ? '–' : `${load.cacheHitPercent} %`,
          String(load.requestsPerSecond),
          String(load.promptTokensPerSecond),
          String(load.generatedTokensPerSecond),
          load.firstTokenMs === undefined ? '–' : `${load.firstTokenMs} ms`,
        ]
      : [load.pod, load.role, load.problem],
  );
  return [header, ...rows];
}

/** Three digits are what a glance takes in. */
function round(value: number): number {
  return value >= 100 ? Math.round(value) : Math.round(value * 10) / 10;
}
