import { type FSWatcher, readFileSync, statSync, watch } from 'node:fs';
import type { Server } from 'node:https';
import { join } from 'node:path';
import { AppError, messageOf } from '../errors.ts';
import type { Logger } from '../telemetry/log.ts';

export interface ServingCertificate {
  readonly cert: Buffer;
  readonly key: Buffer;
}

/**
 * Reads tls.crt and tls.key of a folder.
 *
 * @throws AppError `usage` naming the file that cannot be read
 */
export function readServingCertificate(dir: string): ServingCertificate {
  const read = (name: string) => {
    try {
      return readFileSync(join(dir, name));
    } catch (thrown) {
      throw new AppError('usage', `--cert-path: cannot read ${join(dir, name)}: ${messageOf(thrown)}`, {
        cause: thrown,
      });
    }
  };
  return { cert: read('tls.crt'), key: read('tls.key') };
}

/** The authorities that calls by TLS trust, as they are at the moment. */
export interface Trust {
  /** Undefined: node's own. The same array until it changes. */
  authorities(): string[] | undefined;
  /** Reads the folder again. */
  reload(): void;
}

/**
 * The built-in authorities and those of the folder (ca.crt or ca-certificates.crt).
 *
 * @param isNeeded false reads nothing: no leg speaks TLS
 */
export async function createTrust(dir: string | undefined, isNeeded: boolean): Promise<Trust> {
  let current: string[] | undefined;
  if (dir === undefined || !isNeeded) return { authorities: () => undefined, reload: () => {} };
  const { rootCertificates } = await import('node:tls');
  let text: string | undefined;
  const reload = () => {
    const path = ['ca.crt', 'ca-certificates.crt']
      .map((name) => join(dir, name))
      .find((candidate) => statSync(candidate, { throwIfNoEntry: false })?.isFile());
    const now = path === undefined ? undefined : readFileSync(path, 'utf8');
    if (now === text) return;
    text = now;
    current = now === undefined ? undefined : [...rootCertificates, now];
  };
  reload();
  return { authorities: () => current, reload };
}

/** A Secret volume changes by several renames; one look after they are over is enough. */
const settleMs = 250;

/**
 * Takes renewed certificates and authorities into use without a restart; a bad one is logged and the old one stays. What is open goes
 * on; new connections use the new ones.
 */
export function watchCertificates(
  dir: string,
  use: { readonly server: Pick<Server, 'setSecureContext'> | undefined; readonly trust: Trust },
  log: Logger,
): { close(): void } {
  let timer: NodeJS.Timeout | undefined;
  let watcher: FSWatcher | undefined;
  try {
    watcher = watch(dir, () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        try {
          use.server?.setSecureContext(readServingCertificate(dir));
          use.trust.reload();
          log.info({ dir }, 'certificates renewed');
        } catch (thrown) {
          log.error({ dir, err: thrown }, 'the renewed certificates cannot be used; the old ones stay');
        }
      }, settleMs);
    });
    watcher.on('error', (err) => log.error({ dir, err }, 'the certificate folder cannot be watched any more'));
  } catch (thrown) {
    log.error({ dir, err: thrown }, 'the certificate folder cannot be watched');
  }
  return {
    close() {
      clearTimeout(timer);
      watcher?.close();
    },
  };
}
