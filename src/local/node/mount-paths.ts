import { join, posix } from 'node:path';

/** One place of the container's file system and the directory or file that stands for it on this machine. */
export interface MountPath {
  readonly mountPath: string;
  readonly realPath: string;
}

/**
 * Returns a function that replaces mount paths by real ones, only where a whole path begins and a path element ends:
 * with `/mnt/models` mounted, `--model=/mnt/models/a` changes, while `/mnt/models2` and `/srv/mnt/models` stay.
 */
export function createPathReplacer(mounts: readonly MountPath[]): (text: string) => string {
  const real = new Map<string, string>();
  for (const mount of mounts) {
    const from = posix.normalize(mount.mountPath).replace(/\/+$/, '');
    if (from !== '') real.set(from, mount.realPath);
  }
  if (real.size === 0) return (text) => text;
  // The longest first, so that a mount inside another mount wins; one pass, so that what was put in is not read again.
  const alternatives = [...real.keys()].sort((a, b) => b.length - a.length).map(escapeRegExp);
  // A path begins where no path character stands before it, or after the `//` of a URL without a host.
  const pattern = new RegExp(`(?:(?<![\\w./~-])|(?<=://))(?:${alternatives.join('|')})(?![\\w-]|\\.\\w)`, 'g');
  return (text) => text.replace(pattern, (found) => real.get(found) ?? found);
}

/** The real path of a mount: the volume's directory, or what `subPath` names inside of it, never above it. */
export function resolveSubPath(volumeDir: string, subPath: string | undefined): string | undefined {
  if (subPath === undefined || subPath === '') return volumeDir;
  if (posix.isAbsolute(subPath) || posix.normalize(subPath).startsWith('..')) return undefined;
  return join(volumeDir, subPath);
}

function escapeRegExp(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}
