import type { ServerStream, StreamListener } from './transport.ts';

/** One stream of gRPC messages in both directions. */
export interface Call {
  readonly path: string;
  /** A header that the peer opened the call with, by its name in lower case. */
  header(name: string): string | undefined;
  /** Sends whole frames. While the peer does not read, the call's messages pause by themselves. */
  send(frames: Buffer): void;
  /** Ends the stream with a status; later calls do nothing. */
  end(status: number, message?: string): void;
}

/** What a service does with a call. A throw ends the call with INTERNAL. */
export interface CallHandler {
  onMessage(message: Buffer): void;
  /** The peer has said all it will. */
  onHalfClose(): void;
  /** Exactly once, last, however the call ended. */
  onClose(): void;
}

export type Service = (call: Call) => CallHandler;

/** Services by full method path, `/package.Service/Method`. */
export type Services = ReadonlyMap<string, Service>;

export const grpcStatus = { internal: 13, unimplemented: 12, resourceExhausted: 8 } as const;

export interface CallOptions {
  readonly services: Services;
  readonly maxMessageBytes: number;
  readonly onError: (error: unknown) => void;
  /** After the call's handler. */
  readonly onClose: () => void;
}

const maxMessageChars = 500;

/** A status message as gRPC's trailers carry it: percent signs for all but printable ASCII; cut where it is long. */
export function toStatusMessage(text: string): string {
  const short = text.slice(0, maxMessageChars).toWellFormed();
  return short.replace(/[^ -$&-~]/gu, (char) => encodeURIComponent(char));
}

const noListener: StreamListener = { onData: () => {}, onEnd: () => {}, onClose: () => {} };

/** Serves the call that a stream carries. */
export function acceptCall(path: string, stream: ServerStream, options: CallOptions): StreamListener {
  const service = options.services.get(path);
  if (service !== undefined) return new ServedCall(path, stream, service, options);
  stream.end(grpcStatus.unimplemented, toStatusMessage(`method ${path} is not served here`));
  return { ...noListener, onClose: options.onClose };
}

/** A call and its way through the service: cuts messages, keeps throws away from the engine. */
class ServedCall implements Call, StreamListener {
  readonly path: string;
  readonly #stream: ServerStream;
  readonly #options: CallOptions;
  readonly #assembler: MessageAssembler;
  #handler: CallHandler | undefined;
  #isEnded = false;

  constructor(path: string, stream: ServerStream, service: Service, options: CallOptions) {
    this.path = path;
    this.#stream = stream;
    this.#options = options;
    this.#assembler = new MessageAssembler(options.maxMessageBytes);
    try {
      this.#handler = service(this);
    } catch (thrown) {
      this.#fail(thrown);
    }
  }

  header(name: string): string | undefined {
    return this.#stream.header(name);
  }

  send(frames: Buffer): void {
    if (!this.#isEnded && !this.#stream.isClosed) this.#stream.write(frames);
  }

  end(status: number, message = ''): void {
    if (this.#isEnded || this.#stream.isClosed) return;
    this.#isEnded = true;
    this.#stream.end(status, message === '' ? '' : toStatusMessage(message));
  }

  onData(chunk: Buffer): void {
    if (this.#isEnded) return;
    try {
      const problem = this.#assembler.push(chunk, this.#onMessage);
      if (problem !== undefined) this.end(problem.status, problem.message);
    } catch (thrown) {
      this.#fail(thrown);
    }
  }

  onEnd(): void {
    try {
      this.#handler?.onHalfClose();
    } catch (thrown) {
      this.#fail(thrown);
    }
  }

  onClose(): void {
    this.#isEnded = true;
    try {
      this.#handler?.onClose();
    } catch (thrown) {
      this.#options.onError(thrown);
    }
    this.#options.onClose();
  }

  readonly #onMessage = (message: Buffer): void => {
    if (!this.#isEnded) this.#handler?.onMessage(message);
  };

  #fail(thrown: unknown): void {
    this.#options.onError(thrown);
    this.end(grpcStatus.internal, 'internal error');
  }
}

const frameBytes = 5;

/** Cuts the byte stream into messages: five bytes of frame (compressed?, length), then the message. */
export class MessageAssembler {
  readonly #maxBytes: number;
  /** Parts of a message that is not complete, frame included. */
  #held: Buffer[] = [];
  #heldBytes = 0;
  /** Bytes needed before anything can be done, frame included. */
  #needed = frameBytes;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Hands on each message that is complete now, as a view where one chunk holds it whole. */
  push(
    chunk: Buffer,
    onMessage: (message: Buffer) => void,
  ): { readonly status: number; readonly message: string } | undefined {
    let data = chunk;
    if (this.#heldBytes > 0) {
      this.#held.push(chunk);
      this.#heldBytes += chunk.length;
      if (this.#heldBytes < this.#needed) return undefined;
      data = Buffer.concat(this.#held, this.#heldBytes);
      this.#held = [];
      this.#heldBytes = 0;
      this.#needed = frameBytes;
    }
    let at = 0;
    while (data.length - at >= frameBytes) {
      if (data[at] !== 0) {
        return { status: grpcStatus.unimplemented, message: 'compressed messages are not supported; send identity' };
      }
      const length = data.readUInt32BE(at + 1);
      if (length > this.#maxBytes) {
        return {
          status: grpcStatus.resourceExhausted,
          message: `a message of ${length} bytes is over the limit of ${this.#maxBytes} (--grpc-max-recv-msg-size)`,
        };
      }
      const end = at + frameBytes + length;
      if (end > data.length) {
        this.#needed = frameBytes + length;
        break;
      }
      onMessage(data.subarray(at + frameBytes, end));
      at = end;
    }
    if (at < data.length) {
      this.#held = [data.subarray(at)];
      this.#heldBytes = data.length - at;
    }
    return undefined;
  }
}
