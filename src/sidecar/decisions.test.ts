import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from '@jest/globals';
import { ManualClock } from '../clock.ts';
import type { AppError } from '../errors.ts';
import { parseCompletion } from '../openai/request.ts';
import { allowedTargets, judgeTargets, type PrefillPod, poolOf } from './allow-list.ts';
import { CachedTokensRewriter } from './cached-tokens.ts';
import { originForm } from './client-body.ts';
import { parseSidecarConfig } from './config.ts';
import type { Leg } from './connectors/connector.ts';
import { nixlV2 } from './connectors/nixl-v2.ts';
import { sglang } from './connectors/sglang.ts';
import { sharedStorage } from './connectors/shared-storage.ts';
import { ranksOf } from './data-parallel.ts';
import { type Decision, type DecisionInput, decide, isBound } from './decide.ts';
import { parseHostPort, parseTargets } from './host-port.ts';
import { routeOf } from './routes.ts';
import { Sessions, sessionKeyOf } from './sessions.ts';

describe('host and port', () => {
  it.each([
    ['10.0.0.1:8000', '10.0.0.1:8000'],
    [' http://10.0.0.1:8000/ ', '10.0.0.1:8000'],
    ['https://Prefill.ns.svc:8000', 'prefill.ns.svc:8000'],
    ['[FD00::1]:8000', '[fd00::1]:8000'],
    ['10.0.0.1', undefined],
    ['fd00::1:8000', undefined],
    ['[10.0.0.1]:8000', undefined],
    ['10.0.0.1:0', undefined],
    ['10.0.0.1:65536', undefined],
    ['user@10.0.0.1:8000', undefined],
    ['10.0.0.1:8000/path', undefined],
    ['', undefined],
  ])('%s', (text, expected) => expect(parseHostPort(text)?.hostPort).toBe(expected));

  it('reads a list with blanks and keeps what is malformed apart', () => {
    const { targets, malformed } = parseTargets(' 10.0.0.1:8000 ,, http://10.0.0.2:8000,nope');
    expect(targets.map((target) => target.hostPort)).toEqual(['10.0.0.1:8000', '10.0.0.2:8000']);
    expect(malformed).toEqual(['nope']);
  });
});

describe('routes', () => {
  it.each([
    ['POST', '/v1/chat/completions', 'completion'],
    ['POST', '/ns/svc/v1/completions?x=1', 'completion'],
    ['POST', '/v1/responses', 'completion'],
    ['POST', '/v1/messages', 'completion'],
    ['POST', '/inference/v1/generate', 'completion'],
    ['POST', '/v1/%63hat/completions', 'completion'],
    ['POST', '/v1/chat/completions#', 'completion'],
    ['POST', 'http://host/v1/chat/completions', 'completion'],
    ['POST', '/invocations', 'guarded'],
    ['POST', '/invocation%73?x', 'guarded'],
    ['GET', '/v1/responses/resp_1', 'passthrough'],
    ['GET', '/v1/chat/completions', 'passthrough'],
    ['POST', '/v1/embeddings', 'passthrough'],
    ['POST', '/v1/messages/count_tokens', 'passthrough'],
    ['GET', '/v1/models', 'passthrough'],
    ['GET', '/metrics', 'passthrough'],
    ['GET', '/health', 'health'],
    ['HEAD', '/health?x', 'health'],
    ['POST', '/health', 'passthrough'],
    ['GET', '/ready', 'ready'],
  ])('%s %s is %s', (method, url, kind) => expect(routeOf(method, url).kind).toBe(kind));

  it.each([
    ['/a?b', '/a?b'],
    ['http://host:1/a?b', '/a?b'],
    ['http://host', '/'],
    ['http://host?x', '/?x'],
    ['*', '/'],
  ])('the origin form of %s is %s', (url, expected) => expect(originForm(url)).toBe(expected));
});

