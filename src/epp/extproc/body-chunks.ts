/** The most bytes of a body in one reply: Envoy refuses messages of 64 KiB, the frame around included. */
export const maxChunkBytes = 62_000;

/** A body as it arrived, newest chunk first; adding one never copies. */
export interface Chunks {
  readonly chunk: Buffer;
  readonly before: Chunks | undefined;
}

/** The chunks in order of arrival, empty ones left out. */
export function toList(chunks: Chunks | undefined): readonly Buffer[] {
  const list: Buffer[] = [];
  for (let at = chunks; at !== undefined; at = at.before) if (at.chunk.length > 0) list.push(at.chunk);
  return list.reverse();
}

/** The same bytes in views of at most `maxChunkBytes`; nothing for an empty list. */
export function split(chunks: readonly Buffer[]): readonly Buffer[] {
  if (chunks.every((chunk) => chunk.length <= maxChunkBytes)) return chunks;
  return chunks.flatMap((chunk) => {
    const views: Buffer[] = [];
    for (let at = 0; at < chunk.length; at += maxChunkBytes) views.push(chunk.subarray(at, at + maxChunkBytes));
    return views;
  });
}
