import { messageOf } from '../errors.ts';
import type { Leg, PrefillAnswer } from './connectors/connector.ts';
import type { Decode } from './decode.ts';
import { isAnswering } from './engine-watch.ts';
import { ClientGone, collect, type Exchange, failureKindOf } from './forward.ts';
import type { Target } from './host-port.ts';
import { type TraceLeg, tracedHeaders } from './trace.ts';
import type { PipelineDeps, Prefilled, Rejected, StageFailure, Turn } from './turn.ts';

const maxPrefillAnswerBytes = 32 * 1024 * 1024;
const maxTargets = 8;
/** Until a call that could not be ended is tried again. */
const cancelAgainMs = 10;
const nothing: PrefillAnswer = { kvParams: undefined, cachedTokens: undefined, kvHandle: undefined };

/** The prefill stage: one pod after the other until one has done it, before the decoder's request or beside it. */
export function createPrefill(deps: PipelineDeps, trusted: Target | undefined, { decode, decodeFailed }: Decode) {
  const { config, metrics, log, clock } = deps;
  const { connector } = config;
  const isTrustedTls = config.prefill.url?.protocol === 'https:';

  const poolOf = (target: Target) =>
    deps.prefillPools.get(target.hostPort, target === trusted ? isTrustedTls : config.prefill.isTls);

  /** While a prefill lasts, its pod is asked whether it lives. */
  const healthOf = (pool: ReturnType<typeof poolOf>) =>
    config.prefill.healthIntervalMs > 0
      ? { health: { intervalMs: config.prefill.healthIntervalMs, isAnswering: () => isAnswering(pool) } }
      : {};

  function legOf(target: Target): Leg {
    return { target, room: Math.floor(deps.random() * Number.MAX_SAFE_INTEGER), bootstrapPort: config.bootstrapPort };
  }

  async function prefill(
    turn: Turn,
    targets: readonly Target[],
    clientBody: string,
  ): Promise<Prefilled | Rejected | StageFailure> {
    const { exchange, requestId } = turn;
    const startedMs = performance.now();
    let failure: StageFailure = {
      kind: 'failed',
      status: 504,
      message: 'no prefill pod answered in time',
      reason: 'timeout',
    };
    for (const [index, target] of targets.slice(0, maxTargets).entries()) {
      if (index > 0) metrics.prefillRetries.inc({ with: 'next_pod' });
      const body = connector.prefillRequest(turn.request.api, clientBody, legOf(target));
      const pool = poolOf(target);
      let triesLeft = config.prefill.maxRetries;
      let isReconnectLeft = true;
      for (;;) {
        const leftMs = config.prefill.timeoutMs - (performance.now() - startedMs);
        if (leftMs <= 0) return failure;
        let isRetryable: boolean;
        const span: TraceLeg | undefined = turn.trace?.leg('sidecar.prefill', target.hostPort);
        try {
          const headers = tracedHeaders(turn.hop.headers, span);
          const hop = { ...turn.hop, headers, body, headersTimeoutMs: leftMs };
          const response = await collect(pool, hop, exchange, {
            timeoutMs: leftMs,
            maxBytes: maxPrefillAnswerBytes,
            ...healthOf(pool),
          });
          const { status } = response;
          span?.end(status);
          if (status >= 200 && status < 300) {
            const answer = connector.prefillAnswer(response.body.toString('utf8'));
            if (answer) {
              metrics.prefills.inc({ result: 'ok' });
              metrics.prefillSeconds.observe((performance.now() - startedMs) / 1000);
              if (answer.kvParams === 'null') {
                log.warn(
                  { target: target.hostPort, requestId },
                  'the prefill answer has no kv_transfer_params: the decoder will compute the prompt again; check --kv-transfer-config of the prefill pods',
                );
              }
              return { kind: 'done', target, answer };
            }
            metrics.prefills.inc({ result: 'error' });
            failure = {
              kind: 'failed',
              status: 502,
              message: `prefill pod ${target.hostPort} answered something that is not a JSON object`,
              reason: 'not_json',
            };
            isRetryable = false;
          } else if (status >= 400 && status < 500 && status !== 408 && status !== 429) {
            metrics.prefills.inc({ result: 'rejected' });
            return { kind: 'rejected', response };
          } else {
            metrics.prefills.inc({ result: 'error' });
            failure = {
              kind: 'failed',
              status,
              message: `prefill pod ${target.hostPort} answered ${status}`,
              response,
              reason: `status_${status}`,
            };
            isRetryable = status === 502 || status === 503 || status === 504;
          }
        } catch (thrown) {
          span?.end(undefined, messageOf(thrown));
          if (exchange.isGone) throw new ClientGone();
          const kind = failureKindOf(thrown);
          if (kind === 'reset' && isReconnectLeft) {
            // An idle connection that the pod had closed: not the pod's failure.
            isReconnectLeft = false;
            continue;
          }
          metrics.prefills.inc({ result: kind === 'timeout' ? 'timeout' : 'unreachable' });
          failure = {
            kind: 'failed',
            status: kind === 'timeout' ? 504 : 502,
            message: `prefill pod ${target.hostPort} cannot be reached: ${messageOf(thrown)}`,
            reason: kind,
          };
          isRetryable = kind !== 'timeout';
        }
        log.warn({ target: target.hostPort, requestId, reason: failure.reason }, failure.message);
        if (!isRetryable || triesLeft <= 0) break;
        triesLeft--;
        metrics.prefillRetries.inc({ with: 'same_pod' });
        await pause(exchange, config.prefill.retryBackoffMs * (0.75 + deps.random() / 2));
      }
    }
    return failure;
  }

  /**
   * Sends both requests of a prompt at the same time. A prefill that fails before the decoder has begun its answer ends the
   * decoder's request, and the next pod is tried; later it can only be told to the log.
   */
  async function concurrently(
    turn: Turn,
    targets: readonly Target[],
    body: string,
  ): Promise<Rejected | StageFailure | undefined> {
    const { exchange, requestId } = turn;
    let failure: StageFailure | undefined;
    for (const [index, target] of targets.slice(0, maxTargets).entries()) {
      if (index > 0) metrics.prefillRetries.inc({ with: 'next_pod' });
      const leg = legOf(target);
      const failed = await oneMeeting(turn, leg, body);
      if (failed === undefined || exchange.isGone) return undefined;
      if (failed.kind === 'rejected') return failed;
      log.warn({ target: target.hostPort, requestId, reason: failed.reason }, failed.message);
      failure = failed;
    }
    return failure;
  }

  /** One such pair; resolves with the prefill's failure when the next pod may be tried, with undefined when the client has its answer. */
  function oneMeeting(turn: Turn, leg: Leg, body: string): Promise<Rejected | StageFailure | undefined> {
    const { exchange, request } = turn;
    const { target } = leg;
    const pool = poolOf(target);
    const startedMs = performance.now();
    let cancelPrefill: ((reason: Error) => void) | undefined;
    const span = turn.trace?.leg('sidecar.prefill', target.hostPort);
    const headers = tracedHeaders(turn.hop.headers, span);
    const hop = { ...turn.hop, headers, body: connector.prefillRequest(request.api, body, leg) };
    const answered = collect(
      pool,
      hop,
      {
        onGone: (cancel) => {
          cancelPrefill = cancel;
        },
      },
      { timeoutMs: config.prefill.timeoutMs, maxBytes: maxPrefillAnswerBytes, ...healthOf(pool) },
    ).then(
      (response): Rejected | StageFailure | undefined => {
        const { status } = response;
        span?.end(status);
        if (status >= 200 && status < 300) {
          metrics.prefills.inc({ result: 'ok' });
          metrics.prefillSeconds.observe((performance.now() - startedMs) / 1000);
          return undefined;
        }
        if (status >= 400 && status < 500 && status !== 408 && status !== 429) {
          metrics.prefills.inc({ result: 'rejected' });
          return { kind: 'rejected', response };
        }
        metrics.prefills.inc({ result: 'error' });
        const message = `prefill pod ${target.hostPort} answered ${status}`;
        return { kind: 'failed', status, message, response, reason: `status_${status}` };
      },
      (thrown: unknown): Rejected | StageFailure | undefined => {
        span?.end(undefined, messageOf(thrown));
        if (thrown instanceof ClientGone) return undefined;
        const kind = failureKindOf(thrown);
        metrics.prefills.inc({ result: kind === 'timeout' ? 'timeout' : 'unreachable' });
        const message = `prefill pod ${target.hostPort} cannot be reached: ${messageOf(thrown)}`;
        return { kind: 'failed', status: kind === 'timeout' ? 504 : 502, message, reason: kind };
      },
    );
    return new Promise((resolve) => {
      let isBegun = false;
      let isOver = false;
      let failed: Rejected | StageFailure | undefined;
      void answered.then((result) => {
        if (!result) return;
        if (isBegun) {
          log.warn(
            { target: target.hostPort, requestId: turn.requestId },
            'a prefill failed after its answer had begun',
          );
          return;
        }
        failed = result;
        const stop = () => {
          // A call that waits for a connection cannot be ended yet.
          if (!isOver && !exchange.cancel(new Error('the prefill failed'))) setTimeout(stop, cancelAgainMs);
        };
        stop();
      });
      const prefilled: Prefilled = { kind: 'done', target, answer: nothing };
      decode(turn, prefilled, connector.decodeRequest(request.api, body, undefined, leg), {
        onBegin: () => {
          isBegun = true;
          isOver = true;
          resolve(undefined);
        },
        onFailed: (error, isStarted) => {
          isOver = true;
          cancelPrefill?.(new ClientGone());
          if (failed && !isStarted) resolve(failed);
          else {
            resolve(undefined);
            decodeFailed(turn, error, isStarted);
          }
        },
      });
    });
  }

  async function pause(exchange: Exchange, ms: number): Promise<void> {
    const abort = new AbortController();
    exchange.onGone((reason) => abort.abort(reason));
    try {
      await clock.sleep(ms, abort.signal);
    } finally {
      exchange.onGone(undefined);
    }
  }

  return { prefill, concurrently, legOf };
}
