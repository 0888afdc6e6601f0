import { AppError } from '../../errors.ts';
import { format, isPrintable, print, show } from './print.ts';
import { asMap, compareText, entryOf, Float, isList, isTrue, typeNameOf, type Value } from './value.ts';

/** The functions that every template has. */

export interface TemplateFunction {
  readonly min: number;
  /** undefined: as many as one likes. */
  readonly max: number | undefined;
  readonly call: (args: readonly Value[]) => Value;
}

export type Functions = Readonly<Record<string, TemplateFunction>>;

function fail(message: string): never {
  throw new AppError('invalid', message);
}

const fixed = (count: number, call: (...args: readonly Value[]) => Value): TemplateFunction => ({
  min: count,
  max: count,
  call: (args) => call(...args),
});
const open = (min: number, call: (args: readonly Value[]) => Value): TemplateFunction => ({
  min,
  max: undefined,
  call,
});

/** `and` and `or` are not here: they leave the rest of their arguments alone once the answer is clear. */
export const builtins: Functions = {
  not: fixed(1, (value) => !isTrue(value)),
  print: open(0, print),
  println: open(0, (args) => `${args.map(show).join(' ')}\n`),
  printf: open(1, ([pattern, ...args]) => format(text(pattern), args)),
  html: open(0, (args) => escapeHtml(join(args))),
  js: open(0, (args) => escapeJs(join(args))),
  urlquery: open(0, (args) => escapeQuery(join(args))),
  len: fixed(1, lengthOf),
  index: open(1, ([of, ...keys]) => keys.reduce(indexOnce, of)),
  slice: open(1, ([of, ...bounds]) => sliceOf(of, bounds)),
  call: open(1, ([what]) => fail(`error calling call: non-function of type ${typeNameOf(what)}`)),
  eq: open(1, (args) => {
    if (args.length < 2) fail('error calling eq: missing argument for comparison');
    return args.slice(1).some((other) => isEqual(args[0], other));
  }),
  ne: fixed(2, (a, b) => !isEqual(a, b)),
  lt: fixed(2, (a, b) => order(a, b) < 0),
  le: fixed(2, (a, b) => order(a, b) <= 0),
  gt: fixed(2, (a, b) => order(a, b) > 0),
  ge: fixed(2, (a, b) => order(a, b) >= 0),
};

/** The argument as text. */
export function text(value: Value): string {
  if (typeof value === 'string') return value;
  return fail(`wrong type for value; expected string; got ${typeNameOf(value)}`);
}

function join(args: readonly Value[]): string {
  const [only] = args;
  return args.length === 1 && typeof only === 'string' ? only : print(args);
}

function lengthOf(value: Value): number {
  if (typeof value === 'string') return new TextEncoder().encode(value).length;
  if (isList(value)) return value.length;
  const map = asMap(value);
  return map
    ? Object.keys(map.entries).length
    : fail(`error calling len: len of ${isNil(value) ? 'nil pointer' : `type ${typeNameOf(value)}`}`);
}

function isNil(value: Value): boolean {
  return value === undefined || value === null;
}

function positionIn(position: Value, length: number, isEndAllowed: boolean): number {
  if (typeof position !== 'number') return fail(`cannot index slice/array with type ${typeNameOf(position)}`);
  if (position < 0 || position > length || (position === length && !isEndAllowed))
    return fail(`index out of range: ${position}`);
  return position;
}

function indexOnce(of: Value, key: Value): Value {
  if (isNil(of)) return fail('error calling index: index of nil pointer');
  if (isList(of)) return of[positionIn(key, of.length, false)] ?? undefined;
  if (typeof of === 'string') {
    const bytes = new TextEncoder().encode(of);
    return bytes[positionIn(key, bytes.length, false)];
  }
  const map = asMap(of);
  if (!map) return fail(`error calling index: can't index item of type ${typeNameOf(of)}`);
  const found = entryOf(map, text(key));
  return found ? found.value : map.zero;
}

function sliceOf(of: Value, bounds: readonly Value[]): Value {
  const isText = typeof of === 'string';
  if (!isText && !isList(of)) return fail(`error calling slice: can't slice item of type ${typeNameOf(of)}`);
  if (bounds.length > (isText ? 2 : 3)) return fail(`error calling slice: too many slice indexes: ${bounds.length}`);
  const all = isText ? new TextEncoder().encode(of) : of;
  const from = bounds.length > 0 ? positionIn(bounds[0], all.length, true) : 0;
  const to = bounds.length > 1 ? positionIn(bounds[1], all.length, true) : all.length;
  if (from > to) return fail(`error calling slice: invalid slice index: ${from} > ${to}`);
  return isText
    ? new TextDecoder().decode((all as Uint8Array).slice(from, to))
    : (of as readonly Value[]).slice(from, to);
}

type Basic = boolean | number | string | Float;

function basic(value: Value): Basic {
  if (typeof value === 'boolean' || typeof value === 'number' || typeof value === 'string' || value instanceof Float)
    return value;
  return fail('invalid type for comparison');
}

function isSameKind(a: Basic, b: Basic): boolean {
  return a instanceof Float ? b instanceof Float : typeof a === typeof b;
}

function isEqual(a: Value, b: Value): boolean {
  if (isNil(a) || isNil(b)) return isNil(a) && isNil(b);
  const isComparable = (value: Value) => !isList(value) && !asMap(value);
  if (!isComparable(a) || !isComparable(b)) return fail('non-comparable type for comparison');
  const [x, y] = [basic(a), basic(b)];
  if (!isSameKind(x, y)) return fail('incompatible types for comparison');
  return x instanceof Float ? x.value === (y as Float).value : x === y;
}

function order(a: Value, b: Value): number {
  const [x, y] = [basic(a), basic(b)];
  if (!isSameKind(x, y)) return fail('incompatible types for comparison');
  if (typeof x === 'string') return compareText(x, y as string);
  if (typeof x === 'boolean') return fail('invalid type for comparison');
  const numberOf = (value: Basic) => (value instanceof Float ? value.value : (value as number));
  return numberOf(x) - numberOf(y);
}

const htmlEscapes: Readonly<Record<string, string>> = {
  '\0': '\uFFFD',
  '"': '&#34;',
  "'": '&#39;',
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
};

function escapeHtml(value: string): string {
  return value.replace(/[\0"'&<>]/g, (char) => htmlEscapes[char] ?? char);
}

function escapeJs(value: string): string {
  return [...value]
    .map((char) => {
      if (char === '\\' || char === "'" || char === '"') return `\\${char}`;
      const code = char.codePointAt(0) ?? 0;
      if (!/[<>&=]/.test(char) && code >= 0x20 && (code < 0x7f || isPrintable(char))) return char;
      return `\\u${code.toString(16).toUpperCase().padStart(4, '0')}`;
    })
    .join('');
}

function escapeQuery(value: string): string {
  return encodeURIComponent(value)
    .replace(/[!'()*]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`)
    .replaceAll('%20', '+');
}
