import { X509Certificate } from 'node:crypto';
import { type Clock, systemClock } from '../clock.ts';
import { AppError, messageOf } from '../errors.ts';
import type { Client } from '../kube/client.ts';
import { startInformer } from '../kube/informer.ts';
import type { KubeObject, Manifest, ObjectMeta, Resource } from '../kube/object.ts';
import { resources } from '../kube/resources.ts';
import { hasCode } from '../kube/status-error.ts';
import { createAuthority, issueCertificate } from '../pki.ts';
import type { Logger } from '../telemetry/log.ts';
import type { ServingCertificate } from './admission-server.ts';

/** What the Secret holds, as PEM. */
export interface CertificateBundle {
  readonly certificate: string;
  readonly key: string;
  /** The authority that signed `certificate`, first, and its predecessors that are still valid. */
  readonly caBundle: string;
  readonly caKey: string;
}

interface SecretObject extends KubeObject {
  readonly data?: Readonly<Record<string, string>>;
}

const dayMs = 86_400_000;
const authorityMs = 3 * 365 * dayMs;
const servingMs = 90 * dayMs;
/** Clocks of nodes differ; nothing is issued that is not valid yet somewhere. */
const backdateMs = 3_600_000;
const keys = { certificate: 'tls.crt', key: 'tls.key', caBundle: 'ca.crt', caKey: 'ca.key' } as const;

export type Rotation =
  | { readonly kind: 'none' }
  /** A new serving certificate by the present authority. */
  | { readonly kind: 'serving'; readonly reason: string }
  /** A new authority too; the present one stays in the bundle until it ends. */
  | { readonly kind: 'authority'; readonly reason: string };

/** What has to be made anew: at two thirds of a certificate's life, or when names are missing or pieces do not fit. */
export function needsRotation(
  bundle: CertificateBundle | undefined,
  names: readonly string[],
  nowMs: number,
): Rotation {
  if (!bundle) return { kind: 'authority', reason: 'there is no certificate' };
  let authority: X509Certificate | undefined;
  let serving: X509Certificate;
  try {
    const [first] = splitPem(bundle.caBundle);
    authority = first === undefined ? undefined : new X509Certificate(first);
    serving = new X509Certificate(bundle.certificate);
  } catch (thrown) {
    return { kind: 'authority', reason: `the stored certificates cannot be read: ${messageOf(thrown)}` };
  }
  if (!authority || bundle.caKey === '' || bundle.key === '') return { kind: 'authority', reason: 'a key is missing' };
  if (isOld(authority, nowMs)) return { kind: 'authority', reason: 'the authority is past two thirds of its life' };
  if (!serving.checkIssued(authority) || !serving.verify(authority.publicKey)) {
    return { kind: 'serving', reason: 'the certificate is not by the present authority' };
  }
  if (isOld(serving, nowMs)) return { kind: 'serving', reason: 'the certificate is past two thirds of its life' };
  const missing = names.find(
    (name) => (isAddress(name) ? serving.checkIP(name) : serving.checkHost(name)) === undefined,
  );
  if (missing !== undefined) return { kind: 'serving', reason: `the certificate lacks the name ${missing}` };
  return { kind: 'none' };
}

function isOld(certificate: X509Certificate, nowMs: number): boolean {
  const from = certificate.validFromDate.getTime();
  const to = certificate.validToDate.getTime();
  return nowMs >= from + ((to - from) * 2) / 3;
}

function isAddress(name: string): boolean {
  return /^[\d.]+$/.test(name) || name.includes(':');
}

function splitPem(text: string): readonly string[] {
  return text.match(/-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----\n?/g) ?? [];
}

/** Makes what `rotation` asks for. Errors: none of its own; `nowMs` is the clock's. */
export async function rotate(
  present: CertificateBundle | undefined,
  rotation: Exclude<Rotation, { kind: 'none' }>,
  names: readonly string[],
  nowMs: number,
): Promise<CertificateBundle> {
  const at = (ms: number) => new Date(nowMs + ms);
  let caBundle = present?.caBundle ?? '';
  let caKey = present?.caKey ?? '';
  if (rotation.kind === 'authority') {
    const authority = await createAuthority({
      commonName: `signalbox-webhook-ca-${Math.floor(nowMs / 1000)}`,
      notBefore: at(-backdateMs),
      notAfter: at(authorityMs),
    });
    caBundle = [authority.certificate, ...splitPem(caBundle).filter((pem) => isValidAt(pem, nowMs))]
      .slice(0, 3)
      .map((pem) => `${pem.trim()}\n`)
      .join('');
    caKey = authority.key;
  }
  const signer = { certificate: splitPem(caBundle)[0] ?? '', key: caKey };
  const serving = await issueCertificate(signer, {
    commonName: names[0] ?? 'signalbox-webhook',
    dnsNames: names.filter((name) => !isAddress(name)),
    ipAddresses: names.filter(isAddress),
    usage: 'server',
    notBefore: at(-backdateMs),
    notAfter: at(servingMs),
  });
  return { certificate: serving.certificate, key: serving.key, caBundle, caKey };
}

