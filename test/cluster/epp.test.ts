import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { systemClock } from '../../src/clock.ts';
import type { Client } from '../../src/kube/client.ts';
import { loadKubeConfig } from '../../src/kube/config.ts';
import { resources } from '../../src/kube/resources.ts';
import { createClient } from '../../src/kube/rest-client.ts';
import type { ControlPlane } from '../../src/local/control-plane.ts';
import { applyManifests, parseManifests } from '../../src/local/install.ts';
import { silentLogger } from '../../src/telemetry/log.ts';
import { root, startTestControlPlane } from './control-plane.ts';

/** The endpoint picker's binary against a real API server: pools of both groups, pods that come and go, two replicas. */

const namespace = 'picking';
let plane: ControlPlane;
let client: Client;
const children: ChildProcess[] = [];

beforeAll(async () => {
  plane = await startTestControlPlane();
  client = createClient(await loadKubeConfig({ path: plane.kubeconfigPath }), { log: silentLogger });
  const definitions = ['inference.networking.k8s.io', 'inference.networking.x-k8s.io'].flatMap((group) => {
    const path = join(root, 'src/local/crds', `${group}_inferencepools.yaml`);
    return parseManifests(readFileSync(path, 'utf8'), path);
  });
  await applyManifests(client, definitions, { fieldManager: 'test', clock: systemClock });
  await client.create(resources.namespaces, { apiVersion: 'v1', kind: 'Namespace', metadata: { name: namespace } });
  const account = { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'default', namespace } };
  await client.create(resources.serviceAccounts, account);
}, 600_000);

afterAll(async () => {
  await Promise.all(children.map(stop));
  await client?.close();
  await plane?.stop();
});

async function stop(child: ChildProcess): Promise<number | null> {
  if (child.exitCode !== null) return child.exitCode;
  child.kill('SIGTERM');
  return new Promise((resolve) => child.once('exit', resolve));
}

interface Picker {
  readonly child: ChildProcess;
  readonly metricsPort: number;
  readonly log: () => string;
}

async function startPicker(...flags: readonly string[]): Promise<Picker> {
  const child = spawn(
    process.execPath,
    [
      join(root, 'src/cmd/epp.ts'),
      ...['--pool-namespace', namespace, '--kubeconfig', plane.kubeconfigPath, '--secure-serving=false'],
      ...['--grpc-port=0', '--grpc-health-port=0', '--metrics-port=0', '--pod-address=127.0.0.1', '--drain-timeout=1s'],
      ...flags,
    ],
    { stdio: ['ignore', 'ignore', 'pipe'], env: { PATH: process.env.PATH } },
  );
  children.push(child);
  let text = '';
  const { metricsPort } = await new Promise<{ metricsPort: number }>((resolve, reject) => {
    child.stderr?.on('data', (chunk: Buffer) => {
      text += chunk;
      const line = text.split('\n').find((candidate) => candidate.includes('"listening"'));
      if (line !== undefined) resolve(JSON.parse(line) as { metricsPort: number });
    });
    child.once('exit', (code) => reject(new Error(`the picker exited with ${code}: ${text}`)));
  });
  return { child, metricsPort, log: () => text };
}

async function readyEndpoints({ metricsPort }: Picker): Promise<number> {
  const page = await (await fetch(`http://127.0.0.1:${metricsPort}/metrics`)).text();
  return Number(/^llm_d_epp_ready_endpoints\{.*\} (\d+)/m.exec(page)?.[1]);
}

async function until(
  condition: () => Promise<boolean> | boolean,
  what: () => string,
  timeoutMs = 20_000,
): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (Date.now() < end) {
    if (await condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`never: ${what()}`);
}

async function createPod(name: string, app: string, ip: string, isReady: boolean): Promise<void> {
  await client.create(resources.pods, {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace, labels: { app } },
    spec: { containers: [{ name: 'main', image: 'vllm/vllm-openai:v0.11.0' }] },
  });
  const conditions = [{ type: 'Ready', status: isReady ? 'True' : 'False' }];
  const status = { phase: 'Running', podIP: ip, podIPs: [{ ip }], conditions };
  await client.mergePatch(resources.pods, { name, namespace }, { status }, { subresource: 'status' });
}

describe('the picker in a cluster', () => {
  it('follows pools of both groups and the pods that they select', async () => {
    const ref = { group: '', kind: 'Service', name: 'p-epp-service' };
    const first = await startPicker('--pool-name=p');
    const second = await startPicker('--pool-name=p', '--pool-group=inference.networking.x-k8s.io');
    await client.create(resources.inferencePools, {
      apiVersion: 'inference.networking.k8s.io/v1',
      kind: 'InferencePool',
      metadata: { name: 'p', namespace },
      spec: {
        selector: { matchLabels: { app: 'x' } },
        targetPorts: [{ number: 8000 }, { number: 8001 }],
        endpointPickerRef: { ...ref, port: { number: 9002 }, failureMode: 'FailOpen' },
      },
    });
    await client.create(resources.xInferencePools, {
      apiVersion: 'inference.networking.x-k8s.io/v1alpha2',
      kind: 'InferencePool',
      metadata: { name: 'p', namespace },
      spec: { selector: { app: 'x' }, targetPortNumber: 8000, extensionRef: { ...ref, portNumber: 9002 } },
    });
    await createPod('a', 'x', '127.0.9.1', true);
    await createPod('b', 'x', '127.0.9.2', false);
    await createPod('other', 'y', '127.0.9.3', true);
    await until(
      async () => (await readyEndpoints(first)) === 2,
      () => `two ranks of one pod: ${first.log()}`,
    );
    await until(
      async () => (await readyEndpoints(second)) === 1,
      () => `one pod: ${second.log()}`,
    );
    const ready = { status: { conditions: [{ type: 'Ready', status: 'True' }] } };
    await client.mergePatch(resources.pods, { name: 'b', namespace }, ready, { subresource: 'status' });
    await until(async () => (await readyEndpoints(first)) === 4, first.log);
    await client.delete(resources.pods, { name: 'a', namespace }, { gracePeriodSeconds: 0 });
    await until(async () => (await readyEndpoints(first)) === 2, first.log);
    await client.delete(resources.inferencePools, { name: 'p', namespace });
    await until(async () => (await readyEndpoints(first)) === 0, first.log);
    await until(async () => (await readyEndpoints(second)) === 1, second.log);
    expect(await stop(first.child)).toBe(0);
    expect(await stop(second.child)).toBe(0);
  }, 60_000);

  it('without a pool takes the pods of a selector; of two replicas one leads, then the other', async () => {
    await createPod('c', 'z', '127.0.9.4', true);
    const flags = ['--endpoint-selector=app=z', '--endpoint-target-ports=8000', '--ha-enable-leader-election'];
    const first = await startPicker(...flags);
    await until(async () => (await readyEndpoints(first)) === 1, first.log);
    await until(() => first.log().includes('"msg":"leading"'), first.log);
    const second = await startPicker(...flags);
    await until(async () => (await readyEndpoints(second)) === 1, second.log);
    expect(second.log()).not.toContain('"msg":"leading"');
    expect(await stop(first.child)).toBe(0);
    await until(() => second.log().includes('"msg":"leading"'), second.log, 8000);
    expect(await stop(second.child)).toBe(0);
  }, 60_000);
});
