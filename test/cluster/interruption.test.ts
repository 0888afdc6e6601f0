import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { LLMInferenceService } from '../../src/api/v1alpha2/llm-inference-service.ts';
import { AppError } from '../../src/errors.ts';
import { controllerOf } from '../../src/kube/apply.ts';
import type { Client } from '../../src/kube/client.ts';
import { loadKubeConfig } from '../../src/kube/config.ts';
import type { KubeObject, Manifest } from '../../src/kube/object.ts';
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
  startTestOperator,
  type TestOperator,
} from './permitted-operator.ts';
import { snapshotOf } from './snapshot.ts';

/**
 * The operator is killed after each of its requests in turn, and the next one ends what it began. What the server was
 * told last has arrived, its answer has not; watches end in the same moment.
 */

let plane: ControlPlane;
let admin: Client;

beforeAll(async () => {
  plane = await startTestControlPlane({ serviceNetwork: '127.228' });
  admin = createClient(await loadKubeConfig({ path: plane.kubeconfigPath }), { log: silentLogger });
  await installOperator(admin);
  await applyAll(admin, ...(await gatewayApiManifests()), ...poolManifests());
  await acceptGatewayClass(admin);
}, 600_000);

afterAll(async () => {
  await admin?.close();
  await plane?.stop();
}, 60_000);

/** A client whose process can be killed. */
interface Mortal {
  readonly client: Client;
  readonly sent: () => number;
  readonly isDead: () => boolean;
  /** Dies with the nth request from now. */
  readonly dieAfter: (requests: number) => void;
}

function createMortal(client: Client): Mortal {
  const death = new AbortController();
  const killed = new AppError('unavailable', 'killed');
  let sent = 0;
  let last = Number.POSITIVE_INFINITY;
  const call = async <T>(send: () => Promise<T>): Promise<T> => {
    if (death.signal.aborted) throw killed;
    sent++;
    if (sent < last) {
      const answer = await send();
      if (death.signal.aborted) throw killed;
      return answer;
    }
    death.abort(killed);
    await send().catch(() => {});
    throw killed;
  };
  return {
    sent: () => sent,
    isDead: () => death.signal.aborted,
    dieAfter: (requests) => {
      last = sent + requests;
    },
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
      watch: (resource, options, signal) => client.watch(resource, options, AbortSignal.any([signal, death.signal])),
      close: () => client.close(),
    },
  };
}

async function startMortal(): Promise<{ readonly operator: TestOperator; readonly mortal: Mortal }> {
  let mortal: Mortal | undefined;
  const operator = await startTestOperator(plane, admin, {}, (client) => {
    mortal = createMortal(client);
    return mortal.client;
  });
  if (!mortal) throw new Error('the operator took no client');
  return { operator, mortal };
}

const service = (name: string, namespace: string, parts: Parameters<typeof prefillDecodeService>[0] = {}): Manifest => {
  const { metadata, ...rest } = prefillDecodeService({ ...parts, name, namespace });
  const { uid: _uid, generation: _generation, ...own } = metadata;
  return { ...rest, metadata: own } as unknown as Manifest;
};
const model = { uri: 'hf://Qwen/Qwen2.5-7B-Instruct', name: 'chat' };
const adapters = { adapters: [{ name: 'a', uri: 's3://adapters/a' }] };
const full = (namespace: string) =>
  service('chat', namespace, {
    annotations: { 'signalbox.io/tls': 'true' },
    spec: { model: { ...model, lora: adapters } },
  });
const shared = { model: { ...model, name: 'shared' } };
const member = (name: string, namespace: string, weight: number) =>
  service(name, namespace, {
    spec: { ...shared, router: { gateway: {}, scheduler: {}, route: { group: 'g', weight } } } as never,
  });

interface Scenario {
  readonly title: string;
  readonly before: (namespace: string) => readonly Manifest[];
  readonly act: (namespace: string) => Promise<unknown>;
  /** What must be left in the end, besides being the same each time. */
  readonly check: (objects: readonly KubeObject[]) => void;
}

const kindsOf = (objects: readonly KubeObject[]) => objects.map(({ kind, metadata }) => `${kind} ${metadata.name}`);

