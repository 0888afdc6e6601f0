import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { operatorSettings } from '../../controllers/config.ts';
import { type ControllerConfig, startControllers } from '../../controllers/index.ts';
import { clusterRules, namespaceRules } from '../../controllers/permissions.ts';
import type { PodSpec } from '../../src/api/foreign/pod.ts';
import type { LLMInferenceService, LLMInferenceServiceSpec } from '../../src/api/v1alpha2/llm-inference-service.ts';
import { systemClock } from '../../src/clock.ts';
import type { Client } from '../../src/kube/client.ts';
import { loadKubeConfig } from '../../src/kube/config.ts';
import type { KubeObject, Manifest } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { createClient } from '../../src/kube/rest-client.ts';
import type { ControlPlane } from '../../src/local/control-plane.ts';
import { findGatewayApiCrds } from '../../src/local/gateway/crds.ts';
import { applyManifests, parseManifests } from '../../src/local/install.ts';
import { startManager } from '../../src/runtime/manager.ts';
import { createLogger } from '../../src/telemetry/log.ts';
import { fullRouter, llmService } from '../builders/service.ts';
import { eventually } from '../expect/eventually.ts';
import { localEnvironment, root, startTestControlPlane } from './control-plane.ts';

/** One release of the operator after another, and after KServe's controller, with the controllers of Kubernetes making pods. */

const namespace = 'default';
const system = 'signalbox-system';
const log = createLogger({ name: 'test', level: 'fatal' });
// Operators start and stop in one test.
jest.setTimeout(60_000);

let plane: ControlPlane;
let admin: Client;
let connection: Parameters<typeof createClient>[0];
let running: Operator | undefined;

interface Operator {
  readonly events: { readonly name: string; readonly reason: string; readonly message: string }[];
  readonly sent: () => number;
  close(): Promise<void>;
}

/** The operator of a release, in place of the one before. */
async function startRelease(config: Partial<ControllerConfig>): Promise<Operator> {
  await running?.close();
  const client = createClient(connection, { log });
  const events: Operator['events'] = [];
  const defaults = Object.fromEntries(
    Object.entries(operatorSettings).map(([name, setting]) => [name, setting.default]),
  ) as unknown as ControllerConfig;
  const set = await startControllers(
    { ...defaults, systemNamespace: system, ...config },
    {
      client,
      log,
      events: {
        record: (object: KubeObject, _type, reason, message) =>
          void events.push({ name: object.metadata.name, reason, message }),
      },
    },
  );
  const manager = startManager({ ...set }, { client, log });
  await manager.started;
  const { sent } = client;
  running = {
    events,
    sent: () => (sent.POST ?? 0) + (sent.PUT ?? 0) + (sent.PATCH ?? 0) + (sent.DELETE ?? 0),
    close: async () => {
      await manager.close();
      await client.close();
    },
  };
  return running;
}

const apply = (...manifests: readonly Manifest[]) =>
  applyManifests(admin, manifests, { fieldManager: 'test', clock: systemClock });

const definitions = (...path: readonly string[]) => {
  const file = join(root, ...path);
  return parseManifests(readFileSync(file, 'utf8'), file);
};

const rbacGroup = 'rbac.authorization.k8s.io';
const account = { kind: 'ServiceAccount', name: 'signalbox-operator', namespace: system };
const rbac = (scope: 'Cluster' | '', rules: readonly unknown[]): readonly Manifest[] => {
  const metadata = scope === '' ? { name: account.name, namespace: system } : { name: account.name };
  const roleRef = { apiGroup: rbacGroup, kind: `${scope}Role`, name: account.name };
  return [
    { apiVersion: `${rbacGroup}/v1`, kind: `${scope}Role`, metadata, rules },
    { apiVersion: `${rbacGroup}/v1`, kind: `${scope}RoleBinding`, metadata, roleRef, subjects: [account] },
  ];
};

