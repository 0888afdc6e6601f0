import { parse as parseYaml } from 'yaml';
import { z } from 'zod';
import type { Clock } from '../clock.ts';
import { AppError, messageOf } from '../errors.ts';
import { nearest, parseDurationMs } from '../flags.ts';
import { type EngineMetrics, engines } from './datalayer/engines.ts';
import { parseSeriesSpec, type SeriesSpec } from './datalayer/prometheus-text.ts';
import type { ScrapeSettings } from './datalayer/scraper.ts';
import { buildFlow, type FlowConfig, flowControlShape } from './flow/config.ts';
import { isFairnessPolicy, isSaturationDetector, isUsageLimitPolicy } from './framework/flow-policy.ts';
import {
  isAdmitter,
  isExchangeObserver,
  isFilter,
  isPicker,
  isPreparer,
  isPreRequest,
  isProducer,
  isProfileHandler,
  isScorer,
  type Plugin,
  type PluginFactory,
  type PluginFailure,
  type PoolView,
  type Producer,
  type ProfileHandler,
} from './framework/plugin.ts';
import { Profile, type WeightedScorer } from './framework/profile.ts';
import type { SchedulerParts } from './framework/scheduler.ts';

const apiVersions = ['llm-d.ai/v1alpha1', 'inference.networking.x-k8s.io/v1alpha1'] as const;

const reference = z.strictObject({ pluginRef: z.string() });

const shapes = {
  document: {
    apiVersion: z.enum(apiVersions),
    kind: z.literal('EndpointPickerConfig'),
    featureGates: z.array(z.string()).optional(),
    plugins: z.array(z.unknown()).optional(),
    schedulingProfiles: z.array(z.unknown()).optional(),
    dataLayer: z.unknown().optional(),
    requestHandler: z.strictObject({ parsers: z.array(reference).optional() }).optional(),
    parser: reference.optional(),
    flowControl: z.unknown().optional(),
    saturationDetector: z.unknown().optional(),
  },
  plugin: { name: z.string().min(1).optional(), type: z.string(), parameters: z.unknown().optional() },
  profile: { name: z.string().min(1), plugins: z.array(z.unknown()) },
  profilePlugin: { pluginRef: z.string(), weight: z.number().optional() },
  dataLayer: {
    injectDefaults: z.boolean().optional(),
    sources: z.array(z.strictObject({ pluginRef: z.string(), extractors: z.array(reference).optional() })).optional(),
    discovery: reference.optional(),
    peerDiscovery: reference.optional(),
    crossReplicaSyncerPluginRef: z.string().optional(),
    crossReplicaSyncInterval: z.string().optional(),
  },
};

const seriesText = z
  .string()
  .refine((text) => parseSeriesSpec(text) !== undefined, 'must be name or name{label=value}');

/** Plugins that are not made by a factory: they set up the data layer. */
const dataPlugins = {
  'file-discovery': z.strictObject({ path: z.string().min(1), watchFile: z.boolean().default(false) }),
  'metrics-data-source': z.strictObject({
    scheme: z.enum(['http', 'https']).default('http'),
    path: z.string().startsWith('/').default('/metrics'),
    port: z.coerce.number().int().min(1).max(65_535).optional(),
    insecureSkipVerify: z.boolean().default(true),
    interval: z
      .string()
      .refine((text) => parseDurationMs(text) !== undefined, 'must be a duration such as 200ms')
      .optional(),
  }),
  'core-metrics-extractor': z.strictObject({
    engineLabelKey: z.string().default('llm-d.ai/engine-type'),
    defaultEngine: z.string().default('vllm'),
    engineConfigs: z
      .array(
        z.strictObject({
          name: z.string().min(1),
          /** May be left out for an engine that is known. */
          queuedRequestsSpec: seriesText.optional(),
          runningRequestsSpec: seriesText.optional(),
          kvUsageSpec: seriesText.optional(),
          loraSpec: seriesText.optional(),
          cacheInfoSpec: seriesText.optional(),
          customMetrics: z
            .array(z.strictObject({ attributeKey: z.string().min(1), metricSpec: seriesText }))
            .max(32)
            .optional(),
        }),
      )
      .default([]),
  }),
} as const;

