import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { get as httpsGet } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { eventually } from '../../test/expect/eventually.ts';
import { AppError } from '../errors.ts';
import { createAuthority, issueCertificate } from '../pki.ts';
import { type EppMetric, eppMetrics } from '../telemetry/epp-metrics.ts';
import { silentLogger } from '../telemetry/log.ts';
import { startTracing } from '../telemetry/tracing.ts';
import { parseEppArgs } from './config.ts';
import type { Explanation } from './explain.ts';
import { createTokenReviewer, type TokenReviewer } from './metrics-auth.ts';
import { parsePickerConfig } from './picker-config.ts';
import { type Epp, type EppDeps, startEpp } from './start.ts';

let dir: string;
const running: Epp[] = [];

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'epp-process-'));
  await writeFile(
    join(dir, 'endpoints.yaml'),
    'endpoints:\n- {name: a, address: 10.0.0.1, port: "8000"}\n- {name: b, address: 10.0.0.2, port: "8000"}\n',
  );
});
afterAll(async () => {
  for (const epp of running) await epp.close();
  await rm(dir, { recursive: true });
});

const yaml = (scorers: readonly string[], more = '') => `
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: file-discovery, parameters: {path: ${join(dir, 'endpoints.yaml')}}}
${scorers.map((type) => `- {type: ${type}}`).join('\n')}
schedulingProfiles: [{name: default, plugins: [${scorers.map((type) => `{pluginRef: ${type}}`).join(', ')}]}]
dataLayer: {injectDefaults: false, discovery: {pluginRef: file-discovery}}
${more}`;

async function start(config: string, flags: readonly string[] = [], deps: Partial<EppDeps> = {}): Promise<Epp> {
  const path = join(dir, `config-${running.length}.yaml`);
  await writeFile(path, config);
  const parsed = parseEppArgs(
    [
      '--pool-name=p',
      '--secure-serving=false',
      '--grpc-port=0',
      '--grpc-health-port=0',
      '--metrics-port=0',
      '--pod-address=127.0.0.1',
      '--drain-timeout=100ms',
      `--config-file=${path}`,
      ...flags,
    ],
    {},
  );
  if (parsed.kind !== 'config') throw new Error('help');
  const epp = await startEpp(parsed.config, parsePickerConfig(config, path), { log: silentLogger, ...deps });
  running.push(epp);
  return epp;
}

const urlOf = (epp: Epp, path: string) => `http://127.0.0.1:${epp.metricsPort}${path}`;
const chat = JSON.stringify({ model: 'llama', messages: [{ role: 'user', content: 'x'.repeat(2000) }] });

async function explain(epp: Epp): Promise<Explanation> {
  const response = await fetch(urlOf(epp, '/debug/explain'), { method: 'POST', body: chat });
  return (await response.json()) as Explanation;
}

