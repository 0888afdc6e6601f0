import type { ServerStream, StreamListener } from '../transport.ts';
import type { Field } from './hpack.ts';

/** What a stream needs of its connection. */
export interface StreamOwner {
  write(stream: Stream, frames: Buffer): void;
  end(stream: Stream, status: number, message: string): void;
}

/** Trailers that wait for the data before them. */
export interface Final {
  readonly status: number;
  readonly message: string;
}

/** One stream's state; its connection does the work. */
export class Stream implements ServerStream {
  readonly id: number;
  readonly #owner: StreamOwner;
  /** What it was opened with. */
  readonly #fields: readonly Field[];
  listener: StreamListener | undefined;
  isClosed = false;
  hasSentHeaders = false;
  /** The peer has said all it will. */
  isRemoteEnded = false;
  /** What may still be sent, and what the peer may still send. */
  sendWindow: number;
  receiveWindow: number;
  /** Bytes received that the peer was not yet allowed to send again. */
  uncredited = 0;
  /** What the peer's windows have no room for, in order; `queueAt` bytes of the first are sent. */
  queue: Buffer[] | undefined;
  queueAt = 0;
  final: Final | undefined;

  constructor(owner: StreamOwner, id: number, fields: readonly Field[], sendWindow: number, receiveWindow: number) {
    this.#owner = owner;
    this.id = id;
    this.#fields = fields;
    this.sendWindow = sendWindow;
    this.receiveWindow = receiveWindow;
  }

  header(name: string): string | undefined {
    return this.#fields.find((field) => field.name === name)?.value;
  }

  write(frames: Buffer): void {
    if (!this.isClosed && this.final === undefined) this.#owner.write(this, frames);
  }

  end(status: number, message: string): void {
    if (!this.isClosed && this.final === undefined) this.#owner.end(this, status, message);
  }
}
