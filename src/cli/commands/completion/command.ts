import { Argument, Command } from 'commander';
import type { CliDeps } from '../../program.ts';

const shells = ['bash', 'zsh', 'fish'] as const;

/** `signalbox completion SHELL`: a script that completes commands and flags. */
export function completionCommand(deps: CliDeps, program: () => Command): Command {
  return new Command('completion')
    .description('print a completion script: source <(signalbox completion bash)')
    .addArgument(new Argument('<shell>').choices(shells))
    .action((shell: (typeof shells)[number]) => deps.output.raw(renderCompletion(shell, program())));
}

interface Completion {
  /** Words before it: `epp explain`; empty for the program itself. */
  readonly path: string;
  readonly words: readonly { readonly word: string; readonly description: string }[];
  /** Arguments that it lets one choose from. */
  readonly choices: readonly string[];
}

/** What may follow each command. */
function completionsOf(command: Command, path = ''): readonly Completion[] {
  const flags = command.options
    .filter(({ hidden }) => !hidden)
    .flatMap(({ long, description }) => (long ? [{ word: long, description }] : []));
  const below = command.commands.map((child) => ({ word: child.name(), description: child.description() }));
  const choices = command.registeredArguments.flatMap(({ argChoices }) => argChoices ?? []);
  return [
    { path, words: [...below, ...flags, { word: '--help', description: 'show the flags' }], choices },
    ...command.commands.flatMap((child) => completionsOf(child, `${path} ${child.name()}`.trim())),
  ];
}

/** The script for one shell, made of the commands themselves. Files complete where a command takes other words. */
export function renderCompletion(shell: (typeof shells)[number], program: Command): string {
  const name = program.name();
  const all = completionsOf(program);
  const groups = all
    .filter(({ path, words }) => path !== '' && words.some(({ word }) => !word.startsWith('-')))
    .map(({ path }) => path);
  const wordsOf = ({ words, choices }: Completion) => [...words.map(({ word }) => word), ...choices].join(' ');
  if (shell === 'fish') {
    const quote = (text: string) => `'${text.replaceAll(/['\\]/g, '\\$&')}'`;
    return `${all
      .flatMap(({ path, words, choices }) => {
        const condition =
          path === ''
            ? '__fish_use_subcommand'
            : path
                .split(' ')
                .map((word) => `__fish_seen_subcommand_from ${word}`)
                .join('; and ');
        const line = (rest: string) => `complete -c ${name} -n ${quote(condition)} ${rest}`;
        return [
          ...words.map(({ word, description }) =>
            word.startsWith('--')
              ? line(`-l ${word.slice(2)} -d ${quote(description)}`)
              : line(`-f -a ${word} -d ${quote(description)}`),
          ),
          ...choices.map((choice) => line(`-f -a ${choice}`)),
        ];
      })
      .join('\n')}\n`;
  }
  const cases = all.map((entry) => `    '${entry.path}') words='${wordsOf(entry)}' ;;`).join('\n');
  const body = `_${name}() {
  local path='' words='' word i
  for ((i = 1; i < COMP_CWORD; i++)); do
    word="\${COMP_WORDS[i]}"
    case "$word" in -*) continue ;; esac
    if [ -z "$path" ]; then path="$word"; else
      case "$path" in ${groups.map((group) => `'${group}'`).join('|') || "''"}) path="$path $word" ;; esac
      break
    fi
  done
  case "$path" in
${cases}
    *) words='' ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _${name} ${name} kubectl-${name}
`;
  return shell === 'zsh' ? `autoload -U +X bashcompinit && bashcompinit\n${body}` : body;
}
