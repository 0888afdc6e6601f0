import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from '@jest/globals';
import { parse } from 'yaml';
import { generators } from '../../src/generate/generators.ts';
import { installManifests } from '../../src/generate/install-manifest.ts';

const root = join(import.meta.dirname, '..', '..');

describe('generated files', () => {
  // The install manifests need Helm: a test of the cluster holds them.
  // The install manifests need Helm: `make verify` and a test of the cluster hold them.
  const cheap = new Map(generators.filter((each) => each !== installManifests).map((each) => [each.name, each]));

  it.each([...cheap.keys()])('of %s are as their source says (make generate writes them)', async (name) => {
    const files = (await cheap.get(name)?.generate()) ?? new Map<string, string>();
    expect(files.size).toBeGreaterThan(0);
    for (const [path, content] of files)
      expect([path, readFileSync(join(root, path), 'utf8')]).toEqual([path, content]);
  });

  it.each(['crds', 'src/local/crds'])('are all that lies in %s, each within 256 KiB', async (folder) => {
    const known = [...((await cheap.get('crds')?.generate()) ?? new Map<string, string>()).keys()];
    const files = readdirSync(join(root, folder)).filter((name) => name.endsWith('.yaml'));
    expect(files.length).toBe(2);
    for (const file of files) {
      expect(known).toContain(`${folder}/${file}`);
      const text = readFileSync(join(root, folder, file), 'utf8');
      expect(text.length).toBeLessThan(256 * 1024);
      // What kubectl apply keeps in an annotation.
      expect(JSON.stringify(parse(text)).length).toBeLessThan(256 * 1024);
    }
  });
});
