import { type ConditionType, conditionTypes, reasons } from '../api/conditions.ts';
import type {
  Gateway,
  HTTPRoute,
  HTTPRouteSpec,
  ParentReference,
  RouteParentStatus,
} from '../api/foreign/gateway-api.ts';
import { components, labels } from '../api/labels.ts';
import { modelNameOf } from '../api/v1alpha2/defaults.ts';
import type { LLMInferenceServiceStatus } from '../api/v1alpha2/llm-inference-service.ts';
import { hasDefaultGateway } from '../api/v1alpha2/router-wishes.ts';
import { type Address, addressesOf } from './addresses.ts';
import { describeCauses } from './causes.ts';
import { routerNeeds } from './chains.ts';
import { allViolations } from './check.ts';
import { type Finding, overlay, success } from './finding.ts';
import type { Observed } from './observed.ts';
import { failureOf, findDeployment, findService, namespaceOf } from './rendered.ts';

/** How the Gateways, routes, pool and picker of a service are, and where it answers. */

/** One HTTPRoute by which requests reach the service: generated, or one that it names. */
interface ServiceRoute {
  readonly name: string;
  /** As wished for where it is ours; undefined where the user's is not there. */
  readonly spec: HTTPRouteSpec | undefined;
  readonly live: HTTPRoute | undefined;
  readonly isOurs: boolean;
}

function routesOf(observed: Observed): readonly ServiceRoute[] {
  const rendered = observed.desired.filter(
    ({ kind, metadata }) => kind === 'HTTPRoute' && metadata.labels?.[labels.probe] === undefined,
  );
  return [
    ...rendered.map(
      (manifest, i): ServiceRoute => ({
        name: manifest.metadata.name,
        spec: manifest.spec as HTTPRouteSpec,
        live: i === 0 ? observed.route : observed.routeOf?.(manifest.metadata.name),
        isOurs: true,
      }),
    ),
    ...(observed.referenced?.routes ?? []).map(
      ({ name, live }): ServiceRoute => ({ name, spec: live?.spec, live, isOurs: false }),
    ),
  ];
}

/** Whether requests reach the service through a Gateway. */
export function hasRoute(observed: Observed): boolean {
  return routesOf(observed).some(({ spec }) => spec !== undefined);
}

interface GatewayKey {
  readonly namespace: string;
  readonly name: string;
}

/** Gateways that the service hangs on: its route's parents, or the default one that it asks for without a route. */
function gatewayKeys(observed: Observed): readonly GatewayKey[] {
  const { router } = observed.effective;
  if (!router || !observed.surroundings.served.gatewayApi) return [];
  const namespace = namespaceOf(observed.service);
  const parents = routesOf(observed).flatMap(({ spec }) => spec?.parentRefs ?? []);
  const refs: readonly ParentReference[] = parents.length > 0 ? parents : (router.gateway?.refs ?? []);
  const { gateway } = observed.surroundings;
  const keys = refs
    .filter((ref) => (ref.kind ?? 'Gateway') === 'Gateway')
    .map((ref) => ({ namespace: ref.namespace ?? namespace, name: ref.name }));
  if (keys.length === 0 && router.gateway) return [{ namespace: gateway.namespace, name: gateway.name }];
  return keys.filter((key, i) => keys.findIndex((other) => isSameGateway(key, other)) === i);
}

const isSameGateway = (a: GatewayKey, b: GatewayKey) => a.name === b.name && a.namespace === b.namespace;

export function routerFindings(observed: Observed): readonly Finding[] {
  const violations = allViolations(routerNeeds, observed);
  const findings = [
    gatewayFinding(observed),
    routeFinding(observed),
    poolFinding(observed),
    schedulerFinding(observed, conditionTypes.schedulerWorkloadReady, components.scheduler, 'the endpoint picker'),
    schedulerFinding(observed, conditionTypes.tokenizerReady, components.tokenizer, 'the tokenizer'),
  ].filter((finding) => finding !== undefined);
  const violated = violations.map(
    ({ condition, reason, message }): Finding => ({ type: condition, isTrue: false, reason, message }),
  );
  return overlay(findings, violated);
}

