import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { Agent, request } from 'undici';
import type { Gateway, GatewayClass, HTTPRoute } from '../../src/api/foreign/gateway-api.ts';
import type { InferencePool, XInferencePool } from '../../src/api/foreign/inference-pool.ts';
import { systemClock } from '../../src/clock.ts';
import type { Client } from '../../src/kube/client.ts';
import { loadKubeConfig } from '../../src/kube/config.ts';
import type { KubeObject, Manifest, ObjectRef, Resource } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { createClient } from '../../src/kube/rest-client.ts';
import type { ControlPlane } from '../../src/local/control-plane.ts';
import { type Envoy, startEnvoy } from '../../src/local/envoy.ts';
import { findGatewayApiCrds } from '../../src/local/gateway/crds.ts';
import { gatewayClassName, renderGatewayClass } from '../../src/local/gateway/gateway-class.ts';
import { controllerName } from '../../src/local/gateway/translate.ts';
import { startGateway } from '../../src/local/gateway.ts';
import { applyManifests, parseManifests } from '../../src/local/install.ts';
import { findBinaries } from '../../src/local/paths.ts';
import { silentLogger } from '../../src/telemetry/log.ts';
import { localEnvironment, root, startTestControlPlane } from './control-plane.ts';
import { startTestPicker, type TestPicker } from './picker.ts';

/** The gateway controller against a real API server with the published definitions, and a real Envoy. */

jest.setTimeout(30_000);

const network = '127.202';
const dispatcher = new Agent({ connections: 4 });
let plane: ControlPlane;
let client: Client;
let envoy: Envoy;
let gateway: { close(): Promise<void> };
let stateDir: string;
let backend: Server;
let picker: TestPicker;

const startController = () =>
  startGateway({ client, envoy, addressPrefix: `${network}.9`, log: silentLogger, clock: systemClock });

const apply = (...manifests: readonly Manifest[]) =>
  applyManifests(client, manifests, { fieldManager: 'test', clock: systemClock });

const object = (apiVersion: string, kind: string, name: string, rest: Record<string, unknown>): Manifest => ({
  apiVersion,
  kind,
  metadata: { namespace: 'default', name },
  ...rest,
});
const gatewayManifest = (listeners: readonly unknown[], name = 'gw') =>
  object('gateway.networking.k8s.io/v1', 'Gateway', name, { spec: { gatewayClassName, listeners } });
const httpListener = (port: number) => ({ name: `http-${port}`, port, protocol: 'HTTP' });
const routeManifest = (rules: readonly unknown[], parentRefs: readonly unknown[] = [{ name: 'gw' }]) =>
  object('gateway.networking.k8s.io/v1', 'HTTPRoute', 'route', { spec: { parentRefs, rules } });
const serviceManifest = (name: string, port: number, targetPort: number) =>
  object('v1', 'Service', name, { spec: { selector: { app: name }, ports: [{ port, targetPort }] } });

async function createPod(name: string, app: string, ip: string): Promise<void> {
  await client.create(resources.pods, {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { namespace: 'default', name, labels: { app } },
    spec: { nodeName: 'n', containers: [{ name: 'c', image: 'i' }], automountServiceAccountToken: false },
  });
  await client.mergePatch(
    resources.pods,
    { namespace: 'default', name },
    {
      status: { phase: 'Running', podIP: ip, podIPs: [{ ip }], conditions: [{ type: 'Ready', status: 'True' }] },
    },
    { subresource: 'status' },
  );
}

