import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { fieldManager } from '../../src/api/labels.ts';
import { AppError } from '../../src/errors.ts';
import type { Client } from '../../src/kube/client.ts';
import { loadKubeConfig } from '../../src/kube/config.ts';
import { apiVersionOf, type KubeObject, type Manifest, type Resource } from '../../src/kube/object.ts';
import { ownedPart } from '../../src/kube/owned.ts';
import { resources } from '../../src/kube/resources.ts';
import { createClient } from '../../src/kube/rest-client.ts';
import type { ControlPlane } from '../../src/local/control-plane.ts';
import { silentLogger } from '../../src/telemetry/log.ts';
import { prefillDecodeService } from '../builders/service.ts';
import { eventually } from '../expect/eventually.ts';
import { awaitQuiet } from '../expect/quiet.ts';
import { startTestControlPlane } from './control-plane.ts';
import {
  acceptGatewayClass,
  applyAll,
  gatewayApiManifests,
  installOperator,
  poolManifests,
  readManifests,
  startTestOperator,
  type TestOperator,
} from './permitted-operator.ts';
import { childKinds, snapshotOf } from './snapshot.ts';

/** What the world around the operator does to it: other hands, outages, throttling, lost watches. */

const namespace = 'faults';
let plane: ControlPlane;
let admin: Client;
let operator: TestOperator;
let faults: Faults;
let restarted: ChildProcess | undefined;

beforeAll(async () => {
  plane = await startTestControlPlane({ serviceNetwork: '127.229' });
  admin = createClient(await loadKubeConfig({ path: plane.kubeconfigPath }), { log: silentLogger });
  await installOperator(admin);
  await applyAll(
    admin,
    ...(await gatewayApiManifests()),
    ...poolManifests(),
    ...readManifests('test', 'cluster', 'crds', 'leaderworkersets.yaml'),
    { apiVersion: 'v1', kind: 'Namespace', metadata: { name: namespace } },
  );
  await acceptGatewayClass(admin);
  operator = await startTestOperator(plane, admin, {}, (client) => {
    faults = createFaults(client);
    return faults.client;
  });
}, 600_000);

afterAll(async () => {
  await operator?.close(0);
  await admin?.close();
  restarted?.kill('SIGKILL');
  await plane?.stop();
}, 60_000);

/** A client between which and the server things go wrong, in an order that is the same each time. */
interface Faults {
  readonly client: Client;
  /** The part of requests that fail, and of events after which a watch breaks: 0 is none. */
  setRate(rate: number): void;
  readonly count: () => number;
  readonly seen: () => readonly string[];
}

function createFaults(client: Client): Faults {
  let rate = 0;
  let count = 0;
  const seen = new Set<string>();
  let seed = 42;
  const random = () => {
    seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648;
    return seed / 2_147_483_648;
  };
  const pick = (kinds: readonly string[]): string | undefined => {
    if (random() >= rate) return undefined;
    const kind = kinds[Math.floor(random() * kinds.length)] ?? '';
    count++;
    seen.add(kind);
    return kind;
  };
  const call = async <T>(send: () => Promise<T>): Promise<T> => {
    const kind = pick(['throttled', 'conflict', 'refused', 'answer lost']);
    if (kind === 'throttled') throw new AppError('overloaded', 'too many requests');
    if (kind === 'conflict') throw new AppError('conflict', 'the object has been modified');
    if (kind === 'refused') throw new AppError('unavailable', 'connection refused');
    const answer = await send();
    if (kind === 'answer lost') throw new AppError('timeout', 'no answer');
    return answer;
  };
  return {
    setRate: (next) => {
      rate = next;
    },
    count: () => count,
    seen: () => [...seen].sort(),
    client: {
      server: client.server,
      sent: client.sent,
      get: (...args) => call(() => client.get(...args)),
      list: (...args) => call(() => client.list(...args)),
      create: (...args) => call(() => client.create(...args)),
      replace: (...args) => call(() => client.replace(...args)),
      apply: (...args) => call(() => client.apply(...args)),
      mergePatch: (...args) => call(() => client.mergePatch(...args)),
      delete: (...args) => call(() => client.delete(...args)),
      request: (...args) => call(() => client.request(...args)),
      async *watch(resource, options, signal) {
        for await (const event of client.watch(resource, options, signal)) {
          const kind = pick(['watch too old', 'watch reset', 'watch ended']);
          // The event is lost with the connection that it came over.
          if (kind === 'watch too old') {
            yield { type: 'ERROR', code: 410, message: 'too old' };
            return;
          }
          if (kind === 'watch reset') throw new AppError('unavailable', 'reset');
          if (kind === 'watch ended') return;
          yield event as never;
        }
      },
      close: () => client.close(),
    },
  };
}

