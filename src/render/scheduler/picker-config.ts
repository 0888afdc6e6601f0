import { stringify } from 'yaml';
import type { Context } from '../input.ts';
import { hasAdapters } from '../pod/lora.ts';
import { pickerBinaryOf, pickerContainer } from './binary.ts';
import { hasPredictor, isPredictor, predictorUrls } from './latency-predictor.ts';
import { type MigrationFacts, migratePickerConfig, pointAtTokenizer, withMetrics } from './migrate-config.ts';
import { hasTokenizer, tokenizedModelOf, tokenizerUrlOf } from './tokenizer.ts';

interface PickerConfig {
  readonly apiVersion: 'llm-d.ai/v1alpha1';
  readonly kind: 'EndpointPickerConfig';
  readonly plugins: readonly { readonly type: string; readonly parameters?: Readonly<Record<string, unknown>> }[];
  readonly schedulingProfiles: readonly {
    readonly name: string;
    readonly plugins: readonly { readonly pluginRef: string; readonly weight?: number }[];
  }[];
}

/**
 * One pool of equal pods: prefer those that hold the prompt's prefix, then those with room; a prompt that nobody holds
 * goes to the pod that has had such a one longest ago, so that caches fill evenly.
 */
const singleProfile: PickerConfig = {
  apiVersion: 'llm-d.ai/v1alpha1',
  kind: 'EndpointPickerConfig',
  plugins: [
    { type: 'single-profile-handler' },
    { type: 'queue-scorer' },
    { type: 'kv-cache-utilization-scorer' },
    { type: 'prefix-cache-scorer' },
    { type: 'no-hit-lru-scorer' },
    { type: 'max-score-picker' },
  ],
  schedulingProfiles: [
    {
      name: 'default',
      plugins: [
        { pluginRef: 'queue-scorer', weight: 2 },
        { pluginRef: 'kv-cache-utilization-scorer', weight: 2 },
        { pluginRef: 'prefix-cache-scorer', weight: 3 },
        { pluginRef: 'no-hit-lru-scorer', weight: 2 },
        { pluginRef: 'max-score-picker' },
      ],
    },
  ],
};

/** Prefill and decode pods: each profile filters by role; a decider says whether a request needs a prefill pod. */
const disaggregated: PickerConfig = {
  apiVersion: 'llm-d.ai/v1alpha1',
  kind: 'EndpointPickerConfig',
  plugins: [
    { type: 'disagg-headers-handler' },
    { type: 'prefill-filter' },
    { type: 'decode-filter' },
    { type: 'queue-scorer' },
    { type: 'kv-cache-utilization-scorer' },
    { type: 'active-request-scorer' },
    { type: 'prefix-cache-scorer' },
    { type: 'max-score-picker' },
    { type: 'always-disagg-pd-decider' },
    { type: 'disagg-profile-handler', parameters: { deciders: { prefill: 'always-disagg-pd-decider' } } },
  ],
  schedulingProfiles: [
    {
      name: 'prefill',
      plugins: [
        { pluginRef: 'prefill-filter' },
        { pluginRef: 'prefix-cache-scorer', weight: 3 },
        { pluginRef: 'queue-scorer', weight: 2 },
        { pluginRef: 'kv-cache-utilization-scorer', weight: 2 },
        { pluginRef: 'max-score-picker' },
      ],
    },
    {
      name: 'decode',
      plugins: [
        { pluginRef: 'decode-filter' },
        { pluginRef: 'active-request-scorer', weight: 2 },
        { pluginRef: 'prefix-cache-scorer', weight: 3 },
        { pluginRef: 'max-score-picker' },
      ],
    },
  ],
};

const sessionScorer = 'resident-session-scorer';

/** Decode pods whose sidecar remembers the conversation come first: there the turn needs no prefill. Our picker knows how. */
function withSessions(config: PickerConfig): PickerConfig {
  return {
    ...config,
    plugins: config.plugins.flatMap((plugin) =>
      plugin.type === 'prefix-cache-scorer' ? [plugin, { type: sessionScorer }] : [plugin],
    ),
    schedulingProfiles: config.schedulingProfiles.map(({ name, plugins }) => ({
      name,
      plugins:
        name === 'decode'
          ? plugins.flatMap((plugin) =>
              plugin.pluginRef === 'prefix-cache-scorer' ? [plugin, { pluginRef: sessionScorer, weight: 2 }] : [plugin],
            )
          : plugins,
    })),
  };
}

