import { readFile } from 'node:fs/promises';
import { AppError, messageOf } from '../errors.ts';

/**
 * Puts the arguments of the file that `--config` names before those that are written out, which so go before them, as vLLM does.
 *
 * @throws AppError `usage` when the file cannot be read or is no YAML map
 */
export async function withConfigFile(argv: readonly string[]): Promise<readonly string[]> {
  const at = argv.findIndex((word) => word === '--config' || word.startsWith('--config='));
  if (at < 0) return argv;
  const word = argv[at] ?? '';
  const isJoined = word.includes('=');
  const path = isJoined ? word.slice('--config='.length) : argv[at + 1];
  if (path === undefined || path.startsWith('--')) throw new AppError('usage', '--config needs a value');
  let parsed: unknown;
  try {
    const { parse } = await import('yaml');
    parsed = parse(await readFile(path, 'utf8')) ?? {};
  } catch (thrown) {
    throw new AppError('usage', `--config ${path}: ${messageOf(thrown)}`, { cause: thrown });
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw new AppError('usage', `--config ${path}: must be a map of arguments such as "max-model-len: 4096"`);
  }
  const others = [...argv.slice(0, at), ...argv.slice(at + (isJoined ? 1 : 2))];
  const command = others[0] === 'serve' ? ['serve'] : [];
  const written = others.slice(command.length);
  const isModelWritten = written[0] !== undefined && !written[0].startsWith('-');
  const positional = isModelWritten ? written.slice(0, 1) : [];
  const fromFile = Object.entries(parsed as Readonly<Record<string, unknown>>)
    // A model that is written out goes before that of the file.
    .filter(([key]) => !(isModelWritten && key === 'model'))
    .flatMap(([key, value]) => toArguments(key, value));
  return [...command, ...positional, ...fromFile, ...written.slice(positional.length)];
}

function toArguments(key: string, value: unknown): readonly string[] {
  const flag = `--${key.replaceAll('_', '-')}`;
  if (value === true) return [flag];
  // Absent is what false means for most; those that are on by themselves have a form with no-.
  if (value === false) return [`--no-${flag.slice(2)}`];
  if (value === null || value === undefined) return [];
  if (Array.isArray(value)) return value.length === 0 ? [] : [flag, ...value.map(String)];
  return [flag, typeof value === 'object' ? JSON.stringify(value) : String(value)];
}
