import { createHash } from 'node:crypto';
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Agent, request } from 'undici';
import { type Clock, systemClock } from '../clock.ts';
import { AppError, messageOf } from '../errors.ts';
import { renderBootstrap } from './gateway/envoy-resources.ts';
import type { JsonObject } from './gateway/shapes.ts';
import type { ListenerState } from './gateway/statuses.ts';
import type { Collector } from './gateway/tracing.ts';
import type { EnvoyResources } from './gateway/translate.ts';
import { lastLines, launch } from './launch.ts';

export interface EnvoyOptions {
  /** Path of the Envoy binary. */
  readonly binary: string;
  /** Configuration and logs are written below this folder. */
  readonly stateDir: string;
  /** Where spans of requests go; none are made without it. */
  readonly collector?: Collector;
  /** Worker threads. */
  readonly concurrency?: number;
  readonly clock?: Clock;
  readonly signal?: AbortSignal;
}

/** What became of one `apply`. */
export interface AppliedResources {
  /** Envoy's own words when it refused the listeners, clusters or routes; what it had before stays in force. */
  readonly rejections: readonly string[];
  readonly listeners: ReadonlyMap<string, ListenerState>;
  /** Clusters that no route names any more but that are still there; a later `apply` removes those that fell idle. */
  readonly retiredClusters: number;
}

/** A running Envoy whose configuration is files that it watches. */
export interface Envoy {
  readonly adminUrl: string;
  readonly logFile: string;
  /** One JSON object per finished request. */
  readonly accessLogPath: string;
  readonly collector: Collector | undefined;
  /** The file of a route configuration; listeners name it. */
  routesPath(name: string): string;
  /**
   * Makes the resources Envoy's own, writing only what differs, and waits until it has taken them.
   *
   * Guarantees: running streams go on: clusters come before the routes that name them, and go when they are idle.
   * Assumptions: calls do not overlap.
   */
  apply(resources: EnvoyResources): Promise<AppliedResources>;
  /** Resolves when Envoy has ended without being told to: how, with its last log lines. */
  readonly failed: Promise<AppError>;
  close(): Promise<void>;
}

const pollMs = 10;
const startTimeoutMs = 30_000;
const takeTimeoutMs = 5_000;
/** Workers may use the routes of before for a moment after Envoy has taken new ones. */
const retirementMs = 1_000;

