import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { request } from 'undici';
import type { Condition } from '../../../api/conditions.ts';
import { systemClock } from '../../../clock.ts';
import { AppError } from '../../../errors.ts';
import type { Client } from '../../../kube/client.ts';
import { startInformer } from '../../../kube/informer.ts';
import type { KubeObject } from '../../../kube/object.ts';
import { resources } from '../../../kube/resources.ts';
import { applyManifests, parseManifests } from '../../../local/install.ts';
import type { Logger } from '../../../telemetry/log.ts';
import { type Output, renderTable } from '../../output.ts';
import { type Message, sendTurn, type Turn } from './conversation.ts';

interface Service extends KubeObject {
  readonly spec: { readonly model?: { readonly name?: string } };
  readonly status?: {
    readonly url?: string;
    readonly observedGeneration?: number;
    readonly conditions?: readonly Condition[];
  };
}

interface Pod extends KubeObject {
  readonly status?: { readonly podIP?: string };
}

export interface DemoDeps {
  readonly client: Client;
  readonly root: string;
  readonly output: Output;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

const sample = 'config/samples/chat-prefill-decode.yaml';
const readyTimeoutMs = 300_000;
/** A condition that stays False says so again after this long. */
const waitLineMs = 3_000;
const parents: ReadonlySet<string> = new Set(['Ready', 'WorkloadsReady', 'RouterReady']);
const questions = [
  'Hello! Explain in a few sentences what happens to a request between the gateway and the first token.',
  'Thank you. And why is the second turn of a conversation faster?',
] as const;

export interface DemoResult {
  readonly url: string;
  readonly model: string;
  /** What was expected and did not happen; empty when all of it was true. */
  readonly problems: readonly string[];
}

/** Applies the sample, shows its conditions, holds a two-turn conversation and says what was not as promised. */
export async function runDemo(deps: DemoDeps): Promise<DemoResult> {
  const { client, output, signal } = deps;
  output.line(output.bold(`\nkubectl apply -f ${sample}`));
  const manifests = parseManifests(await readFile(join(deps.root, sample), 'utf8'), sample);
  const wanted = manifests.find((object) => object.kind === 'LLMInferenceService');
  if (!wanted) throw new AppError('invalid', `${sample} holds no LLMInferenceService`);
  await applyManifests(client, manifests, { fieldManager: 'kubectl', clock: systemClock, signal, timeoutMs: 60_000 });

  const namespace = wanted.metadata.namespace ?? 'default';
  const service = await awaitReady(deps, { namespace, name: wanted.metadata.name });
  const url = service.status?.url ?? '';
  const model = service.spec.model?.name ?? service.metadata.name;

  output.line(output.bold(`\nA conversation at ${url}/v1/chat/completions`));
  const problems: string[] = [];
  const messages: Message[] = [];
  const turns: Turn[] = [];
  for (const [index, question] of questions.entries()) {
    messages.push({ role: 'user', content: question });
    output.line(`\n${output.bold(`turn ${index + 1}`)}  ${output.dim('user')}       ${question}`);
    output.raw(`        ${output.dim('assistant')}  `);
    const before = await prefillRequests(client, namespace, service.metadata.name);
    const turn = await sendTurn(
      { url: `${url}/v1/chat/completions`, model, messages, maxTokens: 48, signal },
      (token) => output.raw(token),
    );
    const prefills = (await prefillRequests(client, namespace, service.metadata.name)) - before;
    messages.push({ role: 'assistant', content: turn.text });
    turns.push(turn);
    const pods = await podNames(client, namespace);
    const named = (address: string) => pods.get(address.replace(/:\d+$/, '')) ?? address;
    output.line();
    output.line(
      renderTable([
        ['        prefilled by', turn.prefill === 'none' ? 'no prefill pod was called' : named(turn.prefill)],
        ['        decoded by', named(turn.decode)],
        [
          '        prompt',
          `${turn.usage?.promptTokens ?? '?'} tokens, ${turn.usage?.cachedTokens ?? '?'} of them cached`,
        ],
        ['        first token', `${turn.firstTokenMs.toFixed(0)} ms, whole answer ${turn.totalMs.toFixed(0)} ms`],
      ]),
    );
    problems.push(...problemsOf(index, turn, turns[index - 1], prefills));
  }
  return { url, model, problems };
}

/** One clause of a condition's message: the whole of it is what kubectl is for. */
function shorten(message: string): string {
  const clauses = message.split('; ');
  const text = clauses.slice(0, 2).join('; ');
  return text.length > 130 ? `${text.slice(0, 129)}…` : text;
}

/** What a turn must show: the first goes through prefill, the next stays on the decode pod that has its KV. */
function problemsOf(index: number, turn: Turn, before: Turn | undefined, prefills: number): readonly string[] {
  const problems: string[] = [];
  const name = `turn ${index + 1}`;
  if (turn.text === '') problems.push(`${name} had no text`);
  if (!turn.usage) problems.push(`${name} told no usage`);
  if (before === undefined) {
    if (turn.prefill === 'none' || turn.prefill === '') problems.push(`${name} called no prefill pod`);
    if (prefills !== 1) problems.push(`the prefill pods served ${prefills} requests in ${name}, not 1`);
    return problems;
  }
  if (turn.prefill !== 'none') problems.push(`${name} called the prefill pod ${turn.prefill}`);
  if (prefills !== 0) problems.push(`the prefill pods served ${prefills} requests in ${name}, not 0`);
  if (turn.decode !== before.decode)
    problems.push(`${name} was decoded by ${turn.decode}, not by ${before.decode} which has its KV`);
  if (!turn.usage || turn.usage.cachedTokens === 0)
    problems.push(`${name} found nothing of the conversation in the KV cache`);
  return problems;
}

async function awaitReady(
  deps: DemoDeps,
  ref: { readonly namespace: string; readonly name: string },
): Promise<Service> {
  const { output } = deps;
  const startedAt = Date.now();
  const informer = startInformer<Service>(
    deps.client,
    resources.llmInferenceServices,
    { namespace: ref.namespace, fieldSelector: `metadata.name=${ref.name}` },
    { log: deps.log },
  );
  /** What was last said of each condition, and when. */
  const shown = new Map<string, { readonly isTrue: boolean; readonly atMs: number }>();
  const showCondition = (condition: Condition) => {
    const isTrue = condition.status === 'True';
    const before = shown.get(condition.type);
    const atMs = Date.now() - startedAt;
    if (before?.isTrue === isTrue && (isTrue || atMs - before.atMs < waitLineMs)) return;
    // The parents repeat what their parts say.
    if (!isTrue && parents.has(condition.type)) return;
    shown.set(condition.type, { isTrue, atMs });
    const seconds = `${(atMs / 1000).toFixed(1)} s`.padStart(7);
    const mark = isTrue ? output.good('✓') : output.dim('…');
    const why = isTrue ? '' : shorten(condition.message ?? condition.reason ?? '');
    output.line(`  ${output.dim(seconds)}  ${mark} ${condition.type.padEnd(24)} ${output.dim(why)}`.trimEnd());
  };
  const watching = new AbortController();
  try {
    return await new Promise<Service>((resolve, reject) => {
      deps.signal.throwIfAborted();
      deps.signal.addEventListener('abort', () => reject(deps.signal.reason), { signal: watching.signal });
      const timer = setTimeout(() => {
        const service = informer.store.get(ref);
        const why = service?.status?.conditions?.find((c) => c.type === 'Ready')?.message ?? 'its status is empty';
        reject(
          new AppError('timeout', `${ref.namespace}/${ref.name} is not Ready after ${readyTimeoutMs / 1000} s: ${why}`),
        );
      }, readyTimeoutMs);
      watching.signal.addEventListener('abort', () => clearTimeout(timer));
      informer.subscribe((change) => {
        if (change.type === 'deleted') return;
        const conditions = change.object.status?.conditions ?? [];
        // Parts before the wholes that they make.
        const order = (type: string) => (type === 'Ready' ? 2 : parents.has(type) ? 1 : 0);
        for (const condition of [...conditions].sort((a, b) => order(a.type) - order(b.type))) showCondition(condition);
        const ready = conditions.find((c) => c.type === 'Ready');
        if (ready?.status === 'True' && change.object.status?.url) resolve(change.object);
      });
    });
  } finally {
    watching.abort();
    informer.close();
  }
}

/** Requests that the service's prefill pods have answered so far, as their own metrics say. */
async function prefillRequests(client: Client, namespace: string, name: string): Promise<number> {
  const pods = await client.list<Pod>(resources.pods, {
    namespace,
    labelSelector: `app.kubernetes.io/name=${name},llm-d.ai/role=prefill`,
  });
  let total = 0;
  for (const pod of pods.items) {
    if (!pod.status?.podIP) continue;
    const answer = await request(`http://${pod.status.podIP}:8000/metrics`, {
      headersTimeout: 5000,
      bodyTimeout: 5000,
    });
    for (const match of (await answer.body.text()).matchAll(/^vllm:request_success_total\{[^}]*\} (\S+)$/gm))
      total += Number(match[1]);
  }
  return total;
}

async function podNames(client: Client, namespace: string): Promise<ReadonlyMap<string, string>> {
  const pods = await client.list<Pod>(resources.pods, { namespace });
  return new Map(
    pods.items.flatMap((pod) => (pod.status?.podIP ? [[pod.status.podIP, pod.metadata.name] as const] : [])),
  );
}
