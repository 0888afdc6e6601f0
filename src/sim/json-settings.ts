import { messageOf } from '../errors.ts';
import type { KvEventsSettings } from './kv-publisher.ts';
import type { GivenArgs } from './vllm-flags.ts';

/** Handing over KV with a NIXL connector. */
export interface TransferSettings {
  /** Empty = a new one at each start. */
  readonly engineId: string;
  readonly onFailure: 'fail' | 'recompute';
  readonly leaseMs: number;
  readonly sideChannelHost: string;
  readonly sideChannelPort: number;
}

interface Place {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly podAddress: string | undefined;
}

/** The object of a JSON flag, with the fields that were given as `--flag.field`; undefined when it is not given, or wrong. */
function objectOf(
  flags: GivenArgs['flags'],
  flag: string,
  example: string,
  problems: string[],
): Record<string, unknown> | undefined {
  const json = flags.get(flag)?.at(-1);
  const dotted = [...flags].filter(([name]) => name.startsWith(`${flag}.`));
  if (json === undefined && dotted.length === 0) return undefined;
  let parsed: unknown = {};
  try {
    if (json !== undefined) parsed = JSON.parse(json);
  } catch (thrown) {
    problems.push(`--${flag}: "${json}" is not JSON: ${messageOf(thrown)}`);
    return undefined;
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    problems.push(`--${flag}: "${json ?? ''}" must be a JSON object such as ${example}`);
    return undefined;
  }
  const fields: Record<string, unknown> = { ...parsed };
  for (const [name, values] of dotted) fields[name.slice(flag.length + 1).replaceAll('-', '_')] = values.at(-1);
  return fields;
}

const defaultLeaseSeconds = 30;

/** Reads `--kv-transfer-config`; what is wrong with it is added to the lists. */
export function parseTransfer(
  flags: GivenArgs['flags'],
  place: Place,
  problems: string[],
  warnings: string[],
): TransferSettings | undefined {
  const example = '{"kv_connector":"NixlConnector","kv_role":"kv_both"}';
  const fields = objectOf(flags, 'kv-transfer-config', example, problems);
  if (!fields) return undefined;
  const nixl = findNixl(fields);
  if (!nixl) {
    const name = fields.kv_connector;
    if (typeof name !== 'string' || name === '')
      problems.push('--kv-transfer-config: kv_connector is missing; it names the connector, such as NixlConnector');
    else
      warnings.push(`--kv-transfer-config: ${name} is not simulated, only NixlConnector is; KV stays in this process`);
    return undefined;
  }
  const onFailure = nixl.kv_load_failure_policy ?? fields.kv_load_failure_policy ?? 'fail';
  if (onFailure !== 'fail' && onFailure !== 'recompute') {
    problems.push(`--kv-transfer-config: kv_load_failure_policy "${String(onFailure)}" must be fail or recompute`);
    return undefined;
  }
  const extra = (nixl.kv_connector_extra_config ?? {}) as Record<string, unknown>;
  const leaseSeconds = Number(extra.kv_lease_duration ?? defaultLeaseSeconds);
  if (!(leaseSeconds > 0)) {
    problems.push(
      `--kv-transfer-config: kv_lease_duration "${String(extra.kv_lease_duration)}" must be seconds above 0`,
    );
  }
  const portText = place.env.VLLM_NIXL_SIDE_CHANNEL_PORT || '5600';
  const sideChannelPort = /^\d+$/.test(portText) ? Number(portText) : Number.NaN;
  if (!(sideChannelPort <= 65_535)) problems.push(`VLLM_NIXL_SIDE_CHANNEL_PORT: "${portText}" must be a port`);
  return {
    engineId: String(nixl.engine_id ?? fields.engine_id ?? ''),
    onFailure,
    leaseMs: leaseSeconds * 1000,
    sideChannelHost: place.env.VLLM_NIXL_SIDE_CHANNEL_HOST || place.podAddress || '127.0.0.1',
    sideChannelPort,
  };
}

