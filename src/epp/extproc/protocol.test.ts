import { readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';
import protobuf from 'protobufjs';
import { errorBody } from '../../openai/error-body.ts';
import { toModelNames } from '../../openai/model-name.ts';
import { servedEndpoint } from '../framework/decision.ts';
import { split, toList } from './body-chunks.ts';
import { CodecError, decodeRequest, encodeReplies, type ProcessingRequest, type ProcessingResponse } from './codec.ts';
import { MessageAssembler } from './grpc.ts';
import { initialState, type SessionEffect, type SessionMessage, type SessionState, step } from './session.ts';

const root = protobuf.parse(readFileSync(new URL('./testdata/ext_proc.proto', import.meta.url), 'utf8'), {
  keepCase: true,
}).root;
const Request = root.lookupType('envoy.service.ext_proc.v3.ProcessingRequest');
const Response = root.lookupType('envoy.service.ext_proc.v3.ProcessingResponse');

const encode = (message: Record<string, unknown>): Buffer =>
  Buffer.from(Request.encode(Request.fromObject(message)).finish());
const raw = (key: string, value: string) => ({ key, raw_value: Buffer.from(value) });

describe('reading', () => {
  const subset = (values: unknown) => ({
    filter_metadata: {
      other: { fields: { a: { number_value: 1 } } },
      'envoy.lb.subset_hint': { fields: { 'x-gateway-destination-endpoint-subset': values } },
    },
  });
  const table: readonly [name: string, message: Record<string, unknown>, expected: ProcessingRequest][] = [
    [
      'headers: raw_value wins, names in lower case, repeated ones stay',
      {
        request_headers: {
          headers: {
            headers: [
              raw('X-A', 'raw'),
              { key: 'b', value: 'plain' },
              { key: 'b', value: 'x', raw_value: Buffer.from('ü') },
            ],
          },
          end_of_stream: true,
        },
      },
      { kind: 'requestHeaders', headers: ['x-a', 'raw', 'b', 'plain', 'b', 'ü'], endOfStream: true, aside: {} },
    ],
    [
      'a body with a list of allowed endpoints',
      {
        request_body: { body: Buffer.from('{"a":1}'), end_of_stream: true },
        metadata_context: subset({
          list_value: { values: [{ string_value: '10.0.0.1:8000' }, { string_value: '10.0.0.2' }] },
        }),
      },
      {
        kind: 'requestBody',
        body: Buffer.from('{"a":1}'),
        endOfStream: true,
        aside: { subset: ['10.0.0.1:8000', '10.0.0.2'] },
      },
    ],
    [
      'allowed endpoints as text, and an empty list',
      { request_body: {}, metadata_context: subset({ string_value: '10.0.0.1, [fd00::1]:80' }) },
      {
        kind: 'requestBody',
        body: Buffer.alloc(0),
        endOfStream: false,
        aside: { subset: ['10.0.0.1', '[fd00::1]:80'] },
      },
    ],
    [
      'none allowed',
      { request_trailers: {}, metadata_context: subset({ list_value: {} }) },
      { kind: 'requestTrailers', aside: { subset: [] } },
    ],
    [
      'the endpoint that answered; attributes are skipped',
      {
        response_headers: { headers: { headers: [raw(':status', '200')] } },
        attributes: { x: { fields: { y: { bool_value: true } } } },
        metadata_context: {
          filter_metadata: {
            'envoy.lb': { fields: { 'x-gateway-destination-endpoint-served': { string_value: '10.0.0.9:80' } } },
          },
        },
      },
      { kind: 'responseHeaders', headers: [':status', '200'], endOfStream: false, aside: { served: '10.0.0.9:80' } },
    ],
    [
      'body modes and a gateway that only observes',
      {
        response_body: { body: Buffer.from('x') },
        observability_mode: true,
        protocol_config: { request_body_mode: 4, response_body_mode: 2 },
      },
      {
        kind: 'responseBody',
        body: Buffer.from('x'),
        endOfStream: false,
        aside: { isObserved: true, protocol: { requestBodyMode: 4, responseBodyMode: 2 } },
      },
    ],
    ['nothing', {}, { kind: 'unknown' }],
  ];
  it.each(table)('%s', (_name, message, expected) => {
    expect(decodeRequest(encode(message))).toEqual(expected);
  });

  it('refuses bytes that are no message, whatever is cut off', () => {
    const whole = encode({
      request_headers: { headers: { headers: [raw('a', 'b'), raw('c', 'd')] }, end_of_stream: true },
      metadata_context: subset({ string_value: 'x' }),
    });
    for (let length = 1; length < whole.length; length++) {
      try {
        decodeRequest(whole.subarray(0, length));
      } catch (thrown) {
        expect(thrown).toBeInstanceOf(CodecError);
      }
    }
    for (const bytes of [
      [0x12, 0xff, 0xff, 0x03],
      [0x0b],
      [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
      [0x09, 1],
    ]) {
      expect(() => decodeRequest(Buffer.from(bytes))).toThrow(CodecError);
    }
  });

  it('never hangs or throws anything else on random bytes', () => {
    let seed = 42;
    const next = () => {
      seed = (seed * 1_103_515_245 + 12_345) & 0x7fffffff;
      return seed;
    };
    for (let i = 0; i < 3000; i++) {
      const bytes = Buffer.from(Array.from({ length: next() % 60 }, () => next() % 256));
      try {
        decodeRequest(bytes);
      } catch (thrown) {
        expect(thrown).toBeInstanceOf(CodecError);
      }
    }
  });
});

describe('writing', () => {
  const text = (value: string) => Buffer.from(value).toString('base64');
  const option = (key: string, value: string) => ({ header: { key, raw_value: text(value) }, append_action: 2 });
  const long = 'v'.repeat(70_000);
  const table: readonly [name: string, reply: ProcessingResponse, expected: Record<string, unknown>][] = [
    [
      'request headers',
      {
        kind: 'requestHeaders',
        mutation: {
          set: [
            ['x-a', '10.0.0.1:80'],
            ['x-ü', long],
          ],
          remove: ['x-b', 'x-c'],
        },
        clearRouteCache: true,
        metadata: { 'envoy.lb': { k: 'v' } },
      },
      {
        request_headers: {
          response: {
            header_mutation: {
              set_headers: [option('x-a', '10.0.0.1:80'), option('x-ü', long)],
              remove_headers: ['x-b', 'x-c'],
            },
            clear_route_cache: true,
          },
        },
        dynamic_metadata: { fields: { 'envoy.lb': { struct_value: { fields: { k: { string_value: 'v' } } } } } },
      },
    ],
    ['no change', { kind: 'responseHeaders' }, { response_headers: { response: {} } }],
    [
      'a body chunk',
      { kind: 'requestBody', streamed: { body: Buffer.alloc(62_000, 7), endOfStream: false } },
      {
        request_body: {
          response: { body_mutation: { streamed_response: { body: Buffer.alloc(62_000, 7).toString('base64') } } },
        },
      },
    ],
    [
      'an empty last chunk',
      { kind: 'responseBody', streamed: { body: Buffer.alloc(0), endOfStream: true } },
      { response_body: { response: { body_mutation: { streamed_response: { end_of_stream: true } } } } },
    ],
    [
      'another body, with what is said about headers',
      {
        kind: 'requestBody',
        mutation: { set: [['x-a', 'b']], remove: ['x-c'] },
        clearRouteCache: true,
        metadata: { ns: { key: 'value' } },
        replacement: Buffer.from('{}'),
      },
      {
        request_body: {
          response: {
            header_mutation: { set_headers: [option('x-a', 'b')], remove_headers: ['x-c'] },
            body_mutation: { body: text('{}') },
            clear_route_cache: true,
          },
        },
        dynamic_metadata: {
          fields: { ns: { struct_value: { fields: { key: { string_value: 'value' } } } } },
        },
      },
    ],
    [
      'no body instead of one',
      { kind: 'responseBody', replacement: Buffer.alloc(0) },
      { response_body: { response: { body_mutation: { clear_body: true } } } },
    ],
    ['a body left alone', { kind: 'responseBody' }, { response_body: { response: {} } }],
    ['request trailers', { kind: 'requestTrailers' }, { request_trailers: {} }],
    ['response trailers', { kind: 'responseTrailers' }, { response_trailers: {} }],
    [
      'an immediate answer',
      {
        kind: 'immediate',
        status: 503,
        headers: { set: [['content-type', 'application/json']], remove: [] },
        body: Buffer.from('{}'),
        details: 'why',
      },
      {
        immediate_response: {
          status: { code: 503 },
          headers: { set_headers: [option('content-type', 'application/json')] },
          body: text('{}'),
          details: 'why',
        },
      },
    ],
  ];
  it.each(table)('%s', (_name, reply, expected) => {
    const frames = encodeReplies([reply]);
    expect(frames[0]).toBe(0);
    expect(frames.readUInt32BE(1)).toBe(frames.length - 5);
    const message = Response.decode(frames.subarray(5));
    expect(Response.toObject(message, { bytes: String })).toEqual(expected);
    // As the library writes it, byte for byte, where field order is the library's.
    expect(Response.toObject(Response.decode(Response.encode(message).finish()), { bytes: String })).toEqual(expected);
  });

  it('writes several replies in their order, in one buffer', () => {
    const frames = encodeReplies(table.map(([, reply]) => reply));
    const seen: unknown[] = [];
    const assembler = new MessageAssembler(1 << 20);
    expect(
      assembler.push(frames, (message) => seen.push(Response.toObject(Response.decode(message), { bytes: String }))),
    ).toBeUndefined();
    expect(seen).toEqual(table.map(([, , expected]) => expected));
  });
});

describe('frames', () => {
  const frame = (text: string): Buffer => {
    const head = Buffer.alloc(5);
    head.writeUInt32BE(text.length, 1);
    return Buffer.concat([head, Buffer.from(text)]);
  };
  const stream = Buffer.concat([frame('one'), frame(''), frame('x'.repeat(300)), frame('four')]);
  it.each([1, 2, 3, 5, 7, 100, 1000])('put together from pieces of %d bytes', (size) => {
    const assembler = new MessageAssembler(1000);
    const seen: string[] = [];
    for (let at = 0; at < stream.length; at += size) {
      assembler.push(stream.subarray(at, at + size), (message) => seen.push(message.toString()));
    }
    expect(seen).toEqual(['one', '', 'x'.repeat(300), 'four']);
  });
  it('refuses what is too large or compressed', () => {
    expect(new MessageAssembler(2).push(frame('one'), () => {})?.status).toBe(8);
    expect(new MessageAssembler(9).push(Buffer.from([1, 0, 0, 0, 1, 65]), () => {})?.status).toBe(12);
  });
});

describe('the session', () => {
  const aside = {};
  const headers = (endOfStream = false): SessionMessage => ({
    kind: 'requestHeaders',
    headers: [':path', '/v1/x'],
    endOfStream,
    aside,
  });
  const body = (text: string, endOfStream: boolean): SessionMessage => ({
    kind: 'requestBody',
    body: Buffer.from(text),
    endOfStream,
    aside,
  });
  const answerHeaders = (endOfStream = false): SessionMessage => ({
    kind: 'responseHeaders',
    headers: [':status', '200'],
    endOfStream,
    aside,
  });
  const answerBody = (text: string, endOfStream: boolean): SessionMessage => ({
    kind: 'responseBody',
    body: Buffer.from(text),
    endOfStream,
    aside,
  });
  it.each<readonly [string | undefined, readonly string[]]>([
    ['10.0.0.2:8000', ['x-went-into-resp-headers', 'x-session-token', 'x-served 10.0.0.2:8000']],
    [undefined, ['x-went-into-resp-headers', 'x-session-token']],
  ])('tells the client which endpoint served, where the gateway says so: %s', (served, expected) => {
    const answerHeaders_ = new Map([
      ['x-session-token', 't'],
      ['x-served', servedEndpoint],
    ]);
    let state = initialState;
    for (const message of [
      headers(true),
      {
        kind: 'answer',
        answer: { kind: 'route', mutation: { set: [], remove: [] }, metadata: {}, answerHeaders: answerHeaders_ },
      } as const,
    ]) {
      ({ state } = step(state, message, { maxBodyBytes: 1000 }));
    }
    const told = { ...answerHeaders(), aside: served === undefined ? {} : { served } } as SessionMessage;
    const [effect] = step(state, told, { maxBodyBytes: 1000 }).effects;
    const reply = effect?.kind === 'reply' && effect.reply.kind === 'responseHeaders' ? effect.reply : undefined;
    const set = reply?.mutation?.set.map(([name, value]) => (name === 'x-served' ? `${name} ${value}` : name));
    expect(set).toEqual(expected);
  });

  const requestTrailers: SessionMessage = { kind: 'requestTrailers', aside };
  const responseTrailers: SessionMessage = { kind: 'responseTrailers', aside };
  const route: SessionMessage = {
    kind: 'answer',
    answer: { kind: 'route', mutation: { set: [], remove: [] }, metadata: {} },
  };
  const modes = (requestBodyMode: number, responseBodyMode: number): SessionMessage => ({
    kind: 'requestHeaders',
    headers: [],
    endOfStream: false,
    aside: { protocol: { requestBodyMode, responseBodyMode } },
  });
  const otherBody: SessionMessage = {
    kind: 'answer',
    answer: {
      kind: 'route',
      mutation: { set: [], remove: [] },
      metadata: {},
      body: [Buffer.from('HELLO'), Buffer.from('!')],
    },
  };
  const renamed: SessionMessage = {
    kind: 'answer',
    answer: {
      kind: 'route',
      mutation: { set: [], remove: [] },
      metadata: {},
      names: toModelNames('v2', 'llama'),
    },
  };
  const refusal: SessionMessage = {
    kind: 'answer',
    answer: { kind: 'reject', status: 429, body: errorBody(429, 'full') },
  };

  const brief = (effect: SessionEffect): string => {
    switch (effect.kind) {
      case 'reply': {
        const { reply } = effect;
        if (reply.kind === 'immediate') return `immediate ${reply.status}`;
        if ('replacement' in reply && reply.replacement !== undefined) return `${reply.kind} for ${reply.replacement}`;
        if (reply.kind === 'responseHeaders') return [reply.kind, ...(reply.mutation?.remove ?? [])].join(' without ');
        if (!('streamed' in reply) || reply.streamed === undefined) return reply.kind;
        const { body: chunk, endOfStream } = reply.streamed;
        return `${reply.kind} ${chunk.length > 20 ? chunk.length : chunk.toString()}${endOfStream ? ' EOS' : ''}`;
      }
      case 'decide':
        return `decide ${effect.question.bodyBytes}`;
      case 'end':
        return `end ${effect.status}`;
      default:
        return effect.kind;
    }
  };
  const play = (
    messages: readonly SessionMessage[],
    maxBodyBytes = 1 << 20,
  ): { state: SessionState; effects: readonly string[] } => {
    let state = initialState;
    const effects: string[] = [];
    for (const message of messages) {
      const next = step(state, message, { maxBodyBytes });
      state = next.state;
      effects.push(...next.effects.map(brief));
    }
    return { state, effects };
  };

  const big = 'b'.repeat(130_000);
  const table: readonly [
    name: string,
    messages: readonly SessionMessage[],
    effects: readonly string[],
    state: SessionState['kind'],
  ][] = [
    ['no body', [headers(true), route], ['decide 0', 'requestHeaders'], 'decided'],
    ['nothing before the body is whole', [headers(), body('{"a', false)], [], 'buffering'],
    [
      'a body in pieces comes back in pieces',
      [headers(), body('{"a', false), body('":1}', true), route],
      ['decide 7', 'requestHeaders', 'requestBody {"a', 'requestBody ":1} EOS'],
      'decided',
    ],
    [
      'an empty last piece is left out',
      [headers(), body('{}', false), body('', true), route],
      ['decide 2', 'requestHeaders', 'requestBody {} EOS'],
      'decided',
    ],
    [
      'an empty body still ends',
      [headers(), body('', true), route],
      ['decide 0', 'requestHeaders', 'requestBody  EOS'],
      'decided',
    ],
    [
      'a large body in chunks of 62 000',
      [headers(), body(big, true), route],
      ['decide 130000', 'requestHeaders', 'requestBody 62000', 'requestBody 62000', 'requestBody 6000 EOS'],
      'decided',
    ],
    [
      'trailers end the request, not the body',
      [headers(), body('{}', false), requestTrailers, route],
      ['decide 2', 'requestHeaders', 'requestBody {}', 'requestTrailers'],
      'decided',
    ],
    [
      'trailers without a body',
      [headers(), requestTrailers, route],
      ['decide 0', 'requestHeaders', 'requestTrailers'],
      'decided',
    ],
    ['refused', [headers(true), refusal], ['decide 0', 'immediate 429', 'end 0'], 'done'],
    [
      'too large',
      [headers(), body('x'.repeat(600_000), false), body('x'.repeat(600_000), false)],
      ['immediate 413', 'end 0'],
      'done',
    ],
    [
      'the answer streams through',
      [headers(true), route, answerHeaders(), answerBody('one', false), answerBody('two', true)],
      [
        'decide 0',
        'requestHeaders',
        'responseHeaders',
        'sawResponseHeaders',
        'responseBody one',
        'sawResponseBody',
        'responseBody two EOS',
        'sawResponseBody',
        'sawResponseEnd',
      ],
      'done',
    ],
    [
      'an answer with trailers',
      [headers(true), route, answerHeaders(), answerBody('one', false), responseTrailers],
      [
        'decide 0',
        'requestHeaders',
        'responseHeaders',
        'sawResponseHeaders',
        'responseBody one',
        'sawResponseBody',
        'responseTrailers',
        'sawResponseEnd',
      ],
      'done',
    ],
    [
      'an answer without a body',
      [headers(true), route, answerHeaders(true)],
      ['decide 0', 'requestHeaders', 'responseHeaders', 'sawResponseHeaders', 'sawResponseEnd'],
      'done',
    ],
    [
      'the gateway answers by itself before the body is whole',
      [headers(), body('{', false), answerHeaders(), body('}', true), answerBody('no', true)],
      ['responseHeaders', 'sawResponseHeaders', 'responseBody no EOS', 'sawResponseBody', 'sawResponseEnd'],
      'done',
    ],
    [
      'nothing after the end',
      [headers(true), refusal, answerHeaders(), answerBody('x', true), requestTrailers],
      ['decide 0', 'immediate 429', 'end 0'],
      'done',
    ],
    ['a body without headers', [body('x', true)], ['end 3'], 'failed'],
    ['headers twice', [headers(), headers()], ['end 3'], 'failed'],
    ['an answer before the request', [answerHeaders()], ['end 3'], 'failed'],
    [
      'an answer body before its headers',
      [headers(true), route, answerBody('x', false)],
      ['decide 0', 'requestHeaders', 'end 3'],
      'failed',
    ],
    [
      'a gateway that only observes gets no replies',
      [{ kind: 'requestHeaders', headers: [], endOfStream: true, aside: { isObserved: true } }],
      [],
      'awaitingHeaders',
    ],
    [
      'a gateway that sends no bodies',
      [
        {
          kind: 'requestHeaders',
          headers: [],
          endOfStream: false,
          aside: { protocol: { requestBodyMode: 0, responseBodyMode: 0 } },
        },
        route,
      ],
      ['decide 0', 'requestHeaders'],
      'decided',
    ],
    [
      'buffered bodies: headers go on at once, the choice comes with the body',
      [modes(2, 2), body('hello', true), route, answerHeaders(), answerBody('ok', true)],
      [
        'requestHeaders',
        'decide 5',
        'requestBody',
        'responseHeaders',
        'sawResponseHeaders',
        'responseBody',
        'sawResponseBody',
        'sawResponseEnd',
      ],
      'done',
    ],
    [
      'buffered bodies with another body and trailers',
      [modes(2, 2), body('hello', false), otherBody, requestTrailers],
      ['requestHeaders', 'decide 5', 'requestBody for HELLO!', 'requestTrailers'],
      'decided',
    ],
    [
      'of a body that is buffered in part nothing is read',
      [modes(3, 2), body('hel', false), route],
      ['requestHeaders', 'decide 0', 'requestBody'],
      'decided',
    ],
    [
      'streamed bodies: chosen by the headers, every piece goes on',
      [modes(1, 1), body('a', false), route, body('b', true), requestTrailers, answerHeaders(), answerBody('ok', true)],
      [
        ...['decide 0', 'requestHeaders', 'requestBody', 'requestBody', 'requestTrailers'],
        ...['responseHeaders', 'sawResponseHeaders', 'responseBody', 'sawResponseBody', 'sawResponseEnd'],
      ],
      'done',
    ],
    [
      'a buffered request with trailers alone',
      [modes(2, 2), requestTrailers],
      ['requestHeaders', 'immediate 400', 'end 0'],
      'done',
    ],
    ['a mode that is not known', [modes(5, 5)], ['immediate 500', 'end 0'], 'done'],
    [
      "another model's answer, in pieces",
      [
        ...[headers(), body('hello', true), renamed, answerHeaders()],
        ...[answerBody('{"mod', false), answerBody('el":"v', false), answerBody('2"}', true)],
      ],
      [
        ...[
          'decide 5',
          'requestHeaders',
          'requestBody hello EOS',
          'responseHeaders without content-length',
          'sawResponseHeaders',
        ],
        ...[
          'responseBody {',
          'sawResponseBody',
          'sawResponseBody',
          'responseBody "model":"llama"} EOS',
          'sawResponseBody',
          'sawResponseEnd',
        ],
      ],
      'done',
    ],
    [
      "another model's answer, buffered",
      [modes(2, 2), body('hello', true), renamed, answerHeaders(), answerBody('{"model": "v2"}', true)],
      [
        ...[
          'requestHeaders',
          'decide 5',
          'requestBody',
          'responseHeaders without content-length',
          'sawResponseHeaders',
        ],
        ...['responseBody for {"model": "llama"}', 'sawResponseBody', 'sawResponseEnd'],
      ],
      'done',
    ],
    [
      'what is held back goes out before trailers',
      [headers(true), renamed, answerHeaders(), answerBody('x"mo', false), responseTrailers],
      [
        ...['decide 0', 'requestHeaders', 'responseHeaders without content-length', 'sawResponseHeaders'],
        ...['responseBody x', 'sawResponseBody', 'responseBody "mo', 'responseTrailers', 'sawResponseEnd'],
      ],
      'done',
    ],
  ];
  it.each(table)('%s', (_name, messages, effects, state) => {
    expect(play(messages)).toMatchObject({ effects, state: { kind: state } });
  });

  it('takes the allowed endpoints from the body message, else from the headers', () => {
    const withSubset = (message: SessionMessage, subset: readonly string[]): SessionMessage =>
      ({ ...message, aside: { subset } }) as SessionMessage;
    const decide = (messages: readonly SessionMessage[]) => {
      let state = initialState;
      let question: unknown;
      for (const message of messages) {
        const next = step(state, message, { maxBodyBytes: 100 });
        state = next.state;
        for (const effect of next.effects) if (effect.kind === 'decide') question = effect.question.subset;
      }
      return question;
    };
    expect(decide([withSubset(headers(), ['a']), body('{}', true)])).toEqual(['a']);
    expect(decide([withSubset(headers(), ['a']), withSubset(body('{}', true), ['b'])])).toEqual(['b']);
    expect(decide([withSubset(headers(true), [])])).toEqual([]);
    expect(decide([headers(true)])).toBeUndefined();
  });
});

describe('chunks', () => {
  it('keep order and bytes', () => {
    const a = Buffer.from('a');
    const b = Buffer.alloc(0);
    const c = Buffer.from('c');
    expect(toList({ chunk: c, before: { chunk: b, before: { chunk: a, before: undefined } } })).toEqual([a, c]);
    expect(split([a, c])).toEqual([a, c]);
    expect(split([Buffer.alloc(124_001)]).map((chunk) => chunk.length)).toEqual([62_000, 62_000, 1]);
  });
});
