import { components } from '../../api/labels.ts';
import type { Manifest } from '../../kube/object.ts';
import type { Context } from '../input.ts';
import { componentLabels } from '../labels.ts';
import { manifestOf, ownerOf } from '../manifest.ts';
import { pickerBinaryOf } from './binary.ts';
import { eventsPort, pickerPorts } from './deployment.ts';

/** The Service by which gateways find the picker; a pool may give it another name. */
export function pickerServiceName(context: Context): string {
  return context.effective.router?.scheduler?.pool?.spec?.endpointPickerRef?.name ?? context.names.schedulerService;
}

export function renderPickerService(context: Context): Manifest {
  const labels = componentLabels(context.name, components.scheduler);
  return manifestOf(
    { group: '', version: 'v1', kind: 'Service' },
    {
      name: pickerServiceName(context),
      namespace: context.namespace,
      labels,
      ownerReferences: ownerOf(context.service),
    },
    {
      spec: {
        type: 'ClusterIP',
        selector: labels,
        ports: [
          // Without TLS ext_proc is gRPC over clear-text HTTP/2: gateways that look at appProtocol must not speak HTTP/1.1 to it.
          {
            name: 'grpc',
            appProtocol: context.platform.tls ? 'https' : 'kubernetes.io/h2c',
            protocol: 'TCP',
            port: pickerPorts.grpc,
            targetPort: 'grpc',
          },
          { name: 'grpc-health', protocol: 'TCP', port: pickerPorts.grpcHealth, targetPort: 'grpc-health' },
          { name: 'metrics', protocol: 'TCP', port: pickerPorts.metrics, targetPort: 'metrics' },
          ...(pickerBinaryOf(context).isUpstream
            ? [{ name: 'zmq', protocol: 'TCP', port: eventsPort, targetPort: 'zmq' }]
            : []),
        ],
      },
    },
  );
}
