/**
 * The arguments of `vllm serve` that are accepted, so that a pod written for vLLM runs unchanged. Those that
 * change nothing here are taken and left; only a flag in none of these lists is worth a warning.
 */

/** Flags that stand alone; each also as `--no-…`. */
const bareFlags =
  'aggregate-engine-logging allow-credentials allow-deprecated-quantization async-scheduling calculate-kv-scales ' +
  'cpu-offload cudagraph-metrics data-parallel-external-lb data-parallel-hybrid-lb ' +
  'data-parallel-multi-port-external-lb disable-access-log-for-endpoints-default disable-cascade-attn ' +
  'disable-chunked-mm-input disable-custom-all-reduce disable-fastapi-docs disable-frontend-multiprocessing ' +
  'disable-hybrid-kv-cache-manager disable-log-requests disable-log-stats disable-log-stats-per-request ' +
  'disable-mm-preprocessor-cache disable-nccl-for-dp-synchronization disable-sliding-window ' +
  'disable-uvicorn-access-log enable-auto-tool-choice enable-bf16x3-router-gemm enable-chunked-prefill ' +
  'enable-cumem-allocator enable-cutedsl-warmup enable-dbo enable-elastic-ep enable-ep-weight-filter enable-eplb ' +
  'enable-expert-parallel enable-fault-tolerance enable-flash-late-interaction enable-flashinfer-autotune ' +
  'enable-force-include-usage enable-layerwise-nvtx-tracing enable-log-deltas enable-log-outputs ' +
  'enable-log-requests enable-logging-iteration-details enable-lora enable-lora-bias ' +
  'enable-mamba-cache-stochastic-rounding enable-mfu-metrics enable-mixed-moe-lora-format enable-mm-embeds ' +
  'enable-moe-shared-loras enable-multimodal-encoder-data-parallel enable-offline-docs enable-per-request-metrics ' +
  'enable-prefix-caching enable-prompt-adapter enable-prompt-embeds enable-prompt-tokens-details enable-reasoning ' +
  'enable-request-id-headers enable-return-routed-experts enable-server-load-tracking enable-sleep-mode ' +
  'enable-ssl-refresh enable-stochastic-rounding enable-tokenizer-info-endpoint enable-tower-connector-lora ' +
  'enforce-eager exclude-tools-when-tool-choice-none fail-on-environ-validation fully-sharded-loras ' +
  'generation-config-strict grpc headless interleave-mm-strings jit-monitor-verbose kv-cache-metrics ' +
  'kv-sharing-fast-prefill language-model-only log-error-stack mm-encoder-only numa-bind ray-workers-use-nsight ' +
  'return-tokens-as-token-ids scheduler-reserve-full-isl skip-mm-profiling skip-tokenizer-init ' +
  'specialize-active-lora tokens-only trust-remote-code trust-request-chat-template use-fp64-gumbel ' +
  'use-tqdm-on-load use-v2-block-manager';

