import { AppError } from '../errors.ts';
import type { Reply } from './reply.ts';
import { hashText, idOfPiece, specialIds, splitPieces } from './tokenizer.ts';

type Fields = Readonly<Record<string, unknown>>;

/** A function that an answer may call. */
interface Tool {
  readonly name: string;
  readonly parameters: unknown;
}

/** A call of a function that stands in for an answer's text. */
export interface ToolCall {
  readonly id: string;
  readonly name: string;
  /** JSON text. */
  readonly arguments: string;
  /** The request named the function: vLLM then ends with `stop`, otherwise with `tool_calls`. */
  readonly isNamed: boolean;
}

export interface ToolRules {
  /** `--enable-auto-tool-choice` with a parser. */
  readonly hasAutoChoice: boolean;
}

/**
 * The function that the answer to a chat calls: the named one, one where one is required, or (left to the model) one whose name
 * the user's text mentions. The same request makes the same call.
 *
 * @throws AppError `invalid` for tools that vLLM refuses too
 */
export function parseToolCall(body: Fields, lastUserText: string, rules: ToolRules): ToolCall | undefined {
  const tools = parseTools(body.tools);
  const choice = body.tool_choice ?? (tools.length > 0 ? 'auto' : 'none');
  if (choice === 'none') return undefined;
  if (tools.length === 0) {
    throw new AppError('invalid', 'tool_choice is set, but tools is empty; list the functions that may be called');
  }
  const named =
    typeof choice === 'object' ? ((choice as Fields).function as Fields | undefined | null)?.name : undefined;
  if (typeof choice === 'object' && typeof named !== 'string') {
    throw new AppError('invalid', 'tool_choice.function.name must be the name of a function in tools');
  }
  if (typeof named === 'string') {
    const tool = tools.find((item) => item.name === named);
    if (!tool) throw new AppError('invalid', `tool_choice names the function "${named}", which is not in tools`);
    return callOf(tool, lastUserText, true);
  }
  if (choice === 'required') return callOf(mentioned(tools, lastUserText) ?? tools[0], lastUserText, false);
  if (choice !== 'auto') {
    throw new AppError(
      'invalid',
      `tool_choice must be none, auto, required or a function, not ${JSON.stringify(choice)}`,
    );
  }
  if (!rules.hasAutoChoice) {
    throw new AppError(
      'invalid',
      '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
    );
  }
  const { messages } = body;
  const last = Array.isArray(messages) ? (messages.at(-1) as Fields | undefined) : undefined;
  if (last?.role !== 'user') return undefined;
  return callOf(mentioned(tools, lastUserText), lastUserText, false);
}

function parseTools(value: unknown): readonly Tool[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw new AppError('invalid', 'tools must be a list of functions');
  return value.map((item: unknown, index) => {
    const called = ((item ?? {}) as Fields).function as Fields | undefined | null;
    if (typeof called?.name !== 'string' || called.name === '') {
      throw new AppError('invalid', `tools[${index}].function.name must be a string`);
    }
    return { name: called.name, parameters: called.parameters };
  });
}

function mentioned(tools: readonly Tool[], text: string): Tool | undefined {
  const words = text.toLowerCase();
  const isIn = (name: string) =>
    words.includes(name) || name.split(/[_\-.\s]+/).some((part) => part.length > 3 && words.includes(part));
  return tools.find((tool) => isIn(tool.name.toLowerCase()));
}

function callOf(tool: Tool | undefined, text: string, isNamed: boolean): ToolCall | undefined {
  if (!tool) return undefined;
  const id = `call_${hashText(`${tool.name}\n${text}`).toString(16).padStart(8, '0')}`;
  return { id, name: tool.name, arguments: JSON.stringify(exampleOf(tool.parameters, text)), isNamed };
}

const maxDepth = 8;

/** A value that fits a JSON schema as far as its types, enumerations and required members go. */
export function exampleOf(schema: unknown, text: string, depth = 0): unknown {
  const fields = (schema ?? {}) as Fields;
  if (fields.const !== undefined) return fields.const;
  if (Array.isArray(fields.enum)) {
    const words = text.toLowerCase();
    return fields.enum.find((item) => typeof item === 'string' && words.includes(item.toLowerCase())) ?? fields.enum[0];
  }
  if (fields.default !== undefined) return fields.default;
  const alternatives = fields.anyOf ?? fields.oneOf;
  if (Array.isArray(alternatives) && depth < maxDepth) return exampleOf(alternatives[0], text, depth + 1);
  const type = Array.isArray(fields.type) ? fields.type[0] : fields.type;
  switch (type) {
    case 'string':
      return (
        text
          .trim()
          .split(/\s+/)
          .slice(-3)
          .join(' ')
          .replace(/[?!.]+$/, '') || 'text'
      );
    case 'integer':
    case 'number':
      return typeof fields.minimum === 'number' ? fields.minimum : 1;
    case 'boolean':
      return true;
    case 'null':
      return null;
    case 'array':
      return fields.items && depth < maxDepth ? [exampleOf(fields.items, text, depth + 1)] : [];
    default: {
      const members = Object.entries((fields.properties ?? {}) as Fields);
      const required = Array.isArray(fields.required) ? fields.required : members.map(([name]) => name);
      if (depth >= maxDepth) return {};
      return Object.fromEntries(
        members
          .filter(([name]) => required.includes(name))
          .map(([name, member]) => [name, exampleOf(member, text, depth + 1)]),
      );
    }
  }
}

/** The answer that is this call: its tokens are those of the call as a chat template writes it, its text the arguments. */
export function createToolReply(call: ToolCall, maxTokens: number): Reply {
  const written = JSON.stringify([
    { id: call.id, type: 'function', function: { name: call.name, arguments: call.arguments } },
  ]);
  const ids = splitPieces(written).map(idOfPiece);
  const pieces = splitPieces(call.arguments);
  const deltas = ids.map((_, index) => pieces[index - 1] ?? '');
  return cut({ ids: [...ids, specialIds.end], deltas: [...deltas, ''], toolCall: call }, maxTokens);
}

/** The answer that is this text and nothing else. */
export function createFixedReply(text: string, maxTokens: number): Reply {
  const pieces = splitPieces(text);
  return cut({ ids: [...pieces.map(idOfPiece), specialIds.end], deltas: [...pieces, ''] }, maxTokens);
}

function cut(reply: Pick<Reply, 'ids' | 'deltas' | 'toolCall'>, maxTokens: number): Reply {
  const isCut = reply.ids.length > maxTokens;
  return {
    ...reply,
    ids: reply.ids.slice(0, maxTokens),
    deltas: reply.deltas.slice(0, maxTokens),
    finishReason: isCut ? 'length' : 'stop',
    stopReason: null,
    thoughtTokens: 0,
  };
}
