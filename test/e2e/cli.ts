import { execFile, spawn } from 'node:child_process';
import { readdir, readFile, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { root } from '../cluster/control-plane.ts';

export interface Finished {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs one of the checkout's binaries to its end, as a user would. */
export function runBinary(
  name: string,
  args: readonly string[],
  options: { readonly timeoutMs?: number; readonly env?: Readonly<Record<string, string>> } = {},
): Promise<Finished> {
  return new Promise((resolve) => {
    const child = spawn(join(root, 'bin', name), [...args], {
      env: { ...process.env, NODE_OPTIONS: '', ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', (chunk: Buffer) => {
      stdout += chunk.toString('utf8');
    });
    child.stderr.on('data', (chunk: Buffer) => {
      stderr += chunk.toString('utf8');
    });
    const timer = setTimeout(() => child.kill('SIGTERM'), options.timeoutMs ?? 60_000);
    child.once('close', (code) => {
      clearTimeout(timer);
      resolve({ code, stdout, stderr });
    });
  });
}

/** Command lines of processes that mention `text`, this one aside. */
export function processesWith(text: string): Promise<readonly string[]> {
  return new Promise((resolve) => {
    execFile('ps', ['-eo', 'pid=,args='], { maxBuffer: 16 * 1024 * 1024 }, (_error, stdout) => {
      resolve(stdout.split('\n').filter((line) => line.includes(text) && !line.includes('ps -eo')));
    });
  });
}

/** Processes that name `path` in their arguments, environment or working directory. */
export async function processesOf(
  path: string,
): Promise<readonly { readonly pid: number; readonly command: string }[]> {
  const pids = (await readdir('/proc')).filter((entry) => /^\d+$/.test(entry));
  const found = await Promise.all(
    pids.map(async (pid) => {
      const read = (file: string) => readFile(`/proc/${pid}/${file}`, 'utf8').catch(() => '');
      const cwd = await readlink(`/proc/${pid}/cwd`).catch(() => '');
      const command = (await read('cmdline')).replaceAll('\0', ' ').trim();
      const isOf = [command, await read('environ'), cwd].some((text) => text.includes(path));
      return isOf ? { pid: Number(pid), command } : undefined;
    }),
  );
  return found.filter((process) => process !== undefined);
}
