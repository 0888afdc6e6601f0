import { hash } from 'node:crypto';
import { z } from 'zod';
import type { Cycle } from '../../framework/cycle-state.ts';
import type { Endpoint } from '../../framework/endpoint.ts';
import { mediaMatchKey, mediaOf } from '../../framework/media.ts';
import { type PluginFactory, type PreRequest, type Producer, parseParameters } from '../../framework/plugin.ts';

const keyOf = (source: string): string => hash('sha1', source, 'base64url');

const megabytesPerItem = 2;

const parameters = z.strictObject({
  /** Of the engine's cache of encoded media, at two megabytes an item. */
  cacheSizeInMBPerServer: z.number().positive().default(4096),
  encodeProfile: z.string().default('encode'),
});

/** Remembers which media were encoded where: at the encode endpoints of a request, or where it is served when there are none. */
export const createMmEmbeddingsCacheProducer: PluginFactory = (context): Producer & PreRequest => {
  const { cacheSizeInMBPerServer, encodeProfile } = parseParameters(context, parameters);
  const capacity = Math.max(1, Math.floor(cacheSizeInMBPerServer / megabytesPerItem));
  // Insertion order is age.
  const held = new Map<string, Map<string, true>>();
  let lastPool: readonly Endpoint[] | undefined;

  const keysOf = ({ request }: Cycle): readonly string[] => [
    ...new Set(mediaOf(request).map(({ source }) => keyOf(source))),
  ];
  return {
    type: context.type,
    name: context.name,
    state: () => ({ items: Object.fromEntries([...held].map(([id, items]) => [id, items.size])) }),
    produce: (cycle) => {
      if (mediaOf(cycle.request).length === 0) return;
      if (cycle.pool !== lastPool) {
        lastPool = cycle.pool;
        const ids = new Set(cycle.pool.map(({ id }) => id));
        for (const id of held.keys()) if (!ids.has(id)) held.delete(id);
      }
      const keys = keysOf(cycle);
      cycle.set(mediaMatchKey, {
        share: ({ id }) => {
          const items = held.get(id);
          return items === undefined ? 0 : keys.filter((key) => items.has(key)).length / keys.length;
        },
        has: ({ id }, source) => held.get(id)?.has(keyOf(source)) ?? false,
      });
    },
    preRequest: (cycle, decision) => {
      const keys = mediaOf(cycle.request).length === 0 ? [] : keysOf(cycle);
      if (keys.length === 0) return;
      for (const { id } of decision.results.get(encodeProfile)?.picked ?? [decision.primary]) {
        let items = held.get(id);
        if (items === undefined) {
          items = new Map();
          held.set(id, items);
        }
        for (const key of keys) {
          items.delete(key);
          items.set(key, true);
        }
        for (const oldest of items.keys()) {
          if (items.size <= capacity) break;
          items.delete(oldest);
        }
      }
    },
  };
};