/** Waits until `read` of the object is truthy; the object as it last was is in the error. */
async function eventually<T extends KubeObject>(
  resource: Resource,
  ref: ObjectRef,
  read: (object: T) => boolean,
): Promise<T> {
  const deadline = Date.now() + 10_000;
  for (;;) {
    const found = await client.get<T>(resource, ref);
    if (found && read(found)) return found;
    if (Date.now() > deadline) throw new Error(`not in time: ${JSON.stringify(found, null, 1)}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

interface Said {
  readonly type: string;
  readonly status: string;
  readonly reason?: string | undefined;
}
const brief = (conditions: readonly Said[] | undefined) =>
  Object.fromEntries((conditions ?? []).map((c) => [c.type, `${c.status} ${c.reason}`]));

const ref = (name: string) => ({ namespace: 'default', name });
const isProgrammed = (g: Gateway) =>
  g.status?.conditions?.some(
    (c) => c.type === 'Programmed' && c.status === 'True' && c.observedGeneration === g.metadata.generation,
  ) === true;

beforeAll(async () => {
  const binaries = await findBinaries(['envoy'], localEnvironment, (line) => process.stderr.write(`${line}\n`));
  plane = await startTestControlPlane({ serviceNetwork: '127.203' });
  client = createClient(await loadKubeConfig({ path: plane.kubeconfigPath }), {
    log: silentLogger,
    clock: systemClock,
  });
  const run = promisify(execFile);
  const gatewayApi = await findGatewayApiCrds({
    cacheDir: localEnvironment.cacheDir,
    run: async (command, args) => (await run(command, [...args])).stdout,
  });
  const pools = ['inference.networking.k8s.io', 'inference.networking.x-k8s.io'].map((group) =>
    join(root, 'src', 'local', 'crds', `${group}_inferencepools.yaml`),
  );
  const texts = await Promise.all(
    [...gatewayApi, ...pools].map(async (path) => parseManifests(await readFile(path, 'utf8'), path)),
  );
  await apply(...texts.flat());

  stateDir = await mkdtemp(join(tmpdir(), 'signalbox-gateway-'));
  envoy = await startEnvoy({ binary: binaries.envoy, stateDir, concurrency: 1 });
  backend = createServer((_, response) => response.end('web\n'));
  await new Promise<void>((resolve) => backend.listen(8000, `${network}.1.1`, resolve));
  picker = await startTestPicker(`${network}.3.1`, 9002, () => `${network}.1.1:8000`);
  gateway = startController();
  await apply(
    renderGatewayClass(),
    object('v1', 'ServiceAccount', 'default', {}),
    serviceManifest('web', 80, 8000),
    serviceManifest('epp', 9002, 9002),
  );
}, 600_000);

afterAll(async () => {
  await gateway?.close();
  await envoy?.close();
  picker?.close();
  await new Promise((resolve) => (backend ? backend.close(resolve) : resolve(undefined)));
  await dispatcher.close();
  await client?.close();
  await plane?.stop();
  if (stateDir) await rm(stateDir, { recursive: true, force: true });
}, 60_000);

describe('the gateway controller', () => {
  it('accepts its class with the features it has', async () => {
    const found = await eventually<GatewayClass>(
      resources.gatewayClasses,
      { name: gatewayClassName },
      (c) => brief(c.status?.conditions).Accepted === 'True Accepted',
    );
    const names = (found.status?.supportedFeatures ?? []).map((feature) => feature.name);
    expect(names).toEqual([...names].sort());
    expect(names).toContain('HTTPRoutePathRewrite');
  });

  it('programs a gateway with an address at which its routes answer', async () => {
    await createPod('web-0', 'web', `${network}.1.1`);
    await apply(gatewayManifest([httpListener(8080)]), routeManifest([{ backendRefs: [{ name: 'web', port: 80 }] }]));
    const found = await eventually<Gateway>(
      resources.gateways,
      ref('gw'),
      (g) => isProgrammed(g) && g.status?.listeners?.[0]?.attachedRoutes === 1,
    );
    const address = found.status?.addresses?.[0];
    expect(address).toEqual({ type: 'IPAddress', value: `${network}.9.1` });
    expect(brief(found.status?.listeners?.[0]?.conditions)).toEqual({
      Accepted: 'True Accepted',
      Conflicted: 'False NoConflicts',
      Programmed: 'True Programmed',
      ResolvedRefs: 'True ResolvedRefs',
    });
    const answer = await request(`http://${address?.value}:8080/`, { dispatcher });
    expect([answer.statusCode, await answer.body.text()]).toEqual([200, 'web\n']);

    const route = await client.get<HTTPRoute>(resources.httpRoutes, ref('route'));
    expect(route?.status?.parents).toHaveLength(1);
    expect(route?.status?.parents[0]).toMatchObject({
      parentRef: { group: 'gateway.networking.k8s.io', kind: 'Gateway', name: 'gw' },
      controllerName,
    });
    expect(brief(route?.status?.parents[0]?.conditions)).toEqual({
      Accepted: 'True Accepted',
      ResolvedRefs: 'True ResolvedRefs',
    });
  });

  it('says which backend is missing, and takes it back when it comes', async () => {
    const told = (reason: string) => (route: HTTPRoute) => {
      const conditions = route.status?.parents[0]?.conditions;
      return (
        brief(conditions).ResolvedRefs === reason &&
        conditions?.every((c) => c.observedGeneration === route.metadata.generation) === true
      );
    };
    const poolRef = { group: 'inference.networking.k8s.io', kind: 'InferencePool', name: 'pool' };
    const xRef = { ...poolRef, group: 'inference.networking.x-k8s.io' };
    await apply(
      routeManifest([
        { matches: [{ path: { type: 'PathPrefix', value: '/m' } }], backendRefs: [poolRef, { ...xRef, weight: 1 }] },
      ]),
    );
    await eventually<HTTPRoute>(resources.httpRoutes, ref('route'), told('False BackendNotFound'));
    await apply(
      object('inference.networking.k8s.io/v1', 'InferencePool', 'pool', {
        spec: {
          selector: { matchLabels: { app: 'web' } },
          targetPorts: [{ number: 8000 }],
          endpointPickerRef: { name: 'epp', port: { number: 9002 }, failureMode: 'FailClose' },
        },
      }),
      object('inference.networking.x-k8s.io/v1alpha2', 'InferencePool', 'pool', {
        spec: {
          selector: { app: 'web' },
          targetPortNumber: 8000,
          extensionRef: { name: 'no-such-picker', failureMode: 'FailOpen' },
        },
      }),
    );
    await eventually<HTTPRoute>(resources.httpRoutes, ref('route'), told('True ResolvedRefs'));
    const v1 = await eventually<InferencePool>(resources.inferencePools, ref('pool'), (p) =>
      Boolean(p.status?.parents),
    );
    expect(v1.status?.parents?.[0]).toMatchObject({ parentRef: { name: 'gw', namespace: 'default' }, controllerName });
    expect(brief(v1.status?.parents?.[0]?.conditions)).toEqual({
      Accepted: 'True Accepted',
      ResolvedRefs: 'True ResolvedRefs',
    });
    const older = await eventually<XInferencePool>(resources.xInferencePools, ref('pool'), (p) =>
      Boolean(p.status?.parent),
    );
    expect(older.status?.parent?.[0]).toMatchObject({ parentRef: { kind: 'Gateway', name: 'gw' } });
    expect(brief(older.status?.parent?.[0]?.conditions)).toEqual({
      Accepted: 'True Accepted',
      ResolvedRefs: 'False InvalidExtensionRef',
    });
  });

  it('routes through a picker as soon as its pod is ready', async () => {
    const post = async () => {
      const answer = await request(`http://${network}.9.1:8080/m`, { dispatcher, method: 'POST', body: '{}' });
      await answer.body.dump();
      return answer.statusCode;
    };
    await apply(
      routeManifest([
        {
          matches: [{ path: { type: 'PathPrefix', value: '/m' } }],
          backendRefs: [{ group: 'inference.networking.k8s.io', kind: 'InferencePool', name: 'pool' }],
        },
      ]),
    );
    // Statuses are written once Envoy has the configuration they speak of.
    await eventually<HTTPRoute>(
      resources.httpRoutes,
      ref('route'),
      (r) => r.status?.parents[0]?.conditions?.[0]?.observedGeneration === r.metadata.generation,
    );
    const reached = async (status: number) => {
      const deadline = Date.now() + 5000;
      for (;;) {
        const got = await post();
        if (got === status || Date.now() > deadline) return got;
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    };
    expect(await post()).toBe(503);
    await createPod('epp-0', 'epp', `${network}.3.1`);
    expect(await reached(200)).toBe(200);
    expect(picker.seen.length).toBeGreaterThan(0);
  });

  it('keeps its peace: no request while nothing changes, also after a restart', async () => {
    const quiet = async () => {
      await new Promise((resolve) => setTimeout(resolve, 500));
      const writes = () => (client.sent.PATCH ?? 0) + (client.sent.PUT ?? 0) + (client.sent.POST ?? 0);
      const before = writes();
      await new Promise((resolve) => setTimeout(resolve, 1000));
      return writes() - before;
    };
    expect(await quiet()).toBe(0);
    const before = client.sent.PATCH ?? 0;
    const route = await client.get<HTTPRoute>(resources.httpRoutes, ref('route'));
    await gateway.close();
    gateway = startController();
    expect(await quiet()).toBe(0);
    expect(client.sent.PATCH).toBe(before);
    const after = await client.get<HTTPRoute>(resources.httpRoutes, ref('route'));
    expect(after?.metadata.resourceVersion).toBe(route?.metadata.resourceVersion);
  });

  it('leaves what others say of a route, and takes its own words back when it is no longer meant', async () => {
    const other = {
      parentRef: { group: 'gateway.networking.k8s.io', kind: 'Gateway', name: 'elsewhere' },
      controllerName: 'example.com/other',
      conditions: [
        {
          type: 'Accepted',
          status: 'True',
          reason: 'Accepted',
          message: 'm',
          lastTransitionTime: '2026-01-01T00:00:00Z',
        },
      ],
    };
    const live = await client.get<HTTPRoute>(resources.httpRoutes, ref('route'));
    const parents = [...(live?.status?.parents ?? []), other];
    await client.mergePatch(resources.httpRoutes, ref('route'), { status: { parents } }, { subresource: 'status' });
    await apply(routeManifest([{ backendRefs: [{ name: 'web', port: 80 }] }], [{ name: 'elsewhere' }]));
    const found = await eventually<HTTPRoute>(
      resources.httpRoutes,
      ref('route'),
      (r) => r.status?.parents.every((p) => p.controllerName !== controllerName) === true,
    );
    expect(found.status?.parents).toEqual([other]);
    const pool = await eventually<InferencePool>(
      resources.inferencePools,
      ref('pool'),
      (p) => (p.status?.parents ?? []).length === 0,
    );
    expect(pool.status?.parents ?? []).toEqual([]);
  });

  it('follows a gateway that changes and goes', async () => {
    await apply(routeManifest([{ backendRefs: [{ name: 'web', port: 80 }] }]));
    await apply(
      gatewayManifest([httpListener(8080), httpListener(8081)]),
      gatewayManifest([httpListener(8080)], 'second'),
    );
    await eventually<Gateway>(
      resources.gateways,
      ref('gw'),
      (g) => isProgrammed(g) && g.status?.listeners?.length === 2,
    );
    const second = await eventually<Gateway>(resources.gateways, ref('second'), isProgrammed);
    expect(second.status?.addresses?.[0]?.value).toBe(`${network}.9.2`);
    const answer = await request(`http://${network}.9.1:8081/`, { dispatcher });
    expect(await answer.body.text()).toBe('web\n');
    await client.delete(resources.gateways, ref('gw'));
    await client.delete(resources.gateways, ref('second'));
    const deadline = Date.now() + 5000;
    const refuses = async () => {
      const answer = await request(`http://${network}.9.2:8080/`, { dispatcher }).catch(() => undefined);
      await answer?.body.dump();
      return answer === undefined;
    };
    while (!(await refuses()) && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 20));
    expect(await refuses()).toBe(true);
  });
});
