/** Bits of the code of each byte, and of the end of a string at last: RFC 7541, appendix B. */
const codeLengths = [
  13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
  28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
  13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6,
  5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23,
  22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22,
  23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26,
  20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27,
  27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27,
  27, 27, 27, 26, 30,
] as const;
const maxLength = 30;
const endOfString = 256;

/** The code is canonical: of each length, the first code, where its symbols begin in `symbols`, and how many there are. */
const firstCode = new Int32Array(maxLength + 1);
const firstSymbol = new Int32Array(maxLength + 1);
const counts = new Int32Array(maxLength + 1);
const symbols = new Uint16Array(codeLengths.length);
for (let length = 1, code = 0, at = 0; length <= maxLength; length++) {
  code <<= 1;
  firstCode[length] = code;
  firstSymbol[length] = at;
  for (let symbol = 0; symbol < codeLengths.length; symbol++) {
    if (codeLengths[symbol] !== length) continue;
    symbols[at++] = symbol;
    code++;
  }
  counts[length] = at - (firstSymbol[length] ?? 0);
}

/** For each eight bits that begin with a whole code: its symbol and length as `symbol << 4 | length`; 0 for longer codes. */
const short = new Uint16Array(256);
for (let bits = 0; bits < 256; bits++) {
  for (let length = 5; length <= 8; length++) {
    const code = (bits >> (8 - length)) - (firstCode[length] ?? 0);
    if (code < 0 || code >= (counts[length] ?? 0)) continue;
    short[bits] = ((symbols[(firstSymbol[length] ?? 0) + code] ?? 0) << 4) | length;
    break;
  }
}

const out = Buffer.alloc(64 * 1024);

/** The text (one character a byte) of a string in HPACK's Huffman code; undefined when it is none, or longer than 64 KiB. */
export function decodeHuffman(data: Buffer, start: number, end: number): string | undefined {
  let written = 0;
  // Bits that have been read and not used: the last `held` ones of `bits`.
  let bits = 0;
  let held = 0;
  let at = start;
  for (;;) {
    while (held <= 16 && at < end) {
      bits = ((bits << 8) | (data[at++] ?? 0)) & 0xffffff;
      held += 8;
    }
    if (held < 8) break;
    const known = short[(bits >> (held - 8)) & 0xff] ?? 0;
    let symbol: number;
    if (known !== 0) {
      symbol = known >> 4;
      held -= known & 15;
    } else {
      // Rare: bit by bit.
      let code = 0;
      let length = 0;
      symbol = -1;
      while (symbol < 0) {
        if (held === 0) {
          if (at >= end) return undefined;
          bits = data[at++] ?? 0;
          held = 8;
        }
        held--;
        code = (code << 1) | ((bits >> held) & 1);
        length++;
        if (length > maxLength) return undefined;
        const offset = code - (firstCode[length] ?? 0);
        if (offset >= 0 && offset < (counts[length] ?? 0)) symbol = symbols[(firstSymbol[length] ?? 0) + offset] ?? 0;
      }
      if (symbol === endOfString) return undefined;
    }
    if (written === out.length) return undefined;
    out[written++] = symbol;
  }
  // Fewer than eight bits are left: a last code, and padding of ones.
  while (held >= 5) {
    const known = short[(bits << (8 - held)) & 0xff] ?? 0;
    const length = known & 15;
    if (known === 0 || length > held) break;
    if (written === out.length) return undefined;
    out[written++] = known >> 4;
    held -= length;
  }
  return isPadding(bits & ((1 << held) - 1), held) ? out.toString('latin1', 0, written) : undefined;
}

const isPadding = (bits: number, length: number): boolean => bits === (1 << length) - 1;
