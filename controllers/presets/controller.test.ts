import { describe, expect, it } from '@jest/globals';
import type { LLMInferenceServiceConfig } from '../../src/api/v1alpha2/llm-inference-service-config.ts';
import type { Client } from '../../src/kube/client.ts';
import { keyOf, type Manifest } from '../../src/kube/object.ts';
import { StatusError } from '../../src/kube/status-error.ts';
import { presetReleaseOf, shippedPresets } from '../../src/render/shipped-presets.ts';
import { createPresetController } from './controller.ts';
import { isDue } from './release.ts';

const version = '1.2.3';
const namespace = 'system';
const shipped = shippedPresets({ namespace, prefix: 'kserve-', version });
const name = 'kserve-config-llm-template';
const signal = new AbortController().signal;

/** The controller over what is in the cluster; `refuses`: somebody else owns a field. */
function start(present: readonly LLMInferenceServiceConfig[], refuses = false, isWaiting = false) {
  const objects = new Map(present.map((one) => [keyOf(one.metadata), one]));
  const applied: Manifest[] = [];
  const events: string[] = [];
  const forced: unknown[] = [];
  const controller = createPresetController({
    client: {
      apply: (async (_resource: unknown, object: Manifest, options: { readonly force?: boolean }) => {
        forced.push(options.force);
        if (refuses) throw new StatusError('conflict', 'conflict with "kubectl-edit"', 409, 'Conflict');
        applied.push(object);
        return object;
      }) as unknown as Client['apply'],
    },
    configs: {
      store: { get: (ref: Parameters<typeof keyOf>[0]) => objects.get(keyOf(ref)) },
      subscribe: () => () => {},
    } as unknown as Parameters<typeof createPresetController>[0]['configs'],
    events: { record: (_object, _type, reason, message) => void events.push(`${reason}: ${message}`) },
    systemNamespace: namespace,
    configPrefix: 'kserve-',
    version,
    isWaiting: () => isWaiting,
  });
  return { controller, applied, events, forced };
}

const labelled = (release: string | undefined, generation = 1): LLMInferenceServiceConfig => ({
  apiVersion: 'serving.kserve.io/v1alpha2',
  kind: 'LLMInferenceServiceConfig',
  metadata: {
    name,
    namespace,
    uid: 'u',
    generation,
    ...(release === undefined ? {} : { labels: { 'signalbox.io/preset-release': release } }),
  },
  spec: {},
});

describe('which preset is replaced', () => {
  it.each([
    ['an older one', '1.2.2-00000000', true],
    ['one much older', '0.10.0-00000000', true],
    ['another build of the same version', '1.2.3-00000000', true],
    ['one without a number', 'main', true],
    ['the same', presetReleaseOf(version), false],
    ['a newer one', '1.10.0-00000000', false],
    ['one of the next patch', '1.2.4-00000000', false],
    ['one of the users', undefined, false],
  ])('%s', (_what, release, expected) => {
    expect(isDue(labelled(release), version)).toBe(expected);
  });

  it('not one that goes', () => {
    const { metadata } = labelled('1.0.0-00000000');
    expect(isDue({ metadata: { ...metadata, deletionTimestamp: '2026-01-01T00:00:00Z' } }, version)).toBe(false);
  });
});

describe('the controller of presets', () => {
  it('looks at every preset at its start', () => {
    const keys: string[] = [];
    for (const trigger of start([]).controller.triggers) trigger((key) => void keys.push(key));
    expect(keys.sort()).toEqual(shipped.map(({ metadata }) => keyOf(metadata)).sort());
  });

  it('makes what is missing, and never takes fields from others', async () => {
    const { controller, applied, forced } = start([]);
    await controller.reconcile({ namespace, name }, signal);
    expect(applied).toEqual([shipped.find(({ metadata }) => metadata.name === name)]);
    expect(forced).toEqual([undefined]);
  });

  it('sends nothing where all is as it should be, nor for other configurations', async () => {
    const { controller, applied, forced } = start([labelled(presetReleaseOf(version))]);
    await controller.reconcile({ namespace, name }, signal);
    await controller.reconcile({ namespace, name: 'of-a-user' }, signal);
    await controller.reconcile({ namespace: 'default', name }, signal);
    expect([applied, forced]).toEqual([[], []]);
  });

  it('leaves one that somebody has changed, and says so once', async () => {
    const { controller, applied, events, forced } = start([labelled('1.0.0-00000000')], true);
    await controller.reconcile({ namespace, name }, signal);
    await controller.reconcile({ namespace, name }, signal);
    expect(applied).toEqual([]);
    expect(forced).toHaveLength(1);
    expect(events).toEqual([expect.stringMatching(/^PresetKept: was changed after 1\.0\.0-0{8} .* 1\.2\.3-/)]);
  });

  it('waits while KServe runs', async () => {
    const { controller, forced } = start([], false, true);
    expect((await controller.reconcile({ namespace, name }, signal)).kind).toBe('requeueAfter');
    expect(forced).toEqual([]);
  });
});
