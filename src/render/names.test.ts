import { createHash } from 'node:crypto';
import { describe, expect, it } from '@jest/globals';
import { childName, childNames, md5 } from './names.ts';

describe('md5', () => {
  it.each([
    ['', 'd41d8cd98f00b204e9800998ecf8427e'],
    ['a', '0cc175b9c0f1b6a831c399e269772661'],
    ['message digest', 'f96b697d7cb7938d525a2f31aaf161d0'],
    [
      '12345678901234567890123456789012345678901234567890123456789012345678901234567890',
      '57edf4a22be3c955ac49da2e2107b67a',
    ],
  ])('of %j is that of RFC 1321', (text, hash) => expect(md5(text)).toBe(hash));

  it('agrees with node:crypto at every length around a block border', () => {
    for (let length = 0; length < 200; length++) {
      const text = 'é'.repeat(length % 7) + 'x'.repeat(length);
      expect(md5(text)).toBe(createHash('md5').update(text).digest('hex'));
    }
  });
});

describe('childName', () => {
  const long = 'a'.repeat(60);
  it.each([
    ['chat', '-kserve', 'chat-kserve'],
    ['a'.repeat(56), '-kserve', `${'a'.repeat(56)}-kserve`],
    [long, '-kserve', `${'a'.repeat(24)}${md5(long)}-kserve`],
    ['chat', `-${'s'.repeat(70)}`, `chat${md5(`chat-${'s'.repeat(70)}`)}-${'s'.repeat(26)}`],
    [long, `-${'s'.repeat(40)}`, `${'a'.repeat(31)}${md5(`${long}-${'s'.repeat(40)}`)}`],
  ])('of %s and %s', (parent, suffix, expected) => {
    expect(childName(parent, suffix)).toBe(expected);
    expect(expected.length).toBeLessThanOrEqual(63);
  });

  it('keeps the children of two long names apart', () => {
    const all = [...Object.values(childNames(`${long}1`)), ...Object.values(childNames(`${long}2`))];
    // Three workloads share a name with their ServiceAccount, and one and the picker with a policy and a monitor, in each of the two services.
    expect(new Set(all).size).toBe(all.length - 14);
  });
});
