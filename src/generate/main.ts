import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { messageOf } from '../errors.ts';
import { chartWebhooks } from './chart.ts';
import { configReference } from './config-reference.ts';
import { crds } from './crds.ts';
import type { Generator } from './generator.ts';
import { helmSchema } from './helm-schema.ts';
import { installManifests } from './install-manifest.ts';

/** Every generator, in order: the install manifests are rendered from a chart that is complete. */
const generators: readonly Generator[] = [crds, configReference, chartWebhooks, helmSchema, installManifests];

const root = join(import.meta.dirname, '..', '..');

const options = process.argv.slice(2);
const unknown = options.filter((option) => option !== '--check');
if (unknown.length > 0) {
  process.stderr.write(`generate: unknown option ${unknown.join(', ')}; only --check is known\n`);
  process.exit(2);
}
const isCheck = options.includes('--check');

const different: string[] = [];
for (const generator of generators) {
  const files = await generator.generate().catch((thrown: unknown) => {
    process.stderr.write(`generate: ${generator.name}: ${messageOf(thrown)}\n`);
    process.exit(1);
  });
  for (const [path, content] of files) {
    const file = join(root, path);
    const current = await readFile(file, 'utf8').catch(() => undefined);
    if (current === content) continue;
    different.push(path);
    if (isCheck) continue;
    await mkdir(dirname(file), { recursive: true });
    await writeFile(file, content);
    process.stdout.write(`wrote ${path}\n`);
  }
}
if (isCheck && different.length > 0) {
  for (const path of different) process.stderr.write(`${path} differs from its source: run make generate\n`);
  process.exit(1);
}