function gatewayFinding(observed: Observed): Finding | undefined {
  const type = conditionTypes.gatewaysReady;
  const keys = gatewayKeys(observed);
  if (keys.length === 0) return undefined;
  for (const key of keys) {
    const gateway = observed.gatewayOf(key.namespace, key.name);
    if (!gateway) {
      const isDefault = hasDefaultGateway(observed.effective) && isSameGateway(key, observed.surroundings.gateway);
      const remedy = isDefault ? 'it is being made' : 'make it, or correct its name in the service or in its HTTPRoute';
      return {
        type,
        isTrue: false,
        reason: isDefault ? reasons.gatewaysNotReady : reasons.refsInvalid,
        message: `Gateway ${key.namespace}/${key.name} does not exist; ${remedy}`,
      };
    }
    const problem = gatewayProblem(gateway);
    if (problem)
      return {
        type,
        isTrue: false,
        reason: reasons.gatewaysNotReady,
        message: `Gateway ${key.namespace}/${key.name} ${problem}`,
      };
  }
  return success(type);
}

function gatewayProblem(gateway: Gateway): string | undefined {
  for (const type of ['Accepted', 'Programmed']) {
    const condition = gateway.status?.conditions?.find((one) => one.type === type);
    const isKnown = condition !== undefined && condition.status !== 'Unknown';
    if (!isKnown) {
      // A controller that has seen nothing yet leaves Accepted Unknown; Programmed alone decides.
      if (type === 'Accepted') continue;
      return `waits for the controller of its GatewayClass ${gateway.spec.gatewayClassName}`;
    }
    if (condition.status === 'False')
      return `is not ${type}: ${[condition.reason, condition.message].filter(Boolean).join(': ')}`;
    // What was said of an earlier generation may not hold for this one.
    if (condition.observedGeneration !== undefined && condition.observedGeneration < (gateway.metadata.generation ?? 0))
      return `waits for the controller of its GatewayClass ${gateway.spec.gatewayClassName} to look at its current generation`;
  }
  return undefined;
}

/** For information only: what of the group does not take part, and whether this service's part in it works. */
export function groupFindings(observed: Observed): readonly Finding[] {
  const { group } = observed;
  if (!group) return [];
  const route = routeFinding(observed);
  const ready: Finding = route && !route.isTrue ? route : success(conditionTypes.groupReady);
  const { apart } = group;
  const message = apart.map(({ name, why }) => `${name} ${why}`).join('; ');
  return [
    { ...ready, type: conditionTypes.groupReady },
    apart.length > 0
      ? { ...success(conditionTypes.groupDegraded), reason: reasons.memberDivergence, message }
      : { type: conditionTypes.groupDegraded, isTrue: false },
  ];
}

function routeFinding(observed: Observed): Finding | undefined {
  const type = conditionTypes.httpRoutesReady;
  const routes = routesOf(observed);
  if (routes.length === 0) return undefined;
  for (const { name, live, isOurs } of routes) {
    if (!isOurs && !live) {
      const message = `HTTPRoute ${name} does not exist; make it, or correct spec.router.route.http.refs`;
      return { type, isTrue: false, reason: reasons.refsInvalid, message };
    }
    const problem = routeProblem(live);
    if (problem)
      return { type, isTrue: false, reason: reasons.httpRoutesNotReady, message: `HTTPRoute ${name} ${problem}` };
  }
  return success(type);
}

function routeProblem(route: HTTPRoute | undefined): string | undefined {
  if (!route) return 'is not there yet';
  for (const parent of route.spec.parentRefs ?? []) {
    const problem = parentProblem(route, parent);
    if (problem) return problem;
  }
  return undefined;
}

/** Whether a gateway has looked at the generation of a route. */
export function isParentCurrent({ conditions }: RouteParentStatus, generation: number): boolean {
  const accepted = conditions?.find(({ type }) => type === 'Accepted');
  return (accepted?.observedGeneration ?? 0) >= generation;
}

