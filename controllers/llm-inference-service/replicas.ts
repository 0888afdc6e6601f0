import { fieldManager } from '../../src/api/labels.ts';
import type { Client } from '../../src/kube/client.ts';
import type { KubeObject, Manifest, Resource } from '../../src/kube/object.ts';
import { hasCode } from '../../src/kube/status-error.ts';

/** Owns the number of replicas from when it leaves the spec until somebody else sets it. */
export const replicasManager = `${fieldManager}-replicas`;

interface Scalable extends KubeObject {
  readonly spec?: { readonly replicas?: number };
}

/**
 * Keeps the live number of replicas when a manifest stops giving one. A field that its only owner lets go of returns to
 * its default, so a model that an autoscaler takes over would first shrink to one pod; another manager of ours therefore
 * takes the field with the value that it has.
 *
 * Caveats: where somebody else has set the field meanwhile it is theirs, and the conflict says so.
 */
export async function keepReplicas(
  client: Pick<Client, 'apply'>,
  resource: Resource,
  { desired, live }: { readonly desired: Manifest; readonly live: KubeObject | undefined },
  signal?: AbortSignal,
): Promise<void> {
  const replicas = (live as Scalable | undefined)?.spec?.replicas;
  if (!live || replicas === undefined || !hasReplicas(desired.kind)) return;
  if ((desired as Scalable).spec?.replicas !== undefined || !isOwned(live)) return;
  const { name, namespace } = desired.metadata;
  const only: Manifest = {
    apiVersion: desired.apiVersion,
    kind: desired.kind,
    metadata: { name, ...(namespace === undefined ? {} : { namespace }) },
    spec: { replicas },
  };
  try {
    await client.apply(resource, only, { fieldManager: replicasManager }, signal);
  } catch (thrown) {
    if (!hasCode(thrown, 'conflict')) throw thrown;
  }
}

function hasReplicas(kind: string): boolean {
  return kind === 'Deployment' || kind === 'LeaderWorkerSet';
}

/** Whether the operator's own apply set the number. */
function isOwned({ metadata }: KubeObject): boolean {
  return (metadata.managedFields ?? []).some(({ manager, operation, fieldsV1 }) => {
    const spec = (fieldsV1 as Readonly<Record<string, Readonly<Record<string, unknown>>>> | undefined)?.['f:spec'];
    return manager === fieldManager && operation === 'Apply' && spec?.['f:replicas'] !== undefined;
  });
}
