const name = Buffer.from('"cached_tokens"');
const pattern = /"cached_tokens"(\s*:\s*)(?:\d+|null)/g;
/** Blanks and digits that may stand in a held piece before it is let go as no number of ours. */
const maxHeld = 64;

const QUOTE = 34;

/**
 * Replaces the number of cached tokens in an answer's usage as it passes, JSON or server-sent events. After a remote
 * prefill the decoder counts the transferred prompt as cached; the client wants what the prefill pod found in its cache.
 * Other bytes stay as they were, and a byte is held back only while it may belong to a number that is not complete.
 */
export class CachedTokensRewriter {
  readonly #replacement: string;
  #held: Buffer | undefined;

  constructor(cachedTokens: number) {
    this.#replacement = String(cachedTokens);
  }

  /** The bytes to send on now; may be empty. */
  push(chunk: Buffer): Buffer {
    const data = this.#held ? Buffer.concat([this.#held, chunk]) : chunk;
    this.#held = undefined;
    const holdFrom = startOfOpenEnd(data);
    if (holdFrom === data.length) return this.#rewrite(data);
    // A copy, so that the network's buffer is not kept for a few bytes of it.
    this.#held = Buffer.from(data.subarray(holdFrom));
    return this.#rewrite(data.subarray(0, holdFrom));
  }

  /** What is left at the end of the stream. */
  flush(): Buffer {
    const rest = this.#held ?? Buffer.alloc(0);
    this.#held = undefined;
    return this.#rewrite(rest);
  }

  #rewrite(data: Buffer): Buffer {
    if (data.indexOf(name) < 0) return data;
    // latin1 keeps every byte; inside a JSON string the quotes would be escaped, so only a true member matches.
    const text = data.toString('latin1').replace(pattern, `"cached_tokens"$1${this.#replacement}`);
    return Buffer.from(text, 'latin1');
  }
}

/** Where the end of `data` begins that may be the beginning of a member with an unfinished number; its length when none. */
function startOfOpenEnd(data: Buffer): number {
  const from = Math.max(0, data.length - name.length - maxHeld);
  const whole = data.lastIndexOf(name);
  if (whole >= from) {
    const after = data.toString('latin1', whole + name.length);
    if (/^\s*(:\s*(\d*|n|nu|nul))?$/.test(after)) return whole;
  }
  // The beginning of the name itself.
  const earliest = Math.max(0, data.length - name.length + 1);
  for (let at = data.indexOf(QUOTE, earliest); at >= 0; at = data.indexOf(QUOTE, at + 1)) {
    if (name.compare(data, at, data.length, 0, data.length - at) === 0) return at;
  }
  return data.length;
}
