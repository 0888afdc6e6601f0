import { z } from 'zod';
import { messageOf } from '../../../errors.ts';
import type { Cycle } from '../../framework/cycle-state.ts';
import { type PluginFactory, type Preparer, parseParameters } from '../../framework/plugin.ts';
import { promptTokensKey } from '../../framework/prompt-tokens.ts';

const durationText = /^(\d+(?:\.\d+)?)(ms|s)$/;
const duration = z.string().regex(durationText, 'must be a duration such as 400ms');

const parameters = z.strictObject({
  /** Accepted; lengths are always estimated at four bytes a token. */
  estimate: z.unknown().optional(),
  vllm: z
    .strictObject({
      url: z.url({ protocol: /^https?$/ }).optional(),
      /** Asks a ready endpoint of the pool instead, another one each time. */
      fromPool: z.boolean().default(false),
      timeout: duration.default('5s'),
      mmTimeout: duration.default('30s'),
    })
    .optional(),
  /** What the tokenizer calls the model; as the request does when absent. */
  modelName: z.string().optional(),
  tokenizerPoolConfig: z.unknown().optional(),
  udsTokenizerConfig: z.unknown().optional(),
});

const defaultUrl = 'http://localhost:8000';
/** How long an address that has no rendering API is asked for tokens only. */
const renderPauseMs = 60_000;
const maxInFlight = 64;
const maxAnswerBytes = 64 << 20;

/**
 * The prompt's tokens: as the request gives them, else from vLLM (`/v1/…/render`, or `/tokenize` where that is missing).
 * A request whose tokens are not there in time is served without them.
 */
export const createTokenProducer: PluginFactory = (context): Preparer => {
  const { vllm, modelName } = parseParameters(context, parameters);
  const timeoutMs = toMs(vllm?.timeout ?? '5s');
  let turn = 0;
  let inFlight = 0;
  const withoutRender = new Map<string, number>();

  const baseUrl = ({ pool }: Cycle): string | undefined => {
    if (vllm?.fromPool !== true) return vllm?.url?.replace(/\/+$/, '') ?? defaultUrl;
    const ready = pool.filter(({ isReady, load }) => isReady && !load.isAvoided);
    const endpoint = ready[turn++ % Math.max(1, ready.length)];
    return endpoint === undefined ? undefined : `http://${endpoint.hostPort}`;
  };

  const ask = async (base: string, cycle: Cycle): Promise<Uint32Array | undefined> => {
    const { completion } = cycle.request;
    if (completion === undefined) return undefined;
    const { api } = completion;
    const body = modelName === undefined ? completion.body : { ...completion.body, model: modelName };
    const signal = AbortSignal.timeout(timeoutMs);
    const isChat = api === 'chat' || api === 'messages';
    const nowMs = context.clock.now();
    if ((withoutRender.get(base) ?? 0) <= nowMs && (api === 'chat' || api === 'completions')) {
      const path = api === 'chat' ? '/v1/chat/completions/render' : '/v1/completions/render';
      const rendered = await post(`${base}${path}`, body, signal);
      if (rendered !== 'missing') return tokensIn(rendered);
      if (withoutRender.size > 1024) withoutRender.clear();
      withoutRender.set(base, nowMs + renderPauseMs);
    }
    const { model, messages, tools, prompt, input, chat_template_kwargs: kwargs } = body;
    const text = prompt ?? input;
    if (!isChat && typeof text !== 'string') return undefined;
    const asked = isChat ? { model, messages, tools, chat_template_kwargs: kwargs } : { model, prompt: text };
    const told = await post(`${base}/tokenize`, asked, signal);
    return told === 'missing' ? undefined : tokensIn(told);
  };

  return {
    type: context.type,
    name: context.name,
    isEarly: true,
    prepare: (cycle) => {
      const given = givenTokens(cycle);
      if (given !== undefined) {
        cycle.set(promptTokensKey, { ids: given });
        return undefined;
      }
      if (vllm === undefined || cycle.request.completion === undefined) return undefined;
      const base = baseUrl(cycle);
      if (base === undefined) return undefined;
      if (inFlight >= maxInFlight) {
        context.report('late', `${base} is asked for the tokens of ${inFlight} prompts already`);
        return undefined;
      }
      inFlight++;
      return ask(base, cycle)
        .then((ids) => {
          if (ids !== undefined) cycle.set(promptTokensKey, { ids });
        })
        .catch((thrown: unknown) => {
          const isLate = thrown instanceof Error && thrown.name === 'TimeoutError';
          context.report(isLate ? 'late' : 'down', `${base} gave no tokens: ${messageOf(thrown)}`);
        })
        .finally(() => {
          inFlight--;
        });
    },
  };
};

/** Of a prompt that is made of token ids. */
function givenTokens({ request }: Cycle): Uint32Array | undefined {
  const { prompt, token_ids: ids } = request.completion?.body ?? {};
  return toIds(request.completion?.api === 'generate' ? ids : prompt);
}

function toIds(value: unknown): Uint32Array | undefined {
  if (!Array.isArray(value) || typeof value[0] !== 'number') return undefined;
  return Uint32Array.from(value as number[]);
}

/** Of an answer to rendering or tokenizing; the first prompt's of several. */
function tokensIn(answer: unknown): Uint32Array | undefined {
  const first = (Array.isArray(answer) ? answer[0] : answer) as Readonly<Record<string, unknown>> | null | undefined;
  return toIds(first?.token_ids ?? first?.tokens ?? first?.prompt_token_ids);
}

async function post(url: string, body: unknown, signal: AbortSignal): Promise<unknown> {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
    signal,
    redirect: 'error',
  });
  if (response.status === 404 || response.status === 405 || response.status === 501) {
    await response.body?.cancel();
    return 'missing';
  }
  if (!response.ok || Number(response.headers.get('content-length') ?? 0) > maxAnswerBytes) {
    await response.body?.cancel();
    throw new Error(`it answered ${response.status}`);
  }
  return response.json();
}

function toMs(text: string): number {
  const [, count = '5', unit = 's'] = durationText.exec(text) ?? [];
  return Number(count) * (unit === 'ms' ? 1 : 1000);
}
