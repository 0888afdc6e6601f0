import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import http2 from 'node:http2';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import grpc from '@grpc/grpc-js';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import protobuf from 'protobufjs';
import { systemClock } from '../clock.ts';
import { AppError } from '../errors.ts';
import { silentLogger } from '../telemetry/log.ts';
import { parseEppArgs } from './config.ts';
import { parseEndpointsFile } from './datalayer/file-source.ts';
import { usageInTail } from './director.ts';
import type { Explanation } from './explain.ts';
import { Scheduler } from './framework/scheduler.ts';
import { buildScheduler, parsePickerConfig } from './picker-config.ts';
import { pluginFactories } from './plugins/register.ts';
import { type Epp, startEpp } from './start.ts';

const root = protobuf.parse(readFileSync(new URL('./extproc/testdata/ext_proc.proto', import.meta.url), 'utf8'), {
  keepCase: true,
}).root;
const Request = root.lookupType('envoy.service.ext_proc.v3.ProcessingRequest');
const Response = root.lookupType('envoy.service.ext_proc.v3.ProcessingResponse');

interface Reply {
  readonly [kind: string]: unknown;
}

const messages = {
  requestSerialize: (value: Record<string, unknown>) => Buffer.from(Request.encode(Request.fromObject(value)).finish()),
  requestDeserialize: (bytes: Buffer) => bytes,
  responseSerialize: (value: Buffer) => value,
  responseDeserialize: (bytes: Buffer) =>
    Response.toObject(Response.decode(bytes), { bytes: Buffer, defaults: false }) as Reply,
};
const ProcessorClient = grpc.makeGenericClientConstructor(
  {
    Process: {
      path: '/envoy.service.ext_proc.v3.ExternalProcessor/Process',
      requestStream: true,
      responseStream: true,
      ...messages,
    },
  },
  'ExternalProcessor',
);
const HealthClient = grpc.makeGenericClientConstructor(
  Object.fromEntries(
    ['Check', 'List', 'Watch'].map((name) => [
      name,
      {
        path: `/grpc.health.v1.Health/${name}`,
        requestStream: false,
        responseStream: name === 'Watch',
        requestSerialize: (service: string) => {
          const bytes = Buffer.from(service);
          return bytes.length === 0 ? Buffer.alloc(0) : Buffer.concat([Buffer.from([0x0a, bytes.length]), bytes]);
        },
        requestDeserialize: (bytes: Buffer) => bytes.toString(),
        responseSerialize: (value: Buffer) => value,
        responseDeserialize: (bytes: Buffer) => bytes,
      },
    ]),
  ),
  'Health',
);

const plainHeaders = {
  ':path': '/v1/chat/completions',
  ':method': 'POST',
  'content-type': 'application/json',
  'x-request-id': 'r-1',
};
const requestHeaders = (headers: Readonly<Record<string, string>> = plainHeaders, endOfStream = false) => ({
  request_headers: {
    headers: {
      headers: Object.entries(headers).map(([key, value]) => ({
        key,
        raw_value: Buffer.from(value).toString('base64'),
      })),
    },
    end_of_stream: endOfStream,
  },
});
const requestBody = (body: string | Buffer, endOfStream = true) => ({
  request_body: { body: Buffer.from(body).toString('base64'), end_of_stream: endOfStream },
});
const chat = (content: string, more: object = {}): string =>
  JSON.stringify({ model: 'llama', messages: [{ role: 'user', content }], ...more });

/** What a reply says, in a form that is easy to compare. */
function flat(reply: Reply | undefined) {
  const [kind = ''] = Object.keys(reply ?? {}).filter((key) => key !== 'dynamic_metadata');
  const inner = (reply?.[kind] ?? {}) as {
    response?: {
      header_mutation?: Mutation;
      clear_route_cache?: boolean;
      body_mutation?: { streamed_response?: { body?: Buffer; end_of_stream?: boolean } };
    };
    headers?: Mutation;
    status?: { code: number };
    body?: Buffer;
  };
  const mutation = inner.response?.header_mutation ?? inner.headers;
  return {
    kind,
    set: Object.fromEntries(
      (mutation?.set_headers ?? []).map(({ header }) => [header.key, header.raw_value.toString()]),
    ),
    remove: mutation?.remove_headers ?? [],
    clears: inner.response?.clear_route_cache ?? false,
    chunk: inner.response?.body_mutation?.streamed_response,
    status: inner.status?.code,
    body: inner.body?.toString(),
    metadata: reply?.dynamic_metadata,
  };
}
interface Mutation {
  readonly set_headers?: readonly { readonly header: { readonly key: string; readonly raw_value: Buffer } }[];
  readonly remove_headers?: readonly string[];
}

let dir: string;
let epp: Epp;
let client: InstanceType<typeof ProcessorClient>;

const yaml = (path: string) => `
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: file-discovery, parameters: {path: ${path}}}
- {type: decode-filter}
- {type: prefill-filter}
- {type: prefix-cache-scorer}
- {type: queue-scorer}
- {type: always-disagg-pd-decider}
- {type: disagg-profile-handler, parameters: {deciders: {prefill: always-disagg-pd-decider}}}
schedulingProfiles:
- {name: prefill, plugins: [{pluginRef: prefill-filter}, {pluginRef: queue-scorer}]}
- {name: decode, plugins: [{pluginRef: decode-filter}, {pluginRef: prefix-cache-scorer, weight: 3}, {pluginRef: queue-scorer}]}
dataLayer: {injectDefaults: false, discovery: {pluginRef: file-discovery}}
`;

