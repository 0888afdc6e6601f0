import { asMap, Float, isList, Struct, sortedKeys, type Value } from './value.ts';

/** Printing by the rules of Go's fmt. */

/** As `%v`. */
export function show(value: Value): string {
  if (value === undefined || value === null) return '<nil>';
  if (typeof value === 'string') return value;
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  if (value instanceof Float) return showFloat(value.value);
  if (isList(value)) return `[${value.map(show).join(' ')}]`;
  if (value instanceof Struct)
    return `{${value
      .entries()
      .map(([name, field]) => `${name}:${show(field)}`)
      .join(' ')}}`;
  const map = asMap(value);
  if (!map) return '';
  return `map[${sortedKeys(map)
    .map((key) => `${key}:${show(map.entries[key])}`)
    .join(' ')}]`;
}

/** `%v` of a float64: the shortest digits, with an exponent below 1e-4 and from 1e21 on. */
export function showFloat(value: number): string {
  if (Number.isNaN(value)) return 'NaN';
  if (!Number.isFinite(value)) return value > 0 ? '+Inf' : '-Inf';
  if (Object.is(value, -0)) return '-0';
  const [mantissa = '0', exponent = '0'] = value.toExponential().split('e');
  const power = Number(exponent);
  if (power < -4 || power >= 21)
    return `${mantissa}e${power < 0 ? '-' : '+'}${String(Math.abs(power)).padStart(2, '0')}`;
  return value.toFixed(Math.max(0, (mantissa.split('.')[1]?.length ?? 0) - power));
}

/** `print`: a space between two operands when neither is text. */
export function print(values: readonly Value[]): string {
  return values
    .map((value, i) => {
      const gap = i > 0 && typeof value !== 'string' && typeof values[i - 1] !== 'string';
      return (gap ? ' ' : '') + show(value);
    })
    .join('');
}

/** Widths and precisions beyond this are refused, as fmt does. */
const maxWidth = 1_000_000;

interface Spec {
  readonly minus: boolean;
  readonly plus: boolean;
  readonly sharp: boolean;
  readonly space: boolean;
  readonly zero: boolean;
  readonly width: number | undefined;
  readonly precision: number | undefined;
}

