import { Agent, type Dispatcher } from 'undici';
import type { Clock } from '../../clock.ts';
import { AppError, messageOf } from '../../errors.ts';
import type { Logger } from '../../telemetry/log.ts';
import type { Datastore, LiveEndpoint } from './datastore.ts';
import { type EngineMetrics, readLoad } from './engines.ts';

export interface ScrapeSettings {
  readonly intervalMs: number;
  readonly scheme: 'http' | 'https';
  readonly path: string;
  /** Metrics port, where it is not the endpoint's own. */
  readonly port?: number;
  readonly isCertificateChecked: boolean;
  /** Pod label that names the engine. */
  readonly engineLabel: string;
  readonly defaultEngine: string;
  readonly engines: Readonly<Record<string, EngineMetrics>>;
}

export interface Scraper {
  close(): Promise<void>;
}

const timeoutMs = 1000;
const maxPageBytes = 8 << 20;
/** Failing endpoints are asked at most this seldom. */
const maxBackOffMs = 5000;

/**
 * Reads every ready endpoint's metrics page again and again, each at its own jittered pace; failures back off and are
 * logged once until the next success.
 */
export function startScraper(options: {
  readonly datastore: Datastore;
  readonly settings: ScrapeSettings;
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Logger;
  readonly onError?: () => void;
  /** Called for every page that lacks what is looked for; such a page counts as an error too. */
  readonly onLack?: () => void;
}): Scraper {
  const { datastore, settings, clock, random, log } = options;
  const agent = new Agent({
    connections: 1,
    pipelining: 1,
    connect: { timeout: timeoutMs, rejectUnauthorized: settings.isCertificateChecked },
    headersTimeout: timeoutMs,
    bodyTimeout: timeoutMs,
    keepAliveTimeout: 4000,
  });
  const running = new Map<string, { readonly load: LiveEndpoint['load']; readonly abort: AbortController }>();

  const follow = async (endpoint: LiveEndpoint, signal: AbortSignal): Promise<void> => {
    const origin = `${settings.scheme}://${
      settings.port === undefined ? endpoint.hostPort : endpoint.hostPort.replace(/\d+$/, String(settings.port))
    }`;
    const engine = endpoint.labels[settings.engineLabel] ?? settings.defaultEngine;
    const metrics = settings.engines[engine];
    let failures = 0;
    while (!signal.aborted) {
      let problem: string | undefined;
      try {
        if (metrics === undefined)
          throw new AppError('invalid', `engine ${engine} is not known; add it to engineConfigs`);
        endpoint.load.beginReading();
        const page = await fetchPage(agent, origin, settings.path, signal);
        const reading = readLoad(page, metrics);
        if (reading === undefined) {
          options.onLack?.();
          throw new AppError('invalid', `the page lacks ${metrics.waiting.name} or ${metrics.running.name}`);
        }
        endpoint.load.endReading(reading);
      } catch (thrown) {
        if (signal.aborted) return;
        problem = messageOf(thrown);
      }
      if (problem === undefined) {
        if (failures > 0) log.info({ endpoint: endpoint.id }, 'metrics can be read again');
        failures = 0;
      } else {
        options.onError?.();
        if (failures++ === 0) {
          log.warn({ endpoint: endpoint.id, url: origin + settings.path, error: problem }, 'metrics cannot be read');
        }
      }
      const pauseMs = Math.min(
        Math.max(maxBackOffMs, settings.intervalMs),
        settings.intervalMs * 2 ** Math.min(failures, 10),
      );
      try {
        await clock.sleep(pauseMs * (0.9 + 0.2 * random()), signal);
      } catch {
        return;
      }
    }
  };

  const adjust = (): void => {
    const wanted = new Map<string, LiveEndpoint>();
    for (const endpoint of datastore.snapshot.endpoints) if (endpoint.isReady) wanted.set(endpoint.id, endpoint);
    for (const [id, { load, abort }] of running) {
      if (wanted.get(id)?.load === load) continue;
      abort.abort();
      running.delete(id);
    }
    for (const [id, endpoint] of wanted) {
      if (running.has(id)) continue;
      const abort = new AbortController();
      running.set(id, { load: endpoint.load, abort });
      follow(endpoint, abort.signal).catch((thrown) => log.error({ error: messageOf(thrown) }, 'a scrape loop ended'));
    }
  };

  const stop = datastore.subscribe(adjust);
  adjust();
  return {
    close: async () => {
      stop();
      for (const { abort } of running.values()) abort.abort();
      running.clear();
      await agent.destroy();
    },
  };
}

/** By a handler rather than streams and promises of their own: a page is read twenty times a second from each endpoint. */
function fetchPage(dispatcher: Dispatcher, origin: string, path: string, signal: AbortSignal): Promise<string> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    let status = 0;
    let stopped: Error | undefined;
    let stop = (reason: Error): void => {
      stopped = reason;
      settle();
      reject(reason);
    };
    const onAbort = (): void => stop(new AppError('unavailable', 'the reading was stopped'));
    const timer = setTimeout(() => stop(new AppError('unavailable', 'the page took too long')), 2 * timeoutMs);
    const settle = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    dispatcher.dispatch(
      { origin, path, method: 'GET', headers: { accept: 'text/plain' } },
      {
        onRequestStart: (controller) => {
          if (stopped !== undefined) controller.abort(stopped);
          stop = (reason) => controller.abort(reason);
        },
        onResponseStart: (_controller, statusCode) => {
          status = statusCode;
        },
        onResponseData: (controller, chunk) => {
          size += chunk.length;
          if (size <= maxPageBytes) chunks.push(chunk);
          else controller.abort(new AppError('tooLarge', `the page is larger than ${maxPageBytes} bytes`));
        },
        onResponseEnd: () => {
          settle();
          if (status !== 200) reject(new AppError('badGateway', `the endpoint answered ${status}`));
          else resolve(Buffer.concat(chunks, size).toString('latin1'));
        },
        onResponseError: (_controller, error) => {
          settle();
          reject(error);
        },
      },
    );
  });
}
