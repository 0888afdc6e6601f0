import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from '@jest/globals';
import { ManualClock } from '../clock.ts';
import { parseSimArgs, type SimConfig } from './config.ts';
import { withConfigFile } from './config-file.ts';
import { Engine, type Finished, type Submission } from './engine.ts';
import { extendHashes, hashBlock, KvCache } from './kv-cache.ts';
import { createCacheEvents } from './kv-events.ts';
import { endpointOfRank } from './kv-publisher.ts';
import { parseTransferParams } from './kv-transfer.ts';
import { latencyProfiles, stepMs, transferMs } from './latency.ts';
import { Leases } from './leases.ts';
import { createEngineMetrics, Histogram } from './metrics.ts';
import { parseChatPrompt, parseTextPrompt } from './prompt.ts';
import { createReply, type ReplyOptions } from './reply.ts';
import { encodeInto, idOfPiece, specialIds, splitPieces } from './tokenizer.ts';

describe('tokenizer', () => {
  const cases: readonly (readonly [text: string, pieces: readonly string[]])[] = [
    ['', []],
    ['Hello, world!', ['Hello', ',', ' world', '!']],
    ['internationalisation', ['interna', 'tionali', 'sation']],
    ['a  b', ['a', '  ', 'b']],
    ['x = 12345', ['x', ' ', '=', ' ', '123', '45']],
    ['line\n\nnext', ['line', '\n', '\n', 'next']],
    ['déjà vu', ['déjà', ' vu']],
    ['日本', ['日', '本']],
    ['ok 👍', ['ok', ' ', '👍']],
    [`${' '.repeat(20)}x`, [' '.repeat(16), '    ', 'x']],
  ];
  it.each(cases)('splits %j', (text, pieces) => {
    expect(splitPieces(text)).toEqual(pieces);
    expect(splitPieces(text).join('')).toBe(text);
    const ids: number[] = [];
    encodeInto(ids, text);
    expect(ids).toEqual(pieces.map(idOfPiece));
  });

  it('gives the same first tokens for a text cut at any piece', () => {
    const text = 'The  quick brown-fox, 1234567 times\n jumps… über 東京 👍👍 and internationalisation.   ';
    const pieces = splitPieces(text);
    for (let count = 0; count <= pieces.length; count++) {
      expect(splitPieces(pieces.slice(0, count).join(''))).toEqual(pieces.slice(0, count));
    }
  });

  it('never makes a mark of the template out of text', () => {
    for (let i = 0; i < 2000; i++) expect(idOfPiece(`p${i}`)).toBeGreaterThan(255);
  });
});

describe('prompts', () => {
  it('begins a turn with the last one and its answer, token for token', () => {
    const first = [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'What is a kernel?' },
    ];
    const one = parseChatPrompt({ messages: first });
    const reply = createReply({ ...replyDefaults, lastUserText: one.lastUserText });
    expect(reply.finishReason).toBe('stop');
    const answer = { role: 'assistant', content: reply.deltas.join('') };
    const two = parseChatPrompt({
      messages: [...first, answer, { role: 'user', content: [{ type: 'text', text: 'And?' }] }],
    });
    const before = [...one.ids, ...reply.ids];
    expect(two.ids.slice(0, before.length)).toEqual(before);
    expect(two.ids.length).toBeGreaterThan(before.length);
    expect(two.lastUserText).toBe('And?');
  });

  it.each(['Once upon a time', 'Ends in a space ', 'Ends in a line\n', 'Ends in a sign.'])(
    'continues the completion of %j so',
    (prompt) => {
      const one = parseTextPrompt({ prompt });
      const reply = createReply({ ...replyDefaults, api: 'completions', lastUserText: prompt, maxTokens: 9 });
      const two = parseTextPrompt({ prompt: prompt + reply.deltas.join('') });
      expect(two.ids).toEqual([...one.ids, ...reply.ids]);
    },
  );

  const bad: readonly (readonly [body: Record<string, unknown>, message: RegExp])[] = [
    [{}, /messages must be a list/],
    [{ messages: [] }, /at least one message/],
    [{ messages: ['hi'] }, /messages\[0\] must be an object/],
    [{ messages: [{ content: 'x' }] }, /messages\[0\]\.role/],
    [{ messages: [{ role: 'user', content: 5 }] }, /messages\[0\]\.content must be a string/],
    [{ messages: [{ role: 'user', content: [7] }] }, /messages\[0\]\.content\[0\]/],
  ];
  it.each(bad)('refuses %j', (body, message) => {
    expect(() => parseChatPrompt(body)).toThrow(message);
  });

  it.each([[{}], [{ prompt: '' }], [{ prompt: [] }], [{ prompt: [1, -1] }], [{ prompt: ['a', 'b'] }]])(
    'refuses %j',
    (body) => {
      expect(() => parseTextPrompt(body)).toThrow(/prompt/);
    },
  );

  it('takes token ids as they are', () => {
    expect(parseTextPrompt({ prompt: [[5, 6, 7]] }).ids).toEqual([5, 6, 7]);
  });
});

