import http2 from 'node:http2';
import { credentials, Client as GrpcClient, Metadata } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { makeCertificate } from '../../src/epp/extproc/certificate.ts';
import type { Service } from '../../src/epp/extproc/grpc.ts';
import { type EngineName, type GrpcServer, startGrpcServer } from '../../src/epp/extproc/grpc-server.ts';
import { eventually } from '../expect/eventually.ts';
import {
  ack,
  block,
  callBlock,
  endHeaders,
  endStream,
  type Frame,
  frame,
  grpc,
  Peer,
  preface,
  settings,
  types,
  uint32,
} from './http2-peer.ts';

const echo = '/test.Echo/Echo';
const hold = '/test.Echo/Hold';
const early = '/test.Echo/Early';
const broken = '/test.Echo/Broken';

/** What a service did to a call, so that none is forgotten. */
const closes = { opened: 0, closed: 0 };
const counted =
  (service: Service): Service =>
  (call) => {
    closes.opened++;
    const handler = service(call);
    return {
      ...handler,
      onClose: () => {
        closes.closed++;
        handler.onClose();
      },
    };
  };
const services = new Map<string, Service>([
  [
    echo,
    counted((call) => ({
      onMessage: (message) => call.send(grpc(message)),
      onHalfClose: () => call.end(0),
      onClose: () => {},
    })),
  ],
  [hold, counted(() => ({ onMessage: () => {}, onHalfClose: () => {}, onClose: () => {} }))],
  [
    early,
    counted((call) => ({
      onMessage: (message) => {
        call.send(grpc(message));
        call.end(9, 'no: 50 % sure, “quoted”');
      },
      onHalfClose: () => {},
      onClose: () => {},
    })),
  ],
  [
    broken,
    counted(() => ({
      onMessage: () => {
        throw new TypeError('broken on purpose');
      },
      onHalfClose: () => {},
      onClose: () => {},
    })),
  ],
]);

const start = (engine: EngineName, more: Partial<Parameters<typeof startGrpcServer>[0]> = {}): Promise<GrpcServer> =>
  startGrpcServer({ address: '127.0.0.1', port: 0, services, maxMessageBytes: 8 << 20, engine, ...more });

const isFrame =
  (type: number, stream: number, flags = 0) =>
  (found: Frame): boolean =>
    found.type === type && found.stream === stream && (found.flags & flags) === flags;
const open = (stream: number, path = echo, flags = 0): Buffer =>
  frame(types.headers, endHeaders | flags, stream, callBlock(path));
const errors = {
  protocol: 1,
  flowControl: 3,
  streamClosed: 5,
  frameSize: 6,
  compression: 9,
  enhanceYourCalm: 11,
} as const;

