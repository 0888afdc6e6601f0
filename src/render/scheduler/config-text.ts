import { parse } from 'yaml';
import type { Container } from '../../api/foreign/pod.ts';
import type { Context } from '../input.ts';
import { pickerContainer } from './binary.ts';

/** The user's own configuration of the picker, wherever it is written. */

type Json = Readonly<Record<string, unknown>>;

const flags = /^--?config-?[tT]ext(=|$)/;

/** Where a container's words hold the text of a configuration: index of the word, and the text. */
export function findConfigText(
  words: readonly string[] | undefined,
): { readonly at: number; readonly text: string; readonly flag: string } | undefined {
  for (const [i, word] of (words ?? []).entries()) {
    if (!flags.test(word)) continue;
    const equals = word.indexOf('=');
    if (equals >= 0) return { at: i, text: word.slice(equals + 1), flag: word.slice(0, equals + 1) };
    return { at: i + 1, text: words?.[i + 1] ?? '', flag: '' };
  }
  return undefined;
}

/** The container with the text of its configuration changed; as it is where it has none, or none that is an object. */
export function mapConfigText(container: Container, change: (config: Json) => string): Container {
  const mapped = (words: readonly string[] | undefined) => {
    const found = findConfigText(words);
    const config = found && objectOf(found.text);
    if (!found || !config) return undefined;
    return (words ?? []).map((word, i) => (i === found.at ? `${found.flag}${change(config)}` : word));
  };
  const command = mapped(container.command);
  const args = mapped(container.args);
  return { ...container, ...(command ? { command } : {}), ...(args ? { args } : {}) };
}

/** What texts in containers say: reading YAML is dear, and every part of a render asks. */
const known = new WeakMap<Container, Json | undefined>();

/** The user's configuration: inline, or among the arguments of the picker's template. */
export function configTextOf({ effective }: Pick<Context, 'effective'>): Json | undefined {
  const scheduler = effective.router?.scheduler;
  if (scheduler?.config?.inline !== undefined) return scheduler.config.inline;
  const main = scheduler?.template?.containers?.find(({ name }) => name === pickerContainer);
  if (!main) return undefined;
  if (!known.has(main)) known.set(main, readConfigText(main));
  return known.get(main);
}

function readConfigText(main: Container): Json | undefined {
  const found = findConfigText(main.args) ?? findConfigText(main.command);
  return found && objectOf(found.text);
}

function objectOf(text: string): Json | undefined {
  let value: unknown;
  try {
    value = parse(text);
  } catch {
    return undefined;
  }
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Json) : undefined;
}
