import { gunzipSync } from 'node:zlib';
import { describe, expect, it } from '@jest/globals';
import { Command } from 'commander';
import { unpackTar } from 'modern-tar';
import { parseDocument } from 'yaml';
import { AppError } from '../errors.ts';
import type { Client } from '../kube/client.ts';
import type { KubeObject, Resource } from '../kube/object.ts';
import type { PodState } from '../plan/causes.ts';
import { redacted, redactObject, redactText } from './commands/bundle/redact.ts';
import { gatherBundle, packBundle } from './commands/bundle/run.ts';
import { renderCompletion } from './commands/completion/command.ts';
import { type ExplainInput, explainService } from './commands/explain/explain.ts';
import { capacityOf } from './commands/explain/gather.ts';
import { rootCauses, treeLines } from './commands/explain/tree.ts';
import { loadBetween, loadTable, parseReading, unreadable } from './commands/top/run.ts';
import { parseObjects, validateObject } from './commands/validate/run.ts';
import { explainFailure, parseServiceRef } from './connection.ts';
import { renderTable } from './output.ts';
import { parseOutputFormat } from './output-format.ts';
import type { ServiceObject } from './service.ts';

const plain = { good: String, bad: String, warn: String, dim: String, bold: String };

describe('validate', () => {
  const find = (yaml: string) => parseObjects(yaml, 'f.yaml').map((object) => validateObject(object, 'f.yaml'));
  const service = (spec: string, version = 'v1alpha2', kind = 'LLMInferenceService') =>
    `{apiVersion: serving.kserve.io/${version}, kind: ${kind}, metadata: {name: x, namespace: n}, spec: ${spec}}`;

  it.each([
    ['{model: {uri: hf://a/b}}', []],
    ['{model: {uri: hf://a/b}, replcas: 2}', ['spec.replcas']],
    ['{model: {uri: hf://a/b}, replicas: "2"}', ['spec.replicas']],
    ['{model: {uri: hf://a/b}, replicas: -1}', ['spec.replicas']],
    ['{model: {uri: ""}}', ['spec.model.uri']],
    ['{model: {}}', ['spec.model.uri']],
    ['{model: hf}', ['spec.model']],
    ['{model: {uri: hf://a/b, lora: {adapters: {}}}}', ['spec.model.lora.adapters']],
    ['{model: {uri: hf://a/b}, storageInitializer: {enabled: "no"}}', ['spec.storageInitializer.enabled']],
    ['{model: {uri: hf://a/b}, labels: {a: 1}}', ['spec.labels.a']],
    ['{model: {uri: ftp://a/b}}', ['spec.model.uri']],
    ['{model: {uri: hf://a/b}, replicas: null}', []],
  ])('says of %s what is wrong: %j', (spec, paths) => {
    expect(find(service(spec))[0]?.errors.map(({ path }) => path)).toEqual(paths);
  });

  it('reads both versions, configurations, lists, and leaves other kinds alone', () => {
    const text = [
      service('{model: {uri: hf://a/b, criticality: Critical}}', 'v1alpha1'),
      service('{baseRefs: [{name: a}]}', 'v1alpha2', 'LLMInferenceServiceConfig'),
      service('{}', 'v1beta1'),
      `{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Pod, metadata: {name: p}}]}`,
    ].join('\n---\n');
    expect(
      find(text).map(({ kind, name, errors, skipped }) => [kind, name, errors.map(({ path }) => path), skipped]),
    ).toEqual([
      ['LLMInferenceService', 'n/x', [], undefined],
      ['LLMInferenceServiceConfig', 'n/x', ['spec.baseRefs'], undefined],
      ['LLMInferenceService', 'n/x', ['apiVersion'], undefined],
      ['Pod', 'p', [], 'not a kind of Signalbox'],
    ]);
  });

  it.each([
    ['a: [', /^f\.yaml: /],
    ['kind: Pod', /^f\.yaml: a document lacks apiVersion, kind or metadata\.name$/],
  ])('refuses %j', (text, message) => {
    expect(() => find(text)).toThrow(message);
  });
});

