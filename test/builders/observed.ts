import type { Gateway, HTTPRoute } from '../../src/api/foreign/gateway-api.ts';
import type { InferencePool } from '../../src/api/foreign/inference-pool.ts';
import type { LLMInferenceService } from '../../src/api/v1alpha2/llm-inference-service.ts';
import type { DeploymentState, Observed, Surroundings } from '../../src/plan/observed.ts';
import { render } from '../../src/render/render.ts';
import { platform } from './service.ts';

export const condition = (type: string, status = 'True', more: object = {}) => ({ type, status, ...more });

export const gateway = (parts: { readonly status?: object; readonly listeners?: object } = {}): Gateway =>
  ({
    apiVersion: 'gateway.networking.k8s.io/v1',
    kind: 'Gateway',
    metadata: { name: 'signalbox-gateway', namespace: 'signalbox-system' },
    spec: { gatewayClassName: 'envoy', listeners: parts.listeners ?? [{ name: 'http', port: 80, protocol: 'HTTP' }] },
    status: parts.status ?? {
      addresses: [{ value: '203.0.113.7' }],
      conditions: [condition('Accepted'), condition('Programmed')],
    },
  }) as Gateway;

export const surroundings = (parts: Partial<Surroundings> = {}): Surroundings => ({
  served: { gatewayApi: true, pool: true, xPool: true, leaderWorkerSet: true, scaledObject: true, deviceClaims: true },
  gateway: { name: 'signalbox-gateway', namespace: 'signalbox-system', className: 'envoy', live: gateway() },
  acceptedClasses: ['envoy'],
  configuredClass: '',
  urlScheme: 'http',
  modelHeader: 'X-Gateway-Model-Name',
  hasPrometheus: true,
  ...parts,
});

export const parentRef = {
  group: 'gateway.networking.k8s.io',
  kind: 'Gateway',
  name: 'signalbox-gateway',
  namespace: 'signalbox-system',
};

/** A Deployment whose controller is done with it. */
export const readyDeployment = (name: string, replicas: number): DeploymentState => ({
  apiVersion: 'apps/v1',
  kind: 'Deployment',
  metadata: { name, generation: 1 },
  spec: { replicas },
  status: {
    observedGeneration: 1,
    replicas,
    updatedReplicas: replicas,
    readyReplicas: replicas,
    availableReplicas: replicas,
    conditions: [condition('Available'), condition('Progressing')],
  },
});

/** A service with everything in order; `parts` breaks it. */
export function observe(service: LLMInferenceService, parts: Partial<Observed> = {}): Observed {
  const manifests = render({ service, effective: service.spec, platform: platform() });
  const route = manifests.find(({ kind }) => kind === 'HTTPRoute');
  const pool = manifests.find(({ kind }) => kind === 'InferencePool');
  return {
    service,
    effective: service.spec,
    surroundings: surroundings(),
    desired: manifests,
    deployment: (name) => readyDeployment(name, 1),
    leaderWorkerSet: () => undefined,
    autoscaler: () => undefined,
    pods: () => [],
    gatewayOf: () => gateway(),
    route:
      route &&
      ({
        ...route,
        metadata: { ...route.metadata, generation: 1 },
        status: {
          parents: [
            {
              parentRef,
              controllerName: 'x',
              conditions: [
                condition('Accepted', 'True', { observedGeneration: 1 }),
                condition('ResolvedRefs', 'True', { observedGeneration: 1 }),
              ],
            },
          ],
        },
      } as unknown as HTTPRoute),
    pool:
      pool &&
      ({
        ...pool,
        metadata: { ...pool.metadata, generation: 1 },
        status: { parents: [{ parentRef, conditions: [condition('Accepted', 'True', { observedGeneration: 1 })] }] },
      } as unknown as InferencePool),
    xPool: undefined,
    ...parts,
  };
}
