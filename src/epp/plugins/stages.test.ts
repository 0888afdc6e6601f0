import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, it } from '@jest/globals';
import { type Ask, endpoint, scheduler, yamlOf } from '../../../test/expect/picker.ts';
import { AppError } from '../../errors.ts';
import { Cycle } from '../framework/cycle-state.ts';
import type { Endpoint } from '../framework/endpoint.ts';
import { latencyKey } from '../framework/latency.ts';
import { LeastSquares } from './latency/least-squares.ts';
import { SessionPlaces } from './session/session-places.ts';

const labelled = (name: string, labels: Readonly<Record<string, string>>, load = {}): Endpoint => ({
  ...endpoint(name, load),
  labels,
});
const role = (value: string) => ({ 'llm-d.ai/role': value });

const stages = (handler: string, deciders: string) => `
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: disagg-profile-handler, parameters: {${handler}}}
${deciders}
- {type: decode-filter}
- {type: prefill-filter}
- {type: encode-filter}
- {type: max-score-picker}
- {type: max-score-picker, name: two, parameters: {maxNumOfEndpoints: 2}}
schedulingProfiles:
- {name: decode, plugins: [{pluginRef: decode-filter}, {pluginRef: max-score-picker}]}
- {name: prefill, plugins: [{pluginRef: prefill-filter}, {pluginRef: max-score-picker}]}
- {name: encode, plugins: [{pluginRef: encode-filter}, {pluginRef: two}]}
`;
const pods = [
  labelled('p-0', role('decode')),
  labelled('p-1', role('prefill')),
  labelled('p-2', role('encode')),
  labelled('p-3', role('encode')),
];
const text: Ask = { chat: { model: 'm', messages: [{ role: 'user', content: 'Hello' }] } };
const picture: Ask = {
  chat: {
    model: 'm',
    messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'http://a/cat.png' } }] }],
  },
};

describe('parameters', () => {
  it.each([
    [
      '{type: load-aware-scorer, parameters: {treshold: 1}}',
      /plugins\[0\]\.parameters\.treshold: unknown field, did you mean threshold\?/,
    ],
    [
      '{type: precise-prefix-cache-producer, parameters: {kvEventsConfig: {podDiscoveryConfig: {sockPort: 1}}}}',
      /kvEventsConfig\.podDiscoveryConfig\.sockPort: unknown field/,
    ],
    [
      '{type: utilization-filter, parameters: {conditions: [{metrik: a, maxValue: 1, metric: waiting-queue}]}}',
      /conditions\.0\.metrik: unknown field, did you mean metric\?/,
    ],
    ['{type: queue-scorer, parameters: {a: 1}}', /parameters\.a: unknown field$/],
  ])('%s', (plugin, message) => {
    expect(() => scheduler(yamlOf([plugin], []))).toThrow(message);
  });
});

