import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Agent, request } from 'undici';
import type { Client } from '../../src/kube/client.ts';
import { loadKubeConfig } from '../../src/kube/config.ts';
import type { KubeObject, Manifest } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { createClient } from '../../src/kube/rest-client.ts';
import type { ControlPlane } from '../../src/local/control-plane.ts';
import { createImageTable } from '../../src/local/images.ts';
import type { Service } from '../../src/local/network/service.ts';
import { type Network, startNetwork } from '../../src/local/network.ts';
import {
  createAddressAllocator,
  type LoopbackNetworks,
  reserveLoopbackNetworks,
} from '../../src/local/node/address.ts';
import { containerLogPath } from '../../src/local/node/container-log.ts';
import type { Container, ContainerStatus, Pod, PodSpec } from '../../src/local/node/pod-spec.ts';
import { type LocalNode, startNode } from '../../src/local/node.ts';
import { silentLogger } from '../../src/telemetry/log.ts';
import { localEnvironment, root, startTestControlPlane } from './control-plane.ts';

interface NodeObject extends KubeObject {
  readonly status?: { readonly daemonEndpoints?: { readonly kubeletEndpoint?: { readonly Port?: number } } };
}

let networks: LoopbackNetworks;
let plane: ControlPlane;
let client: Client;
let network: Network;
let node: LocalNode;
let stateDir = '';

const namespace = 'default';
/** An image of the test's own: a shell, and node beside it. */
const shell = { name: 'shell', entrypoint: ['/bin/sh'], commands: { node: [localEnvironment.node] }, tools: {} };

beforeAll(async () => {
  networks = await reserveLoopbackNetworks();
  plane = await startTestControlPlane({ controllers: true, scheduler: true, serviceNetwork: networks.services });
  stateDir = await mkdtemp(join(tmpdir(), 'signalbox-node-'));
  client = createClient(await loadKubeConfig({ path: plane.kubeconfigPath }), { log: silentLogger });
  const apiServer = { url: plane.server, caFile: plane.caFile };
  network = await startNetwork({ client, log: silentLogger, stateDir, apiServer });
  node = await startNode({
    client,
    name: 'node-1',
    addresses: createAddressAllocator(networks.pods),
    images: createImageTable({
      root,
      node: localEnvironment.node,
      stateDir,
      extra: { 'test/shell': shell },
    }),
    stateDir,
    apiServer,
    network,
    kubelet: plane.kubelet,
    log: silentLogger,
    gpus: 2,
    backOff: { baseMs: 1_000, capMs: 4_000 },
  });
  await network.synced;
  await until('the default service account', () =>
    client.get(resources.serviceAccounts, { namespace, name: 'default' }),
  );
}, 900_000);

afterAll(async () => {
  await node?.close(1_000);
  await network?.close();
  await client?.close();
  await plane?.stop();
  await networks?.close();
  if (stateDir) await rm(stateDir, { recursive: true, force: true });
}, 60_000);

