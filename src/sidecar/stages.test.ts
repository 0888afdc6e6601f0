import { afterEach, describe, expect, it } from '@jest/globals';
import {
  call,
  chat,
  closeAll,
  deadPort,
  decodes,
  engine,
  json,
  kvParams,
  metricsOf,
  prefills,
  sidecar,
} from '../../test/builders/sidecar.ts';
import { eventually } from '../../test/expect/eventually.ts';
import { encodeRequest, mediaItemsOf, mergedEcParams } from './encode-request.ts';

afterEach(closeAll);

const image = (url: string) => ({ type: 'image_url', image_url: { url } });
const audio = (data: string) => ({ type: 'input_audio', input_audio: { data, format: 'wav' } });
const pictures = {
  model: 'm',
  max_tokens: 9,
  messages: [
    {
      role: 'user',
      content: [
        { type: 'text', text: 'Compare' },
        image('http://x/1.png'),
        image('http://x/2.png'),
        image('http://x/1.png'),
      ],
    },
  ],
};

describe('items to encode', () => {
  it.each([
    ['text alone', [{ role: 'user', content: 'Hi' }], []],
    ['no messages', undefined, []],
    ['parts that are no objects', [{ role: 'user', content: [null, 1, 'x'] }, null], []],
    ['an item without a URL', [{ role: 'user', content: [{ type: 'image_url', image_url: {} }] }], []],
    ['images', pictures.messages, ['image_url http://x/1.png', 'image_url http://x/2.png']],
    [
      'a URL as text',
      [{ role: 'user', content: [{ type: 'video_url', video_url: 'http://v' }] }],
      ['video_url http://v'],
    ],
    [
      'audio, twice the same',
      [
        { role: 'user', content: [audio('AA'), { type: 'audio_url', audio_url: { url: 'http://a' } }] },
        { role: 'user', content: [audio('AA')] },
      ],
      ['input_audio AA', 'audio_url http://a'],
    ],
  ])('%s', (_name, messages, keys) => {
    expect(mediaItemsOf({ messages }).map((item) => item.key)).toEqual(keys);
  });

  it('are those after the last answer when the rest is known', () => {
    const messages = [
      ...pictures.messages,
      { role: 'assistant', content: 'Two cats.' },
      { role: 'user', content: [image('http://x/3.png')] },
    ];
    expect(mediaItemsOf({ messages }, true).map((item) => item.key)).toEqual(['image_url http://x/3.png']);
  });

  it('go out alone, with what decides how they are encoded', () => {
    const body = '{"messages":[],"mm_processor_kwargs":{"fps": 1.0},"model":"m","temperature":1}';
    const [item] = mediaItemsOf(pictures);
    expect(item && JSON.parse(encodeRequest(body, item))).toEqual({
      model: 'm',
      mm_processor_kwargs: { fps: 1 },
      messages: [{ role: 'user', content: [image('http://x/1.png')] }],
      max_tokens: 1,
      max_completion_tokens: 1,
      stream: false,
    });
  });

  it.each([
    [['{}', '{"ec_transfer_params":null}'], undefined],
    [
      ['{"ec_transfer_params":{"h1":{"peer_port":1}}}', '{}', '{"ec_transfer_params":{"h2":{}}}'],
      { h1: { peer_port: 1 }, h2: {} },
    ],
  ])('merges the parameters of %j', (answers, merged) => {
    const text = mergedEcParams(answers);
    expect(text && JSON.parse(text)).toEqual(merged);
  });
});

