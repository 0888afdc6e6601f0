import { operatorSettings } from '../../controllers/config.ts';
import type { ControllerConfig } from '../../controllers/index.ts';
import type { Client } from '../../src/kube/client.ts';
import { loadKubeConfig } from '../../src/kube/config.ts';
import type { Manifest } from '../../src/kube/object.ts';
import { createClient } from '../../src/kube/rest-client.ts';
import { silentLogger } from '../../src/telemetry/log.ts';
import { startTestControlPlane } from './control-plane.ts';
import {
  acceptGatewayClass,
  applyAll,
  gatewayApiManifests,
  installOperator,
  type TestOperator as PermittedOperator,
  poolManifests,
  startTestOperator as startOperator,
} from './permitted-operator.ts';

/** A control plane with the definitions of the operator, of the Gateway API and of pools, and the operator's controllers. */
export interface TestOperator extends PermittedOperator {
  /** An administrator: the test's own hand. */
  readonly admin: Client;
  readonly apply: (...manifests: readonly Manifest[]) => Promise<unknown>;
}

/** Starts all of it, with every setting's default; without `pools` the API server serves none of them. */
export async function startTestOperator(options: {
  readonly serviceNetwork: string;
  readonly pools: readonly ('v1' | 'v1alpha2')[];
}): Promise<TestOperator> {
  const plane = await startTestControlPlane({ serviceNetwork: options.serviceNetwork });
  const admin = createClient(await loadKubeConfig({ path: plane.kubeconfigPath }), { log: silentLogger });
  await installOperator(admin);
  await applyAll(admin, ...(await gatewayApiManifests()), ...poolManifests(options.pools));
  await acceptGatewayClass(admin);
  const config = Object.fromEntries(
    Object.entries(operatorSettings).map(([name, setting]) => [name, setting.default]),
  ) as unknown as ControllerConfig;
  const operator = await startOperator(plane, admin, config);
  return {
    ...operator,
    admin,
    apply: (...manifests) => applyAll(admin, ...manifests),
    close: async (deadlineMs) => {
      await operator.close(deadlineMs);
      await admin.close();
      await plane.stop();
    },
  };
}
