import { access, copyFile, mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { request } from 'undici';
import { parseAllDocuments, stringify } from 'yaml';
import { AppError, messageOf } from '../../errors.ts';

/** The version of the Gateway API whose definitions are installed. */
export const gatewayApiVersion = 'v1.4.0';

const goModule = 'sigs.k8s.io/gateway-api';
const release = `https://github.com/kubernetes-sigs/gateway-api/releases/download/${gatewayApiVersion}/standard-install.yaml`;
const group = 'gateway.networking.k8s.io';
const plurals = ['gatewayclasses', 'gateways', 'httproutes', 'referencegrants', 'backendtlspolicies'] as const;

export interface GatewayApiCrdOptions {
  /** Lasting, outside the repository. */
  readonly cacheDir: string;
  /** Runs a command to its end and gives its output; throws when it fails. */
  readonly run: (command: string, args: readonly string[]) => Promise<string>;
  /** The text behind a URL. Replaced in tests. */
  readonly download?: (url: string) => Promise<string>;
  readonly onProgress?: (line: string) => void;
}

/**
 * Paths of the Gateway API's definitions (standard channel), one file each.
 *
 * Flow: the cache of an earlier run; the release download; the Go module `sigs.k8s.io/gateway-api`. What was found is cached.
 *
 * @throws AppError `usage` naming every way and why it failed
 */
export async function findGatewayApiCrds(options: GatewayApiCrdOptions): Promise<readonly string[]> {
  const folder = join(options.cacheDir, 'crds', `gateway-api-${gatewayApiVersion}`);
  const files = plurals.map((plural) => join(folder, fileName(plural)));
  if (await exist(files)) return files;
  await mkdir(join(options.cacheDir, 'crds'), { recursive: true });
  const failures: string[] = [];
  const ways: readonly (readonly [string, (temporary: string) => Promise<void>])[] = [
    ['release download', (temporary) => fromRelease(options.download ?? download, temporary)],
    ['go mod download', (temporary) => fromGoModule(options.run, temporary)],
  ];
  for (const [title, way] of ways) {
    options.onProgress?.(`Gateway API ${gatewayApiVersion} definitions: ${title} …`);
    const temporary = await mkdtemp(`${folder}.`);
    try {
      await way(temporary);
      // Another command may have put them there meanwhile; theirs are as good.
      await rename(temporary, folder).catch(async (thrown: unknown) => {
        if (await exist(files)) return;
        // An earlier version has left fewer; whole files take their place one by one.
        for (const file of files) await rename(join(temporary, basename(file)), file);
        if (!(await exist(files))) throw thrown;
      });
      return files;
    } catch (thrown) {
      failures.push(`${title}: ${messageOf(thrown)}`);
    } finally {
      await rm(temporary, { recursive: true, force: true });
    }
  }
  throw new AppError(
    'usage',
    `no definitions of the Gateway API ${gatewayApiVersion}: the cache ${folder} has none; ${failures.join('; ')}. ` +
      'Connect to a network, install Go, or put the files into the cache.',
  );
}

const fileName = (plural: string) => `${group}_${plural}.yaml`;

async function fromRelease(get: (url: string) => Promise<string>, folder: string): Promise<void> {
  const found = new Map<string, string>();
  for (const document of parseAllDocuments(await get(release))) {
    const object = document.toJS() as { readonly kind?: string; readonly metadata?: { readonly name?: string } } | null;
    if (object?.kind === 'CustomResourceDefinition' && object.metadata?.name)
      found.set(object.metadata.name, stringify(object, { lineWidth: 0 }));
  }
  for (const plural of plurals) {
    const text = found.get(`${plural}.${group}`);
    if (!text) throw new AppError('internal', `the release lacks ${plural}.${group}`);
    await writeFile(join(folder, fileName(plural)), text);
  }
}

async function fromGoModule(run: GatewayApiCrdOptions['run'], folder: string): Promise<void> {
  const answer = await run('go', ['mod', 'download', '-json', `${goModule}@${gatewayApiVersion}`]);
  const { Dir: source } = JSON.parse(answer) as { readonly Dir?: string };
  if (!source) throw new AppError('internal', `go mod download names no folder of ${goModule}`);
  for (const plural of plurals) {
    await copyFile(join(source, 'config', 'crd', 'standard', fileName(plural)), join(folder, fileName(plural)));
  }
}

async function exist(files: readonly string[]): Promise<boolean> {
  return Promise.all(files.map((file) => access(file))).then(
    () => true,
    () => false,
  );
}

const maxBytes = 8 * 1024 * 1024;

async function download(url: string, redirects = 5): Promise<string> {
  const answer = await request(url, {
    headersTimeout: 10_000,
    bodyTimeout: 30_000,
    signal: AbortSignal.timeout(60_000),
  });
  const location = answer.headers.location;
  if (answer.statusCode >= 300 && answer.statusCode < 400 && typeof location === 'string' && redirects > 0) {
    await answer.body.dump();
    return download(new URL(location, url).href, redirects - 1);
  }
  if (answer.statusCode !== 200) {
    await answer.body.dump();
    throw new AppError('unavailable', `${url} answered ${answer.statusCode}`);
  }
  let text = '';
  for await (const chunk of answer.body.setEncoding('utf8') as AsyncIterable<string>) {
    text += chunk;
    if (text.length > maxBytes) throw new AppError('tooLarge', `${url} is larger than ${maxBytes} bytes`);
  }
  return text;
}
