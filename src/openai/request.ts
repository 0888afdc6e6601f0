import { AppError } from '../errors.ts';

/** The APIs whose requests carry a prompt. */
export type Api = 'chat' | 'completions' | 'responses' | 'messages' | 'generate' | 'embeddings';

const apiOfPath: readonly (readonly [suffix: string, api: Api])[] = [
  ['/v1/chat/completions', 'chat'],
  ['/v1/completions', 'completions'],
  ['/v1/responses', 'responses'],
  ['/v1/messages', 'messages'],
  ['/inference/v1/generate', 'generate'],
  ['/v1/embeddings', 'embeddings'],
];

/** The API of a request path (query ignored), or undefined when the path carries no prompt. */
export function apiOf(path: string): Api | undefined {
  const plain = plainPath(path);
  const trimmed = plain.endsWith('/') ? plain.slice(0, -1) : plain;
  return apiOfPath.find(([suffix]) => trimmed.endsWith(suffix))?.[1];
}

/**
 * The path of a request target as an engine's router sees it: without query and fragment, percent signs decoded. Two spellings
 * of one path must not be told apart, or the second would go round what is done for the first.
 */
export function plainPath(target: string): string {
  const end = target.search(/[?#]/);
  const path = end < 0 ? target : target.slice(0, end);
  if (!path.includes('%')) return path;
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}

/** A parsed request: the fields that routing looks at, and the whole body to send on. */
export interface Completion {
  readonly api: Api;
  /** Empty when absent. */
  readonly model: string;
  readonly stream: boolean;
  /** Every field as the client sent it. Copy before changing. */
  readonly body: Readonly<Record<string, unknown>>;
}

/**
 * Parses a completion's body.
 *
 * @throws AppError `invalid` when the bytes are not a JSON object, or `model`/`stream` has the wrong type
 */
export function parseCompletion(api: Api, bytes: Uint8Array): Completion {
  return parseCompletionText(api, Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8'));
}

/** As `parseCompletion`, for a body that is already text. */
export function parseCompletionText(api: Api, text: string): Completion {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch (thrown) {
    const why = thrown instanceof Error ? thrown.message : '';
    throw new AppError('invalid', `the request body is not valid JSON: ${why}`, { cause: thrown });
  }
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw new AppError('invalid', 'the request body must be a JSON object');
  }
  const fields = body as Record<string, unknown>;
  const { model, stream } = fields;
  if (model !== undefined && typeof model !== 'string') {
    throw new AppError('invalid', `model must be a string, not ${JSON.stringify(model)}`);
  }
  if (stream !== undefined && stream !== null && typeof stream !== 'boolean') {
    throw new AppError('invalid', `stream must be true or false, not ${JSON.stringify(stream)}`);
  }
  return { api, model: model ?? '', stream: stream === true, body: fields };
}

/** The text that a prompt's cache blocks are made of: stable for a prefix of the same conversation. */
export function promptText(request: Completion): string {
  const { body } = request;
  switch (request.api) {
    case 'chat':
    case 'messages':
      return `${body.system === undefined ? '' : JSON.stringify(body.system)}${messagesText(body.messages)}`;
    case 'completions':
      return typeof body.prompt === 'string' ? body.prompt : JSON.stringify(body.prompt ?? '');
    case 'generate':
      return JSON.stringify(body.token_ids ?? '');
    case 'responses':
    case 'embeddings':
      return typeof body.input === 'string' ? body.input : JSON.stringify(body.input ?? '');
  }
}

function messagesText(messages: unknown): string {
  if (!Array.isArray(messages)) return '';
  let text = '';
  for (const message of messages) {
    const { role, content } = (message ?? {}) as { role?: unknown; content?: unknown };
    text += `<|${typeof role === 'string' ? role : ''}|>${typeof content === 'string' ? content : JSON.stringify(content ?? '')}\n`;
  }
  return text;
}
