import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { convertedDefinitions } from '../../controllers/permissions.ts';
import { annotations as names } from '../../src/api/labels.ts';
import { conversionPath } from '../../src/api/v1alpha1/convert.ts';
import { systemClock } from '../../src/clock.ts';
import type { Client } from '../../src/kube/client.ts';
import { loadKubeConfig } from '../../src/kube/config.ts';
import type { KubeObject, Manifest, Resource } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { createClient } from '../../src/kube/rest-client.ts';
import type { ControlPlane } from '../../src/local/control-plane.ts';
import { applyManifests, parseManifests } from '../../src/local/install.ts';
import { type AdmissionServer, startAdmissionServer } from '../../src/runtime/admission-server.ts';
import { type Certificates, startCertificates } from '../../src/runtime/certs.ts';
import { silentLogger } from '../../src/telemetry/log.ts';
import { conversions, createWebhooks } from '../../webhooks/index.ts';
import { renderWebhookConfigurations } from '../../webhooks/registration.ts';
import { eventually } from '../expect/eventually.ts';
import { root, startTestControlPlane } from './control-plane.ts';

/** Two versions of our kinds on the real API server, converted by our webhook. */

type Fields = Readonly<Record<string, unknown>>;
interface Stored extends Manifest {
  readonly spec: Fields;
  readonly status?: Fields;
}

const namespace = 'team';
const hub = resources.llmInferenceServices;
const spoke: Resource = { ...hub, version: 'v1alpha1' };
const hubConfig = resources.llmInferenceServiceConfigs;
const spokeConfig: Resource = { ...hubConfig, version: 'v1alpha1' };

let plane: ControlPlane;
let client: Client;
let server: AdmissionServer;
let certificates: Certificates;

const definitions = (): readonly Manifest[] =>
  readdirSync(join(root, 'crds'))
    .filter((name) => name.endsWith('.yaml'))
    .flatMap((name) => parseManifests(readFileSync(join(root, 'crds', name), 'utf8'), name));

const object = (resource: Resource, name: string, spec: object, metadata: object = {}): Manifest => ({
  apiVersion: `${resource.group}/${resource.version}`,
  kind: resource.kind,
  metadata: { name, namespace, ...metadata },
  spec,
});
const read = async (resource: Resource, name: string): Promise<Stored> => {
  const found = await client.get<Stored>(resource, { name, namespace });
  if (!found) throw new Error(`${resource.version} ${name} is not there`);
  return found;
};
const said = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => 'accepted',
    (thrown: Error) => thrown.message,
  );
const listen = (port: number): Promise<AdmissionServer> =>
  startAdmissionServer(
    {
      host: '127.0.0.1',
      port,
      certificate: certificates.current,
      routes: createWebhooks({
        sidecar: { image: 'signalbox/sidecar:0.1.0', sessionCacheSize: 1000 },
        presets: { systemNamespace: 'signalbox-system', configPrefix: 'kserve-', preventsDeletion: true },
      }),
      conversions,
    },
    { log: silentLogger },
  );

beforeAll(async () => {
  plane = await startTestControlPlane();
  client = createClient(await loadKubeConfig({ path: plane.kubeconfigPath }), { log: silentLogger });
  await applyManifests(client, definitions(), { fieldManager: 'installer', clock: systemClock });
  await client.create(resources.namespaces, { apiVersion: 'v1', kind: 'Namespace', metadata: { name: namespace } });
}, 600_000);

afterAll(async () => {
  certificates?.close();
  await client?.close();
  await server?.close();
  await plane?.stop();
}, 60_000);

describe('before the operator has run', () => {
  it('v1alpha2 works, and v1alpha1 says what is missing instead of storing less', async () => {
    const model = { uri: 'hf://a/b' };
    await client.create(hub, object(hub, 'early', { model }));
    expect((await read(hub, 'early')).spec).toEqual({ model });
    const refused = await said(
      client.create(spoke, object(spoke, 'old', { model: { ...model, criticality: 'Critical' } })),
    );
    expect(refused).toContain('conversion webhook for serving.kserve.io/v1alpha1');
    expect(refused).toContain('signalbox-webhook');
    expect(await client.get(hub, { name: 'old', namespace })).toBeUndefined();
    await client.delete(hub, { name: 'early', namespace });
  });
});

