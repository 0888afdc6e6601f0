import type { Container } from '../../api/foreign/pod.ts';
import type { Context } from '../input.ts';
import type { Role } from '../labels.ts';
import type { SidecarSettings } from './sidecar.ts';

/** OpenTelemetry traces of model servers and picker. What a template sets itself wins. */

const defaults = {
  exporterEndpoint: 'http://otel-collector:4317',
  exporter: 'otlp',
  sampler: 'parentbased_traceidratio',
  samplerArg: '0.05',
} as const;

/** Names under which traces show their origin. */
export const tracedServices = {
  both: 'inference-server',
  decode: 'inference-server-decode',
  prefill: 'inference-server-prefill',
  picker: 'inference-scheduler',
  sidecar: 'inference-sidecar',
} as const satisfies Readonly<Record<Role | 'picker' | 'sidecar', string>>;

/** Where the routing sidecar sends its spans, and how many; undefined when the service is not traced. */
export function sidecarTracing({ effective: { tracing } }: Context): SidecarSettings['tracing'] {
  if (!tracing) return undefined;
  const endpoint = tracing.exporterEndpoint ?? defaults.exporterEndpoint;
  return endpoint === '' ? undefined : { endpoint, ratio: tracing.samplerArg ?? defaults.samplerArg };
}

/** Environment of a traced container; empty when the service is not traced. */
export function tracingEnvironment(context: Context, of: keyof typeof tracedServices): NonNullable<Container['env']> {
  const { tracing } = context.effective;
  if (!tracing) return [];
  return [
    { name: 'OTEL_SERVICE_NAME', value: tracedServices[of] },
    { name: 'OTEL_EXPORTER_OTLP_ENDPOINT', value: tracing.exporterEndpoint ?? defaults.exporterEndpoint },
    { name: 'OTEL_TRACES_EXPORTER', value: tracing.exporter ?? defaults.exporter },
    { name: 'OTEL_TRACES_SAMPLER', value: tracing.sampler ?? defaults.sampler },
    { name: 'OTEL_TRACES_SAMPLER_ARG', value: tracing.samplerArg ?? defaults.samplerArg },
    // Before the variable that is made of them.
    {
      name: 'OTEL_RESOURCE_ATTRIBUTES_NODE_NAME',
      valueFrom: { fieldRef: { apiVersion: 'v1', fieldPath: 'spec.nodeName' } },
    },
    {
      name: 'OTEL_RESOURCE_ATTRIBUTES_POD_NAME',
      valueFrom: { fieldRef: { apiVersion: 'v1', fieldPath: 'metadata.name' } },
    },
    {
      name: 'OTEL_RESOURCE_ATTRIBUTES',
      value: [
        `k8s.namespace.name=${context.namespace}`,
        'k8s.node.name=$(OTEL_RESOURCE_ATTRIBUTES_NODE_NAME)',
        'k8s.pod.name=$(OTEL_RESOURCE_ATTRIBUTES_POD_NAME)',
        `llmisvc.name=${context.name}`,
      ].join(','),
    },
  ];
}

/** Arguments of a traced vLLM; none without an endpoint to send to. */
export function renderTracingArgs({ effective: { tracing } }: Context): readonly (readonly string[])[] {
  const endpoint = tracing ? (tracing.exporterEndpoint ?? defaults.exporterEndpoint) : '';
  if (endpoint === '') return [];
  return [
    ['--otlp-traces-endpoint', endpoint],
    ['--collect-detailed-traces', 'all'],
  ];
}