/** Types that upstream's configurations list and whose work is always done here. */
const alwaysThere = new Set([
  'openai-parser',
  'anthropic-parser',
  'vllmhttp-parser',
  'sglanghttp-parser',
  'vllmgrpc-parser',
  'vertexai-parser',
  'passthrough-parser',
]);

/** Every plugin type that a configuration may name beside those that factories make. */
export const dataPluginTypes: readonly string[] = [
  ...Object.keys(dataPlugins),
  ...alwaysThere,
  // Its older name is understood.
  'pd-profile-handler',
];

/** Plugins that read how much of the prompt is cached; the producer is added when it is not listed. */
const prefixReaders = new Set([
  'prefix-cache-scorer',
  'no-hit-lru-scorer',
  'prefix-based-pd-decider',
  'token-load-scorer',
  'prefix-cache-affinity-filter',
  'latency-scorer',
  'predicted-latency-producer',
  'p2p-source-producer',
]);
/** Plugins that read predictions, and those that read what media are cached. */
const latencyReaders = new Set(['latency-scorer', 'slo-headroom-tier-filter', 'latency-slo-admitter']);
const handlerTypes = [
  'single-profile-handler',
  'disagg-profile-handler',
  'data-parallel-profile-handler',
  'header-profile-handler',
];
/** Plugins that know from the engines' events; with one of them, nothing is guessed unless asked for. */
const preciseProducers = new Set(['precise-prefix-cache-producer', 'precise-prefix-cache-scorer']);
const prefixProducer = 'approx-prefix-cache-producer';
/** Older configurations give the producer's settings to the scorer. Sizes were in characters. */
const movedParameters = [
  'autoTune',
  'blockSizeTokens',
  'maxPrefixBlocksToMatch',
  'maxPrefixTokensToMatch',
  'lruCapacityPerServer',
];
const movedCharacterSizes = ['blockSize', 'hashBlockSize'];

const gates = new Set(['flowControl', 'haPopulateNonLeaderDatastore']);

interface PluginEntry {
  readonly name: string;
  readonly type: string;
  readonly parameters: unknown;
  readonly path: string;
}

interface ProfileEntry {
  readonly name: string;
  readonly plugins: readonly { readonly ref: string; readonly weight: number | undefined; readonly path: string }[];
}

/** A configuration, read and checked in itself; plugins are not made yet. */
export interface PickerConfig {
  readonly plugins: readonly PluginEntry[];
  readonly profiles: readonly ProfileEntry[];
  readonly fileDiscovery: { readonly path: string; readonly isWatched: boolean } | undefined;
  readonly isScraped: boolean;
  readonly scrape: Partial<ScrapeSettings>;
  readonly flow: FlowConfig;
  /** Things that are accepted and have no effect, for the log. */
  readonly warnings: readonly string[];
  /** As it was written. */
  readonly text: string;
}

const defaultText = `
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: queue-scorer}, {type: kv-cache-utilization-scorer}, {type: prefix-cache-scorer}]
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
`;

const isNamed = <K extends string>(table: Readonly<Record<K, unknown>>, key: string): key is K =>
  Object.hasOwn(table, key);

/**
 * Reads an EndpointPickerConfig; the default one when the text is empty.
 *
 * @param source where it comes from, for messages
 * @throws AppError `invalid` with the path and value of everything that is wrong, or `unsupported`
 */
