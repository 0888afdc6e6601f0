import { afterEach, describe, expect, it } from '@jest/globals';
import { encode } from '@msgpack/msgpack';
import { Publisher, Router } from 'zeromq';
import { eventually } from '../../../../test/expect/eventually.ts';
import { systemClock } from '../../../clock.ts';
import { parseCompletion, promptText } from '../../../openai/request.ts';
import { Cycle } from '../../framework/cycle-state.ts';
import type { Endpoint } from '../../framework/endpoint.ts';
import { Scheduler } from '../../framework/scheduler.ts';
import { buildScheduler, parsePickerConfig } from '../../picker-config.ts';
import { pluginFactories } from '../register.ts';
import { BlockIndex } from './block-index.ts';
import { type BlocksStored, type KvEvent, parseKvEventBatch } from './kv-event.ts';

const tokens = (count: number, from = 0): number[] => Array.from({ length: count }, (_, i) => from + i);

describe('a batch of cache events', () => {
  const stored: BlocksStored = {
    kind: 'stored',
    hashes: [11, 12],
    parent: undefined,
    tokens: Uint32Array.from([1, 2, 3, 4]),
    blockSize: 2,
    medium: undefined,
    adapter: undefined,
    extras: [undefined, undefined],
  };
  const bytes32 = Buffer.alloc(32, 0xff);
  bytes32.writeBigUInt64BE(0x0102030405060708n, 24);
  const table: readonly [name: string, event: unknown, expected: Partial<BlocksStored> | KvEvent | undefined][] = [
    ['a list of the first engines', ['BlockStored', [11, 12], null, [1, 2, 3, 4], 2, null], stored],
    [
      'a list of later ones',
      ['BlockStored', [11, 12], 10, [1, 2, 3, 4], 2, 7, 'GPU', 'sql', [['sql'], ['sql', 'image-1']], 0, 'full', null],
      { ...stored, parent: 10, medium: 'gpu', adapter: 'sql', extras: [undefined, 'image-1'] },
    ],
    [
      'a map',
      { type: 'BlockStored', block_hashes: [11, 12], parent_block_hash: null, token_ids: [1, 2, 3, 4], block_size: 2 },
      stored,
    ],
    [
      'an adapter by number',
      ['BlockStored', [1], null, [1, 2], 2, 7],
      { ...stored, hashes: [1], tokens: Uint32Array.from([1, 2]), adapter: 'lora-7', extras: [undefined] },
    ],
    [
      'hashes of 64 bits, negative ones and bytes',
      ['BlockRemoved', [(1n << 63n) + 5n, -1n, bytes32], 'CPU'],
      { kind: 'removed', hashes: [5, 2 ** 53 - 1, Number(0x0102030405060708n & ((1n << 53n) - 1n))], medium: 'cpu' },
    ],
    ['all cleared', ['AllBlocksCleared'], { kind: 'cleared' }],
    ['a further cache group', ['BlockRemoved', [1], 'GPU', 1], undefined],
    ['a type of tomorrow', ['BlockMoved', 1], undefined],
  ];
  it.each(table)('reads %s', (_name, event, expected) => {
    const batch = parseKvEventBatch(encode([1.5, [event], 3], { useBigInt64: true }));
    expect(batch).toEqual({ atS: 1.5, rank: 3, events: expected === undefined ? [] : [expected] });
  });

  it.each([
    ['no list', { a: 1 }],
    ['no events', [1.5]],
    ['an event that is a number', [1.5, [7]]],
    ['a hash of text', [1.5, [['BlockRemoved', ['x']]]]],
    ['no tokens', [1.5, [['BlockStored', [1], null]]]],
    ['a block size of nothing', [1.5, [['BlockStored', [1], null, [1], 0]]]],
  ])('refuses %s', (_name, batch) => {
    expect(() => parseKvEventBatch(encode(batch))).toThrow();
    expect(() => parseKvEventBatch(Buffer.from([0xc1, 0x00]))).toThrow();
  });
});

