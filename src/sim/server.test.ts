import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { get } from 'node:https';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TLSSocket } from 'node:tls';
import { afterEach, describe, expect, it } from '@jest/globals';
import { eventually } from '../../test/expect/eventually.ts';
import { type Clock, ManualClock } from '../clock.ts';
import { EventSplitter, eventData } from '../openai/sse.ts';
import { createAuthority, issueCertificate, type KeyPair } from '../pki.ts';
import { silentLogger } from '../telemetry/log.ts';
import { parseSimArgs } from './config.ts';
import { type Sim, startSim } from './start.ts';

const nixl = (extra = '') =>
  `--kv-transfer-config={"kv_connector":"NixlConnector","kv_role":"kv_both"${extra}} --enable-prompt-tokens-details`;
const instant = '--sim-prefill-us-per-token 0 --sim-output-token-us 0 --sim-transfer-us-per-token 0';

interface Running extends Sim {
  readonly url: string;
}

const started: Sim[] = [];
afterEach(async () => {
  await Promise.all(started.splice(0).map((sim) => sim.close()));
});

async function start(
  line = '',
  clock?: Clock,
  env: Record<string, string> = {},
  exit?: (code: number) => void,
): Promise<Running> {
  const argv = `serve m --pod-address 127.0.0.1 --port 0 ${instant} --sim-drain-ms 200 ${line}`.trim().split(/\s+/);
  const parsed = parseSimArgs(argv, { VLLM_NIXL_SIDE_CHANNEL_PORT: '0', ...env });
  if (parsed.kind !== 'config') throw new Error(parsed.kind);
  const sim = await startSim(parsed.config, {
    log: silentLogger,
    ...(clock ? { clock } : {}),
    ...(exit ? { exit } : {}),
  });
  started.push(sim);
  return { ...sim, url: `http://127.0.0.1:${sim.address.port}` };
}

type Json = Record<string, unknown>;

async function post(sim: Running, body: unknown, path = '/v1/chat/completions', headers: Record<string, string> = {}) {
  const response = await fetch(sim.url + path, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });
  return { status: response.status, headers: response.headers, body: JSON.parse(await response.text()) as Json };
}

const user = (content: string) => ({ role: 'user', content });
const long = `Tell me about ${'the many kinds of kernels and shells, '.repeat(12)}please.`;

function contentOf(body: Json): string {
  const [choice] = body.choices as { message: { content: string } }[];
  return choice?.message.content ?? '';
}

function cachedOf(body: Json): number {
  return (body.usage as { prompt_tokens_details: { cached_tokens: number } }).prompt_tokens_details.cached_tokens;
}

const stats = async (sim: Running) => (await (await fetch(`${sim.url}/sim/stats`)).json()) as Json;

