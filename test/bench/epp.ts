/**
 * Cost of the endpoint picker: the real binary on one core, driven over ext_proc as a gateway does it (request headers,
 * body, response headers, response body) from another process on the other core. CPU time is the picker's process alone.
 *
 * node test/bench/epp.ts [--seconds 4] [--only TEXT] [--cpu-prof DIR] [-- flags of the picker]
 */
import { type ChildProcess, fork, spawn, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../src/clock.ts';
import { Datastore } from '../../src/epp/datalayer/datastore.ts';
import { createTurnClock } from '../../src/epp/datalayer/turn-clock.ts';
import { Cycle } from '../../src/epp/framework/cycle-state.ts';
import { Scheduler } from '../../src/epp/framework/scheduler.ts';
import { buildScheduler, parsePickerConfig } from '../../src/epp/picker-config.ts';
import { pluginFactories } from '../../src/epp/plugins/register.ts';
import { parseCompletion, promptText } from '../../src/openai/request.ts';
import { prompt, type Run, type RunResult } from './epp-driver.ts';
import { cpuUs, figure, firstLine, residentMib, root, stop } from './process.ts';

const kib = 1024;
const optionOf = (name: string): string | undefined => {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? undefined : process.argv[at + 1];
};
const seconds = Number(optionOf('seconds') ?? 4);
const only = optionOf('only') ?? '';
const profileDir = optionOf('cpu-prof');
const pickerFlags = process.argv.includes('--') ? process.argv.slice(process.argv.indexOf('--') + 1) : [];
const canPin = availableParallelism() > 1 && spawnSync('taskset', ['-V']).status === 0;

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

interface Driver {
  readonly enginesPort: number;
  run(run: Run): Promise<RunResult>;
  close(): void;
}

async function startDriver(): Promise<Driver> {
  const child = fork(join(import.meta.dirname, 'epp-driver.ts'), { stdio: 'inherit' });
  if (canPin) spawnSync('taskset', ['-a', '-cp', '1', String(child.pid)]);
  const hear = <T>(): Promise<T> =>
    new Promise((resolve, reject) => {
      child.once('message', (message) => resolve(message as T));
      child.once('exit', () => reject(new Error('the driver is gone')));
    });
  const { enginesPort } = await hear<{ enginesPort: number }>();
  return {
    enginesPort,
    run: async (run) => {
      child.send(run);
      const { result, error } = await hear<{ result?: RunResult; error?: string }>();
      if (result === undefined) throw new Error(error);
      return result;
    },
    close: () => child.disconnect(),
  };
}

interface Picker {
  readonly child: ChildProcess;
  readonly pid: number;
  readonly port: number;
}

/** The picker as it is shipped, with so many endpoints, each scraped so often. */
async function startPicker(dir: string, enginesPort: number, endpoints: number, scraping: string): Promise<Picker> {
  const list = Array.from(
    { length: endpoints },
    (_, i) => `- {name: p${i}, address: 127.0.1.${i + 1}, port: "${enginesPort}"}`,
  );
  await writeFile(join(dir, 'endpoints.yaml'), `endpoints:\n${list.join('\n')}\n`);
  await writeFile(join(dir, 'epp.yaml'), pickerYaml(join(dir, 'endpoints.yaml')));
  const args = [
    ...['--pool-name', 'bench', '--config-file', join(dir, 'epp.yaml'), '--secure-serving=false'],
    ...['--grpc-port', '0', '--grpc-health-port', '0', '--metrics-port', '0', '--pod-address', '127.0.0.1'],
    ...['--drain-timeout', '0', '--refresh-metrics-interval', scraping, ...pickerFlags],
  ];
  const command = [...(canPin ? ['taskset', '-c', '0'] : []), join(root, 'bin', 'signalbox-epp'), ...args];
  const profiling = profileDir === undefined ? '' : `--cpu-prof --cpu-prof-dir=${profileDir}`;
  const NODE_OPTIONS = `${process.env.NODE_OPTIONS ?? ''} ${profiling}`.trim();
  const child = spawn(command[0] ?? '', command.slice(1), {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, NODE_OPTIONS },
  });
  const listening = await firstLine(child.stderr, /"listening"/);
  return { child, pid: child.pid ?? 0, port: (JSON.parse(listening) as { grpcPort: number }).grpcPort };
}

