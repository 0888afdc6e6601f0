import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http';
import { type AddressInfo, connect, createServer as createTcpServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from '@jest/globals';
import {
  type Behaviour,
  call,
  callRaw,
  chat,
  closeAll,
  closers,
  deadPort,
  decodes,
  engine,
  followUp,
  hello,
  json,
  kvParams,
  metricsOf,
  prefills,
  type Seen,
  sidecar,
} from '../../test/builders/sidecar.ts';
import { systemClock } from '../clock.ts';
import type { Client, WatchEvent } from '../kube/client.ts';
import type { KubeObject } from '../kube/object.ts';
import { createAuthority, issueCertificate } from '../pki.ts';
import type { Sidecar } from './start.ts';

afterEach(closeAll);

describe('a conversation', () => {
  it.each([true, false])('prefills its first turn remotely and keeps the second (stream: %s)', async (stream) => {
    const p = await engine(prefills);
    const d = await engine(decodes());
    const s = await sidecar(d.port);
    const first = await call(s.url, chat, {
      headers: { 'x-prefiller-host-port': p.hostPort, 'x-request-id': 'client-1', authorization: 'Bearer k' },
      body: { ...hello, stream, ...(stream ? { stream_options: { include_usage: true } } : {}), max_tokens: 20 },
    });
    expect(first.status).toBe(200);
    expect(first.headers).toMatchObject({ 'x-signalbox-prefill': p.hostPort, 'x-signalbox-decode': 'decode-0' });
    // The client is told what the prefill pod had cached, not what was transferred.
    expect(first.text).toContain('"cached_tokens":3');
    expect(first.text).not.toContain('"cached_tokens":8');

    expect(p.seen).toHaveLength(1);
    expect(p.seen[0]?.body).toMatchObject({
      stream: false,
      max_tokens: 1,
      max_completion_tokens: 1,
      min_tokens: 1,
      kv_transfer_params: { do_remote_decode: true, do_remote_prefill: false, remote_engine_id: null },
    });
    expect(p.seen[0]?.body).not.toHaveProperty('stream_options');
    expect(d.seen[0]?.body).toEqual({
      ...hello,
      stream,
      ...(stream ? { stream_options: { include_usage: true } } : {}),
      max_tokens: 20,
      kv_transfer_params: kvParams,
    });
    for (const leg of [p.seen[0], d.seen[0]]) {
      expect(leg?.headers).toMatchObject({ 'x-request-id': 'client-1', authorization: 'Bearer k' });
      expect(leg?.headers).not.toHaveProperty('x-prefiller-host-port');
    }

    const second = await call(s.url, chat, {
      headers: { 'x-prefiller-host-port': p.hostPort, authorization: 'Bearer k' },
      body: { ...followUp, stream },
    });
    expect(p.seen).toHaveLength(1);
    expect(d.seen[1]?.body).toEqual({ ...followUp, stream });
    expect(second.headers['x-signalbox-prefill']).toBe('none');
    expect(second.headers['x-session-id']).toBe(first.headers['x-session-id']);
    expect(second.text).toContain('"cached_tokens":8');
    expect(d.seen[1]?.headers['x-request-id']).toMatch(/^[0-9a-f-]{36}$/);

    const view = (await call(s.metricsUrl, '/debug/sessions')).body;
    expect(view).toMatchObject({
      max: 1000,
      sessions: [
        {
          session_id: first.headers['x-session-id'],
          kv_handle: 'nixl://engine-1/req-1',
          turns: 2,
          prefill: p.hostPort,
        },
      ],
    });
    expect(await metricsOf(s)).toMatch(/signalbox_sidecar_decisions_total\{decision="local_session"\} 1/);
  });

  it('takes a session id from the body, tells it back and keeps it from the engine', async () => {
    const p = await engine(prefills);
    const d = await engine(decodes());
    const s = await sidecar(d.port, [`--prefill-url=http://${p.hostPort}`]);
    const injected = { session_id: 'abc', conversation_id: 'x', kv_transfer_params: { remote_host: 'evil' } };
    const first = await call(s.url, chat, { body: { ...hello, ...injected } });
    expect(first.headers).toMatchObject({ 'x-session-id': 'abc', 'x-signalbox-prefill': p.hostPort });
    expect(d.seen[0]?.body).toEqual({ ...hello, kv_transfer_params: kvParams });
    expect(p.seen[0]?.body).not.toHaveProperty('session_id');
    const second = await call(s.url, chat, { body: { ...followUp, ...injected } });
    expect(second.headers).toMatchObject({ 'x-session-id': 'abc', 'x-signalbox-prefill': 'none' });
    expect(d.seen[1]?.body).toEqual(followUp);
    expect(p.seen).toHaveLength(1);
  });

  it('is not kept when its answer had no proper end', async () => {
    const p = await engine(prefills);
    const d = await engine((res) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      res.end('data: {"choices":[{"index":0,"delta":{"content":"Hi! How can I help?"}}]}\n\n');
    });
    const s = await sidecar(d.port, [`--prefill-url=http://${p.hostPort}`]);
    await call(s.url, chat, { body: { ...hello, stream: true } });
    await call(s.url, chat, { body: { ...followUp, stream: true } });
    expect(p.seen).toHaveLength(2);
  });

  it('is forgotten when the engine has it no longer in its cache', async () => {
    const p = await engine(prefills);
    let cached = 400;
    const d = await engine((res, seen, req) => decodes('Hi! How can I help?', cached, 400)(res, seen, req));
    const s = await sidecar(d.port, [`--prefill-url=http://${p.hostPort}`]);
    await call(s.url, chat, { body: hello });
    cached = 16;
    await call(s.url, chat, { body: followUp });
    expect(p.seen).toHaveLength(1);
    await call(s.url, chat, { body: followUp });
    expect(p.seen).toHaveLength(2);
    expect(await metricsOf(s)).toMatch(/session_invalidations_total\{reason="cold"\} 1/);
  });

  it('is forgotten when the engine refuses connections', async () => {
    const p = await engine(prefills);
    const d = await engine(decodes());
    const s = await sidecar(d.port, [`--prefill-url=http://${p.hostPort}`]);
    await call(s.url, chat, { body: hello });
    await d.close();
    const failed = await call(s.url, chat, { body: followUp });
    expect(failed).toMatchObject({ status: 503, body: { error: { code: 503, type: 'ServiceUnavailableError' } } });
    expect(failed.body.error.message).toContain(`127.0.0.1:${d.port}`);
    expect((await call(s.metricsUrl, '/debug/sessions')).body.sessions).toEqual([]);
    expect((await call(s.url, '/ready')).status).toBe(503);
    expect((await call(s.url, '/health')).status).toBe(200);
  });

  it('is forgotten when the engine was started anew', async () => {
    const p = await engine(prefills);
    let started = 1000;
    const d = await engine((res, seen, req) =>
      seen.url === '/metrics' ? res.end(`# x\nprocess_start_time_seconds ${started}\n`) : decodes()(res, seen, req),
    );
    let look = () => {};
    const clock = {
      ...systemClock,
      interval: (_ms: number, task: () => void) => {
        look = task;
        return () => {};
      },
    };
    const s = await sidecar(d.port, [`--prefill-url=http://${p.hostPort}`], { clock });
    const sessionCount = async () => (await call(s.metricsUrl, '/debug/sessions')).body.sessions.length;
    const lookAgain = async () => {
      const before = d.seen.length;
      look();
      while (d.seen.length === before) await new Promise((resolve) => setTimeout(resolve, 5));
      await new Promise((resolve) => setTimeout(resolve, 30));
    };
    await lookAgain();
    await call(s.url, chat, { body: hello });
    await lookAgain();
    expect(await sessionCount()).toBe(1);
    started = 2000;
    await lookAgain();
    expect(await sessionCount()).toBe(0);
    expect(await metricsOf(s)).toMatch(/session_invalidations_total\{reason="restart"\} 1/);
  });

  it.each(['/reset_prefix_cache', '/sleep?level=1', '/v1/unload_lora_adapter'])(
    'is forgotten after POST %s',
    async (path) => {
      const d = await engine((res, seen, req) => (seen.url === chat ? decodes()(res, seen, req) : json(res, {})));
      const s = await sidecar(d.port);
      await call(s.url, chat, { body: hello });
      const count = async () => (await call(s.metricsUrl, '/debug/sessions')).body.sessions.length;
      expect(await count()).toBe(1);
      await call(s.url, path, { body: {} });
      expect(await count()).toBe(0);
      expect(await metricsOf(s)).toMatch(/session_invalidations_total\{reason="reset"\} 1/);
    },
  );

  it('prefills every turn with --session-policy=off, and by header with prefer-header', async () => {
    for (const policy of ['off', 'prefer-header']) {
      const p = await engine(prefills);
      const d = await engine(decodes());
      const s = await sidecar(d.port, [`--session-policy=${policy}`]);
      const headers = { 'x-prefiller-host-port': p.hostPort };
      expect((await call(s.url, chat, { headers, body: hello })).headers['x-session-id']).toMatch(/.{36}/);
      await call(s.url, chat, { headers, body: followUp });
      expect(p.seen).toHaveLength(2);
    }
  });

  it('stays local when a picker named no prefill pod', async () => {
    const p = await engine(prefills);
    const d = await engine(decodes());
    const s = await sidecar(d.port, [`--prefill-url=http://${p.hostPort}`]);
    const headers = { 'x-gateway-destination-endpoint': '127.0.0.1:8000' };
    expect((await call(s.url, chat, { headers, body: hello })).headers['x-signalbox-prefill']).toBe('none');
    expect(p.seen).toHaveLength(0);
  });

  it.each([
    ['/v1/completions', { prompt: 'x' }, { max_tokens: 1, max_completion_tokens: 1, min_tokens: 1 }],
    ['/v1/responses', { input: 'x', max_output_tokens: 30 }, { max_output_tokens: 1 }],
    ['/v1/messages', { messages: [{ role: 'user', content: 'x' }], max_tokens: 30 }, { max_tokens: 1 }],
  ])('goes the same way on %s', async (path, fields, caps) => {
    const p = await engine(prefills);
    const d = await engine(decodes());
    const s = await sidecar(d.port);
    const body = { model: 'm', ...fields };
    const got = await call(s.url, `${path}?q=1`, {
      headers: { 'x-prefiller-host-port': `http://${p.hostPort}` },
      body,
    });
    expect(got.status).toBe(200);
    expect(p.seen[0]).toMatchObject({ method: 'POST', url: `${path}?q=1`, body: caps });
    expect(d.seen[0]).toMatchObject({ url: `${path}?q=1`, body: { ...body, kv_transfer_params: kvParams } });
  });
});

