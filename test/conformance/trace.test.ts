import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from '@jest/globals';
import pino from 'pino';
import { parseEppArgs } from '../../src/epp/config.ts';
import { parsePickerConfig } from '../../src/epp/picker-config.ts';
import { startEpp } from '../../src/epp/start.ts';
import { parseSimArgs } from '../../src/sim/config.ts';
import { startSim } from '../../src/sim/start.ts';
import { silentLogger } from '../../src/telemetry/log.ts';
import { startTracing } from '../../src/telemetry/tracing.ts';
import { createTestGateway, extProc } from '../builders/ext-proc.ts';
import { startCollector as listen, type Span } from '../builders/otlp.ts';
import { call, closeAll, closers, deadPort, sidecar } from '../builders/sidecar.ts';
import { eventually } from '../expect/eventually.ts';

/** One request through picker, sidecar and two engines: their spans make one trace, their logs name one request. */

afterEach(closeAll);

async function startCollector() {
  const collector = await listen();
  closers.push(collector.close);
  return collector;
}

async function startEngine(service: string, collector: string | undefined) {
  const parsed = parseSimArgs(
    [
      ...'serve m --pod-address 127.0.0.1 --port 0 --sim-drain-ms 100 --sim-prefill-us-per-token 0'.split(' '),
      ...'--sim-output-token-us 0 --sim-transfer-us-per-token 0'.split(' '),
      '--kv-transfer-config={"kv_connector":"NixlConnector","kv_role":"kv_both"}',
      ...(collector === undefined ? [] : ['--otlp-traces-endpoint', collector]),
    ],
    { VLLM_NIXL_SIDE_CHANNEL_PORT: '0', OTEL_SERVICE_NAME: service },
  );
  if (parsed.kind !== 'config') throw new Error(parsed.kind);
  const sim = await startSim(parsed.config, { log: silentLogger });
  let closing: Promise<void> | undefined;
  const close = () => {
    closing ??= sim.close();
    return closing;
  };
  closers.push(close);
  return { port: sim.address.port, close };
}

type Lines = Record<string, unknown>[];
const recordingLog = (lines: Lines) =>
  pino({ level: 'debug' }, { write: (line: string) => void lines.push(JSON.parse(line) as Lines[number]) });

const config = (path: string) => `
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: file-discovery, parameters: {path: ${path}}}
- {type: disagg-headers-handler}
- {type: prefill-filter}
- {type: decode-filter}
- {type: queue-scorer}
- {type: always-disagg-pd-decider}
- {type: disagg-profile-handler, parameters: {deciders: {prefill: always-disagg-pd-decider}}}
schedulingProfiles:
- {name: prefill, plugins: [{pluginRef: prefill-filter}, {pluginRef: queue-scorer}]}
- {name: decode, plugins: [{pluginRef: decode-filter}, {pluginRef: queue-scorer}]}
dataLayer: {injectDefaults: false, discovery: {pluginRef: file-discovery}}
`;

const traceId = '0af7651916cd43dd8448eb211c80319c';
const gatewaySpan = 'b7ad6b7169203331';

/** A picker over one prefill and one decode pod, as the gateway of a request calls it; the headers that it adds. */
async function pick(
  decode: string,
  prefill: string,
  headers: Readonly<Record<string, string>>,
  body: string,
  deps: Pick<Parameters<typeof startEpp>[2], 'log' | 'tracing'>,
  call: { readonly engine: string; readonly headers: Readonly<Record<string, string>> },
): Promise<Readonly<Record<string, string>>> {
  const dir = await mkdtemp(join(tmpdir(), 'trace-'));
  closers.push(() => rm(dir, { recursive: true }));
  const path = join(dir, 'endpoints.yaml');
  const endpointOf = (role: string, hostPort: string) => {
    const [address, port] = hostPort.split(':');
    return { name: role, address, port, labels: { 'llm-d.ai/role': role } };
  };
  await writeFile(path, JSON.stringify({ endpoints: [endpointOf('decode', decode), endpointOf('prefill', prefill)] }));
  const parsed = parseEppArgs(
    [
      ...'--pool-name=p --secure-serving=false --grpc-port=0 --grpc-health-port=0 --metrics-port=0'.split(' '),
      ...'--pod-address=127.0.0.1 --drain-timeout=100ms'.split(' '),
      `--http2-engine=${call.engine}`,
    ],
    {},
  );
  if (parsed.kind !== 'config') throw new Error('help');
  const epp = await startEpp(parsed.config, parsePickerConfig(config(path), 'test'), deps);
  closers.push(() => epp.close());
  const gateway = createTestGateway(epp.grpcPort);
  closers.push(() => gateway.close());
  const stream = gateway.open(call.headers).send(extProc.requestHeaders(headers), extProc.requestBody(body));
  const { set, status } = await stream.next();
  if (status !== undefined) throw new Error(`refused with ${status}`);
  await stream.next();
  stream.send(extProc.responseHeaders({ ':status': '200' }), extProc.responseBody('{}'));
  await stream.next();
  await stream.next();
  stream.end();
  await stream.status();
  return set;
}

const body = JSON.stringify({ model: 'm', max_tokens: 3, messages: [{ role: 'user', content: 'Hello there' }] });
const request = (more: Readonly<Record<string, string>>): Readonly<Record<string, string>> => ({
  ':method': 'POST',
  ':path': '/v1/chat/completions',
  'content-type': 'application/json',
  'x-request-id': 'request-1',
  ...more,
});
const withoutPseudo = (headers: Readonly<Record<string, string>>) =>
  Object.fromEntries(Object.entries(headers).filter(([name]) => !name.startsWith(':')));