describe('a configuration that changes', () => {
  it('is taken over whole, keeps what plugins know, and stays when the next one is wrong', async () => {
    const epp = await start(yaml(['queue-scorer', 'prefix-cache-scorer']));
    const path = join(dir, `config-${running.length - 1}.yaml`);
    const scorers = async () => Object.keys((await explain(epp)).profiles[0]?.weights ?? {});
    const write = async (text: string) => {
      // As editors and kubelets do.
      await writeFile(`${path}.new`, text);
      await rename(`${path}.new`, path);
    };
    const reloads = async (result: string) => {
      const page = await (await fetch(urlOf(epp, '/metrics'))).text();
      return Number(new RegExp(`config_reloads_total{result="${result}"} (\\d+)`).exec(page)?.[1] ?? 0);
    };
    expect(await scorers()).toEqual(['queue-scorer', 'prefix-cache-scorer']);

    await write(yaml(['active-request-scorer', 'prefix-cache-scorer']));
    await eventually(async () => expect(await scorers()).toEqual(['active-request-scorer', 'prefix-cache-scorer']));

    for (const [i, wrong] of [
      yaml(['no-such-scorer']),
      'plugins: [',
      yaml(['queue-scorer']).replace('endpoints.yaml', 'others.yaml'),
    ].entries()) {
      await write(wrong);
      await eventually(async () => expect(await reloads('refused')).toBe(i + 1));
    }
    expect(await scorers()).toEqual(['active-request-scorer', 'prefix-cache-scorer']);
    expect(await reloads('taken')).toBe(1);

    const state = (await (await fetch(urlOf(epp, '/debug/plugins/state'))).json()) as object;
    expect(state).toEqual({ 'approx-prefix-cache-producer': { blocks: 0 } });

    // Flow control and its detector follow too, on and off.
    const flow = async () => {
      const page = await (await fetch(urlOf(epp, '/metrics'))).text();
      return {
        detector: /flow_control_stale_endpoints\{detector="([^"]+)"\}/.exec(page)?.[1],
        isOn: /^llm_d_epp_flow_control_queue_size\{/m.test(page),
      };
    };
    expect(await flow()).toEqual({ detector: undefined, isOn: false });
    const controlled = (detector: string, more: string) =>
      yaml(['queue-scorer', detector], `featureGates: [flowControl]\n${more}`);
    await write(controlled('concurrency-detector', 'flowControl: {maxRequests: 5}'));
    await eventually(async () => expect(await flow()).toEqual({ detector: 'concurrency-detector', isOn: true }));
    await write(controlled('utilization-detector', 'flowControl: {maxRequests: 6}'));
    await eventually(async () => expect((await flow()).detector).toBe('utilization-detector'));
    await write(controlled('utilization-detector', 'flowControl: {usageLimitPolicyPluginRef: nobody}'));
    await eventually(async () => expect(await reloads('refused')).toBe(4));
    expect((await flow()).detector).toBe('utilization-detector');
  });
});

