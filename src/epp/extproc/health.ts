import type { Service, Services } from './grpc.ts';

export type Health = 'SERVING' | 'NOT_SERVING' | 'SERVICE_UNKNOWN';

const statusOf: Readonly<Record<Health, number>> = { SERVING: 1, NOT_SERVING: 2, SERVICE_UNKNOWN: 3 };
const notFound = 5;
const invalidArgument = 3;

/** Answers grpc.health.v1 for the services it knows. */
export interface HealthBoard {
  readonly names: readonly string[];
  /** `SERVICE_UNKNOWN` for a name that is not known. */
  statusOf(service: string): Health;
  /** Called after any change; returns how to stop. */
  subscribe(listener: () => void): () => void;
}

/** grpc.health.v1.Health: Check, List and Watch. */
export function createHealthServices(board: HealthBoard): Services {
  const check: Service = (call) => {
    let isAsked = false;
    return {
      onMessage: (message) => {
        isAsked = true;
        const health = board.statusOf(serviceIn(message));
        if (health === 'SERVICE_UNKNOWN') {
          call.end(notFound, `service is not known; ${board.names.filter((name) => name !== '').join(', ')} are`);
          return;
        }
        call.send(frame(checkResponse(health)));
        call.end(0);
      },
      onHalfClose: () => {
        if (!isAsked) call.end(invalidArgument, 'the request is missing');
      },
      onClose: () => {},
    };
  };
  const watch: Service = (call) => {
    let stop = (): void => {};
    return {
      onMessage: (message) => {
        stop();
        const service = serviceIn(message);
        let told: Health | undefined;
        const tell = (): void => {
          const health = board.statusOf(service);
          if (health === told) return;
          told = health;
          call.send(frame(checkResponse(health)));
        };
        stop = board.subscribe(tell);
        tell();
      },
      onHalfClose: () => {},
      onClose: () => stop(),
    };
  };
  const list: Service = (call) => ({
    onMessage: () => {
      const entries = board.names.map((name) => {
        const key = Buffer.from(name);
        const value = checkResponse(board.statusOf(name));
        const entry = Buffer.concat([Buffer.from([0x0a, key.length]), key, Buffer.from([0x12, value.length]), value]);
        return Buffer.concat([Buffer.from([0x0a, entry.length]), entry]);
      });
      call.send(frame(Buffer.concat(entries)));
      call.end(0);
    },
    onHalfClose: () => {},
    onClose: () => {},
  });
  return new Map([
    ['/grpc.health.v1.Health/Check', check],
    ['/grpc.health.v1.Health/Watch', watch],
    ['/grpc.health.v1.Health/List', list],
  ]);
}

/** HealthCheckRequest.service; a name is far under 128 bytes, so its length is one byte. */
function serviceIn(message: Buffer): string {
  if (message[0] !== 0x0a) return '';
  const length = message[1] ?? 0;
  return message.toString('utf8', 2, 2 + length);
}

function checkResponse(health: Health): Buffer {
  return Buffer.from([0x08, statusOf[health]]);
}

function frame(message: Buffer): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}
