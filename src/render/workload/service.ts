import { components } from '../../api/labels.ts';
import type { Manifest } from '../../kube/object.ts';
import type { Context } from '../input.ts';
import { componentLabels, prefillSelector, workloadSelector } from '../labels.ts';
import { manifestOf, ownerOf } from '../manifest.ts';
import { servingPort } from '../pod/main.ts';
import { schemeOf } from '../tls.ts';

/** The Services of model servers: one over all of them, and one over the prefill pods. */
export function renderWorkloadServices(context: Context): readonly Manifest[] {
  const { effective, name, names } = context;
  const all = renderService(
    context,
    names.workloadService,
    components.workload,
    workloadSelector(name),
    effective.labels,
    effective.annotations,
  );
  if (!effective.prefill) return [all];
  return [
    all,
    renderService(
      context,
      names.prefillService,
      components.workloadPrefill,
      prefillSelector(name),
      effective.prefill.labels,
      effective.prefill.annotations,
    ),
  ];
}

type Texts = Readonly<Record<string, string>>;

/** Tells the route which rules to make; it says nothing about a Service. */
const routeAnnotation = 'serving.kserve.io/model-based-routing-enabled';

function renderService(
  context: Context,
  name: string,
  component: typeof components.workload | typeof components.workloadPrefill,
  selector: Texts,
  labels: Texts | undefined,
  annotations: Texts | undefined,
): Manifest {
  const { [routeAnnotation]: _, ...own } = annotations ?? {};
  const scheme = schemeOf(context);
  return manifestOf(
    { group: '', version: 'v1', kind: 'Service' },
    {
      name,
      namespace: context.namespace,
      labels: { ...labels, ...componentLabels(context.name, component) },
      ...(Object.keys(own).length > 0 ? { annotations: own } : {}),
      ownerReferences: ownerOf(context.service),
    },
    {
      spec: {
        type: 'ClusterIP',
        selector,
        ports: [{ name: scheme, appProtocol: scheme, protocol: 'TCP', port: servingPort, targetPort: servingPort }],
      },
    },
  );
}
