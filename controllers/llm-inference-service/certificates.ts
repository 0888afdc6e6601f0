import type { X509Certificate } from 'node:crypto';
import { components } from '../../src/api/labels.ts';
import type { LLMInferenceService } from '../../src/api/v1alpha2/llm-inference-service.ts';
import type { Clock } from '../../src/clock.ts';
import type { Client } from '../../src/kube/client.ts';
import type { Manifest } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { hasCode } from '../../src/kube/status-error.ts';
import type { TlsFacts } from '../../src/render/input.ts';
import { componentLabels } from '../../src/render/labels.ts';
import { ownerOf } from '../../src/render/manifest.ts';
import { childNames } from '../../src/render/names.ts';
import { certificateNames } from '../../src/render/tls.ts';
import { issueServing, readCertificate, type ServiceAuthority, splitPem } from '../../src/runtime/authority.ts';

const dayMs = 86_400_000;
/** Often enough that a new authority reaches every service before it signs. */
const lookMs = dayMs / 4;

const maxIssued = 10_000;

export type CertificateVerdict =
  | { readonly kind: 'good'; readonly renewAtMs: number }
  | { readonly kind: 'renew'; readonly reason: string };

/** Whether a service's certificate may stay: for two thirds of its life, while names and authorities are as they should be. */
export function judgeCertificate(
  present: TlsFacts | undefined,
  names: readonly string[],
  bundle: string,
  nowMs: number,
): CertificateVerdict {
  if (!present) return { kind: 'renew', reason: 'there is none' };
  const certificate = readCertificate(present.certificate);
  if (!certificate) return { kind: 'renew', reason: 'it cannot be read' };
  const missing = names.find((name) => certificate.checkHost(name) === undefined);
  if (missing !== undefined) return { kind: 'renew', reason: `it lacks the name ${missing}` };
  const authorities = splitPem(bundle);
  if (!authorities.some((pem) => isSignedBy(certificate, readCertificate(pem))))
    return { kind: 'renew', reason: 'none of the authorities has signed it' };
  const known = new Set(splitPem(present.authorities));
  if (!authorities.every((pem) => known.has(pem))) return { kind: 'renew', reason: 'there is a new authority' };
  const [from, to] = [certificate.validFromDate.getTime(), certificate.validToDate.getTime()];
  const renewAtMs = from + ((to - from) * 2) / 3;
  return nowMs >= renewAtMs
    ? { kind: 'renew', reason: 'it is past two thirds of its life' }
    : { kind: 'good', renewAtMs };
}

function isSignedBy(certificate: X509Certificate, authority: X509Certificate | undefined): boolean {
  return authority !== undefined && certificate.checkIssued(authority) && certificate.verify(authority.publicKey);
}

export interface ServiceCertificate {
  readonly facts: TlsFacts;
  /** Why it was just made; undefined when it was there. */
  readonly made?: string;
  /** Time to look again, in milliseconds. */
  readonly lookAgainMs: number;
}

/**
 * The certificates of services, each in a Secret that is written and never read: what one has to know of it stands in the
 * ConfigMap with its public half, which the caches hold.
 *
 * Flow: judge the public half; when it is to be renewed, sign a new key and write the Secret. The caller then writes the
 * ConfigMap, so that a stop in between only means another key. A Secret of that name belongs to the service, whoever made
 * it: presets mount it by that name.
 */
export class Certificates {
  readonly #client: Pick<Client, 'create' | 'replace'>;
  readonly #authority: Pick<ServiceAuthority, 'current'>;
  readonly #clock: Clock;
  /** What was issued and has not come back as a record, by the service's uid: another failure is no reason for another key. */
  readonly #issued = new Map<string, TlsFacts>();
  /** Public halves that were found good, with the bundle and the names they were held against. */
  readonly #good = new WeakMap<object, { readonly key: string; readonly renewAtMs: number }>();

