import { Counter, Gauge, Histogram, type Registry } from 'prom-client';

export type ReconcileResult = 'success' | 'requeue' | 'conflict' | 'error' | 'terminal';

/** What the loop tells about itself. */
export interface ControllerMetrics {
  reconciled(controller: string, result: ReconcileResult, seconds: number): void;
  /** Reads the depth whenever metrics are collected. */
  observeQueue(controller: string, depth: () => number): void;
}

export const noControllerMetrics: ControllerMetrics = { reconciled: () => {}, observeQueue: () => {} };

/** The controllers' metrics in a Prometheus registry. Call once per registry. */
export function createControllerMetrics(registry: Registry): ControllerMetrics {
  const registers = [registry];
  const total = new Counter({
    name: 'signalbox_reconcile_total',
    help: 'Reconciles by controller and result',
    labelNames: ['controller', 'result'],
    registers,
  });
  const errors = new Counter({
    name: 'signalbox_reconcile_errors_total',
    help: 'Reconciles that failed, by controller',
    labelNames: ['controller'],
    registers,
  });
  const duration = new Histogram({
    name: 'signalbox_reconcile_duration_seconds',
    help: 'Time of one reconcile by controller',
    labelNames: ['controller'],
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
    registers,
  });
  const queues = new Map<string, () => number>();
  new Gauge({
    name: 'signalbox_queue_depth',
    help: 'Objects that are ready to be reconciled and not yet taken, by controller',
    labelNames: ['controller'],
    registers,
    collect() {
      for (const [controller, depth] of queues) this.set({ controller }, depth());
    },
  });
  return {
    reconciled(controller, result, seconds) {
      total.inc({ controller, result });
      if (result === 'error' || result === 'terminal') errors.inc({ controller });
      duration.observe({ controller }, seconds);
    },
    observeQueue(controller, depth) {
      queues.set(controller, depth);
    },
  };
}

/** Requests to the API server so far, by method, as the client counts them. Call once per registry. */
export function observeRequests(registry: Registry, sent: Readonly<Record<string, number>>): void {
  new Counter({
    name: 'signalbox_api_requests_total',
    help: 'Requests sent to the API server, by method',
    labelNames: ['method'],
    registers: [registry],
    collect() {
      this.reset();
      for (const [method, count] of Object.entries(sent)) this.inc({ method }, count);
    },
  });
}

/** When certificates end, in seconds since the epoch, by name, read when metrics are collected. Call once per registry. */
export function observeCertificates(registry: Registry, read: () => Readonly<Record<string, number>>): void {
  new Gauge({
    name: 'signalbox_certificate_expiry_timestamp_seconds',
    help: 'End of a certificate since the epoch in seconds: webhook, webhook_authority',
    labelNames: ['certificate'],
    registers: [registry],
    collect() {
      for (const [certificate, seconds] of Object.entries(read())) this.set({ certificate }, seconds);
    },
  });
}
