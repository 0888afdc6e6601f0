import type { Container } from '../../api/foreign/pod.ts';
import { AppError } from '../../errors.ts';

/** The command line of `vllm serve`. */

export interface ModelSource {
  /** What vLLM is told to load: `organisation/model` or a path. */
  readonly model: string;
  readonly revision?: string | undefined;
}

export interface VllmOptions {
  readonly source: ModelSource;
  /** Every name under which the model is asked for. */
  readonly servedNames: readonly string[];
  readonly port: number;
  /** How the replica is spread over GPUs and pods, from `renderParallelArgs`. */
  readonly parallel: readonly string[];
  /** Flags with their values that features bring, in order. */
  readonly features: readonly (readonly string[])[];
  /** Arguments that the user adds, in order; they win over ours. */
  readonly own: readonly string[];
}

/** The arguments after `vllm serve`, without the user's own; what the user sets is left out of ours. */
export function renderVllmArgs(options: VllmOptions): readonly string[] {
  const { source, own } = options;
  const flag = (name: string, ...values: readonly string[]) => (hasFlag(own, name) ? [] : [name, ...values]);
  return [
    source.model,
    ...(source.revision === undefined ? [] : flag('--revision', source.revision)),
    ...flag('--served-model-name', ...options.servedNames),
    ...flag('--port', String(options.port)),
    ...options.parallel,
    // The picker and the sidecar learn from it how much of a prompt was cached.
    ...(hasFlag(own, '--no-enable-prompt-tokens-details') ? [] : flag('--enable-prompt-tokens-details')),
    ...options.features.flatMap(([name = '', ...values]) => flag(name, ...values)),
  ];
}

/**
 * The container with flags before its arguments where its command is a shell script that hands them on as `$@`, as
 * KServe's presets do; a script that evaluates them once more gets them quoted. Other commands are left alone.
 */
export function passToScript(container: Container, flags: readonly (readonly string[])[]): Container {
  const [, option = '', script = ''] = container.command ?? [];
  if (!/^-[a-z]*c$/.test(option) || !script.includes('$@')) return container;
  const additional = container.env?.find(({ name }) => name === 'VLLM_ADDITIONAL_ARGS')?.value ?? '';
  const own = [script, additional, ...(container.args ?? [])];
  const added = flags.filter(([name = '']) => !own.some((text) => text.includes(name))).flat();
  const quote = (word: string) => (/\beval\b/.test(script) ? `'${word.replaceAll("'", `'\\''`)}'` : word);
  return added.length === 0 ? container : { ...container, args: [...added.map(quote), ...(container.args ?? [])] };
}

/** Whether arguments set a flag, as `--flag value`, `--flag=value` or, for nested ones, `--flag.key value`. */
export function hasFlag(args: readonly string[], name: string): boolean {
  return args.some((arg) => arg === name || arg.startsWith(`${name}=`) || arg.startsWith(`${name}.`));
}

/**
 * Words of a text as a POSIX shell splits them: blanks, single and double quotes, backslashes. Nothing is expanded.
 * @throws AppError `invalid` for a quote that is not closed
 */
export function splitWords(text: string): readonly string[] {
  const words: string[] = [];
  let word: string | undefined;
  for (let i = 0; i < text.length; i++) {
    const char = text[i] ?? '';
    if (char === "'") {
      const end = text.indexOf("'", i + 1);
      if (end < 0) throw unclosed(text);
      word = (word ?? '') + text.slice(i + 1, end);
      i = end;
    } else if (char === '"') {
      word ??= '';
      for (i++; text[i] !== '"'; i++) {
        if (i >= text.length) throw unclosed(text);
        if (text[i] === '\\' && /["\\$`]/.test(text[i + 1] ?? '')) i++;
        word += text[i] ?? '';
      }
    } else if (char === '\\' && i + 1 < text.length) {
      word = (word ?? '') + (text[++i] ?? '');
    } else if (/\s/.test(char)) {
      if (word !== undefined) words.push(word);
      word = undefined;
    } else {
      word = (word ?? '') + char;
    }
  }
  if (word !== undefined) words.push(word);
  return words;
}

function unclosed(text: string): AppError {
  return new AppError('invalid', `VLLM_ADDITIONAL_ARGS: "${text}" has a quote that is not closed`);
}