export function parsePickerConfig(text: string, source: string): PickerConfig {
  let parsed: unknown;
  try {
    parsed = parseYaml(text.trim() === '' ? defaultText : text);
  } catch (thrown) {
    throw new AppError('invalid', `${source} is not YAML: ${messageOf(thrown)}`, { cause: thrown });
  }
  const problems: string[] = [];
  const warnings: string[] = [];
  const check = <S extends z.ZodRawShape>(
    shape: S,
    value: unknown,
    path: string,
  ): z.infer<z.ZodObject<S>> | undefined => {
    const result = z.strictObject(shape).safeParse(value ?? {});
    if (result.success) return result.data as z.infer<z.ZodObject<S>>;
    problems.push(...result.error.issues.map((issue) => describe(issue, path, Object.keys(shape))));
    return undefined;
  };

  const document = check(shapes.document, parsed, '');
  const dataLayer = document?.dataLayer === undefined ? {} : check(shapes.dataLayer, document.dataLayer, 'dataLayer');
  const plugins: PluginEntry[] = [];
  document?.plugins?.forEach((value, i) => {
    const path = `plugins[${i}]`;
    const plugin = check(shapes.plugin, value, path);
    if (plugin === undefined) return;
    const name = plugin.name ?? plugin.type;
    if (plugins.some((other) => other.name === name)) {
      problems.push(`${path}: another plugin is named ${name}; give one of them a name of its own`);
    }
    plugins.push({ name, type: plugin.type, parameters: plugin.parameters ?? {}, path: `${path}.parameters` });
  });
  const profiles: ProfileEntry[] = [];
  document?.schedulingProfiles?.forEach((value, i) => {
    const path = `schedulingProfiles[${i}]`;
    const profile = check(shapes.profile, value, path);
    if (profile === undefined) return;
    if (profiles.some((other) => other.name === profile.name)) {
      problems.push(`${path}.name: another profile is named ${profile.name}`);
    }
    const refs = profile.plugins.map((entry, j) => {
      const at = `${path}.plugins[${j}]`;
      const checked = check(shapes.profilePlugin, entry, at);
      return { ref: checked?.pluginRef ?? '', weight: checked?.weight, path: at };
    });
    profiles.push({ name: profile.name, plugins: refs });
  });

  document?.featureGates?.forEach((gate, i) => {
    const [name = '', value] = gate.split('=');
    if (!gates.has(name)) problems.push(`featureGates[${i}]: ${name} is not known; ${[...gates].join(', ')} are`);
    else if (value !== undefined && value !== 'true' && value !== 'false') {
      problems.push(`featureGates[${i}]: ${name} must be true or false, not ${JSON.stringify(value)}`);
    }
  });
  const isFlowControlled = document?.featureGates?.some((gate) => /^flowControl(=true)?$/.test(gate)) ?? false;
  const flowControl =
    document?.flowControl === undefined && !isFlowControlled
      ? undefined
      : check(flowControlShape, document?.flowControl, 'flowControl');
  if (document?.flowControl !== undefined && !isFlowControlled) {
    warnings.push('flowControl has no effect without featureGates: [flowControl]');
  }
  if (dataLayer?.peerDiscovery !== undefined) unsupported('dataLayer.peerDiscovery');
  if (dataLayer?.crossReplicaSyncerPluginRef !== undefined) unsupported('dataLayer.crossReplicaSyncerPluginRef');

  const typed = <T extends keyof typeof dataPlugins>(type: T): z.infer<(typeof dataPlugins)[T]> | undefined => {
    const entry = plugins.find((plugin) => plugin.type === type);
    if (entry === undefined) return undefined;
    const result = dataPlugins[type].safeParse(entry.parameters);
    if (result.success) return result.data as z.infer<(typeof dataPlugins)[T]>;
    const known = Object.keys(dataPlugins[type].shape);
    problems.push(...result.error.issues.map((issue) => describe(issue, entry.path, known)));
    return undefined;
  };
  const refer = (ref: string | undefined, path: string): PluginEntry | undefined => {
    if (ref === undefined) return undefined;
    const entry = plugins.find((plugin) => plugin.name === ref);
    if (entry === undefined)
      problems.push(
        `${path}: ${unknownName(
          ref,
          plugins.map((plugin) => plugin.name),
          'plugins',
        )}`,
      );
    return entry;
  };
  const discovery = refer(dataLayer?.discovery?.pluginRef, 'dataLayer.discovery.pluginRef');
  if (discovery !== undefined && discovery.type !== 'file-discovery') {
    problems.push(
      `dataLayer.discovery.pluginRef: ${discovery.name} (type ${discovery.type}) does not discover endpoints`,
    );
  }
  const parsers = [...(document?.requestHandler?.parsers ?? []), ...(document?.parser ? [document.parser] : [])];
  for (const { pluginRef } of parsers) refer(pluginRef, 'requestHandler.parsers');
  for (const { pluginRef, extractors } of dataLayer?.sources ?? []) {
    refer(pluginRef, 'dataLayer.sources');
    for (const extractor of extractors ?? []) refer(extractor.pluginRef, 'dataLayer.sources.extractors');
  }
  const detector = saturationDetectorOf(document?.saturationDetector, flowControl?.saturationDetector, plugins, check);
  if (detector !== undefined) refer(detector.name, detector.path);
  const file = typed('file-discovery');
  const source_ = typed('metrics-data-source');
  const extractor = typed('core-metrics-extractor');
  if (file !== undefined && discovery === undefined) {
    warnings.push('file-discovery is listed but dataLayer.discovery does not refer to it, so it is not used');
  }
  const ownEngines = (extractor?.engineConfigs ?? []).map((own) => [own.name, toEngine(own)] as const);
  for (const [name, engine] of ownEngines) {
    if (engine !== undefined) continue;
    problems.push(
      `core-metrics-extractor: engine ${name} is not known; give queuedRequestsSpec and runningRequestsSpec`,
    );
  }
  if (problems.length > 0) throw new AppError('invalid', `${source}: ${problems.join('; ')}`);

  const intervalMs = source_?.interval === undefined ? undefined : parseDurationMs(source_.interval);
  return {
    plugins: plugins.filter(({ type }) => !isNamed(dataPlugins, type) && !alwaysThere.has(type)),
    profiles,
    fileDiscovery:
      discovery !== undefined && file !== undefined ? { path: file.path, isWatched: file.watchFile } : undefined,
    isScraped: dataLayer?.injectDefaults !== false || source_ !== undefined,
    scrape: {
      ...(source_ && {
        scheme: source_.scheme,
        path: source_.path,
        isCertificateChecked: !source_.insecureSkipVerify,
        ...(source_.port === undefined ? {} : { port: source_.port }),
        ...(intervalMs === undefined ? {} : { intervalMs }),
      }),
      ...(extractor && {
        engineLabel: extractor.engineLabelKey,
        defaultEngine: extractor.defaultEngine,
        engines: {
          ...engines,
          ...Object.fromEntries(ownEngines.filter((entry): entry is [string, EngineMetrics] => entry[1] !== undefined)),
        },
      }),
    },
    flow: { control: isFlowControlled ? flowControl : undefined, detector },
    warnings,
    text,
  };
}

