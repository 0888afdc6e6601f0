import type { Dealer, Subscriber } from 'zeromq';
import { AppError, messageOf } from '../../../errors.ts';
import { type Endpoint, toHostPort } from '../../framework/endpoint.ts';
import type { PoolView } from '../../framework/plugin.ts';
import { type KvEvent, parseKvEventBatch } from './kv-event.ts';

type Zmq = typeof import('zeromq');

/** Where engines tell what they cache. */
export interface EventStreamSettings {
  /** Where all engines send to, `tcp://*:5557`; undefined when each is asked for its own. */
  readonly bind: string | undefined;
  /** Port that each endpoint publishes on, plus its data-parallel rank; undefined when none is asked. */
  readonly port: number | undefined;
  /** Port that each endpoint tells missed events again on, plus its rank. */
  readonly replayPort: number | undefined;
  /** Start of the topics that count. */
  readonly topic: string;
  /** Whether that endpoint publishes. */
  readonly isPublisher: (endpoint: Endpoint) => boolean;
}

export interface EventStreamSink {
  event(endpoint: string, event: KvEvent, model: string): void;
  /** The endpoint began anew, or is no more. */
  forget(endpoint: string): void;
  problem(message: string): void;
}

/** Counts since the start. */
export interface EventStreamFigures {
  readonly batches: number;
  readonly events: number;
  /** Batches that were missed; those that were told again are not among the lost. */
  readonly missed: number;
  readonly lost: number;
  readonly malformed: number;
  readonly restarts: number;
}

const maxMessageBytes = 16 << 20;
const queuedMessages = 10_000;
const reconnectMs = 200;
const reconnectMaxMs = 10_000;
const replayTimeoutMs = 5_000;
/** An engine that misses its turn again and again is not asked without a pause. */
const minReplayPauseMs = 200;

/** How far one engine's events were followed. */
interface Progress {
  readonly endpoint: string;
  readonly replayAddress: string | undefined;
  lastSeq: number;
  lastAtS: number;
  replayedAtMs: number;
  /** Events are taken over in turn, also while some are asked for again. */
  turn: Promise<void>;
  waiting: number;
}

/**
 * Follows the engines' cache events over ZeroMQ until closed. Missed ones are asked for again where a replay port is
 * known; so are, at the start, all that an engine still has, which fills the index after a restart of the picker.
 *
 * @throws AppError `unavailable` when the address to listen on cannot be had or the library does not load
 */