function parentProblem(route: HTTPRoute, parent: ParentReference): string | undefined {
  const namespace = route.metadata.namespace ?? 'default';
  const gateway = `Gateway ${parent.namespace ?? namespace}/${parent.name}`;
  const status = route.status?.parents.find(
    ({ parentRef }) =>
      parentRef.name === parent.name &&
      (parentRef.namespace ?? namespace) === (parent.namespace ?? namespace) &&
      (parent.sectionName === undefined || parentRef.sectionName === parent.sectionName),
  );
  if (!status) return `waits for the controller of ${gateway}`;
  for (const type of ['Accepted', 'ResolvedRefs']) {
    const condition = status.conditions?.find((one) => one.type === type);
    if (condition?.status === 'False')
      return `is not ${type} by ${gateway}: ${[condition.reason, condition.message].filter(Boolean).join(': ')}`;
    const isCurrent = (condition?.observedGeneration ?? 0) >= (route.metadata.generation ?? 0);
    if (condition?.status !== 'True' || !isCurrent) return `waits for ${gateway} to look at its current generation`;
  }
  return undefined;
}

interface ServicePool {
  readonly name: string;
  readonly group: string;
  readonly isOurs: boolean;
}

/** The pool of the service: rendered, or the one that it names, whether it is there or not. */
function poolOf(observed: Observed): ServicePool | undefined {
  const desired = observed.desired.find((manifest) => manifest.kind === 'InferencePool');
  if (desired) return { name: desired.metadata.name, group: desired.apiVersion.split('/')[0] ?? '', isOurs: true };
  const { served } = observed.surroundings;
  const name = observed.effective.router?.scheduler?.pool?.ref?.name;
  if (name === undefined || !(served.pool || served.xPool)) return undefined;
  const group = observed.pool || !observed.xPool ? 'inference.networking.k8s.io' : 'inference.networking.x-k8s.io';
  return { name, group, isOurs: false };
}

/** The Service of the pool's picker. */
function pickerOf(observed: Observed): string | undefined {
  const ours = findService(observed, components.scheduler)?.metadata.name;
  return ours ?? observed.pool?.spec.endpointPickerRef?.name ?? observed.xPool?.spec.extensionRef.name;
}

/** True when every Gateway of the service has accepted the pool, in either of its two APIs. */
function poolFinding(observed: Observed): Finding | undefined {
  const type = conditionTypes.inferencePoolReady;
  const pool = poolOf(observed);
  if (!pool) return undefined;
  const { name, isOurs } = pool;
  const fail = (reason: string, message: string): Finding => ({
    type,
    isTrue: false,
    reason,
    message: `InferencePool ${name} ${message}`,
  });
  if (!observed.pool && !observed.xPool)
    return isOurs
      ? fail(reasons.inferencePoolNotReady, 'is not there yet')
      : fail(reasons.refsInvalid, 'does not exist; make it, or correct spec.router.scheduler.pool.ref');
  // Gateways learn of a pool through a route; without one there is nobody to accept it.
  if (!hasRoute(observed)) return success(type);
  const namespace = namespaceOf(observed.service);
  const parents = [
    ...(observed.pool?.status?.parents ?? []).map((parent) => ({ ...parent, of: observed.pool })),
    ...(observed.xPool?.status?.parent ?? []).map((parent) => ({ ...parent, of: observed.xPool })),
  ];
  for (const key of gatewayKeys(observed)) {
    const conditions = parents
      .filter(({ parentRef }) =>
        isSameGateway(key, { namespace: parentRef.namespace ?? namespace, name: parentRef.name ?? '' }),
      )
      .flatMap(({ conditions: all, of }) =>
        (all ?? [])
          .filter((condition) => condition.type === 'Accepted')
          .filter(({ observedGeneration }) => (observedGeneration ?? 0) >= (of?.metadata.generation ?? 0)),
      );
    if (conditions.some(({ status }) => status === 'True')) continue;
    const refused = conditions.find(({ status }) => status === 'False');
    const gateway = `Gateway ${key.namespace}/${key.name}`;
    return refused
      ? fail(
          reasons.inferencePoolNotReady,
          `is not accepted by ${gateway}: ${[refused.reason, refused.message].filter(Boolean).join(': ')}`,
        )
      : fail(reasons.waitingForGateway, `waits for the controller of ${gateway} to accept it`);
  }
  return success(type);
}

