import { hash } from 'node:crypto';
import type { Api, Completion } from './request.ts';

/**
 * A prompt as a chain of hashes: `chain[k]` stands for everything up to segment k, so that one prompt continues another
 * exactly when the other's last hash is in its chain. A segment is a message, or 256 characters of a text prompt.
 */
export interface Conversation {
  readonly api: Api;
  readonly chain: readonly string[];
  /** Characters of the prompt up to and with each segment. */
  readonly chars: readonly number[];
  /** Text after the last whole segment of a text prompt. */
  readonly rest: string;
}

const segmentChars = 256;

/**
 * The chain of a request, or undefined when its prompt has none (a batch, an unknown shape).
 *
 * @param scope what separates tenants: two scopes never share a hash
 */
export function conversationOf(request: Completion, scope: string): Conversation | undefined {
  const { api, body } = request;
  switch (api) {
    case 'chat':
      return Array.isArray(body.messages)
        ? chainOf(api, root(scope, request, body.tools), body.messages.map(canonicalMessage))
        : undefined;
    case 'messages':
      return Array.isArray(body.messages)
        ? chainOf(api, root(scope, request, body.tools, body.system), body.messages.map(canonicalMessage))
        : undefined;
    case 'responses': {
      const start = root(scope, request, body.tools, body.instructions, body.previous_response_id);
      if (typeof body.input === 'string') return chainOf(api, start, [`user\n${body.input}`]);
      return Array.isArray(body.input) ? chainOf(api, start, body.input.flatMap(canonicalItem)) : undefined;
    }
    case 'generate':
    case 'completions': {
      const text = promptOf(api === 'generate' ? body.token_ids : body.prompt);
      if (text === undefined) return undefined;
      const whole = text.length - (text.length % segmentChars);
      const segments: string[] = [];
      for (let at = 0; at < whole; at += segmentChars) segments.push(text.slice(at, at + segmentChars));
      // Only a text prompt can be continued by the answer's text, and token ids by token ids.
      const rest = typeof body.prompt === 'string' || api === 'generate' ? text.slice(whole) : '';
      return { ...chainOf(api, root(scope, request), segments), rest };
    }
    case 'embeddings':
      return undefined;
  }
}

/** The hash of a conversation as it stands: what a later request's chain is searched for. Undefined when nothing is whole. */
export function tailOf(conversation: Conversation): string | undefined {
  return conversation.chain.at(-1);
}

/** The hash of a conversation with the answer's segments appended. */
export function answeredTail(conversation: Conversation, answer: readonly string[]): string | undefined {
  let tail = tailOf(conversation);
  if (conversation.api === 'completions' || conversation.api === 'generate') {
    const text = conversation.rest + answer.join('');
    for (let at = 0; at + segmentChars <= text.length; at += segmentChars) {
      tail = link(tail ?? '', text.slice(at, at + segmentChars));
    }
    return tail;
  }
  for (const segment of answer) tail = link(tail ?? '', segment);
  return tail;
}

function root(scope: string, request: Completion, ...parts: readonly unknown[]): string {
  return hash('sha256', JSON.stringify([scope, request.api, request.model, ...parts]), 'base64url');
}

function link(before: string, segment: string): string {
  return hash('sha256', `${before}\n${segment}`, 'base64url');
}

function chainOf(api: Api, start: string, segments: readonly string[]): Conversation {
  const chain: string[] = [];
  const chars: number[] = [];
  let last = start;
  let count = 0;
  for (const segment of segments) {
    last = link(last, segment);
    count += segment.length;
    chain.push(last);
    chars.push(count);
  }
  return { api, chain, chars, rest: '' };
}

function promptOf(prompt: unknown): string | undefined {
  if (typeof prompt === 'string') return prompt;
  if (Array.isArray(prompt) && typeof prompt[0] === 'number') return `${prompt.join(',')},`;
  return undefined;
}

type Fields = Readonly<Record<string, unknown>>;

/** A call of a tool in an assistant's message; `input` is the text of its arguments. */
export interface ToolCall {
  readonly id: string;
  readonly name: string;
  readonly input: string;
}

/**
 * An assistant's message as one segment: its text and its tool calls. Clients send it back with fields added, dropped or
 * reordered, and some trim it, so nothing else counts.
 */
export function assistantSegment(text: string, calls: readonly ToolCall[]): string {
  return `assistant\n${text.trim()}${calls.map((call) => `\n${call.id} ${call.name} ${call.input}`).join('')}`;
}

function canonicalMessage(message: unknown): string {
  const fields = (message ?? {}) as Fields;
  if (fields.role === 'assistant') return assistantSegment(textOf(fields.content), callsOf(fields));
  return `${text(fields.role)}\n${text(fields.name)}\n${text(fields.tool_call_id)}\n${contentOf(fields.content)}`;
}

/** An item of the Responses API's `input` or `output` as its segments (none for reasoning, which is not sent back). */
export function canonicalItem(item: unknown): readonly string[] {
  const fields = (item ?? {}) as Fields;
  switch (fields.type) {
    case 'reasoning':
      return [];
    case 'function_call':
      return [`call\n${text(fields.call_id)} ${text(fields.name)} ${text(fields.arguments)}`];
    case 'function_call_output':
      return [`output\n${text(fields.call_id)} ${JSON.stringify(fields.output ?? '')}`];
    default:
      return fields.role === 'assistant'
        ? [assistantSegment(textOf(fields.content), [])]
        : [`${text(fields.role)}\n${contentOf(fields.content)}`];
  }
}

/** The text of a message's content: a string, or the text parts of a list. */
export function textOf(content: unknown): string {
  if (typeof content === 'string') return content;
  if (!Array.isArray(content)) return '';
  let joined = '';
  for (const part of content) {
    const fields = (part ?? {}) as Fields;
    if (typeof fields.text === 'string') joined += fields.text;
  }
  return joined;
}

/** The tool calls of an assistant's message, in OpenAI's or Anthropic's form. */
export function callsOf(message: Fields): readonly ToolCall[] {
  const calls: ToolCall[] = [];
  if (Array.isArray(message.tool_calls)) {
    for (const call of message.tool_calls as readonly Fields[]) {
      const called = (call?.function ?? {}) as Fields;
      calls.push({ id: text(call?.id), name: text(called.name), input: text(called.arguments) });
    }
  }
  if (Array.isArray(message.content)) {
    for (const part of message.content as readonly Fields[]) {
      if (part?.type !== 'tool_use') continue;
      calls.push({ id: text(part.id), name: text(part.name), input: JSON.stringify(part.input ?? {}) });
    }
  }
  return calls;
}

/** A user's content: its text where it is nothing else, so that a string and its one-part list are the same. */
function contentOf(content: unknown): string {
  if (typeof content === 'string') return content;
  const isPlain = Array.isArray(content) && content.every((part) => typeof (part as Fields | null)?.text === 'string');
  return isPlain ? textOf(content) : JSON.stringify(content ?? '');
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : '';
}
