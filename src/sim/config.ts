import { AppError, messageOf } from '../errors.ts';
import { type DataParallel, parseDataParallel } from './data-parallel.ts';
import { type Fault, faultKinds, parseFaults } from './faults.ts';
import { parseKvEvents, parseTransfer, type TransferSettings } from './json-settings.ts';
import type { KvEventsSettings } from './kv-publisher.ts';
import { type LatencyModel, latencyProfiles } from './latency.ts';
import { parseLoraModule } from './lora.ts';
import { splitVllmArgs } from './vllm-flags.ts';

/** The vLLM version whose behaviour is simulated. */
export const vllmVersion = '0.11.0';

export interface TlsFiles {
  readonly certFile: string;
  readonly keyFile: string;
  /** Authorities of clients' certificates. */
  readonly caFile: string | undefined;
  readonly clientCertificates: 'none' | 'optional' | 'required';
  readonly isRefreshed: boolean;
}

export interface SimConfig {
  /** Model as named on the command line. */
  readonly model: string;
  /** Names under which it is served; the first one is told in answers and metrics. */
  readonly servedNames: readonly [string, ...string[]];
  /** Address to listen on; undefined = all. */
  readonly host: string | undefined;
  readonly port: number;
  readonly apiKeys: readonly string[];
  readonly tls: TlsFiles | undefined;
  /** Where spans go; undefined: none are made. */
  readonly tracing: { readonly endpoint: string; readonly service: string; readonly ratio: number } | undefined;
  readonly maxModelLen: number;
  readonly maxSequences: number;
  readonly maxBatchedTokens: number;
  readonly blockSize: number;
  readonly numBlocks: number;
  readonly memoryUtilization: number;
  readonly tensorParallelSize: number;
  readonly dataParallel: DataParallel;
  /** A node of a group that has no HTTP server of its own. */
  readonly isHeadless: boolean;
  /** 0 = no LoRA. */
  readonly maxLoras: number;
  readonly loraModules: readonly { readonly name: string; readonly path: string }[];
  /** The environment allows adapters to come and go while the server runs. */
  readonly hasLoraUpdates: boolean;
  readonly hasSleepMode: boolean;
  /** The environment switches endpoints for development on. */
  readonly isDevMode: boolean;
  readonly hasResponseStore: boolean;
  readonly hasRequestIdHeaders: boolean;
  /** Streams tell their usage also when they are not asked to. */
  readonly forcesUsage: boolean;
  readonly hasFaultTolerance: boolean;
  readonly hasAutoToolChoice: boolean;
  readonly hasReasoning: boolean;
  readonly maxLogprobs: number;
  readonly showsFormerMetrics: boolean;
  readonly faults: readonly Fault[];
  readonly hasPrefixCaching: boolean;
  readonly showsPromptTokensDetails: boolean;
  readonly seed: number;
  /** Set where a NIXL connector is configured. */
  readonly transfer: TransferSettings | undefined;
  /** Set where cache events are published. */
  readonly kvEvents: KvEventsSettings | undefined;
  readonly latency: LatencyModel;
  readonly startupMs: number;
  /** Tokens of an answer when the client sets no limit. */
  readonly outputTokens: number;
  readonly maxWaiting: number;
  readonly maxBodyBytes: number;
  /** How long running requests may go on after SIGTERM. */
  readonly drainMs: number;
  /** A line of figures in the log every ten seconds while there is work. */
  readonly logsStats: boolean;
  /** One line each, for the log. */
  readonly warnings: readonly string[];
}

export type ParsedSimArgs =
  | { readonly kind: 'config'; readonly config: SimConfig }
  | { readonly kind: 'help'; readonly text: string }
  | { readonly kind: 'version'; readonly text: string };

interface OwnSetting {
  readonly flag: string;
  readonly placeholder: string;
  readonly default: number;
  readonly min: number;
  readonly description: string;
}

