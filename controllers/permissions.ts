import { authoritySecret, type PolicyRule, clusterRules as serviceRules } from './llm-inference-service/permissions.ts';
import { clusterRules as configRules } from './llm-inference-service-config/permissions.ts';
import { namespaceRules as presetRules } from './presets/permissions.ts';

/** The definitions of kinds with more than one version. */
export const convertedDefinitions: readonly string[] = [
  'llminferenceservices.serving.kserve.io',
  'llminferenceserviceconfigs.serving.kserve.io',
];

export type { PolicyRule } from './llm-inference-service/permissions.ts';

/** Everything that the operator may do in every namespace: the source of the chart's ClusterRole. */
export const clusterRules = (webhookConfiguration: string): readonly PolicyRule[] => [
  ...serviceRules,
  ...configRules,
  // The authority that signed the webhooks' certificate is written into their configurations.
  {
    apiGroups: ['admissionregistration.k8s.io'],
    resources: ['mutatingwebhookconfigurations', 'validatingwebhookconfigurations'],
    verbs: ['get', 'list', 'watch', 'update'],
    resourceNames: [webhookConfiguration],
  },
  // So that the API server asks the operator for an object in another version.
  {
    apiGroups: ['apiextensions.k8s.io'],
    resources: ['customresourcedefinitions'],
    verbs: ['get', 'list', 'watch', 'patch'],
    resourceNames: convertedDefinitions,
  },
];

/** What the operator may do in its own namespace: the lease of its election, the Secret of its certificate, the presets. */
export const namespaceRules: readonly PolicyRule[] = [
  { apiGroups: ['coordination.k8s.io'], resources: ['leases'], verbs: ['get', 'create', 'update'] },
  {
    apiGroups: [''],
    resources: ['configmaps'],
    verbs: ['get', 'list', 'watch'],
    resourceNames: ['inferenceservice-config'],
  },
  // A name cannot be asked for before it exists, so that creating knows none.
  { apiGroups: [''], resources: ['secrets'], verbs: ['create'] },
  {
    apiGroups: [''],
    resources: ['secrets'],
    verbs: ['get', 'list', 'watch', 'update'],
    resourceNames: ['signalbox-webhook-certificate', authoritySecret],
  },
  ...presetRules,
];