describe('the decision', () => {
  const known = { id: 's', isKnown: true, expectedTokens: 10, newChars: 400 };
  const unknown = { id: 's', isKnown: false, expectedTokens: 0, newChars: 400 };
  const base: DecisionInput = {
    policy: 'prefer-session',
    hasHeader: false,
    isPicked: false,
    hasFallback: false,
    session: unknown,
    isBound: false,
    maxNewTokens: 0,
  };
  it.each<[string, Partial<DecisionInput>, Decision]>([
    ['unknown, header', { hasHeader: true }, { kind: 'prefill', from: 'header' }],
    ['known, header', { hasHeader: true, session: known }, { kind: 'local', why: 'session' }],
    [
      'known, header, prefer-header',
      { hasHeader: true, session: known, policy: 'prefer-header' },
      { kind: 'prefill', from: 'header' },
    ],
    [
      'known, no header, prefer-header',
      { session: known, policy: 'prefer-header', hasFallback: true },
      { kind: 'local', why: 'session' },
    ],
    ['off, header', { hasHeader: true, session: undefined, policy: 'off' }, { kind: 'prefill', from: 'header' }],
    ['off, fallback', { hasFallback: true, session: undefined, policy: 'off' }, { kind: 'prefill', from: 'fallback' }],
    ['unknown, fallback', { hasFallback: true }, { kind: 'prefill', from: 'fallback' }],
    ['unknown, picked, fallback', { hasFallback: true, isPicked: true }, { kind: 'local', why: 'picker' }],
    ['unknown, picked, header', { hasHeader: true, isPicked: true }, { kind: 'prefill', from: 'header' }],
    ['unknown, nothing', {}, { kind: 'local', why: 'no-prefill' }],
    ['bound, header', { isBound: true, hasHeader: true, policy: 'off' }, { kind: 'local', why: 'bound' }],
    [
      'known, much new, header',
      { hasHeader: true, session: known, maxNewTokens: 99 },
      { kind: 'prefill', from: 'header' },
    ],
    [
      'known, little new, header',
      { hasHeader: true, session: known, maxNewTokens: 100 },
      { kind: 'local', why: 'session' },
    ],
  ])('%s', (_name, change, expected) => expect(decide({ ...base, ...change })).toEqual(expected));
});

describe('a request that only the local engine can compute', () => {
  it.each([
    [{ previous_response_id: 'resp_1' }, true],
    [{ n: 2 }, true],
    [{ n: 1, best_of: 3 }, true],
    [{ prompt: ['a', 'b'] }, true],
    [
      {
        prompt: [
          [1, 2],
          [3, 4],
        ],
      },
      true,
    ],
    [{ n: 1, prompt: ['a'] }, false],
    [{ prompt: [1, 2, 3] }, false],
    [{ n: null, previous_response_id: null }, false],
  ])('%j: %s', (body, expected) => expect(isBound(body)).toBe(expected));
});

const leg: Leg = { target: { host: '10.0.0.7', port: 8000, hostPort: '10.0.0.7:8000' }, room: 42, bootstrapPort: 8998 };

describe('shared-storage and sglang', () => {
  const body = '{"model":"m","stream":true,"stream_options":{},"max_tokens":50,"cache_hit_threshold":0.9}';
  it('has the prefill pod fill the store, and the decoder read it', () => {
    expect(JSON.parse(sharedStorage.prefillRequest('chat', body, leg))).toEqual({
      model: 'm',
      stream: false,
      max_tokens: 1,
      max_completion_tokens: 1,
      min_tokens: 1,
      cache_hit_threshold: 0,
    });
    expect(JSON.parse(sharedStorage.prefillRequest('responses', '{}', leg))).toMatchObject({ max_output_tokens: 1 });
    const answer = sharedStorage.prefillAnswer('{"usage":{"prompt_tokens_details":{"cached_tokens":3}}}');
    expect(answer).toEqual({ kvParams: undefined, cachedTokens: 3, kvHandle: undefined });
    expect(JSON.parse(sharedStorage.decodeRequest('chat', body, answer, leg))).toEqual({
      ...JSON.parse(body),
      cache_hit_threshold: 0,
    });
  });

  it('tells both engines where to meet', () => {
    const meeting = { bootstrap_host: '10.0.0.7', bootstrap_port: 8998, bootstrap_room: 42 };
    expect(JSON.parse(sglang.prefillRequest('chat', body, leg))).toEqual({
      model: 'm',
      stream: false,
      max_tokens: 50,
      cache_hit_threshold: 0.9,
      ...meeting,
    });
    expect(JSON.parse(sglang.decodeRequest('chat', body, undefined, leg))).toEqual({ ...JSON.parse(body), ...meeting });
    expect(sglang.prefillAnswer('rubbish')).toBeUndefined();
  });
});

