import { stringify } from 'yaml';
import { clusterRules, namespaceRules } from '../../controllers/permissions.ts';
import type { Generator } from './generator.ts';

/** The rules of the chart's ClusterRole and Role, from what the controllers say they need. */
export const rbac: Generator = {
  name: 'rbac',
  generate: async () => {
    const toYaml = (rules: readonly unknown[]) => stringify(rules, { lineWidth: 0, aliasDuplicateObjects: false });
    return new Map([
      ['helm/signalbox/files/cluster-rules.yaml', toYaml(clusterRules('signalbox'))],
      ['helm/signalbox/files/namespace-rules.yaml', toYaml(namespaceRules)],
    ]);
  },
};
