import { AppError } from '../errors.ts';
import type { Completion } from '../openai/request.ts';
import type { Usage } from '../openai/usage.ts';

/**
 * What the picker reads of gRPC calls of engines, from protobuf's wire format: field numbers of `vllm.grpc.engine` (vLLM's
 * vllm_engine.proto) and of `google.cloud.aiplatform` PredictionService with `google.api.HttpBody`.
 */

type Field = { readonly number: number; readonly value: number | Buffer };

/** @throws AppError `invalid` */
function* fieldsOf(message: Buffer): Generator<Field> {
  let at = 0;
  const cutOff = () => new AppError('invalid', 'the gRPC message is no valid protobuf: a field is cut off');
  const varint = (): number => {
    let result = 0;
    for (let scale = 1, i = 0; i < 10; i++, scale *= 128) {
      const byte = message[at++];
      if (byte === undefined) throw cutOff();
      result += (byte & 0x7f) * scale;
      if (byte < 0x80) return result;
    }
    throw new AppError('invalid', 'the gRPC message is no valid protobuf: a number is longer than 10 bytes');
  };
  while (at < message.length) {
    const tag = varint();
    const number = Math.floor(tag / 8);
    const wire = tag % 8;
    if (wire === 0) {
      yield { number, value: varint() };
      continue;
    }
    const length = wire === 1 ? 8 : wire === 5 ? 4 : wire === 2 ? varint() : Number.NaN;
    if (Number.isNaN(length)) {
      throw new AppError('invalid', `the gRPC message is no valid protobuf: wire type ${wire} is not known`);
    }
    if (at + length > message.length) throw cutOff();
    yield { number, value: message.subarray(at, at + length) };
    at += length;
  }
}

/** Numbers of a repeated field, packed or one by one. */
function addNumbers(value: number | Buffer, to: number[]): void {
  if (typeof value === 'number') {
    to.push(value);
    return;
  }
  let number = 0;
  let scale = 1;
  for (const byte of value) {
    number += (byte & 0x7f) * scale;
    scale *= 128;
    if (byte >= 0x80) continue;
    to.push(number);
    number = 0;
    scale = 1;
  }
}

function tokenIdsOf(tokenized: Buffer): readonly number[] {
  const ids: number[] = [];
  for (const { number, value } of fieldsOf(tokenized)) if (number === 2) addNumbers(value, ids);
  return ids;
}

/** `GenerateRequest` of vLLM: tokens, or text. */
export function readGenerateRequest(message: Buffer): Completion {
  let stream = false;
  let ids: readonly number[] | undefined;
  let text: string | undefined;
  for (const { number, value } of fieldsOf(message)) {
    if (number === 2 && typeof value !== 'number') ids = tokenIdsOf(value);
    else if (number === 3 && typeof value !== 'number') text = value.toString('utf8');
    else if (number === 5) stream = value === 1;
  }
  if (ids === undefined) return { api: 'completions', model: '', stream, body: { prompt: text ?? '' } };
  return { api: 'generate', model: '', stream, body: { token_ids: ids } };
}

/** `EmbedRequest` of vLLM. */
export function readEmbedRequest(message: Buffer): Completion {
  let ids: readonly number[] = [];
  for (const { number, value } of fieldsOf(message)) {
    if (number === 2 && typeof value !== 'number') ids = tokenIdsOf(value);
  }
  return { api: 'embeddings', model: '', stream: false, body: { input: ids } };
}

/** The HTTP body in a `ChatCompletionsRequest` of Vertex AI. */
export function readPrediction(message: Buffer): Buffer {
  for (const { number, value } of fieldsOf(message)) {
    if (number !== 2 || typeof value === 'number') continue;
    for (const inner of fieldsOf(value)) if (inner.number === 2 && typeof inner.value !== 'number') return inner.value;
  }
  throw new AppError('invalid', 'the prediction has no http_body.data; give the JSON of a chat completion there');
}

/** Fields of the two kinds of answers that hold prompt, completion and cached tokens. */
const usageFields = new Map([
  [2, { prompt: 2, completion: 3, cached: 4 }],
  [3, { prompt: 3, completion: 4, cached: 5 }],
]);

/** The usage in the last message of a `Generate` answer, where it lies whole in what was kept of the answer's end. */
export function usageInGrpcTail(tail: Buffer): Usage | undefined {
  for (let at = tail.length - 5; at >= 0; at--) {
    if (tail[at] !== 0 || tail.readUInt32BE(at + 1) !== tail.length - at - 5) continue;
    try {
      for (const { number, value } of fieldsOf(tail.subarray(at + 5))) {
        const fields = usageFields.get(number);
        if (fields === undefined || typeof value === 'number') continue;
        const counts = new Map<number, number>();
        for (const inner of fieldsOf(value)) {
          if (typeof inner.value === 'number') counts.set(inner.number, inner.value);
        }
        const promptTokens = counts.get(fields.prompt);
        if (promptTokens === undefined) continue;
        return {
          promptTokens,
          completionTokens: counts.get(fields.completion) ?? 0,
          cachedTokens: counts.get(fields.cached) ?? 0,
        };
      }
    } catch {
      // A look-alike inside a message: look further back.
    }
  }
  return undefined;
}
