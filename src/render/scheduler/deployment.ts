import { stringify } from 'yaml';
import type { Container, PodSpec } from '../../api/foreign/pod.ts';
import { components } from '../../api/labels.ts';
import type { Manifest } from '../../kube/object.ts';
import type { Context } from '../input.ts';
import { componentLabels } from '../labels.ts';
import { manifestOf, ownerOf } from '../manifest.ts';
import { mergeContainer, mergePod } from '../merge.ts';
import { renderPickerProbes } from '../pod/probes.ts';
import { pickerResources, upstreamPickerResources } from '../pod/resources.ts';
import { tracingEnvironment } from '../pod/tracing.ts';
import { hasFlag } from '../pod/vllm-args.ts';
import { certificateMounts, certificatesPath, certificateVolumes } from '../tls.ts';
import { isAtLeast, pickerBinaryOf, pickerContainer } from './binary.ts';
import { mapConfigText } from './config-text.ts';
import { hasPredictor, predictorEnvironment, predictorPod } from './latency-predictor.ts';
import { takeMetricFlags } from './migrate-config.ts';
import { renderPickerConfig, rewritePickerConfig } from './picker-config.ts';
import { hasTokenizer } from './tokenizer.ts';

/** Where upstream's picker takes KV events that engines send. */
export const eventsPort = 5557;

export const pickerPorts = { grpc: 9002, grpcHealth: 9003, metrics: 9090 } as const;

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
  const predictor = predictorPod(context);
  const theirs = template?.containers?.find((container) => container.name === pickerContainer);
  const { containers: others } = mergePod(
    { containers: predictor.containers },
    { containers: (template?.containers ?? []).filter((container) => container.name !== pickerContainer) },
  );
  const volumes = [...(context.platform.tls ? certificateVolumes(context) : []), ...predictor.volumes];
  const ours: PodSpec = {
    serviceAccountName: context.names.schedulerServiceAccount,
    terminationGracePeriodSeconds: 60,
    containers: [],
    ...(volumes.length > 0 ? { volumes } : {}),
  };
  return {
    ...mergePod(ours, template ? { ...template, containers: [] } : undefined),
    containers: [renderPicker(context, replicas, theirs), ...others],
  };
}

function renderPicker(context: Context, replicas: number, template: Container | undefined): Container {
  const { namespace, names, platform } = context;
  const binary = pickerBinaryOf(context);
  const { isUpstream } = binary;
  const { theirs, engineSpecs } = readTemplate(context, template);
  const own = [...(theirs?.command ?? []), ...(theirs?.args ?? [])];
  const flag = (name: string, value: string) => (hasFlag(own, name) ? [] : [name, value]);
  const ownConfig = hasFlag(own, '--config-text') || hasFlag(own, '--config-file');
  const inline = context.effective.router?.scheduler?.config?.inline !== undefined;
  const tls = platform.tls
    ? [
        ['--secure-serving', 'true'],
        ['--cert-path', certificatesPath],
        ['--enable-cert-reload', 'true'],
        ...(isUpstream && isAtLeast(binary, 10) ? [] : [['--model-server-metrics-scheme', 'https']]),
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
    // Upstream's writes spans to its output unless told otherwise.
    ...((context.effective.tracing || isUpstream) && !hasFlag(own, '--tracing')
      ? [`--tracing=${context.effective.tracing !== undefined}`]
      : []),
    ...((platform.pickerMetricsAuth || isUpstream) && !hasFlag(own, '--metrics-endpoint-auth')
      ? [`--metrics-endpoint-auth=${platform.pickerMetricsAuth === true}`]
      : []),
    ...(isUpstream ? flag('--zap-encoder', 'json') : []),
    ...(isUpstream && context.pool === 'inference.networking.x-k8s.io' ? flag('--pool-group', context.pool) : []),
    ...(ownConfig && !inline ? [] : ['--config-text', renderPickerConfig(context, engineSpecs)]),
  ];
  const ours: Container = {
    name: pickerContainer,
    image: platform.images.epp,
    args,
    ports: [
      { containerPort: pickerPorts.grpc, name: 'grpc', protocol: 'TCP' },
      { containerPort: pickerPorts.grpcHealth, name: 'grpc-health', protocol: 'TCP' },
      { containerPort: pickerPorts.metrics, name: 'metrics', protocol: 'TCP' },
      // Engines may send it their KV events.
      ...(isUpstream ? [{ containerPort: eventsPort, name: 'zmq', protocol: 'TCP' }] : []),
    ],
    env: [
      { name: 'POD_NAME', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } },
      { name: 'NAMESPACE', valueFrom: { fieldRef: { fieldPath: 'metadata.namespace' } } },
      ...tracingEnvironment(context, 'picker'),
      ...predictorEnvironment(context),
      ...trustEnvironment(context, isUpstream),
    ],
    ...renderPickerProbes(pickerPorts.grpcHealth),
    ...(platform.tls ? { volumeMounts: certificateMounts(context) } : {}),
    resources: isUpstream ? upstreamPickerResources : pickerResources,
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

/** The user's part of the container: its configuration as the picker reads it, without flags that pickers no longer have. */
function readTemplate(
  context: Context,
  template: Container | undefined,
): { readonly theirs: Container | undefined; readonly engineSpecs: Readonly<Record<string, string>> } {
  if (!template) return { theirs: undefined, engineSpecs: {} };
  const binary = pickerBinaryOf(context);
  const words = [...(template.command ?? []), ...(template.args ?? [])];
  // A file cannot be rewritten, and older pickers know these flags.
  const isKept = hasFlag(words, '--config-file') || !isAtLeast(binary, 7);
  const command = isKept ? undefined : takeMetricFlags(template.command ?? []);
  const args = isKept ? undefined : takeMetricFlags(template.args ?? []);
  const engineSpecs = { ...command?.engineSpecs, ...args?.engineSpecs };
  const theirs: Container = {
    ...template,
    ...(template.command && command ? { command: command.args } : {}),
    ...(template.args && args ? { args: args.args } : {}),
  };
  const isAsWritten =
    !binary.isUpstream && Object.keys(engineSpecs).length === 0 && !hasTokenizer(context) && !hasPredictor(context);
  return {
    theirs: isAsWritten
      ? theirs
      : mapConfigText(theirs, (config) => stringify(rewritePickerConfig(context, config, engineSpecs))),
    engineSpecs,
  };
}

/** So that the picker trusts the tokenizer's certificate. */
function trustEnvironment(context: Context, isUpstream: boolean): NonNullable<Container['env']> {
  if (!context.platform.tls || !hasTokenizer(context)) return [];
  return isUpstream
    ? [{ name: 'SSL_CERT_DIR', value: `${certificatesPath}:/etc/ssl/certs` }]
    : [{ name: 'NODE_EXTRA_CA_CERTS', value: `${certificatesPath}/ca.crt` }];
}
