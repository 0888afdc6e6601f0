import type { Client } from './client.ts';
import { type Informer, type InformerDeps, startInformer } from './informer.ts';
import type { KubeObject, Resource } from './object.ts';
import { resources } from './resources.ts';

/** Which kinds have a CustomResourceDefinition, known by one watch of their names, so that nobody asks time and again. */
export interface Definitions {
  /** `unknown` while they cannot be watched. A definition that was just made is not served yet. */
  has(resource: Resource): boolean | 'unknown';
  /** Calls back for each change of the resource's definition. */
  subscribe(resource: Resource, handler: () => void): () => void;
  readonly informer: Informer<KubeObject>;
}

const nameOf = ({ plural, group }: Resource) => `${plural}.${group}`;

/** Watches names of definitions until the informer is closed. */
export function startDefinitions(client: Pick<Client, 'list' | 'watch'>, deps: InformerDeps): Definitions {
  const handlers = new Map<string, Set<() => void>>();
  const informer = startInformer<KubeObject>(
    client,
    resources.customResourceDefinitions,
    { isMetadataOnly: true, transform: toName },
    deps,
  );
  informer.subscribe(({ object }) => {
    for (const handler of handlers.get(object.metadata.name) ?? []) handler();
  });
  return {
    informer,
    has: (resource) => (informer.isSynced ? informer.store.get({ name: nameOf(resource) }) !== undefined : 'unknown'),
    subscribe(resource, handler) {
      const name = nameOf(resource);
      const of = handlers.get(name) ?? new Set();
      handlers.set(name, of.add(handler));
      return () => {
        of.delete(handler);
        if (of.size === 0) handlers.delete(name);
      };
    },
  };
}

function toName({ apiVersion, kind, metadata: { name, uid, resourceVersion } }: KubeObject): KubeObject {
  const metadata = { name, ...(uid ? { uid } : {}), ...(resourceVersion ? { resourceVersion } : {}) };
  return { apiVersion, kind, metadata };
}