/** Starts Envoy with an empty configuration and waits until it is live. */
export async function startEnvoy(options: EnvoyOptions): Promise<Envoy> {
  const clock = options.clock ?? systemClock;
  const { collector } = options;
  const xdsDir = join(options.stateDir, 'xds');
  const routesDir = join(xdsDir, 'routes');
  const logDir = join(options.stateDir, 'logs');
  await rm(xdsDir, { recursive: true, force: true });
  await mkdir(routesDir, { recursive: true });
  await mkdir(logDir, { recursive: true });

  const listenersPath = join(xdsDir, 'listeners.json');
  const clustersPath = join(xdsDir, 'clusters.json');
  const routesPath = (name: string) => join(routesDir, `${name}.json`);
  const bootstrapPath = join(options.stateDir, 'bootstrap.json');
  const adminPath = join(options.stateDir, 'admin-address');
  const logFile = join(logDir, 'envoy.log');
  const accessLogPath = join(logDir, 'envoy-access.log');
  await rm(adminPath, { force: true });
  await writeFile(bootstrapPath, JSON.stringify(renderBootstrap({ listenersPath, clustersPath, collector }), null, 2));
  await deliver(listenersPath, 'Listener', []);
  await deliver(clustersPath, 'Cluster', []);

  const launched = launch({
    name: 'envoy',
    command: options.binary,
    args: [
      '--config-path',
      bootstrapPath,
      '--concurrency',
      String(options.concurrency ?? 2),
      // Several may run side by side.
      '--disable-hot-restart',
      '--admin-address-path',
      adminPath,
      '--file-flush-interval-msec',
      '100',
      '--log-level',
      'warning',
      // A picker that does not answer is told by the access log, once per request.
      '--component-log-level',
      'ext_proc:error',
      // The connections of a listener that goes end with their next answer; running streams take what they need.
      '--drain-strategy',
      'immediate',
      '--drain-time-s',
      '3600',
    ],
    logFile,
  });
  const dispatcher = new Agent({ connections: 2 });
  const close = async () => {
    await launched.stop();
    await dispatcher.close();
  };
  let crash: AppError | undefined;
  void launched.failed.then((error) => {
    crash = error;
  });

  /** Asks the admin interface until `read` is content; undefined when time is up. */
  const poll = async <T>(timeoutMs: number, read: () => Promise<T | undefined>): Promise<T | undefined> => {
    const deadline = clock.now() + timeoutMs;
    for (;;) {
      options.signal?.throwIfAborted();
      if (crash) throw crash;
      const result = await read();
      if (result !== undefined || clock.now() > deadline) return result;
      await clock.sleep(pollMs, options.signal);
    }
  };

  let adminUrl: string;
  try {
    const found = await poll(startTimeoutMs, async () => {
      const address = (await readFile(adminPath, 'utf8').catch(() => '')).trim();
      if (address === '') return undefined;
      const url = `http://${address}`;
      const isLive = await get(dispatcher, `${url}/ready`).then(
        (text) => text.trim() === 'LIVE',
        () => false,
      );
      return isLive ? url : undefined;
    });
    if (!found) {
      throw new AppError(
        'timeout',
        `envoy is not live after ${startTimeoutMs / 1000} s. Its last lines:\n${await lastLines(logFile)}`,
      );
    }
    adminUrl = found;
  } catch (thrown) {
    await close();
    throw thrown;
  }

  let clusters: readonly JsonObject[] = [];
  let listenersText = '';
  let states: ReadonlyMap<string, ListenerState> = new Map();
  let hadRejections = false;
  const retired = new Map<string, { readonly cluster: JsonObject; readonly sinceMs: number }>();
  const routes = new Map<string, string>();

  /** Writes one file and waits for Envoy's verdict on it: its words when it refuses. */
  const give = async (
    path: string,
    kind: ResourceKind,
    resources: readonly JsonObject[],
    statistic: string,
  ): Promise<string | undefined> => {
    const counters = async () => readCounters(await get(dispatcher, statisticsUrl(adminUrl, statistic)), statistic);
    const before = await counters();
    await deliver(path, kind, resources);
    const verdict = await poll(takeTimeoutMs, async () => {
      const now = await counters();
      if (now.rejected > before.rejected) return 'rejected';
      // A first delivery has no statistics before it: the routes of a listener that does not exist yet.
      return now.succeeded > before.succeeded ? 'taken' : undefined;
    });
    if (verdict === 'taken') return undefined;
    return verdict === 'rejected'
      ? ((await lastRefusal(logFile)) ?? `envoy refused ${path}`)
      : `envoy has not taken ${path} within ${takeTimeoutMs / 1000} s`;
  };

  /** A cluster with health checks is not used before its first check; routes must not name it earlier. */
  const awaitWarmClusters = () =>
    poll(takeTimeoutMs, async () => {
      const text = await get(dispatcher, statisticsUrl(adminUrl, 'cluster_manager'));
      return /warming_clusters: 0\b/.test(text) ? true : undefined;
    });

  const apply = async (resources: EnvoyResources): Promise<AppliedResources> => {
    const rejections: string[] = [];
    const note = (rejection: string | undefined) => {
      if (rejection !== undefined) rejections.push(rejection);
    };
    // What was refused is not remembered as given, so that the next call tries again and says so again.
    const giveClusters = async (next: readonly JsonObject[]) => {
      if (JSON.stringify(next) === JSON.stringify(clusters)) return;
      const rejection = await give(clustersPath, 'Cluster', next, 'cluster_manager.cds');
      if (rejection === undefined) clusters = next;
      note(rejection);
      await awaitWarmClusters();
    };
    await retireClusters(resources.clusters);
    await giveClusters([...resources.clusters, ...[...retired.values()].map(({ cluster }) => cluster)]);

    for (const [name, configuration] of resources.routes) {
      const text = JSON.stringify(configuration);
      if (routes.get(name) === text) continue;
      // The routes of a new listener are read when the listener is; their verdict is seen in its state.
      const isRead = states.get(name)?.kind === 'ready';
      const rejection = isRead ? await give(routesPath(name), 'Route', [configuration], `rds.${name}`) : undefined;
      if (!isRead) await deliver(routesPath(name), 'Route', [configuration]);
      if (rejection === undefined) routes.set(name, text);
      note(rejection);
    }
    const text = JSON.stringify(resources.listeners);
    if (text !== listenersText || [...states.values()].some((state) => state.kind !== 'ready')) {
      // A refused listener is seen in its own state; the others of the same delivery are in force.
      await give(listenersPath, 'Listener', resources.listeners, 'listener_manager.lds');
      listenersText = text;
    }
    states = await listenerStates(resources);
    for (const name of [...routes.keys()].filter((name) => !resources.routes.has(name))) {
      routes.delete(name);
      await rm(routesPath(name), { force: true });
    }
    hadRejections = rejections.length > 0;
    return { rejections, listeners: states, retiredClusters: retired.size };
  };

  /**
   * Notes clusters that are no longer wanted and forgets those that are idle. Removing a cluster resets the picker's
   * streams on it, and with them the answers that flow through the picker.
   */
  const retireClusters = async (wanted: readonly JsonObject[]) => {
    const names = new Set(wanted.map((cluster) => String(cluster.name)));
    for (const name of names) retired.delete(name);
    for (const cluster of clusters) {
      const name = String(cluster.name);
      if (!names.has(name) && !retired.has(name)) retired.set(name, { cluster, sinceMs: clock.now() });
    }
    // Routes that stay in force because newer ones were refused still need their clusters.
    const old = hadRejections ? [] : [...retired].filter(([, { sinceMs }]) => clock.now() - sinceMs >= retirementMs);
    if (old.length === 0) return;
    const lines = (await get(dispatcher, `${adminUrl}/stats?filter=upstream_rq_active`)).split('\n');
    for (const [name] of old) {
      const isBusy = lines.some(
        (line) => line.startsWith(`cluster.${name}.upstream_rq_active: `) && !line.endsWith(': 0'),
      );
      if (!isBusy) retired.delete(name);
    }
  };

  const listenerStates = async (resources: EnvoyResources): Promise<ReadonlyMap<string, ListenerState>> => {
    const wanted = resources.listeners.map((listener) => String(listener.name));
    if (wanted.length === 0) return new Map();
    const read = async () =>
      parseListenerStates(await get(dispatcher, `${adminUrl}/config_dump?resource=dynamic_listeners`), wanted);
    const settled = await poll(takeTimeoutMs, async () => {
      const states = await read();
      return [...states.values()].some((state) => state.kind === 'pending') ? undefined : states;
    });
    return settled ?? read();
  };

  return { adminUrl, logFile, accessLogPath, collector, routesPath, apply, failed: launched.failed, close };
}

