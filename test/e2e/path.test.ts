import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect } from 'node:tls';
import { gunzipSync } from 'node:zlib';
import Anthropic from '@anthropic-ai/sdk';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { unpackTar } from 'modern-tar';
import OpenAI from 'openai';
import { request } from 'undici';
import { parse } from 'yaml';
import { sendTurn } from '../../src/cli/conversation.ts';
import type { Client } from '../../src/kube/client.ts';
import { loadKubeConfig } from '../../src/kube/config.ts';
import type { KubeObject, Manifest, Resource } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { createClient } from '../../src/kube/rest-client.ts';
import { listMetrics } from '../../src/observability/metric-registry.ts';
import { silentLogger } from '../../src/telemetry/log.ts';
import { startCollector, type TestCollector } from '../builders/otlp.ts';
import { root } from '../cluster/control-plane.ts';
import { eventually as eventuallyHolds } from '../expect/eventually.ts';
import { checkQuery, scrapedSeries, seriesOf } from '../expect/promql.ts';
import { processesOf, runBinary } from './cli.ts';

/** The whole path on real parts: one cluster for all of these, driven as a user drives it. */

interface Loose extends KubeObject {
  readonly spec?: Record<string, unknown>;
  readonly status?: {
    readonly url?: string;
    readonly podIP?: string;
    readonly readyReplicas?: number;
    readonly conditions?: readonly { readonly type: string; readonly status: string; readonly message?: string }[];
    readonly containerStatuses?: readonly { readonly restartCount: number; readonly ready: boolean }[];
  };
}

const namespace = 'default';
const name = 'chat';