describe('a prefill that fails', () => {
  const named = (...targets: string[]) => ({ 'x-prefiller-host-port': targets.join(', ') });

  it.each<[string, string, number]>([
    ['decode-local', 'is computed locally', 200],
    ['error', 'is the client’s error', 502],
  ])('%s: a dead pod %s', async (policy, _what, status) => {
    const d = await engine(decodes());
    const s = await sidecar(d.port, [`--prefill-failure=${policy}`]);
    const dead = `127.0.0.1:${await deadPort()}`;
    const got = await call(s.url, chat, { headers: named(dead), body: hello });
    expect(got.status).toBe(status);
    expect(got.headers['x-signalbox-prefill']).toBe('none');
    if (status === 200) {
      expect(d.seen[0]?.body).toEqual(hello);
      expect(await metricsOf(s)).toMatch(/prefill_fallbacks_total\{reason="refused"\} 1/);
    } else {
      expect(d.seen).toHaveLength(0);
      expect(got.body.error.message).toContain(dead);
    }
  });

  it('goes to the next pod of the list', async () => {
    const p = await engine(prefills);
    const d = await engine(decodes());
    const s = await sidecar(d.port);
    const dead = `127.0.0.1:${await deadPort()}`;
    const got = await call(s.url, chat, { headers: named(dead, p.hostPort), body: hello });
    expect(got.headers['x-signalbox-prefill']).toBe(p.hostPort);
    expect(d.seen[0]?.body.kv_transfer_params).toEqual(kvParams);
  });

  it('begins with a random pod when sampling', async () => {
    const p1 = await engine(prefills);
    const p2 = await engine(prefills);
    const d = await engine(decodes());
    const s = await sidecar(d.port, ['--enable-prefiller-sampling'], { random: () => 0.9 });
    const got = await call(s.url, chat, { headers: named(p1.hostPort, p2.hostPort), body: hello });
    expect(got.headers['x-signalbox-prefill']).toBe(p2.hostPort);
  });

  it.each([502, 503, 504, 500, 429, 302])('%i: retried when that can help, then told verbatim', async (status) => {
    const p = await engine((res) => json(res, { why: 'busy' }, status));
    const d = await engine(decodes());
    const s = await sidecar(d.port, ['--prefill-max-retries=2', '--prefill-failure=error']);
    const got = await call(s.url, chat, { headers: named(p.hostPort), body: hello });
    expect(got).toMatchObject({ status, body: { why: 'busy' } });
    expect(p.seen).toHaveLength([502, 503, 504].includes(status) ? 3 : 1);
    expect(d.seen).toHaveLength(0);
  });

  it('succeeds on a later try', async () => {
    let calls = 0;
    const p = await engine((res, seen, req) => (++calls < 3 ? json(res, {}, 503) : prefills(res, seen, req)));
    const d = await engine(decodes());
    const s = await sidecar(d.port, ['--prefill-max-retries=2']);
    const got = await call(s.url, chat, { headers: named(p.hostPort), body: hello });
    expect(got.headers['x-signalbox-prefill']).toBe(p.hostPort);
    expect(d.seen[0]?.body.kv_transfer_params).toEqual(kvParams);
  });

  it.each([400, 401, 404, 422])('%i is the client’s own fault and goes back as it is', async (status) => {
    const p = await engine((res) => json(res, { error: { message: 'bad' } }, status));
    const d = await engine(decodes());
    const s = await sidecar(d.port);
    const got = await call(s.url, chat, { headers: named(p.hostPort), body: hello });
    expect(got).toMatchObject({ status, body: { error: { message: 'bad' } } });
    expect(d.seen).toHaveLength(0);
  });

  it('never hangs on a pod that says nothing', async () => {
    const p = await engine(() => {});
    const d = await engine(decodes());
    const s = await sidecar(d.port, ['--prefill-timeout=150ms']);
    const got = await call(s.url, chat, { headers: named(p.hostPort), body: hello });
    expect(got).toMatchObject({ status: 200, headers: { 'x-signalbox-prefill': 'none' } });
    await p.seen[0]?.aborted;
    const strict = await sidecar(d.port, ['--prefill-timeout=150ms', '--prefill-failure=error']);
    expect((await call(strict.url, chat, { headers: named(p.hostPort), body: hello })).status).toBe(504);
  });

  it('gives up a pod that hangs before the time is over, and goes to the next one', async () => {
    const hung = createTcpServer(() => {});
    hung.listen(0, '127.0.0.1');
    await once(hung, 'listening');
    closers.push(() => hung.close());
    const good = await engine(prefills);
    const d = await engine(decodes());
    const s = await sidecar(d.port, ['--prefill-health-interval=50ms']);
    const header = `127.0.0.1:${(hung.address() as AddressInfo).port},${good.hostPort}`;
    const got = await call(s.url, chat, { headers: named(header), body: hello });
    expect(got).toMatchObject({ status: 200, headers: { 'x-signalbox-prefill': good.hostPort } });
  }, 15_000);

  it('waits for a pod that computes for long and answers its health checks', async () => {
    const slow = await engine((res) => setTimeout(() => prefills(res, slow.seen[0] as Seen, {} as never), 300));
    const d = await engine(decodes());
    const s = await sidecar(d.port, ['--prefill-health-interval=20ms']);
    const got = await call(s.url, chat, { headers: named(slow.hostPort), body: hello });
    expect(got).toMatchObject({ status: 200, headers: { 'x-signalbox-prefill': slow.hostPort } });
  });

  it('survives a pod that breaks off or talks nonsense', async () => {
    for (const nonsense of [
      (res: ServerResponse) => res.end('not json'),
      (res: ServerResponse) => {
        res.writeHead(200, { 'content-length': 100 });
        res.write('{"cut');
        setTimeout(() => res.destroy(), 10);
      },
      (res: ServerResponse) => res.destroy(),
    ]) {
      const p = await engine(nonsense);
      const d = await engine(decodes());
      const s = await sidecar(d.port);
      const got = await call(s.url, chat, { headers: named(p.hostPort), body: hello });
      expect(got.status).toBe(200);
      expect(d.seen[0]?.body).toEqual(hello);
    }
  });

  it('lets the decoder go on without parameters when the prefill pod gave none', async () => {
    const p = await engine((res) => json(res, { choices: [] }));
    const d = await engine(decodes());
    const s = await sidecar(d.port);
    const got = await call(s.url, chat, { headers: named(p.hostPort), body: hello });
    expect(d.seen[0]?.body.kv_transfer_params).toBeNull();
    expect(got.body.usage.prompt_tokens_details.cached_tokens).toBe(0);
  });

  it('computes locally when the decoder refuses the blocks', async () => {
    const p = await engine(prefills);
    const d = await engine((res, seen, req) =>
      seen.body.kv_transfer_params ? json(res, { error: 'handle expired' }, 500) : decodes()(res, seen, req),
    );
    const s = await sidecar(d.port);
    const got = await call(s.url, chat, { headers: named(p.hostPort), body: hello });
    expect(got).toMatchObject({ status: 200, headers: { 'x-signalbox-prefill': 'none' } });
    const strict = await sidecar(d.port, ['--prefill-failure=error']);
    expect(await call(strict.url, chat, { headers: named(p.hostPort), body: hello })).toMatchObject({
      status: 500,
      body: { error: 'handle expired' },
    });
  });

  it('refuses a header that names nothing', async () => {
    const d = await engine(decodes());
    const s = await sidecar(d.port);
    const got = await call(s.url, chat, { headers: { 'x-prefiller-host-port': 'nowhere' }, body: hello });
    expect(got).toMatchObject({ status: 400, body: { error: { param: 'x-prefiller-host-port' } } });
    const blank = await call(s.url, chat, { headers: { 'x-prefiller-host-port': ' ' }, body: hello });
    expect(blank.status).toBe(200);
  });
});