describe.each(['node', 'native'] as const)('the HTTP/2 engine %s', (engine) => {
  let server: GrpcServer;
  beforeAll(async () => {
    server = await start(engine);
  });
  afterAll(async () => {
    await server.close();
    expect(closes.closed).toBe(closes.opened);
  });

  /** A whole call on a connection of its own. */
  const stillServes = async (): Promise<void> => {
    const peer = await Peer.open(server.port);
    peer.send(open(1), frame(types.data, endStream, 1, grpc(Buffer.from('well'))));
    await peer.heard('trailers', isFrame(types.headers, 1, endStream));
    expect(peer.frames.find(isFrame(types.data, 1))?.payload).toEqual(grpc(Buffer.from('well')));
    peer.close();
  };

  describe('for gRPC clients', () => {
    let client: GrpcClient;
    beforeAll(() => {
      client = new GrpcClient(`127.0.0.1:${server.port}`, credentials.createInsecure(), {
        'grpc.max_receive_message_length': 64 << 20,
        'grpc.max_send_message_length': 64 << 20,
      });
    });
    afterAll(() => client.close());
    const identity = (bytes: Buffer): Buffer => bytes;
    const call = (
      path: string,
      messages: readonly Buffer[],
      metadata = new Metadata(),
    ): Promise<{ readonly received: readonly Buffer[]; readonly code: number; readonly details: string }> =>
      new Promise((resolve) => {
        const stream = client.makeBidiStreamRequest(path, identity, identity, metadata);
        const received: Buffer[] = [];
        stream.on('data', (message: Buffer) => received.push(message));
        stream.on('error', () => {});
        stream.on('status', ({ code, details }) => resolve({ received, code, details }));
        for (const message of messages) stream.write(message);
        stream.end();
      });

    it('carries messages of every size, many at a time', async () => {
      const sizes = [0, 1, 16_379, 16_380, 65_535, 1_000_000, 5_000_000];
      const answers = await Promise.all(
        sizes.map((size) => {
          const messages = [Buffer.alloc(size, size), Buffer.alloc(3, 7)];
          return call(echo, messages).then(({ received, code }) => ({
            code,
            isSame: received.length === 2 && received.every((bytes, i) => bytes.equals(messages[i] as Buffer)),
          }));
        }),
      );
      expect(answers).toEqual(sizes.map(() => ({ code: 0, isSame: true })));
    });

    it('tells statuses: of the service, of an unknown method, of a throw, of a message that is too large', async () => {
      expect(await call(early, [Buffer.from('x')])).toEqual({
        received: [Buffer.from('x')],
        code: 9,
        details: 'no: 50 % sure, “quoted”',
      });
      expect(await call('/test.Echo/None', [])).toMatchObject({
        code: 12,
        details: 'method /test.Echo/None is not served here',
      });
      expect(await call(broken, [Buffer.from('x')])).toMatchObject({ code: 13, details: 'internal error' });
      expect(await call(echo, [Buffer.alloc(9 << 20)])).toMatchObject({ code: 8 });
    });

    it('reads fields in every encoding, again and again', async () => {
      for (let i = 0; i < 60; i++) {
        const metadata = new Metadata();
        metadata.set('x-text', `~!@#$%^&*()_+ {}|:"<>?[];',./ ${'z'.repeat(i * 7)} ${i}`);
        metadata.set('x-bytes-bin', Buffer.from(Array.from({ length: i }, (_, j) => (i * 31 + j * 7) & 255)));
        metadata.set(`x-name-${i % 5}`, String(i));
        expect((await call(echo, [Buffer.from([i])], metadata)).received).toEqual([Buffer.from([i])]);
      }
    });
  });

  it('keeps to the windows of a client that opens them byte by byte', async () => {
    const peer = await Peer.open(server.port, Buffer.concat([preface, settings([4, 0])]));
    const message = Buffer.from('thirty bytes and five of frame');
    peer.send(open(1), frame(types.data, endStream, 1, grpc(message)));
    await peer.heard('response headers', isFrame(types.headers, 1));
    expect(peer.frames.filter(isFrame(types.data, 1))).toEqual([]);
    const expected = grpc(message);
    for (let sent = 1; sent <= expected.length; sent++) {
      peer.send(frame(types.windowUpdate, 0, 1, uint32(1)));
      await eventually(() => {
        const bytes = Buffer.concat(peer.frames.filter(isFrame(types.data, 1)).map(({ payload }) => payload));
        expect(bytes).toEqual(expected.subarray(0, sent));
      });
    }
    // One more, with which Node notices that there is no more data.
    peer.send(frame(types.windowUpdate, 0, 1, uint32(1)));
    await peer.heard('trailers', isFrame(types.headers, 1, endStream));
    peer.close();
  });

  it('shares the window of a connection, and goes on when settings open windows', async () => {
    const peer = await Peer.open(server.port, Buffer.concat([preface, settings([4, 1000])]));
    const message = Buffer.alloc(50_000, 1);
    for (const id of [1, 3, 5]) {
      peer.send(open(id));
      for (let at = 0; at < 50_005; at += 16_384) {
        const part = grpc(message).subarray(at, at + 16_384);
        peer.send(frame(types.data, at + 16_384 >= 50_005 ? endStream : 0, id, part));
      }
    }
    const bytesOf = (id?: number) =>
      peer.frames
        .filter(({ type, stream }) => type === types.data && (id === undefined || stream === id))
        .reduce((sum, { payload }) => sum + payload.length, 0);
    await eventually(() => expect([1, 3, 5].map(bytesOf)).toEqual([1000, 1000, 1000]));
    peer.send(settings([4, 1 << 20]));
    await eventually(() => expect(bytesOf()).toBe(65_535));
    peer.send(frame(types.windowUpdate, 0, 0, uint32(1 << 20)));
    await Promise.all([1, 3, 5].map((id) => peer.heard(`trailers of ${id}`, isFrame(types.headers, id, endStream))));
    expect([1, 3, 5].map(bytesOf)).toEqual([50_005, 50_005, 50_005]);
    peer.close();
  });

  it('does not take more from who does not take its replies; other streams go on', async () => {
    const peer = await Peer.open(server.port, Buffer.concat([preface, settings([4, 0])]));
    await peer.heard('settings', isFrame(types.settings, 0, ack));
    peer.send(open(1));
    const part = frame(types.data, 0, 1, grpc(Buffer.alloc(16_379)));
    for (let i = 0; i < 64; i++) peer.send(part);
    peer.send(open(3), frame(types.data, endStream, 3, grpc(Buffer.from('other'))));
    peer.send(frame(types.windowUpdate, 0, 3, uint32(100)));
    await peer.heard('trailers', isFrame(types.headers, 3, endStream));
    expect(peer.frames.filter(isFrame(types.windowUpdate, 1))).toEqual([]);
    peer.send(frame(types.windowUpdate, 0, 1, uint32(1 << 24)), frame(types.windowUpdate, 0, 0, uint32(1 << 24)));
    await peer.heard('more room', isFrame(types.windowUpdate, 1));
    peer.close();
  });

  const legal: readonly [name: string, frames: readonly Buffer[], heard: (found: Frame) => boolean][] = [
    ['answers pings', [frame(types.ping, 0, 0, Buffer.from('12345678'))], isFrame(types.ping, 0, ack)],
    ['acknowledges settings', [settings([1, 0], [2, 0], [99, 7])], isFrame(types.settings, 0, ack)],
    [
      'ignores frames, priorities and fields that it does not know',
      [
        frame(77, 255, 0, Buffer.from('x')),
        frame(types.priority, 0, 1, Buffer.alloc(5)),
        frame(77, 0, 1, Buffer.from('y')),
        frame(types.headers, endHeaders | endStream, 1, Buffer.concat([callBlock(echo), block(['x-a', 'ü'])])),
      ],
      isFrame(types.headers, 1, endStream),
    ],
    [
      'reads padded frames, and header blocks in pieces',
      [
        frame(
          types.headers,
          0x8 | 0x20,
          1,
          Buffer.concat([Buffer.from([3, 0, 0, 0, 0, 9]), callBlock(echo).subarray(0, 9), Buffer.alloc(3)]),
        ),
        frame(types.continuation, 0, 1, callBlock(echo).subarray(9, 10)),
        frame(types.continuation, endHeaders, 1, callBlock(echo).subarray(10)),
        frame(types.data, 0x8, 1, Buffer.concat([Buffer.from([2]), grpc(Buffer.from('padded')), Buffer.alloc(2)])),
        frame(types.data, endStream, 1),
      ],
      isFrame(types.headers, 1, endStream),
    ],
    [
      'takes trailers as the end',
      [open(1), frame(types.headers, endHeaders | endStream, 1, block(['x-trailer', 'y']))],
      isFrame(types.headers, 1, endStream),
    ],
    [
      'answers an early end with a reset that blames nobody, or waits',
      [open(1, early), frame(types.data, 0, 1, grpc(Buffer.from('x')))],
      isFrame(types.headers, 1, endStream),
    ],
  ];
  it.each(legal)('%s', async (_name, frames, heard) => {
    const peer = await Peer.open(server.port);
    await peer.heard('settings', isFrame(types.settings, 0, ack));
    // Byte by byte at first: frames may be cut anywhere.
    const bytes = Buffer.concat(frames);
    for (const byte of bytes.subarray(0, 40)) {
      peer.send(Buffer.from([byte]));
      await new Promise((resolve) => setImmediate(resolve));
    }
    peer.send(bytes.subarray(40));
    await peer.heard('the answer', heard);
    peer.send(frame(types.ping, 0, 0, Buffer.from('farewell')));
    await peer.heard(
      'a last pong',
      ({ type, payload }) => type === types.ping && payload.equals(Buffer.from('farewell')),
    );
    peer.close();
  });

  const wrong: readonly [name: string, frames: readonly Buffer[], codes: readonly number[]][] = [
    [
      'data on a stream that nobody opened',
      [frame(types.data, 0, 1, Buffer.from('x'))],
      [errors.protocol, errors.streamClosed],
    ],
    ['a stream with an even number', [open(2)], [errors.protocol]],
    ['a stream with number 0', [open(0)], [errors.protocol]],
    ['a frame that is too large', [frame(types.data, 0, 1, Buffer.alloc(20_000))], [errors.frameSize]],
    [
      'a block that is not HPACK',
      [frame(types.headers, endHeaders, 1, Buffer.from([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]))],
      [errors.compression],
    ],
    [
      'a field that does not exist',
      [frame(types.headers, endHeaders, 1, Buffer.from([0xbe + 70]))],
      [errors.compression],
    ],
    [
      'a table larger than offered',
      [frame(types.headers, endHeaders, 1, Buffer.from([0x3f, 0xff, 0xff, 0x03]))],
      [errors.compression],
    ],
    [
      'a broken Huffman code',
      [frame(types.headers, endHeaders, 1, Buffer.from([0x00, 0x84, 0xff, 0xff, 0xff, 0xff, 0x01, 0x61]))],
      [errors.compression],
    ],
    [
      'a block that is interrupted',
      [frame(types.headers, 0, 1, callBlock(echo)), frame(types.ping, 0, 0, Buffer.alloc(8))],
      [errors.protocol],
    ],
    ['a continuation of nothing', [frame(types.continuation, endHeaders, 1, callBlock(echo))], [errors.protocol]],
    ['more padding than frame', [open(1), frame(types.data, 0x8, 1, Buffer.from([9, 1]))], [errors.protocol]],
    ['a window update of 0', [frame(types.windowUpdate, 0, 0, uint32(0))], [errors.protocol]],
    ['a window that overflows', [frame(types.windowUpdate, 0, 0, uint32(0x7fffffff))], [errors.flowControl]],
    ['a window update of three bytes', [frame(types.windowUpdate, 0, 0, Buffer.alloc(3))], [errors.frameSize]],
    ['a window setting out of range', [settings([4, 0x80000000])], [errors.flowControl]],
    ['a frame size out of range', [settings([5, 100])], [errors.protocol]],
    ['settings of five bytes', [frame(types.settings, 0, 0, Buffer.alloc(5))], [errors.frameSize]],
    ['settings of a stream', [frame(types.settings, 0, 1)], [errors.protocol]],
    ['a ping of seven bytes', [frame(types.ping, 0, 0, Buffer.alloc(7))], [errors.frameSize]],
    ['a reset of a stream that nobody opened', [frame(types.reset, 0, 7, uint32(8))], [errors.protocol]],
    ['a push', [frame(types.pushPromise, endHeaders, 1, Buffer.alloc(4))], [errors.protocol]],
  ];
  it.each(wrong)('closes the connection after %s', async (_name, frames, codes) => {
    const peer = await Peer.open(server.port);
    await peer.heard('settings', isFrame(types.settings, 0, ack));
    peer.send(...frames);
    expect(codes).toContain(await peer.closed());
    await stillServes();
  });

  const malformed: readonly [name: string, block: Buffer][] = [
    ['no path', block([':method', 'POST'], [':scheme', 'http'])],
    ['an empty path', block([':method', 'POST'], [':scheme', 'http'], [':path', ''])],
    ['two methods', block([':method', 'POST'], [':method', 'GET'], [':scheme', 'http'], [':path', echo])],
    ['a pseudo-field behind others', block([':method', 'POST'], [':scheme', 'http'], ['a', 'b'], [':path', echo])],
    ['an unknown pseudo-field', Buffer.concat([block([':new', 'x']), callBlock(echo)])],
    ['a name in upper case', Buffer.concat([callBlock(echo), block(['X-A', 'b'])])],
    ['a field of HTTP/1', Buffer.concat([callBlock(echo), block(['connection', 'close'])])],
  ];
  it.each(malformed)('resets a stream whose fields are wrong: %s', async (_name, fields) => {
    const peer = await Peer.open(server.port);
    peer.send(frame(types.headers, endHeaders, 1, fields), open(3, echo, endStream));
    const reset = await peer.heard('a reset', isFrame(types.reset, 1));
    expect(reset.payload.readUInt32BE(0)).toBe(errors.protocol);
    await peer.heard('the other stream', isFrame(types.headers, 3, endStream));
    peer.close();
  });

  it('answers HTTP/1 by hanging up', async () => {
    const peer = await Peer.open(server.port, Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n'));
    await peer.closed();
    await stillServes();
  });

  it('forgets a stream that the peer resets, and hears what was under way', async () => {
    const peer = await Peer.open(server.port);
    peer.send(open(1, hold), frame(types.data, 0, 1, grpc(Buffer.from('x'))));
    await eventually(() => expect(server.calls).toBeGreaterThan(0));
    peer.send(frame(types.reset, 0, 1, uint32(8)), open(3, echo, endStream));
    await peer.heard('the other stream', isFrame(types.headers, 3, endStream));
    await eventually(() => expect(server.calls).toBe(0));
    peer.close();
  });

  /** Floods are answered in any way that leaves others unharmed; those that cost us most must end the connection. */
  const floods: readonly [name: string, count: number, make: (i: number) => Buffer, mustEnd: boolean][] = [
    [
      'resets',
      30_000,
      (i) => Buffer.concat([open(2 * i + 1, hold), frame(types.reset, 0, 2 * i + 1, uint32(8))]),
      false,
    ],
    ['pings', 60_000, () => frame(types.ping, 0, 0, Buffer.alloc(8)), engine === 'native'],
    ['settings', 60_000, (i) => settings([4, i]), engine === 'native'],
    ['empty data', 60_000, (i) => (i === 0 ? open(1, hold) : frame(types.data, 0, 1)), engine === 'native'],
    ['priorities', 60_000, () => frame(types.priority, 0, 1, Buffer.alloc(5)), engine === 'native'],
    [
      'continuations',
      20_000,
      (i) =>
        i === 0 ? frame(types.headers, 0, 1, callBlock(echo)) : frame(types.continuation, 0, 1, block(['a', 'b'])),
      true,
    ],
    ['windows of one byte', 60_000, () => frame(types.windowUpdate, 0, 0, uint32(1)), false],
  ];
  it.each(floods)('bears a flood of %s', async (_name, count, make, mustEnd) => {
    const peer = await Peer.open(server.port);
    for (let i = 0; i < count && !peer.isClosed; i += 1000) {
      peer.send(...Array.from({ length: 1000 }, (_, j) => make(i + j)));
      if (peer.socket.writableLength > 1 << 20) {
        await new Promise<void>((resolve) => {
          peer.socket.once('drain', () => resolve());
          peer.socket.once('close', () => resolve());
        });
      }
    }
    if (mustEnd) await peer.closed();
    await stillServes();
    peer.close();
    await eventually(() => expect(server.calls).toBe(0));
  });

  it('drops requests whose fields unfold to megabytes, and keeps reading the table', async () => {
    const peer = await Peer.open(server.port);
    const value = 'v'.repeat(100);
    const entry = Buffer.concat([Buffer.from([0x40, 1]), Buffer.from('n'), Buffer.from([100]), Buffer.from(value)]);
    const bomb = Buffer.concat([callBlock(echo), entry, Buffer.alloc(10_000, 0xbe)]);
    peer.send(frame(types.headers, endHeaders | endStream, 1, bomb));
    await peer.heard(
      'a refusal',
      ({ type, stream, flags }) =>
        type === types.goAway || (stream === 1 && (type === types.reset || (flags & endStream) !== 0)),
    );
    expect(peer.frames.filter(isFrame(types.data, 1))).toEqual([]);
    peer.close();
    await stillServes();
  });

  it('takes no new streams when it leaves, and lets those that are open end', async () => {
    const leaving = await start(engine);
    const peer = await Peer.open(leaving.port);
    peer.send(open(1), frame(types.data, 0, 1, grpc(Buffer.from('before'))));
    await peer.heard('the reply', isFrame(types.data, 1));
    const closed = leaving.close(600_000);
    // It leaves once it is quiet; an open call is not quiet, so the drain ends only with the call.
    peer.send(frame(types.data, endStream, 1, grpc(Buffer.from('after'))));
    await peer.heard('trailers', isFrame(types.headers, 1, endStream));
    await peer.heard('goodbye', isFrame(types.goAway, 0));
    await closed;
    expect(await peer.closed()).toBe(0);
    await expect(Peer.open(leaving.port)).rejects.toThrow();
  });

  it('cuts what is left when the drain is over', async () => {
    const leaving = await start(engine);
    const peer = await Peer.open(leaving.port);
    peer.send(open(1, hold));
    await eventually(() => expect(leaving.calls).toBe(1));
    await leaving.close(50);
    await peer.closed();
    expect(leaving.calls).toBe(0);
  });

  it('speaks TLS with those who ask for h2, and takes new certificates', async () => {
    const [first, second] = await Promise.all([makeCertificate(Date.now()), makeCertificate(Date.now())]);
    const secure = await start(engine, { tls: first });
    const ask = async (): Promise<string> => {
      const session = http2.connect(`https://127.0.0.1:${secure.port}`, { rejectUnauthorized: false });
      const stream = session.request({ ':method': 'POST', ':path': echo, 'content-type': 'application/grpc' });
      stream.end(grpc(Buffer.alloc(100_000, 5)));
      let bytes = 0;
      for await (const chunk of stream) bytes += (chunk as Buffer).length;
      expect(bytes).toBe(100_005);
      const { fingerprint256 } = (session.socket as unknown as import('node:tls').TLSSocket).getPeerCertificate();
      session.destroy();
      return fingerprint256;
    };
    const before = await ask();
    secure.setTls(second);
    expect(await ask()).not.toBe(before);
    const plain = await Peer.open(secure.port);
    await plain.closed();
    await secure.close();
  });

  it('never throws, hangs or forgets a call, whatever bytes come', async () => {
    let seed = 20_26;
    const next = (below: number): number => {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) & 0x7fffffff;
      return (seed >>> 8) % below;
    };
    const pick = <T>(list: readonly T[]): T => list[next(list.length)] as T;
    const random = (length: number): Buffer => Buffer.from(Array.from({ length }, () => next(256)));
    const stream = (): number => pick([0, 1, 1, 1, 3, 3, 5, 2, 2 ** 31 - 1]);
    const any = (): Buffer =>
      pick([
        () => open(pick([1, 3, 5, 7]), pick([echo, hold, early, broken]), next(2)),
        () => frame(types.data, next(2), stream(), grpc(random(next(200)))),
        () => frame(types.data, next(256), stream(), random(next(50))),
        () => frame(types.headers, next(256), stream(), random(next(40))),
        () => frame(types.headers, endHeaders, stream(), Buffer.concat([callBlock(echo), random(next(10))])),
        () => frame(types.windowUpdate, 0, stream(), uint32(next(2 ** 31 - 1))),
        () => frame(types.reset, 0, stream(), uint32(next(14))),
        () => settings([next(8), next(2 ** 31)]),
        () => settings([4, next(70_000)]),
        () => frame(types.ping, next(2), 0, random(8)),
        () => frame(next(12), next(256), stream(), random(next(30))),
        () => random(next(30)),
      ])();
    for (let round = 0; round < 300; round++) {
      const greeting = next(20) === 0 ? random(next(60)) : Buffer.concat([preface, settings()]);
      const peer = await Peer.open(server.port, greeting);
      const bytes = Buffer.concat(Array.from({ length: 1 + next(12) }, any));
      for (let i = next(4); i > 0; i--) bytes[next(bytes.length)] = next(256);
      for (let at = 0; at < bytes.length; ) {
        const length = 1 + next(bytes.length);
        peer.send(bytes.subarray(at, at + length));
        at += length;
        if (next(3) === 0) await new Promise((resolve) => setImmediate(resolve));
      }
      // Half of them hang up in the middle, the others hear all that there is to say.
      if (next(2) === 0) peer.socket.resetAndDestroy();
      else peer.socket.end();
      await peer.closed();
      if (round % 50 === 0) await stillServes();
    }
    await stillServes();
    await eventually(() => expect(server.calls).toBe(0));
  });
});
