import type { Socket } from 'node:net';
import { type EngineOptions, engineLimits } from '../transport.ts';
import {
  defaultWindow,
  errorCodes,
  FrameReader,
  type FrameSink,
  FrameWriter,
  frameFlags,
  frameTypes,
  maxFrameBytes,
  maxWindow,
  preface,
  settingIds,
} from './frames.ts';
import { encodeBlock, type Field, HpackDecoder, HpackError } from './hpack.ts';
import { Allowance, limits } from './limits.ts';
import { Stream, type StreamOwner } from './stream.ts';

const tableSizeZero = Buffer.from([0x20]);
const responseBlock = encodeBlock([
  [':status', '200'],
  ['content-type', 'application/grpc'],
]);
const goodTrailers = encodeBlock([['grpc-status', '0']]);
/** Resets of ours after which frames that were under way are expected. */
const rememberedResets = 1024;
const goAwayPing = Buffer.from('goingoff');
const lastWordsMs = 500;

/** A header block whose end has not come. */
interface OpenBlock {
  readonly stream: number;
  readonly isLast: boolean;
  readonly parts: Buffer[];
  bytes: number;
}

/** One connection of a gateway: RFC 9113 from the server's side, without push and priorities. */
export class Connection implements FrameSink, StreamOwner {
  readonly #socket: Socket;
  readonly #options: EngineOptions;
  readonly #reader = new FrameReader();
  readonly #writer = new FrameWriter();
  readonly #hpack = new HpackDecoder();
  readonly #streams = new Map<number, Stream>();
  readonly #ourResets = new Set<number>();
  /** Streams with window of their own that wait for the connection's. */
  readonly #waiting = new Set<Stream>();
  /** Closed since the last frame was handled; their listeners are told once nothing of them is on the stack. */
  #closed: Stream[] = [];
  readonly #controls = new Allowance(limits.controlBurst, limits.controlsPerSecond);
  readonly #resets = new Allowance(engineLimits.resetBurst, engineLimits.resetsPerSecond);

  #prefaceAt = 0;
  #hasSettings = false;
  #hasSentBlock = false;
  #openBlock: OpenBlock | undefined;
  #lastStream = 0;
  #acceptsUpTo = maxWindow;
  #isLeaving = false;
  #isDead = false;
  #isCut = false;
  #isReading = false;
  #isFlushPlanned = false;

  #sendWindow = defaultWindow;
  #initialSendWindow = defaultWindow;
  #receiveWindow: number = engineLimits.connectionWindowBytes;
  #uncredited = 0;
  #heldBytes = 0;

