import { X509Certificate } from 'node:crypto';
import { afterEach, describe, expect, it } from '@jest/globals';
import { Registry } from 'prom-client';
import { Agent, request } from 'undici';
import { ManualClock } from '../clock.ts';
import { AppError } from '../errors.ts';
import type { Change, Informer } from '../kube/informer.ts';
import type { KubeObject, ObjectRef } from '../kube/object.ts';
import { resources } from '../kube/resources.ts';
import { IndexedStore } from '../kube/store.ts';
import { silentLogger } from '../telemetry/log.ts';
import { startAdmissionServer } from './admission-server.ts';
import { type CertificateBundle, needsRotation, rotate } from './certs.ts';
import { startController } from './controller.ts';
import { reconcileFinalizer } from './finalizer.ts';
import { startHealthServer } from './health.ts';
import { startManager } from './manager.ts';
import { createControllerMetrics } from './metrics.ts';
import { WorkQueue } from './queue.ts';
import { awaitChange, type Outcome, requeueAfter, TerminalError } from './reconcile.ts';
import { hasWishChanged, type Trigger, triggerLabel, triggerOwner, triggerSelf } from './triggers.ts';

const settle = () => new Promise<void>((resolve) => setImmediate(resolve));

describe('the queue', () => {
  it('hands a key out once, and again when it was added meanwhile', async () => {
    const queue = new WorkQueue({ clock: new ManualClock() });
    for (const key of ['a', 'b', 'a', 'a']) queue.add(key);
    expect([await queue.take(), await queue.take(), queue.depth]).toEqual(['a', 'b', 0]);
    const third = queue.take();
    queue.add('a');
    queue.add('a');
    await settle();
    expect(queue.running).toBe(2);
    queue.done('b');
    queue.done('a');
    expect(await third).toBe('a');
    queue.done('a');
    expect([queue.depth, queue.running]).toEqual([0, 0]);
    queue.close();
  });

  it('keeps the earliest delay, and drops it for an immediate add', async () => {
    const clock = new ManualClock();
    const queue = new WorkQueue({ clock });
    queue.addAfter('a', 5_000);
    queue.addAfter('a', 2_000);
    queue.addAfter('a', 9_000);
    await clock.advance(1_999);
    expect(queue.depth).toBe(0);
    await clock.advance(1);
    expect([queue.depth, queue.delayed]).toEqual([1, 0]);
    expect(await queue.take()).toBe('a');
    queue.done('a');
    queue.addAfter('a', 5_000);
    queue.add('a');
    expect(await queue.take()).toBe('a');
    queue.done('a');
    await clock.advance(60_000);
    expect(queue.depth).toBe(0);
    queue.close();
    expect(await queue.take()).toBeUndefined();
  });

  it('backs off per key, from 1 s to 60 s, and starts over after a success', () => {
    const queue = new WorkQueue({ clock: new ManualClock(), random: () => 0.5 });
    const delays = Array.from({ length: 8 }, () => queue.addFailed('a'));
    expect(delays).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
    expect(queue.addFailed('b')).toBe(1_000);
    queue.forget('a');
    expect(queue.addFailed('a')).toBe(1_000);
    queue.close();
  });
});