const adapterScorer = 'lora-affinity-scorer';

/** With adapters, pods that have the asked one loaded come first. */
function withAdapters(config: PickerConfig): PickerConfig {
  const beforePicker = <T>(list: readonly T[], added: T, isPicker: (item: T) => boolean): readonly T[] => {
    const at = list.findIndex(isPicker);
    return [...list.slice(0, at), added, ...list.slice(at)];
  };
  return {
    ...config,
    plugins: beforePicker(config.plugins, { type: adapterScorer }, ({ type }) => type === 'max-score-picker'),
    schedulingProfiles: config.schedulingProfiles.map(({ name, plugins }) => ({
      name,
      plugins: beforePicker(
        plugins,
        { pluginRef: adapterScorer, weight: 4 },
        ({ pluginRef }) => pluginRef === 'max-score-picker',
      ),
    })),
  };
}

function textsOf(config: PickerConfig) {
  return { plain: stringify(config), adapters: stringify(withAdapters(config)) };
}

/** Written once: writing YAML is the dearest part of a render. */
const texts = {
  disaggregated: textsOf(withSessions(disaggregated)),
  /** For a picker of somebody else's image. */
  plainDisaggregated: textsOf(disaggregated),
  single: textsOf(singleProfile),
};

/**
 * The picker's configuration as YAML: the user's when written, else that of the topology. It is worked out anew on
 * every render, so that adding or removing prefill changes the picker too.
 */
export function renderPickerConfig(context: Context, engineSpecs: MigrationFacts['engineSpecs'] = {}): string {
  const scheduler = context.effective.router?.scheduler;
  const inline = scheduler?.config?.inline;
  if (inline !== undefined) return stringify(rewritePickerConfig(context, inline, engineSpecs));
  const { isUpstream } = pickerBinaryOf(context);
  const hasOwnImage = scheduler?.template?.containers?.some(
    ({ name, image }) => name === pickerContainer && image !== undefined,
  );
  const isOurs = !isUpstream && !hasOwnImage;
  if (!isUpstream && Object.keys(engineSpecs).length === 0) {
    const { plain, adapters } = !context.hasPrefill
      ? texts.single
      : isOurs
        ? texts.disaggregated
        : texts.plainDisaggregated;
    return hasAdapters(context.effective) ? adapters : plain;
  }
  const base = !context.hasPrefill ? singleProfile : isOurs ? withSessions(disaggregated) : disaggregated;
  const config = hasAdapters(context.effective) ? withAdapters(base) : base;
  // Upstream's finds prefixes by tokens where it has them; ours would only wait for them with these plugins.
  const plugins = [...(isUpstream && hasTokenizer(context) ? [{ type: 'token-producer' }] : []), ...config.plugins];
  return stringify(rewritePickerConfig(context, { ...config, plugins }, engineSpecs), { aliasDuplicateObjects: false });
}

/** A configuration as the picker of the service reads it, with the addresses of what stands beside it. */
export function rewritePickerConfig(
  context: Context,
  config: Readonly<Record<string, unknown>>,
  engineSpecs: MigrationFacts['engineSpecs'],
): Readonly<Record<string, unknown>> {
  const { isUpstream, version } = pickerBinaryOf(context);
  const facts: MigrationFacts = {
    version,
    tokenizerUrl: tokenizerUrlOf(context),
    modelName: tokenizedModelOf(context),
    // Ours is told by a flag.
    metricsScheme: isUpstream && context.platform.tls ? 'https' : 'http',
    engineSpecs,
  };
  if (isUpstream) return migratePickerConfig(config, facts);
  if (!Array.isArray(config.plugins)) return config;
  const plugins = config.plugins.flatMap(pointAtTokenizer(facts));
  return {
    ...config,
    plugins: withMetrics(
      hasPredictor(context) ? plugins.map((plugin) => (isPredictor(plugin) ? withPredictor(plugin) : plugin)) : plugins,
      facts,
    ),
  };
}

function withPredictor<P extends { readonly parameters?: Readonly<Record<string, unknown>> }>(plugin: P): P {
  return {
    ...plugin,
    parameters: {
      predictionUrls: [predictorUrls.prediction],
      trainingUrl: predictorUrls.training,
      ...plugin.parameters,
    },
  };
}
