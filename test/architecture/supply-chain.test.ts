import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from '@jest/globals';

/** What is shipped, and what it is made of. */

const root = join(import.meta.dirname, '..', '..');
const text = (path: string) => readFileSync(join(root, path), 'utf8');

interface Locked {
  readonly version?: string;
  readonly license?: string;
  readonly dev?: boolean;
  readonly optional?: boolean;
  readonly integrity?: string;
  readonly dependencies?: Readonly<Record<string, string>>;
}
interface PackageFile {
  readonly dependencies: Readonly<Record<string, string>>;
  readonly devDependencies: Readonly<Record<string, string>>;
}
const packages = (JSON.parse(text('package-lock.json')) as { readonly packages: Readonly<Record<string, Locked>> })
  .packages;
const dependencies = Object.entries(packages).filter(([path]) => path !== '');

/** Licences under which what we ship may be handed on with ours. */
const accepted = new Set([
  'MIT',
  'Apache-2.0',
  'ISC',
  'BSD-2-Clause',
  'BSD-3-Clause',
  '0BSD',
  'BlueOak-1.0.0',
  'Unlicense',
  'Python-2.0',
  'PSF-2.0',
  'Zlib',
  'CC0-1.0',
]);
/** Used as it is, in files of its own: the source of the library is not changed. */
const asLibrary: Readonly<Record<string, string>> = { zeromq: 'MIT AND MPL-2.0' };

function isAccepted(licence: string): boolean {
  const plain = licence.replace(/^\(|\)$/g, '');
  if (plain.includes(' OR ')) return plain.split(' OR ').some(isAccepted);
  return plain.split(' AND ').every((one) => accepted.has(one));
}

describe('dependencies', () => {
  it('are pinned to one version', () => {
    const { dependencies: own, devDependencies } = JSON.parse(text('package.json')) as PackageFile;
    const loose = Object.entries({ ...own, ...devDependencies }).filter(
      ([, version]) => !/^\d+\.\d+\.\d+$/.test(version),
    );
    expect(loose).toEqual([]);
  });

  it('have a digest in the lock file; optional ones for other platforms may lack it', () => {
    expect(dependencies.filter(([, { integrity, optional }]) => !integrity && !optional).map(([path]) => path)).toEqual(
      [],
    );
  });

  it('that are shipped have licences that allow it', () => {
    const refused = dependencies
      .filter(([, { dev }]) => !dev)
      .map(([path, { license = 'unknown' }]) => [path.slice(path.lastIndexOf('node_modules/') + 13), license] as const)
      .filter(([name, licence]) => asLibrary[name] !== licence && !isAccepted(licence));
    expect(refused).toEqual([]);
  });
});

describe('the bundles', () => {
  const digests = (folder: string): Readonly<Record<string, string>> =>
    Object.fromEntries(
      readdirSync(folder, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map((entry) => join(entry.parentPath, entry.name))
        .sort()
        .map((path) => [path.slice(folder.length), createHash('sha256').update(readFileSync(path)).digest('hex')]),
    );

  it('are the same, byte for byte, each time', () => {
    const folder = mkdtempSync(join(root, '.reproducible-'));
    try {
      const [first, second] = ['a', 'b'].map((name) => {
        const out = join(folder, name);
        execFileSync(process.execPath, ['build.js', out, 'sidecar', 'epp'], { cwd: root, stdio: 'pipe' });
        return digests(out);
      });
      expect(Object.keys(first ?? {})).toEqual(
        expect.arrayContaining(['/sidecar.mjs', '/epp.mjs', '/module-host.mjs']),
      );
      expect(second).toEqual(first);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }, 120_000);

  it('are refused by a name that is none', () => {
    const build = () =>
      execFileSync(process.execPath, ['build.js', '/nowhere', 'router'], { cwd: root, stdio: 'pipe' });
    expect(build).toThrow(/router: no such binary; there are operator, epp, sidecar, sim, signalbox/);
  });
});

describe('the images', () => {
  const dockerfile = text('Dockerfile');
  it.each(['operator', 'epp', 'sidecar', 'sim', 'cli'])(
    'include %s: nothing but Node and its bundle, without root',
    (target) => {
      const stage = new RegExp(`FROM base AS ${target}\\n([\\s\\S]*?)(?=\\nFROM |$)`).exec(dockerfile)?.[1] ?? '';
      const [, bundle] =
        /ENTRYPOINT \["\/bin\/node", (?:"--[a-z-]+(?:=\d+)?", )+"\/app\/(\w+)\.mjs"\]/.exec(stage) ?? [];
      expect(existsSync(join(root, `src/cmd/${bundle}.ts`))).toBe(true);
      expect(stage).toContain(`COPY --from=build /out/${bundle} /app`);
      expect(dockerfile).toMatch(/FROM scratch AS base\n[\s\S]*?USER 65532:65532/);
    },
  );

  it('hold every library that Node is linked with', () => {
    const folder = mkdtempSync(join(root, '.rootfs-'));
    try {
      execFileSync('sh', ['image/rootfs.sh', process.execPath, folder], { cwd: root, stdio: 'pipe' });
      const needed = execFileSync('ldd', [process.execPath], { encoding: 'utf8' }).match(/\/\S+/g) ?? [];
      expect(needed.filter((path) => path.includes('.so'))).not.toHaveLength(0);
      for (const path of [...needed.filter((one) => one.includes('.so')), '/bin/node', '/etc/passwd'])
        expect([path, existsSync(join(folder, path))]).toEqual([path, true]);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});