/** Flags with one value. */
const valueFlags =
  'additional-config additional-config-file all2all-backend api-server-count attention-backend attention-config ' +
  'block-size chat-template chat-template-content-format code-revision compilation-config config config-format ' +
  'convert cp-kv-cache-interleave-size cpu-distributed-timeout-seconds cpu-offload-gb data-parallel-address ' +
  'data-parallel-backend data-parallel-rank data-parallel-rpc-port data-parallel-size data-parallel-size-local ' +
  'data-parallel-start-rank data-parallel-supervisor-port dbo-decode-token-threshold dbo-prefill-token-threshold ' +
  'dcp-comm-backend dcp-kv-cache-interleave-size decode-context-parallel-size default-chat-template-kwargs ' +
  'default-mm-loras device device-ids diffusion-config disable-access-log-for-endpoints ' +
  'distributed-executor-backend distributed-init-address distributed-timeout-seconds download-dir ' +
  'dp-supervisor-probe-failure-threshold dp-supervisor-probe-interval-s dp-supervisor-probe-timeout-s dtype ' +
  'ec-transfer-config enable-log-requests-level eplb-config expert-placement-strategy fingerprint-mode ' +
  'fingerprint-value gdn-prefill-backend generation-config gpu-memory-utilization guided-decoding-backend ' +
  'h11-max-header-count h11-max-incomplete-event-size hf-config-path hf-overrides hf-token host io-processor-plugin ' +
  'ir-op-priority jit-monitor-mode kda-prefill-backend kernel-config kv-cache-dtype kv-cache-memory-bytes ' +
  'kv-cache-metrics-sample kv-events-config kv-offloading-backend kv-offloading-size kv-transfer-config ' +
  'limit-mm-per-prompt linear-backend load-format log-config-file logits-processor-pattern logprobs-mode ' +
  'long-prefill-token-threshold lora-dtype lora-extra-vocab-size mamba-backend mamba-block-size mamba-cache-dtype ' +
  'mamba-cache-mode mamba-cache-philox-rounds mamba-ssm-cache-dtype master-addr master-port max-cpu-loras ' +
  'max-cudagraph-capture-size max-log-len max-logprobs max-long-partial-prefills max-lora-rank max-loras ' +
  'max-model-len max-num-batched-tokens max-num-partial-prefills max-num-scheduled-tokens max-num-seqs ' +
  'max-parallel-loading-workers max-seq-len-to-capture media-io-kwargs mm-encoder-attn-backend ' +
  'mm-encoder-attn-dtype mm-encoder-fp8-scale-path mm-encoder-fp8-scale-save-margin mm-encoder-fp8-scale-save-path ' +
  'mm-encoder-tp-mode mm-ipc-gpu-memory-gb mm-processor-cache-gb mm-processor-cache-type mm-processor-kwargs ' +
  'mm-shm-cache-max-object-size-mb mm-tensor-ipc model model-class-overrides model-impl model-loader-extra-config ' +
  'moe-backend nnodes node-rank num-gpu-blocks-override num-lookahead-slots num-redundant-experts ' +
  'num-scheduler-steps observability-config offload-backend offload-group-size offload-num-in-group ' +
  'offload-prefetch-step optimization-level otlp-traces-endpoint override-attention-dtype ' +
  'override-generation-config override-pooler-config performance-mode pipeline-parallel-size pooler-config port ' +
  'preemption-mode prefill-context-parallel-size prefill-schedule-interval prefix-caching-hash-algo ' +
  'prefix-match-unit profiler-config pt-load-map-location quantization quantization-config reasoning-config ' +
  'reasoning-parser reasoning-parser-plugin renderer-num-workers response-role revision root-path rope-scaling ' +
  'rope-theta runner safetensors-load-strategy safetensors-prefetch-block-size safetensors-prefetch-num-threads ' +
  'scheduler-cls scheduler-delay-factor scheduling-policy seed shutdown-timeout spec-method spec-model spec-tokens ' +
  'speculative-config ssl-ca-certs ssl-cert-reqs ssl-certfile ssl-ciphers ssl-keyfile ' +
  'stochastic-rounding-philox-rounds stream-interval structured-outputs-config swap-space task tensor-parallel-size ' +
  'tokenizer tokenizer-mode tokenizer-pool-size tokenizer-revision tool-call-parser tool-parser-plugin tool-server ' +
  'ubatch-size uds uvicorn-log-level video-pruning-rate watermark weight-transfer-config worker-cls ' +
  'worker-extension-cls';

/** Flags with one or more values. */
const listFlags =
  'allowed-headers allowed-local-media-path allowed-media-domains allowed-methods allowed-origins api-key ' +
  'collect-detailed-traces cpu-offload-params cuda-graph-sizes cudagraph-capture-sizes ignore-patterns ' +
  'kv-cache-dtype-skip-layers logits-processors lora-modules lora-target-modules middleware numa-bind-cpus ' +
  'numa-bind-nodes offload-params prompt-adapters served-model-name show-hidden-metrics-for-version';