describe('the loop', () => {
  const start = (reconcile: (ref: ObjectRef, signal: AbortSignal) => Promise<Outcome>, workers = 2) => {
    const clock = new ManualClock();
    const registry = new Registry();
    let add: (key: string) => void = () => {};
    const trigger: Trigger = (enqueue) => {
      add = enqueue;
      return () => {
        add = () => {};
      };
    };
    const controller = startController(
      { name: 'test', reconcile, triggers: [trigger], workers },
      { log: silentLogger, clock, metrics: createControllerMetrics(registry) },
    );
    const results = async () =>
      Object.fromEntries(
        ((await registry.getSingleMetric('signalbox_reconcile_total')?.get())?.values ?? []).map((value) => [
          value.labels.result,
          value.value,
        ]),
      );
    return { clock, controller, registry, results, add: (key: string) => add(key) };
  };

  it('gives every outcome and error its meaning', async () => {
    const runs: string[] = [];
    const script: (Outcome | Error)[] = [
      requeueAfter(30_000),
      new Error('bug'),
      new AppError('unavailable', 'down'),
      new AppError('conflict', 'changed'),
      new TerminalError('hopeless'),
      awaitChange(),
    ];
    const test = start(async ({ namespace, name }) => {
      runs.push(`${namespace}/${name}`);
      const next = script.shift() ?? awaitChange();
      if (next instanceof Error) throw next;
      return next;
    });
    test.add('ns/a');
    await settle();
    expect(runs).toEqual(['ns/a']);
    await test.clock.advance(30_000);
    expect(runs).toHaveLength(2);
    await test.clock.advance(1_500);
    expect(runs).toHaveLength(3);
    await test.clock.advance(2_500);
    // The conflict was tried again by itself, then the terminal error waits for a change.
    await test.clock.advance(1_000);
    expect(runs).toHaveLength(5);
    await test.clock.advance(600_000);
    expect(runs).toHaveLength(5);
    test.add('ns/a');
    await settle();
    expect(runs).toHaveLength(6);
    expect(await test.results()).toEqual({ requeue: 1, error: 2, conflict: 1, terminal: 1, success: 1 });
    expect(await test.registry.metrics()).toContain('signalbox_queue_depth{controller="test"} 0');
    await test.controller.close();
  });

  it('does not spin on a conflict without end', async () => {
    let runs = 0;
    const test = start(async () => {
      runs++;
      throw new AppError('conflict', 'again');
    });
    test.add('a');
    await test.clock.advance(800);
    expect(runs).toBe(11);
    await test.controller.close();
  });

  it('never works on one key twice at once, and on several keys together', async () => {
    const running = new Set<string>();
    let most = 0;
    const release: (() => void)[] = [];
    const test = start(async ({ name }) => {
      if (running.has(name)) throw new Error(`${name} twice`);
      running.add(name);
      most = Math.max(most, running.size);
      await new Promise<void>((resolve) => release.push(resolve));
      running.delete(name);
      return awaitChange();
    }, 3);
    for (const key of ['a', 'b', 'a', 'c', 'd', 'a']) test.add(key);
    await settle();
    test.add('a');
    expect([...running]).toEqual(['a', 'b', 'c']);
    for (let i = 0; i < 5; i++) {
      release.shift()?.();
      await settle();
    }
    expect([most, running.size, release.length]).toEqual([3, 0, 0]);
    expect(await test.results()).toEqual({ success: 5 });
    await test.controller.close();
  });

  it('stops: no new work, running work awaited, then aborted', async () => {
    let aborted = false;
    const runs: string[] = [];
    const test = start(async ({ name }, signal) => {
      runs.push(name);
      if (name === 'slow') {
        await new Promise<void>((_, reject) => {
          signal.addEventListener('abort', () => {
            aborted = true;
            reject(signal.reason);
          });
        });
      }
      return awaitChange();
    }, 1);
    test.add('slow');
    test.add('waiting');
    await settle();
    const closed = test.controller.close(3_000);
    test.add('late');
    await test.clock.advance(2_999);
    expect(aborted).toBe(false);
    await test.clock.advance(1);
    await closed;
    expect([aborted, runs]).toEqual([true, ['slow']]);
  });
});

/** An informer whose changes are made by hand. */
function manualInformer<T extends KubeObject>() {
  const store = new IndexedStore<T>();
  const handlers = new Set<(change: Change<T>) => void>();
  let setSynced: () => void = () => {};
  const synced = new Promise<void>((resolve) => {
    setSynced = resolve;
  });
  const state = { isSynced: false, isClosed: false };
  const informer: Informer<T> = {
    store,
    synced,
    get isSynced() {
      return state.isSynced;
    },
    subscribe(handler) {
      handlers.add(handler);
      return () => handlers.delete(handler);
    },
    close() {
      state.isClosed = true;
    },
  };
  return {
    informer,
    state,
    sync: () => {
      state.isSynced = true;
      setSynced();
    },
    tell: (change: Change<T>) => {
      for (const handler of handlers) handler(change);
    },
  };
}

