import { messageOf } from '../errors.ts';
import { editMembers } from '../openai/json-members.ts';
import { judgeTargets } from './allow-list.ts';
import { objectOf } from './connectors/connector.ts';
import { encodeRequest, type MediaItem, mediaItemsOf, mergedEcParams } from './encode-request.ts';
import { ClientGone, type Collected, collect, failureKindOf } from './forward.ts';
import { parseTargets, type Target } from './host-port.ts';
import { tracedHeaders } from './trace.ts';
import type { PipelineDeps, Rejected, StageFailure, Turn } from './turn.ts';

const encoderHeader = 'x-encoder-hosts-ports';
const encodePath = '/v1/chat/completions';
const maxAnswerBytes = 8 * 1024 * 1024;
/** Items of one request that are encoded at the same time. */
const maxParallel = 16;
/** Encoders that are tried for one item. */
const maxTries = 3;

export interface Encoded {
  readonly kind: 'done';
  /** The client's body with what the engines need to find the embeddings. */
  readonly body: string;
}

/**
 * The first stage of a chat with images, audio or video: each item to one of the encoders that the request names, all at the same time. Undefined
 * when the sidecar has no encode stage. It resolves with undefined when the request passes it by: no item, no encoder
 * that may be called, or an item that failed and is left to the engines (`--encode-failure`).
 */
