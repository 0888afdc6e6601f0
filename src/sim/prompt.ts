import { AppError } from '../errors.ts';
import { encodeInto, specialIds } from './tokenizer.ts';

/** A request's prompt as the engine sees it, and the text that the answer takes up. */
export interface Prompt {
  readonly ids: number[];
  /** The last thing the user said; empty when the prompt came as token ids. */
  readonly lastUserText: string;
}

const idOfRole: Readonly<Record<string, number>> = {
  system: specialIds.system,
  developer: specialIds.system,
  user: specialIds.user,
  assistant: specialIds.assistant,
  tool: specialIds.tool,
};

/**
 * The chat template: a mark for the role, the text, an end mark. A prompt ends with the assistant's mark, and
 * an answer that ended by itself ends with the end mark; so the next turn's prompt begins with this turn's
 * prompt and answer, token for token.
 *
 * @throws AppError `invalid` naming the message at fault
 */
export function parseChatPrompt(body: Readonly<Record<string, unknown>>): Prompt {
  const { messages, tools } = body;
  if (!Array.isArray(messages)) throw new AppError('invalid', 'messages must be a list of messages');
  if (messages.length === 0) throw new AppError('invalid', 'messages must hold at least one message');
  const ids: number[] = [specialIds.begin];
  if (Array.isArray(tools) && tools.length > 0) {
    ids.push(specialIds.system);
    encodeInto(ids, JSON.stringify(tools));
    ids.push(specialIds.end);
  }
  let lastUserText = '';
  const isContinued = body.continue_final_message === true;
  for (const [index, message] of messages.entries()) {
    if (typeof message !== 'object' || message === null) {
      throw new AppError('invalid', `messages[${index}] must be an object with role and content`);
    }
    const { role, content, tool_calls: calls } = message as Record<string, unknown>;
    if (typeof role !== 'string' || role === '') {
      throw new AppError('invalid', `messages[${index}].role must be a string such as "user"`);
    }
    ids.push(idOfRole[role] ?? specialIds.other);
    if (idOfRole[role] === undefined) encodeInto(ids, role);
    const text = encodeContent(ids, content, index);
    if (calls !== undefined && calls !== null) encodeInto(ids, JSON.stringify(calls));
    if (!(isContinued && index === messages.length - 1)) ids.push(specialIds.end);
    if (role === 'user') lastUserText = text;
  }
  if (!isContinued && body.add_generation_prompt !== false) ids.push(specialIds.assistant);
  return { ids, lastUserText };
}

function encodeContent(ids: number[], content: unknown, index: number): string {
  if (content === undefined || content === null) return '';
  if (typeof content === 'string') {
    encodeInto(ids, content);
    return content;
  }
  if (!Array.isArray(content)) {
    throw new AppError('invalid', `messages[${index}].content must be a string or a list of parts`);
  }
  let all = '';
  for (const [at, part] of content.entries()) {
    if (typeof part === 'string') {
      encodeInto(ids, part);
      all += part;
      continue;
    }
    if (typeof part !== 'object' || part === null) {
      throw new AppError('invalid', `messages[${index}].content[${at}] must be an object with a type`);
    }
    const { type, text } = part as Record<string, unknown>;
    if (typeof text === 'string') {
      encodeInto(ids, text);
      all += text;
    } else if (typeof type === 'string') {
      // Images and sounds: a mark, and their data as text, so that equal media are equal in the cache.
      ids.push(specialIds.image);
      encodeInto(ids, JSON.stringify(part).slice(0, maxMediaChars));
    } else {
      throw new AppError('invalid', `messages[${index}].content[${at}].type must be a string such as "text"`);
    }
  }
  return all;
}

const maxMediaChars = 2048;

/**
 * The prompt of /v1/completions: a string, a list with one string, token ids, or a list with one list of ids.
 *
 * @throws AppError `invalid`
 */
export function parseTextPrompt(body: Readonly<Record<string, unknown>>): Prompt {
  let { prompt } = body;
  if (Array.isArray(prompt) && (typeof prompt[0] === 'string' || Array.isArray(prompt[0]))) {
    if (prompt.length > 1) {
      throw new AppError('invalid', `prompt holds ${prompt.length} prompts; this server takes one a request`);
    }
    prompt = prompt[0];
  }
  if (typeof prompt === 'string') {
    if (prompt === '') throw new AppError('invalid', 'prompt must not be empty');
    const ids: number[] = [specialIds.begin];
    encodeInto(ids, prompt);
    return { ids, lastUserText: prompt };
  }
  if (Array.isArray(prompt) && prompt.length > 0) {
    const bad = prompt.findIndex((id) => !Number.isInteger(id) || (id as number) < 0 || (id as number) > 0x7fff_ffff);
    if (bad >= 0)
      throw new AppError('invalid', `prompt[${bad}] must be a token id, not ${JSON.stringify(prompt[bad])}`);
    return { ids: prompt as number[], lastUserText: '' };
  }
  throw new AppError('invalid', 'prompt must be a string or a list of token ids');
}