describe('the encode stage', () => {
  const encodes =
    (name: string): Parameters<typeof engine>[0] =>
    (res, { body }) =>
      json(res, {
        choices: [],
        ec_transfer_params: { [`${body.messages[0].content[0].image_url.url}`]: { peer_host: name } },
      });

  it('has each item encoded once, then prefills, then decodes', async () => {
    const [e1, e2] = [await engine(encodes('e1')), await engine(encodes('e2'))];
    const p = await engine(prefills);
    const d = await engine(decodes());
    const s = await sidecar(d.port, ['--ec-connector=ec-nixl']);
    const { status } = await call(s.url, chat, {
      headers: {
        'x-encoder-hosts-ports': `${e1.hostPort}, ${e2.hostPort}`,
        'x-prefiller-host-port': p.hostPort,
        'x-request-id': 'r1',
      },
      body: { ...pictures, ec_transfer_params: { evil: {} }, kv_transfer_params: { remote_host: 'evil' } },
    });
    expect(status).toBe(200);
    const asked = [...e1.seen, ...e2.seen];
    expect(asked.map((seen) => seen.headers['x-request-id']).sort()).toEqual(['r1-enc-0', 'r1-enc-1']);
    expect([e1.seen.length, e2.seen.length]).toEqual([1, 1]);
    for (const { body, headers } of asked) {
      expect(body).toMatchObject({ model: 'm', max_tokens: 1, stream: false });
      expect(body.messages[0].content).toHaveLength(1);
      expect(headers).not.toHaveProperty('x-encoder-hosts-ports');
    }
    const params = p.seen[0]?.body.ec_transfer_params;
    expect(Object.keys(params).sort()).toEqual(['http://x/1.png', 'http://x/2.png']);
    expect(d.seen[0]?.body).toMatchObject({ max_tokens: 9, kv_transfer_params: kvParams, ec_transfer_params: params });
    expect(d.seen[0]?.headers).not.toHaveProperty('x-encoder-hosts-ports');
    expect(await metricsOf(s)).toMatch(/encode_attempts_total\{result="ok"\} 2/);
  });

  it('goes straight to the decoder when nothing is prefilled, and hands nothing over with a store', async () => {
    const e = await engine(encodes('e'));
    const d = await engine(decodes());
    const s = await sidecar(d.port, ['--ec-connector=ec-example']);
    const headers = { 'x-encoder-hosts-ports': e.hostPort };
    expect((await call(s.url, chat, { headers, body: pictures })).status).toBe(200);
    expect(e.seen).toHaveLength(2);
    expect(d.seen[0]?.body).toEqual(pictures);
  });

  it.each([
    ['text alone', ['--ec-connector=ec-nixl'], { model: 'm', messages: [{ role: 'user', content: 'Hi' }] }],
    ['no connector', [], pictures],
  ])('is passed by with %s', async (_name, flags, body) => {
    const e = await engine(encodes('e'));
    const d = await engine(decodes());
    const s = await sidecar(d.port, flags);
    const { status } = await call(s.url, chat, { headers: { 'x-encoder-hosts-ports': e.hostPort }, body });
    expect([status, e.seen.length, d.seen.length]).toEqual([200, 0, 1]);
  });

  it('asks another encoder, then leaves the items to the engine', async () => {
    const bad = await engine((res) => json(res, { error: 'x' }, 500));
    const d = await engine(decodes());
    const s = await sidecar(d.port, ['--ec-connector=ec-nixl']);
    const list = `${bad.hostPort},127.0.0.1:${await deadPort()}`;
    const { status } = await call(s.url, chat, { headers: { 'x-encoder-hosts-ports': list }, body: pictures });
    expect(status).toBe(200);
    expect(d.seen[0]?.body).toEqual(pictures);
    expect(await metricsOf(s)).toMatch(/encode_fallbacks_total\{reason="\w+"\} 1/);
  });

  it('tells the client with --encode-failure=error, and ends the other items', async () => {
    const slow = await engine(() => {});
    const bad = await engine((res) => setTimeout(() => json(res, { error: 'x' }, 503), 20));
    const d = await engine(decodes());
    const s = await sidecar(d.port, ['--ec-connector=ec-nixl', '--encode-failure=error']);
    const three = {
      ...pictures,
      messages: [{ role: 'user', content: ['1', '2'].map((n) => image(`http://x/${n}`)) }],
    };
    const list = `${slow.hostPort},${bad.hostPort},${bad.hostPort},${bad.hostPort}`;
    const { status, body } = await call(s.url, chat, { headers: { 'x-encoder-hosts-ports': list }, body: three });
    expect(status).toBe(502);
    expect(body.error.message).toContain(`encoder ${bad.hostPort} answered 503`);
    await slow.seen[0]?.aborted;
    expect(d.seen).toHaveLength(0);
  });

  it('gives a refusal of the request to the client as it is', async () => {
    const e = await engine((res) => json(res, { error: { message: 'no such image' } }, 400));
    const d = await engine(decodes());
    const s = await sidecar(d.port, ['--ec-connector=ec-nixl']);
    const { status, body } = await call(s.url, chat, {
      headers: { 'x-encoder-hosts-ports': e.hostPort },
      body: pictures,
    });
    expect([status, body.error.message, d.seen.length]).toEqual([400, 'no such image', 0]);
  });

  it('ends with the client', async () => {
    const e = await engine(() => {});
    const d = await engine(decodes());
    const s = await sidecar(d.port, ['--ec-connector=ec-nixl']);
    const abort = new AbortController();
    const asked = fetch(`${s.url}${chat}`, {
      method: 'POST',
      headers: { 'x-encoder-hosts-ports': e.hostPort },
      body: JSON.stringify(pictures),
      signal: abort.signal,
    }).catch(() => 'gone');
    await eventually(() => expect(e.seen).toHaveLength(2));
    abort.abort();
    expect(await asked).toBe('gone');
    await Promise.all(e.seen.map((seen) => seen.aborted));
    expect(d.seen).toHaveLength(0);
  });
});

