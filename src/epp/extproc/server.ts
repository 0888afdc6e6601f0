import { messageOf } from '../../errors.ts';
import type { Logger } from '../../telemetry/log.ts';
import { CodecError, decodeRequest, encodeReplies, type HeaderPairs, type ProcessingResponse } from './codec.ts';
import type { Service } from './grpc.ts';
import { type Answer, initialState, type Question, type SessionEffect, type SessionMessage, step } from './session.ts';

export const processMethod = '/envoy.service.ext_proc.v3.ExternalProcessor/Process';

/** One request's way after it was sent to an endpoint. `end` is called exactly once. */
export interface Exchange {
  onResponseHeaders(headers: HeaderPairs, served: string | undefined): void;
  /** A view into a network buffer: copy what is kept. */
  onResponseBody(body: Buffer): void;
  end(isComplete: boolean): void;
}

/** The use case behind the protocol. */
export interface Director {
  handle(question: Question): { readonly answer: Answer; readonly exchange: Exchange | undefined };
}

const invalidArgument = 3;

/** Envoy's external processor: decodes, steps the session, and does what it says. */
export function createProcessService(options: {
  readonly director: Director;
  readonly maxBodyBytes: number;
  readonly log: Logger;
}): Service {
  const { director, log } = options;
  const limits = { maxBodyBytes: options.maxBodyBytes };
  return (call) => {
    let state = initialState;
    let exchange: Exchange | undefined;
    let replies: ProcessingResponse[] = [];

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

    const perform = (effect: SessionEffect): void => {
      switch (effect.kind) {
        case 'reply':
          replies.push(effect.reply);
          return;
        case 'decide': {
          const { answer, exchange: begun } = director.handle(effect.question);
          exchange = begun;
          advance({ kind: 'answer', answer });
          return;
        }
        case 'sawResponseHeaders':
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
          call.end(effect.status, effect.message);
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
          call.end(invalidArgument, `malformed ProcessingRequest: ${thrown.message}`);
          return;
        }
        advance(message);
        flush();
      },
      onHalfClose: () => call.end(0),
      onClose: () => finish(false),
    };
  };
}
