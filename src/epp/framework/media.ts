import type { PickRequest, StateKey } from './cycle-state.ts';
import type { Endpoint } from './endpoint.ts';

export type Modality = 'image' | 'audio' | 'video';

/** A picture, a recording or a film in a request. */
export interface MediaItem {
  readonly modality: Modality;
  /** Its URL or its data: equal for equal media. */
  readonly source: string;
}

const modalities: Readonly<Record<string, Modality>> = {
  image_url: 'image',
  input_image: 'image',
  image: 'image',
  audio_url: 'audio',
  input_audio: 'audio',
  audio: 'audio',
  video_url: 'video',
  input_video: 'video',
  video: 'video',
};

const known = new WeakMap<PickRequest, readonly MediaItem[]>();

/** The media of a request's messages (chat, Messages and Responses APIs), read at the first call. */
export function mediaOf(request: PickRequest): readonly MediaItem[] {
  let items = known.get(request);
  if (items === undefined) {
    items = collect(request);
    known.set(request, items);
  }
  return items;
}

type Fields = Readonly<Record<string, unknown>>;

function collect({ completion }: PickRequest): readonly MediaItem[] {
  const turns = completion?.body.messages ?? completion?.body.input;
  if (!Array.isArray(turns)) return [];
  const items: MediaItem[] = [];
  for (const turn of turns as readonly (Fields | null)[]) {
    const content = turn?.content;
    if (!Array.isArray(content)) continue;
    for (const part of content as readonly (Fields | null)[]) {
      const modality = typeof part?.type === 'string' ? modalities[part.type] : undefined;
      if (part === null || modality === undefined) continue;
      items.push({ modality, source: sourceOf(part[String(part.type)] ?? part.source ?? part) });
    }
  }
  return items;
}

function sourceOf(value: unknown): string {
  if (typeof value === 'string') return value;
  const { url, data } = (value ?? {}) as Fields;
  if (typeof url === 'string') return url;
  return typeof data === 'string' ? data : JSON.stringify(value);
}

/** How much of a request's media each endpoint is believed to have encoded already. */
export interface MediaMatch {
  /** 0–1. */
  share(endpoint: Endpoint): number;
  /** Whether that one is among them. */
  has(endpoint: Endpoint, source: string): boolean;
}

/** Written by the producer of media matches; absent without media. */
export const mediaMatchKey: StateKey<MediaMatch> = { name: 'media-match' };
