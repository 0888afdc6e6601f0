import type { Container, PodSpec, PodTemplate } from '../../api/foreign/pod.ts';
import type { ModelLocation } from '../../api/v1alpha2/model-uri.ts';
import type { ContainerResources, Context } from '../input.ts';
import { mergeContainer } from '../merge.ts';
import { accountOf, caBundleOf, renderCredentials } from './credentials.ts';
import { type AdapterStorage, adapterCopyMounts, adaptersOf, locate, renderAdapters } from './lora.ts';

/** How weights come into a pod: mounted, copied by an init container, or loaded by the model server itself. */

/** Where the model server finds weights that it does not load itself. */
export const modelPath = '/mnt/models';

/** The init container that copies weights; users may give a part of it in their template. */
export const storageInitializer = 'storage-initializer';

/**
 * The volume that copied weights are in. A template may put a claim in its place by giving a volume of this name; with one
 * that many pods may write, prefill and decode pods share a copy.
 */
const copiedVolume = 'kserve-provision-location';
const claimVolume = 'kserve-pvc-source';
const imageVolume = 'model-image';

const initializerResources = {
  requests: { cpu: '100m', memory: '512Mi' },
  limits: { memory: '4Gi' },
} as const;

const restricted = {
  allowPrivilegeEscalation: false,
  capabilities: { drop: ['ALL'] },
  seccompProfile: { type: 'RuntimeDefault' },
} as const;

/** What a pod needs so that its main container finds the weights. */
export interface Storage {
  /** What `vllm serve` is told: a path or the name on the hub. */
  readonly model: string;
  readonly revision?: string;
  readonly modules: AdapterStorage['modules'];
  readonly volumes: NonNullable<PodSpec['volumes']>;
  readonly initContainers: readonly Container[];
  /** For the main container. */
  readonly mounts: NonNullable<Container['volumeMounts']>;
  readonly env: NonNullable<Container['env']>;
  readonly envFrom: NonNullable<Container['envFrom']>;
  readonly shareProcessNamespace?: true;
  /** User that the main container has to be, where the template names none. */
  readonly user?: number;
}

/** One way of bringing the model: what it adds to a pod. */
type Way = Pick<Storage, 'model' | 'revision' | 'shareProcessNamespace' | 'user'> &
  Partial<Pick<Storage, 'volumes' | 'initContainers' | 'mounts'>> & { readonly isCopied?: true };

/** The storage of pods of a template, whose container `main` is the user's part of the model server. */
export function renderStorage(
  context: Context,
  template: PodTemplate | undefined,
  main: Container | undefined,
): Storage {
  const { uri } = context.effective.model;
  const isAttached = context.effective.storageInitializer?.enabled !== false;
  const itself = loadsItself(context, template, main);
  const way = isAttached ? wayOf(context, locate(uri, 'spec.model.uri'), itself, main) : { model: modelPath };
  const adapters = adaptersOf(context.effective);
  const attached = renderAdapters(adapters, { loadsItself: itself, isAttached });
  const pairs = [...(way.isCopied ? [[uri, modelPath] as const] : []), ...attached.pairs];
  const copied = pairs.length > 0 ? copy(context, template, pairs, attached.pairs) : undefined;
  const fetched = [uri, ...adapters.map((adapter) => adapter.uri)].filter((one) => one.startsWith('hf://'));
  const usesHub = isAttached && itself && fetched.length > 0;
  const credentials = usesHub ? renderCredentials(context, accountOf(template), fetched) : undefined;
  return {
    model: way.model,
    ...(way.revision === undefined ? {} : { revision: way.revision }),
    modules: attached.modules,
    volumes: [...(way.volumes ?? []), ...(copied?.volumes ?? []), ...attached.volumes],
    initContainers: [...(copied ? [copied.container] : []), ...(way.initContainers ?? [])],
    mounts: [...(way.mounts ?? []), ...attached.mounts],
    env: credentials?.env ?? [],
    envFrom: credentials?.envFrom ?? [],
    ...(way.shareProcessNamespace ? { shareProcessNamespace: true } : {}),
    ...(way.user === undefined ? {} : { user: way.user }),
  };
}

function wayOf(context: Context, location: ModelLocation, itself: boolean, main: Container | undefined): Way {
  switch (location.kind) {
    case 'hub': {
      if (!itself) return copiedModel;
      const { organisation, model, revision } = location;
      return { model: `${organisation}/${model}`, ...(revision === undefined ? {} : { revision }) };
    }
    case 'claim':
      return mounted(
        { name: claimVolume, persistentVolumeClaim: { claimName: location.claim } },
        location.path === undefined ? {} : { subPath: location.path },
      );
    case 'image':
      return location.isVolume || context.platform.storage.ociMode === 'native'
        ? mounted(
            { name: imageVolume, image: { reference: location.image, pullPolicy: 'IfNotPresent' } },
            { subPath: 'models' },
          )
        : modelcar(context, location.image, main);
    case 'download':
      return copiedModel;
  }
}

/**
 * Whether vLLM fetches a model of the hub itself, into its cache volume. It saves an image and a wait. It does not
 * where settings or the service ask for the init container, or where the user's own command expects the path.
 */
function loadsItself(
  { effective, platform }: Context,
  template: PodTemplate | undefined,
  main: Container | undefined,
): boolean {
  if (platform.storage.huggingFace === 'initializer' || effective.storageInitializer?.enabled === true) return false;
  if (effective.model.confidential?.enabled) return false;
  if (template?.initContainers?.some(({ name }) => name === storageInitializer)) return false;
  return ![...(main?.command ?? []), ...(main?.args ?? [])].some((word) => word.includes(modelPath));
}

type Mount = NonNullable<Container['volumeMounts']>[number];

