import { homedir } from 'node:os';
import { join } from 'node:path';
import type { BinaryName, BinaryOptions } from './binaries.ts';
import { findBinary } from './binaries.ts';

/** What of the environment the embedded cluster looks at, read once by the command. */
export interface LocalEnvironment {
  /** The checkout (or installed package) that holds `dist/`, `helm/` and `src/local`. */
  readonly root: string;
  /** Lasting binaries and CRDs, outside the checkout. */
  readonly cacheDir: string;
  /** State of running clusters. */
  readonly stateDir: string;
  readonly assetsDir?: string;
  readonly envoy?: string;
  /** OpenTelemetry collector to which the gateway sends spans. */
  readonly collector?: string;
  readonly path: string;
  readonly node: string;
}

/** Reads the environment variables XDG_CACHE_HOME, XDG_STATE_HOME, KUBEBUILDER_ASSETS, ENVOY, OTEL_EXPORTER_OTLP_ENDPOINT and PATH. */
export function parseLocalEnvironment(
  root: string,
  node: string,
  env: Readonly<Record<string, string | undefined>>,
): LocalEnvironment {
  const home = env.HOME ?? homedir();
  return {
    root,
    node,
    cacheDir: join(env.XDG_CACHE_HOME || join(home, '.cache'), 'signalbox'),
    stateDir: join(env.XDG_STATE_HOME || join(home, '.local', 'state'), 'signalbox'),
    path: env.PATH ?? '',
    ...(env.KUBEBUILDER_ASSETS ? { assetsDir: env.KUBEBUILDER_ASSETS } : {}),
    ...(env.ENVOY ? { envoy: env.ENVOY } : {}),
    ...(env.OTEL_EXPORTER_OTLP_ENDPOINT ? { collector: env.OTEL_EXPORTER_OTLP_ENDPOINT } : {}),
  };
}

/** Finds several binaries, one after the other so that builds do not fight for the processor. */
export async function findBinaries<N extends BinaryName>(
  names: readonly N[],
  environment: LocalEnvironment,
  onProgress: (line: string) => void,
  signal?: AbortSignal,
): Promise<Readonly<Record<N, string>>> {
  const options: BinaryOptions = {
    cacheDir: environment.cacheDir,
    moduleDir: join(environment.root, 'src', 'local', 'binaries'),
    path: environment.path,
    onProgress,
    ...(environment.assetsDir ? { assetsDir: environment.assetsDir } : {}),
    ...(environment.envoy ? { envoy: environment.envoy } : {}),
    ...(signal ? { signal } : {}),
  };
  const found: Partial<Record<N, string>> = {};
  for (const name of names) found[name] = await findBinary(name, options);
  return found as Record<N, string>;
}
