import { isAtLeast, type PickerBinary } from './binary.ts';

/**
 * An EndpointPickerConfig as the version of upstream's picker reads it that is to run: what older generations called
 * otherwise gets its later name, and nothing that the version does not know yet is written. Our own picker reads all of them.
 */

type Json = Readonly<Record<string, unknown>>;

interface Plugin {
  readonly name?: string;
  readonly type: string;
  readonly parameters?: Json;
}

export interface MigrationFacts {
  readonly version: PickerBinary['version'];
  /** Where prompts are made tokens of; undefined where the service has no tokenizer. */
  readonly tokenizerUrl?: string | undefined;
  readonly modelName: string;
  /** Scheme of metrics pages. */
  readonly metricsScheme: 'http' | 'https';
  /** Values of flags that are gone, by the field of `core-metrics-extractor` that took their place. */
  readonly engineSpecs: Readonly<Record<string, string>>;
}

export const groups = {
  current: 'llm-d.ai/v1alpha1',
  earlier: 'inference.networking.x-k8s.io/v1alpha1',
} as const;

/** Each takes one plugin to what stands in its place, in the order in which upstream changed them. */
type Step = (plugin: Plugin, all: readonly Plugin[]) => readonly Plugin[];

/** The configuration for that version; what is no list of plugins is left as it is. */
export function migratePickerConfig(config: Json, facts: MigrationFacts): Json {
  const since = (wanted: number) => isAtLeast(facts, wanted);
  const given = config.plugins;
  if (!Array.isArray(given) || !given.every(isPlugin)) return config;
  const renames = new Map<string, string>();
  const steps: readonly (Step | false)[] = [
    since(6) && hoistTokenProcessor,
    since(6) && countTokens,
    since(7) && rename('prefill-header-handler', 'disagg-headers-handler', renames),
    since(7) && rename('pd-profile-handler', 'disagg-profile-handler', renames),
    since(7) && nameDeciders,
    since(7) && ((plugin) => [without(plugin, ['hashBlockSize'])]),
    since(8) && rename('model-server-protocol-metrics', 'core-metrics-extractor', renames),
    since(10) && splitPreciseScorer,
    since(9) && giveToProducer,
    pointAtTokenizer(facts),
  ];
  let plugins: readonly Plugin[] = given;
  for (const step of steps) {
    if (step === false) continue;
    const before = plugins;
    plugins = before.flatMap((plugin) => step(plugin, before));
  }
  const { schedulingProfiles } = config;
  return {
    ...config,
    ...(config.apiVersion === undefined ? {} : { apiVersion: since(10) ? groups.current : groups.earlier }),
    plugins: [...new Map(withMetrics(plugins, facts).map((plugin) => [plugin.name ?? plugin.type, plugin])).values()],
    ...(Array.isArray(schedulingProfiles)
      ? { schedulingProfiles: schedulingProfiles.map((profile) => withReferences(profile, renames)) }
      : {}),
  };
}

function isPlugin(value: unknown): value is Plugin {
  return isMap(value) && typeof value.type === 'string';
}

