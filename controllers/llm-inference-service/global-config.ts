import {
  type GlobalValues,
  mergeGlobalValues,
  noGlobalValues,
  parseGlobalConfig,
  readGlobalValues,
} from '../../src/api/global-config.ts';
import { AppError, messageOf } from '../../src/errors.ts';
import type { KubeObject } from '../../src/kube/object.ts';
import type { Caches, ConfigMap } from './caches.ts';
import { globalConfigName } from './caches.ts';
import type { Settings } from './gather.ts';

/** The operator's settings with those of the ConfigMap `inferenceservice-config` over them, always as they are now. */
export class GlobalConfig {
  readonly #informer: Caches['globalConfig'];
  readonly #own: Settings;
  readonly #tell: (object: KubeObject, problems: readonly string[]) => void;
  #seen: ConfigMap | undefined;
  #values: GlobalValues = noGlobalValues;
  #settings: Settings;
  #notes: readonly string[] = [];

  /** `tell` hears of each version of the ConfigMap that has problems, once. */
  constructor(
    informer: Caches['globalConfig'],
    own: Settings,
    tell: (object: KubeObject, problems: readonly string[]) => void,
  ) {
    this.#informer = informer;
    this.#own = overlay(own, noGlobalValues);
    this.#tell = tell;
    this.#settings = this.#own;
  }

  get settings(): Settings {
    this.#refresh();
    return this.#settings;
  }

  /** For every service: what is wrong with the ConfigMap. */
  get notes(): readonly string[] {
    this.#refresh();
    return this.#notes;
  }

  #refresh(): void {
    const [now] = this.#informer.store.list();
    if (now === this.#seen) return;
    this.#seen = now;
    const { values, problems } = now
      ? parseGlobalConfig(now.data ?? {}, this.#values)
      : { values: noGlobalValues, problems: [] };
    this.#values = values;
    this.#settings = overlay(this.#own, values);
    const where = `ConfigMap ${this.#own.systemNamespace}/${globalConfigName}`;
    this.#notes = problems.map((problem) => `${where}: ${problem}; the last good value counts`);
    if (now && problems.length > 0) this.#tell(now, problems);
  }
}

/** The settings with global values over them, also where a flag of the operator says the same. */
export function overlay(own: Settings, higher: GlobalValues): Settings {
  const globals = mergeGlobalValues(own.globals, higher);
  const { ingress, storageInitializer: storage } = globals;
  const caBundle = storage.caBundleConfigMapName;
  const prometheus = globals['autoscaling-wva-controller-config'].prometheus;
  return {
    ...own,
    globals,
    ...(ingress.urlScheme ? { urlScheme: ingress.urlScheme } : {}),
    ...(ingress.kserveIngressGateway ? { gateway: { ...own.gateway, ...ingress.kserveIngressGateway } } : {}),
    storage: {
      ...own.storage,
      ...(storage.image ? { initializerImage: storage.image } : {}),
      ...(storage.ociModelMode ? { ociMode: storage.ociModelMode } : {}),
      ...(caBundle ? { caBundle } : {}),
    },
    ...(prometheus?.url
      ? {
          prometheus: {
            url: prometheus.url,
            isInsecure: prometheus.tlsInsecureSkipVerify ?? false,
            ...(prometheus.authModes ? { authModes: prometheus.authModes } : {}),
            ...(prometheus.triggerAuthName
              ? {
                  triggerAuthentication: {
                    name: prometheus.triggerAuthName,
                    kind: prometheus.triggerAuthKind || 'TriggerAuthentication',
                  },
                }
              : {}),
          },
        }
      : {}),
  };
}

/**
 * Global values from the operator's flag.
 * Errors: AppError `usage` when the flag does not hold what the ConfigMap might.
 */
export function parseGlobalFlag(text: string): GlobalValues {
  const flag = '--global-config';
  if (text.trim() === '') return noGlobalValues;
  let given: unknown;
  try {
    given = JSON.parse(text);
  } catch (thrown) {
    throw new AppError('usage', `${flag}: ${messageOf(thrown)}; write a JSON object`);
  }
  if (typeof given !== 'object' || given === null || Array.isArray(given))
    throw new AppError('usage', `${flag}: not an object; write a JSON object`);
  const { values, problems } = readGlobalValues(given as Readonly<Record<string, unknown>>, noGlobalValues);
  if (problems.length > 0) throw new AppError('usage', `${flag}: ${problems.join('; ')}`);
  return values;
}
