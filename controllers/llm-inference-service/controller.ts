import { conditionTypes, reasons } from '../../src/api/conditions.ts';
import { annotations, components, fieldManager, finalizer, labels } from '../../src/api/labels.ts';
import type { LLMInferenceService, LLMInferenceServiceStatus } from '../../src/api/v1alpha2/llm-inference-service.ts';
import { type Clock, systemClock } from '../../src/clock.ts';
import { AppError } from '../../src/errors.ts';
import { ApplyMemory, applySet, findDifferences, type Operation } from '../../src/kube/apply.ts';
import type { Client } from '../../src/kube/client.ts';
import type { EventRecorder } from '../../src/kube/events.ts';
import { keyOf, type Manifest, type ObjectRef } from '../../src/kube/object.ts';
import { resourceOf, resources } from '../../src/kube/resources.ts';
import { hasCode } from '../../src/kube/status-error.ts';
import { beforeRendering } from '../../src/plan/chains.ts';
import { firstViolation, type Verdict } from '../../src/plan/check.ts';
import { isStopped, refusedStatus, statusOf, statusPatch } from '../../src/plan/status.ts';
import type { PoolGroup } from '../../src/render/input.ts';
import { createContext } from '../../src/render/input.ts';
import { childNames } from '../../src/render/names.ts';
import { render } from '../../src/render/render.ts';
import { modelRoutingHeader } from '../../src/render/routing/rules.ts';
import { hasTokenizer } from '../../src/render/scheduler/tokenizer.ts';
import { hasTls } from '../../src/render/tls.ts';
import { ServiceAuthority } from '../../src/runtime/authority.ts';
import type { ControllerDefinition } from '../../src/runtime/controller.ts';
import { awaitChange, type Outcome, requeueAfter } from '../../src/runtime/reconcile.ts';
import { BaseConfigs } from './base-configs.ts';
import type { Caches, ConfigMap } from './caches.ts';
import { Certificates, type ServiceCertificate } from './certificates.ts';
import { Departures, isHeld, setHeld } from './departures.ts';
import {
  type Gathered,
  gather,
  gatherLive,
  gatherObserved,
  gatherService,
  type Settings,
  type Sources,
  watchReferences,
} from './gather.ts';
import { GlobalConfig } from './global-config.ts';
import { gatherHolders } from './group.ts';
import { authoritySecret } from './permissions.ts';
import { holdReleases } from './releases.ts';
import { dropFinalizer, findRivalOf, type Rival } from './take-over.ts';
import { createTriggers } from './triggers.ts';
import { createOwnedClient, type Failure, Strangers, Writes } from './writes.ts';

/** How often a service that leaves its group looks whether it may go. */
const leavingMs = 1_000;

export interface ServiceControllerDeps {
  readonly client: Client;
  readonly caches: Caches;
  readonly settings: Settings;
  readonly events: Pick<EventRecorder, 'record'>;
  readonly clock?: Clock;
  readonly workers?: number;
}