describe('triggers', () => {
  const pod = (extra: Partial<KubeObject['metadata']> = {}): KubeObject => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'p', namespace: 'ns', ...extra },
  });
  const owned = (name: string, apiVersion = 'serving.kserve.io/v1alpha1', kind = 'LLMInferenceService') =>
    pod({ ownerReferences: [{ apiVersion, kind, name, uid: 'u', controller: true }] });
  const keysOf = (make: (informer: Informer<KubeObject>) => Trigger, changes: readonly Change<KubeObject>[]) => {
    const manual = manualInformer<KubeObject>();
    const keys: string[] = [];
    make(manual.informer)((key) => keys.push(key));
    for (const change of changes) manual.tell(change);
    return keys;
  };
  const service = { group: 'serving.kserve.io', kind: 'LLMInferenceService' };

  it('name the object, its owner or the object of a label, before and after', () => {
    const moved: Change<KubeObject> = { type: 'updated', before: owned('a'), object: owned('b') };
    expect(keysOf((i) => triggerOwner(i, service), [moved, { type: 'deleted', object: owned('c') }])).toEqual([
      'ns/a',
      'ns/b',
      'ns/c',
    ]);
    expect(
      keysOf(
        (i) => triggerOwner(i, service),
        [
          { type: 'added', object: owned('a', 'apps/v1') },
          { type: 'added', object: owned('a', 'serving.kserve.io/v1', 'Other') },
        ],
      ),
    ).toEqual([]);
    const relabelled: Change<KubeObject> = {
      type: 'updated',
      before: pod({ labels: { app: 'x' } }),
      object: pod({ labels: { app: 'y' } }),
    };
    expect(keysOf((i) => triggerLabel(i, 'app'), [relabelled, { type: 'added', object: pod() }])).toEqual([
      'ns/x',
      'ns/y',
    ]);
    expect(
      keysOf(
        (i) => triggerSelf(i, { when: hasWishChanged }),
        [
          {
            type: 'updated',
            before: pod({ generation: 1, resourceVersion: '1' }),
            object: pod({ generation: 1, resourceVersion: '2' }),
          },
        ],
      ),
    ).toEqual([]);
    expect(
      keysOf(
        (i) => triggerSelf(i, { when: hasWishChanged }),
        [{ type: 'updated', before: pod({ generation: 1 }), object: pod({ generation: 1, deletionTimestamp: 'now' }) }],
      ),
    ).toEqual(['ns/p']);
  });
});

describe('the manager', () => {
  it('starts controllers when the caches are full, and stops in order', async () => {
    const manual = manualInformer<KubeObject>();
    const optional = manualInformer<KubeObject>();
    const runs: string[] = [];
    const manager = startManager(
      {
        controllers: [
          {
            name: 'c',
            reconcile: async ({ name }) => {
              runs.push(name);
              return awaitChange();
            },
            triggers: [triggerSelf(manual.informer)],
          },
        ],
        informers: [manual.informer],
        optionalInformers: [optional.informer],
      },
      { client: {} as never, log: silentLogger },
    );
    await settle();
    expect(manager.isSynced).toBe(false);
    manual.sync();
    await manager.started;
    manual.tell({ type: 'added', object: { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'p' } } });
    await settle();
    expect([runs, manager.isSynced, manager.isLeading]).toEqual([['p'], true, true]);
    await manager.close();
    expect([manual.state.isClosed, optional.state.isClosed]).toEqual([true, true]);
  });
});

describe('a finalizer', () => {
  const object = (finalizers: readonly string[], isGoing = false): KubeObject => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: 'p',
      namespace: 'ns',
      uid: 'u',
      resourceVersion: '7',
      finalizers,
      ...(isGoing ? { deletionTimestamp: 'now' } : {}),
    },
  });
  it.each<[string, KubeObject, boolean, string, unknown]>([
    ['is added', object(['x']), true, 'added', ['x', 'mine']],
    ['is there', object(['mine']), true, 'present', undefined],
    ['waits for cleaning up', object(['mine'], true), false, 'cleaning', undefined],
    ['goes, and leaves others', object(['x', 'mine'], true), true, 'gone', ['x']],
    ['is not put on what is going', object(['x'], true), true, 'gone', undefined],
  ])('%s', async (_, live, isDone, kind, written) => {
    let patch: unknown;
    const client = {
      mergePatch: async (_resource: unknown, _ref: unknown, body: unknown) => {
        patch = body;
        return {} as never;
      },
    };
    const verdict = await reconcileFinalizer(client, resources.pods, live, 'mine', async () => isDone);
    expect(verdict.kind).toBe(kind);
    expect(patch).toEqual(
      written === undefined ? undefined : { metadata: { uid: 'u', resourceVersion: '7', finalizers: written } },
    );
  });
});

