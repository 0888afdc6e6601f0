import type { LLMInferenceService, LLMInferenceServiceSpec } from '../../src/api/v1alpha2/llm-inference-service.ts';
import type { Platform } from '../../src/render/input.ts';

interface Parts {
  readonly name?: string;
  readonly namespace?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly generation?: number;
  readonly spec?: Partial<LLMInferenceServiceSpec>;
  readonly status?: LLMInferenceService['status'];
}

/** A service called `chat` in `default`, with what matters to the test changed. */
export function llmService(parts: Parts = {}): LLMInferenceService {
  return {
    apiVersion: 'serving.kserve.io/v1alpha2',
    kind: 'LLMInferenceService',
    metadata: {
      name: parts.name ?? 'chat',
      namespace: parts.namespace ?? 'default',
      uid: '00000000-0000-4000-8000-000000000001',
      generation: parts.generation ?? 1,
      ...(parts.labels ? { labels: parts.labels } : {}),
      ...(parts.annotations ? { annotations: parts.annotations } : {}),
    },
    spec: { model: { uri: 'hf://Qwen/Qwen2.5-7B-Instruct', name: 'chat' }, ...parts.spec },
    ...(parts.status ? { status: parts.status } : {}),
  };
}

/** Gateway, route and picker as the operator makes them. */
export const fullRouter = { gateway: {}, route: {}, scheduler: {} } as const;

/** A prefill/decode service: 2 + 1 pods of one GPU each. */
export function prefillDecodeService(parts: Parts = {}): LLMInferenceService {
  const template = {
    containers: [{ name: 'main', resources: { limits: { 'nvidia.com/gpu': '1' } } }],
  };
  return llmService({
    ...parts,
    spec: { replicas: 2, template, prefill: { replicas: 1, template }, router: fullRouter, ...parts.spec },
  });
}

/** A cluster that serves everything and has no Gateway yet. */
export function platform(parts: Partial<Platform> = {}): Platform {
  return {
    images: { vllm: 'vllm/vllm-openai:v0.11.0', epp: 'signalbox/epp:0.1.0', sidecar: 'signalbox/sidecar:0.1.0' },
    sidecarSessions: 1000,
    served: {
      gatewayApi: true,
      pool: true,
      xPool: true,
      leaderWorkerSet: true,
      scaledObject: true,
      backendTlsPolicy: true,
      podMonitor: true,
      deviceClaims: true,
    },
    gateway: { name: 'signalbox-gateway', namespace: 'signalbox-system', port: 80, className: 'envoy' },
    routing: {
      modelHeader: 'X-Gateway-Model-Name',
      modelMode: 'enabled',
      isModelRefused: false,
      omitsTimeouts: false,
      needsUniqueNames: false,
    },
    imagePullSecrets: [],
    storage: {
      initializerImage: 'kserve/storage-initializer:v0.17.0',
      huggingFace: 'engine',
      ociMode: 'modelcar',
      accounts: {},
    },
    ...parts,
  };
}
