import { type FSWatcher, watch } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { type Clock, systemClock } from '../clock.ts';
import { AppError, messageOf } from '../errors.ts';
import type { Logger } from '../telemetry/log.ts';
import type { Tracing } from '../telemetry/tracing.ts';
import type { EppConfig } from './config.ts';
import { Datastore } from './datalayer/datastore.ts';
import { engines } from './datalayer/engines.ts';
import { startFileSource } from './datalayer/file-source.ts';
import { createOutcomes } from './datalayer/outcomes.ts';
import { noPolicySource, startPolicySource } from './datalayer/policy-source.ts';
import { poolResources, startPoolSource, startSelectorSource, type Watches } from './datalayer/pool-source.ts';
import { type Scraper, startScraper } from './datalayer/scraper.ts';
import { createTurnClock } from './datalayer/turn-clock.ts';
import { createDirector } from './director.ts';
import { answerExplain, TraceRing } from './explain.ts';
import { makeCertificate, readCertificate } from './extproc/certificate.ts';
import { type GrpcServer, startGrpcServer } from './extproc/grpc-server.ts';
import { createHealthServices, type Health, type HealthBoard } from './extproc/health.ts';
import { createProcessService, processMethod } from './extproc/server.ts';
import { createFlowControl } from './flow/flow-control.ts';
import { FlowControlMetrics } from './flow/flow-metrics.ts';
import type { PluginFailure } from './framework/plugin.ts';
import { startLiveScheduler } from './live-scheduler.ts';
import { EppTelemetry } from './metrics.ts';
import { createMetricsAuth, type TokenReviewer } from './metrics-auth.ts';
import { startMetricsServer } from './metrics-server.ts';
import { type BuiltScheduler, buildScheduler, type PickerConfig, parsePickerConfig } from './picker-config.ts';
import { pluginFactories } from './plugins/register.ts';
import { toCiphers } from './tls-options.ts';
import { startWatchedFile } from './watched-file.ts';

export interface EppDeps {
  readonly log: Logger;
  readonly clock?: Clock;
  readonly random?: () => number;
  /** Needed unless endpoints come from a file. */
  readonly watches?: Watches;
  /** Where spans go; none are made without. */
  readonly tracing?: Tracing;
  /** Needed with --metrics-endpoint-auth. */
  readonly reviewer?: TokenReviewer;
  /** Needed with --ha-enable-leader-election: calls back at every change until closed. */
  readonly elect?: (onChange: (isLeader: boolean) => void) => { close(): Promise<void> };
}

export interface Epp {
  readonly grpcPort: number;
  readonly healthPort: number;
  readonly metricsPort: number;
  readonly datastore: Datastore;
  /** Turns unready, lets open streams end for at most the drain time, then stops everything. */
  close(): Promise<void>;
}

const readyNames = ['', 'readiness', 'inference-extension', 'envoy.service.ext_proc.v3.ExternalProcessor'];
const minIntervalMs = 50;

