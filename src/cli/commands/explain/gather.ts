import { partOf } from '../../../api/labels.ts';
import type { Client } from '../../../kube/client.ts';
import type { KubeObject, ObjectRef, Resource } from '../../../kube/object.ts';
import { resources } from '../../../kube/resources.ts';
import { hasCode } from '../../../kube/status-error.ts';
import type { PodState } from '../../../plan/causes.ts';
import { shortReason } from '../../connection.ts';
import { getService } from '../../service.ts';
import type { NodeRoom } from '../plan/plan.ts';
import type { ExplainInput, Reading, WebhookObject, WorkloadObject } from './explain.ts';
import type { EventObject, GpuCapacity } from './pod.ts';

interface Scheduled extends KubeObject {
  readonly spec?: {
    readonly nodeName?: string;
    readonly containers?: readonly {
      readonly resources?: { readonly requests?: Quantities; readonly limits?: Quantities };
    }[];
  };
  readonly status?: { readonly phase?: string };
}
interface Node extends KubeObject {
  readonly spec?: { readonly unschedulable?: boolean };
  readonly status?: { readonly allocatable?: Quantities };
}
type Quantities = Readonly<Record<string, string | number>>;

/** Reads everything that an explanation needs; what may not be read is said in it. */
export async function gatherExplanation(
  client: Client,
  ref: Required<ObjectRef>,
  signal: AbortSignal,
): Promise<ExplainInput> {
  const service = await getService(client, ref, signal);
  const read = async <T extends KubeObject>(
    resource: Resource,
    options: Parameters<Client['list']>[1],
  ): Promise<Reading<T>> => {
    try {
      return { items: (await client.list<T>(resource, options, signal)).items };
    } catch (thrown) {
      if (signal.aborted) throw thrown;
      return { problem: `cannot be looked at: ${shortReason(thrown)}` };
    }
  };
  const { namespace } = ref;
  const ofOperator = { labelSelector: 'app.kubernetes.io/name=signalbox' };
  const [pods, events, nodes, scheduled, operators, mutating, validating] = await Promise.all([
    read<PodState>(resources.pods, { namespace, labelSelector: `app.kubernetes.io/part-of=${partOf}` }),
    read<KubeObject & EventObject>(resources.events, { namespace, fieldSelector: 'type=Warning' }),
    read<Node>(resources.nodes, {}),
    read<Scheduled>(resources.pods, {}),
    read<WorkloadObject>(resources.deployments, ofOperator),
    read<WebhookObject>(resources.mutatingWebhookConfigurations, ofOperator),
    read<WebhookObject>(resources.validatingWebhookConfigurations, ofOperator),
  ]);
  const webhooks =
    'problem' in mutating
      ? mutating
      : 'problem' in validating
        ? validating
        : { items: [...mutating.items, ...validating.items] };
  const gpus = 'items' in nodes && 'items' in scheduled ? capacityOf(nodes.items, scheduled.items) : [];
  return { service, pods, events, gpus, operators, webhooks, nowMs: Date.now() };
}

/** GPUs of the cluster and of each node; nothing where nodes may not be read. */
export async function readCapacity(
  client: Client,
  signal: AbortSignal,
): Promise<{ readonly capacity: readonly GpuCapacity[]; readonly nodes: readonly NodeRoom[] }> {
  try {
    const [nodes, pods] = await Promise.all([
      client.list<Node>(resources.nodes, {}, signal),
      client.list<Scheduled>(resources.pods, {}, signal),
    ]);
    return {
      capacity: capacityOf(nodes.items, pods.items),
      nodes: nodes.items.map((node) => ({
        name: node.metadata.name,
        free: Object.fromEntries(
          capacityOf([node], pods.items).map(({ resource, largestFree }) => [resource, largestFree]),
        ),
      })),
    };
  } catch (thrown) {
    if (!hasCode(thrown, 'forbidden')) throw thrown;
    return { capacity: [], nodes: [] };
  }
}

/** Extended resources of all nodes: what there is and what is left of it. */
export function capacityOf(nodes: readonly Node[], pods: readonly Scheduled[]): readonly GpuCapacity[] {
  const names = [
    ...new Set(
      nodes.flatMap(({ status }) => Object.keys(status?.allocatable ?? {}).filter((name) => name.includes('/'))),
    ),
  ].sort();
  return names.map((resource) => {
    const usedOn = new Map<string, number>();
    for (const { spec, status } of pods) {
      if (!spec?.nodeName || status?.phase === 'Succeeded' || status?.phase === 'Failed') continue;
      const wanted = (spec.containers ?? []).reduce(
        (sum, { resources: of }) => sum + Number(of?.requests?.[resource] ?? of?.limits?.[resource] ?? 0),
        0,
      );
      usedOn.set(spec.nodeName, (usedOn.get(spec.nodeName) ?? 0) + wanted);
    }
    const free = nodes.map(({ metadata, spec, status }) =>
      spec?.unschedulable ? 0 : Number(status?.allocatable?.[resource] ?? 0) - (usedOn.get(metadata.name) ?? 0),
    );
    return {
      resource,
      allocatable: nodes.reduce((sum, { status }) => sum + Number(status?.allocatable?.[resource] ?? 0), 0),
      used: [...usedOn.values()].reduce((sum, used) => sum + used, 0),
      largestFree: Math.max(0, ...free),
    };
  });
}
