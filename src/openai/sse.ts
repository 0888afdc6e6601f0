/**
 * Splits a byte stream into whole server-sent events, whatever the chunk borders.
 * Bytes are kept as they came: joining all events and the rest gives the stream again.
 */
export class EventSplitter {
  #held: Buffer = Buffer.alloc(0);
  readonly #maxBytes: number;

  /** @param maxBytes an event longer than this is handed on as it is, in pieces, so that memory stays bounded */
  constructor(maxBytes = 1024 * 1024) {
    this.#maxBytes = maxBytes;
  }

  /** The events that are complete with this chunk, each with its blank line. */
  push(chunk: Uint8Array): readonly Buffer[] {
    let data = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    if (this.#held.length > 0) data = Buffer.concat([this.#held, data]);
    const events: Buffer[] = [];
    let start = 0;
    for (;;) {
      const end = endOfEvent(data, start);
      if (end < 0) break;
      events.push(data.subarray(start, end));
      start = end;
    }
    const rest = data.subarray(start);
    if (rest.length > this.#maxBytes) {
      events.push(rest);
      this.#held = Buffer.alloc(0);
    } else {
      // A copy, so that the network's buffer is not held by a few bytes of it.
      this.#held = rest.length === 0 ? Buffer.alloc(0) : Buffer.from(rest);
    }
    return events;
  }

  /** What is left at the end of the stream: an event without its blank line, or nothing. */
  flush(): Buffer {
    const rest = this.#held;
    this.#held = Buffer.alloc(0);
    return rest;
  }
}

const LF = 10;
const CR = 13;

function endOfEvent(data: Buffer, from: number): number {
  let at = data.indexOf(LF, from);
  while (at >= 0) {
    if (data[at + 1] === LF) return at + 2;
    if (data[at + 1] === CR && data[at + 2] === LF) return at + 3;
    at = data.indexOf(LF, at + 1);
  }
  return -1;
}

/** The text after `data:` of an event's lines, joined by newlines; undefined when it has none. */
export function eventData(event: Uint8Array): string | undefined {
  const text = Buffer.from(event.buffer, event.byteOffset, event.byteLength).toString('utf8');
  const lines: string[] = [];
  for (const line of text.split(/\r?\n/)) {
    if (line.startsWith('data:')) lines.push(line.startsWith('data: ') ? line.slice(6) : line.slice(5));
  }
  return lines.length === 0 ? undefined : lines.join('\n');
}
