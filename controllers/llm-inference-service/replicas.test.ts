import { describe, expect, it } from '@jest/globals';
import { AppError } from '../../src/errors.ts';
import type { KubeObject, Manifest } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { keepReplicas, replicasManager } from './replicas.ts';

const desired = (spec: object, kind = 'Deployment'): Manifest => ({
  apiVersion: 'apps/v1',
  kind,
  metadata: { name: 'chat', namespace: 'default', labels: { a: 'b' } },
  spec,
});
const live = (owner: string | undefined, replicas = 3): KubeObject =>
  ({
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: {
      name: 'chat',
      managedFields: [
        { manager: owner ?? 'other', operation: 'Apply', fieldsV1: { 'f:spec': { 'f:replicas': {} } } },
        { manager: 'signalbox', operation: 'Apply', fieldsV1: { 'f:spec': { 'f:selector': {} } } },
      ],
    },
    spec: { replicas },
  }) as unknown as KubeObject;

async function applied(parts: Parameters<typeof keepReplicas>[2], failure?: AppError): Promise<readonly unknown[]> {
  const calls: unknown[] = [];
  const apply = async (_resource: unknown, object: unknown, how: unknown) => {
    calls.push([object, how]);
    if (failure) throw failure;
    return object as never;
  };
  await keepReplicas({ apply }, resources.deployments, parts);
  return calls;
}

describe('keepReplicas', () => {
  it('hands the live number over when the manifest stops giving one', async () => {
    expect(await applied({ desired: desired({}), live: live('signalbox') })).toEqual([
      [
        {
          apiVersion: 'apps/v1',
          kind: 'Deployment',
          metadata: { name: 'chat', namespace: 'default' },
          spec: { replicas: 3 },
        },
        { fieldManager: replicasManager },
      ],
    ]);
  });

  it.each<[string, Parameters<typeof keepReplicas>[2]]>([
    ['there is no object yet', { desired: desired({}), live: undefined }],
    ['the manifest gives a number', { desired: desired({ replicas: 1 }), live: live('signalbox') }],
    ['somebody else has set it', { desired: desired({}), live: live('kube-controller-manager') }],
    ['the kind has none', { desired: desired({}, 'Service'), live: live('signalbox') }],
  ])('does nothing when %s', async (_, parts) => expect(await applied(parts)).toEqual([]));

  it('yields to whoever has set it meanwhile, and passes other failures on', async () => {
    const parts = { desired: desired({}), live: live('signalbox') };
    expect(await applied(parts, new AppError('conflict', 'taken'))).toHaveLength(1);
    await expect(applied(parts, new AppError('unavailable', 'gone'))).rejects.toThrow('gone');
  });
});
