import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { AppError } from '../errors.ts';

export interface LaunchOptions {
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  /** Standard output and error go to this file. */
  readonly logFile: string;
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
}

/** A long-running process of the embedded cluster. */
export interface Launched {
  readonly name: string;
  readonly pid: number;
  /** Resolves when the process has ended without being told to: what happened, with its last log lines. */
  readonly failed: Promise<AppError>;
  /** SIGTERM, then SIGKILL after `graceMs`. Resolves when the process is gone. */
  stop(graceMs?: number): Promise<void>;
}

let setpriv: boolean | undefined;

/**
 * The words that make the kernel kill a child when we are killed without warning: nothing of the cluster
 * outlives its command. Where setpriv is missing, a shell watches our end of a pipe instead.
 */
export function withParentDeath(command: string, args: readonly string[]): readonly [string, readonly string[]] {
  setpriv ??= spawnSync('setpriv', ['--pdeathsig', 'KILL', 'true'], { stdio: 'ignore' }).status === 0;
  if (setpriv) return ['setpriv', ['--pdeathsig', 'KILL', '--', command, ...args]];
  const watch =
    '"$@" & child=$!; trap "kill -TERM $child" TERM INT; (cat >/dev/null; kill -KILL $child) <&0 & wait $child';
  return ['sh', ['-c', watch, 'watch', command, ...args]];
}

/** Starts a process whose output goes to a file and which dies with us. */
export function launch(options: LaunchOptions): Launched {
  const log = openSync(options.logFile, 'a');
  const [command, args] = withParentDeath(options.command, options.args);
  let child: ChildProcess;
  try {
    child = spawn(command, args, {
      cwd: options.cwd,
      env: { PATH: process.env.PATH ?? '', HOME: process.env.HOME ?? '/', ...options.env },
      stdio: ['pipe', log, log],
      // A group of its own: Ctrl-C in our terminal is for us, and we stop what depends on what in order.
      detached: true,
    });
  } finally {
    closeSync(log);
  }
  child.stdin?.on('error', () => {});
  let stopping = false;
  const exited = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('exit', (code, signal) => resolve(signal ? `killed by ${signal}` : `exit code ${code}`));
  });
  const failed = new Promise<AppError>((resolve) => {
    void exited.then(async (how) => {
      if (stopping) return;
      resolve(
        new AppError(
          'internal',
          `${options.name} ended (${how}). Its last lines:\n${await lastLines(options.logFile)}`,
        ),
      );
    });
  });
  return {
    name: options.name,
    pid: child.pid ?? 0,
    failed,
    stop: async (graceMs = 5000) => {
      stopping = true;
      if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
      signalGroup(child.pid, 'SIGTERM');
      const kill = setTimeout(() => signalGroup(child.pid, 'SIGKILL'), graceMs);
      await exited;
      clearTimeout(kill);
    },
  };
}

function signalGroup(leader: number | undefined, signal: 'SIGTERM' | 'SIGKILL'): void {
  if (leader === undefined) return;
  try {
    process.kill(-leader, signal);
  } catch {
    // Gone already.
  }
}

/** The end of a log file, for an error message. */
export async function lastLines(file: string, count = 15): Promise<string> {
  const text = await readFile(file, 'utf8').catch(() => '');
  const lines = text.trimEnd().split('\n');
  return lines.slice(-count).join('\n');
}