describe('engines that meet', () => {
  const named = (...targets: string[]) => ({ 'x-prefiller-host-port': targets.join(',') });
  /** A pair of engines that answer once both have the request of one room, as SGLang's do. */
  async function meeting() {
    const rooms = new Map<number, () => void>();
    const arrive: Behaviour = (res, { body }) => {
      const answer = () => decodes()(res, { body } as Seen, {} as never);
      const other = rooms.get(body.bootstrap_room);
      if (!other) rooms.set(body.bootstrap_room, answer);
      else {
        other();
        answer();
      }
    };
    return { p: await engine(arrive), d: await engine(arrive) };
  }

  it.each([true, false])('get the request at the same time (stream: %s)', async (stream) => {
    const { p, d } = await meeting();
    const s = await sidecar(d.port, ['--connector=sglang', '--sglang-bootstrap-port=9000']);
    const got = await call(s.url, chat, { headers: named(p.hostPort), body: { ...hello, stream } });
    expect(got).toMatchObject({ status: 200, isCut: false, headers: { 'x-signalbox-prefill': p.hostPort } });
    expect(p.seen[0]?.body).toMatchObject({ bootstrap_host: '127.0.0.1', bootstrap_port: 9000, stream: false });
    expect(d.seen[0]?.body).toMatchObject({ bootstrap_room: p.seen[0]?.body.bootstrap_room, stream });
    const again = await call(s.url, chat, { headers: named(p.hostPort), body: { ...hello, n: 1 } });
    expect(again.status).toBe(200);
  });

  it('end the decoder’s wait when the prefill fails, and the next pod is tried', async () => {
    const { p, d } = await meeting();
    const bad = await engine((res) => json(res, {}, 503));
    const s = await sidecar(d.port, ['--connector=sglang', '--prefill-failure=error']);
    const got = await call(s.url, chat, { headers: named(bad.hostPort, p.hostPort), body: hello });
    expect(got).toMatchObject({ status: 200, headers: { 'x-signalbox-prefill': p.hostPort } });
    await d.seen[0]?.aborted;
    expect(await metricsOf(s)).toMatch(/prefill_retries_total\{with="next_pod"\} 1/);
    const gone = await call(s.url, chat, { headers: named('127.0.0.1:1'), body: { ...hello, seed: 1 } });
    expect(gone.status).toBe(502);
    const wrong = await engine((res) => json(res, { error: 'no' }, 422));
    const told = await call(s.url, chat, { headers: named(wrong.hostPort), body: { ...hello, seed: 2 } });
    expect(told).toMatchObject({ status: 422, body: { error: 'no' } });
  });

  it('end both requests when the client leaves', async () => {
    const p = await engine(() => {});
    const d = await engine(() => {});
    const s = await sidecar(d.port, ['--connector=sglang']);
    const req = httpRequest(`${s.url}${chat}`, { method: 'POST', headers: named(p.hostPort), agent: false });
    req.on('error', () => {});
    req.end(JSON.stringify(hello));
    while (p.seen.length + d.seen.length < 2) await new Promise((resolve) => setTimeout(resolve, 5));
    req.destroy();
    await Promise.all([p.seen[0]?.aborted, d.seen[0]?.aborted]);
  });

  it('share a store: the prefill’s answer is only awaited', async () => {
    const p = await engine(decodes('H', 3));
    const d = await engine(decodes('Hi there', 8));
    const s = await sidecar(d.port, ['--kv-connector=shared-storage']);
    const got = await call(s.url, chat, { headers: named(p.hostPort), body: hello });
    expect(got.headers['x-signalbox-prefill']).toBe(p.hostPort);
    expect(got.body.usage.prompt_tokens_details.cached_tokens).toBe(3);
    expect(p.seen[0]?.body).toMatchObject({ max_tokens: 1, cache_hit_threshold: 0 });
    expect(d.seen[0]?.body).toEqual({ ...hello, cache_hit_threshold: 0 });
  });
});

