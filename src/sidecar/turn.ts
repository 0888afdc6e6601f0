import { STATUS_CODES } from 'node:http';
import type { Pool } from 'undici';
import type { Clock } from '../clock.ts';
import type { Completion } from '../openai/request.ts';
import type { Logger } from '../telemetry/log.ts';
import type { SidecarMetrics } from '../telemetry/sidecar-metrics.ts';
import type { Tracing } from '../telemetry/tracing.ts';
import type { AllowListSource } from './allow-list-source.ts';
import type { SidecarConfig } from './config.ts';
import type { PrefillAnswer } from './connectors/connector.ts';
import { type Collected, type Exchange, type Hop, returnedHeaders, sendError, writeHead } from './forward.ts';
import type { Target } from './host-port.ts';
import type { SessionKey, SessionMatch, Sessions } from './sessions.ts';
import type { TurnTrace } from './trace.ts';

/** What every stage of a completion works with. */
export interface PipelineDeps {
  readonly config: SidecarConfig;
  readonly decoder: Pool;
  readonly prefillPools: PoolSet;
  readonly encodePools: PoolSet;
  readonly sessions: Sessions;
  /** Undefined when no pool is watched. */
  readonly allowList: AllowListSource | undefined;
  readonly metrics: SidecarMetrics;
  readonly log: Logger;
  readonly clock: Clock;
  readonly random: () => number;
  /** Undefined when no collector is named. */
  readonly tracing: Tracing | undefined;
  /** The local engine refused a connection: what it had cached is gone. */
  readonly onDecoderRefused: () => void;
}

/** Pools of connections by upstream. */
export interface PoolSet {
  get(hostPort: string, isTls?: boolean): Pool;
}

/** One completion on its way through the stages. */
export interface Turn {
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
  /** Undefined when it is not recorded. */
  readonly trace: TurnTrace | undefined;
}

/** A prefill that a pod has done. */
export interface Prefilled {
  readonly kind: 'done';
  readonly target: Target;
  readonly answer: PrefillAnswer;
}

/** A stage before the decoder that did not come off. */
export interface StageFailure {
  readonly kind: 'failed';
  readonly status: number;
  readonly message: string;
  readonly response?: Collected;
  /** For metrics. */
  readonly reason: string;
}

/** The request itself is at fault: the pod's answer is the client's. */
export interface Rejected {
  readonly kind: 'rejected';
  readonly response: Collected;
}

/** The sidecar's own headers of an answer. */
export function answerHeaders(
  turn: Pick<Turn, 'sessionId'>,
  decodeName: string,
  prefilledBy: Target | undefined,
): Record<string, string> {
  return {
    'x-session-id': turn.sessionId,
    'x-signalbox-prefill': prefilledBy?.hostPort ?? 'none',
    'x-signalbox-decode': decodeName,
  };
}

/** Sends the answer of a pod of an earlier stage to the client. */
export function sendCollected(turn: Turn, decodeName: string, response: Collected): void {
  const { res } = turn.exchange;
  const list = returnedHeaders(response.headers, answerHeaders(turn, decodeName, undefined), false);
  const reason = STATUS_CODES[response.status] ?? '';
  writeHead(res, response.status, reason, [...list, 'content-length', String(response.body.length)]);
  res.end(response.body);
}

/** Tells the client that a stage failed: with the pod's own answer where it gave one. */
export function sendFailure(turn: Turn, decodeName: string, failure: StageFailure): void {
  if (failure.response) sendCollected(turn, decodeName, failure.response);
  else {
    sendError(turn.exchange.res, failure.status, failure.message, {
      headers: answerHeaders(turn, decodeName, undefined),
    });
  }
}
