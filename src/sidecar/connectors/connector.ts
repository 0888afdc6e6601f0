import type { Api } from '../../openai/request.ts';

/** What a prefill pod's answer says. */
export interface PrefillAnswer {
  /** Raw JSON of the parameters under which the decoder finds the KV blocks; `null` when the answer has none. */
  readonly kvParams: string;
  /** Prompt tokens that the prefill pod found in its cache. */
  readonly cachedTokens: number;
  /** How the blocks are shown to people: never sent to an engine. Undefined when the parameters name none. */
  readonly kvHandle: string | undefined;
}

/** One way to hand KV blocks from a prefill pod to the local decoder. Both functions are pure and take JSON texts. */
export interface Connector {
  readonly name: string;
  /** The body for the prefill pod. `body` is the client's, without anything that only the sidecar reads. */
  prefillRequest(api: Api, body: string): string;
  /** Reads the prefill pod's answer, or undefined when it is no JSON object. */
  prefillAnswer(body: string): PrefillAnswer | undefined;
  /** The body for the local decoder. */
  decodeRequest(api: Api, body: string, prefill: PrefillAnswer): string;
}