describe('everything else', () => {
  it('goes to the engine as it is', async () => {
    const d = await engine((res, seen) => {
      res.writeHead(seen.url === '/v1/models' ? 200 : 404, 'Fine', {
        'x-engine': 'vllm',
        'set-cookie': ['a=1', 'b=2'],
      });
      res.end(`${seen.method} ${seen.url} ${seen.text}`);
    });
    const s = await sidecar(d.port);
    const models = await call(s.url, '/v1/models');
    expect(models).toMatchObject({ status: 200, text: 'GET /v1/models ', headers: { 'x-engine': 'vllm' } });
    expect(models.headers['set-cookie']).toEqual(['a=1', 'b=2']);
    expect(models.headers).not.toHaveProperty('x-signalbox-decode');
    expect((await call(s.url, '/metrics')).text).toBe('GET /metrics ');
    expect((await call(s.url, '/v1/embeddings', { body: '{"input":"x"}' })).text).toBe(
      'POST /v1/embeddings {"input":"x"}',
    );
    expect((await call(s.url, '/any?q=1', { method: 'DELETE' })).status).toBe(404);
    expect((await call(s.url, '/v1/models', { method: 'HEAD' })).headers['x-engine']).toBe('vllm');
    const odd = {
      connection: 'close, x-hop',
      'x-hop': '1',
      te: 'trailers',
      expect: '100-continue',
      'x-prefiller-host-port': 'x',
    };
    await call(s.url, '/score', { headers: odd, body: 'abc' });
    for (const name of ['x-hop', 'te', 'expect', 'x-prefiller-host-port'])
      expect(d.seen.at(-1)?.headers).not.toHaveProperty(name);
  });

  it('never tells the engine where to fetch blocks, whatever the path is spelled like', async () => {
    const d = await engine(decodes());
    const s = await sidecar(d.port);
    const body = { ...hello, kv_transfer_params: { do_remote_prefill: true, remote_host: '169.254.169.254' } };
    const paths = ['/invocations', '/v1/%63hat/completions', '/v1/chat/completions#', '/v1/chat/completions/batch'];
    for (const path of [...paths, '/inference/v1/generate']) {
      expect((await callRaw(s.url, path, JSON.stringify(body))).status).toBe(200);
    }
    expect(d.seen.map((seen) => seen.url)).toEqual([...paths, '/inference/v1/generate']);
    for (const seen of d.seen) expect(seen.body).toEqual(hello);
    // Python reads UTF-16 as JSON too.
    const utf16 = Buffer.from(`\ufeff${JSON.stringify(body)}`, 'utf16le');
    for (const path of ['/invocations', chat])
      expect(await call(s.url, path, { body: utf16 })).toMatchObject({ status: 400 });
    expect(d.seen).toHaveLength(5);
  });

  it('streams a large upload, of known and unknown length', async () => {
    const d = await engine((res, seen) => res.end(String(seen.text.length)));
    const s = await sidecar(d.port);
    const body = Buffer.alloc(3 * 1024 * 1024, 'x');
    expect((await call(s.url, '/v1/audio', { headers: { 'content-length': body.length }, body })).text).toBe(
      String(body.length),
    );
    expect((await call(s.url, '/v1/audio', { headers: { 'transfer-encoding': 'chunked' }, body })).text).toBe(
      String(body.length),
    );
  });

  it('is 503 for a large upload too when the engine is away', async () => {
    const s = await sidecar(await deadPort());
    const body = Buffer.alloc(256 * 1024, 'x');
    expect((await call(s.url, '/v1/audio', { body })).status).toBe(503);
    expect((await call(s.url, '/v1/models')).body.error.type).toBe('ServiceUnavailableError');
  });
});

