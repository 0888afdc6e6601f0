import { type Target, toHostPort } from './host-port.ts';

/** Label that says what a pod of the pool does. */
const roleLabel = 'llm-d.ai/role';
/** Roles whose pods take prefills. */
const prefillRoles: ReadonlySet<string> = new Set([
  'prefill',
  'both',
  'prefill-decode',
  'encode-prefill',
  'encode-prefill-decode',
]);

/** Roles whose pods encode images, audio and video. */
const encodeRoles: ReadonlySet<string> = new Set(['encode', 'encode-prefill', 'encode-prefill-decode']);

/** What of an InferencePool of either group decides who may be called. */
export interface Pool {
  readonly selector: Readonly<Record<string, string>>;
  readonly ports: readonly number[];
}

/** What of a pod decides whether it may be called. */
export interface PrefillPod {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly addresses: readonly string[];
  readonly isReady: boolean;
}

/** The pool's settings from the object, v1 or v1alpha2 form, or undefined when it selects nothing. */
export function poolOf(object: unknown): Pool | undefined {
  const spec = ((object ?? {}) as { spec?: unknown }).spec as
    | {
        readonly selector?: Readonly<Record<string, unknown>>;
        readonly targetPorts?: readonly { readonly number?: unknown }[];
        readonly targetPortNumber?: unknown;
      }
    | undefined;
  if (!spec?.selector) return undefined;
  // v1 nests the labels under matchLabels, v1alpha2 has them flat.
  const labels = (spec.selector.matchLabels ?? spec.selector) as Readonly<Record<string, unknown>>;
  const selector = Object.fromEntries(
    Object.entries(labels).filter((entry): entry is [string, string] => typeof entry[1] === 'string'),
  );
  const ports = [...(spec.targetPorts ?? []).map((port) => port.number), spec.targetPortNumber].filter(
    (port): port is number => typeof port === 'number',
  );
  return Object.keys(selector).length === 0 || ports.length === 0 ? undefined : { selector, ports };
}

export type Stage = 'prefill' | 'encode';

/** Whether a stage may go to this pod: selected by the pool, ready, and of a role that does it. */
function isPodOf(stage: Stage, pod: PrefillPod, pool: Pool): boolean {
  const roles = stage === 'prefill' ? prefillRoles : encodeRoles;
  if (!pod.isReady || !roles.has(pod.labels[roleLabel] ?? '')) return false;
  return Object.entries(pool.selector).every(([key, value]) => pod.labels[key] === value);
}

/** Every `ip:port` that may be called for a stage: its ready pods × the pool's target ports. */
export function allowedTargets(
  pool: Pool | undefined,
  pods: readonly PrefillPod[],
  stage: Stage = 'prefill',
): ReadonlySet<string> {
  const allowed = new Set<string>();
  if (!pool) return allowed;
  for (const pod of pods) {
    if (!isPodOf(stage, pod, pool)) continue;
    for (const address of pod.addresses) for (const port of pool.ports) allowed.add(toHostPort(address, port));
  }
  return allowed;
}

/**
 * Judges the targets that a request named: address and port must both be on the list. Names are never resolved, so a name
 * is allowed only when it is the configured prefill URL's.
 */
export function judgeTargets(
  targets: readonly Target[],
  allowed: ReadonlySet<string>,
  trusted: string | undefined,
): { readonly allowed: readonly Target[]; readonly denied: readonly Target[] } {
  const isAllowed = (target: Target) => target.hostPort === trusted || allowed.has(target.hostPort);
  return { allowed: targets.filter(isAllowed), denied: targets.filter((target) => !isAllowed(target)) };
}
