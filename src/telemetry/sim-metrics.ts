/** A metric of the simulated server, under the name that vLLM gives it. */
export interface SimMetric {
  readonly name: string;
  readonly help: string;
  readonly type: 'gauge' | 'counter' | 'histogram';
  /** Labels besides model_name and engine. */
  readonly labels?: readonly string[];
  /** Upper bounds of a histogram's buckets. */
  readonly buckets?: readonly number[];
}

const shortSeconds = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80];
const tokenSeconds = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80];
const requestSeconds = [0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960];
const tokenCounts = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000];
const choiceCounts = [1, 2, 5, 10, 20];
const stepTokens = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384];
const transferSeconds = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 5];
const transferBytes = [2 ** 10, 2 ** 14, 2 ** 17, 2 ** 20, 2 ** 23, 2 ** 26, 2 ** 28, 2 ** 30, 2 ** 32];

function seconds(name: string, help: string, buckets: readonly number[]): SimMetric & { readonly type: 'histogram' } {
  return { name, help, type: 'histogram', buckets };
}

function counter(name: string, help: string, labels: readonly string[] = []): SimMetric & { readonly type: 'counter' } {
  return { name, help, type: 'counter', labels };
}

/** Every metric of the simulated server. */
export const simMetrics = {
  running: { name: 'vllm:num_requests_running', help: 'Requests that are being computed.', type: 'gauge' },
  waiting: { name: 'vllm:num_requests_waiting', help: 'Requests that wait to be computed.', type: 'gauge' },
  waitingByReason: {
    name: 'vllm:num_requests_waiting_by_reason',
    help: 'Requests that wait: for capacity, or deferred until their KV has come.',
    type: 'gauge',
    labels: ['reason'],
  },
  kvCacheUsage: { name: 'vllm:kv_cache_usage_perc', help: 'Share of KV cache blocks in use, 0 to 1.', type: 'gauge' },
  loraInfo: {
    name: 'vllm:lora_requests_info',
    help: 'LoRA adapters in use; the value is the time of the report in seconds.',
    type: 'gauge',
    labels: ['max_lora', 'waiting_lora_adapters', 'running_lora_adapters'],
  },
  sleepState: {
    name: 'vllm:engine_sleep_state',
    help: 'Whether the engine is awake, has its weights offloaded, or has given up all memory: 1 for the state it is in.',
    type: 'gauge',
    labels: ['sleep_state'],
  },
  cacheConfig: {
    name: 'vllm:cache_config_info',
    help: 'How the KV cache is set up.',
    type: 'gauge',
    labels: ['block_size', 'num_gpu_blocks', 'enable_prefix_caching', 'gpu_memory_utilization', 'cache_dtype'],
  },
  prefixQueries: counter('vllm:prefix_cache_queries_total', 'Prompt tokens looked up in the prefix cache.'),
  prefixHits: counter('vllm:prefix_cache_hits_total', 'Prompt tokens found in the prefix cache.'),
  externalQueries: counter('vllm:external_prefix_cache_queries_total', 'Prompt tokens asked of other processes.'),
  externalHits: counter('vllm:external_prefix_cache_hits_total', 'Prompt tokens received from other processes.'),
  promptTokens: counter('vllm:prompt_tokens_total', 'Prompt tokens processed.'),
  promptTokensBySource: {
    name: 'vllm:prompt_tokens_by_source_total',
    help: 'Prompt tokens by where their KV came from: computed here, cached here, or fetched from another process.',
    type: 'counter',
    labels: ['source'],
  },
  generationTokens: counter('vllm:generation_tokens_total', 'Tokens generated.'),
  preemptions: counter('vllm:num_preemptions_total', 'Requests that had to give up their blocks.'),
  success: counter('vllm:request_success_total', 'Finished requests by reason.', ['finished_reason']),
  firstTokenSeconds: seconds('vllm:time_to_first_token_seconds', 'Time to the first token.', shortSeconds),
  interTokenSeconds: seconds('vllm:inter_token_latency_seconds', 'Time between two tokens.', tokenSeconds),
  outputTokenSeconds: seconds(
    'vllm:request_time_per_output_token_seconds',
    'Mean time between the tokens of a request.',
    tokenSeconds,
  ),
  endToEndSeconds: seconds('vllm:e2e_request_latency_seconds', 'Time from arrival to the last token.', requestSeconds),
  queueSeconds: seconds('vllm:request_queue_time_seconds', 'Time spent waiting.', requestSeconds),
  inferenceSeconds: seconds('vllm:request_inference_time_seconds', 'Time spent running.', requestSeconds),
  prefillSeconds: seconds('vllm:request_prefill_time_seconds', 'Time from start to first token.', requestSeconds),
  decodeSeconds: seconds('vllm:request_decode_time_seconds', 'Time from first to last token.', requestSeconds),
  requestPromptTokens: seconds('vllm:request_prompt_tokens', 'Prompt tokens of a request.', tokenCounts),
  requestGenerationTokens: seconds('vllm:request_generation_tokens', 'Generated tokens of a request.', tokenCounts),
  requestMaxTokens: seconds('vllm:request_params_max_tokens', 'The most tokens a request asked for.', tokenCounts),
  requestMaxGenerationTokens: seconds(
    'vllm:request_max_num_generation_tokens',
    'The most tokens that any answer of a request has.',
    tokenCounts,
  ),
  requestN: seconds('vllm:request_params_n', 'Answers that a request asked for.', choiceCounts),
  iterationTokens: seconds('vllm:iteration_tokens_total', 'Tokens computed in a step.', stepTokens),
  nixlTransferSeconds: seconds('vllm:nixl_xfer_time_seconds', 'Duration of a KV transfer.', transferSeconds),
  nixlPostSeconds: seconds('vllm:nixl_post_time_seconds', 'Duration of posting a KV transfer.', transferSeconds),
  nixlBytes: seconds('vllm:nixl_bytes_transferred', 'Bytes of a KV transfer.', transferBytes),
  nixlDescriptors: seconds('vllm:nixl_num_descriptors', 'Blocks of a KV transfer.', tokenCounts),
  nixlFailedTransfers: counter('vllm:nixl_num_failed_transfers_total', 'KV transfers that failed.'),
  nixlFailedNotifications: counter('vllm:nixl_num_failed_notifications_total', 'Notifications that failed.'),
  nixlExpired: counter('vllm:nixl_num_kv_expired_reqs_total', 'Requests whose KV nobody fetched in time.'),
  engineHealthy: {
    name: 'vllm:engine_healthy',
    help: 'Whether the engine works, with fault tolerance.',
    type: 'gauge',
  },
  startTime: {
    name: 'process_start_time_seconds',
    help: 'Start of the process since the epoch in seconds.',
    type: 'gauge',
  },
  residentMemory: { name: 'process_resident_memory_bytes', help: 'Resident memory in bytes.', type: 'gauge' },
} as const satisfies Record<string, SimMetric>;

export type SimMetricKey = keyof typeof simMetrics;