/** Before detectors were plugins their thresholds stood in the document itself. */
function saturationDetectorOf(
  given: unknown,
  ofFlowControl: { readonly pluginRef: string } | undefined,
  plugins: PluginEntry[],
  check: <S extends z.ZodRawShape>(shape: S, value: unknown, path: string) => z.infer<z.ZodObject<S>> | undefined,
): FlowConfig['detector'] {
  if (ofFlowControl !== undefined) {
    return { name: ofFlowControl.pluginRef, path: 'flowControl.saturationDetector.pluginRef' };
  }
  if (given === undefined) return undefined;
  const path = 'saturationDetector';
  if (typeof given === 'object' && given !== null && 'pluginRef' in given) {
    const found = check({ pluginRef: z.string() }, given, path);
    return found && { name: found.pluginRef, path: `${path}.pluginRef` };
  }
  plugins.push({ name: path, type: 'utilization-detector', parameters: given ?? {}, path });
  return { name: path, path };
}

function unsupported(what: string): never {
  throw new AppError('unsupported', `${what} is not supported yet; remove it`);
}

type EngineConfig = z.infer<(typeof dataPlugins)['core-metrics-extractor']>['engineConfigs'][number];

/** What an entry leaves out is taken from the engine of that name. Undefined when neither tells queue and running. */
function toEngine(own: EngineConfig): EngineMetrics | undefined {
  const known = isNamed(engines, own.name) ? engines[own.name] : undefined;
  const series = (text: string) => parseSeriesSpec(text) ?? { name: text, labels: {} };
  const pick = (text: string | undefined, else_: SeriesSpec | undefined) => (text === undefined ? else_ : series(text));
  const waiting = pick(own.queuedRequestsSpec, known?.waiting);
  const running = pick(own.runningRequestsSpec, known?.running);
  if (waiting === undefined || running === undefined) return undefined;
  const kvUsage = pick(own.kvUsageSpec, known?.kvUsage);
  const adapters = pick(own.loraSpec, known?.adapters);
  const custom = own.customMetrics?.map(({ attributeKey, metricSpec }) => [attributeKey, series(metricSpec)] as const);
  return {
    waiting,
    running,
    ...(kvUsage === undefined ? {} : { kvUsage }),
    ...(adapters === undefined ? {} : { adapters }),
    ...(custom === undefined ? {} : { custom: Object.fromEntries(custom) }),
  };
}

