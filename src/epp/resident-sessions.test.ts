import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, it } from '@jest/globals';
import {
  call,
  chat,
  closeAll,
  closers,
  decodes,
  engine,
  hello,
  prefills,
  sidecar,
} from '../../test/builders/sidecar.ts';
import { eventually } from '../../test/expect/eventually.ts';
import { systemClock } from '../clock.ts';
import { parseCompletionText } from '../openai/request.ts';
import { sessionKeysOf } from '../openai/session-key.ts';
import { silentLogger } from '../telemetry/log.ts';
import { Datastore } from './datalayer/datastore.ts';
import { createOutcomes } from './datalayer/outcomes.ts';
import { noPolicies } from './datalayer/request-policies.ts';
import { createDirector } from './director.ts';
import { TraceRing } from './explain.ts';
import { createFlowControl } from './flow/flow-control.ts';
import { Cycle } from './framework/cycle-state.ts';
import type { Endpoint } from './framework/endpoint.ts';
import { isScorer } from './framework/plugin.ts';
import { Scheduler } from './framework/scheduler.ts';
import { EppTelemetry } from './metrics.ts';
import { buildScheduler, parsePickerConfig } from './picker-config.ts';
import { pluginFactories } from './plugins/register.ts';
import { createResidentSessionScorer } from './plugins/session/resident-session-scorer.ts';

afterEach(closeAll);

const endpoint = (id: string, port: number, role = 'decode', address = '127.0.0.1') =>
  ({ id, address, port, isReady: true, labels: { 'llm-d.ai/role': role } }) as unknown as Endpoint;

function scorerOf(endpoints: readonly Endpoint[], port: number) {
  const reports: string[] = [];
  const plugin = createResidentSessionScorer({
    type: 'resident-session-scorer',
    name: 'r',
    parameters: { port, refreshIntervalSeconds: 0.05 },
    path: 'plugins[0].parameters',
    clock: systemClock,
    pool: { current: () => endpoints, subscribe: () => () => {} },
    nearest: () => undefined,
    random: Math.random,
    baseDir: '.',
    report: (reason, message) => reports.push(`${reason}: ${message}`),
    plugin: () => {
      throw new Error('none');
    },
  });
  closers.push(() => plugin.close?.());
  return { plugin, reports };
}

/** What stands in for sidecars: at each address a server with a page of its own, on one port. */
async function pages(byAddress: Readonly<Record<string, { status: number; text: string }>>) {
  const asked = new Map<string, number>();
  let port = 0;
  for (const [address, page] of Object.entries(byAddress)) {
    const server = createServer((_request, response) => {
      asked.set(address, (asked.get(address) ?? 0) + 1);
      response.writeHead(page.status).end(page.text);
    });
    await new Promise<void>((resolve) => server.listen(port, address, resolve));
    port = (server.address() as AddressInfo).port;
    closers.push(() => {
      server.close();
      server.closeAllConnections();
    });
  }
  return { port, asked };
}

