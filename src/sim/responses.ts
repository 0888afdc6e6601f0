import { AppError } from '../errors.ts';
import { type AnswerHead, countsOf, type EventWriter, type Outcome, partsOf } from './answer.ts';
import type { Task } from './completion.ts';
import type { Finished } from './engine.ts';

type Fields = Readonly<Record<string, unknown>>;

/**
 * A request of the Responses API as the chat that it means.
 *
 * @param earlier messages of the response that the request goes on from
 * @throws AppError `invalid`
 */
export function responsesToChat(body: Fields, earlier: readonly Fields[]): Fields {
  const { input, instructions } = body;
  const messages: Fields[] = [];
  if (typeof instructions === 'string' && instructions !== '') messages.push({ role: 'system', content: instructions });
  messages.push(...earlier);
  if (typeof input === 'string') messages.push({ role: 'user', content: input });
  else if (Array.isArray(input)) for (const item of input as readonly Fields[]) addItem(messages, item);
  else throw new AppError('invalid', 'input must be a string or a list of items');
  const tools = Array.isArray(body.tools)
    ? (body.tools as readonly Fields[]).filter((tool) => tool?.type === 'function')
    : [];
  const choice = body.tool_choice as Fields | string | undefined | null;
  const format = (body.text as { readonly format?: Fields } | undefined | null)?.format;
  return {
    ...body,
    messages,
    max_completion_tokens: body.max_output_tokens,
    ...(tools.length > 0
      ? {
          tools: tools.map(({ name, description, parameters }) => ({
            type: 'function',
            function: { name, description, parameters },
          })),
        }
      : { tools: undefined, tool_choice: undefined }),
    ...(tools.length > 0 && typeof choice === 'object' && choice !== null
      ? { tool_choice: { type: 'function', function: { name: choice.name } } }
      : {}),
    ...(format?.type === 'json_schema'
      ? { response_format: { type: 'json_schema', json_schema: { schema: format.schema } } }
      : {}),
  };
}

function addItem(messages: Fields[], item: Fields): void {
  switch (item?.type) {
    case 'reasoning':
      return;
    case 'function_call': {
      const call = { id: item.call_id, type: 'function', function: { name: item.name, arguments: item.arguments } };
      messages.push({ role: 'assistant', content: null, tool_calls: [call] });
      return;
    }
    case 'function_call_output': {
      const { output } = item;
      const content = typeof output === 'string' ? output : JSON.stringify(output ?? '');
      messages.push({ role: 'tool', tool_call_id: item.call_id, content });
      return;
    }
    default:
      messages.push({ role: item?.role, content: toChatContent(item?.content) });
  }
}

function toChatContent(content: unknown): unknown {
  if (!Array.isArray(content)) return content;
  const parts = content as readonly Fields[];
  const isText = parts.every((part) => typeof part?.text === 'string');
  return isText ? parts.map((part) => part.text).join('') : parts;
}

/** The chat messages that an answer adds to its conversation. */
export function answerMessages(task: Task, finished: Finished | undefined): readonly Fields[] {
  const [reply] = task.replies;
  const { text } = partsOf(reply, finished?.outputTokens ?? 0);
  if (!reply.toolCall) return [{ role: 'assistant', content: text }];
  const { id, name } = reply.toolCall;
  const call = { id, type: 'function', function: { name, arguments: text } };
  return [{ role: 'assistant', content: null, tool_calls: [call] }];
}

interface Item {
  readonly kind: 'reasoning' | 'function_call' | 'message';
  readonly id: string;
  readonly text: string;
}

/** The finished form of an item of `output`, or its form at the start with no text and status in_progress. */
function itemOf({ kind, id, text }: Item, task: Task, isDone: boolean): Fields {
  const status = isDone ? 'completed' : 'in_progress';
  switch (kind) {
    case 'reasoning':
      return { id, type: kind, status, summary: [], content: isDone ? [{ type: 'reasoning_text', text }] : [] };
    case 'function_call': {
      const { toolCall } = task.replies[0];
      return { id, type: kind, status, call_id: toolCall?.id, name: toolCall?.name, arguments: text };
    }
    case 'message':
      return { id, type: kind, status, role: 'assistant', content: isDone ? [textPart(text)] : [] };
  }
}

function textPart(text: string): Fields {
  return { type: 'output_text', text, annotations: [], logprobs: null };
}

function itemsOf(task: Task, head: AnswerHead, finished: Finished | undefined): readonly Item[] {
  const [reply] = task.replies;
  const { thoughts, text } = partsOf(reply, finished?.outputTokens ?? 0);
  const items: Item[] = [];
  if (reply.thoughtTokens > 0) items.push({ kind: 'reasoning', id: `rs_${head.id}`, text: thoughts });
  if (reply.toolCall) items.push({ kind: 'function_call', id: `fc_${head.id}`, text });
  else if (text !== '' || items.length === 0) items.push({ kind: 'message', id: `msg_${head.id}`, text });
  return items;
}

