import { spawn } from 'node:child_process';

/** Kills the process groups it was told of when this process ends without having done so itself, even by SIGKILL. */
export interface Reaper {
  add(group: number): void;
  remove(group: number): void;
  close(): Promise<void>;
}

// One shell for all containers: it reads our end of a pipe, and the end of that pipe is the end of us.
const script = `
trap '' HUP INT TERM
groups=' '
while read -r op group; do
  case $op in
    add) groups="$groups$group " ;;
    remove) case $groups in *" $group "*) groups="\${groups%% $group *} \${groups#* $group }" ;; esac ;;
  esac
done
for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
exit 0
`;

/** Starts the reaper: one small shell in a session of its own, so that a signal to our terminal does not reach it. */
export function startReaper(): Reaper {
  const child = spawn('/bin/sh', ['-c', script], { stdio: ['pipe', 'ignore', 'ignore'], detached: true, cwd: '/' });
  const gone = new Promise<void>((resolve) => {
    child.once('exit', () => resolve());
    child.once('error', () => resolve());
  });
  child.stdin.on('error', () => {});
  child.unref();
  return {
    add: (group) => void child.stdin.write(`add ${group}\n`),
    remove: (group) => void child.stdin.write(`remove ${group}\n`),
    close: async () => {
      child.ref();
      child.stdin.end();
      await gone;
    },
  };
}
