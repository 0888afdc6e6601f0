import { rawMember } from '../openai/json-members.ts';

/** What `--ec-connector` takes: embeddings through a store that all engines see, or by NIXL under parameters of the answers. */
export const ecConnectors = ['ec-example', 'ec-nixl'] as const;
export type EcConnector = (typeof ecConnectors)[number];

/** One image, audio or video of a chat. */
export interface MediaItem {
  /** What two equal items have in common: their URL or data. */
  readonly key: string;
  /** The part of the message, as JSON. */
  readonly part: string;
}

const urlTypes = ['image_url', 'audio_url', 'video_url'] as const;

/**
 * The items that a chat's messages hold, each once, in order.
 *
 * @param isTailOnly only those after the last answer: the others are in the cache of a known conversation
 */
export function mediaItemsOf(body: Readonly<Record<string, unknown>>, isTailOnly = false): readonly MediaItem[] {
  const messages = (Array.isArray(body.messages) ? body.messages : []) as readonly ({
    readonly role?: unknown;
    readonly content?: unknown;
  } | null)[];
  const from = isTailOnly ? messages.findLastIndex((message) => message?.role === 'assistant') + 1 : 0;
  const items = new Map<string, MediaItem>();
  for (const message of messages.slice(from)) {
    if (!Array.isArray(message?.content)) continue;
    for (const part of message.content as readonly (Readonly<Record<string, unknown>> | null)[]) {
      const key = part && keyOf(part);
      if (key && !items.has(key)) items.set(key, { key, part: JSON.stringify(part) });
    }
  }
  return [...items.values()];
}

/** Undefined for text and whatever else is nothing to encode. */
function keyOf(part: Readonly<Record<string, unknown>>): string | undefined {
  const { type } = part;
  if (type === 'input_audio') {
    const data = (part.input_audio as { readonly data?: unknown } | undefined)?.data;
    return typeof data === 'string' ? `input_audio ${data}` : undefined;
  }
  const kind = urlTypes.find((name) => name === type);
  if (!kind) return undefined;
  const given = part[kind] as { readonly url?: unknown } | string | undefined;
  const url = typeof given === 'string' ? given : given?.url;
  return typeof url === 'string' ? `${kind} ${url}` : undefined;
}

/** Members of a chat that change how its items are encoded, and so under which name the result is found. */
const encodingMembers = ['model', 'mm_processor_kwargs'] as const;

/** The request that has an encoder encode one item: a chat of this item alone, one token. `body` is the client's. */
export function encodeRequest(body: string, item: MediaItem): string {
  const kept = encodingMembers.flatMap((name) => {
    const raw = rawMember(body, name);
    return raw === undefined ? [] : [`${JSON.stringify(name)}:${raw},`];
  });
  return `{${kept.join('')}"messages":[{"role":"user","content":[${item.part}]}],"max_tokens":1,"max_completion_tokens":1,"stream":false}`;
}

/** The `ec_transfer_params` of all answers as one object, raw JSON; undefined when no answer has any. */
export function mergedEcParams(answers: readonly string[]): string | undefined {
  const merged: Record<string, unknown> = {};
  for (const answer of answers) {
    const raw = rawMember(answer, 'ec_transfer_params');
    if (raw?.startsWith('{')) Object.assign(merged, JSON.parse(raw));
  }
  return Object.keys(merged).length === 0 ? undefined : JSON.stringify(merged);
}