describe('the server', () => {
  it('answers a chat in one piece', async () => {
    const sim = await start();
    const { status, body } = await post(sim, { model: 'm', messages: [user('What is a kernel?')] });
    expect(status).toBe(200);
    expect(body).toMatchObject({
      id: expect.stringMatching(/^chatcmpl-/),
      object: 'chat.completion',
      model: 'm',
      choices: [{ index: 0, message: { role: 'assistant' }, finish_reason: 'stop' }],
      usage: { prompt_tokens_details: null },
      kv_transfer_params: null,
    });
    expect(contentOf(body)).toContain('What is a kernel');
    const { prompt_tokens: a, completion_tokens: b, total_tokens: c } = body.usage as Record<string, number>;
    expect((a ?? 0) + (b ?? 0)).toBe(c);
  });

  it('streams the same text, role first, then content, finish, usage, [DONE]', async () => {
    const sim = await start('--enable-prompt-tokens-details');
    const messages = [user('What is a kernel?')];
    const whole = await post(sim, { model: 'm', messages });
    const response = await fetch(`${sim.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'x-request-id': 'abc' },
      body: JSON.stringify({ model: 'm', messages, stream: true, stream_options: { include_usage: true } }),
    });
    expect(response.headers.get('content-type')).toMatch(/^text\/event-stream/);
    const splitter = new EventSplitter();
    const events = splitter.push(new Uint8Array(await response.arrayBuffer())).map((event) => eventData(event) ?? '');
    expect(splitter.flush()).toHaveLength(0);
    expect(events.pop()).toBe('[DONE]');
    const chunks = events.map((event) => JSON.parse(event) as Json);
    expect(new Set(chunks.map(({ id, object, model }) => `${id} ${object} ${model}`))).toEqual(
      new Set(['chatcmpl-abc chat.completion.chunk m']),
    );
    const usage = chunks.pop();
    expect(usage).toMatchObject({
      choices: [],
      usage: { prompt_tokens: 9, prompt_tokens_details: { cached_tokens: 0 } },
    });
    const choices = chunks.map((chunk) => (chunk.choices as { delta: Json; finish_reason: string | null }[])[0]);
    expect(choices[0]).toMatchObject({ delta: { role: 'assistant', content: '' }, finish_reason: null });
    expect(choices.at(-1)).toMatchObject({ delta: { content: '' }, finish_reason: 'stop' });
    expect(choices.slice(1, -1).every((choice) => choice?.finish_reason === null)).toBe(true);
    expect(choices.map((choice) => choice?.delta.content).join('')).toBe(contentOf(whole.body));
  });

  it('completes a text, with limits, stops and echo', async () => {
    const sim = await start('--served-model-name a b');
    const ask = async (more: Json) =>
      (await post(sim, { model: 'b', prompt: 'Once upon a time', ...more }, '/v1/completions')).body;
    const whole = await ask({});
    expect(whole).toMatchObject({ object: 'text_completion', model: 'b', choices: [{ finish_reason: 'stop' }] });
    const text = (whole.choices as { text: string }[])[0]?.text ?? '';
    expect(await ask({ max_tokens: 3 })).toMatchObject({
      choices: [{ finish_reason: 'length' }],
      usage: { completion_tokens: 3 },
    });
    expect(await ask({ stop: text.slice(8, 12) })).toMatchObject({
      choices: [{ finish_reason: 'stop', stop_reason: text.slice(8, 12), text: text.slice(0, 8) }],
    });
    expect(await ask({ ignore_eos: true, max_tokens: 150 })).toMatchObject({ usage: { completion_tokens: 150 } });
    expect(await ask({ echo: true })).toMatchObject({ choices: [{ text: `Once upon a time${text}` }] });
    expect(await ask({ prompt: [300, 301, 302] })).toMatchObject({ usage: { prompt_tokens: 3 } });
  });

  it('finds a second turn in its cache, through the first answer', async () => {
    const sim = await start('--enable-prompt-tokens-details');
    const first = await post(sim, { messages: [user(long)] });
    expect(cachedOf(first.body)).toBe(0);
    const used = first.body.usage as Record<string, number>;
    const messages = [user(long), { role: 'assistant', content: contentOf(first.body) }, user('And then?')];
    const second = await post(sim, { messages });
    // All full blocks of prompt and answer but the answer's last token, whose KV nobody computed.
    expect(cachedOf(second.body)).toBe(Math.floor(((used.total_tokens ?? 0) - 1) / 16) * 16);
    expect(cachedOf((await post(sim, { messages, cache_salt: 'other' })).body)).toBe(0);
    const off = await start('--enable-prompt-tokens-details --no-enable-prefix-caching');
    await post(off, { messages });
    expect(cachedOf((await post(off, { messages })).body)).toBe(0);
  });

  const requests: readonly (readonly [body: unknown, status: number, type: string, message: RegExp])[] = [
    ['{"model":', 400, 'BadRequestError', /not valid JSON/],
    ['[]', 400, 'BadRequestError', /JSON object/],
    [{ model: 'nope', messages: [user('x')] }, 404, 'NotFoundError', /`nope` does not exist/],
    [{ model: 'm', messages: [] }, 400, 'BadRequestError', /at least one message/],
    [{ model: 'm' }, 400, 'BadRequestError', /messages/],
    [{ messages: [user('x')], n: 129 }, 400, 'BadRequestError', /n is 129/],
    [{ messages: [user('x')], n: 0 }, 400, 'BadRequestError', /n must be/],
    [{ messages: [user('x')], top_logprobs: 2 }, 400, 'BadRequestError', /top_logprobs/],
    [{ messages: [user('x')], logprobs: true, top_logprobs: 21 }, 400, 'BadRequestError', /at most 20/],
    [
      { messages: [user('x')], tools: [{ function: { name: 'f' } }] },
      400,
      'BadRequestError',
      /enable-auto-tool-choice/,
    ],
    [{ messages: [user('x')], tool_choice: 'required' }, 400, 'BadRequestError', /tools is empty/],
    [{ messages: [user('x')], max_tokens: 0 }, 400, 'BadRequestError', /max_tokens/],
    [{ messages: [user('x')], max_tokens: 1.5 }, 400, 'BadRequestError', /max_tokens/],
    [{ messages: [user('x')], max_tokens: 2, min_tokens: 3 }, 400, 'BadRequestError', /min_tokens/],
    [
      { messages: [user('x')], max_tokens: 1000 },
      400,
      'BadRequestError',
      /maximum context length is 200 .* at most 195/,
    ],
    [{ messages: [user('x '.repeat(300))] }, 400, 'BadRequestError', /maximum context length is 200 /],
    [{ messages: [user('x')], temperature: -1 }, 400, 'BadRequestError', /temperature/],
    [{ messages: [user('x')], stop: 5 }, 400, 'BadRequestError', /stop/],
    [{ messages: [user('x')], stream_options: {} }, 400, 'BadRequestError', /stream_options/],
    [{ messages: [user('x')], kv_transfer_params: { do_remote_decode: true } }, 400, 'BadRequestError', /KV connector/],
    [{ messages: [user('y'.repeat(5000))] }, 413, 'RequestTooLargeError', /4096 bytes/],
  ];
  it('refuses bad requests in the official shape', async () => {
    const sim = await start('--max-model-len 200 --sim-max-body-bytes 4096');
    for (const [body, status, type, message] of requests) {
      const answer = await post(sim, body);
      expect(answer).toMatchObject({
        status,
        body: { error: { type, code: status, message: expect.stringMatching(message) } },
      });
    }
    expect(await stats(sim)).toMatchObject({ served: { local: 0 }, blocks: { total: 16_384, free: 16_384 } });
  });

  it('has the other pages of vLLM', async () => {
    const sim = await start('--api-key k1 k2');
    expect((await fetch(`${sim.url}/health`)).status).toBe(200);
    expect((await fetch(`${sim.url}/ping`, { method: 'POST' })).status).toBe(200);
    expect(await (await fetch(`${sim.url}/version`)).json()).toEqual({ version: expect.any(String) });
    expect(await (await fetch(`${sim.url}/load`)).json()).toEqual({ server_load: 0 });
    expect((await fetch(`${sim.url}/v1/models`)).status).toBe(401);
    expect(
      await (await fetch(`${sim.url}/v1/models`, { headers: { authorization: 'Bearer k2' } })).json(),
    ).toMatchObject({
      object: 'list',
      data: [{ id: 'm', object: 'model', max_model_len: 32_768 }],
    });
    expect((await post(sim, { messages: [user('x')] })).status).toBe(401);
    expect((await fetch(`${sim.url}/health`, { method: 'DELETE' })).status).toBe(405);
    const missing = await fetch(`${sim.url}/nope`);
    expect([missing.status, await missing.json()]).toMatchObject([404, { error: { type: 'NotFoundError' } }]);
  });

  it('tells its metrics under the names of vLLM', async () => {
    const sim = await start(`${nixl()} --block-size 32 --sim-kv-blocks 640`);
    const messages = [user(long)];
    await post(sim, { messages, max_tokens: 4 });
    const { body } = await post(sim, { messages, max_tokens: 4 });
    const prompt = (body.usage as Record<string, number>).prompt_tokens ?? 0;
    const text = await (await fetch(`${sim.url}/metrics`)).text();
    const value = (line: string) =>
      Number(
        text
          .split('\n')
          .find((other) => other.startsWith(`${line} `))
          ?.split(' ')
          .at(-1),
      );
    const labels = 'engine="0",model_name="m"';
    expect(value(`vllm:num_requests_running{${labels}}`)).toBe(0);
    expect(value(`vllm:num_requests_waiting{${labels}}`)).toBe(0);
    expect(value(`vllm:kv_cache_usage_perc{${labels}}`)).toBe(0);
    expect(value(`vllm:prefix_cache_queries_total{${labels}}`)).toBe(2 * prompt);
    expect(value(`vllm:prefix_cache_hits_total{${labels}}`)).toBe(cachedOf(body));
    expect(value(`vllm:prompt_tokens_total{${labels}}`)).toBe(2 * prompt);
    expect(value(`vllm:generation_tokens_total{${labels}}`)).toBe(8);
    expect(value(`vllm:request_success_total{${labels},finished_reason="length"}`)).toBe(2);
    expect(value(`vllm:time_to_first_token_seconds_count{${labels}}`)).toBe(2);
    expect(text).toMatch(/vllm:cache_config_info\{[^}]*block_size="32",num_gpu_blocks="640"[^}]*\} 1\n/);
    expect(text).toMatch(/vllm:lora_requests_info\{[^}]*max_lora="0"/);
    // Every line is a comment or a sample, and no series comes twice.
    const lines = text.trimEnd().split('\n');
    for (const line of lines) expect(line).toMatch(/^(# (HELP|TYPE) [a-z:_0-9]+ .+|[a-zA-Z_:0-9]+(\{[^{}]*\})? \S+)$/);
    const series = lines.filter((line) => !line.startsWith('#')).map((line) => line.slice(0, line.lastIndexOf(' ')));
    expect(new Set(series).size).toBe(series.length);
  });

  it('ends the work of a client that goes away, and refuses more than may wait', async () => {
    const sim = await start('--sim-output-token-us 20000 --max-num-seqs 1 --sim-max-waiting 1');
    const socket = connect(sim.address.port, '127.0.0.1');
    const body = JSON.stringify({ messages: [user(long)], stream: true, ignore_eos: true, max_tokens: 5000 });
    socket.write(`POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: ${body.length}\r\n\r\n${body}`);
    await new Promise((resolve) => socket.once('data', resolve));
    expect(await stats(sim)).toMatchObject({ running: 1, connections_active: 1 });
    const waits = post(sim, { messages: [user('x')], max_tokens: 1 });
    while ((await stats(sim)).waiting !== 1) await new Promise((resolve) => setTimeout(resolve, 5));
    expect((await post(sim, { messages: [user('x')] })).status).toBe(429);
    socket.destroy();
    expect((await waits).status).toBe(200);
    expect(await stats(sim)).toMatchObject({ running: 0, waiting: 0, aborted: 1, blocks: { free: 16_384 } });
  });

  it('finishes what runs when it is closed, and takes nothing new', async () => {
    const sim = await start('--sim-output-token-us 10000 --sim-drain-ms 5000');
    const running = post(sim, { messages: [user('x')], max_tokens: 10, ignore_eos: true });
    while ((await stats(sim)).running !== 1) await new Promise((resolve) => setTimeout(resolve, 5));
    const closed = sim.close();
    expect(await running).toMatchObject({ status: 200, body: { usage: { completion_tokens: 10 } } });
    await closed;
    await expect(fetch(`${sim.url}/health`)).rejects.toThrow();
  });

  it('speaks TLS, asks for certificates of clients, and takes a new one of its own', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'signalbox-sim-'));
    try {
      const term = { notBefore: new Date(Date.now() - 60_000), notAfter: new Date(Date.now() + 600_000) };
      const authority = await createAuthority({ commonName: 'ca', ...term });
      const issue = (commonName: string) =>
        issueCertificate(authority, { commonName, ipAddresses: ['127.0.0.1'], ...term });
      const put = async ({ certificate, key }: KeyPair) => {
        await Promise.all([writeFile(join(folder, 'crt'), certificate), writeFile(join(folder, 'key'), key)]);
      };
      await Promise.all([put(await issue('one')), writeFile(join(folder, 'ca'), authority.certificate)]);
      const files = `--ssl-certfile ${folder}/crt --ssl-keyfile ${folder}/key --ssl-ca-certs ${folder}/ca`;
      const sim = await start(`${files} --ssl-cert-reqs 2 --enable-ssl-refresh`);
      const client = await issue('client');
      /** Status and the name on the server's certificate. */
      const ask = (withCertificate: boolean) =>
        new Promise<readonly [number | undefined, string]>((resolve, reject) => {
          const request = get({
            host: '127.0.0.1',
            port: sim.address.port,
            path: '/health',
            agent: false,
            ca: authority.certificate,
            ...(withCertificate ? { cert: client.certificate, key: client.key } : {}),
          });
          request.on('response', (response) => {
            const { subject } = (response.socket as TLSSocket).getPeerCertificate();
            response.resume();
            resolve([response.statusCode, String(subject.CN)]);
          });
          request.on('error', reject);
        });
      expect(await ask(true)).toEqual([200, 'one']);
      await expect(ask(false)).rejects.toThrow();
      await put(await issue('two'));
      await eventually(async () => expect(await ask(true)).toEqual([200, 'two']));
      await expect(start(`${files}.none`)).rejects.toThrow(/--ssl-certfile, --ssl-keyfile, --ssl-ca-certs: .*ENOENT/);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it('listens when its model would be loaded, and can be stopped before', async () => {
    const clock = new ManualClock(1);
    const stopped = new AbortController();
    const parsed = parseSimArgs(['m', '--pod-address', '127.0.0.1', '--port', '0', '--sim-startup-ms', '60000'], {});
    if (parsed.kind !== 'config') throw new Error(parsed.kind);
    let isUp = false;
    const starting = startSim(parsed.config, { log: silentLogger, clock }).then((sim) => {
      started.push(sim);
      isUp = true;
      return sim;
    });
    const given = startSim(parsed.config, { log: silentLogger, clock, signal: stopped.signal });
    stopped.abort();
    await expect(given).rejects.toThrow();
    await clock.advance(59_999);
    expect(isUp).toBe(false);
    await clock.advance(1);
    const { address } = await starting;
    expect((await fetch(`http://127.0.0.1:${address.port}/health`)).status).toBe(200);
  });

  it('says which port is taken', async () => {
    const sim = await start();
    await expect(start(`--port ${sim.address.port}`)).rejects.toThrow(/cannot listen on 127\.0\.0\.1:\d+.*--port/);
  });
});

describe('prefill and decode apart', () => {
  const produce = { do_remote_decode: true, do_remote_prefill: false, remote_engine_id: null, remote_block_ids: null };
  const messages = [user(long)];
  const prefill = async (sim: Running, more: Json = {}) =>
    (await post(sim, { messages, max_tokens: 1, kv_transfer_params: produce, ...more })).body;

  it('hands the KV over once', async () => {
    const [p, d] = await Promise.all([start(nixl()), start(nixl())]);
    const made = await prefill(p);
    const params = made.kv_transfer_params as Json;
    const tokens = (made.usage as Record<string, number>).prompt_tokens ?? 0;
    expect(params).toEqual({
      do_remote_prefill: true,
      do_remote_decode: false,
      remote_block_ids: [expect.any(Array)],
      remote_engine_id: expect.any(String),
      remote_request_id: expect.stringMatching(/^chatcmpl-/),
      remote_host: '127.0.0.1',
      remote_port: expect.any(Number),
      tp_size: 1,
      remote_num_tokens: tokens,
    });
    const blocks = Math.ceil(tokens / 16);
    expect((params.remote_block_ids as number[][])[0]).toHaveLength(blocks);
    expect(await stats(p)).toMatchObject({ handles: { live: 1 }, blocks: { free: 16_384 - blocks } });

    const decoded = await post(d, { messages, kv_transfer_params: params });
    expect(decoded.status).toBe(200);
    expect(cachedOf(decoded.body)).toBe(tokens - 1);
    expect(await stats(p)).toMatchObject({
      served: { prefillOnly: 1 },
      handles: { live: 0, used: 1 },
      blocks: { free: 16_384 },
    });
    expect(await stats(d)).toMatchObject({ served: { remoteDecode: 1, local: 0 }, blocks: { free: 16_384 } });

    const again = await post(d, { messages, kv_transfer_params: params });
    expect(again).toMatchObject({
      status: 500,
      body: { error: { type: 'InternalServerError', code: 500, message: expect.stringMatching(/is used/) } },
    });

    // What came over is in the prefix cache: the next turn needs nobody.
    const next = [...messages, { role: 'assistant', content: contentOf(decoded.body) }, user('And then?')];
    const local = await post(d, { messages: next });
    const total = (decoded.body.usage as Record<string, number>).total_tokens ?? 0;
    expect(cachedOf(local.body)).toBe(Math.floor((total - 1) / 16) * 16);
    const text = await (await fetch(`${d.url}/metrics`)).text();
    expect(text).toContain(`vllm:external_prefix_cache_hits_total{engine="0",model_name="m"} ${tokens}`);
    expect(text).toContain('vllm:nixl_bytes_transferred_count{engine="0",model_name="m"} 1\n');
    expect(text).toContain('vllm:nixl_num_failed_transfers_total{engine="0",model_name="m"} 1\n');
  });

  it('brings over only what is not here already', async () => {
    const [p, d] = await Promise.all([start(nixl()), start(nixl())]);
    await post(d, { messages });
    const made = await prefill(p);
    await post(d, { messages, kv_transfer_params: made.kv_transfer_params });
    const tokens = (made.usage as Record<string, number>).prompt_tokens ?? 0;
    const text = await (await fetch(`${d.url}/metrics`)).text();
    const local = Math.floor((tokens - 1) / 16) * 16;
    expect(text).toContain(`vllm:external_prefix_cache_hits_total{engine="0",model_name="m"} ${tokens - local}\n`);
    const bySource = [...text.matchAll(/^vllm:prompt_tokens_by_source_total\{[^}]*source="(\w+)"\} (\d+)$/gm)];
    expect(bySource.map(([, source, count]) => [source, Number(count)])).toEqual([
      ['local_compute', tokens],
      ['local_cache_hit', local],
      ['external_kv_transfer', tokens - local],
    ]);
  });

  it('streams a decode, and streams an error as an error', async () => {
    const [p, d] = await Promise.all([start(nixl()), start(nixl())]);
    const made = await prefill(p);
    const ask = () =>
      fetch(`${d.url}/v1/chat/completions`, {
        method: 'POST',
        body: JSON.stringify({ messages, stream: true, kv_transfer_params: made.kv_transfer_params }),
      });
    const good = await ask();
    expect([good.status, (await good.text()).endsWith('data: [DONE]\n\n')]).toEqual([200, true]);
    const bad = await ask();
    expect([bad.status, await bad.json()]).toMatchObject([500, { error: { code: 500 } }]);
  });

  it('fails without live parameters, or computes the prompt itself when told so', async () => {
    const [p, d, lenient, other] = await Promise.all([
      start(nixl()),
      start(nixl()),
      start(nixl(',"kv_load_failure_policy":"recompute"')),
      start(`${nixl()} --block-size 32`),
    ]);
    const fresh = async () => (await prefill(p)).kv_transfer_params as Json;
    const cases: readonly (readonly [sim: Running, params: Json, message: RegExp, text?: string])[] = [
      [d, { ...(await fresh()), remote_engine_id: null }, /no remote_engine_id/],
      [d, { ...(await fresh()), remote_request_id: undefined }, /no remote_request_id/],
      [d, { ...(await fresh()), remote_host: undefined, remote_port: undefined }, /no remote_host, remote_port/],
      [d, { ...(await fresh()), remote_engine_id: 'gone' }, /engine gone is not here/],
      [d, { ...(await fresh()), remote_request_id: 'x' }, /handle x is unknown/],
      [d, { ...(await fresh()), remote_block_ids: [[9999]] }, /other blocks/],
      [d, { ...(await fresh()), remote_port: p.address.port }, /answered 404/],
      [d, { ...(await fresh()), remote_port: 1 }, /ECONNREFUSED/],
      [other, await fresh(), /incompatible/],
      [d, await fresh(), /another prompt/, long.replace('Tell', 'Show')],
    ];
    for (const [sim, params, message, text = long] of cases) {
      expect(await post(sim, { messages: [user(text)], kv_transfer_params: params })).toMatchObject({
        status: 500,
        body: { error: { type: 'InternalServerError', message: expect.stringMatching(message) } },
      });
    }
    expect(await stats(d)).toMatchObject({ failed: 9, served: { remoteDecode: 0 }, blocks: { free: 16_384 } });
    for (const [, params] of cases.slice(0, 4)) {
      expect((await post(lenient, { messages, kv_transfer_params: params })).status).toBe(200);
    }
    expect(await stats(lenient)).toMatchObject({ recomputed: 4, failed: 0, served: { local: 4, remoteDecode: 0 } });
  });

  it('frees the blocks of a handle that nobody fetches in time', async () => {
    const clock = new ManualClock(1_000_000);
    const p = await start(nixl(), clock);
    const d = await start(nixl());
    const params = (await prefill(p)).kv_transfer_params;
    await clock.advance(29_999);
    expect(await stats(p)).toMatchObject({ handles: { live: 1, expired: 0 } });
    await clock.advance(1);
    expect(await stats(p)).toMatchObject({ handles: { live: 0, expired: 1 }, blocks: { free: 16_384 } });
    expect(await post(d, { messages, kv_transfer_params: params })).toMatchObject({
      status: 500,
      body: { error: { message: expect.stringMatching(/is expired/) } },
    });
    const text = await (await fetch(`${p.url}/metrics`)).text();
    expect(text).toContain('vllm:nixl_num_kv_expired_reqs_total{engine="0",model_name="m"} 1\n');
    // The manual clock would let close() wait for ever.
    const closed = p.close();
    await clock.advance(60_000);
    await closed;
  });

  it('waits with a prompt while pinned blocks leave no room', async () => {
    const clock = new ManualClock(1_000_000);
    const p = await start(`${nixl()} --sim-kv-blocks 12`, clock);
    await prefill(p);
    const second = prefill(p, { messages: [user(`Other: ${long}`)] });
    while ((await stats(p)).waiting !== 1) await new Promise((resolve) => setTimeout(resolve, 5));
    await clock.advance(30_000);
    expect((await second).kv_transfer_params).toMatchObject({ do_remote_prefill: true });
    expect(await stats(p)).toMatchObject({ handles: { live: 1, expired: 1, created: 2 } });
    const closed = p.close();
    await clock.advance(60_000);
    await closed;
  });
});