/** Starts the picker; everything it started is stopped again when a later part fails. */
export async function startEpp(config: EppConfig, picker: PickerConfig, deps: EppDeps): Promise<Epp> {
  const { log } = deps;
  const clock = deps.clock ?? systemClock;
  const random = deps.random ?? Math.random;
  const address = config.podAddress === '' ? undefined : config.podAddress;
  const datastore = new Datastore(createTurnClock(clock), config.metricsStalenessThreshold);
  let server: GrpcServer | undefined;
  let telemetry: EppTelemetry | undefined;
  const build = (of: PickerConfig, previous: BuiltScheduler | undefined): BuiltScheduler =>
    buildScheduler(of, {
      ...(previous === undefined ? {} : { previous }),
      factories: pluginFactories,
      clock,
      random,
      pool: { current: () => datastore.snapshot.endpoints, subscribe: (listener) => datastore.subscribe(listener) },
      baseDir: config.configFile === '' ? '.' : dirname(config.configFile),
      report: createReport(log, (plugin, reason) => telemetry?.pluginFailed(plugin, reason)),
      observe: (result, seconds, cycle) => telemetry?.observeProfile(result, seconds, cycle),
    });
  const live = await startLiveScheduler(picker, build, log);
  const poolName = config.poolName === '' ? config.endpointSelector : config.poolName;
  telemetry = new EppTelemetry({
    poolName,
    datastore,
    openStreams: () => server?.calls ?? 0,
    handler: () => live.built.handler,
    plugins: () => live.built.plugins,
  });
  const { scrapeErrors, registry } = telemetry;
  const traces = new TraceRing(config.explainRequests);
  let policySource = noPolicySource;
  const endpoints = () => datastore.snapshot.endpoints;
  const flowControl = createFlowControl({ ...live.built.flow, observer: undefined, endpoints, clock });
  let flowMetrics: FlowControlMetrics | undefined;
  const takeFlow = (): void => {
    const { settings, detector } = live.built.flow;
    if (settings !== undefined && flowMetrics === undefined) {
      flowMetrics = new FlowControlMetrics(registry, poolName);
      flowMetrics.watch(flowControl, endpoints);
    }
    flowControl.replace({ settings, detector, observer: flowMetrics });
  };
  takeFlow();
  const director = createDirector({
    datastore,
    policies: () => policySource.current,
    flowControl,
    random,
    traces,
    outcomes: createOutcomes({
      datastore,
      threshold: config.endpointFailureThreshold,
      onAvoid: ({ id, name }) => {
        telemetry?.avoided(name);
        log.warn({ endpoint: id }, 'the endpoint fails again and again and is avoided for a while');
      },
    }),
    scheduler: () => live.scheduler,
    telemetry,
    ...(deps.tracing === undefined ? {} : { tracing: deps.tracing }),
    areScoresTold: config.emitEndpointScores,
    isSubsetHonoured: !config.disableEndpointSubsetFilter,
    clock,
    log,
  });
  const health = createBoard(datastore, config.leaderElection);
  const closers: (() => Promise<void> | void)[] = [];
  closers.push(() => live.close());
  try {
    const healthServices = createHealthServices(health.board);
    const onError = (error: unknown): void => log.debug({ error: messageOf(error) }, 'a connection failed');
    const healthServer = await startGrpcServer({
      address,
      port: config.grpcHealthPort,
      services: healthServices,
      maxMessageBytes: 64 << 10,
      engine: config.http2Engine,
      onError,
    });
    closers.push(() => healthServer.close());
    if (config.metricsEndpointAuth && deps.reviewer === undefined) {
      throw new AppError(
        'usage',
        '--metrics-endpoint-auth needs Kubernetes; without it give --metrics-endpoint-auth=false',
      );
    }
    const auth =
      config.metricsEndpointAuth && deps.reviewer !== undefined ? createMetricsAuth(deps.reviewer, clock) : undefined;
    const readMetricsTls = async () => ({
      ...(await readCertificate(config.metricsCertDir)),
      ...(config.metricsClientCaFile === '' ? {} : { ca: await readFile(config.metricsClientCaFile) }),
    });
    const metricsTls = config.metricsCertDir === '' ? undefined : await readMetricsTls();
    const metricsServer = await startMetricsServer({
      registry,
      hasOldNames: config.legacyMetricNames,
      maxBodyBytes: config.maxRequestBodyBytes,
      explain: (call) =>
        answerExplain(
          traces,
          (body, path) =>
            director.explain({ headers: [':path', path], body: [body], bodyBytes: body.length, subset: undefined }),
          call,
        ),
      ...(auth === undefined ? {} : { auth }),
      ...(metricsTls === undefined ? {} : { tls: metricsTls }),
      pluginState: () =>
        Object.fromEntries(
          live.built.plugins.flatMap((plugin) => (plugin.state === undefined ? [] : [[plugin.name, plugin.state()]])),
        ),
      address,
      port: config.metricsPort,
    });
    closers.push(() => metricsServer.close());
    if (config.metricsCertDir !== '') {
      const watcher = followCertificate(config.metricsCertDir, readMetricsTls, (tls) => metricsServer.setTls(tls), log);
      closers.push(() => watcher.close());
    }

    const tls = config.secureServing
      ? config.certPath === ''
        ? await makeCertificate(clock.now())
        : await readCertificate(config.certPath)
      : undefined;
    const ciphers = toCiphers(config.tlsCipherSuites);
    const tlsOptions = {
      minVersion: config.tlsMinVersion.endsWith('3') ? 'TLSv1.3' : 'TLSv1.2',
      ...(ciphers === undefined ? {} : { ciphers }),
    } as const;
    const started = await startGrpcServer({
      address,
      port: config.grpcPort,
      services: new Map([
        [
          processMethod,
          createProcessService({
            ...(config.grpcStreamMetrics
              ? { onStream: (code: number, seconds: number) => telemetry?.streamEnded(code, seconds) }
              : {}),
            director,
            maxBodyBytes: config.maxRequestBodyBytes,
            log,
          }),
        ],
        ...(config.healthChecking ? healthServices : []),
      ]),
      maxMessageBytes: config.grpcMaxRecvMsgSize,
      engine: config.http2Engine,
      onError: (error) => {
        if (error instanceof AppError || error instanceof TypeError)
          log.error({ error: messageOf(error) }, 'a stream failed');
        else onError(error);
      },
      ...(tls === undefined ? {} : { tls: { ...tls, ...tlsOptions } }),
    });
    server = started;
    // If a later part cannot start there is nothing to drain; once all run, the drain below comes before their end.
    closers.push(() => started.close());
    if (config.secureServing && config.certPath !== '' && config.enableCertReload) {
      const watcher = followCertificate(
        config.certPath,
        () => readCertificate(config.certPath),
        (pair) => started.setTls({ ...pair, ...tlsOptions }),
        log,
      );
      closers.push(() => watcher.close());
    }

    const source = await startSource(config, picker, datastore, deps);
    closers.push(() => source.close());
    if (picker.fileDiscovery === undefined && deps.watches !== undefined) {
      const pool = config.poolName === '' ? deploymentOf(config.podName) : config.poolName;
      policySource = startPolicySource({ watches: deps.watches, namespace: config.poolNamespace, pool, log });
      closers.push(() => policySource.close());
    }
    if (picker.isScraped) {
      const scraper: Scraper = startScraper({
        datastore,
        settings: {
          scheme: config.metricsScheme,
          path: config.metricsPath,
          isCertificateChecked: !config.metricsSkipVerify,
          engineLabel: 'llm-d.ai/engine-type',
          defaultEngine: 'vllm',
          engines,
          ...(config.modelServerMetricsPort === 0 ? {} : { port: config.modelServerMetricsPort }),
          ...picker.scrape,
          intervalMs: Math.max(minIntervalMs, picker.scrape.intervalMs ?? config.refreshMetricsInterval),
        },
        clock,
        random,
        log,
        onError: () => scrapeErrors.inc(),
        onLack: () => telemetry?.extractErrors.inc(),
      });
      closers.push(() => scraper.close());
    }
    if (config.configFile !== '') {
      const watched = startWatchedFile({
        path: config.configFile,
        text: picker.text,
        log,
        onText: async (text) => {
          try {
            const next = parsePickerConfig(text, config.configFile);
            checkReload(picker, next);
            await live.replace(next);
            takeFlow();
            telemetry?.reloaded('taken');
            log.info({ path: config.configFile }, 'configuration taken over');
          } catch (thrown) {
            telemetry?.reloaded('refused');
            log.error({ error: messageOf(thrown) }, 'the changed configuration is wrong; the one before it stays');
          }
        },
      });
      closers.push(() => watched.close());
    }
    closers.push(() => started.close(config.drainTimeout));
    if (config.leaderElection) {
      if (deps.elect === undefined) {
        throw new AppError('usage', '--ha-enable-leader-election needs Kubernetes; without it leave the flag out');
      }
      const election = deps.elect((isLeader) => health.setLeader(isLeader));
      closers.push(() => election.close());
    }
    log.info(
      {
        grpcPort: started.port,
        healthPort: healthServer.port,
        metricsPort: metricsServer.port,
        tls: tls !== undefined,
      },
      'listening',
    );
    return {
      grpcPort: started.port,
      healthPort: healthServer.port,
      metricsPort: metricsServer.port,
      datastore,
      close: async () => {
        health.drain();
        flowControl.close();
        await closeAll(closers, log);
      },
    };
  } catch (thrown) {
    await closeAll(closers, log);
    throw thrown;
  }
}

