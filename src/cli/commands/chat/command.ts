import { createInterface } from 'node:readline/promises';
import { Command } from 'commander';
import { AppError, messageOf } from '../../../errors.ts';
import type { Client } from '../../../kube/client.ts';
import { resources } from '../../../kube/resources.ts';
import { addClusterOptions, type ClusterOptions, parseServiceRef, withCluster } from '../../connection.ts';
import { type Message, sendTurn, type Turn } from '../../conversation.ts';
import { addOutputOption, type OutputFormat, parseOutputFormat, printResult } from '../../output-format.ts';
import type { CliDeps } from '../../program.ts';
import { getService, type PodObject, type ServiceObject } from '../../service.ts';

interface ChatOptions extends ClusterOptions {
  readonly any?: true;
  readonly url?: string;
  readonly model?: string;
  readonly message?: readonly string[];
  readonly system?: string;
  readonly maxTokens: string;
  readonly output: string;
}

/** `signalbox chat SERVICE`: a conversation through the Gateway; after each turn, which way it went. */
export function chatCommand(deps: CliDeps): Command {
  const command = new Command('chat')
    .description('hold a conversation with a service through its Gateway; says after each turn which pods served it')
    .argument('[service]', 'NAME or NAMESPACE/NAME')
    .option('--any', 'without a service: ask any that is ready, the newest first')
    .option('-m, --message <text...>', 'what to say, a turn each; otherwise line by line from standard input')
    .option('--system <text>', 'system message')
    .option('--model <name>', "model or adapter to ask for; the service's own without it")
    .option('--max-tokens <n>', 'longest answer', '512')
    .option('--url <url>', 'where the service answers, when its status.url cannot be reached from here')
    .action(async (text: string | undefined, options: ChatOptions) => {
      const format = parseOutputFormat(options.output);
      const maxTokens = Number(options.maxTokens);
      if (!Number.isInteger(maxTokens) || maxTokens < 1)
        throw new AppError('usage', `--max-tokens ${options.maxTokens}: must be a whole number from 1`);
      await withCluster(deps, options, async ({ client, namespace }) => {
        const service =
          text === undefined
            ? await findAny(client, options, deps.signal)
            : await getService(client, parseServiceRef(text, namespace), deps.signal);
        const ref = { namespace: service.metadata.namespace ?? namespace, name: service.metadata.name };
        const url = (options.url ?? service.status?.url)?.replace(/\/+$/, '');
        if (!url) {
          const ready = service.status?.conditions?.find(({ type }) => type === 'Ready');
          throw new AppError(
            'unavailable',
            `${ref.namespace}/${ref.name} has no URL yet: ${ready?.message ?? ready?.reason ?? 'its status is empty'}; \`signalbox explain ${ref.namespace}/${ref.name}\` says why`,
          );
        }
        const model = options.model ?? service.spec.model?.name ?? ref.name;
        const podNames = async (): Promise<ReadonlyMap<string, string>> => {
          const { items } = await client.list<PodObject>(resources.pods, { namespace: ref.namespace }, deps.signal);
          return new Map(
            items.flatMap(({ metadata, status }) => (status?.podIP ? [[status.podIP, metadata.name] as const] : [])),
          );
        };
        await converse(deps, { url, model, maxTokens, options, format, podNames });
      });
    });
  return addOutputOption(addClusterOptions(command));
}

async function findAny(client: Client, { any }: ChatOptions, signal: AbortSignal): Promise<ServiceObject> {
  if (!any) throw new AppError('usage', 'name a service, or give --any');
  const { items } = await client.list<ServiceObject>(resources.llmInferenceServices, {}, signal);
  const isReady = ({ status }: ServiceObject) =>
    status?.url !== undefined && status.conditions?.some(({ type, status: is }) => type === 'Ready' && is === 'True');
  const ageOf = ({ metadata }: ServiceObject) => metadata.creationTimestamp ?? '';
  const found = items.filter(isReady).sort((a, b) => (ageOf(a) < ageOf(b) ? 1 : -1))[0];
  if (found) return found;
  throw new AppError(
    'unavailable',
    `none of ${items.length} services is ready with a URL; \`signalbox explain\` says why`,
  );
}

