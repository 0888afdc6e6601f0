import { components } from '../../api/labels.ts';
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

/** ServiceAccount, Role and RoleBinding of the decode pods; the user's ServiceAccount gets the rights when one is named. */
export function renderSidecarAccess(context: Context): readonly Manifest[] {
  if (!context.hasPrefill) return [];
  return renderAccess(context, {
    labels: componentLabels(context.name, components.workload),
    serviceAccount: context.names.sidecarServiceAccount,
    ownServiceAccount: context.effective.template?.serviceAccountName,
    role: context.names.sidecarRole,
    roleBinding: context.names.sidecarRoleBinding,
    rules: sidecarRules,
  });
}
