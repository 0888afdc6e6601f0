import { reasons } from '../../src/api/conditions.ts';
import { labels } from '../../src/api/labels.ts';
import { defaultService } from '../../src/api/v1alpha2/defaults.ts';
import type { LLMInferenceService, LLMInferenceServiceSpec } from '../../src/api/v1alpha2/llm-inference-service.ts';
import type { LLMInferenceServiceConfig } from '../../src/api/v1alpha2/llm-inference-service-config.ts';
import { keyOf } from '../../src/kube/object.ts';
import type { Combined } from '../../src/plan/observed.ts';
import { combine } from '../../src/render/combine.ts';
import type { TemplateSettings } from '../../src/render/template-data.ts';
import { hasTls } from '../../src/render/tls.ts';
import type { Caches } from './caches.ts';

export interface EffectiveSpec {
  readonly effective: LLMInferenceServiceSpec;
  readonly combined: Omit<Combined, 'notes'>;
}

export interface BaseSettings extends TemplateSettings {
  readonly configPrefix: string;
}

interface Remembered {
  readonly result: EffectiveSpec;
  /** What of the service and the settings it was made of. */
  readonly digest: string;
  /** Every name that was looked for, with what was found. */
  readonly lookups: ReadonlyMap<string, string>;
}

const maxRemembered = 10_000;

/** Effective specs of services, each worked out again only when it or one of its base configurations has changed. */
export class BaseConfigs {
  readonly #caches: Pick<Caches, 'configs'>;
  readonly #settings: () => BaseSettings;
  readonly #remembered = new Map<string, Remembered>();

  constructor(caches: Pick<Caches, 'configs'>, settings: () => BaseSettings) {
    this.#caches = caches;
    this.#settings = settings;
  }

  /** The effective spec; that of the service alone where base configurations are missing or do not fit. */
  of(service: LLMInferenceService): EffectiveSpec {
    const common = this.#settings();
    const settings = { ...common, enableTls: hasTls(service, common.enableTls) };
    const key = keyOf(service.metadata);
    const { uid, generation, labels: ownLabels, annotations } = service.metadata;
    const digest = JSON.stringify([uid, generation, ownLabels, annotations, settings]);
    const before = this.#remembered.get(key);
    if (before?.digest === digest && generation !== undefined) {
      const isSame = [...before.lookups].every(([name, found]) => versionOf(this.#find(service, name)) === found);
      if (isSame) return before.result;
    }
    const lookups = new Map<string, string>();
    const found = new Map<string, LLMInferenceServiceConfig>();
    const combination = combine({
      service,
      prefix: settings.configPrefix,
      settings,
      find: (name) => {
        const config = this.#find(service, name);
        lookups.set(name, versionOf(config));
        if (config) found.set(name, config);
        return config;
      },
    });
    const { applied, sourceOf } = combination;
    const configs = applied.flatMap(({ name }) => found.get(name) ?? []);
    const releaseOf = ({ metadata }: LLMInferenceServiceConfig) => metadata.labels?.[labels.presetRelease];
    const merged = {
      applied,
      sourceOf,
      // Presets that ship change with the operator: they are part of its release.
      inputs: configs.filter((config) => releaseOf(config) === undefined).map(({ spec }) => spec ?? {}),
      presetReleases: configs.flatMap((config) => releaseOf(config) ?? []),
    };
    const result: EffectiveSpec =
      combination.kind === 'combined'
        ? { effective: combination.effective, combined: merged }
        : {
            effective: defaultService(service).spec,
            combined: {
              ...merged,
              refusal: {
                reason: combination.kind === 'notFound' ? reasons.configNotFound : reasons.invalidSpec,
                message: combination.message,
              },
            },
          };
    this.#remembered.delete(key);
    this.#remembered.set(key, { result, digest, lookups });
    const oldest = this.#remembered.keys().next();
    if (this.#remembered.size > maxRemembered && !oldest.done) this.#remembered.delete(oldest.value);
    return result;
  }

  /** Whether the service is laid over this configuration, or would be if it existed. */
  concerns(service: LLMInferenceService, config: LLMInferenceServiceConfig): boolean {
    const { name, namespace } = config.metadata;
    const own = service.metadata.namespace ?? 'default';
    if (namespace !== own && namespace !== this.#settings().systemNamespace) return false;
    return this.#remembered.get(keyOf(service.metadata))?.lookups.has(name) ?? true;
  }

  #find(service: LLMInferenceService, name: string): LLMInferenceServiceConfig | undefined {
    const { store } = this.#caches.configs;
    return (
      store.get({ namespace: service.metadata.namespace ?? 'default', name }) ??
      store.get({ namespace: this.#settings().systemNamespace, name })
    );
  }
}

function versionOf(config: LLMInferenceServiceConfig | undefined): string {
  const { uid, generation, labels: own } = config?.metadata ?? {};
  return config ? `${uid}/${generation}/${own?.[labels.presetRelease] ?? ''}` : '';
}
