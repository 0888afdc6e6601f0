import { randomBytes } from 'node:crypto';
import { type Clock, systemClock } from '../clock.ts';
import { messageOf } from '../errors.ts';
import type { Logger } from '../telemetry/log.ts';
import type { Client } from './client.ts';
import type { KubeObject } from './object.ts';
import { resources } from './resources.ts';

export interface EventRecorder {
  /**
   * Tells the user of an object what happened. Never throws, never waits; too many are dropped and counted in the log.
   * `fieldPath` names a part of the object: `spec.containers{main}`.
   */
  record(object: KubeObject, type: 'Normal' | 'Warning', reason: string, message: string, fieldPath?: string): void;
  /** Resolves when everything recorded so far was sent or given up. */
  flush(): Promise<void>;
  close(): Promise<void>;
}

export interface EventRecorderOptions {
  /** `signalbox-operator`: shown as the source. */
  readonly component: string;
  /** Pod name or host. */
  readonly instance?: string;
}

interface Series {
  readonly namespace: string;
  readonly name: string;
  readonly firstTimestamp: string;
  /** What the server has been told. */
  sent: number;
  count: number;
  lastMs: number;
  readonly body: Readonly<Record<string, unknown>>;
}

/** The same thing said again within this time raises the count of one Event. */
const seriesMs = 10 * 60_000;
const maxSeries = 4_096;
const maxPending = 1_000;
/** Per object: a burst, then one in a while, as kubectl users know it. */
const burst = 25;
const refillMs = 60_000;
const maxMessageLength = 1_024;

/** Writes core/v1 Events in the background, the same (object, reason, message) as one with a count. */
export function startEventRecorder(
  client: Pick<Client, 'create' | 'mergePatch'>,
  options: EventRecorderOptions,
  deps: { readonly log: Logger; readonly clock?: Clock },
): EventRecorder {
  const clock = deps.clock ?? systemClock;
  const { log } = deps;
  const series = new Map<string, Series>();
  const buckets = new Map<string, { tokens: number; atMs: number }>();
  const pending = new Set<Series>();
  const closing = new AbortController();
  let draining: Promise<void> | undefined;
  let dropped = 0;

  const takeToken = (key: string, nowMs: number): boolean => {
    const bucket = buckets.get(key) ?? { tokens: burst, atMs: nowMs };
    const refill = Math.floor((nowMs - bucket.atMs) / refillMs);
    const tokens = Math.min(burst, bucket.tokens + refill);
    buckets.delete(key);
    buckets.set(key, { tokens: Math.max(0, tokens - 1), atMs: bucket.atMs + refill * refillMs });
    forgetOldest(buckets);
    return tokens > 0;
  };

  const send = async (item: Series): Promise<void> => {
    const { count } = item;
    const lastTimestamp = toSeconds(item.lastMs);
    if (item.sent === 0) {
      await client.create(
        resources.events,
        {
          apiVersion: 'v1',
          kind: 'Event',
          metadata: { name: item.name, namespace: item.namespace },
          ...item.body,
          count,
          firstTimestamp: item.firstTimestamp,
          lastTimestamp,
        },
        closing.signal,
      );
    } else {
      await client.mergePatch(resources.events, item, { count, lastTimestamp }, {}, closing.signal);
    }
    item.sent = count;
  };

  const drain = async (): Promise<void> => {
    for (const item of pending) {
      if (closing.signal.aborted) return;
      pending.delete(item);
      try {
        await send(item);
      } catch (thrown) {
        // An Event is a courtesy: said once more on its next occurrence, not retried.
        if (!closing.signal.aborted)
          log.debug({ event: item.name, error: messageOf(thrown) }, 'an Event was not written');
      }
    }
    if (dropped > 0) {
      log.warn({ dropped }, 'Events were dropped: too many at once');
      dropped = 0;
    }
  };
  const kick = () => {
    draining ??= drain().finally(() => {
      draining = undefined;
      if (pending.size > 0 && !closing.signal.aborted) kick();
    });
  };

  return {
    record(object, type, reason, message, fieldPath) {
      if (closing.signal.aborted) return;
      const nowMs = clock.now();
      const { name, namespace, uid, resourceVersion } = object.metadata;
      const objectKey = uid ?? `${object.kind}/${namespace ?? ''}/${name}`;
      const text = message.length > maxMessageLength ? `${message.slice(0, maxMessageLength - 1)}…` : message;
      const key = [objectKey, type, reason, text, fieldPath ?? ''].join('\u0000');
      let item = series.get(key);
      if (item && nowMs - item.lastMs > seriesMs) item = undefined;
      if (pending.size >= maxPending || !takeToken(objectKey, nowMs)) {
        dropped++;
        return;
      }
      if (item) {
        item.count++;
        item.lastMs = nowMs;
      } else {
        item = {
          namespace: namespace ?? 'default',
          name: `${name.slice(0, 230)}.${randomBytes(8).toString('hex')}`,
          firstTimestamp: toSeconds(nowMs),
          sent: 0,
          count: 1,
          lastMs: nowMs,
          body: {
            involvedObject: {
              apiVersion: object.apiVersion,
              kind: object.kind,
              name,
              ...(namespace ? { namespace } : {}),
              ...(uid ? { uid } : {}),
              ...(resourceVersion ? { resourceVersion } : {}),
              ...(fieldPath ? { fieldPath } : {}),
            },
            reason,
            message: text,
            type,
            source: { component: options.component, ...(options.instance ? { host: options.instance } : {}) },
            reportingComponent: options.component,
            reportingInstance: options.instance ?? options.component,
          },
        };
      }
      series.delete(key);
      series.set(key, item);
      forgetOldest(series);
      pending.add(item);
      kick();
    },
    async flush() {
      while (draining) await draining;
    },
    async close() {
      // What was said last is often why we stop; it gets two seconds.
      const deadline = new AbortController();
      await Promise.race([this.flush(), clock.sleep(2_000, deadline.signal).catch(() => {})]);
      deadline.abort();
      closing.abort(new Error('the event recorder was closed'));
    },
  };
}

function forgetOldest(map: Map<string, unknown>): void {
  const oldest = map.keys().next();
  if (map.size > maxSeries && !oldest.done) map.delete(oldest.value);
}

/** Timestamps of core/v1 have whole seconds. */
function toSeconds(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, 19)}Z`;
}
