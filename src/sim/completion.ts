import { AppError } from '../errors.ts';
import type { Completion } from '../openai/request.ts';
import { parseTransferParams, type TransferPlan } from './kv-transfer.ts';
import { type Prompt, parseChatPrompt, parseTextPrompt } from './prompt.ts';
import { createReply, type Reply } from './reply.ts';
import { hashText } from './tokenizer.ts';

/** A completion request, checked. */
export interface Task {
  readonly api: 'chat' | 'completions';
  readonly isStream: boolean;
  readonly includesUsage: boolean;
  readonly promptIds: number[];
  readonly cacheRoot: number;
  readonly maxTokens: number;
  readonly reply: Reply;
  readonly plan: TransferPlan;
  /** Text that comes before the answer, where a completion asks for its prompt back. */
  readonly echo: string;
}

export interface TaskLimits {
  readonly maxModelLen: number;
  /** Tokens of an answer that ends by itself. */
  readonly outputTokens: number;
  readonly seed: number;
  readonly hasConnector: boolean;
}

/**
 * Checks a parsed request against the limits and writes its answer.
 *
 * @throws AppError `invalid` naming the field, its value and the remedy
 */
export function parseTask(request: Completion, limits: TaskLimits): Task {
  const { body } = request;
  const api = request.api === 'chat' ? 'chat' : 'completions';
  const n = integer(body, 'n', 1);
  if (n !== undefined && n !== 1) throw new AppError('invalid', `n is ${n}; this server gives one choice a request`);
  const streamOptions = body.stream_options;
  if (streamOptions !== undefined && streamOptions !== null) {
    if (typeof streamOptions !== 'object') throw new AppError('invalid', 'stream_options must be an object');
    if (!request.stream) throw new AppError('invalid', 'stream_options is only allowed when stream is true');
  }
  number(body, 'temperature', 0, Number.POSITIVE_INFINITY);
  number(body, 'top_p', 0, 1);
  const prompt: Prompt = api === 'chat' ? parseChatPrompt(body) : parseTextPrompt(body);
  const plan = parseTransferParams(body.kv_transfer_params);
  if (plan.kind !== 'local' && !limits.hasConnector) {
    throw new AppError(
      'invalid',
      'kv_transfer_params asks for a KV transfer, but this server was started without a KV connector; start it with --kv-transfer-config',
    );
  }

  const promptTokens = prompt.ids.length;
  const room = limits.maxModelLen - promptTokens;
  if (room < 1) {
    throw new AppError(
      'invalid',
      `this model's maximum context length is ${limits.maxModelLen} tokens, but the prompt has ${promptTokens} tokens and an answer needs at least one; shorten the prompt`,
    );
  }
  const given =
    (api === 'chat' ? integer(body, 'max_completion_tokens', 1) : undefined) ?? integer(body, 'max_tokens', 1);
  if (given !== undefined && given > room) {
    throw new AppError(
      'invalid',
      `max_tokens is ${given}, but this model's maximum context length is ${limits.maxModelLen} tokens and the prompt has ${promptTokens}; ask for at most ${room}`,
    );
  }
  const ignoreEos = body.ignore_eos === true;
  const maxTokens = given ?? (ignoreEos ? Math.min(room, limits.outputTokens) : room);
  const minTokens = integer(body, 'min_tokens', 0) ?? 0;
  if (minTokens > maxTokens) {
    throw new AppError('invalid', `min_tokens is ${minTokens} and must not be above max_tokens, ${maxTokens}`);
  }
  const seed = integer(body, 'seed', Number.MIN_SAFE_INTEGER) ?? 0;
  const salt = body.cache_salt;
  if (salt !== undefined && salt !== null && typeof salt !== 'string') {
    throw new AppError('invalid', 'cache_salt must be a string');
  }
  return {
    api,
    isStream: request.stream,
    includesUsage: (streamOptions as { include_usage?: unknown } | undefined | null)?.include_usage === true,
    promptIds: prompt.ids,
    cacheRoot: salt ? hashText(salt) : 0,
    maxTokens,
    plan,
    echo: api === 'completions' && body.echo === true ? prompt.lastUserText : '',
    reply: createReply({
      api,
      lastUserText: prompt.lastUserText,
      seed: limits.seed + seed,
      naturalTokens: limits.outputTokens,
      maxTokens,
      minTokens,
      ignoreEos,
      stop: stopStrings(body.stop),
      includeStop: body.include_stop_str_in_output === true,
    }),
  };
}

function stopStrings(stop: unknown): readonly string[] {
  if (stop === undefined || stop === null) return [];
  const list = Array.isArray(stop) ? stop : [stop];
  if (list.some((item) => typeof item !== 'string')) {
    throw new AppError('invalid', `stop must be a string or a list of strings, not ${JSON.stringify(stop)}`);
  }
  return list as readonly string[];
}

function integer(body: Readonly<Record<string, unknown>>, name: string, min: number): number | undefined {
  const value = body[name];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'number' || !Number.isInteger(value) || value < min) {
    throw new AppError('invalid', `${name} must be a whole number of at least ${min}, not ${JSON.stringify(value)}`);
  }
  return value;
}

function number(body: Readonly<Record<string, unknown>>, name: string, min: number, max: number): void {
  const value = body[name];
  if (value === undefined || value === null) return;
  if (typeof value !== 'number' || value < min || value > max) {
    const range = max === Number.POSITIVE_INFINITY ? `at least ${min}` : `from ${min} to ${max}`;
    throw new AppError('invalid', `${name} must be a number of ${range}, not ${JSON.stringify(value)}`);
  }
}
