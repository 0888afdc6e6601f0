import { stringify } from 'yaml';
import { renderWebhookConfigurations } from '../../webhooks/registration.ts';
import type { Generator } from './generator.ts';

/** Numbers that stand for a template expression until the YAML is written. */
const portMark = 65_001;
const timeoutMark = 65_002;

/** The chart's webhook configurations, from the list that the operator itself registers with. */
export const chartWebhooks: Generator = {
  name: 'chart webhooks',
  generate: async () => {
    const configurations = renderWebhookConfigurations({
      name: 'signalbox',
      target: { service: { name: 'signalbox-webhook', namespace: '{{ .Release.Namespace }}', port: portMark } },
      timeoutSeconds: timeoutMark,
      labels: { LABELS: '' },
    });
    const text = configurations
      .map((configuration) => stringify(configuration, { lineWidth: 0, aliasDuplicateObjects: false }))
      .join('---\n')
      .replaceAll(String(portMark), '{{ .Values.webhook.servicePort }}')
      .replaceAll(String(timeoutMark), '{{ .Values.webhook.timeoutSeconds }}')
      .replaceAll('"{{ .Release.Namespace }}"', '{{ .Release.Namespace }}')
      .replaceAll('    LABELS: ""\n', '    {{- include "signalbox.labels" . | nindent 4 }}\n');
    const head =
      '{{- /* Written by `make generate` from webhooks/registration.ts. The operator adds the CA bundle. */ -}}\n';
    return new Map([['helm/signalbox/templates/webhooks.yaml', `${head}${text}`]]);
  },
};
