import http2 from 'node:http2';
import type { AddressInfo } from 'node:net';
import { type CreateEngine, engineLimits, type ServerStream } from './transport.ts';

const trailersOnly = (status: number, message: string): http2.OutgoingHttpHeaders => ({
  ':status': 200,
  'content-type': 'application/grpc',
  'grpc-status': String(status),
  'grpc-message': message,
});

/** Node's own HTTP/2, which is nghttp2. */
export const createNodeEngine: CreateEngine = (options) => {
  const settings: http2.ServerOptions = {
    settings: { maxConcurrentStreams: 1_000_000, initialWindowSize: engineLimits.streamWindowBytes },
    // A gateway multiplexes everything over few connections; Node's own bounds are meant for browsers.
    maxSessionMemory: 2048,
    streamResetBurst: engineLimits.resetBurst,
    streamResetRate: engineLimits.resetsPerSecond,
  };
  const secure = options.tls && http2.createSecureServer({ ...settings, ...options.tls, ALPNProtocols: ['h2'] });
  const server = secure ?? http2.createServer(settings);
  const sessions = new Set<http2.ServerHttp2Session>();

  server.on('session', (session: http2.ServerHttp2Session) => {
    sessions.add(session);
    session.setLocalWindowSize(engineLimits.connectionWindowBytes);
    session.on('close', () => sessions.delete(session));
    session.on('error', options.onError);
  });
  server.on('sessionError', options.onError);
  if (secure) secure.on('tlsClientError', options.onError);
  server.on('stream', (stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders) => {
    // A reset by the peer is its right; 'close' tells us.
    stream.on('error', () => {});
    const listener = options.onStream(headers[':path'] ?? '', createServerStream(stream, headers));
    stream.on('data', (chunk: Buffer) => listener.onData(chunk));
    stream.on('end', () => listener.onEnd());
    stream.once('close', () => listener.onClose());
  });

  return {
    listen: async (address, port) => {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen({ port, ...(address === undefined ? {} : { host: address }) }, resolve);
      });
      server.on('error', options.onError);
      return (server.address() as AddressInfo).port;
    },
    setTls: (pair) => secure?.setSecureContext({ ...pair }),
    goAway: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        // Says GOAWAY; open streams go on.
        for (const session of sessions) session.close();
      }),
    destroy: () => {
      for (const session of sessions) session.destroy();
    },
  };
};

function createServerStream(stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders): ServerStream {
  let final = { status: 0, message: '' };
  return {
    get isClosed() {
      return stream.destroyed;
    },
    header: (name) => {
      const value = headers[name];
      return Array.isArray(value) ? value[0] : value;
    },
    write: (frames) => {
      if (!stream.headersSent) {
        stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
        stream.once('wantTrailers', () => {
          stream.sendTrailers({
            'grpc-status': String(final.status),
            ...(final.message === '' ? {} : { 'grpc-message': final.message }),
          });
        });
      }
      if (!stream.write(frames) && !stream.isPaused()) {
        stream.pause();
        stream.once('drain', () => stream.resume());
      }
    },
    end: (status, message) => {
      final = { status, message };
      if (stream.headersSent) stream.end();
      else stream.respond(trailersOnly(status, message), { endStream: true });
    },
  };
}
