import type { Manifest } from '../kube/object.ts';
import type { Context } from './input.ts';
import { manifestOf, ownerOf } from './manifest.ts';

const group = 'rbac.authorization.k8s.io';

export interface PolicyRule {
  readonly apiGroups: readonly string[];
  readonly resources: readonly string[];
  readonly verbs: readonly string[];
}

export interface Access {
  readonly labels: Readonly<Record<string, string>>;
  readonly serviceAccount: string;
  /** A ServiceAccount that the user names instead: none is made, and it gets the rights. */
  readonly ownServiceAccount: string | undefined;
  readonly role: string;
  readonly roleBinding: string;
  /** None: the account alone, without a Role. */
  readonly rules: readonly PolicyRule[];
}

/** ServiceAccount, Role and RoleBinding of some pods of a service. */
export function renderAccess(context: Context, access: Access): readonly Manifest[] {
  const metadataOf = (name: string) => ({
    name,
    namespace: context.namespace,
    labels: access.labels,
    ownerReferences: ownerOf(context.service),
  });
  const pullSecrets = context.platform.imagePullSecrets.map((name) => ({ name }));
  const account = manifestOf(
    { group: '', version: 'v1', kind: 'ServiceAccount' },
    metadataOf(access.serviceAccount),
    pullSecrets.length > 0 ? { imagePullSecrets: pullSecrets } : {},
  );
  const accounts = access.ownServiceAccount === undefined ? [account] : [];
  if (access.rules.length === 0) return accounts;
  return [
    ...accounts,
    manifestOf({ group, version: 'v1', kind: 'Role' }, metadataOf(access.role), { rules: access.rules }),
    manifestOf({ group, version: 'v1', kind: 'RoleBinding' }, metadataOf(access.roleBinding), {
      roleRef: { apiGroup: group, kind: 'Role', name: access.role },
      subjects: [
        {
          kind: 'ServiceAccount',
          name: access.ownServiceAccount ?? access.serviceAccount,
          namespace: context.namespace,
        },
      ],
    }),
  ];
}
