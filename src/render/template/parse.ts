import { AppError } from '../../errors.ts';
import { lex, type Token, type Trimming } from './lex.ts';
import { Float, type Value } from './value.ts';

/** The tree of a template. */

export type Operand =
  | { readonly kind: 'constant'; readonly value: Value; readonly source: string }
  | { readonly kind: 'nil' }
  | { readonly kind: 'dot' }
  | { readonly kind: 'field'; readonly path: readonly string[] }
  | { readonly kind: 'variable'; readonly name: string; readonly path: readonly string[] }
  | { readonly kind: 'function'; readonly name: string }
  | { readonly kind: 'chain'; readonly of: Operand; readonly path: readonly string[] }
  | { readonly kind: 'pipe'; readonly pipe: Pipe };

export interface Command {
  readonly operands: readonly [Operand, ...Operand[]];
  readonly line: number;
}

export interface Pipe {
  readonly declares: readonly string[];
  readonly isAssignment: boolean;
  readonly commands: readonly Command[];
  readonly line: number;
}

export type Node =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'action'; readonly pipe: Pipe }
  | {
      readonly kind: 'if' | 'with' | 'range';
      readonly pipe: Pipe;
      readonly then: readonly Node[];
      readonly otherwise: readonly Node[];
    }
  | { readonly kind: 'template'; readonly name: string; readonly pipe: Pipe | undefined; readonly line: number }
  | { readonly kind: 'break' | 'continue' };

export interface Template {
  readonly body: readonly Node[];
  /** What `define` and `block` named. */
  readonly named: ReadonlyMap<string, readonly Node[]>;
}

const maxDepth = 200;

/**
 * The tree of a template whose functions have the given names.
 * @throws AppError `invalid` with the line
 */
