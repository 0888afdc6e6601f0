import { AppError } from '../errors.ts';

/** What a prefill process answers and a decode process needs, as on the wire. */
export interface RemoteParams {
  readonly do_remote_prefill: true;
  readonly do_remote_decode: false;
  /** Block ids for each group of layers with one KV layout; here there is one group. */
  readonly remote_block_ids: readonly (readonly number[])[];
  readonly remote_engine_id: string;
  readonly remote_request_id: string;
  readonly remote_host: string;
  readonly remote_port: number;
  readonly tp_size: number;
  readonly remote_num_tokens: number;
}

/** Where the KV of a prompt lies. */
export interface RemoteSource {
  readonly engineId: string;
  readonly requestId: string;
  readonly host: string;
  readonly port: number;
  readonly blockIds: readonly number[];
}

/** What a request's kv_transfer_params ask for. */
export type TransferPlan =
  | { readonly kind: 'local' }
  /** Keep the KV for another process. */
  | { readonly kind: 'produce' }
  /** Fetch the KV from another process. */
  | { readonly kind: 'consume'; readonly source: RemoteSource }
  /** It should be fetched, but the parameters do not say from where. */
  | { readonly kind: 'broken'; readonly why: string };

/**
 * Reads kv_transfer_params.
 *
 * @throws AppError `invalid` when they are no object
 */
export function parseTransferParams(value: unknown): TransferPlan {
  if (value === undefined || value === null) return { kind: 'local' };
  if (typeof value !== 'object' || Array.isArray(value)) {
    throw new AppError('invalid', 'kv_transfer_params must be an object or null');
  }
  const params = value as Record<string, unknown>;
  if (params.do_remote_decode === true) return { kind: 'produce' };
  if (params.do_remote_prefill !== true) return { kind: 'local' };
  const { remote_engine_id: engineId, remote_request_id: requestId, remote_host: host } = params;
  const missing = needed.filter((name) => params[name] === undefined || params[name] === null || params[name] === '');
  if (missing.length > 0) {
    return { kind: 'broken', why: `kv_transfer_params has do_remote_prefill but no ${missing.join(', ')}` };
  }
  const port = Number(params.remote_port);
  if (typeof engineId !== 'string' || typeof requestId !== 'string' || typeof host !== 'string') {
    return { kind: 'broken', why: 'remote_engine_id, remote_request_id and remote_host must be strings' };
  }
  if (!Number.isInteger(port) || port < 1 || port > 65_535) {
    return { kind: 'broken', why: `remote_port must be a port, not ${JSON.stringify(params.remote_port)}` };
  }
  const blockIds = flattenBlockIds(params.remote_block_ids);
  if (!blockIds) return { kind: 'broken', why: 'remote_block_ids must be a list of lists of whole numbers' };
  return { kind: 'consume', source: { engineId, requestId, host, port, blockIds } };
}

const needed = ['remote_engine_id', 'remote_request_id', 'remote_host', 'remote_port'] as const;

function flattenBlockIds(value: unknown): number[] | undefined {
  if (!Array.isArray(value)) return undefined;
  const flat: unknown[] = value.flat();
  return flat.every((id) => Number.isInteger(id)) ? (flat as number[]) : undefined;
}