beforeAll(async () => {
  plane = await startTestControlPlane({ serviceNetwork: '127.213', controllers: true });
  const settings = await loadKubeConfig({ path: plane.kubeconfigPath });
  admin = createClient(settings, { log });
  const run = promisify(execFile);
  const gatewayApi = await findGatewayApiCrds({
    cacheDir: localEnvironment.cacheDir,
    run: async (command, args) => (await run(command, [...args])).stdout,
  });
  await apply(
    ...definitions('crds', 'serving.kserve.io_llminferenceservices.yaml'),
    ...definitions('crds', 'serving.kserve.io_llminferenceserviceconfigs.yaml'),
    ...gatewayApi.flatMap((path) => parseManifests(readFileSync(path, 'utf8'), path)),
    ...definitions('src', 'local', 'crds', 'inference.networking.k8s.io_inferencepools.yaml'),
    ...[system, 'kserve'].map((name): Manifest => ({ apiVersion: 'v1', kind: 'Namespace', metadata: { name } })),
    { apiVersion: 'v1', kind: account.kind, metadata: { name: account.name, namespace: system } },
    ...rbac('Cluster', clusterRules('signalbox')),
    ...rbac('', namespaceRules),
  );
  const answer = await admin.request<{ readonly status: { readonly token: string } }>(
    'POST',
    `/api/v1/namespaces/${system}/serviceaccounts/${account.name}/token`,
    { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: { expirationSeconds: 3600 } },
  );
  const { cert: _cert, key: _key, ...tls } = settings.tls;
  connection = { ...settings, tls, authorization: async () => `Bearer ${answer.status.token}` };
}, 600_000);

afterAll(async () => {
  await running?.close();
  await admin?.close();
  await plane?.stop();
}, 60_000);

const service = (name: string, spec: Partial<LLMInferenceServiceSpec>, annotations = {}): Manifest => {
  const { metadata, ...rest } = llmService({ name, spec, annotations });
  const { uid: _uid, generation: _generation, ...own } = metadata;
  return { ...rest, metadata: own } as unknown as Manifest;
};

interface Deployment extends KubeObject {
  readonly spec: {
    readonly replicas?: number;
    readonly strategy?: object;
    readonly selector: { readonly matchLabels: Readonly<Record<string, string>> };
    readonly template: {
      readonly metadata: { readonly labels: Readonly<Record<string, string>> };
      readonly spec: PodSpec;
    };
  };
}

async function deploymentOf(name: string): Promise<Deployment> {
  const found = await admin.get<Deployment>(resources.deployments, { namespace, name });
  if (!found) throw new Error(`no Deployment ${name}`);
  return found;
}

const mainOf = async (name: string) => (await deploymentOf(name)).spec.template.spec.containers[0];

/** Uids of a service's pods, of every part of it. */
async function podsOf(name: string, count: number): Promise<readonly string[]> {
  return eventually(async () => {
    const { items } = await admin.list<KubeObject>(resources.pods, {
      namespace,
      labelSelector: `app.kubernetes.io/name=${name}`,
    });
    const uids = items.filter(({ metadata }) => !metadata.deletionTimestamp).map(({ metadata }) => metadata.uid ?? '');
    expect(uids).toHaveLength(count);
    return uids.sort();
  });
}

const serviceOf = async (name: string) =>
  admin.get<LLMInferenceService & KubeObject>(resources.llmInferenceServices, { namespace, name });

const presetsCombined = async (name: string) =>
  (await serviceOf(name))?.status?.conditions?.find(({ type }) => type === 'PresetsCombined');