/** Makes the children of every LLMInferenceService and says in its status how they are. */
export function createServiceController(deps: ServiceControllerDeps): ControllerDefinition {
  const { client, events } = deps;
  const clock = deps.clock ?? systemClock;
  const memory = new ApplyMemory();
  const writes = new Writes(clock);
  const strangers = new Strangers(client, clock);
  const globals = new GlobalConfig(deps.caches.globalConfig, deps.settings, (configMap, problems) =>
    events.record(configMap, 'Warning', 'InvalidConfiguration', problems.join('; ')),
  );
  const bases = new BaseConfigs(deps.caches, () => {
    const { systemNamespace, configPrefix, gateway, globals: values } = globals.settings;
    return {
      systemNamespace,
      configPrefix,
      gatewayName: gateway.name,
      gatewayNamespace: gateway.namespace,
      enableTls: isTlsByDefault(),
      modelRoutingHeader: values.ingress.modelBasedRoutingHeaderName ?? modelRoutingHeader,
    };
  });
  const sources: Sources = { caches: deps.caches, writes, globals, bases };
  const departures = new Departures(clock);
  const certificates = new Certificates(
    client,
    new ServiceAuthority(client, { namespace: deps.settings.systemNamespace, name: authoritySecret }, clock),
    clock,
  );
  const isTlsByDefault = () => globals.settings.globals.ingress.enableLLMInferenceServiceTLS ?? false;
  /** Services, by uid, that were told of KServe's controller. */
  const told = new Set<string>();
  const gatewaysBeingMade = new Map<string, Promise<void>>();

  async function reconcile(ref: ObjectRef, signal: AbortSignal): Promise<Outcome> {
    await watchReferences(sources, ref, signal);
    const service = gatherService(sources, ref);
    if (!service) return awaitChange();
    const rival = findRivalOf(deps.caches, clock);
    if (rival) {
      tellOfRival(service, rival);
      return rival.untilMs === undefined ? awaitChange() : requeueAfter(rival.untilMs - clock.now() + 1000);
    }
    told.clear();
    // Left by KServe's controller, which took it off itself.
    if (service.metadata.finalizers?.includes(finalizer)) await dropFinalizer(client, service, signal);
    if (service.metadata.deletionTimestamp) return finalize(service, signal);
    const gathered = gather(sources, service);

    // What is stopped needs no spec that can be rendered.
    const verdict = isStopped(service) ? undefined : firstViolation(beforeRendering, gathered);
    const certificate = verdict ? undefined : await certify(gathered, signal);
    const platform = certificate ? { ...gathered.platform, tls: certificate.facts } : gathered.platform;
    const rendered = verdict ?? renderOrRefuse({ ...gathered, platform });
    if (!Array.isArray(rendered)) {
      await writeStatus(service, refusedStatus(service, rendered as Verdict, now()), signal);
      return awaitChange();
    }
    const held = hold(gathered, rendered);
    const { desired } = held;

    // Others' routes lead to a member of a group: it may not go before they have let go of it.
    const isInGroup = (gathered.group?.length ?? 0) > 1;
    if (isInGroup !== isHeld(service)) await setHeld({ client, writes, fieldManager }, service, isInGroup, signal);
    if (isStopped(service) && !(await leaveGroup(gathered, signal))) {
      const observed = gatherObserved(sources, gathered, [], []);
      await writeStatus(service, statusOf(observed, now()), signal);
      return requeueAfter(leavingMs);
    }
    if (!isStopped(service)) departures.forget(service);

    const problems: Verdict[] = [];
    let failure: unknown;
    try {
      await apply(gathered, desired, problems, signal);
    } catch (thrown) {
      failure = thrown;
    }
    const { combined } = gathered;
    const all = { ...combined, notes: [...combined.notes, ...held.notes], pins: held.pins };
    const observed = gatherObserved(sources, { ...gathered, combined: all }, desired, problems);
    await writeStatus(service, statusOf(observed, now()), signal);
    if (failure !== undefined) throw failure;
    return certificate ? requeueAfter(certificate.lookAgainMs) : awaitChange();
  }

  /** The certificate of a service that speaks TLS. Its Secret stands before any pod mounts it. */
  async function certify(gathered: Gathered, signal: AbortSignal): Promise<ServiceCertificate | undefined> {
    const { service, effective } = gathered;
    if (isStopped(service) || !hasTls(service, isTlsByDefault())) return undefined;
    const { namespace, name } = service.metadata;
    const record = { namespace: namespace ?? 'default', name: childNames(name).certificates };
    const picker = effective.router?.scheduler?.pool?.spec?.endpointPickerRef?.name;
    try {
      const found = await certificates.of(
        service,
        picker,
        gatherLive<ConfigMap>(sources, resources.configMaps, record),
        signal,
        hasTokenizer(createContext(gathered)),
      );
      if (found.made !== undefined)
        events.record(service, 'Normal', 'CertificateIssued', `made a new TLS certificate: ${found.made}`);
      return found;
    } catch (thrown) {
      const message = `the TLS certificate cannot be made: ${AppError.from(thrown).message}`;
      const failed = { condition: conditionTypes.mainWorkloadReady, reason: reasons.certificateFailed, message };
      await writeStatus(service, refusedStatus(service, failed, now()), signal);
      throw thrown;
    }
  }

  /** The manifests with the pods of older releases as they are, and what the status says of that. */
  function hold(gathered: Gathered, rendered: readonly Manifest[]) {
    const { desired, behind, release } = holdReleases(gathered, globals.settings, rendered, (manifest) => {
      const resource = resourceOf(manifest);
      return resource && gatherLive(sources, resource, manifest.metadata);
    });
    const [first] = behind;
    return {
      desired,
      notes: first
        ? [
            `pods of ${behind.map(({ name }) => name).join(', ')} stay at release ${first.release}; a new value of annotation ${annotations.release}, such as ${first.current}, or a change of theirs moves them to ${first.current}`,
          ]
        : [],
      pins: release === undefined ? {} : { [annotations.release]: release },
    };
  }

  /** Children go with their owner; only the other members of a group have to be waited for. */
  async function finalize(service: LLMInferenceService, signal: AbortSignal): Promise<Outcome> {
    if (!isHeld(service)) return awaitChange();
    const gathered = gather(sources, service);
    if (!(await leaveGroup(gathered, signal))) {
      const message = `waits for routes of group ${gathered.effective.router?.route?.group} to let go of it: ${gatherHolders(sources, service).join(', ')}`;
      const verdict = { condition: conditionTypes.groupReady, reason: reasons.finalizationPending, message };
      await writeStatus(service, refusedStatus(service, verdict, now()), signal);
      return requeueAfter(leavingMs);
    }
    await setHeld({ client, writes, fieldManager }, service, false, signal);
    departures.forget(service);
    return awaitChange();
  }

  /** Hands the service's part of the traffic to the other members; whether its backends may go now. */
  async function leaveGroup(gathered: Gathered, signal: AbortSignal): Promise<boolean> {
    const { service } = gathered;
    if ((gathered.group?.length ?? 0) < 2) return true;
    const live = (resource: Parameters<typeof gatherLive>[1], at: ObjectRef) => gatherLive(sources, resource, at);
    const rendered = renderOrRefuse({ ...gathered, service: withoutStop(service) });
    const routes = Array.isArray(rendered)
      ? (rendered as readonly Manifest[]).filter(
          ({ kind, metadata }) => kind === 'HTTPRoute' && live(resources.httpRoutes, metadata),
        )
      : [];
    const owned = createOwnedClient({ client, writes, strangers, owner: service, live, onFailure: () => {} });
    // What cannot be written is waited for like what is not seen: a service must be able to go.
    await applySet(owned, { owner: service, fieldManager, desired: routes, live, memory, signal }).catch(() => {});
    return departures.mayLeave(service, gatherHolders(sources, service));
  }

  /** The manifests, or why there can be none. */
  function renderOrRefuse({
    service,
    effective,
    platform,
    referenced,
    group,
    poolApi,
  }: Gathered): readonly Manifest[] | Verdict {
    if (isStopped(service)) return [];
    try {
      const pools = {
        ownPoolGroup: poolGroupOf(referenced),
        poolGroup: poolApi?.group,
        probesPool: poolApi?.isProbing ?? false,
      };
      return render({ service, effective, platform, group, ...pools });
    } catch (thrown) {
      if (!(thrown instanceof AppError)) throw thrown;
      return { condition: conditionTypes.presetsCombined, reason: reasons.invalidSpec, message: thrown.message };
    }
  }

  async function apply(
    gathered: Gathered,
    desired: readonly Manifest[],
    problems: Verdict[],
    signal: AbortSignal,
  ): Promise<void> {
    const { service } = gathered;
    const live = (resource: Parameters<typeof gatherLive>[1], at: ObjectRef) => gatherLive(sources, resource, at);
    const onFailure = (failed: Failure) => problems.push(problemOf(failed));
    const owned = createOwnedClient({ client, writes, strangers, owner: service, live, onFailure });
    const isShared = ({ kind }: Manifest) => kind === 'Gateway';
    const results = await Promise.allSettled([
      applySet(owned, {
        owner: service,
        fieldManager,
        desired: desired.filter((manifest) => !isShared(manifest)),
        live,
        children: gathered.children,
        memory,
        signal,
      }).then((operations) => tell(service, operations)),
      ...desired.filter(isShared).map((manifest) => applyGateway(service, manifest, onFailure, signal)),
    ]);
    const failed = results.find((result) => result.status === 'rejected');
    if (!failed) return;
    // A name that is taken is found before anything is written, so no write has told of it.
    if (problems.length === 0) problems.push(takenProblem(AppError.from(failed.reason)));
    throw failed.reason;
  }

  /** The Gateway belongs to no service. Services that come at the same time make it once. */
  async function applyGateway(
    service: LLMInferenceService,
    manifest: Manifest,
    onFailure: (failure: Failure) => void,
    signal: AbortSignal,
  ): Promise<void> {
    const resource = resources.gateways;
    const key = keyOf(manifest.metadata);
    const underWay = gatewaysBeingMade.get(key);
    if (underWay) return underWay;
    const live = gatherLive(sources, resource, manifest.metadata);
    if (live && findDifferences(manifest, live, fieldManager).length === 0) return;
    const making = (async () => {
      try {
        writes.remember(resource, await client.apply(resource, manifest, { fieldManager, force: true }, signal));
        tell(service, [
          { verb: live ? 'update' : 'create', resource, ref: manifest.metadata, reason: 'it is the default Gateway' },
        ]);
      } catch (thrown) {
        onFailure({ resource, manifest, error: AppError.from(thrown) });
        throw thrown;
      } finally {
        gatewaysBeingMade.delete(key);
      }
    })();
    gatewaysBeingMade.set(key, making);
    return making;
  }

  async function writeStatus(
    service: LLMInferenceService,
    status: LLMInferenceServiceStatus,
    signal: AbortSignal,
  ): Promise<void> {
    const patch = statusPatch(service.status, status);
    if (!patch) return;
    const { namespace, name } = service.metadata;
    const ref = namespace === undefined ? { name } : { namespace, name };
    const resource = resources.llmInferenceServices;
    try {
      const after = await client.mergePatch(
        resource,
        ref,
        { status: patch },
        { subresource: 'status', fieldManager },
        signal,
      );
      writes.remember(resource, after);
    } catch (thrown) {
      // Deleted meanwhile: nobody is left to tell.
      if (hasCode(thrown, 'notFound')) return;
      throw thrown;
    }
    tellReadiness(service, status);
  }

  function tell(service: LLMInferenceService, operations: readonly Operation[]): void {
    const nameOf = ({ resource, ref }: Operation) => `${resource.kind} ${ref.name}`;
    for (const [verb, reason] of [
      ['create', 'Created'],
      ['delete', 'Deleted'],
    ] as const) {
      const names = operations.filter((operation) => operation.verb === verb).map(nameOf);
      if (names.length > 0) events.record(service, 'Normal', reason, `${reason} ${names.join(', ')}`);
    }
    for (const operation of operations.filter(({ verb }) => verb === 'update'))
      events.record(service, 'Normal', 'Updated', `Updated ${nameOf(operation)}: ${operation.reason}`);
  }

  function tellReadiness(service: LLMInferenceService, status: LLMInferenceServiceStatus): void {
    const readyOf = (of: LLMInferenceServiceStatus | undefined) =>
      of?.conditions?.find(({ type }) => type === conditionTypes.ready);
    const [before, after] = [readyOf(service.status), readyOf(status)];
    if (before?.status === after?.status) return;
    if (after?.status === 'True')
      events.record(service, 'Normal', 'LLMInferenceServiceReady', `ready${status.url ? ` at ${status.url}` : ''}`);
    else if (before?.status === 'True')
      events.record(
        service,
        'Warning',
        'LLMInferenceServiceNotReady',
        `no longer ready: ${after?.message ?? after?.reason}`,
      );
  }

  /** In an event, once: KServe's controller writes the status, and two writers would never come to rest. */
  function tellOfRival(service: LLMInferenceService, { sign }: Rival): void {
    const uid = service.metadata.uid ?? '';
    if (told.has(uid)) return;
    told.add(uid);
    events.record(
      service,
      'Warning',
      'WaitingForKServe',
      `KServe's controller still runs (${sign}); scale it to 0 replicas, then Signalbox takes over what serves this service`,
    );
  }

  /** As the API server writes times. */
  function now(): string {
    return new Date(clock.now()).toISOString().replace(/\.\d+Z$/, 'Z');
  }

  return {
    name: 'llm-inference-service',
    reconcile,
    triggers: createTriggers(sources),
    ...(deps.workers === undefined ? {} : { workers: deps.workers }),
  };
}

