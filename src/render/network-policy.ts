import type { PodTemplate } from '../api/foreign/pod.ts';
import { components, labels, partOf } from '../api/labels.ts';
import type { Manifest } from '../kube/object.ts';
import type { Context } from './input.ts';
import { componentLabels } from './labels.ts';
import { manifestOf, ownerOf } from './manifest.ts';
import { decoderPort, servingPort } from './pod/main.ts';
import { sidecarMetricsPort } from './pod/sidecar.ts';
import { gatewayParents } from './routing/gateway.ts';
import { pickerPorts } from './scheduler/deployment.ts';

/**
 * Who may open connections to a service's pods. Pods of the service reach each other on every port: prefill, KV transfer
 * and metrics need that. The kubelet's probes come from the node, which no policy keeps out.
 *
 * - `internal`: everybody may call the ports that are for others; the engine behind a sidecar, KV transfer and groups are closed.
 * - `strict`: of those, callers reach requests and scrapers metrics only; see `callersOf`.
 */

type Peer = Readonly<Record<string, unknown>>;
type Rule = Readonly<Record<string, unknown>>;

export function renderNetworkPolicies(context: Context): readonly Manifest[] {
  const { network } = context.platform;
  if (!network || network.mode === 'off') return [];
  const { name, names, effective } = context;
  const ofService = { [labels.name]: name, [labels.partOf]: partOf };
  const isPicker = { key: labels.component, values: [components.scheduler] };
  const own: Rule = { from: [{ podSelector: { matchLabels: ofService } }] };
  const isStrict = network.mode === 'strict';
  const callers = isStrict ? callersOf(context) : undefined;
  const scrapers = isStrict ? network.scrapers.map(peerOf) : undefined;
  const templates = [effective.template, effective.worker, effective.prefill?.template, effective.prefill?.worker];
  const poolPorts = (effective.router?.scheduler?.pool?.spec?.targetPorts ?? []).map(({ number }) => number);
  // Behind a sidecar the engine is its alone, also where a template declares the port.
  const modelPorts = [...poolPorts, ...ownPorts(templates)].filter(
    (port) => !context.hasPrefill || port !== decoderPort,
  );
  const rules = (calls: readonly number[], metrics: readonly number[], shared: readonly number[]) =>
    callers === undefined
      ? [ruleOf(undefined, [...calls, ...metrics, ...shared])]
      : [ruleOf(callers, [...calls, ...shared]), ruleOf(scrapers, [...metrics, ...shared])];
  return [
    policy(context, names.workloadPolicy, components.workload, {
      podSelector: { matchLabels: ofService, matchExpressions: [{ ...isPicker, operator: 'NotIn' }] },
      // vLLM serves metrics and requests on one port.
      ingress: [own, ...rules(modelPorts, [sidecarMetricsPort], [servingPort])].filter((rule) => rule !== undefined),
    }),
    ...(context.pool
      ? [
          policy(context, names.schedulerPolicy, components.scheduler, {
            podSelector: { matchLabels: componentLabels(name, components.scheduler) },
            ingress: [
              own,
              ...rules(
                [pickerPorts.grpc, pickerPorts.grpcHealth, ...ownPorts([effective.router?.scheduler?.template])],
                [pickerPorts.metrics],
                [],
              ),
            ].filter((rule) => rule !== undefined),
          }),
        ]
      : []),
  ];
}

function policy(
  context: Context,
  name: string,
  component: typeof components.workload | typeof components.scheduler,
  spec: Readonly<Record<string, unknown>>,
): Manifest {
  return manifestOf(
    { group: 'networking.k8s.io', version: 'v1', kind: 'NetworkPolicy' },
    {
      name,
      namespace: context.namespace,
      labels: componentLabels(context.name, component),
      ownerReferences: ownerOf(context.service),
    },
    { spec: { ...spec, policyTypes: ['Ingress'] } },
  );
}

/** Undefined peers are everybody; none at all is no rule, for an empty list would be everybody too. */
function ruleOf(peers: readonly Peer[] | undefined, ports: readonly number[]): Rule | undefined {
  if (peers?.length === 0 || ports.length === 0) return undefined;
  return {
    ...(peers ? { from: peers } : {}),
    ports: [...new Set(ports)].map((port) => ({ protocol: 'TCP', port })),
  };
}

/** Ports that the user's own containers declare: somebody is to call them. */
function ownPorts(templates: readonly (PodTemplate | undefined)[]): readonly number[] {
  return templates
    .flatMap((template) => [...(template?.containers ?? []), ...(template?.initContainers ?? [])])
    .flatMap(({ ports }) => (ports ?? []).map(({ containerPort }) => containerPort));
}

/** The namespaces of the service's Gateways and what the operator's settings add; without a route also the service's own. */
function callersOf(context: Context): readonly Peer[] {
  const { effective, namespace, platform } = context;
  const isRouted = effective.router?.gateway !== undefined || effective.router?.route !== undefined;
  const namespaces = isRouted ? gatewayParents(context).map((parent) => parent.namespace ?? namespace) : [namespace];
  return [...new Set([...namespaces, ...(platform.network?.callers ?? [])])].map(peerOf);
}

/** `10.0.0.0/8` or the name of a namespace. */
function peerOf(text: string): Peer {
  return text.includes('/')
    ? { ipBlock: { cidr: text } }
    : { namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': text } } };
}
