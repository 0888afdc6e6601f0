import { readFile, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { delimiter, dirname, join, resolve } from 'node:path';
import { parse as parseYaml } from 'yaml';
import { z } from 'zod';
import { AppError, messageOf } from '../errors.ts';

export interface TlsSettings {
  readonly ca?: string | Buffer;
  readonly cert?: string | Buffer;
  readonly key?: string | Buffer;
  readonly servername?: string;
  readonly rejectUnauthorized?: boolean;
}

/** Everything that is needed to speak to one API server. */
export interface ConnectionSettings {
  /** `https://host:port`, perhaps with a path. */
  readonly server: string;
  readonly tls: TlsSettings;
  /** Value of the Authorization header, asked for before each request; it caches what is costly. */
  readonly authorization?: () => Promise<string | undefined>;
  /** Where an object without a namespace goes. */
  readonly namespace: string;
  /** Where the settings come from, for messages. */
  readonly source: string;
}

export interface KubeConfigOptions {
  /** One file, or several joined by the path delimiter (as in KUBECONFIG). */
  readonly path?: string;
  /** Name of a context of the file; default its `current-context`. */
  readonly context?: string;
  /** Folder with `token`, `ca.crt` and `namespace`; default where Kubernetes mounts it. */
  readonly serviceAccountDir?: string;
  readonly env?: Readonly<Record<string, string | undefined>>;
}

const defaultServiceAccountDir = '/var/run/secrets/kubernetes.io/serviceaccount';
/** Projected tokens are renewed at 80 % of an hour or more; a minute of staleness is safe. */
const tokenMaxAgeMs = 60_000;

/**
 * Finds the API server: `path`, then KUBECONFIG, then the pod's service account, then ~/.kube/config.
 * Errors: `usage`, naming the file and field that is wrong or, when nothing was found, every place that was tried.
 */
export async function loadKubeConfig(options: KubeConfigOptions = {}): Promise<ConnectionSettings> {
  // The one look at the environment outside src/cmd: the order of places is a promise of this function.
  const env = options.env ?? process.env;
  const path = options.path || env.KUBECONFIG;
  if (path) return fromFiles(path.split(delimiter).filter(Boolean), options.context);
  const dir = options.serviceAccountDir ?? defaultServiceAccountDir;
  const host = env.KUBERNETES_SERVICE_HOST;
  if (host && (await exists(join(dir, 'token')))) {
    return fromServiceAccount(dir, host, env.KUBERNETES_SERVICE_PORT ?? '443');
  }
  const home = join(env.HOME ?? homedir(), '.kube', 'config');
  if (await exists(home)) return fromFiles([home], options.context);
  throw new AppError(
    'usage',
    `no Kubernetes API server configured: --kubeconfig and KUBECONFIG are empty, ${join(dir, 'token')} (with KUBERNETES_SERVICE_HOST) and ${home} do not exist; give --kubeconfig FILE`,
  );
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

async function fromServiceAccount(dir: string, host: string, port: string): Promise<ConnectionSettings> {
  const ca = await readFile(join(dir, 'ca.crt')).catch(() => undefined);
  const namespace = await readFile(join(dir, 'namespace'), 'utf8').catch(() => 'default');
  return {
    server: `https://${host.includes(':') ? `[${host}]` : host}:${port}`,
    tls: ca ? { ca } : {},
    authorization: tokenFromFile(join(dir, 'token')),
    namespace: namespace.trim() || 'default',
    source: `service account in ${dir}`,
  };
}

/** Reads a token again once it is a minute old; keeps the last one when the file cannot be read for a moment. */
export function tokenFromFile(path: string, now: () => number = Date.now): () => Promise<string | undefined> {
  let cached: { readonly header: string; readonly at: number } | undefined;
  return async () => {
    if (cached && now() - cached.at < tokenMaxAgeMs) return cached.header;
    try {
      cached = { header: `Bearer ${(await readFile(path, 'utf8')).trim()}`, at: now() };
    } catch (thrown) {
      if (!cached) throw new AppError('unauthorized', `cannot read the token file ${path}: ${messageOf(thrown)}`);
    }
    return cached?.header;
  };
}

const clusterSchema = z.looseObject({
  server: z.url({ protocol: /^https?$/ }),
  'certificate-authority': z.string().optional(),
  'certificate-authority-data': z.string().optional(),
  'tls-server-name': z.string().optional(),
  'insecure-skip-tls-verify': z.boolean().optional(),
  'proxy-url': z.string().optional(),
});
const userSchema = z.looseObject({
  'client-certificate': z.string().optional(),
  'client-certificate-data': z.string().optional(),
  'client-key': z.string().optional(),
  'client-key-data': z.string().optional(),
  token: z.string().optional(),
  tokenFile: z.string().optional(),
  username: z.string().optional(),
  password: z.string().optional(),
  exec: z.unknown().optional(),
  'auth-provider': z.unknown().optional(),
});
const contextSchema = z.looseObject({ cluster: z.string(), user: z.string(), namespace: z.string().optional() });
const fileSchema = z.looseObject({
  'current-context': z.string().optional(),
  clusters: z.array(z.looseObject({ name: z.string(), cluster: clusterSchema })).nullish(),
  users: z.array(z.looseObject({ name: z.string(), user: userSchema.nullish() })).nullish(),
  contexts: z.array(z.looseObject({ name: z.string(), context: contextSchema })).nullish(),
});

interface Entry<T> {
  readonly name: string;
  readonly value: T;
  /** Folder against which relative paths stand. */
  readonly dir: string;
}

/** Several files are laid over each other: the first that names a thing wins. */
async function fromFiles(paths: readonly string[], wanted: string | undefined): Promise<ConnectionSettings> {
  const clusters: Entry<z.infer<typeof clusterSchema>>[] = [];
  const users: Entry<z.infer<typeof userSchema>>[] = [];
  const contexts: Entry<z.infer<typeof contextSchema>>[] = [];
  let current = wanted;
  for (const path of paths) {
    const file = await parseFile(path);
    const dir = dirname(resolve(path));
    current ??= file['current-context'] || undefined;
    for (const c of file.clusters ?? []) clusters.push({ name: c.name, value: c.cluster, dir });
    for (const u of file.users ?? []) users.push({ name: u.name, value: u.user ?? {}, dir });
    for (const c of file.contexts ?? []) contexts.push({ name: c.name, value: c.context, dir });
  }
  const source = paths.join(delimiter);
  const find = <T>(entries: readonly Entry<T>[], name: string, what: string): Entry<T> => {
    const found = entries.find((entry) => entry.name === name);
    if (found) return found;
    const known = entries.map((entry) => entry.name).join(', ') || 'none';
    throw new AppError('usage', `kubeconfig ${source}: no ${what} named "${name}"; it has: ${known}`);
  };
  if (!current) {
    throw new AppError('usage', `kubeconfig ${source}: current-context is empty; set it or name a context`);
  }
  const context = find(contexts, current, 'context');
  const cluster = find(clusters, context.value.cluster, 'cluster');
  const user = find(users, context.value.user, 'user');
  if (cluster.value['proxy-url']) {
    throw new AppError(
      'usage',
      `kubeconfig ${source}: clusters[${cluster.name}].proxy-url is not supported; remove it`,
    );
  }
  const material = async (dir: string, file: string | undefined, data: string | undefined, field: string) => {
    if (data) return Buffer.from(data, 'base64');
    if (!file) return undefined;
    return readFile(resolve(dir, file)).catch((thrown: unknown) => {
      throw new AppError('usage', `kubeconfig ${source}: ${field}: ${messageOf(thrown)}`);
    });
  };
  const u = user.value;
  const c = cluster.value;
  const ca = await material(
    cluster.dir,
    c['certificate-authority'],
    c['certificate-authority-data'],
    `clusters[${cluster.name}].certificate-authority`,
  );
  let cert: string | Buffer | undefined = await material(
    user.dir,
    u['client-certificate'],
    u['client-certificate-data'],
    `users[${user.name}].client-certificate`,
  );
  let key: string | Buffer | undefined = await material(
    user.dir,
    u['client-key'],
    u['client-key-data'],
    `users[${user.name}].client-key`,
  );
  let authorization: (() => Promise<string | undefined>) | undefined;
  if (u.exec || u['auth-provider']) {
    const plugin = await fromPlugin(paths, current);
    authorization = plugin.authorization;
    cert ??= plugin.cert;
    key ??= plugin.key;
  } else if (u.token) {
    const header = `Bearer ${u.token}`;
    authorization = async () => header;
  } else if (u.tokenFile) {
    authorization = tokenFromFile(resolve(user.dir, u.tokenFile));
  } else if (u.username) {
    const header = `Basic ${Buffer.from(`${u.username}:${u.password ?? ''}`).toString('base64')}`;
    authorization = async () => header;
  }
  const servername = c['tls-server-name'];
  return {
    server: c.server.replace(/\/+$/, ''),
    tls: {
      ...(ca ? { ca } : {}),
      ...(cert ? { cert } : {}),
      ...(key ? { key } : {}),
      ...(servername ? { servername } : {}),
      ...(c['insecure-skip-tls-verify'] ? { rejectUnauthorized: false } : {}),
    },
    ...(authorization ? { authorization } : {}),
    namespace: context.value.namespace || 'default',
    source: `context ${current} of ${source}`,
  };
}

async function parseFile(path: string): Promise<z.infer<typeof fileSchema>> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (thrown) {
    throw new AppError('usage', `cannot read the kubeconfig ${path}: ${messageOf(thrown)}`);
  }
  let document: unknown;
  try {
    document = parseYaml(text);
  } catch (thrown) {
    throw new AppError('usage', `kubeconfig ${path} is not YAML: ${messageOf(thrown)}`);
  }
  const result = fileSchema.safeParse(document);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw new AppError('usage', `kubeconfig ${path}: ${issue?.path.join('.') || 'document'}: ${issue?.message}`);
}

interface PluginCredentials {
  readonly authorization: () => Promise<string | undefined>;
  readonly cert?: string | Buffer;
  readonly key?: string | Buffer;
}

/**
 * Exec plugins and auth providers (OIDC and the clouds') are client-node's business. Its module costs half a second and
 * 90 MB, so only kubeconfigs that need a plugin load it.
 */
async function fromPlugin(paths: readonly string[], context: string): Promise<PluginCredentials> {
  const { KubeConfig } = await import('@kubernetes/client-node');
  const [first, ...more] = paths.map((path) => {
    const config = new KubeConfig();
    config.loadFromFile(path);
    return config;
  });
  if (!first) throw new AppError('usage', 'no kubeconfig file was given');
  for (const config of more) first.mergeConfig(config, true);
  first.setCurrentContext(context);
  const ask = async (): Promise<{ header: string | undefined; cert?: string | Buffer; key?: string | Buffer }> => {
    const options: { headers?: Record<string, unknown>; cert?: unknown; key?: unknown } = {};
    try {
      await first.applyToHTTPSOptions(options as Parameters<typeof first.applyToHTTPSOptions>[0]);
    } catch (thrown) {
      throw new AppError(
        'unauthorized',
        `the credential plugin of context ${context} failed: ${messageOf(thrown).trim()}`,
      );
    }
    const isMaterial = (value: unknown): value is string | Buffer =>
      typeof value === 'string' || Buffer.isBuffer(value);
    const header = options.headers?.Authorization;
    return {
      header: typeof header === 'string' ? header : undefined,
      ...(isMaterial(options.cert) ? { cert: options.cert } : {}),
      ...(isMaterial(options.key) ? { key: options.key } : {}),
    };
  };
  const initial = await ask();
  return {
    // The library keeps the credential until it expires; asking each time is cheap.
    authorization: async () => (await ask()).header,
    ...(initial.cert ? { cert: initial.cert } : {}),
    ...(initial.key ? { key: initial.key } : {}),
  };
}
