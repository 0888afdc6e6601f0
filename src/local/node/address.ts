import { createServer, type Server } from 'node:net';
import { AppError } from '../../errors.ts';

/** Gives each pod an address of its own. Addresses come back in turn, so that a new pod is not taken for the one just gone. */
export interface AddressAllocator {
  allocate(): string;
  release(address: string): void;
}

/** Allocates from a /16 of the loopback network given as its first two numbers, e.g. `127.88`; .0.0 to .0.9 stay free. */
export function createAddressAllocator(prefix: string, size = 65_000): AddressAllocator {
  if (!/^127\.(\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5])$/.test(prefix)) {
    throw new AppError(
      'usage',
      `pod address prefix ${prefix}: give two numbers of the loopback network, such as 127.88`,
    );
  }
  const taken = new Set<number>();
  let next = 0;
  return {
    allocate: () => {
      for (let tried = 0; tried < size; tried++) {
        const index = next;
        next = (next + 1) % size;
        if (taken.has(index)) continue;
        taken.add(index);
        const host = index + 10;
        return `${prefix}.${host >> 8}.${host & 255}`;
      }
      throw new AppError('overloaded', `all ${size} pod addresses of ${prefix}.0.0/16 are taken: delete pods`);
    },
    release: (address) => {
      const [, , high, low] = address.split('.').map(Number);
      if (high !== undefined && low !== undefined) taken.delete(high * 256 + low - 10);
    },
  };
}

/** Three loopback /16 networks that no other cluster on this machine uses, for as long as it is not closed. */
export interface LoopbackNetworks {
  /** First two numbers of the pods' network, e.g. `127.88`. */
  readonly pods: string;
  /** First two numbers of the services' network, e.g. `127.96`. */
  readonly services: string;
  /** First two numbers of the Gateways' network, e.g. `127.32`. */
  readonly gateways: string;
  close(): Promise<void>;
}

/** The lock is a listening socket: it goes when its process goes, however it ends. */
const lockPort = 10_254;

/**
 * Reserves three networks: 127.64, 127.96 and 127.32; 127.65, 127.97 and 127.33; … 127.95, 127.127 and 127.63.
 * Errors: `unavailable` when 32 clusters run already, or when the machine does not answer on 127.0.0.0/8 (macOS).
 */
export async function reserveLoopbackNetworks(): Promise<LoopbackNetworks> {
  let first: unknown;
  for (let n = 0; n < 32; n++) {
    const server = await listen(`127.${64 + n}.0.1`, lockPort).catch((thrown: unknown) => {
      first ??= thrown;
      return undefined;
    });
    if (!server) continue;
    server.unref();
    return {
      pods: `127.${64 + n}`,
      services: `127.${96 + n}`,
      gateways: `127.${32 + n}`,
      close: () => new Promise((resolve) => server.close(() => resolve())),
    };
  }
  throw new AppError(
    'unavailable',
    'no free loopback network: 32 clusters are running, or this system answers only on 127.0.0.1 (then add addresses of 127.64.0.0/10 to the loopback interface)',
    { cause: first },
  );
}

function listen(host: string, port: number): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.destroy());
    server.once('error', reject);
    server.listen({ host, port, exclusive: true }, () => resolve(server));
  });
}
