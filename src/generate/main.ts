import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { messageOf } from '../errors.ts';
import { generators } from './generators.ts';

/** `make generate` and, with --check, `make verify`. */

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