describe('bad and broken requests', () => {
  it('answers 400 for what is no JSON and 413 for what is too large', async () => {
    const d = await engine(decodes());
    const s = await sidecar(d.port, ['--max-request-bytes=200']);
    expect(await call(s.url, chat, { body: '{' })).toMatchObject({
      status: 400,
      body: { error: { type: 'BadRequestError' } },
    });
    const large = { ...hello, user: 'x'.repeat(300) };
    expect(await call(s.url, chat, { body: large })).toMatchObject({ status: 413, body: { error: { code: 413 } } });
    expect((await call(s.url, chat, { headers: { 'transfer-encoding': 'chunked' }, body: large })).status).toBe(413);
    expect(d.seen).toHaveLength(0);
  });

  /** Sends bytes as they are; resolves with all that comes back until the other side ends. */
  const raw = (base: string, text: string, end = false) =>
    new Promise<string>((resolve, reject) => {
      const { port } = new URL(base);
      const socket = connect({ port: Number(port), host: '127.0.0.1', allowHalfOpen: true });
      let back = '';
      socket.on('data', (chunk) => {
        back += chunk.toString('latin1');
      });
      socket.on('end', () => {
        socket.destroy();
        resolve(back);
      });
      socket.on('error', reject);
      if (end) socket.end(text);
      else socket.write(text);
    });
  const line = `POST ${chat} HTTP/1.1\r\nhost: x\r\n`;
  const prompt = JSON.stringify(hello);
  const size = `content-length: ${prompt.length}\r\n`;
  const hidden = 'GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n';

  it.each([
    ['a length and chunks', `${line}${size}transfer-encoding: chunked\r\n\r\n0\r\n\r\n${hidden}`, 400],
    ['two lengths', `${line}${size}content-length: 0\r\n\r\n${prompt}${hidden}`, 400],
    ['a length that is none', `${line}content-length: +5\r\n\r\n${prompt}`, 400],
    ['chunks that are not last', `${line}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n${hidden}`, 400],
    ['a blank before the colon', `${line}transfer-encoding : chunked\r\n\r\n0\r\n\r\n${hidden}`, 400],
    ['a chunk size that is none', `${line}transfer-encoding: chunked\r\n\r\nzz\r\n`, 400],
    ['a bare line feed', `POST ${chat} HTTP/1.1\nhost: x\n${size}\n${prompt}`, 400],
    ['a NUL in a header', `${line}x-a: b\0c\r\n${size}\r\n${prompt}`, 400],
    ['no host', `POST ${chat} HTTP/1.1\r\n${size}\r\n${prompt}`, 400],
    ['headers without end', `${line}x-a: ${'b'.repeat(70_000)}\r\n\r\n`, 431],
    ['no HTTP at all', '\x16\x03\x01\x02\x00\x01', 400],
  ])('refuses %s and ends the connection', async (name, text, status) => {
    const d = await engine(decodes());
    const s = await sidecar(d.port);
    const back = await raw(s.url, text);
    expect(back.match(/HTTP\/1\.1 \d+/g)).toEqual([`HTTP/1.1 ${status}`]);
    // Node itself answers where only the host is missing.
    if (name !== 'no host') expect(back).toContain(`"code":${status}`);
    expect(d.seen).toEqual([]);
    expect((await call(s.url, chat, { body: hello })).status).toBe(200);
  });

  it('keeps a header’s lines to itself, and two requests on one connection apart', async () => {
    const d = await engine(decodes());
    const s = await sidecar(d.port);
    const one = `${line}x-session-id: a\r\nconnection: x-secret\r\nx-secret: 1\r\n${size}\r\n${prompt}`;
    const back = await raw(s.url, `${one}${line}x-session-id: b\r\nconnection: close\r\n${size}\r\n${prompt}`);
    expect(back.match(/x-session-id: ./g)).toEqual(['x-session-id: a', 'x-session-id: b']);
    expect(d.seen).toHaveLength(2);
    expect(d.seen[0]?.headers).not.toHaveProperty('x-secret');
  });

  it('takes a connection whose other half is closed as left, and ends the engine’s work', async () => {
    const d = await engine(() => {});
    const s = await sidecar(d.port);
    expect(await raw(s.url, `${line}${size}\r\n${prompt}`, true)).toBe('');
    await Promise.all(d.seen.map((seen) => seen.aborted));
    expect(await metricsOf(s)).toMatch(/requests_in_flight 0/);
  });

  it('refuses 100 MB without reading them, of known and unknown length', async () => {
    const d = await engine(decodes());
    const s = await sidecar(d.port);
    const before = process.memoryUsage().rss;
    const known = await raw(s.url, `${line}content-length: 104857600\r\n\r\n{"model":"m",`);
    expect(known).toMatch(/^HTTP\/1\.1 413 [\s\S]*67108864 bytes/);
    const small = await sidecar(d.port, ['--max-request-bytes=1000000']);
    const chunk = Buffer.alloc(65_536, 'x');
    const req = httpRequest(`${small.url}${chat}`, { method: 'POST', agent: false });
    const answered = once(req, 'response') as Promise<[IncomingMessage]>;
    req.on('error', () => {});
    let sent = 0;
    let isAnswered = false;
    void answered.then(() => {
      isAnswered = true;
    });
    while (!isAnswered && sent < 104_857_600) {
      sent += chunk.length;
      if (!req.write(chunk)) await Promise.race([once(req, 'drain'), answered]);
    }
    expect((await answered)[0].statusCode).toBe(413);
    expect(sent).toBeLessThan(20_000_000);
    expect(process.memoryUsage().rss - before).toBeLessThan(150_000_000);
    req.destroy();
    expect(d.seen).toEqual([]);
  });

  it('tries again on a connection that the engine closed while it idled', async () => {
    let connections = 0;
    const d = await engine(decodes());
    d.server.on('connection', (socket) => {
      connections++;
      // Closes at the second request's first byte: what a race with an idle time-out looks like.
      let requests = 0;
      socket.prependListener('data', () => {
        if (++requests === 2) socket.resetAndDestroy();
      });
    });
    const s = await sidecar(d.port);
    for (let i = 0; i < 3; i++) expect((await call(s.url, chat, { body: hello })).status).toBe(200);
    expect(connections).toBeGreaterThan(1);
  });

  it('is 502 when the engine breaks off before it answers', async () => {
    const d = await engine((res) => res.destroy());
    const s = await sidecar(d.port);
    expect(await call(s.url, chat, { body: hello })).toMatchObject({ status: 502, body: { error: { code: 502 } } });
  });

  it('says so in the stream, and cuts it, when the engine breaks off midway', async () => {
    const d = await engine((res) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      res.write('data: {"choices":[]}\n\n');
      setTimeout(() => res.destroy(), 20);
    });
    const s = await sidecar(d.port);
    const got = await call(s.url, chat, { body: { ...hello, stream: true } });
    expect(got.isCut).toBe(true);
    expect(got.text).toMatch(/^data: \{"choices":\[\]\}\n\ndata: \{"error":\{/);
  });

  it.each(['prefill', 'decode'])('ends the %s when the client leaves', async (leg) => {
    const silent: Behaviour = (res) => {
      if (leg === 'decode') {
        res.writeHead(200, { 'content-type': 'text/event-stream' });
        res.write('data: 1\n\n');
      }
    };
    const p = await engine(leg === 'prefill' ? silent : prefills);
    const d = await engine(leg === 'decode' ? silent : decodes());
    const s = await sidecar(d.port, [`--prefill-url=http://${p.hostPort}`]);
    const req = httpRequest(`${s.url}${chat}`, { method: 'POST', agent: false });
    req.on('error', () => {});
    req.end(JSON.stringify({ ...hello, stream: true }));
    const target = leg === 'prefill' ? p : d;
    while (target.seen.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    req.destroy();
    await target.seen[0]?.aborted;
    if (leg === 'prefill') expect(d.seen).toHaveLength(0);
    expect(await metricsOf(s)).toMatch(/requests_total\{kind="completion",code="499"\} 1/);
  });

  it('does not read an answer faster than the client does', async () => {
    const total = 64 * 1024 * 1024;
    let written = 0;
    const d = await engine((res) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      const chunk = Buffer.alloc(64 * 1024, 'x');
      const more = () => {
        while (written < total) {
          written += chunk.length;
          if (!res.write(chunk)) {
            res.once('drain', more);
            return;
          }
        }
        res.end();
      };
      more();
    });
    const s = await sidecar(d.port);
    const req = httpRequest(`${s.url}/v1/files`, { agent: false });
    req.end();
    const [res] = (await once(req, 'response')) as [IncomingMessage];
    await new Promise((resolve) => setTimeout(resolve, 300));
    // What fits in socket buffers on the way, far from all of it.
    expect(written).toBeLessThan(total / 2);
    let read = 0;
    for await (const chunk of res) read += (chunk as Buffer).length;
    expect(read).toBe(total);
  });
});

describe('the allow-list', () => {
  interface Item extends KubeObject {
    readonly spec?: unknown;
    readonly status?: unknown;
  }
  const pool: Item = {
    apiVersion: 'inference.networking.k8s.io/v1',
    kind: 'InferencePool',
    metadata: { namespace: 'team', name: 'pool', uid: 'u0', resourceVersion: '1' },
    spec: { selector: { matchLabels: { app: 'llm' } }, targetPorts: [{ number: 8000 }] },
  };
  const pod = (name: string, ip: string, ready = true, resourceVersion = '1'): Item => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      namespace: 'team',
      name,
      uid: name,
      resourceVersion,
      labels: { app: 'llm', 'llm-d.ai/role': 'prefill' },
    },
    status: { podIP: ip, conditions: [{ type: 'Ready', status: ready ? 'True' : 'False' }] },
  });
  /** An API server in memory: lists what it has, and says nothing more until told. */
  const kube = (lists: { pools: readonly Item[]; pods: readonly Item[] }, isSilent = false) => {
    const watchers: { plural: string; push: (event: WatchEvent<KubeObject>) => void }[] = [];
    const asked: string[] = [];
    const client = {
      list: async (resource: { plural: string }, options?: { labelSelector?: string; fieldSelector?: string }) => {
        asked.push(`${resource.plural} ${options?.labelSelector ?? options?.fieldSelector ?? ''}`);
        if (isSilent) await new Promise(() => {});
        return { items: resource.plural === 'pods' ? lists.pods : lists.pools, resourceVersion: '1' };
      },
      watch: async function* (resource: { plural: string }, _options: unknown, signal: AbortSignal) {
        const queue: WatchEvent<KubeObject>[] = [];
        let wake = () => {};
        signal.addEventListener('abort', () => wake());
        watchers.push({
          plural: resource.plural,
          push: (event) => {
            queue.push(event);
            wake();
          },
        });
        while (!signal.aborted) {
          const event = queue.shift();
          if (event) yield event;
          else
            await new Promise<void>((resolve) => {
              wake = resolve;
            });
        }
      },
    };
    return {
      client: client as unknown as Client,
      asked,
      tell: async (plural: string, event: WatchEvent<KubeObject>) => {
        await until(async () => watchers.some((watcher) => watcher.plural === plural));
        for (const watcher of watchers) if (watcher.plural === plural) watcher.push(event);
      },
    };
  };
  const flags = ['--enable-ssrf-protection', '--inference-pool=team/pool'];
  const until = async (condition: () => Promise<boolean>) => {
    for (let i = 0; i < 200; i++) {
      if (await condition()) return;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    throw new Error('it did not happen');
  };
  const allowedCount = async (s: Sidecar) => Number(/allowed_targets (\d+)/.exec(await metricsOf(s))?.[1]);

  it('lets ready prefill pods through and refuses the rest with 403', async () => {
    const p = await engine(prefills);
    const d = await engine(decodes());
    const local = { ...pool, spec: { selector: { matchLabels: { app: 'llm' } }, targetPorts: [{ number: p.port }] } };
    const api = kube({ pools: [local], pods: [pod('p0', '127.0.0.1'), pod('p1', '127.0.0.2', false)] });
    const s = await sidecar(d.port, flags, { client: api.client });
    await until(async () => (await allowedCount(s)) === 1);
    expect(api.asked).toEqual(['inferencepools metadata.name=pool', 'pods app=llm']);
    expect((await call(s.url, '/ready')).status).toBe(200);

    const good = await call(s.url, chat, { headers: { 'x-prefiller-host-port': p.hostPort }, body: hello });
    expect(good.headers['x-signalbox-prefill']).toBe(p.hostPort);
    for (const evil of ['127.0.0.2:8000', `127.0.0.1:${d.port}`, 'localhost:22', '169.254.169.254:80']) {
      const got = await call(s.url, chat, { headers: { 'x-prefiller-host-port': evil }, body: hello });
      expect(got).toMatchObject({
        status: 403,
        body: { error: { type: 'PermissionDeniedError', param: 'x-prefiller-host-port' } },
      });
      expect(got.body.error.message).toContain(evil);
    }
    const mixed = await call(s.url, chat, {
      headers: { 'x-prefiller-host-port': `127.0.0.9:1,${p.hostPort}` },
      body: hello,
    });
    expect(mixed.headers['x-signalbox-prefill']).toBe(p.hostPort);
    expect(await metricsOf(s)).toMatch(/targets_denied_total 5/);

    // A pod that has just gone is a failed prefill, not a forged one: the picker may name it a moment longer.
    await api.tell('pods', { type: 'DELETED', object: pod('p0', '127.0.0.1') });
    await until(async () => (await allowedCount(s)) === 0);
    const late = await call(s.url, chat, {
      headers: { 'x-prefiller-host-port': p.hostPort },
      body: { ...hello, user: 'late' },
    });
    expect(late).toMatchObject({ status: 200, headers: { 'x-signalbox-prefill': 'none' } });
    expect(await metricsOf(s)).toMatch(/fallbacks_total\{reason="gone"\} 1/);
  });

  it('waits a moment for a pod that the picker knows of first', async () => {
    const p = await engine(prefills);
    const d = await engine(decodes());
    const local = { ...pool, spec: { selector: { matchLabels: { app: 'llm' } }, targetPorts: [{ number: p.port }] } };
    const api = kube({ pools: [local], pods: [pod('p0', '127.0.0.1', false)] });
    const s = await sidecar(d.port, flags, { client: api.client });
    await until(async () => (await allowedCount(s)) === 0);
    const asked = call(s.url, chat, { headers: { 'x-prefiller-host-port': p.hostPort }, body: hello });
    await api.tell('pods', { type: 'MODIFIED', object: pod('p0', '127.0.0.1', true, '2') });
    expect(await asked).toMatchObject({ status: 200, headers: { 'x-signalbox-prefill': p.hostPort } });
  });

  it('trusts the configured prefill URL', async () => {
    const p = await engine(prefills);
    const d = await engine(decodes());
    const api = kube({ pools: [], pods: [] });
    const s = await sidecar(d.port, [...flags, `--prefill-url=http://localhost:${p.port}`], { client: api.client });
    expect((await call(s.url, chat, { body: hello })).headers['x-signalbox-prefill']).toBe(`localhost:${p.port}`);
  });

  it('finds prefill pods by the pool when nothing else names one', async () => {
    const p = await engine(prefills);
    const d = await engine(decodes());
    const local = { ...pool, spec: { selector: { app: 'llm' }, targetPortNumber: p.port } };
    const api = kube({ pools: [local], pods: [pod('p0', '127.0.0.1')] });
    const s = await sidecar(d.port, ['--inference-pool=team/pool', '--pool-group=inference.networking.x-k8s.io'], {
      client: api.client,
    });
    expect((await call(s.url, chat, { body: hello })).headers['x-signalbox-prefill']).toBe(p.hostPort);
    await api.tell('pods', { type: 'MODIFIED', object: pod('p0', '127.0.0.1', false, '2') });
    await until(async () => (await allowedCount(s)) === 0);
    expect((await call(s.url, chat, { body: { ...hello, user: 'b' } })).headers['x-signalbox-prefill']).toBe('none');
  });

  it.each([
    ['decode-local', 200],
    ['error', 503],
  ])('waits a moment for the first list, then %s', async (policy, status) => {
    const p = await engine(prefills);
    const d = await engine(decodes());
    const api = kube({ pools: [], pods: [] }, true);
    const clock = {
      now: () => Date.now(),
      sleep: () => new Promise<void>((resolve) => setTimeout(resolve, 20)),
      interval: () => () => {},
    };
    const s = await sidecar(d.port, [...flags, `--prefill-failure=${policy}`], { client: api.client, clock });
    expect((await call(s.url, '/ready')).status).toBe(503);
    const got = await call(s.url, chat, { headers: { 'x-prefiller-host-port': p.hostPort }, body: hello });
    expect(got.status).toBe(status);
    expect(p.seen).toHaveLength(0);
  });
});

