import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { request } from 'undici';
import { systemClock } from '../../../clock.ts';
import { AppError } from '../../../errors.ts';
import type { Client } from '../../../kube/client.ts';
import type { KubeObject } from '../../../kube/object.ts';
import { resources } from '../../../kube/resources.ts';
import { applyManifests, parseManifests } from '../../../local/install.ts';
import type { Logger } from '../../../telemetry/log.ts';
import { watchConditions } from '../../condition-lines.ts';
import { type Message, sendTurn, type Turn } from '../../conversation.ts';
import { type Output, renderTable } from '../../output.ts';

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
  const service = await watchConditions({
    ...deps,
    ref: { namespace, name: wanted.metadata.name },
    timeoutMs: readyTimeoutMs,
  });
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