const peakMib = (pid: number): number =>
  Number(/^VmHWM:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) / kib;
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** One load on a picker that has just started and was warmed up. */
async function load(
  driver: Driver,
  dir: string,
  of: { readonly endpoints: number; readonly scraping: string; readonly width: number; readonly promptBytes: number },
): Promise<RunResult & { readonly cpuUsPerRequest: number; readonly perCoreSecond: number }> {
  const picker = await startPicker(dir, driver.enginesPort, of.endpoints, of.scraping);
  try {
    const run = { port: picker.port, width: of.width, promptBytes: of.promptBytes };
    await driver.run({ ...run, seconds: 2 });
    const before = cpuUs(picker.pid);
    const result = await driver.run({ ...run, seconds });
    const cpuUsPerRequest = (cpuUs(picker.pid) - before) / result.done;
    return { ...result, cpuUsPerRequest, perCoreSecond: 1e6 / cpuUsPerRequest };
  } finally {
    await stop(picker.child);
  }
}

type Bench = (driver: Driver, dir: string) => Promise<string>;

const us = (value: number): string => `${value.toFixed(0)} µs`;
const rate = ({ done, elapsedMs }: RunResult): string => `${((done * 1000) / elapsedMs).toFixed(0)}/s`;

const benches: Readonly<Record<string, Bench>> = {
  '10 endpoints': async (driver, dir) => {
    const seen = await load(driver, dir, { endpoints: 10, scraping: '1s', width: 16, promptBytes: 8 * kib });
    return [
      figure('CPU per request, 10 endpoints, 16 at a time', us(seen.cpuUsPerRequest), 'to reach: 90 µs; Go: 717 µs'),
      figure(
        'decision p50 / p99 at 16 at a time',
        `${seen.p50Ms.toFixed(1)} / ${seen.p99Ms.toFixed(1)} ms`,
        'to reach: 1.2 / 5 ms; Go: 4.9 / 22 ms',
      ),
    ].join('');
  },
  '100 endpoints': async (driver, dir) => {
    const seen = await load(driver, dir, { endpoints: 100, scraping: '1s', width: 16, promptBytes: 8 * kib });
    return figure(
      'CPU per request, 100 endpoints read every 1 s',
      us(seen.cpuUsPerRequest),
      'to reach: 120 µs; Go: 1,197 µs',
    );
  },
  '64 at a time': async (driver, dir) => {
    const seen = await load(driver, dir, { endpoints: 100, scraping: '1s', width: 64, promptBytes: 8 * kib });
    return (
      figure('requests/s, 100 endpoints, 64 at a time', rate(seen), 'to reach: 8,000/s; Go: 983/s') +
      figure('  and for each second of CPU', `${seen.perCoreSecond.toFixed(0)}/s`)
    );
  },
  '64 KiB': async (driver, dir) => {
    const seen = await load(driver, dir, { endpoints: 10, scraping: '1s', width: 16, promptBytes: 64 * kib });
    return (
      figure('64 KiB prompts, 10 endpoints, 16 at a time', rate(seen), 'to reach: 2,500/s; Go: 315/s') +
      figure('  and for each second of CPU', `${seen.perCoreSecond.toFixed(0)}/s`)
    );
  },
  idle: async (driver, dir) => {
    const picker = await startPicker(dir, driver.enginesPort, 100, '50ms');
    try {
      await sleep(2000);
      const before = cpuUs(picker.pid);
      const start = performance.now();
      await sleep(seconds * 1000);
      const cores = (cpuUs(picker.pid) - before) / 1000 / (performance.now() - start);
      return figure('idle, 100 endpoints read every 50 ms', `${cores.toFixed(2)} cores`, 'to reach: 0.3; Go: 0.99');
    } finally {
      await stop(picker.child);
    }
  },
  memory: async (driver, dir) => {
    const picker = await startPicker(dir, driver.enginesPort, 100, '1s');
    try {
      await sleep(1500);
      const atStart = residentMib(picker.pid);
      const run = { port: picker.port, width: 16, promptBytes: 8 * kib, requests: 10_000, isDistinct: true };
      await driver.run(run);
      return figure(
        'RSS with 10,000 chains of prefixes, 100 endpoints',
        `${residentMib(picker.pid).toFixed(0)} MiB`,
        `peak ${peakMib(picker.pid).toFixed(0)}, at the start ${atStart.toFixed(0)}; to reach: 150; Go: 136`,
      );
    } finally {
      await stop(picker.child);
    }
  },
  scheduling: async () => {
    const [large, small] = [await choose(1000), await choose(100)];
    return (
      figure('one choice, 1,000 endpoints, 4 scorers', us(large), 'to reach: 150 µs; Go: –') +
      figure('one choice, 100 endpoints, 4 scorers', us(small), 'hashing the prompt included; Go: 28 µs without')
    );
  },
};