describe('failures of a cluster', () => {
  const at = { source: 'context dev of f', server: 'https://k:6443' };
  it.each([
    [
      new AppError(
        'forbidden',
        'LIST pods: pods is forbidden: User "u" cannot list resource "pods" in API group "" in the namespace "ns"',
      ),
      /context dev of f: ask its administrator .*`kubectl auth can-i list pods -n ns` tells/,
    ],
    [
      new AppError(
        'forbidden',
        'x: User "u" cannot get resource "httproutes" in API group "gateway.networking.k8s.io" at the cluster scope',
      ),
      /`kubectl auth can-i get httproutes.gateway.networking.k8s.io --all-namespaces` tells/,
    ],
    [new AppError('unauthorized', 'x'), /log in again, or give another --context/],
    [
      new AppError('unavailable', 'x: cannot speak to https://k:6443: refused'),
      /context dev of f: is it up, and is this the context you mean\?/,
    ],
    [
      new AppError('notFound', 'LIST llminferenceservices in ns: 404 page not found'),
      /Signalbox is not installed there: helm install it/,
    ],
    [new AppError('notFound', 'pod x is not there'), /^pod x is not there$/],
    [new AppError('unavailable', 'https://elsewhere is down'), /^https:\/\/elsewhere is down$/],
  ])('%s', (error, message) => {
    expect(explainFailure(error, at).message).toMatch(message);
    expect(explainFailure(error, at).code).toBe(error.code);
  });

  it.each(['a/b/c', '/a', 'A', ''])('knows that %j is no service', (text) => {
    expect(() => parseServiceRef(text, 'ns')).toThrow(/give NAME or NAMESPACE\/NAME/);
  });
  it('takes a name with and without namespace', () => {
    expect([parseServiceRef('a', 'ns'), parseServiceRef('b/a', 'ns')]).toEqual([
      { namespace: 'ns', name: 'a' },
      { namespace: 'b', name: 'a' },
    ]);
    expect(() => parseOutputFormat('xml')).toThrow('-o xml: must be one of text, json, yaml');
  });
});

