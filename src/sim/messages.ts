import { AppError } from '../errors.ts';
import { type AnswerHead, countsOf, type EventWriter, type Outcome, partsOf } from './answer.ts';
import type { Task } from './completion.ts';
import type { Finished } from './engine.ts';
import type { Reply } from './reply.ts';

type Fields = Readonly<Record<string, unknown>>;

/**
 * A request of Anthropic's Messages API as the chat that it means.
 *
 * @throws AppError `invalid`
 */
export function messagesToChat(body: Fields): Fields {
  if (!Number.isInteger(body.max_tokens)) {
    throw new AppError(
      'invalid',
      `max_tokens must be a whole number of at least 1, not ${JSON.stringify(body.max_tokens)}`,
    );
  }
  if (!Array.isArray(body.messages)) throw new AppError('invalid', 'messages must be a list of messages');
  const system =
    body.system === undefined || body.system === null ? [] : [{ role: 'system', content: textOf(body.system) }];
  return {
    ...body,
    messages: [...system, ...(body.messages as readonly Fields[]).flatMap(toChatMessages)],
    stop: body.stop_sequences,
    ...(Array.isArray(body.tools) ? { tools: (body.tools as readonly Fields[]).map(toTool) } : {}),
    ...(body.tool_choice ? { tool_choice: toToolChoice(body.tool_choice as Fields) } : {}),
  };
}

function toTool(tool: Fields): Fields {
  return {
    type: 'function',
    function: { name: tool?.name, description: tool?.description, parameters: tool?.input_schema },
  };
}

function toToolChoice(choice: Fields): unknown {
  switch (choice.type) {
    case 'any':
      return 'required';
    case 'tool':
      return { type: 'function', function: { name: choice.name } };
    default:
      return choice.type;
  }
}

/** Tool results of a user's message are messages of their own in a chat. */
function toChatMessages(message: Fields): readonly Fields[] {
  if (!Array.isArray(message?.content)) return [message];
  const made: Fields[] = [];
  const parts: Fields[] = [];
  const calls: Fields[] = [];
  for (const block of message.content as readonly Fields[]) {
    switch (block?.type) {
      case 'tool_result':
        made.push({ role: 'tool', tool_call_id: block.tool_use_id, content: textOf(block.content) });
        break;
      case 'tool_use': {
        const called = { name: block.name, arguments: JSON.stringify(block.input ?? {}) };
        calls.push({ id: block.id, type: 'function', function: called });
        break;
      }
      case 'thinking':
      case 'redacted_thinking':
        break;
      default:
        parts.push(block);
    }
  }
  if (parts.length === 0 && calls.length === 0) return made;
  const isText = parts.every((part) => part?.type === 'text');
  const content = parts.length === 0 ? null : isText ? textOf(parts) : parts;
  return [...made, { role: message.role, content, ...(calls.length > 0 ? { tool_calls: calls } : {}) }];
}

function textOf(content: unknown): string {
  if (!Array.isArray(content)) return typeof content === 'string' ? content : '';
  return content.map((part) => String((part as Fields | null)?.text ?? '')).join('');
}

/** The body of an answer that is not streamed. */
export function renderMessage(task: Task, head: AnswerHead, outcome: Outcome): string {
  const [reply] = task.replies;
  const [finished] = outcome.finished;
  const { thoughts, text } = partsOf(reply, finished?.outputTokens ?? 0);
  const content: Fields[] = [];
  if (reply.thoughtTokens > 0) content.push({ type: 'thinking', thinking: thoughts, signature: '' });
  if (reply.toolCall) {
    content.push({ type: 'tool_use', id: reply.toolCall.id, name: reply.toolCall.name, input: parsed(text) });
  } else if (text !== '' || content.length === 0) content.push({ type: 'text', text });
  return JSON.stringify({
    ...envelope(head),
    content,
    ...stopOf(reply, finished),
    usage: usage(outcome),
    kv_transfer_params: outcome.params,
  });
}

function envelope(head: AnswerHead): Fields {
  return { id: head.id, type: 'message', role: 'assistant', model: head.model };
}

function stopOf(reply: Reply, finished: Finished | undefined): Fields {
  if (finished?.reason === 'length') return { stop_reason: 'max_tokens', stop_sequence: null };
  if (reply.toolCall) return { stop_reason: 'tool_use', stop_sequence: null };
  return typeof reply.stopReason !== 'string'
    ? { stop_reason: 'end_turn', stop_sequence: null }
    : { stop_reason: 'stop_sequence', stop_sequence: reply.stopReason };
}

function usage(outcome: Outcome): Fields {
  const { prompt, output, cached } = countsOf(outcome);
  return {
    input_tokens: prompt,
    output_tokens: output,
    ...(outcome.showsDetails ? { cache_read_input_tokens: cached } : {}),
  };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // Cut by max_tokens.
    return {};
  }
}

const event = (type: string, fields: Fields) => `event: ${type}\ndata: ${JSON.stringify({ type, ...fields })}\n\n`;

/** The events of a streamed answer. */
export function createMessageEvents(task: Task, head: AnswerHead): EventWriter {
  const [reply] = task.replies;
  let index = -1;
  let open: string | undefined;
  const close = () => {
    if (open === undefined) return '';
    open = undefined;
    return event('content_block_stop', { index });
  };
  const enter = (kind: string): string => {
    if (open === kind) return '';
    const closed = close();
    open = kind;
    index++;
    const block: Fields =
      kind === 'thinking'
        ? { type: kind, thinking: '', signature: '' }
        : kind === 'tool_use'
          ? { type: kind, id: reply.toolCall?.id, name: reply.toolCall?.name, input: {} }
          : { type: kind, text: '' };
    return closed + event('content_block_start', { index, content_block: block });
  };
  return {
    first: () => {
      const message = { ...envelope(head), content: [], stop_reason: null, stop_sequence: null };
      const tokens = { input_tokens: task.promptTokens, output_tokens: 0 };
      return event('message_start', { message: { ...message, usage: tokens } });
    },
    token: (_choice, at) => {
      const text = reply.deltas[at] ?? '';
      if (reply.toolCall && at === 0) return enter('tool_use');
      if (text === '') return '';
      if (reply.toolCall) {
        return event('content_block_delta', { index, delta: { type: 'input_json_delta', partial_json: text } });
      }
      const isThought = at < reply.thoughtTokens;
      const started = enter(isThought ? 'thinking' : 'text');
      const delta = isThought ? { type: 'thinking_delta', thinking: text } : { type: 'text_delta', text };
      return started + event('content_block_delta', { index, delta });
    },
    finish: () => (open === undefined && index < 0 ? enter('text') : '') + close(),
    end: (outcome) =>
      event('message_delta', {
        delta: stopOf(reply, outcome.finished[0]),
        usage: usage(outcome),
        ...(outcome.params ? { kv_transfer_params: outcome.params } : {}),
      }) + event('message_stop', {}),
  };
}

const errorTypes: Readonly<Record<number, string>> = {
  400: 'invalid_request_error',
  401: 'authentication_error',
  403: 'permission_error',
  404: 'not_found_error',
  413: 'request_too_large',
  429: 'rate_limit_error',
  503: 'overloaded_error',
};

/** An error in the form that Anthropic's clients read. */
export function messageError(status: number, message: string): Fields {
  return { type: 'error', error: { type: errorTypes[status] ?? 'api_error', message } };
}
