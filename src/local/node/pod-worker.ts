import { randomUUID } from 'node:crypto';
import { lstat, mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../../clock.ts';
import { messageOf } from '../../errors.ts';
import type { Client } from '../../kube/client.ts';
import { keyOf } from '../../kube/object.ts';
import { resources } from '../../kube/resources.ts';
import { hasCode } from '../../kube/status-error.ts';
import type { Logger } from '../../telemetry/log.ts';
import { type ImageTable, parseRepository } from '../images.ts';
import type { Network } from '../network.ts';
import type { AddressAllocator } from './address.ts';
import { boundLog, containerLogPath, readTail } from './container-log.ts';
import { expandVariables, resolveEnv } from './env.ts';
import { renderTokenKubeconfig } from './kubeconfig.ts';
import { createPathReplacer, type MountPath, resolveSubPath } from './mount-paths.ts';
import type { PodSources } from './pod-sources.ts';
import { type Container, containersOf, type Handler, type Pod, type PodStatus } from './pod-spec.ts';
import {
  type BackOff,
  newPodState,
  type PodEffect,
  type PodEvent,
  type PodState,
  type StartFailure,
  step,
} from './pod-state.ts';
import { renderPodStatus } from './pod-status.ts';
import { type ProbeTarget, runHandler, runProbes } from './probes.ts';
import { type ContainerProcess, startProcess } from './process.ts';
import type { Reaper } from './reaper.ts';
import { findTokenPath, syncVolumes, volumeDir } from './volumes.ts';

/** What all pods of a node share. */
export interface NodeContext {
  readonly client: Client;
  readonly clock: Clock;
  readonly log: Logger;
  readonly nodeName: string;
  readonly hostIP: string;
  readonly allocatable: Readonly<Record<string, string>>;
  readonly images: ImageTable;
  readonly addresses: AddressAllocator;
  readonly network: Pick<Network, 'hookFile' | 'serviceEnv'>;
  readonly apiServer: { readonly url: string; readonly caFile: string };
  readonly stateDir: string;
  readonly backOff: BackOff;
  readonly basePath: string;
  readonly reaper: Reaper;
  readonly sourcesOf: (pod: Pod) => PodSources;
  readonly record: (
    pod: Pod,
    event: {
      readonly level: 'Normal' | 'Warning';
      readonly reason: string;
      readonly message: string;
      readonly fieldPath?: string;
    },
  ) => void;
  /** Says a line once in the life of the node. */
  readonly sayOnce: (line: string) => void;
}

interface Run {
  readonly process: ContainerProcess;
  readonly containerId: string;
  readonly launch: Launch;
  readonly abort: AbortController;
  /** Its preStop hook has begun. */
  stopping?: boolean;
}

/** Everything that was worked out to start a container; commands beside it (probes, hooks) use the same. */
interface Launch {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
  readonly replace: (text: string) => string;
  readonly commands: Readonly<Record<string, readonly string[]>>;
  readonly messageFile: string;
}

class StartError extends Error {
  readonly failure: StartFailure;

  constructor(failure: StartFailure, message: string) {
    super(message);
    this.failure = failure;
  }
}

const maxMessageBytes = 4096;
const statusRetryMs = 1_000;
const statusSettleMs = 5;

/**
 * Runs one pod.
 *
 * Flow: changes of the pod and results of effects go through `step`; its effects are carried out here; every new state
 * is written to the pod's status, at most one write at a time, the newest winning.
 * Guarantees: no process of the pod is left when `gone` resolves.
 */
export class PodWorker {
  readonly #context: NodeContext;
  readonly #log: Logger;
  readonly #podDir: string;
  readonly #runs = new Map<string, Run>();
  readonly #closing = new AbortController();
  readonly #startTimeMs: number;
  #pod: Pod;
  #state: PodState;
  #status: PodStatus | undefined;
  #statusText = '';
  #writingStatus = false;
  #isStatusDue = false;
  #hadEnded = false;
  #address: string | undefined;
  #finishing: Promise<void> | undefined;
  #cleaning: Promise<void> | undefined;
  readonly #starting = new Set<Promise<void>>();
  #wake: { readonly atMs: number; readonly cancel: AbortController } | undefined;
  #syncing: Promise<void> = Promise.resolve();
  #resolveGone: () => void = () => {};
  /** Resolves when the pod has ended for good and its files are removed. */
  readonly gone: Promise<void>;

  constructor(context: NodeContext, pod: Pod) {
    this.#context = context;
    this.#pod = pod;
    this.#log = context.log.child({ pod: keyOf(pod.metadata) });
    this.#podDir = join(context.stateDir, 'pods', pod.metadata.uid ?? '');
    this.#startTimeMs = pod.status?.startTime ? Date.parse(pod.status.startTime) : context.clock.now();
    this.gone = new Promise((resolve) => {
      this.#resolveGone = resolve;
    });
    // After a restart of the node nothing runs any more: containers that had run are started once more.
    const restarts = Object.fromEntries(
      [...(pod.status?.initContainerStatuses ?? []), ...(pod.status?.containerStatuses ?? [])].map((status) => [
        status.name,
        (status.restartCount ?? 0) + (status.containerID ? 1 : 0),
      ]),
    );
    this.#state = newPodState(pod.spec, restarts);
  }

  get pod(): Pod {
    return this.#pod;
  }

  start(): void {
    const { phase } = this.#pod.status ?? {};
    // What has ended stays ended; it only waits for its deletion.
    if (isTerminal(phase)) {
      this.#hadEnded = true;
      this.#state = { ...this.#state, finished: true };
    } else this.#dispatch({ type: 'tick' });
    this.update(this.#pod);
  }

  /** The pod has changed in the API server. */
  update(pod: Pod): void {
    const before = this.#pod;
    this.#pod = pod;
    if (pod.metadata.deletionTimestamp !== undefined) {
      if (this.#state.finished) this.#perform({ type: 'finish' });
      else this.#dispatch({ type: 'deleted', graceMs: (pod.metadata.deletionGracePeriodSeconds ?? 30) * 1000 });
      return;
    }
    if (before !== pod && isShownDifferently(before, pod)) this.refreshVolumes();
    this.#scheduleStatus();
  }

  /** The pod is no longer in the API server: its processes get no grace. */
  vanish(): void {
    this.#dispatch({ type: 'deleted', graceMs: 0 });
    if (this.#state.finished) void this.#cleanUp();
  }

  /** Something that the volumes show may have changed, or a token grows old. */
  refreshVolumes(): void {
    if (this.#state.preparation !== 'done' || this.#closing.signal.aborted) return;
    this.#syncing = this.#syncing
      .then(() => this.#syncVolumes())
      .catch((thrown) => {
        if (!this.#closing.signal.aborted)
          this.#log.warn({ err: thrown }, `volumes were not refreshed: ${messageOf(thrown)}`);
      });
  }

  /** The node stops: processes end within `graceMs`; the pod stays in the API server. */
  async close(graceMs: number): Promise<void> {
    this.#closing.abort(new Error('closed'));
    this.#wake?.cancel.abort();
    await Promise.all(this.#starting);
    const runs = [...this.#runs.values()];
    for (const run of runs) {
      run.abort.abort();
      run.process.stop(graceMs, this.#context.clock);
    }
    await Promise.all(runs.map((run) => run.process.exited));
  }

  /** Keeps the logs of the pod's containers within twice `maxBytes`. */
  async boundLogs(maxBytes: number): Promise<void> {
    for (const { container } of containersOf(this.#pod.spec)) await boundLog(this.#logPath(container.name), maxBytes);
  }

  #dispatch(event: PodEvent): void {
    if (this.#closing.signal.aborted) return;
    const { metadata, spec } = this.#pod;
    const result = step(
      {
        spec,
        podLabel: `${metadata.name}_${metadata.namespace}(${metadata.uid})`,
        backOff: this.#context.backOff,
        nowMs: this.#context.clock.now(),
      },
      this.#state,
      event,
    );
    this.#state = result.state;
    for (const effect of result.effects) this.#perform(effect);
    this.#scheduleStatus();
  }

  #perform(effect: PodEffect): void {
    switch (effect.type) {
      case 'prepare':
        this.#prepare().then(
          (podIP) => this.#dispatch({ type: 'prepared', podIP }),
          (thrown) => this.#dispatch({ type: 'prepareFailed', message: messageOf(thrown) }),
        );
        return;
      case 'start':
        this.#track(this.#startContainer(effect.name));
        return;
      case 'stop':
        void this.#stopContainer(effect.name, effect.graceMs);
        return;
      case 'record':
        this.#record(effect.level, effect.reason, effect.message, effect.container);
        return;
      case 'wake':
        this.#wakeAt(effect.atMs);
        return;
      case 'finish':
        this.#finishing ??= this.#finish();
        return;
    }
  }

  #track(starting: Promise<void>): void {
    this.#starting.add(starting);
    void starting.finally(() => this.#starting.delete(starting));
  }

  #wakeAt(atMs: number): void {
    if (this.#wake && this.#wake.atMs <= atMs) return;
    this.#wake?.cancel.abort();
    const cancel = new AbortController();
    this.#wake = { atMs, cancel };
    this.#context.clock.sleep(Math.max(1, atMs - this.#context.clock.now()), cancel.signal).then(
      () => {
        this.#wake = undefined;
        this.#dispatch({ type: 'tick' });
      },
      () => {},
    );
  }

  async #prepare(): Promise<string> {
    const { addresses, hostIP, stateDir, apiServer } = this.#context;
    const podIP = this.#state.podIP ?? this.#address ?? (this.#pod.spec.hostNetwork ? hostIP : addresses.allocate());
    this.#address = podIP;
    for (const dir of ['home', 'tmp', 'messages']) await mkdir(join(this.#podDir, dir), { recursive: true });
    await mkdir(join(stateDir, 'logs'), { recursive: true });
    await this.#syncVolumes();
    const tokenFile = findTokenPath(this.#pod, this.#podDir);
    if (tokenFile) {
      const text = renderTokenKubeconfig(apiServer, tokenFile, this.#pod.metadata.namespace ?? 'default');
      await writeFile(join(this.#podDir, 'kubeconfig'), text);
    }
    return podIP;
  }

  async #syncVolumes(): Promise<void> {
    const { hostIP, nodeName, allocatable } = this.#context;
    const sources = this.#context.sourcesOf(this.#pod);
    await syncVolumes(this.#pod, this.#podDir, {
      ...sources,
      podIP: this.#address ?? '',
      hostIP,
      nodeName,
      allocatable,
    });
  }

  async #startContainer(name: string): Promise<void> {
    const container = containersOf(this.#pod.spec).find((placed) => placed.container.name === name)?.container;
    if (!container) return;
    try {
      const launch = await this.#planLaunch(container);
      if (this.#closing.signal.aborted) return;
      await rm(launch.messageFile, { force: true });
      this.#record('Normal', 'Created', `Container created`, name);
      const process = await startProcess({
        argv: launch.argv,
        env: launch.env,
        cwd: launch.cwd,
        logPath: this.#logPath(name),
        reaper: this.#context.reaper,
      }).catch((thrown: NodeJS.ErrnoException) => {
        const why = thrown.code === 'ENOENT' ? 'executable file not found in $PATH' : thrown.message;
        throw new StartError('run', `failed to start container "${name}": exec: "${launch.argv[0]}": ${why}`);
      });
      const run: Run = { process, containerId: `signalbox://${randomUUID()}`, launch, abort: new AbortController() };
      this.#runs.set(name, run);
      this.#record('Normal', 'Started', `Container started`, name);
      this.#dispatch({ type: 'started', name, containerId: run.containerId });
      void this.#follow(container, run);
      if (this.#closing.signal.aborted) process.stop(0, this.#context.clock);
    } catch (thrown) {
      const cause = thrown instanceof StartError ? thrown.failure : 'config';
      this.#dispatch({ type: 'startFailed', name, cause, message: messageOf(thrown) });
    }
  }

  /** Hooks, probes and the end of one run of a container. */
  async #follow(container: Container, run: Run): Promise<void> {
    const { name } = container;
    const { clock } = this.#context;
    void run.process.exited.then(async ({ exitCode }) => {
      run.abort.abort();
      const message = await this.#terminationMessage(container, run, exitCode);
      if (this.#runs.get(name) === run) this.#runs.delete(name);
      this.#dispatch({ type: 'exited', name, exitCode, ...(message ? { message } : {}) });
    });
    const target = this.#probeTarget(container, run);
    const hook = container.lifecycle?.postStart;
    if (hook) {
      const result = await this.#runHook(hook, target, run.abort.signal, 600_000);
      if (run.abort.signal.aborted) return;
      if (!result.ok) {
        const message = `PostStartHook failed: ${result.message}`;
        this.#dispatch({ type: 'hookFailed', name, containerId: run.containerId, message });
        return;
      }
    }
    await runProbes({
      container,
      target,
      clock,
      signal: run.abort.signal,
      onVerdict: (probe, ok, { terminationGracePeriodSeconds }) =>
        this.#dispatch({
          type: 'probed',
          name,
          containerId: run.containerId,
          probe,
          ok,
          ...(terminationGracePeriodSeconds === undefined ? {} : { graceMs: terminationGracePeriodSeconds * 1000 }),
        }),
      onFailure: (probe, message) => {
        const kind = `${probe.charAt(0).toUpperCase()}${probe.slice(1)}`;
        this.#record('Warning', 'Unhealthy', `${kind} probe failed: ${message}`, name);
      },
    }).catch((thrown) => this.#log.error({ err: thrown, container: name }, 'probing stopped'));
  }

  async #stopContainer(name: string, graceMs: number): Promise<void> {
    const run = this.#runs.get(name);
    if (!run) return;
    const { clock } = this.#context;
    const container = containersOf(this.#pod.spec).find((placed) => placed.container.name === name)?.container;
    const hook = container?.lifecycle?.preStop;
    let leftMs = graceMs;
    if (container && hook && graceMs > 0 && !run.stopping) {
      run.stopping = true;
      const begunMs = clock.now();
      const result = await this.#runHook(hook, this.#probeTarget(container, run), run.abort.signal, graceMs);
      if (!result.ok && !run.abort.signal.aborted) {
        this.#record('Warning', 'FailedPreStopHook', `PreStopHook failed: ${result.message}`, name);
      }
      // The hook uses up the grace; two seconds are left in any case.
      leftMs = Math.max(2_000, graceMs - (clock.now() - begunMs));
    }
    run.process.stop(leftMs, clock);
  }

  async #runHook(hook: Handler, target: ProbeTarget, signal: AbortSignal, timeoutMs: number) {
    if (!hook.sleep) return runHandler(hook, target, timeoutMs);
    await this.#context.clock.sleep(Math.min(hook.sleep.seconds * 1000, timeoutMs), signal).catch(() => {});
    return { ok: true, message: '' };
  }

  #probeTarget(container: Container, run: Run): ProbeTarget {
    return {
      podIP: this.#state.podIP ?? '',
      container,
      exec: (command, timeoutMs) => this.#exec(container.name, run, command, timeoutMs),
    };
  }

  async #exec(name: string, run: Run, command: readonly string[], timeoutMs: number) {
    const { reaper, clock } = this.#context;
    const output = join(this.#podDir, 'tmp', `.exec-${name}-${randomUUID()}`);
    try {
      const process = await startProcess({
        argv: resolveCommand(command.map(run.launch.replace), run.launch.commands),
        env: run.launch.env,
        cwd: run.launch.cwd,
        logPath: output,
        reaper,
      });
      const timer = new AbortController();
      const end = (): void => process.kill();
      run.abort.signal.addEventListener('abort', end, { once: true });
      clock.sleep(timeoutMs, timer.signal).then(end, () => {});
      const { exitCode } = await process.exited;
      timer.abort();
      run.abort.signal.removeEventListener('abort', end);
      return { exitCode, output: (await readFile(output, 'utf8').catch(() => '')).slice(0, 1024) };
    } finally {
      await rm(output, { force: true });
    }
  }

  async #planLaunch(container: Container): Promise<Launch> {
    const { context, pod } = { context: this.#context, pod: this.#pod };
    const image = this.#findImage(container);
    const { metadata } = pod;
    const namespace = metadata.namespace ?? 'default';
    const podIP = this.#state.podIP ?? '';
    const api = new URL(context.apiServer.url);
    const links = pod.spec.enableServiceLinks === false ? {} : context.network.serviceEnv(namespace);
    const resolved = await resolveEnv(pod, container, {
      ...context.sourcesOf(pod),
      podIP,
      hostIP: context.hostIP,
      nodeName: context.nodeName,
      allocatable: context.allocatable,
      services: {
        ...links,
        KUBERNETES_SERVICE_HOST: api.hostname,
        KUBERNETES_SERVICE_PORT: api.port || '443',
        KUBERNETES_SERVICE_PORT_HTTPS: api.port || '443',
      },
    }).catch((thrown) => {
      throw new StartError('config', messageOf(thrown));
    });
    if (!resolved.ok) throw new StartError('config', resolved.message);

    const messageFile = join(this.#podDir, 'messages', container.name);
    const mounts = await this.#mounts(container, resolved.value);
    const replace = createPathReplacer([
      ...mounts,
      { mountPath: container.terminationMessagePath ?? '/dev/termination-log', realPath: messageFile },
    ]);
    const own: Record<string, string> = {};
    for (const [key, value] of Object.entries(resolved.value)) own[key] = replace(value);
    const home = join(this.#podDir, 'home');
    const toolsDir = await context.images.toolsDir(image);
    const hook = `--require=${JSON.stringify(context.network.hookFile)}`;
    const env: Record<string, string> = {
      HOME: home,
      TMPDIR: join(this.#podDir, 'tmp'),
      HOSTNAME: pod.spec.hostname ?? metadata.name,
      LANG: 'C.UTF-8',
      ...image.env,
      ...(findTokenPath(pod, this.#podDir) && hasTokenMount(pod, container)
        ? { KUBECONFIG: join(this.#podDir, 'kubeconfig') }
        : {}),
      ...own,
      PATH: [toolsDir, own.PATH ?? context.basePath].filter(Boolean).join(':'),
      NODE_OPTIONS: own.NODE_OPTIONS ? `${hook} ${own.NODE_OPTIONS}` : hook,
      SIGNALBOX_POD_ADDRESS: podIP,
      SIGNALBOX_POD_NAMESPACE: namespace,
    };
    const expand = (word: string): string => replace(expandVariables(word, resolved.value));
    const command = (container.command ?? []).map(expand);
    const args = (container.args ?? []).map(expand);
    const argv =
      command.length > 0 ? [...resolveCommand(command, image.commands), ...args] : [...image.entrypoint, ...args];
    const workingDir = container.workingDir ? replace(container.workingDir) : undefined;
    // A directory of the image that is not here is stood in for by the pod's own.
    const isThere = workingDir && (await stat(workingDir).catch(() => undefined))?.isDirectory();
    return { argv, env, cwd: isThere ? workingDir : home, replace, commands: image.commands, messageFile };
  }

  #findImage(container: Container) {
    const name = container.image ?? '';
    if (parseRepository(name) === undefined) {
      throw new StartError('image', `Failed to apply default image tag "${name}": couldn't parse image name`);
    }
    const image = this.#context.images.find(name);
    if (!image) {
      this.#record('Normal', 'Pulling', `Pulling image "${name}"`, container.name);
      throw new StartError(
        'pull',
        `Failed to pull image "${name}": the embedded cluster has no such image; it runs Signalbox's own images and the vLLM images only`,
      );
    }
    if (image.notice) this.#context.sayOnce(`${name}: ${image.notice}`);
    this.#record('Normal', 'Pulled', `Container image "${name}" already present on machine`, container.name);
    return image;
  }

  async #mounts(container: Container, env: Readonly<Record<string, string>>): Promise<readonly MountPath[]> {
    const mounts: MountPath[] = [];
    for (const mount of container.volumeMounts ?? []) {
      const subPath = mount.subPathExpr ? expandVariables(mount.subPathExpr, env) : mount.subPath;
      const realPath = resolveSubPath(volumeDir(this.#podDir, mount.name), subPath);
      if (realPath === undefined) {
        throw new StartError('config', `subPath "${subPath}" of volume "${mount.name}" must stay inside of the volume`);
      }
      // As the kubelet does: a sub-path that is not there becomes a directory.
      if (!(await lstat(realPath).catch(() => undefined))) await mkdir(realPath, { recursive: true });
      mounts.push({ mountPath: mount.mountPath, realPath });
    }
    return mounts;
  }

  async #terminationMessage(container: Container, run: Run, exitCode: number): Promise<string> {
    const written = await readFile(run.launch.messageFile, 'utf8').catch(() => '');
    if (written !== '') return written.slice(0, maxMessageBytes);
    if (exitCode === 0 || container.terminationMessagePolicy !== 'FallbackToLogsOnError') return '';
    return readTail(this.#logPath(container.name), 2048);
  }

  /** The last status, then the pod itself; tried until the API server has taken both. */
  async #finish(): Promise<void> {
    const { client, clock } = this.#context;
    const { metadata } = this.#pod;
    for (let delayMs = 200; ; delayMs = Math.min(delayMs * 2, 10_000)) {
      try {
        if (!this.#hadEnded) await this.#writeStatus();
        await client.delete(
          resources.pods,
          { name: metadata.name, namespace: metadata.namespace ?? 'default' },
          { gracePeriodSeconds: 0, ...(metadata.uid ? { uid: metadata.uid } : {}) },
          this.#closing.signal,
        );
        break;
      } catch (thrown) {
        // Another pod of the same name is there already.
        if (this.#closing.signal.aborted || hasCode(thrown, 'conflict') || hasCode(thrown, 'notFound')) break;
        this.#log.warn({ err: thrown }, `the pod could not be deleted: ${messageOf(thrown)}`);
        await clock.sleep(delayMs, this.#closing.signal).catch(() => {});
      }
    }
    await this.#cleanUp();
  }

  #cleanUp(): Promise<void> {
    this.#cleaning ??= (async () => {
      this.#closing.abort(new Error('the pod has ended'));
      this.#wake?.cancel.abort();
      for (const run of this.#runs.values()) run.process.kill();
      await this.#syncing;
      await rm(this.#podDir, { recursive: true, force: true }).catch((thrown) => {
        this.#log.warn({ err: thrown }, `${this.#podDir} could not be removed: ${messageOf(thrown)}`);
      });
      if (this.#address && !this.#pod.spec.hostNetwork) this.#context.addresses.release(this.#address);
      this.#resolveGone();
    })();
    return this.#cleaning;
  }

  #scheduleStatus(): void {
    this.#isStatusDue = true;
    if (this.#writingStatus || this.#closing.signal.aborted || this.#state.finished) return;
    this.#writingStatus = true;
    void this.#writeWhileDue();
  }

  async #writeWhileDue(): Promise<void> {
    const { clock } = this.#context;
    const { signal } = this.#closing;
    while (this.#isStatusDue && !signal.aborted && !this.#state.finished) {
      try {
        // What happens in the same moment goes into one write.
        await clock.sleep(statusSettleMs, signal);
        this.#isStatusDue = false;
        await this.#writeStatus();
      } catch (thrown) {
        if (signal.aborted || hasCode(thrown, 'notFound')) break;
        this.#isStatusDue = true;
        this.#log.warn({ err: thrown }, `the pod's status could not be written: ${messageOf(thrown)}`);
        await clock.sleep(statusRetryMs, signal).catch(() => {});
      }
    }
    this.#writingStatus = false;
  }

  /** Writes the status if it differs from what was written last. */
  async #writeStatus(): Promise<void> {
    const { client, clock, hostIP } = this.#context;
    const { metadata } = this.#pod;
    const live = this.#status ? { ...this.#pod, status: mergeConditions(this.#pod.status, this.#status) } : this.#pod;
    const status = renderPodStatus(live, this.#state, { hostIP, startTimeMs: this.#startTimeMs, nowMs: clock.now() });
    const text = JSON.stringify(status);
    if (text === this.#statusText) return;
    await client.mergePatch<Pod>(
      resources.pods,
      { name: metadata.name, namespace: metadata.namespace ?? 'default' },
      // The uid makes it fail for another pod of the same name.
      { metadata: { uid: metadata.uid }, status },
      { subresource: 'status', fieldManager: 'signalbox-node' },
      this.#closing.signal,
    );
    this.#status = status;
    this.#statusText = text;
  }

  #record(level: 'Normal' | 'Warning', reason: string, message: string, container?: string): void {
    if (this.#closing.signal.aborted) return;
    const isInit = this.#pod.spec.initContainers?.some((init) => init.name === container);
    this.#context.record(this.#pod, {
      level,
      reason,
      message,
      ...(container ? { fieldPath: `spec.${isInit ? 'initContainers' : 'containers'}{${container}}` } : {}),
    });
  }

  #logPath(container: string): string {
    const { metadata } = this.#pod;
    return containerLogPath(this.#context.stateDir, metadata.namespace ?? 'default', metadata.name, container);
  }
}

/** Others' conditions as the API server has them, our own as we wrote them: the watch may be behind. */
function mergeConditions(live: PodStatus | undefined, written: PodStatus): PodStatus {
  const ours = new Map((written.conditions ?? []).map((condition) => [condition.type, condition]));
  for (const condition of live?.conditions ?? []) {
    if (!['PodReadyToStartContainers', 'Initialized', 'Ready', 'ContainersReady'].includes(condition.type)) {
      ours.set(condition.type, condition);
    }
  }
  return { ...live, conditions: [...ours.values()] };
}

/** The words to run: a command that is known in the image by its path or name, or the word itself. */
function resolveCommand(
  command: readonly string[],
  commands: Readonly<Record<string, readonly string[]>>,
): readonly string[] {
  const [first = '', ...rest] = command;
  return [...(commands[first] ?? [first]), ...rest];
}

/** Whether the downward API shows something else than before. */
function isShownDifferently(before: Pod, after: Pod): boolean {
  const shows = (after.spec.volumes ?? []).some(
    (volume) => volume.downwardAPI ?? volume.projected?.sources?.some((source) => source.downwardAPI),
  );
  const shown = ({ metadata }: Pod): string => JSON.stringify([metadata.labels, metadata.annotations]);
  return shows && shown(before) !== shown(after);
}

function hasTokenMount(pod: Pod, container: Container): boolean {
  const volumes = (pod.spec.volumes ?? [])
    .filter((volume) => volume.projected?.sources?.some((source) => source.serviceAccountToken))
    .map((volume) => volume.name);
  return (container.volumeMounts ?? []).some((mount) => volumes.includes(mount.name));
}

function isTerminal(phase: string | undefined): boolean {
  return phase === 'Succeeded' || phase === 'Failed';
}