const model = { uri: 'hf://Qwen/Qwen2.5-7B-Instruct', name: 'chat' };
const template = { containers: [{ name: 'main', resources: { limits: { 'nvidia.com/gpu': '1' } } }] };

const service = (name: string, parts: Parameters<typeof prefillDecodeService>[0] = {}): Manifest => {
  const { metadata, ...rest } = prefillDecodeService({ ...parts, name, namespace });
  const { uid: _uid, generation: _generation, ...own } = metadata;
  return { ...rest, metadata: own } as unknown as Manifest;
};
const chat = (parts: Readonly<Record<string, unknown>> = {}) =>
  service('chat', {
    spec: { model: { ...model, lora: { adapters: [{ name: 'a', uri: 's3://adapters/a' }] } }, ...parts },
  });
const group = () => service('multi', { spec: { model, parallelism: { pipeline: 2 }, template, worker: template } });

const textNow = async () => (await snapshotOf(admin, namespace)).text;

describe('foreign edits', () => {
  it('to every kind of child are undone', async () => {
    await applyAll(admin, chat(), group());
    await eventually(async () => expect((await snapshotOf(admin, namespace)).text).toContain('multi-kserve'));
    await awaitQuiet(operator.counters, 1_000);
    const { objects } = await snapshotOf(admin, namespace);
    const children = objects.filter(({ kind }) => kind !== 'LLMInferenceService');
    const kinds = [...new Set(children.map(({ kind }) => kind))].sort();
    expect(kinds.length).toBeGreaterThanOrEqual(9);
    const edited = new Set<string>();
    for (const child of children) {
      const resource = requireResource(child);
      const { name } = child.metadata;
      // What the server refuses is no edit; each child takes at least that of its labels.
      for (const patch of editsOf(child)) {
        const accepted = await admin.mergePatch(resource, { namespace, name }, patch).then(
          () => true,
          () => false,
        );
        if (accepted) edited.add(child.kind);
      }
    }
    expect([...edited].sort()).toEqual(kinds);
    const ours = (of: readonly KubeObject[]) =>
      Object.fromEntries(
        of
          .filter(({ kind }) => kind !== 'LLMInferenceService')
          .map((child) => [`${child.apiVersion} ${child.kind} ${child.metadata.name}`, partsOf(child)]),
      );
    await eventually(
      async () => expect(ours((await snapshotOf(admin, namespace)).objects)).toEqual(ours(objects)),
      60_000,
    );
    // What others added stays theirs; it goes with the object.
    for (const child of children) await admin.delete(requireResource(child), { namespace, name: child.metadata.name });
    await eventually(
      async () => expect(ours((await snapshotOf(admin, namespace)).objects)).toEqual(ours(objects)),
      60_000,
    );
  }, 240_000);

  it('that delete any of them are undone, and nothing is made twice', async () => {
    await awaitQuiet(operator.counters, 1_000);
    const { objects, text } = await snapshotOf(admin, namespace);
    for (const child of objects.filter(({ kind }) => kind !== 'LLMInferenceService' && kind !== 'Secret')) {
      await admin.delete(requireResource(child), { namespace, name: child.metadata.name });
    }
    await eventually(async () => expect(await textNow()).toBe(text), 60_000);
  }, 120_000);
});

function requireResource(object: KubeObject): Resource {
  const resource = childKinds.find((one) => one.kind === object.kind && apiVersionOf(one) === object.apiVersion);
  if (!resource) throw new Error(`${object.apiVersion} ${object.kind} is not a kind of children`);
  return resource;
}

/** What the operator has set of an object, by its parts. */
function partsOf(child: KubeObject): Readonly<Record<string, unknown>> {
  const { apiVersion: _a, kind: _k, metadata: _m, status: _s, ...body } = child as unknown as Record<string, unknown>;
  return Object.fromEntries([
    ['labels', ownedPart(child, fieldManager, ['metadata', 'labels'])],
    ...Object.keys(body).flatMap((part) => {
      const value = ownedPart(child, fieldManager, [part]);
      return value === undefined ? [] : [[part, value]];
    }),
  ]);
}

