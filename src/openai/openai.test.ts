import { describe, expect, it } from '@jest/globals';
import { AppError } from '../errors.ts';
import { AnswerReader } from './answer.ts';
import { answeredTail, conversationOf } from './conversation.ts';
import { errorBody } from './error-body.ts';
import { editMembers, membersOf, rawMember } from './json-members.ts';
import { replaceModelName, restoreModelName, toModelNames } from './model-name.ts';
import { type Api, apiOf, type Completion, parseCompletion, promptText } from './request.ts';
import { EventSplitter, eventData } from './sse.ts';
import { reportsCachedTokens, usageOf } from './usage.ts';

const complete = (api: Api, body: Record<string, unknown>): Completion =>
  parseCompletion(api, Buffer.from(JSON.stringify({ model: 'm', ...body })));

describe('request', () => {
  it.each([
    ['/v1/chat/completions', 'chat'],
    ['/v1/chat/completions/', 'chat'],
    ['/ns/name/v1/chat/completions?x=1', 'chat'],
    ['/v1/completions', 'completions'],
    ['/inference/v1/generate', 'generate'],
    ['/v1/%63hat/complet%69ons', 'chat'],
    ['/v1/chat/completions#x', 'chat'],
    ['/v1/chat/completions?a=%zz', 'chat'],
    ['/v1/chat%zz/completions', undefined],
    ['/v1/responses', 'responses'],
    ['/v1/messages', 'messages'],
    ['/v1/embeddings', 'embeddings'],
    ['/v1/models', undefined],
    ['/v1/chat/completions/x', undefined],
    ['/metrics', undefined],
  ])('%s is %s', (path, api) => expect(apiOf(path)).toBe(api));

  it.each([
    ['{', /not valid JSON/],
    ['[]', /must be a JSON object/],
    ['null', /must be a JSON object/],
    ['{"model":1}', /model must be a string, not 1/],
    ['{"stream":"yes"}', /stream must be true or false/],
  ])('refuses %s', (text, message) => {
    try {
      parseCompletion('chat', Buffer.from(text));
      throw new Error('parsed');
    } catch (thrown) {
      expect(thrown).toBeInstanceOf(AppError);
      expect((thrown as AppError).code).toBe('invalid');
      expect((thrown as AppError).message).toMatch(message);
    }
  });

  it('reads model and stream and keeps the body', () => {
    const request = complete('chat', { stream: true, temperature: 0.5 });
    expect(request).toMatchObject({ api: 'chat', model: 'm', stream: true, body: { temperature: 0.5 } });
  });

  it('gives a prompt text of which a longer conversation has the shorter one as prefix', () => {
    const first = [{ role: 'user', content: 'Hello!' }];
    const longer = [...first, { role: 'assistant', content: 'Hi' }, { role: 'user', content: 'More' }];
    expect(promptText(complete('chat', { messages: longer }))).toMatch(
      new RegExp(`^${promptText(complete('chat', { messages: first })).replaceAll('|', '\\|')}`),
    );
  });
});

