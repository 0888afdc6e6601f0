import { type ConfigOf, type Program, setting } from '../src/flags.ts';
import type { LogLevel } from '../src/telemetry/log.ts';

export const version = '0.1.0';

/** Everything that can be set on the operator, in the order of its help page. */
export const operatorSettings = {
  kubeconfig: setting.text({
    flag: 'kubeconfig',
    placeholder: 'FILE',
    description:
      'kubeconfig of the cluster; empty: $KUBECONFIG, else the service account of the pod, else ~/.kube/config',
  }),
  systemNamespace: setting.text({
    flag: 'system-namespace',
    env: 'POD_NAMESPACE',
    default: 'signalbox-system',
    placeholder: 'NAMESPACE',
    description: "namespace of the operator's own lease, certificate Secret and default Gateway",
  }),
  workers: setting.integer({
    flag: 'workers',
    default: 8,
    min: 1,
    max: 64,
    description: 'services reconciled at the same time',
  }),
  leaderElect: setting.boolean({
    flag: 'leader-elect',
    default: true,
    description: 'reconcile only while holding the lease signalbox-operator; webhooks are served by every replica',
  }),

  gatewayName: setting.text({
    flag: 'gateway-name',
    default: 'signalbox-gateway',
    placeholder: 'NAME',
    description: 'Gateway of services that name none; made when it does not exist',
  }),
  gatewayNamespace: setting.text({
    flag: 'gateway-namespace',
    placeholder: 'NAMESPACE',
    description: 'namespace of that Gateway; empty: the system namespace',
  }),
  gatewayClass: setting.text({
    flag: 'gateway-class',
    placeholder: 'NAME',
    description: 'GatewayClass for a Gateway that has to be made; empty: the only accepted one',
  }),
  gatewayPort: setting.integer({
    flag: 'gateway-port',
    default: 80,
    min: 1,
    max: 65_535,
    placeholder: 'PORT',
    description: 'HTTP port of a Gateway that has to be made',
  }),
  urlScheme: setting.oneOf({
    flag: 'url-scheme',
    choices: ['http', 'https'],
    default: 'http',
    description: 'scheme that is preferred where a Gateway listens for both',
  }),

  configPrefix: setting.text({
    flag: 'config-prefix',
    env: 'LLM_INFERENCE_SERVICE_CONFIG_PREFIX',
    default: 'kserve-',
    placeholder: 'TEXT',
    description: 'what names of presets begin with: PREFIXconfig-llm-template and others',
  }),
  installPresets: setting.boolean({
    flag: 'install-presets',
    default: false,
    description:
      'put the presets that ship into the system namespace, and newer ones over them after an upgrade; ones that somebody has changed stay',
  }),
  preventPresetDeletion: setting.boolean({
    flag: 'prevent-preset-deletion',
    env: 'PREVENT_WELL_KNOWN_CONFIG_DELETION',
    default: true,
    description: 'refuse to delete presets of the system namespace by hand',
  }),
  globalConfig: setting.text({
    flag: 'global-config',
    placeholder: 'JSON',
    description:
      'settings of every service as the keys of ConfigMap inferenceservice-config in one JSON object; what that ConfigMap says goes before',
  }),

  vllmImage: setting.text({
    flag: 'vllm-image',
    default: 'vllm/vllm-openai:v0.11.0',
    placeholder: 'IMAGE',
    description: 'image of model servers whose template names none',
  }),
  eppImage: setting.text({
    flag: 'epp-image',
    default: `signalbox/epp:${version}`,
    placeholder: 'IMAGE',
    description: 'image of the endpoint picker',
  }),
  sidecarImage: setting.text({
    flag: 'sidecar-image',
    default: `signalbox/sidecar:${version}`,
    placeholder: 'IMAGE',
    description: 'image of the routing sidecar',
  }),
  imagesFlavour: setting.oneOf({
    flag: 'images-flavour',
    choices: ['signalbox', 'upstream'],
    default: 'signalbox',
    description:
      "whose picker and sidecar those two images are; upstream: llm-d's, in the place of ours unless the flags above name others",
  }),
  pickerMetricsAuth: setting.boolean({
    flag: 'picker-metrics-auth',
    default: false,
    description:
      'pickers show metrics only to callers that the API server lets read them; their accounts need system:auth-delegator (pickers.metricsAuth of the chart)',
  }),
  storageInitializerImage: setting.text({
    flag: 'storage-initializer-image',
    default: 'kserve/storage-initializer:v0.17.0',
    placeholder: 'IMAGE',
    description: 'image of the init container that copies weights: called with pairs of URI and directory',
  }),
  huggingFaceLoader: setting.oneOf({
    flag: 'hugging-face-loader',
    choices: ['engine', 'initializer'],
    default: 'engine',
    description: 'who fetches hf:// models where the service leaves it open: the model server or that init container',
  }),
  ociModelMode: setting.oneOf({
    flag: 'oci-model-mode',
    choices: ['modelcar', 'native'],
    default: 'modelcar',
    description: 'how oci:// models are read: from a container beside the model server, or as an image volume',
  }),
  caBundleConfigMap: setting.text({
    flag: 'ca-bundle-config-map',
    placeholder: 'NAME',
    description:
      "ConfigMap with certificate authorities that downloads trust, in each service's namespace; empty: none",
  }),
  sidecarSessions: setting.integer({
    flag: 'sidecar-sessions',
    default: 1000,
    min: 1,
    description: 'conversations that each routing sidecar remembers (SESSION_CACHE_SIZE)',
  }),

  networkPolicies: setting.oneOf({
    flag: 'network-policies',
    choices: ['off', 'internal', 'strict'],
    default: 'internal',
    description:
      'who may call the pods of services: everybody; everybody on the ports that are for others; or only Gateways, scrapers and what the next two flags name',
  }),
  networkCallers: setting.list({
    flag: 'network-callers',
    placeholder: 'NAMESPACE|CIDR,…',
    description:
      'with --network-policies=strict, who may send requests beside the namespaces of the Gateways: namespaces of proxies that run elsewhere, ranges of load balancers',
  }),
  networkScrapers: setting.list({
    flag: 'network-scrapers',
    placeholder: 'NAMESPACE|CIDR,…',
    default: ['monitoring'],
    description: 'with --network-policies=strict, who may read metrics',
  }),

  prometheusUrl: setting.text({
    flag: 'prometheus-url',
    pattern: /^(https?:\/\/\S+)?$/,
    placeholder: 'URL',
    description: 'Prometheus in which KEDA finds the metric of the variant autoscaler (scaling.wva.keda); empty: none',
  }),
  prometheusInsecure: setting.boolean({
    flag: 'prometheus-insecure',
    default: false,
    description: 'KEDA does not check the certificate of that Prometheus',
  }),
  prometheusAuthModes: setting.text({
    flag: 'prometheus-auth-modes',
    placeholder: 'MODES',
    description: 'how KEDA authenticates there, such as bearer; empty: not at all',
  }),
  prometheusTriggerAuth: setting.text({
    flag: 'prometheus-trigger-auth',
    pattern: /^((Cluster)?TriggerAuthentication\/[a-z0-9.-]+)?$/,
    placeholder: 'KIND/NAME',
    description: 'TriggerAuthentication/NAME or ClusterTriggerAuthentication/NAME with the credentials for it',
  }),

  webhooks: setting.boolean({
    flag: 'webhooks',
    default: true,
    description: 'serve the admission webhooks, and the conversion without which v1alpha1 cannot be read',
  }),
  webhookPort: setting.port({ flag: 'webhook-port', default: 9443, description: 'HTTPS port of the webhooks' }),
  webhookService: setting.text({
    flag: 'webhook-service',
    default: 'signalbox-webhook',
    placeholder: 'NAME',
    description: 'Service in the system namespace through which the API server calls the webhooks',
  }),
  webhookCertificate: setting.oneOf({
    flag: 'webhook-certificate',
    choices: ['own', 'given'],
    default: 'own',
    description:
      "own: the operator makes the webhooks' certificate and renews it; given: it waits for Secret SERVICE-certificate with tls.crt, tls.key and ca.crt, as of cert-manager",
  }),
  webhookServicePort: setting.port({
    flag: 'webhook-service-port',
    default: 9443,
    description: 'port of that Service, written into the definitions whose versions the operator converts',
  }),
  webhookConfiguration: setting.text({
    flag: 'webhook-configuration',
    default: 'signalbox',
    placeholder: 'NAME',
    description: 'name of the Mutating- and ValidatingWebhookConfiguration whose CA bundle is kept current',
  }),
  webhookUrl: setting.text({
    flag: 'webhook-url',
    pattern: /^(https:\/\/[^/]+)?$/,
    placeholder: 'URL',
    description:
      'https://HOST:PORT at which the API server reaches the webhooks of an operator outside the cluster; registers them by that URL',
  }),

  metricsPort: setting.port({ flag: 'metrics-port', default: 8080, description: 'HTTP port of /metrics' }),
  healthPort: setting.port({ flag: 'health-port', default: 8081, description: 'HTTP port of /healthz and /readyz' }),
  podAddress: setting.text({
    flag: 'pod-address',
    env: 'SIGNALBOX_POD_ADDRESS',
    placeholder: 'IP',
    description: 'address to listen on; empty: all interfaces',
  }),
  logLevel: setting.oneOf<LogLevel>({
    flag: 'log-level',
    choices: ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'],
    default: 'info',
    description: 'least important level that is logged',
  }),
} as const;