/** For each part of an object that is the operator's one change of something in it, and its labels taken away. */
function* editsOf(child: KubeObject): Generator<object> {
  yield {
    metadata: { labels: Object.fromEntries(Object.keys(child.metadata.labels ?? {}).map((key) => [key, null])) },
  };
  const { labels: _labels, ...parts } = partsOf(child);
  for (const [part, value] of Object.entries(parts)) for (const changed of changesOf(value)) yield { [part]: changed };
}

/** Merge patches, each of which changes one value, at most a few below each field. */
function* changesOf(value: unknown, depth = 0): Generator<unknown> {
  if (typeof value === 'string') yield `${value}x`;
  else if (typeof value === 'number') yield value + 1;
  else if (typeof value === 'boolean') yield !value;
  else if (Array.isArray(value)) {
    yield value.slice(1);
    const [first, ...others] = value as unknown[];
    const [changed] = [...changesOf(first, depth + 1)];
    if (changed !== undefined)
      yield [typeof first === 'object' ? { ...first, ...(changed as object) } : changed, ...others];
  } else if (typeof value === 'object' && value !== null && depth < 4)
    for (const [key, below] of Object.entries(value).slice(0, 12))
      for (const changed of [...changesOf(below, depth + 1)].slice(0, 3)) yield { [key]: changed };
}

interface PodTemplateHolder {
  readonly spec: { readonly template: { readonly metadata: { readonly labels: Readonly<Record<string, string>> } } };
}

describe('a rest with Pending pods', () => {
  it('costs nothing', async () => {
    const pods = Array.from({ length: 5 }, (_, i) => `chat-kserve-${i}`);
    const { objects } = await snapshotOf(admin, namespace);
    const deployment = objects.find(({ kind, metadata }) => kind === 'Deployment' && metadata.name === 'chat-kserve');
    const labels = (deployment as unknown as PodTemplateHolder).spec.template.metadata.labels;
    const message = '0/5 nodes are available: 5 Insufficient nvidia.com/gpu.';
    const pending = (second: number) => ({
      status: {
        phase: 'Pending',
        conditions: [
          {
            type: 'PodScheduled',
            status: 'False',
            reason: 'Unschedulable',
            message,
            lastProbeTime: `2030-01-01T00:00:${String(second).padStart(2, '0')}Z`,
          },
        ],
      },
    });
    await applyAll(admin, { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'pods', namespace } });
    const woken = operator.counters.reconciles();
    for (const name of pods) {
      const spec = { serviceAccountName: 'pods', containers: [{ name: 'main', image: 'example.com/none' }] };
      await admin.create(resources.pods, {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name, namespace, labels },
        spec,
      } as Manifest);
      await admin.mergePatch(resources.pods, { namespace, name }, pending(0), { subresource: 'status' });
    }
    await eventually(() => expect(operator.counters.reconciles()).toBeGreaterThan(woken));
    await awaitQuiet(operator.counters, 1_500);
    const before = { ...operator.client.sent };
    const reconciles = operator.counters.reconciles();
    // The scheduler looks at them again and again.
    for (let second = 1; second <= 10; second++) {
      for (const name of pods)
        await admin.mergePatch(resources.pods, { namespace, name }, pending(second), { subresource: 'status' });
      await new Promise((resolve) => setTimeout(resolve, 1_000));
    }
    expect({ ...operator.client.sent }).toEqual(before);
    expect(operator.counters.reconciles()).toBe(reconciles);
    for (const name of pods) await admin.delete(resources.pods, { namespace, name }, { gracePeriodSeconds: 0 });
  }, 120_000);
});

