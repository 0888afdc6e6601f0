import { components, labels, partOf } from '../api/labels.ts';
import type { NodePart } from '../api/v1alpha2/parallelism.ts';

/** What a pod of a service is for, as the picker's filters read it. */
export type Role = 'both' | 'decode' | 'prefill';

type Component = (typeof components)[keyof typeof components];
type Labels = Readonly<Record<string, string>>;

/**
 * Labels that every child carries, and the selector of the Deployments. A Deployment's selector can never change, so
 * this depends on nothing but the service's name and the child's part: not on labels of the user's, not on roles.
 */
export function componentLabels(service: string, component: Component): Labels {
  return { [labels.component]: component, [labels.name]: service, [labels.partOf]: partOf };
}

/** Labels of pods that are called for a model. The user's come first, so that they cannot break a selector. */
export function workloadPodLabels(
  service: string,
  role: Role,
  own: Labels | undefined,
  part: Exclude<NodePart, 'worker'> = 'single',
): Labels {
  const [plain, leader] =
    role === 'prefill'
      ? ([components.workloadPrefill, components.workloadLeaderPrefill] as const)
      : ([components.workload, components.workloadLeader] as const);
  return {
    ...own,
    ...componentLabels(service, part === 'leader' ? leader : plain),
    [labels.kserveComponent]: 'workload',
    [labels.role]: role,
  };
}

/** Labels of pods that help a leader: neither the pool nor a Service may select them, for they answer nobody. */
export function workerPodLabels(service: string, role: Role, own: Labels | undefined): Labels {
  return {
    ...own,
    ...componentLabels(service, role === 'prefill' ? components.workloadWorkerPrefill : components.workloadWorker),
  };
}

/** Selects every model-server pod of a service that is called, whatever its role: the pool's and the workload Service's selector. */
export function workloadSelector(service: string): Labels {
  return { [labels.name]: service, [labels.partOf]: partOf, [labels.kserveComponent]: 'workload' };
}

/** Selects the prefill pods of a service. */
export function prefillSelector(service: string): Labels {
  return { ...workloadSelector(service), [labels.role]: 'prefill' };
}

const propagatedAnnotations = [
  'k8s.v1.cni.cncf.io',
  'kueue.x-k8s.io',
  'prometheus.io',
  'internal.serving.kserve.io/localmodel',
];
const propagatedLabels = ['kueue.x-k8s.io', 'internal.serving.kserve.io/localmodel'];
const groupAnnotations = 'leaderworkerset.sigs.k8s.io';

/** The service's own annotations that its pods get too: networks, queueing and scraping are decided per pod. */
export function podAnnotationsOf(annotations: Labels | undefined): Labels {
  return withPrefix(annotations, propagatedAnnotations);
}

/** The service's own annotations that a LeaderWorkerSet gets: how its groups are placed. */
export function groupAnnotationsOf(annotations: Labels | undefined): Labels {
  return withPrefix(annotations, [...propagatedAnnotations, groupAnnotations]);
}

/** The service's own labels that its workloads and their pods get too: queueing is asked for on both. */
export function podLabelsOf(own: Labels | undefined): Labels {
  return withPrefix(own, propagatedLabels);
}

function withPrefix(map: Labels | undefined, prefixes: readonly string[]): Labels {
  return Object.fromEntries(
    Object.entries(map ?? {}).filter(([key]) => prefixes.some((prefix) => key.startsWith(prefix))),
  );
}
