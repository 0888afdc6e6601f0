import { decodeHuffman } from './huffman.ts';

/** What a request's field means to us. `wrong`: HTTP/2 does not allow it in a request. */
export type FieldKind = 'plain' | 'method' | 'scheme' | 'path' | 'authority' | 'wrong';

/** A header field; its kind is worked out once, however often it is named by its number. */
export interface Field {
  readonly name: string;
  readonly value: string;
  /** As HPACK counts: both lengths and 32. */
  readonly size: number;
  readonly kind: FieldKind;
}

const fieldOverhead = 32;

const pseudo = new Map<string, FieldKind>([
  [':method', 'method'],
  [':scheme', 'scheme'],
  [':path', 'path'],
  [':authority', 'authority'],
]);
/** Fields about one connection of HTTP/1. */
const ofConnections = new Set(['connection', 'keep-alive', 'proxy-connection', 'transfer-encoding', 'upgrade']);

function kindOf(name: string, value: string): FieldKind {
  if (name.startsWith(':')) return pseudo.get(name) ?? 'wrong';
  if (!/^[!#$%&'*+\-.^_`|~0-9a-z]+$/.test(name) || /[\0\r\n]/.test(value)) return 'wrong';
  if (ofConnections.has(name) || (name === 'te' && value !== 'trailers')) return 'wrong';
  return 'plain';
}

const toField = (name: string, value: string): Field => ({
  name,
  value,
  size: name.length + value.length + fieldOverhead,
  kind: kindOf(name, value),
});

/** RFC 7541, appendix A; the first has number 1. */
const staticTable: readonly Field[] = (
  ':authority|:method=GET|:method=POST|:path=/|:path=/index.html|:scheme=http|:scheme=https|:status=200|:status=204|' +
  ':status=206|:status=304|:status=400|:status=404|:status=500|accept-charset|accept-encoding=gzip, deflate|' +
  'accept-language|accept-ranges|accept|access-control-allow-origin|age|allow|authorization|cache-control|' +
  'content-disposition|content-encoding|content-language|content-length|content-location|content-range|content-type|' +
  'cookie|date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|if-range|if-unmodified-since|' +
  'last-modified|link|location|max-forwards|proxy-authenticate|proxy-authorization|range|referer|refresh|retry-after|' +
  'server|set-cookie|strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate'
)
  .split('|')
  .map((entry) => {
    const at = entry.indexOf('=');
    return at < 0 ? toField(entry, '') : toField(entry.slice(0, at), entry.slice(at + 1));
  });

/** Bytes of the table that the peer may fill; HTTP/2's default, so that it need not be told. */
const maxTableBytes = 4096;

/** The header block cannot be read, so nothing after it on the connection can be either. */
export class HpackError extends Error {}

/** Reads the header blocks of one connection, in their order. */
export class HpackDecoder {
  /** Oldest first. */
  #table: Field[] = [];
  #tableBytes = 0;
  #limit = maxTableBytes;
  #data: Buffer = Buffer.alloc(0);
  #at = 0;
  #end = 0;

  /**
   * The fields of a block in their order. Once they are larger than `maxBytes`, the rest is read and dropped, and the
   * list is undefined.
   *
   * @throws HpackError when the block is broken
   */
  decode(block: Buffer, start: number, end: number, maxBytes: number): readonly Field[] | undefined {
    this.#data = block;
    this.#at = start;
    this.#end = end;
    let fields: Field[] | undefined = [];
    let bytes = 0;
    while (this.#at < end) {
      const first = block[this.#at] ?? 0;
      let field: Field;
      if (first >= 0x80) field = this.#entry(this.#integer(7));
      else if (first >= 0x40) {
        field = this.#literal(6);
        this.#add(field);
      } else if (first >= 0x20) {
        // Sizes are told before the first field only.
        if (bytes > 0) throw new HpackError('the size of the table changes within a block');
        this.#resize(this.#integer(5));
        continue;
      } else field = this.#literal(4);
      bytes += field.size;
      if (bytes > maxBytes) fields = undefined;
      fields?.push(field);
    }
    return fields;
  }

  #entry(index: number): Field {
    const field =
      index <= staticTable.length
        ? staticTable[index - 1]
        : this.#table[this.#table.length - (index - staticTable.length)];
    if (field === undefined) throw new HpackError(`there is no field ${index}`);
    return field;
  }

  #literal(prefix: number): Field {
    const index = this.#integer(prefix);
    const name = index === 0 ? this.#text() : this.#entry(index).name;
    return toField(name, this.#text());
  }

  #add(field: Field): void {
    this.#table.push(field);
    this.#tableBytes += field.size;
    this.#evict();
  }

  #resize(bytes: number): void {
    if (bytes > maxTableBytes) throw new HpackError(`a table of ${bytes} bytes was not offered`);
    this.#limit = bytes;
    this.#evict();
  }

  #evict(): void {
    while (this.#tableBytes > this.#limit) this.#tableBytes -= this.#table.shift()?.size ?? 0;
  }

  /** A number in the last `prefix` bits of the next byte, continued in those after. */
  #integer(prefix: number): number {
    const full = (1 << prefix) - 1;
    let value = (this.#data[this.#at++] ?? 0) & full;
    if (value < full) return value;
    for (let shift = 0; shift <= 21; shift += 7) {
      if (this.#at >= this.#end) throw new HpackError('a number is cut off');
      const byte = this.#data[this.#at++] ?? 0;
      value += (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    throw new HpackError('a number is too large');
  }

  #text(): string {
    if (this.#at >= this.#end) throw new HpackError('a text is missing');
    const isHuffman = ((this.#data[this.#at] ?? 0) & 0x80) !== 0;
    const length = this.#integer(7);
    const start = this.#at;
    const end = start + length;
    if (end > this.#end) throw new HpackError('a text is cut off');
    this.#at = end;
    if (!isHuffman) return this.#data.toString('latin1', start, end);
    const text = decodeHuffman(this.#data, start, end);
    if (text === undefined) throw new HpackError('a text is not in the Huffman code');
    return text;
  }
}

/**
 * A block of literals that never enter the peer's table, names and values in turn (ASCII, up to 126 bytes a name). The
 * first block of a connection has to say that the table stays empty, so that the peer's limit for it is kept, whatever it is.
 */
export function encodeBlock(fields: readonly (readonly [name: string, value: string])[]): Buffer {
  const parts: Buffer[] = [];
  for (const [name, value] of fields) {
    if (name === ':status' && value === '200') parts.push(Buffer.from([0x88]));
    else parts.push(Buffer.from([0x00, name.length]), Buffer.from(name), lengthOf(value), Buffer.from(value, 'latin1'));
  }
  return Buffer.concat(parts);
}

function lengthOf({ length }: string): Buffer {
  if (length < 127) return Buffer.from([length]);
  const bytes = [127];
  let rest = length - 127;
  for (; rest >= 128; rest >>= 7) bytes.push((rest & 127) | 128);
  bytes.push(rest);
  return Buffer.from(bytes);
}
