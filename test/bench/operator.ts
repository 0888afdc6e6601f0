import type { ChildProcess } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { GatewayClass } from '../../src/api/foreign/gateway-api.ts';
import { systemClock } from '../../src/clock.ts';
import type { Client } from '../../src/kube/client.ts';
import { loadKubeConfig } from '../../src/kube/config.ts';
import { startInformer } from '../../src/kube/informer.ts';
import type { KubeObject, Manifest } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { createClient } from '../../src/kube/rest-client.ts';
import { freePorts } from '../../src/local/control-plane.ts';
import { findGatewayApiCrds } from '../../src/local/gateway/crds.ts';
import { applyManifests, parseManifests } from '../../src/local/install.ts';
import { createLogger } from '../../src/telemetry/log.ts';
import { prefillDecodeService } from '../builders/service.ts';
import { localEnvironment, startTestControlPlane } from '../cluster/control-plane.ts';
import { figure, firstLine, residentMib, root, startNode, stop } from './process.ts';

/**
 * The operator as a process of its own against a real API server: how long 50 prefill/decode services take, and what a reconcile
 * costs that has nothing to do; then the same with 1,000 of them, and how soon a change of one reaches its pods. No controller but ours runs, so that the API server's time is ours.
 */

const services = 50;
/** And so many in the end. */
const allServices = 1_000;
/** Creations under way at once when there are many. */
const creating = 25;
/** Changes of one service among many, one after the other. */
const changes = 200;
/** Times that each service is woken for nothing. */
const rounds = 10;
const namespace = 'bench';
const className = 'bench';
const log = createLogger({ name: 'bench', level: 'error' });

/** What exists of a kind, by asking for one object of it: the server says how many more there are. */
async function count(client: Client, path: string): Promise<number> {
  const page = await client.request<{
    readonly items: readonly unknown[];
    readonly metadata: { readonly remainingItemCount?: number };
  }>('GET', `${path}?limit=1`);
  return page.items.length + (page.metadata.remainingItemCount ?? 0);
}

const wantedOf = (many: number): readonly (readonly [path: string, count: number])[] => [
  [`/apis/apps/v1/namespaces/${namespace}/deployments`, 3 * many],
  [`/apis/gateway.networking.k8s.io/v1/namespaces/${namespace}/httproutes`, many],
  [`/apis/inference.networking.k8s.io/v1/namespaces/${namespace}/inferencepools`, many],
  [`/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/${namespace}/inferencepools`, many],
];

async function untilAllExist(client: Client, many: number, timeoutMs: number): Promise<void> {
  const missing = new Map(wantedOf(many));
  const end = performance.now() + timeoutMs;
  while (missing.size > 0) {
    await Promise.all(
      [...missing].map(async ([path, expected]) => {
        if ((await count(client, path)) >= expected) missing.delete(path);
      }),
    );
    if (missing.size === 0) return;
    if (performance.now() > end)
      throw new Error(`after ${timeoutMs} ms there are not enough of ${[...missing.keys()]}`);
    await sleep(many > 100 ? 250 : 25);
  }
}

function applyService(client: Client, i: number): Promise<unknown> {
  const { metadata, ...rest } = prefillDecodeService({ name: `chat-${i}`, namespace });
  const manifest = { ...rest, metadata: { name: metadata.name, namespace } };
  return client.apply(resources.llmInferenceServices, manifest, { fieldManager: 'kubectl', force: true });
}

