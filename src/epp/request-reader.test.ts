import { describe, expect, it } from '@jest/globals';
import protobuf from 'protobufjs';
import { promptText } from '../openai/request.ts';
import { usageInGrpcTail } from './grpc-engine.ts';
import { readBody } from './request-reader.ts';

/** The messages of the two services, as far as they are read, by another implementation of protobuf. */
const { root } = protobuf.parse(`
syntax = "proto3";
message Tokenized { string original_text = 1; repeated uint32 input_ids = 2; }
message Sampling { optional float temperature = 1; uint32 top_k = 3; double other = 100; }
message Generate { string request_id = 1; oneof input { Tokenized tokenized = 2; string text = 3; } Sampling sampling_params = 4; bool stream = 5; }
message Embed { string request_id = 1; Tokenized tokenized = 2; }
message Unpacked { repeated uint32 input_ids = 2 [packed = false]; }
message GenerateUnpacked { Unpacked tokenized = 2; }
message Chunk { repeated uint32 token_ids = 1; uint32 prompt_tokens = 2; uint32 completion_tokens = 3; uint32 cached_tokens = 4; }
message Complete { repeated uint32 output_ids = 1; string finish_reason = 2; uint32 prompt_tokens = 3; uint32 completion_tokens = 4; uint32 cached_tokens = 5; }
message Failure { string message = 1; }
message Answer { string request_id = 1; oneof response { Chunk chunk = 2; Complete complete = 3; Failure error = 4; } }
message HttpBody { string content_type = 1; bytes data = 2; }
message Prediction { string endpoint = 1; HttpBody http_body = 2; }
`);
function frame(type: string, value: object): Buffer {
  const message = root.lookupType(type);
  const bytes = message.encode(message.fromObject(value)).finish();
  const head = Buffer.alloc(5);
  head.writeUInt32BE(bytes.length, 1);
  return Buffer.concat([head, bytes]);
}
const generatePath = '/vllm.grpc.engine.VllmEngine/Generate';
const vertexPath = '/google.cloud.aiplatform.v1beta1.PredictionService/ChatCompletions';
const hi = { model: 'm', messages: [{ role: 'user', content: 'Hi' }] };
const jsonOf = (body: object) => Buffer.from(JSON.stringify(body));

