import { describe, expect, it } from '@jest/globals';
import { annotations, fieldManager } from '../../src/api/labels.ts';
import type { KubeObject, Manifest } from '../../src/kube/object.ts';
import { llmService, platform } from '../../test/builders/service.ts';
import type { Gathered, Settings } from './gather.ts';
import { holdReleases } from './releases.ts';

const service = llmService();
const gathered = (presetReleases: readonly string[]) =>
  ({
    service,
    effective: service.spec,
    platform: platform(),
    combined: { applied: [], sourceOf: () => undefined, presetReleases },
  }) as unknown as Gathered;
const settings = (release: string) => ({ release, globals: { ingress: {} } }) as unknown as Settings;

const template = (image: string) => ({ spec: { containers: [{ name: 'main', image }] } });
const deployment = (image: string): Manifest => ({
  apiVersion: 'apps/v1',
  kind: 'Deployment',
  metadata: { name: 'chat-kserve', namespace: 'default' },
  spec: { replicas: 1, template: template(image) },
});

/** What was applied, as it comes back. */
const stored = (manifest: Manifest): KubeObject =>
  ({
    ...manifest,
    metadata: {
      ...manifest.metadata,
      managedFields: [
        {
          manager: fieldManager,
          operation: 'Apply',
          apiVersion: 'apps/v1',
          fieldsType: 'FieldsV1',
          fieldsV1: {
            'f:spec': {
              'f:replicas': {},
              'f:template': {
                'f:spec': { 'f:containers': { 'k:{"name":"main"}': { '.': {}, 'f:name': {}, 'f:image': {} } } },
              },
            },
          },
        },
      ],
    },
  }) as unknown as KubeObject;

const hold = (release: string, presets: readonly string[], image: string, live?: KubeObject) =>
  holdReleases(gathered(presets), settings(release), [deployment(image)], () => live);
const made = (release: string, presets: readonly string[], image: string) =>
  stored(hold(release, presets, image).desired[0] as Manifest);
const releaseOf = (held: ReturnType<typeof hold>) => held.desired[0]?.metadata.annotations?.[annotations.release];
const imageOf = (held: ReturnType<typeof hold>) => (held.desired[0] as { readonly spec?: unknown }).spec;

describe('pods of another release', () => {
  it('stay as they are where this release makes others', () => {
    const held = hold('2', [], 'new', made('1', [], 'old'));
    expect(imageOf(held)).toEqual({ replicas: 1, template: template('old') });
    expect(held.behind.map(({ name }) => name)).toEqual(['Deployment chat-kserve']);
    expect(releaseOf(held)).toMatch(/^1-/);
  });

  it.each([
    ['another release', '2', []],
    ['presets that came later', '1', ['0.1.0-00000000']],
  ] as const)('follow in name where %s makes the same', (_what, release, presets) => {
    const held = hold(release, presets, 'old', made('1', [], 'old'));
    expect(held.behind).toEqual([]);
    expect(releaseOf(held)).toBe(releaseOf(hold(release, presets, 'old')));
    expect(imageOf(held)).toEqual({ replicas: 1, template: template('old') });
  });
});
