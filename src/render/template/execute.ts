import { AppError, messageOf } from '../../errors.ts';
import { builtins, type Functions } from './functions.ts';
import type { Command, Node, Operand, Pipe, Template } from './parse.ts';
import { show } from './print.ts';
import { asMap, entryOf, isList, isTrue, Struct, sortedKeys, typeNameOf, type Value } from './value.ts';

/** Runs templates. A template comes from a user: how long it runs and how much it writes is bounded. */

const maxSteps = 200_000;
const maxOutput = 1_048_576;
const maxCalls = 100;

/** Names that a template may call. */
export function functionNames(functions: Functions): ReadonlySet<string> {
  return new Set(['and', 'or', ...Object.keys(builtins), ...Object.keys(functions)]);
}

/**
 * The text that a template makes of its data. Fields and keys that are not there are errors.
 * @throws AppError `invalid` with the line
 */
export function execute(template: Template, data: Value, functions: Functions): string {
  const run = new Run(template, { ...builtins, ...functions });
  run.walk(template.body, data, data);
  return run.text();
}

class Run {
  readonly #named: Template['named'];
  readonly #functions: Functions;
  readonly #out: string[] = [];
  #length = 0;
  #steps = 0;
  #calls = 0;
  #variables: { readonly name: string; value: Value }[] = [];

  constructor(template: Template, functions: Functions) {
    this.#named = template.named;
    this.#functions = functions;
  }

  text(): string {
    return this.#out.join('');
  }

  /** Runs a body with its own `$`. */
  walk(body: readonly Node[], dot: Value, root: Value): void {
    const outer = this.#variables;
    this.#variables = [{ name: '$', value: root }];
    this.#walk(body, dot);
    this.#variables = outer;
  }

  #walk(nodes: readonly Node[], dot: Value): 'break' | 'continue' | undefined {
    for (const node of nodes) {
      if (++this.#steps > maxSteps) throw new AppError('invalid', `the template runs for more than ${maxSteps} steps`);
      const jump = this.#step(node, dot);
      if (jump) return jump;
    }
    return undefined;
  }

