import { type FSWatcher, watch } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { Server as TlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { dirname } from 'node:path';
import { type Clock, systemClock } from '../clock.ts';
import { AppError, messageOf } from '../errors.ts';
import type { Logger } from '../telemetry/log.ts';
import { type SimConfig, type TlsFiles, vllmVersion } from './config.ts';
import type { Engine } from './engine.ts';
import { Faults } from './faults.ts';
import { Adapters } from './lora.ts';
import { createMetricsPage } from './metrics.ts';
import { type Rank, startRank } from './rank.ts';
import { createHandler, type Handler } from './server.ts';
import { listen } from './side-channel.ts';

export interface Sim {
  /** Of the first port. */
  readonly address: AddressInfo;
  /** Of the first rank. */
  readonly engine: Engine;
  readonly ranks: readonly [Rank, ...Rank[]];
  /** Of each port that requests are served on, by rank where they have their own; none when headless. */
  readonly addresses: readonly AddressInfo[];
  /** Of the health of all ranks; undefined unless each has a port. */
  readonly supervisor: AddressInfo | undefined;
  /** Refuses new requests, lets running ones finish for at most the configured time, then ends everything. */
  close(): Promise<void>;
}

interface SimDeps {
  readonly log: Pick<Logger, 'info' | 'warn'>;
  readonly clock?: Clock;
  readonly signal?: AbortSignal;
  /** Ends the process when a fault asks for that; without it every connection is cut and the port closed. */
  readonly exit?: (code: number) => void;
}

/**
 * Starts a simulated server, or one a rank where data-parallel ranks have a port each.
 *
 * @param deps.signal ends the wait of `--sim-startup-ms`
 * @throws AppError `unavailable` when a port cannot be listened on, `invalid` when the certificate cannot be read
 */
export async function startSim(config: SimConfig, deps: SimDeps): Promise<Sim> {
  const { log } = deps;
  const clock = deps.clock ?? systemClock;
  for (const warning of config.warnings) log.warn(warning);
  if (config.startupMs > 0) await clock.sleep(config.startupMs, deps.signal);
  if (config.dataParallel.mode !== 'multi-port') return startOne(config, { ...deps, clock });

  const started: Sim[] = [];
  try {
    for (const [i, rank] of config.dataParallel.ranks.entries()) {
      const port = config.port === 0 ? 0 : config.port + i;
      const dataParallel = { ...config.dataParallel, mode: 'external', ranks: [rank] } as const;
      started.push(await startOne({ ...config, port, dataParallel }, { ...deps, clock }));
    }
    return await supervise(config, started as [Sim, ...Sim[]], log);
  } catch (thrown) {
    await Promise.all(started.map((sim) => sim.close()));
    throw thrown;
  }
}

/** Tells the health of all ranks on a port of its own, once they are there. */
async function supervise(config: SimConfig, sims: readonly [Sim, ...Sim[]], log: SimDeps['log']): Promise<Sim> {
  let isReady = true;
  const server = await createHttpServer(config);
  server.on('request', (request, response) => {
    request.resume();
    const isKnown = ['/health', '/ready', '/readyz'].includes(request.url ?? '');
    response.writeHead(isKnown ? (isReady ? 200 : 503) : 404, { 'content-length': 0 }).end();
  });
  await listen(server, config.dataParallel.supervisorPort, config.host).catch((thrown: unknown) => {
    throw new AppError(
      'unavailable',
      `cannot listen on ${config.host ?? '*'}:${config.dataParallel.supervisorPort}: ${messageOf(thrown)}; choose another --data-parallel-supervisor-port`,
      { cause: thrown },
    );
  });
  const supervisor = server.address() as AddressInfo;
  log.info({ port: supervisor.port, ranks: config.dataParallel.ranks.length }, 'the health of all ranks');
  const stopRefresh = refreshCertificate(config, server as unknown as TlsServer, log);
  const [first] = sims;
  return {
    address: first.address,
    engine: first.engine,
    ranks: sims.flatMap(({ ranks }) => ranks) as [Rank, ...Rank[]],
    addresses: sims.map(({ address }) => address),
    supervisor,
    close: async () => {
      isReady = false;
      stopRefresh();
      await Promise.all(sims.map((sim) => sim.close()));
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeAllConnections();
      await closed;
    },
  };
}

async function startOne(config: SimConfig, deps: SimDeps & { readonly clock: Clock }): Promise<Sim> {
  const { log, clock } = deps;
  const modelName = config.servedNames[0];
  const ranks: Rank[] = [];
  const tracing = config.tracing
    ? await (await import('../telemetry/tracing.ts')).startTracing({ ...config.tracing, log })
    : undefined;
  const closeRanks = () => Promise.all(ranks.map((rank) => rank.close()));
  try {
    for (const rank of config.dataParallel.ranks) ranks.push(await startRank(config, rank, { clock, log }));
  } catch (thrown) {
    await closeRanks();
    throw thrown;
  }
  const all = ranks as [Rank, ...Rank[]];
  const idle = () => Promise.all(all.map(({ engine }) => engine.idle()));

  let server: Server;
  let closing: Promise<void> | undefined;
  const startSeconds = clock.now() / 1000;
  const adapters = new Adapters(() => clock.now() / 1000, config.loraModules);
  let refusing: AbortController | undefined;
  const refuse = (durationMs: number) => {
    if (closing) return;
    refusing?.abort();
    const current = new AbortController();
    refusing = current;
    const { port } = server.address() as AddressInfo;
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    server.closeAllConnections();
    log.warn({ durationMs }, 'the port is closed for a while');
    Promise.all([closed, clock.sleep(durationMs, current.signal)])
      .then(() => listen(server, port, config.host))
      .catch((err: unknown) => log.warn({ err }, 'the port stays closed'));
  };
  const handler: Handler = createHandler({
    clock,
    ranks: all,
    limits: {
      maxModelLen: config.maxModelLen,
      outputTokens: config.outputTokens,
      seed: config.seed,
      hasConnector: config.transfer !== undefined,
      hasAutoToolChoice: config.hasAutoToolChoice,
      hasReasoning: config.hasReasoning,
      maxLogprobs: config.maxLogprobs,
      forcesUsage: config.forcesUsage,
    },
    model: config.model,
    servedNames: config.servedNames,
    version: vllmVersion,
    apiKeys: config.apiKeys,
    ...(tracing ? { tracing } : {}),
    adapters,
    hasLoraUpdates: config.hasLoraUpdates,
    hasSleepMode: config.hasSleepMode,
    isDevMode: config.isDevMode,
    hasResponseStore: config.hasResponseStore,
    hasRequestIdHeaders: config.hasRequestIdHeaders,
    faults: new Faults(config.faults),
    crash: (code) => {
      log.warn({ code }, 'out of memory: the engine process dies');
      if (deps.exit) deps.exit(code);
      else {
        server.close();
        server.closeAllConnections();
      }
    },
    refuse,
    prefillUsPerToken: config.latency.prefillUsPerToken,
    maxWaiting: config.maxWaiting,
    maxBodyBytes: config.maxBodyBytes,
    showsPromptTokensDetails: config.showsPromptTokensDetails,
    metricsPage: createMetricsPage({
      modelName,
      blockSize: config.blockSize,
      numBlocks: config.numBlocks,
      hasPrefixCaching: config.hasPrefixCaching,
      memoryUtilization: config.memoryUtilization,
      maxLoras: config.maxLoras,
      showsFormerNames: config.showsFormerMetrics,
      hasFaultTolerance: config.hasFaultTolerance,
      process: () => ({ startSeconds, residentBytes: process.memoryUsage.rss() }),
      ranks: all.map(({ rank, engine, metrics }) => ({
        rank,
        metrics,
        gauges: () => ({
          running: engine.running,
          capacityWaiting: engine.queued,
          deferredWaiting: engine.loading,
          kvCacheUsage: engine.cache.usage,
          runningAdapters: engine.adapters.running,
          waitingAdapters: engine.adapters.waiting,
          sleepLevel: handler.sleepLevel(),
          nowSeconds: clock.now() / 1000,
        }),
      })),
    }),
  });

  try {
    server = await createHttpServer(config);
    server.on('request', handler.handle);
    // A proxy that keeps connections must not see them closed between two requests.
    server.keepAliveTimeout = 75_000;
    if (!config.isHeadless) await listen(server, config.port, config.host);
  } catch (thrown) {
    await closeRanks();
    if (thrown instanceof AppError) throw thrown;
    throw new AppError(
      'unavailable',
      `cannot listen on ${config.host ?? '*'}:${config.port}: ${messageOf(thrown)}; choose another --port or --pod-address`,
      { cause: thrown },
    );
  }
  const address = config.isHeadless ? nowhere : (server.address() as AddressInfo);
  const atOnce = config.faults.find(({ kind }) => kind === 'refuse');
  if (atOnce && !config.isHeadless) refuse(atOnce.value);
  if (config.isHeadless) log.info({ model: modelName }, 'headless: no port is listened on');
  else log.info({ address: address.address, port: address.port, model: modelName }, 'listening');

  const stopRefresh = refreshCertificate(config, server as unknown as TlsServer, log);
  const stopStats = config.logsStats ? logStats(clock, all, log) : () => {};
  const close = async () => {
    stopStats();
    stopRefresh();
    refusing?.abort();
    handler.drain();
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    const bound = new AbortController();
    await Promise.race([idle(), clock.sleep(config.drainMs, bound.signal).catch(() => {})]);
    bound.abort();
    for (const { engine } of all) engine.close();
    // What has just been answered is sent before its connection ends.
    await new Promise((resolve) => setImmediate(resolve));
    server.closeIdleConnections();
    const late = setTimeout(() => server.closeAllConnections(), 250);
    await closed;
    clearTimeout(late);
    await tracing?.close();
    await closeRanks();
  };
  return {
    address,
    engine: all[0].engine,
    ranks: all,
    addresses: config.isHeadless ? [] : [address],
    supervisor: undefined,
    close: () => {
      closing ??= close();
      return closing;
    },
  };
}

const nowhere: AddressInfo = { address: '', family: '', port: 0 };
const statsEveryMs = 10_000;

/** As vLLM does: throughput and load of each rank, for as long as something happens. */
function logStats(clock: Clock, ranks: readonly Rank[], log: Pick<Logger, 'info'>): () => void {
  const before = ranks.map(() => ({ prompt: 0, output: 0 }));
  const perSecond = 1000 / statsEveryMs;
  return clock.interval(statsEveryMs, () => {
    for (const [at, { rank, engine, metrics }] of ranks.entries()) {
      const prompt = metrics.promptTokens.value;
      const output = metrics.generationTokens.value;
      const last = before[at];
      if (!last || prompt + output - last.prompt - last.output + engine.running + engine.queued === 0) continue;
      before[at] = { prompt, output };
      const { served, running, waiting, handles } = engine.stats;
      log.info(
        {
          ...(ranks.length > 1 ? { rank } : {}),
          promptTokensPerSecond: (prompt - last.prompt) * perSecond,
          outputTokensPerSecond: (output - last.output) * perSecond,
          running,
          waiting,
          kvCacheUsage: Number(engine.cache.usage.toFixed(4)),
          served,
          handles: handles.live,
        },
        'stats',
      );
    }
  });
}

/** Secret volumes change by several renames; one look after they are over is enough. */
const settleMs = 200;

/** As vLLM with `--enable-ssl-refresh`: a new certificate serves connections from then on. */
function refreshCertificate(config: SimConfig, server: TlsServer, log: Pick<Logger, 'info' | 'warn'>): () => void {
  const { tls } = config;
  if (!tls?.isRefreshed) return () => {};
  let timer: NodeJS.Timeout | undefined;
  const refresh = () =>
    readTls(tls)
      .then((files) => {
        server.setSecureContext(files);
        log.info('the certificate was read again');
      })
      .catch((err: unknown) => log.warn({ err }, 'the certificate could not be read again; the old one stays'));
  const watchers: readonly FSWatcher[] = [
    ...new Set([tls.certFile, tls.keyFile, ...(tls.caFile === undefined ? [] : [tls.caFile])].map(dirname)),
  ].map((folder) =>
    watch(folder, () => {
      clearTimeout(timer);
      timer = setTimeout(() => void refresh(), settleMs);
    }),
  );
  return () => {
    clearTimeout(timer);
    for (const watcher of watchers) watcher.close();
  };
}

async function createHttpServer(config: SimConfig): Promise<Server> {
  const { tls } = config;
  if (!tls) return createServer();
  try {
    const [files, https] = await Promise.all([readTls(tls), import('node:https')]);
    return https.createServer({
      ...files,
      requestCert: tls.clientCertificates !== 'none',
      rejectUnauthorized: tls.clientCertificates === 'required',
    }) as unknown as Server;
  } catch (thrown) {
    throw new AppError('invalid', `--ssl-certfile, --ssl-keyfile, --ssl-ca-certs: ${messageOf(thrown)}`, {
      cause: thrown,
    });
  }
}

async function readTls(tls: TlsFiles): Promise<{ readonly cert: Buffer; readonly key: Buffer; readonly ca?: Buffer }> {
  const [cert, key, ca] = await Promise.all([
    readFile(tls.certFile),
    readFile(tls.keyFile),
    tls.caFile === undefined ? undefined : readFile(tls.caFile),
  ]);
  return { cert, key, ...(ca ? { ca } : {}) };
}
