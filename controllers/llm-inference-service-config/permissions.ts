import type { PolicyRule } from '../permissions.ts';

/** What the controller needs beside reading configurations and services. */
export const clusterRules: readonly PolicyRule[] = [
  { apiGroups: ['serving.kserve.io'], resources: ['llminferenceserviceconfigs'], verbs: ['patch'] },
  { apiGroups: ['serving.kserve.io'], resources: ['llminferenceserviceconfigs/status'], verbs: ['patch'] },
  // A namespace that goes takes its configurations along.
  { apiGroups: [''], resources: ['namespaces'], verbs: ['get'] },
];