describe('outages', () => {
  it('of the way to the API server: throttling, conflicts, lost answers and watches end in the same', async () => {
    await awaitQuiet(operator.counters, 1_000);
    const wanted = await textNow();
    faults.setRate(0.2);
    for (let round = 0; round < 6; round++) {
      await applyAll(admin, chat({ replicas: 3 + round, ...(round % 2 === 0 ? { prefill: undefined } : {}) } as never));
      await new Promise((resolve) => setTimeout(resolve, 1_500));
    }
    await applyAll(admin, chat());
    await eventually(() => expect(faults.count()).toBeGreaterThan(20), 60_000);
    faults.setRate(0);
    await eventually(async () => expect(await textNow()).toBe(wanted), 150_000);
    expect(faults.seen()).toEqual(expect.arrayContaining(['answer lost', 'conflict', 'refused', 'throttled']));
    expect(faults.seen().some((kind) => kind.startsWith('watch'))).toBe(true);
  }, 300_000);

  it('of an admission webhook that others registered for our children are waited out', async () => {
    await awaitQuiet(operator.counters, 1_000);
    const name = 'unreachable';
    await applyAll(admin, {
      apiVersion: 'admissionregistration.k8s.io/v1',
      kind: 'ValidatingWebhookConfiguration',
      metadata: { name },
      webhooks: [
        {
          name: 'unreachable.example.com',
          clientConfig: { url: 'https://127.0.0.1:9/validate' },
          rules: [
            { apiGroups: ['apps'], apiVersions: ['v1'], operations: ['CREATE', 'UPDATE'], resources: ['deployments'] },
          ],
          failurePolicy: 'Fail',
          sideEffects: 'None',
          admissionReviewVersions: ['v1'],
          timeoutSeconds: 1,
        },
      ],
    } as Manifest);
    const conditionOf = async (type: string) =>
      (
        await admin.get<KubeObject & { readonly status?: { readonly conditions?: readonly Record<string, string>[] } }>(
          resources.llmInferenceServices,
          { namespace, name: 'chat' },
        )
      )?.status?.conditions?.find((one) => one.type === type);
    let asked = 0;
    await eventually(async () => {
      asked++;
      await applyAll(admin, chat({ replicas: 20 + asked }));
      expect(await conditionOf('MainWorkloadReady')).toMatchObject({
        reason: 'ApplyFailed',
        message: expect.stringContaining('unreachable.example.com'),
      });
    }, 30_000);
    // Tried again ever more seldom: not in a loop.
    const sent = operator.counters.requests();
    await new Promise((resolve) => setTimeout(resolve, 5_000));
    expect(operator.counters.requests() - sent).toBeLessThan(20);
    await admin.delete(resources.validatingWebhookConfigurations, { name });
    await eventually(
      async () =>
        expect(await admin.get<KubeObject>(resources.deployments, { namespace, name: 'chat-kserve' })).toMatchObject({
          spec: { replicas: 20 + asked },
        }),
      90_000,
    );
  }, 180_000);

  it('of the API server itself, killed and started again, lose nothing', async () => {
    await applyAll(admin, chat());
    await awaitQuiet(operator.counters, 1_000);
    const wanted = await textNow();
    const { pid, args, env } = findApiServer(plane.port);
    const sent = operator.counters.requests();
    process.kill(pid, 'SIGKILL');
    await new Promise((resolve) => setTimeout(resolve, 3_000));
    // Each watch tries again with back-off.
    expect(operator.counters.requests() - sent).toBeLessThan(100);
    restarted = spawn(args[0] ?? '', args.slice(1), { stdio: 'ignore', env });
    await eventually(() => admin.request('GET', '/readyz'), 60_000);
    await eventually(() => applyAll(admin, chat({ replicas: 5 })), 60_000);
    const replicas = async () =>
      (
        (await admin.get<KubeObject>(resources.deployments, { namespace, name: 'chat-kserve' })) as unknown as {
          readonly spec: { readonly replicas: number };
        }
      ).spec.replicas;
    await eventually(async () => expect(await replicas()).toBe(5), 90_000);
    await admin.delete(resources.services, { namespace, name: 'chat-kserve-workload-svc' });
    await applyAll(admin, chat());
    await eventually(async () => expect(await textNow()).toBe(wanted), 90_000);
    await awaitQuiet(operator.counters, 1_000);
  }, 300_000);
});

/** The process that listens there, by what the kernel tells of processes. */
function findApiServer(port: number): {
  readonly pid: number;
  readonly args: readonly string[];
  readonly env: NodeJS.ProcessEnv;
} {
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const args = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').filter(Boolean);
      if (!args.includes(`--secure-port=${port}`) || !args[0]?.includes('kube-apiserver')) continue;
      return { pid: Number(pid), args, env: { PATH: process.env.PATH ?? '' } };
    } catch {
      // It ended meanwhile, or is somebody else's.
    }
  }
  throw new Error(`no kube-apiserver listens on port ${port}`);
}
