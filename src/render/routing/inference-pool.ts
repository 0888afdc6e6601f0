import type { InferencePoolSpec, XInferencePoolSpec } from '../../api/foreign/inference-pool.ts';
import { components } from '../../api/labels.ts';
import type { Manifest } from '../../kube/object.ts';
import type { Context } from '../input.ts';
import { componentLabels, workloadSelector } from '../labels.ts';
import { manifestOf, ownerOf } from '../manifest.ts';
import { servingPort } from '../pod/main.ts';
import { pickerPorts } from '../scheduler/deployment.ts';
import { pickerServiceName } from '../scheduler/service.ts';

/** The InferencePool, in each of the two APIs that is served: gateways know one or the other. */
export function renderInferencePools(context: Context): readonly Manifest[] {
  const { service, name, namespace, names, platform } = context;
  const metadata = {
    name: names.pool,
    namespace,
    labels: componentLabels(name, components.scheduler),
    ownerReferences: ownerOf(service),
  };
  const own = context.effective.router?.scheduler?.pool?.spec;
  const selector = own?.selector?.matchLabels ?? workloadSelector(name);
  const targetPorts = own?.targetPorts ?? [{ number: servingPort }];
  const picker = {
    group: own?.endpointPickerRef?.group ?? '',
    kind: own?.endpointPickerRef?.kind ?? 'Service',
    name: pickerServiceName(context),
    port: own?.endpointPickerRef?.port?.number ?? pickerPorts.grpc,
    failureMode: own?.endpointPickerRef?.failureMode ?? 'FailOpen',
  } as const;
  const spec: InferencePoolSpec = {
    selector: { matchLabels: selector },
    targetPorts,
    ...(own?.appProtocol ? { appProtocol: own.appProtocol } : {}),
    endpointPickerRef: { ...picker, port: { number: picker.port } },
  };
  const { port: portNumber, ...extension } = picker;
  const xSpec: XInferencePoolSpec = {
    selector,
    targetPortNumber: targetPorts[0]?.number ?? servingPort,
    extensionRef: { ...extension, portNumber },
  };
  const kind = 'InferencePool';
  return [
    ...(platform.served.pool
      ? [manifestOf({ group: 'inference.networking.k8s.io', version: 'v1', kind }, metadata, { spec })]
      : []),
    ...(platform.served.xPool
      ? [manifestOf({ group: 'inference.networking.x-k8s.io', version: 'v1alpha2', kind }, metadata, { spec: xSpec })]
      : []),
  ];
}
