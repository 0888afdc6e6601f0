import type { Informer } from '../../kube/informer.ts';
import type { KubeObject } from '../../kube/object.ts';
import { resources } from '../../kube/resources.ts';
import type { Logger } from '../../telemetry/log.ts';
import type { Watches } from './pool-source.ts';
import {
  type ModelObject,
  maxPolicyObjects,
  noPolicies,
  type ObjectiveObject,
  type RequestPolicies,
  type RewriteObject,
  toRequestPolicies,
} from './request-policies.ts';

export interface PolicySource {
  /** Replaced as a whole at every change. */
  readonly current: RequestPolicies;
  close(): void;
}

/** For pickers without Kubernetes. */
export const noPolicySource: PolicySource = { current: noPolicies, close: () => {} };

/**
 * Follows the objectives, rewrites and models that refer to the pool. Their definitions may be missing, or come later.
 * Where a kind is served by both groups, the objects of the older one are ignored.
 */
export function startPolicySource(options: {
  readonly watches: Watches;
  readonly namespace: string;
  readonly pool: string;
  readonly log: Logger;
}): PolicySource {
  const { watches, namespace, pool, log } = options;
  const follow = <T extends KubeObject>(resource: Parameters<Watches['watch']>[0]): Informer<T> =>
    watches.watch<T>(resource, { namespace });
  const objectives = [
    follow<ObjectiveObject>(resources.inferenceObjectives),
    follow<ObjectiveObject>(resources.xInferenceObjectives),
  ];
  const rewrites = [
    follow<RewriteObject>(resources.inferenceModelRewrites),
    follow<RewriteObject>(resources.xInferenceModelRewrites),
  ];
  const models = [follow<ModelObject>(resources.inferenceModels)];
  const all: readonly Informer<KubeObject>[] = [...objectives, ...rewrites, ...models] as never;

  let current = noPolicies;
  let isClosed = false;
  let isQueued = false;
  let isFullTold = false;
  const objectsOf = <T extends KubeObject>(informers: readonly Informer<T>[]): readonly T[] => {
    const objects = informers.find(({ isSynced }) => isSynced)?.store.list(namespace) ?? [];
    if (objects.length > maxPolicyObjects && !isFullTold) {
      isFullTold = true;
      log.warn({ namespace, objects: objects.length }, `only ${maxPolicyObjects} objects of a kind are looked at`);
    }
    return objects;
  };
  const publish = (): void => {
    isQueued = false;
    if (isClosed) return;
    current = toRequestPolicies(pool, {
      objectives: objectsOf(objectives),
      rewrites: objectsOf(rewrites),
      models: objectsOf(models),
    });
  };
  /** Many changes in one turn of the event loop are one new set. */
  const queue = (): void => {
    if (isQueued || isClosed) return;
    isQueued = true;
    setImmediate(publish);
  };
  for (const informer of all) {
    informer.subscribe(queue);
    informer.synced.then(queue, () => {});
  }
  return {
    get current() {
      return current;
    },
    close: () => {
      isClosed = true;
      for (const informer of all) informer.close();
    },
  };
}
