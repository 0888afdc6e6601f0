import type { Api } from '../../openai/request.ts';
import type { Target } from '../host-port.ts';

/** What a prefill pod's answer says. */
export interface PrefillAnswer {
  /** Raw JSON of the parameters under which the decoder finds the KV blocks; `null` when it lacks them, undefined when none are needed. */
  readonly kvParams: string | undefined;
  /** Prompt tokens that the prefill pod found in its cache; undefined when its answer does not tell. */
  readonly cachedTokens: number | undefined;
  /** How the blocks are shown to people: never sent to an engine. Undefined when the parameters name none. */
  readonly kvHandle: string | undefined;
}

/** What both requests of one prompt may need to know. */
export interface Leg {
  readonly target: Target;
  /** A number that no other request has, below 2^53. */
  readonly room: number;
  readonly bootstrapPort: number;
}

/** One way to hand KV blocks from a prefill pod to the local decoder. Its functions are pure and take JSON texts. */
export interface Connector {
  readonly name: string;
  /** Both engines get their requests at the same time; otherwise the decoder gets its one after the prefill's answer. */
  readonly isConcurrent: boolean;
  /** The body for the prefill pod. `body` is the client's, without anything that only the sidecar reads. */
  prefillRequest(api: Api, body: string, leg: Leg): string;
  /** Reads the prefill pod's answer, or undefined when it is no JSON object. */
  prefillAnswer(body: string): PrefillAnswer | undefined;
  /** Whether the client wants the decoder asked first, which answers `cache_threshold` when it has too little of the prompt. */
  isDecoderFirst?(body: Readonly<Record<string, unknown>>): boolean;
  /** The client's body for a decoder that shall compute all of it, where it differs from the client's. */
  fallbackRequest?(body: string): string;
  /** The body for the local decoder; `prefill` is undefined where both run at the same time. */
  decodeRequest(api: Api, body: string, prefill: PrefillAnswer | undefined, leg: Leg): string;
}

/** A JSON object, or undefined. */
export function objectOf(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const parsed: unknown = JSON.parse(text);
    return typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed)
      ? (parsed as Readonly<Record<string, unknown>>)
      : undefined;
  } catch {
    return undefined;
  }
}
