import { type FSWatcher, readFileSync, statSync, watch } from 'node:fs';
import type { Server } from 'node:https';
import { join } from 'node:path';
import { rootCertificates } from 'node:tls';
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

/** Certificates to trust on calls by TLS: the built-in ones and those of the folder (ca.crt or ca-certificates.crt). */
export function trustedCertificates(dir: string | undefined): string[] | undefined {
  if (dir === undefined) return undefined;
  for (const name of ['ca.crt', 'ca-certificates.crt']) {
    const path = join(dir, name);
    if (statSync(path, { throwIfNoEntry: false })?.isFile()) return [...rootCertificates, readFileSync(path, 'utf8')];
  }
  return undefined;
}

/** A Secret volume changes by several renames; one look after they are over is enough. */
const settleMs = 250;

/** Takes a renewed certificate into use without a restart; a bad one is logged and the old one stays. */
export function watchServingCertificate(dir: string, server: Server, log: Logger): { close(): void } {
  let timer: NodeJS.Timeout | undefined;
  let watcher: FSWatcher | undefined;
  try {
    watcher = watch(dir, () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        try {
          server.setSecureContext(readServingCertificate(dir));
          log.info({ dir }, 'serving certificate renewed');
        } catch (thrown) {
          log.error({ dir, err: thrown }, 'the renewed serving certificate cannot be used; the old one stays');
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