/** The simulator's own settings; each can be given as environment variable too: `SIGNALBOX_SIM_KV_BLOCKS`. */
const ownSettings = {
  prefillUs: {
    flag: 'sim-prefill-us-per-token',
    placeholder: 'US',
    default: 150,
    min: 0,
    description: 'microseconds to compute a prompt token that is not cached',
  },
  outputUs: {
    flag: 'sim-output-token-us',
    placeholder: 'US',
    default: 12_000,
    min: 0,
    description: 'microseconds from one output token to the next with one request running',
  },
  loadFactor: {
    flag: 'sim-load-factor',
    placeholder: 'X',
    default: 2,
    min: 1,
    description: 'how many times longer that takes with --max-num-seqs requests running',
  },
  transferUs: {
    flag: 'sim-transfer-us-per-token',
    placeholder: 'US',
    default: 5,
    min: 0,
    description: 'microseconds to bring over the KV of a token from another process',
  },
  startupMs: {
    flag: 'sim-startup-ms',
    placeholder: 'MS',
    default: 0,
    min: 0,
    description: 'milliseconds until the server listens, as if a model were loaded',
  },
  kvBlocks: {
    flag: 'sim-kv-blocks',
    placeholder: 'N',
    default: 16_384,
    min: 1,
    description: 'blocks of the KV cache (--num-gpu-blocks-override goes before)',
  },
  outputTokens: {
    flag: 'sim-output-tokens',
    placeholder: 'N',
    default: 64,
    min: 1,
    description: 'tokens of an answer when the client sets no limit',
  },
  maxWaiting: {
    flag: 'sim-max-waiting',
    placeholder: 'N',
    default: 1000,
    min: 0,
    description: 'requests that may wait; more are answered 429',
  },
  maxBodyBytes: {
    flag: 'sim-max-body-bytes',
    placeholder: 'BYTES',
    default: 32 * 1024 * 1024,
    min: 1,
    description: 'largest request body; larger ones are answered 413',
  },
  drainMs: {
    flag: 'sim-drain-ms',
    placeholder: 'MS',
    default: 10_000,
    min: 0,
    description: 'how long running requests may go on after SIGTERM (--shutdown-timeout goes before)',
  },
} as const satisfies Record<string, OwnSetting>;

const ownArity: ReadonlyMap<string, 'bare' | 'value'> = new Map([
  ...Object.values(ownSettings).map(({ flag }) => [flag, 'value'] as const),
  ['pod-address', 'value'],
  ['sim-fault', 'value'],
  ['sim-latency', 'value'],
  ['help', 'bare'],
  ['h', 'bare'],
  ['version', 'bare'],
  ['v', 'bare'],
]);

const otherCommands: readonly string[] = ['bench', 'chat', 'collect-env', 'complete', 'launch', 'run-batch'];
const defaultModel = 'Qwen/Qwen3-0.6B';
const defaultMaxModelLen = 32_768;

/**
 * Reads the arguments of `vllm serve` and our own.
 *
 * @param argv with or without a leading `serve`
 * @throws AppError `usage` with all bad values in one line
 */