function describe(issue: z.core.$ZodIssue, path: string, known: readonly string[]): string {
  const where = [path, ...issue.path.map(String)].filter((part) => part !== '').join('.');
  if (issue.code !== 'unrecognized_keys') return `${where || 'document'}: ${issue.message}`;
  return issue.keys
    .map((key) => {
      const near = issue.path.length === 0 ? nearest(key, known) : undefined;
      return `${where === '' ? key : `${where}.${key}`}: unknown field${near ? `, did you mean ${near}?` : ''}`;
    })
    .join('; ');
}

function unknownName(name: string, known: readonly string[], what: string): string {
  const near = nearest(name, known);
  return `${JSON.stringify(name)} is not among the ${what}${near ? `, did you mean ${near}?` : ` (${known.join(', ')})`}`;
}

/** The scheduler's parts of a configuration, and what was taken for granted. */
export interface BuiltScheduler {
  readonly parts: SchedulerParts;
  readonly handler: ProfileHandler;
  readonly flow: ReturnType<typeof buildFlow>;
  readonly plugins: readonly Plugin[];
  readonly warnings: readonly string[];
  /** How each plugin was made, by its name. */
  readonly made: ReadonlyMap<string, MadePlugin>;
}

interface MadePlugin {
  readonly plugin: Plugin;
  /** Type and parameters. */
  readonly recipe: string;
  /** Names of the plugins that it refers to. */
  readonly refs: readonly string[];
}

/**
 * Makes the plugins and profiles of a configuration, adding what it leaves out: the profile handler, pickers, the
 * producer of prefix matches, the writer of the prefill header.
 *
 * @throws AppError `invalid` naming the path of what cannot be made
 */
