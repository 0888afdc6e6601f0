import { labels } from '../api/labels.ts';
import type { LLMInferenceServiceConfig } from '../api/v1alpha2/llm-inference-service-config.ts';
import { presetsDigest, presetTexts } from './preset-texts.ts';

/** The presets that ship with this version (`config/presets`), as they stand in a cluster. */

interface ShippedPreset {
  readonly name: string;
  readonly spec: NonNullable<LLMInferenceServiceConfig['spec']>;
}

const presets: readonly ShippedPreset[] = presetTexts.map((text) => JSON.parse(text) as ShippedPreset);

/** Value of the label `signalbox.io/preset-release` on presets of a version: `0.1.0-1f8a03bc`. */
export function presetReleaseOf(version: string): string {
  return `${version}-${presetsDigest}`;
}

/** Every shipped preset, in the namespace and under the prefix that an operator looks for them. */
export function shippedPresets(options: {
  readonly namespace: string;
  readonly prefix: string;
  readonly version: string;
}): readonly LLMInferenceServiceConfig[] {
  const { namespace, prefix, version } = options;
  return presets.map(({ name, spec }) => ({
    apiVersion: 'serving.kserve.io/v1alpha2',
    kind: 'LLMInferenceServiceConfig',
    metadata: { name: prefix + name, namespace, labels: { [labels.presetRelease]: presetReleaseOf(version) } },
    spec,
  }));
}