export function parseSimArgs(
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): ParsedSimArgs {
  const [command] = argv;
  if (command !== undefined && otherCommands.includes(command)) {
    throw new AppError('usage', `"${command}" is a command of vLLM that is not simulated; there is only serve`);
  }
  const given = splitVllmArgs(argv[0] === 'serve' ? argv.slice(1) : argv, ownArity);
  const { flags } = given;
  if (flags.has('help') || flags.has('h')) return { kind: 'help', text: helpText() };
  if (flags.has('version') || flags.has('v')) return { kind: 'version', text: vllmVersion };

  const problems: string[] = given.incomplete.map((flag) => `${flag} needs a value`);
  const warnings: string[] = [];
  const ownUnknown = given.unknown.filter((flag) => flag.startsWith('--sim-'));
  for (const flag of ownUnknown) problems.push(`unknown flag ${flag}; --help lists those of the simulator`);
  const foreign = given.unknown.filter((flag) => !ownUnknown.includes(flag));
  if (foreign.length > 0) warnings.push(`not known as arguments of vLLM, left aside: ${foreign.join(' ')}`);

  const last = (flag: string) => flags.get(flag)?.at(-1);
  const whole = (flag: string, fallback: number, min: number, max = Number.MAX_SAFE_INTEGER) => {
    const text = last(flag);
    if (text === undefined) return fallback;
    const value = parseCount(text);
    if (value !== undefined && value >= min && value <= max) return value;
    problems.push(`--${flag}: "${text}" must be a whole number from ${min}${max < 1e15 ? ` to ${max}` : ''}`);
    return fallback;
  };
  const decimal = (flag: string, fallback: number) => {
    const text = last(flag);
    if (text === undefined) return fallback;
    const value = Number(text);
    if (text.trim() !== '' && Number.isFinite(value) && value >= 0) return value;
    problems.push(`--${flag}: "${text}" must be a number of at least 0`);
    return fallback;
  };
  const bare = (flag: string, fallback: boolean) => {
    const text = last(flag)?.toLowerCase();
    if (text === undefined) return fallback;
    if (text === 'true' || text === '1') return true;
    if (text === 'false' || text === '0') return false;
    problems.push(`--${flag}: "${text}" must be true or false`);
    return fallback;
  };
  const own = (setting: OwnSetting, fallback: number = setting.default) => {
    const variable = `SIGNALBOX_${setting.flag.toUpperCase().replaceAll('-', '_')}`;
    const fromFlag = last(setting.flag);
    const text = fromFlag ?? (env[variable] || undefined);
    if (text === undefined) return fallback;
    const value = Number(text);
    const isFine = /^\d+(\.\d+)?$/.test(text) && value >= setting.min;
    if (isFine && (setting === ownSettings.loadFactor || setting.placeholder === 'US' || Number.isInteger(value))) {
      return value;
    }
    problems.push(
      `${fromFlag === undefined ? variable : `--${setting.flag}`}: "${text}" must be a number of at least ${setting.min}`,
    );
    return fallback;
  };

  const profileName = last('sim-latency') ?? (env.SIGNALBOX_SIM_LATENCY || undefined);
  const profile = Object.entries<LatencyModel>(latencyProfiles).find(([name]) => name === profileName)?.[1];
  if (profileName !== undefined && !profile) {
    problems.push(`--sim-latency: "${profileName}" is unknown; there are ${Object.keys(latencyProfiles).join(', ')}`);
  }

  const positional = [...given.positional];
  const model = last('model') ?? positional.shift() ?? defaultModel;
  if (positional.length > 0) problems.push(`too many arguments: ${positional.join(' ')}; the model is the only one`);
  const [firstName, ...moreNames] = flags.get('served-model-name') ?? [model];

  const podAddress = last('pod-address') ?? (env.SIGNALBOX_POD_ADDRESS || undefined);
  const certFile = last('ssl-certfile');
  const keyFile = last('ssl-keyfile');
  if ((certFile === undefined) !== (keyFile === undefined)) {
    problems.push('--ssl-certfile and --ssl-keyfile must be given together');
  }

  const blockSize = whole('block-size', 16, 1, 1024);
  const numBlocks = whole('num-gpu-blocks-override', own(ownSettings.kvBlocks), 1, 16_777_216);
  const capacity = numBlocks * blockSize;
  const lengthText = last('max-model-len');
  const isLengthGiven = lengthText !== undefined && lengthText !== 'auto' && lengthText !== '-1';
  const maxModelLen = isLengthGiven
    ? whole('max-model-len', defaultMaxModelLen, 1)
    : Math.min(defaultMaxModelLen, capacity);
  if (maxModelLen > capacity) {
    problems.push(
      `--max-model-len: ${maxModelLen} tokens do not fit into the KV cache of ${capacity} (${numBlocks} blocks of ${blockSize}); lower it or raise --sim-kv-blocks`,
    );
  }

  const read = <T>(flag: string, texts: readonly string[], parse: (text: string) => T): T[] =>
    texts.flatMap((text) => {
      try {
        return [parse(text)];
      } catch (thrown) {
        const why = messageOf(thrown);
        problems.push(why.startsWith(flag) ? why : `${flag}: ${why}`);
        return [];
      }
    });
  const hasLora = bare('enable-lora', false);
  const loraModules = read('--lora-modules', flags.get('lora-modules') ?? [], parseLoraModule);
  if (loraModules.length > 0 && !hasLora) problems.push('--lora-modules needs --enable-lora');
  if (bare('enable-auto-tool-choice', false) && !flags.has('tool-call-parser')) {
    problems.push('--enable-auto-tool-choice needs --tool-call-parser');
  }

  const port = whole('port', 8000, 0, 65_535);
  const dataParallel = parseDataParallel(flags, { whole, bare }, port, problems);
  if (bare('grpc', false)) warnings.push('--grpc: gRPC is not simulated; HTTP is served');
  const place = { env, podAddress };
  const transfer = parseTransfer(flags, place, problems, warnings);
  const kvEvents = parseKvEvents(flags, place, problems);
  const hasPrefixCaching = bare('enable-prefix-caching', true);
  if (kvEvents && !hasPrefixCaching) warnings.push('--kv-events-config: there are no events without prefix caching');
  const config: SimConfig = {
    model,
    servedNames: [firstName ?? model, ...moreNames],
    host: podAddress ?? last('host'),
    port,
    tracing: tracingOf(flags.get('otlp-traces-endpoint')?.[0], env),
    apiKeys: flags.get('api-key') ?? (env.VLLM_API_KEY ? [env.VLLM_API_KEY] : []),
    tls:
      certFile !== undefined && keyFile !== undefined
        ? {
            certFile,
            keyFile,
            caFile: last('ssl-ca-certs'),
            clientCertificates: (['none', 'optional', 'required'] as const)[whole('ssl-cert-reqs', 0, 0, 2)] ?? 'none',
            isRefreshed: last('enable-ssl-refresh') === 'true',
          }
        : undefined,
    maxModelLen,
    maxSequences: whole('max-num-seqs', 256, 1),
    maxBatchedTokens: whole('max-num-batched-tokens', 2048, 1),
    blockSize,
    numBlocks,
    memoryUtilization: decimal('gpu-memory-utilization', 0.9),
    tensorParallelSize: whole('tensor-parallel-size', 1, 1),
    dataParallel,
    isHeadless: bare('headless', false),
    maxLoras: hasLora ? whole('max-loras', 1, 1) : 0,
    loraModules,
    hasLoraUpdates: hasLora && isOn(env.VLLM_ALLOW_RUNTIME_LORA_UPDATING),
    hasSleepMode: bare('enable-sleep-mode', false),
    isDevMode: isOn(env.VLLM_SERVER_DEV_MODE),
    hasResponseStore: isOn(env.VLLM_ENABLE_RESPONSES_API_STORE),
    hasRequestIdHeaders: bare('enable-request-id-headers', false),
    forcesUsage: bare('enable-force-include-usage', false),
    hasFaultTolerance: bare('enable-fault-tolerance', false),
    hasAutoToolChoice: bare('enable-auto-tool-choice', false) && flags.has('tool-call-parser'),
    hasReasoning: flags.has('reasoning-parser'),
    maxLogprobs: whole('max-logprobs', 20, -1),
    showsFormerMetrics: flags.has('show-hidden-metrics-for-version'),
    faults: read('--sim-fault', [last('sim-fault') ?? env.SIGNALBOX_SIM_FAULT ?? ''], parseFaults).flat(),
    hasPrefixCaching,
    showsPromptTokensDetails: bare('enable-prompt-tokens-details', false),
    seed: whole('seed', 0, Number.MIN_SAFE_INTEGER),
    transfer,
    kvEvents,
    latency: {
      prefillUsPerToken: own(ownSettings.prefillUs, profile?.prefillUsPerToken),
      outputTokenUs: own(ownSettings.outputUs, profile?.outputTokenUs),
      loadFactor: own(ownSettings.loadFactor, profile?.loadFactor),
      transferUsPerToken: own(ownSettings.transferUs, profile?.transferUsPerToken),
    },
    startupMs: own(ownSettings.startupMs),
    outputTokens: own(ownSettings.outputTokens),
    maxWaiting: own(ownSettings.maxWaiting),
    maxBodyBytes: own(ownSettings.maxBodyBytes),
    logsStats: !bare('disable-log-stats', false),
    drainMs: flags.has('shutdown-timeout') ? whole('shutdown-timeout', 0, 0) * 1000 : own(ownSettings.drainMs),
    warnings,
  };
  if (problems.length > 0) throw new AppError('usage', problems.join('; '));
  return { kind: 'config', config };
}