function isValidAt(pem: string, nowMs: number): boolean {
  try {
    return new X509Certificate(pem).validToDate.getTime() > nowMs;
  } catch {
    return false;
  }
}

export interface ConversionTarget {
  /** CustomResourceDefinitions whose versions we convert. A missing one is waited for. */
  readonly definitions: readonly string[];
  /** How the API server reaches the conversion. */
  readonly client:
    | {
        readonly service: {
          readonly namespace: string;
          readonly name: string;
          readonly port: number;
          readonly path: string;
        };
      }
    | { readonly url: string };
  /** Names of Services that are us, as a definition may have been installed; what converts by another is left to it. */
  readonly ownServices: readonly string[];
}

export interface CertificatesOptions {
  readonly secret: { readonly namespace: string; readonly name: string };
  /** Names and addresses under which the API server calls: `signalbox-webhook.signalbox-system.svc`. */
  readonly names: readonly string[];
  /** Somebody else, such as cert-manager, writes the Secret: it is waited for and never written. */
  readonly isGiven?: boolean;
  /** Configurations whose every webhook gets our bundle. A missing one is waited for. */
  readonly mutating?: readonly string[];
  readonly validating?: readonly string[];
  /** Definitions that get our address and bundle for their conversion. */
  readonly conversion?: ConversionTarget;
  readonly labels?: Readonly<Record<string, string>>;
  /** How often expiry is looked at; changes of the Secret and the configurations are seen at once. */
  readonly checkMs?: number;
}

export interface Certificates {
  readonly current: ServingCertificate;
  readonly caBundle: string;
  /** Ends of what is used now, in seconds since the epoch. */
  readonly expiry: { readonly webhook: number; readonly webhook_authority: number };
  /** Called with every certificate that replaces the current one, once the API server knows its authority. */
  onChange(handler: (certificate: ServingCertificate) => void): void;
  close(): void;
}

/**
 * Keeps one serving certificate in a Secret for all replicas, and the API server's webhook configurations in step with it.
 *
 * Flow: read the Secret; make or renew what `needsRotation` says (whoever writes first wins, the others read again); put the
 * bundle into the configurations that lack it; only then serve. Repeated on every change and every `checkMs`.
 * Guarantees: resolves with a usable certificate; key material is never logged.
 * Errors: those of the first round; later ones are logged and tried again.
 */
