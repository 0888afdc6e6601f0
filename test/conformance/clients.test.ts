import Anthropic from '@anthropic-ai/sdk';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import OpenAI from 'openai';
import { parseSidecarConfig } from '../../src/sidecar/config.ts';
import { type Sidecar, startSidecar } from '../../src/sidecar/start.ts';
import { parseSimArgs } from '../../src/sim/config.ts';
import { type Sim, startSim } from '../../src/sim/start.ts';
import { silentLogger } from '../../src/telemetry/log.ts';

const args =
  'serve base --pod-address 127.0.0.1 --port 0 --sim-prefill-us-per-token 0 --sim-output-token-us 0 ' +
  '--sim-transfer-us-per-token 0 --sim-drain-ms 100 --enable-prompt-tokens-details --enable-auto-tool-choice ' +
  '--tool-call-parser hermes --enable-lora --lora-modules poet=/adapters/poet ' +
  '--kv-transfer-config={"kv_connector":"NixlConnector","kv_role":"kv_both"}';

async function sim(more = ''): Promise<Sim> {
  const parsed = parseSimArgs(`${args} ${more}`.trim().split(' '), {
    VLLM_NIXL_SIDE_CHANNEL_PORT: '0',
    VLLM_ENABLE_RESPONSES_API_STORE: '1',
  });
  if (parsed.kind !== 'config') throw new Error(parsed.kind);
  return startSim(parsed.config, { log: silentLogger });
}

const weather = {
  type: 'object',
  properties: { city: { type: 'string' }, unit: { type: 'string', enum: ['celsius', 'fahrenheit'] } },
  required: ['city', 'unit'],
} as const;
const long = 'Tell me about the many kinds of kernels and shells. '.repeat(12);