/** How long after each change of a service its Deployment is patched, in milliseconds, ascending. */
async function timeChanges(client: Client): Promise<readonly number[]> {
  const told = new Map<string, (generation: number) => void>();
  const informer = startInformer<KubeObject>(
    client,
    resources.deployments,
    { namespace, isMetadataOnly: true },
    { log },
  );
  await informer.synced;
  informer.subscribe(({ object }) => told.get(object.metadata.name)?.(object.metadata.generation ?? 0));
  const times: number[] = [];
  for (let i = 0; i < changes; i++) {
    const name = `chat-${(i * 97) % allServices}`;
    const deployment = `${name}-kserve`;
    const before = informer.store.get({ namespace, name: deployment })?.metadata.generation ?? 0;
    const patched = new Promise<void>((resolve) => {
      told.set(deployment, (generation) => generation > before && resolve());
    });
    const start = performance.now();
    await client.mergePatch(resources.llmInferenceServices, { namespace, name }, { spec: { replicas: 3 + i } });
    await Promise.race([
      patched,
      sleep(30_000, undefined, { ref: false }).then(() => Promise.reject(new Error(`${deployment} was not patched`))),
    ]);
    times.push(performance.now() - start);
    told.delete(deployment);
  }
  informer.close();
  return times.sort((a, b) => a - b);
}

/** Bytes of each definition as the API server gets it. */
function definitionSizes(): readonly (readonly [name: string, bytes: number])[] {
  return readdirSync(join(root, 'crds'))
    .filter((file) => file.endsWith('.yaml'))
    .flatMap((file) => parseManifests(readFileSync(join(root, 'crds', file), 'utf8'), file))
    .map((manifest) => [manifest.metadata.name, JSON.stringify(manifest).length] as const);
}

interface Readings {
  readonly cpuMs: number;
  readonly requests: number;
  readonly byMethod: Readonly<Record<string, number>>;
  readonly reconciles: number;
}

async function read(metricsUrl: string): Promise<Readings> {
  const text = await (await fetch(metricsUrl)).text();
  const sum = (name: string) =>
    [...text.matchAll(new RegExp(`^${name}(?:{.*})? (\\S+)$`, 'gm'))].reduce(
      (total, [, value]) => total + Number(value),
      0,
    );
  const byMethod = Object.fromEntries(
    [...text.matchAll(/^signalbox_api_requests_total{method="(\w+)"} (\S+)$/gm)].map(([, method, value]) => [
      method ?? '',
      Number(value),
    ]),
  );
  return {
    cpuMs: sum('process_cpu_seconds_total') * 1000,
    requests: sum('signalbox_api_requests_total'),
    byMethod,
    reconciles: sum('signalbox_reconcile_total'),
  };
}

/** The readings once the operator has been at rest for a second. */
async function atRest(metricsUrl: string): Promise<Readings> {
  for (let before = await read(metricsUrl), tries = 0; ; tries++) {
    await sleep(1000);
    const after = await read(metricsUrl);
    if (after.reconciles === before.reconciles && after.requests === before.requests) return after;
    if (tries > 60) throw new Error('the operator does not come to rest');
    before = after;
  }
}

/** Requests other than reads and watches that the API server has answered for the kinds of children and services. */
async function writesSeenByServer(client: Client): Promise<number> {
  const text = await client.request<string>('GET', '/metrics', undefined, { accept: 'text/plain' });
  const kinds =
    /resource="(?:deployments|services|serviceaccounts|roles|rolebindings|inferencepools|httproutes|gateways|llminferenceservices|events)"/;
  return text
    .split('\n')
    .filter(
      (line) =>
        line.startsWith('apiserver_request_total{') && kinds.test(line) && !/verb="(?:WATCH|LIST|GET)"/.test(line),
    )
    .reduce((total, line) => total + Number(line.slice(line.lastIndexOf(' ') + 1)), 0);
}