describe('stages', () => {
  const all = `
- {type: always-disagg-pd-decider}
- {type: always-disagg-multimodal-decider}`;
  const prefill = { 'x-prefiller-host-port': '10.244.1.6:8000' };
  const encode = { 'x-encoder-hosts-ports': '10.244.1.7:8000,10.244.1.8:8000' };
  it.each<readonly [name: string, handler: string, ask: Ask, endpoints: readonly Endpoint[], headers: object]>([
    [
      'text',
      'deciders: {prefill: always-disagg-pd-decider, encode: always-disagg-multimodal-decider}',
      text,
      pods,
      prefill,
    ],
    [
      'a picture',
      'deciders: {prefill: always-disagg-pd-decider, encode: always-disagg-multimodal-decider}',
      picture,
      pods,
      { ...prefill, ...encode },
    ],
    [
      'a picture without a prefill stage',
      'deciders: {encode: always-disagg-multimodal-decider}',
      picture,
      pods,
      encode,
    ],
    ['no encoder left', 'deciders: {encode: always-disagg-multimodal-decider}', picture, pods.slice(0, 2), {}],
    ['no decider', '', picture, pods, {}],
    [
      'prefill first',
      'stageOrder: prefill-first, deciders: {prefill: always-disagg-pd-decider, encode: always-disagg-multimodal-decider}',
      picture,
      pods,
      { ...prefill, ...encode },
    ],
    [
      'prefill first, nobody left',
      'stageOrder: prefill-first, deciders: {prefill: always-disagg-pd-decider}',
      text,
      pods.slice(0, 1),
      {},
    ],
  ])('%s', (_name, handler, ask, endpoints, headers) => {
    const given = scheduler(stages(handler, all))(endpoints, ask);
    expect(given.decision.primary.name).toBe('p-0');
    expect(Object.fromEntries(given.headers)).toEqual(headers);
  });

  it('prefill first and not wanted after all: the prefill endpoint is told to nobody', () => {
    const decider =
      '- {type: prefix-based-pd-decider, parameters: {nonCachedTokens: 100000}}\n- {type: always-disagg-multimodal-decider}';
    const schedule = scheduler(
      stages('stageOrder: prefill-first, deciders: {prefill: prefix-based-pd-decider}', decider),
    );
    const { headers, decision } = schedule(pods, text);
    expect([...headers]).toEqual([]);
    expect([...decision.results.keys()]).toEqual(['decode']);
  });

  it('the later stage goes near the first', () => {
    const places = (zone: string, host: string) => ({
      'topology.kubernetes.io/zone': zone,
      'kubernetes.io/hostname': host,
    });
    const near = [
      labelled('p-0', { ...role('decode'), ...places('a', 'h1') }),
      labelled('p-1', { ...role('prefill'), ...places('b', 'h2') }),
      labelled('p-2', { ...role('prefill'), ...places('a', 'h3') }),
      labelled('p-3', { ...role('prefill'), ...places('a', 'h1') }),
    ];
    const yaml = (prefillPlugins: string) => `
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: disagg-profile-handler, parameters: {deciders: {prefill: always-disagg-pd-decider}}}
- {type: always-disagg-pd-decider}
- {type: decode-filter}
- {type: prefill-filter}
- {type: topology-affinity-scorer}
- {type: topology-affinity-filter, parameters: {minAffinity: zone}}
schedulingProfiles:
- {name: decode, plugins: [{pluginRef: decode-filter}]}
- {name: prefill, plugins: [{pluginRef: prefill-filter}, ${prefillPlugins}]}
`;
    const report = (plugins: string) =>
      scheduler(yaml(plugins))(near, text)
        .decision.why()[1]
        ?.candidates.map(({ endpoint: id, droppedBy, total }) => [id, droppedBy ?? total]);
    expect(report('{pluginRef: topology-affinity-scorer}')).toEqual([
      ['default/p-0-rank-0', 'prefill-filter'],
      ['default/p-1-rank-0', 0],
      ['default/p-2-rank-0', 0.05],
      ['default/p-3-rank-0', 1],
    ]);
    expect(report('{pluginRef: topology-affinity-filter}')?.[1]).toEqual([
      'default/p-1-rank-0',
      'topology-affinity-filter',
    ]);
    expect(report('{pluginRef: topology-affinity-filter}')?.[2]).toEqual(['default/p-2-rank-0', 0]);
  });

  it('a header names the profile', () => {
    const schedule = scheduler(`
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: header-profile-handler}, {type: decode-filter}, {type: prefill-filter}]
schedulingProfiles:
- {name: decode, plugins: [{pluginRef: decode-filter}]}
- {name: prefill, plugins: [{pluginRef: prefill-filter}]}
`);
    const nameFor = (headers: Readonly<Record<string, string>>) => schedule(pods, { headers }).decision.primary.name;
    expect(nameFor({ 'epp-profile': 'prefill' })).toBe('p-1');
    expect(nameFor({ 'epp-profile': 'nothing' })).toBe('p-0');
    expect(nameFor({})).toBe('p-0');
  });

  it('a data-parallel rank is reached through its pod', () => {
    const schedule = scheduler(
      yamlOf(['{type: data-parallel-profile-handler}', '{type: queue-scorer}'], ['{pluginRef: queue-scorer}']),
    );
    const rank = { ...endpoint('p-0'), id: 'default/p-0-rank-1', port: 8001, hostPort: '10.244.1.5:8001' };
    const { headers } = schedule([{ ...endpoint('p-0', { waiting: 5 }) }, rank]);
    expect(Object.fromEntries(headers)).toEqual({
      'x-data-parallel-host-port': '10.244.1.5:8001',
      'x-gateway-destination-endpoint': '10.244.1.5:8000',
    });
  });

  it('a source of cached blocks is told', () => {
    const schedule = scheduler(
      yamlOf(
        ['{type: p2p-source-producer}', '{type: queue-scorer}', '{type: approx-prefix-cache-producer}'],
        ['{pluginRef: queue-scorer}'],
      ),
    );
    const holder = endpoint('p-1', { waiting: 9 });
    const two = [endpoint('p-0'), holder];
    const prompt = 'x'.repeat(1024);
    schedule([holder], { prompt }, two);
    const { headers, decision } = schedule(two, { prompt });
    expect(decision.primary.name).toBe('p-0');
    expect(headers.get('x-kv-cache-source-host-port')).toBe(holder.hostPort);
    // Now both hold it.
    expect(schedule(two, { prompt }).headers.size).toBe(0);
  });
});

