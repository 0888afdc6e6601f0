import type { buildConnector, Pool } from 'undici';
// Of the package's many parts these are all that is used: the index costs 5 MB of memory.
// @ts-expect-error: the package declares its index only.
import toConnector from 'undici/lib/core/connect.js';
// @ts-expect-error: the package declares its index only.
import HttpPool from 'undici/lib/dispatcher/pool.js';
import type { Trust } from './tls.ts';

export interface PoolOptions {
  readonly isTls: boolean;
  readonly isInsecure: boolean;
  readonly trust: Trust;
  /** Name to ask for and to find in certificates; undefined: the upstream's own. */
  readonly serverName: string | undefined;
  readonly connectTimeoutMs: number;
  readonly maxConnections: number;
}

/** uvicorn closes a connection that idled for 5 s; ours are closed before. */
const idleMs = 4000;

/** Connections to one upstream. */
export function createPool(host: string, options: PoolOptions): Pool {
  return new (HttpPool as typeof Pool)(`${options.isTls ? 'https' : 'http'}://${host}`, {
    connections: options.maxConnections,
    pipelining: 1,
    allowH2: false,
    keepAliveTimeout: idleMs,
    keepAliveMaxTimeout: idleMs,
    connect: options.isTls ? createTlsConnector(options) : { timeout: options.connectTimeoutMs },
  });
}

/** Opens connections by TLS, each new one with the authorities that are trusted at that moment; those that are open go on. */
function createTlsConnector(options: PoolOptions): buildConnector.connector {
  let authorities: string[] | undefined;
  let connect: buildConnector.connector | undefined;
  return (target, callback) => {
    const trusted = options.trust.authorities();
    if (!connect || trusted !== authorities) {
      authorities = trusted;
      connect = (toConnector as typeof buildConnector)({
        timeout: options.connectTimeoutMs,
        rejectUnauthorized: !options.isInsecure,
        ...(trusted ? { ca: trusted } : {}),
        ...(options.serverName ? { servername: options.serverName } : {}),
      });
    }
    connect(target, callback);
  };
}

const maxPools = 256;

/** Pools by upstream, the least recently used closed when there are many. */
export class Pools {
  readonly #options: PoolOptions;
  readonly #pools = new Map<string, Pool>();

  constructor(options: PoolOptions) {
    this.#options = options;
  }

  get(hostPort: string, isTls = this.#options.isTls): Pool {
    const key = `${isTls ? 'https' : 'http'}://${hostPort}`;
    let pool = this.#pools.get(key);
    if (pool) this.#pools.delete(key);
    else pool = createPool(hostPort, { ...this.#options, isTls });
    this.#pools.set(key, pool);
    if (this.#pools.size > maxPools) {
      const oldest = this.#pools.entries().next().value;
      if (oldest) {
        this.#pools.delete(oldest[0]);
        // Lets what is under way finish.
        void oldest[1].close();
      }
    }
    return pool;
  }

  async close(): Promise<void> {
    const pools = [...this.#pools.values()];
    this.#pools.clear();
    await Promise.all(pools.map((pool) => pool.destroy()));
  }
}