/** `printf`. What does not fit is said in the text, as fmt does: `%!d(string=x)`. */
export function format(pattern: string, values: readonly Value[]): string {
  let used = 0;
  let out = '';
  let at = 0;
  const takeNumber = (): number | undefined => {
    const value = values[used++];
    return typeof value === 'number' && Math.abs(value) <= maxWidth ? value : undefined;
  };
  while (at < pattern.length) {
    const percent = pattern.indexOf('%', at);
    if (percent < 0) {
      out += pattern.slice(at);
      break;
    }
    out += pattern.slice(at, percent);
    const found = /^([-+# 0]*)(\*|[0-9]+)?(?:\.(\*|[0-9]*))?/.exec(pattern.slice(percent + 1));
    const [whole = '', flags = '', width, precision] = found ?? [];
    at = percent + 1 + whole.length;
    const verb = pattern[at] === undefined ? undefined : String.fromCodePoint(pattern.codePointAt(at) ?? 0);
    if (verb === undefined) {
      out += '%!(NOVERB)';
      break;
    }
    at += verb.length;
    let wide = width === '*' ? takeNumber() : width === undefined ? undefined : Number(width);
    if (width === '*' && wide === undefined) out += '%!(BADWIDTH)';
    const isLeft = flags.includes('-') || (wide !== undefined && wide < 0);
    if (wide !== undefined) wide = Math.min(Math.abs(wide), maxWidth);
    const exact = precision === '*' ? takeNumber() : precision === undefined ? undefined : Number(precision);
    if (verb === '%') {
      out += '%';
      continue;
    }
    if (used >= values.length) {
      out += `%!${verb}(MISSING)`;
      continue;
    }
    out += formatOne(verb, values[used++], {
      minus: isLeft,
      plus: flags.includes('+'),
      sharp: flags.includes('#'),
      space: flags.includes(' '),
      zero: flags.includes('0') && !isLeft,
      width: wide,
      precision: exact === undefined ? undefined : Math.min(Math.max(exact, 0), maxWidth),
    });
  }
  if (used < values.length) {
    const extra = values.slice(used).map((value) => (isNil(value) ? '<nil>' : `${goType(value)}=${show(value)}`));
    out += `%!(EXTRA ${extra.join(', ')})`;
  }
  return out;
}

function isNil(value: Value): boolean {
  return value === undefined || value === null;
}

function goType(value: Value): string {
  if (typeof value === 'string') return 'string';
  if (typeof value === 'number') return 'int';
  if (typeof value === 'boolean') return 'bool';
  if (value instanceof Float) return 'float64';
  return isList(value) ? '[]interface {}' : 'map[string]interface {}';
}

function pad(text: string, spec: Spec, withZeros = false): string {
  const missing = (spec.width ?? 0) - [...text].length;
  if (missing <= 0) return text;
  if (spec.minus) return text + ' '.repeat(missing);
  if (!withZeros) return ' '.repeat(missing) + text;
  const sign = /^[+\- ]/.exec(text)?.[0] ?? '';
  return sign + '0'.repeat(missing) + text.slice(sign.length);
}

function bad(verb: string, value: Value): string {
  return isNil(value) ? `%!${verb}(<nil>)` : `%!${verb}(${goType(value)}=${show(value)})`;
}

function formatOne(verb: string, value: Value, spec: Spec): string {
  if (verb === 'T') return pad(isNil(value) ? '<nil>' : goType(value), spec);
  if (verb === 'v' && (isNil(value) || typeof value === 'boolean')) return pad(show(value), spec);
  if (typeof value === 'string') return formatText(verb, value, spec);
  if (typeof value === 'number') return formatInt(verb, value, spec);
  if (typeof value === 'boolean') return verb === 't' ? pad(String(value), spec) : bad(verb, value);
  if (value instanceof Float) return formatFloat(verb, value, spec);
  if (isNil(value)) return bad(verb, value);
  if (isList(value)) return `[${value.map((item) => formatOne(verb, item, spec)).join(' ')}]`;
  const map = asMap(value);
  if (!map) return pad(show(value), spec);
  const shown = sortedKeys(map).map(
    (key) => `${formatOne(verb, key, spec)}:${formatOne(verb, map.entries[key], spec)}`,
  );
  return `map[${shown.join(' ')}]`;
}

function formatText(verb: string, value: string, spec: Spec): string {
  const cut = spec.precision === undefined ? value : [...value].slice(0, spec.precision).join('');
  const bytes = () => [...new TextEncoder().encode(cut)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  switch (verb) {
    case 'v':
      return pad(spec.sharp ? quote(cut) : cut, spec, spec.zero);
    case 's':
      return pad(cut, spec, spec.zero);
    case 'q':
      return pad(spec.sharp && canBackquote(cut) ? `\`${cut}\`` : quote(cut), spec, spec.zero);
    case 'x':
      return pad((spec.sharp && cut ? '0x' : '') + bytes(), spec, spec.zero);
    case 'X':
      return pad((spec.sharp && cut ? '0X' : '') + bytes().toUpperCase(), spec, spec.zero);
    default:
      return bad(verb, value);
  }
}

function formatInt(verb: string, value: number, spec: Spec): string {
  const bases: Readonly<Record<string, readonly [number, string]>> = {
    d: [10, ''],
    v: [10, ''],
    b: [2, '0b'],
    o: [8, '0'],
    O: [8, '0o'],
    x: [16, '0x'],
    X: [16, '0X'],
  };
  if (verb === 'c') return pad(String.fromCodePoint(value), spec);
  if (verb === 'q') return pad(quote(String.fromCodePoint(value), "'"), spec);
  if (verb === 'U') return pad(`U+${value.toString(16).toUpperCase().padStart(4, '0')}`, spec);
  const base = bases[verb];
  if (!base) return bad(verb, value);
  let digits = Math.abs(value).toString(base[0]);
  if (verb === 'X') digits = digits.toUpperCase();
  if (spec.precision !== undefined) digits = digits.padStart(spec.precision, '0');
  if ((spec.sharp && verb !== 'd' && verb !== 'v') || verb === 'O') digits = base[1] + digits;
  const sign = value < 0 ? '-' : spec.plus ? '+' : spec.space ? ' ' : '';
  return pad(sign + digits, spec, spec.zero && spec.precision === undefined);
}

function formatFloat(verb: string, { value }: Float, spec: Spec): string {
  const shorten = (text: string) =>
    text.replace(/e([+-])(\d)$/, 'e$10$2').replace(/e([+-])(\d+)$/, (_, sign, digits) => `e${sign}${digits}`);
  let text: string;
  if (verb === 'v') text = spec.precision === undefined ? showFloat(value) : shorten(general(value, spec.precision));
  else if (verb === 'f' || verb === 'F') text = value.toFixed(Math.min(spec.precision ?? 6, 100));
  else if (verb === 'e' || verb === 'E') text = shorten(value.toExponential(Math.min(spec.precision ?? 6, 100)));
  else if (verb === 'g' || verb === 'G')
    text = spec.precision === undefined ? showFloat(value) : shorten(general(value, spec.precision));
  else return bad(verb, new Float(value));
  if (verb === 'E' || verb === 'G') text = text.toUpperCase();
  const sign = text.startsWith('-') ? '' : spec.plus ? '+' : spec.space ? ' ' : '';
  return pad(sign + text, spec, spec.zero);
}

function general(value: number, precision: number): string {
  const digits = Math.min(Math.max(precision, 1), 100);
  const power = Number(value.toExponential(digits - 1).split('e')[1] ?? 0);
  const text =
    power < -4 || power >= digits ? value.toExponential(digits - 1) : value.toFixed(Math.max(0, digits - 1 - power));
  const [mantissa = '', exponent] = text.split('e');
  const trimmed = mantissa.includes('.') ? mantissa.replace(/\.?0+$/, '') : mantissa;
  return exponent === undefined ? trimmed : `${trimmed}e${exponent}`;
}

/** A Go literal of the text: printable characters as they are, the rest escaped. */
export function quote(text: string, mark = '"'): string {
  const escapes: Readonly<Record<string, string>> = {
    '\x07': '\\a',
    '\b': '\\b',
    '\f': '\\f',
    '\n': '\\n',
    '\r': '\\r',
    '\t': '\\t',
    '\v': '\\v',
    '\\': '\\\\',
    [mark]: `\\${mark}`,
  };
  const inner = [...text].map((char) => {
    const known = escapes[char];
    if (known !== undefined) return known;
    const code = char.codePointAt(0) ?? 0;
    if (isPrintable(char)) return char;
    if (code < 0x80) return `\\x${code.toString(16).padStart(2, '0')}`;
    return code < 0x10000 ? `\\u${code.toString(16).padStart(4, '0')}` : `\\U${code.toString(16).padStart(8, '0')}`;
  });
  return `${mark}${inner.join('')}${mark}`;
}

/** Letters, marks, numbers, punctuation, symbols and the plain space. */
export function isPrintable(char: string): boolean {
  return char === ' ' || /^[\p{L}\p{M}\p{N}\p{P}\p{S}]$/u.test(char);
}

function canBackquote(text: string): boolean {
  return [...text].every((char) => char !== '`' && (char === '\t' || isPrintable(char)));
}
