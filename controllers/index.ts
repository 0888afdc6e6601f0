import { type Clock, systemClock } from '../src/clock.ts';
import { AppError } from '../src/errors.ts';
import type { Client } from '../src/kube/client.ts';
import type { EventRecorder } from '../src/kube/events.ts';
import type { Informer } from '../src/kube/informer.ts';
import type { KubeObject } from '../src/kube/object.ts';
import type { ControllerDefinition } from '../src/runtime/controller.ts';
import type { Logger } from '../src/telemetry/log.ts';
import { imagesOf, type OperatorConfig, version } from './config.ts';
import { startCaches } from './llm-inference-service/caches.ts';
import { createServiceController } from './llm-inference-service/controller.ts';
import type { Settings } from './llm-inference-service/gather.ts';
import { parseGlobalFlag } from './llm-inference-service/global-config.ts';
import { findRivalOf } from './llm-inference-service/take-over.ts';
import { createConfigController } from './llm-inference-service-config/controller.ts';
import { byConfigName, configNamesOf } from './llm-inference-service-config/usage.ts';
import { createPresetController } from './presets/controller.ts';

export interface ControllerSet {
  readonly controllers: readonly ControllerDefinition[];
  readonly informers: readonly Informer<KubeObject>[];
  readonly optionalInformers: readonly Informer<KubeObject>[];
}

/** The settings that controllers depend on. */
export type ControllerConfig = Pick<
  OperatorConfig,
  | 'workers'
  | 'systemNamespace'
  | 'gatewayName'
  | 'gatewayNamespace'
  | 'gatewayClass'
  | 'gatewayPort'
  | 'urlScheme'
  | 'configPrefix'
  | 'vllmImage'
  | 'eppImage'
  | 'sidecarImage'
  | 'sidecarSessions'
  | 'storageInitializerImage'
  | 'huggingFaceLoader'
  | 'ociModelMode'
  | 'caBundleConfigMap'
> &
  Partial<
    Pick<
      OperatorConfig,
      | 'prometheusUrl'
      | 'prometheusInsecure'
      | 'prometheusAuthModes'
      | 'prometheusTriggerAuth'
      | 'globalConfig'
      | 'installPresets'
      | 'networkPolicies'
      | 'networkCallers'
      | 'networkScrapers'
      | 'imagesFlavour'
      | 'pickerMetricsAuth'
    >
  > & {
    /** Name of the operator's release; left out: its version. */
    readonly release?: string;
  };

/**
 * Every controller of the operator, with the watches they share. The watches run from here on.
 * Errors: those of the API server, when it cannot be asked which kinds it serves.
 */
export async function startControllers(
  config: ControllerConfig,
  deps: {
    readonly client: Client;
    readonly log: Logger;
    readonly events: Pick<EventRecorder, 'record'>;
    readonly clock?: Clock;
  },
  signal?: AbortSignal,
): Promise<ControllerSet> {
  const { client, log, events } = deps;
  const clock = deps.clock ? { clock: deps.clock } : {};
  const caches = await startCaches(
    client,
    { log, ...clock, systemNamespace: config.systemNamespace, serviceIndexes: { [byConfigName]: configNamesOf } },
    signal,
  );
  const isWaiting = () => findRivalOf(caches, deps.clock ?? systemClock) !== undefined;
  return {
    controllers: [
      createServiceController({
        client,
        caches,
        events,
        ...clock,
        workers: config.workers,
        settings: {
          images: imagesOf(config),
          pickerMetricsAuth: config.pickerMetricsAuth ?? false,
          sidecarSessions: config.sidecarSessions,
          storage: {
            initializerImage: config.storageInitializerImage,
            huggingFace: config.huggingFaceLoader,
            ociMode: config.ociModelMode,
            ...(config.caBundleConfigMap === '' ? {} : { caBundle: config.caBundleConfigMap }),
          },
          systemNamespace: config.systemNamespace,
          configPrefix: config.configPrefix,
          release: config.release ?? version,
          globals: parseGlobalFlag(config.globalConfig ?? ''),
          urlScheme: config.urlScheme,
          network: networkOf(config),
          ...prometheusOf(config),
          gateway: {
            name: config.gatewayName,
            namespace: config.gatewayNamespace === '' ? config.systemNamespace : config.gatewayNamespace,
            className: config.gatewayClass,
            port: config.gatewayPort,
          },
        },
      }),
      createConfigController({
        client,
        caches,
        events,
        ...clock,
        systemNamespace: config.systemNamespace,
        configPrefix: config.configPrefix,
        isWaiting,
      }),
      ...(config.installPresets
        ? [
            createPresetController({
              client,
              configs: caches.configs,
              events,
              systemNamespace: config.systemNamespace,
              configPrefix: config.configPrefix,
              version,
              isWaiting,
            }),
          ]
        : []),
    ],
    informers: caches.required,
    optionalInformers: caches.missing,
  };
}

/** @throws AppError `usage` for what is neither a namespace nor a range */
function networkOf({
  networkPolicies,
  networkCallers = [],
  networkScrapers = [],
}: ControllerConfig): Settings['network'] {
  for (const [flag, values] of [
    ['network-callers', networkCallers],
    ['network-scrapers', networkScrapers],
  ] as const) {
    const bad = values.find((value) => !/^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?|[0-9a-f.:]+\/\d{1,3})$/.test(value));
    if (bad !== undefined)
      throw new AppError('usage', `--${flag}: "${bad}" is neither a namespace nor a range; write names or 10.0.0.0/8`);
  }
  return { mode: networkPolicies ?? 'internal', callers: networkCallers, scrapers: networkScrapers };
}

function prometheusOf(config: ControllerConfig): Pick<Settings, 'prometheus'> {
  const { prometheusUrl: url, prometheusInsecure, prometheusAuthModes: authModes, prometheusTriggerAuth } = config;
  if (!url) return {};
  const [kind, name] = (prometheusTriggerAuth ?? '').split('/');
  return {
    prometheus: {
      url,
      isInsecure: prometheusInsecure ?? false,
      ...(authModes ? { authModes } : {}),
      ...(kind && name ? { triggerAuthentication: { name, kind } } : {}),
    },
  };
}
