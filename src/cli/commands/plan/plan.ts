import { fieldManager } from '../../../api/labels.ts';
import { type Difference, findDifferences } from '../../../kube/apply.ts';
import type { KubeObject, Manifest } from '../../../kube/object.ts';
import type { Write } from '../../dry-client.ts';
import type { GpuCapacity } from '../explain/pod.ts';

/** One object that an apply would change, in words. */
export interface Change {
  readonly verb: 'create' | 'update' | 'delete';
  readonly kind: string;
  readonly group: string;
  readonly name: string;
  readonly reasons: readonly string[];
  /** Pods that would be replaced. */
  readonly restarts: number;
  /** Pods more (or fewer, below 0). */
  readonly pods: number;
}

/** What of one kind of GPU a plan needs. */
export interface GpuNeed {
  readonly resource: string;
  /** More than now; below 0: fewer. */
  readonly needed: number;
  readonly free: number;
  readonly allocatable: number;
  /** Where the new pods would fit: node → pods. Only free GPUs are looked at. */
  readonly fits: Readonly<Record<string, number>>;
  /** New pods for which no node has room. */
  readonly homeless: number;
}

export interface ServicePlan {
  readonly service: string;
  readonly isNew: boolean;
  /** Why the operator would refuse the spec. */
  readonly refusal?: string;
  readonly changes: readonly Change[];
  readonly gpus: readonly GpuNeed[];
}

/** GPUs that are free on a node, by resource name. */
export interface NodeRoom {
  readonly name: string;
  readonly free: Readonly<Record<string, number>>;
}

interface Workload extends KubeObject {
  readonly spec?: {
    readonly replicas?: number;
    readonly template?: PodTemplate;
    readonly leaderWorkerTemplate?: {
      readonly size?: number;
      readonly leaderTemplate?: PodTemplate;
      readonly workerTemplate?: PodTemplate;
    };
  };
}
interface PodTemplate {
  readonly spec?: {
    readonly containers?: readonly {
      readonly resources?: { readonly requests?: Amounts; readonly limits?: Amounts };
    }[];
  };
}
type Amounts = Readonly<Record<string, string | number>>;

const maxReasons = 8;

/** What writes mean, given the objects that are there now. Pure. */
export function planChanges(
  writes: readonly Write[],
  live: (write: Write) => KubeObject | undefined,
): readonly Change[] {
  return writes.flatMap((write): readonly Change[] => {
    const now = live(write);
    const { kind, group } = write.resource;
    const base = { kind, group, name: write.ref.name };
    if (write.verb === 'delete') {
      if (!now) return [];
      return [{ ...base, verb: 'delete', reasons: ['it is no longer wanted'], restarts: 0, pods: 0 - podsOf(now) }];
    }
    const wanted = write.object as Manifest;
    if (!now) return [{ ...base, verb: 'create', reasons: ['it does not exist'], restarts: 0, pods: podsOf(wanted) }];
    // Others write parts of it, so replicas that we do not give stay.
    const differences = findDifferences(wanted, now, fieldManager);
    if (differences.length === 0) return [];
    const after = podsOf(wanted, podsOf(now));
    const isTemplate = differences.some(({ path }) => /^spec\.(template|leaderWorkerTemplate)\b/.test(path));
    return [
      {
        ...base,
        verb: 'update',
        reasons: reasonsOf(differences),
        restarts: isTemplate ? Math.min(podsOf(now), after) : 0,
        pods: after - podsOf(now),
      },
    ];
  });
}

function reasonsOf(differences: readonly Difference[]): readonly string[] {
  const shown = differences.slice(0, maxReasons).map(({ reason }) => reason);
  return differences.length > maxReasons ? [...shown, `and ${differences.length - maxReasons} more`] : shown;
}

/** Pods of a Deployment or LeaderWorkerSet; 0 for other kinds. */
function podsOf(object: KubeObject, otherwise = 1): number {
  const { spec } = object as Workload;
  if (object.kind === 'Deployment') return spec?.replicas ?? otherwise;
  if (object.kind !== 'LeaderWorkerSet') return 0;
  return spec?.replicas === undefined ? otherwise : spec.replicas * (spec.leaderWorkerTemplate?.size ?? 1);
}

/** GPUs of each pod that a workload has, by resource name. */
function podGpus(object: KubeObject | undefined, replicas?: number): readonly Readonly<Record<string, number>>[] {
  const { spec } = (object ?? {}) as Workload;
  if (!object || !spec) return [];
  const count = spec.replicas ?? replicas ?? 1;
  const times = (template: PodTemplate | undefined, n: number) => Array.from({ length: n }, () => gpusOf(template));
  if (object.kind === 'Deployment') return times(spec.template, count);
  if (object.kind !== 'LeaderWorkerSet') return [];
  const { size = 1, leaderTemplate, workerTemplate } = spec.leaderWorkerTemplate ?? {};
  return [...times(leaderTemplate ?? workerTemplate, count), ...times(workerTemplate, count * (size - 1))];
}

function gpusOf(template: PodTemplate | undefined): Readonly<Record<string, number>> {
  const sums: Record<string, number> = {};
  for (const { resources } of template?.spec?.containers ?? [])
    for (const [name, amount] of Object.entries({ ...resources?.limits, ...resources?.requests }))
      if (name.includes('/')) sums[name] = (sums[name] ?? 0) + Number(amount);
  return sums;
}