describe('nixlv2', () => {
  const body =
    '{"model":"m","stream":true,"stream_options":{"include_usage":true},"max_tokens":50,"min_tokens":9,"seed":12345678901234567890}';
  it('asks the prefill pod for one token and its blocks', () => {
    expect(JSON.parse(nixlV2.prefillRequest('chat', body, leg))).toEqual({
      model: 'm',
      seed: Number('12345678901234567890'),
      stream: false,
      max_tokens: 1,
      max_completion_tokens: 1,
      min_tokens: 1,
      kv_transfer_params: {
        do_remote_decode: true,
        do_remote_prefill: false,
        remote_engine_id: null,
        remote_block_ids: null,
        remote_host: null,
        remote_port: null,
      },
    });
    expect(nixlV2.prefillRequest('chat', body, leg)).toContain('"seed":12345678901234567890');
  });
  it.each([
    ['completions', { max_tokens: 1, max_completion_tokens: 1, min_tokens: 1 }],
    ['responses', { max_output_tokens: 1 }],
    ['messages', { max_tokens: 1 }],
    ['generate', { sampling_params: { max_tokens: 1, min_tokens: 1, top_k: 1 } }],
  ] as const)('caps the tokens of %s', (api, caps) => {
    const sent = JSON.parse(
      nixlV2.prefillRequest(
        api,
        '{"max_output_tokens":5,"input":"x","sampling_params":{"max_tokens":5,"top_k":1}}',
        leg,
      ),
    );
    expect(sent).toMatchObject(caps);
    if (api === 'responses') expect(sent).not.toHaveProperty('max_tokens');
  });
  it('hands the parameters on byte for byte and the rest as the client sent it', () => {
    const params =
      '{"remote_block_ids":[ [1,2] ],"remote_engine_id":"e","remote_request_id":"r","x":18446744073709551615}';
    const answer = nixlV2.prefillAnswer(
      `{"usage":{"prompt_tokens_details":{"cached_tokens":3}},"kv_transfer_params":${params}}`,
    );
    expect(answer).toEqual({ kvParams: params, cachedTokens: 3, kvHandle: 'nixl://e/r' });
    if (answer)
      expect(nixlV2.decodeRequest('chat', body, answer, leg)).toBe(
        `${body.slice(0, -1)},"kv_transfer_params":${params}}`,
      );
  });
  it.each([
    ['{}', { kvParams: 'null', cachedTokens: 0, kvHandle: undefined }],
    ['{"kv_transfer_params":null}', { kvParams: 'null', cachedTokens: 0, kvHandle: undefined }],
    ['not json', undefined],
    ['[]', undefined],
  ])('reads the answer %s', (text, expected) => expect(nixlV2.prefillAnswer(text)).toEqual(expected));
});

