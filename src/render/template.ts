import { execute, functionNames } from './template/execute.ts';
import type { Functions } from './template/functions.ts';
import type { Trimming } from './template/lex.ts';
import { parse } from './template/parse.ts';
import type { Value } from './template/value.ts';

/** Go's text/template with `missingkey=error`, for the strings of base configurations. */

/**
 * The text that a template makes of its data.
 *
 * Guarantees: pure; ends after a bounded number of steps with a bounded text. Values are put in as they are.
 * Caveats: values have no methods and cannot be functions, so `call` always fails.
 * @throws AppError `invalid` that begins with the line
 */
export function renderTemplate(
  source: string,
  data: Value,
  options: { readonly functions?: Functions; readonly trimming?: Trimming } = {},
): string {
  // Nothing to do for most strings of a document.
  if (!source.includes('{{')) return source;
  const functions = options.functions ?? {};
  return execute(parse(source, functionNames(functions), options.trimming ?? 'all'), data, functions);
}

/** What is wrong with a template's syntax: an AppError `invalid`, or nothing. */
export function checkTemplate(source: string, functions: Functions): void {
  if (source.includes('{{')) parse(source, functionNames(functions), 'spaces');
}
