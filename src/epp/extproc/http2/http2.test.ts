import { describe, expect, it } from '@jest/globals';
import { FrameReader, FrameWriter, frameTypes } from './frames.ts';
import { encodeBlock, HpackDecoder, HpackError } from './hpack.ts';
import { decodeHuffman } from './huffman.ts';
import { Allowance } from './limits.ts';

/** The bytes 0 to 255 in their order, as Go's golang.org/x/net/http2/hpack writes them. */
const everyByte = Buffer.from(
  'ffc7fffd8fffffe2fffffe3fffffe4fffffe5fffffe6fffffe7fffffe8ffffeafffffff3fffffa7fffffabffffffdfffffeb' +
    'fffffecfffffedfffffeefffffefffffff0ffffff1ffffff2fffffffbfffffcffffffd3fffffd7fffffdbfffffdffffffe3f' +
    'ffffe7fffffebfffffed4fe3f9ffaffcabf1febfafefe7fdfd2cbb00089969b71d79fb9f7fff20ffbff3ff50ddbd7f061c58' +
    'f265cd9f469d5af66dddbf871e5f9cff7ff7fffc3ff9ffe45fff4719242cb34e6e9d68a6a3d7dac426defe3cfaf7fffbfe7f' +
    'fbffdffffffcfffe6ffff4bfff9ffffa3fffd3ffff53fffd5ffffb3fffeb7fffdaffffb7ffff73fffeeffffdeffffebffffb' +
    'fffffd9ffffdbfffebffffe0ffffeeffffc3ffff8bffff1ffffe4fffee7fffb1ffff97fffd9ffffcdffff9fffffbffffdaff' +
    'feeffff4ffffb7fffee7fffe8ffffd3fffdeffffd5fffeeffffbdffffe1fffdfffff7fffff5ffffecffff07fff87fffe0fff' +
    'f17fffedffff87ffff77fffeffffeaffff8bfffe3ffff93ffff87fffcbffff37ffff1fffff83ffffe1fffebfffe3ffff3fff' +
    'ff2ffffa3ffffd9fffff17ffffc7fffff27ffffdefffffbffffff2fffff8fffffb7fff97fff8fffffe6fffffc1fffff87fff' +
    'fe7fffffc5ffffe5fffe4ffff2fffffd1fffff4ffffffefffffe3fffffc9fffff97fffb3ffffcffffb7fffcdffff4ffff9ff' +
    'ffd1ffffcffffeaffffafffffddffffeffffff4fffff5fffffabffffa7ffffd7fffff9bffffecfffffb7fffff3fffffe8fff' +
    'ffd3fffffabfffff5fffffff7ffffecfffffdbfffffbbfffff7ffffff0fffffbbf',
  'hex',
);
const hex = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex');
const decode = (decoder: HpackDecoder, bytes: Buffer, maxBytes = 1e6) =>
  decoder.decode(bytes, 0, bytes.length, maxBytes)?.map(({ name, value }) => `${name}: ${value}`);

describe('Huffman', () => {
  it('knows every byte', () => {
    expect(decodeHuffman(everyByte, 0, everyByte.length)).toBe(
      Buffer.from(Array.from({ length: 256 }, (_, i) => i)).toString('latin1'),
    );
  });
  it.each([
    ['eight bits of padding', '1c64 ff'],
    ['padding that is not ones', '1c64 00'],
    ['the end of a string', 'ffff ffff'],
    ['a code that is cut off', 'ffff fe'],
  ])('refuses %s', (_name, bytes) => {
    expect(decodeHuffman(hex(bytes), 0, hex(bytes).length)).toBeUndefined();
  });
});

