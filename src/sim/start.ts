import { randomUUID } from 'node:crypto';
import { type FSWatcher, watch } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { Server as TlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { dirname } from 'node:path';
import { type Clock, systemClock } from '../clock.ts';
import { AppError, messageOf } from '../errors.ts';
import type { Logger } from '../telemetry/log.ts';
import { type SimConfig, vllmVersion } from './config.ts';
import { Engine } from './engine.ts';
import { Faults } from './faults.ts';
import { createCacheEvents } from './kv-events.ts';
import { type KvPublisher, startKvPublisher } from './kv-publisher.ts';
import { Adapters } from './lora.ts';
import { createEngineMetrics, createMetricsPage, type EngineMetrics } from './metrics.ts';
import { createHandler, type Handler } from './server.ts';
import { createKvFetcher, listen, type SideChannel, startSideChannel } from './side-channel.ts';

/** KV of an 8-billion-parameter model in 16 bits: 32 layers × 2 × 8 heads × 128 × 2 bytes. */
const kvBytesPerToken = 131_072;

export interface Sim {
  readonly address: AddressInfo;
  readonly engine: Engine;
  /** Ports of the cache's events; undefined where none are published. */
  readonly kvEvents: Pick<KvPublisher, 'port' | 'replayPort'> | undefined;
  /** Refuses new requests, lets running ones finish for at most the configured time, then ends everything. */
  close(): Promise<void>;
}

/**
 * Starts a simulated server.
 *
 * @param signal ends the wait of `--sim-startup-ms`
 * @throws AppError `unavailable` when a port cannot be listened on, `invalid` when the certificate cannot be read
 */
export async function startSim(
  config: SimConfig,
  deps: {
    readonly log: Pick<Logger, 'info' | 'warn'>;
    readonly clock?: Clock;
    readonly signal?: AbortSignal;
    /** Ends the process when a fault asks for that; without it every connection is cut and the port closed. */
    readonly exit?: (code: number) => void;
  },
): Promise<Sim> {
  const { log } = deps;
  const clock = deps.clock ?? systemClock;
  for (const warning of config.warnings) log.warn(warning);
  if (config.startupMs > 0) await clock.sleep(config.startupMs, deps.signal);

  const modelName = config.servedNames[0];
  const { transfer } = config;
  const compatibility = `${config.model}/${config.blockSize}`;
  const fetcher = transfer ? createKvFetcher() : undefined;
  const metrics = createEngineMetrics();
  const publisher = config.kvEvents ? await startKvPublisher(config.kvEvents, { rank: 0, clock, log }) : undefined;
  const engine = new Engine({
    clock,
    latency: config.latency,
    metrics,
    numBlocks: config.numBlocks,
    blockSize: config.blockSize,
    hasPrefixCaching: config.hasPrefixCaching,
    maxSequences: config.maxSequences,
    maxBatchedTokens: config.maxBatchedTokens,
    ...(publisher ? { events: createCacheEvents(publisher.publish) } : {}),
    ...(transfer && fetcher
      ? {
          transfer: {
            fetch: fetcher.fetch,
            leaseMs: transfer.leaseMs,
            onFailure: transfer.onFailure,
            compatibility,
            bytesPerToken: kvBytesPerToken,
          },
        }
      : {}),
  });
  const engineId = transfer?.engineId || randomUUID();
  let sideChannel: SideChannel | undefined;
  if (transfer && engine.leases) {
    const { sideChannelHost: host, sideChannelPort: port } = transfer;
    sideChannel = await startSideChannel({ host, port, engineId, compatibility, leases: engine.leases }).catch(
      (thrown: unknown) => {
        publisher?.close();
        throw new AppError(
          'unavailable',
          `the side channel cannot listen on ${host}:${port}: ${messageOf(thrown)}; set VLLM_NIXL_SIDE_CHANNEL_HOST and VLLM_NIXL_SIDE_CHANNEL_PORT`,
          { cause: thrown },
        );
      },
    );
  }

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
    engine,
    limits: {
      maxModelLen: config.maxModelLen,
      outputTokens: config.outputTokens,
      seed: config.seed,
      hasConnector: transfer !== undefined,
      hasAutoToolChoice: config.hasAutoToolChoice,
      hasReasoning: config.hasReasoning,
      maxLogprobs: config.maxLogprobs,
    },
    model: config.model,
    servedNames: config.servedNames,
    version: vllmVersion,
    apiKeys: config.apiKeys,
    adapters,
    hasLoraUpdates: config.hasLoraUpdates,
    hasSleepMode: config.hasSleepMode,
    isDevMode: config.isDevMode,
    hasResponseStore: config.hasResponseStore,
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
    remote:
      transfer && sideChannel
        ? {
            engineId,
            host: transfer.sideChannelHost,
            port: sideChannel.address.port,
            tpSize: config.tensorParallelSize,
          }
        : undefined,
    metricsPage: createMetricsPage({
      modelName,
      blockSize: config.blockSize,
      numBlocks: config.numBlocks,
      hasPrefixCaching: config.hasPrefixCaching,
      memoryUtilization: config.memoryUtilization,
      maxLoras: config.maxLoras,
      showsFormerNames: config.showsFormerMetrics,
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
        startSeconds,
        residentBytes: process.memoryUsage.rss(),
      }),
    }),
  });

  try {
    server = await createHttpServer(config);
    server.on('request', handler.handle);
    // A proxy that keeps connections must not see them closed between two requests.
    server.keepAliveTimeout = 75_000;
    await listen(server, config.port, config.host);
  } catch (thrown) {
    await sideChannel?.close();
    fetcher?.close();
    publisher?.close();
    if (thrown instanceof AppError) throw thrown;
    throw new AppError(
      'unavailable',
      `cannot listen on ${config.host ?? '*'}:${config.port}: ${messageOf(thrown)}; choose another --port or --pod-address`,
      { cause: thrown },
    );
  }
  const address = server.address() as AddressInfo;
  const atOnce = config.faults.find(({ kind }) => kind === 'refuse');
  if (atOnce) refuse(atOnce.value);
  log.info({ address: address.address, port: address.port, model: modelName }, 'listening');

  const stopRefresh = refreshCertificate(config, server as unknown as TlsServer, log);
  const stopStats = config.logsStats ? logStats(clock, engine, metrics, log) : () => {};
  const close = async () => {
    stopStats();
    stopRefresh();
    refusing?.abort();
    handler.drain();
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    const bound = new AbortController();
    await Promise.race([engine.idle(), clock.sleep(config.drainMs, bound.signal).catch(() => {})]);
    bound.abort();
    engine.close();
    // What has just been answered is sent before its connection ends.
    await new Promise((resolve) => setImmediate(resolve));
    server.closeIdleConnections();
    const late = setTimeout(() => server.closeAllConnections(), 250);
    await closed;
    clearTimeout(late);
    await sideChannel?.close();
    fetcher?.close();
    publisher?.close();
  };
  return {
    address,
    engine,
    kvEvents: publisher,
    close: () => {
      closing ??= close();
      return closing;
    },
  };
}

