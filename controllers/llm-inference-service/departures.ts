import { groupFinalizer } from '../../src/api/labels.ts';
import type { LLMInferenceService } from '../../src/api/v1alpha2/llm-inference-service.ts';
import type { Clock } from '../../src/clock.ts';
import type { Client } from '../../src/kube/client.ts';
import { resources } from '../../src/kube/resources.ts';
import { hasCode } from '../../src/kube/status-error.ts';
import type { Writes } from './writes.ts';

/** How long a service that goes waits for the routes of its group: a gateway that says nothing must not keep it. */
const patienceMs = 30_000;
const maxRemembered = 1_000;

/** Since when services have been on their way out of their groups. */
export class Departures {
  readonly #since = new Map<string, number>();
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Whether the service may take its backends away, given the routes that still lead to them. */
  mayLeave({ metadata }: LLMInferenceService, holders: readonly string[]): boolean {
    const uid = metadata.uid ?? '';
    const since = this.#since.get(uid) ?? this.#clock.now();
    if (holders.length === 0 || this.#clock.now() - since >= patienceMs) return true;
    this.#since.set(uid, since);
    const oldest = this.#since.keys().next();
    if (this.#since.size > maxRemembered && !oldest.done) this.#since.delete(oldest.value);
    return false;
  }

  /** It stays, or is gone. */
  forget({ metadata }: LLMInferenceService): void {
    this.#since.delete(metadata.uid ?? '');
  }
}

/** Whether the object is kept until we let it go. */
export function isHeld({ metadata }: LLMInferenceService): boolean {
  return metadata.finalizers?.includes(groupFinalizer) ?? false;
}

/**
 * Puts our finalizer on the service or takes it off.
 * Errors: `conflict` when somebody else changed the object meanwhile.
 */
export async function setHeld(
  deps: { readonly client: Client; readonly writes: Writes; readonly fieldManager: string },
  service: LLMInferenceService,
  wanted: boolean,
  signal: AbortSignal,
): Promise<void> {
  const { name, namespace, resourceVersion } = service.metadata;
  const others = (service.metadata.finalizers ?? []).filter((one) => one !== groupFinalizer);
  const finalizers = wanted ? [...others, groupFinalizer] : others;
  const resource = resources.llmInferenceServices;
  try {
    const after = await deps.client.mergePatch(
      resource,
      namespace === undefined ? { name } : { namespace, name },
      { metadata: { resourceVersion, finalizers: finalizers.length > 0 ? finalizers : null } },
      { fieldManager: deps.fieldManager },
      signal,
    );
    // The last finalizer's going is the object's: nothing is there to be remembered.
    if (!service.metadata.deletionTimestamp) deps.writes.remember(resource, after);
  } catch (thrown) {
    if (!hasCode(thrown, 'notFound')) throw thrown;
  }
}