describe('an upgrade of the operator', () => {
  const old = { release: '1.0.0', vllmImage: 'vllm/vllm-openai:v1', eppImage: 'epp:1', sidecarImage: 'sidecar:1' };
  const now = { release: '2.0.0', vllmImage: 'vllm/vllm-openai:v2', eppImage: 'epp:2', sidecarImage: 'sidecar:2' };
  const preset = (release: string, level: string): Manifest => ({
    apiVersion: 'serving.kserve.io/v1alpha2',
    kind: 'LLMInferenceServiceConfig',
    metadata: {
      name: 'kserve-config-llm-decode-template',
      namespace: system,
      labels: { 'signalbox.io/preset-release': release },
    },
    spec: { template: { containers: [{ name: 'main', env: [{ name: 'LEVEL', value: level }] }] } },
  });
  const spec = { replicas: 2, prefill: { replicas: 1 }, router: fullRouter };
  const levelOf = async (name: string) =>
    (await mainOf(name))?.env?.find((variable) => variable.name === 'LEVEL')?.value;
  let before: readonly string[];

  it('changes no pod of a service, neither for new images nor for new presets', async () => {
    await apply(preset('1.0.0', 'one'));
    await startRelease(old);
    await apply(service('chat', spec));
    before = await podsOf('chat', 4);
    const templates = await Promise.all(
      ['chat-kserve', 'chat-kserve-prefill', 'chat-kserve-router-scheduler'].map(async (name) => {
        const { metadata, spec: own } = await deploymentOf(name);
        return { uid: metadata.uid, template: own.template };
      }),
    );
    expect((await mainOf('chat-kserve'))?.image).toBe(old.vllmImage);
    // The chart brings its presets while the old operator still runs.
    await apply(preset('2.0.0', 'two'));
    await eventually(async () =>
      expect((await presetsCombined('chat'))?.message).toMatch(/Deployment chat-kserve stays? at release 1\.0\.0-/),
    );
    await startRelease(now);
    await eventually(async () =>
      expect((await presetsCombined('chat'))?.message).toMatch(
        /Deployment chat-kserve, Deployment chat-kserve-prefill, .*scheduler stay at release 1\.0\.0-.*moves them to 2\.0\.0-/,
      ),
    );
    await apply(service('fresh', spec));
    await eventually(async () => expect((await mainOf('fresh-kserve'))?.image).toBe(now.vllmImage));
    expect(await levelOf('fresh-kserve')).toBe('two');
    for (const [i, name] of ['chat-kserve', 'chat-kserve-prefill', 'chat-kserve-router-scheduler'].entries()) {
      const { metadata, spec: own } = await deploymentOf(name);
      expect({ uid: metadata.uid, template: own.template }).toEqual(templates[i]);
    }
    expect(await podsOf('chat', 4)).toEqual(before);
    expect((await serviceOf('chat'))?.status?.annotations).toEqual({
      'signalbox.io/release': expect.stringMatching(/^1\.0\.0-/),
    });
  });

  it('asks nothing more of a service that stays behind', async () => {
    const operator = await startRelease(now);
    await apply(service('marker', {}));
    await eventually(() => deploymentOf('marker-kserve'));
    const reconciledAt = operator.sent();
    await apply(service('marker', { replicas: 2 }));
    await eventually(async () => expect((await deploymentOf('marker-kserve')).spec.replicas).toBe(2));
    expect(operator.events.filter(({ name }) => name === 'chat')).toEqual([]);
    expect(operator.sent() - reconciledAt).toBeLessThan(10);
    expect(await podsOf('chat', 4)).toEqual(before);
  });

  it('keeps the pods of before when their number changes', async () => {
    await apply(service('chat', { ...spec, replicas: 3 }));
    const after = await podsOf('chat', 5);
    expect(after).toEqual(expect.arrayContaining([...before]));
    expect((await mainOf('chat-kserve'))?.image).toBe(old.vllmImage);
  });

  it('comes with an annotation of the service, and with a change of its pods', async () => {
    await apply(service('chat', { ...spec, replicas: 3 }, { 'signalbox.io/release': '2.0.0' }));
    await eventually(async () => {
      expect((await mainOf('chat-kserve'))?.image).toBe(now.vllmImage);
      expect((await mainOf('chat-kserve-prefill'))?.image).toBe(now.vllmImage);
      expect((await mainOf('chat-kserve-router-scheduler'))?.image).toBe(now.eppImage);
      expect(await levelOf('chat-kserve')).toBe('two');
      expect((await presetsCombined('chat'))?.message).toBeUndefined();
      expect((await serviceOf('chat'))?.status?.annotations?.['signalbox.io/release']).toMatch(/^2\.0\.0-/);
    });
    await startRelease({ ...now, release: '3.0.0', vllmImage: 'vllm/vllm-openai:v3' });
    await apply(service('fresh', { ...spec, labels: { team: 'red' } }));
    await eventually(async () => expect((await mainOf('fresh-kserve'))?.image).toBe('vllm/vllm-openai:v3'));
    expect((await mainOf('chat-kserve'))?.image).toBe(now.vllmImage);
    await apply(service('chat', { ...spec, replicas: 3 }, { 'signalbox.io/release': 'latest' }));
    await eventually(async () => expect((await mainOf('chat-kserve'))?.image).toBe('vllm/vllm-openai:v3'));
  });
});