const scenarios: readonly Scenario[] = [
  {
    title: 'a create',
    before: () => [],
    act: (namespace) => applyAll(admin, full(namespace)),
    check: (objects) => {
      expect(kindsOf(objects)).toEqual(
        expect.arrayContaining([
          'Deployment chat-kserve',
          'Deployment chat-kserve-prefill',
          'Deployment chat-kserve-router-scheduler',
          'HTTPRoute chat-kserve-route',
          'HTTPRoute chat-kserve-route-lora-path-1',
          'InferencePool chat-inference-pool',
        ]),
      );
      expect(objects.some(({ kind }) => kind === 'Secret')).toBe(true);
    },
  },
  {
    title: 'a change',
    before: (namespace) => [full(namespace)],
    act: async (namespace) => {
      await applyAll(
        admin,
        service('chat', namespace, {
          annotations: { 'signalbox.io/tls': 'false' },
          spec: { model, replicas: 3, labels: { team: 'a' }, prefill: undefined as never },
        }),
      );
    },
    check: (objects) => {
      expect(kindsOf(objects)).not.toContain('Deployment chat-kserve-prefill');
      expect(kindsOf(objects)).not.toContain('HTTPRoute chat-kserve-route-lora-path-1');
      expect(objects.find(({ metadata }) => metadata.name === 'chat-kserve')).toMatchObject({ spec: { replicas: 3 } });
    },
  },
  {
    title: 'a stop',
    before: (namespace) => [full(namespace)],
    act: (namespace) =>
      admin.mergePatch(
        resources.llmInferenceServices,
        { namespace, name: 'chat' },
        { metadata: { annotations: { 'serving.kserve.io/stop': 'true' } } },
      ),
    // The operator may not delete Secrets: that of the certificate goes with the service.
    check: (objects) =>
      expect(objects.filter((object) => controllerOf(object) && object.kind !== 'Secret')).toEqual([]),
  },
  {
    title: 'a delete of a member of a group',
    before: (namespace) => [member('blue', namespace, 1), member('green', namespace, 3)],
    act: (namespace) => admin.delete(resources.llmInferenceServices, { namespace, name: 'green' }),
    check: (objects) => {
      expect(kindsOf(objects)).not.toContain('LLMInferenceService green');
      const blue = objects.filter((object) => controllerOf(object)?.name === 'blue');
      expect(blue.length).toBeGreaterThan(5);
      expect(JSON.stringify(blue)).not.toContain('green');
    },
  },
];

/** Whether the service's status tells of everything that was applied. */
async function isWritten(namespace: string, name: string): Promise<boolean> {
  const ref = { namespace, name };
  const service = await admin.get<LLMInferenceService & KubeObject>(resources.llmInferenceServices, ref);
  return (service?.status?.conditions?.length ?? 0) > 3;
}

/** Requests after which none is expected any more: a scenario that needs more never ends. */
const maxRequests = 80;

describe('killed after each request', () => {
  it.each(scenarios.map((scenario) => [scenario.title, scenario] as const))(
    '%s comes to the same end',
    async (title, { before, act, check }) => {
      const slug = title.replaceAll(' ', '-');
      const ends: string[] = [];
      let { operator, mortal } = await startMortal();
      try {
        let isWhole = false;
        // The first is not killed; what it comes to is the measure. The last does all and survives.
        for (let n = 0; !isWhole && n <= maxRequests; n++) {
          const namespace = `${slug}-${n}`;
          await applyAll(admin, { apiVersion: 'v1', kind: 'Namespace', metadata: { name: namespace } });
          const beforehand = before(namespace);
          if (beforehand.length > 0) {
            await applyAll(admin, ...beforehand);
            for (const { metadata } of beforehand)
              await eventually(async () => expect(await isWritten(namespace, metadata.name)).toBe(true), 60_000);
            await awaitQuiet(operator.counters, 300);
          }
          if (n > 0) mortal.dieAfter(n);
          await act(namespace);
          let killed = 0;
          const end = await eventually(async () => {
            if (mortal.isDead()) {
              killed++;
              await operator.close(0);
              ({ operator, mortal } = await startMortal());
            }
            const found = await snapshotOf(admin, namespace);
            check(found.objects);
            if (n > 0) expect(found.text).toEqual(ends[0]);
            return found;
          }, 60_000);
          if (n === 0) {
            // Longer than any pause that is made on purpose.
            await awaitQuiet(operator.counters, 2_000);
            ends.push((await snapshotOf(admin, namespace)).text);
          } else {
            ends.push(end.text);
            isWhole = killed === 0;
          }
        }
        expect(isWhole).toBe(true);
        expect(ends.length).toBeGreaterThan(4);
      } finally {
        await operator.close(0);
      }
      process.stderr.write(`${title}: killed after each of ${ends.length - 2} requests\n`);
    },
    600_000,
  );
});
