import {
  type GlobalValues,
  mergeGlobalValues,
  noGlobalValues,
  parseGlobalConfig,
  readGlobalValues,
} from '../../src/api/global-config.ts';
import { AppError, messageOf } from '../../src/errors.ts';
import type { KubeObject } from '../../src/kube/object.ts';
import type { CredentialFacts } from '../../src/render/input.ts';
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
  const { ingress, storageInitializer: storage, credentials } = globals;
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
      ...(storage.caBundleVolumeMountPath ? { caBundlePath: storage.caBundleVolumeMountPath } : {}),
      ...given('initializerResources', {
        ...given('requests', { ...given('cpu', storage.cpuRequest), ...given('memory', storage.memoryRequest) }),
        ...given('limits', { ...given('cpu', storage.cpuLimit), ...given('memory', storage.memoryLimit) }),
      }),
      ...given('modelcar', { ...given('uid', storage.uidModelcar), ...given('resources', modelcarResources(storage)) }),
      ...given('credentials', credentialFacts(credentials)),
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

/** One field where there is a value that says something. */
function given<const Name extends string, T>(name: Name, value: T | undefined): { readonly [Key in Name]?: T } {
  const isEmpty = value === undefined || value === '' || (typeof value === 'object' && isVoid(value));
  return (isEmpty ? {} : { [name]: value }) as { readonly [Key in Name]?: T };
}

function isVoid(value: unknown): boolean {
  return Object.keys(value ?? {}).length === 0;
}

/** What is configured is asked for and is the limit, as with KServe: linking needs no more. */
function modelcarResources({ cpuModelcar, memoryModelcar }: GlobalValues['storageInitializer']) {
  const both = { ...given('cpu', cpuModelcar), ...given('memory', memoryModelcar) };
  return { ...given('requests', both), ...given('limits', both) };
}

/** Field of `credentials.s3` → the annotation whose default it is. */
const s3Defaults = {
  s3Endpoint: 's3-endpoint',
  s3UseHttps: 's3-usehttps',
  s3Region: 's3-region',
  s3VerifySSL: 's3-verifyssl',
  s3UseVirtualBucket: 's3-usevirtualbucket',
  s3UseAnonymousCredential: 's3-useanoncredential',
  s3CABundleConfigMap: 's3-cabundle-configmap',
  s3CABundle: 's3-cabundle',
} as const;

function credentialFacts({ storageSecretNameAnnotation, gcs, s3 }: GlobalValues['credentials']): CredentialFacts {
  return {
    ...given('secretAnnotation', storageSecretNameAnnotation),
    ...given('gcsKey', gcs?.gcsCredentialFileName),
    ...given('s3Keys', {
      ...given('AWS_ACCESS_KEY_ID', s3?.s3AccessKeyIDName),
      ...given('AWS_SECRET_ACCESS_KEY', s3?.s3SecretAccessKeyName),
    }),
    ...given(
      's3Defaults',
      Object.fromEntries(
        Object.entries(s3Defaults).flatMap(([field, annotation]) => {
          const value = s3?.[field as keyof typeof s3Defaults];
          return value ? [[annotation, value]] : [];
        }),
      ),
    ),
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
