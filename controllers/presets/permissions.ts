import type { PolicyRule } from '../permissions.ts';

/** What the controller needs in the operator's own namespace, beside patching configurations. */
export const namespaceRules: readonly PolicyRule[] = [
  { apiGroups: ['serving.kserve.io'], resources: ['llminferenceserviceconfigs'], verbs: ['create'] },
];
