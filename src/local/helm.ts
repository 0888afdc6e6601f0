import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { AppError, messageOf } from '../errors.ts';
import type { Manifest } from '../kube/object.ts';
import { onPath, versions } from './binaries.ts';
import { parseManifests } from './install.ts';

const execute = promisify(execFile);

/** What the embedded cluster is installed with: the chart, and the values that need no privileges. */
export const localValues = 'helm/signalbox/values-local.yaml';
/** The same, rendered by Helm when sources were generated, for machines without Helm. */
export const localManifest = 'config/install/signalbox-local.yaml';

export interface InstallManifests {
  readonly manifests: readonly Manifest[];
  /** For a progress line: which way was taken. */
  readonly source: string;
}

/** Renders the chart with the Helm on the PATH, else reads the manifest that was rendered from it. */
export async function renderInstallManifests(options: {
  readonly root: string;
  readonly path: string;
  readonly namespace: string;
  readonly signal?: AbortSignal;
}): Promise<InstallManifests> {
  const helm = await onPath('helm', options.path);
  if (!helm) {
    const text = await readFile(join(options.root, localManifest), 'utf8');
    return { manifests: parseManifests(text, localManifest), source: `${localManifest} (no helm on the PATH)` };
  }
  const text = await helmTemplate({ ...options, helm, values: localValues });
  return { manifests: parseManifests(text, 'helm template'), source: `helm/signalbox with ${helm}` };
}

/** `helm template` of the chart, CRDs included, behind the namespace it goes into. */
export async function helmTemplate(options: {
  readonly helm: string;
  readonly root: string;
  readonly namespace: string;
  readonly values?: string;
  readonly signal?: AbortSignal;
}): Promise<string> {
  const args = [
    'template',
    // `helm test` is for releases.
    '--skip-tests',
    'signalbox',
    join(options.root, 'helm/signalbox'),
    '--namespace',
    options.namespace,
    '--include-crds',
    // A Helm built from its module believes in a Kubernetes of long ago.
    `--kube-version=${versions.kubernetes}`,
  ];
  if (options.values) args.push('--values', join(options.root, options.values));
  try {
    const { stdout } = await execute(options.helm, args, {
      maxBuffer: 64 * 1024 * 1024,
      timeout: 60_000,
      ...(options.signal ? { signal: options.signal } : {}),
    });
    return `apiVersion: v1\nkind: Namespace\nmetadata:\n  name: ${options.namespace}\n${stdout}`;
  } catch (thrown) {
    throw new AppError('internal', `helm template failed: ${messageOf(thrown)}`, { cause: thrown });
  }
}
