import { chmod, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type Payload, type PayloadFile, writeAtomicDir } from './atomic-dir.ts';
import { type EnvSources, readField, readResource } from './env.ts';
import type { DownwardItem, KeyToPath, Pod, ProjectedSource, Volume } from './pod-spec.ts';

/** Where the content of volumes comes from: always read afresh, so that a pod never starts with an older version. */
export interface VolumeSources extends Pick<EnvSources, 'podIP' | 'hostIP' | 'nodeName' | 'allocatable'> {
  configMapFiles(name: string): Promise<Readonly<Record<string, Buffer>> | undefined>;
  secretFiles(name: string): Promise<Readonly<Record<string, Buffer>> | undefined>;
  /** A token of the pod's service account that stays valid for a good while. */
  token(audience: string | undefined, expirationSeconds: number): Promise<string>;
}

/** A volume that cannot be there; the message is the kubelet's where it has one. */
export class VolumeError extends Error {
  constructor(volume: string, message: string) {
    super(`MountVolume.SetUp failed for volume "${volume}" : ${message}`);
    this.name = 'VolumeError';
  }
}

/** Directory of a volume below the pod's directory. */
export function volumeDir(podDir: string, name: string): string {
  return join(podDir, 'volumes', name);
}

/**
 * Makes every volume of the pod true on disk; called again when something they are made of may have changed.
 * Errors: VolumeError for missing objects and for kinds of volumes that the embedded node does not have.
 */
export async function syncVolumes(pod: Pod, podDir: string, sources: VolumeSources): Promise<void> {
  for (const volume of pod.spec.volumes ?? []) {
    const dir = volumeDir(podDir, volume.name);
    if (volume.emptyDir) {
      await mkdir(dir, { recursive: true });
      // Any user may write, whatever the process's umask.
      await chmod(dir, 0o777);
      continue;
    }
    await writeAtomicDir(dir, await gatherPayload(pod, volume, sources));
  }
}

async function gatherPayload(pod: Pod, volume: Volume, sources: VolumeSources): Promise<Payload> {
  const files = new Map<string, PayloadFile>();
  const namespace = pod.metadata.namespace ?? 'default';
  const fail = (message: string): VolumeError => new VolumeError(volume.name, message);
  const addItems = (
    kind: 'configmap' | 'secret',
    name: string,
    data: Readonly<Record<string, Buffer>> | undefined,
    items: readonly KeyToPath[] | undefined,
    optional: boolean | undefined,
    mode: number,
  ): void => {
    if (!data) {
      if (optional) return;
      throw fail(`${kind} "${name}" not found`);
    }
    for (const item of items ?? Object.keys(data).map((key): KeyToPath => ({ key, path: key }))) {
      const content = data[item.key];
      if (content !== undefined) files.set(item.path, { content, mode: item.mode ?? mode });
      else if (!optional)
        throw fail(
          `references non-existent ${kind === 'secret' ? 'secret' : 'config'} key: ${item.key} (${namespace}/${name})`,
        );
    }
  };
  const addDownward = (items: readonly DownwardItem[] | undefined, mode: number): void => {
    for (const item of items ?? []) {
      const file = (content: string): void => {
        files.set(item.path, { content, mode: item.mode ?? mode });
      };
      if (item.fieldRef) {
        const value = readField(pod, item.fieldRef.fieldPath, sources);
        if (value === undefined) throw fail(`unsupported fieldPath: ${item.fieldRef.fieldPath}`);
        file(value);
      } else if (item.resourceFieldRef) {
        const value = readResource(pod, undefined, item.resourceFieldRef, sources.allocatable);
        if (!value.ok) throw fail(value.message);
        file(value.value);
      }
    }
  };
  const addProjected = async (source: ProjectedSource, mode: number): Promise<void> => {
    const { configMap, secret, serviceAccountToken } = source;
    if (configMap) {
      const name = configMap.name ?? '';
      addItems('configmap', name, await sources.configMapFiles(name), configMap.items, configMap.optional, mode);
    }
    if (secret) {
      const name = secret.name ?? '';
      addItems('secret', name, await sources.secretFiles(name), secret.items, secret.optional, mode);
    }
    if (source.downwardAPI) addDownward(source.downwardAPI.items, mode);
    if (serviceAccountToken) {
      const { audience, expirationSeconds, path } = serviceAccountToken;
      const content = await sources.token(audience, expirationSeconds ?? 3600);
      files.set(path, { content, mode: 0o600 });
    }
  };

  if (volume.configMap) {
    const { name = '', items, optional, defaultMode = 0o644 } = volume.configMap;
    addItems('configmap', name, await sources.configMapFiles(name), items, optional, defaultMode);
  } else if (volume.secret) {
    const { secretName = '', items, optional, defaultMode = 0o644 } = volume.secret;
    addItems('secret', secretName, await sources.secretFiles(secretName), items, optional, defaultMode);
  } else if (volume.downwardAPI) {
    addDownward(volume.downwardAPI.items, volume.downwardAPI.defaultMode ?? 0o644);
  } else if (volume.projected) {
    for (const source of volume.projected.sources ?? []) {
      await addProjected(source, volume.projected.defaultMode ?? 0o644);
    }
  } else {
    const kind = Object.keys(volume).find((key) => key !== 'name') ?? 'unknown';
    throw fail(
      `the embedded cluster has no ${kind} volumes: use emptyDir, configMap, secret, downwardAPI or projected`,
    );
  }
  return files;
}

/** Names of the ConfigMaps and Secrets that the pod's volumes show, for noticing that one has changed. */
export function volumeReferences(pod: Pod): {
  readonly configMaps: ReadonlySet<string>;
  readonly secrets: ReadonlySet<string>;
} {
  const configMaps = new Set<string>();
  const secrets = new Set<string>();
  for (const volume of pod.spec.volumes ?? []) {
    if (volume.configMap?.name) configMaps.add(volume.configMap.name);
    if (volume.secret?.secretName) secrets.add(volume.secret.secretName);
    for (const source of volume.projected?.sources ?? []) {
      if (source.configMap?.name) configMaps.add(source.configMap.name);
      if (source.secret?.name) secrets.add(source.secret.name);
    }
  }
  return { configMaps, secrets };
}

/** Path of a projected service account token below the pod's directory and where a container sees it, if the pod has one. */
export function findTokenPath(pod: Pod, podDir: string): string | undefined {
  for (const volume of pod.spec.volumes ?? []) {
    for (const source of volume.projected?.sources ?? []) {
      // Only a token without an audience of its own is for the API server.
      if (source.serviceAccountToken && !source.serviceAccountToken.audience) {
        return join(volumeDir(podDir, volume.name), source.serviceAccountToken.path);
      }
    }
  }
  return undefined;
}