export function buildScheduler(
  config: PickerConfig,
  deps: {
    readonly factories: Readonly<Record<string, PluginFactory>>;
    readonly clock: Clock;
    readonly random: () => number;
    /** The pool's endpoints; none when absent. */
    readonly pool?: PoolView;
    /** What was built before: plugins that are the same in this configuration are taken over with what they know. */
    readonly previous?: BuiltScheduler;
    /** Folder that relative paths start from; the current one when absent. */
    readonly baseDir?: string;
    /** Told of every choice in which a plugin had no say. */
    readonly report?: (plugin: string, reason: PluginFailure, message: string) => void;
    readonly observe?: NonNullable<SchedulerParts['observe']>;
  },
): BuiltScheduler {
  const warnings: string[] = [];
  const given = (name: string) => ({
    clock: deps.clock,
    random: deps.random,
    pool: deps.pool ?? { current: () => [], subscribe: () => () => {} },
    baseDir: deps.baseDir ?? '.',
    nearest,
    report: (reason: PluginFailure, message: string) => deps.report?.(name, reason, message),
  });
  const entries = complete(
    config.plugins.flatMap((entry) => renamed(entry, config.plugins, warnings)),
    warnings,
  );
  const made = new Map<string, MadePlugin>();
  const underWay = new Set<string>();
  const names = entries.map((entry) => entry.name);

  const make = (name: string, from: string): Plugin => {
    const known = made.get(name);
    if (known !== undefined) return known.plugin;
    const entry = entries.find((candidate) => candidate.name === name);
    if (entry === undefined) throw new AppError('invalid', `${from}: ${unknownName(name, names, 'plugins')}`);
    if (underWay.has(name)) throw new AppError('invalid', `${from}: plugin ${name} refers to itself`);
    const factory = isNamed(deps.factories, entry.type) ? deps.factories[entry.type] : undefined;
    if (factory === undefined) {
      const at = entry.path.replace(/\.parameters$/, '.type');
      throw new AppError('invalid', `${at}: ${unknownName(entry.type, Object.keys(deps.factories), 'plugin types')}`);
    }
    const recipe = JSON.stringify([entry.type, entry.parameters]);
    const before = deps.previous?.made.get(name);
    if (before !== undefined && before.recipe === recipe && isKept(before)) {
      for (const ref of before.refs) make(ref, entry.path);
      if (before.refs.every((ref) => made.get(ref)?.plugin === deps.previous?.made.get(ref)?.plugin)) {
        made.set(name, before);
        return before.plugin;
      }
    }
    underWay.add(name);
    const refs: string[] = [];
    const plugin = factory({
      ...entry,
      ...given(entry.name),
      plugin: (ref, at) => {
        refs.push(ref);
        return make(ref, at);
      },
    });
    underWay.delete(name);
    made.set(name, { plugin, recipe, refs });
    return plugin;
  };
  const plugins = entries.map((entry) => make(entry.name, entry.path));

  const handlers = plugins.filter(isProfileHandler);
  const [handler, extra] = handlers;
  if (handler === undefined || extra !== undefined) {
    throw new AppError('invalid', `plugins: exactly one profile handler is needed, not ${handlers.length}`);
  }
  const makeDefault = (type: string): Plugin => {
    const factory = isNamed(deps.factories, type) ? deps.factories[type] : undefined;
    if (factory === undefined) throw new AppError('internal', `${type} is not registered`);
    return factory({ type, name: type, parameters: {}, path: type, ...given(type), plugin: make });
  };
  const defaultPicker = (): Plugin => plugins.find(isPicker) ?? makeDefault('max-score-picker');
  const profiles = profilesOf(config, plugins).map((profile) =>
    buildProfile(profile, make, defaultPicker, warnings, deps.report),
  );
  return {
    parts: {
      handler,
      profiles,
      producers: plugins.filter((plugin): plugin is Producer => isProducer(plugin)),
      preRequests: plugins.filter(isPreRequest),
      preparers: plugins.filter(isPreparer),
      admitters: plugins.filter(isAdmitter),
      exchangeObservers: plugins.filter(isExchangeObserver),
      ...(deps.observe === undefined ? {} : { observe: deps.observe }),
    },
    handler,
    flow: buildFlow(config.flow, plugins, makeDefault),
    plugins,
    warnings,
    made,
  };
}

/** Plugins that know or hold something; a profile handler learns the profiles of its configuration. */
function isKept({ plugin }: MadePlugin): boolean {
  return (
    !isProfileHandler(plugin) &&
    (isPreRequest(plugin) ||
      isExchangeObserver(plugin) ||
      isFairnessPolicy(plugin) ||
      isUsageLimitPolicy(plugin) ||
      plugin.ready !== undefined)
  );
}

