import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { annotations, sidecarContainer, sidecarInjectionLabel } from '../../src/api/labels.ts';
import type { LLMInferenceService } from '../../src/api/v1alpha2/llm-inference-service.ts';
import { systemClock } from '../../src/clock.ts';
import type { Client } from '../../src/kube/client.ts';
import { loadKubeConfig } from '../../src/kube/config.ts';
import type { KubeObject, Manifest } from '../../src/kube/object.ts';
import { resourceOf, resources } from '../../src/kube/resources.ts';
import { createClient } from '../../src/kube/rest-client.ts';
import type { ControlPlane } from '../../src/local/control-plane.ts';
import { applyManifests, parseManifests } from '../../src/local/install.ts';
import { createAuthority, issueCertificate } from '../../src/pki.ts';
import { type AdmissionServer, startAdmissionServer } from '../../src/runtime/admission-server.ts';
import { silentLogger } from '../../src/telemetry/log.ts';
import { createWebhooks } from '../../webhooks/index.ts';
import { renderWebhookConfigurations } from '../../webhooks/registration.ts';
import { eventually } from '../expect/eventually.ts';
import { root, startTestControlPlane } from './control-plane.ts';

/** The real API server with our definitions, and our webhooks called by it at a URL. */

const namespace = 'team';
let plane: ControlPlane;
let client: Client;
let server: AdmissionServer;

/** Definitions that lie in a folder, as they are generated. */
const definitions = (folder: string): readonly Manifest[] =>
  readdirSync(join(root, folder))
    .filter((name) => name.endsWith('.yaml'))
    .flatMap((name) => parseManifests(readFileSync(join(root, folder, name), 'utf8'), name));

beforeAll(async () => {
  plane = await startTestControlPlane();
  client = createClient(await loadKubeConfig({ path: plane.kubeconfigPath }), { log: silentLogger });
  await applyManifests(client, [...definitions('crds'), ...definitions('src/local/crds')], {
    fieldManager: 'test',
    clock: systemClock,
  });
  await client.create(resources.namespaces, { apiVersion: 'v1', kind: 'Namespace', metadata: { name: namespace } });
  // No controller makes it here, and pods need it.
  await client.create(resources.serviceAccounts, {
    apiVersion: 'v1',
    kind: 'ServiceAccount',
    metadata: { name: 'default', namespace },
  });

  const notBefore = new Date(Date.now() - 60_000);
  const notAfter = new Date(Date.now() + 3_600_000);
  const authority = await createAuthority({ commonName: 'test', notBefore, notAfter });
  const certificate = await issueCertificate(authority, {
    commonName: 'webhooks',
    ipAddresses: ['127.0.0.1'],
    usage: 'server',
    notBefore,
    notAfter,
  });
  server = await startAdmissionServer(
    {
      host: '127.0.0.1',
      port: 0,
      certificate,
      routes: createWebhooks({
        sidecar: { image: 'signalbox/sidecar:0.1.0', sessionCacheSize: 1000 },
        presets: { systemNamespace: 'signalbox-system', configPrefix: 'kserve-', preventsDeletion: true },
      }),
    },
    { log: silentLogger },
  );
  const target = { url: `https://127.0.0.1:${server.port}` };
  const registered = renderWebhookConfigurations({ name: 'signalbox', target, caBundle: authority.certificate });
  await applyManifests(client, registered, { fieldManager: 'test', clock: systemClock });
  await awaitWebhooks();
}, 600_000);

afterAll(async () => {
  await client?.close();
  await server?.close();
  await plane?.stop();
}, 60_000);

/** The API server takes up a configuration a moment after it is stored. */
async function awaitWebhooks(): Promise<void> {
  await eventually(async () => {
    const defaulted = await dryRun(service('probe')).catch(() => undefined);
    const refused = await dryRun(service('probe', { model: { uri: 'ftp://host/model' } })).then(
      () => false,
      () => true,
    );
    expect([defaulted?.spec.model.name, refused]).toEqual(['probe', true]);
  }, 60_000);
}

