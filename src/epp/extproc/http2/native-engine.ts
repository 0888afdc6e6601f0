import net from 'node:net';
import tls from 'node:tls';
import type { CreateEngine } from '../transport.ts';
import { Connection } from './connection.ts';
import { limits } from './limits.ts';

const sweepMs = 2_000;
const keepAliveMs = 30_000;

/** HTTP/2 of our own over Node's sockets: only what gRPC servers need, at a fraction of the cost of `node:http2`. */
export const createNativeEngine: CreateEngine = (options) => {
  const connections = new Set<Connection>();
  let isLeaving = false;
  let onGone: (() => void) | undefined;

  const accept = (socket: net.Socket): void => {
    socket.setNoDelay(true);
    socket.setKeepAlive(true, keepAliveMs);
    const connection = new Connection(socket, options);
    connections.add(connection);
    socket.once('close', () => {
      connections.delete(connection);
      if (connections.size === 0) onGone?.();
    });
    if (isLeaving) connection.goAway();
  };

  const secure =
    options.tls &&
    tls.createServer(
      { ...options.tls, ALPNProtocols: ['h2'], handshakeTimeout: limits.handshakeMs },
      (socket: tls.TLSSocket) => {
        // Who does not ask for HTTP/2 by name does not speak it.
        if (socket.alpnProtocol === 'h2') accept(socket);
        else socket.destroy();
      },
    );
  const server = secure ?? net.createServer({ noDelay: true }, accept);
  server.maxConnections = limits.maxConnections;
  // Those whose handshake is under way are connections too.
  const sockets = new Set<net.Socket>();
  server.on('connection', (socket: net.Socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });
  if (secure) secure.on('tlsClientError', options.onError);
  const sweep = setInterval(() => {
    const nowMs = performance.now();
    for (const connection of connections) connection.sweep(nowMs);
  }, sweepMs).unref();

  return {
    listen: async (address, port) => {
      try {
        await new Promise<void>((resolve, reject) => {
          server.once('error', reject);
          server.listen({ port, ...(address === undefined ? {} : { host: address }) }, resolve);
        });
      } catch (thrown) {
        clearInterval(sweep);
        throw thrown;
      }
      server.removeAllListeners('error');
      server.on('error', options.onError);
      return (server.address() as net.AddressInfo).port;
    },
    setTls: (pair) => secure?.setSecureContext({ ...pair }),
    goAway: async () => {
      isLeaving = true;
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const connection of connections) connection.goAway();
      if (connections.size > 0) {
        await new Promise<void>((resolve) => {
          onGone = resolve;
        });
      }
      clearInterval(sweep);
      await closed;
    },
    destroy: () => {
      for (const connection of connections) connection.destroy();
      if (connections.size === 0) for (const socket of sockets) socket.destroy();
    },
  };
};
