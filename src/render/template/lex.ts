import { AppError } from '../../errors.ts';

/** Text and actions of a template as tokens, by the rules of Go's text/template. */

export type TokenKind =
  | 'text'
  | 'leftDelim'
  | 'rightDelim'
  | 'space'
  | 'string'
  | 'number'
  | 'char'
  | 'bool'
  | 'nil'
  | 'dot'
  | 'field'
  | 'variable'
  | 'identifier'
  | 'keyword'
  | 'pipe'
  | 'leftParen'
  | 'rightParen'
  | 'declare'
  | 'assign'
  | 'comma'
  | 'eof';

export interface Token {
  readonly kind: TokenKind;
  /** Source text; for `string` the value after unquoting, for `field` and `variable` the name without its mark. */
  readonly text: string;
  readonly line: number;
}

const keywords: ReadonlySet<string> = new Set([
  'if',
  'else',
  'end',
  'with',
  'range',
  'define',
  'template',
  'block',
  'break',
  'continue',
]);

const numberPattern =
  /[+-]?(?:0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9_]+)?)/y;
const namePattern = /[\p{L}\p{Nd}_]+/uy;
const spacePattern = /[ \t\r\n]+/y;
const trimMarkers = /[ \t\r\n]/;

/**
 * Which white space `{{-` and `-}}` take away. `spaces` is what they take from a template that is the JSON text of a
 * document: line breaks and tabs are written as two characters there.
 */
export type Trimming = 'all' | 'spaces';

/**
 * Tokens of a template, ending with one of kind `eof`.
 * @throws AppError `invalid` with the line
 */
