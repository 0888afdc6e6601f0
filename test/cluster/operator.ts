import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { operatorSettings } from '../../controllers/config.ts';
import { type ControllerConfig, startControllers } from '../../controllers/index.ts';
import { clusterRules, namespaceRules } from '../../controllers/permissions.ts';
import { systemClock } from '../../src/clock.ts';
import type { Client } from '../../src/kube/client.ts';
import { loadKubeConfig } from '../../src/kube/config.ts';
import type { Manifest } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { createClient } from '../../src/kube/rest-client.ts';
import { findGatewayApiCrds } from '../../src/local/gateway/crds.ts';
import { applyManifests, parseManifests } from '../../src/local/install.ts';
import { startManager } from '../../src/runtime/manager.ts';
import { createLogger } from '../../src/telemetry/log.ts';
import type { Counters } from '../expect/quiet.ts';
import { localEnvironment, root, startTestControlPlane } from './control-plane.ts';

const log = createLogger({ name: 'test', level: 'fatal' });

/** A control plane with the definitions of the operator, of the Gateway API and of pools, and the operator's controllers. */
export interface TestOperator {
  /** An administrator: the test's own hand. */
  readonly admin: Client;
  readonly client: Client;
  readonly counters: Counters;
  readonly failures: () => number;
  readonly apply: (...manifests: readonly Manifest[]) => Promise<unknown>;
  close(): Promise<void>;
}

const readDefinitions = (...path: readonly string[]) => {
  const file = join(root, ...path);
  return parseManifests(readFileSync(file, 'utf8'), file);
};

/** Starts all of it, the controllers with the permissions of the chart; without `pools` the API server serves none of them. */
export async function startTestOperator(options: {
  readonly serviceNetwork: string;
  readonly pools: readonly ('v1' | 'v1alpha2')[];
}): Promise<TestOperator> {
  const plane = await startTestControlPlane({ serviceNetwork: options.serviceNetwork });
  const settings = await loadKubeConfig({ path: plane.kubeconfigPath });
  const admin = createClient(settings, { log });
  const apply = (...manifests: readonly Manifest[]) =>
    applyManifests(admin, manifests, { fieldManager: 'test', clock: systemClock });
  const run = promisify(execFile);
  const gatewayApi = await findGatewayApiCrds({
    cacheDir: localEnvironment.cacheDir,
    run: async (command, args) => (await run(command, [...args])).stdout,
  });
  const metadata = { name: 'signalbox-operator' };
  const inSystem = { ...metadata, namespace: 'signalbox-system' };
  const rbac = { apiVersion: 'rbac.authorization.k8s.io/v1', metadata };
  const subjects = [{ kind: 'ServiceAccount', ...inSystem }];
  const roleRef = { apiGroup: 'rbac.authorization.k8s.io', name: 'signalbox-operator' };
  await apply(
    ...['llminferenceservices', 'llminferenceserviceconfigs']
      .flatMap((plural) => readDefinitions('crds', `serving.kserve.io_${plural}.yaml`))
      .map(
        ({ spec, ...rest }) =>
          // Nothing here asks for another version, and no webhook runs that could convert.
          ({ ...rest, spec: { ...(spec as object), conversion: { strategy: 'None' } } }) as unknown as Manifest,
      ),
    ...gatewayApi.flatMap((path) => parseManifests(readFileSync(path, 'utf8'), path)),
    ...options.pools.flatMap((version) =>
      readDefinitions(
        'src',
        'local',
        'crds',
        `inference.networking.${version === 'v1' ? '' : 'x-'}k8s.io_inferencepools.yaml`,
      ),
    ),
    { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'signalbox-system' } },
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata: inSystem },
    { ...rbac, kind: 'ClusterRole', rules: clusterRules('signalbox') } as unknown as Manifest,
    { ...rbac, kind: 'ClusterRoleBinding', roleRef: { ...roleRef, kind: 'ClusterRole' }, subjects } as Manifest,
    { ...rbac, kind: 'Role', metadata: inSystem, rules: namespaceRules } as unknown as Manifest,
    { ...rbac, kind: 'RoleBinding', metadata: inSystem, roleRef: { ...roleRef, kind: 'Role' }, subjects } as Manifest,
  );
  await apply({
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
  const { status } = await admin.request<{ readonly status: { readonly token: string } }>(
    'POST',
    '/api/v1/namespaces/signalbox-system/serviceaccounts/signalbox-operator/token',
    { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: { expirationSeconds: 3600 } },
  );
  const { cert: _cert, key: _key, ...tls } = settings.tls;
  const client = createClient({ ...settings, tls, authorization: async () => `Bearer ${status.token}` }, { log });
  const config = Object.fromEntries(
    Object.entries(operatorSettings).map(([name, setting]) => [name, setting.default]),
  ) as unknown as ControllerConfig;
  const set = await startControllers(config, { client, log, events: { record: () => {} } });
  let reconciles = 0;
  let failures = 0;
  const metrics = {
    reconciled: (_name: string, result: string) => {
      reconciles++;
      if (result === 'error' || result === 'terminal') failures++;
    },
    observeQueue: () => {},
  };
  const manager = startManager({ ...set }, { client, log, metrics });
  await manager.started;
  return {
    admin,
    client,
    apply,
    counters: {
      reconciles: () => reconciles,
      requests: () => Object.values(client.sent).reduce((sum, count) => sum + count, 0),
    },
    failures: () => failures,
    close: async () => {
      await manager.close();
      await client.close();
      await admin.close();
      await plane.stop();
    },
  };
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