export function parse(source: string, functions: ReadonlySet<string>, trimming: Trimming): Template {
  const tokens = lex(source, trimming);
  const named = new Map<string, readonly Node[]>();
  let variables: string[] = ['$'];
  let at = 0;
  let depth = 0;
  let loops = 0;

  const eof: Token = { kind: 'eof', text: '', line: tokens.at(-1)?.line ?? 1 };
  const peek = (): Token => tokens[at] ?? eof;
  const next = (): Token => tokens[at++] ?? eof;
  const skipSpace = () => {
    while (peek().kind === 'space') at++;
  };
  const nextWord = (): Token => {
    skipSpace();
    return next();
  };
  const fail = (message: string, token: Token = peek()): never => {
    throw new AppError('invalid', `line ${token.line}: ${message}`);
  };
  const unexpected = (token: Token, context: string): never =>
    fail(`unexpected ${token.kind === 'eof' ? 'end' : JSON.stringify(token.text)} in ${context}`, token);
  const closeAction = (context: string) => {
    const token = nextWord();
    if (token.kind !== 'rightDelim') unexpected(token, context);
  };
  const nested = <T>(work: () => T): T => {
    if (++depth > maxDepth) fail('nested too deeply');
    const known = variables;
    variables = [...variables];
    const result = work();
    variables = known;
    depth--;
    return result;
  };

  const { nodes: body, end } = parseList(true);
  if (end !== undefined) fail(`unexpected {{${end}}}`);
  return { body, named };

  /** Nodes up to `end`, `else` or the end of the text; which of them it was. */
  function parseList(isTop: boolean): { readonly nodes: readonly Node[]; readonly end: 'end' | 'else' | undefined } {
    const nodes: Node[] = [];
    for (;;) {
      const token = next();
      if (token.kind === 'eof') {
        if (!isTop) fail('unexpected end of the template; an {{end}} is missing', token);
        return { nodes, end: undefined };
      }
      if (token.kind === 'text') {
        nodes.push({ kind: 'text', text: token.text });
        continue;
      }
      skipSpace();
      const word = peek();
      if (word.kind !== 'keyword') {
        nodes.push({ kind: 'action', pipe: parsePipe('command', 'rightDelim') });
        continue;
      }
      next();
      switch (word.text) {
        case 'end':
          closeAction('end');
          return { nodes, end: 'end' };
        case 'else':
          return { nodes, end: 'else' };
        case 'if':
        case 'with':
        case 'range':
          nodes.push(parseControl(word.text));
          break;
        case 'break':
        case 'continue':
          if (loops === 0) fail(`{{${word.text}}} outside {{range}}`, word);
          closeAction(word.text);
          nodes.push({ kind: word.text });
          break;
        case 'define':
          if (!isTop) unexpected(word, 'a block; define stands outside of others');
          parseDefine();
          break;
        case 'template':
        case 'block':
          nodes.push(parseCall(word));
          break;
      }
    }
  }

  function parseControl(kind: 'if' | 'with' | 'range'): Node {
    return nested(() => {
      const pipe = parsePipe(kind, 'rightDelim');
      if (kind === 'range') loops++;
      const { nodes: then, end } = parseList(false);
      if (kind === 'range') loops--;
      if (end !== 'else') return { kind, pipe, then, otherwise: [] };
      skipSpace();
      const word = peek();
      // `else if` is an `if` of its own that shares the end.
      if (word.kind === 'keyword' && word.text === kind && kind !== 'range') {
        next();
        return { kind, pipe, then, otherwise: [parseControl(kind)] };
      }
      closeAction('else');
      const rest = parseList(false);
      if (rest.end !== 'end') fail('expected end; found {{else}}');
      return { kind, pipe, then, otherwise: rest.nodes };
    });
  }

  function parseNamed(name: string): void {
    const known = variables;
    const outer = loops;
    [variables, loops] = [['$'], 0];
    const { nodes, end } = parseList(false);
    if (end !== 'end') fail('unexpected {{else}} in a definition');
    [variables, loops] = [known, outer];
    if (nodes.some((node) => node.kind !== 'text' || node.text.trim() !== '') || !named.has(name))
      named.set(name, nodes);
  }

  function parseDefine(): void {
    const name = nextWord();
    if (name.kind !== 'string') unexpected(name, 'define clause');
    closeAction('define clause');
    parseNamed(name.text);
  }

  function parseCall(word: Token): Node {
    const name = nextWord();
    if (name.kind !== 'string') unexpected(name, `${word.text} clause`);
    skipSpace();
    let pipe: Pipe | undefined;
    if (word.text === 'template' && peek().kind === 'rightDelim') next();
    else pipe = parsePipe(`${word.text} clause`, 'rightDelim');
    if (word.text === 'block') parseNamed(name.text);
    return { kind: 'template', name: name.text, pipe, line: word.line };
  }

  function parsePipe(context: string, end: 'rightDelim' | 'rightParen'): Pipe {
    if (++depth > maxDepth) fail('nested too deeply');
    skipSpace();
    const { line } = peek();
    const declares: string[] = [];
    let isAssignment = false;
    for (;;) {
      const token = peek();
      if (token.kind !== 'variable') break;
      const mark = at;
      next();
      const name = `$${token.text}`;
      skipSpace();
      const after = peek();
      if (after.kind === 'declare' || after.kind === 'assign') {
        next();
        isAssignment = after.kind === 'assign';
        if (isAssignment && !variables.includes(name)) fail(`undefined variable ${JSON.stringify(name)}`, token);
        declares.push(name);
      } else if (after.kind === 'comma' && context === 'range' && declares.length === 0) {
        next();
        skipSpace();
        if (peek().kind !== 'variable') fail('range can only initialize variables');
        declares.push(name);
        continue;
      } else at = mark;
      break;
    }
    if (!isAssignment) variables.push(...declares);
    const commands: Command[] = [];
    for (;;) {
      skipSpace();
      const token = peek();
      if (token.kind === end) {
        next();
        if (commands.length === 0) fail(`missing value for ${context}`, token);
        for (const { operands } of commands.slice(1))
          if (['constant', 'nil', 'dot'].includes(operands[0].kind)) fail('non executable command in pipeline', token);
        depth--;
        return { declares, isAssignment, commands, line };
      }
      commands.push(parseCommand());
    }
  }

  function parseCommand(): Command {
    const operands: Operand[] = [];
    const { line } = peek();
    for (;;) {
      skipSpace();
      const operand = parseOperand();
      if (operand) operands.push(operand);
      const token = peek();
      if (token.kind === 'space') continue;
      if (token.kind === 'pipe') {
        next();
        break;
      }
      if (token.kind === 'rightDelim' || token.kind === 'rightParen') break;
      unexpected(token, 'operand');
    }
    const [first, ...rest] = operands;
    if (!first) return fail('empty command');
    return { operands: [first, ...rest], line };
  }

  function parseOperand(): Operand | undefined {
    const term = parseTerm();
    if (!term || peek().kind !== 'field') return term;
    const path: string[] = [];
    while (peek().kind === 'field') path.push(next().text);
    switch (term.kind) {
      case 'field':
        return { kind: 'field', path: [...term.path, ...path] };
      case 'variable':
        return { ...term, path: [...term.path, ...path] };
      case 'constant':
      case 'nil':
      case 'dot':
        return fail('unexpected . after term');
      default:
        return { kind: 'chain', of: term, path };
    }
  }

  function parseTerm(): Operand | undefined {
    const token = peek();
    const constant = (value: Value): Operand => ({ kind: 'constant', value, source: token.text });
    switch (token.kind) {
      case 'identifier':
        if (!functions.has(token.text)) fail(`function ${JSON.stringify(token.text)} not defined`, token);
        next();
        return { kind: 'function', name: token.text };
      case 'dot':
        next();
        return { kind: 'dot' };
      case 'nil':
        next();
        return { kind: 'nil' };
      case 'variable':
        if (!variables.includes(`$${token.text}`)) fail(`undefined variable "$${token.text}"`, token);
        next();
        return { kind: 'variable', name: `$${token.text}`, path: [] };
      case 'field':
        next();
        return { kind: 'field', path: [token.text] };
      case 'bool':
        next();
        return constant(token.text === 'true');
      case 'char':
        next();
        return constant(Number(token.text));
      case 'number':
        next();
        return constant(numberOf(token));
      case 'string':
        next();
        return constant(token.text);
      case 'leftParen':
        next();
        return { kind: 'pipe', pipe: parsePipe('parenthesized pipeline', 'rightParen') };
      default:
        return undefined;
    }
  }

  function numberOf(token: Token): Value {
    const text = token.text.replaceAll('_', '');
    const isHex = /^[+-]?0[xX]/.test(text);
    if (!isHex && /[.eE]/.test(text)) return new Float(Number(text));
    const sign = text.startsWith('-') ? -1 : 1;
    const digits = text.replace(/^[+-]/, '');
    const value = /^0[0-7]+$/.test(digits) ? Number.parseInt(digits, 8) : Number(digits);
    if (!Number.isSafeInteger(value)) fail(`illegal number syntax: ${JSON.stringify(token.text)}`, token);
    return value === 0 ? 0 : sign * value;
  }
}
