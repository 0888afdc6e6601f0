import type { Container, PodSpec, PodTemplate } from '../../api/foreign/pod.ts';
import type { LLMInferenceServiceSpec } from '../../api/v1alpha2/llm-inference-service.ts';
import { type ModelLocation, parseModelLocation, uriForms } from '../../api/v1alpha2/model-uri.ts';
import { AppError } from '../../errors.ts';
import { md5 } from '../names.ts';

/** LoRA adapters that are there from the start: where their weights lie and what vLLM is told of them. */

const root = '/mnt/lora';
/** Copied adapters, a directory each. */
export const copiedAdaptersVolume = 'lora-adapters';

export interface Adapter {
  /** Name in requests. */
  readonly name: string;
  readonly uri: string;
  readonly location: ModelLocation;
  /** Name of the directory under /mnt/lora; no two adapters share one. */
  readonly directory: string;
}

/** The adapters of a spec in the order of their names, so that the order in which they are written changes no pod. */
export function adaptersOf(spec: LLMInferenceServiceSpec): readonly Adapter[] {
  const named = (spec.model.lora?.adapters ?? []).map(({ name, uri }, i) => ({ name: name ?? '', uri: uri ?? '', i }));
  named.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  const directories = directoriesOf(named.map(({ name }) => name));
  return named.map(({ name, uri, i }, at) => ({
    name,
    uri,
    location: locate(uri, `spec.model.lora.adapters[${i}].uri`),
    directory: directories[at] ?? '',
  }));
}

/** Whether a spec has adapters. */
export function hasAdapters(spec: LLMInferenceServiceSpec): boolean {
  return (spec.model.lora?.adapters ?? []).length > 0;
}

/** What a URI says. Errors: `unsupported` for what admission refuses. */
export function locate(uri: string, path: string): ModelLocation {
  const location = parseModelLocation(uri);
  if (location) return location;
  throw new AppError('unsupported', `${path}: "${uri}" is not supported; write one of ${uriForms.join(', ')}`);
}

/**
 * A directory for each name: the name itself where it can be one, else with other characters replaced and a part of its
 * hash. A hash that meets the name of another adapter is written out in full, so that none share a directory.
 */
export function directoriesOf(names: readonly string[]): readonly string[] {
  const plain = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$/;
  const taken = new Set(names.filter((name) => plain.test(name)));
  return names.map((name) => {
    if (plain.test(name)) return name;
    const readable = name.replaceAll(/[^A-Za-z0-9._-]/g, '-').replace(/^[.-]+/, '');
    const hash = md5(name);
    const short = `${readable.slice(0, 80)}-${hash.slice(0, 8)}`.replace(/^-/, '');
    const directory = taken.has(short) ? `${readable.slice(0, 80)}-${hash}` : short;
    taken.add(directory);
    return directory;
  });
}

/** What pods need so that vLLM finds the adapters. */
export interface AdapterStorage {
  /** Copied by the init container: pairs of URI and directory. */
  readonly pairs: readonly (readonly [uri: string, path: string])[];
  readonly volumes: NonNullable<PodSpec['volumes']>;
  /** For the main container. */
  readonly mounts: NonNullable<Container['volumeMounts']>;
  /** What vLLM loads under which name. */
  readonly modules: readonly { readonly name: string; readonly path: string }[];
}

/** `loadsItself`: vLLM fetches adapters of the hub; `isAttached` is false where the user brings all weights. */
export function renderAdapters(
  adapters: readonly Adapter[],
  options: { readonly loadsItself: boolean; readonly isAttached: boolean },
): AdapterStorage {
  const pairs: (readonly [string, string])[] = [];
  const volumes: NonNullable<PodTemplate['volumes']>[number][] = [];
  const mounts: NonNullable<Container['volumeMounts']>[number][] = [];
  const modules: { readonly name: string; readonly path: string }[] = [];
  const volumeOfClaim = new Map<string, string>();
  for (const { name, uri, location, directory } of adapters) {
    const path = `${root}/${directory}`;
    // vLLM knows no revision of an adapter.
    const fromHub = location.kind === 'hub' && options.loadsItself && location.revision === undefined;
    if (fromHub && options.isAttached) {
      modules.push({ name, path: `${location.organisation}/${location.model}` });
      continue;
    }
    modules.push({ name, path });
    if (!options.isAttached) continue;
    switch (location.kind) {
      case 'hub':
      case 'download':
        pairs.push([uri, path]);
        mounts.push({ name: copiedAdaptersVolume, mountPath: path, subPath: directory, readOnly: true });
        break;
      case 'claim': {
        const volume = volumeOfClaim.get(location.claim) ?? `lora-claim-${volumeOfClaim.size}`;
        if (!volumeOfClaim.has(location.claim)) {
          volumeOfClaim.set(location.claim, volume);
          volumes.push({ name: volume, persistentVolumeClaim: { claimName: location.claim } });
        }
        const subPath = location.path === undefined ? {} : { subPath: location.path };
        mounts.push({ name: volume, mountPath: path, ...subPath, readOnly: true });
        break;
      }
      case 'image': {
        // A sidecar could link only one image, so adapters in images are volumes whatever the setting for models is.
        const volume = `lora-image-${volumes.length}`;
        volumes.push({ name: volume, image: { reference: location.image, pullPolicy: 'IfNotPresent' } });
        mounts.push({ name: volume, mountPath: path, subPath: 'models', readOnly: true });
        break;
      }
    }
  }
  if (pairs.length > 0) volumes.push({ name: copiedAdaptersVolume, emptyDir: {} });
  return { pairs, volumes, mounts, modules };
}

/** Mounts of the init container that copies adapters. */
export function adapterCopyMounts(pairs: AdapterStorage['pairs']): NonNullable<Container['volumeMounts']> {
  return pairs.length > 0 ? [{ name: copiedAdaptersVolume, mountPath: root }] : [];
}

/** Arguments of vLLM for adapters; every one is served under its own and its published name. */
export function renderLoraArgs(
  spec: LLMInferenceServiceSpec,
  namespace: string,
  modules: AdapterStorage['modules'],
): readonly (readonly string[])[] {
  if (modules.length === 0) return [];
  const { maxRank, maxAdapters, maxCpuAdapters } = spec.model.lora ?? {};
  const number = (flag: string, value: number | undefined) => (value === undefined ? [] : [[flag, String(value)]]);
  return [
    ['--enable-lora'],
    ...number('--max-lora-rank', maxRank),
    ...number('--max-loras', maxAdapters),
    ...number('--max-cpu-loras', maxCpuAdapters),
    [
      '--lora-modules',
      ...modules.flatMap(({ name, path }) =>
        [name, `publishers/${namespace}/models/${name}`].map((served) => JSON.stringify({ name: served, path })),
      ),
    ],
  ];
}
