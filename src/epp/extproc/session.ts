import { type ErrorBody, errorBody } from '../../openai/error-body.ts';
import { type ModelNames, restoreModelName } from '../../openai/model-name.ts';
import { servedEndpoint } from '../framework/decision.ts';
import { type Chunks, split, toList } from './body-chunks.ts';
import {
  bodySendModes,
  type DynamicMetadata,
  type HeaderMutation,
  type HeaderPairs,
  type ProcessingRequest,
  type ProcessingResponse,
} from './codec.ts';

/** What is asked of the director: everything that is known of one HTTP request. */
export interface Question {
  readonly headers: HeaderPairs;
  readonly body: readonly Buffer[];
  readonly bodyBytes: number;
  readonly subset: readonly string[] | undefined;
}

/** What the director answers. */
export type Answer =
  | {
      readonly kind: 'route';
      readonly mutation: HeaderMutation;
      readonly metadata: DynamicMetadata;
      /** Further headers of the answer to the client. */
      readonly answerHeaders?: ReadonlyMap<string, string>;
      /** The request's body where it is to be another. */
      readonly body?: readonly Buffer[];
      /** The answer's model name is to be another. */
      readonly names?: ModelNames;
    }
  | Rejection;

export interface Rejection {
  readonly kind: 'reject';
  readonly status: number;
  readonly body: ErrorBody;
  /** Value of `x-llm-d-request-dropped-reason`, where there is one. */
  readonly reason?: string;
  /** Value of `Retry-After`, where trying again can help. */
  readonly retryAfterS?: number;
}

/** How the gateway handles bodies, and what this session may hold. */
export interface SessionLimits {
  readonly maxBodyBytes: number;
}

interface Modes {
  readonly request: number;
  readonly response: number;
}

/** One ext_proc stream, which is one HTTP request and its answer. */
export type SessionState =
  | { readonly kind: 'awaitingHeaders' }
  | {
      readonly kind: 'buffering';
      readonly headers: HeaderPairs;
      readonly subset: readonly string[] | undefined;
      readonly modes: Modes;
      readonly chunks: Chunks | undefined;
      readonly bytes: number;
    }
  | {
      readonly kind: 'deciding';
      readonly modes: Modes;
      readonly body: readonly Buffer[];
      /** What ended the request, and so how the body's replies end; `whole`: one reply for a buffered body. */
      readonly end: 'headers' | 'body' | 'trailers' | 'whole';
      /** Pieces that came meanwhile, in mode STREAMED, each to be replied to. */
      readonly waiting: number;
    }
  | {
      readonly kind: 'decided';
      readonly modes: Modes;
      readonly names: ModelNames | undefined;
      readonly answerHeaders: ReadonlyMap<string, string> | undefined;
    }
  | {
      readonly kind: 'responding';
      readonly modes: Modes;
      readonly names: ModelNames | undefined;
      /** Held back of the answer: it may be the start of the model's name. */
      readonly held: Buffer;
    }
  | { readonly kind: 'done' }
  | { readonly kind: 'failed' };

export type SessionMessage =
  | ProcessingRequest
  | { readonly kind: 'answer'; readonly answer: Answer }
  /** The request is to end although it is under way. */
  | { readonly kind: 'evict'; readonly answer: Rejection };

export type SessionEffect =
  | { readonly kind: 'reply'; readonly reply: ProcessingResponse }
  | { readonly kind: 'decide'; readonly question: Question }
  | {
      readonly kind: 'sawResponseHeaders';
      readonly headers: HeaderPairs;
      readonly served: string | undefined;
    }
  | { readonly kind: 'sawResponseBody'; readonly body: Buffer }
  /** The answer is complete: what was counted for it can be given back. */
  | { readonly kind: 'sawResponseEnd' }
  /** Nothing more will be said: the stream ends with this gRPC status, 0 for good. */
  | { readonly kind: 'end'; readonly status: number; readonly message: string };

export interface Step {
  readonly state: SessionState;
  readonly effects: readonly SessionEffect[];
}

export const initialState: SessionState = { kind: 'awaitingHeaders' };

