import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { parse, parseAllDocuments } from 'yaml';
import { podSchema } from '../../src/api/foreign/pod-schema.ts';
import type { LLMInferenceService } from '../../src/api/v1alpha2/llm-inference-service.ts';
import { controllerOf } from '../../src/kube/apply.ts';
import type { KubeObject, Manifest, Resource } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { parseManifests } from '../../src/local/install.ts';
import { createAuthority, issueCertificate } from '../../src/pki.ts';
import { type AdmissionServer, startAdmissionServer } from '../../src/runtime/admission-server.ts';
import { silentLogger } from '../../src/telemetry/log.ts';
import { createWebhooks } from '../../webhooks/index.ts';
import { renderWebhookConfigurations } from '../../webhooks/registration.ts';
import { eventually } from '../expect/eventually.ts';
import { root } from './control-plane.ts';
import { startTestOperator, type TestOperator } from './operator.ts';

/** Every sample is applied with admission on, and reconciled to the children that its golden manifests list. */

let operator: TestOperator;
let server: AdmissionServer;

/** What the golden manifests hold; network policies depend on a setting that they leave out. */
const kinds: readonly Resource[] = [
  resources.deployments,
  resources.leaderWorkerSets,
  resources.podDisruptionBudgets,
  resources.horizontalPodAutoscalers,
  resources.scaledObjects,
  resources.resourceClaimTemplates,
  resources.services,
  resources.serviceAccounts,
  resources.roles,
  resources.roleBindings,
  resources.httpRoutes,
  resources.inferencePools,
  resources.xInferencePools,
];

const folder = join(root, 'config', 'samples');
const samples = readdirSync(folder).filter((file) => file.endsWith('.yaml'));

