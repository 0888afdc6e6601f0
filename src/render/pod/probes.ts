import type { Container } from '../../api/foreign/pod.ts';

type Scheme = 'HTTP' | 'HTTPS';

type Probes = Pick<Container, 'startupProbe' | 'readinessProbe' | 'livenessProbe'>;

/** Seconds that a model may take to load: vLLM listens only once the weights are in. */
export const startupBudgetSeconds = 600;

/** Probes of a model server: it may take ten minutes to load, and is asked every second so that it serves at once. */
export function renderModelProbes(port: number, scheme: Scheme): Probes {
  const httpGet = { path: '/health', port, scheme };
  return {
    startupProbe: { httpGet, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: startupBudgetSeconds },
    readinessProbe: { httpGet, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 2 },
    livenessProbe: { httpGet, periodSeconds: 10, timeoutSeconds: 10, failureThreshold: 10 },
  };
}

/** Probes of the routing sidecar. It starts before the model server, so its health says nothing about the model. */
export function renderSidecarProbes(port: number, scheme: Scheme): Probes {
  const httpGet = { path: '/health', port, scheme };
  return {
    startupProbe: { httpGet, periodSeconds: 1, timeoutSeconds: 2, failureThreshold: 60 },
    readinessProbe: { httpGet, periodSeconds: 2, timeoutSeconds: 2, failureThreshold: 3 },
    livenessProbe: { httpGet, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6 },
  };
}

/** Probes of the endpoint picker, over gRPC health. */
export function renderPickerProbes(port: number): Probes {
  return {
    startupProbe: { grpc: { port, service: 'liveness' }, periodSeconds: 1, timeoutSeconds: 2, failureThreshold: 60 },
    readinessProbe: { grpc: { port, service: 'readiness' }, periodSeconds: 1, timeoutSeconds: 2, failureThreshold: 3 },
    livenessProbe: { grpc: { port, service: 'liveness' }, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 3 },
  };
}
