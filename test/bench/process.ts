import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';

/** Processes of a benchmark and what the kernel says of them. */

export const root = join(import.meta.dirname, '..', '..');

/** Microseconds of CPU, user and system, that a process has used; 0 when it is gone. */
export function cpuUs(pid: number): number {
  try {
    // The name in parentheses may hold blanks; utime and stime are fields 14 and 15, in hundredths of a second.
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ');
    return (Number(fields[11]) + Number(fields[12])) * 10_000;
  } catch {
    return 0;
  }
}

/** Resident memory of a process in MiB. */
export function residentMib(pid: number): number {
  try {
    return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) / 1024;
  } catch {
    return 0;
  }
}

/** A Node program of this checkout, its three streams in our hands. */
export function startNode(file: string, args: readonly string[], flags: readonly string[] = []): ChildProcess {
  return spawn(process.execPath, [...flags, resolve(root, file), ...args], { stdio: ['pipe', 'pipe', 'pipe'] });
}

/** The first line that matches; the rest of the stream is read and dropped. */
export function firstLine(stream: NodeJS.ReadableStream | null, pattern: RegExp): Promise<string> {
  return new Promise((resolve, reject) => {
    if (!stream) return reject(new Error('the process has no output'));
    const last: string[] = [];
    const lines = createInterface({ input: stream });
    lines.on('line', (line) => {
      last.push(line);
      if (last.length > 5) last.shift();
      if (pattern.test(line)) resolve(line);
    });
    lines.once('close', () => reject(new Error(`the process ended before it was ready:\n${last.join('\n')}`)));
  });
}

/** SIGTERM, and SIGKILL after ten seconds; resolves when the process is gone. */
export async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), 10_000);
  await gone;
  clearTimeout(timer);
}

/** One line of a table of figures: what, how much, and in parentheses what to compare it with. */
export function figure(what: string, value: string, beside = ''): string {
  return `  ${what.padEnd(44)} ${value.padStart(12)}${beside === '' ? '' : `   (${beside})`}\n`;
}

/** Process ids below `pid`, itself included. */
export function descendantsOf(pid: number): readonly number[] {
  const children = new Map<number, number[]>();
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const fields = readFileSync(`/proc/${name}/stat`, 'utf8')
        .replace(/^.*\) /s, '')
        .split(' ');
      const parent = Number(fields[1]);
      children.set(parent, [...(children.get(parent) ?? []), Number(name)]);
    } catch {
      // Gone meanwhile.
    }
  }
  const below = (id: number): readonly number[] => [id, ...(children.get(id) ?? []).flatMap(below)];
  return below(pid);
}

/** The words with which a process was started; empty when it is gone. */
export function commandOf(pid: number): readonly string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').slice(0, -1);
  } catch {
    return [];
  }
}
