import { createServer } from 'node:net';
import { AppError } from '../errors.ts';

/**
 * A share of the loopback network that one cluster uses alone: four /16 blocks, so that two clusters on one
 * machine never meet. Linux answers on all of 127.0.0.0/8 without set-up.
 */
export interface NetworkSlot {
  readonly index: number;
  /** Prefix of ClusterIPs: `127.64`. */
  readonly services: string;
  /** Prefix of pod addresses: `127.65`. */
  readonly pods: string;
  /** Prefix of Gateway addresses: `127.66`. */
  readonly gateways: string;
  release(): Promise<void>;
}

const slots = 16;
const firstOctet = 64;
const lockPort = 47_913;

/** Takes the first free slot. It is held by a listening socket, so a killed cluster frees it too. */
export async function takeNetworkSlot(): Promise<NetworkSlot> {
  for (let index = 0; index < slots; index++) {
    const base = firstOctet + 4 * index;
    const lock = await listen(`127.${base + 3}.0.1`, lockPort);
    if (!lock) continue;
    return {
      index,
      services: `127.${base}`,
      pods: `127.${base + 1}`,
      gateways: `127.${base + 2}`,
      release: () => new Promise((resolve) => lock.close(() => resolve())),
    };
  }
  throw new AppError(
    'unavailable',
    `all ${slots} loopback networks are in use by other clusters; stop one with \`signalbox down\``,
  );
}

function listen(host: string, port: number): Promise<ReturnType<typeof createServer> | undefined> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.destroy());
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE') resolve(undefined);
      else if (error.code === 'EADDRNOTAVAIL') {
        reject(new AppError('unsupported', `this system does not answer on ${host}: the embedded cluster needs Linux`));
      } else reject(error);
    });
    server.listen(port, host, () => resolve(server.unref()));
  });
}