describe('the operator', () => {
  it('makes the definitions convert by itself', async () => {
    // The port is known when the server listens, and the server needs a certificate first.
    const secret = { namespace, name: 'webhook-certificate' };
    certificates = await startCertificates(client, { secret, names: ['127.0.0.1'] }, { log: silentLogger });
    server = await listen(0);
    certificates.close();
    const url = `https://127.0.0.1:${server.port}`;
    certificates = await startCertificates(
      client,
      {
        secret,
        names: ['127.0.0.1'],
        conversion: {
          definitions: convertedDefinitions,
          client: { url: `${url}${conversionPath}` },
          ownServices: ['signalbox-webhook'],
        },
      },
      { log: silentLogger },
    );
    const registered = renderWebhookConfigurations({
      name: 'signalbox',
      target: { url },
      caBundle: certificates.caBundle,
    });
    await applyManifests(client, registered, { fieldManager: 'test', clock: systemClock });
    await eventually(async () => {
      const name = 'probe';
      const created = await client.create<Stored>(spoke, object(spoke, name, { model: { uri: 'hf://a/b' } }));
      await client.delete(spoke, { name, namespace });
      expect(created.spec.model).toMatchObject({ name });
    });
  });

  interface Definition extends KubeObject {
    readonly spec: { readonly conversion: { readonly webhook?: { readonly clientConfig?: Fields } } };
  }
  const clientOf = async (name: string): Promise<Fields | undefined> =>
    (await client.get<Definition>(resources.customResourceDefinitions, { name }))?.spec.conversion.webhook
      ?.clientConfig;

  it('puts its address back when the definitions are applied again', async () => {
    const [name = ''] = convertedDefinitions;
    const before = await clientOf(name);
    expect(before).toEqual({ url: expect.stringContaining(conversionPath), caBundle: expect.any(String) });
    await client.mergePatch(
      resources.customResourceDefinitions,
      { name },
      {
        spec: {
          conversion: {
            webhook: {
              clientConfig: {
                url: null,
                caBundle: null,
                service: { namespace: 'signalbox-system', name: 'signalbox-webhook', port: 9443, path: '/convert' },
              },
            },
          },
        },
      },
    );
    await eventually(async () => expect(await clientOf(name)).toEqual(before));
  });

  it("leaves definitions alone that another operator's Service converts", async () => {
    const [, name = ''] = convertedDefinitions;
    const before = await clientOf(name);
    const write = (clientConfig: object) =>
      client.mergePatch(
        resources.customResourceDefinitions,
        { name },
        { spec: { conversion: { webhook: { clientConfig } } } },
      );
    const service = { namespace: 'kserve', name: 'llmisvc-webhook-server-service', port: 443, path: '/convert' };
    await write({ url: null, caBundle: null, service });
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    expect(await clientOf(name)).toEqual({ service });
    await write({ ...before, service: null });
  });
});

