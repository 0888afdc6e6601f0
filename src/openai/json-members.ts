/** One member of a JSON object, as offsets into its text. */
export interface Member {
  /** Decoded name. */
  readonly key: string;
  /** From the opening quote of the name to the end of the value. */
  readonly start: number;
  readonly end: number;
  readonly valueStart: number;
}

const QUOTE = 34;
const COMMA = 44;
const COLON = 58;
const OPEN_BRACKET = 91;
const BACKSLASH = 92;
const CLOSE_BRACKET = 93;
const OPEN_BRACE = 123;
const CLOSE_BRACE = 125;

/**
 * The top-level members of a JSON object, in order, duplicates included.
 * Assumptions: `text` is a JSON object that JSON.parse accepts; otherwise the answer has no meaning.
 */
export function membersOf(text: string): readonly Member[] {
  const members: Member[] = [];
  let at = skipSpace(text, 0) + 1;
  for (;;) {
    at = skipSpace(text, at);
    const code = text.charCodeAt(at);
    if (code === COMMA) {
      at++;
      continue;
    }
    if (code !== QUOTE) return members;
    const start = at;
    at = endOfString(text, at);
    const raw = text.slice(start, at);
    const key = raw.includes('\\') ? String(JSON.parse(raw)) : raw.slice(1, -1);
    at = skipSpace(text, at);
    if (text.charCodeAt(at) !== COLON) return members;
    const valueStart = skipSpace(text, at + 1);
    at = endOfValue(text, valueStart);
    members.push({ key, start, end: at, valueStart });
  }
}

/** The text of a top-level member's value, byte for byte (the last one of duplicates), or undefined. */
export function rawMember(text: string, key: string): string | undefined {
  const found = membersOf(text).findLast((member) => member.key === key);
  return found && text.slice(found.valueStart, found.end);
}

/**
 * Sets or (with undefined) removes top-level members of a JSON object's text. All that is not named stays as it was, byte for
 * byte: no number loses digits and no long prompt is encoded again. Set members go to the end.
 *
 * @param changes raw JSON values by name
 */
export function editMembers(text: string, changes: Readonly<Record<string, string | undefined>>): string {
  let out = '';
  let keptFrom = -1;
  let keptTo = -1;
  const keep = () => {
    if (keptFrom >= 0) out += `${out === '' ? '' : ','}${text.slice(keptFrom, keptTo)}`;
    keptFrom = -1;
  };
  for (const member of membersOf(text)) {
    if (Object.hasOwn(changes, member.key)) {
      keep();
      continue;
    }
    if (keptFrom < 0) keptFrom = member.start;
    keptTo = member.end;
  }
  keep();
  for (const key of Object.keys(changes)) {
    const value = changes[key];
    if (value !== undefined) out += `${out === '' ? '' : ','}${JSON.stringify(key)}:${value}`;
  }
  return `{${out}}`;
}

function skipSpace(text: string, from: number): number {
  let at = from;
  for (;;) {
    const code = text.charCodeAt(at);
    if (code !== 32 && code !== 10 && code !== 13 && code !== 9) return at;
    at++;
  }
}

/** Index after the closing quote of the string that opens at `from`. */
function endOfString(text: string, from: number): number {
  let at = text.indexOf('"', from + 1);
  while (at >= 0) {
    let slashes = 0;
    while (text.charCodeAt(at - 1 - slashes) === BACKSLASH) slashes++;
    if (slashes % 2 === 0) return at + 1;
    at = text.indexOf('"', at + 1);
  }
  return text.length;
}

function endOfValue(text: string, from: number): number {
  const first = text.charCodeAt(from);
  if (first === QUOTE) return endOfString(text, from);
  let at = from;
  if (first === OPEN_BRACE || first === OPEN_BRACKET) {
    let depth = 0;
    while (at < text.length) {
      const code = text.charCodeAt(at);
      if (code === QUOTE) {
        at = endOfString(text, at);
        continue;
      }
      at++;
      if (code === OPEN_BRACE || code === OPEN_BRACKET) depth++;
      else if ((code === CLOSE_BRACE || code === CLOSE_BRACKET) && --depth === 0) break;
    }
    return at;
  }
  while (at < text.length) {
    const code = text.charCodeAt(at);
    if (code === COMMA || code === CLOSE_BRACE || code === 32 || code === 10 || code === 13 || code === 9) break;
    at++;
  }
  return at;
}