describe('scorers and filters by what the operator configured', () => {
  const custom = (queue: number | undefined, isKnown = true) => ({
    isKnown,
    custom: queue === undefined ? undefined : { queue },
  });
  const values = [custom(2), custom(6), custom(10), custom(undefined), custom(2, false)].map((load, i) =>
    labelled(`p-${i}`, { tenant: `t${i}` }, load),
  );
  it.each<readonly [plugin: string, scores: readonly number[], ask?: Ask]>([
    [
      '{type: endpoint-attribute-scorer, parameters: {attributeKey: queue, algorithm: {type: linear_lower_is_better}}}',
      [1, 0.5, 0, 0, 0],
    ],
    [
      '{type: endpoint-attribute-scorer, parameters: {attributeKey: queue, algorithm: {type: linear_higher_is_better, normalization: {fixedRange: {min: 0, max: 8}}}}}',
      [0.25, 0.75, 1, 0, 0],
    ],
    [
      '{type: header-label-affinity-scorer, parameters: {headerName: X-Tenant, labelKey: tenant}}',
      [0, 1, 0, 0, 0],
      { headers: { 'x-tenant': 't1' } },
    ],
    ['{type: header-label-affinity-scorer, parameters: {headerName: x-tenant, labelKey: tenant}}', [0, 0, 0, 0, 0]],
    ['{type: topology-affinity-scorer}', [0, 0, 0, 0, 0]],
    ['{type: mm-embeddings-cache-scorer}', [0, 0, 0, 0, 0], picture],
  ])('%s', (...row) => {
    const [plugin, scores, ask] = row;
    const type = /type: ([a-z-]+)/.exec(plugin)?.[1] ?? '';
    const { decision } = scheduler(yamlOf([plugin], [`{pluginRef: ${type}}`]))(values, ask);
    expect(decision.why()[0]?.candidates.map(({ total }) => total)).toEqual(scores);
  });

  it.each<readonly [plugin: string, kept: readonly number[], ask?: Ask]>([
    [
      '{type: endpoint-attribute-filter, parameters: {attribute: queue, algorithm: {threshold: {operator: "<=", value: 6}}}}',
      [0, 1, 3, 4],
    ],
    [
      '{type: endpoint-attribute-filter, parameters: {attribute: queue, onMissing: Fail, algorithm: {type: threshold, threshold: {operator: greaterThan, value: 6}}}}',
      [2],
    ],
    [
      '{type: endpoint-attribute-filter, parameters: {attribute: queue, onMissing: Fail, fallbackOnEmpty: true, algorithm: {threshold: {operator: "<", value: 0}}}}',
      [0, 1, 2, 3, 4],
    ],
    ['{type: encode-filter}', []],
    ['{type: header-based-testing-filter}', [0, 1, 2, 3, 4]],
    [
      '{type: header-based-testing-filter}',
      [2, 1],
      { headers: { 'test-epp-endpoint-selection': '10.244.1.7, 10.244.1.6:8000, 9.9.9.9' } },
    ],
    ['{type: topology-affinity-filter}', [0, 1, 2, 3, 4]],
    ['{type: slo-headroom-tier-filter}', [0, 1, 2, 3, 4]],
  ])('%s keeps %j', (...row) => {
    const [plugin, kept, ask] = row;
    const type = /type: ([a-z-]+)/.exec(plugin)?.[1] ?? '';
    const run = () => scheduler(yamlOf([plugin], [`{pluginRef: ${type}}`]))(values, ask).decision;
    if (kept.length === 0) {
      expect(run).toThrow('no endpoint of the pool');
      return;
    }
    const left = run()
      .results.get('default')
      ?.candidates.map(({ name }) => Number(name.slice(2)));
    expect(left).toEqual(kept);
  });

  it('media that an endpoint encoded draw the next request, up to the size of its cache', () => {
    const schedule = scheduler(
      yamlOf(
        [
          '{type: mm-embeddings-cache-scorer}',
          '{type: mm-embeddings-cache-producer, parameters: {cacheSizeInMBPerServer: 4}}',
        ],
        ['{pluginRef: mm-embeddings-cache-scorer}'],
      ),
    );
    const two = [endpoint('p-0'), endpoint('p-1')];
    const second = two[1] ?? endpoint('');
    const asks = (...urls: readonly string[]): Ask => ({
      chat: {
        model: 'm',
        messages: [{ role: 'user', content: urls.map((url) => ({ type: 'image_url', image_url: { url } })) }],
      },
    });
    const scores = (ask: Ask) =>
      schedule(two, ask)
        .decision.why()[0]
        ?.candidates.map(({ total }) => total);
    schedule([second], asks('http://a/1'), two);
    expect(scores(asks('http://a/1', 'http://a/2'))).toEqual([0, 0.5]);
    // Two fit: the first is forgotten.
    schedule([second], asks('http://a/3'), two);
    schedule([second], asks('http://a/4'), two);
    expect(scores(asks('http://a/1'))).toEqual([0, 0]);
  });
});

