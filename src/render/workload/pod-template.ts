import { annotations, components, sidecarInjectionLabel } from '../../api/labels.ts';
import { deviceClaimOf } from '../../api/v1alpha2/devices.ts';
import type { WorkloadSpec } from '../../api/v1alpha2/llm-inference-service.ts';
import type { NodePart } from '../../api/v1alpha2/parallelism.ts';
import type { Context } from '../input.ts';
import { podAnnotationsOf, podLabelsOf, type Role, workerPodLabels, workloadPodLabels } from '../labels.ts';
import { describeClaim } from '../pod/devices.ts';
import { decoderPort, hasOwnSidecar, renderModelPod, servingPort } from '../pod/main.ts';
import { rankAnnotation, rankFiles } from '../pod/parallel-args.ts';
import type { SidecarDefaults, SidecarSettings } from '../pod/sidecar.ts';
import { sidecarTracing } from '../pod/tracing.ts';
import { certificatesPath, certificatesVolume, schemeOf, serverNameOf } from '../tls.ts';

/** The pod template of a Deployment, or of the leader or the workers of a LeaderWorkerSet. */
export function renderPodTemplate(
  context: Context,
  workload: WorkloadSpec,
  role: Role,
  part: NodePart,
): Readonly<Record<string, unknown>> {
  const { service, name } = context;
  const needsSidecar = hasSidecar(role, part) && !hasOwnSidecar(workload.template);
  const claim = deviceClaimOf(service);
  const podAnnotations = {
    ...podAnnotationsOf(service.metadata.annotations),
    ...workload.annotations,
    ...(claim ? { [annotations.deviceClaim]: describeClaim(claim) } : {}),
    ...(needsSidecar ? { [annotations.sidecar]: JSON.stringify(sidecarSettingsOf(context)) } : {}),
    ...(part === 'worker'
      ? Object.fromEntries(
          rankFiles(workload.parallelism).map(({ index, content }) => [rankAnnotation(index), content]),
        )
      : {}),
  };
  const own = { ...podLabelsOf(service.metadata.labels), ...workload.labels };
  return {
    metadata: {
      labels: {
        ...(part === 'worker' ? workerPodLabels(name, role, own) : workloadPodLabels(name, role, own, part)),
        ...(needsSidecar ? { [sidecarInjectionLabel]: 'true' } : {}),
      },
      ...(Object.keys(podAnnotations).length > 0 ? { annotations: podAnnotations } : {}),
    },
    spec: renderModelPod(context, workload, role, part),
  };
}

/** Whether a routing sidecar stands before the model server: only pods that are called decode for others. */
export function hasSidecar(role: Role, part: NodePart): boolean {
  return role === 'decode' && part !== 'worker';
}

/** The value of `app.kubernetes.io/component` on a workload object of a role. */
export function componentOf(role: Role): typeof components.workload | typeof components.workloadPrefill {
  return role === 'prefill' ? components.workloadPrefill : components.workload;
}

/** What the pod webhook is told about a decode pod's sidecar. */
export function sidecarSettingsOf(context: Context): Omit<SidecarSettings, keyof SidecarDefaults> {
  const { namespace, names, platform } = context;
  const tracing = sidecarTracing(context);
  return {
    port: servingPort,
    decoderPort,
    prefillUrl: `${schemeOf(context)}://${names.prefillService}.${namespace}.svc.cluster.local:${servingPort}`,
    connector: 'nixlv2',
    poolNamespace: namespace,
    poolName: context.poolName,
    ...(platform.images.flavour === 'upstream' && context.pool === 'inference.networking.x-k8s.io'
      ? { poolGroup: context.pool }
      : {}),
    ...(platform.tls
      ? { tls: { volume: certificatesVolume, path: certificatesPath, serverName: serverNameOf(context) } }
      : {}),
    ...(tracing ? { tracing } : {}),
  };
}