describe('one request', () => {
  // The client's trace, or that which the gateway began and names when it calls the picker.
  it.each([
    ['native', 'client'],
    ['native', 'gateway'],
    ['node', 'gateway'],
  ])('has one trace of all parts, and one id in all logs (HTTP/2 by %s, trace of the %s)', async (engine, owner) => {
    const collector = await startCollector();
    const prefill = await startEngine('vllm-prefill', collector.endpoint);
    const decode = await startEngine('vllm-decode', collector.endpoint);
    const start = (service: string) =>
      startTracing({ endpoint: collector.endpoint, service, ratio: 0, log: silentLogger });
    const [ofPicker, ofSidecar] = await Promise.all([start('picker'), start('sidecar')]);
    const lines: Lines = [];
    const log = recordingLog(lines);
    const proxy = await sidecar(decode.port, [], { log, tracing: ofSidecar });

    // As a gateway does: its own span is the parent of what the picker sees.
    const traceparent = `00-${traceId}-${gatewaySpan}-01`;
    const sent = request(owner === 'client' ? { traceparent } : {});
    const added = await pick(
      new URL(proxy.url).host,
      `127.0.0.1:${prefill.port}`,
      sent,
      body,
      { log, tracing: ofPicker },
      { engine, headers: owner === 'gateway' ? { traceparent } : {} },
    );
    expect(added['x-prefiller-host-port']).toBe(`127.0.0.1:${prefill.port}`);
    const answer = await call(proxy.url, '/v1/chat/completions', {
      headers: withoutPseudo({ ...sent, ...added }),
      body,
    });
    expect(answer.status).toBe(200);
    expect(answer.headers['x-signalbox-prefill']).toBe(`127.0.0.1:${prefill.port}`);

    await proxy.close(0);
    await Promise.all([ofPicker.close(), ofSidecar.close(), prefill.close(), decode.close()]);
    const { spans } = collector;
    await eventually(() => expect(spans.length).toBe(7));
    expect(new Set(spans.map((span) => span.traceId))).toEqual(new Set([traceId]));
    const parentOf = (span: Span) => spans.find(({ spanId }) => spanId === span.parentSpanId);
    const tree = spans.map((span) => {
      const parent = parentOf(span);
      const from = parent ? `${parent.service} ${parent.name}` : span.parentSpanId;
      return `${from} > ${span.service} ${span.name}`;
    });
    expect(tree.sort()).toEqual(
      [
        `${gatewaySpan} > picker gateway.request`,
        'picker gateway.request > picker gateway.request_orchestration',
        'picker gateway.request > sidecar sidecar.request',
        'sidecar sidecar.request > sidecar sidecar.prefill',
        'sidecar sidecar.request > sidecar sidecar.decode',
        'sidecar sidecar.prefill > vllm-prefill llm_request',
        'sidecar sidecar.decode > vllm-decode llm_request',
      ].sort(),
    );
    const attributesOf = (name: string) =>
      Object.fromEntries(
        (spans.find((span) => span.name === name)?.attributes ?? []).map(({ key, value }) => [
          key,
          Object.values(value)[0],
        ]),
      );
    expect(attributesOf('sidecar.request')).toMatchObject({
      'gen_ai.request.id': 'request-1',
      'http.response.status_code': 200,
    });
    expect(attributesOf('gateway.request')).toMatchObject({ 'llm_d.epp.request_id': 'request-1' });
    const engines = spans.filter(({ name }) => name === 'llm_request');
    const completed = engines.map(
      ({ attributes }) => attributes.find(({ key }) => key === 'gen_ai.usage.completion_tokens')?.value.intValue,
    );
    expect(completed.sort()).toEqual([1, 3]);

    const ofRequest = lines.filter(({ requestId }) => requestId === 'request-1').map(({ msg }) => msg);
    expect(ofRequest).toEqual(['endpoint chosen', 'where to compute the prompt']);
  });

  it('that is not recorded is handed on as it came, and makes no span', async () => {
    const collector = await startCollector();
    const decode = await startEngine('vllm', collector.endpoint);
    const tracing = await startTracing({ endpoint: collector.endpoint, service: 's', ratio: 1, log: silentLogger });
    const proxy = await sidecar(decode.port, [], { tracing });
    const { headers } = { headers: withoutPseudo(request({ traceparent: `00-${traceId}-${gatewaySpan}-00` })) };
    expect((await call(proxy.url, '/v1/chat/completions', { headers, body })).status).toBe(200);
    await Promise.all([tracing.close(), decode.close()]);
    expect(collector.spans).toEqual([]);
  });

  it('that fails is named in the lines of the log and marked in its trace', async () => {
    const collector = await startCollector();
    const decode = await startEngine('vllm', undefined);
    const tracing = await startTracing({ endpoint: collector.endpoint, service: 's', ratio: 1, log: silentLogger });
    const lines: Lines = [];
    const dead = await deadPort();
    const proxy = await sidecar(decode.port, ['--prefill-max-retries=0'], { tracing, log: recordingLog(lines) });
    const headers = { 'x-request-id': 'request-2', 'x-prefiller-host-port': `127.0.0.1:${dead}` };
    const answer = await call(proxy.url, '/v1/chat/completions', { headers, body });
    await eventually(() => expect(lines.map(({ level }) => level)).toContain(40));
    expect(lines.filter(({ level }) => Number(level) >= 40).map(({ requestId }) => requestId)).toEqual(['request-2']);
    await proxy.close(0);
    await tracing.close();
    const failed = collector.spans.find(({ name }) => name === 'sidecar.prefill');
    expect(failed?.status).toMatchObject({ code: 2, message: expect.stringContaining('ECONNREFUSED') });
    expect(answer.status).toBeGreaterThanOrEqual(200);
  });
});