export async function startCertificates(
  client: Client,
  options: CertificatesOptions,
  deps: { readonly log: Logger; readonly clock?: Clock },
): Promise<Certificates> {
  const clock = deps.clock ?? systemClock;
  const log = deps.log.child({ secret: `${options.secret.namespace}/${options.secret.name}` });
  const closing = new AbortController();
  const handlers = new Set<(certificate: ServingCertificate) => void>();
  let bundle = await ensureBundle(client, options, log, clock, closing.signal);

  const round = async (): Promise<void> => {
    const next = await ensureBundle(client, options, log, clock, closing.signal);
    await injectEverywhere(client, options, next.caBundle, log, closing.signal);
    if (next.certificate === bundle.certificate) return;
    bundle = next;
    log.info('serving a new certificate');
    for (const handler of handlers) handler({ certificate: next.certificate, key: next.key });
  };

  let wake: () => void = () => {};
  const kick = () => wake();
  const watchOne = (resource: Resource, name: string, namespace?: string) => {
    const informer = startInformer<KubeObject>(
      client,
      resource,
      { fieldSelector: `metadata.name=${name}`, ...(namespace ? { namespace } : {}), transform: withoutData },
      { log: deps.log, clock },
    );
    informer.subscribe(kick);
    return informer;
  };
  const informers = [
    watchOne(resources.secrets, options.secret.name, options.secret.namespace),
    ...(options.mutating ?? []).map((name) => watchOne(resources.mutatingWebhookConfigurations, name)),
    ...(options.validating ?? []).map((name) => watchOne(resources.validatingWebhookConfigurations, name)),
    ...(options.conversion?.definitions ?? []).map((name) => watchOne(resources.customResourceDefinitions, name)),
  ];
  const run = async (): Promise<void> => {
    let failures = 0;
    while (!closing.signal.aborted) {
      const woken = new Promise<void>((resolve) => {
        wake = resolve;
      });
      try {
        await round();
        failures = 0;
      } catch (thrown) {
        if (closing.signal.aborted) return;
        failures++;
        if (!hasCode(thrown, 'conflict'))
          log.warn({ error: messageOf(thrown) }, 'the certificates were not kept; trying again');
      }
      const timer = new AbortController();
      const stop = () => timer.abort();
      closing.signal.addEventListener('abort', stop, { once: true });
      const waitMs =
        failures > 0 ? Math.min(30_000, 500 * 2 ** Math.min(failures, 6)) : (options.checkMs ?? dayMs / 24);
      await Promise.race([clock.sleep(waitMs, timer.signal).catch(() => {}), woken]);
      timer.abort();
      closing.signal.removeEventListener('abort', stop);
    }
  };
  void run();

  return {
    get current() {
      return { certificate: bundle.certificate, key: bundle.key };
    },
    get caBundle() {
      return bundle.caBundle;
    },
    get expiry() {
      const endOf = (pem: string) => Math.floor(new X509Certificate(pem).validToDate.getTime() / 1000);
      return { webhook: endOf(bundle.certificate), webhook_authority: endOf(splitPem(bundle.caBundle)[0] ?? '') };
    },
    onChange(handler) {
      handlers.add(handler);
    },
    close() {
      closing.abort(new Error('closed'));
      for (const informer of informers) informer.close();
    },
  };
}

/** The informers only tell that something changed; what a Secret holds stays out of memory. */
function withoutData(object: KubeObject): KubeObject {
  const { uid, resourceVersion, name, namespace } = object.metadata;
  const metadata: ObjectMeta = {
    name,
    ...(namespace === undefined ? {} : { namespace }),
    ...(uid === undefined ? {} : { uid }),
    ...(resourceVersion === undefined ? {} : { resourceVersion }),
  };
  return { apiVersion: object.apiVersion, kind: object.kind, metadata };
}

async function ensureBundle(
  client: Client,
  options: CertificatesOptions,
  log: Logger,
  clock: Clock,
  signal: AbortSignal,
): Promise<CertificateBundle> {
  for (let attempt = 0; ; attempt++) {
    const secret = await client.get<SecretObject>(resources.secrets, options.secret, signal);
    const present = readBundle(secret);
    if (options.isGiven) return requireGiven(present, options);
    const rotation = needsRotation(present, options.names, clock.now());
    if (rotation.kind === 'none' && present) return present;
    const wanted =
      rotation.kind === 'none' ? ({ kind: 'authority', reason: 'the Secret is empty' } as const) : rotation;
    const next = await rotate(present, wanted, options.names, clock.now());
    try {
      await writeBundle(client, options, secret, next, signal);
      log.info({ reason: wanted.reason, what: wanted.kind }, 'made a certificate');
      return next;
    } catch (thrown) {
      // Another replica was first: its certificate is the one.
      if (!hasCode(thrown, 'conflict') || attempt >= 5) throw thrown;
    }
  }
}

function requireGiven(present: CertificateBundle | undefined, { secret }: CertificatesOptions): CertificateBundle {
  if (present && present.key !== '' && present.caBundle !== '') return present;
  throw new AppError(
    'unavailable',
    `Secret ${secret.namespace}/${secret.name} has no ${present ? keys.caBundle : keys.certificate} yet: whoever issues the webhooks' certificate has to write it`,
  );
}

function readBundle(secret: SecretObject | undefined): CertificateBundle | undefined {
  if (!secret?.data?.[keys.certificate]) return undefined;
  const read = (key: string) => Buffer.from(secret.data?.[key] ?? '', 'base64').toString('utf8');
  return {
    certificate: read(keys.certificate),
    key: read(keys.key),
    caBundle: read(keys.caBundle),
    caKey: read(keys.caKey),
  };
}

