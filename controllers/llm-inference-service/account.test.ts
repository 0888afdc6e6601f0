import { describe, expect, it } from '@jest/globals';
import type { Manifest } from '../../src/kube/object.ts';
import { leaveAccount } from './account.ts';

const deployment = (serviceAccountName?: string, kind = 'Deployment'): Manifest => ({
  apiVersion: 'apps/v1',
  kind,
  metadata: { name: 'chat-kserve' },
  spec: { replicas: 1, template: { spec: { containers: [], ...(serviceAccountName ? { serviceAccountName } : {}) } } },
});

describe('the account of pods', () => {
  it.each([
    ['stays away where there was none', deployment(), deployment(), deployment()],
    ['is named where there is nothing yet', deployment('a'), undefined, deployment('a')],
    ['is another', deployment('b'), deployment('a'), deployment('b')],
    ['is the default one when they leave theirs', deployment(), deployment('a'), deployment('default')],
    ['is left out once it is the default one', deployment(), deployment('default'), deployment()],
    ['is not touched in other kinds', deployment(undefined, 'X'), deployment('a', 'X'), deployment(undefined, 'X')],
  ])('%s', (_, desired, live, expected) => {
    expect(leaveAccount(desired, live)).toEqual(expected);
  });
});
