import type { KubeObject } from '../../kube/object.ts';

interface PoolRef {
  readonly group?: string;
  readonly kind?: string;
  readonly name?: string;
}

/** The fields of an InferenceObjective of either group that the picker reads. */
export interface ObjectiveObject extends KubeObject {
  readonly spec?: { readonly priority?: number; readonly poolRef?: PoolRef };
}

/** The fields of an InferenceModelRewrite of either group that the picker reads. */
export interface RewriteObject extends KubeObject {
  readonly spec?: {
    readonly poolRef?: PoolRef;
    readonly rules?: readonly {
      readonly matches?: readonly { readonly model?: { readonly type?: string; readonly value?: string } }[];
      readonly targets?: readonly { readonly weight?: number; readonly modelRewrite?: string }[];
    }[];
  };
}

/** The fields of an InferenceModel that the picker reads. */
export interface ModelObject extends KubeObject {
  readonly spec?: {
    readonly modelName?: string;
    readonly criticality?: string;
    readonly poolRef?: PoolRef;
    readonly targetModels?: readonly { readonly name?: string; readonly weight?: number }[];
  };
}

/** What a model name becomes: one of the targets, by weight. */
export interface Rewrite {
  /** Name of the object that says so. */
  readonly source: string;
  readonly targets: readonly { readonly model: string; readonly weight: number }[];
  readonly totalWeight: number;
}

/** What cluster operators say about requests of the pool. */
export interface RequestPolicies {
  /** Priority by the name of an InferenceObjective. */
  readonly priorityOfObjective: ReadonlyMap<string, number>;
  /** Priority by model name, from InferenceModels. */
  readonly priorityOfModel: ReadonlyMap<string, number>;
  readonly rewriteOfModel: ReadonlyMap<string, Rewrite>;
  /** For models without a rewrite of their own. */
  readonly rewriteOfOthers: Rewrite | undefined;
}

export const noPolicies: RequestPolicies = {
  priorityOfObjective: new Map(),
  priorityOfModel: new Map(),
  rewriteOfModel: new Map(),
  rewriteOfOthers: undefined,
};

/** Objects of one kind that are looked at; a namespace with more has run away. */
export const maxPolicyObjects = 10_000;

const poolGroups = new Set(['inference.networking.k8s.io', 'inference.networking.x-k8s.io']);
/** InferenceModels name levels where objectives have numbers; negative ones may be shed. */
const priorityOfCriticality: Readonly<Record<string, number>> = { Critical: 1, Standard: 0, Sheddable: -1 };

/** The policies of all objects that refer to the pool. Where two speak of one model the oldest wins, a rewrite before a model. */
export function toRequestPolicies(
  pool: string,
  objects: {
    readonly objectives: readonly ObjectiveObject[];
    readonly rewrites: readonly RewriteObject[];
    readonly models: readonly ModelObject[];
  },
): RequestPolicies {
  const isOurs = ({ spec }: { readonly spec?: { readonly poolRef?: PoolRef } }): boolean =>
    spec?.poolRef?.name === pool &&
    (spec.poolRef.kind ?? 'InferencePool') === 'InferencePool' &&
    poolGroups.has(spec.poolRef.group ?? 'inference.networking.k8s.io');
  const priorityOfObjective = new Map<string, number>();
  for (const objective of objects.objectives.slice(0, maxPolicyObjects)) {
    if (isOurs(objective)) priorityOfObjective.set(objective.metadata.name, objective.spec?.priority ?? 0);
  }
  const rewriteOfModel = new Map<string, Rewrite>();
  let rewriteOfOthers: Rewrite | undefined;
  for (const { metadata, spec } of oldestFirst(objects.rewrites.filter(isOurs))) {
    for (const rule of spec?.rules ?? []) {
      const targets = (rule.targets ?? []).map(({ modelRewrite = '', weight = 1 }) => ({
        model: modelRewrite,
        weight,
      }));
      const rewrite = toRewrite(metadata.name, targets);
      if (rewrite === undefined) continue;
      const models = (rule.matches ?? []).map(({ model }) => model?.value).filter((value) => value !== undefined);
      if (models.length === 0) rewriteOfOthers ??= rewrite;
      for (const model of models) if (!rewriteOfModel.has(model)) rewriteOfModel.set(model, rewrite);
    }
  }
  const priorityOfModel = new Map<string, number>();
  for (const { metadata, spec } of oldestFirst(objects.models.filter(isOurs))) {
    const model = spec?.modelName ?? '';
    if (model === '' || priorityOfModel.has(model)) continue;
    priorityOfModel.set(model, priorityOfCriticality[spec?.criticality ?? 'Standard'] ?? 0);
    const targets = (spec?.targetModels ?? []).map(({ name = '', weight = 0 }) => ({ model: name, weight }));
    const rewrite = toRewrite(metadata.name, targets);
    if (rewrite !== undefined && !rewriteOfModel.has(model)) rewriteOfModel.set(model, rewrite);
  }
  return { priorityOfObjective, priorityOfModel, rewriteOfModel, rewriteOfOthers };
}

function oldestFirst<T extends KubeObject>(objects: readonly T[]): readonly T[] {
  const key = ({ metadata }: T): string => `${metadata.creationTimestamp ?? ''} ${metadata.name}`;
  return objects.slice(0, maxPolicyObjects).sort((a, b) => (key(a) < key(b) ? -1 : 1));
}

function toRewrite(source: string, all: Rewrite['targets']): Rewrite | undefined {
  const targets = all.filter(({ model, weight }) => model !== '' && weight >= 0);
  if (targets.length === 0) return undefined;
  return { source, targets, totalWeight: targets.reduce((sum, { weight }) => sum + weight, 0) };
}

/** One of the targets by weight; each as likely as the other where no weight is above 0. @param random 0 ≤ x < 1 */
export function pickTarget({ targets, totalWeight }: Rewrite, random: number): string {
  let rest = random * (totalWeight > 0 ? totalWeight : targets.length);
  for (const { model, weight } of targets) {
    rest -= totalWeight > 0 ? weight : 1;
    if (rest < 0) return model;
  }
  return targets[targets.length - 1]?.model ?? '';
}
