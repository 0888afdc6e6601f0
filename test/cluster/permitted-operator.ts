import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { operatorSettings } from '../../controllers/config.ts';
import { type ControllerConfig, startControllers } from '../../controllers/index.ts';
import { clusterRules, namespaceRules } from '../../controllers/permissions.ts';
import { systemClock } from '../../src/clock.ts';
import type { Client } from '../../src/kube/client.ts';
import { type ConnectionSettings, loadKubeConfig } from '../../src/kube/config.ts';
import type { Manifest } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { createClient } from '../../src/kube/rest-client.ts';
import type { ControlPlane } from '../../src/local/control-plane.ts';
import { findGatewayApiCrds } from '../../src/local/gateway/crds.ts';
import { applyManifests, parseManifests } from '../../src/local/install.ts';
import { startManager } from '../../src/runtime/manager.ts';
import { createLogger } from '../../src/telemetry/log.ts';
import type { Counters } from '../expect/quiet.ts';
import { localEnvironment, root } from './control-plane.ts';

/** The operator's controllers in this process, with the permissions of the chart. */

const log = createLogger({ name: 'test', level: 'fatal' });
const systemNamespace = 'signalbox-system';
const account = 'signalbox-operator';

export const operatorConfig: ControllerConfig = {
  workers: 8,
  systemNamespace,
  gatewayName: operatorSettings.gatewayName.default,
  gatewayNamespace: '',
  gatewayClass: '',
  gatewayPort: 80,
  urlScheme: 'http',
  configPrefix: 'kserve-',
  vllmImage: operatorSettings.vllmImage.default,
  eppImage: operatorSettings.eppImage.default,
  sidecarImage: operatorSettings.sidecarImage.default,
  sidecarSessions: 1000,
  storageInitializerImage: operatorSettings.storageInitializerImage.default,
  huggingFaceLoader: 'engine',
  ociModelMode: 'modelcar',
  caBundleConfigMap: '',
};

export interface TestOperator {
  readonly client: Client;
  /** `reason: message` of each event. */
  readonly events: readonly string[];
  readonly failures: () => number;
  readonly counters: Counters;
  close(deadlineMs?: number): Promise<void>;
}

export const applyAll = (admin: Client, ...manifests: readonly Manifest[]) =>
  applyManifests(admin, manifests, { fieldManager: 'test', clock: systemClock });

/** Manifests of a file of the repository. */
export function readManifests(...path: readonly string[]): readonly Manifest[] {
  const file = join(root, ...path);
  return parseManifests(readFileSync(file, 'utf8'), file);
}

/** Our definitions, the operator's namespace and its account with the rules of the chart. */
export async function installOperator(admin: Client): Promise<void> {
  const rbac = (kind: string, body: object, namespace?: string): Manifest => ({
    apiVersion: 'rbac.authorization.k8s.io/v1',
    kind,
    metadata: { name: account, ...(namespace === undefined ? {} : { namespace }) },
    ...body,
  });
  const binding = (kind: string) => ({
    roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind, name: account },
    subjects: [{ kind: 'ServiceAccount', name: account, namespace: systemNamespace }],
  });
  await applyAll(
    admin,
    ...readManifests('crds', 'serving.kserve.io_llminferenceservices.yaml'),
    ...readManifests('crds', 'serving.kserve.io_llminferenceserviceconfigs.yaml'),
    { apiVersion: 'v1', kind: 'Namespace', metadata: { name: systemNamespace } },
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: account, namespace: systemNamespace } },
    rbac('ClusterRole', { rules: clusterRules('signalbox') }),
    rbac('ClusterRoleBinding', binding('ClusterRole')),
    rbac('Role', { rules: namespaceRules }, systemNamespace),
    rbac('RoleBinding', binding('Role'), systemNamespace),
  );
}

export async function startTestOperator(
  plane: ControlPlane,
  admin: Client,
  config: Partial<ControllerConfig> = {},
  wrap: (client: Client) => Client = (client) => client,
): Promise<TestOperator> {
  const client = wrap(createClient(await operatorConnection(plane, admin), { log }));
  const events: string[] = [];
  const set = await startControllers(
    { ...operatorConfig, ...config },
    {
      client,
      log,
      events: { record: (_object, _type, reason, message) => void events.push(`${reason}: ${message}`) },
    },
  );
  let failures = 0;
  let reconciles = 0;
  const metrics = {
    reconciled: (_controller: string, result: string) => {
      reconciles++;
      if (result === 'error' || result === 'terminal') failures++;
    },
    observeQueue: () => {},
  };
  const manager = startManager({ ...set }, { client, log, metrics });
  await manager.started;
  return {
    client,
    events,
    failures: () => failures,
    counters: {
      reconciles: () => reconciles,
      // Watches come and go by themselves.
      requests: () => Object.entries(client.sent).reduce((sum, [verb, n]) => (verb === 'WATCH' ? sum : sum + n), 0),
    },
    close: async (deadlineMs) => {
      await manager.close(deadlineMs);
      await client.close();
    },
  };
}

async function operatorConnection(plane: ControlPlane, admin: Client): Promise<ConnectionSettings> {
  const settings = await loadKubeConfig({ path: plane.kubeconfigPath });
  const path = `/api/v1/namespaces/${systemNamespace}/serviceaccounts/${account}/token`;
  const body = { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: { expirationSeconds: 3600 } };
  const answer = await admin.request<{ readonly status: { readonly token: string } }>('POST', path, body);
  const { cert: _cert, key: _key, ...tls } = settings.tls;
  return { ...settings, tls, authorization: async () => `Bearer ${answer.status.token}` };
}

/** Definitions of the Gateway API. */
export async function gatewayApiManifests(): Promise<readonly Manifest[]> {
  const run = promisify(execFile);
  const paths = await findGatewayApiCrds({
    cacheDir: localEnvironment.cacheDir,
    run: async (command, args) => (await run(command, [...args])).stdout,
  });
  return paths.flatMap((path) => parseManifests(readFileSync(path, 'utf8'), path));
}

/** Definitions of the InferencePool in these of its APIs. */
export const poolManifests = (versions: readonly ('v1' | 'v1alpha2')[] = ['v1', 'v1alpha2']): readonly Manifest[] =>
  versions.flatMap((version) => {
    const group = `inference.networking.${version === 'v1' ? '' : 'x-'}k8s.io`;
    return readManifests('src', 'local', 'crds', `${group}_inferencepools.yaml`);
  });

/** The one GatewayClass of the cluster, accepted by its controller. */
export async function acceptGatewayClass(admin: Client): Promise<void> {
  await applyAll(admin, {
    apiVersion: 'gateway.networking.k8s.io/v1',
    kind: 'GatewayClass',
    metadata: { name: 'envoy' },
    spec: { controllerName: 'example.com/envoy' },
  });
  await admin.mergePatch(
    resources.gatewayClasses,
    { name: 'envoy' },
    { status: { conditions: [said('Accepted', 1)] } },
    { subresource: 'status' },
  );
}

/** A condition that is True, as a gateway controller writes it. */
export const said = (type: string, observedGeneration: number) => ({
  type,
  status: 'True',
  reason: type,
  message: '',
  observedGeneration,
  lastTransitionTime: '2030-01-01T00:00:00Z',
});