const replyDefaults: ReplyOptions = {
  api: 'chat',
  lastUserText: 'What is a kernel?',
  seed: 0,
  naturalTokens: 40,
  maxTokens: 1000,
  minTokens: 0,
  ignoreEos: false,
  stop: [],
  includeStop: false,
};

describe('replies', () => {
  it('speaks of what was asked, the same for the same seed', () => {
    const text = (seed: number) => createReply({ ...replyDefaults, seed }).deltas.join('');
    expect(text(1)).toContain('What is a kernel');
    expect(text(1)).toBe(text(1));
    expect(new Set([1, 2, 3, 4, 5].map(text)).size).toBeGreaterThan(1);
  });

  const lengths: readonly (readonly [options: Partial<ReplyOptions>, reason: string, min: number, max: number])[] = [
    [{}, 'stop', 10, 40],
    [{ maxTokens: 5 }, 'length', 5, 5],
    [{ maxTokens: 1 }, 'length', 1, 1],
    [{ naturalTokens: 1 }, 'stop', 2, 2],
    [{ ignoreEos: true, maxTokens: 200 }, 'length', 200, 200],
    [{ minTokens: 120, maxTokens: 500 }, 'stop', 121, 160],
    [{ minTokens: 120, maxTokens: 120 }, 'length', 120, 120],
    [{ lastUserText: '' }, 'stop', 5, 40],
  ];
  it.each(lengths)('with %j ends by %s after %i to %i tokens', (options, reason, min, max) => {
    const reply = createReply({ ...replyDefaults, ...options });
    expect(reply.finishReason).toBe(reason);
    expect(reply.ids.length).toBeGreaterThanOrEqual(min);
    expect(reply.ids.length).toBeLessThanOrEqual(max);
    expect(reply.deltas).toHaveLength(reply.ids.length);
    expect(reply.ids.at(-1) === specialIds.end).toBe(reason === 'stop');
  });

  it('ends before a stop string, or behind it on request', () => {
    const whole = createReply(replyDefaults).deltas.join('');
    const stop = whole.slice(20, 24);
    const cut = createReply({ ...replyDefaults, stop: ['never there', stop] });
    expect(cut).toMatchObject({ finishReason: 'stop', stopReason: stop });
    expect(cut.deltas.join('')).toBe(whole.slice(0, whole.indexOf(stop)));
    const kept = createReply({ ...replyDefaults, stop: [stop], includeStop: true });
    expect(kept.deltas.join('')).toBe(whole.slice(0, whole.indexOf(stop) + stop.length));
    const late = createReply({ ...replyDefaults, stop: [stop], minTokens: 15 });
    expect(late.ids.length).toBeGreaterThanOrEqual(15);
  });
});

describe('latency', () => {
  const model = { prefillUsPerToken: 100, outputTokenUs: 10_000, loadFactor: 3, transferUsPerToken: 5 };
  it.each([
    [{ prefillTokens: 0, sequences: 0, maxSequences: 5 }, 0],
    [{ prefillTokens: 0, sequences: 1, maxSequences: 5 }, 10],
    [{ prefillTokens: 0, sequences: 5, maxSequences: 5 }, 30],
    [{ prefillTokens: 0, sequences: 3, maxSequences: 5 }, 20],
    [{ prefillTokens: 1000, sequences: 1, maxSequences: 5 }, 110],
    [{ prefillTokens: 10, sequences: 1, maxSequences: 1 }, 11],
  ])('a step of %j takes %d ms', (load, ms) => {
    expect(stepMs(model, load)).toBeCloseTo(ms);
  });
  it('transfers by the token', () => expect(transferMs(model, 2000)).toBe(10));
});