describe('HPACK', () => {
  it('reads the examples of RFC 7541, C.3 and C.4, with the table of each connection', () => {
    const requests = [
      [':method: GET', ':scheme: http', ':path: /', ':authority: www.example.com'],
      [':method: GET', ':scheme: http', ':path: /', ':authority: www.example.com', 'cache-control: no-cache'],
      [
        ':method: GET',
        ':scheme: https',
        ':path: /index.html',
        ':authority: www.example.com',
        'custom-key: custom-value',
      ],
    ];
    const plain = [
      '8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d',
      '8286 84be 5808 6e6f 2d63 6163 6865',
      '8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65',
    ];
    const huffman = [
      '8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff',
      '8286 84be 5886 a8eb 1064 9cbf',
      '8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf',
    ];
    for (const blocks of [plain, huffman]) {
      const decoder = new HpackDecoder();
      expect(blocks.map((bytes) => decode(decoder, hex(bytes)))).toEqual(requests);
    }
  });

  it('forgets the oldest fields when the table is full, and all of them when its size is 0', () => {
    const entry = (name: string, length: number): Buffer =>
      Buffer.concat([
        Buffer.from([0x40, 1]),
        Buffer.from(name),
        Buffer.from([0x7f, ((length - 127) & 127) | 128, (length - 127) >> 7]),
        Buffer.alloc(length, 'v'),
      ]);
    const fresh = new HpackDecoder();
    for (const name of ['a', 'b', 'c']) decode(fresh, entry(name, 1500));
    expect(decode(fresh, hex('be bf'))?.map((text) => text[0])).toEqual(['c', 'b']);
    expect(() => decode(fresh, hex('c0'))).toThrow('there is no field 64');
    decode(fresh, hex('20'));
    expect(() => decode(fresh, hex('be'))).toThrow('there is no field 62');
  });

  it('drops a list that is too large, and goes on reading', () => {
    const decoder = new HpackDecoder();
    const fields = Buffer.concat([hex('4001 6101 62'), Buffer.alloc(100, 0xbe)]);
    expect(decode(decoder, fields, 1000)).toBeUndefined();
    expect(decode(decoder, hex('be'), 1000)).toEqual(['a: b']);
  });

  it('writes what it reads', () => {
    const fields = [
      [':status', '200'],
      ['grpc-status', '13'],
      ['grpc-message', 'm'.repeat(500)],
      ['x', 'y'.repeat(127)],
      ['empty', ''],
    ] as const;
    expect(decode(new HpackDecoder(), encodeBlock(fields))).toEqual(fields.map(([name, value]) => `${name}: ${value}`));
  });

  it('throws nothing but its own error on random bytes', () => {
    let seed = 7;
    const next = (): number => {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) & 0x7fffffff;
      return seed >>> 8;
    };
    for (let i = 0; i < 5000; i++) {
      const decoder = new HpackDecoder();
      const bytes = Buffer.from(Array.from({ length: next() % 40 }, () => next() & 255));
      try {
        decode(decoder, bytes);
      } catch (thrown) {
        expect(thrown).toBeInstanceOf(HpackError);
      }
    }
  });
});

describe('frames', () => {
  it('are the same however they are cut', () => {
    const writer = new FrameWriter();
    const sizes = [0, 1, 8, 16_384, 300, 16_384, 16_384, 16_384, 5];
    for (const [i, size] of sizes.entries()) {
      writer.head(frameTypes.data, i & 1, 2 * i + 1, size);
      writer.bytes(Buffer.alloc(size, i));
    }
    const written: Buffer[] = [];
    writer.flush((data, free) => {
      written.push(Buffer.from(data));
      free?.();
    });
    expect(writer.isEmpty).toBe(true);
    const bytes = Buffer.concat(written);
    for (const step of [1, 7, 9, 10, 1000, 16_393, bytes.length]) {
      const reader = new FrameReader();
      const seen: (readonly [number, number, number, boolean])[] = [];
      const sink = {
        onFrame: (_type: number, flags: number, stream: number, data: Buffer, start: number, end: number) => {
          seen.push([stream, flags, end - start, data.subarray(start, end).every((byte) => byte === (stream - 1) / 2)]);
          return true;
        },
        onTooLarge: () => {
          throw new Error('too large');
        },
      };
      for (let at = 0; at < bytes.length; at += step) reader.push(bytes.subarray(at, at + step), 0, sink);
      expect(seen).toEqual(sizes.map((size, i) => [2 * i + 1, i & 1, size, true]));
      expect(reader.isWithinFrame).toBe(false);
    }
  });

  it('are refused by their head when too large', () => {
    const seen: number[] = [];
    const sink = { onFrame: () => true, onTooLarge: (_type: number, bytes: number) => seen.push(bytes) };
    const head = hex('004001 00 00 00000001');
    new FrameReader().push(head, 0, sink);
    const reader = new FrameReader();
    for (const byte of head) reader.push(Buffer.from([byte]), 0, sink);
    expect(seen).toEqual([16_385, 16_385]);
  });
});

describe('an allowance', () => {
  it('is a burst at first, then a rate', () => {
    let nowMs = 0;
    const allowance = new Allowance(3, 10, () => nowMs);
    const take = (count: number): number =>
      Array.from({ length: count }, () => allowance.take()).filter(Boolean).length;
    expect(take(3)).toBe(3);
    expect(take(1)).toBe(0);
    nowMs += 1000;
    expect(take(20)).toBeLessThanOrEqual(10);
    nowMs += 60_000;
    expect(take(10)).toBe(3);
  });
});