function responseOf(task: Task, head: AnswerHead, request: Fields, outcome: Outcome | undefined): Fields {
  const finished = outcome?.finished[0];
  const isCut = finished?.reason === 'length';
  const counts = outcome && countsOf(outcome);
  return {
    id: head.id,
    object: 'response',
    created_at: head.created,
    status: outcome ? (isCut ? 'incomplete' : 'completed') : 'in_progress',
    incomplete_details: isCut ? { reason: 'max_output_tokens' } : null,
    error: null,
    model: head.model,
    instructions: request.instructions ?? null,
    max_output_tokens: task.maxTokens,
    metadata: request.metadata ?? null,
    previous_response_id: request.previous_response_id ?? null,
    parallel_tool_calls: true,
    temperature: request.temperature ?? 1,
    top_p: request.top_p ?? 1,
    tool_choice: request.tool_choice ?? 'auto',
    tools: request.tools ?? [],
    output: outcome ? itemsOf(task, head, finished).map((item) => itemOf(item, task, true)) : [],
    usage: counts
      ? {
          input_tokens: counts.prompt,
          input_tokens_details: { cached_tokens: outcome.showsDetails ? counts.cached : 0 },
          output_tokens: counts.output,
          output_tokens_details: { reasoning_tokens: Math.min(counts.output, task.replies[0].thoughtTokens) },
          total_tokens: counts.prompt + counts.output,
        }
      : null,
    ...(outcome ? { kv_transfer_params: outcome.params } : {}),
  };
}

/** The body of an answer that is not streamed. */
export function renderResponse(task: Task, head: AnswerHead, request: Fields, outcome: Outcome): string {
  return JSON.stringify(responseOf(task, head, request, outcome));
}

/** The events of a streamed answer. */
export function createResponseEvents(task: Task, head: AnswerHead, request: Fields): EventWriter {
  const [reply] = task.replies;
  let serial = 0;
  let output = -1;
  let open: Item | undefined;
  let text = '';
  const event = (type: string, fields: Fields) =>
    `event: ${type}\ndata: ${JSON.stringify({ type, sequence_number: serial++, ...fields })}\n\n`;
  const place = () => ({ item_id: open?.id, output_index: output });
  const close = (): string => {
    if (!open) return '';
    const item = itemOf({ ...open, text }, task, true);
    let closing = '';
    if (open.kind === 'function_call') {
      closing = event('response.function_call_arguments.done', {
        ...place(),
        name: reply.toolCall?.name,
        arguments: text,
      });
    } else if (open.kind === 'reasoning') {
      closing = event('response.reasoning_text.done', { ...place(), content_index: 0, text });
    } else {
      closing =
        event('response.output_text.done', { ...place(), content_index: 0, text, logprobs: [] }) +
        event('response.content_part.done', { ...place(), content_index: 0, part: textPart(text) });
    }
    closing += event('response.output_item.done', { output_index: output, item });
    open = undefined;
    return closing;
  };
  const enter = (kind: Item['kind']): string => {
    if (open?.kind === kind) return '';
    const closed = close();
    const prefix = { reasoning: 'rs', function_call: 'fc', message: 'msg' }[kind];
    open = { kind, id: `${prefix}_${head.id}`, text: '' };
    text = '';
    output++;
    const added = event('response.output_item.added', { output_index: output, item: itemOf(open, task, false) });
    const part =
      kind === 'message'
        ? event('response.content_part.added', { ...place(), content_index: 0, part: textPart('') })
        : '';
    return closed + added + part;
  };
  return {
    first: () => {
      const response = responseOf(task, head, request, undefined);
      return event('response.created', { response }) + event('response.in_progress', { response });
    },
    token: (_choice, at) => {
      const delta = reply.deltas[at] ?? '';
      if (reply.toolCall && at === 0) return enter('function_call');
      if (delta === '') return '';
      const kind = reply.toolCall ? 'function_call' : at < reply.thoughtTokens ? 'reasoning' : 'message';
      const started = enter(kind);
      text += delta;
      if (kind === 'function_call')
        return started + event('response.function_call_arguments.delta', { ...place(), delta });
      if (kind === 'reasoning') {
        return started + event('response.reasoning_text.delta', { ...place(), content_index: 0, delta });
      }
      return started + event('response.output_text.delta', { ...place(), content_index: 0, delta, logprobs: [] });
    },
    finish: () => (output < 0 ? enter('message') : '') + close(),
    end: (outcome) => {
      const response = responseOf(task, head, request, outcome);
      return event(response.status === 'incomplete' ? 'response.incomplete' : 'response.completed', { response });
    },
  };
}
