import type { Task } from './completion.ts';
import type { Finished } from './engine.ts';
import type { RemoteParams } from './kv-transfer.ts';
import type { Reply } from './reply.ts';
import { hashText } from './tokenizer.ts';

export interface AnswerHead {
  readonly id: string;
  /** Seconds since the epoch. */
  readonly created: number;
  readonly model: string;
}

/** How a request ended, all its choices together. */
export interface Outcome {
  /** By choice. */
  readonly finished: readonly Finished[];
  readonly params: RemoteParams | null;
  readonly showsDetails: boolean;
}

/** The events of a streamed answer, as texts with their blank lines. */
export interface EventWriter {
  /** Before the first token. */
  first(): string;
  /** For a token of a choice; empty when it shows nothing. */
  token(choice: number, index: number): string;
  /** After the last token of a choice. */
  finish(choice: number, finished: Finished, params: RemoteParams | null): string;
  /** After all choices. */
  end(outcome: Outcome): string;
}

/** What an answer holds, apart: thoughts, then text or the arguments of a call. */
export interface Parts {
  readonly thoughts: string;
  readonly text: string;
}

/** The first `tokens` tokens of a reply as they are shown. */
export function partsOf(reply: Reply, tokens: number): Parts {
  return {
    thoughts: reply.deltas.slice(0, Math.min(tokens, reply.thoughtTokens)).join(''),
    text: reply.deltas.slice(reply.thoughtTokens, tokens).join(''),
  };
}

/** Sums over the choices. */
export function countsOf(outcome: Outcome): {
  readonly prompt: number;
  readonly output: number;
  readonly cached: number;
} {
  const [first] = outcome.finished;
  return {
    prompt: first?.promptTokens ?? 0,
    output: outcome.finished.reduce((sum, { outputTokens }) => sum + outputTokens, 0),
    cached: first?.cachedTokens ?? 0,
  };
}

/** The body of an answer to a chat, a completion or a token request that is not streamed. */
export function renderAnswer(task: Task, head: AnswerHead, outcome: Outcome): string {
  const promptIds = promptIdsOf(task);
  const choices = task.replies.map((reply, index) => {
    const finished = outcome.finished[index];
    const tokens = finished?.outputTokens ?? 0;
    const { thoughts, text } = partsOf(reply, tokens);
    const ending = {
      logprobs: logprobsOf(task, reply, 0, tokens),
      finish_reason: finishReasonOf(reply, finished),
      stop_reason: reply.stopReason,
      token_ids: task.returnsTokenIds ? reply.ids.slice(0, tokens) : null,
    };
    if (task.api === 'generate') return { index, ...ending, token_ids: reply.ids.slice(0, tokens) };
    if (task.api === 'completions') {
      return { index, text: task.echo + text, ...ending, ...(promptIds ? { prompt_token_ids: promptIds } : {}) };
    }
    const { toolCall } = reply;
    const called = toolCall && {
      id: toolCall.id,
      type: 'function',
      function: { name: toolCall.name, arguments: text },
    };
    const message = {
      role: 'assistant',
      content: toolCall ? null : text,
      refusal: null,
      tool_calls: called ? [called] : [],
      ...(reply.thoughtTokens > 0 ? { reasoning: thoughts, reasoning_content: thoughts } : {}),
    };
    return { index, message, ...ending };
  });
  if (task.api === 'generate') {
    return JSON.stringify({
      request_id: head.id,
      choices,
      prompt_logprobs: null,
      usage: usage(outcome),
      kv_transfer_params: outcome.params,
    });
  }
  return JSON.stringify({
    id: head.id,
    object: task.api === 'chat' ? 'chat.completion' : 'text_completion',
    created: head.created,
    model: head.model,
    choices,
    service_tier: null,
    system_fingerprint: null,
    usage: usage(outcome),
    ...(promptIds && task.api === 'chat' ? { prompt_token_ids: promptIds } : {}),
    kv_transfer_params: outcome.params,
  });
}

/** The prompt's tokens where they are asked for; the engine has appended the answer's to the list that it was given. */
function promptIdsOf(task: Task): readonly number[] | undefined {
  return task.returnsTokenIds ? task.promptIds.slice(0, task.promptTokens) : undefined;
}

