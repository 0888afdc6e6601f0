import { parseAllDocuments } from 'yaml';
import type { Clock } from '../clock.ts';
import { AppError, messageOf } from '../errors.ts';
import type { Client } from '../kube/client.ts';
import type { KubeObject, Manifest, Resource } from '../kube/object.ts';
import { resourceOf, resources } from '../kube/resources.ts';

/** The objects of a multi-document YAML text. */
export function parseManifests(text: string, source: string): readonly Manifest[] {
  return parseAllDocuments(text).flatMap((document) => {
    if (document.errors[0]) throw new AppError('invalid', `${source}: ${document.errors[0].message}`);
    const value: unknown = document.toJS();
    if (value === null || value === undefined) return [];
    const object = value as Partial<Manifest>;
    if (!object.apiVersion || !object.kind || !object.metadata?.name) {
      throw new AppError('invalid', `${source}: a document lacks apiVersion, kind or metadata.name`);
    }
    return [object as Manifest];
  });
}

/** The order in which kinds must exist: namespaces and definitions before what lives in them. */
const rank = (object: KubeObject): number => {
  const order = [
    'Namespace',
    'CustomResourceDefinition',
    'ServiceAccount',
    'ClusterRole',
    'ClusterRoleBinding',
    'Role',
    'RoleBinding',
    'Service',
  ];
  const at = order.indexOf(object.kind);
  return at < 0 ? order.length : at;
};

/**
 * Applies manifests as `kubectl apply --server-side` would, under the field manager `name`, and waits until the
 * CRDs among them are served.
 */
export async function applyManifests(
  client: Client,
  manifests: readonly Manifest[],
  options: {
    readonly fieldManager: string;
    readonly clock: Clock;
    readonly signal?: AbortSignal;
    readonly timeoutMs?: number;
  },
): Promise<void> {
  const sorted = [...manifests].sort((a, b) => rank(a) - rank(b));
  for (const group of groupByRank(sorted)) {
    await Promise.all(group.map((object) => applyOne(client, object, options)));
    const definitions = group.filter((object) => object.kind === 'CustomResourceDefinition');
    await Promise.all(definitions.map((object) => awaitServed(client, object.metadata.name, options)));
  }
}

function groupByRank(sorted: readonly Manifest[]): readonly (readonly Manifest[])[] {
  const groups = new Map<number, Manifest[]>();
  for (const object of sorted) groups.set(rank(object), [...(groups.get(rank(object)) ?? []), object]);
  return [...groups.values()];
}

interface ApplyOptions {
  readonly fieldManager: string;
  readonly clock: Clock;
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
}

/** Tries again while a webhook or a definition is not there yet. */
async function applyOne(client: Client, object: Manifest, options: ApplyOptions): Promise<void> {
  const resource = resourceOf(object);
  if (!resource)
    throw new AppError(
      'unsupported',
      `${object.apiVersion} ${object.kind} ${object.metadata.name} is a kind that is not known here`,
    );
  const deadline = options.clock.now() + (options.timeoutMs ?? 30_000);
  for (;;) {
    try {
      await client.apply(resource, object, { fieldManager: options.fieldManager, force: true }, options.signal);
      return;
    } catch (thrown) {
      const error = AppError.from(thrown);
      const passing = error.retry || error.code === 'notFound';
      if (!passing || options.clock.now() > deadline) {
        throw new AppError(error.code, `${object.kind} ${object.metadata.name}: ${messageOf(thrown)}`, {
          cause: thrown,
        });
      }
      await options.clock.sleep(250, options.signal);
    }
  }
}

interface Definition extends KubeObject {
  readonly spec: {
    readonly group: string;
    readonly scope: string;
    readonly names: { readonly plural: string; readonly kind: string };
    readonly versions: readonly { readonly name: string; readonly served: boolean }[];
  };
  readonly status?: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
}

/** Established is not enough: for about a second after it the first request can still be a 404. */
async function awaitServed(client: Client, name: string, options: ApplyOptions): Promise<void> {
  const deadline = options.clock.now() + (options.timeoutMs ?? 30_000);
  for (;;) {
    const definition = await client.get<Definition>(resources.customResourceDefinitions, { name }, options.signal);
    const established = definition?.status?.conditions?.some((c) => c.type === 'Established' && c.status === 'True');
    if (definition && established && (await isListed(client, definition, options.signal))) return;
    if (options.clock.now() > deadline)
      throw new AppError('timeout', `CustomResourceDefinition ${name} is not served after 30 s`);
    await options.clock.sleep(100, options.signal);
  }
}

async function isListed(client: Client, definition: Definition, signal?: AbortSignal): Promise<boolean> {
  const { group, names, scope, versions } = definition.spec;
  const version = versions.find((v) => v.served)?.name ?? '';
  const resource: Resource = {
    group,
    version,
    kind: names.kind,
    plural: names.plural,
    namespaced: scope === 'Namespaced',
  };
  return client.list(resource, {}, signal).then(
    () => true,
    () => false,
  );
}
