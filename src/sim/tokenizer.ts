/**
 * A deterministic tokenizer that needs no model files: words, digits, spaces and signs, each piece's id
 * being a hash of its text. Pieces are found from left to right without looking past their own end, so the
 * tokens of a text cut at a piece's border are the first tokens of the whole text. The prefix cache of a
 * conversation rests on that.
 */
const maxLetters = 7;
const maxDigits = 3;
const maxSpaces = 16;

/** Ids below this are the template's marks; no text can produce them. */
const firstTextId = 256;

export const specialIds = { begin: 1, system: 2, user: 3, assistant: 4, tool: 5, end: 6, image: 7, other: 8 } as const;

const FNV_OFFSET = 0x811c9dc5;
const FNV_PRIME = 0x01000193;

/** Appends the ids of `text` to `ids`. */
export function encodeInto(ids: number[], text: string): void {
  let start = 0;
  while (start < text.length) {
    const end = endOfPiece(text, start);
    let hash = FNV_OFFSET;
    for (let i = start; i < end; i++) hash = Math.imul(hash ^ text.charCodeAt(i), FNV_PRIME);
    ids.push(toId(hash));
    start = end;
  }
}

/** The pieces of `text`: joined they are the text again. */
export function splitPieces(text: string): string[] {
  const pieces: string[] = [];
  for (let start = 0; start < text.length; ) {
    const end = endOfPiece(text, start);
    pieces.push(text.slice(start, end));
    start = end;
  }
  return pieces;
}

/** The id of one piece. */
export function idOfPiece(piece: string): number {
  return toId(hashText(piece));
}

/** A 32-bit hash of a text. */
export function hashText(text: string, seed = FNV_OFFSET): number {
  let hash = seed;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), FNV_PRIME);
  return hash >>> 0;
}

/** 31 bits, so that the engine keeps lists of ids as small integers. */
function toId(hash: number): number {
  const id = hash & 0x7fff_ffff;
  return id < firstTextId ? id + firstTextId : id;
}

function endOfPiece(text: string, start: number): number {
  const first = text.charCodeAt(start);
  if (first === SPACE) {
    if (start + 1 < text.length && isLetter(text.charCodeAt(start + 1)))
      return endOfRun(text, start + 1, isLetter, maxLetters);
    return endOfRun(text, start, isSpace, maxSpaces);
  }
  if (isLetter(first)) return endOfRun(text, start, isLetter, maxLetters);
  if (isDigit(first)) return endOfRun(text, start, isDigit, maxDigits);
  const isPair =
    first >= 0xd800 && first <= 0xdbff && start + 1 < text.length && (text.charCodeAt(start + 1) & 0xfc00) === 0xdc00;
  return start + (isPair ? 2 : 1);
}

function endOfRun(text: string, start: number, belongs: (code: number) => boolean, max: number): number {
  const limit = Math.min(text.length, start + max);
  let end = start + 1;
  while (end < limit && belongs(text.charCodeAt(end))) end++;
  return end;
}

const SPACE = 32;

function isSpace(code: number): boolean {
  return code === SPACE;
}

function isDigit(code: number): boolean {
  return code >= 48 && code <= 57;
}

/** Latin, Greek, Cyrillic and their like; scripts without spaces (from U+2E80) give a token a character. */
function isLetter(code: number): boolean {
  return (code >= 97 && code <= 122) || (code >= 65 && code <= 90) || (code >= 0xc0 && code < 0x2000 && code !== 0xd7);
}
