import { AppError } from '../../errors.ts';
import type { JsonObject } from './shapes.ts';

/** Where the gateway sends its spans. */
export interface Collector {
  readonly host: string;
  readonly port: number;
  /** With `/v1/traces`. */
  readonly url: string;
}

const cluster = 'otlp-collector';

/** An OTLP/HTTP collector by its address. Errors: `usage` when it is no URL with http. */
export function parseCollector(text: string): Collector {
  const url = URL.parse(text);
  if (url?.protocol !== 'http:' || url.hostname === '') {
    throw new AppError(
      'usage',
      `OTEL_EXPORTER_OTLP_ENDPOINT: "${text}" is not an http URL; give one such as http://127.0.0.1:4318, or unset it`,
    );
  }
  // 4317 speaks gRPC; whoever serves it serves HTTP beside it.
  if (url.port === '4317') url.port = '4318';
  const base = url.href.replace(/\/+$/, '');
  return {
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port: Number(url.port || 80),
    url: base.endsWith('/v1/traces') ? base : `${base}/v1/traces`,
  };
}

/** Part of a connection manager: a span for each request, and `traceparent` for who comes next. */
export function renderTracing(collector: Collector | undefined): JsonObject {
  if (!collector) return {};
  return {
    tracing: {
      random_sampling: { value: 100 },
      provider: {
        name: 'envoy.tracers.opentelemetry',
        typed_config: {
          '@type': 'type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig',
          http_service: { http_uri: { uri: collector.url, cluster, timeout: '5s' } },
          service_name: 'gateway',
        },
      },
    },
  };
}

/** Part of the bootstrap: how the collector is reached. */
export function renderCollector(collector: Collector | undefined): JsonObject {
  if (!collector) return {};
  const address = { socket_address: { address: collector.host, port_value: collector.port } };
  return {
    static_resources: {
      clusters: [
        {
          name: cluster,
          type: 'STRICT_DNS',
          connect_timeout: '2s',
          load_assignment: { cluster_name: cluster, endpoints: [{ lb_endpoints: [{ endpoint: { address } }] }] },
        },
      ],
    },
  };
}
