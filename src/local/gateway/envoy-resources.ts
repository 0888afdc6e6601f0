import type { Endpoint } from './endpoints.ts';
import type { Json, JsonObject } from './shapes.ts';
import { type Collector, renderCollector, renderTracing } from './tracing.ts';

/** The Envoy resources that the translation is made of, as proto3 JSON (Envoy 1.40, API v3). */

/** The picker's answer, and the only way a request reaches a chosen pod (endpoint picker protocol 004). */
export const destinationHeader = 'x-gateway-destination-endpoint';
const metadataNamespace = 'envoy.lb';
const extProcName = 'envoy.filters.http.ext_proc';

const type = (name: string) => `type.googleapis.com/${name}`;
const filters = 'envoy.extensions.filters';

/** A cluster that does not exist: traffic to it is answered with 500, as the Gateway API asks for invalid backends. */
export const invalidBackendCluster = 'invalid-backend';

export type UpstreamProtocol = 'http1' | 'http2';

/** How an upstream is called by TLS. */
export interface UpstreamTls {
  /** Name to ask for and to find in its certificate. */
  readonly serverName: string;
  /** PEM of the authorities that it is held against; undefined: it is taken unseen. */
  readonly authorities: string | undefined;
}

function transportSocket(tls: UpstreamTls | undefined, protocol: UpstreamProtocol): JsonObject {
  if (!tls) return {};
  const validation: JsonObject =
    tls.authorities === undefined
      ? {}
      : {
          validation_context: {
            trusted_ca: { inline_string: tls.authorities },
            match_typed_subject_alt_names: [{ san_type: 'DNS', matcher: { exact: tls.serverName } }],
          },
        };
  return {
    transport_socket: {
      name: 'envoy.transport_sockets.tls',
      typed_config: {
        '@type': type('envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext'),
        sni: tls.serverName,
        common_tls_context: { alpn_protocols: [protocol === 'http2' ? 'h2' : 'http/1.1'], ...validation },
      },
    },
  };
}

/** Connections to the address that the destination header names; with TLS a cluster for each pool, under `name`. */
export function renderDestinationCluster(
  protocol: UpstreamProtocol,
  name = destinationClusterName(protocol),
  tls?: UpstreamTls,
): JsonObject {
  return {
    name,
    type: 'ORIGINAL_DST',
    lb_policy: 'CLUSTER_PROVIDED',
    connect_timeout: '5s',
    original_dst_lb_config: { use_http_header: true, http_header_name: destinationHeader },
    ...common(protocol),
    ...transportSocket(tls, protocol),
  };
}

export function destinationClusterName(protocol: UpstreamProtocol): string {
  return protocol === 'http2' ? 'original-destination-h2' : 'original-destination';
}

/**
 * Ready pods behind one name. The endpoints lie in the cluster itself rather than behind EDS, because a file-based
 * subscription costs an inotify instance for each cluster, and a user has 128 by default. Requests that run survive
 * the replacement of their cluster.
 */
export function renderPodCluster(
  name: string,
  endpoints: readonly Endpoint[],
  protocol: UpstreamProtocol,
  options: { readonly isPicker?: boolean; readonly tls?: UpstreamTls | undefined } = {},
): JsonObject {
  return {
    name,
    type: 'STATIC',
    lb_policy: 'LEAST_REQUEST',
    connect_timeout: '5s',
    load_assignment: {
      cluster_name: name,
      endpoints: [
        {
          lb_endpoints: endpoints.map(({ address, port }) => ({
            endpoint: { address: { socket_address: { address, port_value: port } } },
          })),
        },
      ],
    },
    ...common(protocol),
    ...transportSocket(options.tls, protocol),
    ...(options.isPicker ? pickerHealth : {}),
  };
}

/**
 * Failing open works only until Envoy has sent body bytes to the picker's stream, which it does while it is still
 * connecting. So a dead picker must be known before the request comes: no healthy host fails at once.
 */
const pickerHealth: JsonObject = {
  // Workers learn of a change at once rather than within a second.
  common_lb_config: { healthy_panic_threshold: { value: 0 }, update_merge_window: '0s' },
  health_checks: [
    {
      timeout: '1s',
      interval: '0.5s',
      no_traffic_interval: '0.5s',
      unhealthy_interval: '0.25s',
      unhealthy_threshold: 1,
      healthy_threshold: 1,
      tcp_health_check: {},
    },
  ],
};

function common(protocol: UpstreamProtocol): JsonObject {
  const limit = 40_000;
  return {
    circuit_breakers: {
      thresholds: [{ max_connections: limit, max_pending_requests: limit, max_requests: limit, max_retries: limit }],
    },
    typed_extension_protocol_options: {
      'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': {
        '@type': type('envoy.extensions.upstreams.http.v3.HttpProtocolOptions'),
        explicit_http_config: protocol === 'http2' ? { http2_protocol_options: {} } : { http_protocol_options: {} },
      },
    },
  };
}

/** Turns the picker on for one route or weighted cluster. */
export function renderPickerOverride(picker: {
  readonly cluster: string;
  readonly authority: string;
  readonly failOpen: boolean;
}): JsonObject {
  return {
    [extProcName]: {
      '@type': type(`${filters}.http.ext_proc.v3.ExtProcPerRoute`),
      overrides: {
        grpc_service: { envoy_grpc: { cluster_name: picker.cluster, authority: picker.authority } },
        failure_mode_allow: picker.failOpen,
      },
    },
  };
}

