import { messageOf } from '../../errors.ts';
import type { Logger } from '../../telemetry/log.ts';
import { CodecError, decodeRequest, encodeReplies, type HeaderPairs, type ProcessingResponse } from './codec.ts';
import type { Call, Service } from './grpc.ts';
import {
  type Answer,
  initialState,
  isOverAtClose,
  type Question,
  type Rejection,
  type SessionEffect,
  type SessionMessage,
  step,
} from './session.ts';

export const processMethod = '/envoy.service.ext_proc.v3.ExternalProcessor/Process';

/** One request's way after it was sent to an endpoint. `end` is called exactly once. */
export interface Exchange {
  onResponseHeaders(headers: HeaderPairs, served: string | undefined): void;
  /** A view into a network buffer: copy what is kept. */
  onResponseBody(body: Buffer): void;
  end(isComplete: boolean): void;
}

interface Outcome {
  readonly answer: Answer;
  readonly exchange: Exchange | undefined;
}

interface Departure {
  /** How the gateway opened the stream. */
  readonly call: Pick<Call, 'header'>;
  onLeave?: () => void;
  /** Ends a request that is under way with that answer. */
  readonly evict: (answer: Rejection) => void;
}

/** The use case behind the protocol. A promise never rejects. */
export interface Director {
  /** @param departure its `onLeave` is called when the client goes while the answer is awaited */
  handle(question: Question, departure: Departure): Outcome | Promise<Outcome>;
}

const cancelled = 1;
const invalidArgument = 3;
const internal = 13;

/** Envoy's external processor: decodes, steps the session, and does what it says. */
export function createProcessService(options: {
  readonly director: Director;
  readonly maxBodyBytes: number;
  /** Told of every stream that ended: gRPC status and seconds. */
  readonly onStream?: (code: number, seconds: number) => void;
  readonly log: Logger;
}): Service {
  const { director, log, onStream } = options;
  const limits = { maxBodyBytes: options.maxBodyBytes };
  return (call) => {
    const startMs = onStream === undefined ? 0 : performance.now();
    let code = cancelled;
    const endCall = (status: number, message?: string): void => {
      code = status;
      call.end(status, message);
    };
    let state = initialState;
    let exchange: Exchange | undefined;
    let replies: ProcessingResponse[] = [];
    let isClosed = false;
    const departure: Departure = {
      call,
      evict: (answer) => {
        if (isClosed) return;
        try {
          advance({ kind: 'evict', answer });
          flush();
        } catch (thrown) {
          log.error({ error: messageOf(thrown) }, 'a stream failed');
          endCall(internal, 'internal error');
        }
      },
    };
    const leave = (): void => {
      departure.onLeave?.();
      delete departure.onLeave;
    };

    const finish = (isComplete: boolean): void => {
      const ended = exchange;
      exchange = undefined;
      ended?.end(isComplete);
    };

    const flush = (): void => {
      if (replies.length === 0) return;
      const frames = encodeReplies(replies);
      replies = [];
      call.send(frames);
    };

    const advance = (message: SessionMessage): void => {
      const next = step(state, message, limits);
      state = next.state;
      for (const effect of next.effects) perform(effect);
    };

    const answerWith = ({ answer, exchange: begun }: Outcome): void => {
      exchange = begun;
      advance({ kind: 'answer', answer });
    };

    const settle = async (pending: Promise<Outcome>): Promise<void> => {
      const outcome = await pending;
      // The client may have gone, or the gateway answered by itself, while the choice was under way.
      if (isClosed || state.kind !== 'deciding') {
        outcome.exchange?.end(false);
        return;
      }
      try {
        answerWith(outcome);
        flush();
      } catch (thrown) {
        log.error({ error: messageOf(thrown) }, 'a stream failed');
        endCall(internal, 'internal error');
      }
    };

    const perform = (effect: SessionEffect): void => {
      switch (effect.kind) {
        case 'reply':
          replies.push(effect.reply);
          return;
        case 'decide': {
          const outcome = director.handle(effect.question, departure);
          if (outcome instanceof Promise) void settle(outcome);
          else answerWith(outcome);
          return;
        }
        case 'sawResponseHeaders':
          // The gateway answered by itself.
          leave();
          exchange?.onResponseHeaders(effect.headers, effect.served);
          return;
        case 'sawResponseBody':
          exchange?.onResponseBody(effect.body);
          return;
        case 'sawResponseEnd':
          finish(true);
          return;
        case 'end':
          flush();
          finish(false);
          endCall(effect.status, effect.message);
          return;
      }
    };

    return {
      onMessage: (bytes) => {
        let message: SessionMessage;
        try {
          message = decodeRequest(bytes);
        } catch (thrown) {
          if (!(thrown instanceof CodecError)) throw thrown;
          log.warn({ error: messageOf(thrown) }, 'a gateway sent a malformed message');
          endCall(invalidArgument, `malformed ProcessingRequest: ${thrown.message}`);
          return;
        }
        advance(message);
        flush();
      },
      onHalfClose: () => {
        if (isOverAtClose(state)) finish(true);
        endCall(0);
      },
      onClose: () => {
        isClosed = true;
        onStream?.(code, (performance.now() - startMs) / 1000);
        leave();
        finish(false);
      },
    };
  };
}
