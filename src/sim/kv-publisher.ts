import type { Publisher, Router } from 'zeromq';
import type { Clock } from '../clock.ts';
import { AppError, messageOf } from '../errors.ts';
import type { Logger } from '../telemetry/log.ts';
import type { WireEvent } from './kv-events.ts';

/** `--kv-events-config`. */
export interface KvEventsSettings {
  readonly endpoint: string;
  /** It is listened on; else those who follow listen there. */
  readonly isBound: boolean;
  /** Where missed events are told again; undefined = nowhere. */
  readonly replayEndpoint: string | undefined;
  readonly topic: string;
  /** Batches that are kept for those who missed them. */
  readonly bufferSteps: number;
  /** Batches that wait for a slow subscriber, in ZeroMQ. */
  readonly highWaterMark: number;
  /** Batches that wait to be published. */
  readonly maxQueued: number;
}

export interface KvPublisher {
  /** The port that events are published on; 0 where there is none, or others listen. */
  readonly port: number;
  readonly replayPort: number;
  /** Publishes the events of a step; never waits. */
  publish(events: readonly WireEvent[]): void;
  close(): void;
}

/** The number that ends a replay: −1. */
const endSeq = Buffer.alloc(8, 0xff);
const replaySendTimeoutMs = 5_000;

/**
 * Publishes cache events as vLLM does: topic, the number of the batch (8 bytes, big-endian), and MessagePack of
 * `[seconds, events, rank]`; what is asked for on the replay socket is told again from the buffer.
 *
 * @throws AppError `unavailable` when an endpoint cannot be had or a library does not load
 */
export async function startKvPublisher(
  settings: KvEventsSettings,
  deps: { readonly rank: number; readonly clock: Clock; readonly log: Pick<Logger, 'info' | 'warn'> },
): Promise<KvPublisher> {
  const { rank, clock, log } = deps;
  const [zmq, { Encoder }] = await Promise.all([import('zeromq'), import('@msgpack/msgpack')]).catch(
    (thrown: unknown) => {
      throw new AppError('unavailable', `--kv-events-config: a library does not load: ${messageOf(thrown)}`, {
        cause: thrown,
      });
    },
  );
  const encoder = new Encoder();
  const topic = Buffer.from(settings.topic);
  const publisher: Publisher = new zmq.Publisher({ linger: 0, sendHighWaterMark: settings.highWaterMark });
  let router: Router | undefined;
  let isClosed = false;
  const close = () => {
    isClosed = true;
    publisher.close();
    router?.close();
  };
  try {
    const endpoint = endpointOfRank(settings.endpoint, rank);
    if (settings.isBound) await publisher.bind(endpoint);
    else publisher.connect(endpoint);
    if (settings.replayEndpoint !== undefined) {
      router = new zmq.Router({ linger: 0, sendTimeout: replaySendTimeoutMs });
      await router.bind(endpointOfRank(settings.replayEndpoint, rank));
    }
  } catch (thrown) {
    close();
    throw new AppError(
      'unavailable',
      `--kv-events-config: ${settings.endpoint}${settings.replayEndpoint === undefined ? '' : ` or ${settings.replayEndpoint}`}, rank ${rank}: ${messageOf(thrown)}; choose another port`,
      { cause: thrown },
    );
  }

  /** A ring: batch `seq` lies at `seq % bufferSteps`. */
  const kept: Uint8Array[] = [];
  const queue: Uint8Array[] = [];
  let nextSeq = 0;
  let dropped = 0;
  let isSending = false;

  const send = async () => {
    isSending = true;
    try {
      for (let payload = queue.shift(); payload !== undefined && !isClosed; payload = queue.shift()) {
        const seq = nextSeq++;
        kept[seq % settings.bufferSteps] = payload;
        await publisher.send([topic, seqFrame(seq), payload]);
      }
    } catch (err) {
      if (!isClosed) log.warn({ err }, 'cache events could not be published');
    } finally {
      isSending = false;
    }
  };

  const answerReplays = async (socket: Router) => {
    for await (const frames of socket) {
      const [client, , from] = frames;
      if (frames.length !== 3 || client === undefined || from?.length !== 8) {
        log.warn({ frames: frames.length }, 'a request for cache events that is none');
        continue;
      }
      const first = Math.max(Number(from.readBigUInt64BE()), nextSeq - settings.bufferSteps, 0);
      try {
        for (let seq = first; seq < nextSeq; seq++) {
          const payload = kept[seq % settings.bufferSteps];
          // It may have been overwritten while this one was sent.
          if (payload && seq >= nextSeq - settings.bufferSteps) await socket.send([client, '', seqFrame(seq), payload]);
        }
        await socket.send([client, '', endSeq, '']);
      } catch (err) {
        if (isClosed) return;
        log.warn({ err }, 'cache events could not be told again');
      }
    }
  };
  if (router) {
    answerReplays(router).catch((err: unknown) => {
      if (!isClosed) log.warn({ err }, 'cache events are no longer told again');
    });
  }
  const port = portOf(publisher.lastEndpoint);
  const replayPort = portOf(router?.lastEndpoint ?? null);
  log.info({ port, replayPort, topic: settings.topic, rank }, 'publishing cache events');

  return {
    port,
    replayPort,
    publish: (events) => {
      if (isClosed) return;
      // vLLM's clock has microseconds; a time without a fraction would be written as a whole number.
      const atS = (clock.now() + 0.001) / 1000;
      queue.push(encoder.encode([atS, events, rank]));
      if (queue.length > settings.maxQueued) {
        queue.shift();
        if (dropped++ === 0) log.warn({ queued: queue.length }, 'cache events are dropped: too many wait');
      }
      if (!isSending) void send();
    },
    close,
  };
}

/** A rank's own endpoint: the port of tcp and a suffix of inproc go up with the rank. */
export function endpointOfRank(endpoint: string, rank: number): string {
  if (rank === 0) return endpoint;
  if (endpoint.startsWith('inproc://')) return `${endpoint}_dp${rank}`;
  return endpoint.replace(/:(\d+)$/, (_, port: string) => `:${Number(port) + rank}`);
}

function seqFrame(seq: number): Buffer {
  const frame = Buffer.alloc(8);
  frame.writeBigUInt64BE(BigInt(seq));
  return frame;
}

function portOf(endpoint: string | null): number {
  return Number(/:(\d+)$/.exec(endpoint ?? '')?.[1] ?? 0);
}