/** A count as vLLM takes it: 32768, 32k (thousands), 32K (of 1024), 1.5M. */
function parseCount(text: string): number | undefined {
  const match = /^(-?\d+(?:\.\d+)?)([kKmMgG])?$/.exec(text.trim());
  if (!match) return undefined;
  const value = Number(match[1]) * (match[2] === undefined ? 1 : (countUnits[match[2]] ?? Number.NaN));
  return Number.isInteger(value) ? value : match[2] === undefined ? undefined : Math.floor(value);
}

const countUnits: Readonly<Record<string, number>> = {
  k: 1e3,
  m: 1e6,
  g: 1e9,
  K: 2 ** 10,
  M: 2 ** 20,
  G: 2 ** 30,
};

function isOn(value: string | undefined): boolean {
  return value !== undefined && ['1', 'true', 'yes'].includes(value.toLowerCase());
}

function helpText(): string {
  const rows = [
    ...Object.values<OwnSetting>(ownSettings).map((setting) => [
      `--${setting.flag} ${setting.placeholder}`,
      `${setting.description} (default ${setting.default})`,
    ]),
    [
      '--sim-fault KIND[:VALUE][@PERCENT]',
      `what goes wrong, several joined by commas: ${Object.keys(faultKinds).join(', ')}; also POST /sim/faults`,
    ],
    [
      '--sim-latency NAME',
      `latencies of a model that was measured, where no other is given: ${Object.keys(latencyProfiles).join(', ')}`,
    ],
    ['--pod-address IP', 'listen on this address only (env SIGNALBOX_POD_ADDRESS)'],
    ['--version', 'print the vLLM version that is simulated'],
    ['--help', 'print this page'],
  ];
  const width = Math.max(...rows.map(([shown = '']) => shown.length));
  return [
    'signalbox-sim: a simulated vLLM server',
    '',
    'Usage: signalbox-sim [serve] [MODEL] [arguments of vllm serve] [flags]',
    '',
    'Flags of its own (each also as environment variable: SIGNALBOX_SIM_KV_BLOCKS):',
    ...rows.map(([shown = '', text = '']) => `  ${shown.padEnd(width)}  ${text}`),
    '',
    'Arguments of vLLM that have an effect: --model, --served-model-name, --host, --port, --api-key, --ssl-certfile,',
    '--ssl-keyfile, --ssl-ca-certs, --ssl-cert-reqs, --enable-ssl-refresh, --max-model-len, --max-num-seqs, --max-num-batched-tokens, --block-size, --num-gpu-blocks-override,',
    '--[no-]enable-prefix-caching, --enable-prompt-tokens-details, --kv-transfer-config, --kv-events-config, --seed, --enable-lora, --max-loras,',
    '--data-parallel-size, -rank, -start-rank, -size-local, -external-lb, -hybrid-lb, -multi-port-external-lb, -supervisor-port,',
    '--headless, --lora-modules, --tensor-parallel-size, --gpu-memory-utilization, --shutdown-timeout, --enable-auto-tool-choice,',
    '--tool-call-parser, --reasoning-parser, --max-logprobs, --enable-sleep-mode, --show-hidden-metrics-for-version,',
    '--enable-request-id-headers, --enable-force-include-usage, --enable-fault-tolerance.',
    'The others are accepted and change nothing.',
    'Environment: VLLM_API_KEY, VLLM_NIXL_SIDE_CHANNEL_HOST, VLLM_NIXL_SIDE_CHANNEL_PORT, VLLM_ALLOW_RUNTIME_LORA_UPDATING,',
    'VLLM_SERVER_DEV_MODE, VLLM_ENABLE_RESPONSES_API_STORE.',
    '',
  ].join('\n');
}

/** As vLLM: the flag names the collector, the environment the share of traces that nobody decided about. */
function tracingOf(
  endpoint: string | undefined,
  env: Readonly<Record<string, string | undefined>>,
): SimConfig['tracing'] {
  if (endpoint === undefined || endpoint === '') return undefined;
  const url = /^[a-z]+:\/\//i.test(endpoint) ? endpoint : `http://${endpoint}`;
  if (!URL.canParse(url)) {
    throw new AppError(
      'usage',
      `--otlp-traces-endpoint: "${endpoint}" is no address; give one such as http://otel-collector:4318`,
    );
  }
  const share = Number(env.OTEL_TRACES_SAMPLER_ARG ?? '1');
  return { endpoint: url, service: env.OTEL_SERVICE_NAME ?? 'vllm', ratio: share >= 0 && share <= 1 ? share : 1 };
}