describe('a request body', () => {
  it.each<readonly [string, string, Buffer, object]>([
    ['chat', '/v1/chat/completions', jsonOf({ ...hi, stream: true }), { api: 'chat', stream: true, model: 'm' }],
    ['tokens of vLLM', '/inference/v1/generate', jsonOf({ token_ids: [1, 2] }), { api: 'generate', text: '[1,2]' }],
    ['a count of tokens', '/v1/messages/count_tokens?beta=true', jsonOf(hi), { api: 'messages', text: '<|user|>Hi\n' }],
    ['a conversation', '/v1/conversations', jsonOf({ items: [{ a: 1 }] }), { api: 'responses', text: '[{"a":1}]' }],
    [
      'a picture',
      '/team/v1/images/generations/',
      jsonOf({ prompt: 'a cat', model: 'm' }),
      { text: 'a cat', model: 'm' },
    ],
    ['text for SGLang', '/generate', jsonOf({ text: 'Once', stream: true }), { text: 'Once', stream: true, model: '' }],
    ['tokens for SGLang', '/generate', jsonOf({ input_ids: [3, 4] }), { text: '[3,4]', stream: false }],
    [
      'tokens by gRPC',
      generatePath,
      frame('Generate', {
        requestId: 'r',
        tokenized: { originalText: 'x', inputIds: [1, 300, 70_000] },
        samplingParams: { temperature: 0.5, topK: 4, other: 1 },
        stream: true,
      }),
      { api: 'generate', text: '[1,300,70000]', stream: true, isRewritable: false },
    ],
    [
      'tokens one by one',
      generatePath,
      frame('GenerateUnpacked', { tokenized: { inputIds: [5, 600] } }),
      { text: '[5,600]' },
    ],
    [
      'text by gRPC',
      generatePath,
      frame('Generate', { text: 'Once' }),
      { api: 'completions', text: 'Once', stream: false },
    ],
    ['an empty call', generatePath, frame('Generate', {}), { text: '' }],
    [
      'an embedding by gRPC',
      '/vllm.grpc.engine.VllmEngine/Embed',
      frame('Embed', { tokenized: { inputIds: [7] } }),
      { api: 'embeddings', text: '[7]' },
    ],
    [
      'a prediction',
      vertexPath,
      frame('Prediction', { endpoint: 'e', httpBody: { contentType: 'application/json', data: jsonOf(hi) } }),
      { api: 'chat', model: 'm', text: '<|user|>Hi\n', isRewritable: false },
    ],
  ])('is read: %s', (_what, path, bytes, expected) => {
    const read = readBody(path, bytes);
    const { completion, ...rest } = read ?? {};
    expect({ ...completion, ...rest, text: completion && promptText(completion) }).toMatchObject(expected);
  });

  it.each([
    ['/v1/models', jsonOf({})],
    ['/v1/messages/batches', jsonOf({})],
    ['/vllm.grpc.engine.VllmEngine/Abort', frame('Generate', {})],
  ])('is not looked at: %s', (path, bytes) => expect(readBody(path, bytes)).toBeUndefined());

  it('is not looked at when it is compressed', () => {
    const bytes = frame('Generate', { text: 'x' });
    bytes[0] = 1;
    expect(readBody(generatePath, bytes)).toBeUndefined();
  });

  it.each<readonly [string, string, Buffer, RegExp]>([
    ['a short frame', generatePath, Buffer.from([0, 0, 0]), /cut off/],
    ['a length beyond the end', generatePath, frame('Generate', { text: 'abc' }).subarray(0, 8), /cut off/],
    ['a field beyond the end', generatePath, Buffer.from([0, 0, 0, 0, 2, 0x1a, 9]), /a field is cut off/],
    ['an unknown wire type', generatePath, Buffer.from([0, 0, 0, 0, 1, 0x0b]), /wire type 3/],
    [
      'an endless number',
      generatePath,
      Buffer.from([0, 0, 0, 0, 11, 0x28, ...Array<number>(10).fill(0xff)]),
      /10 bytes/,
    ],
    ['a prediction without a body', vertexPath, frame('Prediction', { endpoint: 'e' }), /no http_body\.data/],
    [
      'a prediction of rubbish',
      vertexPath,
      frame('Prediction', { httpBody: { data: Buffer.from('{') } }),
      /not valid JSON/,
    ],
    ['no JSON', '/generate', Buffer.from('x'), /not valid JSON/],
  ])('is refused: %s', (_what, path, bytes, message) => expect(() => readBody(path, bytes)).toThrow(message));
});

describe('the usage of a gRPC answer', () => {
  const chunk = frame('Answer', { requestId: 'r', chunk: { tokenIds: [1], promptTokens: 9, completionTokens: 1 } });
  const complete = {
    outputIds: [1, 0, 0, 0, 0, 3],
    finishReason: 'stop',
    promptTokens: 9,
    completionTokens: 6,
    cachedTokens: 4,
  };
  it.each<readonly [string, Buffer, object | undefined]>([
    [
      'of the last message',
      Buffer.concat([chunk, frame('Answer', { requestId: 'r', complete })]),
      { promptTokens: 9, completionTokens: 6, cachedTokens: 4 },
    ],
    [
      'of a piece',
      Buffer.concat([chunk, chunk]).subarray(3),
      { promptTokens: 9, completionTokens: 1, cachedTokens: 0 },
    ],
    ['of a failure', frame('Answer', { error: { message: 'no' } }), undefined],
    ['of nothing', Buffer.alloc(0), undefined],
    ['of a message whose beginning is lost', frame('Answer', { complete }).subarray(6), undefined],
  ])('%s', (_what, tail, expected) => expect(usageInGrpcTail(tail)).toEqual(expected));
});
