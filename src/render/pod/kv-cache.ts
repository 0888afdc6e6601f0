import type { Container, PodSpec } from '../../api/foreign/pod.ts';
import { isOlder, offloadingVersion, vllmVersionOf } from '../../api/v1alpha2/engine-version.ts';
import type { WorkloadSpec } from '../../api/v1alpha2/llm-inference-service.ts';
import { AppError } from '../../errors.ts';

/** Where KV blocks go: to other pods over NIXL, to host memory, to slower tiers. */

type Offloading = NonNullable<WorkloadSpec['kvCacheOffloading']>;

/** How KV blocks travel between prefill and decode pods: each both sends and receives. */
const nixl = { kv_connector: 'NixlConnector', kv_role: 'kv_both' } as const;

/** The connector that keeps blocks in host memory and in directories; vLLM knows it from 0.22 on. */
export function offloadingConnector(offloading: Offloading) {
  return {
    kv_connector: 'OffloadingConnector',
    kv_role: 'kv_both',
    kv_connector_extra_config: {
      spec_name: 'TieringOffloadingSpec',
      cpu_bytes_to_use: bytesOf(offloading.cpu),
      eviction_policy: offloading.evictionPolicy ?? 'lru',
      secondary_tiers: (offloading.secondary ?? []).map((_, i) => ({ type: 'fs', root_dir: tierPath(i) })),
    },
  } as const;
}

/** `--kv-transfer-config` as a flag with its value: one connector, or several that all store and are asked in turn. */
export function renderKvTransfer(isSplit: boolean, offloading: Offloading | undefined): readonly (readonly string[])[] {
  const connectors = [...(isSplit ? [nixl] : []), ...(offloading ? [offloadingConnector(offloading)] : [])];
  const [only] = connectors;
  if (only === undefined) return [];
  const config =
    connectors.length === 1
      ? only
      : { kv_connector: 'MultiConnector', kv_role: 'kv_both', kv_connector_extra_config: { connectors } };
  return [['--kv-transfer-config', JSON.stringify(config)]];
}

/**
 * Errors: `unsupported` when the image's tag is that of a vLLM that does not know the connector: it would start and fail.
 */
export function requireOffloading(image: string): void {
  const version = vllmVersionOf(image);
  if (version === undefined || !isOlder(version, offloadingVersion)) return;
  throw new AppError(
    'unsupported',
    `spec.kvCacheOffloading: needs vLLM ${offloadingVersion.join('.')} or newer, and container main runs ${image}; give it a newer image`,
  );
}

const tierPath = (i: number) => `/mnt/kv-cache-${i}`;

type Volume = NonNullable<PodSpec['volumes']>[number];

/** Volumes of the slower tiers, with their places in the main container. */
export function renderTiers(offloading: Offloading | undefined): {
  readonly volumes: readonly Volume[];
  readonly mounts: NonNullable<Container['volumeMounts']>;
} {
  const tiers = (offloading?.secondary ?? []).map(({ fileSystem }, i) => {
    const name = `kv-cache-secondary-${i}`;
    const subPath = fileSystem?.pvc?.ref?.path;
    return {
      volume: { name, ...sourceOf(fileSystem) } as Volume,
      mount: { name, mountPath: tierPath(i), ...(subPath ? { subPath } : {}) },
    };
  });
  return { volumes: tiers.map(({ volume }) => volume), mounts: tiers.map(({ mount }) => mount) };
}

type FileSystem = NonNullable<Offloading['secondary']>[number]['fileSystem'];

function sourceOf(fileSystem: FileSystem): Partial<Volume> {
  const { emptyDir, pvc } = fileSystem ?? {};
  if (pvc?.ref) return { persistentVolumeClaim: { claimName: pvc.ref.name ?? '' } };
  if (pvc?.spec) return { ephemeral: { volumeClaimTemplate: { spec: pvc.spec as never } } };
  return { emptyDir: emptyDir?.size === undefined ? {} : { sizeLimit: String(emptyDir.size) } };
}

/** Host memory that a tier of this size takes, with what vLLM needs to keep it in order. */
const overhead = 1.2;

/**
 * The pod with room for the tiers: vLLM keeps the blocks in /dev/shm, which counts as memory of the container, and
 * directories on the node's disk count as its ephemeral storage. Amounts that nobody wrote stay unwritten.
 */
export function growForOffloading(pod: PodSpec, main: string, offloading: Offloading | undefined): PodSpec {
  if (!offloading) return pod;
  const memory = bytesOf(offloading.cpu) * overhead;
  const disk = (offloading.secondary ?? [])
    .map(({ fileSystem }) => bytesOf(fileSystem?.emptyDir?.size ?? 0))
    .reduce((sum, bytes) => sum + bytes, 0);
  const container = pod.containers.find(({ name }) => name === main);
  const shared = container?.volumeMounts?.find(({ mountPath }) => mountPath === '/dev/shm')?.name;
  return {
    ...pod,
    containers: pod.containers.map((one) => (one.name === main ? growContainer(one, memory, disk) : one)),
    ...(pod.volumes
      ? {
          volumes: pod.volumes.map((volume) =>
            volume.name === shared && volume.emptyDir?.medium === 'Memory' && volume.emptyDir.sizeLimit
              ? { ...volume, emptyDir: { ...volume.emptyDir, sizeLimit: add(volume.emptyDir.sizeLimit, memory) } }
              : volume,
          ),
        }
      : {}),
  };
}

function growContainer(container: Container, memory: number, disk: number): Container {
  const { requests, limits, ...rest } = container.resources ?? {};
  const grown = (amounts: Readonly<Record<string, string>> | undefined) =>
    amounts && {
      ...amounts,
      ...(amounts.memory === undefined ? {} : { memory: add(amounts.memory, memory) }),
      ...(disk > 0 && amounts['ephemeral-storage'] !== undefined
        ? { 'ephemeral-storage': add(amounts['ephemeral-storage'], disk) }
        : {}),
    };
  const asked = disk > 0 ? { 'ephemeral-storage': '0', ...requests } : requests;
  if (!asked && !limits) return container;
  const [newRequests, newLimits] = [grown(asked), grown(limits)];
  return {
    ...container,
    resources: {
      ...rest,
      ...(newRequests ? { requests: newRequests } : {}),
      ...(newLimits ? { limits: newLimits } : {}),
    },
  };
}

/** Whole mebibytes, rounded up. */
function add(quantity: string, bytes: number): string {
  return `${Math.ceil((bytesOf(quantity) + bytes) / 2 ** 20)}Mi`;
}

const suffixes: Readonly<Record<string, number>> = {
  m: 1e-3,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  E: 1e18,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
  Ei: 2 ** 60,
};

/** Bytes of a Kubernetes quantity, rounded up. Errors: `invalid` for what is none. */
export function bytesOf(quantity: string | number): number {
  const [, digits, suffix = ''] =
    /^\+?(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)([mkMGTPE]|[KMGTPE]i)?$/.exec(String(quantity)) ?? [];
  if (digits === undefined)
    throw new AppError('invalid', `"${quantity}" is not an amount of bytes; write 100Gi or 1e9`);
  return Math.ceil(Number(digits) * (suffixes[suffix] ?? 1));
}
