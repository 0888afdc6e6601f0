import { components } from '../../api/labels.ts';
import { isMultiNode } from '../../api/v1alpha2/parallelism.ts';
import type { Manifest } from '../../kube/object.ts';
import type { Context } from '../input.ts';
import { componentLabels } from '../labels.ts';
import { renderAccess } from '../rbac.ts';

/** What a routing sidecar reads to know which prefill pods it may call. */
export const sidecarRules = [
  { apiGroups: [''], resources: ['pods'], verbs: ['get', 'list', 'watch'] },
  {
    apiGroups: ['inference.networking.k8s.io', 'inference.networking.x-k8s.io'],
    resources: ['inferencepools'],
    verbs: ['get', 'list', 'watch'],
  },
] as const;

/**
 * Accounts of the model servers: pods that decode may read what their sidecar needs; groups of pods have an account
 * in any case. The user's ServiceAccount gets the rights when one is named.
 */
export function renderWorkloadAccess(context: Context): readonly Manifest[] {
  const { effective, names, hasPrefill } = context;
  const isGroup = isMultiNode(effective);
  const main =
    isGroup || hasPrefill
      ? renderAccess(context, {
          labels: componentLabels(context.name, components.workload),
          serviceAccount: isGroup ? names.multiNodeServiceAccount : names.sidecarServiceAccount,
          ownServiceAccount: effective.template?.serviceAccountName,
          role: isGroup ? names.multiNodeRole : names.sidecarRole,
          roleBinding: isGroup ? names.multiNodeRoleBinding : names.sidecarRoleBinding,
          rules: hasPrefill ? sidecarRules : [],
        })
      : [];
  const { prefill } = effective;
  if (!prefill || !isMultiNode(prefill)) return main;
  return [
    ...main,
    ...renderAccess(context, {
      labels: componentLabels(context.name, components.workloadPrefill),
      serviceAccount: names.prefillMultiNodeServiceAccount,
      ownServiceAccount: prefill.template?.serviceAccountName,
      role: '',
      roleBinding: '',
      rules: [],
    }),
  ];
}
