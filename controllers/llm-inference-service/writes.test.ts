import { describe, expect, it } from '@jest/globals';
import type { Client } from '../../src/kube/client.ts';
import type { KubeObject, Manifest } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { createOwnedClient, Strangers, Writes } from './writes.ts';

const namespace = 'default';
const owner: KubeObject = {
  apiVersion: 'serving.kserve.io/v1alpha2',
  kind: 'LLMInferenceService',
  metadata: { namespace, name: 'chat', uid: 'u1' },
};
const service = (name: string): Manifest => ({ apiVersion: 'v1', kind: 'Service', metadata: { namespace, name } });

/** A server with these Services of others, of which the first page shows all unless `isLong`. */
function serverWith(strangers: readonly KubeObject[], isLong = false) {
  const calls: string[] = [];
  const clock = { nowMs: 0, now: () => clock.nowMs, sleep: async () => {}, interval: () => () => {} };
  let failsNext = false;
  const client = {
    request: async (_method: string, path: string) => {
      calls.push(`LIST ${path.split('?')[0]}`);
      if (failsNext) {
        failsNext = false;
        throw new Error('broken');
      }
      return { metadata: isLong ? { continue: 'more' } : {}, items: isLong ? [] : strangers };
    },
    get: async (_resource: unknown, ref: { readonly name: string }) => {
      calls.push(`GET ${ref.name}`);
      return strangers.find(({ metadata }) => metadata.name === ref.name);
    },
    apply: async (_resource: unknown, object: Manifest, how: { readonly force?: boolean }) => {
      calls.push(`APPLY ${object.metadata.name}${how.force ? ' by force' : ''}`);
      return object;
    },
  } as unknown as Client;
  const list = new Strangers(client, clock);
  const owned = (known: readonly string[] = []) =>
    createOwnedClient({
      client,
      writes: new Writes(clock),
      strangers: list,
      owner,
      live: (_resource, { name }) => (known.includes(name) ? service(name) : undefined),
      onFailure: () => {},
    });
  return {
    calls,
    clock,
    fail: () => {
      failsNext = true;
    },
    apply: (name: string, known: readonly string[] = []) =>
      owned(known).apply(resources.services, service(name), { fieldManager: 'signalbox', force: true }),
  };
}

describe('applying what may belong to somebody else', () => {
  it('asks once for the strangers of a burst, and forces only what it knows', async () => {
    const server = serverWith([service('theirs')]);
    await Promise.all([server.apply('a'), server.apply('b')]);
    await server.apply('known', ['known']);
    expect(server.calls).toEqual([
      'LIST /api/v1/namespaces/default/services',
      'APPLY a',
      'APPLY b',
      'APPLY known by force',
    ]);
    server.clock.nowMs = 1_001;
    await server.apply('c');
    expect(server.calls.slice(4)).toEqual(['LIST /api/v1/namespaces/default/services', 'APPLY c']);
  });

  it('refuses a name that is taken, and takes back its own that lost its label', async () => {
    const lost = {
      ...service('lost'),
      metadata: {
        ...service('lost').metadata,
        ownerReferences: [
          { apiVersion: owner.apiVersion, kind: owner.kind, name: 'chat', uid: 'u1', controller: true },
        ],
      },
    };
    const server = serverWith([service('theirs'), lost]);
    await expect(server.apply('theirs')).rejects.toMatchObject({ code: 'preconditionFailed' });
    await server.apply('lost');
    expect(server.calls.filter((call) => !call.startsWith('LIST'))).toEqual([
      'GET theirs',
      'GET lost',
      'APPLY lost by force',
    ]);
  });

  it('looks at each object where strangers are too many to list, and asks again after a failure', async () => {
    const many = serverWith([], true);
    await many.apply('a');
    expect(many.calls.slice(1)).toEqual(['GET a', 'APPLY a by force']);
    const broken = serverWith([]);
    broken.fail();
    await expect(broken.apply('a')).rejects.toThrow('broken');
    await broken.apply('a');
    expect(broken.calls.filter((call) => call.startsWith('LIST'))).toHaveLength(2);
  });
});
