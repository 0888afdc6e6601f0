import { hash } from 'node:crypto';
import { annotations, components, fieldManager, labels } from '../../src/api/labels.ts';
import type { LLMInferenceService } from '../../src/api/v1alpha2/llm-inference-service.ts';
import { findDifferences } from '../../src/kube/apply.ts';
import type { KubeObject, Manifest } from '../../src/kube/object.ts';
import { ownedPart } from '../../src/kube/owned.ts';
import type { Gathered, Settings } from './gather.ts';

/**
 * Which release of the operator the pods of a workload are made by. A new release may render other pods from the same
 * service; running ones stay as they are until something of the user's changes or the service asks for it.
 */

/** Value of the service's annotation with which its pods follow every release. */
const followsAll = 'latest';

/** What pods are made of, as digests. */
interface Making {
  /** What the operator and the presets that ship with it bring: `0.2.0-1f8a03bc`. */
  readonly release: string;
  /** What the user, and whoever configures the cluster, brings. */
  readonly inputs: string;
}

export interface Held {
  readonly desired: readonly Manifest[];
  /** Workloads whose pods stay at an older release, with that. */
  readonly behind: readonly { readonly name: string; readonly release: string; readonly current: string }[];
  /** Release of the model's pods. */
  readonly release?: string;
}

/**
 * The manifests with what must not change in running workloads as it is there: the pods of another release, and the selector of
 * a Deployment, which can never change.
 */
export function holdReleases(
  gathered: Gathered,
  settings: Settings,
  desired: readonly Manifest[],
  live: (manifest: Manifest) => KubeObject | undefined,
): Held {
  const follows = gathered.service.metadata.annotations?.[annotations.release] === followsAll;
  const makings = new Map<boolean, Making>();
  const behind: Held['behind'][number][] = [];
  let release: string | undefined;
  const held = desired.map((manifest) => {
    const field = templateField(manifest);
    if (field === undefined) return manifest;
    const isPicker = manifest.metadata.labels?.[labels.component] === components.scheduler;
    const making = makings.get(isPicker) ?? makingOf(gathered, settings, isPicker);
    makings.set(isPicker, making);
    const present = live(manifest);
    const spec = manifest.spec as Readonly<Record<string, unknown>>;
    const kept = follows || !present ? undefined : keptPart(present, field, making, manifest);
    const of = kept ? { release: kept.release, inputs: making.inputs } : making;
    if (kept)
      behind.push({ name: `${manifest.kind} ${manifest.metadata.name}`, release: of.release, current: making.release });
    if (!isPicker) release ??= of.release;
    const marked: Manifest = {
      ...manifest,
      metadata: {
        ...manifest.metadata,
        annotations: {
          ...manifest.metadata.annotations,
          [annotations.release]: of.release,
          [annotations.inputs]: of.inputs,
        },
      },
      ...(kept ? { spec: { ...spec, [field]: kept.part } } : {}),
    };
    return present ? keepSelector(marked, present) : marked;
  });
  return { desired: held, behind, ...(release === undefined ? {} : { release }) };
}

function templateField({ kind }: Manifest): string | undefined {
  if (kind === 'Deployment') return 'template';
  return kind === 'LeaderWorkerSet' ? 'leaderWorkerTemplate' : undefined;
}

/** The live pods' part when they were made of the same inputs by another release, which makes others of them. */
function keptPart(
  live: KubeObject,
  field: string,
  making: Making,
  desired: Manifest,
): { readonly part: unknown; readonly release: string } | undefined {
  const { [annotations.release]: release, [annotations.inputs]: inputs } = live.metadata.annotations ?? {};
  if (release === undefined || release === making.release || inputs !== making.inputs) return undefined;
  const part = ownedPart(live, fieldManager, ['spec', field]);
  if (part === undefined) return undefined;
  const isOther = findDifferences(desired, live, fieldManager).some(
    ({ path }) => path === '' || path.startsWith(`spec.${field}`),
  );
  return isOther ? { part, release } : undefined;
}

