import { describe, expect, it } from '@jest/globals';
import type { KubeObject } from './object.ts';
import { ownedPart } from './owned.ts';

const own = { '.': {}, 'f:name': {} };
const fields = {
  'f:spec': {
    'f:template': {
      'f:metadata': { 'f:labels': { 'f:a': {} } },
      'f:spec': {
        'f:containers': {
          'k:{"name":"main"}': {
            ...own,
            'f:args': {},
            'f:env': { 'k:{"name":"A"}': { ...own, 'f:value': {} } },
            'f:ports': { 'k:{"containerPort":80,"protocol":"TCP"}': { '.': {}, 'f:containerPort': {} } },
          },
        },
        'f:volumes': { 'k:{"name":"home"}': { ...own, 'f:emptyDir': {} } },
        'f:gone': {},
      },
    },
    'f:tags': { 'v:"red"': {} },
  },
};
const live = {
  apiVersion: 'apps/v1',
  kind: 'Deployment',
  metadata: {
    name: 'chat',
    managedFields: [
      { manager: 'signalbox', operation: 'Apply', subresource: 'status', fieldsV1: {} },
      { manager: 'signalbox', operation: 'Apply', fieldsV1: fields },
    ],
  },
  spec: {
    replicas: 3,
    tags: ['blue', 'red'],
    template: {
      metadata: { labels: { a: '1', theirs: '2' } },
      spec: {
        dnsPolicy: 'ClusterFirst',
        containers: [
          { name: 'theirs', image: 'x' },
          {
            name: 'main',
            imagePullPolicy: 'Always',
            args: ['--a', 'b'],
            env: [
              { name: 'THEIRS', value: '1' },
              { name: 'A', value: '2' },
            ],
            ports: [{ containerPort: 80, protocol: 'TCP', hostPort: 80 }],
          },
        ],
        volumes: [{ name: 'home', emptyDir: {} }],
      },
    },
  },
} as unknown as KubeObject;

describe('ownedPart', () => {
  it('holds what the manager applied, with the values of now, and nothing of others', () =>
    expect(ownedPart(live, 'signalbox', ['spec', 'template'])).toEqual({
      metadata: { labels: { a: '1' } },
      spec: {
        containers: [
          {
            name: 'main',
            args: ['--a', 'b'],
            env: [{ name: 'A', value: '2' }],
            ports: [{ containerPort: 80, protocol: 'TCP' }],
          },
        ],
        volumes: [{ name: 'home', emptyDir: {} }],
      },
    }));

  it.each<[string, readonly string[], unknown]>([
    ['values of a set', ['spec', 'tags'], ['red']],
    ['nothing where nothing is owned', ['spec', 'replicas'], undefined],
    ['nothing where nothing is there', ['spec', 'template', 'spec', 'gone'], undefined],
  ])('holds %s', (_, path, expected) => expect(ownedPart(live, 'signalbox', path)).toEqual(expected));

  it('is nothing of a manager that applied nothing', () =>
    expect(ownedPart(live, 'other', ['spec', 'template'])).toBeUndefined());
});
