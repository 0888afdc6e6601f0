import { gzipSync } from 'node:zlib';
import { packTar } from 'modern-tar';
import { stringify } from 'yaml';
import { components, labels, partOf } from '../../../api/labels.ts';
import type { Client } from '../../../kube/client.ts';
import type { KubeObject, Resource } from '../../../kube/object.ts';
import { resources } from '../../../kube/resources.ts';
import { hasCode } from '../../../kube/status-error.ts';
import { shortReason } from '../../connection.ts';
import { readPod } from '../../pod-access.ts';
import { isPodReady, type PodObject } from '../../service.ts';
import { explainService } from '../explain/explain.ts';
import { gatherExplanation } from '../explain/gather.ts';
import { treeLines } from '../explain/tree.ts';
import { redactObject, redactText } from './redact.ts';

export interface BundleOptions {
  /** One namespace, or all of them. */
  readonly namespace: string | undefined;
  /** Lines of each log. */
  readonly logLines: number;
  readonly version: string;
  readonly signal: AbortSignal;
  readonly onProgress: (text: string) => void;
}

/** The files of a support archive: path → text. What could not be read is in `problems.txt`. */
export type BundleFiles = ReadonlyMap<string, string>;

const ofServices = `app.kubernetes.io/part-of=${partOf}`;
const ofOperator = 'app.kubernetes.io/name=signalbox';
const maxPods = 100;
const plain = { good: String, bad: String, warn: String, dim: String, bold: String };

/** Kinds that are taken whole, or those objects only that carry a label. Secrets are not among them. */
const kinds: readonly {
  readonly resource: Resource;
  readonly labelSelector?: string;
  readonly isClusterWide?: true;
}[] = [
  { resource: resources.llmInferenceServices },
  { resource: resources.llmInferenceServiceConfigs, isClusterWide: true },
  ...[
    resources.deployments,
    resources.replicaSets,
    resources.leaderWorkerSets,
    resources.pods,
    resources.services,
    resources.podDisruptionBudgets,
    resources.horizontalPodAutoscalers,
    resources.scaledObjects,
    resources.httpRoutes,
    resources.inferencePools,
    resources.xInferencePools,
  ].map((resource) => ({ resource, labelSelector: ofServices })),
  { resource: resources.gateways, isClusterWide: true },
  { resource: resources.gatewayClasses, isClusterWide: true },
  { resource: resources.events },
  { resource: resources.nodes, isClusterWide: true },
  ...[
    resources.deployments,
    resources.pods,
    resources.mutatingWebhookConfigurations,
    resources.validatingWebhookConfigurations,
  ].map((resource) => ({ resource, labelSelector: ofOperator, isClusterWide: true as const })),
];

/** Reads what somebody needs to help: objects, events, logs, metrics and explanations, all without credentials. */
export async function gatherBundle(client: Client, options: BundleOptions): Promise<BundleFiles> {
  const { signal } = options;
  const files = new Map<string, string>();
  const problems: string[] = [];
  const attempt = async (what: string, read: () => Promise<void>) => {
    try {
      await read();
    } catch (thrown) {
      if (signal.aborted) throw thrown;
      const isNotServed =
        hasCode(thrown, 'notFound') &&
        /404 page not found|could not find the requested resource/.test(shortReason(thrown));
      problems.push(isNotServed ? `${what}: not installed` : `${what}: ${redactText(shortReason(thrown))}`);
    }
  };
  const cluster: { version?: unknown } = {};
  await attempt('version of the cluster', async () => {
    cluster.version = await client.request('GET', '/version', undefined, {}, signal);
  });
  files.set('versions.yaml', stringify({ signalbox: options.version, cluster: cluster.version ?? 'unknown' }));

  const pods: PodObject[] = [];
  const services: KubeObject[] = [];
  for (const { resource, labelSelector, isClusterWide } of kinds) {
    options.onProgress(`reading ${resource.plural}`);
    await attempt(`${resource.plural}.${resource.group || 'core'}`, async () => {
      const scope = isClusterWide || options.namespace === undefined ? {} : { namespace: options.namespace };
      const { items } = await client.list<KubeObject>(
        resource,
        { ...scope, ...(labelSelector ? { labelSelector } : {}) },
        signal,
      );
      if (resource === resources.pods) pods.push(...(items as readonly PodObject[]));
      if (resource === resources.llmInferenceServices) services.push(...items);
      for (const object of items)
        files.set(pathOf(resource, object), stringify(redactObject(object), { lineWidth: 0 }));
    });
  }
  for (const { metadata } of services) {
    const ref = { namespace: metadata.namespace ?? '', name: metadata.name };
    options.onProgress(`explaining ${ref.namespace}/${ref.name}`);
    await attempt(`explanation of ${ref.namespace}/${ref.name}`, async () => {
      const tree = explainService(await gatherExplanation(client, ref, signal));
      files.set(
        `namespaces/${ref.namespace}/explain/${ref.name}.txt`,
        `${redactText(treeLines(tree, plain, true).join('\n'))}\n`,
      );
    });
  }
  if (pods.length > maxPods)
    problems.push(`logs and metrics of ${pods.length - maxPods} pods: only the first ${maxPods} were read`);
  for (const pod of pods.slice(0, maxPods)) {
    options.onProgress(`reading pod ${pod.metadata.name}`);
    await gatherPod(client, pod, options, files, attempt);
  }
  files.set('problems.txt', problems.length === 0 ? 'everything could be read\n' : `${problems.join('\n')}\n`);
  return files;
}

