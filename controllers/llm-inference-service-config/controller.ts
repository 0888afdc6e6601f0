import type { Condition } from '../../src/api/conditions.ts';
import { conditionTypes, reasons } from '../../src/api/conditions.ts';
import { configFinalizer, fieldManager } from '../../src/api/labels.ts';
import type { LLMInferenceServiceConfig } from '../../src/api/v1alpha2/llm-inference-service-config.ts';
import { type Clock, systemClock } from '../../src/clock.ts';
import type { Client } from '../../src/kube/client.ts';
import type { EventRecorder } from '../../src/kube/events.ts';
import { type KubeObject, keyOf, type ObjectRef } from '../../src/kube/object.ts';
import { resources } from '../../src/kube/resources.ts';
import { hasCode } from '../../src/kube/status-error.ts';
import { statusPatch } from '../../src/plan/status.ts';
import { isWellKnownPreset } from '../../src/render/preset-names.ts';
import type { ControllerDefinition } from '../../src/runtime/controller.ts';
import { awaitChange, type Outcome, requeueAfter } from '../../src/runtime/reconcile.ts';
import { triggerMapped, triggerSelf } from '../../src/runtime/triggers.ts';
import { type Fault, findFault } from './readiness.ts';
import { configsOf, digestOf, type UsageCaches, usersOf } from './usage.ts';

export interface ConfigControllerDeps {
  readonly client: Client;
  readonly caches: UsageCaches;
  readonly events: Pick<EventRecorder, 'record'>;
  readonly clock?: Clock;
  readonly systemNamespace: string;
  readonly configPrefix: string;
  /** While KServe's controller runs, which does the same. */
  readonly isWaiting?: () => boolean;
}

/** More users than these are not listed: a preset may have all services of a cluster. */
const maxListed = 50;
const waitMs = 10_000;

