import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { Client } from '../../src/kube/client.ts';
import { loadKubeConfig } from '../../src/kube/config.ts';
import type { KubeObject, Manifest } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { createClient } from '../../src/kube/rest-client.ts';
import { createLogger } from '../../src/telemetry/log.ts';
import { prefillDecodeService } from '../builders/service.ts';
import { commandOf, cpuUs, descendantsOf, firstLine, root, startNode, stop } from './process.ts';

/**
 * The whole path as a user has it: an embedded cluster with Signalbox installed, two decode pods and one prefill pod of simulators
 * that take no time, and a load of 1 KiB prompts through Envoy, each a conversation of its own, so that every request is
 * prefilled and decoded. CPU is that of each part's processes. `SECONDS` a case from the environment, default 8.
 */

const seconds = Number(process.env.SECONDS ?? 8);
const namespace = 'default';
const name = 'chat';
const cluster = 'bench';
const promptBytes = 1024;
const cases = [
  { connections: 1, beside: 'to reach: 292/s, p50 3.1 ms' },
  { connections: 16, beside: 'to reach: 645/s, p50 24 ms' },
  { connections: 64, beside: 'to reach: 736/s, p50 84 ms' },
] as const;

const run = promisify(execFile);

interface Service extends KubeObject {
  readonly status?: {
    readonly url?: string;
    readonly conditions?: readonly { readonly type: string; readonly status: string; readonly message?: string }[];
  };
}

/** Two decode pods and one prefill pod whose model takes no time. */
function manifest(): Manifest {
  const env = [
    ...['PREFILL_US_PER_TOKEN', 'OUTPUT_TOKEN_US', 'TRANSFER_US_PER_TOKEN'].map((setting) => ({
      name: `SIGNALBOX_SIM_${setting}`,
      value: '0',
    })),
  ];
  const template = { containers: [{ name: 'main', env, resources: { limits: { 'nvidia.com/gpu': '1' } } }] };
  const { metadata: _made, ...service } = prefillDecodeService({
    name,
    spec: { template, prefill: { replicas: 1, template } },
  });
  return { ...service, metadata: { namespace, name } };
}

async function awaitReady(client: Client): Promise<URL> {
  const end = performance.now() + 90_000;
  for (;;) {
    const service = await client.get<Service>(resources.llmInferenceServices, { namespace, name });
    const ready = service?.status?.conditions?.find(({ type }) => type === 'Ready');
    if (ready?.status === 'True' && service?.status?.url) return new URL(service.status.url);
    if (performance.now() > end) throw new Error(`the service is not ready after 90 s: ${ready?.message}`);
    await sleep(100);
  }
}

