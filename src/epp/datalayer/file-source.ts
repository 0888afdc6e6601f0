import { type FSWatcher, watch } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { basename, dirname } from 'node:path';
import { parse as parseYaml } from 'yaml';
import { z } from 'zod';
import { AppError, messageOf } from '../../errors.ts';
import type { Logger } from '../../telemetry/log.ts';
import type { Datastore, EndpointSpec } from './datastore.ts';

const maxFileBytes = 1 << 20;

const fileSchema = z.strictObject({
  endpoints: z.array(
    z.strictObject({
      name: z.string().min(1),
      namespace: z.string().optional(),
      address: z.string().refine((text) => isIP(text) !== 0, 'must be an IP address, not a host name'),
      port: z
        .union([z.string().regex(/^\d+$/, 'must be a port number'), z.number().int()])
        .transform(Number)
        .pipe(z.number().min(1).max(65_535)),
      labels: z.record(z.string(), z.string()).default({}),
    }),
  ),
});

/** @throws AppError `invalid` naming every wrong field */
export function parseEndpointsFile(text: string, path: string, defaultNamespace: string): readonly EndpointSpec[] {
  let document: unknown;
  try {
    document = parseYaml(text);
  } catch (thrown) {
    throw new AppError('invalid', `${path} is not YAML: ${messageOf(thrown)}`, { cause: thrown });
  }
  const result = fileSchema.safeParse(document);
  if (!result.success) {
    const problems = result.error.issues.map((issue) => `${issue.path.join('.') || 'document'}: ${issue.message}`);
    throw new AppError('invalid', `${path}: ${problems.join('; ')}`);
  }
  const specs = result.data.endpoints.map((endpoint): EndpointSpec => {
    const namespace = endpoint.namespace ?? defaultNamespace;
    return {
      id: `${namespace}/${endpoint.name}`,
      name: endpoint.name,
      namespace,
      address: endpoint.address,
      port: endpoint.port,
      labels: endpoint.labels,
      isReady: true,
    };
  });
  const seen = new Set<string>();
  for (const { id } of specs) {
    if (seen.has(id)) throw new AppError('invalid', `${path}: endpoint ${id} is listed twice; give each its own name`);
    seen.add(id);
  }
  return specs;
}

/**
 * Endpoints from a file, read now and, when watched, at every change. A change that cannot be read is logged and the
 * endpoints before it stay.
 *
 * @throws AppError `invalid` or `notFound` when the first reading fails
 */
export async function startFileSource(options: {
  readonly path: string;
  readonly isWatched: boolean;
  readonly namespace: string;
  readonly datastore: Datastore;
  readonly log: Logger;
}): Promise<{ close(): void }> {
  const { path, datastore, log } = options;
  const load = async (): Promise<void> => {
    let text: string;
    try {
      text = await readFile(path, 'utf8');
    } catch (thrown) {
      throw new AppError('notFound', `cannot read the endpoints file ${path}: ${messageOf(thrown)}`, { cause: thrown });
    }
    if (text.length > maxFileBytes) throw new AppError('tooLarge', `${path} is larger than ${maxFileBytes} bytes`);
    datastore.replace(parseEndpointsFile(text, path, options.namespace));
  };
  await load();
  if (!options.isWatched) return { close: () => {} };

  let timer: NodeJS.Timeout | undefined;
  let watcher: FSWatcher | undefined;
  const reload = (): void => {
    clearTimeout(timer);
    // Writers truncate, write and rename: look when they have come to rest.
    timer = setTimeout(() => {
      load().then(
        () => log.info({ path, endpoints: datastore.snapshot.endpoints.length }, 'endpoints file read again'),
        (thrown) => log.error({ error: messageOf(thrown) }, 'endpoints file not taken over'),
      );
    }, 100);
  };
  // The folder, because a mounted ConfigMap and most editors replace the file instead of writing to it.
  watcher = watch(dirname(path), (_event, name) => {
    if (name === null || name === basename(path) || name.startsWith('..')) reload();
  });
  watcher.on('error', (error) => log.error({ error: messageOf(error) }, 'the endpoints file is no longer watched'));
  return {
    close: () => {
      clearTimeout(timer);
      watcher?.close();
    },
  };
}
