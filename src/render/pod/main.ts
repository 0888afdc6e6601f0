import type { Container, PodSpec, PodTemplate } from '../../api/foreign/pod.ts';
import { sidecarContainer } from '../../api/labels.ts';
import type { WorkloadSpec } from '../../api/v1alpha2/llm-inference-service.ts';
import type { NodePart } from '../../api/v1alpha2/parallelism.ts';
import type { Context } from '../input.ts';
import type { Role } from '../labels.ts';
import { mergeContainer, mergePod } from '../merge.ts';
import { certificateMounts, certificateVolumes, renderTlsArgs, schemeOf } from '../tls.ts';
import { withDevices } from './devices.ts';
import { growForOffloading, renderKvTransfer, renderTiers, requireOffloading } from './kv-cache.ts';
import { renderLoraArgs } from './lora.ts';
import { hostAddressVariable, rankAnnotation, rankFiles, ranksFolder, renderParallelArgs } from './parallel-args.ts';
import { renderModelProbes } from './probes.ts';
import { completeResources } from './resources.ts';
import { renderStorage, type Storage, withoutStorage } from './storage.ts';
import { renderTracingArgs, tracingEnvironment } from './tracing.ts';
import { passToScript, renderVllmArgs, splitWords } from './vllm-args.ts';

/** The container that serves the model. */
export const mainContainer = 'main';

/** Where pods are called. */
export const servingPort = 8000;

/** Where vLLM listens behind a routing sidecar. */
export const decoderPort = 8001;

/**
 * Seconds a stopping pod still takes requests while gateways and pickers learn that it goes, of the
 * `terminationGraceSeconds` that running requests have in all.
 */
const drainSeconds = 5;
const terminationGraceSeconds = 60;

/** Uid of the model server; images of vLLM start as root, which we do not allow. */
const modelServerUser = 1000;

/** Files with the first data-parallel rank of each worker, from the pod's own annotations. */
const ranksVolume = 'ranks';

const additionalArgs = 'VLLM_ADDITIONAL_ARGS';

/** Whether the user's template brings a routing sidecar of its own. */
export function hasOwnSidecar(template: PodTemplate | undefined): boolean {
  return [...(template?.initContainers ?? []), ...(template?.containers ?? [])].some(
    (container) => container.name === sidecarContainer,
  );
}

/** The port on which a role's vLLM listens. */
export function vllmPortOf(role: Role): number {
  return role === 'decode' ? decoderPort : servingPort;
}

/** The pod of a role, or of one part of its group: ours with the user's template laid over it. */
export function renderModelPod(
  context: Context,
  workload: WorkloadSpec,
  role: Role,
  part: NodePart = 'single',
): PodSpec {
  const template = part === 'worker' ? { ...ownAccountOf(workload), ...workload.worker } : workload.template;
  const theirs = template?.containers?.find((container) => container.name === mainContainer);
  const storage = renderStorage(context, template, theirs);
  const main = renderMain({ context, workload, role, part, storage }, theirs);
  const needsToken = role === 'decode' && part !== 'worker';
  const account = accountOf(context, role, part);
  const ranks = part === 'worker' ? rankFiles(workload.parallelism) : [];
  const ours: PodSpec = {
    // The token is for the sidecar; model code from the internet has no business with the API server.
    automountServiceAccountToken: needsToken || template?.serviceAccountName !== undefined,
    ...(account === undefined ? {} : { serviceAccountName: account }),
    terminationGracePeriodSeconds: terminationGraceSeconds,
    ...(storage.shareProcessNamespace ? { shareProcessNamespace: true } : {}),
    ...(storage.initContainers.length > 0 ? { initContainers: storage.initContainers } : {}),
    containers: [],
    volumes: [
      { name: 'home', emptyDir: {} },
      { name: 'tmp-dir', emptyDir: {} },
      { name: 'model-cache', emptyDir: {} },
      { name: 'dshm', emptyDir: { medium: 'Memory', sizeLimit: part === 'single' ? '1Gi' : '8Gi' } },
      ...(ranks.length > 0
        ? [
            {
              name: ranksVolume,
              downwardAPI: {
                items: ranks.map(({ index, path }) => ({
                  path,
                  fieldRef: { fieldPath: `metadata.annotations['${rankAnnotation(index)}']` },
                })),
              },
            },
          ]
        : []),
      ...certificateVolumes(context),
      ...storage.volumes,
      ...renderTiers(workload.kvCacheOffloading).volumes,
    ],
  };
  const others = (template?.containers ?? []).filter((container) => container.name !== mainContainer);
  const initContainers = withoutStorage(template?.initContainers);
  const { initContainers: _all, ...rest } = template ?? {};
  const merged = mergePod(ours, { ...rest, containers: [], ...(initContainers.length > 0 ? { initContainers } : {}) });
  const containers = [completeResources(main), ...others.map(completeResources)];
  const pod = growForOffloading({ ...merged, containers }, mainContainer, workload.kvCacheOffloading);
  return withDevices(context, pod);
}