export async function startEventStreams(
  settings: EventStreamSettings,
  pool: PoolView,
  sink: EventStreamSink,
): Promise<{ readonly figures: EventStreamFigures; close(): void }> {
  let zmq: Zmq;
  try {
    zmq = await import('zeromq');
  } catch (thrown) {
    throw new AppError('unavailable', `cache events need the zeromq library: ${messageOf(thrown)}`, { cause: thrown });
  }
  const figures = { batches: 0, events: 0, missed: 0, lost: 0, malformed: 0, restarts: 0 };
  const sockets = new Map<string, Subscriber>();
  const followed = new Map<string, Progress>();
  const dealers = new Set<Dealer>();
  let isClosed = false;

  const progressOf = (key: string, endpoint: Endpoint): Progress => {
    let progress = followed.get(key);
    if (progress === undefined) {
      const replayPort = settings.replayPort;
      progress = {
        endpoint: endpoint.id,
        replayAddress:
          replayPort === undefined ? undefined : `tcp://${toHostPort(endpoint.address, replayPort + rankOf(endpoint))}`,
        lastSeq: -1,
        lastAtS: Number.NEGATIVE_INFINITY,
        replayedAtMs: Number.NEGATIVE_INFINITY,
        turn: Promise.resolve(),
        waiting: 0,
      };
      followed.set(key, progress);
    }
    return progress;
  };

  const take = (progress: Progress, seq: number, payload: Uint8Array, model: string): void => {
    let batch: ReturnType<typeof parseKvEventBatch>;
    try {
      batch = parseKvEventBatch(payload);
    } catch (thrown) {
      figures.malformed++;
      sink.problem(`${progress.endpoint} sent what is no batch of cache events: ${messageOf(thrown)}`);
      return;
    }
    if (seq <= progress.lastSeq) {
      // Told twice: once more after a gap, and as it happened.
      if (batch.atS <= progress.lastAtS) return;
      figures.restarts++;
      sink.forget(progress.endpoint);
    }
    progress.lastSeq = seq;
    progress.lastAtS = batch.atS;
    figures.batches++;
    figures.events += batch.events.length;
    for (const event of batch.events) sink.event(progress.endpoint, event, model);
  };

  /** Asks for what came after `progress.lastSeq`; settles when it is told, or after a while. */
  const replay = async (progress: Progress, model: string): Promise<void> => {
    const { replayAddress } = progress;
    if (replayAddress === undefined) return;
    const pauseMs = progress.replayedAtMs + minReplayPauseMs - performance.now();
    if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs));
    if (isClosed) return;
    progress.replayedAtMs = performance.now();
    const dealer = new zmq.Dealer({
      linger: 0,
      receiveTimeout: replayTimeoutMs,
      sendTimeout: replayTimeoutMs,
      maxMessageSize: maxMessageBytes,
    });
    dealers.add(dealer);
    try {
      dealer.connect(replayAddress);
      const from = Buffer.alloc(8);
      from.writeBigUInt64BE(BigInt(progress.lastSeq + 1));
      await dealer.send(['', from]);
      for (;;) {
        const frames = await dealer.receive();
        const seq = seqOf(frames.at(-2));
        const payload = frames.at(-1);
        if (seq === undefined || payload === undefined || payload.length === 0) return;
        take(progress, seq, payload, model);
      }
    } catch (thrown) {
      if (!isClosed) sink.problem(`${progress.endpoint} does not tell missed cache events again: ${messageOf(thrown)}`);
    } finally {
      dealers.delete(dealer);
      dealer.close();
    }
  };

  const arrived = async (progress: Progress, seq: number, payload: Uint8Array, model: string): Promise<void> => {
    const isFirst = progress.lastSeq < 0;
    if (seq > progress.lastSeq + 1) {
      const before = progress.lastSeq;
      if (!isFirst) figures.missed += seq - before - 1;
      await replay(progress, model);
      if (!isFirst && progress.lastSeq < seq - 1) figures.lost += seq - 1 - progress.lastSeq;
    }
    take(progress, seq, payload, model);
  };

  const follow = async (socket: Subscriber, resolve: (topic: string, payload: Uint8Array) => Progress | undefined) => {
    try {
      for await (const frames of socket) {
        const [topicFrame, seqFrame, payload] = frames;
        const seq = seqOf(seqFrame);
        if (topicFrame === undefined || payload === undefined || seq === undefined) {
          figures.malformed++;
          continue;
        }
        const topic = topicFrame.toString('utf8');
        const progress = resolve(topic, payload);
        if (progress === undefined) continue;
        // A stream that waits for missed events holds back its own only.
        if (progress.waiting >= queuedMessages) {
          figures.lost++;
          continue;
        }
        progress.waiting++;
        const model = modelOf(topic);
        progress.turn = progress.turn.then(async () => {
          try {
            await arrived(progress, seq, payload, model);
          } catch (thrown) {
            sink.problem(`cache events of ${progress.endpoint}: ${messageOf(thrown)}`);
          }
          progress.waiting--;
        });
        if (progress.waiting === 1) await progress.turn;
      }
    } catch (thrown) {
      if (!isClosed && !socket.closed) sink.problem(`cache events are no longer followed: ${messageOf(thrown)}`);
    }
  };

  const subscribe = (): Subscriber => {
    const socket = new zmq.Subscriber({
      linger: 0,
      receiveHighWaterMark: queuedMessages,
      maxMessageSize: maxMessageBytes,
      reconnectInterval: reconnectMs,
      reconnectMaxInterval: reconnectMaxMs,
      ipv6: true,
    });
    socket.subscribe(settings.topic);
    return socket;
  };

  const { bind, port } = settings;
  if (bind !== undefined) {
    const socket = subscribe();
    sockets.set('', socket);
    try {
      if (/\*|0\.0\.0\.0|\[::\]|^ipc:/.test(bind)) await socket.bind(bind);
      else socket.connect(bind);
    } catch (thrown) {
      socket.close();
      throw new AppError('unavailable', `cannot follow cache events on ${bind}: ${messageOf(thrown)}`, {
        cause: thrown,
      });
    }
    void follow(socket, (topic, payload) => {
      const endpoint = endpointOf(pool.current(), topic, payload);
      return endpoint === undefined ? undefined : progressOf(endpoint.id, endpoint);
    });
  }

  const update = (): void => {
    if (isClosed) return;
    const wanted = new Map(
      pool
        .current()
        .flatMap((endpoint) => (settings.isPublisher(endpoint) ? [[keyOf(endpoint), endpoint] as const] : [])),
    );
    const ids = new Set([...wanted.values()].map(({ id }) => id));
    for (const [key, progress] of followed) {
      if (wanted.has(key) || (bind !== undefined && ids.has(key))) continue;
      followed.delete(key);
      if (!ids.has(progress.endpoint)) sink.forget(progress.endpoint);
    }
    for (const [key, socket] of sockets) {
      if (key === '' || wanted.has(key)) continue;
      sockets.delete(key);
      socket.close();
    }
    if (port === undefined) return;
    for (const [key, endpoint] of wanted) {
      if (sockets.has(key)) continue;
      const socket = subscribe();
      sockets.set(key, socket);
      socket.connect(`tcp://${toHostPort(endpoint.address, port + rankOf(endpoint))}`);
      const progress = progressOf(key, endpoint);
      // What it still has from before; its live events wait meanwhile.
      progress.turn = replay(progress, '');
      void follow(socket, () => progress);
    }
  };
  const stop = pool.subscribe(update);
  update();

  return {
    figures,
    close: () => {
      isClosed = true;
      stop();
      for (const socket of [...sockets.values(), ...dealers]) socket.close();
      sockets.clear();
      dealers.clear();
    },
  };
}

