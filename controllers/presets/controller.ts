import { fieldManager, labels } from '../../src/api/labels.ts';
import type { LLMInferenceServiceConfig } from '../../src/api/v1alpha2/llm-inference-service-config.ts';
import type { Client } from '../../src/kube/client.ts';
import type { EventRecorder } from '../../src/kube/events.ts';
import type { Informer } from '../../src/kube/informer.ts';
import { type KubeObject, keyOf, type Manifest, type ObjectRef } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { hasCode } from '../../src/kube/status-error.ts';
import { presetReleaseOf, shippedPresets } from '../../src/render/shipped-presets.ts';
import type { ControllerDefinition } from '../../src/runtime/controller.ts';
import { awaitChange, type Outcome, requeueAfter } from '../../src/runtime/reconcile.ts';
import { triggerSelf } from '../../src/runtime/triggers.ts';
import { isDue } from './release.ts';

export interface PresetControllerDeps {
  readonly client: Pick<Client, 'apply'>;
  readonly configs: Pick<Informer<LLMInferenceServiceConfig>, 'store' | 'subscribe'>;
  readonly events: Pick<EventRecorder, 'record'>;
  readonly systemNamespace: string;
  readonly configPrefix: string;
  readonly version: string;
  /** While KServe's controller runs, whose services would be laid over them. */
  readonly isWaiting?: () => boolean;
}

const waitMs = 10_000;

/**
 * Puts the presets that ship into the system namespace: those that are missing, and newer ones over those that an older
 * operator put there. One that somebody has changed, or made without us, stays as it is.
 */
export function createPresetController(deps: PresetControllerDeps): ControllerDefinition {
  const { client, configs, events, systemNamespace: namespace, configPrefix: prefix, version } = deps;
  const presets = new Map(
    shippedPresets({ namespace, prefix, version }).map((preset) => [keyOf(preset.metadata), preset]),
  );
  /** Presets that are somebody else's now, as they were when that was found out. */
  const kept = new Map<string, string>();

  async function reconcile(ref: ObjectRef, signal: AbortSignal): Promise<Outcome> {
    const key = keyOf(ref);
    const preset = presets.get(key);
    if (!preset) return awaitChange();
    if (deps.isWaiting?.()) return requeueAfter(waitMs);
    const present = configs.store.get(ref);
    const { uid, generation } = present?.metadata ?? {};
    if (present && (!isDue(present, version) || kept.get(key) === `${uid}/${generation}`)) return awaitChange();
    try {
      await client.apply(resources.llmInferenceServiceConfigs, preset as Manifest, { fieldManager }, signal);
      kept.delete(key);
    } catch (thrown) {
      if (!hasCode(thrown, 'conflict') || !present) throw thrown;
      kept.set(key, `${uid}/${generation}`);
      const release = present.metadata.labels?.[labels.presetRelease];
      events.record(
        present as KubeObject,
        'Normal',
        'PresetKept',
        `was changed after ${release} put it here, so that of ${presetReleaseOf(version)} was not; delete it to have that one`,
      );
    }
    return awaitChange();
  }

  return {
    name: 'presets',
    reconcile,
    triggers: [
      (enqueue) => {
        for (const key of presets.keys()) enqueue(key);
        return () => {};
      },
      triggerSelf(configs, {
        when: ({ metadata: a }, { metadata: b }) =>
          a.deletionTimestamp !== b.deletionTimestamp ||
          a.labels?.[labels.presetRelease] !== b.labels?.[labels.presetRelease],
      }),
    ],
    workers: 2,
  };
}
