import type { Resource } from './object.ts';

const core = (kind: string, plural: string, namespaced = true): Resource => ({
  group: '',
  version: 'v1',
  kind,
  plural,
  namespaced,
});
const inGroup = (group: string, version: string, kind: string, plural: string, namespaced = true): Resource => ({
  group,
  version,
  kind,
  plural,
  namespaced,
});

/** Every resource that any part of the project reads or writes, in one visible list. */
export const resources = {
  namespaces: core('Namespace', 'namespaces', false),
  nodes: core('Node', 'nodes', false),
  pods: core('Pod', 'pods'),
  services: core('Service', 'services'),
  configMaps: core('ConfigMap', 'configmaps'),
  secrets: core('Secret', 'secrets'),
  serviceAccounts: core('ServiceAccount', 'serviceaccounts'),
  events: core('Event', 'events'),
  deployments: inGroup('apps', 'v1', 'Deployment', 'deployments'),
  replicaSets: inGroup('apps', 'v1', 'ReplicaSet', 'replicasets'),
  leaderWorkerSets: inGroup('leaderworkerset.x-k8s.io', 'v1', 'LeaderWorkerSet', 'leaderworkersets'),
  podDisruptionBudgets: inGroup('policy', 'v1', 'PodDisruptionBudget', 'poddisruptionbudgets'),
  horizontalPodAutoscalers: inGroup('autoscaling', 'v2', 'HorizontalPodAutoscaler', 'horizontalpodautoscalers'),
  scaledObjects: inGroup('keda.sh', 'v1alpha1', 'ScaledObject', 'scaledobjects'),
  resourceClaimTemplates: inGroup('resource.k8s.io', 'v1', 'ResourceClaimTemplate', 'resourceclaimtemplates'),
  leases: inGroup('coordination.k8s.io', 'v1', 'Lease', 'leases'),
  roles: inGroup('rbac.authorization.k8s.io', 'v1', 'Role', 'roles'),
  roleBindings: inGroup('rbac.authorization.k8s.io', 'v1', 'RoleBinding', 'rolebindings'),
  clusterRoles: inGroup('rbac.authorization.k8s.io', 'v1', 'ClusterRole', 'clusterroles', false),
  clusterRoleBindings: inGroup('rbac.authorization.k8s.io', 'v1', 'ClusterRoleBinding', 'clusterrolebindings', false),
  customResourceDefinitions: inGroup(
    'apiextensions.k8s.io',
    'v1',
    'CustomResourceDefinition',
    'customresourcedefinitions',
    false,
  ),
  mutatingWebhookConfigurations: inGroup(
    'admissionregistration.k8s.io',
    'v1',
    'MutatingWebhookConfiguration',
    'mutatingwebhookconfigurations',
    false,
  ),
  validatingWebhookConfigurations: inGroup(
    'admissionregistration.k8s.io',
    'v1',
    'ValidatingWebhookConfiguration',
    'validatingwebhookconfigurations',
    false,
  ),
  gatewayClasses: inGroup('gateway.networking.k8s.io', 'v1', 'GatewayClass', 'gatewayclasses', false),
  gateways: inGroup('gateway.networking.k8s.io', 'v1', 'Gateway', 'gateways'),
  httpRoutes: inGroup('gateway.networking.k8s.io', 'v1', 'HTTPRoute', 'httproutes'),
  podMonitors: inGroup('monitoring.coreos.com', 'v1', 'PodMonitor', 'podmonitors'),
  networkPolicies: inGroup('networking.k8s.io', 'v1', 'NetworkPolicy', 'networkpolicies'),
  backendTlsPolicies: inGroup('gateway.networking.k8s.io', 'v1', 'BackendTLSPolicy', 'backendtlspolicies'),
  referenceGrants: inGroup('gateway.networking.k8s.io', 'v1beta1', 'ReferenceGrant', 'referencegrants'),
  inferencePools: inGroup('inference.networking.k8s.io', 'v1', 'InferencePool', 'inferencepools'),
  xInferencePools: inGroup('inference.networking.x-k8s.io', 'v1alpha2', 'InferencePool', 'inferencepools'),
  inferenceObjectives: inGroup('llm-d.ai', 'v1alpha2', 'InferenceObjective', 'inferenceobjectives'),
  xInferenceObjectives: inGroup(
    'inference.networking.x-k8s.io',
    'v1alpha2',
    'InferenceObjective',
    'inferenceobjectives',
  ),
  inferenceModelRewrites: inGroup('llm-d.ai', 'v1alpha2', 'InferenceModelRewrite', 'inferencemodelrewrites'),
  xInferenceModelRewrites: inGroup(
    'inference.networking.x-k8s.io',
    'v1alpha2',
    'InferenceModelRewrite',
    'inferencemodelrewrites',
  ),
  inferenceModels: inGroup('inference.networking.x-k8s.io', 'v1alpha2', 'InferenceModel', 'inferencemodels'),
  llmInferenceServices: inGroup('serving.kserve.io', 'v1alpha2', 'LLMInferenceService', 'llminferenceservices'),
  llmInferenceServiceConfigs: inGroup(
    'serving.kserve.io',
    'v1alpha2',
    'LLMInferenceServiceConfig',
    'llminferenceserviceconfigs',
  ),
} as const satisfies Record<string, Resource>;

const byKind = new Map<string, Resource>(
  Object.values(resources).map((r) => [`${r.group === '' ? r.version : `${r.group}/${r.version}`}/${r.kind}`, r]),
);

/** The resource of a manifest's apiVersion and kind, or undefined when the list above lacks it. */
export function resourceOf(object: { readonly apiVersion: string; readonly kind: string }): Resource | undefined {
  return byKind.get(`${object.apiVersion}/${object.kind}`);
}
