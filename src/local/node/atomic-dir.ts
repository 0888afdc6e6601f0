import { randomBytes } from 'node:crypto';
import { chmod, mkdir, readdir, readFile, readlink, rename, rm, symlink, unlink, writeFile } from 'node:fs/promises';
import { dirname, join, posix } from 'node:path';

export interface PayloadFile {
  readonly content: string | Buffer;
  readonly mode: number;
}

/** Relative paths and what lies there. */
export type Payload = ReadonlyMap<string, PayloadFile>;

/**
 * Makes a folder hold exactly these files, all changed at once: the data lies in a folder of its own to which `..data`
 * points, as the kubelet lays it out, so that readers and watchers of `..data` see either the old or the new set.
 * Answers whether anything changed.
 */
export async function writeAtomicDir(dir: string, payload: Payload): Promise<boolean> {
  await mkdir(dir, { recursive: true, mode: 0o755 });
  const link = join(dir, '..data');
  const before = await readlink(link).catch(() => undefined);
  if (before !== undefined && (await holds(join(dir, before), payload))) return false;
  const fresh = `..${randomBytes(6).toString('hex')}`;
  for (const [path, file] of payload) {
    const target = join(dir, fresh, path);
    await mkdir(dirname(target), { recursive: true });
    await writeFile(target, file.content, { mode: file.mode });
    // The process's umask must not decide who may read.
    await chmod(target, file.mode);
  }
  await mkdir(join(dir, fresh), { recursive: true });
  const temporary = join(dir, '..data_tmp');
  await rm(temporary, { force: true });
  await symlink(fresh, temporary);
  await rename(temporary, link);
  await linkTopLevel(dir, payload);
  if (before !== undefined) await rm(join(dir, before), { recursive: true, force: true });
  return true;
}

async function linkTopLevel(dir: string, payload: Payload): Promise<void> {
  const wanted = new Set([...payload.keys()].map((path) => path.split(posix.sep)[0] ?? path));
  for (const entry of await readdir(dir)) {
    if (!entry.startsWith('..') && !wanted.delete(entry)) await unlink(join(dir, entry)).catch(() => {});
  }
  for (const name of wanted) await symlink(join('..data', name), join(dir, name));
}

async function holds(dir: string, payload: Payload): Promise<boolean> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true }).catch(() => []);
  if (entries.filter((entry) => entry.isFile()).length !== payload.size) return false;
  for (const [path, file] of payload) {
    const content = await readFile(join(dir, path)).catch(() => undefined);
    if (content === undefined || !content.equals(Buffer.from(file.content))) return false;
  }
  return true;
}
