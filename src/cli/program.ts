import { Command, CommanderError } from 'commander';
import { AppError } from '../errors.ts';
import type { LocalEnvironment } from '../local/paths.ts';
import type { Logger } from '../telemetry/log.ts';
import { bundleCommand } from './commands/bundle/command.ts';
import { chatCommand } from './commands/chat/command.ts';
import { completionCommand } from './commands/completion/command.ts';
import { demoCommand } from './commands/demo/command.ts';
import { downCommand } from './commands/down/command.ts';
import { eppCommand } from './commands/epp/command.ts';
import { explainCommand } from './commands/explain/command.ts';
import { logsCommand } from './commands/logs/command.ts';
import { planCommand } from './commands/plan/command.ts';
import { renderCommand } from './commands/render/command.ts';
import { statusCommand } from './commands/status/command.ts';
import { topCommand } from './commands/top/command.ts';
import { upCommand } from './commands/up/command.ts';
import { validateCommand } from './commands/validate/command.ts';
import type { Output } from './output.ts';

/** What every command gets. */
export interface CliDeps {
  readonly version: string;
  readonly environment: LocalEnvironment;
  readonly output: Output;
  readonly log: Logger;
  /** Aborted by Ctrl-C and SIGTERM. */
  readonly signal: AbortSignal;
  /** The file that runs this program, for a command that starts itself in the background. */
  readonly self: string;
  /** For answers that are neither success nor failure. */
  readonly setExitCode: (code: number) => void;
}

/** Every command, in the order of the help page. */
const commands: readonly ((deps: CliDeps) => Command)[] = [
  demoCommand,
  upCommand,
  statusCommand,
  logsCommand,
  downCommand,
  validateCommand,
  renderCommand,
  planCommand,
  explainCommand,
  topCommand,
  chatCommand,
  bundleCommand,
  eppCommand,
];

/**
 * Runs one command line.
 *
 * @returns the exit code: 0 done, 1 it failed, 2 the command line was wrong
 * @throws what the command throws
 */
export async function runProgram(base: Omit<CliDeps, 'setExitCode'>, argv: readonly string[]): Promise<number> {
  let exitCode = 0;
  const setExitCode = (code: number) => {
    exitCode = code;
  };
  const deps: CliDeps = { ...base, setExitCode };
  const program = new Command('signalbox')
    .description('Serve large language models on Kubernetes; try it without a cluster')
    .version(deps.version)
    .exitOverride()
    .configureOutput({ writeOut: (text) => deps.output.raw(text), writeErr: () => {} });
  const all = [...commands.map((create) => create(deps)), completionCommand(deps, () => program)];
  for (const command of all) program.addCommand(command.exitOverride().copyInheritedSettings(program));
  if (argv.length === 0) {
    deps.output.raw(program.helpInformation());
    return 0;
  }
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return exitCode;
  } catch (thrown) {
    if (thrown instanceof CommanderError) {
      if (thrown.exitCode === 0) return 0;
      throw new AppError(
        'usage',
        `${thrown.message.replace(/^error: /, '').replaceAll('\n', ' ')}; \`signalbox --help\` lists the commands`,
      );
    }
    throw thrown;
  }
}