const statsEveryMs = 10_000;

/** As vLLM does: throughput and load, for as long as something happens. */
function logStats(clock: Clock, engine: Engine, metrics: EngineMetrics, log: Pick<Logger, 'info'>): () => void {
  let promptTokens = 0;
  let outputTokens = 0;
  return clock.interval(statsEveryMs, () => {
    const prompt = metrics.promptTokens.value - promptTokens;
    const output = metrics.generationTokens.value - outputTokens;
    if (prompt + output + engine.running + engine.queued === 0) return;
    promptTokens += prompt;
    outputTokens += output;
    const { served, running, waiting, handles } = engine.stats;
    const perSecond = 1000 / statsEveryMs;
    log.info(
      {
        promptTokensPerSecond: prompt * perSecond,
        outputTokensPerSecond: output * perSecond,
        running,
        waiting,
        kvCacheUsage: Number(engine.cache.usage.toFixed(4)),
        served,
        handles: handles.live,
      },
      'stats',
    );
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
    Promise.all([readFile(tls.certFile), readFile(tls.keyFile)])
      .then(([cert, key]) => {
        server.setSecureContext({ cert, key });
        log.info('the certificate was read again');
      })
      .catch((err: unknown) => log.warn({ err }, 'the certificate could not be read again; the old one stays'));
  const watchers: readonly FSWatcher[] = [...new Set([tls.certFile, tls.keyFile].map(dirname))].map((folder) =>
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
  if (!config.tls) return createServer();
  try {
    const [cert, key, https] = await Promise.all([
      readFile(config.tls.certFile),
      readFile(config.tls.keyFile),
      import('node:https'),
    ]);
    return https.createServer({ cert, key }) as unknown as Server;
  } catch (thrown) {
    throw new AppError('invalid', `--ssl-certfile, --ssl-keyfile: ${messageOf(thrown)}`, { cause: thrown });
  }
}