const copiedModel: Way = {
  model: modelPath,
  isCopied: true,
  volumes: [{ name: copiedVolume, emptyDir: {} }],
  mounts: [{ name: copiedVolume, mountPath: modelPath, readOnly: true }],
};

function mounted(volume: NonNullable<PodSpec['volumes']>[number], mount: Partial<Mount>): Way {
  return {
    model: modelPath,
    volumes: [volume],
    mounts: [{ name: volume.name, mountPath: modelPath, readOnly: true, ...mount }],
  };
}

/** Copies into a volume before the model server starts: pairs of URI and directory. */
function copy(
  context: Context,
  template: PodTemplate | undefined,
  pairs: AdapterStorage['pairs'],
  adapters: AdapterStorage['pairs'],
): { readonly container: Container; readonly volumes: Storage['volumes'] } {
  const uris = pairs.map(([uri]) => uri);
  const account = accountOf(template);
  const credentials = renderCredentials(context, account, uris);
  const bundle = caBundleOf(context, account);
  const bundlePath = context.platform.storage.caBundlePath ?? defaultBundlePath;
  const { confidential } = context.effective.model;
  const env = [
    ...(uris.some((uri) => uri.startsWith('hf://'))
      ? [
          { name: 'HF_HUB_ENABLE_HF_TRANSFER', value: '1' },
          { name: 'HF_XET_HIGH_PERFORMANCE', value: '1' },
          { name: 'HF_XET_NUM_CONCURRENT_RANGE_GETS', value: '8' },
        ]
      : []),
    ...credentials.env,
    ...(bundle === undefined
      ? []
      : [
          { name: 'CA_BUNDLE_CONFIGMAP_NAME', value: bundle },
          { name: 'CA_BUNDLE_VOLUME_MOUNT_POINT', value: bundlePath },
        ]),
    ...(confidential?.enabled
      ? [
          { name: 'CONFIDENTIAL_ENABLED', value: 'true' },
          { name: 'CONFIDENTIAL_RESOURCE_ID', value: confidential.resourceId ?? '' },
        ]
      : []),
  ];
  const ours: Container = {
    name: storageInitializer,
    image: context.platform.storage.initializerImage,
    ...(env.length > 0 ? { env } : {}),
    ...(credentials.envFrom.length > 0 ? { envFrom: credentials.envFrom } : {}),
    resources: resourcesOf(initializerResources, context.platform.storage.initializerResources),
    securityContext: { ...restricted, runAsNonRoot: true, runAsUser: initializerUser },
    // What it wrote last is what the service's condition shows when it fails.
    terminationMessagePolicy: 'FallbackToLogsOnError',
    volumeMounts: [
      ...(pairs.length > adapters.length ? [{ name: copiedVolume, mountPath: modelPath }] : []),
      ...adapterCopyMounts(adapters),
      ...credentials.mounts,
      ...(bundle === undefined ? [] : [{ name: bundleVolume, mountPath: bundlePath, readOnly: true }]),
    ],
  };
  const theirs = template?.initContainers?.find(({ name }) => name === storageInitializer);
  const { args: _args, command: _command, ...part } = theirs ?? { name: storageInitializer };
  return {
    container: { ...mergeContainer(ours, part), args: pairs.flat() },
    volumes: [
      ...credentials.volumes,
      ...(bundle === undefined ? [] : [{ name: bundleVolume, configMap: { name: bundle } }]),
    ],
  };
}

const bundleVolume = 'cabundle-cert';
const defaultBundlePath = '/etc/ssl/custom-certs';
const initializerUser = 1000;
const modelcarResources = { requests: { cpu: '10m', memory: '15Mi' }, limits: { memory: '64Mi' } } as const;

/** Resources with those of the configuration over them. */
function resourcesOf(own: ContainerResources, configured: ContainerResources | undefined): ContainerResources {
  if (!configured) return own;
  return {
    requests: { ...own.requests, ...configured.requests },
    limits: { ...own.limits, ...configured.limits },
  };
}

/**
 * The image runs beside the model server and links its /models into a shared volume; the kernel lets the server through
 * because both are the same user. As a sidecar with a startup probe it is there before the server looks.
 */
function modelcar({ platform }: Context, image: string, main: Container | undefined): Way {
  const settings = platform.storage.modelcar;
  // The model server may look into the container's files as the same user alone.
  const uid = main?.securityContext?.runAsUser ?? settings?.uid ?? initializerUser;
  return {
    model: modelPath,
    volumes: [{ name: copiedVolume, emptyDir: {} }],
    initContainers: [
      {
        name: 'modelcar',
        image,
        restartPolicy: 'Always',
        // Kubernetes makes `$$` of `$$$$`, and the shell its own process id of that.
        args: ['sh', '-c', `ln -sfn /proc/$$$$/root/models ${modelPath} && sleep infinity`],
        startupProbe: {
          exec: { command: ['sh', '-c', `test -n "$(ls -A ${modelPath}/)"`] },
          periodSeconds: 1,
          failureThreshold: 60,
        },
        resources: resourcesOf(modelcarResources, settings?.resources),
        securityContext: { ...restricted, runAsNonRoot: uid !== 0, runAsUser: uid },
        terminationMessagePolicy: 'FallbackToLogsOnError',
        volumeMounts: [{ name: copiedVolume, mountPath: '/mnt' }],
      },
    ],
    mounts: [{ name: copiedVolume, mountPath: '/mnt' }],
    shareProcessNamespace: true,
    ...(settings?.uid === undefined ? {} : { user: settings.uid }),
  };
}

/** The user's init containers without those that storage has merged already. */
export function withoutStorage(initContainers: PodTemplate['initContainers']): readonly Container[] {
  return (initContainers ?? []).filter(({ name }) => name !== storageInitializer);
}