describe('cached tokens', () => {
  const pass = (text: string, tokens: number, size: number) => {
    const rewriter = new CachedTokensRewriter(tokens);
    const bytes = Buffer.from(text);
    let out = '';
    for (let at = 0; at < bytes.length; at += size)
      out += rewriter.push(bytes.subarray(at, at + size)).toString('latin1');
    return Buffer.from(out + rewriter.flush().toString('latin1'), 'latin1').toString();
  };
  it.each([
    [
      '{"usage":{"prompt_tokens_details":{"cached_tokens":48}}}',
      '{"usage":{"prompt_tokens_details":{"cached_tokens":7}}}',
    ],
    [
      '{"usage":{"prompt_tokens_details":{ "cached_tokens" : 48 }}}',
      '{"usage":{"prompt_tokens_details":{ "cached_tokens" : 7 }}}',
    ],
    ['{"details":{"cached_tokens":null}}', '{"details":{"cached_tokens":7}}'],
    ['{"usage":{"prompt_tokens":3}}', '{"usage":{"prompt_tokens":3}}'],
    [
      'data: {"a":"ü"}\n\ndata: {"usage":{"cached_tokens":1}}\n\ndata: [DONE]\n\n',
      'data: {"a":"ü"}\n\ndata: {"usage":{"cached_tokens":7}}\n\ndata: [DONE]\n\n',
    ],
    ['{"content":"\\"cached_tokens\\": 5"}', '{"content":"\\"cached_tokens\\": 5"}'],
    ['data: "cached_tokens"', 'data: "cached_tokens"'],
    ['x "cached', 'x "cached'],
    ['{"cached_tokens":12', '{"cached_tokens":7'],
  ])('%s', (before, after) => {
    for (const size of [1, 2, 3, 5, 8, 13, 1000]) expect(pass(before, 7, size)).toBe(after);
  });
  it('holds no event back that is complete', () => {
    const rewriter = new CachedTokensRewriter(0);
    for (const event of ['data: {"x":1}\n\n', 'data: {"usage":{"cached_tokens":9}}\n\n', 'data: [DONE]\n\n']) {
      expect(rewriter.push(Buffer.from(event)).toString()).toBe(event.replace('9', '0'));
    }
    expect(rewriter.flush()).toHaveLength(0);
  });
});

describe('the allow-list', () => {
  const pod = (address: string, change: Partial<PrefillPod> = {}): PrefillPod => ({
    name: address,
    labels: { app: 'llm', 'llm-d.ai/role': 'prefill' },
    addresses: [address],
    isReady: true,
    ...change,
  });
  const pool = { selector: { app: 'llm' }, ports: [8000] };
  it.each([
    [
      { spec: { selector: { matchLabels: { app: 'llm' } }, targetPorts: [{ number: 8000 }, { number: 8001 }] } },
      { selector: { app: 'llm' }, ports: [8000, 8001] },
    ],
    [{ spec: { selector: { app: 'llm' }, targetPortNumber: 8000 } }, pool],
    [{ spec: { selector: { matchLabels: {} }, targetPorts: [{ number: 8000 }] } }, undefined],
    [{ spec: { selector: { app: 'llm' } } }, undefined],
    [{}, undefined],
    [undefined, undefined],
  ])('reads the pool %j', (object, expected) => expect(poolOf(object)).toEqual(expected));

  it('holds ready prefill pods of the pool on its ports', () => {
    const pods = [
      pod('10.0.0.1'),
      pod('10.0.0.2', { isReady: false }),
      pod('10.0.0.3', { labels: { app: 'llm', 'llm-d.ai/role': 'decode' } }),
      pod('10.0.0.4', { labels: { app: 'other', 'llm-d.ai/role': 'prefill' } }),
      pod('10.0.0.5', { labels: { app: 'llm' } }),
      pod('10.0.0.6', { labels: { app: 'llm', 'llm-d.ai/role': 'both' } }),
      pod('fd00::1', { addresses: ['10.0.0.7', 'fd00::1'] }),
    ];
    expect([...allowedTargets(pool, pods)]).toEqual([
      '10.0.0.1:8000',
      '10.0.0.6:8000',
      '10.0.0.7:8000',
      '[fd00::1]:8000',
    ]);
    expect(allowedTargets(undefined, pods).size).toBe(0);
  });

  it('judges address and port, and trusts the configured URL', () => {
    const { targets } = parseTargets('10.0.0.1:8000,10.0.0.1:22,10.0.0.9:8000,prefill.svc:8000');
    const judged = judgeTargets(targets, new Set(['10.0.0.1:8000']), 'prefill.svc:8000');
    expect(judged.allowed.map((t) => t.hostPort)).toEqual(['10.0.0.1:8000', 'prefill.svc:8000']);
    expect(judged.denied.map((t) => t.hostPort)).toEqual(['10.0.0.1:22', '10.0.0.9:8000']);
  });
});