describe('metrics', () => {
  const M = ['model_name', 'target_model_name'];
  const MFP = [...M, 'fairness_id', 'priority'];
  const P = ['plugin_name', 'plugin_type'];
  const inFlight = ['endpoint_name', 'namespace', 'producer_name', 'fairness_id', 'priority'];
  const pool = ['inference_pool'];
  /** Names, types and labels that dashboards of llm-d's picker are built on. */
  const reference: readonly (readonly [name: string, type: string, labels: readonly string[]])[] = [
    ['request_total', 'counter', MFP],
    ['request_error_total', 'counter', [...MFP, 'error_code']],
    ['request_duration_seconds', 'histogram', MFP],
    ['request_size_bytes', 'histogram', MFP],
    ['response_size_bytes', 'histogram', MFP],
    ['request_input_tokens', 'histogram', MFP],
    ['request_output_tokens', 'histogram', MFP],
    ['request_cached_tokens', 'histogram', MFP],
    ['request_ntpot_seconds', 'histogram', MFP],
    ['request_streaming_tpot_seconds', 'histogram', MFP],
    ['request_streaming_itl_seconds', 'histogram', MFP],
    ['request_ttft_seconds', 'histogram', [...MFP, 'streaming']],
    ['request_running', 'gauge', MFP],
    ['average_kv_cache_utilization', 'gauge', ['name']],
    ['average_queue_size', 'gauge', ['name']],
    ['average_running_requests', 'gauge', ['name']],
    ['std_dev_kv_cache_utilization', 'gauge', ['name']],
    ['std_dev_queue_size', 'gauge', ['name']],
    ['std_dev_running_requests', 'gauge', ['name']],
    ['ready_endpoints', 'gauge', ['name']],
    ['per_endpoint_queue_size', 'gauge', ['name', 'model_server_endpoint']],
    ['scheduler_e2e_duration_seconds', 'histogram', []],
    ['scheduler_attempts_total', 'counter', ['status', 'target_model_name', 'endpoint_name', 'namespace', 'port']],
    ['plugin_duration_seconds', 'histogram', ['extension_point', 'plugin_type', 'plugin_name']],
    ['plugin_data_scope_violations_total', 'counter', ['extension_point', 'plugin_type', 'plugin_name', 'access']],
    ['request_processing_duration_seconds', 'histogram', []],
    ['response_processing_duration_seconds', 'histogram', []],
    ['info', 'gauge', ['commit', 'build_ref']],
    ['flow_control_request_queue_duration_seconds', 'histogram', ['fairness_id', 'priority', 'outcome', ...pool, ...M]],
    ['flow_control_dispatch_cycle_duration_seconds', 'histogram', []],
    ['flow_control_request_enqueue_duration_seconds', 'histogram', ['fairness_id', 'priority', 'outcome']],
    ['flow_control_queue_size', 'gauge', ['fairness_id', 'priority', ...pool, ...M]],
    ['flow_control_queue_bytes', 'gauge', ['fairness_id', 'priority', ...pool, ...M]],
    ['flow_control_pool_saturation', 'gauge', [...pool, 'stage']],
    ['flow_control_stale_endpoints', 'gauge', ['detector']],
    ['flow_control_capacity_utilization_requests', 'gauge', ['priority', ...pool]],
    ['flow_control_capacity_utilization_bytes', 'gauge', ['priority', ...pool]],
    ['flow_control_global_capacity_utilization_requests', 'gauge', pool],
    ['flow_control_global_capacity_utilization_bytes', 'gauge', pool],
    ['flow_control_requests_total', 'counter', ['outcome', 'priority', ...pool]],
    ['model_rewrite_decisions_total', 'counter', ['model_rewrite_name', 'model_name', 'target_model']],
    ['datalayer_poll_errors_total', 'counter', ['source_type']],
    ['datalayer_extract_errors_total', 'counter', ['source_type', 'extractor_type']],
    ['extproc_streams_inflight', 'gauge', []],
    ['extproc_stream_duration_seconds', 'histogram', []],
    ['extproc_streams_total', 'counter', ['code']],
    ['prefix_indexer_size', 'gauge', P],
    ['prefix_indexer_hit_ratio', 'histogram', P],
    ['prefix_indexer_hit_bytes', 'histogram', P],
    ['inflight_requests', 'gauge', inFlight],
    ['inflight_tokens', 'gauge', inFlight],
    ['encoder_cache_queries_total', 'counter', [...P, 'modality']],
    ['encoder_cache_hits_total', 'counter', [...P, 'modality', 'pod']],
    ['encoder_cache_hit_ratio', 'histogram', P],
    ['pd_decision_total', 'counter', [...P, 'model_name', 'decision_type']],
    ['disagg_decision_total', 'counter', [...P, 'model_name', 'decision_type']],
    ['inference_request_metric', 'gauge', [...P, ...M, 'type']],
    ['request_predicted_ttft_seconds', 'histogram', [...P, ...M]],
    ['request_ttft_prediction_duration_seconds', 'histogram', [...P, ...M]],
    ['request_predicted_tpot_seconds', 'histogram', [...P, ...M]],
    ['request_tpot_prediction_duration_seconds', 'histogram', [...P, ...M]],
    ['request_slo_violation_total', 'counter', [...P, ...M, 'type']],
  ];

  it('have the names, types and labels of the reference', () => {
    const ours = new Map<string, EppMetric>(Object.values(eppMetrics).map((metric) => [metric.name, metric]));
    const told = reference.map(([name]) => {
      const metric = ours.get(`llm_d_epp_${name}`);
      return [name, metric?.type, [...(metric?.labels ?? ['missing'])].sort()];
    });
    expect(told).toEqual(reference.map(([name, type, labels]) => [name, type, [...labels].sort()]));
  });

  it('are all on the page, the five of the book among them, and the former names when asked for', async () => {
    const epp = await start(yaml(['prefix-cache-scorer'], 'featureGates: [flowControl]\n'), ['--legacy-metric-names']);
    const page = await (await fetch(urlOf(epp, '/metrics'))).text();
    const types = new Map([...page.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name = '', type = '']) => [name, type]));
    const missing = reference.filter(([name, type]) => types.get(`llm_d_epp_${name}`) !== type);
    expect(missing).toEqual([]);
    const book = ['requests_total', 'pod_score', 'decision_duration_seconds', 'cache_hits_total', 'cache_misses_total'];
    expect(book.filter((name) => !types.has(`scheduler_${name}`))).toEqual([]);
    const former = [
      ...'request_total request_error_total request_duration_seconds request_sizes response_sizes input_tokens'.split(
        ' ',
      ),
      ...'output_tokens prompt_cached_tokens normalized_time_per_output_token_seconds running_requests'.split(' '),
      ...'inference_request_metric request_slo_violation_total request_ttft_seconds request_tpot_seconds'.split(' '),
      ...'request_predicted_ttft_seconds request_predicted_tpot_seconds'.split(' '),
      ...'request_ttft_prediction_duration_seconds request_tpot_prediction_duration_seconds'.split(' '),
    ].map((name) => `inference_objective_${name}`);
    const pools =
      'average_kv_cache_utilization average_queue_size average_running_requests ready_pods per_pod_queue_size';
    former.push(...pools.split(' ').map((name) => `inference_pool_${name}`));
    const extension =
      'scheduler_e2e_duration_seconds scheduler_attempts_total plugin_duration_seconds prefix_indexer_size ' +
      'prefix_indexer_hit_ratio prefix_indexer_hit_bytes info flow_control_request_queue_duration_seconds ' +
      'flow_control_dispatch_cycle_duration_seconds flow_control_request_enqueue_duration_seconds ' +
      'flow_control_queue_size flow_control_queue_bytes flow_control_pool_saturation model_rewrite_decisions_total';
    former.push(...extension.split(' ').map((name) => `inference_extension_${name}`));
    const scheduler =
      'pd_decision_total disagg_decision_total datalayer_poll_errors_total datalayer_extract_errors_total';
    former.push(...scheduler.split(' ').map((name) => `llm_d_inference_scheduler_${name}`));
    expect(former.filter((name) => !types.has(name))).toEqual([]);
  });
});