describe('a decoder that is asked first', () => {
  const flags = ['--connector=shared-storage', '--session-policy=off'];
  const ask = { model: 'm', cache_hit_threshold: 0.8, messages: [{ role: 'user', content: 'Hello!' }] };
  /** Has too little in its cache until it is told to compute. */
  const cold: Parameters<typeof engine>[0] = (res, seen, req) => {
    if (seen.body.cache_hit_threshold === 0) {
      decodes()(res, seen, req);
      return;
    }
    const choice = { index: 0, finish_reason: 'cache_threshold' };
    if (seen.body.stream) {
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      res.write('data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n');
      res.end(`data: ${JSON.stringify({ choices: [{ ...choice, delta: {} }] })}\n\ndata: [DONE]\n\n`);
    } else json(res, { choices: [{ ...choice, message: { role: 'assistant', content: '' } }] });
  };

  it.each([true, false])('is followed by a prefill when it has too little (stream: %s)', async (stream) => {
    const p = await engine(prefills);
    const d = await engine(cold);
    const s = await sidecar(d.port, flags);
    const got = await call(s.url, chat, {
      headers: { 'x-prefiller-host-port': p.hostPort },
      body: { ...ask, stream },
    });
    expect(got.headers['x-signalbox-prefill']).toBe(p.hostPort);
    expect(got.text).not.toContain('cache_threshold');
    expect(p.seen.map((seen) => seen.body.cache_hit_threshold)).toEqual([0]);
    expect(d.seen.map((seen) => seen.body.cache_hit_threshold)).toEqual([0.8, 0]);
  });

  it.each([true, false])('answers by itself when it has enough (stream: %s)', async (stream) => {
    const p = await engine(prefills);
    const d = await engine(decodes());
    const s = await sidecar(d.port, flags);
    const got = await call(s.url, chat, {
      headers: { 'x-prefiller-host-port': p.hostPort },
      body: { ...ask, stream },
    });
    expect(got.status).toBe(200);
    expect(got.text).toContain(stream ? '"How "' : 'How can I help');
    expect(got.isCut).toBe(false);
    expect([p.seen.length, d.seen.length]).toEqual([0, 1]);
  });

  it('computes everything when it has too little and no prefill pod answers', async () => {
    const d = await engine(cold);
    const s = await sidecar(d.port, flags);
    const headers = { 'x-prefiller-host-port': `127.0.0.1:${await deadPort()}` };
    const got = await call(s.url, chat, { headers, body: ask });
    expect(got.body.choices[0].message.content).toBe('Hi! How can I help?');
    expect(d.seen.map((seen) => seen.body.cache_hit_threshold)).toEqual([0.8, 0]);
  });

  it('tells its failure', async () => {
    const p = await engine(prefills);
    const s = await sidecar(await deadPort(), flags);
    const got = await call(s.url, chat, { headers: { 'x-prefiller-host-port': p.hostPort }, body: ask });
    expect([got.status, p.seen.length]).toEqual([503, 0]);
  });
});

describe('a pod that hangs beside the decoder', () => {
  it('is found out by its health checks, and the next one is met', async () => {
    const hangs = await engine(() => {});
    hangs.server.removeAllListeners('request');
    const p = await engine(prefills);
    const d = await engine((res, seen, req) => {
      if (seen.body.bootstrap_port !== undefined && d.seen.length > 1) decodes()(res, seen, req);
    });
    const s = await sidecar(d.port, ['--connector=sglang', '--prefill-health-interval=50ms']);
    const got = await call(s.url, chat, {
      headers: { 'x-prefiller-host-port': `${hangs.hostPort},${p.hostPort}` },
      body: { model: 'm', messages: [{ role: 'user', content: 'Hello!' }] },
    });
    expect(got.headers['x-signalbox-prefill']).toBe(p.hostPort);
    expect(await metricsOf(s)).toMatch(/prefill_retries_total\{with="next_pod"\} 1/);
  }, 20_000);
});
