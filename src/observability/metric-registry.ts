import { type Metric, Registry } from 'prom-client';
import { createControllerMetrics, observeCertificates, observeRequests } from '../runtime/metrics.ts';
import { type EppMetric, eppMetrics } from '../telemetry/epp-metrics.ts';
import { createSidecarMetrics } from '../telemetry/sidecar-metrics.ts';
import { type SimMetric, simMetrics } from '../telemetry/sim-metrics.ts';

export type Exporter = 'operator' | 'picker' | 'sidecar' | 'engine';

/** A metric that one of the parts exports. */
export interface ExportedMetric {
  readonly exporter: Exporter;
  readonly name: string;
  readonly type: string;
  /** Without those that Prometheus adds. */
  readonly labels: readonly string[];
  readonly help: string;
  /** Upper bounds of a histogram's buckets. */
  readonly buckets?: readonly number[];
}

const engineLabels = ['engine', 'model_name'] as const;

/** Every metric of every part, read from where each declares its own; the runtime's own of Node are left out. */
export function listMetrics(): readonly ExportedMetric[] {
  const operator = new Registry();
  createControllerMetrics(operator);
  observeRequests(operator, {});
  observeCertificates(operator, () => ({}));
  const sidecar = createSidecarMetrics({ inFlight: () => 0, sessions: () => 0 }).registry;
  return [
    ...metricsOf('operator', operator),
    ...Object.values<EppMetric>(eppMetrics).map((metric): ExportedMetric => ({ exporter: 'picker', ...metric })),
    ...metricsOf('sidecar', sidecar),
    ...Object.values<SimMetric>(simMetrics).map((metric): ExportedMetric => {
      const labels = metric.name.startsWith('process_') ? [] : [...engineLabels, ...(metric.labels ?? [])];
      return { exporter: 'engine', ...metric, labels };
    }),
  ];
}

function metricsOf(exporter: Exporter, registry: Registry): readonly ExportedMetric[] {
  const metrics = registry.getMetricsAsArray() as unknown as readonly (Metric & {
    readonly name: string;
    readonly help: string;
    readonly type: string;
    readonly labelNames: readonly string[];
    readonly upperBounds?: readonly number[];
  })[];
  return metrics
    .filter(({ name }) => name.startsWith('signalbox_'))
    .map(({ name, type, labelNames, help, upperBounds: buckets }) => {
      return { exporter, name, type, labels: labelNames, help, ...(buckets ? { buckets } : {}) };
    });
}
