import { components, labels, partOf } from '../api/labels.ts';
import type { Manifest } from '../kube/object.ts';
import type { Context } from './input.ts';
import { componentLabels, workloadSelector } from './labels.ts';
import { manifestOf, ownerOf } from './manifest.ts';
import { schemeOf, serverNameOf } from './tls.ts';

/** What a Prometheus scrapes of a service, where the API server knows PodMonitors: model servers, sidecars and the picker. */
export function renderPodMonitors(context: Context): readonly Manifest[] {
  const { platform, name, names } = context;
  if (!platform.served.podMonitor) return [];
  const scheme = schemeOf(context);
  const tls = platform.tls
    ? {
        tlsConfig: {
          ca: { configMap: { name: names.certificates, key: 'ca.crt' } },
          serverName: serverNameOf(context),
        },
      }
    : {};
  return [
    monitor(context, names.workloadMonitor, components.workload, workloadSelector(name), [
      { port: scheme, scheme, ...tls },
      // Upstream's sidecar hands its metrics page on to the engine.
      ...(context.hasPrefill && platform.images.flavour !== 'upstream' ? [{ port: 'metrics' }] : []),
    ]),
    ...(context.pool
      ? [
          monitor(
            context,
            names.schedulerMonitor,
            components.scheduler,
            { [labels.name]: name, [labels.partOf]: partOf, [labels.component]: components.scheduler },
            [{ port: 'metrics' }],
          ),
        ]
      : []),
  ];
}

function monitor(
  context: Context,
  name: string,
  component: typeof components.workload | typeof components.scheduler,
  matchLabels: Readonly<Record<string, string>>,
  podMetricsEndpoints: readonly Readonly<Record<string, unknown>>[],
): Manifest {
  return manifestOf(
    { group: 'monitoring.coreos.com', version: 'v1', kind: 'PodMonitor' },
    {
      name,
      namespace: context.namespace,
      // The user's labels are how a Prometheus may choose its monitors.
      labels: { ...context.effective.labels, ...componentLabels(context.name, component) },
      ownerReferences: ownerOf(context.service),
    },
    // Dashboards and alerts tell services apart by this label of their series.
    { spec: { selector: { matchLabels }, podTargetLabels: [labels.name], podMetricsEndpoints } },
  );
}
