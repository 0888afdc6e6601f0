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
  });

  it('needs no new certificate after a restart of the operator', async () => {
    const before = await readSecret();
    await operator.close();
    operator = await startTestOperator(plane, admin);
    await eventually(() => expect(operator.counters.reconciles()).toBeGreaterThan(0));
    await awaitQuiet(operator.counters);
    expect(operator.events).toEqual([]);
    expect(await readSecret()).toBe(before);
  });

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
  });

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
  });
});