const duplex: Modes = { request: bodySendModes.fullDuplexStreamed, response: bodySendModes.fullDuplexStreamed };
const invalidArgument = 3;
const noBytes = Buffer.alloc(0);
const nothing: readonly SessionEffect[] = [];
const seenMutation: HeaderMutation = { set: [['x-went-into-resp-headers', 'true']], remove: [] };
const responseHeadersReply: SessionEffect = {
  kind: 'reply',
  reply: { kind: 'responseHeaders', mutation: seenMutation },
};
/** Another model name may have another length. */
const renamedHeadersReply: SessionEffect = {
  kind: 'reply',
  reply: { kind: 'responseHeaders', mutation: { ...seenMutation, remove: ['content-length'] } },
};

function responseHeadersReplyOf(
  names: ModelNames | undefined,
  answerHeaders: ReadonlyMap<string, string> | undefined,
  served: string | undefined,
): SessionEffect {
  if (answerHeaders === undefined) return names === undefined ? responseHeadersReply : renamedHeadersReply;
  const set = [...seenMutation.set];
  for (const [name, value] of answerHeaders) {
    const told = value === servedEndpoint ? served : value;
    if (told !== undefined) set.push([name, told]);
  }
  const mutation = { set, remove: names === undefined ? [] : ['content-length'] };
  return { kind: 'reply', reply: { kind: 'responseHeaders', mutation } };
}
const requestHeadersReply: SessionEffect = { kind: 'reply', reply: { kind: 'requestHeaders' } };
const requestBodyReply: SessionEffect = { kind: 'reply', reply: { kind: 'requestBody' } };
const requestTrailersReply: SessionEffect = { kind: 'reply', reply: { kind: 'requestTrailers' } };
const responseEnd: SessionEffect = { kind: 'sawResponseEnd' };

/**
 * The protocol, without sockets or clocks.
 *
 * Guarantees: replies go header → body → trailers; the request's header reply goes out exactly once and before any
 * of its body; end of stream is said exactly once, on the last body chunk unless trailers follow.
 * By request_body_mode: FULL_DUPLEX_STREAMED replies to headers and body once the body is complete. BUFFERED and
 * BUFFERED_PARTIAL reply to headers at once and choose with the body; of a partial body nothing is read. STREAMED and NONE
 * have to choose by the headers alone.
 * Source: Envoy's external_processor.proto.
 */
export function step(state: SessionState, message: SessionMessage, limits: SessionLimits): Step {
  // Replies to a gateway that only observes would be ignored; so is everything it shows.
  if ('aside' in message && message.aside.isObserved) return { state, effects: nothing };
  switch (message.kind) {
    case 'requestHeaders':
      return onRequestHeaders(state, message);
    case 'requestBody':
      return onRequestBody(state, message, limits);
    case 'requestTrailers':
      return onRequestTrailers(state);
    case 'answer':
      return onAnswer(state, message.answer);
    case 'evict':
      return state.kind === 'decided' || state.kind === 'responding'
        ? rejected(message.answer)
        : { state, effects: nothing };
    case 'responseHeaders':
      return onResponseHeaders(state, message);
    case 'responseBody':
      return onResponseBody(state, message);
    case 'responseTrailers':
      return onResponseTrailers(state);
    case 'unknown':
      return { state, effects: nothing };
  }
}

type HeadersMessage = Extract<ProcessingRequest, { readonly headers: HeaderPairs }>;
type BodyMessage = Extract<ProcessingRequest, { readonly body: Buffer }>;

function onRequestHeaders(state: SessionState, message: HeadersMessage): Step {
  if (state.kind !== 'awaitingHeaders') return outOfTurn(state, 'request headers');
  const { headers, aside } = message;
  const modes: Modes =
    aside.protocol === undefined
      ? duplex
      : { request: aside.protocol.requestBodyMode, response: aside.protocol.responseBodyMode };
  const { request } = modes;
  if (message.endOfStream || request === bodySendModes.none || request === bodySendModes.streamed) {
    return {
      state: { kind: 'deciding', modes, body: [], end: 'headers', waiting: 0 },
      effects: [{ kind: 'decide', question: { headers, body: [], bodyBytes: 0, subset: aside.subset } }],
    };
  }
  const buffering: SessionState = {
    kind: 'buffering',
    headers,
    subset: aside.subset,
    modes,
    chunks: undefined,
    bytes: 0,
  };
  if (request === bodySendModes.fullDuplexStreamed) return { state: buffering, effects: nothing };
  if (isBuffered(request)) return { state: buffering, effects: [requestHeadersReply] };
  return reject(
    500,
    `the gateway sends bodies in mode ${request}, which is not known; set request_body_mode: FULL_DUPLEX_STREAMED in its ext_proc filter`,
  );
}