function request(url: URL): string {
  const bodyOf = (content: string) =>
    JSON.stringify({ model: name, max_tokens: 16, messages: [{ role: 'user', content }] });
  const body = bodyOf('@'.repeat(16).padEnd(promptBytes, ' words of a prompt that nobody has sent before'));
  return `POST ${url.pathname}/v1/chat/completions HTTP/1.1\r\nhost: ${url.host}\r\ncontent-type: application/json\r\nauthorization: Bearer bench\r\nuser-agent: bench\r\naccept: */*\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
}

interface Load {
  readonly requests: number;
  readonly errors: number;
  readonly withoutPrefill: number;
  readonly elapsedMs: number;
  readonly p50Us: number;
  readonly p99Us: number;
  readonly firstError?: string;
}

async function load(url: URL, connections: number, duration: number): Promise<Load> {
  const child = startNode('test/bench/load.ts', [
    `${url.hostname}:${url.port || 80}`,
    String(connections),
    String(duration),
  ]);
  try {
    child.stderr?.pipe(process.stderr);
    child.stdin?.end(request(url));
    return JSON.parse(await firstLine(child.stdout, /^\{/)) as Load;
  } finally {
    await stop(child);
  }
}

/** The parts of the path and the processes of each, among those of the cluster. */
function findParts(clusterPid: number): ReadonlyMap<string, readonly number[]> {
  const partOf = (words: readonly string[]): string | undefined => {
    // Not the shells and launchers in front of a program: their words name it, too.
    const program = words[0]?.split('/').at(-1);
    if (program?.startsWith('envoy')) return 'Envoy';
    if (program !== 'node') return undefined;
    const script =
      words
        .find((word) => /\.m?[jt]s$/.test(word))
        ?.split('/')
        .at(-1) ?? '';
    if (script.startsWith('epp.')) return 'endpoint picker';
    if (script.startsWith('sidecar.')) return 'sidecars (2)';
    if (script.startsWith('sim.'))
      return words.includes('--port=8001') || words.join(' ').includes('--port 8001')
        ? 'decode simulators (2)'
        : 'prefill simulator';
    return script.startsWith('signalbox.') ? 'node, network, gateway' : undefined;
  };
  const parts = new Map<string, readonly number[]>();
  for (const pid of descendantsOf(clusterPid)) {
    const part = partOf(commandOf(pid));
    if (part) parts.set(part, [...(parts.get(part) ?? []), pid]);
  }
  return parts;
}

async function measure(url: URL, clusterPid: number): Promise<void> {
  const parts = findParts(clusterPid);
  const order = [
    'Envoy',
    'endpoint picker',
    'sidecars (2)',
    'prefill simulator',
    'decode simulators (2)',
    'node, network, gateway',
  ];
  for (const part of order) if (!parts.has(part)) throw new Error(`no process is ${part}`);
  const sumUs = (part: string) => (parts.get(part) ?? []).reduce((total, pid) => total + cpuUs(pid), 0);
  process.stdout.write(
    `1 KiB prompts, each prefilled and decoded, 16 tokens; everything on this machine, ${seconds} s a case\n`,
  );
  const table: string[] = [
    `  CPU per request, µs     ${cases.map(({ connections }) => `${connections}`.padStart(7)).join('')}   connections\n`,
  ];
  const used = new Map<string, number[]>();
  await load(url, 16, 3);
  for (const { connections, beside } of cases) {
    await load(url, connections, 1);
    const before = order.map(sumUs);
    const seen = await load(url, connections, seconds);
    order.forEach((part, i) => {
      used.set(part, [...(used.get(part) ?? []), (sumUs(part) - (before[i] ?? 0)) / seen.requests]);
    });
    const perSecond = Math.round((seen.requests * 1000) / seen.elapsedMs);
    process.stdout.write(
      `  ${`${connections}`.padStart(2)} connections ${`${perSecond}`.padStart(6)}/s  p50 ${(seen.p50Us / 1000).toFixed(1).padStart(5)} ms  p99 ${(seen.p99Us / 1000).toFixed(1).padStart(6)} ms  errors ${seen.errors}${seen.withoutPrefill > 0 ? `, ${seen.withoutPrefill} without prefill` : ''}   (${beside})\n`,
    );
    if (seen.firstError !== undefined) process.stdout.write(`    first error: ${seen.firstError}\n`);
  }
  for (const part of order) {
    const beside = part === 'endpoint picker' ? '   (Go: 590-1280)' : '';
    table.push(
      `  ${part.padEnd(24)}${(used.get(part) ?? []).map((us) => us.toFixed(0).padStart(7)).join('')}${beside}\n`,
    );
  }
  process.stdout.write(table.join(''));
}

async function main(): Promise<void> {
  const stateHome = mkdtempSync(join(tmpdir(), 'signalbox-bench-'));
  const signalbox = (...args: readonly string[]) =>
    run(process.execPath, [join(root, 'dist/signalbox.mjs'), ...args, '--name', cluster], {
      env: { ...process.env, XDG_STATE_HOME: stateHome },
      timeout: 150_000,
    });
  let downing: Promise<void> | undefined;
  const down = () => {
    downing ??= (async () => {
      await signalbox('down').catch((thrown: unknown) => process.stderr.write(`${String(thrown)}\n`));
      rmSync(stateHome, { recursive: true, force: true });
    })();
    return downing;
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => {
      void down().then(() => process.exit(1));
    });
  try {
    await signalbox('up', '--detach');
    const folder = join(stateHome, 'signalbox', cluster);
    const { pid } = JSON.parse(readFileSync(join(folder, 'cluster.json'), 'utf8')) as { readonly pid: number };
    const client = createClient(await loadKubeConfig({ path: join(folder, 'admin.kubeconfig') }), {
      log: createLogger({ name: 'bench', level: 'error' }),
    });
    let url: URL;
    try {
      await client.apply(resources.llmInferenceServices, manifest(), { fieldManager: 'kubectl', force: true });
      url = await awaitReady(client);
    } finally {
      await client.close();
    }
    await measure(url, pid);
  } finally {
    await down();
  }
}

await main();