/** True when one pod of the current spec answers: of several pickers only the leader is ever ready. */
function schedulerFinding(
  observed: Observed,
  type: ConditionType,
  component: typeof components.scheduler | typeof components.tokenizer,
  who: string,
): Finding | undefined {
  const desired = findDeployment(observed, component);
  if (!desired) return undefined;
  const { name } = desired.metadata;
  const live = observed.deployment(name);
  if (!live)
    return { type, isTrue: false, reason: reasons.deploymentMissing, message: `Deployment ${name} is not there yet` };
  const status = live.status ?? {};
  const isCurrent = (status.observedGeneration ?? 0) >= (live.metadata.generation ?? 0);
  const isComplete =
    (status.updatedReplicas ?? 0) >= (live.spec?.replicas ?? 1) &&
    (status.replicas ?? 0) <= (status.updatedReplicas ?? 0);
  if (isCurrent && isComplete && (status.availableReplicas ?? 0) > 0) return success(type);
  const failed = failureOf(live);
  const causes = describeCauses(observed.pods(component));
  return {
    type,
    isTrue: false,
    reason: failed?.reason ?? (isComplete ? reasons.schedulerUnavailable : reasons.deploymentProgressing),
    message: [`${who} is not ready`, failed?.message, causes].filter((text) => text !== undefined).join('; '),
  };
}

export function routerStatus(observed: Observed): Pick<LLMInferenceServiceStatus, 'router'> {
  const keys = gatewayKeys(observed);
  const routes = routesOf(observed);
  const pool = poolOf(observed);
  const picker = pickerOf(observed);
  if (keys.length === 0 && !pool && !observed.group) return {};
  const gatewayGroup = 'gateway.networking.k8s.io';
  const namespace = namespaceOf(observed.service);
  const routesAt = (key: GatewayKey) => {
    const at = routes.filter(({ spec }) =>
      spec?.parentRefs?.some((ref) => isSameGateway(key, { namespace: ref.namespace ?? namespace, name: ref.name })),
    );
    const httpRoutes = at.map(({ name }) => ({ group: gatewayGroup, kind: 'HTTPRoute', name, namespace }));
    return httpRoutes.length > 0 ? { httpRoutes } : {};
  };
  return {
    router: {
      ...(observed.group ? { group: { name: observed.group.name, members: observed.group.members } } : {}),
      ...(keys.length > 0
        ? {
            gateways: keys.map((key) => ({
              group: gatewayGroup,
              kind: 'Gateway',
              name: key.name,
              namespace: key.namespace,
              listeners: (observed.gatewayOf(key.namespace, key.name)?.spec.listeners ?? []).map(({ name }) => name),
              ...routesAt(key),
            })),
          }
        : {}),
      ...(pool && picker
        ? {
            scheduler: {
              inferencePool: {
                group: pool.group,
                kind: 'InferencePool',
                name: pool.name,
                namespace,
              },
              service: { group: '', kind: 'Service', name: picker, namespace },
            },
          }
        : {}),
    },
  };
}

export function addressesFor(observed: Observed): readonly Address[] {
  const { service } = observed;
  const namespace = namespaceOf(service);
  const models = [modelNameOf({ ...service, spec: observed.effective })];
  const routes = routesOf(observed);
  if (routes.length > 0)
    return addressesOf({
      routes: routes.flatMap(({ spec }) => (spec ? [spec] : [])),
      backends: [poolOf(observed)?.name, findService(observed)?.metadata.name].filter((one) => one !== undefined),
      namespace,
      models,
      modelHeader: observed.surroundings.modelHeader,
      gatewayOf: observed.gatewayOf,
      gatewayServiceOf: observed.gatewayServiceOf,
    });
  const inside = findService(observed);
  if (!inside) return [];
  const port = (
    inside as {
      readonly spec?: { readonly ports?: readonly { readonly port: number; readonly appProtocol?: string }[] };
    }
  ).spec?.ports?.[0];
  const { name } = inside.metadata;
  return [
    {
      name: 'internal',
      url: `${port?.appProtocol === 'https' ? 'https' : 'http'}://${name}.${namespace}.svc.cluster.local:${port?.port ?? 80}`,
      origin: { group: '', kind: 'Service', name, namespace },
      models: models.map((model) => ({ name: model })),
    },
  ];
}