describe('sessions', () => {
  const two = [endpoint('p-0'), endpoint('p-1')];
  const second = two[1] ?? endpoint('');
  const yaml = (parameters: string, more: readonly string[] = []) =>
    yamlOf(
      [`{type: session-affinity-scorer, parameters: ${parameters}}`, ...more],
      ['{pluginRef: session-affinity-scorer}'],
    );
  const token = Buffer.from(second.id).toString('base64');
  const totals = (schedule: ReturnType<typeof scheduler>, ask: Ask) =>
    schedule(two, ask)
      .decision.why()[0]
      ?.candidates.map(({ total }) => total);

  it('by token: told in the answer, and honoured when it comes back', () => {
    const schedule = scheduler(yaml('{strategy: encoded_endpoint_header}'));
    expect([...(schedule([second], {}, two).decision.answerHeaders ?? [])]).toEqual([['x-session-token', token]]);
    expect(totals(schedule, { headers: { 'x-session-token': token } })).toEqual([0, 1]);
    expect(totals(schedule, { headers: { 'x-session-token': Buffer.from('default/p-0').toString('base64') } })).toEqual(
      [1, 0],
    );
    expect(totals(schedule, { headers: { 'x-session-token': '%%%' } })).toEqual([0, 0]);
    expect(totals(schedule, { session: 's' })).toEqual([0, 0]);
  });

  it('by token, of another stage', () => {
    const schedule = scheduler(yaml('{strategy: encoded_endpoint_header, profileName: default}'));
    expect([...(schedule([second], {}, two).decision.answerHeaders ?? [])]).toEqual([
      ['x-session-token-default', token],
    ]);
  });

  it('without a strategy: remembered, and by token for clients that send one', () => {
    const schedule = scheduler(yaml('{}'));
    expect(schedule([second], { session: 's' }, two).decision.answerHeaders).toBeUndefined();
    expect(totals(schedule, { session: 's' })).toEqual([0, 1]);
    expect(totals(schedule, { headers: { 'x-session-token': token } })).toEqual([0, 1]);
  });

  it('by the sources that are configured, in their order', () => {
    const sources =
      '{strategy: session_id, sessionIdConfig: {sources: [{header: X-Chat}, {attribute: session-id, producer: cookies}]}}';
    const schedule = scheduler(
      yaml(sources, ['{type: session-id-producer, name: cookies, parameters: {cookieName: chat}}']),
    );
    schedule([second], { headers: { cookie: 'a=b; chat=c1' } }, two);
    expect(totals(schedule, { headers: { cookie: 'chat=c1' } })).toEqual([0, 1]);
    expect(totals(schedule, { headers: { 'x-chat': 'c1' } })).toEqual([0, 1]);
    expect(totals(schedule, { headers: { 'x-chat': 'c2', cookie: 'chat=c1' } })).toEqual([0, 0]);
    expect(totals(schedule, { session: 'c1' })).toEqual([0, 0]);
  });

  it('are forgotten in time, and the least recently used when there are too many', () => {
    const places = new SessionPlaces(2, 1000);
    places.record('a', 'e', 0);
    places.record('b', 'e', 500);
    expect(places.endpointsOf('a', 999)).toEqual(['e']);
    expect(places.endpointsOf('a', 1000)).toEqual([]);
    places.record('c', 'e', 600);
    expect([places.size, places.endpointsOf('a', 601)]).toEqual([2, []]);
    places.record('d', 'e', 5000);
    expect(places.size).toBe(1);
  });
});