describe('explain', () => {
  const condition = (type: string, status: string, message?: string, reason?: string) => ({
    type,
    status,
    lastTransitionTime: '2030-01-01T00:00:00Z',
    ...(message ? { message } : {}),
    ...(reason ? { reason } : {}),
  });
  const pod = (status: object, component = 'llminferenceservice-workload'): PodState =>
    ({
      metadata: {
        name: 'p-0',
        namespace: 'ns',
        uid: 'u',
        labels: { 'app.kubernetes.io/name': 'chat', 'app.kubernetes.io/component': component },
      },
      status: { phase: 'Pending', ...status },
    }) as unknown as PodState;
  const input = (parts: Partial<ExplainInput> & { readonly conditions?: readonly object[] } = {}): ExplainInput => ({
    service: {
      metadata: { name: 'chat', namespace: 'ns', generation: 2, creationTimestamp: '2030-01-01T00:00:00Z' },
      spec: {},
      status: {
        observedGeneration: 2,
        url: 'http://h/ns/chat',
        conditions: parts.conditions ?? [condition('Ready', 'True')],
      },
    } as unknown as ServiceObject,
    pods: { items: [] },
    events: { items: [] },
    gpus: [{ resource: 'nvidia.com/gpu', allocatable: 8, used: 6, largestFree: 1 }],
    operators: {
      items: [
        { metadata: { name: 'op', namespace: 'sys' }, spec: { replicas: 1 }, status: { readyReplicas: 1 } } as never,
      ],
    },
    webhooks: { problem: 'cannot be looked at: forbidden' },
    nowMs: Date.parse('2030-01-01T01:00:00Z'),
    ...parts,
  });
  const workload = condition(
    'MainWorkloadReady',
    'False',
    '0 of 1 pods are ready; pod p-0 waits',
    'MinimumReplicasUnavailable',
  );
  const ofPod = (status: object) =>
    rootCauses(
      explainService(
        input({ pods: { items: [pod(status)] }, conditions: [condition('Ready', 'False', 'x'), workload] }),
      ),
    )[0];

  it('is a line where all is well', () => {
    expect(treeLines(explainService(input()), plain)).toEqual([
      '✓ ns/chat: ready at http://h/ns/chat',
      '└─ ? certificate of the webhooks: cannot be looked at: forbidden',
    ]);
  });

  it('goes down to the GPU that is missing', () => {
    const message = '0/1 nodes are available: 1 Insufficient nvidia.com/gpu.';
    const conditions = [
      condition('Ready', 'False', '0 of 1 pods are ready'),
      condition('PresetsCombined', 'True'),
      workload,
    ];
    const pods = { items: [pod({ conditions: [condition('PodScheduled', 'False', message)] })] };
    expect(treeLines(explainService(input({ conditions, pods })), plain)).toEqual([
      '✗ ns/chat: 0 of 1 pods are ready',
      '│   $ kubectl get llmisvc chat -n ns -o yaml',
      '├─ ✓ operator: has seen the latest change',
      '├─ ? certificate of the webhooks: cannot be looked at: forbidden',
      '├─ ✓ spec and its base configurations',
      '└─ ✗ model servers: 0 of 1 pods are ready',
      '   │   $ kubectl get pods -n ns -l app.kubernetes.io/name=chat',
      '   └─ ✗ pod p-0: is not scheduled: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu.',
      '          → 2 of 8 nvidia.com/gpu are free, at most 1 on one node: free some, add nodes, or ask for fewer (replicas, parallelism.tensor, resources)',
      '          $ kubectl describe pod p-0 -n ns',
    ]);
  });

  it.each([
    [
      { waiting: { reason: 'ImagePullBackOff', message: 'denied: no access' } },
      /imagePullSecrets/,
      'kubectl describe pod p-0 -n ns',
    ],
    [
      { waiting: { reason: 'ErrImagePull', message: 'manifest unknown' } },
      /no such image or tag/,
      'kubectl describe pod p-0 -n ns',
    ],
    [
      { waiting: { reason: 'CreateContainerConfigError', message: 'secret "x" not found' } },
      /Secret/,
      'kubectl describe pod p-0 -n ns',
    ],
    [{ terminated: { exitCode: 137, reason: 'OOMKilled' } }, /out of memory/, 'kubectl logs p-0 -n ns -c main'],
    [{ terminated: { exitCode: 127 } }, /not in the image/, 'kubectl logs p-0 -n ns -c main'],
    [{ running: {} }, /wait while the log shows progress/, 'kubectl logs -f p-0 -n ns -c main'],
  ])('says of a container that is %j what to do', (state, remedy, command) => {
    const cause = ofPod({ containerStatuses: [{ name: 'main', ready: false, restartCount: 0, state }] });
    expect(cause?.remedy).toMatch(remedy);
    expect(cause?.command).toBe(command);
  });

  it('shows the log of the container before a restart, and what a download lacks', () => {
    const state = { waiting: { reason: 'CrashLoopBackOff' } };
    const lastState = { terminated: { exitCode: 1, message: '403 Forbidden: model.safetensors' } };
    const cause = ofPod({
      initContainerStatuses: [{ name: 'storage-initializer', ready: false, restartCount: 3, state, lastState }],
    });
    expect(cause?.command).toBe('kubectl logs p-0 -n ns -c storage-initializer --previous');
    expect(cause?.remedy).toMatch(/credentials/);
    expect(cause?.message).toMatch(/403 Forbidden: model\.safetensors/);
  });

  it('blames the Gateway, not what waits for it', () => {
    const conditions = [
      condition('Ready', 'False', 'Gateway a/b does not exist'),
      condition('GatewaysReady', 'False', 'Gateway a/b does not exist', 'RefsInvalid'),
      condition('HTTPRoutesReady', 'False', 'HTTPRoute r waits for the controller of Gateway a/b'),
      condition('InferencePoolReady', 'False', 'InferencePool p waits for the controller of Gateway a/b to accept it'),
    ];
    expect(rootCauses(explainService(input({ conditions }))).map(({ what, remedy }) => [what, remedy])).toEqual([
      ['Gateway', 'make the Gateway, or correct spec.router.gateway.refs'],
    ]);
  });

  it.each([
    [{ items: [] }, 'unknown', 'no Deployment of it is in the cluster'],
    [{ problem: 'forbidden' }, 'unknown', 'forbidden'],
    [
      { items: [{ metadata: { name: 'op', namespace: 'sys' }, status: {} }] },
      'bad',
      '0 of 1 replicas of sys/op are ready',
    ],
  ])('says of operators %j: %s', (operators, state, message) => {
    const [operator] = explainService(input({ operators: operators as never })).parts ?? [];
    expect(operator).toMatchObject({ state, message });
  });

  it('notices an operator that has not looked, and certificates that end', () => {
    const base = input();
    const status = { ...base.service.status, observedGeneration: 1 };
    const [operator] = explainService({ ...base, service: { ...base.service, status } as ServiceObject }).parts ?? [];
    expect(operator).toMatchObject({ state: 'bad', message: 'runs, and has not looked at generation 2 (last: 1)' });
    const hooks = {
      kind: 'MutatingWebhookConfiguration',
      metadata: { name: 'w' },
      webhooks: [{ name: 'h', clientConfig: {} }],
    };
    const [, certificate] = explainService({ ...base, webhooks: { items: [hooks as never] } }).parts ?? [];
    expect(certificate).toMatchObject({ state: 'bad', message: 'w has no authority for h' });
  });

  it('counts GPUs that are free', () => {
    const node = (name: string, gpus: number, unschedulable = false) => ({
      metadata: { name },
      spec: { unschedulable },
      status: { allocatable: { 'nvidia.com/gpu': String(gpus), cpu: '8' } },
    });
    const on = (nodeName: string, gpus: number, phase = 'Running') => ({
      metadata: { name: 'p' },
      spec: { nodeName, containers: [{ resources: { limits: { 'nvidia.com/gpu': gpus } } }] },
      status: { phase },
    });
    expect(
      capacityOf(
        [node('a', 8), node('b', 4), node('c', 4, true)] as never,
        [on('a', 5), on('b', 3), on('a', 1, 'Succeeded')] as never,
      ),
    ).toEqual([{ resource: 'nvidia.com/gpu', allocatable: 16, used: 8, largestFree: 3 }]);
  });
});