/** The service as it would be if it went on. */
function withoutStop(service: LLMInferenceService): LLMInferenceService {
  const { [annotations.stop]: _, ...others } = service.metadata.annotations ?? {};
  return { ...service, metadata: { ...service.metadata, annotations: others } };
}

/** The newer of the APIs in which the pool was found. */
function poolGroupOf({ pool, xPool }: Gathered['referenced']): PoolGroup | undefined {
  return pool ? 'inference.networking.k8s.io' : xPool ? 'inference.networking.x-k8s.io' : undefined;
}

/** A write that failed, as a verdict on the part that it was for. */
function problemOf({ resource, manifest, error }: Failure): Verdict {
  const component = manifest.metadata.labels?.[labels.component];
  const condition =
    resource === resources.gateways
      ? conditionTypes.gatewaysReady
      : resource === resources.httpRoutes
        ? conditionTypes.httpRoutesReady
        : resource === resources.inferencePools || resource === resources.xInferencePools
          ? conditionTypes.inferencePoolReady
          : component === components.scheduler
            ? conditionTypes.schedulerWorkloadReady
            : resource === resources.scaledObjects || resource === resources.horizontalPodAutoscalers
              ? component === components.workloadPrefill
                ? conditionTypes.prefillScalingReady
                : conditionTypes.scalingReady
              : resource === resources.leaderWorkerSets
                ? component === components.workloadPrefill
                  ? conditionTypes.prefillWorkerWorkloadReady
                  : conditionTypes.workerWorkloadReady
                : component === components.workloadPrefill
                  ? conditionTypes.prefillWorkloadReady
                  : conditionTypes.mainWorkloadReady;
  const reason = error.code === 'preconditionFailed' ? reasons.nameTaken : reasons.applyFailed;
  return { condition, reason, message: error.message };
}

function takenProblem(error: AppError): Verdict {
  const reason = error.code === 'preconditionFailed' ? reasons.nameTaken : reasons.applyFailed;
  return { condition: conditionTypes.mainWorkloadReady, reason, message: error.message };
}
