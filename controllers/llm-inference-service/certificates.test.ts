import { X509Certificate } from 'node:crypto';
import { describe, expect, it } from '@jest/globals';
import { ManualClock } from '../../src/clock.ts';
import { AppError } from '../../src/errors.ts';
import type { Client } from '../../src/kube/client.ts';
import { type KubeObject, keyOf, type Manifest } from '../../src/kube/object.ts';
import { type AuthorityState, ServiceAuthority, splitPem, stepAuthority } from '../../src/runtime/authority.ts';
import { llmService } from '../../test/builders/service.ts';
import { Certificates } from './certificates.ts';

const dayMs = 86_400_000;
const startMs = Date.UTC(2030, 0, 1);
const signal = new AbortController().signal;
const secret = { namespace: 'signalbox-system', name: 'authority' };

/** Secrets as the API server keeps them, with every request. */
function secretStore() {
  const objects = new Map<string, KubeObject & { readonly data: Readonly<Record<string, string>> }>();
  const requests: string[] = [];
  let version = 0;
  const put = <T>(object: Manifest): T => {
    const stored = { ...object, metadata: { ...object.metadata, resourceVersion: String(++version) } };
    objects.set(keyOf(object.metadata), stored as never);
    return stored as T;
  };
  const client = {
    get: async (_resource: unknown, ref: KubeObject['metadata']) => {
      requests.push(`GET ${ref.name}`);
      return objects.get(keyOf(ref));
    },
    create: async (_resource: unknown, object: Manifest) => {
      requests.push(`POST ${object.metadata.name}`);
      if (objects.has(keyOf(object.metadata))) throw new AppError('conflict', 'already exists');
      return put(object);
    },
    replace: async (_resource: unknown, object: Manifest) => {
      requests.push(`PUT ${object.metadata.name}`);
      if (!objects.has(keyOf(object.metadata))) throw new AppError('notFound', 'not found');
      return put(object);
    },
  } as unknown as Pick<Client, 'get' | 'create' | 'replace'>;
  const read = (name: string, key: string) => {
    const found = [...objects.values()].find(({ metadata }) => metadata.name === name);
    return Buffer.from(found?.data[key] ?? '', 'base64').toString();
  };
  return { client, objects, requests, read };
}

function fixture() {
  const clock = new ManualClock(startMs);
  const store = secretStore();
  const authority = new ServiceAuthority(store.client, secret, clock);
  const certificates = new Certificates(store.client, authority, clock);
  const record = (facts: { readonly certificate: string; readonly authorities: string }) => ({
    data: { 'tls.crt': facts.certificate, 'ca.crt': facts.authorities },
  });
  return { clock, certificates, record, ...store };
}

const secretName = 'chat-kserve-self-signed-certs';

