import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { silentLogger } from '../../../telemetry/log.ts';
import { parseEppArgs } from '../../config.ts';
import type { Explanation } from '../../explain.ts';
import { parsePickerConfig } from '../../picker-config.ts';
import { type Epp, startEpp } from '../../start.ts';

let dir: string;
const servers: Server[] = [];
const pickers: Epp[] = [];

/** An engine's metrics page; a function, so that it can change. */
async function engine(page: () => string): Promise<number> {
  const server = createServer((_request, response) => response.end(page()));
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return (server.address() as AddressInfo).port;
}

const usual = 'vllm:num_requests_waiting 0\nvllm:num_requests_running 0\nvllm:kv_cache_usage_perc 0\n';

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'epp-module-'));
});
afterAll(async () => {
  await Promise.all(pickers.map((picker) => picker.close()));
  for (const server of servers) server.close();
  await rm(dir, { recursive: true });
});

async function start(yaml: string, configFile: string, ports: readonly number[]): Promise<Epp> {
  const endpoints = join(dir, `${ports.join('-')}.yaml`);
  const lines = ports.map((port, i) => `- {name: pod-${i}, address: 127.0.0.1, port: "${port}"}`);
  await writeFile(endpoints, `endpoints:\n${lines.join('\n')}\n`);
  const parsed = parseEppArgs(
    [
      ...['--pool-name=p', '--secure-serving=false', '--pod-address=127.0.0.1', '--drain-timeout=10ms'],
      ...['--grpc-port=0', '--grpc-health-port=0', '--metrics-port=0', '--refresh-metrics-interval=50ms'],
      `--config-file=${configFile}`,
    ],
    {},
  );
  if (parsed.kind !== 'config') throw new Error('help');
  const withFiles = `${yaml
    .replace('plugins:', `plugins:\n  - { type: file-discovery, parameters: { path: ${endpoints} } }`)
    .trim()}\ndataLayer: { discovery: { pluginRef: file-discovery } }\n`;
  const epp = await startEpp(parsed.config, parsePickerConfig(withFiles, 'test'), { log: silentLogger });
  pickers.push(epp);
  const isRead = () => epp.datastore.snapshot.endpoints.every(({ load }) => load.isKnown);
  for (let i = 0; i < 200 && !isRead(); i++) await new Promise((resolve) => setTimeout(resolve, 10));
  return epp;
}

async function moduleOf(source: string): Promise<string> {
  const path = join(dir, `m${Math.random().toString(36).slice(2)}.mjs`);
  await writeFile(path, source);
  return path;
}

const profile = (path: string, more = ''): string => `
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
  - { name: own, type: module, parameters: { path: ${path}, timeout: 40ms${more} } }
schedulingProfiles:
  - { name: default, plugins: [{ pluginRef: own, weight: 2 }] }
`;

const chat = JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'Hello!' }] });

async function ask(epp: Epp): Promise<Explanation> {
  const response = await fetch(`http://127.0.0.1:${epp.metricsPort}/debug/explain`, { method: 'POST', body: chat });
  expect(response.status).toBe(200);
  return (await response.json()) as Explanation;
}

const scoresOf = ({ profiles }: Explanation) => profiles[0]?.candidates.map(({ scores }) => scores?.own);