describe('the index', () => {
  const tiers = [
    { name: 'gpu', weight: 1 },
    { name: 'cpu', weight: 0.8 },
  ];
  const make = (maxBlocks = 1000) => new BlockIndex({ maxBlocks, tiers, seed: '' });
  const store = (
    hashes: readonly number[],
    ids: readonly number[],
    rest: Partial<BlocksStored> = {},
  ): BlocksStored => ({
    kind: 'stored',
    hashes,
    parent: undefined,
    tokens: Uint32Array.from(ids),
    blockSize: 4,
    medium: 'gpu',
    adapter: undefined,
    extras: [],
    ...rest,
  });
  const prompt = Uint32Array.from(tokens(16));
  const matched = (index: BlockIndex, id = 'a', ids = prompt, models = ['m', ''], salt?: string) =>
    index.match(models, ids, salt, 100)?.tokensOf(id) ?? 0;

  const table: readonly [name: string, events: readonly KvEvent[], expected: number][] = [
    ['nothing', [], 0],
    ['all four blocks', [store([1, 2, 3, 4], tokens(16))], 16],
    ['a chain in two events', [store([1, 2], tokens(8)), store([3], tokens(4, 8), { parent: 2 })], 12],
    ['a chain whose start is not known', [store([3], tokens(4, 8), { parent: 2 })], 0],
    ['another start', [store([1], tokens(4, 1))], 0],
    ['a block gone in the middle', [store([1, 2, 3], tokens(12)), { kind: 'removed', hashes: [2], medium: 'gpu' }], 4],
    [
      'one of two copies gone',
      [store([1], tokens(4)), store([1], tokens(4)), { kind: 'removed', hashes: [1], medium: 'gpu' }],
      4,
    ],
    [
      'moved to the CPU',
      [
        store([1], tokens(4)),
        store([1], tokens(4), { medium: 'cpu' }),
        { kind: 'removed', hashes: [1], medium: 'gpu' },
      ],
      3.2,
    ],
    ['a tier without a name of ours', [store([1], tokens(4), { medium: 'disk' })], 3.2],
    ['all cleared', [store([1, 2], tokens(8)), { kind: 'cleared' }], 0],
    ['an adapter', [store([1], tokens(4), { adapter: 'sql' })], 0],
    ['an image', [store([1], tokens(4), { extras: ['image'] })], 0],
    ['half a block', [store([1, 2], tokens(6))], 4],
  ];
  it.each(table)('after %s', (_name, events, expected) => {
    const index = make();
    for (const event of events) index.apply('a', event, 'm');
    expect(matched(index)).toBeCloseTo(expected, 9);
  });

  it('tells adapters, models without a name, salts and block sizes apart', () => {
    const index = make();
    index.apply('a', store([1], tokens(4), { adapter: 'sql' }), 'm');
    index.apply('b', store([1], tokens(4)), '');
    index.apply('c', store([1], tokens(4), { extras: ['secret'] }), 'm');
    index.apply('d', store([1, 2], tokens(16), { blockSize: 8 }), 'm');
    expect(matched(index, 'a', prompt, ['sql', ''])).toBe(4);
    expect(matched(index, 'b', prompt, [''])).toBe(4);
    expect(matched(index, 'c', prompt, ['m'], 'secret')).toBe(4);
    expect(matched(index, 'd', prompt, ['m'])).toBe(16);
  });

  it('stays within its bound, forgets endpoints whole, and uses their place again', () => {
    const index = make(100);
    for (let i = 0; i < 1000; i++) index.apply(`e${i % 7}`, store([i], tokens(4, i)), 'm');
    expect(index.size).toBe(100);
    for (let i = 0; i < 7; i++) index.forget(`e${i}`);
    expect(index.size).toBe(0);
    index.apply('new', store([1], tokens(4)), 'm');
    expect(matched(index, 'new')).toBe(4);
    expect(matched(index, 'e1')).toBe(0);
  });

  it('expects what was sent until it is told or the time is over', () => {
    const index = make();
    index.apply('other', store([9], tokens(4, 90)), 'm');
    index.expect('a', 'm', prompt, undefined, 100, 1000);
    expect(matched(index)).toBe(16);
    index.apply('a', store([1, 2], tokens(8)), 'm');
    index.expire(1000);
    expect(matched(index)).toBe(8);
  });

  it('counts blocks that it cannot place', () => {
    const index = make();
    index.apply('a', store([3, 4], tokens(8), { parent: 2 }), 'm');
    expect(index.orphans).toBe(2);
  });
});