describe('data-parallel ranks', () => {
  const page = async (url: string) => (await fetch(`${url}/metrics`)).text();
  const served = (text: string) =>
    [...text.matchAll(/^vllm:request_success_total\{engine="(\d+)",[^}]*finished_reason="length"\} (\d+)$/gm)].map(
      ([, rank, count]) => [rank, Number(count)],
    );
  const ask = (content: string) => ({ messages: [user(content)], max_tokens: 2 });

  it('share one port, by load or by name', async () => {
    const sim = await start(`${nixl()} --data-parallel-size 4 -dpl 2 --data-parallel-start-rank 2`);
    for (let i = 0; i < 4; i++) expect((await post(sim, ask(`${i}`))).status).toBe(200);
    expect(served(await page(sim.url))).toEqual([
      ['2', 2],
      ['3', 2],
    ]);
    const path = '/v1/chat/completions';
    for (let i = 0; i < 3; i++) await post(sim, ask('x'), path, { 'x-data-parallel-rank': '3' });
    expect(served(await page(sim.url))).toEqual([
      ['2', 2],
      ['3', 5],
    ]);
    expect(await post(sim, ask('x'), path, { 'x-data-parallel-rank': '0' })).toMatchObject({
      status: 400,
      body: { error: { message: expect.stringContaining('the ranks here are 2, 3') } },
    });
    const produced = await post(sim, { ...ask(long), kv_transfer_params: { do_remote_decode: true } }, path, {
      'x-data-parallel-rank': '3',
    });
    expect(produced.body.kv_transfer_params).toMatchObject({
      remote_engine_id: expect.stringMatching(/_dp3$/),
      remote_port: sim.ranks[1]?.remote?.port,
    });
    // Each rank has a cache of its own.
    const cached = async (rank: string) =>
      cachedOf((await post(sim, ask(long), path, { 'x-data-parallel-rank': rank })).body);
    expect([await cached('2'), await cached('2'), await cached('3')]).toEqual([
      0,
      expect.any(Number),
      expect.any(Number),
    ]);
    expect(await stats(sim)).toMatchObject({
      served: { prefillOnly: 1, local: 10 },
      handles: { live: 1 },
      ranks: [{ rank: 2 }, { rank: 3 }],
    });
    expect((await page(sim.url)).match(/^# HELP vllm:num_requests_running /gm)).toHaveLength(1);
    expect((await page(sim.url)).match(/^process_start_time_seconds /gm)).toHaveLength(1);
  });

  it('have a port each, and one that tells the health of all', async () => {
    const sim = await start('-dp 2 --data-parallel-multi-port-external-lb --data-parallel-supervisor-port 0');
    const urls = sim.addresses.map(({ port }) => `http://127.0.0.1:${port}`);
    expect(urls).toHaveLength(2);
    const health = `http://127.0.0.1:${sim.supervisor?.port}`;
    for (const path of ['/health', '/ready', '/readyz']) expect((await fetch(health + path)).status).toBe(200);
    expect((await fetch(`${health}/metrics`)).status).toBe(404);
    for (const url of urls) {
      await fetch(`${url}/v1/chat/completions`, { method: 'POST', body: JSON.stringify(ask('x')) });
    }
    expect(await Promise.all(urls.map(async (url) => served(await page(url))))).toEqual([[['0', 1]], [['1', 1]]]);
    await sim.close();
    await expect(fetch(`${health}/health`)).rejects.toThrow();
    await expect(fetch(`${urls[1] ?? ''}/health`)).rejects.toThrow();
  });

  it('are not served by a headless node', async () => {
    const sim = await start('-dp 4 -dpl 2 -dpr 2 --headless');
    expect(sim.addresses).toEqual([]);
  });
});

describe('adapters', () => {
  const env = { VLLM_ALLOW_RUNTIME_LORA_UPDATING: 'True' };
  it('come and go, are listed, cached apart and counted', async () => {
    const clock = new ManualClock();
    const sim = await start(
      '--enable-lora --max-loras 2 --lora-modules a=/a {"name":"b","path":"/b"} --enable-prompt-tokens-details',
      undefined,
      env,
    );
    const names = async () =>
      ((await (await fetch(`${sim.url}/v1/models`)).json()) as { data: Json[] }).data.map(({ id, root, parent }) => [
        id,
        root,
        parent,
      ]);
    expect(await names()).toEqual([
      ['m', 'm', null],
      ['a', '/a', 'm'],
      ['b', '/b', 'm'],
    ]);
    const change = async (verb: string, body: Json) => {
      const response = await fetch(`${sim.url}/v1/${verb}_lora_adapter`, {
        method: 'POST',
        body: JSON.stringify(body),
      });
      return [response.status, await response.text()] as const;
    };
    expect(await change('load', { lora_name: 'c', lora_path: '/c' })).toEqual([
      200,
      expect.stringMatching(/'c' added/),
    ]);
    expect(await change('load', { lora_name: 'c', lora_path: '/c' })).toEqual([400, expect.stringMatching(/already/)]);
    expect(await change('load', { lora_name: 'd' })).toEqual([400, expect.stringMatching(/lora_path/)]);
    expect(await change('unload', { lora_name: 'd' })).toEqual([404, expect.stringMatching(/cannot be found/)]);
    const ask = async (model: string) => cachedOf((await post(sim, { model, messages: [user(long)] })).body);
    expect([await ask('m'), await ask('c'), await ask('c')]).toEqual([0, 0, expect.any(Number)]);
    expect(await ask('c')).toBeGreaterThan(64);
    expect(await change('unload', { lora_name: 'c' })).toEqual([200, expect.stringMatching(/removed/)]);
    expect((await post(sim, { model: 'c', messages: [user('x')] })).status).toBe(404);
    // Loaded again it is another adapter, whose blocks nobody has.
    await change('load', { lora_name: 'c', lora_path: '/c2' });
    expect(await ask('c')).toBe(0);

    const slow = await start('--enable-lora --lora-modules a=/a --sim-output-token-us 5000', clock);
    const answer = post(slow, { model: 'a', messages: [user('x')], max_tokens: 2 });
    while (slow.engine.running === 0) await new Promise((resolve) => setTimeout(resolve, 2));
    const page = await (await fetch(`${slow.url}/metrics`)).text();
    expect(page).toMatch(/lora_requests_info\{[^}]*max_lora="1",waiting_lora_adapters="",running_lora_adapters="a"\}/);
    while (slow.engine.running > 0) {
      await clock.advance(5);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    expect((await answer).status).toBe(200);
    const closed = await start('--enable-lora');
    expect((await fetch(`${closed.url}/v1/load_lora_adapter`, { method: 'POST', body: '{}' })).status).toBe(404);
  });
});

describe('what operators can do', () => {
  it('puts the engine to sleep and wakes it, resets the cache', async () => {
    const sim = await start('--enable-sleep-mode --enable-prompt-tokens-details', undefined, {
      VLLM_SERVER_DEV_MODE: '1',
    });
    const tell = async (path: string) => (await fetch(sim.url + path, { method: 'POST' })).status;
    const ask = () => post(sim, { messages: [user(long)] });
    await ask();
    expect(cachedOf((await ask()).body)).toBeGreaterThan(64);
    expect(await tell('/reset_prefix_cache')).toBe(200);
    expect(cachedOf((await ask()).body)).toBe(0);
    expect(await tell('/sleep?level=2')).toBe(200);
    expect(await (await fetch(`${sim.url}/is_sleeping`)).json()).toEqual({ is_sleeping: true });
    expect(await ask()).toMatchObject({ status: 503, body: { error: { message: expect.stringMatching(/wake_up/) } } });
    expect(await (await fetch(`${sim.url}/metrics`)).text()).toMatch(/sleep_state="discard_all"\} 1/);
    expect(await tell('/wake_up')).toBe(200);
    expect(cachedOf((await ask()).body)).toBe(0);
    const plain = await start();
    expect((await fetch(`${plain.url}/sleep`, { method: 'POST' })).status).toBe(404);
  });

  it('tells tokens and texts', async () => {
    const sim = await start('--show-hidden-metrics-for-version 0.9');
    const told = await post(sim, { prompt: 'Hello wide world', return_token_strs: true }, '/tokenize');
    expect(told.body).toMatchObject({ count: 4, max_model_len: 32_768, token_strs: ['', 'Hello', ' wide', ' world'] });
    expect((await post(sim, { tokens: told.body.tokens }, '/detokenize')).body).toEqual({ prompt: 'Hello wide world' });
    const chat = await post(sim, { messages: [user('Hello wide world')] }, '/tokenize');
    expect(chat.body).toMatchObject({ count: 7 });
    const rendered = await post(
      sim,
      { messages: [user('Hello wide world')], max_tokens: 3, cache_salt: 's' },
      '/v1/chat/completions/render',
    );
    expect(rendered.body).toMatchObject({
      model: 'm',
      token_ids: chat.body.tokens,
      sampling_params: { max_tokens: 3 },
      cache_salt: 's',
    });
    const text = await post(sim, { prompt: 'Hello wide world' }, '/v1/completions/render');
    expect(text.body).toMatchObject([{ token_ids: told.body.tokens, sampling_params: { max_tokens: 32_764 } }]);
    expect((await post(sim, { model: 'other', prompt: 'x' }, '/v1/completions/render')).status).toBe(404);
    expect((await post(sim, { messages: [] }, '/v1/chat/completions/render')).status).toBe(400);
    expect(await (await fetch(`${sim.url}/metrics`)).text()).toMatch(/^vllm:gpu_cache_usage_perc\{/m);
    const tokens = await post(
      sim,
      { token_ids: told.body.tokens, sampling_params: { max_tokens: 3 } },
      '/inference/v1/generate',
    );
    expect(tokens.body).toMatchObject({
      choices: [{ token_ids: [expect.any(Number), expect.any(Number), expect.any(Number)] }],
    });
  });

  it('scores, ranks and pools texts', async () => {
    const sim = await start();
    const scores = await post(
      sim,
      { text_1: 'a small cat', text_2: ['a small dog', 'xyz 42', 'a small cat'] },
      '/score',
    );
    expect(scores.body).toMatchObject({ object: 'list', model: 'm', data: [{ index: 0 }, { index: 1 }, { index: 2 }] });
    const [near, far, same] = (scores.body.data as { score: number }[]).map(({ score }) => score);
    expect(near).toBeGreaterThan(far ?? 1);
    expect(same).toBeCloseTo(1, 6);
    const ranked = { query: 'the small cat', documents: ['stars', { text: 'the small cat' }, 'the cat'], top_n: 2 };
    expect((await post(sim, ranked, '/v2/rerank')).body.results).toMatchObject([
      { index: 1, document: { text: 'the small cat' } },
      { index: 2 },
    ]);
    expect((await post(sim, { input: ['a', 'b'], dimensions: 8 }, '/pooling')).body.data).toMatchObject([
      { object: 'pooling', index: 0 },
      { index: 1 },
    ]);
    const bad: readonly (readonly [path: string, body: unknown, message: RegExp])[] = [
      ['/score', { text_1: ['a', 'b'], text_2: ['a', 'b', 'c'] }, /text_1 has 2 texts and text_2 has 3/],
      ['/v1/score', { text_1: 'a' }, /text_2 must be/],
      ['/rerank', { query: 'a', documents: [1] }, /documents must be/],
      ['/v1/rerank', { documents: ['a'] }, /query must be/],
      ['/rerank', { query: 'a', documents: ['a'], top_n: -1 }, /top_n must be/],
    ];
    for (const [path, body, message] of bad) {
      expect(await post(sim, body, path)).toMatchObject({
        status: 400,
        body: { error: { message: expect.stringMatching(message) } },
      });
    }
  });

  it('tells usage with every event, or unasked, and the id of a request', async () => {
    const eventsOf = async (sim: Running, body: Json) => {
      const response = await fetch(`${sim.url}/v1/chat/completions`, {
        method: 'POST',
        body: JSON.stringify({ messages: [user('Hello')], max_tokens: 3, stream: true, ...body }),
      });
      const events = (await response.text()).split('\n\n').filter((event) => event.startsWith('data: {'));
      return events.map((event) => JSON.parse(event.slice(6)) as { usage?: { completion_tokens: number } | null });
    };
    const sim = await start();
    const options = { include_usage: true, continuous_usage_stats: true };
    const told = (await eventsOf(sim, { stream_options: options })).map(({ usage }) => usage?.completion_tokens);
    expect(told).toEqual([0, 1, 2, 3, 3, 3]);
    expect((await eventsOf(sim, {})).some(({ usage }) => usage)).toBe(false);
    const forced = await start('--enable-force-include-usage --enable-request-id-headers --enable-fault-tolerance');
    expect((await eventsOf(forced, {})).at(-1)).toMatchObject({ usage: { completion_tokens: 3 } });
    const body = { messages: [user('Hello')], max_tokens: 1 };
    const named = await post(forced, body, '/v1/chat/completions', { 'x-request-id': 'abc' });
    expect(named.headers.get('x-request-id')).toBe('abc');
    expect((await fetch(`${forced.url}/health`)).headers.get('x-request-id')).toMatch(/^[0-9a-f]{32}$/);
    expect((await fetch(`${sim.url}/health`)).headers.get('x-request-id')).toBeNull();
    const page = async ({ url }: Running) => (await fetch(`${url}/metrics`)).text();
    expect(await page(forced)).toMatch(/^vllm:engine_healthy\{engine="0",model_name="m"\} 1$/m);
    expect(await page(sim)).not.toContain('engine_healthy');
  });

  it('tells the ids of tokens, and ends at one', async () => {
    const sim = await start();
    const ask = (body: Json) =>
      post(sim, { prompt: 'Once upon a time', max_tokens: 6, return_token_ids: true, ...body }, '/v1/completions');
    const [whole] = (await ask({})).body.choices as { token_ids: number[]; prompt_token_ids: number[]; text: string }[];
    expect(whole?.token_ids).toHaveLength(6);
    const prompt = await post(sim, { prompt: 'Once upon a time' }, '/tokenize');
    expect(whole?.prompt_token_ids).toEqual(prompt.body.tokens);
    const end = whole?.token_ids[3];
    expect((await ask({ stop_token_ids: [end] })).body).toMatchObject({
      choices: [{ finish_reason: 'stop', stop_reason: end, token_ids: whole?.token_ids.slice(0, 4) }],
      usage: { completion_tokens: 4 },
    });
    expect((await ask({ stop_token_ids: [end], min_tokens: 5 })).body.usage).toMatchObject({ completion_tokens: 6 });
    expect((await ask({ stop_token_ids: 'x' })).status).toBe(400);
    const chat = { messages: [user('Hello')], max_tokens: 3, return_token_ids: true };
    const told = (await post(sim, chat)).body as { prompt_token_ids: number[]; choices: { token_ids: number[] }[] };
    expect(told.prompt_token_ids).toHaveLength(5);
    const streamed = await fetch(`${sim.url}/v1/chat/completions`, {
      method: 'POST',
      body: JSON.stringify({ ...chat, stream: true }),
    });
    const ids = [...(await streamed.text()).matchAll(/"token_ids":\[(\d+)\]/g)].map(([, id]) => Number(id));
    expect(ids).toEqual(told.choices[0]?.token_ids);
  });

  it('thinks first where a reasoning parser is set', async () => {
    const sim = await start('--reasoning-parser qwen3');
    const { body } = await post(sim, { messages: [user('Why?')] });
    expect(body).toMatchObject({
      choices: [
        { message: { reasoning: expect.stringMatching(/Why/), reasoning_content: expect.stringMatching(/Why/) } },
      ],
    });
    const off = await post(sim, { messages: [user('Why?')], chat_template_kwargs: { enable_thinking: false } });
    expect((off.body.choices as { message: Json }[])[0]?.message).not.toHaveProperty('reasoning_content');
    const message = await post(sim, { messages: [user('Why?')], max_tokens: 200 }, '/v1/messages');
    expect(message.body).toMatchObject({ content: [{ type: 'thinking' }, { type: 'text' }] });
    const response = await post(sim, { input: 'Why?' }, '/v1/responses');
    expect(response.body).toMatchObject({ output: [{ type: 'reasoning' }, { type: 'message' }] });
  });
});

describe('faults', () => {
  const set = (sim: Running, ...faults: Json[]) => post(sim, { faults }, '/sim/faults');
  const stream = (sim: Running) =>
    fetch(`${sim.url}/v1/chat/completions`, {
      method: 'POST',
      body: JSON.stringify({ messages: [user('What is a kernel?')], stream: true }),
      signal: AbortSignal.timeout(2000),
    });

  it('strike a share of requests, as often as told', async () => {
    const sim = await start('--sim-fault status:503@50');
    const statuses: number[] = [];
    for (let i = 0; i < 6; i++) statuses.push((await post(sim, { messages: [user('x')] })).status);
    expect(statuses).toEqual([200, 503, 200, 503, 200, 503]);
    expect(await set(sim, { kind: 'status', value: 429, times: 1 })).toMatchObject({ status: 200 });
    expect((await post(sim, { messages: [user('x')] })).status).toBe(429);
    expect((await post(sim, { messages: [user('x')] })).status).toBe(200);
    expect((await fetch(`${sim.url}/sim/faults`, { method: 'DELETE' })).status).toBe(200);
    expect(await (await fetch(`${sim.url}/sim/faults`)).json()).toEqual({ faults: [] });
    expect(await set(sim, { kind: 'nope' })).toMatchObject({
      status: 400,
      body: { error: { message: expect.stringMatching(/nope.*refuse/) } },
    });
  });

  it('cut, hang, slow down, talk rubbish, refuse and die', async () => {
    const codes: number[] = [];
    const sim = await start('', undefined, {}, (code) => codes.push(code));
    await set(sim, { kind: 'cut', value: 2, times: 1 });
    const cut = await stream(sim);
    await expect(cut.text()).rejects.toThrow();
    await set(sim, { kind: 'hang', times: 1 });
    await expect(
      fetch(`${sim.url}/v1/completions`, { method: 'POST', body: '{"prompt":"x"}', signal: AbortSignal.timeout(50) }),
    ).rejects.toThrow(/timeout/);
    await set(sim, { kind: 'slow', value: 60, times: 1 });
    const before = performance.now();
    expect((await post(sim, { messages: [user('x')] })).status).toBe(200);
    expect(performance.now() - before).toBeGreaterThan(55);
    await set(sim, { kind: 'wrong-json', times: 1 });
    await expect(post(sim, { messages: [user('x')] })).rejects.toThrow(/JSON/);
    await set(sim, { kind: 'oom', value: 137, times: 1 });
    await expect(
      fetch(`${sim.url}/v1/completions`, { method: 'POST', body: '{"prompt":"x"}', signal: AbortSignal.timeout(50) }),
    ).rejects.toThrow();
    expect(codes).toEqual([137]);
    await set(sim, { kind: 'refuse', value: 150 });
    await new Promise((resolve) => setTimeout(resolve, 30));
    await expect(fetch(`${sim.url}/health`)).rejects.toThrow();
    await new Promise((resolve) => setTimeout(resolve, 250));
    expect((await fetch(`${sim.url}/health`)).status).toBe(200);
  });

  it('are refused on the command line when they mean nothing', () => {
    expect(() => parseSimArgs(['--sim-fault', 'slow:x,boom'], {})).toThrow(/--sim-fault: "slow:x" is not KIND/);
    expect(() => parseSimArgs(['--lora-modules', 'a'], {})).toThrow(/--lora-modules: "a" must be NAME=PATH/);
    expect(() => parseSimArgs(['--enable-auto-tool-choice'], {})).toThrow(/needs --tool-call-parser/);
  });
});
