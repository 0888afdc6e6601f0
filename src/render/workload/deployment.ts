import type { PodSpec } from '../../api/foreign/pod.ts';
import { annotations, components, sidecarInjectionLabel } from '../../api/labels.ts';
import type { WorkloadSpec } from '../../api/v1alpha2/llm-inference-service.ts';
import type { Manifest } from '../../kube/object.ts';
import type { Context } from '../input.ts';
import { componentLabels, podAnnotationsOf, podLabelsOf, type Role, workloadPodLabels } from '../labels.ts';
import { manifestOf, ownerOf } from '../manifest.ts';
import { decoderPort, hasOwnSidecar, renderModelPod, servingPort } from '../pod/main.ts';
import { startupBudgetSeconds } from '../pod/probes.ts';
import type { SidecarSettings } from '../pod/sidecar.ts';

const deployment = { group: 'apps', version: 'v1', kind: 'Deployment' } as const;

/** Seconds without progress after which a rollout counts as failed: longer than a model may take to load. */
const progressDeadlineSeconds = startupBudgetSeconds + 300;

/** The Deployments of model servers: main or decode, and prefill. */
export function renderWorkloads(context: Context): readonly Manifest[] {
  const { effective } = context;
  const main = renderWorkload(context, effective, context.hasPrefill ? 'decode' : 'both');
  return effective.prefill ? [main, renderWorkload(context, effective.prefill, 'prefill')] : [main];
}

function renderWorkload(context: Context, workload: WorkloadSpec, role: Role): Manifest {
  const { service, name, namespace, names } = context;
  const isPrefill = role === 'prefill';
  const own = componentLabels(name, isPrefill ? components.workloadPrefill : components.workload);
  const needsSidecar = role === 'decode' && !hasOwnSidecar(workload.template);
  const pod: PodSpec = renderModelPod(context, workload, role);
  const podAnnotations = {
    ...podAnnotationsOf(service.metadata.annotations),
    ...workload.annotations,
    ...(needsSidecar ? { [annotations.sidecar]: JSON.stringify(sidecarSettingsOf(context)) } : {}),
  };
  return manifestOf(
    deployment,
    {
      name: isPrefill ? names.prefill : names.main,
      namespace,
      labels: own,
      ownerReferences: ownerOf(service),
    },
    {
      spec: {
        ...(workload.replicas === undefined ? {} : { replicas: workload.replicas }),
        selector: { matchLabels: own },
        ...(workload.rolloutStrategy
          ? { strategy: { type: 'RollingUpdate', rollingUpdate: workload.rolloutStrategy } }
          : {}),
        progressDeadlineSeconds,
        template: {
          metadata: {
            labels: {
              ...workloadPodLabels(name, role, { ...podLabelsOf(service.metadata.labels), ...workload.labels }),
              ...(needsSidecar ? { [sidecarInjectionLabel]: 'true' } : {}),
            },
            ...(Object.keys(podAnnotations).length > 0 ? { annotations: podAnnotations } : {}),
          },
          spec: pod,
        },
      },
    },
  );
}

/** What the pod webhook is told about a decode pod's sidecar. */
export function sidecarSettingsOf(context: Context): SidecarSettings {
  const { namespace, names, platform } = context;
  return {
    image: platform.images.sidecar,
    port: servingPort,
    decoderPort,
    prefillUrl: `http://${names.prefillService}.${namespace}.svc.cluster.local:${servingPort}`,
    connector: 'nixlv2',
    poolNamespace: namespace,
    poolName: context.names.pool,
    sessionCacheSize: platform.sidecarSessions,
  };
}
