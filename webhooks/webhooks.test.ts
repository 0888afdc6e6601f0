import { describe, expect, it } from '@jest/globals';
import jsonPatch from 'fast-json-patch';
import { llmInferenceServiceConfigCrd, llmInferenceServiceCrd } from '../src/api/crds.ts';
import { annotations, sidecarContainer, sidecarInjectionLabel } from '../src/api/labels.ts';
import type { AdmissionRequest, AdmissionResponse } from '../src/kube/admission.ts';
import { conversions, createWebhooks } from './index.ts';
import { registrations, renderWebhookConfigurations, type WebhookRegistration } from './registration.ts';

const sidecar = { image: 'signalbox/sidecar:0.1.0', sessionCacheSize: 1000 };
const presets = { systemNamespace: 'signalbox-system', configPrefix: 'kserve-', preventsDeletion: true };
const webhooks = createWebhooks({ sidecar, presets });

/** An object of a test need not be a whole one. */
type Question = Omit<Partial<AdmissionRequest>, 'object' | 'oldObject'> & {
  readonly object?: object;
  readonly oldObject?: object;
};

async function ask(path: string, request: Question): Promise<AdmissionResponse> {
  const handler = webhooks.get(path);
  if (!handler) throw new Error(`no handler at ${path}`);
  return handler({ uid: 'u', operation: 'CREATE', kind: serviceKind, ...request } as AdmissionRequest);
}

/** The object as the API server would store it. */
function patched(object: object, response: AdmissionResponse): unknown {
  if (response.patch === undefined) return object;
  const operations = JSON.parse(Buffer.from(response.patch, 'base64').toString()) as jsonPatch.Operation[];
  return jsonPatch.applyPatch(structuredClone(object), operations).newDocument;
}

const serviceKind = { group: 'serving.kserve.io', version: 'v1alpha2', kind: 'LLMInferenceService' };
const configKind = { ...serviceKind, kind: 'LLMInferenceServiceConfig' };
const podKind = { group: '', version: 'v1', kind: 'Pod' };
const service = (spec: object) => ({ metadata: { name: 'chat', namespace: 'team' }, spec });

const settings = {
  port: 8000,
  decoderPort: 8001,
  prefillUrl: 'http://chat-kserve-prefill-svc.team.svc.cluster.local:8000',
  connector: 'nixlv2',
  poolNamespace: 'team',
  poolName: 'chat-inference-pool',
};
const pod = (initContainers: readonly object[] = [], text: string | undefined = JSON.stringify(settings)) => ({
  metadata: {
    generateName: 'chat-kserve-',
    labels: { [sidecarInjectionLabel]: 'true' },
    annotations: text === undefined ? {} : { [annotations.sidecar]: text },
  },
  spec: { initContainers, containers: [{ name: 'main', image: 'vllm/vllm-openai:v0.11.0' }] },
});

describe('the service webhooks', () => {
  const { path: mutate } = registrations.defaultService;
  const { path: validate } = registrations.validateService;

  it('fill in defaults', async () => {
    const object = service({ model: { uri: 'hf://a/b' }, template: {} });
    const response = await ask(mutate, { object });
    expect(response).toMatchObject({ uid: 'u', allowed: true, patchType: 'JSONPatch' });
    expect(patched(object, response)).toEqual(
      service({ model: { uri: 'hf://a/b', name: 'chat' }, template: { containers: [] } }),
    );
  });

  it('write no patch where nothing changes', async () => {
    const response = await ask(mutate, { object: service({ model: { uri: 'hf://a/b', name: 'x' } }) });
    expect(response).toEqual({ uid: 'u', allowed: true });
  });

  it('refuse with every path at once', async () => {
    const response = await ask(validate, { object: service({ model: { uri: 'ftp://b' }, worker: {} }) });
    expect(response).toMatchObject({ allowed: false, status: { code: 422 } });
    expect(response.status?.message).toMatch(/^spec\.model\.uri: .*; spec\.worker: .*parallelism must be configured/);
  });

  it('look at the old object of an update', async () => {
    const object = service({ model: { uri: 'ftp://b' } });
    expect(await ask(validate, { operation: 'UPDATE', object, oldObject: object })).toMatchObject({ allowed: true });
    expect(await ask(validate, { operation: 'UPDATE', object, oldObject: service({}) })).toMatchObject({
      allowed: false,
    });
  });

  it('pass warnings on', async () => {
    const object = service({
      model: { uri: 'hf://a/b' },
      parallelism: { tensor: 2 },
      template: { containers: [{ name: 'main', command: ['x'], resources: { limits: { 'nvidia.com/gpu': '1' } } }] },
    });
    const response = await ask(validate, { object });
    expect(response.allowed).toBe(true);
    expect(response.warnings).toEqual([expect.stringContaining('needs 2 GPUs')]);
  });
});