describe('a picker that follows engines', () => {
  const closers: (() => unknown)[] = [];
  afterEach(async () => {
    for (const close of closers.splice(0).reverse()) await close();
  });

  const endpoint = (address: string, i: number): Endpoint => ({
    id: `default/pod-${i}-rank-0`,
    name: `pod-${i}`,
    namespace: 'default',
    address,
    port: 8000,
    hostPort: `${address}:8000`,
    labels: {},
    isReady: true,
    load: {
      isKnown: true,
      waiting: 0,
      running: 0,
      kvUsage: 0,
      inFlight: 0,
      inFlightTokens: 0,
      requestsPerSecond: 0,
      adapters: undefined,
      isAvoided: false,
      readAtMs: 0,
      custom: undefined,
    },
  });

  /** An engine's publisher as vLLM has it, with its replay socket. */
  async function engine(address: string, port?: number) {
    const publisher = new Publisher({ linger: 0 });
    await publisher.bind(`tcp://${address}:${port ?? '*'}`);
    const router = new Router({ linger: 0 });
    await router.bind(`tcp://${address}:*`);
    const kept: (readonly [Buffer, Uint8Array])[] = [];
    const close = () => {
      publisher.close();
      router.close();
    };
    closers.push(close);
    let asked = 0;
    void (async () => {
      for await (const [id = Buffer.alloc(0), , from = Buffer.alloc(8)] of router) {
        asked++;
        for (const [seq, payload] of kept) {
          if (seq.readBigUInt64BE() >= from.readBigUInt64BE()) await router.send([id, '', seq, payload]);
        }
        await router.send([id, '', Buffer.alloc(8, 0xff), '']);
      }
    })();
    let next = 0;
    const portOf = (socket: { readonly lastEndpoint: string | null }) => Number(socket.lastEndpoint?.split(':').pop());
    return {
      port: portOf(publisher),
      replayPort: portOf(router),
      asked: () => asked,
      close,
      restart: () => {
        next = 0;
        kept.length = 0;
      },
      /** @param isLost it reaches nobody, and can only be asked for */
      tell: async (events: readonly unknown[], isLost = false) => {
        const seq = Buffer.alloc(8);
        seq.writeBigUInt64BE(BigInt(next++));
        const payload = encode([Date.now() / 1000, events]);
        kept.push([seq, payload]);
        if (!isLost) await publisher.send([`kv@${address}@llama`, seq, payload]);
      },
    };
  }

  async function picker(kvEvents: string, endpoints: readonly Endpoint[]) {
    let current = endpoints;
    const listeners = new Set<() => void>();
    const reports: string[] = [];
    const config = parsePickerConfig(
      `
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: precise-prefix-cache-producer
  parameters: {kvEventsConfig: ${kvEvents}}
- {type: token-producer}
- {type: prefix-cache-scorer}
schedulingProfiles: [{name: default, plugins: [{pluginRef: prefix-cache-scorer}]}]
`,
      'test',
    );
    const built = buildScheduler(config, {
      factories: pluginFactories,
      clock: systemClock,
      random: () => 0,
      report: (_plugin, _reason, message) => reports.push(message),
      pool: {
        current: () => current,
        subscribe: (listener) => {
          listeners.add(listener);
          return () => listeners.delete(listener);
        },
      },
    });
    await Promise.all(built.plugins.map((plugin) => plugin.ready?.()));
    closers.push(() => Promise.all(built.plugins.map((plugin) => plugin.close?.())));
    const scheduler = new Scheduler(built.parts);
    return {
      reports,
      state: () => built.plugins.find(({ type }) => type.startsWith('precise'))?.state?.() ?? {},
      setPool: (now: readonly Endpoint[]) => {
        current = now;
        for (const listener of listeners) listener();
      },
      scores: async (ids: readonly number[]) => {
        const completion = parseCompletion('completions', Buffer.from(JSON.stringify({ model: 'llama', prompt: ids })));
        const cycle = new Cycle(
          {
            id: 'r',
            model: 'llama',
            sessionId: undefined,
            completion,
            header: () => undefined,
            promptText: () => promptText(completion),
          },
          current,
        );
        await scheduler.prepare(cycle);
        const decision = scheduler.schedule(cycle, current, new Map());
        const report = decision.why()[0]?.candidates ?? [];
        return report.map(({ total }) => Math.round((total ?? 0) * 100) / 100);
      },
    };
  }

  it('knows what was stored before and after its start, asks for what it missed, notices restarts and departures', async () => {
    const first = await engine('127.0.0.1');
    await first.tell([['BlockStored', [1], null, tokens(4), 4, null]]);
    const events = `{podDiscoveryConfig: {socketPort: ${first.port}, replaySocketPort: ${first.replayPort}}}`;
    const pods = [endpoint('127.0.0.1', 0), endpoint('127.0.0.2', 1)];
    const { scores, setPool, state } = await picker(events, pods);
    const told = tokens(16);
    await eventually(async () => expect(await scores(told)).toEqual([0.25, 0]));

    // The subscription is there when the first live event comes through; what went before it is asked for.
    await first.tell([['BlockStored', [2], 1, tokens(4, 4), 4, null]], true);
    await first.tell([['BlockStored', [3], 2, tokens(4, 8), 4, null]], true);
    let filler = 1000;
    await eventually(async () => {
      await first.tell([['BlockStored', [filler], null, [filler++, 1, 1, 1], 4, null]]);
      expect(await scores(told)).toEqual([0.75, 0]);
    });
    expect(first.asked()).toBeGreaterThanOrEqual(2);
    expect(state()).toMatchObject({ orphans: 0, lost: 0, malformed: 0, restarts: 0 });

    await first.tell([{ type: 'BlockRemoved', block_hashes: [2], medium: null }]);
    await eventually(async () => expect(await scores(told)).toEqual([0.25, 0]));

    first.restart();
    await first.tell([['BlockStored', [50], null, tokens(4, 50), 4, null]]);
    await eventually(async () => expect(await scores(told)).toEqual([0, 0]));
    expect(await scores(tokens(4, 50))).toEqual([1, 0]);
    expect(state()).toMatchObject({ restarts: 1 });

    setPool(pods.slice(1));
    expect(state()).toMatchObject({ blocks: 0 });
  });

  it('follows one address that all engines send to', async () => {
    const publisher = new Publisher({ linger: 0 });
    const probe = new Publisher({ linger: 0 });
    await probe.bind('tcp://127.0.0.1:*');
    const address = probe.lastEndpoint ?? '';
    probe.close();
    const pods = [endpoint('10.0.0.1', 0), endpoint('10.0.0.2', 1)];
    const { scores, state } = await picker(
      `{zmqEndpoint: "${address.replace('127.0.0.1', '*')}", discoverPods: false}`,
      pods,
    );
    publisher.connect(address);
    closers.push(() => publisher.close());
    let seq = 0n;
    const tell = async (topic: string, payload: Uint8Array) => {
      const frame = Buffer.alloc(8);
      frame.writeBigUInt64BE(seq++);
      await publisher.send([topic, frame, payload]);
    };
    const batch = () => encode([Date.now() / 1000, [['BlockStored', [1, 2], null, tokens(8), 4, null]]]);
    await eventually(async () => {
      await tell('kv@10.0.0.2:8000@llama', batch());
      expect(await scores(tokens(8))).toEqual([0, 1]);
    });
    await tell('kv@10.0.0.9@llama', batch());
    await tell('kv@pod-0@llama', Buffer.from('rubbish'));
    await tell('kv@default/pod-0@llama', batch());
    await eventually(async () => expect(await scores(tokens(8))).toEqual([1, 1]));
    expect(state()).toMatchObject({ malformed: 1 });
  });
});