describe('KV cache', () => {
  const create = (numBlocks: number, hasPrefixCaching = true) =>
    new KvCache({ numBlocks, blockSize: 4, hasPrefixCaching });
  const chain = (...ids: number[]) => {
    const hashes: number[] = [];
    extendHashes(hashes, ids, 4, 0);
    return hashes;
  };
  const fill = (cache: KvCache, hashes: readonly number[]) => {
    const blocks = cache.allocate(hashes, 0, hashes.length) ?? [];
    for (const [i, block] of blocks.entries()) cache.publish(block, hashes[i] ?? 0);
    return blocks;
  };

  it('hashes a block by all tokens up to its end', () => {
    const a = chain(1, 2, 3, 4, 5, 6, 7, 8);
    expect(a).toHaveLength(2);
    expect(chain(1, 2, 3, 4, 5, 6, 7, 8, 9)).toEqual(a);
    expect(chain(1, 2, 3, 4, 5, 6, 7, 9)[0]).toBe(a[0]);
    expect(chain(1, 2, 3, 4, 5, 6, 7, 9)[1]).not.toBe(a[1]);
    expect(chain(0, 2, 3, 4, 5, 6, 7, 8)[1]).not.toBe(a[1]);
    expect(hashBlock(1, [1, 2, 3, 4], 0, 4)).not.toBe(a[0]);
    const seen = new Set<number>();
    for (let i = 0; i < 20_000; i++) {
      const hash = hashBlock(i % 7, [i, i >> 3, 5, i & 1], 0, 4);
      expect(Number.isSafeInteger(hash) && hash > 0).toBe(true);
      seen.add(hash);
    }
    expect(seen.size).toBe(20_000);
  });

  it('finds what is free but not yet reused, and shares what is in use', () => {
    const cache = create(4);
    const hashes = chain(1, 2, 3, 4, 5, 6, 7, 8);
    const blocks = fill(cache, hashes);
    expect(cache.usage).toBe(0.5);
    const shared = cache.allocate(hashes, cache.countCached(hashes, 2), 3) ?? [];
    expect(shared.slice(0, 2)).toEqual(blocks);
    expect(cache.freeBlocks).toBe(1);
    cache.release(blocks);
    expect(cache.freeBlocks).toBe(1);
    cache.release(shared);
    expect(cache.freeBlocks).toBe(4);
    expect(cache.countCached(hashes, 2)).toBe(2);
  });

  it('forgets the least recently used first, and a chain from its end', () => {
    const cache = create(4);
    const old = chain(1, 1, 1, 1, 2, 2, 2, 2);
    const young = chain(9, 9, 9, 9, 8, 8, 8, 8);
    cache.release(fill(cache, old));
    cache.release(fill(cache, young));
    const one = cache.allocate([], 0, 1) ?? [];
    expect(cache.countCached(old, 2)).toBe(1);
    expect(cache.countCached(young, 2)).toBe(2);
    // Used again, so now the younger one is the one to go.
    cache.release(cache.allocate(old, 1, 1) ?? []);
    cache.allocate([], 0, 2);
    expect(cache.countCached(young, 2)).toBe(0);
    expect(cache.countCached(old, 2)).toBe(1);
    cache.release(one);
  });

  it('takes nothing when there is no room, counting known free blocks once', () => {
    const cache = create(3);
    const hashes = chain(1, 2, 3, 4, 5, 6, 7, 8);
    cache.release(fill(cache, hashes));
    expect(cache.allocate(hashes, 2, 4)).toBeUndefined();
    expect(cache.freeBlocks).toBe(3);
    expect(cache.allocate(hashes, 2, 3)).toHaveLength(3);
    expect(cache.allocateOne()).toBeUndefined();
  });

  it('finds nothing without prefix caching, and refuses a second release', () => {
    const cache = create(2, false);
    const blocks = fill(cache, chain(1, 2, 3, 4));
    expect(cache.countCached(chain(1, 2, 3, 4), 1)).toBe(0);
    cache.release(blocks);
    expect(() => cache.release(blocks)).toThrow(RangeError);
  });
});

describe('cache events', () => {
  it.each([
    ['tcp://*:5557', 0, 'tcp://*:5557'],
    ['tcp://*:5557', 3, 'tcp://*:5560'],
    ['tcp://[::1]:5557', 1, 'tcp://[::1]:5558'],
    ['inproc://events', 2, 'inproc://events_dp2'],
  ])('of endpoint %s, rank %i go to %s', (endpoint, rank, expected) => {
    expect(endpointOfRank(endpoint, rank)).toBe(expected);
  });

  it('are told as vLLM tells them, step by step', () => {
    const sent: (readonly unknown[])[] = [];
    const told = createCacheEvents((events) => sent.push(events));
    const blocks = { blockSize: 2, tokenIds: [1, 2, 3, 4], adapter: undefined, salt: undefined };
    told.stored({ ...blocks, hashes: [11, 12], parent: undefined });
    told.removed(5);
    told.removed(6);
    told.flush();
    told.flush();
    told.removed(7);
    told.stored({ ...blocks, hashes: [13, 14], parent: 12, adapter: { id: 1, name: 'sql' } });
    told.stored({ ...blocks, hashes: [15, 16], parent: undefined, salt: 'tenant' });
    told.cleared();
    told.flush();
    expect(sent).toEqual([
      [
        ['BlockStored', [11, 12], null, [1, 2, 3, 4], 2, null, 'GPU', null],
        ['BlockRemoved', [5, 6], 'GPU'],
      ],
      [
        ['BlockRemoved', [7], 'GPU'],
        ['BlockStored', [13, 14], 12, [1, 2, 3, 4], 2, 1, 'GPU', 'sql', [['sql'], ['sql']]],
        ['BlockStored', [15, 16], null, [1, 2, 3, 4], 2, null, 'GPU', null, [['tenant'], null]],
        ['AllBlocksCleared'],
      ],
    ]);
  });
});