describe('the whole path', () => {
  let stateHome: string;
  let client: Client;
  let kubeconfig: string;
  let url: string;
  let collector: TestCollector;
  const env = () => ({ XDG_STATE_HOME: stateHome, OTEL_EXPORTER_OTLP_ENDPOINT: collector.endpoint });

  const get = (resource: Resource, objectName: string, ns = namespace) =>
    client.get<Loose>(resource, { namespace: ns, name: objectName });
  const pods = async (selector: string, ns = namespace) =>
    (await client.list<Loose>(resources.pods, { namespace: ns, labelSelector: selector })).items;
  const apply = (object: unknown, resource: Resource = resources.llmInferenceServices) =>
    client.apply<Loose>(resource, object as Manifest, { fieldManager: 'kubectl', force: true });
  const condition = (service: Loose | undefined, type: string) =>
    service?.status?.conditions?.find((c) => c.type === type);
  const eventually = async <T>(
    what: string,
    look: () => Promise<T | undefined | false>,
    timeoutMs = 90_000,
  ): Promise<T> => {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const found = await look();
      if (found) return found;
      if (Date.now() > deadline) throw new Error(`${what} did not come true in ${timeoutMs / 1000} s`);
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  };
  const awaitReady = (serviceName: string) =>
    eventually(`${serviceName} Ready`, async () => {
      const service = await get(resources.llmInferenceServices, serviceName);
      return condition(service, 'Ready')?.status === 'True' && service;
    });
  const post = async (path: string, body: unknown, headers: Record<string, string> = {}) => {
    const answer = await request(`${url}${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: typeof body === 'string' ? body : JSON.stringify(body),
      headersTimeout: 30_000,
      bodyTimeout: 30_000,
    });
    const text = await answer.body.text();
    return {
      status: answer.statusCode,
      headers: answer.headers,
      text,
      json: () => JSON.parse(text) as Record<string, never>,
    };
  };
  const chat = (content: string, more: Record<string, unknown> = {}) => ({
    model: name,
    max_tokens: 4,
    messages: [{ role: 'user', content }],
    ...more,
  });

  beforeAll(async () => {
    stateHome = await mkdtemp(join(tmpdir(), 'signalbox-e2e-'));
    collector = await startCollector();
    const up = await runBinary('signalbox', ['up', '--detach', '--name', 'e2e'], {
      timeoutMs: 15 * 60_000,
      env: env(),
    });
    if (up.code !== 0) throw new Error(`${up.stdout}\n${up.stderr}`);
    kubeconfig = join(stateHome, 'signalbox', 'e2e', 'admin.kubeconfig');
    client = createClient(await loadKubeConfig({ path: kubeconfig }), { log: silentLogger });
    await apply(parse(await readFile(join(root, 'config/samples/chat-prefill-decode.yaml'), 'utf8')));
    const service = await awaitReady(name);
    url = service.status?.url ?? '';
  }, 16 * 60_000);

  afterAll(async () => {
    await client?.close();
    await runBinary('signalbox', ['down', '--name', 'e2e'], { env: env() });
    await collector.close();
    await rm(stateHome, { recursive: true, force: true });
  }, 90_000);

  it('answers a chat completion, a completion and the list of models', async () => {
    const answer = await post('/v1/chat/completions', chat('One word, please.'));
    expect(answer.status).toBe(200);
    expect(answer.json()).toMatchObject({ object: 'chat.completion', model: name, usage: { completion_tokens: 4 } });
    expect(answer.headers['x-signalbox-decode']).toMatch(/^chat-kserve-/);
    const completion = await post('/v1/completions', { model: name, prompt: 'Once upon a time', max_tokens: 3 });
    expect(completion.json()).toMatchObject({ object: 'text_completion', usage: { completion_tokens: 3 } });
    const models = await request(`${url}/v1/models`);
    expect(await models.body.json()).toMatchObject({
      data: expect.arrayContaining([expect.objectContaining({ id: name })]),
    });
  }, 60_000);

  it('serves the publisher path too', async () => {
    const base = url.replace(`/${namespace}/${name}`, `/publishers/${namespace}/models/${name}`);
    const answer = await request(`${base}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(chat('Hello', { model: `publishers/${namespace}/models/${name}` })),
    });
    expect(answer.statusCode).toBe(200);
    await answer.body.dump();
  }, 60_000);

  it('is told by the command line', async () => {
    const run = (...args: readonly string[]) =>
      runBinary('signalbox', [...args, '--kubeconfig', kubeconfig], { env: env() });
    expect(await run('explain', name)).toMatchObject({ code: 0, stdout: expect.stringContaining(`ready at ${url}`) });
    expect(await run('status', `${namespace}/${name}`, '--wait', '1m')).toMatchObject({ code: 0 });
    expect(await run('explain', 'nothing')).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('default/nothing: there is no such LLMInferenceService; there are default/chat'),
    });
    expect(await run('validate', '--server', join(root, 'config/samples/chat-prefill-decode.yaml'))).toMatchObject({
      code: 0,
    });
    const talk = await run(
      'chat',
      name,
      '-m',
      'A question of some length, please.',
      '-m',
      'And another?',
      '-o',
      'json',
    );
    const { turns } = JSON.parse(talk.stdout) as { readonly turns: readonly Record<string, unknown>[] };
    expect(turns).toMatchObject([
      { prefill: expect.stringMatching(/^chat-kserve-prefill-/), decode: expect.stringMatching(/^chat-kserve-/) },
      { prefill: 'none', decode: turns[0]?.decode },
    ]);
    const loads = JSON.parse(
      (await run('top', name, '--once', '--interval', '200ms', '-o', 'json')).stdout,
    ) as readonly {
      readonly role: string;
      readonly problem?: string;
    }[];
    expect(loads.map(({ role }) => role).sort()).toEqual(['decode', 'decode', 'prefill']);
    expect(loads.filter(({ problem }) => problem !== undefined)).toEqual([]);
    const archive = join(stateHome, 'bundle.tar.gz');
    expect(await run('bundle', '--file', archive)).toMatchObject({ code: 0 });
    const entries = await unpackTar(gunzipSync(await readFile(archive)));
    const logs = entries.filter(({ header }) =>
      /\/chat-kserve-[^/]+\/(main|llm-d-routing-sidecar)\.log$/.test(header.name),
    );
    expect(logs.length).toBe(6);
    for (const { data } of logs) expect(data?.length).toBeGreaterThan(0);
  }, 90_000);

  it('streams a conversation: prefill first, then the decode pod alone', async () => {
    const tokens: string[] = [];
    const options = {
      url: `${url}/v1/chat/completions`,
      model: name,
      maxTokens: 12,
      signal: AbortSignal.timeout(60_000),
    };
    const messages = [
      { role: 'user' as const, content: `Tell me something about routing that I asked at ${Date.now()}.` },
    ];
    const first = await sendTurn({ ...options, messages }, (token) => tokens.push(token));
    const second = await sendTurn(
      {
        ...options,
        messages: [...messages, { role: 'assistant', content: first.text }, { role: 'user', content: 'And more?' }],
      },
      () => {},
    );
    expect(tokens.length).toBeGreaterThan(3);
    expect(first.prefill).toMatch(/^127\./);
    expect(second.prefill).toBe('none');
    expect(second.decode).toBe(first.decode);
    expect(second.usage?.cachedTokens).toBeGreaterThan((first.usage?.promptTokens ?? 0) / 2);
  }, 60_000);

  it.each([
    ['malformed JSON', '{"model":', 400, /not valid JSON/],
    ['a body that is no object', '[1]', 400, /JSON object/],
    ['an unknown model', JSON.stringify({ model: 'other', messages: [{ role: 'user', content: 'x' }] }), 404, /other/],
    ['no messages', JSON.stringify({ model: 'chat', messages: [] }), 400, /messages/],
  ])(
    'answers %s with an OpenAI error',
    async (_what, body, status, text) => {
      const answer = await post('/v1/chat/completions', body);
      expect(answer.status).toBe(status);
      expect(answer.json()).toMatchObject({ error: { message: expect.stringMatching(text), code: status } });
    },
    60_000,
  );

  it('serves the official clients, streaming and not', async () => {
    const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });
    const anthropic = new Anthropic({ baseURL: url, apiKey: 'none', maxRetries: 0 });
    const messages = [{ role: 'user' as const, content: `What does an operator do at ${Date.now()}?` }];
    const whole = await openai.chat.completions.create({ model: name, messages, n: 2, max_tokens: 8 });
    expect(whole.choices.map(({ finish_reason }) => finish_reason)).toEqual(['length', 'length']);
    expect(whole.usage?.completion_tokens).toBe(16);
    const streamed = await openai.chat.completions
      .stream({ model: name, messages, max_tokens: 8, logprobs: true, stream_options: { include_usage: true } })
      .finalChatCompletion();
    expect(streamed.choices[0]?.message.content).toBe(whole.choices[0]?.message.content);
    expect(streamed.choices[0]?.logprobs?.content?.length).toBeGreaterThan(0);
    expect(streamed.usage?.completion_tokens).toBe(8);

    const text = await openai.completions.create({ model: name, prompt: 'Once upon a time', max_tokens: 5 });
    let pieces = '';
    for await (const { choices } of await openai.completions.create({
      model: name,
      prompt: 'Once upon a time',
      max_tokens: 5,
      stream: true,
    })) {
      pieces += choices[0]?.text ?? '';
    }
    expect(pieces).toBe(text.choices[0]?.text);

    const response = await openai.responses.create({ model: name, input: 'Count to three.', max_output_tokens: 6 });
    expect(response).toMatchObject({ status: 'incomplete', usage: { output_tokens: 6 } });
    const followed = openai.responses.stream({ model: name, input: 'Count to three.', max_output_tokens: 6 });
    expect((await followed.finalResponse()).output_text).toBe(response.output_text);

    const message = await anthropic.messages.create({ model: name, max_tokens: 8, system: 'Be brief.', messages });
    expect(message).toMatchObject({ stop_reason: 'max_tokens', usage: { output_tokens: 8 } });
    const again = anthropic.messages.stream({ model: name, max_tokens: 8, system: 'Be brief.', messages });
    expect((await again.finalMessage()).content).toEqual(message.content);
    expect((await openai.models.list()).data.map(({ id }) => id)).toContain(name);
    await expect(openai.chat.completions.create({ model: 'nobody', messages })).rejects.toMatchObject({ status: 404 });
  }, 60_000);

  it('finds what a pod was told behind its back, by its cache events', async () => {
    const sample = parse(await readFile(join(root, 'config/samples/chat-prefill-decode.yaml'), 'utf8'));
    const events = '{"enable_kv_cache_events":true,"endpoint":"tcp://*:5557","replay_endpoint":"tcp://*:5558"}';
    const [main] = sample.spec.template.containers;
    const picker = parse(await readFile(join(root, 'config/epp/precise-prefix.yaml'), 'utf8'));
    const { prefill: _, ...spec } = sample.spec;
    await apply({
      ...sample,
      metadata: { name: 'precise', namespace },
      spec: {
        ...spec,
        model: { ...spec.model, name: 'precise' },
        template: { containers: [{ ...main, args: ['--kv-events-config', events] }] },
        router: { ...spec.router, scheduler: { config: { inline: picker } } },
      },
    });
    await awaitReady('precise');
    const both = await eventually('two pods', async () => {
      const found = await pods('app.kubernetes.io/name=precise,llm-d.ai/role=both');
      const ready = found.filter(({ status }) => status?.containerStatuses?.every((each) => each.ready));
      return ready.length === 2 && ready.map(({ status }) => `http://${status?.podIP}:8000`);
    });
    const base = url.slice(0, url.lastIndexOf('/'));
    const ask = async (at: string, content: string) => {
      const answer = await request(`${at}/v1/chat/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(chat(content, { model: 'precise' })),
      });
      expect(answer.statusCode).toBe(200);
      const body = (await answer.body.json()) as {
        readonly usage: { readonly prompt_tokens_details: { readonly cached_tokens: number } | null };
      };
      return body.usage.prompt_tokens_details?.cached_tokens ?? 0;
    };
    // By chance alone, one try in 256 would pass.
    for (const [i, pod] of both.entries()) {
      await eventually(`the picker knows what pod ${i} has`, async () => {
        const unheard = Array.from(
          { length: 8 },
          (_, k) => `${Date.now()} ${k} ${`only pod ${i} heard of this, `.repeat(20)}`,
        );
        for (const content of unheard) await ask(pod, content);
        await new Promise((resolve) => setTimeout(resolve, 200));
        let found = 0;
        for (const content of unheard) if ((await ask(`${base}/precise`, content)) > 90) found++;
        return found === unheard.length;
      });
    }
    await client.delete(resources.llmInferenceServices, { namespace, name: 'precise' });
  }, 180_000);

  it('exports every series that dashboards and alerts ask for', async () => {
    const pageOf = async (pod: Loose | undefined, port: number) => {
      const answer = await request(`http://${pod?.status?.podIP}:${port}/metrics`);
      expect([port, answer.statusCode]).toEqual([port, 200]);
      return answer.body.text();
    };
    const own = `app.kubernetes.io/name=${name}`;
    const [operator] = await pods('app.kubernetes.io/component=operator', 'signalbox-system');
    const [picker] = await pods(`${own},app.kubernetes.io/component=llminferenceservice-router-scheduler`);
    const [decode] = await pods(`${own},llm-d.ai/role=decode`);
    // These are there with a feature gate alone, which this service does not have.
    const gated = listMetrics().filter((metric) => metric.name.startsWith('llm_d_epp_flow_control_'));
    const pages = scrapedSeries([
      await pageOf(operator, 8080),
      await pageOf(picker, 9090),
      await pageOf(decode, 9091),
      await pageOf(decode, 8000),
    ]);
    const scraped = new Map([...seriesOf(gated), ...pages]);
    const recorded = new Set<string>();
    const problems: string[] = [];
    let count = 0;
    const check = (query: string) => {
      count++;
      for (const problem of checkQuery(query, scraped, recorded).problems) problems.push(`${problem}: ${query}`);
    };
    const { groups } = parse(await readFile(join(root, 'config/observability/alerts.yaml'), 'utf8')) as {
      groups: { rules: { record?: string; expr: string }[] }[];
    };
    for (const { rules } of groups) {
      for (const { record, expr } of rules) {
        if (record !== undefined) recorded.add(record);
        check(expr);
      }
    }
    for (const dashboard of ['fleet', 'service', 'picker', 'sidecar']) {
      const text = await readFile(join(root, `config/observability/dashboards/${dashboard}.json`), 'utf8');
      const { panels, templating } = JSON.parse(text) as {
        panels: { targets?: { expr: string }[] }[];
        templating: { list: { definition?: string }[] };
      };
      for (const { targets } of panels) for (const { expr } of targets ?? []) check(expr);
      for (const { definition } of templating.list) if (definition !== undefined) check(definition);
    }
    expect(count).toBeGreaterThan(100);
    expect(problems).toEqual([]);
  }, 60_000);

  it('refuses an invalid service at admission, naming the field', async () => {
    const service = {
      apiVersion: 'serving.kserve.io/v1alpha2',
      kind: 'LLMInferenceService',
      metadata: { name: 'bad', namespace },
    };
    await expect(apply({ ...service, spec: { model: { uri: 'ftp://host/model' } } })).rejects.toThrow(
      /spec\.model\.uri/,
    );
    await expect(
      apply({
        ...service,
        spec: {
          model: { uri: 'hf://a/b' },
          router: {
            scheduler: {
              config: {
                inline: {
                  apiVersion: 'llm-d.ai/v1alpha1',
                  kind: 'EndpointPickerConfig',
                  plugins: [{ type: 'queue-scorer' }, { type: 'qeue-scorer' }],
                },
              },
            },
          },
        },
      }),
    ).rejects.toThrow(
      /spec\.router\.scheduler\.config\.inline\.plugins\[1\]\.type: .*no plugin of type "qeue-scorer"/s,
    );
    expect(await get(resources.llmInferenceServices, 'bad')).toBeUndefined();
  }, 60_000);

  it('serves the older version of the API', async () => {
    const older: Resource = { ...resources.llmInferenceServices, version: 'v1alpha1' };
    const stored = await get(resources.llmInferenceServices, name);
    const shown = await get(older, name);
    expect([shown?.apiVersion, shown?.spec]).toEqual(['serving.kserve.io/v1alpha1', stored?.spec]);
    const ref = { namespace, name };
    await client.mergePatch<Loose>(older, ref, { spec: { model: { criticality: 'Critical' } } });
    const changed = await get(resources.llmInferenceServices, name);
    expect(changed?.spec).toEqual(stored?.spec);
    expect(changed?.metadata.annotations).toMatchObject({
      'internal.serving.kserve.io/model-criticality': 'Critical',
    });
    await client.mergePatch<Loose>(older, ref, { spec: { model: { criticality: null } } });
  }, 60_000);

  it('injects the sidecar into decode pods once, and into no other', async () => {
    const decode = await pods(`app.kubernetes.io/name=${name},llm-d.ai/role=decode`);
    expect(decode).toHaveLength(2);
    for (const pod of decode) {
      const spec = pod.spec as { initContainers: { name: string; restartPolicy: string; args: string[] }[] };
      expect(spec.initContainers.filter((c) => c.name === 'llm-d-routing-sidecar')).toHaveLength(1);
      expect(spec.initContainers[0]).toMatchObject({ restartPolicy: 'Always' });
      expect(spec.initContainers[0]?.args).toEqual(
        expect.arrayContaining(['--port=8000', '--decoder-port=8001', '--connector=nixlv2']),
      );
    }
    const [prefill] = await pods(`app.kubernetes.io/name=${name},llm-d.ai/role=prefill`);
    expect(prefill?.spec).toBeDefined();
    expect(prefill?.spec).not.toHaveProperty('initContainers');
  }, 60_000);

  it('answers although the prefill pod is dead, and uses the next one', async () => {
    const [prefill] = await pods(`app.kubernetes.io/name=${name},llm-d.ai/role=prefill`);
    if (!prefill) throw new Error('no prefill pod');
    await client.delete(resources.pods, prefill.metadata as { namespace: string; name: string }, {
      gracePeriodSeconds: 0,
    });
    for (let i = 0; i < 5; i++) {
      const answer = await post('/v1/chat/completions', chat(`While prefill is gone ${i} ${Date.now()}`));
      expect(answer.status).toBe(200);
    }
    await eventually('a prefill pod is used again', async () => {
      const answer = await post('/v1/chat/completions', chat(`Prefill is back ${Date.now()}`));
      return String(answer.headers['x-signalbox-prefill']).startsWith('127.');
    });
  }, 120_000);

  it('repairs drift on what it owns', async () => {
    await client.delete(resources.services, { namespace, name: 'chat-kserve-prefill-svc' });
    await eventually('the Service is back', () => get(resources.services, 'chat-kserve-prefill-svc'));
    await client.mergePatch(
      resources.deployments,
      { namespace, name: 'chat-kserve-prefill' },
      { spec: { replicas: 0 } },
    );
    await eventually(
      'replicas are 1 again',
      async () => (await get(resources.deployments, 'chat-kserve-prefill'))?.spec?.replicas === 1,
    );
    await client.mergePatch(resources.roles, { namespace, name: 'chat-epp-role' }, { rules: [] });
    await eventually('the rules are back', async () => {
      const role = (await get(resources.roles, 'chat-epp-role')) as unknown as { rules?: unknown[] };
      return (role.rules?.length ?? 0) > 0;
    });
    await awaitReady(name);
  }, 120_000);

  it('loses and repeats nothing when the operator is killed', async () => {
    const children = async () => {
      const kinds = [
        resources.deployments,
        resources.services,
        resources.inferencePools,
        resources.httpRoutes,
        resources.roles,
      ];
      const lists = await Promise.all(kinds.map((kind) => client.list<Loose>(kind, { namespace })));
      // Those of services of the tests before may still be going.
      return lists
        .flatMap((list) =>
          list.items
            .filter((o) => o.metadata.name.startsWith(`${name}-`))
            .map((o) => `${o.kind}/${o.metadata.name} ${o.metadata.uid} ${o.metadata.generation ?? ''}`),
        )
        .sort();
    };
    const before = await children();
    const [operator] = await pods('app.kubernetes.io/component=operator', 'signalbox-system');
    const restarts = operator?.status?.containerStatuses?.[0]?.restartCount ?? 0;
    // Other clusters on this machine run the same command: only the one in the directory of our pod is ours to end.
    const ours = await processesOf(`/pods/${operator?.metadata.uid}/`);
    const [found, ...more] = ours.filter(({ command }) => command.includes('operator.mjs'));
    if (!found || more.length > 0) throw new Error(`not one operator process but ${JSON.stringify(ours)}`);
    process.kill(found.pid, 'SIGKILL');
    await eventually('the operator is back', async () => {
      const [pod] = await pods('app.kubernetes.io/component=operator', 'signalbox-system');
      const status = pod?.status?.containerStatuses?.[0];
      return status !== undefined && status.restartCount > restarts && status.ready;
    });
    await apply({
      apiVersion: 'serving.kserve.io/v1alpha2',
      kind: 'LLMInferenceService',
      metadata: { name: 'after', namespace },
      spec: { model: { uri: 'hf://Qwen/Qwen2.5-0.5B-Instruct' } },
    });
    await awaitReady('after');
    await client.delete(resources.llmInferenceServices, { namespace, name: 'after' });
    await eventually(
      'its children are gone',
      async () => (await get(resources.deployments, 'after-kserve')) === undefined,
    );
    // Nothing else has changed.
    await eventuallyHolds(async () => expect(await children()).toEqual(before), 60_000);
    expect((await post('/v1/chat/completions', chat('Still there?'))).status).toBe(200);
  }, 180_000);

  it('says what a pod waits for', async () => {
    await apply({
      apiVersion: 'serving.kserve.io/v1alpha2',
      kind: 'LLMInferenceService',
      metadata: { name: 'huge', namespace },
      spec: {
        model: { uri: 'hf://Qwen/Qwen2.5-72B-Instruct' },
        template: { containers: [{ name: 'main', resources: { limits: { 'nvidia.com/gpu': '64' } } }] },
      },
    });
    const message = await eventually('the condition names the GPU', async () => {
      const ready = condition(await get(resources.llmInferenceServices, 'huge'), 'Ready');
      return ready?.status === 'False' && ready.message?.includes('nvidia.com/gpu') && ready.message;
    });
    expect(message).toContain('Insufficient nvidia.com/gpu');
    await client.delete(resources.llmInferenceServices, { namespace, name: 'huge' });

    await apply({
      apiVersion: 'serving.kserve.io/v1alpha2',
      kind: 'LLMInferenceService',
      metadata: { name: 'typo', namespace },
      spec: {
        model: { uri: 'hf://Qwen/Qwen2.5-0.5B-Instruct' },
        template: { containers: [{ name: 'main', image: 'nobody/knows:this' }] },
      },
    });
    await eventually('the condition names the image', async () => {
      const ready = condition(await get(resources.llmInferenceServices, 'typo'), 'Ready');
      return ready?.status === 'False' && /nobody\/knows:this|ErrImagePull|ImagePullBackOff/.test(ready.message ?? '');
    });
    await client.delete(resources.llmInferenceServices, { namespace, name: 'typo' });
  }, 120_000);

  it('answers 503 when there is no decode pod, and serves again when there is', async () => {
    const service = parse(await readFile(join(root, 'config/samples/chat-prefill-decode.yaml'), 'utf8'));
    await apply({ ...service, spec: { ...service.spec, replicas: 0 } });
    await eventually(
      'no decode pod',
      async () => (await pods(`app.kubernetes.io/name=${name},llm-d.ai/role=decode`)).length === 0,
    );
    await eventually('503', async () => {
      const answer = await post('/v1/chat/completions', chat('Anyone?'));
      return answer.status === 503 && answer.json().error;
    });
    await apply(service);
    await eventually('200', async () => (await post('/v1/chat/completions', chat('Back?'))).status === 200);
  }, 180_000);

  it('traces a request through gateway, picker, sidecar and both engines', async () => {
    const sample = parse(await readFile(join(root, 'config/samples/chat-prefill-decode.yaml'), 'utf8'));
    const tracing = { exporterEndpoint: collector.endpoint, sampler: 'parentbased_traceidratio', samplerArg: '1' };
    await apply({
      ...sample,
      metadata: { name: 'traced', namespace },
      spec: { ...sample.spec, replicas: 1, tracing, model: { ...sample.spec.model, name: 'traced' } },
    });
    const service = await awaitReady('traced');
    const id = `traced-${Date.now()}`;
    const answer = await request(`${service.status?.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'x-request-id': id },
      body: JSON.stringify(chat(`Where does this go at ${id}?`, { model: 'traced' })),
    });
    await answer.body.dump();
    expect(answer.statusCode).toBe(200);
    const own = await eventually('spans of all parts', async () => {
      const of = collector.spans.find(
        ({ name: span, attributes }) =>
          span === 'sidecar.request' && attributes.some(({ value }) => value.stringValue === id),
      );
      const trace = collector.spans.filter(({ traceId }) => traceId === of?.traceId);
      return of !== undefined && new Set(trace.map(({ service: part }) => part)).size >= 5 && trace;
    });
    expect([...new Set(own.map(({ service: part }) => part))].sort()).toEqual([
      'gateway',
      'inference-scheduler',
      'inference-server-decode',
      'inference-server-prefill',
      'inference-sidecar',
    ]);
    await client.delete(resources.llmInferenceServices, { namespace, name: 'traced' });
  }, 180_000);

  it('speaks TLS on the whole path, and changes its certificate without a restart', async () => {
    const sample = parse(await readFile(join(root, 'config/samples/chat-prefill-decode.yaml'), 'utf8'));
    await apply({
      ...sample,
      metadata: { name: 'secure', namespace, annotations: { 'signalbox.io/tls': 'true' } },
      spec: { ...sample.spec, replicas: 1, model: { ...sample.spec.model, name: 'secure' } },
    });
    await awaitReady('secure');
    const base = url.slice(0, url.lastIndexOf('/'));
    const ask = async (content: string) => {
      const answer = await request(`${base}/secure/v1/chat/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(chat(content, { model: 'secure' })),
      });
      return { status: answer.statusCode, headers: answer.headers, text: await answer.body.text() };
    };
    const first = await ask('Is anybody listening in?');
    expect(first).toMatchObject({ status: 200, headers: { 'x-signalbox-prefill': expect.any(String) } });
    expect(await request(`${base}/secure/v1/models`).then(({ statusCode }) => statusCode)).toBe(200);

    const all = () => pods('app.kubernetes.io/name=secure');
    const before = await all();
    const [prefill] = await pods('app.kubernetes.io/name=secure,llm-d.ai/role=prefill');
    const [decode] = await pods('app.kubernetes.io/name=secure,llm-d.ai/role=decode');
    const [picker] = await pods(
      'app.kubernetes.io/name=secure,app.kubernetes.io/component=llminferenceservice-router-scheduler',
    );
    const servers = [
      [prefill?.status?.podIP ?? '', 8000],
      [decode?.status?.podIP ?? '', 8000],
      [decode?.status?.podIP ?? '', 8001],
      [picker?.status?.podIP ?? '', 9002],
    ] as const;
    const record = { namespace, name: 'secure-kserve-self-signed-certs' };
    const ca = (await client.get<Loose & { readonly data: Record<string, string> }>(resources.configMaps, record))
      ?.data['ca.crt'];
    const servername = 'secure-kserve-workload-svc.default.svc.cluster.local';
    /** Fingerprints of the certificates that are served, each verified. */
    const served = () =>
      Promise.all(
        servers.map(
          ([host, port]) =>
            new Promise<string>((resolve, reject) => {
              const socket = connect({ host, port, servername, ca, ALPNProtocols: ['h2', 'http/1.1'] }, () => {
                resolve(socket.getPeerCertificate().fingerprint256);
                socket.destroy();
              });
              socket.on('error', reject);
            }),
        ),
      );
    const old = new Set(await served());
    expect(old.size).toBe(1);

    await client.delete(resources.configMaps, record);
    await eventually('the new certificate everywhere', async () => (await served()).every((one) => !old.has(one)));
    expect(new Set(await served()).size).toBe(1);
    expect((await ask('And now, with another certificate?')).status).toBe(200);
    const after = await all();
    expect(after.map(({ metadata }) => metadata.uid).sort()).toEqual(before.map(({ metadata }) => metadata.uid).sort());
    for (const pod of after) for (const one of pod.status?.containerStatuses ?? []) expect(one.restartCount).toBe(0);
    await client.delete(resources.llmInferenceServices, { namespace, name: 'secure' });
  }, 240_000);

  it('shows status and logs, and says what is wrong with a command line', async () => {
    const status = await runBinary('signalbox', ['status'], { env: env() });
    expect(status.stdout).toMatch(/e2e\s+ready/);
    expect(status.stdout).toMatch(/default\s+chat\s+http/);
    const [decode] = await pods(`app.kubernetes.io/name=${name},llm-d.ai/role=prefill`);
    const logs = await runBinary('signalbox', ['logs', decode?.metadata.name ?? '', '--name', 'e2e', '-c', 'main'], {
      env: env(),
    });
    expect(logs.code).toBe(0);
    expect(logs.stdout.length).toBeGreaterThan(0);
    for (const [args, text] of [
      [['frob'], /unknown command 'frob'/],
      [['up', '--nmae', 'x'], /--nmae/],
      [['up', '--name', 'e2e'], /is up already/],
      [['up', '--name', 'Bad_Name'], /--name Bad_Name/],
      [['up', '--name', 'x', '--gpus', 'many'], /--gpus many/],
    ] as const) {
      const refused = await runBinary('signalbox', args, { env: env() });
      expect(refused.code).toBe(2);
      expect(refused.stderr.trimEnd().split('\n')).toHaveLength(1);
      expect(refused.stderr).toMatch(text);
    }
  }, 60_000);
});

describe.each(['signalbox-operator', 'signalbox-epp', 'signalbox-sidecar', 'signalbox-sim', 'signalbox'])(
  '%s',
  (binary) => {
    it('has a help page and refuses unknown flags with exit code 2 and one line', async () => {
      const help = await runBinary(binary, ['--help']);
      expect(help.code).toBe(0);
      expect(help.stdout).toContain(binary);
      if (binary === 'signalbox-sim') return; // vLLM's flags are many: unknown ones are named in a warning.
      const refused = await runBinary(binary, ['--no-such-flag']);
      expect(refused.code).toBe(2);
      expect(refused.stderr.trimEnd().split('\n')).toHaveLength(1);
      expect(refused.stderr).toContain('--no-such-flag');
    }, 30_000);
  },
);
