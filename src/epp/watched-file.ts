import { watch } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { messageOf } from '../errors.ts';
import type { Logger } from '../telemetry/log.ts';

/** Writers truncate, write and rename: looked at when they have come to rest. */
const restMs = 200;

/**
 * Calls back with a file's text whenever it is another than before, one call at a time. The folder is watched, because a
 * mounted ConfigMap and most editors replace the file instead of writing to it.
 *
 * @param text what it held when it was read first
 */
export function startWatchedFile(options: {
  readonly path: string;
  readonly text: string;
  readonly onText: (text: string) => Promise<void>;
  readonly log: Logger;
}): { close(): void } {
  const { path, log } = options;
  let known = options.text;
  let timer: NodeJS.Timeout | undefined;
  let turn = Promise.resolve();
  let isClosed = false;
  const look = async (): Promise<void> => {
    if (isClosed) return;
    try {
      const text = await readFile(path, 'utf8');
      if (text === known) return;
      known = text;
      await options.onText(text);
    } catch (thrown) {
      log.error({ path, error: messageOf(thrown) }, 'a file that changed was not taken over');
    }
  };
  const watcher = watch(dirname(path), () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      turn = turn.then(look);
    }, restMs);
  });
  watcher.on('error', (error) => log.error({ path, error: messageOf(error) }, 'a file is no longer watched'));
  return {
    close: () => {
      isClosed = true;
      clearTimeout(timer);
      watcher.close();
    },
  };
}