describe('predicted latency', () => {
  const closers: (() => unknown)[] = [];
  afterEach(async () => {
    for (const close of closers.splice(0)) await close();
  });

  it('is learned from what was seen', () => {
    const line = new LeastSquares(3);
    for (let i = 0; i < 500; i++) {
      const [a, b] = [(i * 7) % 11, (i * 3) % 5];
      line.learn([1, a, b], 20 + 3 * a - 2 * b);
    }
    expect(line.predict([1, 4, 2])).toBeCloseTo(28, 2);
    // The world changes.
    for (let i = 0; i < 3000; i++) line.learn([1, (i * 7) % 11, (i * 3) % 5], 5 * ((i * 7) % 11));
    expect(line.predict([1, 4, 2])).toBeCloseTo(20, 1);
    // One sample for ever does not blow it up.
    const flat = new LeastSquares(2);
    for (let i = 0; i < 50_000; i++) flat.learn([1, 1], 10);
    expect(flat.predict([1, 1])).toBeCloseTo(10, 3);
  });

  /** A predictor that answers by KV use. */
  async function predictor() {
    const told: { readonly path: string; readonly body: Readonly<Record<string, unknown[]>> }[] = [];
    const server = createServer((request, response) => {
      let text = '';
      request.on('data', (chunk) => {
        text += String(chunk);
      });
      request.on('end', () => {
        const body = JSON.parse(text) as { requests?: { kv_cache_percentage: number; num_request_running: number }[] };
        told.push({ path: request.url ?? '', body: body as never });
        const predictions = body.requests?.map((each) => ({
          ttft_ms: each.kv_cache_percentage * 1000,
          tpot_ms: each.num_request_running,
        }));
        response.end(JSON.stringify({ predictions }));
      });
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    closers.push(() => new Promise((resolve) => server.close(resolve).closeAllConnections()));
    return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, told };
  }

  const loads = [
    { kvUsage: 0.1, running: 10, inFlight: 1 },
    { kvUsage: 0.5, running: 20, inFlight: 1 },
    { kvUsage: 0.3, running: 40, inFlight: 1 },
  ];
  const slo = (ttft: number, tpot: number): Ask => ({
    headers: { 'x-llm-d-slo-ttft-ms': String(ttft), 'x-slo-tpot-ms': String(tpot) },
  });

  it.each<readonly [name: string, parameters: string, ask: Ask, loads: readonly object[], scores: readonly number[]]>([
    // Predictions: 100/10, 500/20, 300/40.
    ['those that keep the objectives, least room', '{}', slo(600, 30), loads, [0.01, 1, 0]],
    [
      'those that keep the objectives, most room',
      '{headroomSelectionStrategy: most}',
      slo(600, 30),
      loads,
      [1, 0.01, 0],
    ],
    ['nobody keeps them, one is idle', '{}', slo(1, 1), [loads[0] ?? {}, { ...loads[1], inFlight: 0 }], [0, 0.51]],
    ['only the tokens are late', '{}', slo(400, 5), loads, [0.21, 0, 0.81]],
    ['all is late', '{}', {}, loads, [1, 0.15, 0.41]],
  ])('%s', async (_name, parameters, ask, given, scores) => {
    const { url } = await predictor();
    const schedule = scheduler(
      yamlOf(
        [
          `{type: latency-scorer, parameters: ${parameters}}`,
          `{type: predicted-latency-producer, parameters: {predictionUrls: ["${url}/"], timeoutMs: 5000}}`,
        ],
        ['{pluginRef: latency-scorer}'],
      ),
    );
    const endpoints = given.map((load, i) => endpoint(`p-${i}`, load));
    const { cycle } = schedule(endpoints, ask);
    const [preparer] = schedule.parts.preparers ?? [];
    const again = new Cycle(cycle.request, endpoints);
    await preparer?.prepare(again);
    const result = schedule.parts.profiles[0]?.run(again, endpoints);
    const rounded = [...(result?.totals ?? [])].map((total) => Math.round(total * 100) / 100);
    // Rounding may shift the last place.
    expect(rounded).toHaveLength(scores.length);
    rounded.forEach((score, i) => {
      expect(Math.abs(score - (scores[i] ?? Number.NaN))).toBeLessThanOrEqual(0.0101);
    });
  });

  it.each<
    readonly [name: string, ms: readonly (number | undefined)[], inFlightTokens: number, kept: readonly string[]]
  >([
    ['soon enough', [50, 149], 318_560, ['p-1']],
    ['predicted to be later', [50, 151], 0, ['p-0', 'p-1']],
    ['not predicted, and busy', [50, undefined], 318_560, ['p-0', 'p-1']],
    ['not predicted, and idle', [undefined, 151], 0, ['p-1']],
  ])('keeps a prompt with its holder while that is %s', (_name, ms, inFlightTokens, kept) => {
    const schedule = scheduler(
      yamlOf(
        ['{type: prefix-cache-affinity-filter, parameters: {ttftSource: latencyPredictor, maxTTFTPenaltyMs: 100}}'],
        ['{pluginRef: prefix-cache-affinity-filter}'],
      ),
    );
    expect(schedule.parts.preparers?.map(({ type }) => type) ?? []).toContain('predicted-latency-producer');
    const pair = [endpoint('p-0'), endpoint('p-1', { inFlightTokens })];
    schedule(pair.slice(1), { prompt: 'the same' }, pair);
    const { cycle } = schedule(pair, { prompt: 'the same' });
    cycle.set(latencyKey, {
      ttftObjectiveMs: undefined,
      tpotObjectiveMs: undefined,
      producer: { name: 'p', type: 'p' },
      tookS: 0,
      of: (asked) => {
        const ttftMs = ms[pair.findIndex(({ id }) => id === asked.id)];
        return ttftMs === undefined ? undefined : { ttftMs, tpotMs: 1 };
      },
    });
    const result = schedule.parts.profiles[0]?.run(cycle, pair);
    expect(result?.candidates.map(({ name }) => name)).toEqual(kept);
  });

  it('without predictions: by KV cache, queue and prefix', () => {
    const schedule = scheduler(yamlOf(['{type: latency-scorer}'], ['{pluginRef: latency-scorer}']));
    const { decision } = schedule([
      endpoint('p-0', { kvUsage: 0.1, waiting: 0 }),
      endpoint('p-1', { kvUsage: 0.4, waiting: 2 }),
      endpoint('p-2', { isKnown: false }),
    ]);
    expect(decision.why()[0]?.candidates.map(({ total }) => total)).toEqual([0.63, 0.2, 0]);
  });

  it('is learned in the picker where there is no predictor, and told to a trainer where there is one', async () => {
    const { url, told } = await predictor();
    const schedule = scheduler(
      yamlOf(
        [
          '{type: latency-scorer}',
          `{type: predicted-latency-producer, parameters: {trainingUrl: "${url}", minSamples: 8}}`,
        ],
        ['{pluginRef: latency-scorer}'],
      ),
    );
    const [observer] = schedule.parts.exchangeObservers ?? [];
    closers.push(() => observer?.close?.());
    const one = [endpoint('p-0', { kvUsage: 0.5 })];
    for (let i = 0; i < 20; i++) {
      const { cycle, decision } = schedule(one, { chat: { model: 'm', stream: true, messages: [] } });
      observer?.onFirstToken?.(cycle, decision, 120);
      observer?.onEnd?.(cycle, decision, { isComplete: true, outputTokens: 11, tpotMs: 7 });
    }
    const predicted = schedule(one, {})
      .cycle.get(latencyKey)
      ?.of(one[0] ?? endpoint(''));
    expect(predicted?.ttftMs).toBeCloseTo(120, 0);
    expect(predicted?.tpotMs).toBeCloseTo(7, 0);
    const { eventually } = await import('../../../test/expect/eventually.ts');
    await eventually(() => expect(told).toHaveLength(1));
    expect(told[0]?.path).toBe('/add_training_data_bulk');
    expect(told[0]?.body.entries).toHaveLength(20);
    expect(told[0]?.body.entries?.[0]).toMatchObject({
      actual_ttft_ms: 120,
      actual_tpot_ms: 7,
      kv_cache_percentage: 0.5,
    });
  });
});

describe('admitters', () => {
  const full = { waiting: 10, running: 3, kvUsage: 0.9 };
  const shed = (load: object, ask: Ask, random = 0.5, plugin = 'probabilistic-admitter') => {
    const schedule = scheduler(
      yamlOf([`{type: ${plugin}}`, '{type: queue-scorer}'], ['{pluginRef: queue-scorer}']),
      () => random,
    );
    try {
      schedule([endpoint('p-0', load)], ask);
      return 'served';
    } catch (thrown) {
      return (thrown as AppError).http;
    }
  };
  it.each<readonly [name: string, load: object, priority: number, random: number, outcome: unknown]>([
    ['sheddable and full', full, -1, 0.99, 429],
    ['not sheddable', full, 0, 0, 'served'],
    ['sheddable and idle', {}, -1, 0, 'served'],
    // s = 0.2/0.8 = 0.25: 300·0.25⁵ = 0.29.
    ['sheddable and a little busy, unlucky', { kvUsage: 0.2 }, -1, 0.29, 429],
    ['sheddable and a little busy, lucky', { kvUsage: 0.2 }, -1, 0.3, 'served'],
    ['not known', { isKnown: false }, -1, 0.99, 429],
  ])('%s', (_name, load, priority, random, outcome) => {
    expect(shed(load, { priority }, random)).toBe(outcome);
  });

  it.each<readonly [name: string, ask: Ask, load: object, isServed: boolean]>([
    ['late for a sheddable request', { priority: -1, headers: { 'x-slo-ttft-ms': '50' } }, full, false],
    ['late, but not sheddable', { priority: 0, headers: { 'x-slo-ttft-ms': '50' } }, full, true],
    ['no objective', { priority: -1 }, full, true],
    ['in time', { priority: -1, headers: { 'x-slo-ttft-ms': '500' } }, full, true],
    ['idle', { priority: -1, headers: { 'x-slo-ttft-ms': '50' } }, { ...full, running: 0 }, true],
    ['cold', { priority: -1, headers: { 'x-slo-ttft-ms': '50' } }, { ...full, kvUsage: 0.01 }, true],
  ])('by latency: %s', (_name, ask, load, isServed) => {
    const schedule = scheduler(
      yamlOf(['{type: latency-slo-admitter}', '{type: queue-scorer}'], ['{pluginRef: queue-scorer}']),
    );
    const [observer] = schedule.parts.exchangeObservers ?? [];
    const busy = [endpoint('p-0', full)];
    for (let i = 0; i < 40; i++) {
      const { cycle, decision } = schedule(busy, { chat: { model: 'm', stream: true, messages: [] } });
      observer?.onFirstToken?.(cycle, decision, 100);
      observer?.onEnd?.(cycle, decision, { isComplete: true, outputTokens: 2, tpotMs: 1 });
    }
    const run = () => schedule([endpoint('p-0', load)], ask);
    if (isServed) expect(run).not.toThrow();
    else
      expect(run).toThrow(
        new AppError('overloaded', 'no endpoint is expected to keep the latency objectives; try again later'),
      );
  });
});
