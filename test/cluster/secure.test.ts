import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { Client } from '../../src/kube/client.ts';
import { loadKubeConfig } from '../../src/kube/config.ts';
import type { KubeObject, Manifest, Resource } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { createClient } from '../../src/kube/rest-client.ts';
import type { ControlPlane } from '../../src/local/control-plane.ts';
import { createLogger } from '../../src/telemetry/log.ts';
import { prefillDecodeService } from '../builders/service.ts';
import { eventually } from '../expect/eventually.ts';
import { awaitQuiet, requestsAfter } from '../expect/quiet.ts';
import { startTestControlPlane } from './control-plane.ts';
import {
  applyAll,
  gatewayApiManifests,
  installOperator,
  poolManifests,
  readManifests,
  startTestOperator,
  type TestOperator,
} from './permitted-operator.ts';

/** TLS and what guards a service, on a real API server and with the permissions of the chart. */

let plane: ControlPlane;
let admin: Client;
let operator: TestOperator;
const namespace = 'default';

beforeAll(async () => {
  plane = await startTestControlPlane({ serviceNetwork: '127.214' });
  admin = createClient(await loadKubeConfig({ path: plane.kubeconfigPath }), {
    log: createLogger({ name: 'test', level: 'fatal' }),
  });
  await installOperator(admin);
  await applyAll(admin, ...(await gatewayApiManifests()), ...poolManifests());
  operator = await startTestOperator(plane, admin);
}, 600_000);

afterAll(async () => {
  await operator?.close();
  await admin?.close();
  await plane?.stop();
}, 60_000);

const service = (parts: Parameters<typeof prefillDecodeService>[0] = {}): Manifest => {
  const { metadata, ...rest } = prefillDecodeService(parts);
  const { uid: _uid, generation: _generation, ...own } = metadata;
  return { ...rest, metadata: own } as unknown as Manifest;
};

const find = <T extends KubeObject = Manifest>(resource: Resource, name: string) =>
  admin.get<T>(resource, { namespace, name });

const secretName = 'chat-kserve-self-signed-certs';
const readSecret = async (key = 'tls.crt') => {
  const secret = await find<KubeObject & { readonly data: Readonly<Record<string, string>> }>(
    resources.secrets,
    secretName,
  );
  return Buffer.from(secret?.data[key] ?? '', 'base64').toString();
};
const argsOf = async (name: string) => JSON.stringify((await find(resources.deployments, name))?.spec);
const annotate = (value: string | null) =>
  admin.mergePatch(
    resources.llmInferenceServices,
    { namespace, name: 'chat' },
    { metadata: { annotations: { 'signalbox.io/tls': value } } },
  );

