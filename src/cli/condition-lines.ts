import type { Condition } from '../api/conditions.ts';
import { AppError } from '../errors.ts';
import type { Client } from '../kube/client.ts';
import { startInformer } from '../kube/informer.ts';
import { resources } from '../kube/resources.ts';
import type { Logger } from '../telemetry/log.ts';
import type { Output } from './output.ts';
import type { ServiceObject } from './service.ts';

/** A condition that stays False says so again after this long. */
const waitLineMs = 3_000;
const parents: ReadonlySet<string> = new Set(['Ready', 'WorkloadsReady', 'RouterReady']);

/**
 * Prints a line for each change of a service's conditions, until it is Ready and has a URL.
 *
 * @param timeoutMs how long to wait for that; undefined: print on until `signal`
 * @throws AppError `timeout` with what its Ready condition says, or what `signal` was aborted with
 */
export async function watchConditions(options: {
  readonly client: Client;
  readonly ref: { readonly namespace: string; readonly name: string };
  readonly timeoutMs: number | undefined;
  readonly output: Output;
  readonly log: Logger;
  readonly signal: AbortSignal;
}): Promise<ServiceObject> {
  const { client, ref, timeoutMs, output, log, signal } = options;
  const startedAt = Date.now();
  const informer = startInformer<ServiceObject>(
    client,
    resources.llmInferenceServices,
    { namespace: ref.namespace, fieldSelector: `metadata.name=${ref.name}` },
    { log },
  );
  /** What was last said of each condition, and when. */
  const shown = new Map<string, { readonly isTrue: boolean; readonly atMs: number }>();
  const showCondition = (condition: Condition) => {
    const isTrue = condition.status === 'True';
    const before = shown.get(condition.type);
    const atMs = Date.now() - startedAt;
    if (before?.isTrue === isTrue && (isTrue || atMs - before.atMs < waitLineMs)) return;
    // The parents repeat what their parts say.
    if (!isTrue && parents.has(condition.type)) return;
    shown.set(condition.type, { isTrue, atMs });
    const seconds = `${(atMs / 1000).toFixed(1)} s`.padStart(7);
    const mark = isTrue ? output.good('✓') : output.dim('…');
    const why = isTrue ? '' : shorten(condition.message ?? condition.reason ?? '');
    output.line(`  ${output.dim(seconds)}  ${mark} ${condition.type.padEnd(24)} ${output.dim(why)}`.trimEnd());
  };
  const watching = new AbortController();
  try {
    return await new Promise<ServiceObject>((resolve, reject) => {
      signal.throwIfAborted();
      signal.addEventListener('abort', () => reject(signal.reason), { signal: watching.signal });
      if (timeoutMs !== undefined) {
        const timer = setTimeout(() => {
          const service = informer.store.get(ref);
          const why = service?.status?.conditions?.find((c) => c.type === 'Ready')?.message ?? 'its status is empty';
          reject(
            new AppError('timeout', `${ref.namespace}/${ref.name} is not Ready after ${timeoutMs / 1000} s: ${why}`),
          );
        }, timeoutMs);
        watching.signal.addEventListener('abort', () => clearTimeout(timer));
      }
      informer.subscribe((change) => {
        if (change.type === 'deleted') return output.line(`  ${ref.namespace}/${ref.name} was deleted`);
        const conditions = change.object.status?.conditions ?? [];
        // Parts before the wholes that they make.
        const order = (type: string) => (type === 'Ready' ? 2 : parents.has(type) ? 1 : 0);
        for (const condition of [...conditions].sort((a, b) => order(a.type) - order(b.type))) showCondition(condition);
        const isCurrent = (change.object.status?.observedGeneration ?? 0) >= (change.object.metadata.generation ?? 0);
        const ready = conditions.find((c) => c.type === 'Ready');
        if (timeoutMs !== undefined && isCurrent && ready?.status === 'True' && change.object.status?.url)
          resolve(change.object);
      });
    });
  } finally {
    watching.abort();
    informer.close();
  }
}

/** Two clauses of a condition's message: the whole of it is what `signalbox explain` is for. */
function shorten(message: string): string {
  const text = message.split('; ').slice(0, 2).join('; ');
  return text.length > 130 ? `${text.slice(0, 129)}…` : text;
}
