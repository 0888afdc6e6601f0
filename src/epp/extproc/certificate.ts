import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError, messageOf } from '../../errors.ts';
import { createAuthority, issueCertificate } from '../../pki.ts';
import type { TlsPair } from './transport.ts';

const lifetimeMs = 10 * 365 * 24 * 3600 * 1000;

/** A P-256 certificate of an authority nobody knows: it encrypts, and proves nothing, as gateways do not check it. */
export async function makeCertificate(nowMs: number): Promise<TlsPair> {
  const period = { notBefore: new Date(nowMs - 60_000), notAfter: new Date(nowMs + lifetimeMs) };
  const authority = await createAuthority({ commonName: 'signalbox-epp', ...period });
  const request = { commonName: 'signalbox-epp', dnsNames: ['localhost'], usage: 'server' as const, ...period };
  const { certificate, key } = await issueCertificate(authority, request);
  return { cert: certificate, key };
}

/** @throws AppError `usage` naming the file that cannot be read */
export async function readCertificate(dir: string): Promise<TlsPair> {
  const read = async (name: string): Promise<Buffer> => {
    const path = join(dir, name);
    try {
      return await readFile(path);
    } catch (thrown) {
      throw new AppError('usage', `--cert-path: cannot read ${path}: ${messageOf(thrown)}`, { cause: thrown });
    }
  };
  return { cert: await read('tls.crt'), key: await read('tls.key') };
}
