import { describe, expect, it } from '@jest/globals';
import type { HTTPRoute } from '../api/foreign/gateway-api.ts';
import { choosePoolApi } from './pool-api.ts';

const v1 = 'inference.networking.k8s.io';
const x = 'inference.networking.x-k8s.io';
const resolved = (status: string, reason: string, observedGeneration = 2) => ({
  parentRef: { name: 'g' },
  controllerName: 'c',
  conditions: [{ type: 'ResolvedRefs', status, reason, observedGeneration }],
});
const route = (group: string, ...parents: readonly object[]): HTTPRoute =>
  ({
    metadata: { name: 'r', generation: 2 },
    spec: {
      rules: [{ backendRefs: [{ name: 's' }] }, { backendRefs: [{ group, kind: 'InferencePool', name: 'p' }] }],
    },
    ...(parents.length > 0 ? { status: { parents } } : {}),
  }) as unknown as HTTPRoute;
const works = resolved('True', 'ResolvedRefs');
const unknown = resolved('False', 'InvalidKind');

describe('the API in which routes lead to a pool', () => {
  it.each<[string, HTTPRoute | undefined, HTTPRoute | undefined, string, boolean]>([
    ['is the newest at first', undefined, undefined, v1, false],
    ['stays where nobody has looked', route(v1), undefined, v1, false],
    ['stays where it works', route(v1, works), undefined, v1, false],
    ['stays where something else is wrong', route(v1, resolved('False', 'BackendNotFound')), undefined, v1, false],
    ['is the older where a gateway knows no other', route(v1, works, unknown), undefined, x, true],
    ['stays the older while that works', route(x, works), undefined, x, true],
    ['stays the older while nobody has answered the probe', route(x, works), route(v1), x, true],
    ['stays the older where the probe fails', route(x, works), route(v1, unknown), x, true],
    ['stays the older on an old answer', route(x, works), route(v1, resolved('True', 'ResolvedRefs', 1)), x, true],
    ['stays the older until all have answered', route(x, works, works), route(v1, works), x, true],
    ['moves once the probe works', route(x, works), route(v1, works), v1, false],
    ['moves at once where nobody serves the route', route(x), undefined, v1, false],
  ])('%s', (_what, live, probe, group, isProbing) => expect(choosePoolApi(live, probe)).toEqual({ group, isProbing }));
});