export function lex(source: string, trimming: Trimming): readonly Token[] {
  const [before, after] = trimming === 'all' ? [/[ \t\r\n]+$/, /^[ \t\r\n]+/] : [/ +$/, /^ +/];
  const tokens: Token[] = [];
  let line = 1;
  let at = 0;
  const failure = (message: string) => new AppError('invalid', `line ${line}: ${message}`);
  const advance = (to: number) => {
    for (let i = at; i < to; i++) if (source[i] === '\n') line++;
    at = to;
  };
  const push = (kind: TokenKind, text: string, length: number) => {
    tokens.push({ kind, text, line });
    advance(at + length);
  };
  const match = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = at;
    return pattern.exec(source)?.[0];
  };
  let trimsNext = false;

  while (at < source.length) {
    const open = source.indexOf('{{', at);
    let text = source.slice(at, open < 0 ? undefined : open);
    const { length } = text;
    if (trimsNext) text = text.replace(after, '');
    trimsNext = false;
    const trimsBefore = open >= 0 && source[open + 2] === '-' && trimMarkers.test(source[open + 3] ?? '');
    if (trimsBefore) text = text.replace(before, '');
    if (text !== '') tokens.push({ kind: 'text', text, line });
    advance(at + length);
    if (open < 0) break;

    const start = trimsBefore ? open + 3 : open + 2;
    const afterSpace = source.slice(start).match(/^[ \t\r\n]*/)?.[0].length ?? 0;
    const commentAt = trimsBefore ? start + afterSpace : start;
    if (source.startsWith('/*', commentAt)) {
      const end = source.indexOf('*/', commentAt + 2);
      if (end < 0) throw failure('unclosed comment');
      const rest = /^(?:([ \t\r\n]-)?)\}\}/.exec(source.slice(end + 2));
      if (!rest) throw failure('comment ends before closing delimiter');
      trimsNext = rest?.[1] !== undefined;
      advance(end + 2 + (rest?.[0].length ?? 0));
      continue;
    }
    push('leftDelim', '{{', start - at);
    lexAction();
  }
  tokens.push({ kind: 'eof', text: '', line });
  return tokens;

  function lexAction(): void {
    let depth = 0;
    for (;;) {
      if (at >= source.length) throw failure('unclosed action');
      const closing = /^[ \t\r\n]-\}\}/.test(source.slice(at, at + 4));
      if (closing || source.startsWith('}}', at)) {
        if (depth > 0) throw failure('unclosed left paren');
        trimsNext = closing;
        push('rightDelim', '}}', closing ? 4 : 2);
        return;
      }
      const char = source[at] ?? '';
      const space = match(spacePattern);
      if (space) {
        // The space before a trim marker belongs to the marker.
        const own = source.startsWith('-}}', at + space.length) ? space.length - 1 : space.length;
        if (own > 0) push('space', space.slice(0, own), own);
        continue;
      }
      if (char === '"') lexQuoted();
      else if (char === '`') {
        const end = source.indexOf('`', at + 1);
        if (end < 0) throw failure('unterminated raw quoted string');
        push('string', source.slice(at + 1, end), end + 1 - at);
      } else if (char === "'") lexChar();
      else if (char === '|') push('pipe', char, 1);
      else if (char === ',') push('comma', char, 1);
      else if (char === '(') {
        depth++;
        push('leftParen', char, 1);
      } else if (char === ')') {
        if (--depth < 0) throw failure('unexpected right paren');
        push('rightParen', char, 1);
      } else if (source.startsWith(':=', at)) push('declare', ':=', 2);
      else if (char === '=') push('assign', char, 1);
      else if (char === '.' && !/[0-9]/.test(source[at + 1] ?? '')) lexField('field');
      else if (char === '$') lexField('variable');
      else if (/[0-9.+-]/.test(char)) lexNumber();
      else lexWord(char);
    }
  }

  function endsWord(next: number): boolean {
    const char = source[next];
    return char === undefined || /[ \t\r\n.,|:)(]/.test(char) || source.startsWith('}}', next) || char === '=';
  }

  function lexField(kind: 'field' | 'variable'): void {
    const mark = at;
    const name = (() => {
      namePattern.lastIndex = mark + 1;
      return namePattern.exec(source)?.[0] ?? '';
    })();
    const end = mark + 1 + name.length;
    if (!endsWord(end)) throw failure(`bad character ${JSON.stringify(source[end])}`);
    if (kind === 'field' && name === '') push('dot', '.', 1);
    else push(kind, name, end - mark);
  }

  function lexWord(char: string): void {
    const word = match(namePattern);
    if (!word) throw failure(`unrecognized character in action: ${JSON.stringify(char)}`);
    if (!endsWord(at + word.length)) throw failure(`bad character ${JSON.stringify(source[at + word.length])}`);
    if (keywords.has(word)) push('keyword', word, word.length);
    else if (word === 'true' || word === 'false') push('bool', word, word.length);
    else if (word === 'nil') push('nil', word, word.length);
    else push('identifier', word, word.length);
  }

  function lexNumber(): void {
    const text = match(numberPattern);
    const end = at + (text?.length ?? 0);
    namePattern.lastIndex = end;
    if (!text || namePattern.test(source) || source[end] === '.')
      throw failure(`bad number syntax: ${JSON.stringify(source.slice(at, end + 1))}`);
    push('number', text, text.length);
  }

  function lexChar(): void {
    const found = /^'((?:\\.[^']*|[^'\\\n]))'/u.exec(source.slice(at, at + 16));
    if (!found) throw failure('unterminated character constant');
    const value = unquote(found[1] ?? '', "'");
    if (value === undefined || [...value].length !== 1) throw failure(`malformed character constant: ${found[0]}`);
    push('char', String(value.codePointAt(0) ?? 0), found[0].length);
  }

  function lexQuoted(): void {
    let end = at + 1;
    while (source[end] !== '"') {
      if (end >= source.length || source[end] === '\n') throw failure('unterminated quoted string');
      end += source[end] === '\\' ? 2 : 1;
    }
    const value = unquote(source.slice(at + 1, end), '"');
    if (value === undefined) throw failure(`invalid escape in ${source.slice(at, end + 1)}`);
    push('string', value, end + 1 - at);
  }
}

const simpleEscapes: Readonly<Record<string, string>> = {
  a: '\x07',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
  '\\': '\\',
};

/** Text inside Go quotes with its escapes resolved, or undefined when one is not valid. */
function unquote(text: string, quote: string): string | undefined {
  let isValid = true;
  const value = text.replace(
    /\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|([\s\S]?))/g,
    (_, hex?: string, unicode?: string, long?: string, octal?: string, char?: string) => {
      const digits = hex ?? unicode ?? long;
      const code = digits !== undefined ? Number.parseInt(digits, 16) : octal ? Number.parseInt(octal, 8) : undefined;
      if (code !== undefined) {
        if (code <= 0x10ffff) return String.fromCodePoint(code);
        isValid = false;
        return '';
      }
      if (char === quote) return quote;
      const simple = simpleEscapes[char ?? ''];
      if (simple === undefined) isValid = false;
      return simple ?? '';
    },
  );
  return isValid ? value : undefined;
}