describe('taking over from KServe', () => {
  const name = 'legacy';
  const kserve = (replicas: number): Manifest => ({
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: { name: 'llmisvc-controller-manager', namespace: 'kserve' },
    spec: {
      replicas,
      selector: { matchLabels: { app: 'llmisvc' } },
      template: {
        metadata: { labels: { app: 'llmisvc' } },
        spec: { containers: [{ name: 'manager', image: 'kserve/llmisvc-controller:v0.20.0' }] },
      },
    },
  });
  const common = { 'app.kubernetes.io/name': name, 'app.kubernetes.io/part-of': 'llminferenceservice' };

  /** As KServe's controller makes objects: plain writes by a manager of its own, with its owner reference. */
  async function createAsKServe(
    path: string,
    kind: string,
    uid: string,
    manifest: { readonly metadata: object; readonly spec: object },
  ) {
    const owner = {
      apiVersion: 'serving.kserve.io/v1alpha2',
      kind: 'LLMInferenceService',
      name,
      uid,
      controller: true,
      blockOwnerDeletion: true,
    };
    await admin.request('POST', `${path}?fieldManager=manager`, {
      apiVersion: path.startsWith('/apis/apps') ? 'apps/v1' : 'v1',
      kind,
      ...manifest,
      metadata: { namespace, ...manifest.metadata, ownerReferences: [owner] },
    });
  }

  it('waits while its controller runs, and says so', async () => {
    await running?.close();
    running = undefined;
    const manifest = service(name, { replicas: 2 });
    await apply(kserve(1), {
      ...manifest,
      metadata: { ...manifest.metadata, finalizers: ['serving.kserve.io/llmisvc-finalizer'] },
    });
    const uid = (await serviceOf(name))?.metadata.uid ?? '';
    const podLabels = {
      ...common,
      'app.kubernetes.io/component': 'llminferenceservice-workload',
      'kserve.io/component': 'workload',
      'llm-d.ai/role': 'both',
    };
    await createAsKServe(`/apis/apps/v1/namespaces/${namespace}/deployments`, 'Deployment', uid, {
      metadata: { name: `${name}-kserve`, labels: podLabels },
      spec: {
        replicas: 2,
        selector: { matchLabels: podLabels },
        template: {
          metadata: { labels: podLabels },
          spec: {
            initContainers: [{ name: 'storage-initializer', image: 'kserve/storage-initializer:v0.20.0' }],
            containers: [
              {
                name: 'main',
                image: 'llm-d/llm-d-cuda:v0.9.0',
                command: ['/bin/bash', '-c', 'exec vllm serve /mnt/models', '--'],
                env: [{ name: 'VLLM_LOGGING_LEVEL', value: 'INFO' }],
              },
            ],
            volumes: [{ name: 'tls-certs', secret: { secretName: `${name}-kserve-self-signed-certs` } }],
          },
        },
      },
    });
    await createAsKServe(`/api/v1/namespaces/${namespace}/services`, 'Service', uid, {
      metadata: {
        name: `${name}-kserve-workload-svc`,
        labels: { ...common, 'app.kubernetes.io/component': 'llminferenceservice-workload' },
      },
      spec: {
        selector: { ...common, 'kserve.io/component': 'workload' },
        ports: [{ name: 'https', port: 8000, targetPort: 8000 }],
      },
    });
    await admin.request('POST', `/apis/${rbacGroup}/v1/clusterrolebindings`, {
      apiVersion: `${rbacGroup}/v1`,
      kind: 'ClusterRoleBinding',
      metadata: { name: `${namespace}-${name}-epp-auth-rb`, labels: common },
      roleRef: { apiGroup: rbacGroup, kind: 'ClusterRole', name: 'system:auth-delegator' },
      subjects: [{ kind: 'ServiceAccount', name: `${name}-epp-sa`, namespace }],
    });
    const operator = await startRelease({});
    await eventually(async () =>
      expect(operator.events).toContainEqual({
        name,
        reason: 'WaitingForKServe',
        message: expect.stringContaining('Deployment kserve/llmisvc-controller-manager'),
      }),
    );
    expect(operator.sent()).toBe(0);
  });

  it('adopts what it left: same objects, same selectors, nothing left over', async () => {
    const old = await deploymentOf(`${name}-kserve`);
    const oldService = await admin.get<KubeObject>(resources.services, {
      namespace,
      name: `${name}-kserve-workload-svc`,
    });
    await apply(kserve(0));
    const adopted = await eventually(async () => {
      const found = await deploymentOf(`${name}-kserve`);
      expect(found.spec.template.spec.containers[0]?.image).toBe(operatorSettings.vllmImage.default);
      return found;
    });
    expect(adopted.metadata.uid).toBe(old.metadata.uid);
    expect(adopted.spec.selector).toEqual(old.spec.selector);
    expect(adopted.spec.template.metadata.labels).toMatchObject(old.spec.selector.matchLabels);
    expect(adopted.spec.replicas).toBe(2);
    // One old pod at most goes before a new one is ready.
    expect(adopted.spec.strategy).toEqual({
      type: 'RollingUpdate',
      rollingUpdate: { maxUnavailable: '25%', maxSurge: '25%' },
    });
    expect(adopted.spec.template.spec.initContainers).toBeUndefined();
    expect(adopted.spec.template.spec.containers[0]?.command).toEqual(['vllm', 'serve']);
    expect(adopted.spec.template.spec.volumes?.map((volume) => volume.name)).not.toContain('tls-certs');
    const managers = (object: KubeObject | undefined) =>
      (object?.metadata.managedFields ?? [])
        .filter(({ subresource }) => subresource === undefined)
        .map(({ manager, operation }) => `${manager} ${operation}`);
    expect(managers(adopted)).not.toContain('manager Update');
    await eventually(async () => {
      const found = await admin.get<KubeObject & { readonly spec: { readonly ports: readonly object[] } }>(
        resources.services,
        { namespace, name: `${name}-kserve-workload-svc` },
      );
      expect(found?.metadata.uid).toBe(oldService?.metadata.uid);
      expect(managers(found)).toEqual(['signalbox Apply']);
      expect(found?.spec.ports).toHaveLength(1);
    });
    await eventually(async () => expect((await serviceOf(name))?.metadata.finalizers).toBeUndefined());
    expect(
      await admin.get(resources.clusterRoleBindings, { name: `${namespace}-${name}-epp-auth-rb` }),
    ).toBeUndefined();
  });

  it('lets a service go that KServe held', async () => {
    await admin.delete(resources.llmInferenceServices, { namespace, name });
    await eventually(async () => expect(await serviceOf(name)).toBeUndefined());
  });
});