interface Selecting extends KubeObject {
  readonly spec?: {
    readonly selector?: { readonly matchLabels?: Readonly<Record<string, string>> };
    readonly template?: { readonly metadata?: { readonly labels?: Readonly<Record<string, string>> } };
  };
}

/** A Deployment that KServe made selects by more labels than ours; its pods have to go on carrying them. */
function keepSelector(manifest: Manifest, live: Selecting): Manifest {
  const selector = live.spec?.selector;
  if (manifest.kind !== 'Deployment' || !selector?.matchLabels) return manifest;
  const spec = manifest.spec as NonNullable<Selecting['spec']>;
  const wanted = spec.selector?.matchLabels ?? {};
  const isSame =
    Object.keys(selector.matchLabels).length === Object.keys(wanted).length &&
    Object.entries(selector.matchLabels).every(([name, value]) => wanted[name] === value);
  if (isSame) return manifest;
  const { template } = spec;
  const podLabels = { ...template?.metadata?.labels, ...selector.matchLabels };
  return {
    ...manifest,
    spec: { ...spec, selector, template: { ...template, metadata: { ...template?.metadata, labels: podLabels } } },
  };
}

/** Annotations and labels of the service that may say something about its pods. */
const tellingPrefixes = [
  'serving.kserve.io/',
  'internal.serving.kserve.io/',
  'signalbox.io/',
  'k8s.v1.cni.cncf.io',
  'kueue.x-k8s.io',
  'prometheus.io',
  'leaderworkerset.sigs.k8s.io',
];

/** Of a spec what changes no pod. */
const aside = ['replicas', 'scaling', 'rolloutStrategy'] as const;

function makingOf(gathered: Gathered, settings: Settings, isPicker: boolean): Making {
  const { service, platform, combined } = gathered;
  const { accounts, caBundle, huggingFace, initializerImage, ociMode } = platform.storage;
  const { images } = platform;
  const brought = isPicker ? [images.epp] : [images.vllm, caBundle, huggingFace, initializerImage, ociMode];
  const { enableLLMInferenceServiceTLS: tls } = settings.globals.ingress;
  const { ingress: _, ...globals } = settings.globals;
  const inputs = [
    telling(service.metadata.annotations),
    telling(service.metadata.labels),
    ...[service.spec, ...(combined.inputs ?? [])].map((spec) => podsOf(spec as LLMInferenceService['spec'], isPicker)),
    accounts,
    platform.imagePullSecrets,
    tls ?? false,
    // From a ConfigMap of the user's, where the service names one.
    isPicker ? (gathered.effective.router?.scheduler?.config ?? null) : null,
    globals,
  ];
  return {
    release: `${settings.release}-${digest([brought, combined.presetReleases ?? []], 8)}`,
    inputs: digest(inputs, 16),
  };
}

function telling(map: Readonly<Record<string, string>> | undefined): Readonly<Record<string, string>> {
  return Object.fromEntries(
    Object.entries(map ?? {})
      .filter(([key]) => tellingPrefixes.some((prefix) => key.startsWith(prefix)))
      .sort(([a], [b]) => (a < b ? -1 : 1)),
  );
}

/** A spec without what changes no pod: numbers of pods, and for model servers also the router. */
function podsOf(spec: LLMInferenceService['spec'], isPicker: boolean): unknown {
  const without = (part: object) =>
    Object.fromEntries(Object.entries(part).filter(([key]) => !(aside as readonly string[]).includes(key)));
  const { router, prefill, ...rest } = spec;
  return { ...without(rest), ...(prefill ? { prefill: without(prefill) } : {}), ...(isPicker ? { router } : {}) };
}

function digest(value: unknown, length: number): string {
  return hash('sha256', JSON.stringify(value), 'hex').slice(0, length);
}
