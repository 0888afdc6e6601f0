import { causeOf, type PodState } from '../../../plan/causes.ts';
import type { Cause } from './tree.ts';

/** An Event as far as it tells why. */
export interface EventObject {
  readonly type?: string;
  readonly reason?: string;
  readonly message?: string;
  readonly involvedObject?: { readonly kind?: string; readonly name?: string; readonly uid?: string };
  readonly lastTimestamp?: string | null;
  readonly eventTime?: string | null;
}

/** GPUs of the cluster, by resource name. */
export interface GpuCapacity {
  /** Name of the extended resource, such as `nvidia.com/gpu`. */
  readonly resource: string;
  readonly allocatable: number;
  /** Asked for by pods that are scheduled. */
  readonly used: number;
  /** Most that are free on one node. */
  readonly largestFree: number;
}

/** Why one pod is not ready, with the command that shows it and what to do. */
export function explainPod(pod: PodState, events: readonly EventObject[], gpus: readonly GpuCapacity[]): Cause {
  const { namespace, name } = pod.metadata;
  const what = `pod ${name}`;
  const message = causeOf(pod);
  if (message === undefined)
    return { what, state: 'good', message: pod.metadata.deletionTimestamp ? 'is going' : 'ready' };
  const base = { what, state: 'bad', message } as const;
  const describe = `kubectl describe pod ${name} -n ${namespace}`;

  const scheduled = pod.status?.conditions?.find(({ type }) => type === 'PodScheduled');
  if (scheduled?.status === 'False')
    return { ...base, command: describe, ...unscheduled(scheduled.message ?? '', gpus) };

  for (const status of [...(pod.status?.initContainerStatuses ?? []), ...(pod.status?.containerStatuses ?? [])]) {
    const logs = `kubectl logs ${name} -n ${namespace} -c ${status.name}`;
    const { waiting, terminated } = status.state ?? {};
    const last = terminated ?? status.lastState?.terminated;
    switch (waiting?.reason) {
      case 'ErrImagePull':
      case 'ImagePullBackOff':
      case 'InvalidImageName':
      case 'ErrImageNeverPull':
        return { ...base, command: describe, remedy: imageRemedy(waiting.message ?? '') };
      case 'CreateContainerConfigError':
      case 'CreateContainerError':
        return {
          ...base,
          command: describe,
          remedy: 'make what the message names: a ConfigMap, Secret or claim that the container refers to',
        };
      default:
    }
    if (waiting?.reason === 'CrashLoopBackOff' || (last && last.exitCode !== 0 && !status.ready))
      return {
        ...base,
        command: `${logs}${status.restartCount ? ' --previous' : ''}`,
        remedy: exitRemedy(status.name, last?.reason, last?.exitCode),
      };
  }
  const mount = events.find(({ reason }) => reason === 'FailedMount' || reason === 'FailedAttachVolume');
  if (mount?.message)
    return {
      ...base,
      message: `${message}; ${mount.message}`,
      command: describe,
      remedy: 'make the volume, claim, Secret or ConfigMap that cannot be mounted, or correct its name in the service',
    };
  const running = pod.status?.initContainerStatuses?.find(
    ({ name: of, state }) => of === 'storage-initializer' && state?.running,
  );
  if (running)
    return {
      ...base,
      command: `kubectl logs -f ${name} -n ${namespace} -c storage-initializer`,
      remedy: 'wait: the weights are being downloaded',
    };
  const slow = pod.status?.containerStatuses?.find(({ ready }) => !ready);
  if (slow?.state?.running)
    return {
      ...base,
      command: `kubectl logs -f ${name} -n ${namespace} -c ${slow.name}`,
      remedy: 'wait while the log shows progress, as when weights are loaded; otherwise its last lines say why',
    };
  return { ...base, command: describe };
}

function unscheduled(message: string, gpus: readonly GpuCapacity[]): { readonly remedy: string } {
  for (const { resource, allocatable, used, largestFree } of gpus) {
    if (!message.includes(resource)) continue;
    if (allocatable === 0)
      return { remedy: `no node offers ${resource}: install its device plugin or add nodes that have it` };
    return {
      remedy: `${allocatable - used} of ${allocatable} ${resource} are free, at most ${largestFree} on one node: free some, add nodes, or ask for fewer (replicas, parallelism.tensor, resources)`,
    };
  }
  const lacking = /Insufficient (\S+?)[.,]/.exec(message)?.[1];
  if (lacking?.includes('/'))
    return {
      remedy: `no node offers enough ${lacking}: install its device plugin, add nodes, or ask for fewer (replicas, parallelism.tensor, resources)`,
    };
  if (lacking) return { remedy: `no node has enough ${lacking} left: add nodes or lower the requests in the template` };
  if (/taint/.test(message))
    return { remedy: 'add a toleration for the taint to the template, or remove the taint from a node' };
  if (/affinity|selector/.test(message))
    return {
      remedy: 'no node has the labels that the template asks for: label nodes, or change nodeSelector and affinity',
    };
  if (/PersistentVolumeClaim|volume/.test(message))
    return { remedy: 'make the claim, or give it a volume that fits the node' };
  return { remedy: 'the scheduler gives the reason above for every node' };
}

function imageRemedy(message: string): string {
  if (/unauthorized|denied|forbidden|401|403/i.test(message))
    return 'the registry refuses: add its pull secret to imagePullSecrets of the template or of the default ServiceAccount';
  if (/not found|manifest unknown|404/i.test(message))
    return 'there is no such image or tag: correct it in the template or in the operator’s settings';
  return 'is the image name right, and can the node reach its registry?';
}

function exitRemedy(container: string, reason: string | undefined, exitCode: number | undefined): string {
  if (reason === 'OOMKilled' || exitCode === 137)
    return 'it ran out of memory: raise its memory limit, or lower --max-model-len, --max-num-seqs or the batch size';
  if (container === 'storage-initializer')
    return 'the weights could not be fetched: check spec.model.uri, the credentials and the way to the store; its log names the file';
  if (exitCode === 127 || exitCode === 126)
    return 'its command is not in the image: check image and command of the template';
  return 'its last lines say why: often a wrong argument, too little GPU memory for the model, or weights that do not fit the engine';
}
