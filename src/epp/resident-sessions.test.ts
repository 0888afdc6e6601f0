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
import { Cycle } from './framework/cycle-state.ts';
import type { Endpoint } from './framework/endpoint.ts';
import { isScorer } from './framework/plugin.ts';
import { createResidentSessionScorer } from './plugins/session/resident-session-scorer.ts';

afterEach(closeAll);

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

    const endpoint = (id: string, port: number, role = 'decode') =>
      ({ id, address: '127.0.0.1', port, isReady: true, labels: { 'llm-d.ai/role': role } }) as unknown as Endpoint;
    const endpoints = [endpoint('a/has', 1), endpoint('a/prefill', 2, 'prefill')];
    const plugin = createResidentSessionScorer({
      type: 'resident-session-scorer',
      name: 'r',
      parameters: { port: Number(new URL(s.metricsUrl).port), refreshIntervalSeconds: 0.05 },
      path: 'plugins[0].parameters',
      clock: systemClock,
      pool: { current: () => endpoints, subscribe: () => () => {} },
      nearest: () => undefined,
      random: Math.random,
      baseDir: '.',
      report: () => {},
      plugin: () => {
        throw new Error('none');
      },
    });
    closers.push(() => plugin.close?.());
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
});
