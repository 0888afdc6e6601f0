import xxhash, { type XXHashAPI } from 'xxhash-wasm';

/** Names a block together with everything before it; 53 bits. Equal for equal tokens, whatever the engine's own hash. */
export type BlockKey = number;

// Compiled once for the process; a few milliseconds.
const hasher: XXHashAPI = await xxhash();

const join = (high: number, low: number): BlockKey => (high >>> 11) * 0x1_0000_0000 + (low >>> 0);

/** Where the chains of a model or adapter begin. Chains of different block sizes never meet. */
export function rootKey(model: string, blockSize: number, seed: string): BlockKey {
  const text = `${seed}\0${blockSize}\0${model}`;
  return join(hasher.h32(text, 2), hasher.h32(text, 1));
}

/**
 * The key of the block that holds `bytes` (token ids as 32-bit numbers) and follows `parent`.
 *
 * @param extra what beside the tokens makes it what it is
 */
export function nextKey(parent: BlockKey, bytes: Uint8Array, extra: string | undefined): BlockKey {
  let low = hasher.h32Raw(bytes, parent >>> 0);
  let high = hasher.h32Raw(bytes, Math.floor(parent / 0x1_0000_0000));
  if (extra !== undefined) {
    low = hasher.h32(extra, low);
    high = hasher.h32(extra, high);
  }
  return join(high, low);
}

/** The keys of a prompt's whole blocks, at most `max`. */
export function keysOf(
  root: BlockKey,
  tokens: Uint32Array,
  blockSize: number,
  max: number,
  extraOf: (block: number) => string | undefined,
): readonly BlockKey[] {
  const count = Math.min(max, Math.floor(tokens.length / blockSize));
  const bytes = new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength);
  const keys: BlockKey[] = [];
  let key = root;
  for (let i = 0; i < count; i++) {
    key = nextKey(key, bytes.subarray(i * blockSize * 4, (i + 1) * blockSize * 4), extraOf(i));
    keys.push(key);
  }
  return keys;
}
