import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { operatorSettings, version } from '../../controllers/config.ts';
import { startControllers } from '../../controllers/index.ts';
import { clusterRules, namespaceRules } from '../../controllers/permissions.ts';
import type { Container } from '../../src/api/foreign/pod.ts';
import type { LLMInferenceService, LLMInferenceServiceSpec } from '../../src/api/v1alpha2/llm-inference-service.ts';
import type { LLMInferenceServiceConfig } from '../../src/api/v1alpha2/llm-inference-service-config.ts';
import { systemClock } from '../../src/clock.ts';
import type { Client } from '../../src/kube/client.ts';
import { loadKubeConfig } from '../../src/kube/config.ts';
import type { KubeObject, Manifest } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { createClient } from '../../src/kube/rest-client.ts';
import type { ControlPlane } from '../../src/local/control-plane.ts';
import { applyManifests, parseManifests } from '../../src/local/install.ts';
import { presetReleaseOf, shippedPresets } from '../../src/render/shipped-presets.ts';
import { type Manager, startManager } from '../../src/runtime/manager.ts';
import { createLogger } from '../../src/telemetry/log.ts';
import { llmService } from '../builders/service.ts';
import { eventually } from '../expect/eventually.ts';
import { root, startTestControlPlane } from './control-plane.ts';

/** Base configurations against a real API server, with the permissions of the chart. */

const namespace = 'default';
const system = 'signalbox-system';
const log = createLogger({ name: 'test', level: 'fatal' });

let plane: ControlPlane;
let admin: Client;
let client: Client;
let manager: Manager;
let reconciles = 0;
const events: { readonly name: string; readonly reason: string; readonly message: string }[] = [];

const group = 'rbac.authorization.k8s.io';
const account = { kind: 'ServiceAccount', name: 'signalbox-operator', namespace: system };
const rbac = (scope: 'Cluster' | '', rules: readonly unknown[]): readonly Manifest[] => {
  const metadata = scope === '' ? { name: account.name, namespace: system } : { name: account.name };
  const apiVersion = `${group}/v1`;
  return [
    { apiVersion, kind: `${scope}Role`, metadata, rules },
    {
      apiVersion,
      kind: `${scope}RoleBinding`,
      metadata,
      roleRef: { apiGroup: group, kind: `${scope}Role`, name: account.name },
      subjects: [account],
    },
  ];
};

const apply = (...manifests: readonly Manifest[]) =>
  applyManifests(admin, manifests, { fieldManager: 'test', clock: systemClock });

const definitions = (kind: string) => {
  const file = join(root, 'crds', `serving.kserve.io_${kind}.yaml`);
  return parseManifests(readFileSync(file, 'utf8'), file);
};

