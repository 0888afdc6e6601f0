import { arch, platform, release } from 'node:os';
import type { Clock } from '../../clock.ts';
import { messageOf } from '../../errors.ts';
import type { Client } from '../../kube/client.ts';
import type { KubeObject, Manifest } from '../../kube/object.ts';
import { resources } from '../../kube/resources.ts';
import { isAlreadyExists } from '../../kube/status-error.ts';
import type { Logger } from '../../telemetry/log.ts';
import { toTime } from './pod-status.ts';

export interface NodeDescription {
  readonly name: string;
  readonly address: string;
  /** Where it answers `kubectl logs`. */
  readonly kubeletPort?: number;
  /** Kubernetes quantities: cpu, memory, pods, ephemeral-storage, nvidia.com/gpu. */
  readonly capacity: Readonly<Record<string, string>>;
}

const fieldManager = 'signalbox-node';
const renewMs = 10_000;
const leaseSeconds = 40;

const architectures: Readonly<Record<string, string>> = { x64: 'amd64', ia32: '386', arm: 'arm', arm64: 'arm64' };

function renderNode(node: NodeDescription): Manifest {
  const architecture = architectures[arch()] ?? arch();
  const labels = {
    'kubernetes.io/hostname': node.name,
    'kubernetes.io/os': platform(),
    'kubernetes.io/arch': architecture,
  };
  return {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name: node.name, labels },
    spec: {},
  };
}

function renderNodeStatus(node: NodeDescription, startedMs: number, nowMs: number) {
  const condition = (type: string, status: string, reason: string, message: string) => ({
    type,
    status,
    reason,
    message,
    lastHeartbeatTime: toTime(nowMs),
    lastTransitionTime: toTime(startedMs),
  });
  return {
    capacity: node.capacity,
    allocatable: node.capacity,
    addresses: [
      { type: 'InternalIP', address: node.address },
      { type: 'Hostname', address: node.name },
    ],
    conditions: [
      condition('MemoryPressure', 'False', 'KubeletHasSufficientMemory', 'node has sufficient memory available'),
      condition('DiskPressure', 'False', 'KubeletHasNoDiskPressure', 'node has no disk pressure'),
      condition('PIDPressure', 'False', 'KubeletHasSufficientPID', 'node has sufficient PID available'),
      condition('Ready', 'True', 'KubeletReady', 'the embedded node runs pods as processes'),
    ],
    ...(node.kubeletPort === undefined ? {} : { daemonEndpoints: { kubeletEndpoint: { Port: node.kubeletPort } } }),
    nodeInfo: {
      architecture: architectures[arch()] ?? arch(),
      operatingSystem: platform(),
      osImage: `${platform()} (embedded)`,
      kernelVersion: release(),
      kubeletVersion: 'v1.35.4',
      kubeProxyVersion: '',
      containerRuntimeVersion: 'signalbox://0.1.0',
      machineID: node.name,
      systemUUID: '',
      bootID: '',
    },
  };
}

/** Makes the Node and its Lease, and keeps both fresh until `signal`. Resolves after the first write. */
export async function registerNode(
  client: Client,
  node: NodeDescription,
  deps: { readonly clock: Clock; readonly log: Logger; readonly signal: AbortSignal },
): Promise<{ readonly uid: string }> {
  const { clock, log, signal } = deps;
  const startedMs = clock.now();
  const ref = { name: node.name };
  const created = await client
    .create<KubeObject>(resources.nodes, renderNode(node), signal)
    .catch((thrown: unknown) => {
      if (!isAlreadyExists(thrown)) throw thrown;
      return client.get<KubeObject>(resources.nodes, ref, signal);
    });
  const writeStatus = () =>
    client.mergePatch(
      resources.nodes,
      ref,
      { status: renderNodeStatus(node, startedMs, clock.now()) },
      { subresource: 'status', fieldManager },
      signal,
    );
  await writeStatus();
  const uid = created?.metadata.uid ?? '';
  const renew = () =>
    client.apply(
      resources.leases,
      {
        apiVersion: 'coordination.k8s.io/v1',
        kind: 'Lease',
        metadata: {
          name: node.name,
          namespace: 'kube-node-lease',
          ownerReferences: [{ apiVersion: 'v1', kind: 'Node', name: node.name, uid }],
        },
        spec: {
          holderIdentity: node.name,
          leaseDurationSeconds: leaseSeconds,
          renewTime: new Date(clock.now()).toISOString().replace('Z', '000Z'),
        },
      },
      { fieldManager, force: true },
      signal,
    );
  const keepFresh = async (): Promise<void> => {
    // The kubelet, too, renews its lease often and writes the larger Node seldom.
    for (let round = 1; !signal.aborted; round++) {
      await renew().catch((thrown) => {
        if (!signal.aborted) log.warn({ err: thrown }, `the node's lease could not be renewed: ${messageOf(thrown)}`);
      });
      if (round % 30 === 0) await writeStatus().catch(() => {});
      await clock.sleep(renewMs, signal).catch(() => {});
    }
  };
  void keepFresh();
  return { uid };
}
