import { decode } from '@msgpack/msgpack';

/** An engine's hash of a block, its last 53 bits: enough to tell the blocks of one engine apart, and a cheap key. */
export type EngineHash = number;

export interface BlocksStored {
  readonly kind: 'stored';
  readonly hashes: readonly EngineHash[];
  /** The block before the first of these; undefined at the start of a prompt. */
  readonly parent: EngineHash | undefined;
  /** Those of all blocks in turn. */
  readonly tokens: Uint32Array;
  readonly blockSize: number;
  /** Where it is kept, lower case: `gpu`, `cpu`, …; undefined where the engine does not say. */
  readonly medium: string | undefined;
  /** LoRA adapter; undefined for the model itself. */
  readonly adapter: string | undefined;
  /** What beside its tokens makes a block what it is (images, cache salt), by block. */
  readonly extras: readonly (string | undefined)[];
}

export interface BlocksRemoved {
  readonly kind: 'removed';
  readonly hashes: readonly EngineHash[];
  readonly medium: string | undefined;
}

export interface AllCleared {
  readonly kind: 'cleared';
}

export type KvEvent = BlocksStored | BlocksRemoved | AllCleared;

/** What an engine tells at once. */
export interface KvEventBatch {
  /** Seconds since the epoch, by the engine's clock. */
  readonly atS: number;
  readonly events: readonly KvEvent[];
  /** Data-parallel rank; undefined where there is one only. */
  readonly rank: number | undefined;
}

type Fields = Readonly<Record<string, unknown>>;

/** Fields of an event that is sent as a list, in order after its type. Later engines append to them. */
const listed: Readonly<Record<string, readonly string[]>> = {
  BlockStored: [
    'block_hashes',
    'parent_block_hash',
    'token_ids',
    'block_size',
    'lora_id',
    'medium',
    'lora_name',
    'extra_keys',
    'group_idx',
  ],
  BlockRemoved: ['block_hashes', 'medium', 'group_idx'],
  AllBlocksCleared: [],
};

/**
 * Reads a batch of vLLM's cache events: MessagePack of `[timestamp, events, rank?]`, each event a list that starts with
 * its type, or a map with `type`. Events of an unknown type, and of other cache groups than the first, are left out.
 *
 * @throws Error when the bytes are no such batch
 */
export function parseKvEventBatch(bytes: Uint8Array): KvEventBatch {
  const batch = decode(bytes, { useBigInt64: true });
  if (!Array.isArray(batch) || !Array.isArray(batch[1])) throw new Error('not a batch of cache events');
  const [at, events, rank] = batch as [unknown, readonly unknown[], unknown];
  return {
    atS: Number(at),
    events: events.map(toEvent).filter((event) => event !== undefined),
    rank: typeof rank === 'number' ? rank : undefined,
  };
}

function toEvent(event: unknown): KvEvent | undefined {
  let type: unknown;
  let fields: Fields;
  if (Array.isArray(event)) {
    type = event[0];
    const names = listed[String(type)] ?? [];
    fields = Object.fromEntries(names.map((name, i) => [name, (event as readonly unknown[])[i + 1]]));
  } else if (typeof event === 'object' && event !== null) {
    fields = event as Fields;
    type = fields.type;
  } else throw new Error('a cache event is neither list nor map');
  // Further groups hold the same tokens once more, for other kinds of attention.
  if (typeof fields.group_idx === 'number' && fields.group_idx > 0) return undefined;
  switch (type) {
    case 'AllBlocksCleared':
      return { kind: 'cleared' };
    case 'BlockRemoved':
      return { kind: 'removed', hashes: toHashes(fields.block_hashes), medium: toMedium(fields.medium) };
    case 'BlockStored':
      return toStored(fields);
    default:
      return undefined;
  }
}

function toStored(fields: Fields): BlocksStored {
  const { token_ids: ids, block_size: size, lora_name: name, lora_id: id, extra_keys: keys } = fields;
  const hashes = toHashes(fields.block_hashes);
  const blockSize = Number(size);
  if (!Array.isArray(ids) || !Number.isInteger(blockSize) || blockSize < 1) {
    throw new Error('BlockStored without token_ids or block_size');
  }
  const adapter =
    typeof name === 'string' && name !== '' ? name : id === undefined || id === null ? undefined : `lora-${String(id)}`;
  return {
    kind: 'stored',
    hashes,
    parent: isNothing(fields.parent_block_hash) ? undefined : toHash(fields.parent_block_hash),
    tokens: Uint32Array.from(ids as number[], Number),
    blockSize,
    medium: toMedium(fields.medium),
    adapter,
    extras: hashes.map((_, i) => toExtra(Array.isArray(keys) ? keys[i] : undefined, adapter)),
  };
}

/** The adapter is told apart by the root of the chain already. */
function toExtra(keys: unknown, adapter: string | undefined): string | undefined {
  if (!Array.isArray(keys)) return undefined;
  const others = keys.filter((key) => key !== adapter);
  if (others.length === 0) return undefined;
  return others.map((key) => (key instanceof Uint8Array ? Buffer.from(key).toString('hex') : String(key))).join(',');
}

function toHashes(value: unknown): readonly EngineHash[] {
  if (!Array.isArray(value)) throw new Error('a cache event without block_hashes');
  return value.map(toHash);
}

const low53 = (1n << 53n) - 1n;

/** Hashes are whole numbers, or bytes of which the last eight count. */
function toHash(value: unknown): EngineHash {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
  if (typeof value === 'bigint') return Number(value & low53);
  if (typeof value === 'number' && Number.isSafeInteger(value)) return Number(BigInt(value) & low53);
  if (value instanceof Uint8Array && value.length >= 8) {
    const view = new DataView(value.buffer, value.byteOffset + value.length - 8, 8);
    return (view.getUint32(0) & 0x1f_ffff) * 0x1_0000_0000 + view.getUint32(4);
  }
  throw new Error('a block hash is neither a number nor eight bytes');
}

function toMedium(value: unknown): string | undefined {
  return typeof value === 'string' && value !== '' ? value.toLowerCase() : undefined;
}

function isNothing(value: unknown): value is null | undefined {
  return value === null || value === undefined;
}