async function gatherPod(
  client: Client,
  pod: PodObject,
  { logLines, signal }: BundleOptions,
  files: Map<string, string>,
  attempt: (what: string, read: () => Promise<void>) => Promise<void>,
): Promise<void> {
  const { namespace, name } = pod.metadata;
  const folder = `namespaces/${namespace}/pods/${name}`;
  const statuses = [...(pod.status?.initContainerStatuses ?? []), ...(pod.status?.containerStatuses ?? [])];
  for (const { name: container, restartCount } of statuses) {
    for (const isPrevious of restartCount ? [true, false] : [false]) {
      const log = `${folder}/${container}${isPrevious ? '.previous' : ''}.log`;
      await attempt(log, async () => {
        const query = `container=${container}&tailLines=${logLines}&limitBytes=4000000${isPrevious ? '&previous=true' : ''}`;
        const path = `/api/v1/namespaces/${namespace}/pods/${name}/log?${query}`;
        const text = await client.request<unknown>('GET', path, undefined, { accept: '*/*' }, signal);
        files.set(log, redactText(typeof text === 'string' ? text : text === undefined ? '' : JSON.stringify(text)));
      });
    }
  }
  if (!isPodReady(pod)) return;
  const isPicker = pod.metadata.labels?.[labels.component] === components.scheduler;
  const isModelServer = pod.metadata.labels?.[labels.kserveComponent] === 'workload';
  const pages = isPicker
    ? [
        { port: 9090, path: '/metrics' },
        { port: 9090, path: '/debug/explain?format=text' },
      ]
    : isModelServer
      ? [{ port: 8000, path: '/metrics' }]
      : [];
  for (const page of pages) {
    const file = `${folder}/${page.path.includes('explain') ? 'explain' : 'metrics'}.txt`;
    await attempt(file, async () => {
      files.set(file, redactText(await readPod(client, pod, page, signal)));
    });
  }
}

/** A file an object; events, of which there are many, in one a namespace. */
function pathOf(resource: Resource, { metadata }: KubeObject): string {
  const kind =
    resource.group === '' || resource.group === 'apps' ? resource.plural : `${resource.plural}.${resource.group}`;
  const scope = metadata.namespace === undefined ? 'cluster' : `namespaces/${metadata.namespace}`;
  if (resource === resources.events) return `${scope}/events.yaml`;
  return `${scope}/${kind}/${metadata.name.replaceAll(/[:/]/g, '_')}.yaml`;
}

/** A gzipped tar of the files in one folder; the same files give the same bytes. */
export async function packBundle(folder: string, files: BundleFiles): Promise<Buffer> {
  const entries = [...files]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([path, text]) => {
      const body = new TextEncoder().encode(text);
      return { header: { name: `${folder}/${path}`, size: body.length, mtime: new Date(0), mode: 0o600 }, body };
    });
  return gzipSync(await packTar(entries));
}