describe('TLS', () => {
  it('is off, turned on for one service, and costs nothing once it is', async () => {
    await applyAll(admin, service());
    await eventually(async () =>
      expect(await argsOf('chat-kserve-router-scheduler')).toContain('--secure-serving=false'),
    );
    expect(await find(resources.secrets, secretName)).toBeUndefined();

    await annotate('true');
    await eventually(async () => expect(await argsOf('chat-kserve')).toContain('--ssl-certfile'));
    await eventually(async () =>
      expect(await find(resources.backendTlsPolicies, 'chat-kserve-backend-tls')).toBeDefined(),
    );
    const record = await find<Manifest>(resources.configMaps, secretName);
    expect(record?.data).toEqual({ 'tls.crt': await readSecret(), 'ca.crt': await readSecret('ca.crt') });
    expect(await find(resources.services, 'chat-kserve-workload-svc')).toMatchObject({
      spec: { ports: [{ name: 'https', appProtocol: 'https', port: 8000 }] },
    });
    const before = await readSecret();
    const touch = (i: number) =>
      admin.mergePatch(
        resources.llmInferenceServices,
        { namespace, name: 'chat' },
        { metadata: { annotations: { note: String(i) } } },
      );
    let touched = 0;
    expect(await requestsAfter(() => touch(touched++), operator.counters)).toBe(0);
    expect(await readSecret()).toBe(before);
  }, 60_000);

  it('needs no new certificate after a restart of the operator', async () => {
    const before = await readSecret();
    await operator.close();
    operator = await startTestOperator(plane, admin);
    await eventually(() => expect(operator.counters.reconciles()).toBeGreaterThan(0));
    await awaitQuiet(operator.counters);
    expect(operator.events).toEqual([]);
    expect(await readSecret()).toBe(before);
  }, 60_000);

  it('makes a new one where its public half is lost, and none of a foreign one is ever read', async () => {
    const before = await readSecret();
    await admin.delete(resources.configMaps, { namespace, name: secretName });
    await eventually(async () => expect(await readSecret()).not.toBe(before));
    await eventually(async () =>
      expect((await find<Manifest>(resources.configMaps, secretName))?.data).toMatchObject({
        'tls.crt': await readSecret(),
      }),
    );
    await expect(operator.client.get(resources.secrets, { namespace, name: secretName })).rejects.toMatchObject({
      code: 'forbidden',
    });
    await expect(operator.client.list(resources.secrets, { namespace })).rejects.toMatchObject({ code: 'forbidden' });
  }, 60_000);

  it('follows the configuration of the cluster, and the annotation before it', async () => {
    const configure = (isTls: boolean) =>
      applyAll(admin, {
        apiVersion: 'v1',
        kind: 'ConfigMap',
        metadata: { name: 'inferenceservice-config', namespace: 'signalbox-system' },
        data: { ingress: JSON.stringify({ enableLLMInferenceServiceTLS: isTls }) },
      });
    await annotate('false');
    await eventually(async () => expect(await argsOf('chat-kserve')).not.toContain('--ssl-certfile'));
    // The Secret stays: pods of before still mount it.
    expect(await readSecret()).not.toBe('');
    await eventually(async () => expect(await find(resources.configMaps, secretName)).toBeUndefined());
    expect(await find(resources.backendTlsPolicies, 'chat-kserve-backend-tls')).toBeUndefined();
    await configure(true);
    await annotate(null);
    await eventually(async () => expect(await argsOf('chat-kserve')).toContain('--ssl-certfile'));
    await configure(false);
    await eventually(async () => expect(await argsOf('chat-kserve')).not.toContain('--ssl-certfile'));
    expect(operator.failures()).toBe(0);
  }, 60_000);
});

