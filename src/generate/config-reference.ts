import { operatorProgram } from '../../controllers/config.ts';
import { eppProgram } from '../epp/config.ts';
import type { Program, Setting, Settings } from '../flags.ts';
import { sidecarProgram } from '../sidecar/config.ts';
import type { Generator } from './generator.ts';

const programs: readonly Program<Settings>[] = [operatorProgram, eppProgram, sidecarProgram];

/** A page with every flag of every binary, from the settings that the binaries themselves read. */
export const configReference: Generator = {
  name: 'configuration reference',
  generate: async () => {
    const head = [
      '<!-- Written by `make generate` from the settings of each binary. -->',
      '# Flags and environment',
      '',
      'A flag goes before its environment variable, that before the configuration file where there is one, that before the default.',
      'The simulator takes the arguments of `vllm serve`; `signalbox-sim --help` lists them.',
    ].join('\n');
    return new Map([['config/flags.md', `${[head, ...programs.map(page)].join('\n\n')}\n`]]);
  },
};

function page(program: Program<Settings>): string {
  const rows = Object.values(program.settings)
    .filter((setting) => !setting.hidden)
    .map(
      (setting) =>
        `| ${[flagOf(setting), setting.env ? `\`${setting.env}\`` : '', defaultOf(setting), cell(setting.description)].join(' | ')} |`,
    );
  return [
    `## ${program.name}`,
    '',
    `${program.summary[0]?.toUpperCase()}${program.summary.slice(1)}.`,
    '',
    '| flag | environment | default | what |',
    '|---|---|---|---|',
    ...rows,
  ].join('\n');
}

function flagOf(setting: Setting<unknown>): string {
  const own = setting.isBoolean ? `--${setting.flag}` : `--${setting.flag} ${setting.placeholder ?? 'TEXT'}`;
  return [own, ...(setting.aliases ?? []).map((alias) => `--${alias}`)].map((text) => `\`${cell(text)}\``).join(' ');
}

function defaultOf(setting: Setting<unknown>): string {
  const value = Array.isArray(setting.default) ? setting.default.join(',') : String(setting.default);
  return value === '' ? '' : `\`${cell(value)}\``;
}

/** A text inside a table. */
const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll('\n', ' ');