function isBuffered(mode: number): boolean {
  return mode === bodySendModes.buffered || mode === bodySendModes.bufferedPartial;
}

function onRequestBody(state: SessionState, message: BodyMessage, limits: SessionLimits): Step {
  // After an early answer of the gateway itself the rest of the request no longer matters.
  if (state.kind === 'responding' || state.kind === 'done' || state.kind === 'failed')
    return { state, effects: nothing };
  if (state.kind !== 'buffering') {
    const isStreamed = 'modes' in state && state.modes.request === bodySendModes.streamed;
    if (isStreamed && state.kind === 'decided') return { state, effects: [requestBodyReply] };
    if (isStreamed && state.kind === 'deciding')
      return { state: { ...state, waiting: state.waiting + 1 }, effects: nothing };
    return outOfTurn(state, 'a request body');
  }
  const bytes = state.bytes + message.body.length;
  if (bytes > limits.maxBodyBytes) {
    return reject(
      413,
      `the request body is larger than ${limits.maxBodyBytes} bytes; send less, or raise the picker's --max-request-body-bytes`,
    );
  }
  const chunks: Chunks = { chunk: message.body, before: state.chunks };
  const subset = message.aside.subset ?? state.subset;
  if (isBuffered(state.modes.request)) {
    const isCut = state.modes.request === bodySendModes.bufferedPartial && !message.endOfStream;
    return decide(isCut ? { ...state, subset } : { ...state, chunks, bytes, subset }, 'whole');
  }
  if (!message.endOfStream) return { state: { ...state, chunks, bytes, subset }, effects: nothing };
  return decide({ ...state, chunks, bytes, subset }, 'body');
}

function onRequestTrailers(state: SessionState): Step {
  if (state.kind === 'buffering') {
    if (!isBuffered(state.modes.request)) return decide(state, 'trailers');
    return reject(400, 'a request with trailers needs a body');
  }
  // The other modes have had their replies to headers and body.
  if (state.kind === 'decided' && state.modes.request !== bodySendModes.fullDuplexStreamed)
    return { state, effects: [requestTrailersReply] };
  if (state.kind === 'responding' || state.kind === 'done' || state.kind === 'failed')
    return { state, effects: nothing };
  return outOfTurn(state, 'request trailers');
}

function decide(
  state: Extract<SessionState, { kind: 'buffering' }>,
  end: Extract<SessionState, { kind: 'deciding' }>['end'],
): Step {
  const body = toList(state.chunks);
  return {
    state: { kind: 'deciding', modes: state.modes, body, end, waiting: 0 },
    effects: [
      { kind: 'decide', question: { headers: state.headers, body, bodyBytes: state.bytes, subset: state.subset } },
    ],
  };
}

function onAnswer(state: SessionState, answer: Answer): Step {
  if (state.kind !== 'deciding') return { state, effects: nothing };
  if (answer.kind === 'reject') return rejected(answer);
  const { mutation, metadata, names, answerHeaders } = answer;
  const next: SessionState = { kind: 'decided', modes: state.modes, names, answerHeaders };
  const said = { mutation, clearRouteCache: true, metadata };
  if (state.end === 'whole') {
    const replacement = answer.body === undefined ? {} : { replacement: Buffer.concat(answer.body) };
    return { state: next, effects: [{ kind: 'reply', reply: { kind: 'requestBody', ...said, ...replacement } }] };
  }
  const effects: SessionEffect[] = [{ kind: 'reply', reply: { kind: 'requestHeaders', ...said } }];
  if (state.end === 'headers') for (let i = 0; i < state.waiting; i++) effects.push(requestBodyReply);
  else {
    const chunks = split(answer.body ?? state.body);
    for (let i = 0; i < chunks.length; i++) {
      const endOfStream = state.end === 'body' && i === chunks.length - 1;
      effects.push(streamed('requestBody', chunks[i] ?? noBytes, endOfStream));
    }
    if (state.end === 'body' && chunks.length === 0) effects.push(streamed('requestBody', noBytes, true));
    if (state.end === 'trailers') effects.push(requestTrailersReply);
  }
  return { state: next, effects };
}

