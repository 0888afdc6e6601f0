import { stringify } from 'yaml';
import { ruleGroups } from '../observability/alerts.ts';
import { dashboards } from '../observability/dashboards.ts';
import { renderDashboard } from '../observability/grafana.ts';
import { listMetrics } from '../observability/metric-registry.ts';
import type { Generator } from './generator.ts';

const folder = 'config/observability';
const chartFolder = 'helm/signalbox/files/observability';
const head = '# Written by `make generate` from src/observability.\n';

const yaml = (value: unknown): string => stringify(value, { lineWidth: 0, aliasDuplicateObjects: false });

/** Dashboards, rules and the list of metrics: for whoever takes files, and once more where the chart can read them. */
export const observability: Generator = {
  name: 'observability',
  generate: async () => {
    const files = new Map<string, string>();
    for (const [name, spec] of Object.entries(dashboards)) {
      const text = `${JSON.stringify(renderDashboard(spec), null, 2)}\n`;
      files.set(`${folder}/dashboards/${name}.json`, text);
      files.set(`${chartFolder}/dashboards/${name}.json`, text);
    }
    files.set(`${folder}/alerts.yaml`, head + yaml({ groups: ruleGroups }));
    files.set(`${chartFolder}/alerts.yaml`, head + yaml({ groups: ruleGroups }));
    files.set(
      `${folder}/prometheus-rule.yaml`,
      head +
        yaml({
          apiVersion: 'monitoring.coreos.com/v1',
          kind: 'PrometheusRule',
          metadata: { name: 'signalbox', labels: { 'app.kubernetes.io/name': 'signalbox' } },
          spec: { groups: ruleGroups },
        }),
    );
    files.set(`${folder}/metrics.md`, metricsPage());
    return files;
  },
};

function metricsPage(): string {
  const cell = (text: string): string => text.replaceAll('|', '\\|');
  const rows = listMetrics().map(
    ({ exporter, name, type, labels, help }) =>
      `| ${exporter} | \`${name}\` | ${type} | ${labels.map((label) => `\`${label}\``).join(' ')} | ${cell(help)} |`,
  );
  return [
    '<!-- Written by `make generate` from where each part declares its metrics. -->',
    '# Metrics',
    '',
    'The engine is vLLM; those listed are what the simulator exports of them. Prometheus adds `namespace`, `pod` and',
    '`app_kubernetes_io_name`, the service. Where a metric has a label `namespace` or `pod` of its own, it is `exported_namespace` there.',
    '',
    '| part | metric | type | labels | what |',
    '|---|---|---|---|---|',
    ...rows,
    '',
  ].join('\n');
}