describe('the certificate of a service', () => {
  it('names Services and no pod, and is made once', async () => {
    const { certificates, record, requests, read, objects } = fixture();
    const first = await certificates.of(llmService(), undefined, undefined, signal);
    expect(first.made).toBe('there is none');
    expect(requests).toEqual(['GET authority', 'POST authority', `POST ${secretName}`]);
    expect(read(secretName, 'tls.crt')).toBe(first.facts.certificate);
    expect(read(secretName, 'ca.crt')).toBe(first.facts.authorities);
    expect(read(secretName, 'tls.key')).toContain('BEGIN PRIVATE KEY');
    const found = objects.get(`default/${secretName}`);
    expect(found).toMatchObject({ type: 'kubernetes.io/tls', metadata: { ownerReferences: [{ name: 'chat' }] } });

    const certificate = new X509Certificate(first.facts.certificate);
    expect(certificate.publicKey.asymmetricKeyDetails).toEqual({ namedCurve: 'prime256v1' });
    expect(certificate.verify(new X509Certificate(first.facts.authorities).publicKey)).toBe(true);
    for (const service of ['chat-kserve-workload-svc', 'chat-kserve-prefill-svc', 'chat-epp-service'])
      expect(certificate.checkHost(`${service}.default.svc`)).toBeDefined();
    expect(certificate.subjectAltName?.match(/IP Address:\S+/g)).toEqual(['IP Address:127.0.0.1']);

    requests.length = 0;
    const again = await certificates.of(llmService(), undefined, record(first.facts), signal);
    expect([again.facts, again.made, requests]).toEqual([first.facts, undefined, []]);
  });

  it.each([
    ['before two thirds of its life', 59, undefined],
    ['after them', 61, 'it is past two thirds of its life'],
  ])('is looked at %s', async (_when, days, made) => {
    const { certificates, record, clock, requests } = fixture();
    const first = await certificates.of(llmService(), undefined, undefined, signal);
    await clock.advance(days * dayMs);
    requests.length = 0;
    const again = await certificates.of(llmService(), undefined, record(first.facts), signal);
    expect(again.made).toBe(made);
    expect(requests.filter((request) => request.endsWith(secretName))).toEqual(made ? [`PUT ${secretName}`] : []);
    expect(again.facts.authorities).toBe(first.facts.authorities);
  });

  it('is made anew for a picker under another name, where its record is gone, and where the Secret is', async () => {
    const { certificates, record, objects, requests } = fixture();
    const first = await certificates.of(llmService(), undefined, undefined, signal);
    // The record could not be written: the next try issues no other key.
    requests.length = 0;
    expect((await certificates.of(llmService(), undefined, undefined, signal)).facts).toEqual(first.facts);
    expect(requests).toEqual([]);
    const named = await certificates.of(llmService(), 'my-picker', record(first.facts), signal);
    expect(named.made).toBe('it lacks the name my-picker.default.svc.cluster.local');
    // The operator ended between the Secret and its record, or the Secret is KServe's.
    requests.length = 0;
    await certificates.of(llmService(), 'my-picker', record(named.facts), signal);
    expect((await certificates.of(llmService(), undefined, undefined, signal)).made).toBe('there is none');
    expect(requests).toEqual([`POST ${secretName}`, `PUT ${secretName}`]);
    objects.delete(`default/${secretName}`);
    requests.length = 0;
    await certificates.of(llmService(), 'other', record(first.facts), signal);
    expect(requests).toEqual([`PUT ${secretName}`, `POST ${secretName}`]);
  });

  it('keeps the authority of the certificate that it replaces when another operator has made a new one', async () => {
    const { certificates, record, objects, clock } = fixture();
    const first = await certificates.of(llmService(), undefined, undefined, signal);
    objects.delete('signalbox-system/authority');
    await clock.advance(2 * 3_600_000);
    const second = await certificates.of(llmService(), undefined, record(first.facts), signal);
    expect(second.made).toBe('none of the authorities has signed it');
    expect(splitPem(second.facts.authorities)).toHaveLength(2);
    expect(splitPem(second.facts.authorities)).toContain(splitPem(first.facts.authorities)[0]);
  });

  it('tells what fails', async () => {
    const clock = new ManualClock(startMs);
    const failing = new Certificates(
      { create: () => Promise.reject(new AppError('forbidden', 'no')), replace: () => Promise.reject(new Error('x')) },
      new ServiceAuthority(secretStore().client, secret, clock),
      clock,
    );
    await expect(failing.of(llmService(), undefined, undefined, signal)).rejects.toMatchObject({ code: 'forbidden' });
  });
});

describe('the authority of services', () => {
  const first = (state: AuthorityState) => splitPem(state.authorities)[0];

  it('is announced for a day before it signs, and its predecessor trusted until it ends', async () => {
    const made = await stepAuthority(undefined, startMs);
    const years = (count: number) => startMs + count * 365 * dayMs;
    expect(await stepAuthority(made, years(6))).toBe(made);
    const announced = await stepAuthority(made, years(7));
    expect([first(announced), announced.key]).toEqual([first(made), made.key]);
    expect(announced.next).toBeDefined();
    expect(await stepAuthority(announced, years(7) + dayMs / 2)).toBe(announced);
    const promoted = await stepAuthority(announced, years(7) + 1.1 * dayMs);
    expect([promoted.key, promoted.next]).toEqual([announced.next?.key, undefined]);
    expect(splitPem(promoted.authorities)).toHaveLength(2);
    expect(await stepAuthority({ authorities: 'x', key: '' }, startMs)).toMatchObject({ key: expect.any(String) });
  });

  it('is the one that was written first, whoever asks', async () => {
    const { client, requests } = secretStore();
    const clock = new ManualClock(startMs);
    const operators = [0, 1, 2].map(() => new ServiceAuthority(client, secret, clock));
    const found = await Promise.all(operators.flatMap((operator) => [operator.current(), operator.current()]));
    expect(new Set(found.map(({ bundle }) => bundle)).size).toBe(1);
    requests.length = 0;
    await operators[0]?.current();
    expect(requests).toEqual([]);
  });
});
