import { hash, randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { type EppConfig, parseEppArgs } from '../epp/config.ts';
import type { Watches } from '../epp/datalayer/pool-source.ts';
import { createTokenReviewer } from '../epp/metrics-auth.ts';
import { parsePickerConfig } from '../epp/picker-config.ts';
import { type EppDeps, startEpp } from '../epp/start.ts';
import { AppError, messageOf } from '../errors.ts';
import type { ElectionTimes, LeaderElection, Lease } from '../kube/leader-election.ts';
import type { KubeObject } from '../kube/object.ts';
import { createLogger, type Logger, type LogLevel } from '../telemetry/log.ts';

async function main(): Promise<number> {
  const parsed = parseEppArgs(process.argv.slice(2), process.env);
  if (parsed.kind === 'help') {
    process.stdout.write(parsed.text);
    return 0;
  }
  const { config } = parsed;
  const log = createLogger({ name: 'epp', level: levelOf(config.verbosity) });
  const source = config.configFile === '' ? '--config-text' : config.configFile;
  const picker = parsePickerConfig(
    config.configFile === '' ? config.configText : await read(config.configFile),
    source,
  );

  const stopped = new AbortController();
  const stop = () => stopped.abort();
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);

  const needsKubernetes = picker.fileDiscovery === undefined || config.leaderElection || config.metricsEndpointAuth;
  const kube = needsKubernetes ? await connect(config, log) : undefined;
  const tracing =
    config.tracing && config.otlpEndpoint !== ''
      ? await (await import('../telemetry/tracing.ts')).startTracing({
          endpoint: config.otlpEndpoint,
          service: config.otelServiceName,
          ratio: Number(config.traceRatio),
          log,
        })
      : undefined;
  try {
    const epp = await startEpp(config, picker, { log, ...kube?.deps, ...(tracing === undefined ? {} : { tracing }) });
    if (!stopped.signal.aborted) {
      await new Promise((resolve) => stopped.signal.addEventListener('abort', resolve, { once: true }));
    }
    log.info('stopping');
    await epp.close();
  } finally {
    await tracing?.close();
    await kube?.close();
  }
  return 0;
}

interface Kube {
  readonly deps: Required<Pick<EppDeps, 'watches' | 'elect' | 'reviewer'>>;
  close(): Promise<void>;
}

/** A dead picker is not ready until its lease ends, and the standby is warm: shorter than controllers have it. */
const electionTimes: ElectionTimes = { leaseDurationMs: 8_000, renewDeadlineMs: 5_000, retryPeriodMs: 2_000 };

/** Loaded only when it is needed: file discovery runs without it. */
async function connect(config: EppConfig, log: Logger): Promise<Kube> {
  const [{ loadKubeConfig }, { createClient }, { startInformer }, { startLeaderElection }, { resources }] =
    await Promise.all([
      import('../kube/config.ts'),
      import('../kube/rest-client.ts'),
      import('../kube/informer.ts'),
      import('../kube/leader-election.ts'),
      import('../kube/resources.ts'),
    ]);
  const { kubeconfig, poolNamespace: namespace, podName, endpointSelector } = config;
  // Replicas without a pool are those with the same selector; its text is no name, its hash is.
  const group = config.poolName === '' ? hash('sha256', endpointSelector).slice(0, 16) : config.poolName;
  const client = createClient(await loadKubeConfig(kubeconfig === '' ? {} : { path: kubeconfig }), { log });
  const watches: Watches = {
    watch: <T extends KubeObject>(
      resource: Parameters<Watches['watch']>[0],
      options: Parameters<Watches['watch']>[1],
    ) => startInformer<T>(client, resource, options, { log }),
  };
  const leaseName = `epp-${namespace}-${group}.llm-d.ai`;
  const elect: Kube['deps']['elect'] = (onChange) => {
    let isClosed = false;
    const enter = (): LeaderElection => {
      const election = startLeaderElection(
        client,
        {
          lease: { namespace, name: leaseName },
          times: electionTimes,
          identity: `${podName === '' ? hostname() : podName}_${randomUUID()}`,
          // A picker that lost its lease only has to stop being ready: it stands for election again.
          onLost: (reason) => {
            log.warn({ reason }, 'no longer the leader');
            onChange(false);
            if (!isClosed) current = enter();
          },
        },
        { log },
      );
      election.leading.then(
        () => {
          if (isClosed) return;
          log.info('leading');
          onChange(true);
        },
        () => {},
      );
      return election;
    };
    let current = enter();
    const leases = startInformer<Lease>(
      client,
      resources.leases,
      { namespace, fieldSelector: `metadata.name=${leaseName}` },
      { log },
    );
    // A standby takes over in the moment in which the leader gives up, not at its next look.
    leases.subscribe(({ type, object }) => {
      if (type === 'deleted' || (object.spec?.holderIdentity ?? '') === '') current.hurry();
    });
    return {
      close: () => {
        isClosed = true;
        leases.close();
        return current.close();
      },
    };
  };
  return { deps: { watches, elect, reviewer: createTokenReviewer(client) }, close: () => client.close() };
}

async function read(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (thrown) {
    throw new AppError('usage', `--config-file: cannot read ${path}: ${messageOf(thrown)}`, { cause: thrown });
  }
}

function levelOf(verbosity: number): LogLevel {
  if (verbosity >= 5) return 'trace';
  return verbosity >= 4 ? 'debug' : 'info';
}

try {
  process.exit(await main());
} catch (thrown) {
  const error = AppError.from(thrown);
  process.stderr.write(`signalbox-epp: ${error.message.replace(/^signalbox-epp: /, '')}\n`);
  process.exit(error.exit);
}
