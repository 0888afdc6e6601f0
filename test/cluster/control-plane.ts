import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ControlPlane, startControlPlane } from '../../src/local/control-plane.ts';
import { findBinaries, type LocalEnvironment, parseLocalEnvironment } from '../../src/local/paths.ts';

export const root = join(import.meta.dirname, '..', '..');

/** The environment of a test: the checkout's binaries and the user's cache. */
export const localEnvironment: LocalEnvironment = parseLocalEnvironment(
  root,
  join(root, 'node_modules', '.bin', 'node'),
  process.env,
);

/** A real control plane in a temporary folder; `stop` removes both. Give the first run minutes: binaries may be built. */
export async function startTestControlPlane(
  options: { readonly controllers?: boolean; readonly scheduler?: boolean; readonly serviceNetwork?: string } = {},
): Promise<ControlPlane> {
  const binaries = await findBinaries(
    ['etcd', 'kube-apiserver', 'kube-controller-manager', 'kube-scheduler'],
    localEnvironment,
    (line) => process.stderr.write(`${line}\n`),
  );
  const stateDir = await mkdtemp(join(tmpdir(), 'signalbox-test-'));
  const plane = await startControlPlane({
    stateDir,
    binaries: {
      etcd: binaries.etcd,
      kubeApiserver: binaries['kube-apiserver'],
      ...(options.controllers ? { kubeControllerManager: binaries['kube-controller-manager'] } : {}),
      ...(options.scheduler ? { kubeScheduler: binaries['kube-scheduler'] } : {}),
    },
    ...(options.serviceNetwork ? { serviceNetwork: options.serviceNetwork } : {}),
  });
  return {
    ...plane,
    stop: async () => {
      await plane.stop();
      await rm(stateDir, { recursive: true, force: true });
    },
  };
}