type ResourceKind = 'Listener' | 'Cluster' | 'Route';

const typeUrls: Readonly<Record<ResourceKind, string>> = {
  Listener: 'type.googleapis.com/envoy.config.listener.v3.Listener',
  Cluster: 'type.googleapis.com/envoy.config.cluster.v3.Cluster',
  Route: 'type.googleapis.com/envoy.config.route.v3.RouteConfiguration',
};

/** Envoy watches for files that are moved into place, so that it never reads half of one. */
async function deliver(path: string, kind: ResourceKind, resources: readonly JsonObject[]): Promise<void> {
  const typed = resources.map((resource) => ({ '@type': typeUrls[kind], ...resource }));
  const version = createHash('sha256').update(JSON.stringify(typed)).digest('hex').slice(0, 16);
  const temporary = `${path}.new`;
  await writeFile(temporary, JSON.stringify({ version_info: version, type_url: typeUrls[kind], resources: typed }));
  await rename(temporary, path);
}

const statisticsUrl = (adminUrl: string, name: string) =>
  `${adminUrl}/stats?filter=${encodeURIComponent(name.replaceAll('.', '\\.'))}`;

function readCounters(text: string, name: string): { readonly succeeded: number; readonly rejected: number } {
  const sum = (counter: string) =>
    text
      .split('\n')
      .filter((line) => line.includes(`${name}.${counter}: `))
      .reduce((total, line) => total + Number(line.slice(line.lastIndexOf(' '))), 0);
  return { succeeded: sum('update_success'), rejected: sum('update_rejected') };
}

interface ListenersDump {
  readonly configs?: readonly {
    readonly name: string;
    readonly active_state?: unknown;
    readonly error_state?: { readonly details?: string };
  }[];
}

function parseListenerStates(text: string, wanted: readonly string[]): ReadonlyMap<string, ListenerState> {
  const dump = JSON.parse(text) as ListenersDump;
  return new Map(
    wanted.map((name): [string, ListenerState] => {
      const entry = dump.configs?.find((config) => config.name === name);
      if (entry?.error_state?.details) return [name, { kind: 'failed', message: entry.error_state.details }];
      return [name, entry?.active_state ? { kind: 'ready' } : { kind: 'pending' }];
    }),
  );
}

/** Envoy logs why it refused a delivery, and tells it nowhere else. */
async function lastRefusal(logFile: string): Promise<string | undefined> {
  const lines = (await lastLines(logFile, 30)).split('\n').filter((line) => /rejected|update failed/i.test(line));
  return lines.at(-1)?.replace(/^(\[[^\]]*\]\s*)+/, '');
}

async function get(dispatcher: Agent, url: string): Promise<string> {
  const answer = await request(url, { dispatcher, headersTimeout: 5000, bodyTimeout: 5000 }).catch(
    (thrown: unknown) => {
      throw new AppError('unavailable', `envoy's admin interface does not answer: ${messageOf(thrown)}`);
    },
  );
  return answer.body.text();
}
