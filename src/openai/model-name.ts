import { membersOf } from './json-members.ts';

/**
 * The same JSON object with another `model`, byte for byte elsewhere.
 *
 * @param body a valid JSON object; one without `model` stays as it is
 */
export function replaceModelName(body: Buffer, model: string): readonly Buffer[] {
  const value = Buffer.from(JSON.stringify(model));
  const parts: Buffer[] = [];
  let kept = 0;
  // One character for each byte, so that places in the text are places in the bytes.
  for (const { key, valueStart, end } of membersOf(body.toString('latin1'))) {
    if (key !== 'model') continue;
    parts.push(body.subarray(kept, valueStart), value);
    kept = end;
  }
  parts.push(body.subarray(kept));
  return parts;
}

/** The name that served a request and the one that its client asked for, as JSON strings. */
export interface ModelNames {
  readonly served: Buffer;
  readonly asked: Buffer;
}

export function toModelNames(served: string, asked: string): ModelNames {
  return { served: Buffer.from(JSON.stringify(served)), asked: Buffer.from(JSON.stringify(asked)) };
}

const modelField = Buffer.from('"model":');
const none = Buffer.alloc(0);

/**
 * Puts the name that was asked for in place of the one that served, in an answer that comes in pieces: JSON or events.
 *
 * @param held what an earlier call held back; empty at first
 * @returns what to send now, and what may be the start of a name: nothing when `isEnd`
 */
export function restoreModelName(
  { served, asked }: ModelNames,
  held: Buffer,
  piece: Buffer,
  isEnd: boolean,
): { readonly out: Buffer; readonly held: Buffer } {
  const data = held.length === 0 ? piece : Buffer.concat([held, piece]);
  const parts: Buffer[] = [];
  let kept = 0;
  let hold = data.length;
  for (let from = 0; ; ) {
    const field = data.indexOf(modelField, from);
    if (field < 0) break;
    let start = field + modelField.length;
    if (data[start] === 0x20) start++;
    from = start;
    const found = data.subarray(start, start + served.length);
    if (found.equals(served)) {
      parts.push(data.subarray(kept, start), asked);
      kept = start + served.length;
      from = kept;
    } else if (start + found.length === data.length && found.equals(served.subarray(0, found.length))) {
      hold = field;
      break;
    }
  }
  if (isEnd) hold = data.length;
  else if (hold === data.length) hold -= overlap(data, kept);
  parts.push(data.subarray(kept, hold));
  const [only] = parts;
  return {
    out: parts.length === 1 && only !== undefined ? only : Buffer.concat(parts),
    // A copy: the piece is a view into a network buffer.
    held: hold === data.length ? none : Buffer.from(data.subarray(hold)),
  };
}

/** How many bytes at the end of `data`, after `from`, are the start of the model field. */
function overlap(data: Buffer, from: number): number {
  for (let length = Math.min(modelField.length - 1, data.length - from); length > 0; length--) {
    if (data.subarray(data.length - length).equals(modelField.subarray(0, length))) return length;
  }
  return 0;
}
