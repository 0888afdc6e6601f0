import { X509Certificate } from 'node:crypto';
import { type Condition, conditionTypes, reasons } from '../../../api/conditions.ts';
import { components, labels } from '../../../api/labels.ts';
import type { KubeObject } from '../../../kube/object.ts';
import type { PodState } from '../../../plan/causes.ts';
import type { ServiceObject } from '../../service.ts';
import { type EventObject, explainPod, type GpuCapacity } from './pod.ts';
import { type Cause, whole } from './tree.ts';

/** What there is of one kind, or why it could not be read. */
export type Reading<T> = { readonly items: readonly T[] } | { readonly problem: string };

/** A Deployment of the operator. */
export interface WorkloadObject extends KubeObject {
  readonly spec?: { readonly replicas?: number };
  readonly status?: { readonly readyReplicas?: number };
}

export interface WebhookObject extends KubeObject {
  readonly webhooks?: readonly { readonly name: string; readonly clientConfig?: { readonly caBundle?: string } }[];
}

/** Everything that an explanation is made of. */
export interface ExplainInput {
  readonly service: ServiceObject;
  readonly pods: Reading<PodState>;
  readonly events: Reading<EventObject>;
  readonly gpus: readonly GpuCapacity[];
  readonly operators: Reading<WorkloadObject>;
  readonly webhooks: Reading<WebhookObject>;
  readonly nowMs: number;
}

const staleMs = 60_000;
const renewMs = 24 * 3_600_000;

/** From a service down to what keeps it from being ready. Pure. */
export function explainService(input: ExplainInput): Cause {
  const { service } = input;
  const { namespace, name } = service.metadata;
  const conditions = service.status?.conditions ?? [];
  const ready = conditions.find(({ type }) => type === conditionTypes.ready);
  const parts = [operatorCause(input), certificateCause(input), ...ownCauses(input, conditions)];
  const isReady = ready?.status === 'True';
  const message = isReady
    ? `ready at ${service.status?.url ?? 'no URL'}`
    : (ready?.message ?? ready?.reason ?? 'has no status yet');
  return {
    what: `${namespace}/${name}`,
    state: isReady && !parts.some(({ state }) => state === 'bad') ? 'good' : 'bad',
    message: message.length > 200 ? `${message.slice(0, 199)}…` : message,
    command: `kubectl get llmisvc ${name} -n ${namespace} -o yaml`,
    parts,
  };
}

function operatorCause({ service, operators, nowMs }: ExplainInput): Cause {
  const what = 'operator';
  const observed = service.status?.observedGeneration ?? 0;
  const isBehind = observed < (service.metadata.generation ?? 0);
  const created = Date.parse(service.metadata.creationTimestamp ?? '');
  const isStale = isBehind && nowMs - created > staleMs;
  if ('problem' in operators) {
    return isStale
      ? {
          what,
          state: 'bad',
          message: `has not looked at generation ${service.metadata.generation} (last: ${observed}); ${operators.problem}`,
        }
      : { what, state: 'unknown', message: operators.problem };
  }
  const [deployment] = operators.items;
  if (!deployment)
    return {
      what,
      state: isStale ? 'bad' : 'unknown',
      message: 'no Deployment of it is in the cluster',
      remedy: 'install Signalbox with Helm, or start signalbox-operator with --kubeconfig',
    };
  const { namespace, name } = deployment.metadata;
  const wanted = deployment.spec?.replicas ?? 1;
  const isUp = (deployment.status?.readyReplicas ?? 0) > 0;
  const command = `kubectl logs deploy/${name} -n ${namespace}`;
  if (!isUp)
    return {
      what,
      state: 'bad',
      message: `0 of ${wanted} replicas of ${namespace}/${name} are ready`,
      command: `kubectl describe deploy/${name} -n ${namespace}`,
      remedy: 'nothing changes until it runs; what serves already goes on serving',
    };
  if (isStale)
    return {
      what,
      state: 'bad',
      message: `runs, and has not looked at generation ${service.metadata.generation} (last: ${observed})`,
      command,
      remedy: 'its log names the service with the error that keeps it',
    };
  return {
    what,
    state: 'good',
    message: isBehind ? 'at work on the latest change' : 'has seen the latest change',
    command,
  };
}