describe('sessions', () => {
  const user = (content: string) => ({ role: 'user', content });
  const assistant = (content: string) => ({ role: 'assistant', content });
  const key = (messages: unknown[], headers: Record<string, string> = {}, more: Record<string, unknown> = {}) =>
    sessionKeyOf(parseCompletion('chat', Buffer.from(JSON.stringify({ model: 'm', messages, ...more }))), headers);
  const facts = (answer: string) => ({
    answer: [`assistant\n${answer}`],
    tokens: 20,
    responseId: undefined,
    prefill: '10.0.0.1:8000',
    kvHandle: 'nixl://e/r',
  });
  const setup = (maxEntries = 3) => {
    const clock = new ManualClock();
    let evicted = 0;
    const sessions = new Sessions({ maxEntries, idleMs: 1000, clock, onEvict: () => evicted++ });
    const say = (messages: unknown[], answer: string, headers: Record<string, string> = {}) => {
      const asked = key(messages, headers);
      const match = sessions.find(asked);
      sessions.commit(asked, match.id, facts(answer), sessions.epoch);
      return match;
    };
    return { clock, sessions, say, evicted: () => evicted };
  };

  it('knows the next turn by its content, under the first turn’s id', () => {
    const { sessions, say } = setup();
    const first = say([user('Hello!')], 'Hi!');
    expect(first).toMatchObject({ isKnown: false, newChars: 13 });
    const second = sessions.find(key([user('Hello!'), assistant('Hi!'), user('More')]));
    expect(second).toMatchObject({ id: first.id, isKnown: true, expectedTokens: 20 });
    expect(sessions.find(key([user('Hello!')])).isKnown).toBe(false);
    expect(sessions.find(key([user('Hello!'), assistant('No'), user('More')])).isKnown).toBe(false);
  });

  it('keeps tenants and models apart', () => {
    const { sessions, say } = setup();
    say([user('a')], 'b', { authorization: 'Bearer 1', 'x-session-id': 's' });
    const next = [user('a'), assistant('b'), user('c')];
    expect(sessions.find(key(next, { authorization: 'Bearer 1' })).isKnown).toBe(true);
    expect(sessions.find(key(next, { authorization: 'Bearer 2', 'x-session-id': 's' })).isKnown).toBe(false);
    expect(sessions.find(key(next, { authorization: 'Bearer 1' }, { model: 'n' })).isKnown).toBe(false);
  });

  it.each(['x-session-id', 'x-claude-code-session-id', 'x-session-affinity', 'session-id', 'session_id'])(
    'takes the id from header %s and verifies the content',
    (name) => {
      const { sessions, say } = setup();
      expect(say([user('a')], 'b', { [name]: 'conv-1' }).id).toBe('conv-1');
      // An edited answer: the prompt before it is still there.
      expect(sessions.find(key([user('a'), assistant('B!'), user('c')], { [name]: 'conv-1' }))).toMatchObject({
        id: 'conv-1',
        isKnown: true,
        expectedTokens: 0,
      });
      expect(sessions.find(key([user('other')], { [name]: 'conv-1' })).isKnown).toBe(false);
    },
  );

  it('takes the id from the body after headers', () => {
    expect(key([user('a')], {}, { session_id: 'b1', conversation_id: 'b2' }).id).toBe('b1');
    expect(key([user('a')], {}, { conversation_id: 'b2', prompt_cache_key: 'b3' }).id).toBe('b2');
    expect(key([user('a')], {}, { prompt_cache_key: 'b3' }).id).toBe('b3');
    expect(key([user('a')], { 'x-session-id': 'h' }, { session_id: 'b1' }).id).toBe('h');
    for (const bad of ['', 'a b', 'x\r\ny', 'ü', 'x'.repeat(257), 7]) {
      expect(key([user('a')], {}, { session_id: bad }).id).toBeUndefined();
    }
  });

  it('remembers several conversations under one id, and forks', () => {
    const { sessions, say } = setup();
    say([user('a')], 'b', { 'x-session-id': 's' });
    say([user('x')], 'y', { 'x-session-id': 's' });
    expect(sessions.size).toBe(1);
    expect(sessions.find(key([user('a'), assistant('b'), user('c')], { 'x-session-id': 's' })).isKnown).toBe(true);
    expect(sessions.find(key([user('x'), assistant('y'), user('c')], { 'x-session-id': 's' })).isKnown).toBe(true);
    expect(sessions.find(key([user('x'), assistant('y'), user('c')])).id).toBe('s');
  });

  it('forgets the least recently used, and what idles', async () => {
    const { sessions, say, clock, evicted } = setup(2);
    say([user('a')], '1');
    say([user('b')], '2');
    sessions.find(key([user('a'), assistant('1'), user('x')]));
    say([user('c')], '3');
    expect(evicted()).toBe(1);
    expect(sessions.size).toBe(2);
    expect(sessions.find(key([user('a'), assistant('1'), user('x')])).isKnown).toBe(true);
    expect(sessions.find(key([user('b'), assistant('2'), user('x')])).isKnown).toBe(false);
    await clock.advance(1001);
    expect(sessions.find(key([user('a'), assistant('1'), user('x')])).isKnown).toBe(false);
    say([user('d')], '4');
    expect(sessions.size).toBe(1);
  });

  it('forgets on demand, and an answer from before is not stored after', () => {
    const { sessions, say } = setup();
    say([user('a')], 'b');
    const next = key([user('a'), assistant('b'), user('c')]);
    const { epoch } = sessions;
    const { id } = sessions.find(next);
    sessions.invalidate(next, id);
    expect(sessions.size).toBe(0);
    say([user('a')], 'b');
    expect(sessions.clear()).toBe(1);
    sessions.commit(next, id, facts('d'), epoch);
    expect(sessions.size).toBe(0);
  });

  it('follows previous_response_id', () => {
    const { sessions } = setup();
    const first = sessionKeyOf(parseCompletion('responses', Buffer.from('{"input":"a"}')), {});
    const { id } = sessions.find(first);
    sessions.commit(first, id, { ...facts('b'), responseId: 'resp_1' }, sessions.epoch);
    const next = parseCompletion('responses', Buffer.from('{"input":"c","previous_response_id":"resp_1"}'));
    expect(sessions.find(sessionKeyOf(next, {}))).toMatchObject({ id, isKnown: true });
  });

  it('shows what it holds, the newest first', async () => {
    const { sessions, say, clock } = setup();
    say([user('a')], 'b', { 'x-session-id': 'one' });
    await clock.advance(500);
    say([user('c')], 'd', { 'x-session-id': 'two' });
    expect(sessions.view()).toEqual([
      {
        session_id: 'two',
        kv_handle: 'nixl://e/r',
        tokens_processed: 20,
        prefill: '10.0.0.1:8000',
        turns: 1,
        idle_seconds: 0,
      },
      {
        session_id: 'one',
        kv_handle: 'nixl://e/r',
        tokens_processed: 20,
        prefill: '10.0.0.1:8000',
        turns: 1,
        idle_seconds: 1,
      },
    ]);
  });

  it('keeps its indexes bounded', () => {
    const { sessions, say } = setup(5);
    const history: unknown[] = [];
    for (let i = 0; i < 50; i++) {
      history.push(user(`q${i}`));
      expect(say(history, `a${i}`, { 'x-session-id': `s${i % 7}` }).id).toBe(`s${i % 7}`);
      history.push(assistant(`a${i}`));
    }
    expect(sessions.size).toBe(5);
    expect(sessions.view().every((view) => view.turns <= 8)).toBe(true);
  });
});