describe('json members', () => {
  it.each([
    ['{}', []],
    ['{"a":1}', [['a', '1']]],
    [
      ' { "a" : [1,{"b":"}"}] , "c":"\\"}" } ',
      [
        ['a', '[1,{"b":"}"}]'],
        ['c', '"\\"}"'],
      ],
    ],
    [
      '{"a":null,"a":true,"b":-1.5e+3}',
      [
        ['a', 'null'],
        ['a', 'true'],
        ['b', '-1.5e+3'],
      ],
    ],
    [
      '{"k\\u0076":"\\\\","e":""}',
      [
        ['kv', '"\\\\"'],
        ['e', '""'],
      ],
    ],
    [
      '{"s":"a\\\\\\"b","n":12\n}',
      [
        ['s', '"a\\\\\\"b"'],
        ['n', '12'],
      ],
    ],
  ])('lists %s', (text, expected) => {
    JSON.parse(text);
    expect(membersOf(text).map((m) => [m.key, text.slice(m.valueStart, m.end)])).toEqual(expected);
  });

  it.each([
    ['{"a":1,"b":2,"c":3}', { b: undefined }, '{"a":1,"c":3}'],
    ['{"a":1,"b":2}', { a: '9' }, '{"b":2,"a":9}'],
    ['{}', { a: '"x"' }, '{"a":"x"}'],
    ['{"a":1,"a":2}', { a: undefined }, '{}'],
    ['{"n": 12345678901234567890, "x": 1.0}', { k: 'null' }, '{"n": 12345678901234567890, "x": 1.0,"k":null}'],
    ['{"\\u0061":1,"b":2}', { a: undefined }, '{"b":2}'],
  ])('edits %s', (text, changes, expected) => expect(editMembers(text, changes)).toBe(expected));

  it('finds a raw value byte for byte, the last of duplicates', () => {
    expect(rawMember('{"p":1,"p":{"ids":[ 1.0, 18446744073709551615 ]}}', 'p')).toBe(
      '{"ids":[ 1.0, 18446744073709551615 ]}',
    );
    expect(rawMember('{"a":{"p":1}}', 'p')).toBeUndefined();
  });

  it('agrees with JSON.parse on generated objects', () => {
    let seed = 7;
    const random = (n: number) => {
      seed = (seed * 1103515245 + 12345) & 0x7fffffff;
      return seed % n;
    };
    const value = (depth: number): unknown => {
      switch (random(depth > 3 ? 4 : 6)) {
        case 0:
          return random(1000) - 500;
        case 1:
          return ['', '"', '\\', '}{][', 'a"b\\"', 'ü\n', '\\\\'][random(7)];
        case 2:
          return [true, false, null][random(3)];
        case 3:
          return random(100) / 8;
        case 4:
          return Array.from({ length: random(4) }, () => value(depth + 1));
        default:
          return Object.fromEntries(Array.from({ length: random(4) }, (_, i) => [`k"${i}`, value(depth + 1)]));
      }
    };
    for (let i = 0; i < 500; i++) {
      const object = Object.fromEntries(Array.from({ length: random(6) }, (_, k) => [`f${k}`, value(0)]));
      const text = JSON.stringify(object, null, random(3));
      expect(JSON.parse(editMembers(text, {}))).toEqual(object);
      const { f1: _gone, ...rest } = object;
      expect(JSON.parse(editMembers(text, { f1: undefined, extra: '[1]' }))).toEqual({ ...rest, extra: [1] });
    }
  });
});

describe('events', () => {
  const stream = 'data: {"a":1}\n\ndata: b\r\n\r\n: comment\n\nevent: x\ndata:c\ndata: d\n\ndata: [DONE]\n\nrest';
  it.each([1, 2, 3, 7, 1000])('splits in chunks of %i bytes as in one', (size) => {
    const splitter = new EventSplitter();
    const events: string[] = [];
    const bytes = Buffer.from(stream);
    for (let at = 0; at < bytes.length; at += size) {
      for (const event of splitter.push(bytes.subarray(at, at + size))) events.push(event.toString());
    }
    const rest = splitter.flush().toString();
    expect(events.join('') + rest).toBe(stream);
    expect(events.map((event) => eventData(Buffer.from(event)))).toEqual(['{"a":1}', 'b', undefined, 'c\nd', '[DONE]']);
  });
});

describe('usage and errors', () => {
  it.each([
    [{ usage: { prompt_tokens: 9, completion_tokens: 2, prompt_tokens_details: { cached_tokens: 4 } } }, 9, 2, 4, true],
    [{ usage: { prompt_tokens: 9, completion_tokens: 2, prompt_tokens_details: null } }, 9, 2, 0, false],
    [{ usage: { input_tokens: 3, output_tokens: 1, cache_read_input_tokens: 0 } }, 3, 1, 0, true],
    [{ usage: { input_tokens: 3, output_tokens: 1, input_tokens_details: { cached_tokens: 2 } } }, 3, 1, 2, true],
  ])('%j', (answer, promptTokens, completionTokens, cachedTokens, isReported) => {
    expect(usageOf(answer)).toEqual({ promptTokens, completionTokens, cachedTokens });
    expect(reportsCachedTokens(answer)).toBe(isReported);
  });

  it('is undefined without usage', () => {
    for (const answer of [null, undefined, 1, {}, { usage: null }]) {
      expect(usageOf(answer)).toBeUndefined();
      expect(reportsCachedTokens(answer)).toBe(false);
    }
  });

  it('writes the error object of vLLM', () => {
    expect(errorBody(503, 'wait')).toEqual({
      error: { message: 'wait', type: 'ServiceUnavailableError', param: null, code: 503 },
    });
  });
});

