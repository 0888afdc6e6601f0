import { describe, expect, it } from '@jest/globals';
import { shareFields } from './fields.ts';
import type { KubeObject } from './object.ts';

const child = (name: string, uid: string): KubeObject => ({
  apiVersion: 'apps/v1',
  kind: 'Deployment',
  metadata: {
    name,
    managedFields: [
      {
        manager: 'signalbox',
        operation: 'Apply',
        apiVersion: 'apps/v1',
        fieldsV1: {
          'f:metadata': { 'f:labels': { 'f:a': {} }, 'f:ownerReferences': { [`k:{"uid":"${uid}"}`]: {} } },
          'f:spec': { 'f:replicas': {}, 'f:template': { 'f:spec': {} } },
        },
      },
      { manager: 'other', operation: 'Update' },
    ],
  },
});

describe('fields of managers', () => {
  it('stay what they are and are held once', () => {
    const [a, b] = [shareFields(child('a', '1')), shareFields(child('b', '2'))];
    expect(a).toEqual(child('a', '1'));
    expect(b).toEqual(child('b', '2'));
    const specOf = ({ metadata }: KubeObject) =>
      Object.entries(metadata.managedFields?.[0]?.fieldsV1 ?? {}).find(([key]) => key === 'f:spec')?.[1];
    expect(specOf(a)).toBe(specOf(b));
    const bare: KubeObject = { apiVersion: 'v1', kind: 'Service', metadata: { name: 'c' } };
    expect(shareFields(bare)).toBe(bare);
  });
});
