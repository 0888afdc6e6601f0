import type { TraceSpan, Tracing } from '../telemetry/tracing.ts';
import type { Exchange, Hop } from './forward.ts';
import { isAnswered } from './forward.ts';

/** The span of one completion, with a span inside it for each call of an engine. */
export interface TurnTrace {
  /** A call that begins now: the parent header that names it, and how it ends. */
  leg(name: string, target: string): TraceLeg;
}

export interface TraceLeg {
  readonly traceparent: string;
  /** Once; later calls are without effect. `error` says that it failed. */
  end(status: number | undefined, error?: string): void;
}

/** Headers that a traced request gets anew for each call. */
export const traceHeader = 'traceparent';

/** Undefined when this request's trace is not recorded: its trace headers are passed on as they are. */
export function beginTrace(
  tracing: Tracing | undefined,
  exchange: Exchange,
  about: { readonly requestId: string; readonly model: string },
): TurnTrace | undefined {
  if (!tracing) return undefined;
  const { req, res } = exchange;
  const { traceparent, tracestate } = req.headers;
  const span = tracing.begin('sidecar.request', {
    ...(typeof traceparent === 'string' ? { traceparent } : {}),
    ...(typeof tracestate === 'string' ? { tracestate } : {}),
  });
  if (!span) return undefined;
  span.set({ 'gen_ai.request.id': about.requestId, 'gen_ai.request.model': about.model });
  const open = new Set<TraceLeg>();
  res.on('close', () => {
    const isWhole = isAnswered(res);
    for (const leg of [...open]) leg.end(undefined, isWhole ? undefined : 'the client went away');
    if (isWhole) span.set({ 'http.response.status_code': res.statusCode });
    if (!isWhole) span.fail('the client went away');
    else if (res.statusCode >= 500) span.fail(`answered ${res.statusCode}`);
    span.end();
  });
  return {
    leg: (name, target) => {
      const leg = startLeg(span, name, target, () => open.delete(leg));
      open.add(leg);
      return leg;
    },
  };
}

function startLeg(parent: TraceSpan, name: string, target: string, onEnd: () => void): TraceLeg {
  const span = parent.child(name);
  span.set({ 'server.address': target });
  let isOver = false;
  return {
    traceparent: span.traceparent,
    end(status, error) {
      if (isOver) return;
      isOver = true;
      onEnd();
      if (status !== undefined) span.set({ 'http.response.status_code': status });
      if (error !== undefined) span.fail(error);
      else if (status !== undefined && status >= 500) span.fail(`answered ${status}`);
      span.end();
    },
  };
}

/** The headers of a call with the parent that its span is, where there is one. */
export function tracedHeaders(headers: Hop['headers'], leg: TraceLeg | undefined): Hop['headers'] {
  return leg ? [traceHeader, leg.traceparent, ...headers] : headers;
}