describe('leases', () => {
  it('gives a handle once, and lets it end after its time', async () => {
    const clock = new ManualClock();
    const released: string[] = [];
    const leases = new Leases({
      clock,
      leaseMs: 30_000,
      release: (handle, why) => released.push(`${handle.requestId} ${why}`),
    });
    const handle = (requestId: string) => ({ requestId, blocks: [1], hashes: [], tokens: 3 });
    leases.add(handle('a'));
    leases.add(handle('b'));
    await clock.advance(10_000);
    leases.add(handle('c'));
    expect(leases.take('a')).toMatchObject({ kind: 'taken', handle: { tokens: 3 } });
    expect(leases.take('a')).toEqual({ kind: 'missing', why: 'used' });
    expect(leases.take('x')).toEqual({ kind: 'missing', why: 'unknown' });
    await clock.advance(20_000);
    expect(released).toEqual(['a used', 'b expired']);
    expect(leases.take('b')).toEqual({ kind: 'missing', why: 'expired' });
    expect(leases.counts).toEqual({ live: 1, created: 3, used: 1, expired: 1 });
    await clock.advance(10_000);
    expect(leases.counts.live).toBe(0);
    leases.close();
  });
});

describe('kv_transfer_params', () => {
  const full = {
    do_remote_prefill: true,
    remote_engine_id: 'e',
    remote_request_id: 'r',
    remote_host: '127.0.0.1',
    remote_port: 5600,
    remote_block_ids: [[1, 2]],
  };
  it.each([
    [undefined, 'local'],
    [null, 'local'],
    [{}, 'local'],
    [{ do_remote_decode: false, do_remote_prefill: false }, 'local'],
    [{ do_remote_decode: true, do_remote_prefill: false, remote_host: null }, 'produce'],
    [full, 'consume'],
    [{ ...full, remote_engine_id: undefined }, 'broken'],
    [{ ...full, remote_request_id: null }, 'broken'],
    [{ ...full, remote_host: '' }, 'broken'],
    [{ ...full, remote_port: undefined }, 'broken'],
    [{ ...full, remote_port: 'x' }, 'broken'],
    [{ ...full, remote_block_ids: ['DUMMY'] }, 'broken'],
  ])('%j is %s', (params, kind) => {
    expect(parseTransferParams(params).kind).toBe(kind);
  });
  it('refuses what is no object', () => expect(() => parseTransferParams([1])).toThrow(/must be an object/));
});