describe('the base configuration webhook', () => {
  it('refuses bases of bases and templates that cannot be read', async () => {
    const { path } = registrations.validateServiceConfig;
    const refused = await ask(path, { kind: configKind, object: service({ baseRefs: [{ name: 'x' }] }) });
    expect(refused).toMatchObject({ allowed: false, status: { message: expect.stringContaining('spec.baseRefs') } });
    const spec = (text: string) => service({ template: { containers: [{ name: 'main', args: [text] }] } });
    const broken = await ask(path, { kind: configKind, object: spec('{{ .Spec.Model.Name') });
    expect(broken.status?.message).toContain('spec.template.containers[0].args[0]: line 1: unclosed action');
    const stored = await ask(path, { kind: configKind, object: spec('{{ ChildName .Name `-x` }}') });
    expect(stored).toEqual({ uid: 'u', allowed: true });
  });

  it.each<[string, string, string, boolean]>([
    ['warns when a preset of the system namespace changes', 'signalbox-system', 'kserve-config-llm-template', true],
    ['says nothing of one in another namespace', 'team', 'kserve-config-llm-template', false],
    ['says nothing of another configuration there', 'signalbox-system', 'kserve-config-llm-mine', false],
  ])('%s', async (_, namespace, name, warns) => {
    const { path } = registrations.validateServiceConfig;
    const [oldObject, object] = [1, 2].map((replicas) => ({ metadata: { name, namespace }, spec: { replicas } }));
    const answer = await ask(path, {
      kind: configKind,
      operation: 'UPDATE',
      object: object ?? {},
      oldObject: oldObject ?? {},
    });
    expect(answer).toEqual({
      uid: 'u',
      allowed: true,
      ...(warns ? { warnings: [expect.stringContaining('modifying well-known config')] } : {}),
    });
  });

  it.each<[string, string, string, string, boolean]>([
    ['refuses to delete a preset by hand', 'signalbox-system', 'kserve-config-llm-template', 'alice', false],
    [
      'lets a preset go with its namespace',
      'signalbox-system',
      'kserve-config-llm-template',
      'system:serviceaccount:kube-system:namespace-controller',
      true,
    ],
    ['lets go what is no preset', 'signalbox-system', 'mine', 'alice', true],
    ['lets go what is in another namespace', 'team', 'kserve-config-llm-template', 'alice', true],
  ])('%s', async (_, namespace, name, username, allowed) => {
    const oldObject = { metadata: { name, namespace }, spec: {} };
    const question = { kind: configKind, operation: 'DELETE', name, namespace, userInfo: { username } } as const;
    const answer = await ask(registrations.protectPresets.path, { ...question, oldObject });
    expect(answer).toMatchObject({ uid: 'u', allowed });
    expect(answer.patch).toBeUndefined();
  });
});

describe('the pod webhook', () => {
  const { path } = registrations.injectSidecar;

  it('puts the sidecar before the other init containers, once', async () => {
    const object = pod([{ name: 'first' }]);
    const response = await ask(path, { kind: podKind, object });
    const injected = patched(object, response) as ReturnType<typeof pod>;
    expect(injected.spec.initContainers).toMatchObject([
      { name: sidecarContainer, image: sidecar.image, restartPolicy: 'Always' },
      { name: 'first' },
    ]);
    expect(await ask(path, { kind: podKind, object: injected })).toEqual({ uid: 'u', allowed: true });
  });

  it('leaves a pod alone that brings its own sidecar', async () => {
    const response = await ask(path, { kind: podKind, object: pod([{ name: sidecarContainer, image: 'mine' }]) });
    expect(response).toEqual({ uid: 'u', allowed: true });
  });

  it.each<[string, Question]>([
    ['does not ask', { object: { ...pod(), metadata: { labels: {} } } }],
    ['is updated', { operation: 'UPDATE', object: pod() }],
    ['is another kind', { kind: { group: '', version: 'v1', kind: 'Service' }, object: pod() }],
  ])('leaves a pod alone that %s', async (_, request) => {
    expect(await ask(path, { kind: podKind, ...request })).toEqual({ uid: 'u', allowed: true });
  });

  it.each<[string, string | undefined, string]>([
    ['no settings', undefined, `metadata.annotations[${annotations.sidecar}]: missing`],
    ['settings that are not JSON', '{', 'not JSON'],
    ['settings without a Service of prefill pods', '{}', 'prefillUrl'],
  ])('refuses a pod with %s', async (_, text, message) => {
    const object =
      text === undefined ? { ...pod(), metadata: { labels: { [sidecarInjectionLabel]: 'true' } } } : pod([], text);
    await expect(ask(path, { kind: podKind, object })).rejects.toMatchObject({
      code: 'invalid',
      message: expect.stringContaining(message),
    });
  });
});

