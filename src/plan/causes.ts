import { labels } from '../api/labels.ts';
import type { KubeObject } from '../kube/object.ts';

/** Why pods are not ready, in words that say what to do about it. */

interface ContainerState {
  readonly name: string;
  readonly ready?: boolean;
  readonly started?: boolean;
  readonly restartCount?: number;
  readonly state?: States;
  readonly lastState?: States;
}

interface States {
  readonly waiting?: { readonly reason?: string; readonly message?: string };
  readonly running?: { readonly startedAt?: string };
  readonly terminated?: { readonly exitCode?: number; readonly reason?: string; readonly message?: string };
}

interface Probed {
  readonly name: string;
  readonly restartPolicy?: string;
  readonly startupProbe?: object;
  readonly readinessProbe?: object;
}

/** A pod as far as its readiness goes. */
export interface PodState extends KubeObject {
  readonly spec?: {
    readonly containers?: readonly Probed[];
    readonly initContainers?: readonly Probed[];
  };
  readonly status?: {
    readonly phase?: string;
    readonly reason?: string;
    readonly message?: string;
    readonly conditions?: readonly {
      readonly type: string;
      readonly status: string;
      readonly reason?: string;
      readonly message?: string;
    }[];
    readonly containerStatuses?: readonly ContainerState[];
    readonly initContainerStatuses?: readonly ContainerState[];
  };
}

/** The init container that copies weights into a pod. */
const downloader = 'storage-initializer';

/** How many different causes a message names. */
const maxCauses = 3;

/** One sentence over all pods that are not ready, equal causes told once; undefined when there is nothing to tell. */
export function describeCauses(pods: readonly PodState[]): string | undefined {
  const byCause = new Map<string, string[]>();
  for (const pod of [...pods].sort((a, b) => a.metadata.name.localeCompare(b.metadata.name))) {
    const cause = causeOf(pod);
    if (cause) byCause.set(cause, [...(byCause.get(cause) ?? []), pod.metadata.name]);
  }
  const told = [...byCause].map(([cause, names]) =>
    names.length === 1 ? `pod ${names[0]} ${cause}` : `${names.length} pods, such as ${names[0]}: each ${cause}`,
  );
  if (told.length === 0) return undefined;
  const rest = told.length - maxCauses;
  return told.slice(0, maxCauses).join('; ') + (rest > 0 ? `; and ${rest} more` : '') + describeDownloads(pods);
}

/** In how many pods the weights are there, as long as some still wait for theirs. */
function describeDownloads(pods: readonly PodState[]): string {
  const states = pods.flatMap(({ metadata, status }) =>
    metadata.deletionTimestamp === undefined
      ? (status?.initContainerStatuses ?? []).filter(({ name }) => name === downloader)
      : [],
  );
  const done = states.filter(({ state }) => state?.terminated?.exitCode === 0).length;
  return done === states.length || states.length < 2 ? '' : `; ${done} of ${states.length} pods have their weights`;
}

