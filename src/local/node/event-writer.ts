import { randomBytes } from 'node:crypto';
import type { Clock } from '../../clock.ts';
import { messageOf } from '../../errors.ts';
import type { Client } from '../../kube/client.ts';
import { resources } from '../../kube/resources.ts';
import type { Logger } from '../../telemetry/log.ts';
import type { Pod } from './pod-spec.ts';
import { toTime } from './pod-status.ts';

export interface PodEventRecord {
  readonly level: 'Normal' | 'Warning';
  readonly reason: string;
  readonly message: string;
  readonly fieldPath?: string;
}

/** Writes the events of pods, one after the other; the same event again only counts. */
export interface EventWriter {
  record(pod: Pod, event: PodEventRecord): void;
}

const maxQueued = 500;
const maxRemembered = 1_000;
/** A repeated event is told to the API server at most this often. */
const repeatMs = 2_000;

interface Remembered {
  readonly name: string;
  count: number;
  writtenMs: number;
}

/** Events are best effort: what cannot be written is dropped, and a flood is thinned. */
export function createEventWriter(
  client: Client,
  nodeName: string,
  deps: { readonly clock: Clock; readonly log: Logger; readonly signal: AbortSignal },
): EventWriter {
  const { clock, log, signal } = deps;
  const remembered = new Map<string, Remembered>();
  const queue: (() => Promise<unknown>)[] = [];
  let working = false;
  const work = async (): Promise<void> => {
    if (working) return;
    working = true;
    for (let next = queue.shift(); next && !signal.aborted; next = queue.shift()) {
      await next().catch((thrown) => {
        if (!signal.aborted) log.debug({ err: thrown }, `an event was not written: ${messageOf(thrown)}`);
      });
    }
    working = false;
  };
  const enqueue = (task: () => Promise<unknown>): void => {
    if (queue.length >= maxQueued) queue.shift();
    queue.push(task);
    void work();
  };
  return {
    record: (pod, event) => {
      const now = clock.now();
      const { name, uid, resourceVersion } = pod.metadata;
      const namespace = pod.metadata.namespace ?? 'default';
      const key = [uid, event.reason, event.fieldPath, event.message].join('\n');
      const before = remembered.get(key);
      if (before) {
        before.count++;
        if (now - before.writtenMs < repeatMs) return;
        before.writtenMs = now;
        const patch = { count: before.count, lastTimestamp: toTime(now) };
        enqueue(() => client.mergePatch(resources.events, { namespace, name: before.name }, patch, {}, signal));
        return;
      }
      const eventName = `${name.slice(0, 200)}.${randomBytes(8).toString('hex')}`;
      if (remembered.size >= maxRemembered) remembered.delete(remembered.keys().next().value ?? '');
      remembered.set(key, { name: eventName, count: 1, writtenMs: now });
      enqueue(() =>
        client.create(
          resources.events,
          {
            apiVersion: 'v1',
            kind: 'Event',
            metadata: { name: eventName, namespace },
            involvedObject: {
              apiVersion: 'v1',
              kind: 'Pod',
              namespace,
              name,
              uid,
              resourceVersion,
              ...(event.fieldPath ? { fieldPath: event.fieldPath } : {}),
            },
            type: event.level,
            reason: event.reason,
            message: event.message.slice(0, 1024),
            count: 1,
            firstTimestamp: toTime(now),
            lastTimestamp: toTime(now),
            source: { component: 'kubelet', host: nodeName },
            reportingComponent: 'kubelet',
            reportingInstance: nodeName,
          },
          signal,
        ),
      );
    },
  };
}
