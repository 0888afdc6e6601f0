import { Agent } from 'undici';
import { z } from 'zod';
import { messageOf } from '../../../errors.ts';
import { type Endpoint, toHostPort } from '../../framework/endpoint.ts';
import { type PluginFactory, parseParameters, type Scorer } from '../../framework/plugin.ts';

const parameters = z.strictObject({
  /** Port of the sidecars' own pages; a data-parallel rank's is that many further. */
  port: z.number().int().min(1).max(65_535).default(9091),
  path: z.string().startsWith('/').default('/sessions'),
  refreshIntervalSeconds: z.number().min(0.05).default(1),
});

const roleLabel = 'llm-d.ai/role';
/** Pods of these roles have no sidecar. */
const rolesWithout: ReadonlySet<string> = new Set(['prefill', 'encode', 'encode-prefill']);
const timeoutMs = 1000;
const maxPageBytes = 1 << 20;
/** Pods that do not answer are asked at most this seldom. */
const maxBackOffMs = 10_000;
/** Where nobody listens, or the page is unknown, there is no sidecar of ours: looked at this seldom, and nothing is amiss. */
const absentBackOffMs = 60_000;
/** A list that could not be read for so long says nothing any more. */
const staleMs = 10_000;

interface Resident {
  keys: ReadonlySet<string>;
  etag: string | undefined;
  readAtMs: number;
  readonly address: string;
  readonly abort: AbortController;
}

/** The pod has no such page. */
class Absent extends Error {}

const isRefused = (thrown: unknown): boolean =>
  typeof thrown === 'object' && thrown !== null && 'code' in thrown && thrown.code === 'ECONNREFUSED';

/** 1 where the sidecar of the pod remembers the request's conversation, which then needs no prefill there; else 0. */
export const createResidentSessionScorer: PluginFactory = (context): Scorer => {
  const { port, path, refreshIntervalSeconds } = parseParameters(context, parameters);
  const { clock, pool } = context;
  const intervalMs = refreshIntervalSeconds * 1000;
  const residents = new Map<string, Resident>();
  const agent = new Agent({
    connections: 1,
    connect: { timeout: timeoutMs },
    headersTimeout: timeoutMs,
    bodyTimeout: timeoutMs,
    keepAliveTimeout: 4000,
  });

  const read = async (endpoint: Endpoint, resident: Resident): Promise<void> => {
    const rank = Number(/-rank-(\d+)$/.exec(endpoint.id)?.[1] ?? 0);
    const { statusCode, headers, body } = await agent.request({
      origin: `http://${toHostPort(endpoint.address, port + rank)}`,
      path,
      method: 'GET',
      headers: resident.etag === undefined ? {} : { 'if-none-match': resident.etag },
      signal: AbortSignal.any([resident.abort.signal, AbortSignal.timeout(2 * timeoutMs)]),
    });
    const chunks: Buffer[] = [];
    let size = 0;
    for await (const chunk of body as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > maxPageBytes) throw new Error(`the list is larger than ${maxPageBytes} bytes`);
      chunks.push(chunk);
    }
    if (statusCode === 404) throw new Absent(path);
    if (statusCode !== 200 && statusCode !== 304) throw new Error(`the sidecar answered ${statusCode}`);
    resident.readAtMs = clock.now();
    if (statusCode === 304) return;
    resident.keys = new Set(Buffer.concat(chunks).toString('latin1').split('\n').filter(Boolean));
    resident.etag = typeof headers.etag === 'string' ? headers.etag : undefined;
  };

  const follow = async (endpoint: Endpoint, resident: Resident): Promise<void> => {
    const { signal } = resident.abort;
    let failures = 0;
    while (!signal.aborted) {
      let isAbsent = false;
      try {
        await read(endpoint, resident);
        failures = 0;
      } catch (thrown) {
        if (signal.aborted) return;
        isAbsent = thrown instanceof Absent || isRefused(thrown);
        if (failures++ === 0 && !isAbsent)
          context.report('late', `sessions of ${endpoint.id} cannot be read: ${messageOf(thrown)}`);
      }
      const longestMs = isAbsent ? absentBackOffMs : maxBackOffMs;
      const pauseMs = Math.min(Math.max(longestMs, intervalMs), intervalMs * 2 ** Math.min(failures, 10));
      try {
        await clock.sleep(pauseMs * (0.9 + 0.2 * context.random()), signal);
      } catch {
        return;
      }
    }
  };

  const adjust = (): void => {
    const wanted = new Map<string, Endpoint>();
    for (const endpoint of pool.current()) {
      if (endpoint.isReady && !rolesWithout.has(endpoint.labels[roleLabel] ?? '')) wanted.set(endpoint.id, endpoint);
    }
    for (const [id, { address, abort }] of residents) {
      if (wanted.get(id)?.address === address) continue;
      abort.abort();
      residents.delete(id);
    }
    for (const [id, endpoint] of wanted) {
      if (residents.has(id)) continue;
      const resident: Resident = {
        keys: new Set(),
        etag: undefined,
        readAtMs: Number.NEGATIVE_INFINITY,
        address: endpoint.address,
        abort: new AbortController(),
      };
      residents.set(id, resident);
      void follow(endpoint, resident);
    }
  };
  let unsubscribe = () => {};
  const hasKeys = (): boolean => {
    for (const { keys } of residents.values()) if (keys.size > 0) return true;
    return false;
  };

  return {
    type: context.type,
    name: context.name,
    ready: async () => {
      unsubscribe = pool.subscribe(adjust);
      adjust();
    },
    close: async () => {
      unsubscribe();
      for (const { abort } of residents.values()) abort.abort();
      residents.clear();
      await agent.destroy();
    },
    state: () => ({
      pods: residents.size,
      keys: [...residents.values()].reduce((total, { keys }) => total + keys.size, 0),
    }),
    score: (cycle, endpoints, scores) => {
      // Hashing a conversation is the dear part; where nobody remembers any, there is nothing to compare with.
      if (!hasKeys()) return;
      const keys = cycle.request.sessionKeys?.() ?? [];
      if (keys.length === 0) return;
      const oldest = clock.now() - staleMs;
      for (let i = 0; i < endpoints.length; i++) {
        const endpoint = endpoints[i];
        const resident = endpoint && residents.get(endpoint.id);
        if (resident && resident.readAtMs >= oldest && keys.some((key) => resident.keys.has(key))) scores[i] = 1;
      }
    },
  };
};