/** A Deployment's name by that of a pod of it: what objectives refer to where there is no pool. */
function deploymentOf(podName: string): string {
  return podName.replace(/-[a-z0-9]+-[a-z0-9]+$/, '');
}

/** @throws AppError `unsupported` naming what only a restart can change */
function checkReload(before: PickerConfig, next: PickerConfig): void {
  const parts = ['fileDiscovery', 'isScraped', 'scrape'] as const;
  const names = {
    fileDiscovery: 'dataLayer.discovery',
    isScraped: 'dataLayer.injectDefaults',
    scrape: 'metrics sources',
  };
  const changed = parts.filter((part) => JSON.stringify(before[part]) !== JSON.stringify(next[part]));
  if (changed.length === 0) return;
  throw new AppError('unsupported', `${changed.map((part) => names[part]).join(', ')} changed: restart the picker`);
}

/** Each plugin's failure is logged at most once in this time. */
const reportPauseMs = 10_000;

/** Counts every failure of a plugin, and logs it now and then. */
function createReport(log: Logger, count: (plugin: string, reason: PluginFailure) => void) {
  const loggedAtMs = new Map<string, number>();
  return (plugin: string, reason: PluginFailure, message: string): void => {
    count(plugin, reason);
    const nowMs = performance.now();
    if (nowMs - (loggedAtMs.get(plugin) ?? Number.NEGATIVE_INFINITY) < reportPauseMs) return;
    loggedAtMs.set(plugin, nowMs);
    log.warn({ plugin, reason, error: message }, 'a plugin had no say in a choice');
  };
}