/** Without profiles, one that uses every filter, scorer and picker. */
function profilesOf(config: PickerConfig, plugins: readonly Plugin[]): readonly ProfileEntry[] {
  if (config.profiles.length > 0) return config.profiles;
  const used = plugins.filter(
    // A detector that is listed detects; it filters where a profile says so.
    (plugin) => (isFilter(plugin) && !isSaturationDetector(plugin)) || isScorer(plugin) || isPicker(plugin),
  );
  return [
    {
      name: 'default',
      plugins: used.map(({ name }) => ({ ref: name, weight: undefined, path: 'schedulingProfiles' })),
    },
  ];
}

const oldHandler = z.strictObject({
  decodeProfile: z.string().default('decode'),
  prefillProfile: z.string().default('prefill'),
  deciderPluginName: z.string().optional(),
  /** Characters that are not cached, before what decides was a plugin; 0 for always. */
  threshold: z.number().min(0).optional(),
  hashBlockSize: z.number().optional(),
  // How the cached part was found then; producers tell it now.
  prefixPluginType: z.string().optional(),
  prefixPluginName: z.string().optional(),
});

/** Plugins of older configurations as what became of them. */
function renamed(entry: PluginEntry, all: readonly PluginEntry[], warnings: string[]): readonly PluginEntry[] {
  if (entry.type !== 'pd-profile-handler') return [entry];
  const result = oldHandler.safeParse(entry.parameters);
  if (!result.success) {
    const problems = result.error.issues.map((issue) => describe(issue, entry.path, Object.keys(oldHandler.shape)));
    throw new AppError('invalid', problems.join('; '));
  }
  const { decodeProfile: decode, prefillProfile: prefill, threshold } = result.data;
  const listed = all.filter(({ type }) => type.endsWith('-pd-decider'));
  // Which one is the default has changed over time, so one that is listed has to tell.
  const added: PluginEntry | undefined =
    result.data.deciderPluginName !== undefined || listed.length > 0 || threshold === undefined
      ? undefined
      : threshold === 0
        ? { name: 'always-disagg-pd-decider', type: 'always-disagg-pd-decider', parameters: {}, path: entry.path }
        : {
            name: 'prefix-based-pd-decider',
            type: 'prefix-based-pd-decider',
            parameters: { nonCachedTokens: Math.ceil(threshold / 4) },
            path: entry.path,
          };
  const deciderPluginName =
    result.data.deciderPluginName ?? added?.name ?? (listed.length === 1 ? listed[0]?.name : undefined);
  if (deciderPluginName === undefined) {
    throw new AppError(
      'invalid',
      `${entry.path}.deciderPluginName: name the plugin that decides, and list it: always-disagg-pd-decider or prefix-based-pd-decider`,
    );
  }
  warnings.push('pd-profile-handler is disagg-profile-handler now');
  const parameters = { profiles: { decode, prefill }, deciders: { prefill: deciderPluginName } };
  return [...(added ? [added] : []), { ...entry, type: 'disagg-profile-handler', parameters }];
}

