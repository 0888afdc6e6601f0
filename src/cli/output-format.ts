import type { Command } from 'commander';
import { stringify } from 'yaml';
import { AppError } from '../errors.ts';
import type { Output } from './output.ts';

export const outputFormats = ['text', 'json', 'yaml'] as const;
export type OutputFormat = (typeof outputFormats)[number];

/** Adds `-o`. */
export function addOutputOption(command: Command): Command {
  return command.option('-o, --output <format>', `${outputFormats.join(', ')}`, 'text');
}

/** @throws AppError `usage` */
export function parseOutputFormat(text: string): OutputFormat {
  const found = outputFormats.find((format) => format === text);
  if (!found) throw new AppError('usage', `-o ${text}: must be one of ${outputFormats.join(', ')}`);
  return found;
}

/** Prints data for programs, or lets `show` print it for people. */
export function printResult<T>(output: Output, format: OutputFormat, data: T, show: (data: T) => void): void {
  if (format === 'json') output.line(JSON.stringify(data, undefined, 2));
  else if (format === 'yaml') output.raw(stringify(data, { lineWidth: 0, aliasDuplicateObjects: false }));
  else show(data);
}