describe('the conversion webhook', () => {
  it('is where the definitions say, and converts every object of a request', () => {
    for (const crd of [llmInferenceServiceCrd(), llmInferenceServiceConfigCrd()]) {
      const conversion = crd.spec.conversion as { webhook: { clientConfig: { service: { path: string } } } };
      expect([...conversions.keys()]).toEqual([conversion.webhook.clientConfig.service.path]);
    }
    const [convert] = conversions.values();
    const objects = ['LLMInferenceService', 'LLMInferenceServiceConfig'].map((kind) => ({
      apiVersion: 'serving.kserve.io/v1alpha1',
      kind,
      metadata: { name: 'chat' },
      spec: { model: { uri: 'hf://a/b', criticality: 'Critical' } },
    }));
    expect(convert?.({ uid: 'u', desiredAPIVersion: 'serving.kserve.io/v1alpha2', objects })).toEqual(
      objects.map((each) => ({
        ...each,
        apiVersion: 'serving.kserve.io/v1alpha2',
        metadata: { name: 'chat', annotations: { [annotations.modelCriticality]: 'Critical' } },
        spec: { model: { uri: 'hf://a/b' } },
      })),
    );
  });
});

describe('renderWebhookConfigurations', () => {
  it('registers exactly the paths that are answered', () => {
    const all: readonly WebhookRegistration[] = Object.values(registrations);
    expect([...webhooks.keys()].sort()).toEqual(all.map(({ path }) => path).sort());
  });

  it('calls a Service', () => {
    const target = { service: { name: 'signalbox-webhook', namespace: 'signalbox-system', port: 443 } };
    const [mutating, validating] = renderWebhookConfigurations({ name: 'signalbox', target, labels: { a: 'b' } });
    expect(mutating).toMatchObject({
      apiVersion: 'admissionregistration.k8s.io/v1',
      kind: 'MutatingWebhookConfiguration',
      metadata: { name: 'signalbox', labels: { a: 'b' } },
      webhooks: [
        {
          name: 'default.llminferenceservice.signalbox.io',
          clientConfig: { service: { ...target.service, path: registrations.defaultService.path } },
          failurePolicy: 'Fail',
        },
        {
          name: 'sidecar.pod.signalbox.io',
          objectSelector: { matchLabels: { [sidecarInjectionLabel]: 'true' } },
          rules: [{ apiGroups: [''], apiVersions: ['v1'], operations: ['CREATE'], resources: ['pods'] }],
          reinvocationPolicy: 'IfNeeded',
        },
      ],
    });
    expect((validating.webhooks as readonly { readonly name: string }[]).map(({ name }) => name)).toEqual([
      'validate.llminferenceservice.signalbox.io',
      'validate.llminferenceserviceconfig.signalbox.io',
      'protect.llminferenceserviceconfig.signalbox.io',
    ]);
  });

  it('calls a URL, with the authority to trust', () => {
    const [, validating] = renderWebhookConfigurations({
      name: 'signalbox',
      target: { url: 'https://127.0.0.1:9443' },
      caBundle: 'PEM',
    });
    expect(validating.webhooks).toMatchObject([
      { clientConfig: { url: `https://127.0.0.1:9443${registrations.validateService.path}`, caBundle: 'UEVN' } },
      {},
      { failurePolicy: 'Ignore' },
    ]);
  });
});