describe('engine', () => {
  const reply = (tokens: number) => ({
    ids: Array.from({ length: tokens }, (_, i) => 1000 + i),
    deltas: Array.from({ length: tokens }, (_, i) => ` ${i}`),
    finishReason: 'length' as const,
    stopReason: null,
    thoughtTokens: 0,
  });
  interface Over {
    readonly numBlocks?: number;
    readonly maxSequences?: number;
    readonly maxBatchedTokens?: number;
    readonly maxAdapters?: number;
  }
  const setup = (over: Over = {}) => {
    const clock = new ManualClock(1);
    const engine = new Engine({
      clock,
      latency: { prefillUsPerToken: 1000, outputTokenUs: 10_000, loadFactor: 1, transferUsPerToken: 0 },
      metrics: createEngineMetrics(),
      numBlocks: over.numBlocks ?? 100,
      blockSize: 4,
      hasPrefixCaching: true,
      maxSequences: over.maxSequences ?? 4,
      maxBatchedTokens: over.maxBatchedTokens ?? 2048,
      maxAdapters: over.maxAdapters ?? 0,
    });
    const log: string[] = [];
    const submit = (id: string, promptIds: number[], tokens: number, more: Partial<Submission> = {}) => {
      let end: Finished | undefined;
      const ticket = engine.submit({
        id,
        promptIds,
        cacheRoot: 0,
        reply: reply(tokens),
        maxTokens: tokens,
        plan: { kind: 'local' },
        onToken: (index) => log.push(`${clock.now() - 1} ${id}${index}`),
        onFinish: (finished) => {
          end = finished;
          log.push(`${clock.now() - 1} ${id} ${finished.reason}`);
        },
        ...more,
      });
      return { ticket, end: () => end };
    };
    return { clock, engine, log, submit };
  };
  const prompt = (tokens: number, first = 300) => Array.from({ length: tokens }, (_, i) => first + i);

  it('computes the prompt, then a token a step', async () => {
    const { clock, log, submit, engine } = setup();
    const { end } = submit('a', prompt(20), 3);
    await clock.advance(100);
    expect(log).toEqual(['30 a0', '40 a1', '50 a2', '50 a length']);
    expect(end()).toMatchObject({ promptTokens: 20, outputTokens: 3, cachedTokens: 0 });
    expect(engine.cache.freeBlocks).toBe(100);
  });

  it('computes only what is not cached, and always the last token', async () => {
    const { clock, log, submit } = setup();
    submit('a', prompt(20), 1);
    await clock.advance(100);
    const { end } = submit('b', prompt(20), 1);
    await clock.advance(100);
    expect(log).toEqual(['30 a0', '30 a length', '114 b0', '114 b length']);
    expect(end()?.cachedTokens).toBe(16);
  });

  it('lets in no more than max-num-seqs, in order', async () => {
    const { clock, log, submit, engine } = setup({ maxSequences: 1 });
    submit('a', prompt(4), 1);
    submit('b', prompt(4, 900), 1);
    expect(engine.queued).toBe(2);
    await clock.advance(14);
    expect([engine.running, engine.queued]).toEqual([1, 0]);
    await clock.advance(100);
    expect(log.filter((line) => line.endsWith('length'))).toEqual(['14 a length', '28 b length']);
  });

  it('runs no more adapters at a time than may be, and lets others pass those that wait', async () => {
    const { clock, log, submit, engine } = setup({ maxAdapters: 1 });
    const sql = { id: 1, name: 'sql' };
    const poet = { id: 2, name: 'poet' };
    submit('a', prompt(4), 3, { adapter: sql });
    submit('b', prompt(4, 900), 1, { adapter: poet });
    submit('c', prompt(4, 1900), 2, { adapter: sql });
    submit('d', prompt(4, 2900), 1);
    await clock.advance(1);
    expect(engine.adapters).toEqual({ running: ['sql'], waiting: ['poet'] });
    expect([engine.running, engine.queued]).toEqual([3, 1]);
    await clock.advance(200);
    const done = log.filter((line) => line.endsWith('length')).map((line) => line.split(' ')[1]);
    expect(done).toEqual(['d', 'c', 'a', 'b']);
    expect(engine.running + engine.queued).toBe(0);
  });

  it('computes a long prompt in pieces while others go on', async () => {
    const { clock, log, submit } = setup({ maxBatchedTokens: 10 });
    submit('a', prompt(4), 4);
    await clock.advance(14);
    submit('b', prompt(18, 900), 1);
    await clock.advance(200);
    // A step with 9 or fewer tokens of b and one of a.
    expect(log).toEqual(['14 a0', '24 a1', '43 a2', '62 a3', '62 a length', '62 b0', '62 b length']);
  });

  it('takes the room of the youngest when blocks run out, and finishes both', async () => {
    const { clock, submit, engine } = setup({ numBlocks: 5 });
    const a = submit('a', prompt(7), 8);
    const b = submit('b', prompt(7, 900), 8);
    await clock.advance(1000);
    expect(a.end()).toMatchObject({ reason: 'length', outputTokens: 8 });
    expect(b.end()).toMatchObject({ reason: 'length', outputTokens: 8 });
    expect(engine.stats.preemptions).toBeGreaterThan(0);
    expect(engine.cache.freeBlocks).toBe(5);
  });

  it.each(['waiting', 'running'])('frees all blocks of a request aborted while %s', async (state) => {
    const { clock, submit, engine } = setup({ maxSequences: 1 });
    const first = submit('a', prompt(9), 50);
    const second = submit('b', prompt(9, 900), 50);
    await clock.advance(40);
    (state === 'running' ? first : second).ticket.abort();
    (state === 'running' ? first : second).ticket.abort();
    await clock.advance(2000);
    expect(first.end()?.reason).toBe(state === 'running' ? 'abort' : 'length');
    expect(second.end()?.reason).toBe(state === 'running' ? 'length' : 'abort');
    expect(engine.stats).toMatchObject({ aborted: 1, running: 0, waiting: 0 });
    expect(engine.cache.freeBlocks).toBe(100);
    await engine.idle();
  });

  it('survives a caller that throws', async () => {
    const { clock, submit } = setup();
    submit('a', prompt(4), 2, {
      onToken: () => {
        throw new Error('broken');
      },
    });
    const b = submit('b', prompt(4, 900), 2);
    await clock.advance(100);
    expect(b.end()?.reason).toBe('length');
  });
});