function isMap(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Without some parameters, and without an empty map of them. */
function without(plugin: Plugin, fields: readonly string[]): Plugin {
  if (!fields.some((field) => plugin.parameters?.[field] !== undefined)) return plugin;
  const { parameters, ...rest } = plugin;
  const kept = Object.entries(parameters ?? {}).filter(([field]) => !fields.includes(field));
  return kept.length > 0 ? { ...rest, parameters: Object.fromEntries(kept) } : rest;
}

/** A plugin without a name is referred to by its type. */
function rename(from: string, to: string, renames: Map<string, string>): Step {
  return (plugin) => {
    if (plugin.type !== from) return [plugin];
    if (plugin.name === undefined || plugin.name === from) renames.set(from, to);
    return [{ ...plugin, type: to, ...(plugin.name === from ? { name: to } : {}) }];
  };
}

function withReferences(profile: unknown, renames: ReadonlyMap<string, string>): unknown {
  if (!isMap(profile) || !Array.isArray(profile.plugins)) return profile;
  return {
    ...profile,
    plugins: profile.plugins.map((entry: unknown) => {
      const to = isMap(entry) && typeof entry.pluginRef === 'string' ? renames.get(entry.pluginRef) : undefined;
      return to === undefined ? entry : { ...(entry as Json), pluginRef: to };
    }),
  };
}

const preciseScorer = 'precise-prefix-cache-scorer';

const hoistTokenProcessor: Step = (plugin) => {
  const { indexerConfig, ...parameters } = plugin.parameters ?? {};
  if (plugin.type !== preciseScorer || !isMap(indexerConfig)) return [plugin];
  const { tokenProcessorConfig, ...rest } = indexerConfig;
  if (tokenProcessorConfig === undefined) return [plugin];
  return [{ ...plugin, parameters: { tokenProcessorConfig, ...parameters, indexerConfig: rest } }];
};

/** Sizes were in characters once; a token is about four of them. */
const tokensOf = (characters: unknown) => Math.max(1, Math.ceil(Number(characters) / 4) || 1);

const countTokens: Step = (plugin) => {
  const size = plugin.parameters?.blockSize;
  if (plugin.type !== 'prefix-cache-scorer' || size === undefined) return [plugin];
  const rest = without(plugin, ['blockSize']);
  return [{ ...rest, parameters: { blockSizeTokens: tokensOf(size), ...rest.parameters } }];
};

/** What decides about prefill was a number or a name; now it is a plugin, listed before the handler that refers to it. */
const nameDeciders: Step = (plugin, all) => {
  const { deciderPluginName, threshold, deciders, decodeProfile, prefillProfile } = plugin.parameters ?? {};
  if (plugin.type !== 'disagg-profile-handler') return [plugin];
  const rest = without(plugin, [
    ...['deciderPluginName', 'threshold', 'decodeProfile', 'prefillProfile'],
    // How the cached part was found; producers tell it.
    ...['prefixPluginType', 'prefixPluginName'],
  ]);
  const profiles = {
    ...(decodeProfile === undefined ? {} : { decode: decodeProfile }),
    ...(prefillProfile === undefined ? {} : { prefill: prefillProfile }),
  };
  const named = (prefill: unknown): Plugin => ({
    ...rest,
    parameters: {
      ...(Object.keys(profiles).length > 0 ? { profiles } : {}),
      ...rest.parameters,
      deciders: { prefill },
    },
  });
  if (deciders !== undefined) return [{ ...rest, parameters: { ...rest.parameters, deciders } }];
  if (deciderPluginName !== undefined) return [named(deciderPluginName)];
  const listed = all.filter(({ type }) => type.endsWith('-pd-decider'));
  if (threshold === undefined) return listed[0] ? [named(listed[0].name ?? listed[0].type)] : [rest];
  const decider: Plugin =
    Number(threshold) === 0
      ? { type: 'always-disagg-pd-decider' }
      : { type: 'prefix-based-pd-decider', parameters: { nonCachedTokens: tokensOf(threshold) } };
  const known = listed.find(({ type }) => type === decider.type);
  return known ? [named(known.name ?? known.type)] : [decider, named(decider.type)];
};

const producer = 'approx-prefix-cache-producer';
const producerParameters = [
  'autoTune',
  'blockSizeTokens',
  'maxPrefixBlocksToMatch',
  'maxPrefixTokensToMatch',
  'lruCapacityPerServer',
];

/** The scorer of prefixes only scores; what it was told of blocks goes to the plugin that knows them. */
const giveToProducer: Step = (plugin, all) => {
  if (plugin.type !== 'prefix-cache-scorer' || plugin.parameters === undefined) return [plugin];
  const others = Object.keys(plugin.parameters).filter((field) => field !== 'prefixMatchInfoProducerName');
  const scorer = without(plugin, others);
  const moved = Object.entries(plugin.parameters).filter(([field]) => producerParameters.includes(field));
  if (moved.length === 0 || all.some(({ type }) => type === producer)) return [scorer];
  return [{ type: producer, parameters: Object.fromEntries(moved) }, scorer];
};

/** One plugin tokenized, read the engines' events and scored; now there are three. Its name stays with the one that scores. */
const splitPreciseScorer: Step = (plugin, all) => {
  if (plugin.type !== preciseScorer) return [plugin];
  const has = (type: string) => all.some((other) => other.type === type);
  const precise = 'precise-prefix-cache-producer';
  const { indexerConfig, ...parameters } = plugin.parameters ?? {};
  const { tokenizersPoolConfig: _, ...index } = isMap(indexerConfig) ? indexerConfig : {};
  const settings = { ...parameters, ...(Object.keys(index).length > 0 ? { indexerConfig: index } : {}) };
  return [
    ...(has('token-producer') || has('tokenizer') ? [] : [{ type: 'token-producer' }]),
    ...(has(precise) ? [] : [{ type: precise, ...(Object.keys(settings).length > 0 ? { parameters: settings } : {}) }]),
    {
      name: plugin.name ?? preciseScorer,
      type: 'prefix-cache-scorer',
      parameters: { prefixMatchInfoProducerName: precise },
    },
  ];
};

/** A producer of tokens that is told no other way asks the service's tokenizer. */
export function pointAtTokenizer({ tokenizerUrl, modelName }: Pick<MigrationFacts, 'tokenizerUrl' | 'modelName'>) {
  return (plugin: Plugin): readonly Plugin[] => {
    if (tokenizerUrl === undefined || !lacksTokenizer(plugin)) return [plugin];
    const { vllm, ...rest } = plugin.parameters ?? {};
    return [
      {
        ...plugin,
        parameters: { modelName, ...rest, vllm: { ...(isMap(vllm) ? vllm : {}), url: tokenizerUrl } },
      },
    ];
  };
}

/** Whether a plugin makes tokens of prompts and does not say by what. */
export function lacksTokenizer(plugin: unknown): boolean {
  if (!isPlugin(plugin) || plugin.type !== 'token-producer') return false;
  const { vllm, estimate, udsTokenizerConfig, tokenizerPoolConfig } = plugin.parameters ?? {};
  if (estimate !== undefined || udsTokenizerConfig !== undefined || tokenizerPoolConfig !== undefined) return false;
  return vllm === undefined || (isMap(vllm) && vllm.url === undefined && vllm.fromPool !== true);
}

/** What flags said of metrics pages is said by plugins. */
export function withMetrics(plugins: readonly Plugin[], facts: MigrationFacts): readonly Plugin[] {
  const has = (type: string) => plugins.some((plugin) => plugin.type === type);
  const extractor = isAtLeast(facts, 8) ? 'core-metrics-extractor' : 'model-server-protocol-metrics';
  const specs = Object.keys(facts.engineSpecs).length > 0 && isAtLeast(facts, 7);
  return [
    ...plugins,
    ...(specs && !has(extractor)
      ? [
          {
            type: extractor,
            parameters: { defaultEngine: 'vllm', engineConfigs: [{ name: 'vllm', ...facts.engineSpecs }] },
          },
        ]
      : []),
    ...(facts.metricsScheme === 'https' && isAtLeast(facts, 10) && !has('metrics-data-source')
      ? [{ type: 'metrics-data-source', parameters: { scheme: 'https', insecureSkipVerify: true } }]
      : []),
  ];
}

const specOfFlag: Readonly<Record<string, string>> = {
  '--total-queued-requests-metric': 'queuedRequestsSpec',
  '--total-running-requests-metric': 'runningRequestsSpec',
  '--kv-cache-usage-percentage-metric': 'kvUsageSpec',
  '--lora-info-metric': 'loraSpec',
  '--cache-info-metric': 'cacheInfoSpec',
};

/** Arguments without the flags that name metrics, and what these said. Newer pickers do not start with them. */
export function takeMetricFlags(args: readonly string[]): {
  readonly args: readonly string[];
  readonly engineSpecs: Readonly<Record<string, string>>;
} {
  const kept: string[] = [];
  const engineSpecs: Record<string, string> = {};
  for (let i = 0; i < args.length; i++) {
    const [flag = '', ...value] = (args[i] ?? '').split('=');
    const field = specOfFlag[flag.replace(/^-(?!-)/, '--')];
    if (field === undefined) kept.push(args[i] ?? '');
    else if (value.length > 0) engineSpecs[field] = value.join('=');
    else engineSpecs[field] = args[++i] ?? '';
  }
  return { args: kept, engineSpecs };
}
