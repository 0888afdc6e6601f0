import type { Pool } from 'undici';
import type { Clock } from '../clock.ts';
import { failureKindOf } from './forward.ts';

const intervalMs = 5000;
const timeoutMs = 2000;
const maxMetricsBytes = 4 * 1024 * 1024;

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
  const { statusCode, body } = await decoder.request({
    path: '/metrics',
    method: 'GET',
    headersTimeout: timeoutMs,
    bodyTimeout: timeoutMs,
    signal: AbortSignal.timeout(timeoutMs * 2),
  });
  let text = '';
  for await (const chunk of body) {
    text += String(chunk);
    if (text.length > maxMetricsBytes) {
      body.destroy();
      return undefined;
    }
  }
  return statusCode === 200 ? /^process_start_time_seconds(?:\{[^}]*\})? (\S+)/m.exec(text)?.[1] : undefined;
}

/** Whether the local engine answers its health check. */
export async function isEngineHealthy(decoder: Pool): Promise<boolean> {
  try {
    const { statusCode, body } = await decoder.request({
      path: '/health',
      method: 'GET',
      headersTimeout: timeoutMs,
      bodyTimeout: timeoutMs,
      signal: AbortSignal.timeout(timeoutMs),
    });
    await body.dump();
    return statusCode >= 200 && statusCode < 300;
  } catch {
    return false;
  }
}