/** An endpoint of another address is another engine. */
function keyOf({ id, hostPort }: Endpoint): string {
  return `${id} ${hostPort}`;
}

function rankOf({ id }: Endpoint): number {
  return Number(/-rank-(\d+)$/.exec(id)?.[1] ?? 0);
}

function seqOf(frame: Buffer | undefined): number | undefined {
  if (frame?.length !== 8) return undefined;
  const seq = frame.readBigUInt64BE();
  // The last number of all ends a replay.
  return seq > BigInt(Number.MAX_SAFE_INTEGER) ? undefined : Number(seq);
}

/** The last part of `kv@<pod>@<model>`; empty for any other topic. */
function modelOf(topic: string): string {
  const parts = topic.split('@');
  return parts.length >= 3 ? parts.slice(2).join('@') : '';
}

/** The endpoint of `kv@<pod>@<model>`: pod is an address, `address:port`, a name, or `namespace/name`. */
function endpointOf(endpoints: readonly Endpoint[], topic: string, payload: Uint8Array): Endpoint | undefined {
  const pod = topic.split('@')[1];
  if (pod === undefined || pod === '') return undefined;
  const named = endpoints.filter(
    ({ hostPort, address, name, namespace }) =>
      pod === hostPort || pod === address || pod === name || pod === `${namespace}/${name}`,
  );
  if (named.length < 2) return named[0];
  let rank: number | undefined;
  try {
    rank = parseKvEventBatch(payload).rank;
  } catch {
    // Told as malformed when its turn comes.
  }
  return named.find((endpoint) => rankOf(endpoint) === (rank ?? 0));
}
