import type { RequestListener, Server } from 'node:http';
import type { Http2Server, ServerHttp2Session } from 'node:http2';
import type { Server as TlsServer } from 'node:https';
import type { Socket } from 'node:net';

/** The beginning of HTTP/2's preface; no method of HTTP/1.1 begins so. */
const preface = 'PRI';

export interface Http2Options {
  readonly maxHeaderBytes: number;
  /** For the first bytes of a connection. */
  readonly headersTimeoutMs: number;
  /** Of a connection without requests. */
  readonly idleTimeoutMs: number;
}

export interface Http2Front {
  /** Lets every connection finish its requests and takes no more. */
  drain(): void;
  /** Ends what is left. */
  close(): void;
}

const maxConcurrentStreams = 4096;
/** Of one connection's streams, for data that waits to be sent. */
const maxSessionMemoryMb = 256;
const windowBytes = 256 * 1024;

/**
 * Lets a server of HTTP/1.1 serve HTTP/2 on the same port: with prior knowledge on plain connections, by ALPN or prior
 * knowledge on those by TLS. `event` is the one by which it gets connections. Node's HTTP/2 is loaded with the first such connection.
 */
export function serveHttp2(
  server: Server | TlsServer,
  event: 'connection' | 'secureConnection',
  options: Http2Options,
  listener: RequestListener,
): Http2Front {
  const takeHttp1 = server.listeners(event) as ((socket: Socket) => void)[];
  const undecided = new Set<Socket>();
  const sessions = new Set<ServerHttp2Session>();
  let isDraining = false;
  let http2: Promise<Http2Server> | undefined;

  const load = async (): Promise<Http2Server> => {
    const { createServer } = await import('node:http2');
    const created = createServer(
      {
        maxSessionMemory: maxSessionMemoryMb,
        settings: { maxConcurrentStreams, maxHeaderListSize: options.maxHeaderBytes, initialWindowSize: windowBytes },
      },
      // Its requests and answers are made to be used as those of HTTP/1.1.
      listener as unknown as Parameters<typeof createServer>[1],
    );
    created.on('session', (session) => {
      if (isDraining) session.close();
      sessions.add(session);
      let streams = 0;
      session.on('stream', (stream) => {
        streams++;
        stream.on('close', () => streams--);
        stream.on('error', () => {});
      });
      session.on('close', () => sessions.delete(session));
      session.on('error', () => {});
      session.setTimeout(options.idleTimeoutMs, () => {
        if (streams === 0) session.close();
      });
    });
    created.on('sessionError', () => {});
    return created;
  };

  const look = (socket: Socket) => {
    undecided.add(socket);
    let head: Buffer | undefined;
    const timer = setTimeout(() => socket.destroy(), options.headersTimeoutMs);
    timer.unref();
    const onError = () => {};
    const forget = () => {
      clearTimeout(timer);
      undecided.delete(socket);
    };
    const onData = (chunk: Buffer) => {
      head = head ? Buffer.concat([head, chunk]) : chunk;
      const start = head.toString('latin1', 0, preface.length);
      if (start !== preface && preface.startsWith(start)) return;
      forget();
      socket.off('data', onData);
      socket.off('error', onError);
      socket.off('close', forget);
      socket.pause();
      socket.unshift(head);
      if (start === preface) {
        http2 ??= load();
        // The session takes what was read by itself.
        void http2.then((found) => found.emit('connection', socket));
      } else {
        for (const take of takeHttp1) take.call(server, socket);
        process.nextTick(() => socket.resume());
      }
    };
    socket.on('error', onError);
    socket.on('close', forget);
    socket.on('data', onData);
  };

  server.removeAllListeners(event);
  server.on(event, look);
  return {
    drain() {
      isDraining = true;
      for (const session of sessions) session.close();
      for (const socket of undecided) socket.destroy();
    },
    close() {
      for (const session of sessions) session.destroy();
      for (const socket of undecided) socket.destroy();
    },
  };
}
