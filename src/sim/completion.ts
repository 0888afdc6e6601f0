import { AppError } from '../errors.ts';
import type { Completion } from '../openai/request.ts';
import { parseTransferParams, type TransferPlan } from './kv-transfer.ts';
import { type Prompt, parseChatPrompt, parseTextPrompt } from './prompt.ts';
import { createReply, type Reply } from './reply.ts';
import { hashText } from './tokenizer.ts';
import { createFixedReply, createToolReply, exampleOf, parseToolCall } from './tools.ts';

/** The APIs that make text: the last two are written as a chat before they are checked. */
export type TaskApi = 'chat' | 'completions' | 'generate' | 'responses' | 'messages';

/** A completion request, checked. */
export interface Task {
  readonly api: TaskApi;
  readonly isStream: boolean;
  readonly includesUsage: boolean;
  /** The answer tells the ids of its tokens, and of the prompt's where it is not streamed. */
  readonly returnsTokenIds: boolean;
  /** Every event tells what was used so far. */
  readonly hasContinuousUsage: boolean;
  readonly promptIds: number[];
  readonly promptTokens: number;
  readonly cacheRoot: number;
  /** What `cacheRoot` is made of. */
  readonly salt: string | undefined;
  readonly maxTokens: number;
  /** One for each choice. */
  readonly replies: readonly [Reply, ...Reply[]];
  /** Alternatives to each token whose probabilities are told; undefined where none are. */
  readonly logprobs: number | undefined;
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
  /** `--enable-auto-tool-choice` with a parser. */
  readonly hasAutoToolChoice: boolean;
  /** `--reasoning-parser` is given: answers begin with thoughts. */
  readonly hasReasoning: boolean;
  readonly maxLogprobs: number;
  /** Streams tell their usage also when they are not asked to. */
  readonly forcesUsage?: boolean;
}

const maxChoices = 128;

/**
 * Checks a parsed request against the limits and writes its answer.
 *
 * @throws AppError `invalid` naming the field, its value and the remedy
 */
export function parseTask(request: Completion, limits: TaskLimits): Task {
  const api = request.api as TaskApi;
  // The token API keeps its limits in an object of their own.
  const body = api === 'generate' ? { ...request.body, ...objectOf(request.body, 'sampling_params') } : request.body;
  const isChat = api !== 'completions' && api !== 'generate';
  const n = integer(body, 'n', 1) ?? 1;
  if (n > maxChoices) throw new AppError('invalid', `n is ${n}; ask for at most ${maxChoices} choices`);
  const streamOptions = body.stream_options;
  if (streamOptions !== undefined && streamOptions !== null) {
    if (typeof streamOptions !== 'object') throw new AppError('invalid', 'stream_options must be an object');
    if (!request.stream) throw new AppError('invalid', 'stream_options is only allowed when stream is true');
  }
  const options = streamOptions as
    | { readonly include_usage?: unknown; readonly continuous_usage_stats?: unknown }
    | undefined
    | null;
  const includesUsage = request.stream && (options?.include_usage === true || limits.forcesUsage === true);
  number(body, 'temperature', 0, Number.POSITIVE_INFINITY);
  number(body, 'top_p', 0, 1);
  const prompt: Prompt = isChat
    ? parseChatPrompt(body)
    : parseTextPrompt(api === 'generate' ? { prompt: body.token_ids } : body);
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
  const given = (isChat ? integer(body, 'max_completion_tokens', 1) : undefined) ?? integer(body, 'max_tokens', 1);
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
  const { lastUserText } = prompt;
  const toolCall = isChat ? parseToolCall(body, lastUserText, { hasAutoChoice: limits.hasAutoToolChoice }) : undefined;
  const fixed = isChat ? fixedTextOf(body, lastUserText) : undefined;
  const thinking = (body.chat_template_kwargs as { enable_thinking?: unknown } | undefined | null)?.enable_thinking;
  const stopIds = tokenIds(body.stop_token_ids);
  const replyOf = (choice: number): Reply => endAtTokens(writeReply(choice), stopIds, minTokens);
  const writeReply = (choice: number): Reply => {
    if (toolCall)
      return createToolReply(choice === 0 ? toolCall : { ...toolCall, id: `${toolCall.id}${choice}` }, maxTokens);
    if (fixed !== undefined) return createFixedReply(fixed, maxTokens);
    return createReply({
      api: isChat ? 'chat' : 'completions',
      lastUserText,
      seed: limits.seed + seed + choice * 7919,
      naturalTokens: limits.outputTokens,
      maxTokens,
      minTokens,
      ignoreEos,
      stop: stopStrings(body.stop),
      includeStop: body.include_stop_str_in_output === true,
      hasThoughts: isChat && limits.hasReasoning && thinking !== false,
    });
  };
  const [first, ...others] = Array.from({ length: n }, (_, choice) => replyOf(choice));
  return {
    api,
    isStream: request.stream,
    includesUsage,
    returnsTokenIds: body.return_token_ids === true,
    hasContinuousUsage: includesUsage && options?.continuous_usage_stats === true,
    promptIds: prompt.ids,
    promptTokens,
    cacheRoot: salt ? hashText(salt) : 0,
    salt: salt || undefined,
    maxTokens,
    plan,
    echo: api === 'completions' && body.echo === true ? prompt.lastUserText : '',
    logprobs: logprobsOf(body, isChat, limits.maxLogprobs),
    replies: [first ?? replyOf(0), ...others],
  };
}