/** What keeps one pod from being ready, as the rest of a sentence that begins with the pod; undefined for a ready pod. */
export function causeOf(pod: PodState): string | undefined {
  const { status } = pod;
  const condition = (type: string) => status?.conditions?.find((one) => one.type === type);
  if (pod.metadata.deletionTimestamp !== undefined) return undefined;
  if (condition('Ready')?.status === 'True') return undefined;
  if (status?.phase === 'Failed')
    return `has failed: ${[status.reason, status.message].filter(Boolean).join(': ') || 'see its events'}`;
  const scheduled = condition('PodScheduled');
  if (scheduled?.status === 'False') return `is not scheduled: ${scheduled.message ?? scheduled.reason}`;

  const containers = [
    ...(status?.initContainerStatuses ?? []).map((state) => ({ state, isInit: true })),
    ...(status?.containerStatuses ?? []).map((state) => ({ state, isInit: false })),
  ];
  // What has gone wrong comes before what only takes its time.
  for (const { state } of containers) {
    const trouble = troubleOf(state);
    if (trouble && state.name === downloader) return `cannot get its weights: container ${state.name}: ${trouble}`;
    if (trouble) return `waits for container ${state.name}: ${trouble}`;
  }
  for (const { state, isInit } of containers) {
    const probed = (isInit ? pod.spec?.initContainers : pod.spec?.containers)?.find(({ name }) => name === state.name);
    const isModelServer = state.name === 'main' && pod.metadata.labels?.[labels.kserveComponent] === 'workload';
    if (isInit && state.name === downloader && state.state?.running) return describeDownload(state);
    const patience = patienceOf(state, isInit, probed, isModelServer);
    if (patience) return `waits for container ${state.name}: ${patience}`;
  }
  if (containers.length === 0)
    return scheduled?.status === 'True'
      ? 'has been scheduled and is not started by its node yet'
      : 'is not scheduled yet';
  return 'is not ready yet';
}

function describeDownload({ name, state, lastState, restartCount }: ContainerState): string {
  const since = state?.running?.startedAt;
  const again = restartCount ? `, after ${restartCount} attempts` : '';
  const last = lastState?.terminated ? `; the last one ended with ${exitOf(lastState.terminated)}` : '';
  return `is getting its weights: container ${name} copies them${since === undefined ? '' : ` since ${since}`}${again}${last}`;
}

/** Waiting reasons of an ordinary start. */
const ordinary = new Set(['ContainerCreating', 'PodInitializing']);

function troubleOf({ state, lastState, restartCount }: ContainerState): string | undefined {
  const { waiting, terminated } = state ?? {};
  if (waiting?.reason && !ordinary.has(waiting.reason)) {
    const last = lastState?.terminated ? `; it ended before with ${exitOf(lastState.terminated)}` : '';
    return `${waiting.reason}${waiting.message ? `: ${waiting.message}` : ''}${last}`;
  }
  if (terminated && terminated.exitCode !== 0)
    return `it ended with ${exitOf(terminated)}${restartCount ? `, restarted ${restartCount} times` : ''}`;
  return undefined;
}

function exitOf(terminated: NonNullable<States['terminated']>): string {
  const text = terminated.message?.trim().split('\n').at(-1);
  return `exit code ${terminated.exitCode ?? 'unknown'}${terminated.reason ? ` (${terminated.reason})` : ''}${text ? `: ${text}` : ''}`;
}

function patienceOf(
  status: ContainerState,
  isInit: boolean,
  probed: Probed | undefined,
  isModelServer: boolean,
): string | undefined {
  const isSidecar = probed?.restartPolicy === 'Always';
  if (status.state?.terminated) return undefined;
  if (status.state?.running) {
    if (isInit && !isSidecar) return 'this init container has not finished yet';
    if (status.ready) return undefined;
    return status.started === false
      ? `it runs and does not answer ${probeOf(probed?.startupProbe)} yet${isModelServer ? '; loading a model can take minutes' : ''}`
      : `it runs and does not answer ${probeOf(probed?.readinessProbe)}`;
  }
  if (status.state?.waiting?.reason === 'PodInitializing') return 'it starts once the init containers are done';
  return 'it is being created, which includes pulling its image';
}

function probeOf(probe: object | undefined): string {
  const { httpGet, tcpSocket, grpc } = (probe ?? {}) as {
    readonly httpGet?: { readonly path?: string; readonly port?: unknown };
    readonly tcpSocket?: { readonly port?: unknown };
    readonly grpc?: { readonly port?: unknown };
  };
  if (httpGet) return `GET ${httpGet.path ?? '/'} on port ${String(httpGet.port)}`;
  if (tcpSocket) return `on port ${String(tcpSocket.port)}`;
  if (grpc) return `the gRPC health check on port ${String(grpc.port)}`;
  return 'its probe';
}