async function start(endpoints: string, flags: readonly string[] = []): Promise<Epp> {
  const path = join(dir, `endpoints-${randomBytes(4).toString('hex')}.yaml`);
  await writeFile(path, endpoints);
  const parsed = parseEppArgs(
    [
      '--pool-name=p',
      '--secure-serving=false',
      '--grpc-port=0',
      '--grpc-health-port=0',
      '--metrics-port=0',
      '--pod-address=127.0.0.1',
      '--drain-timeout=100ms',
      ...flags,
    ],
    {},
  );
  if (parsed.kind !== 'config') throw new Error('help');
  return startEpp(parsed.config, parsePickerConfig(yaml(path), 'test'), { log: silentLogger });
}

const threePods = `endpoints:
- {name: d0, address: 10.0.0.1, port: "8000", labels: {llm-d.ai/role: decode}}
- {name: d1, address: 10.0.0.2, port: "8000", labels: {llm-d.ai/role: decode}}
- {name: p0, address: 10.0.0.9, port: "8000", labels: {llm-d.ai/role: prefill}}
`;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'epp-test-'));
  epp = await start(threePods, ['--max-request-body-bytes=1Mi', '--health-checking']);
  client = new ProcessorClient(`127.0.0.1:${epp.grpcPort}`, grpc.credentials.createInsecure());
});
afterAll(async () => {
  client.close();
  await epp.close();
  await rm(dir, { recursive: true });
});

/** A gateway's stream, one message at a time. */
class Stream {
  readonly #call: grpc.ClientDuplexStream<object, Reply>;
  readonly #replies: Reply[] = [];
  #wake: () => void = () => {};
  #status: grpc.StatusObject | undefined;