const closers: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

describe('the health server', () => {
  it('tells well from unwell, and serves metrics', async () => {
    let why: string | undefined = 'waiting for pods';
    const registry = new Registry();
    createControllerMetrics(registry).reconciled('c', 'success', 0.1);
    const server = await startHealthServer({
      host: '127.0.0.1',
      port: 0,
      ready: {
        caches: () => why,
        other: () => undefined,
        broken: async () => {
          if (why) throw new Error('thrown');
          return undefined;
        },
      },
      metrics: registry,
    });
    const agent = new Agent();
    closers.push(
      () => server.close(),
      () => agent.close(),
    );
    const get = async (path: string, method: 'GET' | 'POST' = 'GET') => {
      const response = await request(`http://127.0.0.1:${server.port}${path}`, { method, dispatcher: agent });
      return [response.statusCode, await response.body.text()];
    };
    expect(await get('/healthz')).toEqual([200, 'ok\n']);
    expect(await get('/readyz')).toEqual([503, '[-] caches: waiting for pods\n[+] other ok\n[-] broken: thrown\n']);
    why = undefined;
    expect(await get('/readyz?verbose')).toEqual([200, 'ok\n']);
    expect((await get('/metrics'))[1]).toContain('signalbox_reconcile_total{controller="c",result="success"} 1');
    expect((await get('/nothing'))[0]).toBe(404);
    expect((await get('/healthz', 'POST'))[0]).toBe(405);
    await expect(startHealthServer({ host: '127.0.0.1', port: server.port })).rejects.toMatchObject({
      code: 'unavailable',
    });
  });
});

const names = ['webhook.system.svc', '127.0.0.1'];
const dayMs = 86_400_000;
const nowMs = Date.UTC(2030, 0, 1);
const issue = (present?: CertificateBundle, at = nowMs) =>
  rotate(present, { kind: 'authority', reason: 'test' }, names, at);

describe('certificates', () => {
  it('are renewed in time, one kind at a time', async () => {
    const bundle = await issue();
    const kindAt = (given: CertificateBundle | undefined, days: number, wanted = names) =>
      needsRotation(given, wanted, nowMs + days * dayMs).kind;
    expect(kindAt(undefined, 0)).toBe('authority');
    expect(kindAt(bundle, 0)).toBe('none');
    expect(kindAt(bundle, 59)).toBe('none');
    expect(kindAt(bundle, 61)).toBe('serving');
    expect(kindAt(bundle, 740)).toBe('authority');
    expect(kindAt(bundle, 0, ['other.system.svc'])).toBe('serving');
    expect(kindAt(bundle, 0, ['127.0.0.2'])).toBe('serving');
    expect(kindAt({ ...bundle, caKey: '' }, 0)).toBe('authority');
    expect(kindAt({ ...bundle, certificate: 'nonsense' }, 0)).toBe('authority');
    expect(kindAt({ ...bundle, caBundle: (await issue()).caBundle }, 0)).toBe('serving');
    const serving = await rotate(bundle, { kind: 'serving', reason: 'test' }, names, nowMs + 61 * dayMs);
    expect([serving.caBundle === bundle.caBundle, kindAt(serving, 61)]).toEqual([true, 'none']);
  });

  it('overlap: the old authority stays until it ends', async () => {
    const first = await issue();
    const second = await issue(first, nowMs + 740 * dayMs);
    const count = (bundle: CertificateBundle) => bundle.caBundle.match(/BEGIN CERT/g)?.length;
    expect(count(second)).toBe(2);
    expect(second.caBundle).toContain(first.caBundle.trim());
    expect(new X509Certificate(second.certificate).checkHost('webhook.system.svc')).toBe('webhook.system.svc');
    expect(needsRotation(second, names, nowMs + 740 * dayMs)).toEqual({ kind: 'none' });
    expect(count(await issue(second, nowMs + 1_200 * dayMs))).toBe(2);
  });
});