describe('the metrics port', () => {
  it('asks for a token that may get the path, and asks the API server once a minute for each', async () => {
    const asked: string[] = [];
    const reviewer: TokenReviewer = {
      userOf: async (token) => {
        asked.push(token);
        if (token === 'broken') throw new AppError('unavailable', 'the API server is gone');
        return token === 'nobody' ? undefined : { username: token };
      },
      mayGet: async ({ username }) => username === 'prometheus',
    };
    const epp = await start(yaml(['queue-scorer']), ['--metrics-endpoint-auth'], { reviewer });
    const get = async (token: string | undefined, path = '/metrics') => {
      const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
      const response = await fetch(urlOf(epp, path), { headers });
      await response.arrayBuffer();
      return response.status;
    };
    expect(await get(undefined)).toBe(401);
    expect(await get('nobody')).toBe(401);
    expect(await get('somebody')).toBe(403);
    expect(await get('prometheus')).toBe(200);
    expect(await get('prometheus')).toBe(200);
    expect(await get('prometheus', '/debug/plugins/state')).toBe(200);
    expect(await get('broken')).toBe(503);
    expect(await get('broken')).toBe(503);
    expect(asked).toEqual(['nobody', 'somebody', 'prometheus', 'prometheus', 'broken', 'broken']);
  });

  it('asks the API server as kubelets and operators do', async () => {
    const calls: unknown[] = [];
    const reviewer = createTokenReviewer({
      request: async <T>(method: 'POST', path: string, body: unknown): Promise<T> => {
        calls.push([method, path, (body as { spec: unknown }).spec]);
        const status = path.includes('tokenreviews')
          ? { authenticated: true, user: { username: 'u', groups: ['g'] } }
          : { allowed: true };
        return { status } as T;
      },
    });
    const user = await reviewer.userOf('t');
    expect(await reviewer.mayGet(user ?? { username: '' }, '/metrics')).toBe(true);
    expect(calls).toEqual([
      ['POST', '/apis/authentication.k8s.io/v1/tokenreviews', { token: 't' }],
      [
        'POST',
        '/apis/authorization.k8s.io/v1/subjectaccessreviews',
        {
          user: 'u',
          uid: undefined,
          groups: ['g'],
          extra: undefined,
          nonResourceAttributes: { path: '/metrics', verb: 'get' },
        },
      ],
    ]);
  });

  it('speaks TLS with a certificate of its own, and lets callers in by theirs', async () => {
    const period = { notBefore: new Date(Date.now() - 60_000), notAfter: new Date(Date.now() + 3600_000) };
    const authority = await createAuthority({ commonName: 'test', ...period });
    const served = await issueCertificate(authority, {
      commonName: 'epp',
      dnsNames: ['localhost'],
      usage: 'server',
      ...period,
    });
    const client = await issueCertificate(authority, {
      commonName: 'client',
      dnsNames: ['client'],
      usage: 'client',
      ...period,
    });
    const tlsDir = await mkdtemp(join(dir, 'tls-'));
    await writeFile(join(tlsDir, 'tls.crt'), served.certificate);
    await writeFile(join(tlsDir, 'tls.key'), served.key);
    await writeFile(join(tlsDir, 'ca.crt'), authority.certificate);
    const epp = await start(yaml(['queue-scorer']), [
      `--metrics-cert-dir=${tlsDir}`,
      `--metrics-client-ca-file=${join(tlsDir, 'ca.crt')}`,
    ]);
    const get = (shown: object) =>
      new Promise<number | string>((resolve) => {
        const options = { host: '127.0.0.1', port: epp.metricsPort, path: '/metrics', servername: 'localhost' };
        httpsGet({ ...options, ca: authority.certificate, agent: false, ...shown }, (response) => {
          response.resume();
          resolve(response.statusCode ?? 0);
        }).on('error', () => resolve('refused'));
      });
    expect(await get({})).toBe('refused');
    expect(await get({ cert: client.certificate, key: client.key })).toBe(200);
  });
});