describe('data-parallel ranks', () => {
  it('have ports, engines and names of their own', () => {
    const flags = ['--data-parallel-size=3', '--decoder-port=8200', '--metrics-port=0', '--pod-name=p'];
    const parsed = parseSidecarConfig(flags, {});
    const ranks = parsed.kind === 'config' ? ranksOf(parsed.config) : [];
    expect(ranks.map((rank) => [rank.port, rank.decoder.port, rank.metricsPort, rank.decodeName])).toEqual([
      [8000, 8200, 0, 'p/0'],
      [8001, 8201, 0, 'p/1'],
      [8002, 8202, 0, 'p/2'],
    ]);
  });
});

describe('configuration', () => {
  const config = (argv: string[], env: Record<string, string> = {}) => {
    const parsed = parseSidecarConfig(argv, env);
    if (parsed.kind !== 'config') throw new Error('help');
    return parsed.config;
  };

  it('takes the flags that the operator injects', () => {
    const parsed = config(
      [
        '--port=8000',
        '--decoder-port=8001',
        '--decoder-use-tls=true',
        '--prefiller-use-tls=true',
        '--prefill-url=https://my-llm-kserve-prefill-svc:8000',
        '--connector=nixlv2',
        '--cert-path=/etc/ssl/certs',
        '--enable-ssrf-protection=true',
      ],
      { INFERENCE_POOL_NAMESPACE: 'team', INFERENCE_POOL_NAME: 'my-llm-inference-pool', SESSION_CACHE_SIZE: '2000' },
    );
    expect(parsed).toMatchObject({
      port: 8000,
      isSecure: false,
      isSsrfProtected: true,
      pool: { namespace: 'team', name: 'my-llm-inference-pool', group: 'inference.networking.k8s.io' },
    });
    expect(parsed.decoder).toMatchObject({ host: '127.0.0.1', port: 8001, isTls: true });
    expect(parsed.prefill.url?.href).toBe('https://my-llm-kserve-prefill-svc:8000/');
    expect(parsed.sessions.maxEntries).toBe(2000);
  });

  it('takes other spellings', () => {
    const parsed = config([
      '--vllm-port=9001',
      '--kv-connector=nixlv2',
      '--enable-tls=prefiller,decoder',
      '--tls-insecure-skip-verify=prefiller',
      '--inference-pool=a/b',
      '--pool-group=inference.networking.x-k8s.io',
      '--pod-address=127.0.0.5',
      '--prefill-max-retries=2',
      '--prefill-retry-backoff=50ms',
      '--data-parallel-size=1',
    ]);
    expect(parsed.decoder).toMatchObject({ host: '127.0.0.5', port: 9001, isTls: true, isInsecure: false });
    expect(parsed.prefill).toMatchObject({ isTls: true, isInsecure: true, maxRetries: 2, retryBackoffMs: 50 });
    expect(parsed.pool).toEqual({ namespace: 'a', name: 'b', group: 'inference.networking.x-k8s.io' });
    expect(parsed).toMatchObject({ listenAddress: '127.0.0.5', decodeName: '127.0.0.5:8000' });
    expect(config(['--model-server-port=9']).decoder.port).toBe(9);
    expect(config([], { POD_NAME: 'decode-0' }).decodeName).toBe('decode-0');
    expect(config([], { SESSION_CACHE_SIZE: '0' }).sessions.policy).toBe('off');
  });

  it('reads a configuration file below flags and environment', () => {
    const text = 'port: 1234\nsession-cache-size: 7\nconnector: sglang\nenable-tls: [decoder, encoder]';
    const parsed = config([`--configuration=${text}`, '--connector=nixlv2', '--ec-connector=ec-nixl'], {
      SESSION_CACHE_SIZE: '9',
    });
    expect(parsed).toMatchObject({ port: 1234, sessions: { maxEntries: 9 }, connector: { name: 'nixlv2' } });
    expect(parsed).toMatchObject({ decoder: { isTls: true }, encode: { connector: 'ec-nixl', isTls: true } });
  });

  it.each([
    ['debug', 'debug'],
    ['2', 'trace'],
    ['panic', 'fatal'],
  ])('takes --zap-log-level=%s, and what else other versions take without effect', (given, level) => {
    const parsed = config([
      `--zap-log-level=${given}`,
      '--zap-encoder=json',
      '--zap-devel=false',
      '--tracing=false',
      '--decode-chunk-size=0',
      '--mooncake-bootstrap-port=8998',
      '--p2p-connector-port=7777',
      '--vllm-port=8001',
      '--decoder-port=8001',
    ]);
    expect(parsed.logLevel).toBe(level);
    expect(parsed.decoder.port).toBe(8001);
  });

  it.each([
    [['--connector=mooncake'], /--connector: "mooncake" is not supported yet; use nixlv2/],
    [['--connector=foo'], /--connector: "foo" is unknown/],
    [['--data-parallel-size=2'], /--port 8000 and --decoder-port 8001 overlap with --data-parallel-size=2/],
    [['--data-parallel-size=0'], /--data-parallel-size/],
    [['--data-parallel-size=4', '--decoder-port=65533'], /--decoder-port: 65533 .* beyond port 65535/],
    [['--enable-tls=envoy'], /--enable-tls: "envoy"/],
    [['--vllm-port=8001', '--decoder-port=8002'], /--vllm-port "8001" and --decoder-port "8002" are one setting/],
    [['--kv-connector=sglang', '--connector=nixlv2'], /--kv-connector "sglang" and --connector "nixlv2"/],
    [['--inference-pool=a/b', '--inference-pool-name=c'], /--inference-pool "a\/b" and --inference-pool-name .* "c"/],
    [['--inference-pool=a/b', '--inference-pool-namespace=c'], /--inference-pool-namespace .* "c" name two namespaces/],
    [['--enable-tls=decoder', '--decoder-use-tls=false'], /--enable-tls names decoder and --decoder-use-tls is false/],
    [
      ['--tls-insecure-skip-verify=encoder', '--encoder-tls-insecure-skip-verify=false'],
      /--tls-insecure-skip-verify names encoder and --encoder-tls-insecure-skip-verify is false/,
    ],
    [['--configuration=port: 1', '--configuration-file=x'], /--configuration and --configuration-file are both given/],
    [['--configuration-file=/none/such'], /--configuration-file cannot be read/],
    [['--configuration=prot: 1'], /unknown key prot in the configuration file, did you mean port/],
    [['--ec-connector=x'], /--ec-connector: "x" is unknown; use ec-example or ec-nixl/],
    [['--otlp-endpoint=collector'], /--otlp-endpoint \(OTEL_EXPORTER_OTLP_ENDPOINT\): "collector" is no URL/],
    [['--trace-ratio=2'], /--trace-ratio \(OTEL_TRACES_SAMPLER_ARG\): "2" is not a share/],
    [['--enable-p2p-pull'], /--enable-p2p-pull is not supported/],
    [['--decode-chunk-size=8'], /--decode-chunk-size is not supported/],
    [['--moriio-write-mode'], /--moriio-write-mode is not supported/],
    [['--zap-log-level=loud'], /--zap-log-level: "loud" is not a level/],
    [['--zap-log-level=info', '--log-level=info'], /--log-level and --zap-log-level are both given/],
    [['--enable-ssrf-protection'], /needs to know the pool/],
    [['--prefill-url=http://x:1/path'], /--prefill-url: "http:\/\/x:1\/path" is not valid/],
    [['--inference-pool=a/b/c'], /--inference-pool: "a\/b\/c"/],
    [['--pool-group=x'], /--pool-group/],
    [['--port=8001'], /both 8001/],
    [['--session-cache-size=many'], /many/],
    [['--secure-proxy'], /--secure-proxy needs tls.crt and tls.key in --cert-path/],
    [['--decode-port=1'], /unknown flag --decode-port, did you mean --decoder-port/],
    [['extra'], /unexpected argument "extra"/],
    [['--prefill-max-retries=1', '--prefill-retry-backoff=0'], /--prefill-retry-backoff/],
  ])('refuses %j', (argv, message) => {
    try {
      parseSidecarConfig(argv, {});
      throw new Error('accepted');
    } catch (thrown) {
      expect((thrown as AppError).message).toMatch(message);
      expect((thrown as AppError).exit).toBe(2);
    }
  });

  it('names the file that a serving certificate lacks', () => {
    const dir = mkdtempSync(join(tmpdir(), 'sidecar-'));
    try {
      writeFileSync(join(dir, 'tls.crt'), '');
      expect(() => config(['--secure-proxy', `--cert-path=${dir}`])).toThrow(/lacks tls.key/);
      writeFileSync(join(dir, 'tls.key'), '');
      expect(config(['--secure-proxy', `--cert-path=${dir}`]).isSecure).toBe(true);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  it('explains itself', () => {
    const parsed = parseSidecarConfig(['--help'], {});
    expect(parsed.kind === 'help' && parsed.text).toMatch(/--prefill-url URL[\s\S]*SESSION_CACHE_SIZE/);
  });
});