/** Last started, first stopped. */
async function closeAll(closers: (() => Promise<void> | void)[], log: Logger): Promise<void> {
  for (const close of closers.reverse()) {
    try {
      await close();
    } catch (thrown) {
      log.warn({ error: messageOf(thrown) }, 'a part did not stop cleanly');
    }
  }
  closers.length = 0;
}

async function startSource(
  config: EppConfig,
  picker: PickerConfig,
  datastore: Datastore,
  { watches, log }: EppDeps,
): Promise<{ close(): void }> {
  const namespace = config.poolNamespace;
  if (picker.fileDiscovery !== undefined) {
    return startFileSource({ ...picker.fileDiscovery, namespace, datastore, log });
  }
  if (watches === undefined) {
    throw new AppError('usage', 'no endpoints: give a kubeconfig, or a file-discovery plugin in the configuration');
  }
  if (config.endpointSelector !== '') {
    const ports = config.endpointTargetPorts.map(Number);
    return startSelectorSource({ watches, namespace, selector: config.endpointSelector, ports, datastore });
  }
  const resource = poolResources[config.poolGroup];
  if (resource === undefined) throw new AppError('usage', `--pool-group ${config.poolGroup} is not known`);
  return startPoolSource({ watches, resource, namespace, name: config.poolName, datastore, log });
}

/** Health of the whole process. Alive from the start; ready once the endpoints are known, while leading and not stopping. */
function createBoard(
  datastore: Datastore,
  isElected: boolean,
): { readonly board: HealthBoard; setLeader(isLeader: boolean): void; drain(): void } {
  let isLeader = !isElected;
  let isDraining = false;
  const listeners = new Set<() => void>();
  const tell = (): void => {
    for (const listener of listeners) listener();
  };
  datastore.subscribe(tell);
  const board: HealthBoard = {
    names: [...readyNames, 'liveness'],
    statusOf: (service): Health => {
      if (service === 'liveness') return 'SERVING';
      if (!readyNames.includes(service)) return 'SERVICE_UNKNOWN';
      return datastore.isSynced && isLeader && !isDraining ? 'SERVING' : 'NOT_SERVING';
    },
    subscribe: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
  return {
    board,
    setLeader: (now) => {
      isLeader = now;
      tell();
    },
    drain: () => {
      isDraining = true;
      tell();
    },
  };
}

/** Takes a certificate over whenever its folder changes; one that cannot be read changes nothing. */
function followCertificate<T>(dir: string, read: () => Promise<T>, take: (pair: T) => void, log: Logger): FSWatcher {
  let timer: NodeJS.Timeout | undefined;
  const watcher = watch(dir, () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      read()
        .then((pair) => {
          take(pair);
          log.info({ dir }, 'certificate read again');
        })
        .catch((thrown) => log.error({ error: messageOf(thrown) }, 'certificate not taken over'));
    }, 200);
  });
  watcher.on('error', (error) => log.error({ error: messageOf(error) }, 'the certificate is no longer watched'));
  watcher.on('close', () => clearTimeout(timer));
  return watcher;
}