async function writeBundle(
  client: Client,
  options: CertificatesOptions,
  present: SecretObject | undefined,
  bundle: CertificateBundle,
  signal: AbortSignal,
): Promise<void> {
  const encode = (text: string) => Buffer.from(text).toString('base64');
  const manifest: Manifest = {
    apiVersion: 'v1',
    kind: 'Secret',
    type: 'kubernetes.io/tls',
    ...present,
    metadata: present?.metadata ?? { ...options.secret, ...(options.labels ? { labels: options.labels } : {}) },
    data: {
      ...present?.data,
      [keys.certificate]: encode(bundle.certificate),
      [keys.key]: encode(bundle.key),
      [keys.caBundle]: encode(bundle.caBundle),
      [keys.caKey]: encode(bundle.caKey),
    },
  };
  await (present
    ? client.replace(resources.secrets, manifest, signal)
    : client.create(resources.secrets, manifest, signal));
}

interface WebhookConfiguration extends Manifest {
  readonly webhooks?: readonly { readonly clientConfig: { readonly caBundle?: string } }[];
}

interface ClientConfig {
  readonly url?: string;
  readonly service?: {
    readonly namespace: string;
    readonly name: string;
    readonly port?: number;
    readonly path?: string;
  };
  readonly caBundle?: string;
}

interface Definition extends KubeObject {
  readonly spec?: {
    readonly conversion?: { readonly strategy?: string; readonly webhook?: { readonly clientConfig?: ClientConfig } };
  };
}

/** Writes the bundle where it is not yet; a configuration that does not exist is somebody else's to make. */
async function injectEverywhere(
  client: Client,
  options: CertificatesOptions,
  caBundle: string,
  log: Logger,
  signal: AbortSignal,
): Promise<void> {
  const encoded = Buffer.from(caBundle).toString('base64');
  const configurations = [
    ...(options.mutating ?? []).map((name) => ({ resource: resources.mutatingWebhookConfigurations, name })),
    ...(options.validating ?? []).map((name) => ({ resource: resources.validatingWebhookConfigurations, name })),
  ];
  for (const { resource, name } of configurations) {
    const live = await client.get<WebhookConfiguration>(resource, { name }, signal);
    if (!live?.webhooks?.some((webhook) => webhook.clientConfig.caBundle !== encoded)) continue;
    const webhooks = live.webhooks.map((webhook) => ({
      ...webhook,
      clientConfig: { ...webhook.clientConfig, caBundle: encoded },
    }));
    await client.replace(resource, { ...live, webhooks }, signal);
    log.info({ configuration: `${resource.kind} ${name}` }, 'put the authority into the webhook configuration');
  }
  const { conversion } = options;
  for (const name of conversion?.definitions ?? []) {
    if (conversion) await registerConversion(client, name, conversion, encoded, log, signal);
  }
}

/** Makes a definition convert by us; one that converts by somebody else's Service is left alone. */
async function registerConversion(
  client: Client,
  name: string,
  target: ConversionTarget,
  caBundle: string,
  log: Logger,
  signal: AbortSignal,
): Promise<void> {
  const resource = resources.customResourceDefinitions;
  const live = await client.get<Definition>(resource, { name }, signal);
  if (!live) return;
  const present = live.spec?.conversion?.webhook?.clientConfig;
  const foreign = present?.service;
  if (foreign && !target.ownServices.includes(foreign.name)) {
    log.warn(
      { definition: name, service: `${foreign.namespace}/${foreign.name}` },
      'versions are converted by another Service; apply our definition to take over',
    );
    return;
  }
  // A merge patch: null removes what the other way of being reached has left.
  const wanted = { service: null, url: null, ...target.client, caBundle };
  if (live.spec?.conversion?.strategy === 'Webhook' && isSameClient(present, wanted)) return;
  const webhook = { conversionReviewVersions: ['v1'], clientConfig: wanted };
  await client.mergePatch(resource, { name }, { spec: { conversion: { strategy: 'Webhook', webhook } } }, {}, signal);
  log.info({ definition: name }, 'put our address and authority into the conversion webhook');
}

function isSameClient(
  present: ClientConfig | undefined,
  wanted: { readonly url: string | null; readonly service: ClientConfig['service'] | null; readonly caBundle: string },
): boolean {
  const { namespace, name, port, path } = present?.service ?? {};
  return (
    present?.caBundle === wanted.caBundle &&
    (present.url ?? null) === wanted.url &&
    namespace === wanted.service?.namespace &&
    name === wanted.service?.name &&
    port === wanted.service?.port &&
    path === wanted.service?.path
  );
}