function objectOf(body: Readonly<Record<string, unknown>>, name: string): object {
  const value = body[name];
  if (value === undefined || value === null) return {};
  if (typeof value !== 'object' || Array.isArray(value)) throw new AppError('invalid', `${name} must be an object`);
  return value;
}

/** The JSON that response_format asks for, as text. */
function fixedTextOf(body: Readonly<Record<string, unknown>>, lastUserText: string): string | undefined {
  const format = body.response_format as
    | { readonly type?: unknown; readonly json_schema?: { readonly schema?: unknown } }
    | undefined
    | null;
  if (format?.type === 'json_schema') return JSON.stringify(exampleOf(format.json_schema?.schema, lastUserText));
  if (format?.type === 'json_object') return JSON.stringify({ answer: lastUserText.slice(0, 60) });
  return undefined;
}

/** How many alternatives to a token are told: `logprobs` is a number for completions; a yes with `top_logprobs` for chats. */
function logprobsOf(body: Readonly<Record<string, unknown>>, isChat: boolean, max: number): number | undefined {
  if (isChat && body.logprobs !== true) {
    if (integer(body, 'top_logprobs', 0))
      throw new AppError('invalid', 'top_logprobs is only allowed with logprobs: true');
    return undefined;
  }
  const name = isChat ? 'top_logprobs' : 'logprobs';
  const count = isChat ? (integer(body, name, 0) ?? 0) : integer(body, name, 0);
  if (count !== undefined && max >= 0 && count > max) {
    throw new AppError('invalid', `${name} is ${count}, and this server tells at most ${max}; see --max-logprobs`);
  }
  return count;
}

/** The reply up to the first of the tokens that end it; that one counts and is not shown. */
function endAtTokens(reply: Reply, stopIds: ReadonlySet<number>, minTokens: number): Reply {
  if (stopIds.size === 0) return reply;
  const at = reply.ids.findIndex((id, index) => index >= minTokens && stopIds.has(id));
  if (at < 0) return reply;
  return {
    ...reply,
    ids: reply.ids.slice(0, at + 1),
    deltas: [...reply.deltas.slice(0, at), ''],
    finishReason: 'stop',
    stopReason: reply.ids[at] ?? null,
    thoughtTokens: Math.min(reply.thoughtTokens, at),
  };
}

function tokenIds(value: unknown): ReadonlySet<number> {
  if (value === undefined || value === null) return new Set();
  if (Array.isArray(value) && value.every((id) => Number.isInteger(id))) return new Set(value as number[]);
  throw new AppError('invalid', `stop_token_ids must be a list of token ids, not ${JSON.stringify(value)}`);
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