/** What container `main` depends on. */
interface MainInput {
  readonly context: Context;
  readonly workload: WorkloadSpec;
  readonly role: Role;
  readonly part: NodePart;
  readonly storage: Storage;
}

/** The account of a pod where it is not the namespace's default; the user's template wins over it. */
function accountOf({ names }: Context, role: Role, part: NodePart): string | undefined {
  if (part === 'single') return role === 'decode' ? names.sidecarServiceAccount : undefined;
  return role === 'prefill' ? names.prefillMultiNodeServiceAccount : names.multiNodeServiceAccount;
}

/** The account that the user names for a workload: workers take it from the leader unless they have their own. */
function ownAccountOf({ template }: WorkloadSpec): Pick<PodTemplate, 'serviceAccountName'> {
  return template?.serviceAccountName === undefined ? {} : { serviceAccountName: template.serviceAccountName };
}

function renderMain(input: MainInput, theirs: Container | undefined): Container {
  const { context, workload, role, part, storage } = input;
  const ours = renderOwnMain(input);
  // A command of the user's is run as written: our arguments belong to `vllm serve` alone.
  const features = [
    ...renderLoraArgs(context.effective, context.namespace, storage.modules),
    ...renderTracingArgs(context),
    ...(part === 'worker' ? [] : renderTlsArgs(context, theirs?.args ?? [])),
  ];
  if (theirs?.command !== undefined) return mergeContainer(ours, passToScript(theirs, features));

  if (workload.kvCacheOffloading) requireOffloading(theirs?.image ?? context.platform.images.vllm);
  const added = theirs?.env?.find((variable) => variable.name === additionalArgs)?.value;
  const own = [...(added === undefined ? [] : splitWords(added)), ...(theirs?.args ?? [])];
  const args = renderVllmArgs({
    source: storage,
    servedNames: [context.modelName, `publishers/${context.namespace}/models/${context.modelName}`],
    port: vllmPortOf(role),
    parallel: renderParallelArgs(workload.parallelism, part, own),
    features: [...features, ...renderKvTransfer(role !== 'both', workload.kvCacheOffloading)],
    own,
  });
  return { ...mergeContainer(ours, { ...theirs, name: mainContainer }), args: [...args, ...own] };
}

function renderOwnMain({ context, workload, role, part, storage }: MainInput): Container {
  const port = vllmPortOf(role);
  return {
    name: mainContainer,
    image: context.platform.images.vllm,
    command: ['vllm', 'serve'],
    env: [
      { name: 'HOME', value: '/home' },
      // Without an entry for the uid in the image's passwd, PyTorch asks the environment who it is.
      { name: 'USER', value: 'vllm' },
      { name: 'HF_HUB_CACHE', value: '/mnt/model-cache' },
      { name: 'VLLM_LOGGING_LEVEL', value: 'INFO' },
      ...(part === 'single'
        ? []
        : [{ name: hostAddressVariable, valueFrom: { fieldRef: { fieldPath: 'status.podIP' } } }]),
      ...(role === 'both'
        ? []
        : [
            { name: 'VLLM_NIXL_SIDE_CHANNEL_HOST', valueFrom: { fieldRef: { fieldPath: 'status.podIP' } } },
            { name: 'VLLM_NIXL_SIDE_CHANNEL_PORT', value: '5600' },
          ]),
      ...tracingEnvironment(context, role),
      ...storage.env,
    ],
    ...(storage.envFrom.length > 0 ? { envFrom: storage.envFrom } : {}),
    ...(part === 'worker'
      ? {}
      : {
          ports: [{ containerPort: port, name: role === 'decode' ? 'vllm' : schemeOf(context), protocol: 'TCP' }],
          ...renderModelProbes(port, context.platform.tls ? 'HTTPS' : 'HTTP'),
          lifecycle: { preStop: { sleep: { seconds: drainSeconds } } },
        }),
    securityContext: {
      allowPrivilegeEscalation: false,
      capabilities: { drop: ['ALL'] },
      readOnlyRootFilesystem: false,
      runAsNonRoot: storage.user !== 0,
      runAsUser: storage.user ?? modelServerUser,
      seccompProfile: { type: 'RuntimeDefault' },
    },
    volumeMounts: [
      { mountPath: '/home', name: 'home' },
      { mountPath: '/tmp', name: 'tmp-dir' },
      { mountPath: '/mnt/model-cache', name: 'model-cache' },
      { mountPath: '/dev/shm', name: 'dshm' },
      ...(part === 'worker' && rankFiles(workload.parallelism).length > 0
        ? [{ mountPath: ranksFolder, name: ranksVolume, readOnly: true }]
        : []),
      ...certificateMounts(context),
      ...storage.mounts,
      ...renderTiers(workload.kvCacheOffloading).mounts,
    ],
  };
}
