import { randomUUID } from 'node:crypto';
import { AppError } from '../errors.ts';
import { parseCompletionText } from '../openai/request.ts';
import { originForm, withoutPrivateFields } from './client-body.ts';
import { decide, isBound } from './decide.ts';
import { createDecode } from './decode.ts';
import { createEncode } from './encode.ts';
import { ClientGone, type Exchange, forwardedHeaders, type Hop, readBody, sendError } from './forward.ts';
import { parseTargets, type Target } from './host-port.ts';
import { createPrefill } from './prefill.ts';
import { createPrefillTargets, prefillerHeader } from './prefill-targets.ts';
import type { Route } from './routes.ts';
import { type SessionMatch, sessionIdOf, sessionKeyOf } from './sessions.ts';
import { beginTrace, traceHeader } from './trace.ts';
import { type PipelineDeps, type StageFailure, sendCollected, sendFailure, type Turn } from './turn.ts';

/** Set by the picker for the gateway: its presence says that a picker decided about this request. */
const pickedHeader = 'x-gateway-destination-endpoint';

/** For both legs: the sidecar reads and changes answers, so they come uncompressed; the request id is set once. */
const ownHeaders: ReadonlySet<string> = new Set(['accept-encoding', 'x-request-id']);

/** Of a request whose trace is recorded: each call names its own span. */
const tracedOwnHeaders: ReadonlySet<string> = new Set([...ownHeaders, traceHeader]);

/** Serves completions: decides, prefills where that pays, decodes locally, remembers the conversation. */
export function createPipeline(deps: PipelineDeps) {
  const { config, sessions, metrics, log } = deps;
  const { connector } = config;
  const isRemembering = config.sessions.policy !== 'off';
  const decoding = createDecode(deps);
  const { decode } = decoding;
  const { trusted, ...prefillTargets } = createPrefillTargets(deps);
  const { prefill, concurrently, legOf } = createPrefill(deps, trusted, decoding);
  const encode = createEncode(deps);
  const decisions = {
    prefillHeader: metrics.decisions.labels('prefill_header'),
    prefillFallback: metrics.decisions.labels('prefill_fallback'),
    session: metrics.decisions.labels('local_session'),
    bound: metrics.decisions.labels('local_bound'),
    picker: metrics.decisions.labels('local_picker'),
    'no-prefill': metrics.decisions.labels('local_no_prefill'),
  };
  const lookups = { hit: metrics.sessionLookups.labels('hit'), miss: metrics.sessionLookups.labels('miss') };

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

    const { requestId } = exchange;
    const trace = beginTrace(deps.tracing, exchange, { requestId, model: request.model });
    const headers = forwardedHeaders(req, trace ? tracedOwnHeaders : ownHeaders);
    headers.push('x-request-id', requestId);
    const path = originForm(req.url ?? '/');
    const hop: Omit<Hop, 'body'> = { method: 'POST', path, headers, headersTimeoutMs: config.decoder.timeoutMs };
    const received: Turn = {
      exchange,
      request,
      key,
      session,
      sessionId,
      hop,
      plain: clean ?? bytes,
      requestId,
      epoch: sessions.epoch,
      trace,
    };
    const encoded = encode
      ? await encode(received, decision.kind === 'local' && decision.why === 'session')
      : undefined;
    if (encoded?.kind === 'rejected') {
      sendCollected(received, config.decodeName, encoded.response);
      return;
    }
    if (encoded?.kind === 'failed') {
      sendFailure(received, config.decodeName, encoded);
      return;
    }
    const turn: Turn = encoded ? { ...received, plain: encoded.body } : received;

    if (log.isLevelEnabled('debug')) {
      const why = decision.kind === 'local' ? decision.why : decision.from;
      log.debug(
        { requestId, decision: decision.kind, why, session: session?.isKnown ?? false },
        'where to compute the prompt',
      );
    }
    if (decision.kind === 'local') {
      decisions[decision.why].inc();
      decode(turn, undefined, undefined);
      return;
    }
    decisions[decision.from === 'header' ? 'prefillHeader' : 'prefillFallback'].inc();

    let targets: readonly Target[];
    if (decision.from === 'header') {
      const checked = await prefillTargets.checkNamed(named?.targets ?? [], named?.malformed ?? [], exchange);
      if (checked.kind === 'answered') return;
      if (checked.kind === 'failed') {
        afterFailure(turn, checked);
        return;
      }
      targets = checked.targets;
    } else {
      targets = await prefillTargets.fallback(exchange);
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

    // With items that were encoded for this request, what the cache holds is not asked first.
    if (!encoded && connector.isDecoderFirst?.(request.body)) {
      const isAnswered = await decoding.decodeFirst(turn);
      if (isAnswered) return;
      if (exchange.isGone) throw new ClientGone();
    }
    const body = encoded?.body ?? clean ?? text;
    const result = connector.isConcurrent
      ? await concurrently(turn, targets, body)
      : await prefill(turn, targets, body);
    if (exchange.isGone) throw new ClientGone();
    switch (result?.kind) {
      case 'done':
        decode(turn, result, connector.decodeRequest(request.api, body, result.answer, legOf(result.target)));
        return;
      case 'rejected':
        sendCollected(turn, config.decodeName, result.response);
        return;
      case 'failed':
        afterFailure(turn, result);
        return;
    }
  }

  function afterFailure(turn: Turn, failure: StageFailure): void {
    if (config.prefill.failure === 'decode-local') {
      metrics.fallbacks.inc({ reason: failure.reason });
      decode(turn, undefined, connector.fallbackRequest?.(turn.plain.toString()));
    } else sendFailure(turn, config.decodeName, failure);
  }

  return {
    /** Serves one completion; what goes wrong becomes an OpenAI error answer. Never throws. */
    async serve(route: Extract<Route, { kind: 'completion' }>, exchange: Exchange): Promise<void> {
      try {
        await handle(route, exchange);
      } catch (thrown) {
        if (thrown instanceof ClientGone || exchange.isGone) return;
        const error = AppError.from(thrown);
        if (error.code === 'internal') log.error({ err: thrown, requestId: exchange.requestId }, 'a request failed');
        sendError(exchange.res, error.http, error.code === 'internal' ? 'the routing sidecar failed' : error.message, {
          headers: error.code === 'tooLarge' ? { connection: 'close' } : {},
        });
      }
    },
  };
}
