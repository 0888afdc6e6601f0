import { connect, createServer, type Server, type Socket } from 'node:net';
import { messageOf } from '../../errors.ts';
import type { Logger } from '../../telemetry/log.ts';
import type { Backend, VirtualServer } from './service.ts';

/** Listens for virtual servers and passes their connections on. */
export interface ServiceProxy {
  /** Makes the listeners and backends those given. Connections that are open stay open. */
  update(servers: readonly VirtualServer[]): void;
  /** Resolves when everything asked for so far listens, or is known not to. */
  settled(): Promise<void>;
  close(): Promise<void>;
}

const connectTimeoutMs = 5_000;

/** One listening port; present only while it has backends, so that a Service without ready pods refuses connections. */
class Listener {
  backends: readonly Backend[] = [];
  readonly #key: string;
  readonly #log: Logger;
  readonly #sockets: Set<Socket>;
  readonly #explained: Set<string>;
  #server: Server | undefined;
  #changing: Promise<void> = Promise.resolve();
  #turn = 0;

  constructor(key: string, log: Logger, sockets: Set<Socket>, explained: Set<string>) {
    this.#key = key;
    this.#log = log;
    this.#sockets = sockets;
    this.#explained = explained;
  }

  get settled(): Promise<void> {
    return this.#changing;
  }

  update(host: string, port: number, service: string, backends: readonly Backend[]): void {
    this.backends = backends;
    this.#changing = this.#changing.then(async () => {
      const wanted = this.backends.length > 0;
      if (wanted && !this.#server) await this.#listen(host, port, service);
      if (!wanted) this.#stop();
    });
  }

  #listen(host: string, port: number, service: string): Promise<void> {
    return new Promise((resolve) => {
      const server = createServer({ allowHalfOpen: true, noDelay: true, pauseOnConnect: false }, (client) =>
        this.#serve(client),
      );
      server.once('error', (error: NodeJS.ErrnoException) => {
        // Each line once, however often the Service changes.
        if (!this.#explained.has(this.#key)) {
          this.#explained.add(this.#key);
          const remedy =
            error.code === 'EACCES'
              ? 'ports under 1024 need privileges: give the Service a higher port, run as root, or set sysctl net.ipv4.ip_unprivileged_port_start=0'
              : 'it stays unreachable until it changes';
          this.#log.warn(
            { service, address: this.#key },
            `cannot listen for Service ${service} on ${this.#key}: ${messageOf(error)}; ${remedy}`,
          );
        }
        resolve();
      });
      server.listen({ host, port, exclusive: true }, () => {
        this.#server = server;
        resolve();
      });
    });
  }

  #stop(): void {
    // Stops accepting; what is connected goes on.
    this.#server?.close();
    this.#server = undefined;
  }

  #serve(client: Socket): void {
    this.#track(client);
    client.on('error', () => client.destroy());
    const { backends } = this;
    this.#turn = (this.#turn + 1) % 1_000_000;
    const start = this.#turn;
    const tryAt = (attempt: number): void => {
      const backend = backends[(start + attempt) % backends.length];
      if (!backend || attempt >= Math.min(backends.length, 3) || client.destroyed) {
        client.resetAndDestroy();
        return;
      }
      const upstream = connect({ ...backend, allowHalfOpen: true, noDelay: true });
      this.#track(upstream);
      const timer = setTimeout(() => upstream.destroy(new Error('timeout')), connectTimeoutMs);
      const onFailed = (): void => {
        clearTimeout(timer);
        // Nothing was sent yet, so another pod may take the connection.
        tryAt(attempt + 1);
      };
      upstream.once('error', onFailed);
      upstream.once('connect', () => {
        clearTimeout(timer);
        upstream.off('error', onFailed);
        join(client, upstream);
      });
    };
    tryAt(0);
  }

  #track(socket: Socket): void {
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
  }
}

/** Passes bytes and half-closes both ways; an error on one side resets the other. */
function join(client: Socket, upstream: Socket): void {
  if (client.destroyed) {
    upstream.destroy();
    return;
  }
  const bind = (from: Socket, to: Socket): void => {
    from.on('error', () => to.resetAndDestroy());
    from.once('close', (hadError) => {
      if (hadError || !from.readableEnded) to.resetAndDestroy();
    });
    from.pipe(to);
  };
  bind(client, upstream);
  bind(upstream, client);
}

/** Starts with nothing to listen on. */
export function createServiceProxy(log: Logger): ServiceProxy {
  const listeners = new Map<string, { readonly listener: Listener; readonly server: VirtualServer }>();
  const sockets = new Set<Socket>();
  const explained = new Set<string>();
  let closing: readonly Listener[] = [];
  const update = (servers: readonly VirtualServer[]): void => {
    const left = new Set(listeners.keys());
    for (const server of servers) {
      const key = `${server.host}:${server.port}`;
      left.delete(key);
      const before = listeners.get(key);
      const listener = before?.listener ?? new Listener(key, log, sockets, explained);
      listeners.set(key, { listener, server });
      if (!before || !isSame(before.server.backends, server.backends)) {
        listener.update(server.host, server.port, server.service, server.backends);
      }
    }
    for (const key of left) {
      const gone = listeners.get(key);
      listeners.delete(key);
      gone?.listener.update(gone.server.host, gone.server.port, gone.server.service, []);
      if (gone) closing = [...closing.slice(-100), gone.listener];
    }
  };
  const settled = async (): Promise<void> => {
    await Promise.all([...closing, ...[...listeners.values()].map((entry) => entry.listener)].map((l) => l.settled));
  };
  return {
    update,
    settled,
    close: async () => {
      update([]);
      await settled();
      for (const socket of sockets) socket.destroy();
    },
  };
}

function isSame(a: readonly Backend[], b: readonly Backend[]): boolean {
  return a.length === b.length && a.every((one, i) => one.host === b[i]?.host && one.port === b[i]?.port);
}
