import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { collectDefaultMetrics, Registry } from 'prom-client';
import { type OperatorConfig, operatorProgram, operatorSettings, sidecarDefaultsOf } from '../../controllers/config.ts';
import { startControllers } from '../../controllers/index.ts';
import { convertedDefinitions } from '../../controllers/permissions.ts';
import { registrations, renderWebhookConfigurations } from '../../webhooks/registration.ts';
import { conversionPath } from '../api/v1alpha1/convert.ts';
import { systemClock } from '../clock.ts';
import { AppError } from '../errors.ts';
import { parseProgram } from '../flags.ts';
import type { Client } from '../kube/client.ts';
import { loadKubeConfig } from '../kube/config.ts';
import { startEventRecorder } from '../kube/events.ts';
import { resourceOf, resources } from '../kube/resources.ts';
import { createClient } from '../kube/rest-client.ts';
import { hasCode } from '../kube/status-error.ts';
import { startAdmissionServer } from '../runtime/admission-server.ts';
import { startCertificates } from '../runtime/certs.ts';
import { startHealthServer } from '../runtime/health.ts';
import { startManager } from '../runtime/manager.ts';
import { createControllerMetrics, observeCertificates, observeRequests } from '../runtime/metrics.ts';
import { createLogger, type Logger } from '../telemetry/log.ts';

/** Under this name server-side apply owns what the operator registers about itself. */
const registrar = 'signalbox-operator';

/** How long the API server may be unreachable at the start before the process gives up. */
const startPatienceMs = 60_000;

/** Something that was started, in the order in which it was. */
interface Part {
  readonly name: string;
  readonly close: () => Promise<void> | void;
}

async function main(): Promise<number> {
  const parsed = parseProgram(operatorProgram, process.argv.slice(2), process.env);
  if (parsed.kind === 'help') {
    process.stdout.write(parsed.text);
    return 0;
  }
  if (parsed.rest.length > 0)
    throw new AppError('usage', `unexpected argument ${parsed.rest[0]}; --help lists the flags`);
  const { config } = parsed;
  const log = createLogger({ name: 'operator', level: config.logLevel });
  const stopping = new AbortController();
  for (const name of ['SIGTERM', 'SIGINT'] as const) {
    process.on(name, () => {
      // A second signal does not wait for the first.
      if (stopping.signal.aborted) process.exit(1);
      stopping.abort(new AppError('unavailable', `stopped by ${name}`));
    });
  }

  const settings = await loadKubeConfig({
    ...(config.kubeconfig === '' ? {} : { path: config.kubeconfig }),
    env: process.env,
  });
  const client = createClient(settings, { log });
  const parts: Part[] = [{ name: 'client', close: () => client.close() }];
  let failure: AppError | undefined;
  try {
    failure = await run(config, client, log, parts, stopping.signal);
  } catch (thrown) {
    if (!stopping.signal.aborted) throw thrown;
  } finally {
    for (const part of parts.reverse())
      try {
        await part.close();
      } catch (thrown) {
        log.warn({ err: thrown, part: part.name }, 'did not stop cleanly');
      }
  }
  if (!failure) return 0;
  log.error({ error: failure.message }, 'stopped');
  return failure.exit;
}

/** Runs until `signal` or a failure; what was started is in `parts`, last first to be closed. */
async function run(
  config: OperatorConfig,
  client: Client,
  log: Logger,
  parts: Part[],
  signal: AbortSignal,
): Promise<AppError | undefined> {
  const host = config.podAddress === '' ? {} : { host: config.podAddress };
  const instance = process.env.POD_NAME ?? hostname();
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  observeRequests(registry, client.sent);
  let isServingWebhooks = !config.webhooks;
  let manager: ReturnType<typeof startManager> | undefined;

  const health = {
    ...host,
    ready: {
      caches: () => (manager?.isSynced ? undefined : 'not every watch has been listed yet'),
      webhooks: () => (isServingWebhooks ? undefined : 'not listening yet'),
    },
  };
  const isOnePort = config.metricsPort === config.healthPort;
  for (const [name, options] of [
    ['health', { ...health, port: config.healthPort, ...(isOnePort ? { metrics: registry } : {}) }],
    ...(isOnePort ? [] : ([['metrics', { ...host, port: config.metricsPort, metrics: registry }]] as const)),
  ] as const) {
    const server = await startHealthServer(options);
    parts.push({ name, close: () => server.close() });
  }

  if (config.webhookUrl !== '')
    await patiently('the system namespace', log, signal, () => ensureNamespace(client, config, signal));
  const events = startEventRecorder(client, { component: registrar, instance }, { log });
  parts.push({ name: 'events', close: () => events.close() });
  const [, set] = await Promise.all([
    config.webhooks ? startWebhooks(config, client, log, parts, signal, registry) : undefined,
    patiently('the watches', log, signal, () => startControllers(config, { client, log, events }, signal)),
  ]);
  isServingWebhooks = true;

  manager = startManager(
    {
      ...set,
      ...(config.leaderElect
        ? {
            election: {
              lease: { namespace: config.systemNamespace, name: registrar },
              identity: `${instance}_${randomBytes(4).toString('hex')}`,
            },
          }
        : {}),
    },
    { client, log, metrics: createControllerMetrics(registry) },
  );
  const running = manager;
  parts.push({ name: 'controllers', close: () => running.close() });
  return Promise.race([
    running.failed,
    new Promise<undefined>((resolve) => {
      if (signal.aborted) resolve(undefined);
      signal.addEventListener('abort', () => resolve(undefined), { once: true });
    }),
  ]);
}