/** The events of the same answers. */
export function createEventWriter(task: Task, head: AnswerHead): EventWriter {
  const isChat = task.api === 'chat';
  const isTokens = task.api === 'generate';
  const common = JSON.stringify(
    isTokens
      ? { request_id: head.id }
      : {
          id: head.id,
          object: isChat ? 'chat.completion.chunk' : 'text_completion',
          created: head.created,
          model: head.model,
        },
  ).slice(0, -1);
  const before = task.replies.map((_, index) => `data: ${common},"choices":[{"index":${index},`);
  /** What was used when a choice has so many tokens; empty where that is not told. */
  const usedBy = (output: number) => {
    if (!task.hasContinuousUsage) return '';
    const prompt = task.promptTokens;
    return `,"usage":${JSON.stringify({ prompt_tokens: prompt, total_tokens: prompt + output, completion_tokens: output })}`;
  };
  const plain = ',"logprobs":null,"finish_reason":null}]';
  const atFirst = `${plain}${usedBy(0)}}\n\n`;
  const after = (reply: Reply, index: number) => {
    const logprobs = task.logprobs === undefined ? 'null' : JSON.stringify(logprobsOf(task, reply, index, index + 1));
    const ids = task.returnsTokenIds ? `,"token_ids":[${reply.ids[index] ?? 0}]` : '';
    return `,"logprobs":${logprobs},"finish_reason":null${ids}}]${usedBy(index + 1)}}\n\n`;
  };
  const role = '"delta":{"role":"assistant","content":""}';
  return {
    first: () =>
      before
        .map((start) => {
          if (isChat) return `${start}${role}${atFirst}`;
          return task.echo === '' || isTokens ? '' : `${start}"text":${JSON.stringify(task.echo)}${atFirst}`;
        })
        .join(''),
    token: (choice, index) => {
      const reply = task.replies[choice] ?? task.replies[0];
      const start = before[choice] ?? '';
      if (isTokens) return `${start}"token_ids":[${reply.ids[index] ?? 0}]${after(reply, index)}`;
      const text = reply.deltas[index] ?? '';
      const { toolCall } = reply;
      if (toolCall && index === 0) {
        const called = { name: toolCall.name, arguments: '' };
        const call = JSON.stringify([{ index: 0, id: toolCall.id, type: 'function', function: called }]);
        return `${start}"delta":{"tool_calls":${call}}${after(reply, index)}`;
      }
      if (text === '') return '';
      const shown = JSON.stringify(text);
      if (!isChat) return `${start}"text":${shown}${after(reply, index)}`;
      if (toolCall)
        return `${start}"delta":{"tool_calls":[{"index":0,"function":{"arguments":${shown}}}]}${after(reply, index)}`;
      // Thoughts go under the name of today and the one before.
      const delta =
        index < reply.thoughtTokens ? `"reasoning":${shown},"reasoning_content":${shown}` : `"content":${shown}`;
      return `${start}"delta":{${delta}}${after(reply, index)}`;
    },
    finish: (choice, finished, params) => {
      const reply = task.replies[choice] ?? task.replies[0];
      const nothing = isTokens ? '"token_ids":[]' : isChat ? '"delta":{"content":""}' : '"text":""';
      const reason = JSON.stringify(finishReasonOf(reply, finished));
      const handle = params ? `,"kv_transfer_params":${JSON.stringify(params)}` : '';
      return `${before[choice] ?? ''}${nothing},"logprobs":null,"finish_reason":${reason},"stop_reason":${JSON.stringify(reply.stopReason)}}]${handle}${usedBy(finished.outputTokens)}}\n\n`;
    },
    end: (outcome) => {
      const tail =
        task.includesUsage || isTokens
          ? `data: ${common},"choices":[],"usage":${JSON.stringify(usage(outcome))}}\n\n`
          : '';
      return `${tail}data: [DONE]\n\n`;
    },
  };
}

/** Why the engine stopped, in the words of OpenAI's APIs. */
export function finishReasonOf(reply: Reply, finished: Finished | undefined): string {
  const reason = finished?.reason ?? 'stop';
  return reply.toolCall && !reply.toolCall.isNamed && reason === 'stop' ? 'tool_calls' : reason;
}

function usage(outcome: Outcome): object {
  const { prompt, output, cached } = countsOf(outcome);
  return {
    prompt_tokens: prompt,
    total_tokens: prompt + output,
    completion_tokens: output,
    prompt_tokens_details: outcome.showsDetails ? { cached_tokens: cached } : null,
  };
}

/** Probabilities of the tokens `from` to `to`, made from hashes of their text: in a chat's form or a completion's. */
function logprobsOf(task: Task, reply: Reply, from: number, to: number): object | null {
  const { logprobs: count } = task;
  if (count === undefined) return null;
  const pieces = reply.deltas.slice(Math.max(from, reply.thoughtTokens), to).filter((piece) => piece !== '');
  const entry = (token: string, rank: number) => ({
    token,
    logprob: -((hashText(token) % 50) / 100) - rank,
    bytes: [...Buffer.from(token)],
  });
  const top = (token: string) =>
    Array.from({ length: count }, (_, rank) => entry(rank === 0 ? token : `${token}${'~'.repeat(rank)}`, rank));
  if (task.api !== 'completions') {
    return { content: pieces.map((token) => ({ ...entry(token, 0), top_logprobs: top(token) })) };
  }
  let offset = task.echo.length + reply.deltas.slice(0, from).join('').length;
  return {
    tokens: pieces,
    token_logprobs: pieces.map((token) => entry(token, 0).logprob),
    top_logprobs: pieces.map((token) =>
      Object.fromEntries(top(token).map(({ token: other, logprob }) => [other, logprob])),
    ),
    text_offset: pieces.map((token) => {
      const at = offset;
      offset += token.length;
      return at;
    }),
  };
}