function certificateCause({ webhooks, nowMs }: ExplainInput): Cause {
  const what = 'certificate of the webhooks';
  if ('problem' in webhooks) return { what, state: 'unknown', message: webhooks.problem };
  if (webhooks.items.length === 0)
    return {
      what,
      state: 'unknown',
      message: 'no webhook of Signalbox is registered',
      remedy: 'services are stored unchecked: install the chart with its webhooks',
    };
  for (const { kind, metadata, webhooks: hooks } of webhooks.items) {
    const command = `kubectl get ${kind.toLowerCase()} ${metadata.name} -o yaml`;
    for (const { name, clientConfig } of hooks ?? []) {
      const bundle = Buffer.from(clientConfig?.caBundle ?? '', 'base64').toString();
      const expires = latestExpiry(bundle);
      if (expires === undefined)
        return {
          what,
          state: 'bad',
          message: `${metadata.name} has no authority for ${name}`,
          command,
          remedy: 'the operator writes it within seconds of its start: is it running?',
        };
      if (expires - nowMs < renewMs)
        return {
          what,
          state: 'bad',
          message: `that of ${metadata.name} ${expires < nowMs ? 'ended' : 'ends'} at ${new Date(expires).toISOString()}`,
          command,
          remedy: 'the operator renews it long before: is it running?',
        };
    }
  }
  return { what, state: 'good', message: 'valid' };
}

/** Milliseconds since 1970 when the last certificate of a PEM bundle ends. */
function latestExpiry(pem: string): number | undefined {
  const times = (pem.match(/-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g) ?? []).flatMap((text) => {
    try {
      return [Date.parse(new X509Certificate(text).validTo)];
    } catch {
      return [];
    }
  });
  return times.length > 0 ? Math.max(...times) : undefined;
}

const parents: ReadonlySet<string> = new Set([
  conditionTypes.ready,
  conditionTypes.workloadsReady,
  conditionTypes.routerReady,
]);

/** One cause a condition, with the pods behind it. */
function ownCauses(input: ExplainInput, conditions: readonly Condition[]): readonly Cause[] {
  return conditions
    .filter(({ type }) => !parents.has(type))
    .map((condition) => {
      const pods = podComponents[condition.type] ?? [];
      const own = pods.length > 0 ? podCauses(input, pods) : [];
      const isTrue = condition.status === 'True';
      const cause: Cause = {
        what: names[condition.type] ?? condition.type,
        state: isTrue ? 'good' : 'bad',
        ...(condition.message || condition.reason ? { message: condition.message ?? condition.reason ?? '' } : {}),
        ...(isConsequence(condition, conditions) ? { isConsequence: true } : hintOf(input.service, condition)),
      };
      if (own.length === 0) return cause;
      const inner = whole(cause.what, own);
      // The pods below say the rest of the message.
      const counted = cause.message?.split('; ').filter((text) => !/^(pod |\d+ pods, such as )/.test(text));
      return { ...cause, ...(counted && inner.state === 'bad' ? { message: counted.join('; ') } : {}), parts: own };
    });
}

const podComponents: Readonly<Record<string, readonly string[]>> = {
  [conditionTypes.mainWorkloadReady]: [components.workload],
  [conditionTypes.workerWorkloadReady]: [components.workloadLeader, components.workloadWorker],
  [conditionTypes.prefillWorkloadReady]: [components.workloadPrefill],
  [conditionTypes.prefillWorkerWorkloadReady]: [components.workloadLeaderPrefill, components.workloadWorkerPrefill],
  [conditionTypes.schedulerWorkloadReady]: [components.scheduler],
};

