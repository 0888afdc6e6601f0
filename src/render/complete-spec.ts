import type { HTTPRouteSpec } from '../api/foreign/gateway-api.ts';
import type { Container, PodTemplate } from '../api/foreign/pod.ts';
import { sidecarContainer } from '../api/labels.ts';
import type {
  LLMInferenceService,
  LLMInferenceServiceSpec,
  WorkloadSpec,
} from '../api/v1alpha2/llm-inference-service.ts';
import { childName, childNames } from './names.ts';
import type { TemplateSettings } from './template-data.ts';

/** What KServe's controller does to a merged spec, so that presets that rely on it work. */

interface Input {
  readonly service: LLMInferenceService;
  readonly settings: TemplateSettings;
  /** The pool that sidecars read. */
  readonly poolName: string;
}

/** The merged spec with what presets leave to the controller. */
export function completeSpec(
  { service, settings }: Omit<Input, 'poolName'>,
  spec: LLMInferenceServiceSpec,
): LLMInferenceServiceSpec {
  const poolName = spec.router?.scheduler?.pool?.ref?.name ?? childNames(service.metadata.name).pool;
  const input: Input = { service, settings, poolName };
  return completeWorkload(input, {
    ...spec,
    ...(spec.prefill ? { prefill: completeWorkload(input, spec.prefill) } : {}),
    ...(spec.router ? { router: completeRouter(input, spec.router) } : {}),
  });
}

function completeWorkload<W extends WorkloadSpec>(input: Input, workload: W): W {
  return {
    ...workload,
    ...(workload.template ? { template: completePod(input, workload.template) } : {}),
    ...(workload.worker ? { worker: completePod(input, workload.worker) } : {}),
  };
}

const poolVariable = 'INFERENCE_POOL_NAME';

/** A sidecar of a preset learns its pool. Without TLS there is no Secret of certificates, so that no pod waits for it. */
function completePod({ service, settings, poolName }: Input, pod: PodTemplate): PodTemplate {
  const certificates = childName(service.metadata.name, '-kserve-self-signed-certs');
  const volumes = settings.enableTls
    ? pod.volumes
    : pod.volumes?.map((volume) => {
        const secret = (volume as { readonly secret?: { readonly secretName?: string; readonly optional?: boolean } })
          .secret;
        return secret?.secretName === certificates ? { ...volume, secret: { ...secret, optional: true } } : volume;
      });
  const initContainers = pod.initContainers?.map((container: Container) => {
    const knows = container.env?.some(({ name }) => name === poolVariable);
    if (container.name !== sidecarContainer || knows) return container;
    return { ...container, env: [...(container.env ?? []), { name: poolVariable, value: poolName }] };
  });
  return { ...pod, ...(volumes ? { volumes } : {}), ...(initContainers ? { initContainers } : {}) };
}

type Router = NonNullable<LLMInferenceServiceSpec['router']>;

function completeRouter(input: Input, router: Router): Router {
  const { scheduler, route } = router;
  const own = input.service.spec.router?.route?.http?.spec;
  const routeSpec = route?.http?.spec;
  return {
    ...router,
    ...(route?.http && routeSpec && own?.parentRefs === undefined
      ? { route: { ...route, http: { ...route.http, spec: withoutDefaultParents(input, router, routeSpec) } } }
      : {}),
    ...(scheduler ? { scheduler: completeScheduler(input, scheduler) } : {}),
  };
}

/** Gateways that the service names come before those of a preset, and the default one needs no naming. */
function withoutDefaultParents({ settings }: Input, router: Router, spec: HTTPRouteSpec): HTTPRouteSpec {
  const { parentRefs, ...rest } = spec;
  const isDefault = parentRefs?.every(
    ({ name, namespace, sectionName }) =>
      name === settings.gatewayName && namespace === settings.gatewayNamespace && sectionName === undefined,
  );
  return (router.gateway?.refs ?? []).length > 0 || isDefault ? (rest as HTTPRouteSpec) : spec;
}

function completeScheduler(
  input: Input,
  scheduler: NonNullable<Router['scheduler']>,
): NonNullable<Router['scheduler']> {
  const pool = scheduler.pool?.spec;
  const isEmpty = pool?.selector !== undefined && Object.keys(pool.selector.matchLabels ?? {}).length === 0;
  const { selector: _, ...withoutSelector } = pool ?? {};
  return {
    ...scheduler,
    ...(scheduler.template ? { template: completePod(input, scheduler.template) } : {}),
    ...(isEmpty ? { pool: { ...scheduler.pool, spec: withoutSelector } } : {}),
  };
}
