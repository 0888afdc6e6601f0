import { connect, type Socket } from 'node:net';

/** A frame as it was received. */
export interface Frame {
  readonly type: number;
  readonly flags: number;
  readonly stream: number;
  readonly payload: Buffer;
}

export const types = {
  data: 0,
  headers: 1,
  priority: 2,
  reset: 3,
  settings: 4,
  pushPromise: 5,
  ping: 6,
  goAway: 7,
  windowUpdate: 8,
  continuation: 9,
} as const;
export const endStream = 1;
export const ack = 1;
export const endHeaders = 4;

export const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');

export function frame(type: number, flags: number, stream: number, payload: Uint8Array = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

export function uint32(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  for (const [i, value] of values.entries()) bytes.writeUInt32BE(value, 4 * i);
  return bytes;
}

export function settings(...pairs: readonly (readonly [id: number, value: number])[]): Buffer {
  const bytes = Buffer.alloc(6 * pairs.length);
  for (const [i, [id, value]] of pairs.entries()) {
    bytes.writeUInt16BE(id, 6 * i);
    bytes.writeUInt32BE(value, 6 * i + 2);
  }
  return frame(types.settings, 0, 0, bytes);
}

/** Literal fields, never indexed. */
export function block(...fields: readonly (readonly [name: string, value: string])[]): Buffer {
  return Buffer.concat(
    fields.flatMap(([name, value]) => [
      Buffer.from([0, name.length]),
      Buffer.from(name),
      Buffer.from([value.length]),
      Buffer.from(value),
    ]),
  );
}

export const callBlock = (path: string): Buffer =>
  block([':method', 'POST'], [':scheme', 'http'], [':authority', 'x'], [':path', path], ['te', 'trailers']);

export function grpc(message: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from([0]), uint32(message.length), message]);
}

/** A client that says what it is told, acknowledges settings, and notes what it hears. */
export class Peer {
  readonly socket: Socket;
  readonly frames: Frame[] = [];
  isClosed = false;
  #rest: Buffer = Buffer.alloc(0);
  #listeners = new Set<() => void>();

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('error', () => {});
    socket.on('data', (chunk: Buffer) => this.#onChunk(chunk));
    socket.on('close', () => {
      this.isClosed = true;
      this.#tell();
    });
  }

  /** @param greeting sent at once; the preface and empty settings when absent */
  static async open(port: number, greeting: Buffer = Buffer.concat([preface, settings()])): Promise<Peer> {
    const socket = connect(port, '127.0.0.1');
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', () => resolve());
      socket.once('error', reject);
    });
    const peer = new Peer(socket);
    peer.send(greeting);
    return peer;
  }

  send(...frames: readonly Buffer[]): void {
    if (!this.socket.destroyed) this.socket.write(Buffer.concat(frames));
  }

  /** The first frame that was or will be heard and fits; rejects when the connection closes before. */
  heard(what: string, fits: (frame: Frame) => boolean): Promise<Frame> {
    return new Promise((resolve, reject) => {
      const look = (): void => {
        const found = this.frames.find(fits);
        if (found === undefined && !this.isClosed) return;
        this.#listeners.delete(look);
        if (found === undefined) reject(new Error(`closed before ${what}; heard ${describe(this.frames)}`));
        else resolve(found);
      };
      this.#listeners.add(look);
      look();
    });
  }

  /** The code of the GOAWAY, if there was one, once the connection is closed. */
  closed(): Promise<number | undefined> {
    return new Promise((resolve) => {
      const look = (): void => {
        if (!this.isClosed) return;
        this.#listeners.delete(look);
        resolve(this.frames.findLast(({ type }) => type === types.goAway)?.payload.readUInt32BE(4));
      };
      this.#listeners.add(look);
      look();
    });
  }

  close(): void {
    this.socket.destroy();
  }

  #onChunk(chunk: Buffer): void {
    const data = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    let at = 0;
    while (data.length - at >= 9) {
      const end = at + 9 + data.readUIntBE(at, 3);
      if (end > data.length) break;
      const type = data[at + 3] ?? 0;
      const flags = data[at + 4] ?? 0;
      const payload = Buffer.from(data.subarray(at + 9, end));
      this.frames.push({ type, flags, stream: data.readUInt32BE(at + 5), payload });
      if (type === types.settings && (flags & ack) === 0) this.send(frame(types.settings, ack, 0));
      at = end;
    }
    this.#rest = data.subarray(at);
    this.#tell();
  }

  #tell(): void {
    for (const listener of [...this.#listeners]) listener();
  }
}

const describe = (frames: readonly Frame[]): string =>
  frames.map(({ type, flags, stream }) => `${type}/${flags}@${stream}`).join(' ');