/** One address and port; its routes come from the route configuration of the same name. */
export function renderListener(listener: {
  readonly name: string;
  readonly address: string;
  readonly port: number;
  readonly accessLogPath: string;
  readonly routesPath: string;
  readonly collector?: Collector | undefined;
}): JsonObject {
  return {
    name: listener.name,
    address: { socket_address: { address: listener.address, port_value: listener.port } },
    // With it a second proxy could listen on the same address unnoticed.
    enable_reuse_port: false,
    filter_chains: [
      {
        filters: [
          {
            name: 'envoy.filters.network.http_connection_manager',
            typed_config: renderConnectionManager(listener),
          },
        ],
      },
    ],
  };
}

function renderConnectionManager(listener: {
  readonly name: string;
  readonly accessLogPath: string;
  readonly routesPath: string;
  readonly collector?: Collector | undefined;
}): JsonObject {
  return {
    '@type': type(`${filters}.network.http_connection_manager.v3.HttpConnectionManager`),
    stat_prefix: listener.name,
    codec_type: 'AUTO',
    rds: {
      route_config_name: listener.name,
      config_source: { path_config_source: { path: listener.routesPath }, resource_api_version: 'V3' },
    },
    use_remote_address: true,
    normalize_path: true,
    // A stream may be silent for as long as a model thinks.
    stream_idle_timeout: '0s',
    request_timeout: '0s',
    preserve_external_request_id: true,
    always_set_request_id_in_response: true,
    request_id_extension: {
      typed_config: {
        '@type': type('envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig'),
        pack_trace_reason: false,
        // Ids that clients choose are rarely UUIDs, and Envoy samples nothing else by them.
        use_request_id_for_trace_sampling: false,
      },
    },
    ...renderTracing(listener.collector),
    server_header_transformation: 'PASS_THROUGH',
    http2_protocol_options: { max_concurrent_streams: 1000 },
    // A client must not choose where its request goes.
    early_header_mutation_extensions: [
      {
        name: 'envoy.http.early_header_mutation.header_mutation',
        typed_config: {
          '@type': type('envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation'),
          mutations: [{ remove: destinationHeader }],
        },
      },
    ],
    http_filters: [
      { name: extProcName, disabled: true, typed_config: renderExternalProcessor() },
      {
        name: 'envoy.filters.http.router',
        typed_config: { '@type': type(`${filters}.http.router.v3.Router`) },
      },
    ],
    access_log: [
      {
        name: 'envoy.access_loggers.file',
        typed_config: {
          '@type': type('envoy.extensions.access_loggers.file.v3.FileAccessLog'),
          path: listener.accessLogPath,
          log_format: { json_format: accessLogFields },
        },
      },
    ],
  };
}

/** Off unless a route turns it on; the picker named here is never asked. */
function renderExternalProcessor(): JsonObject {
  const namespaces: Json = { untyped: [metadataNamespace] };
  return {
    '@type': type(`${filters}.http.ext_proc.v3.ExternalProcessor`),
    grpc_service: { envoy_grpc: { cluster_name: invalidBackendCluster } },
    processing_mode: {
      request_header_mode: 'SEND',
      response_header_mode: 'SEND',
      request_body_mode: 'FULL_DUPLEX_STREAMED',
      response_body_mode: 'FULL_DUPLEX_STREAMED',
      request_trailer_mode: 'SEND',
      response_trailer_mode: 'SEND',
    },
    // The picker may hold a request in its queue.
    message_timeout: '1000s',
    status_on_error: { code: 'ServiceUnavailable' },
    // The route is looked up again once the destination is known.
    route_cache_action: 'CLEAR',
    metadata_options: { forwarding_namespaces: namespaces, receiving_namespaces: namespaces },
  };
}

const accessLogFields: JsonObject = {
  time: '%START_TIME%',
  method: '%REQ(:METHOD)%',
  path: '%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%',
  upstreamPath: '%REQ(:PATH)%',
  authority: '%REQ(:AUTHORITY)%',
  protocol: '%PROTOCOL%',
  route: '%ROUTE_NAME%',
  status: '%RESPONSE_CODE%',
  responseFlags: '%RESPONSE_FLAGS%',
  responseDetails: '%RESPONSE_CODE_DETAILS%',
  durationMs: '%DURATION%',
  bytesReceived: '%BYTES_RECEIVED%',
  bytesSent: '%BYTES_SENT%',
  requestId: '%REQ(X-REQUEST-ID)%',
  destination: `%REQ(${destinationHeader.toUpperCase()})%`,
  upstreamHost: '%UPSTREAM_HOST%',
  upstreamCluster: '%UPSTREAM_CLUSTER%',
  prefill: '%RESP(X-SIGNALBOX-PREFILL)%',
  decode: '%RESP(X-SIGNALBOX-DECODE)%',
};

/** The configuration Envoy starts with: where the rest is read from. */
export function renderBootstrap(paths: {
  readonly listenersPath: string;
  readonly clustersPath: string;
  readonly collector?: Collector | undefined;
}): JsonObject {
  const source = (path: string) => ({ path_config_source: { path }, resource_api_version: 'V3' });
  return {
    node: { id: 'signalbox-local', cluster: 'signalbox-local' },
    admin: { address: { socket_address: { address: '127.0.0.1', port_value: 0 } } },
    ...renderCollector(paths.collector),
    dynamic_resources: { lds_config: source(paths.listenersPath), cds_config: source(paths.clustersPath) },
    layered_runtime: {
      layers: [{ name: 'static', static_layer: { 're2.max_program_size.error_level': 1000 } }],
    },
  };
}