describe('traces', () => {
  it('go to the collector, as children of the gateway’s span, and are handed on', async () => {
    const spans: { traceId: string; parentSpanId?: string; name: string; spanId: string }[] = [];
    const collector = createServer((request, response) => {
      let text = '';
      request.on('data', (chunk) => {
        text += String(chunk);
      });
      request.on('end', () => {
        const body = JSON.parse(text) as {
          resourceSpans: { scopeSpans: { spans: typeof spans }[] }[];
        };
        spans.push(...body.resourceSpans.flatMap(({ scopeSpans }) => scopeSpans.flatMap((scope) => scope.spans)));
        response.writeHead(200, { 'content-type': 'application/json' }).end('{}');
      });
    });
    await new Promise<void>((resolve) => collector.listen(0, '127.0.0.1', resolve));
    const endpoint = `http://127.0.0.1:${(collector.address() as AddressInfo).port}`;
    const tracing = await startTracing({ endpoint, service: 'epp', ratio: 0, log: silentLogger });
    const parent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331';

    // Nobody decided, and none of a hundred is sampled; or the caller decided.
    expect(tracing.begin('r', {})).toBeUndefined();
    expect(tracing.begin('r', { traceparent: `${parent}-00` })).toBeUndefined();
    expect(tracing.begin('r', { traceparent: 'rubbish' })).toBeUndefined();
    const span = tracing.begin('gateway.request', { traceparent: `${parent}-01`, tracestate: 'a=b' });
    expect(span?.traceparent).toMatch(/^00-0af7651916cd43dd8448eb211c80319c-(?!b7ad6b7169203331)[0-9a-f]{16}-01$/);
    const child = span?.child('inner');
    child?.set({ answer: 42 });
    child?.end();
    span?.fail('it broke');
    span?.end();
    await tracing.close();
    collector.close().closeAllConnections();
    const [inner, outer] = spans;
    expect(spans.map(({ name, traceId }) => [name, traceId])).toEqual([
      ['inner', '0af7651916cd43dd8448eb211c80319c'],
      ['gateway.request', '0af7651916cd43dd8448eb211c80319c'],
    ]);
    expect(outer?.parentSpanId).toBe('b7ad6b7169203331');
    expect(inner?.parentSpanId).toBe(outer?.spanId);
  });
});