describe('definitions of others', () => {
  const conditions = async (name: string) =>
    Object.fromEntries(
      (
        (
          await find<Manifest & { readonly status?: { readonly conditions?: readonly Told[] } }>(
            resources.llmInferenceServices,
            name,
          )
        )?.status?.conditions ?? []
      ).map(({ type, status, reason = '', message = '' }) => [type, `${status} ${reason} ${message}`]),
    );
  interface Told {
    readonly type: string;
    readonly status: string;
    readonly reason?: string;
    readonly message?: string;
  }
  const isNotServed = /^\S+ not found$|could not find the requested resource|404/;
  const look = (resource: Resource, name: string) =>
    find(resource, name).catch((thrown: Error) =>
      isNotServed.test(thrown.message) ? undefined : Promise.reject(thrown),
    );

  /** Definition, an object that is made with it, and what is said without it. */
  const rows: readonly (readonly [string, Resource, string, readonly [string, string, RegExp] | undefined])[] = [
    ['podmonitors.monitoring.coreos.com', resources.podMonitors, 'chat-kserve', undefined],
    [
      'backendtlspolicies.gateway.networking.k8s.io',
      resources.backendTlsPolicies,
      'chat-kserve-backend-tls',
      undefined,
    ],
    [
      'scaledobjects.keda.sh',
      resources.scaledObjects,
      'scaled-kserve-keda',
      ['scaled', 'ScalingReady', /ScalingCRDNotFound/],
    ],
    [
      'leaderworkersets.leaderworkerset.x-k8s.io',
      resources.leaderWorkerSets,
      'wide-kserve-mn',
      ['wide', 'WorkerWorkloadReady', /LeaderWorkerSetNotServed/],
    ],
    ['inferencepools.inference.networking.x-k8s.io', resources.xInferencePools, 'chat-inference-pool', undefined],
    [
      'inferencepools.inference.networking.k8s.io',
      resources.inferencePools,
      'chat-inference-pool',
      ['chat', 'InferencePoolReady', /InferencePoolNotServed/],
    ],
    [
      'httproutes.gateway.networking.k8s.io',
      resources.httpRoutes,
      'chat-kserve-route',
      ['chat', 'GatewaysReady', /does not serve gateway.networking/],
    ],
  ];
  let definitions: ReadonlyMap<string, Manifest>;

  beforeAll(async () => {
    const all = [
      ...(await gatewayApiManifests()),
      ...poolManifests(),
      ...['podmonitors', 'scaledobjects', 'leaderworkersets'].flatMap((name) =>
        readManifests('test', 'cluster', 'crds', `${name}.yaml`),
      ),
    ];
    definitions = new Map(all.map((manifest) => [manifest.metadata.name, manifest]));
    await annotate('true');
    const template = { containers: [{ name: 'main' }] };
    const keda = { triggers: [{ type: 'cpu', metadata: { value: '50' } }] };
    await applyAll(
      admin,
      llm('scaled', { template, scaling: { maxReplicas: 2, keda } }),
      llm('wide', { template, worker: template, parallelism: { data: 2, dataLocal: 1 } }),
    );
  });
  const llm = (name: string, spec: object): Manifest => ({
    apiVersion: 'serving.kserve.io/v1alpha2',
    kind: 'LLMInferenceService',
    metadata: { name, namespace },
    spec: { model: { uri: 'hf://a/b', name }, ...spec },
  });
  const install = (name: string) => applyAll(admin, ...[definitions.get(name)].filter((found) => found !== undefined));

  it.each(rows.slice(0, 1).concat(rows.slice(2, 4)))(
    '%s: what it is for is made once it comes',
    async (name, resource, object, said) => {
      if (said) await eventually(async () => expect((await conditions(said[0]))[said[1]]).toMatch(said[2]));
      await install(name);
      await eventually(async () => expect(await look(resource, object)).toBeDefined(), 20_000);
      if (said) await eventually(async () => expect((await conditions(said[0]))[said[1]]).not.toMatch(said[2]));
    },
    30_000,
  );

  it('one going and coming back is followed, each by itself', async () => {
    for (const [name, resource, object, said] of rows) {
      await eventually(async () => expect(await look(resource, object)).toBeDefined(), 20_000);
      await admin.delete(resources.customResourceDefinitions, { name });
      await eventually(
        async () => expect(await admin.get(resources.customResourceDefinitions, { name })).toBeUndefined(),
        20_000,
      );
      // The last of the two kinds of pool that goes is missed.
      if (said?.[1] === 'InferencePoolReady') {
        const other = 'inferencepools.inference.networking.x-k8s.io';
        await admin.delete(resources.customResourceDefinitions, { name: other });
        await eventually(async () => expect((await conditions(said[0]))[said[1]]).toMatch(said[2]), 20_000);
        // Without a pool no picker can run; model servers stay.
        await eventually(async () =>
          expect(await find(resources.deployments, 'chat-kserve-router-scheduler')).toBeUndefined(),
        );
        expect(await find(resources.deployments, 'chat-kserve')).toBeDefined();
        await install(other);
      } else if (said)
        await eventually(async () => expect((await conditions(said[0]))[said[1]]).toMatch(said[2]), 20_000);
      await install(name);
      await eventually(async () => expect(await look(resource, object)).toBeDefined(), 20_000);
      if (said) await eventually(async () => expect((await conditions(said[0]))[said[1]]).not.toMatch(said[2]));
    }
    await eventually(async () =>
      expect(await find(resources.deployments, 'chat-kserve-router-scheduler')).toBeDefined(),
    );
    for (const name of ['chat', 'scaled', 'wide'])
      expect(JSON.stringify(await conditions(name))).not.toContain('ApplyFailed');
  }, 180_000);
});

describe('network policies', () => {
  it('stand around model servers and the picker, and are mended', async () => {
    const policy = await find<Manifest>(resources.networkPolicies, 'chat-kserve');
    expect(policy).toMatchObject({
      spec: { policyTypes: ['Ingress'], ingress: [{ from: [{}] }, { ports: [{}, {}] }] },
    });
    await admin.delete(resources.networkPolicies, { namespace, name: 'chat-kserve-router-scheduler' });
    await eventually(async () =>
      expect(await find(resources.networkPolicies, 'chat-kserve-router-scheduler')).toMatchObject({
        spec: { ingress: [{}, { ports: [{ port: 9002 }, { port: 9003 }, { port: 9090 }] }] },
      }),
    );
  }, 60_000);
});
