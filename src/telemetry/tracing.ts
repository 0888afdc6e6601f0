import type { Attributes, Span } from '@opentelemetry/api';
import type { Logger } from './log.ts';

/** One span that is recorded. */
export interface TraceSpan {
  /** W3C `traceparent` that names this span as the parent of what follows. */
  readonly traceparent: string;
  set(attributes: Attributes): void;
  /** A span inside this one; `end` is to be called. */
  child(name: string): TraceSpan;
  fail(message: string): void;
  end(): void;
}

export interface Tracing {
  /** A span of the trace that `traceparent` names, or of one of its own; undefined when it is not among the sampled. */
  begin(name: string, parent: { readonly traceparent?: string; readonly tracestate?: string }): TraceSpan | undefined;
  /** Sends what is left, within five seconds. */
  close(): Promise<void>;
}

const closeTimeoutMs = 5_000;

/**
 * Sends spans to an OpenTelemetry collector over HTTP. Loads the libraries, so call it only where a collector is named.
 *
 * @param endpoint the collector's address; `/v1/traces` is added
 * @param ratio share of traces that are recorded where the caller has not decided, 0–1
 */
export async function startTracing(options: {
  readonly endpoint: string;
  readonly service: string;
  readonly ratio: number;
  readonly log: Pick<Logger, 'warn'>;
}): Promise<Tracing> {
  const [api, sdk, { resourceFromAttributes }, { OTLPTraceExporter }] = await Promise.all([
    import('@opentelemetry/api'),
    import('@opentelemetry/sdk-trace'),
    import('@opentelemetry/resources'),
    import('@opentelemetry/exporter-trace-otlp-http'),
  ]);
  const url = new URL(options.endpoint);
  if (url.port === '4317') {
    options.log.warn(
      { endpoint: options.endpoint },
      'spans are sent over HTTP: port 4318 instead of 4317, which is for gRPC',
    );
    url.port = '4318';
  }
  const base = url.href.replace(/\/+$/, '');
  const provider = new sdk.TracerProvider({
    resource: resourceFromAttributes({ 'service.name': options.service }),
    sampler: new sdk.ParentBasedSampler({ root: new sdk.TraceIdRatioBasedSampler(options.ratio) }),
    spanProcessors: [
      new sdk.BatchSpanProcessor({
        exporter: new OTLPTraceExporter({ url: base.endsWith('/v1/traces') ? base : `${base}/v1/traces` }),
      }),
    ],
  });
  const tracer = provider.getTracer('signalbox');

  const wrap = (span: Span): TraceSpan => {
    const { traceId, spanId, traceFlags } = span.spanContext();
    return {
      traceparent: `00-${traceId}-${spanId}-${traceFlags.toString(16).padStart(2, '0')}`,
      set: (attributes) => {
        span.setAttributes(attributes);
      },
      child: (name) => wrap(tracer.startSpan(name, {}, api.trace.setSpan(api.ROOT_CONTEXT, span))),
      fail: (message) => {
        span.setStatus({ code: api.SpanStatusCode.ERROR, message });
      },
      end: () => span.end(),
    };
  };

  return {
    begin: (name, parent) => {
      const match = /^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$/.exec(parent.traceparent ?? '');
      const [, traceId = '', spanId = '', flags = '00'] = match ?? [];
      const context =
        match === null || !api.isSpanContextValid({ traceId, spanId, traceFlags: 0 })
          ? api.ROOT_CONTEXT
          : api.trace.setSpanContext(api.ROOT_CONTEXT, {
              traceId,
              spanId,
              traceFlags: Number.parseInt(flags, 16) & api.TraceFlags.SAMPLED,
              isRemote: true,
              ...(parent.tracestate === undefined ? {} : { traceState: api.createTraceState(parent.tracestate) }),
            });
      const span = tracer.startSpan(name, { kind: api.SpanKind.SERVER }, context);
      return span.isRecording() ? wrap(span) : undefined;
    },
    close: async () => {
      const timer = new Promise<void>((resolve) => setTimeout(resolve, closeTimeoutMs).unref());
      await Promise.race([provider.shutdown(), timer]).catch((thrown: unknown) => {
        options.log.warn({ error: String(thrown) }, 'the last spans could not be sent');
      });
    },
  };
}