/** Sample → the folder of its golden manifests. */
const goldens: ReadonlyMap<string, string> = new Map(
  readdirSync(join(root, 'test', 'golden'), { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .flatMap(({ name }) => {
      const input: {
        readonly sample?: string;
        readonly service?: unknown;
        readonly platform?: { readonly served?: unknown };
      } = parse(readFileSync(join(root, 'test', 'golden', name, 'input.yaml'), 'utf8'));
      // Those of a cluster that serves less are another matter.
      return input.service || input.platform?.served ? [] : [[`${input.sample ?? name}.yaml` as string, name] as const];
    }),
);

function expectedChildren(sample: string): readonly string[] {
  const file = join(root, 'test', 'golden', goldens.get(sample) ?? '', 'expected.yaml');
  return parseAllDocuments(readFileSync(file, 'utf8'))
    .map((document) => document.toJS() as Manifest | null)
    .filter((manifest): manifest is Manifest => manifest !== null && kinds.some(({ kind }) => kind === manifest.kind))
    .map((manifest) => `${manifest.apiVersion} ${manifest.kind} ${manifest.metadata.name}`)
    .sort();
}

async function childrenOf(service: KubeObject): Promise<readonly KubeObject[]> {
  const lists = await Promise.all(
    kinds.map(async (resource) => {
      const { items } = await operator.admin.list<KubeObject>(resource, {
        namespace: service.metadata.namespace ?? '',
      });
      return items
        .filter((item) => controllerOf(item)?.uid === service.metadata.uid)
        .map((item) => ({ ...item, apiVersion: apiVersionOf(resource), kind: resource.kind }));
    }),
  );
  return lists.flat();
}

const apiVersionOf = ({ group, version }: Resource) => (group === '' ? version : `${group}/${version}`);
const namesOf = (children: readonly KubeObject[]) =>
  children.map((child) => `${child.apiVersion} ${child.kind} ${child.metadata.name}`).sort();

const read = (namespace: string, name: string) =>
  operator.admin.get<LLMInferenceService & KubeObject>(resources.llmInferenceServices, { namespace, name });

beforeAll(async () => {
  operator = await startTestOperator({ serviceNetwork: '127.218', pools: ['v1', 'v1alpha2'] });
  for (const file of ['leaderworkersets', 'scaledobjects']) {
    const path = join(root, 'test', 'cluster', 'crds', `${file}.yaml`);
    await operator.apply(...parseManifests(readFileSync(path, 'utf8'), path));
  }
  await operator.apply({
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: { name: 'inferenceservice-config', namespace: 'signalbox-system' },
    data: { 'autoscaling-wva-controller-config': '{"prometheus":{"url":"https://prometheus.monitoring:9090"}}' },
  });
  const notBefore = new Date(Date.now() - 60_000);
  const notAfter = new Date(Date.now() + 3_600_000);
  const authority = await createAuthority({ commonName: 'test', notBefore, notAfter });
  const validity = { notBefore, notAfter };
  const certificate = await issueCertificate(authority, {
    commonName: 'webhooks',
    ipAddresses: ['127.0.0.1'],
    usage: 'server',
    ...validity,
  });
  server = await startAdmissionServer(
    {
      host: '127.0.0.1',
      port: 0,
      certificate,
      routes: createWebhooks({
        sidecar: { image: 'signalbox/sidecar:0.1.0', sessionCacheSize: 1000 },
        presets: { systemNamespace: 'signalbox-system', configPrefix: 'kserve-', preventsDeletion: true },
      }),
    },
    { log: silentLogger },
  );
  const target = { url: `https://127.0.0.1:${server.port}` };
  await operator.apply(...renderWebhookConfigurations({ name: 'signalbox', target, caBundle: authority.certificate }));
  await eventually(async () => {
    const refused = await apply('default', [service('probe', { model: { uri: 'ftp://x' } })], true).then(
      () => 'accepted',
      (thrown: Error) => thrown.message,
    );
    expect(refused).toContain('unsupported schema');
  });
}, 600_000);

afterAll(async () => {
  await operator?.close();
  await server?.close();
}, 60_000);

const service = (name: string, spec: object): Manifest => ({
  apiVersion: 'serving.kserve.io/v1alpha2',
  kind: 'LLMInferenceService',
  metadata: { name },
  spec,
});

function resourceFor({ kind }: Manifest): Resource {
  return kind === 'LLMInferenceService'
    ? resources.llmInferenceServices
    : kind === 'LLMInferenceServiceConfig'
      ? resources.llmInferenceServiceConfigs
      : resources.configMaps;
}

async function apply(
  namespace: string,
  manifests: readonly Manifest[],
  dryRun = false,
): Promise<readonly KubeObject[]> {
  const applied: KubeObject[] = [];
  for (const manifest of manifests) {
    const object = { ...manifest, metadata: { ...manifest.metadata, namespace } };
    applied.push(
      await operator.admin.apply(resourceFor(manifest), object, { fieldManager: 'user', force: true, dryRun }),
    );
  }
  return applied;
}

const manifestsOf = (file: string): readonly Manifest[] =>
  parseAllDocuments(readFileSync(join(folder, file), 'utf8')).map((document) => document.toJS() as Manifest);

/** What of a manifest's own fields is otherwise in the live object: what a three-way merge, as of client-side apply, would change. */
function changedFields(desired: unknown, live: unknown, path = ''): readonly string[] {
  const isMap = (value: unknown): value is object =>
    typeof value === 'object' && value !== null && !Array.isArray(value);
  if (isMap(desired) && isMap(live))
    return Object.entries(desired).flatMap(([key, value]) =>
      changedFields(value, (live as Readonly<Record<string, unknown>>)[key], `${path}.${key}`),
    );
  // Lists of custom resources are replaced as a whole.
  return isDeepStrictEqual(desired, live) ? [] : [path];
}

const createNamespace = (name: string) =>
  operator.admin.create(resources.namespaces, { apiVersion: 'v1', kind: 'Namespace', metadata: { name } });

describe('samples', () => {
  it.each(samples)(
    '%s is taken and reconciled to its children',
    async (file) => {
      const namespace = file.replace('.yaml', '');
      await createNamespace(namespace);
      const manifests = manifestsOf(file);
      await apply(namespace, manifests);
      const name = manifests.find(({ kind }) => kind === 'LLMInferenceService')?.metadata.name ?? '';
      const children = await eventually(async () => {
        const live = await read(namespace, name);
        if (!live) throw new Error('is not there');
        expect(live.status?.observedGeneration).toBe(live.metadata.generation);
        const found = await childrenOf(live);
        expect(namesOf(found)).toEqual(expectedChildren(file));
        return found;
      });
      expect(goldens.has(file)).toBe(true);
      for (const child of children) expect(child.metadata.deletionTimestamp).toBeUndefined();
    },
    60_000,
  );

  it.each(samples)(
    '%s stays in sync: nothing that was written since differs for Argo CD, Flux or kubectl diff',
    async (file) => {
      const namespace = file.replace('.yaml', '');
      const manifests = manifestsOf(file);
      const essence = (object: KubeObject | undefined) => {
        const { metadata, status: _s, ...rest } = { ...object } as Manifest & { readonly status?: unknown };
        const { managedFields: _m, resourceVersion: _r, generation: _g, ...kept } = metadata;
        return { ...rest, metadata: kept };
      };
      // Server-side: a dry run of the same apply changes nothing.
      const predicted = await apply(namespace, manifests, true);
      for (const [i, manifest] of manifests.entries()) {
        const live = await operator.admin.get<Manifest>(resourceFor(manifest), { ...manifest.metadata, namespace });
        expect(essence(predicted[i])).toEqual(essence(live));
        // Client-side: every field of the manifest is as it says.
        const placed = { ...manifest, metadata: { ...manifest.metadata, namespace } };
        expect(changedFields(placed, live)).toEqual([]);
      }
    },
    60_000,
  );

  it('made no reconcile fail', () => {
    expect(operator.failures()).toBe(0);
  });
});

interface OpenApi {
  readonly components: { readonly schemas: Readonly<Record<string, Schema>> };
}

interface Schema {
  readonly type?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly items?: Schema;
  readonly additionalProperties?: Schema;
  readonly allOf?: readonly Schema[];
  readonly $ref?: string;
}

describe('the schema of pods', () => {
  it('has every field of the API server, with its type', async () => {
    const documents = await Promise.all(
      ['api/v1', 'apis/autoscaling/v2'].map((path) => operator.admin.request<OpenApi>('GET', `/openapi/v3/${path}`)),
    );
    const schemas: Readonly<Record<string, Schema>> = Object.assign(
      {},
      ...documents.map((one) => one.components.schemas),
    );
    const ours = new Map(
      podSchema
        .trim()
        .split('\n')
        .map((line) => {
          const [name = '', ...fields] = line.split(' ');
          return [name, new Set(fields)] as const;
        }),
    );
    const missing: string[] = [];
    const seen = new Set<string>();
    const typeOf = (schema: Schema): string => {
      const reference = schema.$ref ?? schema.allOf?.[0]?.$ref;
      if (reference !== undefined) {
        const name = reference.slice(reference.lastIndexOf('/') + 1);
        const short = name.slice(name.lastIndexOf('.') + 1);
        const wellKnown = { Quantity: 'quantity', IntOrString: 'intOrString', Time: 'string', FieldsV1: 'any' }[short];
        if (wellKnown !== undefined) return wellKnown;
        visit(name);
        return short;
      }
      if (schema.type === 'array') return `${typeOf(schema.items ?? {})}[]`;
      if (schema.type === 'object' && schema.additionalProperties) return `${typeOf(schema.additionalProperties)}{}`;
      return schema.type === 'integer' ? 'number' : (schema.type ?? 'any');
    };
    const visit = (name: string): void => {
      if (seen.has(name)) return;
      seen.add(name);
      const { properties = {}, required = [] } = schemas[name] ?? {};
      const type = name.slice(name.lastIndexOf('.') + 1);
      for (const [field, schema] of Object.entries(properties)) {
        const isRequired = required.includes(field) && `${type}.${field}` !== 'PodSpec.containers';
        const wanted = `${field}${isRequired ? '!' : ''}:${typeOf(schema)}`;
        if (!ours.get(type)?.has(wanted)) missing.push(`${type} ${wanted}`);
      }
    };
    visit('io.k8s.api.core.v1.PodSpec');
    visit('io.k8s.api.core.v1.PersistentVolumeClaimSpec');
    visit('io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerBehavior');
    expect(missing).toEqual([]);
    expect(seen.size).toBeGreaterThan(100);
  });
});