const schedulingYaml = `
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: queue-scorer}, {type: kv-cache-utilization-scorer}, {type: prefix-cache-scorer}, {type: active-request-scorer}]
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
  - {pluginRef: active-request-scorer, weight: 1}
`;

/** Microseconds of one choice alone, from the parsed request on. */
async function choose(endpointCount: number): Promise<number> {
  const datastore = new Datastore(createTurnClock(systemClock), 1e9);
  datastore.replace(
    Array.from({ length: endpointCount }, (_, i) => ({
      id: `ns/p${i}`,
      name: `p${i}`,
      namespace: 'ns',
      address: `10.0.${i >> 8}.${i & 255}`,
      port: 8000,
      labels: {},
      isReady: true,
    })),
  );
  for (const [i, { load }] of datastore.snapshot.endpoints.entries()) {
    load.beginReading();
    load.endReading({ waiting: i % 7, running: i % 11, kvUsage: (i % 13) / 20 });
  }
  const { parts } = buildScheduler(parsePickerConfig(schedulingYaml, 'bench'), {
    factories: pluginFactories,
    clock: systemClock,
    random: Math.random,
  });
  const scheduler = new Scheduler(parts);
  const completions = Array.from({ length: 256 }, (_, i) => parseCompletion('chat', Buffer.from(prompt(i, 8 * kib))));
  const run = async (count: number): Promise<number> => {
    const before = process.cpuUsage();
    for (let i = 0; i < count; i++) {
      // A gateway's messages come a few a turn.
      if (i % 8 === 0) await new Promise((resolve) => setImmediate(resolve));
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
      const ends = scheduler
        .schedule(new Cycle(request, endpoints), endpoints, new Map())
        .endpoints.map(({ load }) => (load as (typeof endpoints)[number]['load']).begin());
      for (const end of ends) end();
    }
    const { user, system } = process.cpuUsage(before);
    return (user + system) / count;
  };
  await run(5000);
  return run(10_000);
}

const dir = await mkdtemp(join(tmpdir(), 'bench-epp-'));
const driver = await startDriver();
process.stdout.write(
  `endpoint picker over ext_proc, 8 KiB prompts, ${canPin ? 'each side on a core of its own' : 'not pinned'}\n`,
);
try {
  for (const [name, bench] of Object.entries(benches)) {
    if (name.includes(only)) process.stdout.write(await bench(driver, dir));
  }
} finally {
  driver.close();
  await rm(dir, { recursive: true });
}