describe('a service', () => {
  const pool = (spec: object) => ({ router: { gateway: {}, route: {}, scheduler: { pool: { spec } } } });

  it('made as v1alpha1 is defaulted, stored as v1alpha2 and read back as it was', async () => {
    const spec = {
      model: { uri: 'hf://a/b', name: 'chat', criticality: 'Sheddable' },
      ...pool({ selector: { app: 'x' }, targetPortNumber: 8000 }),
    };
    const created = await client.create<Stored>(spoke, object(spoke, 'chat', spec));
    expect(created.spec).toEqual(spec);
    const stored = await read(hub, 'chat');
    expect(stored.metadata.annotations).toEqual({ [names.modelCriticality]: 'Sheddable' });
    expect(stored.spec).toEqual({
      model: { uri: 'hf://a/b', name: 'chat' },
      ...pool({ selector: { matchLabels: { app: 'x' } }, targetPorts: [{ number: 8000 }], appProtocol: 'http' }),
    });
    const again = await read(spoke, 'chat');
    expect(again.spec).toEqual(spec);
    expect(Object.keys(again.metadata.annotations ?? {})).toEqual([names.hubFields]);
  });

  it('is judged by the rules of v1alpha2 whichever version it comes in', async () => {
    const asSpoke = (spec: object) => said(client.create(spoke, object(spoke, 'bad', spec)));
    const refused = await asSpoke({ model: { uri: 'ftp://x' }, parallelism: { data: 2 } });
    expect(refused).toContain('spec.model.uri');
    expect(refused).toContain('spec.parallelism.data');
    expect(await asSpoke({ model: { uri: 'hf://a/b', criticality: 'Urgent' } })).toContain('spec.model.criticality');
    // What v1alpha1 does not have is not smuggled in by an annotation.
    const kept = JSON.stringify([{ path: ['spec', 'kvCacheOffloading'], value: 'much' }]);
    const smuggled = object(
      spoke,
      'smuggled',
      { model: { uri: 'hf://a/b' } },
      { annotations: { [names.hubFields]: kept } },
    );
    await client.create(spoke, smuggled);
    expect((await read(hub, 'smuggled')).spec).toEqual({ model: { uri: 'hf://a/b', name: 'smuggled' } });
  });

  const full = {
    model: { uri: 'hf://a/b', name: 'full' },
    replicas: 1,
    ...pool({
      selector: { matchLabels: { app: 'x' } },
      targetPorts: [{ number: 8000 }, { number: 8001 }],
      appProtocol: 'kubernetes.io/h2c',
    }),
  };
  const status = {
    url: 'http://x',
    addresses: [
      { name: 'internal', url: 'http://x', origin: { kind: 'Service', name: 'x' }, models: [{ name: 'full' }] },
    ],
    workloads: { primary: { kind: 'Deployment', name: 'full-kserve' } },
    appliedConfigs: [{ name: 'base', source: 'Preset' }],
  };

  it('loses nothing when it is patched, applied, replaced and given a status as v1alpha1', async () => {
    const ref = { name: 'full', namespace };
    await client.create(hub, object(hub, 'full', full));
    await client.mergePatch(hub, ref, { status }, { subresource: 'status' });

    await client.mergePatch(spoke, ref, { spec: { replicas: 2 } });
    expect(await read(hub, 'full')).toMatchObject({ spec: { ...full, replicas: 2 }, status });

    const criticality = { model: { uri: 'hf://a/b', criticality: 'Critical' } };
    await client.apply(spoke, object(spoke, 'full', criticality), { fieldManager: 'old-client', force: true });
    expect(await read(hub, 'full')).toMatchObject({ spec: { ...full, replicas: 2 }, status });

    const whole = await read(spoke, 'full');
    expect(whole.status?.workloads).toBeUndefined();
    expect(whole.spec.model).toEqual({ ...full.model, criticality: 'Critical' });
    await client.replace(spoke, { ...whole, spec: { ...whole.spec, replicas: 3 } });
    expect(await read(hub, 'full')).toMatchObject({ spec: { ...full, replicas: 3 }, status });

    await client.mergePatch(spoke, ref, { status: { url: 'http://y' } }, { subresource: 'status' });
    expect((await read(hub, 'full')).status).toEqual({ ...status, url: 'http://y' });

    // The other way round: a v1alpha2 client loses nothing that only v1alpha1 has.
    await client.apply(hub, object(hub, 'full', { model: { uri: 'hf://a/c' } }), {
      fieldManager: 'new-client',
      force: true,
    });
    expect((await read(spoke, 'full')).spec.model).toEqual({ uri: 'hf://a/c', name: 'full', criticality: 'Critical' });

    // Whoever applied a field may take it away again.
    await client.apply(spoke, object(spoke, 'full', { model: { uri: 'hf://a/c' } }), {
      fieldManager: 'old-client',
      force: true,
    });
    const stored = await read(hub, 'full');
    expect(stored.metadata.annotations ?? {}).toEqual({});
    expect(stored.spec).toEqual({ ...full, model: { uri: 'hf://a/c', name: 'full' }, replicas: 3 });
  });

  it('is seen by a watch of either version', async () => {
    const seen: string[] = [];
    const stopping = new AbortController();
    const { resourceVersion } = await client.list(spoke, { namespace });
    const watching = (async () => {
      const options = { namespace, resourceVersion };
      for await (const event of client.watch<Stored>(spoke, options, stopping.signal)) {
        if ('object' in event) seen.push(`${event.type} ${event.object.apiVersion} ${event.object.metadata.name}`);
        return;
      }
    })().catch(() => {});
    await client.create(hub, object(hub, 'watched', { model: { uri: 'hf://a/b' } }));
    await watching;
    stopping.abort();
    expect(seen).toEqual(['ADDED serving.kserve.io/v1alpha1 watched']);
  });
});

describe('a base configuration', () => {
  it('keeps what only v1alpha2 has, also when other fields change', async () => {
    const spec = {
      model: { name: '{{ .ObjectMeta.Name }}', confidential: { enabled: true, resourceId: 'kbs:///a/b/c' } },
      kvCacheOffloading: { cpu: '10Gi', evictionPolicy: 'arc' },
      prefill: { kvCacheOffloading: { cpu: '1Gi' }, parallelism: { tensor: 2 } },
    };
    const ref = { name: 'base', namespace };
    await client.create(hubConfig, object(hubConfig, 'base', spec));
    const shown = await read(spokeConfig, 'base');
    expect(shown.spec).toEqual({ model: { name: spec.model.name }, prefill: { parallelism: { tensor: 2 } } });
    await client.replace(spokeConfig, { ...shown, spec: { ...shown.spec, replicas: 2 } });
    expect((await read(hubConfig, 'base')).spec).toEqual({ ...spec, replicas: 2 });
    await client.mergePatch(spokeConfig, ref, { spec: { prefill: null } });
    const { prefill: _, ...rest } = spec;
    expect((await read(hubConfig, 'base')).spec).toEqual({ ...rest, replicas: 2 });
  });
});

describe('while the operator is down', () => {
  it('v1alpha2 is served, v1alpha1 says why it is not, and is back with the operator', async () => {
    const { port } = server;
    await server.close(100);
    expect((await read(hub, 'full')).spec.replicas).toBe(3);
    expect(await said(read(spoke, 'full'))).toContain('conversion webhook for serving.kserve.io/v1alpha2');
    // Nothing is written that was not looked at.
    expect(await said(client.mergePatch(hub, { name: 'full', namespace }, { spec: { replicas: 4 } }))).toContain(
      'default.llminferenceservice.signalbox.io',
    );
    await client.delete(hub, { name: 'smuggled', namespace });
    server = await listen(port);
    await eventually(async () => expect((await read(spoke, 'full')).spec.replicas).toBe(3));
  });
});