const service = (name: string, spec: object = {}, metadata: object = {}): Manifest => ({
  apiVersion: 'serving.kserve.io/v1alpha2',
  kind: 'LLMInferenceService',
  metadata: { name, namespace, ...metadata },
  spec: { model: { uri: 'hf://Qwen/Qwen3-8B' }, ...spec },
});

/** What the API server would store. */
function dryRun<T extends KubeObject = LLMInferenceService>(object: Manifest): Promise<T> {
  const resource = resourceOf(object);
  if (!resource) throw new Error(`${object.kind} is not in the list of resources`);
  return client.apply<T>(resource, object, { fieldManager: 'test', force: true, dryRun: true });
}

const refusal = (object: Manifest): Promise<string> =>
  dryRun(object).then(
    () => 'accepted',
    (thrown: Error) => thrown.message,
  );

describe('a service', () => {
  it('gets its defaults', async () => {
    const stored = await dryRun(
      service('chat', { template: {}, prefill: { template: { containers: null } }, router: { scheduler: {} } }),
    );
    expect(stored.spec).toEqual({
      model: { uri: 'hf://Qwen/Qwen3-8B', name: 'chat' },
      template: { containers: [] },
      prefill: { template: { containers: [] } },
      router: { scheduler: {} },
    });
  });

  it('keeps what a pod template says', async () => {
    const template = {
      containers: [{ name: 'main', args: ['--x'], resources: { limits: { a: '1' } } }],
      nodeSelector: { a: '1' },
    };
    const config = {
      inline: {
        apiVersion: 'llm-d.ai/v1alpha1',
        kind: 'EndpointPickerConfig',
        plugins: [{ type: 'queue-scorer', parameters: { deep: { er: true } } }],
      },
    };
    const stored = await dryRun(service('chat', { template, router: { scheduler: { config, template } } }));
    expect(stored.spec.template).toEqual(template);
    expect(stored.spec.router?.scheduler).toEqual({ config, template });
  });

  it('keeps a route, with fields of a later Gateway API', async () => {
    const http = {
      spec: {
        rules: [
          {
            name: 'all',
            matches: [{ path: { type: 'PathPrefix', value: '/' } }],
            filters: [{ type: 'CORS', cors: { allowOrigins: ['*'] } }],
            backendRefs: [{ name: 'x', port: 8000, weight: 1 }],
            timeouts: { request: '0s' },
            retry: { attempts: 2 },
          },
        ],
      },
    };
    const stored = await dryRun(service('chat', { router: { route: { http } } }));
    expect(stored.spec.router?.route?.http).toEqual(http);
  });

  const keda = { triggers: [{ type: 'cron' }] };
  it.each<[what: string, spec: object, path: string, words: string]>([
    // Refused by the webhook, with the path of each field.
    ['another storage', { model: { uri: 'ftp://host/model' } }, 'spec.model.uri', 'unsupported schema in model URI'],
    ['no model', { model: { uri: 'Qwen' } }, 'spec.model.uri', 'unsupported schema in model URI'],
    [
      'LoRA',
      { model: { uri: 'hf://a/b', lora: { adapters: [{ name: '..', uri: 'hf://a/b' }] } } },
      'spec.model.lora.adapters[0].name',
      'path traversal risk',
    ],
    ['several nodes', { worker: {} }, 'spec.worker', 'parallelism must be configured'],
    [
      'data parallelism',
      { prefill: { parallelism: { data: 2, dataLocal: 1 } } },
      'spec.prefill.parallelism.data',
      'needs 2 pods a replica',
    ],
    [
      'two ways of scaling',
      { scaling: { maxReplicas: 2, keda }, prefill: { scaling: { maxReplicas: 2, wva: { hpa: {} } } } },
      'spec.prefill.scaling',
      'must use the same scaling mode',
    ],
    [
      'a picker config of another kind',
      { router: { scheduler: { config: { inline: { kind: 'Pod' } } } } },
      'spec.router.scheduler.config.inline.kind',
      'invalid',
    ],
    [
      'an empty picker config',
      { router: { scheduler: { config: {} } } },
      'spec.router.scheduler.config',
      'either inline or ref is required',
    ],
    [
      'no way to roll',
      { rolloutStrategy: { maxSurge: 0, maxUnavailable: 0 } },
      'spec.rolloutStrategy',
      'cannot both be zero',
    ],

    // Refused by the definition: required, bounds, patterns, enums.
    ['no URI', { model: {} }, 'spec.model.uri', 'Required value'],
    ['an empty URI', { model: { uri: '' } }, 'spec.model.uri', 'at least 1 chars'],
    ['negative replicas', { replicas: -1 }, 'spec.replicas', 'greater than or equal to 0'],
    ['no GPU', { parallelism: { tensor: 0 } }, 'spec.parallelism.tensor', 'greater than or equal to 1'],
    [
      'a port too high',
      { parallelism: { dataRPCPort: 70_000 } },
      'spec.parallelism.dataRPCPort',
      'less than or equal to 65535',
    ],
    ['a bad group', { router: { route: { group: 'A' } } }, 'spec.router.route.group', 'should match'],
    [
      'too much weight',
      { router: { route: { group: 'a', weight: 1_000_001 } } },
      'spec.router.route.weight',
      'less than or equal to 1000000',
    ],
    [
      'no picker replicas',
      { router: { scheduler: { replicas: 0 } } },
      'spec.router.scheduler.replicas',
      'greater than or equal to 1',
    ],
    [
      'an unknown eviction policy',
      { kvCacheOffloading: { cpu: '1Gi', evictionPolicy: 'mru' } },
      'spec.kvCacheOffloading.evictionPolicy',
      'Unsupported value',
    ],
    ['a quantity that is none', { kvCacheOffloading: { cpu: 'much' } }, 'spec.kvCacheOffloading.cpu', 'should match'],
    ['a list where a map belongs', { template: [] }, 'spec.template', 'expected map'],
    ['a text where a number belongs', { replicas: 'two' }, 'spec.replicas', 'expected'],

    // Refused by a CEL rule.
    [
      'replicas and scaling',
      { replicas: 1, scaling: { maxReplicas: 2, keda } },
      'spec',
      'scaling and replicas are mutually exclusive',
    ],
    [
      'the same of prefill',
      { prefill: { replicas: 1, scaling: { maxReplicas: 2, keda } } },
      'spec.prefill',
      'scaling and replicas are mutually exclusive',
    ],
    [
      'two ways to scale',
      { scaling: { maxReplicas: 2, keda, wva: { hpa: {} } } },
      'spec.scaling',
      'wva and keda are mutually exclusive',
    ],
    ['no way to scale', { scaling: { maxReplicas: 2 } }, 'spec.scaling', 'either wva or keda must be specified'],
    [
      'fewest above most',
      { scaling: { minReplicas: 3, maxReplicas: 2, keda } },
      'spec.scaling',
      'minReplicas cannot exceed maxReplicas',
    ],
    [
      'no trigger',
      { scaling: { maxReplicas: 2, keda: { triggers: [] } } },
      'spec.scaling.keda.triggers',
      'at least 1 items',
    ],
    [
      'idle without fewest',
      { scaling: { maxReplicas: 2, keda: { ...keda, idleReplicaCount: 0 } } },
      'spec.scaling',
      'minReplicas is required when idleReplicaCount is set',
    ],
    [
      'idle above fewest',
      { scaling: { minReplicas: 1, maxReplicas: 2, wva: { keda: { idleReplicaCount: 1 } } } },
      'spec.scaling',
      'idleReplicaCount must be less than minReplicas',
    ],
    [
      'two actuators',
      { scaling: { maxReplicas: 2, wva: { hpa: {}, keda: {} } } },
      'spec.scaling.wva',
      'hpa and keda are mutually exclusive',
    ],
    [
      'no actuator',
      { scaling: { maxReplicas: 2, wva: {} } },
      'spec.scaling.wva',
      'either hpa or keda must be specified',
    ],
    [
      'a cost that is none',
      { scaling: { maxReplicas: 2, wva: { hpa: {}, variantCost: 'x' } } },
      'spec.scaling.wva.variantCost',
      'should match',
    ],
    [
      'a modifier, given alone',
      { scaling: { maxReplicas: 2, wva: { keda: { advanced: { scalingModifiers: { formula: 'a' } } } } } },
      'spec.scaling.wva',
      'scalingModifiers must not be set',
    ],
    [
      'a name for the autoscaler',
      { scaling: { maxReplicas: 2, keda: { ...keda, advanced: { horizontalPodAutoscalerConfig: { name: 'x' } } } } },
      'spec.scaling.keda.advanced',
      'horizontalPodAutoscalerConfig.name must not be set',
    ],
    [
      'a picker without port',
      { router: { scheduler: { pool: { spec: { endpointPickerRef: { name: 'x' } } } } } },
      'spec.router.scheduler.pool.spec.endpointPickerRef',
      "port is required when kind is 'Service'",
    ],
    [
      'a port twice',
      { router: { scheduler: { pool: { spec: { targetPorts: [{ number: 1 }, { number: 1 }] } } } } },
      'spec.router.scheduler.pool.spec.targetPorts',
      'port number must be unique',
    ],
  ])('is refused for %s, with the path', async (_, spec, path, words) => {
    const message = await refusal(service('chat', spec));
    expect(message).toContain(path);
    expect(message).toContain(words);
  });

  it('may set parts of the advanced scaling that no rule forbids', async () => {
    const advanced = {
      restoreToOriginalReplicaCount: true,
      horizontalPodAutoscalerConfig: { behavior: { scaleDown: {} } },
    };
    const message = await refusal(
      service('chat', { model: { uri: 'ftp://host/model' }, scaling: { maxReplicas: 2, wva: { keda: { advanced } } } }),
    );
    // Only the webhook speaks: the definition's own rules have let it pass.
    expect(message).toContain('spec.model.uri');
    expect(message).not.toContain('spec.scaling');
    expect(message).not.toContain('no such key');
  });

  it('is told everything at once', async () => {
    const message = await refusal(
      service('chat', { model: { uri: 'ftp://host/model' }, worker: {}, prefill: { worker: {} } }),
    );
    for (const path of ['spec.worker: ', 'spec.prefill.worker: ', 'spec.model.uri: ']) expect(message).toContain(path);
  });

  it('is refused for a name that no Service can have', async () => {
    expect(await refusal(service('7b.chat'))).toContain('metadata.name: "7b.chat" cannot name Services');
  });

  it('is stored, shown and deleted, finalizer and all, though a rule is stricter by then', async () => {
    const ref = { name: 'stays', namespace };
    const kind = resources.llmInferenceServices;
    const patch = (value: object) => client.mergePatch<LLMInferenceService>(kind, ref, value);
    await client.create(kind, service('stays', {}, { finalizers: ['example.com/wait'] }));
    await client.mergePatch(
      kind,
      ref,
      { status: { url: 'http://x', conditions: [{ type: 'Ready', status: 'False', reason: 'Waiting' }] } },
      { subresource: 'status' },
    );
    const table = await client.request<{ readonly columnDefinitions: readonly { readonly name: string }[] }>(
      'GET',
      `/apis/serving.kserve.io/v1alpha2/namespaces/${namespace}/llminferenceservices/stays`,
    );
    expect(table).toMatchObject({ status: { url: 'http://x' }, spec: { model: { name: 'stays' } } });
    await expect(patch({ spec: { worker: {} } })).rejects.toThrow('spec.worker');
    expect((await patch({ metadata: { labels: { a: 'b' } } })).metadata.labels).toEqual({ a: 'b' });
    await client.delete(kind, ref);
    await patch({ metadata: { finalizers: null } });
    expect(await client.get(kind, ref)).toBeUndefined();
  });

  it.each(readdirSync(join(root, 'config', 'samples')).filter((name) => name.endsWith('.yaml')))(
    'of the samples is accepted: %s',
    async (file) => {
      const path = join(root, 'config', 'samples', file);
      const samples = parseManifests(readFileSync(path, 'utf8'), path).filter(({ spec }) => spec !== undefined);
      expect(samples.length).toBeGreaterThan(0);
      for (const sample of samples) {
        const stored = await dryRun<Manifest>({ ...sample, metadata: { ...sample.metadata, namespace } });
        expect(stored.spec).toMatchObject(sample.spec as object);
      }
    },
  );
});