const names: Readonly<Record<string, string>> = {
  [conditionTypes.presetsCombined]: 'spec and its base configurations',
  [conditionTypes.mainWorkloadReady]: 'model servers',
  [conditionTypes.workerWorkloadReady]: 'groups of model servers',
  [conditionTypes.prefillWorkloadReady]: 'prefill model servers',
  [conditionTypes.prefillWorkerWorkloadReady]: 'groups of prefill model servers',
  [conditionTypes.scalingReady]: 'autoscaler',
  [conditionTypes.prefillScalingReady]: 'autoscaler of prefill',
  [conditionTypes.gatewaysReady]: 'Gateway',
  [conditionTypes.httpRoutesReady]: 'HTTPRoute',
  [conditionTypes.inferencePoolReady]: 'InferencePool',
  [conditionTypes.schedulerWorkloadReady]: 'endpoint picker',
};

function podCauses({ pods, events, gpus, service }: ExplainInput, wanted: readonly string[]): readonly Cause[] {
  if ('problem' in pods) return [{ what: 'pods', state: 'unknown', message: pods.problem }];
  const told = 'items' in events ? events.items : [];
  return pods.items
    .filter(
      ({ metadata }) =>
        metadata.labels?.[labels.name] === service.metadata.name &&
        wanted.includes(metadata.labels?.[labels.component] ?? ''),
    )
    .map((pod) =>
      explainPod(
        pod,
        told.filter(({ involvedObject }) => involvedObject?.uid === pod.metadata.uid),
        gpus,
      ),
    );
}

/** Routes and pools wait for the Gateway, which has a cause of its own. */
function isConsequence({ type, message }: Condition, all: readonly Condition[]): boolean {
  const waits = type === conditionTypes.httpRoutesReady || type === conditionTypes.inferencePoolReady;
  const gateway = all.find((condition) => condition.type === conditionTypes.gatewaysReady);
  return waits && gateway?.status === 'False' && / waits for /.test(message ?? '');
}

/** What to look at and do, by condition and reason. */
function hintOf(
  service: ServiceObject,
  { type, status, reason, message }: Condition,
): Pick<Cause, 'command' | 'remedy'> {
  const { namespace, name } = service.metadata;
  const selector = `-n ${namespace} -l ${labels.name}=${name}`;
  if (status === 'True') return {};
  switch (type) {
    case conditionTypes.presetsCombined:
      return {
        command: `kubectl get llmisvc ${name} -n ${namespace} -o yaml`,
        remedy: 'correct the field that the message names; `signalbox validate` checks it before you apply',
      };
    case conditionTypes.gatewaysReady:
      return {
        command: 'kubectl get gatewayclass; kubectl get gateway --all-namespaces',
        remedy:
          reason === reasons.refsInvalid
            ? 'make the Gateway, or correct spec.router.gateway.refs'
            : reason === reasons.gatewayPreconditionNotMet
              ? 'install the Gateway API with an implementation that supports InferencePool, or name the GatewayClass in the operator’s settings'
              : 'the Gateway’s own conditions say what its controller lacks',
      };
    case conditionTypes.httpRoutesReady:
      return {
        command: `kubectl get httproute ${selector} -o yaml`,
        remedy:
          'the route’s status.parents says why a Gateway does not take it: often allowedRoutes of the listener, or a missing ReferenceGrant',
      };
    case conditionTypes.inferencePoolReady:
      return {
        command: `kubectl get inferencepools ${selector} -o yaml`,
        remedy:
          reason === reasons.inferencePoolNotServed
            ? 'install the InferencePool definitions of the Gateway API inference extension'
            : 'the Gateway’s controller must support InferencePool and have seen the route',
      };
    case conditionTypes.scalingReady:
    case conditionTypes.prefillScalingReady:
      return {
        command: `kubectl get hpa,scaledobjects ${selector}`,
        remedy:
          reason === reasons.scalingCrdNotFound
            ? 'install KEDA, or scale by replicas'
            : 'the autoscaler’s conditions name the metric that it cannot read',
      };
    default:
      if (/exceeded quota/.test(message ?? ''))
        return {
          command: `kubectl describe resourcequota -n ${namespace}`,
          remedy: 'raise the quota of the namespace or ask for less',
        };
      if (/serviceaccount .* not found/.test(message ?? ''))
        return { remedy: 'make the ServiceAccount that the template names' };
      return { command: `kubectl get pods ${selector}` };
  }
}
