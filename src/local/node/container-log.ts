import { open, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/** The log of a container: standard output and error of all its runs. `.1` beside it is the older part. */
export function containerLogPath(stateDir: string, namespace: string, pod: string, container: string): string {
  return join(stateDir, 'logs', `${namespace}_${pod}_${container}.log`);
}

/** The last bytes of a file as text; empty when there is no such file. */
export async function readTail(path: string, bytes: number): Promise<string> {
  const file = await open(path, 'r').catch(() => undefined);
  if (!file) return '';
  try {
    const { size } = await file.stat();
    const length = Math.min(bytes, size);
    const { buffer } = await file.read(Buffer.alloc(length), 0, length, size - length);
    return buffer.toString('utf8');
  } finally {
    await file.close();
  }
}

/** Moves a log that has grown beyond `maxBytes` aside (its end, to `.1`) and empties it. */
export async function boundLog(path: string, maxBytes: number): Promise<void> {
  const size = (await stat(path).catch(() => undefined))?.size ?? 0;
  if (size <= maxBytes) return;
  await writeFile(`${path}.1`, await readTail(path, maxBytes));
  // The process holds the file open for appending, so it is emptied in place.
  const file = await open(path, 'r+');
  await file.truncate(0).finally(() => file.close());
}
