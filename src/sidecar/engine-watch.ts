import type { Pool } from 'undici';
import type { Clock } from '../clock.ts';
import { collect, failureKindOf } from './forward.ts';

const intervalMs = 5000;
const timeoutMs = 2000;
const maxMetricsBytes = 4 * 1024 * 1024;
const maxHealthBytes = 64 * 1024;

/**
 * Notices that the local engine was restarted, and with it lost its cache: it refuses connections, or its process start time
 * (in its /metrics) is another one.
 */
export function startEngineWatch(
  decoder: Pool,
  clock: Clock,
  onLost: (reason: 'refused' | 'restart') => void,
): { close(): void } {
  let started: string | undefined;
  let isAsking = false;
  const stop = clock.interval(intervalMs, () => {
    if (isAsking) return;
    isAsking = true;
    processStart(decoder)
      .then((seen) => {
        if (seen !== undefined && started !== undefined && seen !== started) onLost('restart');
        started = seen ?? started;
      })
      .catch((thrown) => {
        if (failureKindOf(thrown) === 'refused') onLost('refused');
      })
      .finally(() => {
        isAsking = false;
      });
  });
  return { close: stop };
}

async function processStart(decoder: Pool): Promise<string | undefined> {
  const { status, body } = await get(decoder, '/metrics', maxMetricsBytes);
  return status === 200
    ? /^process_start_time_seconds(?:\{[^}]*\})? (\S+)/m.exec(body.toString('latin1'))?.[1]
    : undefined;
}

function get(engine: Pool, path: string, maxBytes: number) {
  const hop = { method: 'GET', path, headers: [], body: null, headersTimeoutMs: timeoutMs };
  return collect(engine, hop, { onGone: () => {} }, { timeoutMs, maxBytes });
}

/** Whether the local engine answers its health check with success. */
export async function isEngineHealthy(decoder: Pool): Promise<boolean> {
  const status = await healthStatus(decoder);
  return status !== undefined && status >= 200 && status < 300;
}

/** Whether an engine answers its health check, be it with a status that is no failure of its own. */
export async function isAnswering(engine: Pool): Promise<boolean> {
  const status = await healthStatus(engine);
  return status !== undefined && status < 500;
}

async function healthStatus(engine: Pool): Promise<number | undefined> {
  try {
    return (await get(engine, '/health', maxHealthBytes)).status;
  } catch {
    return undefined;
  }
}
