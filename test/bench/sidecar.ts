import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { cpuUs, residentMib } from './process.ts';

/**
 * CPU and requests a second of the sidecar as it is run: a process of its own, the load and the engines in two others. CPU is the
 * sidecar's alone, as its own metrics tell it. `SECONDS` a case from the
 * environment, default 4.
 */

/** As in the image. */
const nodeFlags = ['--max-semi-space-size=4', ...(process.env.SIDECAR_FLAGS ?? '').split(' ').filter(Boolean)];
const seconds = Number(process.env.SECONDS ?? 4);
const root = join(import.meta.dirname, '..', '..');
const entry =
  process.env.SIDECAR ?? (existsSync(join(root, 'dist/sidecar.mjs')) ? 'dist/sidecar.mjs' : 'src/cmd/sidecar.ts');
const children: ChildProcess[] = [];

function run(file: string, args: readonly string[], flags: readonly string[] = []): ChildProcess {
  const child = spawn(process.execPath, [...flags, join(root, file), ...args], { stdio: ['pipe', 'pipe', 'pipe'] });
  children.push(child);
  return child;
}

async function firstLine(stream: NodeJS.ReadableStream | null, pattern: RegExp): Promise<string> {
  if (!stream) throw new Error('the process has no output');
  for await (const line of createInterface({ input: stream })) if (pattern.test(line)) return line;
  throw new Error('the process ended before it was ready');
}

interface Load {
  readonly requests: number;
  readonly errors: number;
  readonly p50Us: number;
  readonly p99Us: number;
}

