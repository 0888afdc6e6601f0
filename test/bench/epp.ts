/**
 * Cost of the endpoint picker: the real binary with 100 endpoints, driven over ext_proc as a gateway does it (request
 * headers, 8 KiB body, response headers, response body), CPU time of the picker's process only; then one choice alone.
 *
 * node test/bench/epp.ts [--seconds 5] [--streams 64] [--cpu-prof DIR]
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import http2 from 'node:http2';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import protobuf from 'protobufjs';
import { systemClock } from '../../src/clock.ts';
import { Datastore } from '../../src/epp/datalayer/datastore.ts';
import { Cycle } from '../../src/epp/framework/cycle-state.ts';
import { Scheduler } from '../../src/epp/framework/scheduler.ts';
import { buildScheduler, parsePickerConfig } from '../../src/epp/picker-config.ts';
import { pluginFactories } from '../../src/epp/plugins/register.ts';
import { parseCompletion, promptText } from '../../src/openai/request.ts';
import { stop } from './process.ts';

const endpointCount = 100;
const option = (name: string, fallback: number): number => {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? fallback : Number(process.argv[at + 1]);
};

const proto = protobuf.parse(
  readFileSync(new URL('../../src/epp/extproc/testdata/ext_proc.proto', import.meta.url), 'utf8'),
  { keepCase: true },
).root;
const ProcessingRequest = proto.lookupType('envoy.service.ext_proc.v3.ProcessingRequest');

function frame(message: Record<string, unknown>): Buffer {
  const bytes = ProcessingRequest.encode(message).finish();
  const head = Buffer.alloc(5);
  head.writeUInt32BE(bytes.length, 1);
  return Buffer.concat([head, bytes]);
}

const header = (key: string, value: string) => ({ key, raw_value: Buffer.from(value) });

function requestHeaders(): Buffer {
  const headers = [
    header(':authority', 'llm.example.com'),
    header(':path', '/v1/chat/completions'),
    header(':method', 'POST'),
    header(':scheme', 'http'),
    header('user-agent', 'OpenAI/Python 1.99.9'),
    header('accept', 'application/json'),
    header('accept-encoding', 'gzip, deflate'),
    header('authorization', 'Bearer sk-0123456789012345678901234567890123456789'),
    header('content-type', 'application/json'),
    header('content-length', '8192'),
    header('x-stainless-lang', 'python'),
    header('x-forwarded-for', '10.0.0.17'),
    header('x-forwarded-proto', 'http'),
    header('x-request-id', '6c1f7a50-7be3-4a9e-9f3d-3f6a2a4c9d11'),
  ];
  return frame({
    request_headers: { headers: { headers } },
    protocol_config: { request_body_mode: 4, response_body_mode: 4 },
  });
}

function prompt(i: number): string {
  // A shared system prompt of 2 KiB, then text of its own.
  const shared = 'You answer briefly and to the point. '.repeat(56).slice(0, 2048);
  const own = `Question ${i}: ${'the quick brown fox jumps over the lazy dog '.repeat(200)}`.slice(
    0,
    8192 - 2048 - 160,
  );
  return JSON.stringify({
    model: 'llama-3-8b',
    stream: true,
    messages: [
      { role: 'system', content: shared },
      { role: 'user', content: own },
    ],
  });
}

const answerHeaders = frame({
  response_headers: { headers: { headers: [header(':status', '200'), header('content-type', 'text/event-stream')] } },
});
const answerBody = frame({
  response_body: {
    body: Buffer.from(
      'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\ndata: {"choices":[],"usage":{"prompt_tokens":2048,"completion_tokens":1}}\n\ndata: [DONE]\n\n',
    ),
    end_of_stream: true,
  },
});

/** Runs streams one after another in each of `width` lanes; resolves with how many were finished. */
async function drive(port: number, width: number, seconds: number): Promise<number> {
  const session = http2.connect(`http://127.0.0.1:${port}`, { settings: { initialWindowSize: 1 << 20 } });
  await new Promise((resolve) => session.once('connect', resolve));
  session.setLocalWindowSize(64 << 20);
  const head = requestHeaders();
  const bodies = Array.from({ length: 512 }, (_, i) =>
    frame({ request_body: { body: Buffer.from(prompt(i)), end_of_stream: true } }),
  );
  const end = performance.now() + seconds * 1000;
  let done = 0;
  let turn = 0;
  const one = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const stream = session.request({
        ':method': 'POST',
        ':path': '/envoy.service.ext_proc.v3.ExternalProcessor/Process',
        'content-type': 'application/grpc',
        te: 'trailers',
      });
      let phase = 0;
      let received = 0;
      stream.on('data', (chunk: Buffer) => {
        received += chunk.length;
        // The body comes back whole behind the header reply.
        if (phase === 0 && received > 8192) {
          phase = 1;
          stream.write(answerHeaders);
          stream.end(answerBody);
        }
      });
      stream.once('error', reject);
      stream.once('end', () => {
        if (phase === 0) reject(new Error('the picker ended the stream early'));
        else resolve();
      });
      stream.write(head);
      stream.write(bodies[turn++ % bodies.length]);
    });
  await Promise.all(
    Array.from({ length: width }, async () => {
      while (performance.now() < end) {
        await one();
        done++;
      }
    }),
  );
  session.destroy();
  return done;
}

/** User and system time of a process, milliseconds (USER_HZ is 100 on Linux). */
function cpuMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

