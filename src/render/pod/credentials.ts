import type { Container, PodSpec } from '../../api/foreign/pod.ts';
import { annotations } from '../../api/labels.ts';
import type { Context } from '../input.ts';

/**
 * How downloads authenticate. Secrets are named, never read: every key is asked for by name and optional, so that one
 * Secret may hold whatever its store needs.
 */
export interface Credentials {
  readonly env: NonNullable<Container['env']>;
  readonly envFrom: NonNullable<Container['envFrom']>;
  readonly volumes: NonNullable<PodSpec['volumes']>;
  readonly mounts: NonNullable<Container['volumeMounts']>;
}

/** Keys of a Secret that become environment variables of the same name, by the scheme that needs them. */
const secretKeys: Readonly<Record<string, readonly string[]>> = {
  hf: ['HF_TOKEN'],
  s3: [
    'AWS_ACCESS_KEY_ID',
    'AWS_SECRET_ACCESS_KEY',
    'AWS_SESSION_TOKEN',
    'AWS_DEFAULT_REGION',
    'AWS_ENDPOINT_URL',
    'S3_ENDPOINT',
    'S3_USE_HTTPS',
    'S3_VERIFY_SSL',
  ],
  https: [...azureKeys('AZURE_'), ...azureKeys('AZ_')],
  abfs: [...azureKeys('AZURE_'), ...azureKeys('AZ_')],
  ms: ['MS_TOKEN'],
};

function azureKeys(prefix: string): readonly string[] {
  return ['SUBSCRIPTION_ID', 'TENANT_ID', 'CLIENT_ID', 'CLIENT_SECRET', 'STORAGE_ACCESS_KEY'].map(
    (key) => prefix + key,
  );
}

const defaultGcsKey = 'gcloud-application-credentials.json';
const gcsPath = '/var/secrets';
const gcsVolume = 'user-gcp-sa';

/** Settings of S3 that stand in annotations, of the service or of its ServiceAccount, as `serving.kserve.io/<name>`. */
const s3Annotations = {
  's3-region': 'AWS_DEFAULT_REGION',
  's3-usehttps': 'S3_USE_HTTPS',
  's3-verifyssl': 'S3_VERIFY_SSL',
  's3-usevirtualbucket': 'S3_USER_VIRTUAL_BUCKET',
  's3-useaccelerate': 'S3_USE_ACCELERATE',
  's3-useanoncredential': 'awsAnonymousCredential',
  's3-cabundle': 'AWS_CA_BUNDLE',
} as const;

/** The ServiceAccount whose Secrets and annotations count for pods with this template. */
export function accountOf(template: { readonly serviceAccountName?: string | undefined } | undefined): string {
  return template?.serviceAccountName ?? 'default';
}

/** Credentials for what `uris` name, for pods of a ServiceAccount. */
export function renderCredentials(context: Context, account: string, uris: readonly string[]): Credentials {
  const schemes = new Set(uris.map((uri) => uri.slice(0, uri.indexOf('://'))));
  const secrets = secretsOf(context, account);
  const plain = schemes.has('s3') ? s3Environment(context, account) : [];
  const taken = new Set(plain.map(({ name }) => name));
  const [only] = secrets;
  const keys = [...schemes].flatMap((scheme) => secretKeys[scheme] ?? []);
  const single = secrets.length === 1 && only !== undefined;
  const { gcsKey = defaultGcsKey, s3Keys = {} } = context.platform.storage.credentials ?? {};
  const env = [
    ...plain,
    ...(single
      ? [...new Set(keys)].filter((key) => !taken.has(key)).map((key) => fromSecret(key, only, s3Keys[key] ?? key))
      : []),
    // The download of a web server looks for headers under the name of the host.
    ...(only === undefined ? [] : headerNames(uris).map((name) => fromSecret(name, only, 'headers'))),
  ];
  const needsGcs = schemes.has('gs') && only !== undefined;
  return {
    env: needsGcs ? [...env, { name: 'GOOGLE_APPLICATION_CREDENTIALS', value: `${gcsPath}/${gcsKey}` }] : env,
    // Which of several Secrets holds a key cannot be known without reading them.
    envFrom:
      secrets.length > 1 && keys.length > 0 ? secrets.map((name) => ({ secretRef: { name, optional: true } })) : [],
    volumes: needsGcs
      ? [{ name: gcsVolume, secret: { secretName: only, items: [{ key: gcsKey, path: gcsKey }] } }]
      : [],
    mounts: needsGcs ? [{ name: gcsVolume, mountPath: gcsPath, readOnly: true }] : [],
  };
}

/** ConfigMap with certificate authorities that downloads trust, in the service's namespace. */
export function caBundleOf(context: Context, account: string): string | undefined {
  return annotationOf(context, account, 's3-cabundle-configmap') ?? context.platform.storage.caBundle;
}

/** The Secret that an annotation of the service names, else those of the ServiceAccount that may hold credentials. */
function secretsOf(context: Context, account: string): readonly string[] {
  const configured = context.platform.storage.credentials?.secretAnnotation;
  const keys = [...(configured === undefined ? [] : [configured]), ...annotations.storageSecret];
  const named = keys.flatMap((key) => context.service.metadata.annotations?.[key] ?? []);
  if (named[0] !== undefined) return [named[0]];
  const own = context.platform.storage.accounts[account]?.secrets ?? [];
  // Tokens and pull secrets that platforms add to every account hold no credentials of stores.
  return own.filter((name) => !/-(token|dockercfg)-[a-z0-9]+$/.test(name));
}

function fromSecret(name: string, secret: string, key: string) {
  return { name, valueFrom: { secretKeyRef: { name: secret, key, optional: true } } };
}

function annotationOf(context: Context, account: string, name: string): string | undefined {
  const key = `serving.kserve.io/${name}`;
  const { accounts, credentials } = context.platform.storage;
  return (
    context.service.metadata.annotations?.[key] ??
    accounts[account]?.annotations[key] ??
    credentials?.s3Defaults?.[name]
  );
}

function s3Environment(
  context: Context,
  account: string,
): readonly { readonly name: string; readonly value: string }[] {
  const of = (name: string) => annotationOf(context, account, name);
  const endpoint = of('s3-endpoint');
  const scheme = of('s3-usehttps') === '0' ? 'http' : 'https';
  return [
    ...(endpoint === undefined
      ? []
      : [
          { name: 'S3_ENDPOINT', value: endpoint },
          { name: 'AWS_ENDPOINT_URL', value: `${scheme}://${endpoint}` },
        ]),
    ...Object.entries(s3Annotations).flatMap(([annotation, name]) => {
      const value = of(annotation);
      return value === undefined ? [] : [{ name, value }];
    }),
  ];
}

function headerNames(uris: readonly string[]): readonly string[] {
  const hosts = uris.flatMap((uri) => /^https?:\/\/([A-Za-z][A-Za-z0-9.-]*)/.exec(uri)?.[1] ?? []);
  return [...new Set(hosts)].map((host) => `${host}-headers`);
}
