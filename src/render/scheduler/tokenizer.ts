import type { Container, PodSpec } from '../../api/foreign/pod.ts';
import { components } from '../../api/labels.ts';
import type { Manifest } from '../../kube/object.ts';
import type { Context } from '../input.ts';
import { componentLabels } from '../labels.ts';
import { manifestOf, ownerOf } from '../manifest.ts';
import { mergeContainer, mergePod } from '../merge.ts';
import { modelPath, renderStorage, type Storage, withoutStorage } from '../pod/storage.ts';
import { hasFlag, passToScript } from '../pod/vllm-args.ts';
import { certificateMounts, certificateVolumes, renderTlsArgs, schemeOf } from '../tls.ts';
import { isAtLeast, pickerBinaryOf } from './binary.ts';
import { configTextOf } from './config-text.ts';
import { lacksTokenizer } from './migrate-config.ts';

/** vLLM without an engine: it makes tokens of prompts for the picker, on CPUs, from the model's own tokenizer and chat template. */

const port = 8000;
const portName = 'render-http';
const mainContainer = 'main';
const image = 'vllm/vllm-openai-cpu:v0.23.0';
const user = 1000;

/** Where KServe's preset looks for the model. */
const presetPath = `${modelPath}/base`;

/**
 * Whether the service has a tokenizer: where it asks for one, or where its picker has a producer of tokens that says no
 * other way. A template of the picker with a container `tokenizer` brings its own.
 */
export function hasTokenizer(context: Context): boolean {
  const scheduler = context.effective.router?.scheduler;
  if (!context.hasPicker || !scheduler) return false;
  if (scheduler.tokenizer !== undefined) return true;
  if (scheduler.template?.containers?.some(({ name }) => name === 'tokenizer')) return false;
  const plugins = configTextOf(context)?.plugins;
  if (!Array.isArray(plugins)) return false;
  const has = (type: string) => plugins.some((plugin: { readonly type?: unknown } | null) => plugin?.type === type);
  const binary = pickerBinaryOf(context);
  const isSplit = binary.isUpstream && isAtLeast(binary, 10) && has('precise-prefix-cache-scorer');
  return plugins.some(lacksTokenizer) || (isSplit && !has('token-producer') && !has('tokenizer'));
}

/** Where the picker asks for tokens; undefined without a tokenizer. */
export function tokenizerUrlOf(context: Context): string | undefined {
  if (!hasTokenizer(context)) return undefined;
  return `${schemeOf(context)}://${context.names.tokenizer}.${context.namespace}.svc.cluster.local:${port}`;
}

/** What the tokenizer calls the model: KServe's preset names it by its folder. */
export function tokenizedModelOf(context: Context): string {
  const template = context.effective.router?.scheduler?.tokenizer?.template;
  const main = template?.containers?.find(({ name }) => name === mainContainer);
  return isOfPreset(main) ? presetPath : context.modelName;
}

function isOfPreset(main: Container | undefined): boolean {
  return [...(main?.command ?? []), ...(main?.args ?? [])].some((word) => word.includes(presetPath));
}

/** Deployment and Service of the tokenizer; none where the service has none. */
export function renderTokenizer(context: Context): readonly Manifest[] {
  if (!hasTokenizer(context)) return [];
  const { service, name, namespace, names } = context;
  const labels = componentLabels(name, components.tokenizer);
  const metadata = { name: names.tokenizer, namespace, labels, ownerReferences: ownerOf(service) };
  return [
    manifestOf({ group: 'apps', version: 'v1', kind: 'Deployment' }, metadata, {
      spec: {
        replicas: 1,
        selector: { matchLabels: labels },
        strategy: { type: 'RollingUpdate', rollingUpdate: { maxUnavailable: 0, maxSurge: 1 } },
        template: { metadata: { labels }, spec: renderPod(context) },
      },
    }),
    manifestOf({ group: '', version: 'v1', kind: 'Service' }, metadata, {
      spec: {
        type: 'ClusterIP',
        selector: labels,
        ports: [{ name: portName, appProtocol: schemeOf(context), protocol: 'TCP', port, targetPort: portName }],
      },
    }),
  ];
}