  constructor(from = client, deadlineMs = 8000) {
    const open = from.Process as (options: grpc.CallOptions) => grpc.ClientDuplexStream<object, Reply>;
    this.#call = open.call(from, { deadline: Date.now() + deadlineMs });
    this.#call.on('data', (reply: Reply) => {
      this.#replies.push(reply);
      this.#wake();
    });
    this.#call.on('error', () => {});
    this.#call.on('status', (status) => {
      this.#status = status;
      this.#wake();
    });
  }
  send(...sent: readonly object[]): this {
    for (const message of sent) this.#call.write(message);
    return this;
  }
  async next(): Promise<ReturnType<typeof flat>> {
    for (;;) {
      const reply = this.#replies.shift();
      if (reply !== undefined) return flat(reply);
      if (this.#status !== undefined) throw new Error(`ended with ${this.#status.code} ${this.#status.details}`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
  async status(): Promise<grpc.StatusObject> {
    for (;;) {
      if (this.#status !== undefined) return this.#status;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
  end(): void {
    this.#call.end();
  }
  cancel(): void {
    this.#call.cancel();
  }
}

const inFlight = () =>
  Object.fromEntries(epp.datastore.snapshot.endpoints.map(({ name, load }) => [name, load.inFlight]));

const inFlightTokens = () => epp.datastore.snapshot.endpoints.map(({ load }) => load.inFlightTokens);

async function until(condition: () => boolean, what: string): Promise<void> {
  for (let i = 0; i < 300; i++) {
    if (condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`never: ${what}`);
}

async function metricsPage(from = epp): Promise<string> {
  return (await fetch(`http://127.0.0.1:${from.metricsPort}/metrics`)).text();
}

const counters = (page: string) => ({
  requests: [...page.matchAll(/^llm_d_epp_request_total\{.*\} (\d+)/gm)].reduce(
    (sum, [, value]) => sum + Number(value),
    0,
  ),
});

describe('an endpoint that fails', () => {
  const twoPods = threePods.replace(/.*p0.*\n/, '');
  const answer = (status: string, served?: string) => ({
    response_headers: {
      headers: { headers: [{ key: ':status', raw_value: Buffer.from(status).toString('base64') }] },
      end_of_stream: true,
    },
    ...(served === undefined
      ? {}
      : {
          metadata_context: {
            filter_metadata: {
              'envoy.lb': { fields: { 'x-gateway-destination-endpoint-served': { string_value: served } } },
            },
          },
        }),
  });
  let picker: Epp;
  let gateway: InstanceType<typeof ProcessorClient>;
  const open = async (flags: readonly string[] = []) => {
    picker = await start(twoPods, flags);
    gateway = new ProcessorClient(`127.0.0.1:${picker.grpcPort}`, grpc.credentials.createInsecure());
  };
  afterEach(async () => {
    gateway.close();
    await picker.close();
  });
  /** One request, answered by the endpoint itself or by `served`. */
  const exchange = async (respond: (picked: string) => object): Promise<string> => {
    const stream = new Stream(gateway).send(requestHeaders(), requestBody(chat('who fails')));
    const picked = (await stream.next()).set['x-gateway-destination-endpoint'] ?? '';
    await stream.next();
    stream.send(respond(picked));
    await stream.next();
    stream.end();
    await stream.status();
    return picked;
  };
  const avoided = () =>
    picker.datastore.snapshot.endpoints.filter(({ load }) => load.isAvoided).map(({ name }) => name);

  it('is avoided after three failures in turn; the last one left never is', async () => {
    await open();
    const bad = '10.0.0.1:8000';
    const seen: string[] = [];
    for (let i = 0; i < 12; i++) seen.push(await exchange((picked) => answer(picked === bad ? '503' : '200')));
    expect(avoided()).toEqual(['d0']);
    // The prefix is known at one of them, which may be either; once it is avoided it gets nothing.
    expect(seen.filter((picked) => picked === bad)).toHaveLength(3);
    for (let i = 0; i < 6; i++) await exchange(() => answer('500'));
    expect(avoided()).toEqual(['d0']);
    const page = await metricsPage(picker);
    expect(page).toMatch(/signalbox_epp_endpoint_avoidances_total\{endpoint_name="d0"\} 1/);
    expect(page).toMatch(/signalbox_epp_avoided_endpoints\{name="p"\} 1/);
    expect(page).toMatch(/llm_d_epp_request_error_total\{[^}]*error_code="503"\} 3/);
    expect(page).toMatch(/llm_d_epp_request_error_total\{[^}]*error_code="500"\} 6/);
    const explained = await fetch(`http://127.0.0.1:${picker.metricsPort}/debug/explain?request=r-1`);
    const { profiles } = (await explained.json()) as Explanation;
    expect(profiles[0]?.candidates.map(({ droppedBy }) => droppedBy)).toEqual(['failed lately', undefined]);
  });

  it('is told under the names of before too, when asked to', async () => {
    await open(['--legacy-metric-names']);
    const page = async () => (await metricsPage(picker)).split('\n');
    await exchange(() => answer('503'));
    await exchange(() => answer('200'));
    const lines = await page();
    const flow = 'model_name="llama",target_model_name="llama"';
    for (const line of [
      `inference_objective_request_total{${flow},priority="0"} 2`,
      `inference_objective_request_error_total{${flow},error_code="503"} 1`,
      `inference_objective_request_duration_seconds_bucket{${flow},le="+Inf"} 2`,
      `inference_objective_request_duration_seconds_count{${flow}} 2`,
      'inference_objective_running_requests{model_name="llama"} 0',
      '# TYPE inference_objective_request_sizes histogram',
      'inference_pool_ready_pods{name="p"} 2',
      'inference_extension_scheduler_e2e_duration_seconds_count 2',
      'llm_d_inference_scheduler_pd_decision_total{model_name="llama",decision_type="decode-only"} 2',
    ]) {
      expect(lines).toContain(line);
    }
    // Each choice counts for one pod or the other.
    const attempts = lines.filter((line) =>
      /^inference_extension_scheduler_attempts_total\{status="success",.*pod_name="d\d",namespace="default",port="8000"\}/.test(
        line,
      ),
    );
    expect(attempts.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)).toBe(2);
    const families = lines.filter((line) => line.startsWith('# TYPE')).map((line) => line.split(' ')[2]);
    expect(new Set(families).size).toBe(families.length);
    expect((await metricsPage()).includes('inference_objective_')).toBe(false);
  });

  it('is forgiven by an answer, and client errors are answers', async () => {
    await open();
    for (const status of ['503', '502', '200', '504', '500', '404', '429', '503', '500']) {
      await exchange(() => answer(status));
      expect(avoided()).toEqual([]);
    }
  });

  it('is never avoided when that is turned off', async () => {
    await open(['--endpoint-failure-threshold=0']);
    for (let i = 0; i < 8; i++) await exchange(() => answer('503'));
    expect(avoided()).toEqual([]);
  });

  it('is the one that the gateway could not reach, not the fallback that served', async () => {
    await open();
    for (let i = 0; i < 4 && avoided().length === 0; i++) {
      await exchange((picked) => answer('200', picked === '10.0.0.1:8000' ? '10.0.0.2:8000' : '10.0.0.1:8000'));
    }
    for (let i = 0; i < 4; i++) await exchange(() => answer('200', '10.0.0.2:8000'));
    expect(avoided()).toEqual(['d0']);
    expect(picker.datastore.snapshot.endpoints.map(({ load }) => load.inFlight)).toEqual([0, 0]);
  });
});

describe('a request', () => {
  it('can be explained afterwards: candidates, verdicts, scores, age of the metrics', async () => {
    const stream = new Stream().send(
      requestHeaders({ ...plainHeaders, 'x-request-id': 'why-me', 'x-session-id': 's-1' }),
      requestBody(chat('explain me')),
    );
    const { set } = await stream.next();
    const explain = async (query: string) => {
      const response = await fetch(`http://127.0.0.1:${epp.metricsPort}/debug/explain?${query}`);
      return { status: response.status, text: await response.text() };
    };
    const explanation = JSON.parse((await explain('request=why-me')).text) as Explanation;
    expect(explanation).toMatchObject({
      requestId: 'why-me',
      model: 'llama',
      sessionId: 's-1',
      isTrial: false,
      picked: [set['x-gateway-destination-endpoint']],
      primaryProfile: 'decode',
      refusal: null,
    });
    expect(explanation.profiles.map(({ profile }) => profile)).toEqual(['decode', 'prefill']);
    const [decode, prefill] = explanation.profiles;
    expect(decode?.weights).toEqual({ 'prefix-cache-scorer': 3, 'queue-scorer': 1 });
    expect(decode?.candidates.map(({ endpoint, droppedBy }) => [endpoint, droppedBy])).toEqual([
      ['default/d0', undefined],
      ['default/d1', undefined],
      ['default/p0', 'decode-filter'],
    ]);
    expect(prefill?.candidates.map(({ droppedBy }) => droppedBy)).toEqual([
      'prefill-filter',
      'prefill-filter',
      undefined,
    ]);
    // As it was before this request was counted; nothing scrapes these endpoints.
    expect(explanation.endpoints.map(({ inFlight, metricsAgeMs }) => [inFlight, metricsAgeMs])).toEqual([
      [0, null],
      [0, null],
      [0, null],
    ]);
    expect((await explain('format=text')).text).toMatch(/ {2}why-me {2}llama {2}10\.0\.0\.\d:8000/);
    expect((await explain('request=nobody')).status).toBe(404);
    stream.cancel();
    await stream.status();
    await until(() => Object.values(inFlight()).every((count) => count === 0), 'given back');
  });

  it('goes the whole way: one header reply, its body as it came, the answer streamed through', async () => {
    const body = `{"model":"llama",  "n": 12345678901234567890, "messages":[{"role":"user","content":"whole way"}],"stream":true}`;
    const stream = new Stream().send(
      requestHeaders({
        ...plainHeaders,
        'x-prefiller-host-port': '6.6.6.6:1',
        'x-gateway-destination-endpoint': '6.6.6.6:1',
        'x-encoder-hosts-ports': 'evil:1',
      }),
      requestBody(body.slice(0, 30), false),
      requestBody(body.slice(30)),
    );
    const headers = await stream.next();
    expect(headers).toMatchObject({ kind: 'request_headers', clears: true, remove: ['x-encoder-hosts-ports'] });
    const destination = headers.set['x-gateway-destination-endpoint'];
    expect(['10.0.0.1:8000', '10.0.0.2:8000']).toContain(destination);
    expect(headers.set).toEqual({
      'x-gateway-destination-endpoint': destination,
      'x-target-pod': destination?.split(':')[0],
      'x-prefiller-host-port': '10.0.0.9:8000',
    });
    expect(headers.metadata).toEqual({
      fields: {
        'envoy.lb': { struct_value: { fields: { 'x-gateway-destination-endpoint': { string_value: destination } } } },
      },
    });
    const pieces = [await stream.next(), await stream.next()];
    expect(Buffer.concat(pieces.map(({ chunk }) => chunk?.body ?? Buffer.alloc(0))).toString()).toBe(body);
    expect(pieces.map(({ chunk }) => chunk?.end_of_stream ?? false)).toEqual([false, true]);
    expect(Object.values(inFlight()).sort()).toEqual([0, 1, 1]);
    expect(inFlightTokens().filter((tokens) => tokens > 0)).toHaveLength(2);

    stream.send({
      response_headers: {
        headers: { headers: [{ key: ':status', raw_value: Buffer.from('200').toString('base64') }] },
      },
    });
    const answered = await stream.next();
    expect(answered).toMatchObject({
      kind: 'response_headers',
      set: { 'x-went-into-resp-headers': 'true' },
      remove: [],
      clears: false,
    });
    for (const [text, end] of [
      ['data: {"x":1}\n\n', false],
      [
        'data: {"usage":{"prompt_tokens":7,"completion_tokens":10,"prompt_tokens_details":{"cached_tokens":3}}}\n\ndata: [DONE]\n\n',
        true,
      ],
    ] as const) {
      stream.send({ response_body: { body: Buffer.from(text).toString('base64'), end_of_stream: end } });
      const reply = await stream.next();
      expect(reply.chunk?.body?.toString()).toBe(text);
      expect(reply.chunk?.end_of_stream ?? false).toBe(end);
    }
    stream.end();
    expect((await stream.status()).code).toBe(0);
    expect(inFlight()).toEqual({ d0: 0, d1: 0, p0: 0 });
    expect(inFlightTokens()).toEqual([0, 0, 0]);
    const page = await metricsPage();
    const flow = 'model_name="llama",target_model_name="llama",fairness_id="default-flow",priority="0"';
    expect(page).toContain(`llm_d_epp_request_cached_tokens_sum{${flow}} 3`);
    expect(page).toContain(`llm_d_epp_request_output_tokens_sum{${flow}} 10`);
    for (const line of [
      /scheduler_requests_total\{profile="decode",decision="selected"\} [1-9]/,
      /scheduler_pod_score\{pod="d0",profile="decode"\} /,
      /scheduler_decision_duration_seconds_count\{profile="prefill"\} [1-9]/,
      /scheduler_cache_misses_total\{profile="decode"\} [1-9]/,
      /scheduler_cache_hits_total\{profile="decode"\} /,
      /llm_d_epp_disagg_decision_total\{[^}]*decision_type="prefill-decode"\} [1-9]/,
      /llm_d_epp_ready_endpoints\{name="p"\} 3/,
      /llm_d_epp_extproc_streams_inflight 0/,
    ]) {
      expect(page).toMatch(line);
    }
  });

  it('without a body goes to a decode endpoint, with an id made up', async () => {
    const stream = new Stream().send(requestHeaders({ ':path': '/v1/models', ':method': 'GET' }, true));
    const { set } = await stream.next();
    expect(Object.keys(set).sort()).toEqual(['x-gateway-destination-endpoint', 'x-request-id', 'x-target-pod']);
    expect(set['x-request-id']).toMatch(/^[0-9a-f-]{36}$/);
    stream.end();
  });

  it('stays where its conversation is, and counts before the answer so that others do not herd', async () => {
    const pick = async (content: string, headers: Record<string, string> = {}) => {
      const stream = new Stream().send(requestHeaders({ ...plainHeaders, ...headers }), requestBody(chat(content)));
      return { stream, target: (await stream.next()).set['x-target-pod'] };
    };
    const first = await pick('turn one', { 'x-session-id': 's-1' });
    const others = await Promise.all(Array.from({ length: 9 }, (_, i) => pick(`unrelated ${i}`)));
    const counts: Record<string, number> = {};
    for (const { target = '' } of [first, ...others]) counts[target] = (counts[target] ?? 0) + 1;
    expect(counts).toEqual({ '10.0.0.1': 5, '10.0.0.2': 5 });
    for (let i = 0; i < 4; i++) {
      const again = await pick(`turn ${i}`, { 'x-session-id': 's-1' });
      expect(again.target).toBe(first.target);
      again.stream.end();
    }
    for (const { stream } of [first, ...others]) stream.end();
  });

  it('that is only wanted from a cache is answered 412 without one, and nothing is remembered of it', async () => {
    const prefer = { ...plainHeaders, prefer: 'respond-async, if-available' };
    const ask = async (headers: Record<string, string>) => {
      const stream = new Stream().send(requestHeaders(headers), requestBody(chat('conditional '.repeat(50))));
      const reply = await stream.next();
      stream.end();
      return reply.status ?? reply.kind;
    };
    expect([await ask(prefer), await ask(prefer)]).toEqual([412, 412]);
    expect(await ask(plainHeaders)).toBe('request_headers');
    expect(await ask(prefer)).toBe('request_headers');
  });

  it('keeps to the endpoints that the gateway allows', async () => {
    const subset = (values: readonly string[]) => ({
      metadata_context: {
        filter_metadata: {
          'envoy.lb.subset_hint': {
            fields: {
              'x-gateway-destination-endpoint-subset': {
                list_value: { values: values.map((text) => ({ string_value: text })) },
              },
            },
          },
        },
      },
    });
    for (const [values, expected] of [
      [['10.0.0.2:8000', '10.0.0.9'], '10.0.0.2'],
      [['10.0.0.1'], '10.0.0.1'],
    ] as const) {
      const stream = new Stream().send(requestHeaders(), { ...requestBody(chat('subset')), ...subset(values) });
      expect((await stream.next()).set['x-target-pod']).toBe(expected);
      stream.end();
    }
    for (const values of [['192.168.1.99:8000'], ['10.0.0.1:9999'], []]) {
      const stream = new Stream().send(requestHeaders(), { ...requestBody(chat('subset')), ...subset(values) });
      const refused = await stream.next();
      expect(refused).toMatchObject({ kind: 'immediate_response', status: 503 });
      expect(refused.set['x-llm-d-request-dropped-reason']).toBe('rejected-no-endpoints');
      expect((await stream.status()).code).toBe(0);
    }
  });

  it.each([
    ['malformed JSON', 'no healthy upstream', 400, /not valid JSON/],
    ['no object', '[1]', 400, /must be a JSON object/],
    ['no model', '{"messages":[]}', 400, /model not found in request body/],
    ['a model of the wrong type', '{"model":5}', 400, /model must be a string/],
  ])('is refused: %s', async (_name, body, status, message) => {
    const stream = new Stream().send(requestHeaders(), requestBody(body));
    const refused = await stream.next();
    expect(refused).toMatchObject({ kind: 'immediate_response', status, set: { 'content-type': 'application/json' } });
    const { error } = JSON.parse(refused.body ?? '') as { error: { message: string; type: string; code: number } };
    expect(error).toMatchObject({ type: 'BadRequestError', code: status });
    expect(error.message).toMatch(message);
    expect((await stream.status()).code).toBe(0);
  });

  it('is served by the model that a header names, and its answer names the one that was asked for', async () => {
    const { requests } = counters(await metricsPage());
    const stream = new Stream().send(
      requestHeaders({
        ...plainHeaders,
        'x-gateway-model-name-rewrite': 'llama-v2',
        'x-gateway-inference-fairness-id': 'tenant-a',
        'x-llm-d-inference-objective': 'unknown',
        'x-prefiller-host-port': '1.2.3.4:5',
      }),
      requestBody('{"n":1.0,"model":"llama","messages":[]}'),
    );
    const routed = await stream.next();
    const sent = '{"n":1.0,"model":"llama-v2","messages":[]}';
    expect(routed.set['content-length']).toBe(String(sent.length));
    expect([...routed.remove].sort()).toEqual([
      'x-gateway-inference-fairness-id',
      'x-gateway-model-name-rewrite',
      'x-llm-d-inference-objective',
    ]);
    expect(routed.set['x-prefiller-host-port']).toBe('10.0.0.9:8000');
    let body = '';
    for (let isEnd = false; !isEnd; ) {
      const { chunk } = await stream.next();
      body += chunk?.body?.toString() ?? '';
      isEnd = chunk?.end_of_stream ?? false;
    }
    expect(body).toBe(sent);
    stream.send({ response_headers: { headers: { headers: [{ key: ':status', raw_value: 'MjAw' }] } } });
    expect((await stream.next()).remove).toEqual(['content-length']);
    stream.send({
      response_body: { body: Buffer.from('{"model": "llama-v2"}').toString('base64'), end_of_stream: true },
    });
    let answer = '';
    for (let isEnd = false; !isEnd; ) {
      const { chunk } = await stream.next();
      answer += chunk?.body?.toString() ?? '';
      isEnd = chunk?.end_of_stream ?? false;
    }
    expect(answer).toBe('{"model": "llama"}');
    stream.end();
    await stream.status();
    const page = await metricsPage();
    expect(page).toContain(
      'llm_d_epp_request_total{model_name="llama",target_model_name="llama-v2",fairness_id="tenant-a",priority="0"} 1',
    );
    expect(counters(page).requests).toBe(requests + 1);
  });

  it('passes a large body unchanged, and answers 413 to one that is too large', async () => {
    const large = chat('x'.repeat(900_000));
    const stream = new Stream().send(requestHeaders());
    for (let at = 0; at < large.length; at += 64_000)
      stream.send(requestBody(large.slice(at, at + 64_000), at + 64_000 >= large.length));
    expect((await stream.next()).kind).toBe('request_headers');
    let text = '';
    for (;;) {
      const { chunk } = await stream.next();
      expect(chunk?.body?.length ?? 0).toBeLessThanOrEqual(62_000);
      text += chunk?.body?.toString() ?? '';
      if (chunk?.end_of_stream) break;
    }
    expect(text).toBe(large);
    stream.end();

    const tooLarge = new Stream().send(requestHeaders());
    for (let i = 0; i < 20; i++) tooLarge.send(requestBody(Buffer.alloc(64_000, 120), false));
    expect(await tooLarge.next()).toMatchObject({ kind: 'immediate_response', status: 413 });
    expect((await tooLarge.status()).code).toBe(0);
  });

  it('that is cancelled anywhere leaves nothing counted', async () => {
    const early = new Stream().send(requestHeaders());
    const late = Array.from({ length: 20 }, (_, i) =>
      new Stream().send(requestHeaders(), requestBody(chat(`cancel ${i}`))),
    );
    for (const stream of late) await stream.next();
    expect(Object.values(inFlight()).reduce((sum, count) => sum + count, 0)).toBe(40);
    early.cancel();
    for (const stream of late) stream.cancel();
    await until(() => Object.values(inFlight()).every((count) => count === 0), 'all is given back');
    expect(await metricsPage()).toMatch(/request_error_total\{.*error_code="499"\} [1-9]/);
  });
});

describe('bad peers', () => {
  const raw = async (
    send: (stream: http2.ClientHttp2Stream) => void,
    path = '/envoy.service.ext_proc.v3.ExternalProcessor/Process',
  ) => {
    const session = http2.connect(`http://127.0.0.1:${epp.grpcPort}`);
    session.on('error', () => {});
    try {
      return await new Promise<string>((resolve, reject) => {
        const stream = session.request({
          ':method': 'POST',
          ':path': path,
          'content-type': 'application/grpc',
          te: 'trailers',
        });
        stream.on(
          'response',
          (headers) => headers['grpc-status'] !== undefined && resolve(String(headers['grpc-status'])),
        );
        stream.on('trailers', (headers) => resolve(String(headers['grpc-status'])));
        stream.on('error', reject);
        stream.resume();
        send(stream);
      });
    } finally {
      session.destroy();
    }
  };
  it.each([
    ['an unknown method', '12', (stream: http2.ClientHttp2Stream) => stream.end(), '/x.Y/Z'],
    [
      'bytes that are no message',
      '3',
      (stream: http2.ClientHttp2Stream) => stream.write(Buffer.from([0, 0, 0, 0, 3, 0x12, 0xff, 0x7f])),
      undefined,
    ],
    [
      'a compressed message',
      '12',
      (stream: http2.ClientHttp2Stream) => stream.write(Buffer.from([1, 0, 0, 0, 1, 0])),
      undefined,
    ],
    [
      'a message that claims 4 GiB',
      '8',
      (stream: http2.ClientHttp2Stream) => stream.write(Buffer.from([0, 255, 255, 255, 255])),
      undefined,
    ],
    [
      'a frame that is cut off',
      '0',
      (stream: http2.ClientHttp2Stream) => stream.end(Buffer.from([0, 0, 0])),
      undefined,
    ],
    [
      'messages out of turn',
      '3',
      (stream: http2.ClientHttp2Stream) => stream.write(Buffer.from([0, 0, 0, 0, 2, 0x22, 0])),
      undefined,
    ],
  ])('%s', async (_name, status, send, path) => {
    expect(await raw((stream) => void send(stream), path)).toBe(status);
  });

  it('random bytes instead of HTTP/2 hurt nobody else', async () => {
    for (let i = 0; i < 5; i++) {
      await new Promise<void>((resolve) => {
        const socket = createConnection(epp.grpcPort, '127.0.0.1', () => socket.end(randomBytes(500)));
        socket.on('error', () => {});
        socket.on('close', () => resolve());
        socket.resume();
      });
    }
    const stream = new Stream().send(requestHeaders({ ':path': '/v1/models' }, true));
    expect((await stream.next()).kind).toBe('request_headers');
    stream.end();
  });
});

describe('health', () => {
  const ask = (port: number, method: 'Check' | 'List', service = '') =>
    new Promise<Buffer | number>((resolve) => {
      const health = new HealthClient(`127.0.0.1:${port}`, grpc.credentials.createInsecure());
      (
        health[method] as (service: string, done: (error: grpc.ServiceError | null, value: Buffer) => void) => void
      ).call(health, service, (error, value) => {
        health.close();
        resolve(error === null ? value : error.code);
      });
    });
  const serving = Buffer.from([8, 1]);

  it.each(['', 'liveness', 'readiness', 'inference-extension', 'envoy.service.ext_proc.v3.ExternalProcessor'])(
    '%j serves',
    async (service) => {
      expect(await ask(epp.healthPort, 'Check', service)).toEqual(serving);
      expect(await ask(epp.grpcPort, 'Check', service)).toEqual(serving);
    },
  );

  it('does not know others, and lists its own', async () => {
    expect(await ask(epp.healthPort, 'Check', 'nobody')).toBe(5);
    expect(String(await ask(epp.healthPort, 'List'))).toContain('inference-extension');
  });

  it('tells a watcher when it stops, and lets an open stream end', async () => {
    const other = await start(threePods, ['--drain-timeout=3s']);
    const health = new HealthClient(`127.0.0.1:${other.healthPort}`, grpc.credentials.createInsecure());
    const seen: number[] = [];
    const watch = (health.Watch as (service: string) => grpc.ClientReadableStream<Buffer>).call(health, 'readiness');
    watch.on('data', (message: Buffer) => seen.push(message[1] ?? 0));
    watch.on('error', () => {});
    await until(() => seen.length === 1, 'the first status');
    const gateway = new ProcessorClient(`127.0.0.1:${other.grpcPort}`, grpc.credentials.createInsecure());
    const stream = new Stream(gateway).send(requestHeaders(), requestBody(chat('drain')));
    await stream.next();
    const closed = other.close();
    await until(() => seen.length === 2, 'the second status');
    expect(seen).toEqual([1, 2]);
    stream.send({ response_headers: { end_of_stream: true } });
    await stream.next();
    const last = await stream.next();
    expect(last.kind).toBe('response_headers');
    stream.end();
    expect((await stream.status()).code).toBe(0);
    await closed;
    gateway.close();
    health.close();
  });

  it('without endpoints is ready and answers 503; over TLS too', async () => {
    const other = await start('endpoints: []', ['--secure-serving=true']);
    const credentials = grpc.credentials.createSsl(null, null, null, {
      rejectUnauthorized: false,
      checkServerIdentity: () => undefined,
    });
    const gateway = new ProcessorClient(`127.0.0.1:${other.grpcPort}`, credentials);
    const refused = await new Stream(gateway).send(requestHeaders({ ':path': '/v1/models' }, true)).next();
    expect(refused).toMatchObject({ kind: 'immediate_response', status: 503 });
    expect(JSON.parse(refused.body ?? '')).toMatchObject({ error: { type: 'ServiceUnavailableError', code: 503 } });
    gateway.close();
    await other.close();
  });
});

describe('usage at the end of an answer', () => {
  it.each([
    ['{"usage":{"prompt_tokens":1,"completion_tokens":2}}', { promptTokens: 1, completionTokens: 2, cachedTokens: 0 }],
    [
      'data: {"usage": {"prompt_tokens":5}}\n\ndata: {"usage":null}\n\ndata: [DONE]',
      { promptTokens: 5, completionTokens: 0, cachedTokens: 0 },
    ],
    ['x"usage":{broken', undefined],
    ['', undefined],
  ])('%j', (text, expected) => {
    expect(usageInTail(Buffer.from(text))).toEqual(expected);
  });
});

describe('the configuration', () => {
  const head = 'apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n';
  const build = (text: string) => {
    const built = buildScheduler(parsePickerConfig(text, 'f'), {
      factories: pluginFactories,
      clock: systemClock,
      random: () => 0,
      baseDir: fileURLToPath(new URL('../../config/epp', import.meta.url)),
    });
    return { ...built, scheduler: new Scheduler(built.parts) };
  };

  it('has defaults when it is absent or only names plugins', () => {
    expect(parsePickerConfig('', 'f').profiles).toEqual([
      {
        name: 'default',
        plugins: [
          { ref: 'queue-scorer', weight: 2, path: 'schedulingProfiles[0].plugins[0]' },
          { ref: 'kv-cache-utilization-scorer', weight: 2, path: 'schedulingProfiles[0].plugins[1]' },
          { ref: 'prefix-cache-scorer', weight: 3, path: 'schedulingProfiles[0].plugins[2]' },
        ],
      },
    ]);
    const { parts, handler } = build(`${head}plugins: [{type: queue-scorer}, {type: decode-filter}]`);
    expect([handler.type, parts.profiles.map(({ name }) => name), parts.producers.length]).toEqual([
      'single-profile-handler',
      ['default'],
      0,
    ]);
  });

  it('takes both groups, and what older ones say', () => {
    const old = `apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
featureGates: [haPopulateNonLeaderDatastore=false]
plugins:
- {type: prefix-cache-scorer, parameters: {hashBlockSize: 5, maxPrefixBlocksToMatch: 256, lruCapacityPerServer: 100}}
- {type: openai-parser}
requestHandler: {parsers: [{pluginRef: openai-parser}]}
schedulingProfiles: [{name: d, plugins: [{pluginRef: prefix-cache-scorer, weight: 50}]}]`;
    const { parts, warnings } = build(old);
    expect(parts.producers).toHaveLength(1);
    expect(warnings.join()).toMatch(/belong to approx-prefix-cache-producer/);
  });

  it('builds every configuration that is shipped', async () => {
    const folder = new URL('../../config/epp/', import.meta.url);
    const files = readdirSync(folder).filter((name) => name.endsWith('.yaml') && name !== 'endpoints.yaml');
    expect(files.length).toBeGreaterThanOrEqual(5);
    for (const name of files) {
      const { warnings, plugins } = build(readFileSync(new URL(name, folder), 'utf8'));
      expect(warnings).toEqual([]);
      for (const plugin of plugins) await plugin.close?.();
    }
    const endpoints = parseEndpointsFile(
      readFileSync(new URL('endpoints.yaml', folder), 'utf8'),
      'endpoints.yaml',
      'ns',
    );
    expect(endpoints).toHaveLength(2);
  });

  it.each([
    ['kind: X', /apiVersion: .*; kind: /],
    [`${head}pluginz: []`, /pluginz: unknown field, did you mean plugins\?/],
    [
      `${head}plugins: [{type: queue-scorer, paramters: {}}]`,
      /plugins\[0\]\.paramters: unknown field, did you mean parameters\?/,
    ],
    [
      `${head}plugins: [{type: queue-scorer}, {type: queue-scorer}]`,
      /plugins\[1\]: another plugin is named queue-scorer/,
    ],
    [
      `${head}plugins: [{type: queue-scorrer}]`,
      /plugins\[0\]\.type: "queue-scorrer" is not among the plugin types, did you mean queue-scorer\?/,
    ],
    [`${head}plugins: [{type: load-aware-scorer, parameters: {threshold: -1}}]`, /plugins\[0\]\.parameters\.threshold/],
    [
      `${head}plugins: [{type: queue-scorer}]\nschedulingProfiles: [{name: a, plugins: [{pluginRef: queue}]}]`,
      /schedulingProfiles\[0\]\.plugins\[0\]\.pluginRef: "queue" is not among the plugins/,
    ],
    [
      `${head}plugins: [{type: queue-scorer}]\nschedulingProfiles: [{name: a, plugins: []}, {name: b, plugins: []}]`,
      /needs exactly one profile, not 2/,
    ],
    [
      `${head}plugins: [{type: disagg-profile-handler, parameters: {deciders: {prefill: nobody}}}]`,
      /deciders\.prefill: "nobody"/,
    ],
    [
      `${head}plugins: [{type: always-disagg-pd-decider}, {type: disagg-profile-handler, parameters: {deciders: {prefill: always-disagg-pd-decider}}}]\nschedulingProfiles: [{name: decode, plugins: []}]`,
      /needs a profile named prefill/,
    ],
    [
      `${head}plugins: [{type: max-score-picker}, {name: r, type: random-picker}]\nschedulingProfiles: [{name: a, plugins: [{pluginRef: max-score-picker}, {pluginRef: r}]}]`,
      /has 2 pickers/,
    ],
    [`${head}featureGates: [flowControll]`, /flowControll is not known/],
    [
      `${head}plugins: [{type: file-discovery, parameters: {}}]\ndataLayer: {discovery: {pluginRef: file-discovery}}`,
      /plugins\[0\]\.parameters\.path/,
    ],
    [': [', /f is not YAML/],
  ])('refuses %j', (text, message) => {
    expect(() => build(text)).toThrow(message);
  });
});

describe('a configuration that was damaged', () => {
  it('is refused with a reason, or taken; never anything else (seeded)', () => {
    let seed = 99;
    const random = (below: number): number => {
      seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
      return seed % below;
    };
    const folder = new URL('../../config/epp/', import.meta.url);
    const texts = readdirSync(folder)
      .filter((name) => name.endsWith('.yaml') && name !== 'endpoints.yaml' && name !== 'gpu-memory.yaml')
      .map((name) => readFileSync(new URL(name, folder), 'utf8'));
    const bits = [
      '-1',
      '{}',
      '[]',
      'null',
      '1e99',
      '"',
      ': ',
      '\n',
      '  ',
      '&a ',
      '*a',
      '!!x ',
      'true',
      '{',
      '0',
      'flowControl: ',
    ];
    const kinds = new Set<string>();
    for (let i = 0; i < 600; i++) {
      let text = texts[random(texts.length)] ?? '';
      for (let change = random(4); change >= 0; change--) {
        const at = random(text.length + 1);
        text = text.slice(0, at) + (bits[random(bits.length)] ?? '') + text.slice(at + random(10));
      }
      try {
        parsePickerConfig(text, 'f');
        kinds.add('taken');
      } catch (thrown) {
        expect(thrown).toBeInstanceOf(AppError);
        kinds.add((thrown as AppError).code);
      }
    }
    expect([...kinds].sort()).toEqual(expect.arrayContaining(['invalid', 'taken']));
    expect(kinds.has('internal')).toBe(false);
  });
});

describe('flags', () => {
  it.each([
    [[], /exactly one of --pool-name and --endpoint-selector/],
    [['--pool-name=a', '--endpoint-selector=b'], /exactly one/],
    [['--endpoint-selector=a=b'], /1 to 8 ports/],
    [['--pool-name=a', '--config-file=a', '--config-text=b'], /exclude each other/],
    [['--pool-name=a', '--lora-info-metric=x'], /--lora-info-metric was removed/],
    [['--pool-name=a', '--grpc-max-recv-msg-size=4x'], /must be a size/],
    [['--pool-name=a', '--grpc-prt=1'], /did you mean --grpc-port/],
    [['--pool-name=a', '--tls-cipher-suites=TLS_NULL'], /--tls-cipher-suites: TLS_NULL is not known/],
    [['--pool-name=a', '--metrics-client-ca-file=x'], /--metrics-client-ca-file needs --metrics-cert-dir/],
    [['--pool-name=a', '--trace-ratio=2'], /--trace-ratio/],
  ])('%j', (argv, message) => {
    expect(() => parseEppArgs(argv, {})).toThrow(message);
  });
  it("takes upstream's", () => {
    const argv =
      '--pool-name=a --pool-namespace b --zap-encoder json --grpc-port 9002 --enable-cert-reload=true --secure-serving=true --model-server-metrics-scheme=https --cert-path=/x -v 4 --tracing=false --metrics-endpoint-auth=false --grpc-max-recv-msg-size 8Mi'.split(
        ' ',
      );
    expect(parseEppArgs(argv, { NAMESPACE: 'c' })).toMatchObject({
      config: {
        poolNamespace: 'b',
        metricsScheme: 'https',
        verbosity: 4,
        grpcMaxRecvMsgSize: 8 << 20,
        enableCertReload: true,
      },
    });
  });
});
