import { labels } from '../../src/api/labels.ts';
import type { LLMInferenceServiceConfig } from '../../src/api/v1alpha2/llm-inference-service-config.ts';
import { presetReleaseOf } from '../../src/render/shipped-presets.ts';

/** Whether a preset that is there is to be replaced by that of `version`: it was put there by an older operator. */
export function isDue({ metadata }: Pick<LLMInferenceServiceConfig, 'metadata'>, version: string): boolean {
  const release = metadata.labels?.[labels.presetRelease];
  if (release === undefined || metadata.deletionTimestamp !== undefined) return false;
  return release !== presetReleaseOf(version) && compareVersions(release, version) <= 0;
}

/** Below 0 when `a` is older, by the numbers at its start; what has none is older than all that have. */
function compareVersions(a: string, b: string): number {
  const numbers = (text: string) => /^\d+(\.\d+)*/.exec(text)?.[0].split('.').map(Number) ?? [];
  const [left, right] = [numbers(a), numbers(b)];
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    const difference = (left[i] ?? 0) - (right[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}