  constructor(client: Pick<Client, 'create' | 'replace'>, authority: Pick<ServiceAuthority, 'current'>, clock: Clock) {
    this.#client = client;
    this.#authority = authority;
    this.#clock = clock;
  }

  /** `present` is the ConfigMap as it is now. Errors: those of the API server. */
  async of(
    service: LLMInferenceService,
    pickerService: string | undefined,
    present: { readonly data?: Readonly<Record<string, string>> } | undefined,
    signal: AbortSignal,
    withTokenizer = false,
  ): Promise<ServiceCertificate> {
    const authority = await this.#authority.current();
    const names = certificateNames(service, pickerService, withTokenizer);
    const nowMs = this.#clock.now();
    const { 'tls.crt': certificate, 'ca.crt': authorities } = present?.data ?? {};
    const recorded = certificate && authorities ? { certificate, authorities } : undefined;
    const uid = service.metadata.uid ?? '';
    if (recorded) this.#issued.delete(uid);
    const before = recorded ?? this.#issued.get(uid);
    const key = `${names.join()}\n${authority.bundle}`;
    const known = present && this.#good.get(present);
    const verdict: CertificateVerdict =
      known?.key === key && nowMs < known.renewAtMs
        ? { kind: 'good', renewAtMs: known.renewAtMs }
        : judgeCertificate(before, names, authority.bundle, nowMs);
    if (verdict.kind === 'good' && before) {
      if (present && recorded) this.#good.set(present, { key, renewAtMs: verdict.renewAtMs });
      return { facts: before, lookAgainMs: Math.min(lookMs, Math.max(1_000, verdict.renewAtMs - nowMs)) };
    }
    const pair = await issueServing(authority, service.metadata.name, names, nowMs);
    const facts = { certificate: pair.certificate, authorities: keepUntilRenewed(authority.bundle, before, nowMs) };
    await this.#write(service, { ...facts, key: pair.key }, before !== undefined, signal);
    this.#issued.set(uid, facts);
    const oldest = this.#issued.keys().next();
    if (this.#issued.size > maxIssued && !oldest.done) this.#issued.delete(oldest.value);
    return { facts, made: verdict.kind === 'renew' ? verdict.reason : 'there is none', lookAgainMs: lookMs };
  }

  async #write(
    service: LLMInferenceService,
    content: TlsFacts & { readonly key: string },
    isThere: boolean,
    signal: AbortSignal,
  ): Promise<void> {
    const encode = (text: string) => Buffer.from(text).toString('base64');
    const { name, namespace = 'default' } = service.metadata;
    const secret: Manifest = {
      apiVersion: 'v1',
      kind: 'Secret',
      type: 'kubernetes.io/tls',
      metadata: {
        name: childNames(name).certificates,
        namespace,
        labels: componentLabels(name, components.workload),
        ownerReferences: ownerOf(service),
      },
      data: {
        'tls.crt': encode(content.certificate),
        'tls.key': encode(content.key),
        'ca.crt': encode(content.authorities),
      },
    };
    const create = () => this.#client.create(resources.secrets, secret, signal);
    const replace = () => this.#client.replace(resources.secrets, secret, signal);
    const [first, second, otherwise] = isThere
      ? ([replace, create, 'notFound'] as const)
      : ([create, replace, 'conflict'] as const);
    try {
      await first();
    } catch (thrown) {
      if (!hasCode(thrown, otherwise)) throw thrown;
      await second();
    }
  }
}

/** The bundle, and of the certificate that is replaced its own authority: pods change over at different moments. */
function keepUntilRenewed(bundle: string, before: TlsFacts | undefined, nowMs: number): string {
  const old = readCertificate(before?.certificate);
  const known = splitPem(bundle);
  const kept = splitPem(before?.authorities ?? '').filter((pem) => {
    const authority = readCertificate(pem);
    return (
      !known.includes(pem) &&
      old !== undefined &&
      isSignedBy(old, authority) &&
      (authority?.validToDate.getTime() ?? 0) > nowMs
    );
  });
  return [...known, ...kept].join('');
}