beforeAll(async () => {
  plane = await startTestControlPlane({ serviceNetwork: '127.206' });
  const settings = await loadKubeConfig({ path: plane.kubeconfigPath });
  admin = createClient(settings, { log });
  await apply(
    ...definitions('llminferenceservices'),
    ...definitions('llminferenceserviceconfigs'),
    { apiVersion: 'v1', kind: 'Namespace', metadata: { name: system } },
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
  client = createClient({ ...settings, tls, authorization: async () => `Bearer ${answer.status.token}` }, { log });
  manager = await startOperator();
}, 600_000);

async function startOperator(settings: Partial<Parameters<typeof startControllers>[0]> = {}): Promise<Manager> {
  const defaults = Object.fromEntries(
    Object.entries(operatorSettings).map(([name, setting]) => [name, setting.default]),
  ) as unknown as Parameters<typeof startControllers>[0];
  const set = await startControllers(
    { ...defaults, systemNamespace: system, ...settings },
    {
      client,
      log,
      events: {
        record: (object: KubeObject, _type, reason, message) =>
          void events.push({ name: object.metadata.name, reason, message }),
      },
    },
  );
  const metrics = {
    reconciled: (controller: string) => {
      if (controller === 'llm-inference-service') reconciles++;
    },
    observeQueue: () => {},
  };
  const started = startManager({ ...set }, { client, log, metrics });
  await started.started;
  return started;
}

afterAll(async () => {
  await manager?.close();
  await client?.close();
  await admin?.close();
  await plane?.stop();
}, 60_000);

const service = (name: string, spec: Partial<LLMInferenceServiceSpec>): Manifest => {
  const { metadata, ...rest } = llmService({ name, spec });
  const { uid: _uid, generation: _generation, ...own } = metadata;
  return { ...rest, metadata: own } as unknown as Manifest;
};

const config = (name: string, spec: object, inNamespace = namespace): Manifest => ({
  apiVersion: 'serving.kserve.io/v1alpha2',
  kind: 'LLMInferenceServiceConfig',
  metadata: { name, namespace: inNamespace },
  spec,
});

interface Deployment extends KubeObject {
  readonly spec: {
    readonly replicas?: number;
    readonly template: {
      readonly metadata: { readonly labels: Readonly<Record<string, string>> };
      readonly spec: { readonly containers: readonly Container[] };
    };
  };
}

const deploymentOf = async (name: string) => {
  const found = await admin.get<Deployment>(resources.deployments, { namespace, name: `${name}-kserve` });
  if (!found) throw new Error(`no Deployment of ${name}`);
  return found;
};

const statusOf = async (name: string) =>
  (await admin.get<LLMInferenceService & KubeObject>(resources.llmInferenceServices, { namespace, name }))?.status;

const presetsCombined = async (name: string) =>
  (await statusOf(name))?.conditions?.find(({ type }) => type === 'PresetsCombined');

describe('base configurations', () => {
  it('are missing until they are made', async () => {
    await apply(service('waiting', { baseRefs: [{ name: 'late' }] }));
    await eventually(async () =>
      expect(await presetsCombined('waiting')).toMatchObject({
        status: 'False',
        reason: 'ConfigNotFound',
        message: expect.stringContaining('late in default nor in signalbox-system'),
      }),
    );
    await expect(deploymentOf('waiting')).rejects.toThrow('no Deployment');
    await apply(config('late', { replicas: 3 }));
    await eventually(async () => expect((await deploymentOf('waiting')).spec.replicas).toBe(3));
    await eventually(async () => {
      expect(await presetsCombined('waiting')).toMatchObject({ status: 'True' });
      expect((await statusOf('waiting'))?.appliedConfigs).toEqual([{ name: 'late', namespace, source: 'UserRef' }]);
    });
  });

  it('wake their services when they change, and only theirs', async () => {
    await apply(service('other', {}));
    await eventually(() => deploymentOf('other'));
    await settle();
    const before = reconciles;
    await apply(config('unrelated', { replicas: 9 }));
    await settle();
    expect(reconciles).toBe(before);
    await apply(config('late', { replicas: 4 }));
    await eventually(async () => expect((await deploymentOf('waiting')).spec.replicas).toBe(4));
    await settle();
    expect(reconciles - before).toBeLessThanOrEqual(3);
  });

  it('keep children as they are when they go', async () => {
    await admin.delete(resources.llmInferenceServiceConfigs, { namespace, name: 'late' });
    // Somebody does not wait for its user.
    await admin.mergePatch(
      resources.llmInferenceServiceConfigs,
      { namespace, name: 'late' },
      { metadata: { finalizers: null } },
    );
    await eventually(async () => expect(await presetsCombined('waiting')).toMatchObject({ reason: 'ConfigNotFound' }));
    expect((await deploymentOf('waiting')).spec.replicas).toBe(4);
  });

  it('are rendered: presets of the system namespace, those of the own namespace first', async () => {
    const args = ['--label', '{{ .Spec.Labels.team }}', '{{ ChildName .ObjectMeta.Name `-x` }}'];
    const template = (image: string) => ({ template: { containers: [{ name: 'main', image, args }] } });
    await apply(config('kserve-config-llm-template', template('example.org/vllm:system'), system));
    await apply(service('preset', { labels: { team: 'red' } }));
    const mainOf = async () => (await deploymentOf('preset')).spec.template.spec.containers[0];
    await eventually(async () => {
      const main = await mainOf();
      expect(main?.image).toBe('example.org/vllm:system');
      expect(main?.args?.slice(-3)).toEqual(['--label', 'red', 'preset-x']);
    });
    await apply(config('kserve-config-llm-template', template('example.org/vllm:own')));
    await eventually(async () => expect((await mainOf())?.image).toBe('example.org/vllm:own'));
    await eventually(async () =>
      expect((await statusOf('preset'))?.appliedConfigs).toEqual([
        { name: 'kserve-config-llm-template', namespace, source: 'Preset' },
      ]),
    );
    for (const at of [namespace, system])
      await admin.delete(resources.llmInferenceServiceConfigs, { namespace: at, name: 'kserve-config-llm-template' });
    await eventually(async () => expect((await mainOf())?.image).toBe(operatorSettings.vllmImage.default));
  });

  it('say which field of which configuration does not fit', async () => {
    await apply(
      config('standstill', { rolloutStrategy: { maxUnavailable: 0, maxSurge: 0 } }),
      config('broken', { labels: { a: '{{ .Spec.Nothing }}' } }),
    );
    await apply(service('refused', { baseRefs: [{ name: 'standstill' }] }));
    await eventually(async () =>
      expect(await presetsCombined('refused')).toMatchObject({
        status: 'False',
        reason: 'InvalidRenderedConfig',
        message: expect.stringMatching(/spec\.rolloutStrategy: .*cannot both be zero.*default\/standstill/),
      }),
    );
    await apply(service('unrendered', { baseRefs: [{ name: 'broken' }] }));
    await eventually(async () =>
      expect((await presetsCombined('unrendered'))?.message).toMatch(
        /spec\.labels\.a: line 1: .*Nothing.*default\/broken/,
      ),
    );
  });
});

describe('a base configuration in use', () => {
  const configOf = (name: string, inNamespace = namespace) =>
    admin.get<LLMInferenceServiceConfig & KubeObject>(resources.llmInferenceServiceConfigs, {
      namespace: inNamespace,
      name,
    });
  const inUse = async (name: string, inNamespace = namespace) => {
    const found = await configOf(name, inNamespace);
    const condition = found?.status?.conditions?.find(({ type }) => type === 'ConfigInUse');
    return {
      reason: condition?.reason,
      users: found?.status?.referencedBy ?? [],
      finalizers: found?.metadata.finalizers,
    };
  };
  const unused = { reason: 'NotInUse', users: [], finalizers: undefined };
  const finalizers = ['serving.kserve.io/llmisvcconfig-finalizer'];

  it('says by whom, and is held by a finalizer only then', async () => {
    await apply(config('shared', { replicas: 2 }), config('shared', { replicas: 3 }, system));
    await eventually(async () => expect(await inUse('shared')).toEqual(unused));
    await apply(
      service('user-b', { baseRefs: [{ name: 'shared' }] }),
      service('user-a', { baseRefs: [{ name: 'shared' }] }),
    );
    const users = ['user-a', 'user-b'].map((name) => ({ name, namespace }));
    await eventually(async () => expect(await inUse('shared')).toEqual({ reason: 'InUse', users, finalizers }));
    // That of the own namespace goes before that of the system namespace.
    expect(await inUse('shared', system)).toEqual(unused);
  });

  it('waits for its users when it is deleted, and says so once', async () => {
    await admin.delete(resources.llmInferenceServiceConfigs, { namespace, name: 'shared' });
    await eventually(async () => expect((await inUse('shared')).reason).toBe('DeletionBlocked'));
    await eventually(async () => expect((await deploymentOf('user-a')).spec.replicas).toBe(2));
    await apply(service('user-b', {}));
    await eventually(async () => expect((await inUse('shared')).users).toEqual([{ name: 'user-a', namespace }]));
    const told = events.filter(({ name, reason }) => name === 'shared' && reason === 'DeletionBlocked');
    expect(told).toHaveLength(1);
    expect(told[0]?.message).toContain('default/user-a');
    await admin.delete(resources.llmInferenceServices, { namespace, name: 'user-a' });
    await eventually(async () => expect(await configOf('shared')).toBeUndefined());
  });

  it('is a preset without a finalizer, for it goes with the installation', async () => {
    await apply(config('kserve-config-llm-template', { labels: { a: 'b' } }, system), service('of-preset', {}));
    await eventually(async () => {
      const { reason, users, finalizers: held } = await inUse('kserve-config-llm-template', system);
      expect({ reason, held }).toEqual({ reason: 'InUse', held: undefined });
      expect(users).toContainEqual({ name: 'of-preset', namespace });
    });
    await admin.delete(resources.llmInferenceServiceConfigs, { namespace: system, name: 'kserve-config-llm-template' });
    await eventually(async () => expect(await configOf('kserve-config-llm-template', system)).toBeUndefined());
  });

  it('goes with its namespace', async () => {
    const going = 'going';
    await apply({ apiVersion: 'v1', kind: 'Namespace', metadata: { name: going } });
    const user = service('user', { baseRefs: [{ name: 'base' }] });
    await apply(config('base', {}, going), { ...user, metadata: { ...user.metadata, namespace: going } });
    await eventually(async () => expect((await inUse('base', going)).finalizers).toEqual(finalizers));
    await admin.delete(resources.namespaces, { name: going });
    // No controller of namespaces runs here: its part is played by hand.
    await admin.delete(resources.llmInferenceServiceConfigs, { namespace: going, name: 'base' });
    await eventually(async () => expect(await configOf('base', going)).toBeUndefined());
  });
});

describe('a base configuration', () => {
  const readyOf = async (name: string) => {
    const found = await admin.get<LLMInferenceServiceConfig & KubeObject>(resources.llmInferenceServiceConfigs, {
      namespace,
      name,
    });
    return found?.status?.conditions?.find(({ type }) => type === 'Ready');
  };

  it('is Ready when services can be laid over it, and says why not', async () => {
    await apply(config('judged', { labels: { a: '{{ .Spec.Nothing }}' } }));
    await eventually(async () =>
      expect(await readyOf('judged')).toMatchObject({
        status: 'False',
        reason: 'InvalidRenderedConfig',
        message: expect.stringContaining('Nothing'),
        observedGeneration: 1,
      }),
    );
    await apply(config('judged', { labels: { a: '{{ .Spec.Model.Name }}' } }));
    await eventually(async () =>
      expect(await readyOf('judged')).toMatchObject({ status: 'True', observedGeneration: 2 }),
    );
    expect((await readyOf('judged'))?.reason).toBeUndefined();
  });
});

describe('the presets that ship', () => {
  const presetOf = (suffix: string) =>
    admin.get<LLMInferenceServiceConfig & KubeObject>(resources.llmInferenceServiceConfigs, {
      namespace: system,
      name: `kserve-config-llm-${suffix}`,
    });
  const older = (suffix: string, spec: object): Manifest => {
    const { metadata, ...rest } = config(`kserve-config-llm-${suffix}`, spec, system);
    return { ...rest, metadata: { ...metadata, labels: { 'signalbox.io/preset-release': '0.0.1-00000000' } } };
  };
  const pool = (failureMode: string) => ({
    router: {
      scheduler: {
        pool: { spec: { endpointPickerRef: { name: '{{ ChildName .ObjectMeta.Name `-epp-service` }}', failureMode } } },
      },
    },
  });
  const configs = resources.llmInferenceServiceConfigs;
  const current = presetReleaseOf(version);
  const releaseOf = async (suffix: string) =>
    (await presetOf(suffix))?.metadata.labels?.['signalbox.io/preset-release'];

  it('are put into the system namespace, and change no manifest', async () => {
    await apply(service('plain', { router: { route: {}, scheduler: {} } }));
    const before = await eventually(() => deploymentOf('plain'));
    await manager.close();
    // What an older operator left: one as it was, one that somebody has changed since; and one that is somebody's own.
    await client.apply(configs, older('tracing', { labels: { of: 'before' } }), { fieldManager: 'signalbox' });
    await client.apply(configs, older('scheduler', pool('FailOpen')), { fieldManager: 'signalbox' });
    const edit = config('kserve-config-llm-scheduler', pool('FailClose'), system);
    await admin.apply(configs, edit, { fieldManager: 'kubectl-edit', force: true });
    await apply(config('kserve-config-llm-prefill-template', { labels: { mine: 'yes' } }, system));
    manager = await startOperator({ installPresets: true });
    const names = shippedPresets({ namespace: system, prefix: 'kserve-', version }).map(
      ({ metadata }) => metadata.name,
    );
    await eventually(async () => {
      const { items } = await admin.list<LLMInferenceServiceConfig & KubeObject>(configs, { namespace: system });
      const shipped = items.filter(({ metadata }) => names.includes(metadata.name));
      expect(shipped.map(({ metadata }) => metadata.name).sort()).toEqual([...names].sort());
      const ready = shipped.flatMap(({ status }) => status?.conditions?.filter(({ type }) => type === 'Ready') ?? []);
      expect(ready.map(({ status, message }) => [status, message])).toEqual(names.map(() => ['True', undefined]));
    });
    await eventually(async () =>
      expect((await statusOf('plain'))?.appliedConfigs?.map(({ name, source }) => [name, source])).toEqual([
        ['kserve-config-llm-scheduler', 'Preset'],
        ['kserve-config-llm-router-route', 'Preset'],
        ['kserve-config-llm-template', 'Preset'],
      ]),
    );
    expect((await deploymentOf('plain')).spec.template).toEqual(before.spec.template);
    expect(await presetsCombined('plain')).toMatchObject({ status: 'True' });
    expect((await presetsCombined('plain'))?.message).toBeUndefined();
  });

  it("replace those of an older operator, and nothing of what is somebody else's", async () => {
    await eventually(async () => expect(await releaseOf('tracing')).toBe(current));
    expect((await presetOf('tracing'))?.spec?.labels).toBeUndefined();
    await eventually(() => expect(events.filter(({ reason }) => reason === 'PresetKept')).toHaveLength(1));
    expect(events.find(({ reason }) => reason === 'PresetKept')?.name).toBe('kserve-config-llm-scheduler');
    expect(await releaseOf('scheduler')).toBe('0.0.1-00000000');
    expect((await presetOf('prefill-template'))?.spec).toEqual({ labels: { mine: 'yes' } });
    expect(await releaseOf('prefill-template')).toBeUndefined();
  });

  it("come back when they are deleted, and are one's own without the label", async () => {
    await admin.delete(configs, { namespace: system, name: 'kserve-config-llm-tracing' });
    await eventually(async () => expect(await releaseOf('tracing')).toBe(current));
    const name = 'kserve-config-llm-tracing';
    await admin.mergePatch(
      configs,
      { namespace: system, name },
      { metadata: { labels: null }, spec: { tracing: { samplerArg: '1' } } },
    );
    await apply(service('traced', { tracing: {} }));
    await eventually(async () =>
      expect((await deploymentOf('traced')).spec.template.spec.containers[0]?.env).toContainEqual({
        name: 'OTEL_TRACES_SAMPLER_ARG',
        value: '1',
      }),
    );
    expect(await releaseOf('tracing')).toBeUndefined();
  });
});

describe('the global configuration', () => {
  const name = 'inferenceservice-config';
  const configMap = (ingress: string): Manifest => ({
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: { name, namespace: system },
    data: { ingress },
  });
  const gatewayOf = async () => {
    const [only] = await eventually(async () => {
      const deployment = await deploymentOf('globals');
      return [deployment.spec.template.metadata.labels.gateway];
    });
    return only;
  };

  it('is read live; what is malformed is told, and the last good value stays', async () => {
    await apply(config('show', { labels: { gateway: '{{ .GlobalConfig.IngressGatewayName }}' } }));
    await apply(service('globals', { baseRefs: [{ name: 'show' }] }));
    await eventually(async () => expect(await gatewayOf()).toBe('signalbox-gateway'));
    await apply(configMap('{"kserveIngressGateway":"kserve/mine","urlScheme":"https"}'));
    await eventually(async () => expect(await gatewayOf()).toBe('mine'));
    await apply(configMap('{"kserveIngressGateway":'));
    await eventually(async () =>
      expect(await presetsCombined('globals')).toMatchObject({
        status: 'True',
        message: expect.stringContaining('ConfigMap signalbox-system/inferenceservice-config: ingress: '),
      }),
    );
    expect(await gatewayOf()).toBe('mine');
    expect(events.filter(({ reason }) => reason === 'InvalidConfiguration')).toHaveLength(1);
    await admin.delete(resources.configMaps, { namespace: system, name });
    await eventually(async () => expect(await gatewayOf()).toBe('signalbox-gateway'));
    await eventually(async () => expect((await presetsCombined('globals'))?.message).toBeUndefined());
  });
});

async function settle(): Promise<void> {
  let before = -1;
  while (before !== reconciles) {
    before = reconciles;
    await new Promise((resolve) => setTimeout(resolve, 400));
  }
}
