import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/** What a running cluster tells other commands, in `<state>/<name>/cluster.json`. */
export interface ClusterRecord {
  readonly name: string;
  readonly pid: number;
  readonly phase: 'starting' | 'ready';
  readonly stateDir: string;
  readonly logsDir: string;
  readonly startedAt: string;
  readonly kubeconfig?: string;
  readonly server?: string;
}

const file = (stateDir: string) => join(stateDir, 'cluster.json');

export async function writeRecord(record: ClusterRecord): Promise<void> {
  await mkdir(record.stateDir, { recursive: true });
  const path = file(record.stateDir);
  await writeFile(`${path}.new`, `${JSON.stringify(record, null, 2)}\n`, { mode: 0o600 });
  await rename(`${path}.new`, path);
}

/** The cluster of that name if its process lives; what a killed one left behind is removed. */
export async function readRecord(stateRoot: string, name: string): Promise<ClusterRecord | undefined> {
  const stateDir = join(stateRoot, name);
  const text = await readFile(file(stateDir), 'utf8').catch(() => undefined);
  if (text === undefined) return undefined;
  const record = JSON.parse(text) as ClusterRecord;
  if (isAlive(record.pid)) return record;
  await rm(stateDir, { recursive: true, force: true });
  return undefined;
}

export async function listRecords(stateRoot: string): Promise<readonly ClusterRecord[]> {
  const names = await readdir(stateRoot).catch(() => []);
  const records = await Promise.all(names.map((name) => readRecord(stateRoot, name)));
  return records.filter((record) => record !== undefined);
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (thrown) {
    return (thrown as NodeJS.ErrnoException).code === 'EPERM';
  }
}
