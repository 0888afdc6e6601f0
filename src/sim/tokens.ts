import { AppError } from '../errors.ts';
import { parseTask, type TaskLimits } from './completion.ts';
import { messagesToChat } from './messages.ts';
import { parseChatPrompt } from './prompt.ts';
import { encodeInto, idOfPiece, specialIds, splitPieces } from './tokenizer.ts';

type Fields = Readonly<Record<string, unknown>>;

/** What vLLM tells about tokens without making any; each takes a body and returns the answer. */
export interface TokenApi {
  tokenize(body: Fields): object;
  detokenize(body: Fields): object;
  /** The prompt of a chat or completion as its model reads it: an object for a chat, a list for completions. */
  render(api: 'chat' | 'completions', body: Fields, head: { readonly id: string; readonly model: string }): object;
  countTokens(body: Fields): object;
}

const maxPieces = 65_536;

/** @throws AppError `invalid` from each function, naming the field at fault */
export function createTokenApi(limits: TaskLimits): TokenApi {
  /** Texts of tokens that were asked for, as ids alone do not tell them. */
  const pieces = new Map<number, string>();
  return {
    tokenize: (body) => {
      let ids: number[];
      if (Array.isArray(body.messages)) ids = parseChatPrompt(body).ids;
      else if (typeof body.prompt === 'string') {
        ids = body.add_special_tokens === false ? [] : [specialIds.begin];
        encodeInto(ids, body.prompt);
        if (pieces.size > maxPieces) pieces.clear();
        pieces.set(specialIds.begin, '');
        for (const piece of splitPieces(body.prompt)) pieces.set(idOfPiece(piece), piece);
      } else throw new AppError('invalid', 'prompt must be a text, or messages a list of messages');
      const shown = body.return_token_strs === true ? { token_strs: ids.map((id) => pieces.get(id) ?? '') } : {};
      return { count: ids.length, max_model_len: limits.maxModelLen, tokens: ids, ...shown };
    },
    detokenize: (body) => {
      if (!Array.isArray(body.tokens)) throw new AppError('invalid', 'tokens must be a list of token ids');
      return { prompt: body.tokens.map((id) => pieces.get(id) ?? '\ufffd').join('') };
    },
    render: (api, body, head) => {
      const task = parseTask({ api, body, model: head.model, stream: body.stream === true }, limits);
      const { temperature, top_p, stop, seed } = body;
      const rendered = {
        request_id: head.id,
        token_ids: task.promptIds,
        features: null,
        sampling_params: {
          max_tokens: task.maxTokens,
          ...Object.fromEntries(
            Object.entries({ temperature, top_p, stop, seed }).filter(([, value]) => value !== undefined),
          ),
        },
        model: head.model,
        stream: task.isStream,
        stream_options: body.stream_options ?? null,
        cache_salt: task.salt ?? null,
        priority: 0,
        kv_transfer_params: body.kv_transfer_params ?? null,
      };
      return api === 'chat' ? rendered : [rendered];
    },
    countTokens: (body) => ({ input_tokens: parseChatPrompt(messagesToChat({ max_tokens: 1, ...body })).ids.length }),
  };
}