function onResponseHeaders(state: SessionState, message: HeadersMessage): Step {
  switch (state.kind) {
    case 'awaitingHeaders':
    case 'responding':
      return outOfTurn(state, 'response headers');
    case 'done':
    case 'failed':
      return { state, effects: nothing };
    case 'buffering':
    case 'deciding':
    case 'decided': {
      const names = state.kind === 'decided' ? state.names : undefined;
      const effects: SessionEffect[] = [
        responseHeadersReplyOf(names, state.kind === 'decided' ? state.answerHeaders : undefined, message.aside.served),
        { kind: 'sawResponseHeaders', headers: message.headers, served: message.aside.served },
      ];
      if (!message.endOfStream) {
        return { state: { kind: 'responding', modes: state.modes, names, held: noBytes }, effects };
      }
      return { state: { kind: 'done' }, effects: [...effects, responseEnd] };
    }
  }
}

function onResponseBody(state: SessionState, message: BodyMessage): Step {
  if (state.kind === 'done' || state.kind === 'failed') return { state, effects: nothing };
  if (state.kind !== 'responding') return outOfTurn(state, 'a response body');
  const isDuplex = state.modes.response === bodySendModes.fullDuplexStreamed;
  let { body } = message;
  let { held } = state;
  // Only full duplex can send a part of a piece later.
  if (state.names !== undefined) {
    ({ out: body, held } = restoreModelName(state.names, held, body, message.endOfStream || !isDuplex));
  }
  const effects: SessionEffect[] = [];
  if (isDuplex) {
    const chunks = body.length === 0 && !message.endOfStream ? [] : split([body]);
    for (let i = 0; i < chunks.length; i++) {
      effects.push(streamed('responseBody', chunks[i] ?? noBytes, message.endOfStream && i === chunks.length - 1));
    }
  } else {
    const replacement = body === message.body ? {} : { replacement: body };
    effects.push({ kind: 'reply', reply: { kind: 'responseBody', ...replacement } });
  }
  effects.push({ kind: 'sawResponseBody', body: message.body });
  if (!message.endOfStream) return { state: held === state.held ? state : { ...state, held }, effects };
  effects.push(responseEnd);
  return { state: { kind: 'done' }, effects };
}

function onResponseTrailers(state: SessionState): Step {
  if (state.kind === 'done' || state.kind === 'failed') return { state, effects: nothing };
  if (state.kind !== 'responding') return outOfTurn(state, 'response trailers');
  const effects: SessionEffect[] = state.held.length === 0 ? [] : [streamed('responseBody', state.held, false)];
  return {
    state: { kind: 'done' },
    effects: [...effects, { kind: 'reply', reply: { kind: 'responseTrailers' } }, responseEnd],
  };
}

/** Whether the answer is complete when the gateway closes the stream: without a response body it never says so. */
export function isOverAtClose(state: SessionState): boolean {
  return state.kind === 'responding' && state.modes.response === bodySendModes.none;
}

function streamed(kind: 'requestBody' | 'responseBody', body: Buffer, endOfStream: boolean): SessionEffect {
  return { kind: 'reply', reply: { kind, streamed: { body, endOfStream } } };
}

function reject(status: number, message: string): Step {
  return rejected({ kind: 'reject', status, body: errorBody(status, message) });
}

function rejected({ status, body, reason, retryAfterS }: Rejection): Step {
  const set: (readonly [string, string])[] = [['content-type', 'application/json']];
  if (reason !== undefined) set.push(['x-llm-d-request-dropped-reason', reason]);
  if (retryAfterS !== undefined) set.push(['retry-after', String(retryAfterS)]);
  return {
    state: { kind: 'done' },
    effects: [
      {
        kind: 'reply',
        reply: {
          kind: 'immediate',
          status,
          headers: { set, remove: [] },
          body: Buffer.from(JSON.stringify(body)),
          details: reason ?? `endpoint_picker_${status}`,
        },
      },
      { kind: 'end', status: 0, message: '' },
    ],
  };
}

function outOfTurn(state: SessionState, what: string): Step {
  return {
    state: { kind: 'failed' },
    effects: [{ kind: 'end', status: invalidArgument, message: `${what} came out of turn (${state.kind})` }],
  };
}