async function load(port: number, request: string, duration: number, connections = 32): Promise<Load> {
  const child = run('test/bench/load.ts', [`127.0.0.1:${port}`, String(connections), String(duration)]);
  child.stdin?.end(request);
  return JSON.parse(await firstLine(child.stdout, /^\{/)) as Load;
}

async function cpuSeconds(metricsUrl: string): Promise<number> {
  const text = await (await fetch(`${metricsUrl}/metrics`)).text();
  return Number(/^process_cpu_seconds_total (\S+)/m.exec(text)?.[1] ?? 0);
}

function post(path: string, content: string, headers: string): string {
  const messages = [{ role: 'user', content }];
  let body = JSON.stringify({ model: 'bench', max_tokens: 16, messages });
  body = JSON.stringify({
    model: 'bench',
    max_tokens: 16,
    messages: [{ role: 'user', content: content.padEnd(content.length + 1024 - body.length, 'x') }],
  });
  return `POST ${path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\nauthorization: Bearer bench\r\nuser-agent: bench\r\naccept: */*\r\n${headers}content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
}

async function gauge(metricsUrl: string, name: string): Promise<number> {
  const text = await (await fetch(`${metricsUrl}/metrics`)).text();
  return Number(new RegExp(`^${name} (\\S+)`, 'm').exec(text)?.[1] ?? 0);
}

const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(0)} MB`;

/** Resident memory and open files over `REQUESTS` requests with a prefill, half before the first look. */
async function memory(port: number, metricsUrl: string, prefill: number): Promise<void> {
  const request = post('/v1/chat/completions', 'm', `x-prefiller-host-port: 127.0.0.1:${prefill}\r\n`);
  const wanted = Number(process.env.REQUESTS ?? 100_000);
  const seen: string[] = [];
  for (let done = 0, looks = 1; looks <= 4; ) {
    done += (await load(port, request, 1)).requests;
    if (done < (wanted * looks) / 4) continue;
    looks++;
    const rss = await gauge(metricsUrl, 'process_resident_memory_bytes');
    const files = await gauge(metricsUrl, 'process_open_fds');
    seen.push(`${Math.round(done / 1000)}k: ${megabytes(rss)}, ${files} files`);
  }
  process.stdout.write(`memory after requests with a prefill          ${seen.join(' · ')}\n`);
}

interface Streams {
  readonly errors: number;
  readonly chunks: number;
  readonly firstP50: number;
  readonly firstP99: number;
  readonly delayP50: number;
  readonly delayP99: number;
}

/** What the sidecar adds to streams at the same time: the same load straight to the engine, then through it, each after a round that warms up. */
async function streams(count: number, chunks: number, intervalMs: number, reach: string): Promise<void> {
  const file = 'test/bench/sidecar-streams.ts';
  const engine = run(file, ['engine', String(intervalMs)]);
  const { port } = JSON.parse(await firstLine(engine.stdout, /^\{/)) as { readonly port: number };
  const sidecar = run(
    entry,
    [
      '--port=0',
      '--metrics-port=0',
      '--pod-address=127.0.0.1',
      `--decoder-port=${port}`,
      '--max-idle-conns-per-host=4096',
    ],
    nodeFlags,
  );
  const { url } = JSON.parse(await firstLine(sidecar.stderr, /"listening"/)) as { readonly url: string };
  const pid = sidecar.pid ?? 0;
  const measure = async (to: number, each: number) => {
    const child = run(file, ['load', String(to), String(count), String(each)]);
    return JSON.parse(await firstLine(child.stdout, /^\{/)) as Streams;
  };
  await new Promise((resolve) => setTimeout(resolve, 1000));
  const idle = residentMib(pid);
  const own = Number(new URL(url).port);
  await measure(port, 2);
  const straight = await measure(port, chunks);
  const cold = await measure(own, 2);
  let most = 0;
  const watch = setInterval(() => {
    most = Math.max(most, residentMib(pid));
  }, 100);
  const before = cpuUs(pid);
  const through = await measure(own, chunks);
  const spentUs = cpuUs(pid) - before;
  clearInterval(watch);
  const added = (key: 'firstP50' | 'firstP99' | 'delayP50' | 'delayP99', of = through) =>
    (of[key] - straight[key]).toFixed(2);
  process.stdout.write(
    [
      `${`${count} streams × ${1000 / intervalMs} chunks/s`.padEnd(40)} ${(spentUs / through.chunks).toFixed(0).padStart(5)} µs CPU a chunk  errors ${through.errors + straight.errors}   (${reach})`,
      `  added to each chunk                      p50 ${added('delayP50')} ms  p99 ${added('delayP99')} ms   (without: ${straight.delayP50}, ${straight.delayP99} ms)`,
      `  added to the first token                 p50 ${added('firstP50')} ms  p99 ${added('firstP99')} ms   (without: ${straight.firstP50}, ${straight.firstP99} ms; sidecar just started: p50 ${added('firstP50', cold)} ms)`,
      `  memory                                   ${idle.toFixed(0)} MiB idle, ${most.toFixed(0)} MiB with the streams\n`,
    ].join('\n'),
  );
  sidecar.kill('SIGTERM');
  engine.kill('SIGTERM');
}

try {
  const backend = run('test/bench/sidecar-backend.ts', []);
  const ports = JSON.parse(await firstLine(backend.stdout, /^\{/)) as {
    readonly prefill: number;
    readonly decode: number;
  };
  const sidecar = run(
    entry,
    ['--port=0', '--metrics-port=0', '--pod-address=127.0.0.1', `--decoder-port=${ports.decode}`, '--pod-name=bench'],
    nodeFlags,
  );
  const listening = JSON.parse(await firstLine(sidecar.stderr, /"listening"/)) as {
    readonly url: string;
    readonly metricsUrl: string;
  };
  const port = Number(new URL(listening.url).port);
  const cases = [
    {
      name: 'passed through (POST /v1/embeddings)',
      connections: 32,
      peer: 'to reach 75 µs, 12,500/s; Go 158 µs, 6,160/s',
      request: post('/v1/embeddings', 'e', ''),
    },
    {
      name: 'completion, local, session kept',
      connections: 32,
      peer: 'Go 158 µs, 6,160/s',
      request: post('/v1/chat/completions', 'c', ''),
    },
    {
      name: 'prefill + decode',
      connections: 32,
      peer: 'to reach 180 µs, 5,200/s; Go 399 µs, 2,465/s',
      request: post('/v1/chat/completions', 'p', `x-prefiller-host-port: 127.0.0.1:${ports.prefill}\r\n`),
    },
    {
      name: 'prefill + decode, 256 connections',
      connections: 256,
      peer: 'to reach p99 110 ms; Go 218 ms',
      request: post('/v1/chat/completions', 'q', `x-prefiller-host-port: 127.0.0.1:${ports.prefill}\r\n`),
    },
  ];
  process.stdout.write(`1 KiB POST, 32 connections unless said, ${seconds} s a case\n`);
  const only = process.env.ONLY;
  for (const { name, peer, request, connections } of cases.filter((item) => !only || item.name.includes(only))) {
    await load(port, request, 2, connections);
    const before = await cpuSeconds(listening.metricsUrl);
    const seen = await load(port, request, seconds, connections);
    const cpuUs = ((await cpuSeconds(listening.metricsUrl)) - before) * 1e6;
    process.stdout.write(
      `${name.padEnd(40)} ${(cpuUs / seen.requests).toFixed(0).padStart(5)} µs CPU  ${Math.round(
        seen.requests / seconds,
      )
        .toLocaleString('en')
        .padStart(
          7,
        )}/s  p50 ${(seen.p50Us / 1000).toFixed(2)} ms  p99 ${(seen.p99Us / 1000).toFixed(2)} ms  errors ${seen.errors}   (${peer})\n`,
    );
  }
  if (!only || 'memory'.includes(only)) await memory(port, listening.metricsUrl, ports.prefill);
  sidecar.kill('SIGTERM');
  await new Promise((resolve) => sidecar.once('exit', resolve));
  if (!only || 'streams'.includes(only)) {
    await streams(200, 100, 50, 'to reach: a chunk p50 0.3, p99 8 ms');
    await streams(2000, 20, 500, 'to reach: first token p50 10 ms, 70 MB idle, 200 MB; Go 97 ms, 75 MB after load');
  }
} finally {
  for (const child of children) child.kill();
}