/** Asks until there is an answer. */
async function until<T>(what: string, ask: () => Promise<T | undefined | false>, timeoutMs = 30_000): Promise<T> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined && answer !== false) return answer;
    if (Date.now() > deadline) {
      const pods = await client.list<Pod>(resources.pods, { namespace });
      const shown = pods.items.map((pod) => `${pod.metadata.name} ${JSON.stringify(pod.status)}`).join('\n');
      throw new Error(`after ${timeoutMs} ms still not there: ${what}\n${shown}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

const getPod = (name: string) => client.get<Pod>(resources.pods, { namespace, name });
const podWhen = (name: string, what: string, holds: (pod: Pod) => boolean) =>
  until(`${name} ${what}`, async () => {
    const pod = await getPod(name);
    return pod && holds(pod) && pod;
  });
const isReady = (pod: Pod) => pod.status?.conditions?.some((c) => c.type === 'Ready' && c.status === 'True') === true;
const statusOf = (pod: Pod, container: string): ContainerStatus | undefined =>
  [...(pod.status?.initContainerStatuses ?? []), ...(pod.status?.containerStatuses ?? [])].find(
    (status) => status.name === container,
  );
const waitingReason = (pod: Pod, container: string) =>
  (statusOf(pod, container)?.state?.waiting as { reason?: string } | undefined)?.reason;
const logOf = (pod: string, container: string) =>
  readFile(containerLogPath(stateDir, namespace, pod, container), 'utf8').catch(() => '');

const script = (name: string, text: string, extra: Partial<Container> = {}): Container => ({
  name,
  image: 'test/shell:1',
  command: ['/bin/sh', '-c', text],
  ...extra,
});
const createPod = (name: string, spec: PodSpec, labels: Readonly<Record<string, string>> = {}) =>
  client.create<Pod>(resources.pods, {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace, labels },
    spec,
  } as Manifest);
const deletePod = async (name: string): Promise<void> => {
  await client.delete(resources.pods, { namespace, name });
  await until(`${name} gone`, async () => (await getPod(name)) === undefined);
};
async function eventsOf(name: string): Promise<readonly string[]> {
  interface Event extends KubeObject {
    readonly reason: string;
    readonly message: string;
    readonly involvedObject: { readonly fieldPath?: string };
  }
  const events = await client.list<Event>(resources.events, {
    namespace,
    fieldSelector: `involvedObject.name=${name}`,
  });
  return events.items.map(({ reason, message }) => `${reason}: ${message}`);
}

/** Serves its pod's name, and remembers in a file of the pod that it was told to stop. */
const server = (text: string, port: number) => `
const http = require('node:http');
http.createServer((request, response) => response.end(${text})).listen(${port}, process.env.SIGNALBOX_POD_ADDRESS);
`;

describe('a Deployment behind a Service', () => {
  it('runs init containers, sidecars and main containers, answers on the ClusterIP and by name, and goes without a trace', async () => {
    await client.create(resources.configMaps, {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'web', namespace },
      data: { greeting: 'hello' },
    });
    await client.create(resources.deployments, {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata: { name: 'web', namespace },
      spec: {
        replicas: 2,
        selector: { matchLabels: { app: 'web' } },
        template: {
          metadata: { labels: { app: 'web' } },
          spec: {
            terminationGracePeriodSeconds: 5,
            initContainers: [
              script('prepare', 'cat /etc/web/greeting > /work/greeting', {
                volumeMounts: [
                  { name: 'config', mountPath: '/etc/web' },
                  { name: 'work', mountPath: '/work' },
                ],
              }),
              {
                name: 'side',
                image: 'test/shell:1',
                restartPolicy: 'Always',
                command: ['node', '-e', server('"side"', 9000)],
                startupProbe: { tcpSocket: { port: 9000 }, periodSeconds: 1, failureThreshold: 30 },
              },
            ],
            containers: [
              {
                name: 'main',
                image: 'test/shell:1',
                command: [
                  'node',
                  '-e',
                  server('require("fs").readFileSync("/work/greeting") + " " + process.env.NAME', 8080),
                ],
                env: [{ name: 'NAME', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } }],
                ports: [{ name: 'http', containerPort: 8080 }],
                readinessProbe: { httpGet: { path: '/', port: 'http' }, periodSeconds: 1 },
                resources: { limits: { 'nvidia.com/gpu': '1' } },
                volumeMounts: [{ name: 'work', mountPath: '/work' }],
              },
            ],
            volumes: [
              { name: 'config', configMap: { name: 'web' } },
              { name: 'work', emptyDir: {} },
            ],
          },
        },
      },
    });
    const service = await client.create<Service>(resources.services, {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'web', namespace },
      spec: { selector: { app: 'web' }, ports: [{ port: 8088, targetPort: 'http' }] },
    });
    interface Deployment extends KubeObject {
      readonly status?: { readonly availableReplicas?: number };
    }
    await until('2 replicas available', async () => {
      const live = await client.get<Deployment>(resources.deployments, { namespace, name: 'web' });
      return live?.status?.availableReplicas === 2;
    });
    const { items } = await client.list<Pod>(resources.pods, { namespace, labelSelector: 'app=web' });
    for (const pod of items) {
      expect(pod.status).toMatchObject({ phase: 'Running', hostIP: '127.0.0.1', observedGeneration: 1 });
      expect(pod.status?.podIP?.startsWith(`${networks.pods}.`)).toBe(true);
      expect(statusOf(pod, 'prepare')?.state?.terminated).toMatchObject({ exitCode: 0, reason: 'Completed' });
      expect(statusOf(pod, 'side')).toMatchObject({ started: true, ready: true, restartCount: 0 });
      const events = await eventsOf(pod.metadata.name);
      expect(events).toContain('Pulled: Container image "test/shell:1" already present on machine');
      expect(events.filter((event) => event.startsWith('Started:'))).toHaveLength(3);
    }
    const names = new Set<string>();
    await until('answers of both pods', async () => {
      const answer = await request(`http://${service.spec.clusterIP}:8088/`, { headersTimeout: 2_000, reset: true });
      names.add(await answer.body.text());
      return names.size === 2;
    });
    expect([...names].sort()).toEqual(items.map((pod) => `hello ${pod.metadata.name}`).sort());

    // Another pod reaches them by name, and the API server with its token, at the paths it knows.
    await createPod('caller', {
      restartPolicy: 'Never',
      containers: [
        {
          name: 'main',
          image: 'test/shell:1',
          command: [
            'node',
            '-e',
            `(async () => {
              console.log(await (await fetch('http://web:8088')).text());
              console.log(await (await fetch('http://web.default.svc.cluster.local:8088')).text());
              console.log(await fetch('http://nope.default.svc:8088').catch((e) => e.cause.code));
              const fs = require('node:fs'), dir = '/var/run/secrets/kubernetes.io/serviceaccount';
              require('node:https').get({
                host: process.env.KUBERNETES_SERVICE_HOST, port: process.env.KUBERNETES_SERVICE_PORT, path: '/api',
                ca: fs.readFileSync(dir + '/ca.crt'), headers: { authorization: 'Bearer ' + fs.readFileSync(dir + '/token') },
              }, (response) => { console.log(response.statusCode, fs.existsSync(process.env.KUBECONFIG)); process.exit(7); });
            })();`,
          ],
        },
      ],
    });
    const caller = await podWhen('caller', 'ended', (pod) => pod.status?.phase === 'Failed');
    expect(statusOf(caller, 'main')?.state?.terminated).toMatchObject({ exitCode: 7, reason: 'Error' });
    const lines = (await logOf('caller', 'main')).trim().split('\n');
    expect(lines).toEqual([
      expect.stringMatching(/^hello web-/),
      expect.stringMatching(/^hello web-/),
      'ENOTFOUND',
      '200 true',
    ]);
    await deletePod('caller');

    await client.delete(resources.deployments, { namespace, name: 'web' }, { propagationPolicy: 'Foreground' });
    await until('no pod of web', async () => {
      const left = await client.list<Pod>(resources.pods, { namespace, labelSelector: 'app=web' });
      return left.items.length === 0;
    });
    await until('no directory of a pod', async () => (await readdir(join(stateDir, 'pods'))).length === 0);
    await expect(request(`http://${service.spec.clusterIP}:8088/`)).rejects.toThrow('ECONNREFUSED');
    expect(await processesOf(stateDir)).toEqual([]);
  }, 60_000);
});