describe('the admission server', () => {
  const review = (name: string) =>
    JSON.stringify({
      apiVersion: 'admission.k8s.io/v1',
      kind: 'AdmissionReview',
      request: {
        uid: 'u',
        operation: 'CREATE',
        name,
        kind: { group: '', version: 'v1', kind: 'Pod' },
        object: { metadata: { name } },
      },
    });
  const start = async () => {
    const bundle = await issue(undefined, Date.now());
    const server = await startAdmissionServer(
      {
        host: '127.0.0.1',
        port: 0,
        certificate: bundle,
        maxBodyBytes: 1_000,
        routes: new Map([
          [
            '/pods',
            async (given) => {
              if (given.name === 'bug') throw new Error('oops');
              if (given.name === 'bad') throw new AppError('invalid', 'spec.x: bad; use y');
              return { uid: given.uid, allowed: true };
            },
          ],
        ]),
        conversions: new Map([
          [
            '/convert',
            ({ desiredAPIVersion, objects }) => {
              if (desiredAPIVersion === 'a/v9') throw new AppError('invalid', 'a/v9 is unknown');
              return objects.map((each) => ({ ...(each as object), apiVersion: desiredAPIVersion }));
            },
          ],
        ]),
      },
      { log: silentLogger },
    );
    closers.push(() => server.close(100));
    const send = async (path: string, body: string, ca: string, method: 'POST' | 'GET' = 'POST') => {
      const agent = new Agent({ connect: { ca } });
      try {
        const response = await request(`https://127.0.0.1:${server.port}${path}`, {
          method,
          dispatcher: agent,
          ...(method === 'POST' ? { body } : {}),
        });
        return { status: response.statusCode, text: await response.body.text() };
      } finally {
        await agent.close();
      }
    };
    return { server, bundle, send };
  };

  it('answers reviews, refuses what is none and says why a handler failed', async () => {
    const { bundle, send } = await start();
    const ca = bundle.caBundle;
    expect(JSON.parse((await send('/pods', review('good'), ca)).text)).toEqual({
      apiVersion: 'admission.k8s.io/v1',
      kind: 'AdmissionReview',
      response: { uid: 'u', allowed: true },
    });
    expect(JSON.parse((await send('/pods?timeout=10s', review('bad'), ca)).text).response).toMatchObject({
      allowed: false,
      status: { code: 400, message: 'spec.x: bad; use y' },
    });
    expect(JSON.parse((await send('/pods', review('bug'), ca)).text).response).toMatchObject({
      allowed: false,
      status: { code: 500, message: 'oops' },
    });
    expect(await send('/pods', '{', ca)).toMatchObject({ status: 400, text: expect.stringContaining('not JSON') });
    expect((await send('/pods', 'x'.repeat(1_001), ca)).status).toBe(413);
    expect((await send('/other', review('good'), ca)).status).toBe(404);
    expect((await send('/pods', '', ca, 'GET')).status).toBe(405);
  });

  it('answers conversions, whole lists too, and says why there is none', async () => {
    const { bundle, send } = await start();
    const convert = (desiredAPIVersion: string, objects: readonly object[]) =>
      send(
        '/convert',
        JSON.stringify({
          apiVersion: 'apiextensions.k8s.io/v1',
          kind: 'ConversionReview',
          request: { uid: 'u', desiredAPIVersion, objects },
        }),
        bundle.caBundle,
      );
    const many = Array.from({ length: 100 }, (_, i) => ({ apiVersion: 'a/v1', i }));
    expect(JSON.parse((await convert('a/v2', many)).text).response).toEqual({
      uid: 'u',
      convertedObjects: many.map(({ i }) => ({ apiVersion: 'a/v2', i })),
      result: { status: 'Success' },
    });
    expect(JSON.parse((await convert('a/v9', many)).text).response).toEqual({
      uid: 'u',
      result: { status: 'Failure', message: 'a/v9 is unknown' },
    });
    expect((await convert('a/v2', [{ x: 'x'.repeat(16_000) }])).status).toBe(413);
    expect((await send('/convert', '{}', bundle.caBundle)).status).toBe(400);
  });

  it('changes its certificate while it serves', async () => {
    const { server, bundle, send } = await start();
    const next = await issue(undefined, Date.now());
    server.setCertificate(next);
    expect((await send('/pods', review('good'), next.caBundle)).status).toBe(200);
    await expect(send('/pods', review('good'), bundle.caBundle)).rejects.toThrow();
  });
});