export type OperatorConfig = ConfigOf<typeof operatorSettings>;

export const operatorProgram: Program<typeof operatorSettings> = {
  name: 'signalbox-operator',
  summary: 'makes the cluster match every LLMInferenceService and serves the admission webhooks',
  settings: operatorSettings,
};

/** Upstream's picker and sidecar as the flavour `upstream` runs them. */
const upstreamImages = {
  epp: 'llm-d/llm-d-router-endpoint-picker:v0.10.0',
  sidecar: 'llm-d/llm-d-router-disagg-sidecar:v0.10.0',
} as const;

/** What the pod webhook gives every sidecar. */
export function sidecarDefaultsOf(
  config: Pick<OperatorConfig, 'vllmImage' | 'eppImage' | 'sidecarImage' | 'imagesFlavour' | 'sidecarSessions'>,
): { readonly image: string; readonly sessionCacheSize: number; readonly flavour?: 'upstream' } {
  const { sidecar: image, flavour } = imagesOf(config);
  return { image, sessionCacheSize: config.sidecarSessions, ...(flavour ? { flavour } : {}) };
}

/** The images of services: of picker and sidecar those of the flavour, unless flags name others than the default. */
export function imagesOf(
  config: Pick<OperatorConfig, 'vllmImage' | 'eppImage' | 'sidecarImage'> &
    Partial<Pick<OperatorConfig, 'imagesFlavour'>>,
): { readonly vllm: string; readonly epp: string; readonly sidecar: string; readonly flavour?: 'upstream' } {
  const { vllmImage: vllm, eppImage: epp, sidecarImage: sidecar } = config;
  if (config.imagesFlavour !== 'upstream') return { vllm, epp, sidecar };
  const { eppImage, sidecarImage } = operatorSettings;
  return {
    vllm,
    epp: epp === eppImage.default ? upstreamImages.epp : epp,
    sidecar: sidecar === sidecarImage.default ? upstreamImages.sidecar : sidecar,
    flavour: 'upstream',
  };
}