  #step(node: Node, dot: Value): 'break' | 'continue' | undefined {
    switch (node.kind) {
      case 'text':
        this.#write(node.text);
        return undefined;
      case 'action': {
        const value = this.#pipe(node.pipe, dot);
        if (node.pipe.declares.length === 0) this.#write(value === undefined ? '<no value>' : show(value));
        return undefined;
      }
      case 'break':
      case 'continue':
        return node.kind;
      case 'template':
        this.#call(node, dot);
        return undefined;
      case 'range':
        return this.#scoped(() => this.#range(node, dot));
      default:
        return this.#scoped(() => {
          const value = this.#pipe(node.pipe, dot);
          if (!isTrue(value)) return this.#walk(node.otherwise, dot);
          return this.#walk(node.then, node.kind === 'with' ? value : dot);
        });
    }
  }

  #write(text: string): void {
    this.#length += text.length;
    if (this.#length > maxOutput)
      throw new AppError('invalid', `the template writes more than ${maxOutput} characters`);
    this.#out.push(text);
  }

  #scoped<T>(work: () => T): T {
    const mark = this.#variables.length;
    const result = work();
    this.#variables.length = mark;
    return result;
  }

  #call(node: Node & { readonly kind: 'template' }, dot: Value): void {
    const body = this.#named.get(node.name);
    if (!body) throw failure(node.line, `template ${JSON.stringify(node.name)} not defined`);
    if (++this.#calls > maxCalls) throw failure(node.line, 'templates call one another without end');
    const value = node.pipe ? this.#pipe(node.pipe, dot) : undefined;
    this.walk(body, value, value);
    this.#calls--;
  }

  #range(node: Node & { readonly kind: 'if' | 'with' | 'range' }, dot: Value): undefined {
    const { declares, isAssignment } = node.pipe;
    const value = this.#evaluate(node.pipe, dot);
    const items = itemsOf(value);
    if (!items) throw failure(node.pipe.line, `range can't iterate over ${show(value)}`);
    let isEmpty = true;
    for (const [key, item] of items) {
      isEmpty = false;
      const stop = this.#scoped(() => {
        // With one variable it is the element, with two the key comes first.
        const bound: readonly Value[] = declares.length === 1 ? [item] : [key, item];
        for (const [i, name] of declares.entries()) {
          if (isAssignment) this.#assign(name, bound[i]);
          else this.#variables.push({ name, value: bound[i] });
        }
        if (++this.#steps > maxSteps)
          throw new AppError('invalid', `the template runs for more than ${maxSteps} steps`);
        return this.#walk(node.then, item) === 'break';
      });
      if (stop) break;
    }
    if (isEmpty) this.#walk(node.otherwise, dot);
    return undefined;
  }

  #pipe(pipe: Pipe, dot: Value): Value {
    const value = this.#evaluate(pipe, dot);
    for (const name of pipe.declares) {
      if (pipe.isAssignment) this.#assign(name, value);
      else this.#variables.push({ name, value });
    }
    return value;
  }

  #evaluate(pipe: Pipe, dot: Value): Value {
    let piped: { readonly value: Value } | undefined;
    for (const command of pipe.commands) {
      try {
        piped = { value: this.#command(command, dot, piped) };
      } catch (thrown) {
        const message = messageOf(thrown);
        throw message.startsWith('line ') ? thrown : failure(command.line, message);
      }
    }
    return piped?.value;
  }

  #command(command: Command, dot: Value, piped: { readonly value: Value } | undefined): Value {
    const [first, ...rest] = command.operands;
    if (first.kind === 'function') return this.#invoke(first.name, rest, dot, piped);
    const hasArguments = rest.length > 0 || piped !== undefined;
    if (hasArguments) {
      if (first.kind === 'field' || first.kind === 'chain' || (first.kind === 'variable' && first.path.length > 0))
        throw new AppError('invalid', `${first.path.at(-1)} has arguments but cannot be invoked as function`);
      throw new AppError('invalid', `can't give argument to non-function ${describe(first)}`);
    }
    if (first.kind === 'nil') throw new AppError('invalid', 'nil is not a command');
    return this.#operand(first, dot);
  }

  #operand(operand: Operand, dot: Value): Value {
    switch (operand.kind) {
      case 'constant':
        return operand.value;
      case 'nil':
        return null;
      case 'dot':
        return dot;
      case 'field':
        return follow(dot, operand.path);
      case 'variable':
        return follow(this.#read(operand.name), operand.path);
      case 'chain':
        return follow(this.#operand(operand.of, dot), operand.path);
      case 'function':
        return this.#invoke(operand.name, [], dot, undefined);
      case 'pipe':
        return this.#pipe(operand.pipe, dot);
    }
  }

  #invoke(name: string, operands: readonly Operand[], dot: Value, piped: { readonly value: Value } | undefined): Value {
    if (name === 'and' || name === 'or') return this.#shortCircuit(name, operands, dot, piped);
    const called = this.#functions[name];
    if (!called) throw new AppError('invalid', `function ${JSON.stringify(name)} not defined`);
    const count = operands.length + (piped ? 1 : 0);
    if (count < called.min || (called.max !== undefined && count > called.max)) {
      const wanted = called.max === undefined ? `at least ${called.min}` : String(called.min);
      throw new AppError('invalid', `wrong number of args for ${name}: want ${wanted} got ${count}`);
    }
    const args = operands.map((operand) => this.#operand(operand, dot));
    return called.call(piped ? [...args, piped.value] : args);
  }

  #shortCircuit(
    name: 'and' | 'or',
    operands: readonly Operand[],
    dot: Value,
    piped: { readonly value: Value } | undefined,
  ): Value {
    if (operands.length === 0 && !piped)
      throw new AppError('invalid', `wrong number of args for ${name}: want at least 1 got 0`);
    let value: Value;
    for (const operand of operands) {
      value = this.#operand(operand, dot);
      if (isTrue(value) === (name === 'or')) return value;
    }
    return piped ? piped.value : value;
  }

  #read(name: string): Value {
    return this.#find(name).value;
  }

  #assign(name: string, value: Value): void {
    this.#find(name).value = value;
  }

  #find(name: string): { value: Value } {
    const found = this.#variables.findLast((variable) => variable.name === name);
    if (!found) throw new AppError('invalid', `undefined variable: ${name}`);
    return found;
  }
}

function failure(line: number, message: string): AppError {
  return new AppError('invalid', `line ${line}: ${message}`);
}

function describe(operand: Operand): string {
  if (operand.kind === 'constant') return operand.source;
  return operand.kind === 'variable' ? operand.name : operand.kind;
}

function follow(from: Value, path: readonly string[]): Value {
  return path.reduce(fieldOf, from);
}

function fieldOf(of: Value, name: string): Value {
  if (of === undefined) throw new AppError('invalid', `nil data; no entry for key ${JSON.stringify(name)}`);
  if (of === null) throw new AppError('invalid', `nil pointer evaluating .${name}`);
  if (of instanceof Struct) {
    const found = of.field(name);
    if (!found) throw new AppError('invalid', `can't evaluate field ${name} in type ${of.typeName}`);
    return found.value;
  }
  const map = asMap(of);
  if (!map) throw new AppError('invalid', `can't evaluate field ${name} in type ${typeNameOf(of)}`);
  const found = entryOf(map, name);
  if (!found) throw new AppError('invalid', `map has no entry for key ${JSON.stringify(name)}`);
  return found.value;
}

/** Keys and elements in order, or undefined when there is nothing to range over. */
function itemsOf(value: Value): Iterable<readonly [Value, Value]> | undefined {
  if (value === undefined || value === null) return [];
  if (typeof value === 'number') return countTo(value);
  if (isList(value)) return value.map((item, i) => [i, item ?? undefined] as const);
  if (value instanceof Struct) return undefined;
  const map = asMap(value);
  return map ? sortedKeys(map).map((key) => [key, map.entries[key] ?? undefined] as const) : undefined;
}

function* countTo(count: number): Iterable<readonly [Value, Value]> {
  for (let i = 0; i < count; i++) yield [i, i];
}
