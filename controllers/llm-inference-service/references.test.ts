import { describe, expect, it } from '@jest/globals';
import type { LLMInferenceServiceSpec } from '../../src/api/v1alpha2/llm-inference-service.ts';
import type { Change, Informer } from '../../src/kube/informer.ts';
import { type KubeObject, keyOf } from '../../src/kube/object.ts';
import { llmService } from '../../test/builders/service.ts';
import { type Named, NamedObjects } from './named-objects.ts';
import { namedBy, resolveReferences } from './references.ts';

/** Watches of a cluster that holds `objects`; `sync` lets a list come in. */
function fakeCluster(objects: readonly KubeObject[]) {
  const open = new Map<string, { readonly sync: () => void; readonly tell: (change: Change<KubeObject>) => void }>();
  const nameOf = ({ resource, ref }: Named) => `${resource.kind} ${keyOf(ref)}`;
  const named = new NamedObjects((one) => {
    const found = objects.find(({ kind, metadata }) => `${kind} ${keyOf(metadata)}` === nameOf(one));
    const handlers = new Set<(change: Change<KubeObject>) => void>();
    const { promise, resolve } = Promise.withResolvers<void>();
    let isSynced = false;
    open.set(nameOf(one), {
      sync: () => {
        isSynced = true;
        resolve();
      },
      tell: (change) => {
        for (const handler of handlers) handler(change);
      },
    });
    return {
      store: { get: () => (isSynced ? found : undefined), list: () => [], byIndex: () => [], size: 0 },
      synced: promise,
      get isSynced() {
        return isSynced;
      },
      subscribe: (handler) => {
        handlers.add(handler);
        if (found) handler({ type: 'added', object: found });
        return () => handlers.delete(handler);
      },
      close: () => open.delete(nameOf(one)),
    } as Informer<KubeObject>;
  });
  return { named, open };
}

const configMap = (namespace: string, name: string, data: Readonly<Record<string, string>>): KubeObject =>
  ({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name, namespace }, data }) as KubeObject;

const inputOf = (router: LLMInferenceServiceSpec['router']) => {
  const service = llmService({ spec: { router } });
  return {
    service,
    effective: service.spec,
    served: {
      gatewayApi: true,
      pool: true,
      xPool: false,
      leaderWorkerSet: false,
      scaledObject: false,
      deviceClaims: false,
    },
    systemNamespace: 'system',
  };
};

const text = 'apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins: [{type: queue-scorer}]\n';

describe('the configuration in a ConfigMap', () => {
  const resolve = async (
    ref: { readonly name: string; readonly key: string; readonly optional?: boolean },
    ...objects: readonly KubeObject[]
  ) => {
    const { named, open } = fakeCluster(objects);
    const input = inputOf({ scheduler: { replicas: 1, config: { ref } } });
    named.use('default/chat', namedBy(input));
    for (const watch of open.values()) watch.sync();
    await named.settled('default/chat', new AbortController().signal, 1000);
    const { refusal, effective } = resolveReferences(named, input);
    return refusal ? `${refusal.reason}: ${refusal.message}` : effective.router?.scheduler;
  };

  it.each([
    ['of the namespace', 'mine', [configMap('default', 'mine', { epp: text })]],
    ['of the system namespace', 'config-scheduler-x', [configMap('system', 'config-scheduler-x', { epp: text })]],
    [
      'of both, the nearer',
      'config-scheduler-x',
      [configMap('default', 'config-scheduler-x', { epp: text }), configMap('system', 'config-scheduler-x', {})],
    ],
  ])('%s is put in', async (_what, name, objects) =>
    expect(await resolve({ name, key: 'epp' }, ...objects)).toEqual({
      replicas: 1,
      config: {
        inline: { apiVersion: 'llm-d.ai/v1alpha1', kind: 'EndpointPickerConfig', plugins: [{ type: 'queue-scorer' }] },
      },
    }),
  );

  it.each([
    [
      'missing',
      { name: 'mine', key: 'epp' },
      [configMap('system', 'mine', { epp: text })],
      'ConfigNotFound: spec.router.scheduler.config.ref: there is no ConfigMap default/mine; make it or correct the name',
    ],
    [
      'missing in both places',
      { name: 'config-scheduler-x', key: 'epp' },
      [],
      'ConfigNotFound: spec.router.scheduler.config.ref: there is no ConfigMap default/config-scheduler-x nor system/config-scheduler-x; make it or correct the name',
    ],
    [
      'without the key',
      { name: 'mine', key: 'epp' },
      [configMap('default', 'mine', { a: '', b: '' })],
      'ConfigNotFound: spec.router.scheduler.config.ref: ConfigMap default/mine has no key "epp" (it has: a, b); add it or correct the key',
    ],
    [
      'not of the kind',
      { name: 'mine', key: 'epp' },
      [configMap('default', 'mine', { epp: 'kind: Pod' })],
      'InvalidRenderedConfig: spec.router.scheduler.config.ref: ConfigMap default/mine, key "epp".apiVersion: the configuration is invalid',
    ],
    [
      'not YAML',
      { name: 'mine', key: 'epp' },
      [configMap('default', 'mine', { epp: 'a: [' })],
      'InvalidRenderedConfig: spec.router.scheduler.config.ref: ConfigMap default/mine, key "epp": ',
    ],
  ])('%s refuses', async (_what, ref, objects, message) => expect(await resolve(ref, ...objects)).toContain(message));

  it('is done without where it is optional', async () =>
    expect(await resolve({ name: 'mine', key: 'epp', optional: true })).toEqual({ replicas: 1 }));
});

describe('watches of named objects', () => {
  const routes = (...names: readonly string[]) =>
    inputOf({
      route: { http: { refs: names.map((name) => ({ name })) } },
      scheduler: { pool: { ref: { name: 'p' } } },
    });

  it('last as long as a service names the object, once for all', () => {
    const { named, open } = fakeCluster([]);
    named.use('default/a', namedBy(routes('r', 's')));
    named.use('default/b', namedBy(routes('s')));
    expect([...open.keys()].sort()).toEqual(['HTTPRoute default/r', 'HTTPRoute default/s', 'InferencePool default/p']);
    named.use('default/a', []);
    expect([...open.keys()].sort()).toEqual(['HTTPRoute default/s', 'InferencePool default/p']);
    named.use('default/b', []);
    expect([...open.keys()]).toEqual([]);
  });

  it('decide nothing before the first list, and wake for what comes after', async () => {
    const woken: string[] = [];
    const { named, open } = fakeCluster([]);
    const stop = named.trigger((key) => woken.push(key));
    const input = routes('r');
    named.use('default/chat', namedBy(input));
    await named.settled('default/chat', new AbortController().signal, 1);
    expect(resolveReferences(named, input).refusal?.message).toBe(
      'HTTPRoute default/r, InferencePool default/p cannot be read from the API server yet',
    );
    for (const watch of open.values()) watch.sync();
    await named.settled('default/chat', new AbortController().signal, 1000);
    expect(woken).toEqual(['default/chat', 'default/chat']);
    expect(resolveReferences(named, input).refusal).toBeUndefined();
    open.get('HTTPRoute default/r')?.tell({ type: 'added', object: configMap('default', 'r', {}) });
    expect(woken).toHaveLength(3);
    stop();
    expect([...open.keys()]).toEqual([]);
  });
});
