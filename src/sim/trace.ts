import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Tracing } from '../telemetry/tracing.ts';
import type { Finished } from './engine.ts';

/** Records a request as vLLM does: one span `llm_request` in the caller's trace, from arrival to the end of the answer. */
export function traceRequest(
  tracing: Tracing | undefined,
  request: IncomingMessage,
  response: ServerResponse,
  about: { readonly id: string; readonly model: string; readonly maxTokens: number; readonly choices: number },
  finished: () => Finished | undefined,
): void {
  if (!tracing) return;
  const { traceparent, tracestate } = request.headers;
  const span = tracing.begin('llm_request', {
    ...(typeof traceparent === 'string' ? { traceparent } : {}),
    ...(typeof tracestate === 'string' ? { tracestate } : {}),
  });
  if (!span) return;
  const startMs = performance.now();
  span.set({
    'gen_ai.request.id': about.id,
    'gen_ai.response.model': about.model,
    'gen_ai.request.max_tokens': about.maxTokens,
    'gen_ai.request.n': about.choices,
  });
  response.once('close', () => {
    const done = finished();
    if (done) {
      span.set({
        'gen_ai.usage.prompt_tokens': done.promptTokens,
        'gen_ai.usage.completion_tokens': done.outputTokens,
      });
    }
    span.set({ 'gen_ai.latency.e2e': (performance.now() - startMs) / 1000 });
    if (!response.writableFinished) span.fail('aborted');
    span.end();
  });
}
