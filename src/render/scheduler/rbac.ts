import { components } from '../../api/labels.ts';
import type { Manifest } from '../../kube/object.ts';
import type { Context } from '../input.ts';
import { componentLabels } from '../labels.ts';
import { renderAccess } from '../rbac.ts';

/** What an endpoint picker reads, and the lease by which several of them elect one. */
export const pickerRules = [
  { apiGroups: [''], resources: ['pods'], verbs: ['get', 'list', 'watch'] },
  {
    apiGroups: ['inference.networking.k8s.io', 'inference.networking.x-k8s.io'],
    resources: ['inferencepools'],
    verbs: ['get', 'list', 'watch'],
  },
  {
    apiGroups: ['llm-d.ai', 'inference.networking.x-k8s.io'],
    resources: ['inferenceobjectives', 'inferencemodelrewrites', 'inferencemodels'],
    verbs: ['get', 'list', 'watch'],
  },
  {
    apiGroups: ['coordination.k8s.io'],
    resources: ['leases'],
    verbs: ['get', 'list', 'watch', 'create', 'update', 'patch', 'delete'],
  },
] as const;

export function renderPickerAccess(context: Context): readonly Manifest[] {
  return renderAccess(context, {
    labels: componentLabels(context.name, components.scheduler),
    serviceAccount: context.names.schedulerServiceAccount,
    ownServiceAccount: context.effective.router?.scheduler?.template?.serviceAccountName,
    role: context.names.schedulerRole,
    roleBinding: context.names.schedulerRoleBinding,
    rules: pickerRules,
  });
}
