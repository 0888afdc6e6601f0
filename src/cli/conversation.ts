import { request } from 'undici';
import { AppError } from '../errors.ts';
import { EventSplitter, eventData } from '../openai/sse.ts';
import { type Usage, usageOf } from '../openai/usage.ts';

export interface Message {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

/** What one streamed answer told about itself. */
export interface Turn {
  readonly text: string;
  /** Milliseconds from sending to the first token. */
  readonly firstTokenMs: number;
  readonly totalMs: number;
  readonly usage: Usage | undefined;
  /** `ip:port` of the prefill pod, or `none`. */
  readonly prefill: string;
  /** Name of the decode pod. */
  readonly decode: string;
  readonly requestId: string;
}

/**
 * Sends one streaming chat completion and hands its tokens on as they come.
 *
 * @throws AppError with the answer's status and text when it is not 200, or when the stream ends without `[DONE]`
 */
export async function sendTurn(
  options: {
    readonly url: string;
    readonly model: string;
    readonly messages: readonly Message[];
    readonly maxTokens: number;
    readonly signal: AbortSignal;
  },
  onToken: (text: string) => void,
): Promise<Turn> {
  const startedAt = performance.now();
  const answer = await request(options.url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'text/event-stream' },
    body: JSON.stringify({
      model: options.model,
      messages: options.messages,
      max_tokens: options.maxTokens,
      stream: true,
      stream_options: { include_usage: true },
    }),
    headersTimeout: 30_000,
    bodyTimeout: 30_000,
    signal: options.signal,
  });
  if (answer.statusCode !== 200) {
    throw new AppError(
      'badGateway',
      `${options.url} answered ${answer.statusCode}: ${(await answer.body.text()).slice(0, 500)}`,
    );
  }
  const header = (name: string) => String(answer.headers[name] ?? '');
  const splitter = new EventSplitter();
  let text = '';
  let firstTokenMs = Number.NaN;
  let usage: Usage | undefined;
  let isDone = false;
  for await (const chunk of answer.body as AsyncIterable<Buffer>) {
    for (const event of splitter.push(chunk)) {
      const data = eventData(event);
      if (data === undefined) continue;
      if (data === '[DONE]') {
        isDone = true;
        continue;
      }
      const parsed = JSON.parse(data) as {
        choices?: readonly { delta?: { content?: string | null } }[];
        error?: { message?: string };
      };
      if (parsed.error) throw new AppError('badGateway', `the stream carried an error: ${parsed.error.message}`);
      usage = usageOf(parsed) ?? usage;
      const content = parsed.choices?.[0]?.delta?.content;
      if (!content) continue;
      if (Number.isNaN(firstTokenMs)) firstTokenMs = performance.now() - startedAt;
      text += content;
      onToken(content);
    }
  }
  if (!isDone) throw new AppError('badGateway', 'the stream ended before [DONE]');
  return {
    text,
    firstTokenMs,
    totalMs: performance.now() - startedAt,
    usage,
    prefill: header('x-signalbox-prefill'),
    decode: header('x-signalbox-decode'),
    requestId: header('x-request-id'),
  };
}