async function install(client: Client): Promise<void> {
  const files = [
    ...['crds', 'src/local/crds'].flatMap((folder) =>
      readdirSync(join(root, folder))
        .filter((file) => file.endsWith('.yaml'))
        .map((file) => join(root, folder, file)),
    ),
    ...(await findGatewayApiCrds({
      cacheDir: localEnvironment.cacheDir,
      run: () => Promise.reject(new Error('`signalbox up` fetches them')),
    })),
  ];
  const gatewayClass: Manifest = {
    apiVersion: 'gateway.networking.k8s.io/v1',
    kind: 'GatewayClass',
    metadata: { name: className },
    spec: { controllerName: 'signalbox.io/bench' },
  };
  await applyManifests(
    client,
    [
      ...files.flatMap((file) => parseManifests(readFileSync(file, 'utf8'), file)),
      { apiVersion: 'v1', kind: 'Namespace', metadata: { name: namespace } },
      gatewayClass,
    ],
    { fieldManager: 'bench', clock: systemClock },
  );
  const at = new Date().toISOString();
  const accepted: NonNullable<GatewayClass['status']> = {
    conditions: [{ type: 'Accepted', status: 'True', reason: 'Accepted', message: '', lastTransitionTime: at }],
  };
  const manifest = { ...gatewayClass, spec: undefined, status: accepted };
  await client.apply(resources.gatewayClasses, manifest, { fieldManager: 'bench', subresource: 'status' });
}

