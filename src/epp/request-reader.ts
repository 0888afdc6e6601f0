import { AppError } from '../errors.ts';
import { type Api, apiOf, type Completion, parseCompletion, plainPath } from '../openai/request.ts';
import { readEmbedRequest, readGenerateRequest, readPrediction } from './grpc-engine.ts';

/** A request body as the picker understands it. */
export interface ReadBody {
  readonly completion: Completion;
  /** Every engine refuses it without a model. */
  readonly needsModel: boolean;
  /** The model's name stands in a JSON object that is the whole body, so that another can take its place. */
  readonly isRewritable: boolean;
}

type BodyReader = (bytes: Buffer) => ReadBody | undefined;

/** APIs whose requests every engine refuses without a model. */
const modelIsNeeded: ReadonlySet<Api> = new Set(['chat', 'completions', 'responses', 'messages', 'embeddings']);

/** JSON of an API that is looked at like another one, with the prompt where that one has it. */
const json =
  (
    api: Api,
    needsModel: boolean,
    promptOf: (body: Completion['body']) => Completion['body'] = (body) => body,
  ): BodyReader =>
  (bytes) => {
    const completion = parseCompletion(api, bytes);
    return { completion: { ...completion, body: promptOf(completion.body) }, needsModel, isRewritable: true };
  };

/** A unary gRPC call: flag, length, message. Compressed ones are not looked into. */
const grpc =
  (read: (message: Buffer) => Completion): BodyReader =>
  (bytes) => {
    if (bytes.length < 5) throw new AppError('invalid', 'the gRPC message is cut off');
    if (bytes[0] !== 0) return undefined;
    const end = 5 + bytes.readUInt32BE(1);
    if (end > bytes.length) throw new AppError('invalid', 'the gRPC message is cut off');
    return { completion: read(bytes.subarray(5, end)), needsModel: false, isRewritable: false };
  };

/** Ends of paths beside those of `apiOf`, and what is read there. The first that fits counts. */
const readers: readonly (readonly [suffix: string, read: BodyReader])[] = [
  ['/v1/messages/count_tokens', json('messages', true)],
  ['/v1/conversations', json('responses', false, (body) => ({ ...body, input: body.items }))],
  ['/v1/images/generations', json('completions', false)],
  ['/generate', json('completions', false, (body) => ({ ...body, prompt: body.text ?? body.input_ids }))],
  ['.VllmEngine/Generate', grpc(readGenerateRequest)],
  ['.VllmEngine/Embed', grpc(readEmbedRequest)],
  ['.PredictionService/ChatCompletions', grpc((message) => parseCompletion('chat', readPrediction(message)))],
];

/**
 * Reads a request by the end of its path; undefined for paths and encodings that carry no prompt that is understood.
 *
 * @throws AppError `invalid` when the body is not what its path takes
 */
export function readBody(path: string, bytes: Buffer): ReadBody | undefined {
  const api = apiOf(path);
  if (api !== undefined) {
    return { completion: parseCompletion(api, bytes), needsModel: modelIsNeeded.has(api), isRewritable: true };
  }
  const plain = plainPath(path);
  const trimmed = plain.endsWith('/') ? plain.slice(0, -1) : plain;
  return readers.find(([suffix]) => trimmed.endsWith(suffix))?.[1](bytes);
}