describe('conversations that sidecars remember', () => {
  it('draw their next turn, by id and by content, until they are forgotten', async () => {
    const d = await engine(decodes());
    const p = await engine(prefills);
    const s = await sidecar(d.port);
    const page = async (etag?: string) =>
      call(s.metricsUrl, '/sessions', { headers: etag === undefined ? {} : { 'if-none-match': etag } });
    const empty = await page();
    expect([empty.status, empty.text]).toEqual([200, '']);
    expect((await page(empty.headers.etag)).status).toBe(304);

    const headers = { 'x-prefiller-host-port': p.hostPort, authorization: 'Bearer a', 'x-session-id': 's-1' };
    await call(s.url, chat, { headers, body: hello });
    await eventually(async () => expect((await page(empty.headers.etag)).status).toBe(200));

    const endpoints = [endpoint('a/has', 1), endpoint('a/prefill', 2, 'prefill')];
    const { plugin } = scorerOf(endpoints, Number(new URL(s.metricsUrl).port));
    await plugin.ready?.();
    const scoresOf = (body: object, given: Readonly<Record<string, string>>) => {
      const completion = parseCompletionText('chat', JSON.stringify(body));
      const header = (name: string) => given[name];
      const request = {
        id: 'r',
        model: completion.model,
        sessionId: given['x-session-id'],
        completion,
        header,
        sessionKeys: () => sessionKeysOf(completion, header, given['x-session-id']),
        promptText: () => '',
      };
      const scores = new Float64Array(endpoints.length);
      if (isScorer(plugin)) plugin.score(new Cycle(request, endpoints), endpoints, scores);
      return [...scores];
    };
    const next = [
      ...hello.messages,
      { role: 'assistant', content: 'Hi! How can I help?' },
      { role: 'user', content: 'More' },
    ];
    const a = { authorization: 'Bearer a' };
    await eventually(() => expect(scoresOf({ ...hello, messages: next }, a)).toEqual([1, 0]));
    expect(plugin.state?.()).toEqual({ pods: 1, keys: 2 });
    expect(scoresOf({ ...hello, messages: [{ role: 'user', content: 'X' }] }, { ...a, 'x-session-id': 's-1' })).toEqual(
      [1, 0],
    );
    expect(scoresOf({ ...hello, messages: next }, { authorization: 'Bearer b' })).toEqual([0, 0]);
    expect(scoresOf({ ...hello, model: 'other', messages: next }, a)).toEqual([0, 0]);
    expect(scoresOf({ ...hello, messages: [{ role: 'user', content: 'X' }] }, a)).toEqual([0, 0]);

    await call(s.url, '/reset_prefix_cache', { method: 'POST' });
    await eventually(() => expect(scoresOf({ ...hello, messages: next }, a)).toEqual([0, 0]));
  });

  it('are nobody where no sidecar of ours is, which is no failure; a page that is wrong is one', async () => {
    const { port, asked } = await pages({
      '127.0.0.11': { status: 404, text: '' },
      '127.0.0.12': { status: 500, text: '' },
      '127.0.0.13': { status: 200, text: 'k\n' },
    });
    const addresses = ['127.0.0.10', '127.0.0.11', '127.0.0.12', '127.0.0.13'];
    const endpoints = addresses.map((address) => endpoint(`a/${address}`, 1, 'decode', address));
    const { plugin, reports } = scorerOf(endpoints, port);
    let hashed = 0;
    const scores = (key: string): readonly number[] => {
      const request = {
        id: 'r',
        model: 'm',
        sessionId: undefined,
        completion: undefined,
        header: () => undefined,
        sessionKeys: () => {
          hashed++;
          return [key];
        },
        promptText: () => '',
      };
      const all = new Float64Array(endpoints.length);
      if (isScorer(plugin)) plugin.score(new Cycle(request, endpoints), endpoints, all);
      return [...all];
    };
    // Before anybody told of a conversation none is worked out.
    expect(scores('k')).toEqual([0, 0, 0, 0]);
    expect(hashed).toBe(0);
    await plugin.ready?.();
    await eventually(() => expect(scores('k')).toEqual([0, 0, 0, 1]));
    await eventually(() => expect(asked.get('127.0.0.12')).toBeGreaterThan(1));
    await eventually(() => expect(asked.get('127.0.0.11')).toBeGreaterThan(0));
    expect(reports).toEqual([expect.stringMatching(/^late: sessions of a\/127\.0\.0\.12 .* answered 500/)]);
  });

  it('draw the next turn also where the model’s name is rewritten: it counts under the name that the pod is sent', async () => {
    const body = { model: 'asked', messages: [{ role: 'user', content: 'Hello' }] };
    const parsed = parseCompletionText('chat', JSON.stringify({ ...body, model: 'served' }));
    const page = { status: 200, text: sessionKeysOf(parsed, () => undefined, 's-1').join('\n') };
    const { port } = await pages({ '127.0.0.21': { status: 200, text: 'other' }, '127.0.0.22': page });
    const datastore = new Datastore(systemClock, 60_000);
    datastore.replace(
      ['127.0.0.21', '127.0.0.22'].map((address, i) => ({
        id: `ns/p${i}`,
        name: `p${i}`,
        namespace: 'ns',
        address,
        port: 8000,
        labels: {},
        isReady: true,
      })),
    );
    const text = `
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: resident-session-scorer, parameters: {port: ${port}, refreshIntervalSeconds: 0.05}}]
schedulingProfiles: [{name: default, plugins: [{pluginRef: resident-session-scorer}]}]`;
    const endpoints = () => datastore.snapshot.endpoints;
    const built = buildScheduler(parsePickerConfig(text, 'f'), {
      factories: pluginFactories,
      clock: systemClock,
      random: Math.random,
      pool: { current: endpoints, subscribe: (listener) => datastore.subscribe(listener) },
    });
    for (const plugin of built.plugins) {
      closers.push(() => plugin.close?.());
      await plugin.ready?.();
    }
    const scheduler = new Scheduler(built.parts);
    const rewrite = { source: 'r', targets: [{ model: 'served', weight: 1 }], totalWeight: 1 };
    const director = createDirector({
      datastore,
      scheduler: () => scheduler,
      telemetry: new EppTelemetry({
        poolName: 'p',
        datastore,
        openStreams: () => 0,
        handler: () => built.handler,
        plugins: () => built.plugins,
      }),
      isSubsetHonoured: true,
      areScoresTold: false,
      policies: () => ({ ...noPolicies, rewriteOfModel: new Map([['asked', rewrite]]) }),
      flowControl: createFlowControl({ ...built.flow, observer: undefined, endpoints, clock: systemClock }),
      random: Math.random,
      traces: new TraceRing(1),
      outcomes: createOutcomes({ datastore, threshold: 3, onAvoid: () => {} }),
      clock: systemClock,
      log: silentLogger,
    });
    const sent = Buffer.from(JSON.stringify(body));
    const pickedFor = async (model: string) => {
      const own = model === 'asked' ? sent : Buffer.from(JSON.stringify({ ...body, model }));
      const { profiles } = await director.explain({
        headers: [':path', '/v1/chat/completions', 'x-session-id', 's-1'],
        body: [own],
        bodyBytes: own.length,
        subset: undefined,
      });
      return profiles[0]?.candidates.map(({ hostPort, total }) => `${hostPort} ${total}`).sort();
    };
    await eventually(async () => expect(await pickedFor('asked')).toEqual(['127.0.0.21:8000 0', '127.0.0.22:8000 1']));
    expect(await pickedFor('another')).toEqual(['127.0.0.21:8000 0', '127.0.0.22:8000 0']);
  });
});
