import http2 from 'node:http2';
import type { AddressInfo } from 'node:net';
import { AppError, messageOf } from '../../errors.ts';

/** One stream of gRPC messages in both directions. */
export interface Call {
  readonly path: string;
  /** Sends whole frames. False when the peer does not read fast enough: the call's messages then pause by themselves. */
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

export interface TlsPair {
  readonly cert: string | Buffer;
  readonly key: string | Buffer;
  /** Oldest version; Node's default when absent. */
  readonly minVersion?: 'TLSv1.2' | 'TLSv1.3';
}

export interface GrpcServerOptions {
  readonly address: string | undefined;
  readonly port: number;
  readonly services: Services;
  readonly maxMessageBytes: number;
  readonly tls?: TlsPair;
  readonly onError?: (error: unknown) => void;
}

export interface GrpcServer {
  readonly port: number;
  /** Open calls. */
  readonly calls: number;
  /** New certificates for connections from now on. */
  setTls(pair: TlsPair): void;
  /**
   * Serves on until there was no call for 300 ms, then takes no new ones; what is left after `drainMs` is cut.
   */
  close(drainMs?: number): Promise<void>;
}

/** Without a call for so long, the gateways have gone elsewhere. */
const quietMs = 300;

const grpcStatus = { internal: 13, unimplemented: 12, resourceExhausted: 8 } as const;

/** Serves gRPC over HTTP/2, in clear text or TLS. Rejects with AppError `unavailable` when the port cannot be had. */
export async function startGrpcServer(options: GrpcServerOptions): Promise<GrpcServer> {
  const settings: http2.ServerOptions = {
    settings: { maxConcurrentStreams: 1_000_000, initialWindowSize: 1 << 20 },
    // A gateway multiplexes everything over few connections; Node's own bounds are meant for browsers.
    maxSessionMemory: 2048,
    streamResetBurst: 100_000,
    streamResetRate: 20_000,
  };
  const secure = options.tls && http2.createSecureServer({ ...settings, ...options.tls, ALPNProtocols: ['h2'] });
  const server = secure ?? http2.createServer(settings);
  const sessions = new Set<http2.ServerHttp2Session>();
  let calls = 0;
  let total = 0;
  let seenTotal = 0;
  let onIdle: (() => void) | undefined;
  const report = options.onError ?? (() => {});

  server.on('session', (session: http2.ServerHttp2Session) => {
    sessions.add(session);
    session.setLocalWindowSize(64 << 20);
    session.on('close', () => sessions.delete(session));
    session.on('error', report);
  });
  server.on('sessionError', report);
  if (secure) secure.on('tlsClientError', report);
  server.on('stream', (stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders) => {
    calls++;
    total++;
    stream.once('close', () => {
      calls--;
      if (calls === 0) onIdle?.();
    });
    serve(stream, headers, options, report);
  });

  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      const where = `${options.address ?? '*'}:${options.port}`;
      reject(new AppError('unavailable', `cannot listen on ${where}: ${messageOf(error)}`, { cause: error }));
    });
    server.listen({ port: options.port, ...(options.address === undefined ? {} : { host: options.address }) }, resolve);
  });
  server.on('error', report);

  return {
    port: (server.address() as AddressInfo).port,
    get calls() {
      return calls;
    },
    setTls: (pair) => secure?.setSecureContext({ ...pair }),
    close: async (drainMs = 0) => {
      const deadline = performance.now() + drainMs;
      // Gateways hear late that this picker is going: it serves on until they have gone quiet.
      let quietSince = performance.now();
      while (drainMs > 0 && performance.now() < deadline && performance.now() - quietSince < quietMs) {
        if (calls > 0 || total !== seenTotal) quietSince = performance.now();
        seenTotal = total;
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      // Says GOAWAY; open streams go on.
      for (const session of sessions) session.close();
      const left = deadline - performance.now();
      if (calls > 0 && left > 0) {
        let timer: NodeJS.Timeout | undefined;
        await new Promise<void>((resolve) => {
          onIdle = resolve;
          timer = setTimeout(resolve, left);
        });
        clearTimeout(timer);
      }
      for (const session of sessions) session.destroy();
      await closed;
    },
  };
}

const trailersOnly = (status: number, message: string): http2.OutgoingHttpHeaders => ({
  ':status': 200,
  'content-type': 'application/grpc',
  'grpc-status': String(status),
  'grpc-message': encodeURIComponent(message),
});

function serve(
  stream: http2.ServerHttp2Stream,
  headers: http2.IncomingHttpHeaders,
  options: GrpcServerOptions,
  report: (error: unknown) => void,
): void {
  // A reset by the peer is its right; 'close' tells us.
  stream.on('error', () => {});
  const path = headers[':path'] ?? '';
  const service = options.services.get(path);
  if (service === undefined) {
    stream.respond(trailersOnly(grpcStatus.unimplemented, `method ${path} is not served here`), { endStream: true });
    return;
  }

  let isEnded = false;
  let final = { status: 0, message: '' };
  const end = (status: number, message = ''): void => {
    if (isEnded || stream.destroyed) return;
    isEnded = true;
    final = { status, message };
    if (stream.headersSent) stream.end();
    else stream.respond(trailersOnly(status, message), { endStream: true });
  };
  const call: Call = {
    path,
    send: (frames) => {
      if (isEnded || stream.destroyed) return;
      if (!stream.headersSent) {
        stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
        stream.once('wantTrailers', () => {
          stream.sendTrailers({
            'grpc-status': String(final.status),
            ...(final.message === '' ? {} : { 'grpc-message': encodeURIComponent(final.message) }),
          });
        });
      }
      if (!stream.write(frames) && !stream.isPaused()) {
        stream.pause();
        stream.once('drain', () => stream.resume());
      }
    },
    end,
  };

  const guarded = (task: () => void): void => {
    try {
      task();
    } catch (thrown) {
      report(thrown);
      end(grpcStatus.internal, 'internal error');
    }
  };

  let handler: CallHandler | undefined;
  guarded(() => {
    handler = service(call);
  });
  const assembler = new MessageAssembler(options.maxMessageBytes);
  stream.on('data', (chunk: Buffer) => {
    if (isEnded) return;
    guarded(() => {
      const problem = assembler.push(chunk, (message) => {
        if (!isEnded) handler?.onMessage(message);
      });
      if (problem !== undefined) end(problem.status, problem.message);
    });
  });
  stream.on('end', () => guarded(() => handler?.onHalfClose()));
  stream.once('close', () => {
    isEnded = true;
    guarded(() => handler?.onClose());
  });
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