describe('conversations', () => {
  const turn = (api: Api, body: Record<string, unknown>, scope = 's') => {
    const conversation = conversationOf(complete(api, body), scope);
    if (!conversation) throw new Error('no conversation');
    return conversation;
  };
  const read = (api: Api, answer: unknown) => {
    const reader = new AnswerReader(api, false);
    reader.push(Buffer.from(JSON.stringify(answer)));
    return reader.end();
  };
  const user = { role: 'user', content: 'Hello!' };
  const next = { role: 'user', content: "What's 2+2?" };
  const chatAnswer = (message: unknown) => ({ choices: [{ index: 0, message, finish_reason: 'stop' }] });

  it.each<[string, Api, Record<string, unknown>, unknown, Record<string, unknown>]>([
    [
      'chat text',
      'chat',
      { messages: [user] },
      chatAnswer({ role: 'assistant', content: 'Hi! How can I help?' }),
      { messages: [user, { role: 'assistant', content: 'Hi! How can I help?' }, next] },
    ],
    [
      'chat text sent back trimmed, with fields added, as parts',
      'chat',
      { messages: [{ role: 'user', content: [{ type: 'text', text: 'Hello!' }] }] },
      chatAnswer({ role: 'assistant', content: ' Hi\n', reasoning_content: 'hmm' }),
      {
        messages: [
          user,
          { role: 'assistant', refusal: null, tool_calls: [], content: [{ type: 'text', text: 'Hi' }] },
          next,
        ],
      },
    ],
    [
      'chat tool call',
      'chat',
      { messages: [user], tools: [{ type: 'function', function: { name: 'add' } }] },
      chatAnswer({
        role: 'assistant',
        content: null,
        tool_calls: [{ id: 'c1', type: 'function', function: { name: 'add', arguments: '{"a":2}' } }],
      }),
      {
        tools: [{ type: 'function', function: { name: 'add' } }],
        messages: [
          user,
          {
            role: 'assistant',
            content: '',
            tool_calls: [{ type: 'function', id: 'c1', function: { arguments: '{"a":2}', name: 'add' } }],
          },
          { role: 'tool', tool_call_id: 'c1', content: '4' },
        ],
      },
    ],
    [
      'messages',
      'messages',
      { system: 'Be brief', messages: [user] },
      {
        content: [
          { type: 'thinking', thinking: '…' },
          { type: 'text', text: 'Hi' },
        ],
        stop_reason: 'end_turn',
      },
      { system: 'Be brief', messages: [user, { role: 'assistant', content: 'Hi' }, next] },
    ],
    [
      'messages tool use',
      'messages',
      { messages: [user] },
      { content: [{ type: 'tool_use', id: 't1', name: 'add', input: { a: 2 } }], stop_reason: 'tool_use' },
      {
        messages: [
          user,
          { role: 'assistant', content: [{ type: 'tool_use', id: 't1', name: 'add', input: { a: 2 } }] },
          { role: 'user', content: [{ type: 'tool_result', tool_use_id: 't1', content: '4' }] },
        ],
      },
    ],
    [
      'responses',
      'responses',
      { input: 'Hello!' },
      {
        id: 'resp_1',
        status: 'completed',
        output: [
          { type: 'reasoning', summary: [] },
          { type: 'message', role: 'assistant', content: [{ type: 'output_text', text: 'Hi' }] },
        ],
      },
      {
        input: [user, { type: 'message', role: 'assistant', content: [{ type: 'output_text', text: 'Hi' }] }, next],
      },
    ],
    [
      'completions',
      'completions',
      { prompt: 'a'.repeat(300) },
      { choices: [{ index: 0, text: 'b'.repeat(300), finish_reason: 'length' }] },
      { prompt: `${'a'.repeat(300)}${'b'.repeat(300)} and on` },
    ],
  ])('%s: the next turn continues the answered one', (_name, api, first, answer, second) => {
    const tail = answeredTail(turn(api, first), read(api, answer).segments ?? []);
    expect(tail).toBeDefined();
    expect(turn(api, second).chain).toContain(tail);
    // The first turn alone does not: nothing was answered before it.
    expect(turn(api, first).chain).not.toContain(tail);
  });

  it.each<[string, Record<string, unknown>, string]>([
    ['another scope', {}, 't'],
    ['another model', { model: 'n' }, 's'],
    ['other tools', { tools: [{ type: 'function', function: { name: 'x' } }] }, 's'],
    ['an edited question', { messages: [{ role: 'user', content: 'Bye!' }] }, 's'],
  ])('%s shares no hash', (_name, change, scope) => {
    const base = turn('chat', { messages: [user] });
    const other = turn('chat', { messages: [user], ...change }, scope);
    expect(other.chain.some((link) => base.chain.includes(link))).toBe(false);
  });

  it('has none for a batch or an unknown shape', () => {
    expect(conversationOf(complete('completions', { prompt: ['a', 'b'] }), 's')).toBeUndefined();
    expect(conversationOf(complete('chat', { messages: 'x' }), 's')).toBeUndefined();
    expect(conversationOf(complete('embeddings', { input: 'x' }), 's')).toBeUndefined();
  });

  it('survives odd messages', () => {
    const messages = [null, 1, {}, { role: 'user' }, { role: 'assistant', tool_calls: [null], content: [null] }];
    expect(turn('chat', { messages }).chain).toHaveLength(messages.length);
  });
});

