import { AnswerReader } from '../openai/answer.ts';
import { errorBody } from '../openai/error-body.ts';
import { createThresholdJudge } from './cache-threshold.ts';
import { CachedTokensRewriter } from './cached-tokens.ts';
import { breakOff, failureKindOf, type IncomingHeaders, Refused, relay, sendError, type Tap } from './forward.ts';
import { toHostPort } from './host-port.ts';
import { tracedHeaders } from './trace.ts';
import { answerHeaders, type PipelineDeps, type Prefilled, type Turn } from './turn.ts';

/** How long a cut stream stays open after the event that says so. */
const cutLingerMs = 100;
/** Below this many tokens, block borders make the share of cached tokens meaningless. */
const minVerifiedTokens = 256;
/** Ends of an answer after which its blocks are not trusted. */
const badFinishes: ReadonlySet<string> = new Set(['abort', 'error', 'failed', 'content_filter', 'cache_threshold']);

/** Of a pair of requests that run at the same time. */
export interface Pair {
  onBegin(): void;
  onFailed(error: Error, isStarted: boolean): void;
}

export type Decode = ReturnType<typeof createDecode>;

/** The last stage: the local engine's answer to the client, and what is remembered of it. */
export function createDecode(deps: PipelineDeps) {
  const { config, sessions, metrics, log } = deps;
  const firstByte = {
    remote: metrics.firstByteSeconds.labels('remote'),
    local: metrics.firstByteSeconds.labels('local'),
  };
  const decoderName = toHostPort(config.decoder.host, config.decoder.port);
  /** vLLM leaves the details out when nothing was cached, so their absence means zero only once they were seen. */
  let isCacheReported = false;

  /** The local engine's answer to the client, with the prefill's parameters when there was one. */
  function decode(turn: Turn, prefilled: Prefilled | undefined, body: string | undefined, pair?: Pair): void {
    const { exchange, request } = turn;
    let reader: AnswerReader | undefined;
    const leg = turn.trace?.leg('sidecar.decode', decoderName);
    const headers = tracedHeaders(turn.hop.headers, leg);
    relay(deps.decoder, { ...turn.hop, headers, body: body ?? turn.plain }, exchange, {
      extra: answerHeaders(turn, config.decodeName, prefilled?.target),
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
        leg?.end(status);
        if (status < 300 && reader) remember(turn, reader, prefilled);
      },
      onFailed(error, isStarted) {
        leg?.end(undefined, error.message);
        if (pair) {
          pair.onFailed(error, isStarted);
          return;
        }
        if (error instanceof Refused) {
          metrics.fallbacks.inc({ reason: 'decoder_refused_kv' });
          log.warn(
            { status: error.status, requestId: turn.requestId },
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
    const { status, message } = decoderFailure(error, turn.requestId, deps);
    if (turn.exchange.isGone) return;
    if (!isStarted) {
      sendError(res, status, message, {
        headers: { 'x-session-id': turn.sessionId, 'x-signalbox-decode': config.decodeName },
      });
      return;
    }
    // The answer is cut: an event says why, and the connection ends without its proper end.
    if (!turn.request.stream) {
      breakOff(res);
      return;
    }
    res.write(`data: ${JSON.stringify(errorBody(status, message))}\n\n`);
    // A gateway drops what it still holds when the connection breaks: it gets a moment to hand the event on.
    setTimeout(() => breakOff(res), cutLingerMs);
  }

  function remember(turn: Turn, reader: AnswerReader, prefilled: Prefilled | undefined): void {
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
      log.debug(
        { requestId: turn.requestId, expected, cached: answer.usage.cachedTokens },
        'a known conversation was no longer in the engine',
      );
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

  /**
   * Asks the local engine before any prefill pod, as the client's `cache_hit_threshold` wants it. Resolves with false when the engine has
   * too little of the prompt cached; otherwise its answer, or what went wrong, is the client's.
   */
  function decodeFirst(turn: Turn): Promise<boolean> {
    return new Promise((resolve) => {
      let reader: AnswerReader | undefined;
      const leg = turn.trace?.leg('sidecar.decode', decoderName);
      const headers = tracedHeaders(turn.hop.headers, leg);
      relay(deps.decoder, { ...turn.hop, headers, body: turn.plain }, turn.exchange, {
        extra: answerHeaders(turn, config.decodeName, undefined),
        judge: (status, headers) =>
          status < 300 && !isEncoded(headers) ? createThresholdJudge(isEventStream(headers)) : undefined,
        onHead(status, headers) {
          resolve(true);
          firstByte.local.observe((performance.now() - turn.exchange.startedMs) / 1000);
          if (status >= 300 || isEncoded(headers) || !turn.key) return undefined;
          reader = new AnswerReader(turn.request.api, isEventStream(headers));
          return createTap(reader, undefined);
        },
        onDone(status) {
          leg?.end(status);
          if (status < 300 && reader) remember(turn, reader, undefined);
        },
        onFailed(error, isStarted) {
          leg?.end(undefined, error instanceof Refused ? undefined : error.message);
          if (error instanceof Refused) resolve(false);
          else {
            resolve(true);
            decodeFailed(turn, error, isStarted);
          }
        },
      });
    });
  }

  return { decode, decodeFirst, decodeFailed };
}

/** The status and sentence for a call of the local engine that failed; counts it. */
export function decoderFailure(
  error: Error,
  requestId: string,
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
      deps.log.warn({ err: error, requestId }, 'the local engine broke off');
      return { status: 502, message: `the local engine broke off the connection: ${error.message}` };
  }
}

function rewriterOf(prefilled: Prefilled | undefined): CachedTokensRewriter | undefined {
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
