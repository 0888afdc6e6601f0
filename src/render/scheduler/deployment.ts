import type { Container, PodSpec } from '../../api/foreign/pod.ts';
import { components } from '../../api/labels.ts';
import type { Manifest } from '../../kube/object.ts';
import type { Context } from '../input.ts';
import { componentLabels } from '../labels.ts';
import { manifestOf, ownerOf } from '../manifest.ts';
import { mergeContainer, mergePod } from '../merge.ts';
import { renderPickerProbes } from '../pod/probes.ts';
import { pickerResources } from '../pod/resources.ts';
import { tracingEnvironment } from '../pod/tracing.ts';
import { hasFlag } from '../pod/vllm-args.ts';
import { certificateMounts, certificatesPath, certificateVolumes } from '../tls.ts';
import { renderPickerConfig } from './picker-config.ts';

export const pickerPorts = { grpc: 9002, grpcHealth: 9003, metrics: 9090 } as const;

/** The picker's container, as users name it in `scheduler.template`. */
export const pickerContainer = 'main';

/** The Deployment of the endpoint picker. */
export function renderPickerDeployment(context: Context): Manifest {
  const { service, name, namespace, names, effective } = context;
  const scheduler = effective.router?.scheduler;
  const replicas = scheduler?.replicas ?? 1;
  const own = componentLabels(name, components.scheduler);
  return manifestOf(
    { group: 'apps', version: 'v1', kind: 'Deployment' },
    { name: names.scheduler, namespace, labels: own, ownerReferences: ownerOf(service) },
    {
      spec: {
        replicas,
        selector: { matchLabels: own },
        // One picker is replaced without a gap. Of several only the leader is ever ready, so they cannot roll.
        strategy:
          replicas > 1
            ? { type: 'Recreate' }
            : { type: 'RollingUpdate', rollingUpdate: { maxUnavailable: 0, maxSurge: 1 } },
        template: {
          metadata: {
            labels: { ...scheduler?.labels, ...own },
            ...(Object.keys(scheduler?.annotations ?? {}).length > 0 ? { annotations: scheduler?.annotations } : {}),
          },
          spec: renderPickerPod(context, replicas),
        },
      },
    },
  );
}

function renderPickerPod(context: Context, replicas: number): PodSpec {
  const template = context.effective.router?.scheduler?.template;
  const theirs = template?.containers?.find((container) => container.name === pickerContainer);
  const others = (template?.containers ?? []).filter((container) => container.name !== pickerContainer);
  const ours: PodSpec = {
    serviceAccountName: context.names.schedulerServiceAccount,
    terminationGracePeriodSeconds: 60,
    containers: [],
    ...(context.platform.tls ? { volumes: certificateVolumes(context) } : {}),
  };
  return {
    ...mergePod(ours, template ? { ...template, containers: [] } : undefined),
    containers: [renderPicker(context, replicas, theirs), ...others],
  };
}

function renderPicker(context: Context, replicas: number, theirs: Container | undefined): Container {
  const { namespace, names, platform } = context;
  const own = [...(theirs?.command ?? []), ...(theirs?.args ?? [])];
  const flag = (name: string, value: string) => (hasFlag(own, name) ? [] : [name, value]);
  const ownConfig = hasFlag(own, '--config-text') || hasFlag(own, '--config-file');
  const inline = context.effective.router?.scheduler?.config?.inline !== undefined;
  const tls = platform.tls
    ? [
        ['--secure-serving', 'true'],
        ['--cert-path', certificatesPath],
        ['--enable-cert-reload', 'true'],
        ['--model-server-metrics-scheme', 'https'],
      ].flatMap(([name = '', value = '']) => (hasFlag(own, name) ? [] : [`${name}=${value}`]))
    : hasFlag(own, '--secure-serving')
      ? []
      : ['--secure-serving=false'];
  const args = [
    ...flag('--pool-name', names.pool),
    ...flag('--pool-namespace', namespace),
    ...flag('--grpc-port', String(pickerPorts.grpc)),
    ...flag('--grpc-health-port', String(pickerPorts.grpcHealth)),
    ...flag('--metrics-port', String(pickerPorts.metrics)),
    ...tls,
    ...(replicas > 1 && !hasFlag(own, '--ha-enable-leader-election') ? ['--ha-enable-leader-election'] : []),
    ...(context.effective.tracing && !hasFlag(own, '--tracing') ? ['--tracing=true'] : []),
    ...(ownConfig && !inline ? [] : ['--config-text', renderPickerConfig(context)]),
  ];
  const ours: Container = {
    name: pickerContainer,
    image: platform.images.epp,
    args,
    ports: [
      { containerPort: pickerPorts.grpc, name: 'grpc', protocol: 'TCP' },
      { containerPort: pickerPorts.grpcHealth, name: 'grpc-health', protocol: 'TCP' },
      { containerPort: pickerPorts.metrics, name: 'metrics', protocol: 'TCP' },
    ],
    env: [
      { name: 'POD_NAME', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } },
      { name: 'NAMESPACE', valueFrom: { fieldRef: { fieldPath: 'metadata.namespace' } } },
      ...tracingEnvironment(context, 'picker'),
    ],
    ...renderPickerProbes(pickerPorts.grpcHealth),
    ...(platform.tls ? { volumeMounts: certificateMounts(context) } : {}),
    resources: pickerResources,
    securityContext: {
      allowPrivilegeEscalation: false,
      capabilities: { drop: ['ALL'] },
      readOnlyRootFilesystem: true,
      runAsNonRoot: true,
      runAsUser: 65_532,
      seccompProfile: { type: 'RuntimeDefault' },
    },
  };
  return theirs ? mergeContainer(ours, theirs) : ours;
}