function complete(plugins: readonly PluginEntry[], warnings: string[]): readonly PluginEntry[] {
  const has = (type: string): boolean => plugins.some((plugin) => plugin.type === type);
  const add = (type: string, parameters: unknown = {}): PluginEntry => ({ name: type, type, parameters, path: type });
  const added: PluginEntry[] = [];
  const moved: Record<string, unknown> = {};
  const kept = plugins.map((plugin) => {
    if (plugin.type !== 'prefix-cache-scorer' || typeof plugin.parameters !== 'object' || plugin.parameters === null) {
      return plugin;
    }
    const own: Record<string, unknown> = {};
    for (const [key, value] of Object.entries(plugin.parameters)) {
      if (movedParameters.includes(key)) moved[key] = value;
      else if (movedCharacterSizes.includes(key) && typeof value === 'number')
        moved.blockSizeTokens = Math.ceil(value / 4);
      else own[key] = value;
    }
    return { ...plugin, parameters: own };
  });
  if (Object.keys(moved).length > 0) {
    warnings.push(`prefix-cache-scorer: ${Object.keys(moved).join(', ')} belong to ${prefixProducer} now`);
  }
  const isPrecise = [...preciseProducers].some(has);
  const needsPredictions = plugins.some(
    ({ type, parameters }) => latencyReaders.has(type) || isPredictorAsked(parameters),
  );
  const needsPrefixes = !isPrecise && plugins.some(({ type }) => prefixReaders.has(type) || latencyReaders.has(type));
  if (!has(prefixProducer) && needsPrefixes) added.push(add(prefixProducer, moved));
  if (!has('predicted-latency-producer') && needsPredictions) {
    added.push(add('predicted-latency-producer'));
  }
  if (!has('mm-embeddings-cache-producer') && has('mm-embeddings-cache-scorer')) {
    added.push(add('mm-embeddings-cache-producer'));
  }
  if (isPrecise && !has('token-producer') && !has('tokenizer')) {
    added.push(add('token-producer', { vllm: { fromPool: true } }));
    warnings.push("no token-producer is listed: prompts are tokenized by the pool's endpoints");
  }
  if (!handlerTypes.some(has)) added.push(add('single-profile-handler'));
  if (has('disagg-profile-handler') && !has('disagg-headers-handler') && !has('prefill-header-handler')) {
    const handler = plugins.find(({ type }) => type === 'disagg-profile-handler');
    const named = (handler?.parameters as { profiles?: Readonly<Record<string, unknown>> } | undefined)?.profiles;
    added.push(
      add('disagg-headers-handler', {
        ...(typeof named?.prefill === 'string' ? { prefillProfile: named.prefill } : {}),
        ...(typeof named?.encode === 'string' ? { encodeProfile: named.encode } : {}),
      }),
    );
  }
  return [...kept, ...added];
}

/** Of plugins that read predictions only where they are told to. */
function isPredictorAsked(parameters: unknown): boolean {
  return (parameters as { readonly ttftSource?: unknown } | null | undefined)?.ttftSource === 'latencyPredictor';
}

function buildProfile(
  profile: ProfileEntry,
  make: (name: string, from: string) => Plugin,
  defaultPicker: () => Plugin,
  warnings: string[],
  report: ((plugin: string, reason: PluginFailure, message: string) => void) | undefined,
): Profile {
  const members = profile.plugins.map(({ ref, weight, path }) => ({
    plugin: make(ref, `${path}.pluginRef`),
    weight,
    path,
  }));
  const scorers: WeightedScorer[] = [];
  for (const { plugin, weight, path } of members) {
    if (isScorer(plugin)) scorers.push({ scorer: plugin, weight: weight ?? 1 });
    else if (!isFilter(plugin) && !isPicker(plugin)) {
      throw new AppError('invalid', `${path}: ${plugin.name} (type ${plugin.type}) is no filter, scorer or picker`);
    } else if (weight !== undefined) warnings.push(`${path}.weight has no effect: ${plugin.name} is no scorer`);
  }
  const pickers = members.map(({ plugin }) => plugin).filter(isPicker);
  if (pickers.length > 1) {
    throw new AppError(
      'invalid',
      `schedulingProfiles: profile ${profile.name} has ${pickers.length} pickers; keep one`,
    );
  }
  const picker = pickers[0] ?? defaultPicker();
  if (!isPicker(picker)) throw new AppError('internal', `${picker.name} is no picker`);
  return new Profile({
    name: profile.name,
    filters: members.map(({ plugin }) => plugin).filter(isFilter),
    scorers,
    picker,
    ...(report === undefined ? {} : { report }),
  });
}