async function main(): Promise<void> {
  const plane = await startTestControlPlane({ serviceNetwork: '127.207' });
  const client = createClient(await loadKubeConfig({ path: plane.kubeconfigPath }), { log });
  let operator: ChildProcess | undefined;
  let closing: Promise<void> | undefined;
  const close = () => {
    closing ??= (async () => {
      if (operator) await stop(operator);
      await client.close();
      await plane.stop();
    })();
    return closing;
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => {
      void close().then(() => process.exit(1));
    });
  try {
    await install(client);
    const [webhookPort, metricsPort] = await freePorts('127.0.0.1', 2);
    const metricsUrl = `http://127.0.0.1:${metricsPort}/metrics`;
    // As in its image.
    const flags = (process.env.OPERATOR_FLAGS ?? '--max-semi-space-size=4').split(' ').filter(Boolean);
    operator = startNode(
      process.env.OPERATOR ?? 'dist/operator.mjs',
      [
        `--kubeconfig=${plane.kubeconfigPath}`,
        `--webhook-url=https://127.0.0.1:${webhookPort}`,
        `--webhook-port=${webhookPort}`,
        `--metrics-port=${metricsPort}`,
        `--health-port=${metricsPort}`,
        '--pod-address=127.0.0.1',
        '--leader-elect=false',
      ],
      flags,
    );
    operator.stdout?.resume();
    operator.stderr?.on('data', (chunk: Buffer) => {
      for (const line of chunk.toString().split('\n'))
        if (/"level":(?:"(?:error|fatal|warn)"|[4-6]0)/.test(line)) process.stderr.write(`${line}\n`);
    });
    const output = process.env.OPERATOR_OUTPUT === 'stdout' ? operator.stdout : operator.stderr;
    await firstLine(output, /controllers run/);
    const pid = operator.pid ?? 0;
    await atRest(metricsUrl);

    const before = await read(metricsUrl);
    const start = performance.now();
    await Promise.all(Array.from({ length: services }, (_, i) => applyService(client, i)));
    const appliedMs = performance.now() - start;
    await untilAllExist(client, services, 120_000);
    const elapsedMs = performance.now() - start;
    const settled = await atRest(metricsUrl);
    const requests = settled.requests - before.requests;
    const writes = ['POST', 'PUT', 'PATCH'].reduce(
      (sum, method) => sum + (settled.byMethod[method] ?? 0) - (before.byMethod[method] ?? 0),
      0,
    );
    const kinds = Object.entries(settled.byMethod)
      .map(([method, n]) => `${n - (before.byMethod[method] ?? 0)} ${method}`)
      .filter((text) => !text.startsWith('0 '));
    process.stdout.write(
      `${services} prefill/decode services, each 3 Deployments, 3 Services, route, 2 pools and access rules\n`,
    );
    process.stdout.write(
      figure(
        'all Deployments, routes and pools exist after',
        `${(elapsedMs / 1000).toFixed(2)} s`,
        'to reach: 3 s; Go: 74 s',
      ) +
        figure('  of which the user applied', `${(appliedMs / 1000).toFixed(2)} s`) +
        figure('requests to the API server, per service', (requests / services).toFixed(1), kinds.join(', ')) +
        figure('reconciles, per service', ((settled.reconciles - before.reconciles) / services).toFixed(1)) +
        figure(
          '  of which write, events and status included',
          (writes / services).toFixed(1),
          'to reach: 35; Go: 78, with pods 196',
        ) +
        figure(
          'CPU of the operator until quiet',
          `${((settled.cpuMs - before.cpuMs) / 1000).toFixed(2)} s`,
          'to reach: 5 s, admission included; Go: 137 s',
        ) +
        figure('memory of the operator', `${residentMib(pid).toFixed(0)} MiB`, 'Go: 119 MB'),
    );

    const deployments = Array.from({ length: services }, (_, i) => `chat-${i}-kserve`);
    const round = (label: string) =>
      Promise.all(
        deployments.map((name) =>
          client.mergePatch(
            resources.deployments,
            { namespace, name },
            { metadata: { annotations: { bench: label } } },
          ),
        ),
      );
    await round('warm-up');
    const idle = await atRest(metricsUrl);
    const serverBefore = await writesSeenByServer(client);
    for (let i = 0; i < rounds; i++) {
      await round(String(i));
      await sleep(100);
    }
    const after = await atRest(metricsUrl);
    const serverWrites = (await writesSeenByServer(client)) - serverBefore - rounds * services;
    const reconciles = after.reconciles - idle.reconciles;
    if (reconciles === 0) throw new Error('touching a Deployment woke nothing');
    process.stdout.write(
      `\na reconcile that changes nothing, ${reconciles} of them, woken by a foreign annotation on a Deployment\n`,
    );
    process.stdout.write(
      figure(
        'requests to the API server',
        ((after.requests - idle.requests) / reconciles).toFixed(2),
        'to reach: 0; Go: 17 dry-run writes',
      ) +
        figure('  writes that the API server saw', (serverWrites / reconciles).toFixed(2)) +
        figure(
          'CPU of the operator',
          `${((after.cpuMs - idle.cpuMs) / reconciles).toFixed(2)} ms`,
          'the watch included; to reach: 2 ms; Go: 92 ms',
        ),
    );

    const manyStart = performance.now();
    let next = services;
    await Promise.all(
      Array.from({ length: creating }, async () => {
        while (next < allServices) await applyService(client, next++);
      }),
    );
    const manyAppliedMs = performance.now() - manyStart;
    await untilAllExist(client, allServices, 600_000);
    const manyMs = performance.now() - manyStart;
    const many = await atRest(metricsUrl);
    const restedMib = residentMib(pid);
    const times = await timeChanges(client);
    const at = (part: number) => times[Math.min(times.length - 1, Math.floor(times.length * part))] ?? 0;
    await atRest(metricsUrl);
    process.stdout.write(`\n${allServices} services, ${allServices - services} of them at once\n`);
    process.stdout.write(
      figure('all children exist after', `${(manyMs / 1000).toFixed(1)} s`, 'to reach: 90 s') +
        figure('  of which the user applied', `${(manyAppliedMs / 1000).toFixed(1)} s`) +
        figure('CPU of the operator for them', `${((many.cpuMs - after.cpuMs) / 1000).toFixed(1)} s`) +
        figure('change of one until its Deployment is patched', `${at(0.5).toFixed(0)} ms`, 'p50') +
        figure('', `${at(0.99).toFixed(0)} ms`, 'p99, to reach: 300 ms') +
        figure('memory of the operator', `${restedMib.toFixed(0)} MiB`, 'to reach: 300 MB') +
        figure('  after the changes', `${residentMib(pid).toFixed(0)} MiB`),
    );
    process.stdout.write('\nour definitions, as JSON\n');
    for (const [name, bytes] of definitionSizes())
      process.stdout.write(figure(name, `${(bytes / 1024).toFixed(0)} KiB`, 'to reach: 256 KiB; Go: 2.7 MB'));
  } finally {
    await close();
  }
}

await main();