  readonly #openedAtMs = performance.now();
  #partialSinceMs = 0;
  #movedAtMs = performance.now();
  #movedBytes = 0;
  readonly #sendToSocket = (data: Buffer, free: (() => void) | undefined): void => {
    if (free === undefined) this.#socket.write(data);
    else
      this.#socket.write(data, (error) => {
        if (!error) free();
      });
  };

  constructor(socket: Socket, options: EngineOptions) {
    this.#socket = socket;
    this.#options = options;
    const settings = [
      [settingIds.maxConcurrentStreams, limits.maxConcurrentStreams],
      [settingIds.initialWindowSize, engineLimits.streamWindowBytes],
      [settingIds.maxHeaderListSize, limits.maxHeaderListBytes],
    ] as const;
    this.#writer.head(frameTypes.settings, 0, 0, settings.length * 6);
    for (const [id, value] of settings) {
      this.#writer.uint16(id);
      this.#writer.uint32(value);
    }
    this.#sendWindowUpdate(0, engineLimits.connectionWindowBytes - defaultWindow);
    this.#flush();
    socket.on('data', (chunk: Buffer) => this.#onChunk(chunk));
    socket.on('drain', () => {
      if (!this.#isDead) socket.resume();
    });
    socket.on('error', options.onError);
    socket.once('close', () => this.#die());
  }

  /** Lets open streams end and takes no new ones: told twice, so that those under way are not lost. */
  goAway(): void {
    if (this.#isDead || this.#isLeaving) return;
    this.#isLeaving = true;
    this.#sendGoAway(maxWindow, errorCodes.noError);
    this.#writer.head(frameTypes.ping, 0, 0, goAwayPing.length);
    this.#writer.bytes(goAwayPing);
    this.#planFlush();
    setTimeout(() => this.#refuseNew(), 1000).unref();
  }

  destroy(): void {
    if (!this.#isDead) this.#sendGoAway(this.#lastStream, errorCodes.noError);
    this.#cut();
  }

  /** Called now and then: who promised more and does not send it is cut off. */
  sweep(nowMs: number): void {
    if (this.#isDead) return;
    if (!this.#hasSettings && nowMs - this.#openedAtMs > limits.handshakeMs) {
      this.#fail(errorCodes.protocolError, 'no preface came');
      return;
    }
    if (this.#partialSinceMs > 0 && nowMs - this.#partialSinceMs > limits.partialMs) {
      this.#fail(errorCodes.enhanceYourCalm, 'a frame or a block of headers was never finished');
      return;
    }
    const moved = this.#socket.bytesWritten - this.#socket.writableLength;
    if (moved !== this.#movedBytes) {
      this.#movedBytes = moved;
      this.#movedAtMs = nowMs;
    }
    const isStuck = this.#socket.writableLength > limits.maxUnsentBytes || this.#heldBytes > limits.maxHeldBytes;
    if (isStuck && nowMs - this.#movedAtMs > limits.stallMs) {
      this.#fail(errorCodes.enhanceYourCalm, 'what was sent is not taken');
    }
  }

  // ---------------------------------------------------------------- in

  #onChunk(chunk: Buffer): void {
    if (this.#isDead) return;
    let at = 0;
    if (this.#prefaceAt < preface.length) {
      const length = Math.min(preface.length - this.#prefaceAt, chunk.length);
      if (preface.compare(chunk, 0, length, this.#prefaceAt, this.#prefaceAt + length) !== 0) {
        this.#fail(errorCodes.protocolError, 'the peer does not speak HTTP/2');
        return;
      }
      this.#prefaceAt += length;
      at = length;
    }
    this.#isReading = true;
    try {
      if (at < chunk.length) this.#reader.push(chunk, at, this);
    } catch (thrown) {
      this.#options.onError(thrown);
      this.#fail(errorCodes.internalError, 'internal error');
    } finally {
      this.#isReading = false;
    }
    const isPartial = this.#reader.isWithinFrame || this.#openBlock !== undefined;
    if (!isPartial) this.#partialSinceMs = 0;
    else if (this.#partialSinceMs === 0) this.#partialSinceMs = performance.now();
    this.#flush();
    if (this.#socket.writableLength > limits.maxUnsentBytes) this.#socket.pause();
  }

  onTooLarge(type: number, bytes: number): void {
    this.#fail(errorCodes.frameSizeError, `a frame of type ${type} has ${bytes} bytes`);
  }

  onFrame(type: number, flags: number, id: number, data: Buffer, start: number, end: number): boolean {
    if (!this.#hasSettings && (type !== frameTypes.settings || (flags & frameFlags.ack) !== 0)) {
      this.#fail(errorCodes.protocolError, 'settings come first');
    } else if (this.#openBlock !== undefined && type !== frameTypes.continuation) {
      this.#fail(errorCodes.protocolError, 'a block of headers was interrupted');
    } else this.#dispatch(type, flags, id, data, start, end);
    this.#tellClosed();
    return !this.#isDead;
  }

  #dispatch(type: number, flags: number, id: number, data: Buffer, start: number, end: number): void {
    switch (type) {
      case frameTypes.data:
        this.#onData(flags, id, data, start, end);
        return;
      case frameTypes.headers:
        this.#onHeaders(flags, id, data, start, end);
        return;
      case frameTypes.continuation:
        this.#onContinuation(flags, id, data, start, end);
        return;
      case frameTypes.windowUpdate:
        this.#onWindowUpdate(id, data, start, end);
        return;
      case frameTypes.resetStream:
        this.#onReset(id, end - start);
        return;
      case frameTypes.settings:
        this.#onSettings(flags, id, data, start, end);
        return;
      case frameTypes.ping:
        this.#onPing(flags, id, data, start, end);
        return;
      case frameTypes.goAway:
        if (id !== 0) this.#fail(errorCodes.protocolError, 'goodbye on a stream');
        else if (end - start < 8) this.#fail(errorCodes.frameSizeError, 'a short goodbye');
        return;
      case frameTypes.pushPromise:
        this.#fail(errorCodes.protocolError, 'a client cannot push');
        return;
      case frameTypes.priority:
        if (id === 0) {
          this.#fail(errorCodes.protocolError, 'a priority of no stream');
          return;
        }
        this.#countControl();
        if (end - start !== 5) this.#reset(id, errorCodes.frameSizeError);
        return;
      default:
        this.#countControl();
    }
  }

  #onData(flags: number, id: number, data: Buffer, start: number, end: number): void {
    const length = end - start;
    if (id === 0 || (id > this.#lastStream && this.#acceptsUpTo === maxWindow)) {
      this.#fail(errorCodes.protocolError, 'data on a stream that is not open');
      return;
    }
    this.#receiveWindow -= length;
    if (this.#receiveWindow < 0) {
      this.#fail(errorCodes.flowControlError, 'more data than allowed');
      return;
    }
    this.#uncredited += length;
    const stream = this.#streams.get(id);
    if (stream === undefined) {
      this.#credit();
      this.#onClosedStream(id);
      return;
    }
    if (stream.isRemoteEnded) {
      this.#credit();
      this.#reset(id, errorCodes.streamClosed);
      return;
    }
    let from = start;
    let to = end;
    if ((flags & frameFlags.padded) !== 0) {
      to = end - (data[start] ?? 0);
      from = start + 1;
      if (to < from) {
        this.#fail(errorCodes.protocolError, 'more padding than frame');
        return;
      }
    }
    stream.receiveWindow -= length;
    if (stream.receiveWindow < 0) {
      this.#credit();
      this.#reset(id, errorCodes.flowControlError);
      return;
    }
    stream.uncredited += length;
    const isLast = (flags & frameFlags.endStream) !== 0;
    if (to > from) stream.listener?.onData(data.subarray(from, to));
    else if (!isLast) this.#countControl();
    this.#credit();
    if (isLast) this.#endRemote(stream);
    else this.#creditStream(stream);
  }

  #endRemote(stream: Stream): void {
    if (stream.isClosed) return;
    stream.isRemoteEnded = true;
    stream.listener?.onEnd();
  }

  /** A frame for a stream that is over: it may have been under way when we reset the stream. */
  #onClosedStream(id: number): void {
    if (id > this.#acceptsUpTo || this.#ourResets.has(id)) return;
    this.#countControl();
    if (!this.#isDead) this.#sendReset(id, errorCodes.streamClosed);
  }

  #onHeaders(flags: number, id: number, data: Buffer, start: number, end: number): void {
    if (id % 2 === 0) {
      this.#fail(errorCodes.protocolError, 'clients open streams with odd numbers');
      return;
    }
    let from = start;
    let to = end;
    if ((flags & frameFlags.padded) !== 0) to -= data[from++] ?? 0;
    if ((flags & frameFlags.priority) !== 0) from += 5;
    if (to < from) {
      this.#fail(errorCodes.protocolError, 'more padding than frame');
      return;
    }
    const isLast = (flags & frameFlags.endStream) !== 0;
    if ((flags & frameFlags.endHeaders) !== 0) {
      this.#onBlock(id, isLast, data, from, to);
      return;
    }
    this.#openBlock = { stream: id, isLast, parts: [Buffer.from(data.subarray(from, to))], bytes: to - from };
  }

  #onContinuation(flags: number, id: number, data: Buffer, start: number, end: number): void {
    const block = this.#openBlock;
    if (block === undefined || block.stream !== id) {
      this.#fail(errorCodes.protocolError, 'a continuation of nothing');
      return;
    }
    block.bytes += end - start;
    if (block.bytes > limits.maxBlockBytes || block.parts.length > limits.maxContinuations) {
      this.#fail(errorCodes.enhanceYourCalm, 'a block of headers has no end');
      return;
    }
    block.parts.push(Buffer.from(data.subarray(start, end)));
    if ((flags & frameFlags.endHeaders) === 0) return;
    this.#openBlock = undefined;
    const whole = Buffer.concat(block.parts, block.bytes);
    this.#onBlock(id, block.isLast, whole, 0, whole.length);
  }

  #onBlock(id: number, isLast: boolean, data: Buffer, start: number, end: number): void {
    let fields: readonly Field[] | undefined;
    try {
      fields = this.#hpack.decode(data, start, end, limits.maxHeaderListBytes);
    } catch (thrown) {
      if (!(thrown instanceof HpackError)) throw thrown;
      this.#fail(errorCodes.compressionError, thrown.message);
      return;
    }
    const known = this.#streams.get(id);
    if (known !== undefined) {
      if (known.isRemoteEnded) this.#reset(id, errorCodes.streamClosed);
      else if (!isLast) this.#reset(id, errorCodes.protocolError);
      else this.#endRemote(known);
      return;
    }
    if (id <= this.#lastStream || id > this.#acceptsUpTo) {
      this.#onClosedStream(id);
      return;
    }
    this.#lastStream = id;
    if (fields === undefined) {
      this.#sendReset(id, errorCodes.enhanceYourCalm);
      return;
    }
    if (this.#streams.size >= limits.maxConcurrentStreams) {
      this.#sendReset(id, errorCodes.refusedStream);
      return;
    }
    const path = pathOf(fields);
    if (path === undefined) {
      this.#countControl();
      if (!this.#isDead) this.#sendReset(id, errorCodes.protocolError);
      return;
    }
    const stream = new Stream(this, id, fields, this.#initialSendWindow, engineLimits.streamWindowBytes);
    this.#streams.set(id, stream);
    stream.listener = this.#options.onStream(path, stream);
    if (isLast) this.#endRemote(stream);
  }

  #onWindowUpdate(id: number, data: Buffer, start: number, end: number): void {
    if (end - start !== 4) {
      this.#fail(errorCodes.frameSizeError, 'a window update of a wrong size');
      return;
    }
    const more = data.readUInt32BE(start) & maxWindow;
    if (id === 0) {
      if (more === 0) {
        this.#fail(errorCodes.protocolError, 'a window update of nothing');
        return;
      }
      this.#sendWindow += more;
      if (this.#sendWindow > maxWindow) {
        this.#fail(errorCodes.flowControlError, 'the window is too large');
        return;
      }
      for (const stream of this.#waiting) {
        if (this.#sendWindow <= 0) break;
        this.#waiting.delete(stream);
        this.#drain(stream);
      }
      return;
    }
    const stream = this.#streams.get(id);
    if (stream === undefined) {
      if (id > this.#lastStream && this.#acceptsUpTo === maxWindow) {
        this.#fail(errorCodes.protocolError, 'a window of a stream that is not open');
      } else this.#countControl(0.1);
      return;
    }
    if (more === 0) {
      this.#reset(id, errorCodes.protocolError);
      return;
    }
    stream.sendWindow += more;
    if (stream.sendWindow > maxWindow) {
      this.#reset(id, errorCodes.flowControlError);
      return;
    }
    this.#drain(stream);
  }

  #onReset(id: number, length: number): void {
    if (length !== 4) {
      this.#fail(errorCodes.frameSizeError, 'a reset of a wrong size');
      return;
    }
    if (id === 0 || (id > this.#lastStream && this.#acceptsUpTo === maxWindow)) {
      this.#fail(errorCodes.protocolError, 'a reset of a stream that is not open');
      return;
    }
    if (!this.#resets.take()) {
      this.#fail(errorCodes.enhanceYourCalm, 'too many resets');
      return;
    }
    const stream = this.#streams.get(id);
    if (stream === undefined) this.#countControl();
    else this.#close(stream);
  }

  #onSettings(flags: number, id: number, data: Buffer, start: number, end: number): void {
    const length = end - start;
    if (id !== 0) {
      this.#fail(errorCodes.protocolError, 'settings of a stream');
      return;
    }
    if (length % 6 !== 0 || ((flags & frameFlags.ack) !== 0 && length > 0)) {
      this.#fail(errorCodes.frameSizeError, 'settings of a wrong size');
      return;
    }
    if ((flags & frameFlags.ack) !== 0) {
      this.#countControl();
      return;
    }
    // Each change of the window touches every stream.
    this.#countControl(1 + (this.#streams.size >> 6));
    this.#hasSettings = true;
    for (let at = start; at < end && !this.#isDead; at += 6) {
      this.#onSetting(data.readUInt16BE(at), data.readUInt32BE(at + 2));
    }
    if (this.#isDead) return;
    this.#writer.head(frameTypes.settings, frameFlags.ack, 0, 0);
    this.#planFlush();
  }

  #onSetting(setting: number, value: number): void {
    if (setting === settingIds.enablePush && value > 1) this.#fail(errorCodes.protocolError, 'push is 0 or 1');
    else if (setting === settingIds.maxFrameSize && (value < maxFrameBytes || value > 0xffffff)) {
      this.#fail(errorCodes.protocolError, 'a frame size out of range');
    } else if (setting === settingIds.initialWindowSize) {
      if (value > maxWindow) {
        this.#fail(errorCodes.flowControlError, 'a window out of range');
        return;
      }
      const more = value - this.#initialSendWindow;
      this.#initialSendWindow = value;
      if (more === 0) return;
      this.#countControl(this.#streams.size >> 6);
      for (const stream of this.#streams.values()) {
        stream.sendWindow += more;
        if (stream.sendWindow > maxWindow) {
          this.#fail(errorCodes.flowControlError, 'the window is too large');
          return;
        }
        if (more > 0) this.#drain(stream);
      }
    }
  }

  #onPing(flags: number, id: number, data: Buffer, start: number, end: number): void {
    if (id !== 0) {
      this.#fail(errorCodes.protocolError, 'a ping of a stream');
      return;
    }
    if (end - start !== 8) {
      this.#fail(errorCodes.frameSizeError, 'a ping of a wrong size');
      return;
    }
    this.#countControl();
    if (this.#isDead) return;
    if ((flags & frameFlags.ack) !== 0) {
      if (this.#isLeaving && goAwayPing.compare(data, start, end) === 0) this.#refuseNew();
      return;
    }
    this.#writer.head(frameTypes.ping, frameFlags.ack, 0, 8);
    this.#writer.bytes(data, start, end);
    this.#planFlush();
  }

  #countControl(count = 1): void {
    if (!this.#controls.take(count)) this.#fail(errorCodes.enhanceYourCalm, 'too many frames that carry nothing');
  }

  // ---------------------------------------------------------------- windows of the peer

  #credit(): void {
    if (this.#uncredited < engineLimits.connectionWindowBytes / 4 || this.#heldBytes > limits.maxHeldBytes) return;
    if (this.#isDead) return;
    this.#sendWindowUpdate(0, this.#uncredited);
    this.#receiveWindow += this.#uncredited;
    this.#uncredited = 0;
  }

  /** A peer that does not take our replies may not send more. */
  #creditStream(stream: Stream): void {
    const isDue = stream.uncredited >= engineLimits.streamWindowBytes / 2 && stream.queue === undefined;
    if (!isDue || stream.isClosed || stream.isRemoteEnded) return;
    this.#sendWindowUpdate(stream.id, stream.uncredited);
    stream.receiveWindow += stream.uncredited;
    stream.uncredited = 0;
  }

  // ---------------------------------------------------------------- out

  write(stream: Stream, frames: Buffer): void {
    if (!stream.hasSentHeaders) {
      stream.hasSentHeaders = true;
      this.#sendBlock(stream.id, 0, responseBlock);
    }
    const sent = stream.queue === undefined ? this.#sendData(stream, frames, 0) : 0;
    if (sent < frames.length) {
      this.#heldBytes += frames.length - sent;
      if (stream.queue === undefined) {
        stream.queue = [frames];
        stream.queueAt = sent;
      } else stream.queue.push(frames);
    }
    this.#planFlush();
  }

  end(stream: Stream, status: number, message: string): void {
    stream.final = { status, message };
    if (stream.queue === undefined) this.#finish(stream);
    this.#planFlush();
  }

  /** Sends what the windows have room for; returns up to where. */
  #sendData(stream: Stream, data: Buffer, from: number): number {
    let at = from;
    while (at < data.length) {
      const length = Math.min(data.length - at, maxFrameBytes, stream.sendWindow, this.#sendWindow);
      if (length <= 0) {
        if (stream.sendWindow > 0) this.#waiting.add(stream);
        break;
      }
      this.#writer.head(frameTypes.data, 0, stream.id, length);
      this.#writer.bytes(data, at, at + length);
      stream.sendWindow -= length;
      this.#sendWindow -= length;
      at += length;
    }
    return at;
  }

  /** Goes on with a stream that was held back. */
  #drain(stream: Stream): void {
    const { queue } = stream;
    if (queue === undefined || stream.isClosed) return;
    let done = 0;
    for (const data of queue) {
      const at = this.#sendData(stream, data, stream.queueAt);
      this.#heldBytes -= at - stream.queueAt;
      stream.queueAt = at;
      if (at < data.length) break;
      stream.queueAt = 0;
      done++;
    }
    this.#planFlush();
    if (done < queue.length) {
      if (done > 0) queue.splice(0, done);
      return;
    }
    stream.queue = undefined;
    if (stream.final !== undefined) this.#finish(stream);
    else this.#creditStream(stream);
    this.#credit();
  }

  #finish(stream: Stream): void {
    const { status, message } = stream.final ?? { status: 0, message: '' };
    const told = message === '' ? [] : [['grpc-message', message] as const];
    const fields = [['grpc-status', String(status)] as const, ...told];
    const isGood = status === 0 && message === '';
    if (stream.hasSentHeaders) {
      this.#sendBlock(stream.id, frameFlags.endStream, isGood ? goodTrailers : encodeBlock(fields));
    } else {
      const block = Buffer.concat([responseBlock, encodeBlock(fields)]);
      this.#sendBlock(stream.id, frameFlags.endStream, block);
    }
    // The peer need not go on: the answer is complete.
    if (!stream.isRemoteEnded) this.#sendReset(stream.id, errorCodes.noError);
    this.#close(stream);
  }

  #sendBlock(id: number, flags: number, block: Buffer): void {
    const before = this.#hasSentBlock ? 0 : tableSizeZero.length;
    this.#writer.head(frameTypes.headers, flags | frameFlags.endHeaders, id, before + block.length);
    if (before > 0) this.#writer.bytes(tableSizeZero);
    this.#hasSentBlock = true;
    this.#writer.bytes(block);
  }

  #sendWindowUpdate(id: number, more: number): void {
    this.#writer.head(frameTypes.windowUpdate, 0, id, 4);
    this.#writer.uint32(more);
    this.#planFlush();
  }

  #sendReset(id: number, code: number): void {
    this.#writer.head(frameTypes.resetStream, 0, id, 4);
    this.#writer.uint32(code);
    this.#planFlush();
    this.#ourResets.add(id);
    if (this.#ourResets.size <= rememberedResets) return;
    for (const oldest of this.#ourResets) {
      this.#ourResets.delete(oldest);
      break;
    }
  }

  #sendGoAway(lastStream: number, code: number): void {
    this.#writer.head(frameTypes.goAway, 0, 0, 8);
    this.#writer.uint32(lastStream);
    this.#writer.uint32(code);
  }

  /** A stream that the peer got wrong. */
  #reset(id: number, code: number): void {
    this.#countControl();
    if (this.#isDead) return;
    this.#sendReset(id, code);
    const stream = this.#streams.get(id);
    if (stream !== undefined) this.#close(stream);
  }

  #planFlush(): void {
    if (this.#isReading || this.#isFlushPlanned) return;
    this.#isFlushPlanned = true;
    process.nextTick(() => {
      this.#isFlushPlanned = false;
      this.#tellClosed();
      this.#flush();
    });
  }

  #flush(): void {
    if (this.#writer.isEmpty || !this.#socket.writable) return;
    this.#socket.cork();
    this.#writer.flush(this.#sendToSocket);
    this.#socket.uncork();
  }

  // ---------------------------------------------------------------- ends

  #close(stream: Stream): void {
    if (stream.isClosed) return;
    stream.isClosed = true;
    this.#streams.delete(stream.id);
    this.#waiting.delete(stream);
    if (stream.queue !== undefined) {
      this.#heldBytes += stream.queueAt;
      for (const { length } of stream.queue) this.#heldBytes -= length;
      stream.queue = undefined;
      this.#credit();
    }
    this.#closed.push(stream);
    this.#planFlush();
    if (this.#acceptsUpTo < maxWindow && this.#streams.size === 0) this.#cut();
  }

  #tellClosed(): void {
    while (this.#closed.length > 0) {
      const closed = this.#closed;
      this.#closed = [];
      for (const { listener } of closed) listener?.onClose();
    }
  }

  #refuseNew(): void {
    if (this.#isDead || this.#acceptsUpTo < maxWindow) return;
    this.#acceptsUpTo = this.#lastStream;
    this.#sendGoAway(this.#lastStream, errorCodes.noError);
    this.#planFlush();
    if (this.#streams.size === 0) this.#cut();
  }

  #fail(code: number, why: string): void {
    if (this.#isDead) return;
    this.#options.onError(new Error(`a gateway's connection was closed: ${why}`));
    this.#sendGoAway(this.#lastStream, code);
    this.#cut();
  }

  /** Sends what is written, then ends the connection, at once if the peer does not read. */
  #cut(): void {
    if (this.#isCut || this.#socket.destroyed) return;
    this.#isCut = true;
    this.#flush();
    this.#socket.destroySoon();
    const timer = setTimeout(() => this.#socket.destroy(), lastWordsMs);
    this.#socket.once('close', () => clearTimeout(timer));
    this.#die();
  }

  #die(): void {
    if (!this.#isDead) {
      this.#isDead = true;
      for (const stream of [...this.#streams.values()]) this.#close(stream);
    }
    this.#openBlock = undefined;
    if (!this.#isReading) this.#tellClosed();
  }
}

/** The path of a request whose fields are as HTTP/2 wants them; undefined when they are not. */
function pathOf(fields: readonly Field[]): string | undefined {
  let path: string | undefined;
  let method = 0;
  let scheme = 0;
  let authority = 0;
  let isPseudoOver = false;
  for (const { kind, value } of fields) {
    if (kind === 'plain') {
      isPseudoOver = true;
      continue;
    }
    if (isPseudoOver || kind === 'wrong') return undefined;
    if (kind === 'method') method++;
    else if (kind === 'scheme') scheme++;
    else if (kind === 'authority') authority++;
    else if (path === undefined) path = value;
    else return undefined;
  }
  return method === 1 && scheme === 1 && authority <= 1 && path !== '' ? path : undefined;
}
