import { spawn } from 'node:child_process';
import { closeSync, openSync, readdirSync, readFileSync } from 'node:fs';
import type { Clock } from '../../clock.ts';
import type { Reaper } from './reaper.ts';

export interface ProcessOptions {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
  /** Standard output and error are appended to this file; undefined: thrown away. */
  readonly logPath?: string;
  readonly reaper: Reaper;
}

/** A process with a session and process group of its own. */
export interface ContainerProcess {
  readonly pid: number;
  /** Resolves when the process has ended and the rest of its group has been killed; 128 + n for signal n. */
  readonly exited: Promise<{ readonly exitCode: number }>;
  /** SIGTERM to the group, SIGKILL after `graceMs`. Called again, the new grace replaces the old one. */
  stop(graceMs: number, clock: Clock): void;
  kill(): void;
}

const signalNumbers: Readonly<Record<string, number>> = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGQUIT: 3,
  SIGILL: 4,
  SIGTRAP: 5,
  SIGABRT: 6,
  SIGBUS: 7,
  SIGFPE: 8,
  SIGKILL: 9,
  SIGSEGV: 11,
  SIGPIPE: 13,
  SIGALRM: 14,
  SIGTERM: 15,
};

/** Starts a process. Rejects when the command cannot be run. */
export async function startProcess(options: ProcessOptions): Promise<ContainerProcess> {
  const { argv, env, cwd, logPath, reaper } = options;
  const [command = '', ...args] = argv;
  const log = logPath === undefined ? undefined : openSync(logPath, 'a', 0o644);
  const child = (() => {
    try {
      return spawn(command, args, {
        cwd,
        env: { ...env },
        detached: true,
        stdio: ['ignore', log ?? 'ignore', log ?? 'ignore'],
      });
    } finally {
      if (log !== undefined) closeSync(log);
    }
  })();
  const pid = child.pid;
  if (pid === undefined) {
    const error = await new Promise<Error>((resolve) => child.once('error', resolve));
    throw error;
  }
  reaper.add(pid);
  child.on('error', () => {});
  const killGroup = (): void => {
    killed = true;
    signalTo(-pid, 'SIGKILL');
  };
  let ended = false;
  let killed = false;
  let stopping: AbortController | undefined;
  const exited = new Promise<{ readonly exitCode: number }>((resolve) => {
    child.once('exit', (code, signal) => {
      const end = (): void => {
        ended = true;
        stopping?.abort(new Error('ended'));
        killGroup();
        reaper.remove(pid);
        resolve({ exitCode: code ?? 128 + (signalNumbers[signal ?? ''] ?? 0) });
      };
      // What a crashed process leaves behind goes with it, as with a container's PID namespace. After a polite stop
      // the others of the group were told, too (a shell does not pass signals on), and have the rest of the grace.
      if (stopping === undefined) end();
      else awaitGroup(pid, () => killed, end);
    });
  });
  return {
    pid,
    exited,
    kill: () => {
      if (!ended) killGroup();
    },
    stop: (graceMs, clock) => {
      if (ended) return;
      if (stopping === undefined && graceMs > 0) signalTo(-pid, 'SIGTERM');
      stopping?.abort(new Error('replaced'));
      stopping = new AbortController();
      if (graceMs <= 0) {
        killGroup();
        return;
      }
      clock.sleep(graceMs, stopping.signal).then(
        () => {
          if (!ended) killGroup();
        },
        () => {},
      );
    },
  };
}

/** Calls `end` when no process of the group is left, or when it has been killed at the end of its grace. */
function awaitGroup(group: number, isKilled: () => boolean, end: () => void, delayMs = 25): void {
  if (isKilled() || !isGroupAlive(group)) {
    end();
    return;
  }
  setTimeout(() => awaitGroup(group, isKilled, end, Math.min(delayMs * 2, 200)), delayMs);
}

/** Zombies do not count: where the machine's first process does not wait for orphans, they stay for ever. */
function isGroupAlive(group: number): boolean {
  try {
    process.kill(-group, 0);
  } catch {
    return false;
  }
  if (process.platform !== 'linux') return true;
  return readdirSync('/proc').some((entry) => {
    if (!/^\d+$/.test(entry)) return false;
    try {
      // pid (command) state parent group …; the command may hold spaces and brackets.
      const text = readFileSync(`/proc/${entry}/stat`, 'utf8');
      const [state, , processGroup] = text.slice(text.lastIndexOf(')') + 2).split(' ');
      return Number(processGroup) === group && state !== 'Z' && state !== 'X';
    } catch {
      return false;
    }
  });
}

function signalTo(target: number, signal: 'SIGTERM' | 'SIGKILL'): void {
  try {
    process.kill(target, signal);
  } catch {
    // Gone already.
  }
}