function renderPod(context: Context): PodSpec {
  const template = context.effective.router?.scheduler?.tokenizer?.template;
  const theirs = template?.containers?.find(({ name }) => name === mainContainer);
  const storage = storageOf(context, theirs);
  const ours: PodSpec = {
    automountServiceAccountToken: template?.serviceAccountName !== undefined,
    ...(storage.shareProcessNamespace ? { shareProcessNamespace: true } : {}),
    ...(storage.initContainers.length > 0 ? { initContainers: storage.initContainers } : {}),
    containers: [],
    volumes: [{ name: 'tmp-dir', emptyDir: {} }, ...certificateVolumes(context), ...storage.volumes],
  };
  const { containers: all, initContainers: init, ...rest } = template ?? {};
  const initContainers = withoutStorage(init);
  const others = (all ?? []).filter(({ name }) => name !== mainContainer);
  return {
    ...mergePod(ours, { ...rest, containers: [], ...(initContainers.length > 0 ? { initContainers } : {}) }),
    containers: [renderMain(context, storage, theirs), ...others],
  };
}

/** Of the model alone: adapters share its tokenizer. */
function storageOf(context: Context, theirs: Container | undefined): Storage {
  const { effective } = context;
  const { lora: _, ...model } = effective.model;
  const template = effective.router?.scheduler?.tokenizer?.template;
  const storage = renderStorage({ ...context, effective: { ...effective, model } }, template, theirs);
  if (!isOfPreset(theirs)) return storage;
  const text = JSON.stringify(storage)
    .replaceAll(modelPath, presetPath)
    // The link's folder is not there yet.
    .replaceAll('ln -sfn', `mkdir -p ${modelPath} && ln -sfn`);
  return JSON.parse(text) as Storage;
}

function renderMain(context: Context, storage: Storage, theirs: Container | undefined): Container {
  const scheme = context.platform.tls ? 'HTTPS' : 'HTTP';
  const httpGet = { path: '/health', port: portName, scheme };
  const ours: Container = {
    name: mainContainer,
    image,
    command: ['vllm', 'launch', 'render'],
    env: [
      { name: 'HOME', value: '/tmp' },
      { name: 'USER', value: 'vllm' },
      { name: 'HF_HOME', value: '/tmp/hf' },
      { name: 'DO_NOT_TRACK', value: '1' },
      ...storage.env,
    ],
    ...(storage.envFrom.length > 0 ? { envFrom: storage.envFrom } : {}),
    ports: [{ containerPort: port, name: portName, protocol: 'TCP' }],
    startupProbe: { httpGet, periodSeconds: 2, timeoutSeconds: 5, failureThreshold: 300 },
    readinessProbe: { httpGet, periodSeconds: 2, timeoutSeconds: 5, failureThreshold: 3 },
    livenessProbe: { httpGet, periodSeconds: 10, timeoutSeconds: 10, failureThreshold: 10 },
    resources: { requests: { cpu: '1', memory: '4Gi' }, limits: { memory: '12Gi' } },
    securityContext: {
      allowPrivilegeEscalation: false,
      capabilities: { drop: ['ALL'] },
      readOnlyRootFilesystem: true,
      runAsNonRoot: true,
      runAsUser: user,
      seccompProfile: { type: 'RuntimeDefault' },
    },
    volumeMounts: [{ mountPath: '/tmp', name: 'tmp-dir' }, ...certificateMounts(context), ...storage.mounts],
  };
  const own = theirs?.args ?? [];
  const tls = renderTlsArgs(context, own);
  if (theirs?.command !== undefined) return mergeContainer(ours, passToScript(theirs, tls));
  const revision = storage.revision === undefined ? [] : ['--revision', storage.revision];
  const names = hasFlag(own, '--served-model-name') ? [] : ['--served-model-name', context.modelName];
  const args = [storage.model, ...revision, ...names, '--port', String(port), ...tls.flat(), ...own];
  return { ...mergeContainer(ours, { ...theirs, name: mainContainer }), args };
}
