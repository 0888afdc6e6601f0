import { readFileSync } from 'node:fs';
import { link, mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/** What a running cluster tells other commands, in `<state>/<name>/cluster.json`. */
export interface ClusterRecord {
  readonly name: string;
  readonly pid: number;
  /** When the process began, in the kernel's ticks: another process may get its number later. */
  readonly pidStart?: string;
  readonly phase: 'starting' | 'ready';
  readonly stateDir: string;
  readonly logsDir: string;
  readonly startedAt: string;
  readonly kubeconfig?: string;
  readonly server?: string;
}

const file = (stateDir: string) => join(stateDir, 'cluster.json');

/** Writes the first record of a cluster into an empty folder; false when another process has done so. */
export async function claimRecord(record: ClusterRecord): Promise<boolean> {
  await mkdir(record.stateDir, { recursive: true });
  const path = file(record.stateDir);
  const own = `${path}.${record.pid}`;
  await writeFile(own, `${JSON.stringify(record, null, 2)}\n`, { mode: 0o600 });
  const isFirst = await link(own, path).then(
    () => true,
    (thrown: NodeJS.ErrnoException) => {
      if (thrown.code === 'EEXIST') return false;
      throw thrown;
    },
  );
  await rm(own, { force: true });
  if (!isFirst) return false;
  const rest = (await readdir(record.stateDir)).filter((name) => name !== 'cluster.json');
  for (const name of rest) await rm(join(record.stateDir, name), { recursive: true, force: true });
  return true;
}

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
  const record = parseRecord(text);
  if (record && isRunning(record)) return record;
  await rm(stateDir, { recursive: true, force: true, maxRetries: 3 });
  return undefined;
}

/** The clusters that are up, by name. What killed ones left behind is removed. */
export async function listRecords(stateRoot: string): Promise<readonly ClusterRecord[]> {
  const names = await readdir(stateRoot).catch(() => []);
  const records = await Promise.all(names.sort().map((name) => readRecord(stateRoot, name)));
  return records.filter((record) => record !== undefined);
}

/** Whether the process that wrote the record still runs. */
export function isRunning(record: ClusterRecord): boolean {
  return isAlive(record.pid) && (record.pidStart === undefined || record.pidStart === startOf(record.pid));
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (thrown) {
    return (thrown as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** When a process began, in ticks since boot; undefined where there is no /proc. */
export function startOf(pid: number): string | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // pid (command) state …: the start is the 22nd field; the command may hold spaces and brackets.
    return text.slice(text.lastIndexOf(')') + 2).split(' ')[19];
  } catch {
    return undefined;
  }
}

function parseRecord(text: string): ClusterRecord | undefined {
  try {
    const record = JSON.parse(text) as ClusterRecord;
    return Number.isInteger(record.pid) && record.pid > 0 ? record : undefined;
  } catch {
    return undefined;
  }
}
