import { pickerRules } from '../../src/render/scheduler/rbac.ts';
import { sidecarRules } from '../../src/render/workload/rbac.ts';

/** One rule of a Role or ClusterRole. */
export interface PolicyRule {
  readonly apiGroups: readonly string[];
  readonly resources: readonly string[];
  readonly verbs: readonly string[];
  readonly resourceNames?: readonly string[];
}

/** The Secret in the operator's namespace with the authority that signs the certificates of services. */
export const authoritySecret = 'signalbox-service-authority';

const read = ['get', 'list', 'watch'] as const;
/** Server-side apply is a patch; the first one of an object also counts as create. */
const own = ['get', 'list', 'watch', 'create', 'patch', 'delete'] as const;

/**
 * What the controller needs in every namespace. To grant a Role one must hold what it grants, so the rules of the picker
 * and the sidecar are here too.
 */
export const clusterRules: readonly PolicyRule[] = [
  { apiGroups: ['serving.kserve.io'], resources: ['llminferenceservices', 'llminferenceserviceconfigs'], verbs: read },
  { apiGroups: ['serving.kserve.io'], resources: ['llminferenceservices/status'], verbs: ['patch'] },
  // KServe's finalizer and the binding that it is for are taken away from services that it leaves; a member of a routing
  // group has one of ours until the routes of the others have let go of it.
  { apiGroups: ['serving.kserve.io'], resources: ['llminferenceservices'], verbs: ['patch'] },
  { apiGroups: ['rbac.authorization.k8s.io'], resources: ['clusterrolebindings'], verbs: ['get', 'delete'] },
  // ownerReferences with blockOwnerDeletion are refused without it where that admission plugin is on.
  { apiGroups: ['serving.kserve.io'], resources: ['llminferenceservices/finalizers'], verbs: ['update'] },
  // ConfigMaps also hold configurations of pickers, in whatever namespace a service names one.
  { apiGroups: [''], resources: ['services', 'serviceaccounts', 'configmaps'], verbs: own },
  // Certificates of services are written and never read: what they hold is known from their public half.
  { apiGroups: [''], resources: ['secrets'], verbs: ['create', 'update'] },
  { apiGroups: [''], resources: ['events'], verbs: ['create', 'patch'] },
  { apiGroups: ['apps'], resources: ['deployments'], verbs: own },
  { apiGroups: ['networking.k8s.io'], resources: ['networkpolicies'], verbs: own },
  { apiGroups: ['monitoring.coreos.com'], resources: ['podmonitors'], verbs: own },
  { apiGroups: ['policy'], resources: ['poddisruptionbudgets'], verbs: own },
  { apiGroups: ['autoscaling'], resources: ['horizontalpodautoscalers'], verbs: own },
  { apiGroups: ['keda.sh'], resources: ['scaledobjects'], verbs: own },
  { apiGroups: ['resource.k8s.io'], resources: ['resourceclaimtemplates'], verbs: own },
  { apiGroups: ['leaderworkerset.x-k8s.io'], resources: ['leaderworkersets'], verbs: own },
  { apiGroups: ['rbac.authorization.k8s.io'], resources: ['roles', 'rolebindings'], verbs: own },
  { apiGroups: ['gateway.networking.k8s.io'], resources: ['gatewayclasses'], verbs: read },
  // Their names alone, to notice kinds that are defined later.
  { apiGroups: ['apiextensions.k8s.io'], resources: ['customresourcedefinitions'], verbs: ['list', 'watch'] },
  // The default Gateway is made where it does not exist and never deleted.
  { apiGroups: ['gateway.networking.k8s.io'], resources: ['gateways'], verbs: [...read, 'create', 'patch'] },
  { apiGroups: ['gateway.networking.k8s.io'], resources: ['httproutes', 'backendtlspolicies'], verbs: own },
  {
    apiGroups: ['inference.networking.k8s.io', 'inference.networking.x-k8s.io'],
    resources: ['inferencepools'],
    verbs: own,
  },
  ...pickerRules,
  ...sidecarRules,
];
