import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { systemClock } from '../../src/clock.ts';
import { Cycle } from '../../src/epp/framework/cycle-state.ts';
import type { Endpoint } from '../../src/epp/framework/endpoint.ts';
import { Scheduler } from '../../src/epp/framework/scheduler.ts';
import { buildScheduler, parsePickerConfig } from '../../src/epp/picker-config.ts';
import { pluginFactories } from '../../src/epp/plugins/register.ts';
import { parseCompletion, promptText } from '../../src/openai/request.ts';
import { eventually } from '../expect/eventually.ts';

/** The picker's precise prefix index, told by engines that are processes of their own, over ZeroMQ. */

const root = join(import.meta.dirname, '..', '..');
/** The last one has two data-parallel ranks, on a port each. */
const addresses = ['127.0.0.1', '127.0.0.2', '127.0.0.3'] as const;
const waitMs = 30_000;

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

const endpoint = (i: number, address: string, port: number, rank = 0): Endpoint => ({
  id: `default/pod-${i}-rank-${rank}`,
  name: `pod-${i}`,
  namespace: 'default',
  address,
  port,
  hostPort: `${address}:${port}`,
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

const user = (content: string) => ({ role: 'user', content });
type Message = { readonly role: string; readonly content: string };
interface Chat {
  readonly model?: string;
  readonly cache_salt?: string;
  readonly max_tokens?: number;
  readonly messages: readonly Message[];
}

describe('a picker and engines that tell what they cache', () => {
  const children: ChildProcess[] = [];
  const closers: (() => unknown)[] = [];
  let port: number;
  let eventPort: number;
  let replayPort: number;

  beforeAll(async () => {
    [port, eventPort, replayPort] = await Promise.all([freePort(), freePort(), freePort()]);
    for (const [i, address] of addresses.entries()) {
      const events = {
        enable_kv_cache_events: true,
        publisher: 'zmq',
        endpoint: `tcp://*:${eventPort}`,
        replay_endpoint: `tcp://*:${replayPort}`,
        topic: `kv@${address}@m`,
      };
      const args = ['serve', 'm', '--port', String(port), '--kv-events-config', JSON.stringify(events)];
      args.push('--block-size', '4', '--num-gpu-blocks-override', '128', '--sim-output-token-us', '0');
      args.push('--sim-prefill-us-per-token', '0', '--enable-lora', '--lora-modules', 'poet=/adapters/poet');
      if (i === 2)
        args.push(
          '--data-parallel-size',
          '2',
          '--data-parallel-multi-port-external-lb',
          '--data-parallel-supervisor-port',
          '0',
        );
      const child = spawn(join(root, 'node_modules/.bin/node'), [join(root, 'src/cmd/sim.ts'), ...args], {
        env: { ...process.env, SIGNALBOX_POD_ADDRESS: address, VLLM_SERVER_DEV_MODE: '1' },
        stdio: 'ignore',
      });
      children.push(child);
    }
    await Promise.all(
      addresses.map((address) =>
        eventually(async () => expect((await fetch(`http://${address}:${port}/health`)).status).toBe(200), waitMs),
      ),
    );
  }, 60_000);
  afterEach(async () => {
    for (const close of closers.splice(0).reverse()) await close();
  });
  afterAll(async () => {
    await Promise.all(
      children.map(async (child) => {
        if (child.exitCode !== null || child.signalCode !== null) return;
        const exited = once(child, 'exit');
        child.kill('SIGTERM');
        await exited;
      }),
    );
  });

  async function picker(endpoints = addresses.slice(0, 2).map((address, i) => endpoint(i, address, port))) {
    const reports: string[] = [];
    const built = buildScheduler(
      parsePickerConfig(
        `
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: token-producer, parameters: {vllm: {fromPool: true, timeout: 10s}}}
- type: precise-prefix-cache-producer
  parameters: {kvEventsConfig: {podDiscoveryConfig: {socketPort: ${eventPort}, replaySocketPort: ${replayPort}}}}
- {type: prefix-cache-scorer}
schedulingProfiles: [{name: default, plugins: [{pluginRef: prefix-cache-scorer}]}]
`,
        'test',
      ),
      {
        factories: pluginFactories,
        clock: systemClock,
        random: () => 0,
        report: (_plugin, _reason, message) => reports.push(message),
        pool: { current: () => endpoints, subscribe: () => () => {} },
      },
    );
    await Promise.all(built.plugins.map((plugin) => plugin.ready?.()));
    closers.push(() => Promise.all(built.plugins.map((plugin) => plugin.close?.())));
    const scheduler = new Scheduler(built.parts);
    return {
      reports,
      state: () => built.plugins.find(({ type }) => type.startsWith('precise'))?.state?.() ?? {},
      /** Of each pod, the share of the prompt that it holds. */
      shares: async (chat: Chat): Promise<readonly number[]> => {
        const completion = parseCompletion('chat', Buffer.from(JSON.stringify({ model: 'm', ...chat })));
        const cycle = new Cycle(
          {
            id: 'r',
            model: completion.model,
            sessionId: undefined,
            completion,
            header: () => undefined,
            promptText: () => promptText(completion),
          },
          endpoints,
        );
        await scheduler.prepare(cycle);
        const decision = scheduler.schedule(cycle, endpoints, new Map());
        return (decision.why()[0]?.candidates ?? []).map(({ total }) => total ?? 0);
      },
    };
  }

  /** Has a pod answer, and returns the messages with the answer. */
  async function turn(pod: 0 | 1 | 2, chat: Chat, rank = 0): Promise<readonly Message[]> {
    const response = await fetch(`http://${addresses[pod]}:${port + rank}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'm', ...chat }),
    });
    expect(response.status).toBe(200);
    const { choices } = (await response.json()) as { choices: { message: Message }[] };
    const [choice] = choices;
    if (!choice) throw new Error('no answer');
    return [...chat.messages, { role: 'assistant', content: choice.message.content }];
  }

  let pokes = 0;
  /** A block of something else, and the chat once more: a subscription may have come after what was told of it before. */
  async function poke(pod: 0 | 1, chat: Chat): Promise<void> {
    await turn(pod, { messages: [user(`${pokes++}`)], max_tokens: 1 });
    await turn(pod, chat);
  }

  it('score the pod that has a conversation, until its blocks are taken or the cache is reset', async () => {
    const { shares, state, reports } = await picker();
    const first = { messages: [user('What is a kernel, and what does it do all day long?')] };
    expect(await shares(first)).toEqual([0, 0]);
    const second = { messages: [...(await turn(0, first)), user('And a shell?')] };
    // All but what was asked last, and the block that was not full.
    await eventually(async () => {
      await poke(0, first);
      const [here = 0, there] = await shares(second);
      expect(here).toBeGreaterThan(0.7);
      expect(there).toBe(0);
    }, waitMs);

    // Other prompts take the room of all 128 blocks.
    for (let i = 0; i < 8; i++) await turn(0, { messages: [user(`${i} ${`${i}${i} other words `.repeat(12)}`)] });
    await eventually(async () => expect(await shares(second)).toEqual([0, 0]), waitMs);

    await turn(1, first);
    await eventually(async () => {
      await poke(1, first);
      const [here, there = 0] = await shares(second);
      expect(here).toBe(0);
      expect(there).toBeGreaterThan(0.7);
    }, waitMs);
    await fetch(`http://${addresses[1]}:${port}/reset_prefix_cache`, { method: 'POST' });
    await eventually(async () => expect(await shares(second)).toEqual([0, 0]), waitMs);
    expect(state()).toMatchObject({ orphans: 0, lost: 0, malformed: 0, restarts: 0 });
    expect(reports).toEqual([]);
  }, 90_000);

  it('tell ranks of one pod apart', async () => {
    const chat = { messages: [user('Which of the two of you has heard this before, and which has not?')] };
    await turn(2, chat, 1);
    const { shares } = await picker([endpoint(2, addresses[2], port), endpoint(2, addresses[2], port + 1, 1)]);
    await eventually(async () => {
      const [first, second = 0] = await shares(chat);
      expect(first).toBe(0);
      expect(second).toBeGreaterThan(0.7);
    }, waitMs);
  }, 90_000);

  it('keep adapters and salts apart, and tell a picker that comes later what it missed', async () => {
    const messages = [user('Tell me, is the moon larger than the sea, or only farther away?')];
    await turn(0, { model: 'poet', messages });
    await turn(1, { cache_salt: 'tenant-1', messages });
    const { shares, state } = await picker();
    await eventually(async () => expect((await shares({ model: 'poet', messages }))[0]).toBeGreaterThan(0.7), waitMs);
    await eventually(
      async () => expect((await shares({ cache_salt: 'tenant-1', messages }))[1]).toBeGreaterThan(0.7),
      waitMs,
    );
    expect((await shares({ model: 'poet', messages }))[1]).toBe(0);
    expect((await shares({ cache_salt: 'tenant-1', messages }))[0]).toBe(0);
    expect(await shares({ messages })).toEqual([0, 0]);
    expect(await shares({ cache_salt: 'tenant-2', messages })).toEqual([0, 0]);
    expect(state()).toMatchObject({ malformed: 0, restarts: 0 });
  }, 90_000);
});
