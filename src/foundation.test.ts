import { readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';
import { ManualClock } from './clock.ts';
import { AppError, errorTable } from './errors.ts';
import { createAuthority, issueCertificate } from './pki.ts';
import { version } from './version.ts';

describe('errors', () => {
  it('keep their code, and give anything else one', () => {
    const error = new AppError('notFound', 'no such thing');
    expect(AppError.from(error)).toBe(error);
    const wrapped = AppError.from(new TypeError('x is not a function'));
    expect(wrapped).toMatchObject({ code: 'internal', message: 'x is not a function', http: 500, exit: 1 });
    expect(wrapped.cause).toBeInstanceOf(TypeError);
    expect(AppError.from('text').message).toBe('text');
  });

  it('have an HTTP status, a gRPC code and an exit code each', () => {
    for (const row of Object.values(errorTable)) {
      expect(row.http).toBeGreaterThanOrEqual(400);
      expect(row.grpc).toBeGreaterThan(0);
      expect(row.exit).toBeGreaterThan(0);
    }
  });
});

describe('the manual clock', () => {
  it('wakes sleepers in order and stops intervals', async () => {
    const clock = new ManualClock(1000);
    const seen: string[] = [];
    void clock.sleep(20).then(() => seen.push(`b@${clock.now()}`));
    void clock.sleep(10).then(() => seen.push(`a@${clock.now()}`));
    const stop = clock.interval(15, () => seen.push(`tick@${clock.now()}`));
    await clock.advance(30);
    stop();
    await clock.advance(30);
    expect(seen).toEqual(['a@1010', 'tick@1015', 'b@1020', 'tick@1030']);
  });

  it('rejects an aborted sleep', async () => {
    const clock = new ManualClock();
    const abort = new AbortController();
    const sleeping = clock.sleep(10, abort.signal);
    abort.abort(new Error('enough'));
    await expect(sleeping).rejects.toThrow('enough');
  });
});

describe('certificates', () => {
  it('are signed by their authority and carry their names', async () => {
    const { X509Certificate } = await import('node:crypto');
    const notBefore = new Date('2026-01-01');
    const notAfter = new Date('2027-01-01');
    const authority = await createAuthority({ commonName: 'test, authority', notBefore, notAfter });
    const pair = await issueCertificate(authority, {
      commonName: 'server',
      organization: 'system:masters',
      dnsNames: ['a.example', 'b.svc'],
      ipAddresses: ['127.0.0.1', '::1'],
      notBefore,
      notAfter,
    });
    const ca = new X509Certificate(authority.certificate);
    const leaf = new X509Certificate(pair.certificate);
    expect(ca.ca).toBe(true);
    expect(leaf.ca).toBe(false);
    expect(leaf.checkIssued(ca)).toBe(true);
    expect(leaf.verify(ca.publicKey)).toBe(true);
    expect(leaf.checkHost('a.example')).toBe('a.example');
    expect(leaf.checkIP('::1')).toBe('::1');
    expect(leaf.subject).toContain('O=system:masters');
    expect(pair.key).toContain('BEGIN PRIVATE KEY');
  });
});

describe('the version', () => {
  it('is the same everywhere', () => {
    expect(JSON.parse(readFileSync('package.json', 'utf8'))).toMatchObject({ version });
    expect(readFileSync('helm/signalbox/Chart.yaml', 'utf8')).toContain(
      `\nversion: ${version}\nappVersion: ${version}\n`,
    );
  });
});