describe.each(['straight', 'through the sidecar'] as const)('the official clients, %s', (way) => {
  let decode: Sim;
  let prefill: Sim;
  let sidecar: Sidecar | undefined;
  let openai: OpenAI;
  let anthropic: Anthropic;
  beforeAll(async () => {
    [decode, prefill] = await Promise.all([sim(), sim()]);
    let url = `http://127.0.0.1:${decode.address.port}`;
    if (way === 'through the sidecar') {
      const parsed = parseSidecarConfig(
        [
          '--port=0',
          '--metrics-port=0',
          '--pod-address=127.0.0.1',
          `--decoder-port=${decode.address.port}`,
          `--prefill-url=http://127.0.0.1:${prefill.address.port}`,
        ],
        {},
      );
      if (parsed.kind !== 'config') throw new Error(parsed.kind);
      sidecar = await startSidecar(parsed.config, { log: silentLogger });
      url = sidecar.url;
    }
    openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });
    anthropic = new Anthropic({ baseURL: url, apiKey: 'none', maxRetries: 0 });
  });
  afterAll(async () => {
    await sidecar?.close(0);
    await Promise.all([decode.close(), prefill.close()]);
  });
  /** Prompts that were computed on the prefill server; 0 where there is no sidecar to send them there. */
  const remote = () => prefill.engine.stats.served.prefillOnly;
  const failed = () => decode.engine.stats.failed + decode.engine.stats.recomputed;

  it('hold a chat, whole and streamed', async () => {
    const before = remote();
    const messages = [{ role: 'user' as const, content: `${way}: ${long}` }];
    const whole = await openai.chat.completions.create({ model: 'base', messages });
    expect(whole.choices[0]).toMatchObject({ finish_reason: 'stop', message: { role: 'assistant' } });
    const text = whole.choices[0]?.message.content ?? '';
    expect(text.length).toBeGreaterThan(20);
    const streamed = openai.chat.completions.stream({
      model: 'base',
      messages: [...messages, { role: 'assistant', content: text }, { role: 'user', content: 'And then?' }],
      stream_options: { include_usage: true },
    });
    const final = await streamed.finalChatCompletion();
    expect(final.choices[0]?.message.content).toBeTruthy();
    // The second turn finds the first one where it was decoded.
    expect(final.usage?.prompt_tokens_details?.cached_tokens).toBeGreaterThanOrEqual(96);
    expect(remote() - before).toBe(sidecar ? 1 : 0);
    expect(failed()).toBe(0);
  });

  it('ask for several choices, stops and probabilities', async () => {
    const messages = [{ role: 'user' as const, content: 'What is a kernel?' }];
    const several = await openai.chat.completions.create({
      model: 'base',
      messages,
      n: 3,
      logprobs: true,
      top_logprobs: 2,
      max_tokens: 12,
    });
    const texts = several.choices.map(({ message }) => message.content);
    expect(new Set(texts).size).toBeGreaterThan(1);
    expect(several.choices.map(({ index, finish_reason }) => [index, finish_reason])).toEqual([
      [0, 'length'],
      [1, 'length'],
      [2, 'length'],
    ]);
    expect(several.usage?.completion_tokens).toBe(36);
    const shown = several.choices[0]?.logprobs?.content ?? [];
    expect(shown.map(({ token }) => token).join('')).toBe(texts[0]);
    expect(shown.every(({ top_logprobs, logprob }) => top_logprobs.length === 2 && logprob <= 0)).toBe(true);

    const pieces = ['', '', ''];
    const stream = await openai.chat.completions.create({
      model: 'base',
      messages,
      n: 3,
      max_tokens: 12,
      stream: true,
    });
    for await (const { choices } of stream) {
      for (const { index, delta } of choices) pieces[index] += delta.content ?? '';
    }
    expect(pieces).toEqual(texts);

    const text = await openai.completions.create({
      model: 'base',
      prompt: 'Once upon a time',
      logprobs: 1,
      max_tokens: 5,
    });
    expect(text.choices[0]?.logprobs?.tokens?.join('')).toBe(text.choices[0]?.text);
    const word = text.choices[0]?.text.trim().split(' ')[1] ?? '';
    const stopped = await openai.completions.create({
      model: 'base',
      prompt: 'Once upon a time',
      stop: [word],
      max_tokens: 5,
    });
    expect(stopped.choices[0]).toMatchObject({ finish_reason: 'stop' });
    expect(stopped.choices[0]?.text).not.toContain(word);
  });

  it('call functions and go on with their results', async () => {
    const tools = [{ type: 'function' as const, function: { name: 'get_weather', parameters: weather } }];
    const messages = [{ role: 'user' as const, content: 'What is the weather in Paris in fahrenheit?' }];
    const asked = await openai.chat.completions.create({ model: 'base', messages, tools });
    const [call] = asked.choices[0]?.message.tool_calls ?? [];
    expect(asked.choices[0]?.finish_reason).toBe('tool_calls');
    if (call?.type !== 'function') throw new Error('no call');
    expect(call.function.name).toBe('get_weather');
    expect(JSON.parse(call.function.arguments)).toMatchObject({ unit: 'fahrenheit' });
    const streamed = await openai.chat.completions.stream({ model: 'base', messages, tools }).finalChatCompletion();
    expect(streamed.choices[0]?.message.tool_calls).toMatchObject([
      { id: call.id, function: { name: 'get_weather', arguments: call.function.arguments } },
    ]);
    const answered = await openai.chat.completions.create({
      model: 'base',
      tools,
      messages: [
        ...messages,
        { role: 'assistant', content: null, tool_calls: [call] },
        { role: 'tool', tool_call_id: call.id, content: '{"degrees":61}' },
      ],
    });
    expect(answered.choices[0]).toMatchObject({ finish_reason: 'stop', message: { tool_calls: [] } });
    const named = { type: 'function' as const, function: { name: 'get_weather' } };
    const forced = await openai.chat.completions.create({
      model: 'base',
      tools,
      tool_choice: named,
      messages: [{ role: 'user', content: 'Hello' }],
    });
    expect(forced.choices[0]?.message.tool_calls).toHaveLength(1);
  });

  it('use the Responses API', async () => {
    const before = remote();
    const first = await openai.responses.create({ model: 'base', instructions: 'Be brief.', input: `${way} ${long}` });
    expect(first).toMatchObject({ object: 'response', status: 'completed', output: [{ type: 'message' }] });
    expect(first.output_text.length).toBeGreaterThan(20);
    expect(remote() - before).toBe(sidecar ? 1 : 0);

    const types: string[] = [];
    const stream = openai.responses.stream({ model: 'base', input: 'Count to three, please.' });
    let deltas = '';
    for await (const event of stream) {
      types.push(event.type);
      if (event.type === 'response.output_text.delta') deltas += event.delta;
    }
    const final = await stream.finalResponse();
    expect(final.output_text).toBe(deltas);
    expect(types.slice(0, 4)).toEqual([
      'response.created',
      'response.in_progress',
      'response.output_item.added',
      'response.content_part.added',
    ]);
    expect(types.slice(-4)).toEqual([
      'response.output_text.done',
      'response.content_part.done',
      'response.output_item.done',
      'response.completed',
    ]);

    const prefills = remote();
    const next = await openai.responses.create({ model: 'base', previous_response_id: first.id, input: 'And?' });
    // It goes on from what only the decode server has, whose cache holds the prompt and the answer.
    expect(next.usage?.input_tokens ?? 0).toBeGreaterThan(first.usage?.input_tokens ?? 0);
    expect(remote()).toBe(prefills);
    await expect(
      openai.responses.create({ model: 'base', previous_response_id: 'resp_none', input: 'x' }),
    ).rejects.toMatchObject({ status: 404 });

    const tools = [{ type: 'function' as const, name: 'get_weather', parameters: weather, strict: false }];
    const called = await openai.responses.create({ model: 'base', tools, input: 'The weather in Rome in celsius?' });
    expect(called.output).toMatchObject([{ type: 'function_call', name: 'get_weather' }]);
    const short = await openai.responses.create({ model: 'base', input: 'Go on', max_output_tokens: 3 });
    expect(short).toMatchObject({ status: 'incomplete', incomplete_details: { reason: 'max_output_tokens' } });
  });

  it('use the Messages API', async () => {
    const before = remote();
    const messages = [{ role: 'user' as const, content: `${way} says: ${long}` }];
    const whole = await anthropic.messages.create({ model: 'base', max_tokens: 100, system: 'Be brief.', messages });
    expect(whole).toMatchObject({
      type: 'message',
      role: 'assistant',
      stop_reason: 'end_turn',
      content: [{ type: 'text' }],
    });
    const [block] = whole.content;
    const text = block?.type === 'text' ? block.text : '';
    const second = anthropic.messages.stream({
      model: 'base',
      max_tokens: 100,
      system: 'Be brief.',
      messages: [...messages, { role: 'assistant', content: text }, { role: 'user', content: 'And then?' }],
    });
    let seen = '';
    second.on('text', (delta) => {
      seen += delta;
    });
    const final = await second.finalMessage();
    expect(final.content).toMatchObject([{ type: 'text', text: seen }]);
    expect(final.usage.cache_read_input_tokens).toBeGreaterThanOrEqual(96);
    expect(remote() - before).toBe(sidecar ? 1 : 0);
    expect(failed()).toBe(0);

    const short = await anthropic.messages.create({ model: 'base', max_tokens: 2, messages });
    expect(short).toMatchObject({ stop_reason: 'max_tokens', usage: { output_tokens: 2 } });
    const counted = await anthropic.messages.countTokens({ model: 'base', system: 'Be brief.', messages });
    expect(counted.input_tokens).toBe(whole.usage.input_tokens);

    const tools = [{ name: 'get_weather', input_schema: weather }];
    const ask = [{ role: 'user' as const, content: 'What is the weather in Oslo in celsius?' }];
    const called = await anthropic.messages
      .stream({ model: 'base', max_tokens: 100, tools, messages: ask } as never)
      .finalMessage();
    expect(called).toMatchObject({
      stop_reason: 'tool_use',
      content: [{ type: 'tool_use', name: 'get_weather', input: { unit: 'celsius' } }],
    });
    const [use] = called.content;
    const result = { type: 'tool_result' as const, tool_use_id: use?.type === 'tool_use' ? use.id : '', content: '3' };
    const done = await anthropic.messages.create({
      model: 'base',
      max_tokens: 100,
      tools,
      messages: [...ask, { role: 'assistant', content: called.content }, { role: 'user', content: [result] }],
    } as never);
    expect(done).toMatchObject({ stop_reason: 'end_turn' });
    await expect(anthropic.messages.create({ model: 'nope', max_tokens: 5, messages })).rejects.toMatchObject({
      status: 404,
      error: { error: { type: 'not_found_error' } },
    });
  });

  it('list models, use adapters, embed texts', async () => {
    const names = (await openai.models.list()).data.map(({ id }) => id);
    expect(names).toEqual(['base', 'poet']);
    const poem = await openai.chat.completions.create({
      model: 'poet',
      messages: [{ role: 'user', content: 'A rhyme!' }],
    });
    expect(poem.model).toBe('poet');
    const { data, usage } = await openai.embeddings.create({
      model: 'base',
      input: ['a small cat', 'a small dog', 'xyz'],
    });
    const [cat = [], dog = [], other = []] = data.map(({ embedding }) => embedding);
    const dot = (a: readonly number[], b: readonly number[]) => a.reduce((sum, x, i) => sum + x * (b[i] ?? 0), 0);
    expect(cat).toHaveLength(384);
    expect(dot(cat, cat)).toBeCloseTo(1, 4);
    expect(dot(cat, dog)).toBeGreaterThan(dot(cat, other) + 0.2);
    expect(usage.prompt_tokens).toBeGreaterThan(5);
    await expect(openai.chat.completions.create({ model: 'nope', messages: [] })).rejects.toMatchObject({
      status: 404,
    });
  });

  it('break off a stream without a trace', async () => {
    const stream = await openai.chat.completions.create({
      model: 'base',
      messages: [{ role: 'user', content: 'Talk long' }],
      max_tokens: 20_000,
      ...{ ignore_eos: true },
      stream: true,
    });
    for await (const _ of stream) break;
    stream.controller.abort();
    for (let i = 0; i < 200 && decode.engine.stats.running > 0; i++) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    expect(decode.engine.stats).toMatchObject({ running: 0, waiting: 0, handles: { live: 0 } });
  });
});