describe('containers', () => {
  it('stop in order: main containers, then sidecars from the last, after their preStop hooks', async () => {
    // Outside of the pod, so that it can be read after the pod is gone.
    const order = join(stateDir, 'order');
    const told = (name: string) => `trap 'echo ${name} >> ${order}; exit 0' TERM; while :; do sleep 0.05; done`;
    await createPod('ordered', {
      terminationGracePeriodSeconds: 10,
      initContainers: [
        script('s1', told('s1'), { restartPolicy: 'Always' }),
        script('s2', told('s2'), { restartPolicy: 'Always' }),
      ],
      containers: [
        script('main', told('main'), {
          lifecycle: {
            postStart: { exec: { command: ['/bin/sh', '-c', `echo postStart >> ${order}`] } },
            preStop: { exec: { command: ['/bin/sh', '-c', `echo preStop >> ${order}; sleep 0.2`] } },
          },
        }),
      ],
    });
    await podWhen('ordered', 'ready', isReady);
    await until('the postStart hook', async () => (await readFile(order, 'utf8').catch(() => '')) === 'postStart\n');
    await deletePod('ordered');
    expect(await readFile(order, 'utf8')).toBe('postStart\npreStop\nmain\ns2\ns1\n');
    expect(await eventsOf('ordered')).toContain('Killing: Stopping container main');
  }, 30_000);

  it('show their logs to kubectl, also while they are written', async () => {
    const path = '/api/v1/namespaces/default/pods/talking/log';
    const read = (query: string) => client.request<string>('GET', `${path}?${query}`, undefined, { accept: '*/*' });
    const release = join(stateDir, 'go-on');
    await createPod('talking', {
      terminationGracePeriodSeconds: 1,
      restartPolicy: 'Never',
      containers: [
        script('main', `echo one; echo two; echo three; until [ -e ${release} ]; do sleep 0.1; done; echo four`),
      ],
    });
    await until('three lines', async () => (await logOf('talking', 'main')).includes('three'));
    expect(await read('')).toBe('one\ntwo\nthree\n');
    expect(await read('tailLines=2')).toBe('two\nthree\n');
    expect(await read('tailLines=0')).toBeUndefined();
    expect(await read('limitBytes=5')).toBe('one\nt');
    await expect(read('previous=true')).rejects.toThrow(/holds all its runs: leave --previous out/);
    await expect(read('container=other')).rejects.toThrow(/container other is not valid for pod talking/);
    const followed = read('follow=true');
    await writeFile(release, '');
    await podWhen('talking', 'done', ({ status }) => status?.phase === 'Succeeded');
    await deletePod('talking');
    expect(await followed).toBe('one\ntwo\nthree\nfour\n');
    // Who shows no certificate of the cluster is not answered.
    const [live] = (await client.list<NodeObject>(resources.nodes)).items;
    const port = live?.status?.daemonEndpoints?.kubeletEndpoint?.Port;
    const stranger = request(`https://127.0.0.1:${port}/containerLogs/default/talking/main`, {
      dispatcher: new Agent({ connect: { rejectUnauthorized: false } }),
    });
    await expect(stranger).rejects.toThrow();
  }, 30_000);

  it('restart with back-off when they crash, and tell the exit code', async () => {
    await createPod('crashing', {
      terminationGracePeriodSeconds: 1,
      containers: [script('main', 'echo boom > /dev/termination-log; exit 3')],
    });
    const pod = await podWhen(
      'crashing',
      'backs off',
      (live) => waitingReason(live, 'main') === 'CrashLoopBackOff' && (statusOf(live, 'main')?.restartCount ?? 0) >= 2,
    );
    expect(statusOf(pod, 'main')?.lastState?.terminated).toMatchObject({
      exitCode: 3,
      reason: 'Error',
      message: 'boom\n',
    });
    expect(
      (await eventsOf('crashing')).some((event) =>
        event.startsWith('BackOff: Back-off restarting failed container main'),
      ),
    ).toBe(true);
    await deletePod('crashing');
  }, 30_000);

  it('are killed by their liveness probe, and get unready by their readiness probe', async () => {
    await createPod('sick', {
      terminationGracePeriodSeconds: 1,
      containers: [
        script('main', 'touch /work/alive; sleep 60', {
          volumeMounts: [{ name: 'work', mountPath: '/work' }],
          livenessProbe: { exec: { command: ['test', '-e', '/work/alive'] }, periodSeconds: 1, failureThreshold: 2 },
          readinessProbe: {
            exec: { command: ['test', '!', '-e', '/work/unready'] },
            periodSeconds: 1,
            failureThreshold: 1,
          },
        }),
      ],
      volumes: [{ name: 'work', emptyDir: {} }],
    });
    const pod = await podWhen('sick', 'ready', isReady);
    const work = join(stateDir, 'pods', pod.metadata.uid ?? '', 'volumes', 'work');
    await writeFile(join(work, 'unready'), '');
    await podWhen('sick', 'unready', (live) => !isReady(live));
    await rm(join(work, 'unready'));
    await podWhen('sick', 'ready again', isReady);
    await rm(join(work, 'alive'));
    const restarted = await podWhen('sick', 'restarted', (live) => statusOf(live, 'main')?.restartCount === 1);
    expect(statusOf(restarted, 'main')?.lastState?.terminated).toMatchObject({ exitCode: 143 });
    expect(await eventsOf('sick')).toContain('Killing: Container main failed liveness probe, will be restarted');
    await deletePod('sick');
  }, 30_000);

  it('wait for what they need: an image, a ConfigMap, a volume, a GPU', async () => {
    const grace = { terminationGracePeriodSeconds: 1 };
    await createPod('no-image', { ...grace, containers: [{ name: 'main', image: 'nowhere/nothing:1' }] });
    await createPod('no-config', {
      ...grace,
      containers: [
        script('main', 'echo $COLOR; sleep 60', {
          env: [{ name: 'COLOR', valueFrom: { configMapKeyRef: { name: 'later', key: 'color' } } }],
        }),
      ],
    });
    await createPod('no-volume', {
      ...grace,
      containers: [script('main', 'sleep 60')],
      volumes: [{ name: 'host', hostPath: { path: '/' } } as never],
    });
    await createPod('no-gpu', {
      ...grace,
      containers: [script('main', 'sleep 60', { resources: { limits: { 'nvidia.com/gpu': '3' } } })],
    });
    await podWhen('no-image', 'fails to pull', (pod) => waitingReason(pod, 'main') === 'ErrImagePull');
    await podWhen('no-image', 'backs off', (pod) => waitingReason(pod, 'main') === 'ImagePullBackOff');
    const events = await eventsOf('no-image');
    expect(events).toContain('Pulling: Pulling image "nowhere/nothing:1"');
    expect(events).toContain('Failed: Error: ErrImagePull');
    expect(events).toContain('BackOff: Back-off pulling image "nowhere/nothing:1"');

    await podWhen('no-config', 'misses it', (pod) => waitingReason(pod, 'main') === 'CreateContainerConfigError');
    await client.create(resources.configMaps, {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'later', namespace },
      data: { color: 'green' },
    });
    await podWhen('no-config', 'runs', isReady);
    await until('its output', async () => (await logOf('no-config', 'main')) === 'green\n');

    await until('an event about the volume', async () =>
      (await eventsOf('no-volume')).find((event) => event.includes('the embedded cluster has no hostPath volumes')),
    );
    const pending = await podWhen('no-gpu', 'is judged', (pod) => (pod.status?.conditions ?? []).length > 0);
    expect(pending.status?.phase).toBe('Pending');
    expect(pending.status?.conditions?.[0]?.message).toContain('Insufficient nvidia.com/gpu');
    await Promise.all(['no-image', 'no-config', 'no-volume', 'no-gpu'].map(deletePod));
  }, 60_000);

  it("run a model server's shell script with the simulator", async () => {
    await createPod('model', {
      terminationGracePeriodSeconds: 5,
      containers: [
        {
          name: 'main',
          image: 'vllm/vllm-openai:v0.11.0',
          command: ['/bin/bash', '-c', 'eval "vllm serve /mnt/models --served-model-name tiny --port 8000 $*"', '--'],
          args: ['--max-model-len', '2048'],
          volumeMounts: [{ name: 'models', mountPath: '/mnt/models' }],
          readinessProbe: { httpGet: { path: '/health', port: 8000 }, periodSeconds: 1 },
        },
      ],
      volumes: [{ name: 'models', emptyDir: {} }],
    });
    const pod = await podWhen('model', 'ready', isReady);
    const answer = await request(`http://${pod.status?.podIP}:8000/v1/models`, { headersTimeout: 5_000 });
    expect(await answer.body.json()).toMatchObject({ data: [{ id: 'tiny' }] });
    await deletePod('model');
    expect(await processesOf(stateDir)).toEqual([]);
  }, 40_000);
});

/** Command lines of living processes whose environment names the folder: those of containers. */
async function processesOf(dir: string): Promise<readonly string[]> {
  const found: string[] = [];
  for (const pid of (await readdir('/proc')).filter((entry) => /^\d+$/.test(entry))) {
    const env = await readFile(`/proc/${pid}/environ`, 'utf8').catch(() => '');
    if (env.includes(dir))
      found.push((await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).replaceAll('\0', ' '));
  }
  return found;
}