describe('the server', () => {
  it('finishes a stream before it stops, and is not ready meanwhile', async () => {
    let finish = () => {};
    const d = await engine((res, { url }) => {
      if (url === '/v1/models') {
        json(res, {});
        return;
      }
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      res.write('data: 1\n\n');
      finish = () => res.end('data: [DONE]\n\n');
    });
    const s = await sidecar(d.port);
    const answer = call(s.url, chat, { body: { ...hello, stream: true } });
    while (d.seen.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    let isClosed = false;
    const closed = s.close(5000).then(() => {
      isClosed = true;
    });
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(isClosed).toBe(false);
    expect(await call(s.url, '/ready')).toMatchObject({ status: 503, text: 'draining\n' });
    expect(await call(s.url, '/v1/models')).toMatchObject({ headers: { connection: 'close' } });
    finish();
    expect(await answer).toMatchObject({ status: 200, isCut: false, text: 'data: 1\n\ndata: [DONE]\n\n' });
    await closed;
    await expect(call(s.url, '/ready')).rejects.toThrow(/ECONNREFUSED/);
  });

  it('cuts a stream that outlasts the deadline', async () => {
    const d = await engine((res) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      res.write('data: 1\n\n');
    });
    const s = await sidecar(d.port);
    const answer = call(s.url, chat, { body: { ...hello, stream: true } });
    while (d.seen.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    await new Promise((resolve) => setTimeout(resolve, 30));
    await s.close(50);
    expect((await answer).isCut).toBe(true);
  });

  it('says which port is taken', async () => {
    const d = await engine(decodes());
    await expect(sidecar(d.port, [`--port=${d.port}`, `--decoder-port=${d.port + 1}`])).rejects.toThrow(
      new RegExp(`--port: cannot listen on 127.0.0.1:${d.port}`),
    );
  });

  it('serves and calls by TLS, verifying with the folder’s CA', async () => {
    const validity = { notBefore: new Date(Date.now() - 60_000), notAfter: new Date(Date.now() + 3_600_000) };
    const authority = await createAuthority({ commonName: 'test', ...validity });
    const issued = await issueCertificate(authority, { commonName: 'pod', ipAddresses: ['127.0.0.1'], ...validity });
    const tls = { cert: issued.certificate, key: issued.key };
    const dir = mkdtempSync(join(tmpdir(), 'sidecar-'));
    closers.push(() => rmSync(dir, { recursive: true }));
    writeFileSync(join(dir, 'tls.crt'), tls.cert);
    writeFileSync(join(dir, 'tls.key'), tls.key);
    writeFileSync(join(dir, 'ca.crt'), authority.certificate);
    const p = await engine(prefills, { tls });
    const d = await engine(decodes(), { tls });
    const s = await sidecar(d.port, ['--secure-proxy', `--cert-path=${dir}`, '--enable-tls=prefiller,decoder']);
    expect(s.url).toMatch(/^https:/);
    const headers = { 'x-prefiller-host-port': p.hostPort };
    const got = await call(s.url, chat, { headers, body: hello, ca: authority.certificate });
    expect(got).toMatchObject({ status: 200, headers: { 'x-signalbox-prefill': p.hostPort } });

    // A certificate that names Services and no pod: pods are called by address.
    const shared = await issueCertificate(authority, { commonName: 'llm', dnsNames: ['llm.svc'], ...validity });
    const other = await engine(decodes(), { tls: { cert: shared.certificate, key: shared.key } });
    const byAddress = await sidecar(other.port, ['--enable-tls=decoder', `--cert-path=${dir}`]);
    expect((await call(byAddress.url, chat, { body: hello })).status).toBe(502);
    const name = '--tls-server-name=llm.svc';
    const byName = await sidecar(other.port, ['--enable-tls=decoder', `--cert-path=${dir}`, name]);
    expect((await call(byName.url, chat, { body: hello })).status).toBe(200);
    const misnamed = await sidecar(d.port, ['--enable-tls=decoder', `--cert-path=${dir}`, name]);
    expect((await call(misnamed.url, chat, { body: hello })).status).toBe(502);

    const distrustful = await sidecar(d.port, ['--decoder-use-tls']);
    expect((await call(distrustful.url, chat, { body: hello })).status).toBe(502);
    const careless = await sidecar(d.port, ['--decoder-use-tls', '--decoder-tls-insecure-skip-verify']);
    expect((await call(careless.url, chat, { body: hello })).status).toBe(200);
  });

  it('serves its own pages apart', async () => {
    const d = await engine(decodes());
    const s = await sidecar(d.port);
    expect(await metricsOf(s)).toMatch(/^signalbox_sidecar_requests_in_flight 0$/m);
    expect((await call(s.metricsUrl, '/health')).status).toBe(200);
    expect((await call(s.metricsUrl, '/x')).status).toBe(404);
    expect((await call(s.metricsUrl, '/metrics', { method: 'PUT' })).status).toBe(405);
  });
});