describe('answers', () => {
  const chatStream = [
    { id: 'x', choices: [{ index: 0, delta: { role: 'assistant', content: '' } }] },
    { choices: [{ index: 0, delta: { content: 'Hi! Grüße ' } }] },
    {
      choices: [
        { index: 0, delta: { tool_calls: [{ index: 0, id: 'c1', function: { name: 'add', arguments: '{"a"' } }] } },
      ],
    },
    {
      choices: [
        {
          index: 0,
          delta: { tool_calls: [{ index: 0, function: { arguments: ':2}' } }] },
          finish_reason: 'tool_calls',
        },
      ],
    },
    { choices: [], usage: { prompt_tokens: 7, completion_tokens: 3, prompt_tokens_details: { cached_tokens: 4 } } },
  ];
  const events = (list: readonly unknown[]) =>
    `${list.map((item) => `data: ${JSON.stringify(item)}\n\n`).join('')}data: [DONE]\n\n`;
  const readStream = (api: Api, text: string, size = 5, maxBytes?: number) => {
    const reader = new AnswerReader(api, true, maxBytes);
    const bytes = Buffer.from(text);
    for (let at = 0; at < bytes.length; at += size) reader.push(bytes.subarray(at, at + size));
    return reader.end();
  };

  it('reads a chat stream in any chunks', () => {
    for (const size of [1, 5, 64, 10_000]) {
      expect(readStream('chat', events(chatStream), size)).toEqual({
        segments: ['assistant\nHi! Grüße\nc1 add {"a":2}'],
        finish: 'tool_calls',
        usage: { promptTokens: 7, completionTokens: 3, cachedTokens: 4 },
        isCacheReported: true,
        id: 'x',
      });
    }
  });

  it('reads Anthropic events', () => {
    const answer = readStream(
      'messages',
      events([
        { type: 'message_start', message: { id: 'm1', usage: { input_tokens: 7, output_tokens: 0 } } },
        { type: 'content_block_start', index: 0, content_block: { type: 'text', text: '' } },
        { type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text: 'Hi' } },
        {
          type: 'content_block_start',
          index: 1,
          content_block: { type: 'tool_use', id: 't1', name: 'add', input: {} },
        },
        { type: 'content_block_delta', index: 1, delta: { type: 'input_json_delta', partial_json: '{ "a"' } },
        { type: 'content_block_delta', index: 1, delta: { type: 'input_json_delta', partial_json: ': 2}' } },
        { type: 'message_delta', delta: { stop_reason: 'tool_use' }, usage: { output_tokens: 5 } },
        { type: 'message_stop' },
      ]),
    );
    expect(answer).toMatchObject({
      segments: ['assistant\nHi\nt1 add {"a":2}'],
      finish: 'tool_use',
      usage: { promptTokens: 7, completionTokens: 5 },
      id: 'm1',
    });
  });

  it('reads the last event of a Responses stream', () => {
    const output = [{ type: 'message', role: 'assistant', content: [{ type: 'output_text', text: 'Hi' }] }];
    expect(
      readStream(
        'responses',
        events([{ type: 'response.completed', response: { id: 'r', status: 'completed', output } }]),
      ),
    ).toMatchObject({ segments: ['assistant\nHi'], finish: 'completed', id: 'r' });
  });

  it.each<[string, string]>([
    ['it did not end', events(chatStream.slice(0, 3))],
    ['there are several choices', events([...chatStream, { choices: [{ index: 1, delta: { content: 'x' } }] }])],
    ['nothing is JSON', 'data: x\n\n'],
  ])('gives no segments when %s', (_why, text) => expect(readStream('chat', text).segments).toBeUndefined());

  it('gives a long answer up without keeping it', () => {
    const long = events([
      ...Array.from({ length: 50 }, () => ({ choices: [{ index: 0, delta: { content: 'x'.repeat(100) } }] })),
      { choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] },
    ]);
    expect(readStream('chat', long, 100, 1000)).toMatchObject({ segments: undefined, finish: 'stop' });
    const reader = new AnswerReader('chat', false, 10);
    reader.push(Buffer.from('{"choices":[]}'));
    expect(reader.end().segments).toBeUndefined();
  });
});