describe('a base configuration', () => {
  const config = (spec: object): Manifest => ({ ...service('base'), kind: 'LLMInferenceServiceConfig', spec });

  it('may hold a part of anything, and template expressions', async () => {
    const spec = {
      scaling: { wva: {} },
      kvCacheOffloading: {},
      router: {
        route: { http: { spec: { rules: [{ backendRefs: [{ name: '{{ ChildName .ObjectMeta.Name `-x` }}' }] }] } } },
      },
    };
    expect((await dryRun<Manifest>(config(spec))).spec).toEqual(spec);
  });

  it('may not have bases', async () => {
    expect(await refusal(config({ baseRefs: [{ name: 'x' }] }))).toContain('baseRefs is not a permitted field');
  });
});

describe('a pod', () => {
  const settings = {
    port: 8000,
    decoderPort: 8001,
    prefillUrl: 'http://chat-kserve-prefill-svc.team.svc.cluster.local:8000',
    connector: 'nixlv2',
    poolNamespace: namespace,
    poolName: 'chat-inference-pool',
  };
  interface Pod extends Manifest {
    readonly spec: { readonly initContainers?: readonly { readonly name: string; readonly restartPolicy?: string }[] };
  }
  const pod = (name: string, labels: object, initContainers: readonly object[] = []): Manifest => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name,
      namespace,
      labels: labels as Record<string, string>,
      annotations: { [annotations.sidecar]: JSON.stringify(settings) },
    },
    spec: { containers: [{ name: 'main', image: 'vllm/vllm-openai:v0.11.0' }], initContainers },
  });
  const asks = { [sidecarInjectionLabel]: 'true' };

  it('that asks for the sidecar gets it, first and once', async () => {
    const created = await client.create<Pod>(resources.pods, pod('decode', asks, [{ name: 'warm', image: 'x' }]));
    expect(created.spec.initContainers?.map(({ name }) => name)).toEqual([sidecarContainer, 'warm']);
    expect(created.spec.initContainers?.[0]?.restartPolicy).toBe('Always');
    const changed = await client.mergePatch<Pod>(
      resources.pods,
      { name: 'decode', namespace },
      { metadata: { labels: { more: 'labels' } } },
    );
    expect(changed.spec.initContainers).toHaveLength(2);
  });

  it('that brings its own keeps it', async () => {
    const mine = { name: sidecarContainer, image: 'mine', restartPolicy: 'Always' };
    const created = await dryRun<Pod>(pod('own', asks, [mine]));
    expect(created.spec.initContainers).toMatchObject([mine]);
  });

  it('that asks without settings is refused with the annotation', async () => {
    const bare = pod('bare', asks);
    expect(await refusal({ ...bare, metadata: { ...bare.metadata, annotations: {} } })).toContain(annotations.sidecar);
  });

  it('that does not ask never waits for us', async () => {
    await server.close();
    const created = await dryRun<Pod>(pod('plain', { app: 'x' }));
    expect(created.spec.initContainers ?? []).toEqual([]);
    expect(await refusal(pod('asking', asks))).toContain('sidecar.pod.signalbox.io');
  });
});