/** GPUs that the writes need beyond what the service has, and where its new pods would fit. Pure. */
export function planGpus(
  writes: readonly Write[],
  live: (write: Write) => KubeObject | undefined,
  capacity: readonly GpuCapacity[],
  nodes: readonly NodeRoom[],
): readonly GpuNeed[] {
  const before = writes.flatMap((write) => podGpus(live(write)));
  const after = writes.flatMap((write) => {
    const now = live(write);
    return podGpus(write.object, now ? ((now as Workload).spec?.replicas ?? 1) : 1);
  });
  const names = [...new Set([...before, ...after].flatMap(Object.keys))].sort();
  return names.flatMap((resource) => {
    const amounts = (pods: typeof before) => pods.flatMap((pod) => (pod[resource] ? [pod[resource]] : []));
    const sum = (pods: typeof before) => amounts(pods).reduce((total, amount) => total + amount, 0);
    const needed = sum(after) - sum(before);
    if (needed === 0) return [];
    const there = capacity.find((one) => one.resource === resource);
    // Pods that stay keep their GPUs; only as many as come on top look for room.
    const fresh = amounts(after)
      .sort((a, b) => b - a)
      .slice(0, Math.max(0, amounts(after).length - amounts(before).length));
    const { fits, homeless } = needed > 0 ? placeOf(fresh, resource, nodes) : { fits: {}, homeless: 0 };
    return [
      {
        resource,
        needed,
        free: (there?.allocatable ?? 0) - (there?.used ?? 0),
        allocatable: there?.allocatable ?? 0,
        fits,
        homeless,
      },
    ];
  });
}

/** First fit, the largest pods first. */
function placeOf(
  pods: readonly number[],
  resource: string,
  nodes: readonly NodeRoom[],
): Pick<GpuNeed, 'fits' | 'homeless'> {
  const room = new Map(nodes.map(({ name, free }) => [name, free[resource] ?? 0]));
  const fits: Record<string, number> = {};
  let homeless = 0;
  for (const amount of pods) {
    const found = [...room].find(([, free]) => free >= amount);
    if (!found) homeless++;
    else {
      room.set(found[0], found[1] - amount);
      fits[found[0]] = (fits[found[0]] ?? 0) + 1;
    }
  }
  return { fits, homeless };
}

interface Painter {
  readonly good: (text: string) => string;
  readonly bad: (text: string) => string;
  readonly warn: (text: string) => string;
  readonly dim: (text: string) => string;
  readonly bold: (text: string) => string;
}

/** Lines for people. */
export function planLines(plan: ServicePlan, paint: Painter): readonly string[] {
  const lines = [`${paint.bold(plan.service)}${plan.isNew ? paint.dim('  new') : ''}`];
  if (plan.refusal) return [...lines, `  ${paint.bad('✗')} the operator would refuse it: ${plan.refusal}`];
  const mark = { create: paint.good('+'), update: paint.warn('~'), delete: paint.bad('-') };
  for (const { verb, kind, group, name, reasons, restarts, pods } of plan.changes) {
    // The pool is made in two groups.
    const isTwofold = plan.changes.some((other) => other.kind === kind && other.group !== group);
    lines.push(
      `  ${mark[verb]} ${kind} ${name}${isTwofold ? paint.dim(`  ${group}`) : ''}${verb === 'update' ? '' : paint.dim(`  ${reasons[0]}`)}`,
    );
    if (verb === 'update') lines.push(...reasons.map((reason) => `      ${reason}`));
    if (restarts > 0) lines.push(`      ${paint.warn(`${countOf(restarts, 'pod')} would be replaced`)}`);
    if (pods !== 0) lines.push(`      ${countOf(Math.abs(pods), 'pod')} ${pods > 0 ? 'more' : 'fewer'}`);
  }
  for (const need of plan.gpus) lines.push(`  ${gpuLine(need, paint)}`);
  const count = (verb: Change['verb']) => plan.changes.filter((change) => change.verb === verb).length;
  const restarts = plan.changes.reduce((sum, change) => sum + change.restarts, 0);
  lines.push(
    plan.changes.length === 0
      ? '  nothing would change'
      : `  ${count('create')} to create, ${count('update')} to change, ${count('delete')} to delete; ${restarts === 0 ? 'no pod would be replaced' : `${countOf(restarts, 'pod')} would be replaced`}`,
  );
  return lines;
}

function gpuLine({ resource, needed, free, allocatable, fits, homeless }: GpuNeed, paint: Painter): string {
  if (needed < 0) return `${-needed} ${resource} would become free`;
  const where = Object.entries(fits).map(([node, pods]) => `${countOf(pods, 'pod')} on ${node}`);
  const text = `${needed} more ${resource} needed, ${free} of ${allocatable} free`;
  if (homeless > 0)
    return paint.bad(
      `${text}: no node has room for ${countOf(homeless, 'pod')}${where.length > 0 ? `; ${where.join(', ')}` : ''}`,
    );
  return `${text}${where.length > 0 ? `: ${where.join(', ')}` : ''}`;
}

function countOf(n: number, what: string): string {
  return `${n} ${what}${n === 1 ? '' : 's'}`;
}
