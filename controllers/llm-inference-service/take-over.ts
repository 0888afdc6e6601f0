import { fieldManager, finalizer, labels, partOf } from '../../src/api/labels.ts';
import type { LLMInferenceService } from '../../src/api/v1alpha2/llm-inference-service.ts';
import type { Clock } from '../../src/clock.ts';
import type { Client } from '../../src/kube/client.ts';
import type { Informer } from '../../src/kube/informer.ts';
import {
  type KubeObject,
  keyOf,
  type ManagedFieldsEntry,
  type ObjectRef,
  type Resource,
} from '../../src/kube/object.ts';
import { appliedEntry } from '../../src/kube/owned.ts';
import { resources } from '../../src/kube/resources.ts';
import { childName } from '../../src/render/names.ts';

/** Following KServe's own controller: waiting while it runs, then taking over what it made. */

/** Deployment and lease of KServe's controller, in whichever namespace it is installed. */
export const rivalDeployment = 'llmisvc-controller-manager';
export const rivalLease = 'llminferenceservice-kserve-controller-manager';

export interface Scaled extends KubeObject {
  readonly spec?: { readonly replicas?: number };
  readonly status?: { readonly replicas?: number };
}

export interface Lease extends KubeObject {
  readonly spec?: {
    readonly holderIdentity?: string;
    readonly renewTime?: string;
    readonly leaseDurationSeconds?: number;
  };
}

export interface Rival {
  /** For people: what shows that it runs. */
  readonly sign: string;
  /** After which it may be gone without a change that tells so. */
  readonly untilMs?: number;
}

/** Whether KServe's controller runs, by the caches. */
export function findRivalOf(
  caches: {
    readonly rivalDeployments: Pick<Informer<Scaled>, 'store'>;
    readonly rivalLeases: Pick<Informer<Lease>, 'store'>;
  },
  clock: Clock,
): Rival | undefined {
  return findRival(caches.rivalDeployments.store.list(), caches.rivalLeases.store.list(), clock.now());
}

/** Whether KServe's controller runs. */
export function findRival(deployments: readonly Scaled[], leases: readonly Lease[], nowMs: number): Rival | undefined {
  const running = deployments.find(({ spec, status }) => (spec?.replicas ?? 1) > 0 || (status?.replicas ?? 0) > 0);
  if (running) return { sign: `Deployment ${keyOf(running.metadata)}` };
  for (const lease of leases) {
    const untilMs = heldUntilMs(lease);
    if (untilMs > nowMs)
      return { sign: `Lease ${keyOf(lease.metadata)}, held by ${lease.spec?.holderIdentity}`, untilMs };
  }
  return undefined;
}

function heldUntilMs({ spec }: Lease): number {
  if (!spec?.holderIdentity || !spec.renewTime) return 0;
  return Date.parse(spec.renewTime) + (spec.leaseDurationSeconds ?? 15) * 1000;
}

/** What of a lease matters: not that it is renewed every other second. */
export function digestOfLease({ spec }: Lease): string {
  return spec?.holderIdentity ?? '';
}

/**
 * Makes what another controller set on a child of a service ours, so that the next apply takes away what we do not want and
 * keeps the rest: its entry in `managedFields` becomes our apply. Values do not change.
 */
export async function adopt(
  client: Pick<Client, 'mergePatch'>,
  resource: Resource,
  live: KubeObject,
  signal?: AbortSignal,
): Promise<KubeObject> {
  const entries = live.metadata.managedFields ?? [];
  if (appliedEntry(live, fieldManager)) return live;
  const maker = entries.find(
    ({ operation, subresource, fieldsV1 }) =>
      operation === 'Update' && subresource === undefined && setsOwner(fieldsV1),
  );
  if (!maker) return live;
  const { name, namespace, resourceVersion } = live.metadata;
  const ref: ObjectRef = namespace === undefined ? { name } : { namespace, name };
  const managedFields = entries.map(
    (entry): ManagedFieldsEntry => (entry === maker ? { ...entry, manager: fieldManager, operation: 'Apply' } : entry),
  );
  return client.mergePatch<KubeObject>(resource, ref, { metadata: { resourceVersion, managedFields } }, {}, signal);
}

function setsOwner(fields: unknown): boolean {
  const metadata = (fields as Readonly<Record<string, Readonly<Record<string, unknown>>>> | undefined)?.['f:metadata'];
  return metadata?.['f:ownerReferences'] !== undefined;
}

/**
 * Takes KServe's finalizer off a service, with what it was for: the ClusterRoleBinding of its picker, which has no owner.
 * Nothing here waits for anything of the service's, so that its deletion cannot hang.
 */
export async function dropFinalizer(
  client: Pick<Client, 'mergePatch' | 'get' | 'delete'>,
  service: LLMInferenceService & KubeObject,
  signal?: AbortSignal,
): Promise<void> {
  const { name, namespace = 'default', uid, resourceVersion, finalizers = [] } = service.metadata;
  const ref = { name: childName(namespace, `-${name}-epp-auth-rb`) };
  const binding = await client.get<KubeObject>(resources.clusterRoleBindings, ref, signal);
  const own = binding?.metadata.labels;
  if (binding?.metadata.uid && own?.[labels.partOf] === partOf && own[labels.name] === name)
    await client.delete(resources.clusterRoleBindings, ref, { uid: binding.metadata.uid }, signal);
  await client.mergePatch(
    resources.llmInferenceServices,
    { namespace, name },
    { metadata: { uid, resourceVersion, finalizers: finalizers.filter((other) => other !== finalizer) } },
    {},
    signal,
  );
}
