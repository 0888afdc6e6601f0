import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { connect } from 'node:net';
import type { Clock } from '../../clock.ts';
import { messageOf } from '../../errors.ts';
import { type Container, type Handler, type HttpGetAction, type Probe, portNumberOf } from './pod-spec.ts';
import type { ProbeKind } from './pod-state.ts';

export interface ProbeResult {
  readonly ok: boolean;
  readonly message: string;
}

export interface ProbeTarget {
  readonly podIP: string;
  readonly container: Container;
  /** Runs a command beside the container's process; exit code and the beginning of its output. */
  exec(command: readonly string[], timeoutMs: number): Promise<{ readonly exitCode: number; readonly output: string }>;
}

/** Asks once. Never throws: a refused connection and a time-out are negative answers. */
export async function runHandler(handler: Handler, target: ProbeTarget, timeoutMs: number): Promise<ProbeResult> {
  try {
    if (handler.exec) {
      const { exitCode, output } = await target.exec(handler.exec.command ?? [], timeoutMs);
      return { ok: exitCode === 0, message: output };
    }
    if (handler.httpGet) return await askHttp(handler.httpGet, target, timeoutMs);
    if (handler.tcpSocket) {
      const port = portNumberOf(handler.tcpSocket.port, [target.container]);
      if (port === undefined) return { ok: false, message: `couldn't find port ${handler.tcpSocket.port}` };
      return await askTcp(handler.tcpSocket.host || target.podIP, port, timeoutMs);
    }
    if (handler.grpc) {
      // Loaded when the first pod asks for it.
      const { askGrpcHealth } = await import('./grpc-health.ts');
      return await askGrpcHealth(`${target.podIP}:${handler.grpc.port}`, handler.grpc.service ?? '', timeoutMs);
    }
    return { ok: true, message: '' };
  } catch (thrown) {
    return { ok: false, message: messageOf(thrown) };
  }
}

function askHttp(action: HttpGetAction, target: ProbeTarget, timeoutMs: number): Promise<ProbeResult> {
  const port = portNumberOf(action.port, [target.container]);
  if (port === undefined) return Promise.resolve({ ok: false, message: `couldn't find port ${action.port}` });
  const secure = action.scheme === 'HTTPS';
  const host = action.host || target.podIP;
  const path = action.path?.startsWith('/') ? action.path : `/${action.path ?? ''}`;
  const url = `${secure ? 'https' : 'http'}://${host}:${port}${path}`;
  return new Promise((resolve) => {
    const headers: Record<string, string> = { 'user-agent': 'kube-probe/1.35', accept: '*/*', connection: 'close' };
    for (const { name, value } of action.httpHeaders ?? []) headers[name.toLowerCase()] = value;
    const options = { headers, agent: false, signal: AbortSignal.timeout(timeoutMs) };
    // The kubelet does not verify certificates either.
    const request = secure ? httpsRequest(url, { ...options, rejectUnauthorized: false }) : httpRequest(url, options);
    request.once('response', (response) => {
      const status = response.statusCode ?? 0;
      response.on('error', () => {});
      response.destroy();
      resolve({
        ok: status >= 200 && status < 400,
        message: `HTTP probe failed with statuscode: ${status}`,
      });
    });
    request.on('error', (error) => {
      const why = error.name === 'AbortError' || error.name === 'TimeoutError' ? timedOut(timeoutMs) : error.message;
      resolve({ ok: false, message: `Get "${url}": ${why}` });
    });
    request.end();
  });
}

/** Whether a TCP connection can be opened. */
function askTcp(host: string, port: number, timeoutMs: number): Promise<ProbeResult> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: timeoutMs });
    const answer = (ok: boolean, message: string): void => {
      socket.destroy();
      resolve({ ok, message });
    };
    socket.once('connect', () => answer(true, ''));
    socket.once('timeout', () => answer(false, `dial tcp ${host}:${port}: ${timedOut(timeoutMs)}`));
    socket.once('error', (error) => answer(false, `dial tcp ${host}:${port}: ${error.message}`));
  });
}

function timedOut(timeoutMs: number): string {
  return `no answer within ${timeoutMs / 1000} s`;
}

/** How many results of one kind came in a row, and what the probe says as a whole. */
export interface ProbeCount {
  readonly ok: boolean;
  readonly inARow: number;
  /** Undefined until a threshold was reached for the first time. */
  readonly verdict?: boolean;
}

/** Adds one result; `verdict` changes only when the threshold of its side is reached. */
export function countProbe(
  before: ProbeCount,
  ok: boolean,
  probe: Pick<Probe, 'successThreshold' | 'failureThreshold'>,
): ProbeCount {
  const inARow = before.ok === ok ? before.inARow + 1 : 1;
  const threshold = ok ? (probe.successThreshold ?? 1) : (probe.failureThreshold ?? 3);
  const verdict = inARow >= threshold ? ok : before.verdict;
  return { ok, inARow, ...(verdict === undefined ? {} : { verdict }) };
}

export interface ProbingOptions {
  readonly container: Container;
  readonly target: ProbeTarget;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** The verdict of a probe was reached or has changed; for a failing liveness or startup probe, once. */
  readonly onVerdict: (kind: ProbeKind, ok: boolean, probe: Probe) => void;
  /** A single attempt failed. */
  readonly onFailure: (kind: ProbeKind, message: string) => void;
}

/** Probes one run of a container until `signal`: first startup alone, then readiness and liveness side by side. */
export async function runProbes(options: ProbingOptions): Promise<void> {
  const { container } = options;
  const startedAtMs = options.clock.now();
  if (container.startupProbe && !(await probeLoop('startup', container.startupProbe, startedAtMs, options))) return;
  await Promise.all([
    container.readinessProbe && probeLoop('readiness', container.readinessProbe, startedAtMs, options),
    container.livenessProbe && probeLoop('liveness', container.livenessProbe, startedAtMs, options),
  ]);
}

/** Answers true when a startup probe has passed; other loops end with the signal or with the container's failure. */
async function probeLoop(
  kind: ProbeKind,
  probe: Probe,
  startedAtMs: number,
  options: ProbingOptions,
): Promise<boolean> {
  const { clock, signal, target } = options;
  const periodMs = (probe.periodSeconds ?? 10) * 1000;
  let count: ProbeCount = { ok: false, inARow: 0 };
  try {
    const delayMs = startedAtMs + (probe.initialDelaySeconds ?? 0) * 1000 - clock.now();
    if (delayMs > 0) await clock.sleep(delayMs, signal);
    for (;;) {
      signal.throwIfAborted();
      const begunMs = clock.now();
      const result = await runHandler(probe, target, (probe.timeoutSeconds ?? 1) * 1000);
      if (signal.aborted) return false;
      const before = count.verdict;
      count = countProbe(count, result.ok, probe);
      if (!result.ok) options.onFailure(kind, result.message);
      if (count.verdict !== before && count.verdict !== undefined) {
        options.onVerdict(kind, count.verdict, probe);
        if (kind === 'startup') return count.verdict;
        if (kind === 'liveness' && !count.verdict) return false;
      }
      await clock.sleep(Math.max(0, begunMs + periodMs - clock.now()), signal);
    }
  } catch (thrown) {
    if (signal.aborted) return false;
    throw thrown;
  }
}
