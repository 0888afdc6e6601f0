import { parse as parseYaml } from 'yaml';
import { z } from 'zod';
import { AppError, messageOf } from './errors.ts';

/**
 * One field of a binary's configuration: its flag, its environment variable, its place in a
 * configuration file, its default and its sentence, all declared once.
 */
export interface Setting<T> {
  /** Long flag without dashes: `grpc-port`. The configuration file uses the same name. */
  readonly flag: string;
  /** Other spellings that are accepted for ever. */
  readonly aliases?: readonly string[];
  /** One-letter flag without its dash. */
  readonly short?: string;
  readonly env?: string;
  readonly description: string;
  /** Turns the given text(s) into the value. The schema sees a string, or a string list when `list` is set. */
  readonly schema: z.ZodType<T>;
  readonly default: T;
  /** A bare `--flag` means true. */
  readonly isBoolean?: boolean;
  /** May be given several times or with commas. */
  readonly isList?: boolean;
  /** What stands behind the flag in the help: `PORT`. */
  readonly placeholder?: string;
  /** Left out of the help: accepted for compatibility only. */
  readonly hidden?: boolean;
}

export type Settings = Readonly<Record<string, Setting<unknown>>>;
export type ConfigOf<S extends Settings> = { readonly [K in keyof S]: S[K] extends Setting<infer T> ? T : never };

export interface Program<S extends Settings> {
  readonly name: string;
  readonly summary: string;
  readonly settings: S;
  /** Text after the table of flags. */
  readonly epilog?: string;
}

type Options = Pick<Setting<never>, 'flag' | 'aliases' | 'short' | 'env' | 'description' | 'placeholder' | 'hidden'>;

/** Constructors for the usual kinds of setting. */
export const setting = {
  text: (options: Options & { readonly default?: string; readonly pattern?: RegExp }): Setting<string> => ({
    placeholder: 'TEXT',
    ...options,
    schema: options.pattern ? z.string().regex(options.pattern) : z.string(),
    default: options.default ?? '',
  }),
  integer: (
    options: Options & { readonly default: number; readonly min?: number; readonly max?: number },
  ): Setting<number> => ({
    placeholder: 'N',
    ...options,
    schema: z
      .string()
      .regex(/^-?\d+$/, 'must be a whole number')
      .transform(Number)
      .pipe(
        z
          .number()
          .min(options.min ?? 0)
          .max(options.max ?? Number.MAX_SAFE_INTEGER),
      ),
  }),
  number: (options: Options & { readonly default: number; readonly min?: number }): Setting<number> => ({
    placeholder: 'X',
    ...options,
    schema: z
      .string()
      .regex(/^-?\d+(\.\d+)?(e-?\d+)?$/i, 'must be a number')
      .transform(Number)
      .pipe(z.number().min(options.min ?? Number.NEGATIVE_INFINITY)),
  }),
  port: (options: Options & { readonly default: number }): Setting<number> =>
    setting.integer({ placeholder: 'PORT', ...options, min: 0, max: 65_535 }),
  boolean: (options: Options & { readonly default: boolean }): Setting<boolean> => ({
    ...options,
    isBoolean: true,
    schema: z
      .string()
      .transform((text) => text.toLowerCase())
      .pipe(z.enum(['true', 'false', '1', '0', 't', 'f']))
      .transform((text) => text === 'true' || text === '1' || text === 't'),
  }),
  oneOf: <const T extends string>(
    options: Options & { readonly choices: readonly [T, ...T[]]; readonly default: T },
  ): Setting<T> => ({
    placeholder: options.choices.join('|'),
    ...options,
    schema: z.enum(options.choices) as unknown as z.ZodType<T>,
  }),
  list: (options: Options & { readonly default?: readonly string[] }): Setting<readonly string[]> => ({
    placeholder: 'A,B',
    ...options,
    isList: true,
    schema: z.array(z.string()),
    default: options.default ?? [],
  }),
  /** A Go duration such as `250ms`, `1.5s`, `2m`, `1h30m`, as milliseconds. */
  durationMs: (options: Options & { readonly default: number }): Setting<number> => ({
    placeholder: 'DURATION',
    ...options,
    schema: z.string().transform((text, context) => {
      const ms = parseDurationMs(text);
      if (ms === undefined) {
        context.addIssue({ code: 'custom', message: 'must be a duration such as 500ms, 10s or 1h30m' });
        return z.NEVER;
      }
      return ms;
    }),
  }),
};

const unitMs: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
};