export function createEncode(
  deps: PipelineDeps,
): ((turn: Turn, isTailOnly: boolean) => Promise<Encoded | Rejected | StageFailure | undefined>) | undefined {
  const { config, metrics, log } = deps;
  const { encode } = config;
  if (!encode) return undefined;
  let nextEncoder = 0;

  return async (turn, isTailOnly) => {
    const header = turn.exchange.req.headers[encoderHeader];
    if (typeof header !== 'string' || turn.request.api !== 'chat') return undefined;
    const encoders = callable(parseTargets(header).targets);
    if (encoders.length === 0) return undefined;
    const items = mediaItemsOf(turn.request.body, isTailOnly);
    if (items.length === 0) return undefined;
    const startedMs = performance.now();
    const body = turn.plain.toString();
    const result = await encodeAll(turn, body, items, encoders);
    if (turn.exchange.isGone) throw new ClientGone();
    if (Array.isArray(result)) {
      metrics.encodeSeconds.observe((performance.now() - startedMs) / 1000);
      const params = encode.connector === 'ec-nixl' ? mergedEcParams(result) : undefined;
      const changes = {
        ...(params === undefined ? {} : { ec_transfer_params: params }),
        ...(turn.request.body.cache_hit_threshold === undefined ? {} : { cache_hit_threshold: '0' }),
      };
      return { kind: 'done', body: Object.keys(changes).length === 0 ? body : editMembers(body, changes) };
    }
    const failure = result as Rejected | StageFailure;
    if (failure.kind === 'rejected' || encode.failure === 'error') return failure;
    metrics.encodeFallbacks.inc({ reason: failure.reason });
    return undefined;
  };

  /** Of the named encoders those that are on the allow-list, where there is one; the others are left out. */
  function callable(named: readonly Target[]): readonly Target[] {
    if (!config.isSsrfProtected) return named;
    const { allowed, denied } = judgeTargets(named, deps.allowList?.allowedEncoders() ?? new Set(), undefined);
    if (denied.length > 0) {
      metrics.denied.inc(denied.length);
      log.warn(
        { denied: denied.map((target) => target.hostPort) },
        'encoder refused: not a ready encode pod of the pool',
      );
    }
    return allowed;
  }

  /** The answers in the order of the items, or the first failure, which ends what is still under way. */
  async function encodeAll(
    turn: Turn,
    body: string,
    items: readonly MediaItem[],
    encoders: readonly Target[],
  ): Promise<string[] | Rejected | StageFailure> {
    const answers: string[] = [];
    const deadlineMs = performance.now() + (encode?.timeoutMs ?? 0);
    const cancels = new Set<(reason: Error) => void>();
    const stopAll = (reason: Error) => {
      for (const cancel of [...cancels]) cancel(reason);
    };
    let stopped: Rejected | StageFailure | undefined;
    const first = nextEncoder;
    nextEncoder = (nextEncoder + items.length) % 1_000_000;
    let next = 0;
    const worker = async () => {
      for (;;) {
        const index = next++;
        const item = items[index];
        if (!item || stopped || turn.exchange.isGone) return;
        const result = await encodeOne(turn, body, item, index, encoders, first + index, deadlineMs, cancels);
        if (typeof result === 'string') answers[index] = result;
        else if (!stopped) {
          stopped = result;
          stopAll(new ClientGone());
        }
      }
    };
    turn.exchange.onGone(stopAll);
    try {
      await Promise.all(Array.from({ length: Math.min(maxParallel, items.length) }, worker));
    } finally {
      turn.exchange.onGone(undefined);
    }
    return stopped ?? answers;
  }

  async function encodeOne(
    turn: Turn,
    body: string,
    item: MediaItem,
    index: number,
    encoders: readonly Target[],
    first: number,
    deadlineMs: number,
    cancels: Set<(reason: Error) => void>,
  ): Promise<string | Rejected | StageFailure> {
    const headers = turn.hop.headers.slice(0, -2).concat(['x-request-id', `${turn.requestId}-enc-${index}`]);
    const request = encodeRequest(body, item);
    let failure: StageFailure = {
      kind: 'failed',
      status: 504,
      message: 'no encoder answered in time',
      reason: 'timeout',
    };
    for (let tried = 0; tried < Math.min(maxTries, encoders.length); tried++) {
      const leftMs = deadlineMs - performance.now();
      const target = encoders[(first + tried) % encoders.length];
      if (leftMs <= 0 || !target) return failure;
      let cancel: ((reason: Error) => void) | undefined;
      let response: Collected;
      const span = turn.trace?.leg('sidecar.encode', target.hostPort);
      try {
        response = await collect(
          deps.encodePools.get(target.hostPort),
          {
            method: 'POST',
            path: encodePath,
            headers: tracedHeaders(headers, span),
            body: request,
            headersTimeoutMs: leftMs,
          },
          {
            onGone: (now) => {
              if (cancel) cancels.delete(cancel);
              cancel = now;
              if (now) cancels.add(now);
            },
          },
          { timeoutMs: leftMs, maxBytes: maxAnswerBytes },
        );
        span?.end(response.status);
      } catch (thrown) {
        span?.end(undefined, messageOf(thrown));
        const kind = failureKindOf(thrown);
        if (kind === 'gone') return failure;
        metrics.encodes.inc({ result: kind === 'timeout' ? 'timeout' : 'unreachable' });
        const message = `encoder ${target.hostPort} cannot be reached: ${messageOf(thrown)}`;
        failure = { kind: 'failed', status: kind === 'timeout' ? 504 : 502, message, reason: kind };
        log.warn({ target: target.hostPort, requestId: turn.requestId, reason: kind }, message);
        continue;
      }
      const { status } = response;
      if (status >= 200 && status < 300) {
        const text = response.body.toString('utf8');
        if (objectOf(text)) {
          metrics.encodes.inc({ result: 'ok' });
          return text;
        }
      }
      if (status >= 400 && status < 500 && status !== 408 && status !== 429) {
        metrics.encodes.inc({ result: 'rejected' });
        return { kind: 'rejected', response };
      }
      metrics.encodes.inc({ result: 'error' });
      failure =
        status < 300
          ? {
              kind: 'failed',
              status: 502,
              message: `encoder ${target.hostPort} answered something that is not a JSON object`,
              reason: 'not_json',
            }
          : {
              kind: 'failed',
              status: 502,
              message: `encoder ${target.hostPort} answered ${status}`,
              reason: `status_${status}`,
            };
      log.warn({ target: target.hostPort, requestId: turn.requestId, reason: failure.reason }, failure.message);
    }
    return failure;
  }
}