describe('top', () => {
  const page = (requests: number, tokens: number, ttft: number) => `# HELP x
vllm:num_requests_running{engine="0",model_name="a"} 1
vllm:num_requests_running{engine="1",model_name="a"} 2
vllm:num_requests_waiting{engine="0",model_name="a b} c"} 3
vllm:gpu_cache_usage_perc{engine="0"} 0.256
vllm:request_success_total{finished_reason="stop"} ${requests}
vllm:generation_tokens_total{engine="0"} ${tokens}
vllm:time_to_first_token_seconds_sum{engine="0"} ${ttft}
vllm:time_to_first_token_seconds_count{engine="0"} ${requests}
vllm:prefix_cache_queries_total{engine="0"} ${tokens}
vllm:prefix_cache_hits_total{engine="0"} ${tokens / 4}
`;
  it('makes rates of two readings', () => {
    const before = parseReading(page(10, 100, 1), 0);
    const after = parseReading(page(14, 1100, 1.2), 2000);
    expect(
      renderTable(
        loadTable([loadBetween('p', 'decode', before, after), unreadable('q', 'both', 'not ready (Pending)')]),
      ),
    ).toBe(
      [
        'POD   ROLE     RUN                   WAIT   KV       HITS   REQ/S   PROMPT TOK/S   TOK/S   TTFT',
        'p     decode   3                     3      25.6 %   25 %   2       0              500     50 ms',
        'q     both     not ready (Pending)',
      ].join('\n'),
    );
  });
  it('counts from 0 after a restart, and says nothing where nothing was', () => {
    const load = loadBetween('p', 'both', parseReading(page(10, 100, 1), 0), parseReading(page(2, 40, 0.1), 1000));
    expect(load).toMatchObject({ requestsPerSecond: 2, generatedTokensPerSecond: 40, firstTokenMs: 50 });
    const quiet = loadBetween('p', 'both', parseReading(page(2, 40, 0.1), 0), parseReading(page(2, 40, 0.1), 1000));
    expect([quiet.firstTokenMs, quiet.cacheHitPercent, quiet.requestsPerSecond]).toEqual([undefined, undefined, 0]);
  });
});

