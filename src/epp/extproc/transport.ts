export interface TlsPair {
  readonly cert: string | Buffer;
  readonly key: string | Buffer;
  /** Oldest version; Node's default when absent. */
  readonly minVersion?: 'TLSv1.2' | 'TLSv1.3';
  /** OpenSSL's names, joined by colons. */
  readonly ciphers?: string;
}

/** One HTTP/2 stream that carries a gRPC call, as the call sees it. */
export interface ServerStream {
  /** The stream is over for both sides; what is sent goes nowhere. */
  readonly isClosed: boolean;
  /** A header that the peer opened the stream with, by its name in lower case. */
  header(name: string): string | undefined;
  /** Sends whole gRPC frames; the response headers go before the first. Input pauses by itself while the peer does not read. */
  write(frames: Buffer): void;
  /** Ends the stream with a gRPC status and a message of printable ASCII, once what was written is out. */
  end(status: number, message: string): void;
}

/** What happens on a stream. */
export interface StreamListener {
  /** A view into a network buffer. */
  onData(chunk: Buffer): void;
  /** The peer has said all it will. */
  onEnd(): void;
  /** Exactly once, last. */
  onClose(): void;
}

export interface EngineOptions {
  readonly tls: TlsPair | undefined;
  /** A stream has been opened. */
  readonly onStream: (path: string, stream: ServerStream) => StreamListener;
  readonly onError: (error: unknown) => void;
}

/** An HTTP/2 server without any notion of messages. */
export interface Engine {
  /** The port; rejects with what the system says when it cannot be had. */
  listen(address: string | undefined, port: number): Promise<number>;
  setTls(pair: TlsPair): void;
  /** Takes no new connections and tells the peers to open no more streams; resolves when all connections are gone. */
  goAway(): Promise<void>;
  /** Cuts all connections. */
  destroy(): void;
}

export type CreateEngine = (options: EngineOptions) => Engine;

/** Limits that both engines hold. */
export const engineLimits = {
  /** Bytes that a peer may send ahead on one stream, and on one connection. */
  streamWindowBytes: 1 << 20,
  connectionWindowBytes: 64 << 20,
  /** Streams that peers may reset at once, and each second from then on; browsers would get far less. */
  resetBurst: 100_000,
  resetsPerSecond: 20_000,
} as const;