async function untilListening(child: ChildProcess): Promise<{ grpcPort: number }> {
  return new Promise((resolve, reject) => {
    let text = '';
    child.stderr?.on('data', (chunk: Buffer) => {
      text += chunk;
      for (const line of text.split('\n')) {
        if (line.includes('"listening"')) resolve(JSON.parse(line) as { grpcPort: number });
      }
    });
    child.once('exit', (code) => reject(new Error(`the picker exited with ${code}: ${text}`)));
  });
}

const pickerYaml = (path: string): string => `
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: file-discovery, parameters: {path: ${path}}}
- {type: queue-scorer}
- {type: kv-cache-utilization-scorer}
- {type: prefix-cache-scorer}
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
dataLayer: {discovery: {pluginRef: file-discovery}}
`;

async function overExtProc(seconds: number, width: number): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), 'bench-epp-'));
  const page = 'vllm:num_requests_waiting 0\nvllm:num_requests_running 3\nvllm:kv_cache_usage_perc 0.2\n';
  const metrics = createServer((_request, response) => response.end(page));
  await new Promise<void>((resolve) => metrics.listen(0, '0.0.0.0', resolve));
  const { port } = metrics.address() as AddressInfo;
  const list = Array.from(
    { length: endpointCount },
    (_, i) => `- {name: p${i}, address: 127.0.1.${i + 1}, port: "${port}"}`,
  );
  await writeFile(join(dir, 'endpoints.yaml'), `endpoints:\n${list.join('\n')}\n`);
  await writeFile(join(dir, 'epp.yaml'), pickerYaml(join(dir, 'endpoints.yaml')));
  const profile = process.argv.indexOf('--cpu-prof');
  const child = spawn(
    process.execPath,
    [
      ...(profile < 0 ? [] : ['--cpu-prof', `--cpu-prof-dir=${process.argv[profile + 1]}`]),
      fileURLToPath(new URL('../../src/cmd/epp.ts', import.meta.url)),
      ...['--pool-name', 'bench', '--config-file', join(dir, 'epp.yaml'), '--secure-serving=false'],
      ...['--grpc-port', '0', '--grpc-health-port', '0', '--metrics-port', '0', '--pod-address', '127.0.0.1'],
      ...['--drain-timeout', '0'],
    ],
    { stdio: ['ignore', 'ignore', 'pipe'], env: { PATH: process.env.PATH } },
  );
  try {
    const { grpcPort } = await untilListening(child);
    const pid = child.pid ?? 0;
    await drive(grpcPort, width, 2);
    const idleStart = cpuMs(pid);
    await new Promise((resolve) => setTimeout(resolve, 2000));
    const idle = (cpuMs(pid) - idleStart) / 2000;
    const before = cpuMs(pid);
    const start = performance.now();
    const done = await drive(grpcPort, width, seconds);
    const elapsed = performance.now() - start;
    const cpu = cpuMs(pid) - before;
    const us = (cpu * 1000) / done;
    const scrapingUs = (idle * elapsed * 1000) / done;
    console.log(`endpoint picker, ${endpointCount} endpoints, 8 KiB prompts, ext_proc, ${width} streams at once`);
    console.log(
      `  CPU per request            ${us.toFixed(0)} µs (of which scraping ${scrapingUs.toFixed(0)}; to reach: 250; Go: 1000-1200)`,
    );
    console.log(`  requests per second        ${((done * 1000) / elapsed).toFixed(0)} (driver on the same machine)`);
    console.log(`  idle, scraping 5 times/s   ${(idle * 100).toFixed(1)} % of a core (Go at 20 times/s: 710 %)`);
  } finally {
    await stop(child);
    metrics.closeAllConnections();
    metrics.close();
    await rm(dir, { recursive: true });
  }
}

function scheduling(): void {
  const datastore = new Datastore(systemClock, 1e9);
  datastore.replace(
    Array.from({ length: endpointCount }, (_, i) => ({
      id: `ns/p${i}`,
      name: `p${i}`,
      namespace: 'ns',
      address: `10.0.0.${i}`,
      port: 8000,
      labels: {},
      isReady: true,
    })),
  );
  for (const [i, { load }] of datastore.snapshot.endpoints.entries()) {
    load.beginReading();
    load.endReading({ waiting: i % 7, running: i % 11, kvUsage: (i % 13) / 20 });
  }
  const { parts } = buildScheduler(parsePickerConfig('', 'default'), {
    factories: pluginFactories,
    clock: systemClock,
    random: Math.random,
  });
  const scheduler = new Scheduler(parts);
  const completions = Array.from({ length: 256 }, (_, i) => parseCompletion('chat', Buffer.from(prompt(i))));
  const run = (count: number): number => {
    const start = performance.now();
    for (let i = 0; i < count; i++) {
      const completion = completions[i % completions.length];
      if (completion === undefined) continue;
      const request = {
        id: '',
        model: completion.model,
        sessionId: undefined,
        completion,
        header: () => undefined,
        promptText: () => promptText(completion),
      };
      const { endpoints } = datastore.snapshot;
      scheduler.schedule(new Cycle(request, endpoints), endpoints, new Map());
    }
    return ((performance.now() - start) * 1000) / count;
  };
  run(5000);
  console.log(
    `  one choice of ${endpointCount}          ${run(20_000).toFixed(1)} µs, hashing the prompt included (Go: 28 µs without)`,
  );
}

await overExtProc(option('seconds', 5), option('streams', 64));
scheduling();