/** Certificates and the server; outside a cluster also the registration by URL, which ends with this process. */
async function startWebhooks(
  config: OperatorConfig,
  client: Client,
  log: Logger,
  parts: Part[],
  signal: AbortSignal,
  registry: Registry,
): Promise<void> {
  const { systemNamespace: namespace, webhookService, webhookConfiguration: name, webhookUrl } = config;
  const certificates = await patiently('the certificate', log, signal, () =>
    startCertificates(
      client,
      {
        secret: { namespace, name: `${webhookService}-certificate` },
        names: [
          `${webhookService}.${namespace}.svc`,
          `${webhookService}.${namespace}.svc.cluster.local`,
          ...(webhookUrl === '' ? [] : [new URL(webhookUrl).hostname]),
        ],
        isGiven: config.webhookCertificate === 'given',
        mutating: [name],
        validating: [name],
        conversion: {
          definitions: convertedDefinitions,
          client:
            webhookUrl === ''
              ? { service: { namespace, name: webhookService, port: config.webhookServicePort, path: conversionPath } }
              : { url: `${webhookUrl.replace(/\/+$/, '')}${conversionPath}` },
          ownServices: [webhookService, operatorSettings.webhookService.default],
        },
      },
      { log },
    ),
  );
  parts.push({ name: 'certificates', close: () => certificates.close() });
  observeCertificates(registry, () => certificates.expiry);
  // The admission library costs 100 MB and half a second: only who serves webhooks pays.
  const { conversions, createWebhooks } = await import('../../webhooks/index.ts');
  const server = await startAdmissionServer(
    {
      ...(config.podAddress === '' ? {} : { host: config.podAddress }),
      port: config.webhookPort,
      certificate: certificates.current,
      routes: createWebhooks({
        sidecar: sidecarDefaultsOf(config),
        presets: {
          systemNamespace: config.systemNamespace,
          configPrefix: config.configPrefix,
          preventsDeletion: config.preventPresetDeletion,
        },
      }),
      conversions,
    },
    { log },
  );
  certificates.onChange((certificate) => server.setCertificate(certificate));
  parts.push({ name: 'webhooks', close: () => server.close() });
  log.info({ port: server.port, webhooks: Object.keys(registrations) }, 'webhooks are served');
  if (webhookUrl === '') return;

  const manifests = renderWebhookConfigurations({
    name,
    target: { url: webhookUrl.replace(/\/+$/, '') },
    caBundle: certificates.caBundle,
  });
  for (const manifest of manifests) {
    const resource = resourceOf(manifest);
    if (!resource) throw new AppError('internal', `no resource for ${manifest.kind}`);
    await client.apply(resource, manifest, { fieldManager: registrar, force: true }, signal);
    // They fail closed: left behind they would refuse every service until this process is back.
    parts.push({ name: manifest.kind, close: () => client.delete(resource, { name }) });
  }
  log.info({ url: webhookUrl }, 'webhooks are registered');
}

async function ensureNamespace(client: Client, config: OperatorConfig, signal: AbortSignal): Promise<void> {
  const name = config.systemNamespace;
  if (await client.get(resources.namespaces, { name }, signal)) return;
  try {
    await client.create(resources.namespaces, { apiVersion: 'v1', kind: 'Namespace', metadata: { name } }, signal);
  } catch (thrown) {
    if (!hasCode(thrown, 'conflict')) throw thrown;
  }
}

/** Tries again while the API server is not there yet; a restart would only start over. */
async function patiently<T>(what: string, log: Logger, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
  const endMs = systemClock.now() + startPatienceMs;
  for (let delayMs = 250; ; delayMs = Math.min(delayMs * 2, 5_000)) {
    try {
      return await work();
    } catch (thrown) {
      const error = AppError.from(thrown);
      if (signal.aborted || !error.retry || error.code === 'internal' || systemClock.now() > endMs) throw thrown;
      log.warn({ error: error.message, what, delayMs }, 'the API server does not answer yet; trying again');
      await systemClock.sleep(delayMs, signal);
    }
  }
}

try {
  process.exit(await main());
} catch (thrown) {
  const error = AppError.from(thrown);
  process.stderr.write(`signalbox-operator: ${error.message.replace(/^signalbox-operator: /, '')}\n`);
  process.exit(error.exit);
}