describe('a scorer of a user', () => {
  it('scores by free GPU memory, as config/epp/gpu-memory.yaml has it', async () => {
    const { readFile } = await import('node:fs/promises');
    const path = join(import.meta.dirname, '../../../../config/epp/gpu-memory.yaml');
    const gpu = (used: string) => () => `${usual}gpu_memory_used_bytes ${used}\ngpu_memory_total_bytes 80000000000\n`;
    const ports = [
      await engine(gpu('6e10')),
      await engine(gpu('2e10')),
      await engine(gpu('79.5e9')),
      await engine(() => usual),
    ];
    const epp = await start(await readFile(path, 'utf8'), path, ports);
    const explanation = await ask(epp);
    expect(explanation.profiles[0]?.candidates.map(({ scores }) => scores?.['gpu-memory-scorer'])).toEqual([
      0.25, 0.75, 0, 0,
    ]);
    expect(explanation.profiles[0]?.weights['gpu-memory-scorer']).toBe(1.5);
    expect(explanation.picked).toEqual([`127.0.0.1:${ports[1]}`]);
  });

  it('may be asynchronous, sees headers, labels and all pods, and is clamped', async () => {
    const path = await moduleOf(`
      export default async ({ base }) => ({
        async score(request, pod, pods) {
          await null;
          return pod.name === 'pod-1' ? base + pods.length : -1;
        },
      });`);
    const ports = [await engine(() => usual), await engine(() => usual)];
    const epp = await start(profile(path, ', parameters: { base: 5 }'), '', ports);
    expect(scoresOf(await ask(epp))).toEqual([0, 1]);
  });

  it.each([
    ['throws', 'export default { score() { throw new Error("boom"); } };', 'threw'],
    ['never settles', 'export default { score: () => new Promise(() => {}) };', 'late'],
    ['gives no number', 'export default { score: () => "high" };', 'invalid'],
    ['loops for ever', 'export default { score() { for (;;); } };', 'late'],
    ['ends its process', 'export default { score() { process.exit(3); } };', 'down'],
    [
      'fills its heap',
      'export default { score() { const a = []; for (;;) a.push(new Array(1e5).fill(1.5)); } };',
      'late',
    ],
  ])('that %s costs nobody but itself', async (_what, source, reason) => {
    const ports = [await engine(() => usual), await engine(() => usual)];
    const epp = await start(profile(await moduleOf(source)), '', ports);
    // A request that waited for the scorer would not come back before the test's own time is up.
    const explanation = await ask(epp);
    expect(scoresOf(explanation)).toEqual([0, 0]);
    expect(explanation.picked).toHaveLength(1);
    const page = async () => (await fetch(`http://127.0.0.1:${epp.metricsPort}/metrics`)).text();
    expect(await page()).toMatch(
      new RegExp(`signalbox_epp_plugin_failures_total{plugin_name="own",reason="${reason}"} [1-9]`),
    );
  });

  it('that hangs is started again', async () => {
    // The worker that is loaded before the marker is there hangs; the one after it does not.
    const marker = join(dir, 'marker');
    const path = await moduleOf(`
      import { existsSync } from 'node:fs';
      const hangs = !existsSync(${JSON.stringify(marker)});
      export default { score() { if (hangs) for (;;); return 0.5; } };`);
    const epp = await start(profile(path), '', [await engine(() => usual), await engine(() => usual)]);
    await writeFile(marker, '');
    expect(scoresOf(await ask(epp))).toEqual([0, 0]);
    const deadline = Date.now() + 15_000;
    let scores = scoresOf(await ask(epp));
    while (scores?.[0] !== 0.5 && Date.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 200));
      scores = scoresOf(await ask(epp));
    }
    expect(scores).toEqual([0.5, 0.5]);
  }, 20_000);

  it('that is slow in turn is not asked for a while', async () => {
    const calls = join(dir, 'calls');
    const path = await moduleOf(`
      import { appendFileSync } from 'node:fs';
      export default { score() { appendFileSync(${JSON.stringify(calls)}, '.'); return new Promise(() => {}); } };`);
    const epp = await start(profile(path), '', [await engine(() => usual)]);
    for (let i = 0; i < 10; i++) expect(scoresOf(await ask(epp))).toEqual([0]);
    const { size } = await stat(calls);
    expect(size).toBeGreaterThan(0);
    expect(size).toBeLessThan(10);
  });

  it.each([
    ['/nowhere/scorer.mjs', /plugins\[1\]\.parameters\.path: there is no file \/nowhere\/scorer\.mjs/],
    ['export default 7;', /cannot be used: its default export must be an object with score/],
    ['syntax error', /plugins\[1\]\.parameters\.path: .* cannot be used: /],
    ['export default () => { throw new Error("no GPU"); };', /cannot be used: no GPU/],
  ])('that cannot be used stops the start: %s', async (source, message) => {
    const path = source.startsWith('/') ? source : await moduleOf(source);
    await expect(start(profile(path), '', [await engine(() => usual)])).rejects.toThrow(message);
  });
});

describe('an explanation', () => {
  it('is text for people too, and refuses what is no request', async () => {
    const path = await moduleOf('export default { score: () => 0.25 };');
    const epp = await start(profile(path), '', [await engine(() => usual), await engine(() => usual)]);
    const url = `http://127.0.0.1:${epp.metricsPort}/debug/explain`;
    const text = await (await fetch(`${url}?format=text`, { method: 'POST', body: chat })).text();
    expect(text).toMatch(/request {2}[0-9a-f-]{36} \(trial, not sent\)/);
    expect(text).toMatch(/→ default\/pod-\d +127\.0\.0\.1:\d+ +picked +0\.5 +0\.25 → 0\.5/);
    expect(text).toMatch(/default\/pod-0 +\d+ ms +0 +0 +0 +0 +0\/s/);
    const bad = await fetch(url, { method: 'POST', body: '{' });
    expect([bad.status, await bad.text()]).toEqual([400, expect.stringContaining('not valid JSON')]);
    expect((await fetch(`${url}?request=unknown`)).status).toBe(404);
    expect(await (await fetch(url)).json()).toEqual({ requests: [] });
    // Asking leaves no trace.
    expect(epp.datastore.snapshot.endpoints.map(({ load }) => load.inFlight)).toEqual([0, 0]);
  });
});
