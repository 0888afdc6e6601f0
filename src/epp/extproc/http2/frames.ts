/** HTTP/2's frames: RFC 9113, sections 4, 6 and 7. */

export const frameTypes = {
  data: 0,
  headers: 1,
  priority: 2,
  resetStream: 3,
  settings: 4,
  pushPromise: 5,
  ping: 6,
  goAway: 7,
  windowUpdate: 8,
  continuation: 9,
} as const;

export const frameFlags = { endStream: 0x1, ack: 0x1, endHeaders: 0x4, padded: 0x8, priority: 0x20 } as const;

export const errorCodes = {
  noError: 0,
  protocolError: 1,
  internalError: 2,
  flowControlError: 3,
  streamClosed: 5,
  frameSizeError: 6,
  refusedStream: 7,
  cancel: 8,
  compressionError: 9,
  enhanceYourCalm: 11,
} as const;

export const settingIds = {
  enablePush: 2,
  maxConcurrentStreams: 3,
  initialWindowSize: 4,
  maxFrameSize: 5,
  maxHeaderListSize: 6,
} as const;

export const frameHeadBytes = 9;
/** HTTP/2's default, which we neither raise nor go over. */
export const maxFrameBytes = 16_384;
export const defaultWindow = 65_535;
export const maxWindow = 2 ** 31 - 1;
export const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');

/** Takes whole frames; `data` holds the payload from `start` to `end`. */
export interface FrameSink {
  /** False: no more frames are wanted. */
  onFrame(type: number, flags: number, stream: number, data: Buffer, start: number, end: number): boolean;
  /** A frame is larger than allowed. */
  onTooLarge(type: number, bytes: number): void;
}

/** Cuts a byte stream into frames. Only a frame that comes in several chunks is copied. */
export class FrameReader {
  /** The beginning of a frame that is not complete; sized once its head is known. */
  #held: Buffer | undefined;
  #heldBytes = 0;

  get isWithinFrame(): boolean {
    return this.#heldBytes > 0;
  }

  push(chunk: Buffer, from: number, sink: FrameSink): void {
    let at = from;
    if (this.#heldBytes > 0) {
      at = this.#complete(chunk, at, sink);
      if (at < 0) return;
    }
    while (chunk.length - at >= frameHeadBytes) {
      const length = lengthAt(chunk, at);
      if (length > maxFrameBytes) {
        sink.onTooLarge(chunk[at + 3] ?? 0, length);
        return;
      }
      const end = at + frameHeadBytes + length;
      if (end > chunk.length) break;
      if (!hand(sink, chunk, at, end)) return;
      at = end;
    }
    if (at === chunk.length) return;
    const isHeadWhole = chunk.length - at >= frameHeadBytes;
    this.#held = Buffer.allocUnsafe(isHeadWhole ? frameHeadBytes + lengthAt(chunk, at) : frameHeadBytes);
    this.#heldBytes = chunk.copy(this.#held, 0, at);
  }

  /** Adds to the frame that is held; returns where the next one starts, −1 when nothing more is to be read. */
  #complete(chunk: Buffer, from: number, sink: FrameSink): number {
    let at = from;
    let held = this.#held ?? Buffer.allocUnsafe(frameHeadBytes);
    if (this.#heldBytes < frameHeadBytes) {
      const taken = chunk.copy(held, this.#heldBytes, at, at + frameHeadBytes - this.#heldBytes);
      this.#heldBytes += taken;
      at += taken;
      if (this.#heldBytes < frameHeadBytes) return -1;
      const length = lengthAt(held, 0);
      if (length > maxFrameBytes) {
        sink.onTooLarge(held[3] ?? 0, length);
        return -1;
      }
      const whole = Buffer.allocUnsafe(frameHeadBytes + length);
      held.copy(whole, 0, 0, frameHeadBytes);
      held = whole;
      this.#held = whole;
    }
    const taken = chunk.copy(held, this.#heldBytes, at, at + held.length - this.#heldBytes);
    this.#heldBytes += taken;
    at += taken;
    if (this.#heldBytes < held.length) return -1;
    this.#held = undefined;
    this.#heldBytes = 0;
    return hand(sink, held, 0, held.length) ? at : -1;
  }
}

function hand(sink: FrameSink, data: Buffer, at: number, end: number): boolean {
  const stream =
    (((data[at + 5] ?? 0) & 0x7f) << 24) |
    ((data[at + 6] ?? 0) << 16) |
    ((data[at + 7] ?? 0) << 8) |
    (data[at + 8] ?? 0);
  return sink.onFrame(data[at + 3] ?? 0, data[at + 4] ?? 0, stream, data, at + frameHeadBytes, end);
}

function lengthAt(data: Buffer, at: number): number {
  return ((data[at] ?? 0) << 16) | ((data[at + 1] ?? 0) << 8) | (data[at + 2] ?? 0);
}

const slabBytes = 64 * 1024;
/** A slab that is filled less is copied out, so that slow readers do not hold whole slabs for a few bytes. */
const wellFilledBytes = slabBytes / 4;
const maxSpareSlabs = 16;
const spareSlabs: Buffer[] = [];

/** Frames on their way out, gathered so that a turn of the event loop makes one write of them. */
export class FrameWriter {
  #slab: Buffer | undefined;
  #at = 0;
  #full: Buffer[] = [];

  get isEmpty(): boolean {
    return this.#at === 0 && this.#full.length === 0;
  }

  /** Writes a frame's head; its payload of `length` bytes has to follow by `bytes`, `uint16` and `uint32`. */
  head(type: number, flags: number, stream: number, length: number): void {
    this.#reserve(frameHeadBytes + length);
    const slab = this.#slab as Buffer;
    let at = this.#at;
    slab[at++] = length >> 16;
    slab[at++] = length >> 8;
    slab[at++] = length;
    slab[at++] = type;
    slab[at++] = flags;
    slab[at++] = stream >> 24;
    slab[at++] = stream >> 16;
    slab[at++] = stream >> 8;
    slab[at++] = stream;
    this.#at = at;
  }

  bytes(data: Buffer, start = 0, end = data.length): void {
    data.copy(this.#slab as Buffer, this.#at, start, end);
    this.#at += end - start;
  }

  uint16(value: number): void {
    this.#at = (this.#slab as Buffer).writeUInt16BE(value, this.#at);
  }

  uint32(value: number): void {
    this.#at = (this.#slab as Buffer).writeUInt32BE(value, this.#at);
  }

  /** Hands on what was written; `send` calls `free` once it is done with the buffer. */
  flush(send: (data: Buffer, free: (() => void) | undefined) => void): void {
    const full = this.#full;
    if (full.length > 0) {
      this.#full = [];
      for (const slab of full) send(slab, freeOf(slab));
    }
    const slab = this.#slab;
    const written = this.#at;
    if (slab === undefined || written === 0) return;
    this.#at = 0;
    if (written < wellFilledBytes) send(Buffer.from(slab.subarray(0, written)), undefined);
    else {
      this.#slab = undefined;
      send(slab.subarray(0, written), freeOf(slab));
    }
  }

  #reserve(length: number): void {
    if (this.#slab !== undefined && slabBytes - this.#at >= length) return;
    if (this.#slab !== undefined) this.#full.push(this.#slab.subarray(0, this.#at));
    this.#slab = spareSlabs.pop() ?? Buffer.allocUnsafeSlow(slabBytes);
    this.#at = 0;
  }
}

function freeOf(slab: Buffer): () => void {
  return () => {
    if (spareSlabs.length < maxSpareSlabs) spareSlabs.push(Buffer.from(slab.buffer, 0, slabBytes));
  };
}
