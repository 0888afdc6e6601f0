import { randomUUID } from 'node:crypto';
import type { Pool } from 'undici';
import type { Clock } from '../clock.ts';
import { AppError, messageOf } from '../errors.ts';
import { AnswerReader } from '../openai/answer.ts';
import { errorBody } from '../openai/error-body.ts';
import { editMembers } from '../openai/json-members.ts';
import { type Completion, parseCompletionText } from '../openai/request.ts';
import type { Logger } from '../telemetry/log.ts';
import type { SidecarMetrics } from '../telemetry/sidecar-metrics.ts';
import { judgeTargets } from './allow-list.ts';
import type { AllowListSource } from './allow-list-source.ts';
import { CachedTokensRewriter } from './cached-tokens.ts';
import type { SidecarConfig } from './config.ts';
import type { Leg, PrefillAnswer } from './connectors/connector.ts';
import { decide, isBound } from './decide.ts';
import { isAnswering } from './engine-watch.ts';
import {
  ClientGone,
  type Collected,
  collect,
  type Exchange,
  failureKindOf,
  forwardedHeaders,
  type Hop,
  type IncomingHeaders,
  type Pools,
  Refused,
  readBody,
  relay,
  returnedHeaders,
  sendError,
  type Tap,
} from './forward.ts';
import { parseHostPort, parseTargets, type Target } from './host-port.ts';
import type { Route } from './routes.ts';
import {
  type SessionKey,
  type SessionMatch,
  type Sessions,
  sessionFields,
  sessionIdOf,
  sessionKeyOf,
} from './sessions.ts';

const prefillerHeader = 'x-prefiller-host-port';
/** Set by the picker for the gateway: its presence says that a picker decided about this request. */
const pickedHeader = 'x-gateway-destination-endpoint';

/** For both legs: the sidecar reads and changes answers, so they come uncompressed; the request id is set once. */
const ownHeaders: ReadonlySet<string> = new Set(['accept-encoding', 'x-request-id']);

const maxPrefillAnswerBytes = 32 * 1024 * 1024;
/** How long a request waits for the first complete list of prefill pods. */
const allowListWaitMs = 2000;
/** How far our watch of the pool's pods may be behind the picker's before a target that we do not know is refused. */
const allowListLagMs = 200;
const maxTargets = 8;
/** How long a cut stream stays open after the event that says so. */
const cutLingerMs = 100;
/** Until a call that could not be ended is tried again. */
const cancelAgainMs = 10;
/** Below this many tokens, block borders make the share of cached tokens meaningless. */
const minVerifiedTokens = 256;
/** Ends of an answer after which its blocks are not trusted. */
const badFinishes: ReadonlySet<string> = new Set(['abort', 'error', 'failed', 'content_filter', 'cache_threshold']);

export interface PipelineDeps {
  readonly config: SidecarConfig;
  readonly decoder: Pool;
  readonly prefillPools: Pools;
  readonly sessions: Sessions;
  /** Undefined when no pool is watched. */
  readonly allowList: AllowListSource | undefined;
  readonly metrics: SidecarMetrics;
  readonly log: Logger;
  readonly clock: Clock;
  readonly random: () => number;
  /** The local engine refused a connection: what it had cached is gone. */
  readonly onDecoderRefused: () => void;
}

type PrefillResult =
  | { readonly kind: 'done'; readonly target: Target; readonly answer: PrefillAnswer }
  /** The request itself is at fault: the prefill pod's answer is the client's. */
  | { readonly kind: 'rejected'; readonly response: Collected }
  | {
      readonly kind: 'failed';
      readonly status: number;
      readonly message: string;
      readonly response?: Collected;
      readonly reason: string;
    };

