import { AppError } from '../errors.ts';
import { parseSidecarConfig } from '../sidecar/config.ts';
import { ranksOf } from '../sidecar/data-parallel.ts';
import { needsKubernetes, type Sidecar, startSidecar } from '../sidecar/start.ts';
import { createLogger } from '../telemetry/log.ts';

async function main(): Promise<number> {
  const parsed = parseSidecarConfig(process.argv.slice(2), process.env);
  if (parsed.kind === 'help') {
    process.stdout.write(parsed.text);
    return 0;
  }
  const { config } = parsed;
  const log = createLogger({ name: 'sidecar', level: config.logLevel });
  const stopped = new Promise<void>((resolve) => {
    process.on('SIGTERM', () => resolve());
    process.on('SIGINT', () => resolve());
  });
  const client = needsKubernetes(config) ? await connect(config.kubeconfig, log) : undefined;
  const tracing = config.tracing
    ? await (await import('../telemetry/tracing.ts')).startTracing({ ...config.tracing, log })
    : undefined;
  const sidecars: Sidecar[] = [];
  try {
    for (const rank of ranksOf(config)) {
      sidecars.push(await startSidecar(rank, { log, ...(client ? { client } : {}), ...(tracing ? { tracing } : {}) }));
    }
    await stopped;
    log.info('draining');
    await Promise.all(sidecars.map((sidecar) => sidecar.close()));
  } finally {
    await tracing?.close();
    await client?.close();
  }
  return 0;
}

/** Loaded only when it is needed: with a prefill URL and without SSRF protection nothing is asked of Kubernetes. */
async function connect(kubeconfig: string | undefined, log: ReturnType<typeof createLogger>) {
  const [{ loadKubeConfig }, { createClient }] = await Promise.all([
    import('../kube/config.ts'),
    import('../kube/rest-client.ts'),
  ]);
  return createClient(await loadKubeConfig(kubeconfig === undefined ? {} : { path: kubeconfig }), { log });
}

try {
  process.exit(await main());
} catch (thrown) {
  const error = AppError.from(thrown);
  process.stderr.write(`signalbox-sidecar: ${error.message.replace(/^signalbox-sidecar: /, '')}\n`);
  process.exit(error.exit);
}
