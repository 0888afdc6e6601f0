import type { PodTemplate } from '../api/foreign/pod.ts';
import type { LLMInferenceServiceSpec, WorkloadSpec } from '../api/v1alpha2/llm-inference-service.ts';

/** Which well-known base configurations a service is laid over: API, since people replace them by name. */

/** The presets of a spec without the prefix of their names, lowest first. */
export function presetNames(spec: LLMInferenceServiceSpec): readonly string[] {
  const scheduler = spec.router?.scheduler;
  const route = spec.router?.route;
  const names: (string | false)[] = [
    scheduler !== undefined && scheduler.pool?.ref === undefined && 'config-llm-scheduler',
    (scheduler?.tokenizer !== undefined || usesPlugin(spec, tokenPlugins)) && 'config-llm-tokenizer',
    usesPlugin(spec, ['predicted-latency-producer']) && 'config-llm-scheduler-latency-predictor',
    route !== undefined && (route.http?.refs ?? []).length === 0 && 'config-llm-router-route',
    spec.tracing !== undefined && 'config-llm-tracing',
    ...(spec.prefill
      ? [workloadPreset(spec.prefill, 'config-llm-prefill-'), workloadPreset(spec, 'config-llm-decode-')]
      : [workloadPreset(spec, 'config-llm-')]),
  ];
  return names.filter((name) => name !== false);
}

/** Every preset without the prefix of its name. */
export const wellKnownPresets: readonly string[] = [
  'config-llm-scheduler',
  'config-llm-tokenizer',
  'config-llm-scheduler-latency-predictor',
  'config-llm-router-route',
  'config-llm-tracing',
  ...['', 'prefill-', 'decode-'].flatMap((part) =>
    ['template', 'worker-data-parallel', 'worker-pipeline-parallel'].map((shape) => `config-llm-${part}${shape}`),
  ),
];

export function isWellKnownPreset(name: string, prefix: string): boolean {
  return name.startsWith(prefix) && wellKnownPresets.includes(name.slice(prefix.length));
}

const tokenPlugins = ['token-producer', 'precise-prefix-cache-scorer'];

function workloadPreset({ worker, parallelism }: WorkloadSpec, prefix: string): string | false {
  if (!worker) return `${prefix}template`;
  if (parallelism?.data !== undefined || parallelism?.dataLocal !== undefined) return `${prefix}worker-data-parallel`;
  return parallelism?.pipeline !== undefined && `${prefix}worker-pipeline-parallel`;
}

/** Whether the picker's configuration, inline or among the arguments of its template, names one of these plugins. */
function usesPlugin(spec: LLMInferenceServiceSpec, types: readonly string[]): boolean {
  const scheduler = spec.router?.scheduler;
  const plugins: unknown = scheduler?.config?.inline?.plugins;
  const inline = Array.isArray(plugins)
    ? plugins.map((plugin: { readonly type?: unknown } | null) => plugin?.type)
    : [];
  if (inline.some((type) => typeof type === 'string' && types.includes(type))) return true;
  const text = configText(scheduler?.template);
  return text !== undefined && types.some((type) => new RegExp(`\\b${type}\\b`).test(text));
}

function configText(template: PodTemplate | undefined): string | undefined {
  for (const { command, args } of template?.containers ?? []) {
    const words = [...(command ?? []), ...(args ?? [])];
    const at = words.findIndex((word) => word === '--config-text' || word.startsWith('--config-text='));
    if (at >= 0) return words[at] === '--config-text' ? words[at + 1] : words[at];
  }
  return undefined;
}