/** Serves completions: decides, prefills where that pays, decodes locally, remembers the conversation. */
export function createPipeline(deps: PipelineDeps) {
  const { config, sessions, metrics, log, clock } = deps;
  const { connector } = config;
  const isRemembering = config.sessions.policy !== 'off';
  const trusted = config.prefill.url ? targetOfUrl(config.prefill.url) : undefined;
  const isTrustedTls = config.prefill.url?.protocol === 'https:';
  const decisions = {
    prefillHeader: metrics.decisions.labels('prefill_header'),
    prefillFallback: metrics.decisions.labels('prefill_fallback'),
    session: metrics.decisions.labels('local_session'),
    bound: metrics.decisions.labels('local_bound'),
    picker: metrics.decisions.labels('local_picker'),
    'no-prefill': metrics.decisions.labels('local_no_prefill'),
  };
  const firstByte = {
    remote: metrics.firstByteSeconds.labels('remote'),
    local: metrics.firstByteSeconds.labels('local'),
  };
  const lookups = { hit: metrics.sessionLookups.labels('hit'), miss: metrics.sessionLookups.labels('miss') };
  /** vLLM leaves the details out when nothing was cached, so their absence means zero only once they were seen. */
  let isCacheReported = false;
  let nextPod = 0;

  async function handle(route: Extract<Route, { kind: 'completion' }>, exchange: Exchange): Promise<void> {
    const { req } = exchange;
    const bytes = await readBody(req, config.maxRequestBytes);
    const text = bytes.toString('utf8');
    const request = parseCompletionText(route.api, text);
    const key = isRemembering ? sessionKeyOf(request, req.headers) : undefined;
    const session: SessionMatch | undefined = key && sessions.find(key);
    if (session) (session.isKnown ? lookups.hit : lookups.miss).inc();
    const sessionId = session?.id ?? sessionIdOf(request, req.headers) ?? randomUUID();
    const clean = withoutPrivateFields(request, text);
    const header = req.headers[prefillerHeader];
    const named = typeof header === 'string' ? parseTargets(header) : undefined;
    const isNamed = named !== undefined && named.targets.length + named.malformed.length > 0;
    const decision = decide({
      policy: config.sessions.policy,
      hasHeader: isNamed,
      isPicked: req.headers[pickedHeader] !== undefined,
      hasFallback: trusted !== undefined || deps.allowList !== undefined,
      session,
      isBound: isBound(request.body),
      maxNewTokens: config.sessions.maxNewTokens,
    });

    const headers = forwardedHeaders(req, ownHeaders);
    const given = req.headers['x-request-id'];
    const requestId = typeof given === 'string' && given !== '' ? (given.split(',')[0] ?? given).trim() : randomUUID();
    headers.push('x-request-id', requestId);
    const path = originForm(req.url ?? '/');
    const hop: Omit<Hop, 'body'> = { method: 'POST', path, headers, headersTimeoutMs: config.decoder.timeoutMs };
    const turn: Turn = {
      exchange,
      request,
      key,
      session,
      sessionId,
      hop,
      plain: clean ?? bytes,
      requestId,
      epoch: sessions.epoch,
    };

    if (decision.kind === 'local') {
      decisions[decision.why].inc();
      decode(turn, undefined, undefined);
      return;
    }
    decisions[decision.from === 'header' ? 'prefillHeader' : 'prefillFallback'].inc();

    let targets: readonly Target[];
    if (decision.from === 'header') {
      const checked = await checkNamed(named?.targets ?? [], named?.malformed ?? [], exchange);
      if (checked.kind === 'answered') return;
      if (checked.kind === 'failed') {
        afterFailure(turn, checked);
        return;
      }
      targets = checked.targets;
    } else {
      if (trusted === undefined) await allowListSynced(exchange);
      targets = trusted ? [trusted] : discovered();
      if (targets.length === 0) {
        afterFailure(turn, {
          kind: 'failed',
          status: 503,
          message: 'no prefill pod is ready in the inference pool; wait for one, or add prefill replicas',
          reason: 'no_pod',
        });
        return;
      }
    }

    const body = clean ?? text;
    if (connector.isConcurrent) {
      await concurrently(turn, targets, body);
      return;
    }
    const result = await prefill(turn, targets, body);
    if (exchange.isGone) throw new ClientGone();
    switch (result.kind) {
      case 'done':
        decode(turn, result, connector.decodeRequest(request.api, body, result.answer, legOf(result.target)));
        return;
      case 'rejected':
        sendCollected(turn, result.response);
        return;
      case 'failed':
        afterFailure(turn, result);
        return;
    }
  }

  function legOf(target: Target): Leg {
    return { target, room: Math.floor(deps.random() * Number.MAX_SAFE_INTEGER), bootstrapPort: config.bootstrapPort };
  }

  interface Turn {
    readonly exchange: Exchange;
    readonly request: Completion;
    readonly key: SessionKey | undefined;
    readonly session: SessionMatch | undefined;
    readonly sessionId: string;
    readonly hop: Omit<Hop, 'body'>;
    /** The client's body without what is not for engines. */
    readonly plain: string | Buffer;
    readonly requestId: string;
    readonly epoch: number;
  }

  const answerHeaders = (turn: Turn, prefilledBy: Target | undefined): Record<string, string> => ({
    'x-session-id': turn.sessionId,
    'x-signalbox-prefill': prefilledBy?.hostPort ?? 'none',
    'x-signalbox-decode': config.decodeName,
  });

  /** The pods that a request named and that may be called; or the refusal is sent. */
  async function checkNamed(
    targets: readonly Target[],
    malformed: readonly string[],
    exchange: Exchange,
  ): Promise<
    | { readonly kind: 'targets'; readonly targets: readonly Target[] }
    | { readonly kind: 'answered' }
    | Extract<PrefillResult, { kind: 'failed' }>
  > {
    if (targets.length === 0) {
      sendError(
        exchange.res,
        400,
        `header ${prefillerHeader}: "${malformed[0] ?? ''}" is not host:port; name a prefill pod as ip:port`,
        { param: prefillerHeader },
      );
      return { kind: 'answered' };
    }
    let usable = targets;
    if (config.isSsrfProtected) {
      if (!(await allowListSynced(exchange))) {
        return {
          kind: 'failed',
          status: 503,
          message: 'the list of prefill pods that may be called is not complete yet; try again shortly',
          reason: 'allow_list',
        };
      }
      const judge = () => judgeTargets(targets, deps.allowList?.allowed() ?? new Set(), trusted?.hostPort);
      let judged = judge();
      // The picker's watch and ours tell of the same pods, not at the same moment.
      if (judged.allowed.length === 0 && !targets.some((target) => deps.allowList?.hasLeft(target.hostPort))) {
        await clock.sleep(allowListLagMs);
        judged = judge();
      }
      if (judged.denied.length > 0) {
        metrics.denied.inc(judged.denied.length);
        log.warn(
          { denied: judged.denied.map((target) => target.hostPort), client: exchange.req.socket.remoteAddress },
          'prefill target refused: not a ready prefill pod of the pool',
        );
      }
      const gone = judged.denied.find((target) => deps.allowList?.hasLeft(target.hostPort));
      if (judged.allowed.length === 0 && gone) {
        return {
          kind: 'failed',
          status: 503,
          message: `the prefill pod ${gone.hostPort} has just gone`,
          reason: 'gone',
        };
      }
      if (judged.allowed.length === 0) {
        const pool = config.pool ? `${config.pool.namespace}/${config.pool.name}` : '';
        sendError(
          exchange.res,
          403,
          `header ${prefillerHeader}: ${judged.denied[0]?.hostPort ?? ''} is not a ready prefill pod of inference pool ${pool} on one of its ports`,
          { param: prefillerHeader },
        );
        return { kind: 'answered' };
      }
      usable = judged.allowed;
    }
    return {
      kind: 'targets',
      targets: config.prefill.isSampled ? rotated(usable, Math.floor(deps.random() * usable.length)) : usable,
    };
  }

  async function allowListSynced(exchange: Exchange): Promise<boolean> {
    const list = deps.allowList;
    if (!list || list.isSynced) return list !== undefined;
    const abort = new AbortController();
    exchange.onGone((reason) => abort.abort(reason));
    try {
      await Promise.race([list.synced, clock.sleep(allowListWaitMs, abort.signal)]);
    } finally {
      exchange.onGone(undefined);
      abort.abort();
    }
    return list.isSynced;
  }

  /** Ready prefill pods of the pool, each request beginning with the next one. */
  function discovered(): readonly Target[] {
    const all = [...(deps.allowList?.allowed() ?? [])].sort().flatMap((text) => parseHostPort(text) ?? []);
    return rotated(all, nextPod++);
  }

  async function prefill(turn: Turn, targets: readonly Target[], clientBody: string): Promise<PrefillResult> {
    const { exchange, requestId } = turn;
    const startedMs = performance.now();
    let failure: Extract<PrefillResult, { kind: 'failed' }> = {
      kind: 'failed',
      status: 504,
      message: 'no prefill pod answered in time',
      reason: 'timeout',
    };
    for (const [index, target] of targets.slice(0, maxTargets).entries()) {
      if (index > 0) metrics.prefillRetries.inc({ with: 'next_pod' });
      const body = connector.prefillRequest(turn.request.api, clientBody, legOf(target));
      const pool = deps.prefillPools.get(target.hostPort, target === trusted ? isTrustedTls : config.prefill.isTls);
      let triesLeft = config.prefill.maxRetries;
      let isReconnectLeft = true;
      for (;;) {
        const leftMs = config.prefill.timeoutMs - (performance.now() - startedMs);
        if (leftMs <= 0) return failure;
        let isRetryable: boolean;
        try {
          const hop = { ...turn.hop, body, headersTimeoutMs: leftMs };
          const response = await collect(pool, hop, exchange, {
            timeoutMs: leftMs,
            maxBytes: maxPrefillAnswerBytes,
            ...(config.prefill.healthIntervalMs > 0
              ? { health: { intervalMs: config.prefill.healthIntervalMs, isAnswering: () => isAnswering(pool) } }
              : {}),
          });
          const { status } = response;
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
  async function concurrently(turn: Turn, targets: readonly Target[], body: string): Promise<void> {
    const { exchange, requestId } = turn;
    let failure: Extract<PrefillResult, { kind: 'failed' }> | undefined;
    for (const [index, target] of targets.slice(0, maxTargets).entries()) {
      if (index > 0) metrics.prefillRetries.inc({ with: 'next_pod' });
      const leg = legOf(target);
      const failed = await oneMeeting(turn, leg, body);
      if (failed === undefined || exchange.isGone) return;
      if (failed.kind === 'rejected') {
        sendCollected(turn, failed.response);
        return;
      }
      log.warn({ target: target.hostPort, requestId, reason: failed.reason }, failed.message);
      failure = failed;
    }
    if (failure) afterFailure(turn, failure);
  }

  /** One such pair; resolves with the prefill's failure when the next pod may be tried, with undefined when the client has its answer. */
  function oneMeeting(
    turn: Turn,
    leg: Leg,
    body: string,
  ): Promise<Exclude<PrefillResult, { kind: 'done' }> | undefined> {
    const { exchange, request } = turn;
    const { target } = leg;
    const pool = deps.prefillPools.get(target.hostPort, target === trusted ? isTrustedTls : config.prefill.isTls);
    const startedMs = performance.now();
    let cancelPrefill: ((reason: Error) => void) | undefined;
    const hop = { ...turn.hop, body: connector.prefillRequest(request.api, body, leg) };
    const answered = collect(
      pool,
      hop,
      {
        onGone: (cancel) => {
          cancelPrefill = cancel;
        },
      },
      { timeoutMs: config.prefill.timeoutMs, maxBytes: maxPrefillAnswerBytes },
    ).then(
      (response): Exclude<PrefillResult, { kind: 'done' }> | undefined => {
        const { status } = response;
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
      (thrown: unknown): Exclude<PrefillResult, { kind: 'done' }> | undefined => {
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
      let failed: Exclude<PrefillResult, { kind: 'done' }> | undefined;
      void answered.then((result) => {
        if (!result) return;
        if (isBegun) {
          log.warn({ target: target.hostPort }, 'a prefill failed after its answer had begun');
          return;
        }
        failed = result;
        const stop = () => {
          // A call that waits for a connection cannot be ended yet.
          if (!isOver && !exchange.cancel(new Error('the prefill failed'))) setTimeout(stop, cancelAgainMs);
        };
        stop();
      });
      const prefilled = {
        kind: 'done',
        target,
        answer: { kvParams: undefined, cachedTokens: undefined, kvHandle: undefined },
      } as const;
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

  function afterFailure(turn: Turn, failure: Extract<PrefillResult, { kind: 'failed' }>): void {
    if (config.prefill.failure === 'decode-local') {
      metrics.fallbacks.inc({ reason: failure.reason });
      decode(turn, undefined, undefined);
    } else if (failure.response) sendCollected(turn, failure.response);
    else sendError(turn.exchange.res, failure.status, failure.message, { headers: answerHeaders(turn, undefined) });
  }

  function sendCollected(turn: Turn, response: Collected): void {
    const { res } = turn.exchange;
    const list = returnedHeaders(response.headers, answerHeaders(turn, undefined), false);
    res.writeHead(response.status, [...list, 'content-length', String(response.body.length)] as string[]);
    res.end(response.body);
  }

  /** The local engine's answer to the client, with the prefill's parameters when there was one. */
  function decode(
    turn: Turn,
    prefilled: Extract<PrefillResult, { kind: 'done' }> | undefined,
    body: string | undefined,
    /** Of a pair that runs at the same time. */
    pair?: { onBegin(): void; onFailed(error: Error, isStarted: boolean): void },
  ): void {
    const { exchange, request } = turn;
    let reader: AnswerReader | undefined;
    relay(deps.decoder, { ...turn.hop, body: body ?? turn.plain }, exchange, {
      extra: answerHeaders(turn, prefilled?.target),
      onHead(status, headers) {
        // A handle that the prefill pod no longer honours: the local engine can still do it all.
        if (prefilled && !pair && status >= 500 && config.prefill.failure === 'decode-local') return 'refuse';
        pair?.onBegin();
        (prefilled ? firstByte.remote : firstByte.local).observe((performance.now() - exchange.startedMs) / 1000);
        if (status >= 300 || isEncoded(headers)) return undefined;
        if (turn.key) reader = new AnswerReader(request.api, isEventStream(headers));
        if (!reader && prefilled?.answer.cachedTokens === undefined) return undefined;
        return createTap(reader, rewriterOf(prefilled));
      },
      onDone(status) {
        if (status < 300 && reader) remember(turn, reader, prefilled);
      },
      onFailed(error, isStarted) {
        if (pair) {
          pair.onFailed(error, isStarted);
          return;
        }
        if (error instanceof Refused) {
          metrics.fallbacks.inc({ reason: 'decoder_refused_kv' });
          log.warn(
            { status: error.status },
            'the local engine refused the transferred blocks; it computes the prompt itself',
          );
          decode(turn, undefined, undefined);
          return;
        }
        decodeFailed(turn, error, isStarted);
      },
    });
  }

  function decodeFailed(turn: Turn, error: Error, isStarted: boolean): void {
    const { res } = turn.exchange;
    const { status, message } = decoderFailure(error, deps);
    if (turn.exchange.isGone) return;
    if (!isStarted) {
      sendError(res, status, message, {
        headers: { 'x-session-id': turn.sessionId, 'x-signalbox-decode': config.decodeName },
      });
      return;
    }
    // The answer is cut: an event says why, and the connection ends without its proper end.
    if (!turn.request.stream) {
      res.destroy();
      return;
    }
    res.write(`data: ${JSON.stringify(errorBody(status, message))}\n\n`);
    // A gateway drops what it still holds when the connection breaks: it gets a moment to hand the event on.
    setTimeout(() => res.destroy(), cutLingerMs);
  }

  function remember(
    turn: Turn,
    reader: AnswerReader,
    prefilled: Extract<PrefillResult, { kind: 'done' }> | undefined,
  ): void {
    const { key, session } = turn;
    if (!key || !session) return;
    const answer = reader.end();
    if (answer.isCacheReported) isCacheReported = true;
    if (answer.finish === undefined || badFinishes.has(answer.finish)) return;
    const expected = session.expectedTokens;
    if (
      !prefilled &&
      session.isKnown &&
      isCacheReported &&
      answer.usage &&
      expected >= minVerifiedTokens &&
      answer.usage.cachedTokens < expected * config.sessions.minCachedRatio
    ) {
      sessions.invalidate(key, turn.sessionId);
      metrics.sessionInvalidations.inc({ reason: 'cold' });
      log.debug({ expected, cached: answer.usage.cachedTokens }, 'a known conversation was no longer in the engine');
      return;
    }
    sessions.commit(
      key,
      turn.sessionId,
      {
        answer: answer.segments,
        tokens: (answer.usage?.promptTokens ?? 0) + (answer.usage?.completionTokens ?? 0),
        responseId: turn.request.api === 'responses' ? answer.id : undefined,
        prefill: prefilled?.target.hostPort,
        kvHandle: prefilled?.answer.kvHandle,
      },
      turn.epoch,
    );
  }

  return {
    /** Serves one completion; what goes wrong becomes an OpenAI error answer. Never throws. */
    async serve(route: Extract<Route, { kind: 'completion' }>, exchange: Exchange): Promise<void> {
      try {
        await handle(route, exchange);
      } catch (thrown) {
        if (thrown instanceof ClientGone || exchange.isGone) return;
        const error = AppError.from(thrown);
        if (error.code === 'internal') log.error({ err: thrown }, 'a request failed');
        sendError(exchange.res, error.http, error.code === 'internal' ? 'the routing sidecar failed' : error.message, {
          headers: error.code === 'tooLarge' ? { connection: 'close' } : {},
        });
      }
    },
  };
}

/** The status and sentence for a call of the local engine that failed; counts it. */
export function decoderFailure(
  error: Error,
  deps: Pick<PipelineDeps, 'config' | 'metrics' | 'log' | 'onDecoderRefused'>,
): { readonly status: number; readonly message: string } {
  const kind = failureKindOf(error);
  const { host, port } = deps.config.decoder;
  if (kind === 'gone') return { status: 499, message: error.message };
  deps.metrics.decoderErrors.inc({ kind: kind === 'request' ? 'other' : kind });
  switch (kind) {
    case 'refused':
      deps.onDecoderRefused();
      return {
        status: 503,
        message: `the local engine is not ready: nothing answers at ${host}:${port}; wait until its model is loaded, or check --decoder-port`,
      };
    case 'timeout':
      return { status: 504, message: `the local engine did not answer in time: ${error.message}` };
    case 'request':
      return { status: 400, message: `the request cannot be sent on: ${error.message}` };
    default:
      deps.log.warn({ err: error }, 'the local engine broke off');
      return { status: 502, message: `the local engine broke off the connection: ${error.message}` };
  }
}

/** The path and query of a request line, also of one in absolute form. */
export function originForm(url: string): string {
  if (url.startsWith('/')) return url;
  const match = /^https?:\/\/[^/?]*(.*)$/i.exec(url);
  const rest = match?.[1] ?? '/';
  return rest.startsWith('/') ? rest : `/${rest}`;
}

const privateFields = ['kv_transfer_params', ...sessionFields] as const;

/** The body without fields that are not for engines, or undefined when it has none of them. */
export function withoutPrivateFields(request: Pick<Completion, 'body'>, text: string): string | undefined {
  const changes: Record<string, undefined> = {};
  let isNeeded = false;
  for (const name of privateFields) {
    if (!Object.hasOwn(request.body, name)) continue;
    changes[name] = undefined;
    isNeeded = true;
  }
  return isNeeded ? editMembers(text, changes) : undefined;
}

function rewriterOf(prefilled: Extract<PrefillResult, { kind: 'done' }> | undefined): CachedTokensRewriter | undefined {
  const cached = prefilled?.answer.cachedTokens;
  return cached === undefined ? undefined : new CachedTokensRewriter(cached);
}

function createTap(reader: AnswerReader | undefined, rewriter: CachedTokensRewriter | undefined): Tap {
  return {
    isLengthKept: rewriter === undefined,
    push(chunk) {
      reader?.push(chunk);
      return rewriter ? rewriter.push(chunk) : chunk;
    },
    flush: () => rewriter?.flush(),
  };
}

function isEventStream(headers: IncomingHeaders): boolean {
  const type = headers['content-type'];
  return typeof type === 'string' && type.startsWith('text/event-stream');
}

function isEncoded(headers: IncomingHeaders): boolean {
  const encoding = headers['content-encoding'];
  return encoding !== undefined && encoding !== 'identity';
}

function rotated<T>(items: readonly T[], by: number): readonly T[] {
  if (items.length < 2) return items;
  const start = by % items.length;
  return [...items.slice(start), ...items.slice(0, start)];
}

function targetOfUrl(url: URL): Target | undefined {
  const port = url.port === '' ? (url.protocol === 'https:' ? '443' : '80') : url.port;
  return parseHostPort(`${url.hostname}:${port}`);
}