const shortFlags: Readonly<Record<string, string>> = {
  '-tp': 'tensor-parallel-size',
  '-pp': 'pipeline-parallel-size',
  '-dp': 'data-parallel-size',
  '-dpl': 'data-parallel-size-local',
  '-dpr': 'data-parallel-start-rank',
  '-dpn': 'data-parallel-rank',
  '-dpa': 'data-parallel-address',
  '-dpp': 'data-parallel-rpc-port',
  '-dpb': 'data-parallel-backend',
  '-dph': 'data-parallel-hybrid-lb',
  '-dpe': 'data-parallel-external-lb',
  '-dpm': 'data-parallel-multi-port-external-lb',
  '-dcp': 'decode-context-parallel-size',
  '-pcp': 'prefill-context-parallel-size',
  '-ep': 'enable-expert-parallel',
  '-asc': 'api-server-count',
  '-ac': 'attention-config',
  '-cc': 'compilation-config',
  '-q': 'quantization',
  '-n': 'nnodes',
  '-r': 'node-rank',
  '-sc': 'speculative-config',
};

const arity: ReadonlyMap<string, 'bare' | 'value' | 'list'> = new Map([
  ...bareFlags.split(' ').map((flag) => [flag, 'bare'] as const),
  ...valueFlags.split(' ').map((flag) => [flag, 'value'] as const),
  ...listFlags.split(' ').map((flag) => [flag, 'list'] as const),
]);

export interface GivenArgs {
  /** Values by flag without dashes; a bare flag has `true`, its `--no-…` form `false`. */
  readonly flags: ReadonlyMap<string, readonly string[]>;
  readonly positional: readonly string[];
  /** Flags as written that vLLM does not have, as far as is known here. */
  readonly unknown: readonly string[];
  /** Flags at the end without the value that they need. */
  readonly incomplete: readonly string[];
}

/** Splits a command line as vLLM does: `--flag value`, `--flag=value`, bare flags, `_` for `-`, `--json-flag.key value`. */
export function splitVllmArgs(argv: readonly string[], own: ReadonlyMap<string, 'bare' | 'value'>): GivenArgs {
  const flags = new Map<string, string[]>();
  const positional: string[] = [];
  const unknown: string[] = [];
  const incomplete: string[] = [];
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i] ?? '';
    if (word === '--') {
      positional.push(...argv.slice(i + 1));
      break;
    }
    if (!word.startsWith('-') || word === '-') {
      positional.push(word);
      continue;
    }
    // -O3 is a level of optimisation and stands for itself.
    if (/^-O\d?$/.test(word)) continue;
    const equals = word.indexOf('=');
    const written = equals < 0 ? word : word.slice(0, equals);
    const dotted = /^--([^.]+)(\..+)$/.exec(written);
    const base = dotted ? `--${dotted[1] ?? ''}` : written;
    const name = shortFlags[base] ?? base.replace(/^--?/, '').replaceAll('_', '-');
    const positive = name.startsWith('no-') && arity.get(name.slice(3)) === 'bare' ? name.slice(3) : undefined;
    const kind = positive ? 'bare' : (own.get(name) ?? arity.get(name));
    const key = `${positive ?? name}${dotted?.[2] ?? ''}`;
    let values: string[];
    const following = argv[i + 1];
    if (equals >= 0) values = [word.slice(equals + 1)];
    else if (kind === 'bare') values = [positive ? 'false' : 'true'];
    else if (kind === 'list' || kind === undefined) {
      values = [];
      while (argv[i + 1] !== undefined && !argv[i + 1]?.startsWith('-')) {
        values.push(argv[++i] ?? '');
        // Of an unknown flag nothing more is known than that it may have a value.
        if (kind === undefined) break;
      }
    } else if (following !== undefined && !following.startsWith('--')) {
      values = [following];
      i++;
    } else {
      values = [];
    }
    if (kind === undefined) unknown.push(written);
    else if (values.length === 0) incomplete.push(written);
    else if (kind === 'list') flags.set(key, [...(flags.get(key) ?? []), ...values]);
    else flags.set(key, values);
  }
  return { flags, positional, unknown, incomplete };
}
