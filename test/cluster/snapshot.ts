import type { Client } from '../../src/kube/client.ts';
import { apiVersionOf, type KubeObject, type Resource } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';

/** What a service may be made of, and the service. */
export const childKinds: readonly Resource[] = [
  resources.llmInferenceServices,
  resources.deployments,
  resources.leaderWorkerSets,
  resources.services,
  resources.serviceAccounts,
  resources.roles,
  resources.roleBindings,
  resources.configMaps,
  resources.secrets,
  resources.networkPolicies,
  resources.podMonitors,
  resources.podDisruptionBudgets,
  resources.horizontalPodAutoscalers,
  resources.scaledObjects,
  resources.resourceClaimTemplates,
  resources.httpRoutes,
  resources.inferencePools,
  resources.xInferencePools,
  resources.backendTlsPolicies,
];

/** Fields that differ each time, wherever they are. */
const fleeting = new Set([
  'uid',
  'resourceVersion',
  'creationTimestamp',
  'deletionTimestamp',
  'generation',
  'observedGeneration',
  'managedFields',
  'lastTransitionTime',
  'clusterIP',
  'clusterIPs',
]);

/**
 * Everything of those kinds in a namespace, and as text that is the same for the same end: without what the server
 * counts, the namespace's own name and keys that are random.
 */
export async function snapshotOf(
  admin: Client,
  namespace: string,
): Promise<{ readonly objects: readonly KubeObject[]; readonly text: string }> {
  const lists = await Promise.all(
    childKinds.map(async (resource) => {
      const { items } = await admin
        .list<KubeObject>(resource, { namespace })
        .catch(() => ({ items: [] as readonly KubeObject[] }));
      return items.map((item) => ({ ...item, apiVersion: apiVersionOf(resource), kind: resource.kind }));
    }),
  );
  const objects = lists.flat();
  const text = objects
    .map((object) =>
      JSON.stringify(
        object,
        (key, value: unknown) => {
          if (fleeting.has(key)) return undefined;
          // Keys and certificates, in Base64.
          if (typeof value === 'string' && value.startsWith('LS0tLS1CRUdJTi')) return 'PEM';
          if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
          return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
        },
        1,
      ).replaceAll(namespace, 'NAMESPACE'),
    )
    .sort()
    .join('\n')
    .replaceAll(/-----BEGIN [^"]*/g, 'PEM');
  return { objects, text };
}