describe('model names', () => {
  it.each([
    ['{"model":"a","n":1.0,"big":12345678901234567890}', '{"model":"b\\"","n":1.0,"big":12345678901234567890}'],
    [
      ' { "x" : {"model":"a"}, "mo\\u0064el" : "a" , "m":[{"model":"a"}] }',
      ' { "x" : {"model":"a"}, "mo\\u0064el" : "b\\"" , "m":[{"model":"a"}] }',
    ],
    [
      '{"prompt":"ü \\"model\\":\\"a\\"","model":"a","model":"a"}',
      '{"prompt":"ü \\"model\\":\\"a\\"","model":"b\\"","model":"b\\""}',
    ],
    ['{"prompt":"x"}', '{"prompt":"x"}'],
  ])('of a request are replaced, the rest stays byte for byte: %s', (body, expected) => {
    expect(Buffer.concat(replaceModelName(Buffer.from(body), 'b"')).toString()).toBe(expected);
  });

  const answer =
    'data: {"id":1,"model":"v2","x":"\\"model\\":\\"v2\\""}\n\ndata: {"model": "v2","y":"mo"}\n\ndata: {"model":"v22"}\n\n"model":"v';
  it.each([1, 2, 3, 5, 7, 11, 1000])('of an answer are restored, in pieces of %d bytes', (size) => {
    const names = toModelNames('v2', 'ask"ed');
    let held: Buffer = Buffer.alloc(0);
    let text = '';
    const bytes = Buffer.from(answer);
    for (let at = 0; at < bytes.length; at += size) {
      const next = restoreModelName(names, held, bytes.subarray(at, at + size), at + size >= bytes.length);
      text += next.out.toString();
      held = next.held;
      expect(held.length).toBeLessThan(16);
    }
    expect(held).toHaveLength(0);
    expect(text).toBe(
      'data: {"id":1,"model":"ask\\"ed","x":"\\"model\\":\\"v2\\""}\n\ndata: {"model": "ask\\"ed","y":"mo"}\n\ndata: {"model":"v22"}\n\n"model":"v',
    );
  });
});
