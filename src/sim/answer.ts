import type { Task } from './completion.ts';
import type { Finished } from './engine.ts';
import type { RemoteParams } from './kv-transfer.ts';

export interface AnswerHead {
  readonly id: string;
  /** Seconds since the epoch. */
  readonly created: number;
  readonly model: string;
}

export interface Outcome {
  readonly finished: Finished;
  readonly params: RemoteParams | null;
  readonly showsDetails: boolean;
}

/** The body of an answer that is not streamed. */
export function renderAnswer(task: Task, head: AnswerHead, outcome: Outcome): string {
  const { reply } = task;
  const { finished } = outcome;
  const text = task.echo + reply.deltas.slice(0, finished.outputTokens).join('');
  const ending = { logprobs: null, finish_reason: finished.reason, stop_reason: reply.stopReason, token_ids: null };
  const choice =
    task.api === 'chat'
      ? { index: 0, message: { role: 'assistant', content: text, refusal: null, tool_calls: [] }, ...ending }
      : { index: 0, text, ...ending };
  return JSON.stringify({
    id: head.id,
    object: task.api === 'chat' ? 'chat.completion' : 'text_completion',
    created: head.created,
    model: head.model,
    choices: [choice],
    service_tier: null,
    system_fingerprint: null,
    usage: usage(outcome),
    kv_transfer_params: outcome.params,
  });
}

/** The events of a streamed answer, as texts with their blank lines. */
export interface EventWriter {
  first(): string;
  delta(text: string): string;
  last(outcome: Outcome): string;
}

export function createEventWriter(task: Task, head: AnswerHead): EventWriter {
  const { reply } = task;
  const isChat = task.api === 'chat';
  const common = JSON.stringify({
    id: head.id,
    object: isChat ? 'chat.completion.chunk' : 'text_completion',
    created: head.created,
    model: head.model,
  }).slice(0, -1);
  const before = `data: ${common},"choices":[{"index":0,${isChat ? '"delta":{"content":' : '"text":'}`;
  const after = `${isChat ? '}' : ''},"logprobs":null,"finish_reason":null}]}\n\n`;
  return {
    first: () => {
      if (isChat) {
        return `data: ${common},"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}\n\n`;
      }
      return task.echo === '' ? '' : before + JSON.stringify(task.echo) + after;
    },
    delta: (text) => before + JSON.stringify(text) + after,
    last: (outcome) => {
      const end = `"finish_reason":"${outcome.finished.reason}","stop_reason":${JSON.stringify(reply.stopReason)}}]`;
      const params = outcome.params ? `,"kv_transfer_params":${JSON.stringify(outcome.params)}` : '';
      const finish = `${before}""${isChat ? '}' : ''},"logprobs":null,${end}${params}}\n\n`;
      const tail = task.includesUsage
        ? `data: ${common},"choices":[],"usage":${JSON.stringify(usage(outcome))}}\n\n`
        : '';
      return `${finish}${tail}data: [DONE]\n\n`;
    },
  };
}

function usage({ finished, showsDetails }: Outcome): object {
  return {
    prompt_tokens: finished.promptTokens,
    total_tokens: finished.promptTokens + finished.outputTokens,
    completion_tokens: finished.outputTokens,
    prompt_tokens_details: showsDetails ? { cached_tokens: finished.cachedTokens } : null,
  };
}