describe('a fitted latency model', () => {
  // What was published: https://docs.nvidia.com/nim/benchmarking/llm/1.0.0/performance, 5,000 tokens in and 500 out.
  it.each([
    [1, 18.58],
    [5, 21.83],
    [25, 38.75],
    [50, 59.73],
  ])('with %i requests at a time needs %f ms a token', async (concurrency, published) => {
    const clock = new ManualClock(1);
    const metrics = createEngineMetrics();
    const engine = new Engine({
      clock,
      latency: latencyProfiles['llama-70b-2xh100'],
      metrics,
      numBlocks: 2 ** 16,
      blockSize: 16,
      hasPrefixCaching: false,
      maxSequences: 256,
      maxBatchedTokens: 2048,
    });
    const reply = {
      ids: new Array<number>(500).fill(7),
      deltas: new Array<string>(500).fill(' x'),
      finishReason: 'length' as const,
      stopReason: null,
      thoughtTokens: 0,
    };
    const firstTokensMs: number[] = [];
    const betweenMs: number[] = [];
    let left = concurrency * 3;
    const ask = () => {
      if (left-- <= 0) return;
      const arrivedAt = clock.now();
      let firstAt = 0;
      engine.submit({
        id: `${left}`,
        promptIds: new Array<number>(5000).fill(300),
        cacheRoot: left,
        reply,
        maxTokens: 500,
        plan: { kind: 'local' },
        onToken: (index) => {
          if (index === 0) firstAt = clock.now();
        },
        onFinish: () => {
          firstTokensMs.push(firstAt - arrivedAt);
          betweenMs.push((clock.now() - firstAt) / 499);
          ask();
        },
      });
    };
    // Clients do not begin together.
    for (let i = 0; i < concurrency; i++) {
      ask();
      await clock.advance((500 * published) / concurrency);
    }
    const isOver = engine.idle().then(() => true);
    while (!(await Promise.race([isOver, false]))) await clock.advance(1000);
    const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
    expect(mean(betweenMs) / published).toBeGreaterThan(0.85);
    expect(mean(betweenMs) / published).toBeLessThan(1.15);
    if (concurrency === 1) expect(Math.abs(mean(firstTokensMs) - 406.77)).toBeLessThan(40);
  });
});

describe('metrics', () => {
  it('writes a histogram that adds up', () => {
    const histogram = new Histogram([0.5, 1]);
    for (const value of [0.1, 0.5, 0.7, 9]) histogram.observe(value);
    expect(histogram.render('x', 'a="b"')).toBe(
      'x_bucket{a="b",le="0.5"} 2\nx_bucket{a="b",le="1.0"} 3\nx_bucket{a="b",le="+Inf"} 4\nx_count{a="b"} 4\nx_sum{a="b"} 10.3\n',
    );
  });
});

