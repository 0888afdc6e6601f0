import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

const secondsBuckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120];

/**
 * Every metric of the routing sidecar, on a registry of its own.
 *
 * @param read gauges that are read when asked for
 */
export function createSidecarMetrics(read: { readonly inFlight: () => number; readonly sessions: () => number }) {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  return {
    registry,
    requests: new Counter({
      name: 'signalbox_sidecar_requests_total',
      help: 'Requests answered, by kind (completion, passthrough) and HTTP status; 499 when the client left first.',
      labelNames: ['kind', 'code'],
      registers,
    }),
    inFlight: new Gauge({
      name: 'signalbox_sidecar_requests_in_flight',
      help: 'Requests not answered to the end yet.',
      registers,
      collect() {
        this.set(read.inFlight());
      },
    }),
    decisions: new Counter({
      name: 'signalbox_sidecar_decisions_total',
      help: 'Completions by where the prompt was to be computed: prefill_header, prefill_fallback, local_session, local_bound, local_picker, local_no_prefill.',
      labelNames: ['decision'],
      registers,
    }),
    prefills: new Counter({
      name: 'signalbox_sidecar_prefill_attempts_total',
      help: 'Calls of prefill pods by result: ok, rejected (the request is at fault), error, unreachable, timeout.',
      labelNames: ['result'],
      registers,
    }),
    encodes: new Counter({
      name: 'signalbox_sidecar_encode_attempts_total',
      help: 'Calls of encoders, one an item, by result: ok, rejected (the request is at fault), error, unreachable, timeout.',
      labelNames: ['result'],
      registers,
    }),
    encodeSeconds: new Histogram({
      name: 'signalbox_sidecar_encode_seconds',
      help: 'Time until all items of a request were encoded, in seconds.',
      buckets: secondsBuckets,
      registers,
    }),
    encodeFallbacks: new Counter({
      name: 'signalbox_sidecar_encode_fallbacks_total',
      help: 'Requests whose items were left to the engines because no encoder could, by reason.',
      labelNames: ['reason'],
      registers,
    }),
    prefillRetries: new Counter({
      name: 'signalbox_sidecar_prefill_retries_total',
      help: 'Further tries of a prefill after a failure: with the same pod, or with the next one.',
      labelNames: ['with'],
      registers,
    }),
    prefillSeconds: new Histogram({
      name: 'signalbox_sidecar_prefill_seconds',
      help: 'Time until a prefill pod had answered, in seconds.',
      buckets: secondsBuckets,
      registers,
    }),
    firstByteSeconds: new Histogram({
      name: 'signalbox_sidecar_first_byte_seconds',
      help: 'Time from a completion request to the first byte of its answer, in seconds.',
      labelNames: ['prefill'],
      buckets: secondsBuckets,
      registers,
    }),
    fallbacks: new Counter({
      name: 'signalbox_sidecar_prefill_fallbacks_total',
      help: 'Prompts computed by the local engine because no prefill pod could, by reason.',
      labelNames: ['reason'],
      registers,
    }),
    denied: new Counter({
      name: 'signalbox_sidecar_targets_denied_total',
      help: 'Prefill targets that a request named and the allow-list refused.',
      registers,
    }),
    decoderErrors: new Counter({
      name: 'signalbox_sidecar_decoder_errors_total',
      help: 'Calls of the local engine that failed: refused, timeout, reset, other.',
      labelNames: ['kind'],
      registers,
    }),
    sessions: new Gauge({
      name: 'signalbox_sidecar_sessions',
      help: 'Conversations remembered.',
      registers,
      collect() {
        this.set(read.sessions());
      },
    }),
    sessionLookups: new Counter({
      name: 'signalbox_sidecar_session_lookups_total',
      help: 'Lookups of conversations by result: hit, miss.',
      labelNames: ['result'],
      registers,
    }),
    sessionEvictions: new Counter({
      name: 'signalbox_sidecar_session_evictions_total',
      help: 'Conversations forgotten to make room.',
      registers,
    }),
    sessionInvalidations: new Counter({
      name: 'signalbox_sidecar_session_invalidations_total',
      help: 'Conversations forgotten because their blocks are gone: refused, restart, reset (of the cache, or adapters), cold (fewer cached tokens than expected).',
      labelNames: ['reason'],
      registers,
    }),
    allowedTargets: new Gauge({
      name: 'signalbox_sidecar_allowed_targets',
      help: 'Prefill targets that may be called.',
      registers,
    }),
  };
}

export type SidecarMetrics = ReturnType<typeof createSidecarMetrics>;