/** Says which services are laid over a base configuration, and keeps one that is deleted for as long as there are any. */
export function createConfigController(deps: ConfigControllerDeps): ControllerDefinition {
  const { client, caches, events, systemNamespace } = deps;
  const clock = deps.clock ?? systemClock;
  const resource = resources.llmInferenceServiceConfigs;

  /** What is wrong with configurations, each as of one generation. */
  const faults = new Map<string, { readonly version: string; readonly fault: Fault | undefined }>();

  function faultOf(config: LLMInferenceServiceConfig): Fault | undefined {
    const key = keyOf(config.metadata);
    const version = `${config.metadata.uid}/${config.metadata.generation}`;
    const known = faults.get(key);
    if (known?.version === version) return known.fault;
    const fault = findFault(config, systemNamespace);
    faults.set(key, { version, fault });
    return fault;
  }

  async function reconcile(ref: ObjectRef, signal: AbortSignal): Promise<Outcome> {
    const config = caches.configs.store.get(ref);
    if (!config) {
      faults.delete(keyOf(ref));
      return awaitChange();
    }
    if (deps.isWaiting?.()) return requeueAfter(waitMs);
    const users = usersOf(caches, systemNamespace, ref);
    const { finalizers = [], deletionTimestamp } = config.metadata;
    // No service could let a preset go: it has what is built in without, and nothing in its spec to remove.
    const isPreset = isWellKnownPreset(ref.name, deps.configPrefix);
    const isGoing = deletionTimestamp !== undefined;
    const holds = users.length > 0 && !isPreset && !(isGoing && (await isNamespaceGoing(ref, signal)));
    const has = finalizers.includes(configFinalizer);
    if (holds !== has && !(holds && isGoing)) {
      const wanted = holds ? [...finalizers, configFinalizer] : finalizers.filter((other) => other !== configFinalizer);
      await writeFinalizers(config, wanted, signal);
      if (isGoing) return awaitChange();
    }
    await writeStatus(config, users, isGoing && holds, signal);
    return awaitChange();
  }

  async function isNamespaceGoing({ namespace }: ObjectRef, signal: AbortSignal): Promise<boolean> {
    const found = namespace
      ? await client.get<KubeObject>(resources.namespaces, { name: namespace }, signal)
      : undefined;
    return !found || found.metadata.deletionTimestamp !== undefined;
  }

  async function writeFinalizers(
    { metadata }: LLMInferenceServiceConfig,
    finalizers: readonly string[],
    signal: AbortSignal,
  ): Promise<void> {
    const { uid, resourceVersion } = metadata;
    await ignoreGone(
      client.mergePatch(resource, refOf(metadata), { metadata: { uid, resourceVersion, finalizers } }, {}, signal),
    );
  }

  async function writeStatus(
    config: LLMInferenceServiceConfig,
    users: ReturnType<typeof usersOf>,
    isBlocked: boolean,
    signal: AbortSignal,
  ): Promise<void> {
    const { generation } = config.metadata;
    const names = users.slice(0, 5).map(keyOf).join(', ') + (users.length > 5 ? ', …' : '');
    const count = users.length > maxListed ? `more than ${maxListed} services` : `${users.length} services`;
    const told: Condition =
      users.length === 0
        ? { type: conditionTypes.configInUse, status: 'False', reason: reasons.configNotInUse }
        : {
            type: conditionTypes.configInUse,
            status: 'True',
            reason: isBlocked ? reasons.deletionBlocked : reasons.configInUse,
            message: isBlocked
              ? `goes when ${count} are no longer laid over it: ${names}; remove it from their spec.baseRefs`
              : `${count} are laid over it: ${names}`,
          };
    const before = config.status?.conditions?.find(({ type }) => type === told.type);
    const fault = faultOf(config);
    const ready: Condition = {
      type: conditionTypes.ready,
      status: fault ? 'False' : 'True',
      ...(fault ? { reason: fault.reason, message: fault.message } : {}),
    };
    const patch = statusPatch(config.status, {
      ...(generation === undefined ? {} : { observedGeneration: generation }),
      conditions: [ready, told].map((condition) => stamped(config, condition)),
      ...(users.length > 0 ? { referencedBy: users.slice(0, maxListed) } : {}),
    });
    if (!patch) return;
    const options = { subresource: 'status', fieldManager } as const;
    await ignoreGone(client.mergePatch(resource, refOf(config.metadata), { status: patch }, options, signal));
    if (isBlocked && before?.reason !== reasons.deletionBlocked)
      events.record(config as KubeObject, 'Warning', reasons.deletionBlocked, told.message ?? '');
  }

  function stamped({ metadata: { generation }, status }: LLMInferenceServiceConfig, condition: Condition): Condition {
    const before = status?.conditions?.find(({ type }) => type === condition.type);
    const since = before?.status === condition.status ? before.lastTransitionTime : undefined;
    return {
      ...condition,
      ...(generation === undefined ? {} : { observedGeneration: generation }),
      lastTransitionTime: since ?? new Date(clock.now()).toISOString().replace(/\.\d+Z$/, 'Z'),
    };
  }

  return {
    name: 'llm-inference-service-config',
    reconcile,
    triggers: [
      triggerSelf(caches.configs, {
        when: ({ metadata: a }, { metadata: b }) =>
          a.generation !== b.generation ||
          a.deletionTimestamp !== b.deletionTimestamp ||
          JSON.stringify(a.finalizers) !== JSON.stringify(b.finalizers),
      }),
      // One of the own namespace that comes or goes changes who uses that of the system namespace.
      triggerMapped(caches.configs, ({ metadata }) => [{ namespace: systemNamespace, name: metadata.name }], {
        when: () => false,
      }),
      triggerMapped(caches.services, (service) => configsOf(service, systemNamespace), {
        when: (before, after) => digestOf(before) !== digestOf(after),
      }),
    ],
    workers: 2,
  };
}

function refOf({ name, namespace }: ObjectRef): ObjectRef {
  return namespace === undefined ? { name } : { namespace, name };
}

/** Deleted meanwhile: nobody is left to tell. */
async function ignoreGone(write: Promise<unknown>): Promise<void> {
  try {
    await write;
  } catch (thrown) {
    if (!hasCode(thrown, 'notFound')) throw thrown;
  }
}