/** The NIXL connector's own configuration, also inside a MultiConnector. */
function findNixl(fields: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> | undefined {
  if (fields.kv_connector === 'NixlConnector') return fields;
  const extra = fields.kv_connector_extra_config as { connectors?: unknown } | undefined;
  const inner = fields.kv_connector === 'MultiConnector' ? extra?.connectors : undefined;
  if (!Array.isArray(inner)) return undefined;
  return inner.find((item) => (item as { kv_connector?: unknown } | null)?.kv_connector === 'NixlConnector');
}

const eventFields = [
  'enable_kv_cache_events',
  'publisher',
  'endpoint',
  'replay_endpoint',
  'buffer_steps',
  'hwm',
  'max_queue_size',
  'topic',
] as const;

/** Reads `--kv-events-config`; undefined where nothing is published. What is wrong with it is added to the list. */
export function parseKvEvents(
  flags: GivenArgs['flags'],
  place: Place,
  problems: string[],
): KvEventsSettings | undefined {
  const flag = 'kv-events-config';
  const example = '{"enable_kv_cache_events":true,"publisher":"zmq","endpoint":"tcp://*:5557"}';
  const fields = objectOf(flags, flag, example, problems);
  if (!fields) return undefined;
  const unknown = Object.keys(fields).filter((name) => !eventFields.some((known) => known === name));
  if (unknown.length > 0) {
    problems.push(`--${flag}: unknown field ${unknown.join(', ')}; there are ${eventFields.join(', ')}`);
  }
  const text = (name: string, fallback: string): string => {
    const value = fields[name] ?? fallback;
    if (typeof value === 'string') return value;
    problems.push(`--${flag}: ${name} must be a string, not ${JSON.stringify(value)}`);
    return fallback;
  };
  const count = (name: string, fallback: number): number => {
    const value = Number(fields[name] ?? fallback);
    if (Number.isInteger(value) && value >= 1) return value;
    problems.push(`--${flag}: ${name} must be a whole number of at least 1, not ${JSON.stringify(fields[name])}`);
    return fallback;
  };
  const endpoint = (name: string, value: string): string => {
    if (!/^(tcp|ipc|inproc):\/\/.+/.test(value)) {
      problems.push(`--${flag}: ${name} "${value}" must be an address of ZeroMQ such as tcp://*:5557`);
    }
    // Pods of the embedded cluster share one machine, each with an address of its own.
    const { podAddress } = place;
    if (podAddress === undefined) return value;
    return value.replace(/^tcp:\/\/(\*|0\.0\.0\.0|\[::\])(?=:)/, () => `tcp://${toHost(podAddress)}`);
  };
  const isEnabled = fields.enable_kv_cache_events ?? false;
  if (![true, false, 'true', 'false'].some((known) => known === isEnabled)) {
    problems.push(`--${flag}: enable_kv_cache_events must be true or false, not ${JSON.stringify(isEnabled)}`);
  }
  const hasEvents = String(isEnabled) === 'true';
  const publisher = text('publisher', hasEvents ? 'zmq' : 'null');
  if (publisher !== 'zmq' && publisher !== 'null') {
    problems.push(`--${flag}: publisher "${publisher}" must be zmq or null`);
  }
  const replay = fields.replay_endpoint ?? undefined;
  const bound = fields.endpoint === undefined ? 'tcp://*:5557' : text('endpoint', 'tcp://*:5557');
  const settings = {
    endpoint: endpoint('endpoint', bound),
    // vLLM binds what has a wildcard and connects to any other address: told by what was written.
    isBound: /\*|::/.test(bound) || /^(ipc|inproc):/.test(bound),
    replayEndpoint: replay === undefined ? undefined : endpoint('replay_endpoint', text('replay_endpoint', '')),
    topic: text('topic', ''),
    bufferSteps: count('buffer_steps', 10_000),
    highWaterMark: count('hwm', 100_000),
    maxQueued: count('max_queue_size', 100_000),
  };
  return hasEvents && publisher === 'zmq' ? settings : undefined;
}

function toHost(address: string): string {
  return address.includes(':') ? `[${address}]` : address;
}
