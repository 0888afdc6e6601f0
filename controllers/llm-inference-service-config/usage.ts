import type { LLMInferenceService } from '../../src/api/v1alpha2/llm-inference-service.ts';
import type { LLMInferenceServiceConfig } from '../../src/api/v1alpha2/llm-inference-service-config.ts';
import type { Informer } from '../../src/kube/informer.ts';
import { keyOf, type ObjectRef } from '../../src/kube/object.ts';

/** Which services are laid over which configuration. */

/** Index of services by the names of the configurations that they name or were laid over. */
export const byConfigName = 'config';

/** Names of configurations that a service names as bases, or that were merged into it. */
export function configNamesOf({ spec, status }: LLMInferenceService): readonly string[] {
  const names = [...(spec.baseRefs ?? []), ...(status?.appliedConfigs ?? [])].map(({ name }) => name);
  return [...new Set(names)];
}

export interface UsageCaches {
  readonly services: Pick<Informer<LLMInferenceService>, 'store' | 'subscribe'>;
  readonly configs: Pick<Informer<LLMInferenceServiceConfig>, 'store' | 'subscribe'>;
}

/** Services that use a configuration, in the order of their names. */
export function usersOf(
  { services, configs }: UsageCaches,
  systemNamespace: string,
  config: ObjectRef,
): readonly { readonly name: string; readonly namespace: string }[] {
  const { name, namespace = '' } = config;
  const isUser = ({ metadata, spec, status }: LLMInferenceService) => {
    const applied = status?.appliedConfigs?.some((one) => one.name === name && one.namespace === namespace);
    if (!spec.baseRefs?.some((ref) => ref.name === name)) return applied ?? false;
    if (metadata.namespace === namespace) return true;
    // That of the own namespace goes before that of the system namespace.
    return namespace === systemNamespace && !configs.store.get({ namespace: metadata.namespace ?? '', name });
  };
  return services.store
    .byIndex(byConfigName, name)
    .filter((service) => !service.metadata.deletionTimestamp && isUser(service))
    .map(({ metadata }) => ({ name: metadata.name, namespace: metadata.namespace ?? '' }))
    .sort((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1));
}

/** Every configuration that a service may be a user of: that of its namespace, and that of the system namespace. */
export function configsOf(service: LLMInferenceService, systemNamespace: string): readonly ObjectRef[] {
  const places = [...new Set([service.metadata.namespace ?? '', systemNamespace])];
  return configNamesOf(service).flatMap((name) => places.map((namespace) => ({ namespace, name })));
}

/** What of a service matters here. */
export function digestOf(service: LLMInferenceService): string {
  return JSON.stringify([configsOf(service, ''), service.status?.appliedConfigs, service.metadata.deletionTimestamp]);
}