async function converse(
  deps: CliDeps,
  chat: {
    readonly url: string;
    readonly model: string;
    readonly maxTokens: number;
    readonly options: ChatOptions;
    readonly format: OutputFormat;
    readonly podNames: () => Promise<ReadonlyMap<string, string>>;
  },
): Promise<void> {
  const { output, signal } = deps;
  const { options, format } = chat;
  const isText = format === 'text';
  const messages: Message[] = options.system === undefined ? [] : [{ role: 'system', content: options.system }];
  const turns: object[] = [];
  if (isText) output.line(output.dim(`${chat.model} at ${chat.url}/v1/chat/completions`));
  for await (const line of options.message ?? questions(deps)) {
    if (line.trim() === '') continue;
    messages.push({ role: 'user', content: line });
    if (isText && options.message) output.line(`${output.bold('>')} ${line}`);
    let turn: Turn;
    try {
      const url = `${chat.url}/v1/chat/completions`;
      const ask = { url, model: chat.model, messages, maxTokens: chat.maxTokens, signal };
      turn = await sendTurn(ask, (token) => {
        if (isText) output.raw(token);
      });
    } catch (thrown) {
      if (thrown instanceof AppError || signal.aborted) throw thrown;
      throw new AppError('unavailable', `${chat.url} cannot be reached from here: ${messageOf(thrown)}; give --url`, {
        cause: thrown,
      });
    }
    messages.push({ role: 'assistant', content: turn.text });
    const told = describe(turn, await chat.podNames());
    turns.push({ question: line, answer: turn.text, ...told });
    if (isText) output.line(`\n${output.dim(`  ${sentenceOf(told)}`)}`);
  }
  if (!isText) printResult(output, format, { url: chat.url, model: chat.model, turns }, () => {});
}

/** Lines as they are typed or piped. */
async function* questions({ output, signal }: CliDeps): AsyncGenerator<string> {
  const isPrompting = output.isTerminal && process.stdin.isTTY === true;
  const lines = createInterface({ input: process.stdin, ...(isPrompting ? { output: process.stdout } : {}), signal });
  if (isPrompting) {
    output.line(output.dim('Ctrl-D ends the conversation.'));
    lines.setPrompt(`${output.bold('>')} `);
    lines.prompt();
  }
  for await (const line of lines) {
    yield line;
    if (isPrompting) lines.prompt();
  }
}

interface TurnReport {
  /** Pod names; `none`: no prefill pod was called. */
  readonly prefill: string;
  readonly decode: string;
  readonly promptTokens?: number;
  readonly cachedTokens?: number;
  readonly completionTokens?: number;
  readonly firstTokenMs: number;
  readonly totalMs: number;
  readonly requestId: string;
}

function describe(turn: Turn, pods: ReadonlyMap<string, string>): TurnReport {
  const named = (address: string) => pods.get(address.replace(/:\d+$/, '').replace(/^\[|\]$/g, '')) ?? address;
  return {
    prefill: named(turn.prefill),
    decode: named(turn.decode),
    ...(turn.usage
      ? {
          promptTokens: turn.usage.promptTokens,
          cachedTokens: turn.usage.cachedTokens,
          completionTokens: turn.usage.completionTokens,
        }
      : {}),
    firstTokenMs: Math.round(turn.firstTokenMs),
    totalMs: Math.round(turn.totalMs),
    requestId: turn.requestId,
  };
}

function sentenceOf(told: TurnReport): string {
  const way =
    told.decode === ''
      ? 'served without a routing sidecar'
      : told.prefill === 'none' || told.prefill === ''
        ? `decoded by ${told.decode}, no prefill pod called`
        : `prefilled by ${told.prefill}, decoded by ${told.decode}`;
  const tokens =
    told.promptTokens === undefined
      ? ''
      : ` · prompt ${told.promptTokens} tokens, ${told.cachedTokens ?? 0} cached · answer ${told.completionTokens} tokens`;
  return `${way}${tokens} · first token ${told.firstTokenMs} ms, all ${told.totalMs} ms · request ${told.requestId}`;
}