/** Milliseconds of a Go duration string, or undefined when it is none. */
export function parseDurationMs(text: string): number | undefined {
  if (text === '0') return 0;
  if (!/^(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+$/.test(text)) return undefined;
  let total = 0;
  for (const match of text.matchAll(/(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)/g)) {
    total += Number(match[1]) * (unitMs[match[2] ?? ''] ?? 0);
  }
  return total;
}

export type Parsed<S extends Settings> =
  | {
      readonly kind: 'config';
      readonly config: ConfigOf<S>;
      readonly rest: readonly string[];
      readonly given: ReadonlySet<keyof S>;
    }
  | { readonly kind: 'help'; readonly text: string };

/**
 * Reads argv and env into a configuration: flag over env over file over default. Flags are Go's:
 * `--name value`, `--name=value`, `-name=value`, a bare boolean.
 *
 * @param file text of a YAML file with flag names as keys, where the binary takes one
 * @throws AppError `usage` listing every bad value at once, each with its name, value and remedy
 */
export function parseProgram<S extends Settings>(
  program: Program<S>,
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
  file?: string,
): Parsed<S> {
  const problems: string[] = [];
  const byName = new Map<string, [keyof S & string, Setting<unknown>]>();
  for (const [key, item] of Object.entries(program.settings)) {
    for (const name of [item.flag, ...(item.aliases ?? []), ...(item.short ? [item.short] : [])]) {
      byName.set(name, [key, item]);
    }
  }

  const given = new Map<string, { readonly source: string; readonly values: string[] }>();
  const rest: string[] = [];
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i] ?? '';
    if (word === '--help' || word === '-h') return { kind: 'help', text: helpText(program) };
    if (word === '--') {
      rest.push(...argv.slice(i + 1));
      break;
    }
    const match = /^--?([^=-][^=]*)(?:=([\s\S]*))?$/.exec(word);
    if (!match) {
      rest.push(word);
      continue;
    }
    const name = match[1] ?? '';
    const found = byName.get(name);
    if (!found) {
      const near = nearest(name, [...byName.keys()]);
      problems.push(`unknown flag --${name}${near ? `, did you mean --${near}?` : '; --help lists them all'}`);
      if (match[2] === undefined && argv[i + 1] !== undefined && !argv[i + 1]?.startsWith('-')) i++;
      continue;
    }
    const [key, item] = found;
    let value = match[2];
    if (value === undefined && item.isBoolean) value = 'true';
    if (value === undefined) {
      value = argv[++i];
      if (value === undefined) {
        problems.push(`--${name} needs a value`);
        continue;
      }
    }
    const before = given.get(key);
    const rival = before?.source !== `--${name}` ? before?.values.at(-1) : undefined;
    if (rival !== undefined && rival !== value && !item.isList) {
      problems.push(`${before?.source} "${rival}" and --${name} "${value}" are one setting; give one of them`);
    }
    if (before && item.isList) before.values.push(value);
    else given.set(key, { source: `--${name}`, values: [value] });
  }

  for (const [key, item] of Object.entries(program.settings)) {
    const text = item.env ? env[item.env] : undefined;
    if (text !== undefined && text !== '' && !given.has(key))
      given.set(key, { source: item.env ?? '', values: [text] });
  }
  for (const [name, value] of Object.entries(fileValues(file, problems))) {
    const found = byName.get(name);
    if (!found) {
      const near = nearest(name, [...byName.keys()]);
      problems.push(`unknown key ${name} in the configuration file${near ? `, did you mean ${near}?` : ''}`);
    } else if (!given.has(found[0])) {
      const values = Array.isArray(value) ? value.map(String) : [String(value)];
      given.set(found[0], { source: `key ${name} of the configuration file`, values });
    }
  }

  const config: Record<string, unknown> = {};
  for (const [key, item] of Object.entries(program.settings)) {
    const found = given.get(key);
    if (!found) {
      config[key] = item.default;
      continue;
    }
    const raw = item.isList
      ? found.values
          .flatMap((v) => v.split(','))
          .map((v) => v.trim())
          .filter((v) => v !== '')
      : found.values[found.values.length - 1];
    const result = item.schema.safeParse(raw);
    if (result.success) config[key] = result.data;
    else {
      const why = result.error.issues.map((issue) => issue.message).join('; ');
      problems.push(`${found.source}: "${String(raw)}" is not valid: ${why}`);
    }
  }
  if (problems.length > 0) throw new AppError('usage', `${program.name}: ${problems.join('; ')}`);
  return { kind: 'config', config: config as ConfigOf<S>, rest, given: new Set(given.keys()) as ReadonlySet<keyof S> };
}

function fileValues(file: string | undefined, problems: string[]): Record<string, unknown> {
  if (file === undefined) return {};
  try {
    const parsed: unknown = parseYaml(file);
    if (parsed === null) return {};
    if (typeof parsed === 'object' && !Array.isArray(parsed)) return parsed as Record<string, unknown>;
    problems.push('the configuration file must hold a mapping of flag names to values');
  } catch (thrown) {
    problems.push(`the configuration file is not YAML: ${messageOf(thrown)}`);
  }
  return {};
}

/** The page that `--help` prints. */
export function helpText<S extends Settings>(program: Program<S>): string {
  const rows = Object.values(program.settings)
    .filter((item) => !item.hidden)
    .map((item) => {
      const shown = item.isBoolean ? `--${item.flag}` : `--${item.flag} ${item.placeholder ?? 'TEXT'}`;
      const value = item.default;
      const plain = Array.isArray(value) ? value.join(',') : String(value);
      const notes = [
        plain === '' ? undefined : `default ${plain}`,
        item.env ? `env ${item.env}` : undefined,
        item.aliases?.length ? `also ${item.aliases.map((a) => `--${a}`).join(', ')}` : undefined,
      ].filter((note) => note !== undefined);
      return { shown, text: `${item.description}${notes.length ? ` (${notes.join('; ')})` : ''}` };
    });
  const width = Math.min(44, Math.max(...rows.map((row) => row.shown.length)));
  const lines = rows.map((row) =>
    row.shown.length > width
      ? `  ${row.shown}\n  ${' '.repeat(width)}  ${row.text}`
      : `  ${row.shown.padEnd(width)}  ${row.text}`,
  );
  return `${program.name}: ${program.summary}\n\nFlags:\n${lines.join('\n')}\n${program.epilog ? `\n${program.epilog}\n` : ''}`;
}

/** The candidate within two edits of `name`, or undefined. */
export function nearest(name: string, candidates: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = 3;
  for (const candidate of candidates) {
    if (Math.abs(candidate.length - name.length) >= bestDistance) continue;
    const distance = editDistance(name, candidate);
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min((previous[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1, substitution));
    }
    previous = row;
  }
  return previous[b.length] ?? 0;
}