describe('arguments', () => {
  const parse = (line: string, env: Record<string, string> = {}): SimConfig => {
    const parsed = parseSimArgs(line === '' ? [] : line.split(' '), env);
    if (parsed.kind !== 'config') throw new Error(parsed.kind);
    return parsed.config;
  };
  const nixl = '{"kv_connector":"NixlConnector","kv_role":"kv_both"}';

  it.each<readonly [line: string, expected: Partial<SimConfig>]>([
    ['', { model: 'Qwen/Qwen3-0.6B', port: 8000, blockSize: 16, hasPrefixCaching: true, warnings: [] }],
    ['serve m', { model: 'm', servedNames: ['m'] }],
    ['m --port=9 --host ::1', { port: 9, host: '::1' }],
    ['--model m --served-model-name a b --port 1', { model: 'm', servedNames: ['a', 'b'], port: 1 }],
    ['serve --enforce-eager m', { model: 'm' }],
    ['serve m --trust-remote-code --max_model_len 8k', { maxModelLen: 8000 }],
    ['m --max-model-len 8K --sim-kv-blocks 4096', { maxModelLen: 8192, numBlocks: 4096 }],
    ['m --sim-kv-blocks 10', { maxModelLen: 160 }],
    ['m --max-model-len auto', { maxModelLen: 32_768 }],
    ['m --no-enable-prefix-caching', { hasPrefixCaching: false }],
    ['m -tp 2 -O3 --seed -4', { tensorParallelSize: 2, seed: -4 }],
    ['m --pod-address 127.1.2.3 --host 0.0.0.0', { host: '127.1.2.3' }],
    ['m --shutdown-timeout 3', { drainMs: 3000 }],
    [
      'm --sim-latency llama-70b-2xh100 --sim-output-token-us 1',
      { latency: { ...latencyProfiles['llama-70b-2xh100'], outputTokenUs: 1 } },
    ],
    ['m --kv-transfer-config {"kv_connector":"LMCacheConnectorV1"}', { transfer: undefined }],
    ['m --api-key a b', { apiKeys: ['a', 'b'] }],
  ])('reads %j', (line, expected) => {
    expect(parse(line)).toMatchObject(expected);
  });

  it('reads the connector and its environment', () => {
    const env = { VLLM_NIXL_SIDE_CHANNEL_HOST: '127.9.0.1', VLLM_NIXL_SIDE_CHANNEL_PORT: '5700' };
    expect(parse(`m --kv-transfer-config ${nixl}`, env).transfer).toEqual({
      engineId: '',
      onFailure: 'fail',
      leaseMs: 30_000,
      sideChannelHost: '127.9.0.1',
      sideChannelPort: 5700,
    });
    expect(parse(`m --kv-transfer-config ${nixl} --pod-address 127.4.4.4`).transfer?.sideChannelHost).toBe('127.4.4.4');
    expect(
      parse('m --kv-transfer-config.kv_connector NixlConnector --kv-transfer-config.kv_load_failure_policy recompute')
        .transfer,
    ).toMatchObject({ onFailure: 'recompute', sideChannelPort: 5600 });
    const multi = `{"kv_connector":"MultiConnector","kv_connector_extra_config":{"connectors":[{"kv_connector":"OffloadingConnector"},${nixl}]}}`;
    expect(parse(`m --kv-transfer-config ${multi}`).transfer).toBeDefined();
  });

  const events = (more: string) => `m --kv-events-config {"enable_kv_cache_events":true${more}}`;
  const published = {
    endpoint: 'tcp://*:5557',
    isBound: true,
    replayEndpoint: undefined,
    topic: '',
    bufferSteps: 10_000,
    highWaterMark: 100_000,
    maxQueued: 100_000,
  };
  it.each<readonly [line: string, expected: object | undefined]>([
    [events(''), published],
    [events(',"publisher":"null"'), undefined],
    ['m --kv-events-config {"publisher":"zmq"}', undefined],
    [
      'm --kv-events-config.enable_kv_cache_events true --kv-events-config.topic kv@a@m',
      { ...published, topic: 'kv@a@m' },
    ],
    [events(',"endpoint":"tcp://10.0.0.1:9"'), { ...published, endpoint: 'tcp://10.0.0.1:9', isBound: false }],
    [
      events(',"buffer_steps":5,"hwm":6,"max_queue_size":7'),
      { ...published, bufferSteps: 5, highWaterMark: 6, maxQueued: 7 },
    ],
    [
      `${events(',"replay_endpoint":"tcp://0.0.0.0:5558"')} --pod-address 127.4.4.4`,
      { ...published, endpoint: 'tcp://127.4.4.4:5557', replayEndpoint: 'tcp://127.4.4.4:5558' },
    ],
    [`${events('')} --pod-address ::1`, { ...published, endpoint: 'tcp://[::1]:5557' }],
  ])('reads where cache events go from %j', (line, expected) => {
    expect(parse(line).kvEvents).toEqual(expected);
  });

  it.each<readonly [line: string, expected: object]>([
    ['m', { mode: 'internal', ranks: [0] }],
    ['m -dp 3', { mode: 'internal', ranks: [0, 1, 2] }],
    ['m -dp 4 --data-parallel-rank 2', { mode: 'external', ranks: [2] }],
    ['m -dp 4 --data-parallel-external-lb -dpn 3', { mode: 'external', ranks: [3] }],
    ['m -dp 8 -dpl 2 --data-parallel-hybrid-lb', { mode: 'hybrid', ranks: [0, 1] }],
    ['m -dp 8 -dpl 2 -dpr 4', { mode: 'hybrid', ranks: [4, 5] }],
    ['m -dp 8 -dpl 2 -dpr 4 --headless', { mode: 'internal' }],
    ['m -dp 2 -dpm', { mode: 'multi-port', ranks: [0, 1], supervisorPort: 9256 }],
    [
      'm -dp 4 -dpl 2 -dpr 2 --data-parallel-multi-port-external-lb --data-parallel-supervisor-port 8100',
      { mode: 'multi-port', ranks: [2, 3], supervisorPort: 8100 },
    ],
  ])('reads the ranks of %j', (line, expected) => {
    expect(parse(line).dataParallel).toMatchObject(expected);
    expect(parse(line).warnings).toEqual([]);
  });

  it('takes its own settings from the environment, flags first', () => {
    const env = { SIGNALBOX_SIM_OUTPUT_TOKENS: '7', SIGNALBOX_SIM_KV_BLOCKS: '99', SIGNALBOX_POD_ADDRESS: '127.5.5.5' };
    expect(parse('m --sim-kv-blocks 98', env)).toMatchObject({ outputTokens: 7, numBlocks: 98, host: '127.5.5.5' });
  });

  it.each([
    'm --numa-bind --numa-bind-nodes 0 1 --gdn-prefill-backend triton --moe-backend auto --watermark 0.1',
    'm --no-enable-log-deltas --enable-per-request-metrics --dp-supervisor-probe-interval-s 1 --renderer-num-workers 2',
    'm --collect-detailed-traces model worker --cudagraph-capture-sizes 1 2 4 --reasoning-config {} --spec-tokens 3',
    'm --ssl-ca-certs /ca --ssl-cert-reqs 2 --ssl-ciphers TLSv1 --enable-ssl-refresh --disable-access-log-for-endpoints /health',
    'm --compilation-config.cudagraph_mode NONE --hf-overrides.a.b 1 -O3 --enable-chunked-prefill --swap-space 4',
  ])('knows what vLLM knows: %j', (line) => {
    expect(parse(line)).toMatchObject({ model: 'm', warnings: [] });
  });

  it('reads the file that --config names, what is written out first', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'signalbox-sim-'));
    const path = join(folder, 'vllm.yaml');
    const text =
      'model: n\nport: 7\nmax_num_seqs: 3\nenable-lora: true\nenable-prefix-caching: false\nserved-model-name: [a, b]\n' +
      'hf-token: null\nkv-transfer-config: {kv_connector: NixlConnector}\n';
    try {
      await writeFile(path, text);
      const config = async (...argv: string[]) => parse((await withConfigFile(argv)).join(' '));
      const fromFile = { maxSequences: 3, maxLoras: 1, hasPrefixCaching: false, servedNames: ['a', 'b'], warnings: [] };
      expect(await config('serve', '--config', path)).toMatchObject({ ...fromFile, model: 'n', port: 7 });
      expect(await config('serve', 'm', `--config=${path}`, '--port', '8')).toMatchObject({
        ...fromFile,
        model: 'm',
        port: 8,
        transfer: { onFailure: 'fail' },
      });
      expect(await withConfigFile(['m', '--port', '1'])).toEqual(['m', '--port', '1']);
      await writeFile(path, '- a');
      await expect(config('--config', path)).rejects.toThrow(/must be a map of arguments/);
      await expect(config('--config', `${path}.none`)).rejects.toThrow(/--config .*ENOENT/);
      await expect(config('--config')).rejects.toThrow(/--config needs a value/);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it('names unknown flags of vLLM in one warning and goes on', () => {
    const config = parse('serve m --new-flag --other=5 --third value --port 7');
    expect(config).toMatchObject({ model: 'm', port: 7 });
    expect(config.warnings).toEqual([expect.stringContaining('--new-flag --other --third')]);
  });

  it.each([
    ['m --port x', /--port: "x"/],
    ['m --port', /--port needs a value/],
    ['m --sim-prefil 3', /unknown flag --sim-prefil/],
    ['m --sim-kv-blocks 0', /--sim-kv-blocks: "0"/],
    ['m --sim-latency gpt', /--sim-latency: "gpt" is unknown; there are llama-70b-2xh100/],
    ['m n', /too many arguments: n/],
    ['bench serve', /only serve/],
    ['m --kv-transfer-config {', /--kv-transfer-config: .* is not JSON/],
    ['m --kv-transfer-config {}', /kv_connector is missing/],
    ['m -dp 2 --data-parallel-rank 2', /rank 2 is not among the 2 of --data-parallel-size/],
    ['m -dp 2 -dpm -dpn 1', /only one of/],
    ['m -dp 3 -dpl 2 -dpm', /at least 2 and divide/],
    ['m -dp 4 -dpm --port 9254', /--data-parallel-supervisor-port 9256 is among the ranks' ports, 9254 to 9257/],
    ['m --kv-events-config []', /--kv-events-config: .* must be a JSON object/],
    [events(',"endpoit":"tcp://*:1"'), /unknown field endpoit; there are/],
    [events(',"publisher":"kafka"'), /publisher "kafka" must be zmq or null/],
    [events(',"endpoint":"*:5557"'), /endpoint "\*:5557" must be an address of ZeroMQ/],
    [events(',"buffer_steps":0'), /buffer_steps must be/],
    ['m --max-model-len 1000 --sim-kv-blocks 4', /do not fit/],
    ['m --ssl-keyfile k', /must be given together/],
    ['m --port x --max-num-seqs 0', /--port.*--max-num-seqs/],
  ])('refuses %j', (line, message) => {
    expect(() => parse(line)).toThrow(message);
  });

  it('has a help page and a version', () => {
    expect(parseSimArgs(['--help'], {})).toMatchObject({
      kind: 'help',
      text: expect.stringContaining('--sim-output-token-us'),
    });
    expect(parseSimArgs(['--version'], {})).toMatchObject({
      kind: 'version',
      text: expect.stringMatching(/^\d+\.\d+\.\d+$/),
    });
  });
});