describe('bundle', () => {
  it.each([
    ['Authorization: Bearer abcdef123456', 'Authorization: Bearer <redacted>'],
    ['token hf_abcdefghij1234', 'token <redacted>'],
    ['key AKIAABCDEFGHIJKLMNOP!', 'key <redacted>!'],
    ['https://user:pass@host/x', 'https://user:<redacted>@host/x'],
    ['GET /b?X-Amz-Signature=abc123&x=1', 'GET /b?X-Amz-Signature=<redacted>&x=1'],
    ['--api-key=abcdefgh --model x', '--api-key=<redacted> --model x'],
    ['"password": "hunter22"', '"password": "<redacted>"'],
    ['prompt_tokens_total 12', 'prompt_tokens_total 12'],
    ['max_tokens: 100', 'max_tokens: 100'],
  ])('%s', (text, expected) => {
    expect(redactText(text)).toBe(expected);
  });

  it('takes credentials out of objects', () => {
    expect(
      redactObject({
        kind: 'Pod',
        metadata: {
          name: 'p',
          managedFields: [1],
          annotations: { 'kubectl.kubernetes.io/last-applied-configuration': 'x', a: 'b' },
        },
        spec: {
          containers: [
            {
              env: [
                { name: 'HF_TOKEN', value: 'hunter22' },
                {
                  name: 'AWS_SECRET_ACCESS_KEY',
                  valueFrom: { secretKeyRef: { name: 's', key: 'AWS_SECRET_ACCESS_KEY' } },
                },
                { name: 'MODEL', value: 'm' },
              ],
              args: ['--api-key', 'k1', '--served-model-name', 'm', '--hf-token=k2', '--token-file', '/x'],
            },
          ],
          imagePullSecrets: [{ name: 'pull' }],
        },
      }),
    ).toEqual({
      kind: 'Pod',
      metadata: { name: 'p', annotations: { a: 'b' } },
      spec: {
        containers: [
          {
            env: [
              { name: 'HF_TOKEN', value: redacted },
              {
                name: 'AWS_SECRET_ACCESS_KEY',
                valueFrom: { secretKeyRef: { name: 's', key: 'AWS_SECRET_ACCESS_KEY' } },
              },
              { name: 'MODEL', value: 'm' },
            ],
            args: ['--api-key', redacted, '--served-model-name', 'm', `--hf-token=${redacted}`, '--token-file', '/x'],
          },
        ],
        imagePullSecrets: [{ name: 'pull' }],
      },
    });
    expect(redactObject({ kind: 'Secret', metadata: {}, data: { a: 'YQ==' } })).toEqual({
      kind: 'Secret',
      metadata: {},
      data: redacted,
    });
  });

  it('packs what could be read, says what not, and asks for no Secret', async () => {
    const asked: string[] = [];
    const service = {
      apiVersion: 'serving.kserve.io/v1alpha2',
      kind: 'LLMInferenceService',
      metadata: { name: 'chat', namespace: 'ns', generation: 1 },
      spec: {},
    };
    const pod = {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'p', namespace: 'ns' },
      status: { phase: 'Running', containerStatuses: [{ name: 'main', ready: true, restartCount: 1 }] },
    };
    const event = (name: string) => ({ apiVersion: 'v1', kind: 'Event', metadata: { name, namespace: 'ns' } });
    const client = {
      get: async () => service,
      list: async ({ plural, kind }: Resource) => {
        asked.push(plural);
        if (kind === 'Node') throw new AppError('forbidden', 'nodes is forbidden');
        const items: readonly object[] =
          kind === 'LLMInferenceService'
            ? [service]
            : kind === 'Pod'
              ? [pod]
              : kind === 'Event'
                ? [event('a'), event('b')]
                : [];
        return { items: items as readonly KubeObject[], resourceVersion: '1' };
      },
      request: async (_method: string, path: string) =>
        path === '/version'
          ? { gitVersion: 'v1' }
          : `log of ${path.includes('previous') ? 'before' : 'now'}, token hf_abcdefghijk`,
    } as unknown as Client;
    const options = {
      namespace: 'ns',
      logLines: 10,
      version: '0',
      signal: new AbortController().signal,
      onProgress: () => {},
    };
    const files = await gatherBundle(client, options);
    expect(asked).not.toContain('secrets');
    expect([...files.keys()].sort()).toEqual([
      'namespaces/ns/events.yaml',
      'namespaces/ns/explain/chat.txt',
      'namespaces/ns/llminferenceservices.serving.kserve.io/chat.yaml',
      'namespaces/ns/pods/p.yaml',
      'namespaces/ns/pods/p/main.log',
      'namespaces/ns/pods/p/main.previous.log',
      'problems.txt',
      'versions.yaml',
    ]);
    expect(files.get('namespaces/ns/pods/p/main.previous.log')).toBe('log of before, token <redacted>');
    expect(files.get('problems.txt')).toBe('nodes.core: nodes is forbidden\n');
    const archive = await packBundle('b', files);
    expect(archive.equals(await packBundle('b', files))).toBe(true);
    const entries = await unpackTar(gunzipSync(archive));
    expect(entries).toHaveLength(files.size);
    const versions = entries.find(({ header }) => header.name === 'b/versions.yaml');
    expect(parseDocument(new TextDecoder().decode(versions?.data)).toJS()).toEqual({
      signalbox: '0',
      cluster: { gitVersion: 'v1' },
    });
  });
});

describe('completion', () => {
  const program = new Command('signalbox').addCommand(
    new Command('epp')
      .description("it's a picker")
      .addCommand(new Command('explain').description('why').option('--url <url>', 'where')),
  );
  it('knows commands, subcommands and flags', () => {
    expect(renderCompletion('bash', program)).toContain("'epp explain') words='--url --help' ;;");
    expect(renderCompletion('zsh', program)).toMatch(/^autoload -U \+X bashcompinit/);
    expect(renderCompletion('fish', program)).toContain(
      "complete -c signalbox -n '__fish_use_subcommand' -f -a epp -d 'it\\'s a picker'",
    );
  });
});
