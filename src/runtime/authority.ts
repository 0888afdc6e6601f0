import { X509Certificate } from 'node:crypto';
import type { Clock } from '../clock.ts';
import type { Client } from '../kube/client.ts';
import type { KubeObject, Manifest } from '../kube/object.ts';
import { resources } from '../kube/resources.ts';
import { hasCode } from '../kube/status-error.ts';
import { createAuthority, issueCertificate, type KeyPair } from '../pki.ts';

/** Who signs the certificates of services. */
export interface Authority {
  readonly signer: KeyPair;
  /** PEM of every authority to trust: the signer, its predecessors that are still valid, and its announced successor. */
  readonly bundle: string;
}

/** What the Secret holds, as PEM. */
export interface AuthorityState {
  /** The signer first, then its predecessors. */
  readonly authorities: string;
  readonly key: string;
  /** Trusted everywhere for a while before it signs anything. */
  readonly next?: KeyPair;
}

interface SecretObject extends KubeObject {
  readonly data?: Readonly<Record<string, string>>;
}

const dayMs = 86_400_000;
const authorityMs = 10 * 365 * dayMs;
const backdateMs = 3_600_000;
/** Every service has the successor in its bundle by then. */
const announceMs = dayMs;
const maxAuthorities = 4;

/** The state that should follow, or the same one when nothing is due. */
export async function stepAuthority(state: AuthorityState | undefined, nowMs: number): Promise<AuthorityState> {
  const signer = state && readCertificate(splitPem(state.authorities)[0]);
  if (!state || !signer || state.key === '' || signer.validToDate.getTime() <= nowMs) {
    const fresh = await createSigner(nowMs);
    return { authorities: joinPem([fresh.certificate, ...validAt(state?.authorities ?? '', nowMs)]), key: fresh.key };
  }
  if (state.next) {
    const next = readCertificate(state.next.certificate);
    if (next && nowMs < next.validFromDate.getTime() + backdateMs + announceMs) return state;
    const rest = validAt(state.authorities, nowMs);
    if (!next) return { authorities: state.authorities, key: state.key };
    return { authorities: joinPem([state.next.certificate, ...rest]), key: state.next.key };
  }
  const [from, to] = [signer.validFromDate.getTime(), signer.validToDate.getTime()];
  if (nowMs < from + ((to - from) * 2) / 3) return state;
  return { ...state, next: await createSigner(nowMs) };
}

function createSigner(nowMs: number): Promise<KeyPair> {
  return createAuthority({
    commonName: `signalbox-services-ca-${Math.floor(nowMs / 1000)}`,
    notBefore: new Date(nowMs - backdateMs),
    notAfter: new Date(nowMs + authorityMs),
  });
}

const servingMs = 90 * dayMs;

/** A new key with a certificate for these names and the pod's own loopback address, valid for 90 days. */
export function issueServing(
  { signer }: Authority,
  commonName: string,
  dnsNames: readonly string[],
  nowMs: number,
): Promise<KeyPair> {
  return issueCertificate(signer, {
    commonName: commonName.slice(0, 64),
    dnsNames,
    ipAddresses: ['127.0.0.1'],
    usage: 'server',
    // Clocks of nodes differ; nothing is issued that is not valid yet somewhere.
    notBefore: new Date(nowMs - backdateMs),
    notAfter: new Date(nowMs + servingMs),
  });
}

/** The certificates of a text, each with its line break. */
export function splitPem(text: string): readonly string[] {
  return (text.match(/-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g) ?? []).map((pem) => `${pem}\n`);
}

function joinPem(certificates: readonly string[]): string {
  return certificates
    .slice(0, maxAuthorities)
    .map((pem) => `${pem.trim()}\n`)
    .join('');
}

/** Undefined when it cannot be read. */
export function readCertificate(pem: string | undefined): X509Certificate | undefined {
  try {
    return pem === undefined ? undefined : new X509Certificate(pem);
  } catch {
    return undefined;
  }
}

function validAt(text: string, nowMs: number): readonly string[] {
  return splitPem(text).filter((pem) => (readCertificate(pem)?.validToDate.getTime() ?? 0) > nowMs);
}

/** How long an authority is used without looking at the Secret again. */
const lookMs = 3_600_000;
const timeoutMs = 30_000;

/**
 * The authority of all services, kept in one Secret of the operator's namespace and made when it is first asked for.
 *
 * Guarantees: of several operators that make one at the same time all use the one that was written first; a successor is
 * in every bundle for a day before it signs.
 */
export class ServiceAuthority {
  readonly #client: Pick<Client, 'get' | 'create' | 'replace'>;
  readonly #secret: { readonly namespace: string; readonly name: string };
  readonly #clock: Clock;
  #known: { readonly authority: Authority; readonly atMs: number } | undefined;
  #loading: Promise<Authority> | undefined;

  constructor(
    client: Pick<Client, 'get' | 'create' | 'replace'>,
    secret: { readonly namespace: string; readonly name: string },
    clock: Clock,
  ) {
    this.#client = client;
    this.#secret = secret;
    this.#clock = clock;
  }

  /** Errors: those of the API server. */
  async current(): Promise<Authority> {
    if (this.#known && this.#clock.now() - this.#known.atMs < lookMs) return this.#known.authority;
    this.#loading ??= this.#load().finally(() => {
      this.#loading = undefined;
    });
    return this.#loading;
  }

  async #load(): Promise<Authority> {
    const signal = AbortSignal.timeout(timeoutMs);
    for (let attempt = 0; ; attempt++) {
      const nowMs = this.#clock.now();
      const secret = await this.#client.get<SecretObject>(resources.secrets, this.#secret, signal);
      const state = readState(secret);
      const next = await stepAuthority(state, nowMs);
      try {
        if (next !== state) await this.#write(secret, next, signal);
      } catch (thrown) {
        // Another operator was first: its authority is the one.
        if (!hasCode(thrown, 'conflict') || attempt >= 5) throw thrown;
        continue;
      }
      const [certificate = ''] = splitPem(next.authorities);
      const bundle = next.authorities + (next.next?.certificate ? joinPem([next.next.certificate]) : '');
      const authority = { signer: { certificate, key: next.key }, bundle };
      this.#known = { authority, atMs: nowMs };
      return authority;
    }
  }

  async #write(secret: SecretObject | undefined, state: AuthorityState, signal: AbortSignal): Promise<void> {
    const encode = (text: string) => Buffer.from(text).toString('base64');
    const manifest: Manifest = {
      apiVersion: 'v1',
      kind: 'Secret',
      type: 'Opaque',
      ...secret,
      metadata: secret?.metadata ?? this.#secret,
      data: {
        'ca.crt': encode(state.authorities),
        'ca.key': encode(state.key),
        ...(state.next ? { 'next.crt': encode(state.next.certificate), 'next.key': encode(state.next.key) } : {}),
      },
    };
    await (secret
      ? this.#client.replace(resources.secrets, manifest, signal)
      : this.#client.create(resources.secrets, manifest, signal));
  }
}

function readState(secret: SecretObject | undefined): AuthorityState | undefined {
  if (!secret?.data) return undefined;
  const read = (key: string) => Buffer.from(secret.data?.[key] ?? '', 'base64').toString('utf8');
  const [certificate, key] = [read('next.crt'), read('next.key')];
  return {
    authorities: read('ca.crt'),
    key: read('ca.key'),
    ...(certificate !== '' && key !== '' ? { next: { certificate, key } } : {}),
  };
}
