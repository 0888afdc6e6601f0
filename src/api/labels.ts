/** Every label, annotation, finalizer and field-manager name, in one place. */

/** The name under which the operator owns fields by server-side apply. */
export const fieldManager = 'signalbox';

export const labels = {
  name: 'app.kubernetes.io/name',
  partOf: 'app.kubernetes.io/part-of',
  component: 'app.kubernetes.io/component',
  managedBy: 'app.kubernetes.io/managed-by',
  /** `workload` on every pod that serves a model. */
  kserveComponent: 'kserve.io/component',
  /** `both`, `decode` or `prefill`. */
  role: 'llm-d.ai/role',
  /** On presets that the chart ships: the release that they came with. */
  presetRelease: 'signalbox.io/preset-release',
  routingGroup: 'serving.kserve.io/routing-group',
  /** On an HTTPRoute that only asks its gateways something: what. */
  probe: 'signalbox.io/probe',
} as const;

/** Value of `app.kubernetes.io/part-of` on every child of a service. */
export const partOf = 'llminferenceservice';

/** Values of `app.kubernetes.io/component`. */
export const components = {
  workload: 'llminferenceservice-workload',
  workloadPrefill: 'llminferenceservice-workload-prefill',
  workloadLeader: 'llminferenceservice-workload-leader',
  workloadLeaderPrefill: 'llminferenceservice-workload-leader-prefill',
  workloadWorker: 'llminferenceservice-workload-worker',
  workloadWorkerPrefill: 'llminferenceservice-workload-worker-prefill',
  router: 'llminferenceservice-router',
  scheduler: 'llminferenceservice-router-scheduler',
  tokenizer: 'tokenizer',
} as const;

export const annotations = {
  /** `"true"` on a service: everything that serves it is taken away until it is removed. */
  stop: 'serving.kserve.io/stop',
  /** On a pod template: the routing sidecar's settings as JSON, read by the pod webhook. */
  sidecar: 'signalbox.io/routing-sidecar',
  /** On a service: `"true"` or `"false"`, whether its parts speak TLS; left out, the cluster's configuration says so. */
  tls: 'signalbox.io/tls',
  /**
   * On a service: any new value moves its pods to the operator's current release, `latest` to every one. On workloads: the
   * release that their pods were made by.
   */
  release: 'signalbox.io/release',
  /** On workloads: digest of everything of the user's that their pods were made of. */
  inputs: 'signalbox.io/inputs',
  /** On a Gateway that the operator made: `namespace/name` of the service it was first made for. */
  gatewayOwner: 'signalbox.io/created-for',
  /** `replace` on a service: its own `router.route.http.spec.rules` are all, none is added. */
  routeRules: 'signalbox.io/route-rules',
  /** On a service: the Secret with credentials for its downloads. Both names are in use with KServe. */
  storageSecret: ['serving.kserve.io/storageSecretName', 'serving.kserve.io/secretName'],

  /** On a service: the device class that a claim is made of for each pod, and what narrows it. */
  deviceClass: 'serving.kserve.io/exp-dra-device-class',
  deviceCount: 'serving.kserve.io/exp-dra-device-count',
  deviceSelector: 'serving.kserve.io/exp-dra-cel-selector',
  deviceContainer: 'serving.kserve.io/exp-dra-container-name',
  /** On a pod template: what its claim asks for, so that pods are replaced when that changes. */
  deviceClaim: 'signalbox.io/device-claim',

  /** On stored objects: what v1alpha1 says of the model, under the names that KServe uses. */
  modelCriticality: 'internal.serving.kserve.io/model-criticality',
  /** The same of its adapters: JSON, index → criticality. */
  loraCriticalities: 'internal.serving.kserve.io/lora-criticalities',
  /** The names of those adapters, JSON by the same index: lists are edited. */
  loraCriticalityNames: 'internal.signalbox.io/lora-criticality-names',
  /** On objects read as v1alpha1: the fields that only v1alpha2 has. */
  hubFields: 'internal.signalbox.io/v1alpha2-fields',
  /** On stored objects: the fields that only v1alpha1 has and no other annotation holds. */
  spokeFields: 'internal.signalbox.io/v1alpha1-fields',
} as const;

/** On pods: asks the pod webhook for the routing sidecar. The webhook's objectSelector names it, so no other pod waits for us. */
export const sidecarInjectionLabel = 'signalbox.io/inject-sidecar';

export const finalizer = 'serving.kserve.io/llmisvc-finalizer';
/** On base configurations that are in use. */
export const configFinalizer = 'serving.kserve.io/llmisvcconfig-finalizer';

/** On members of a routing group: their backends stay until no route of another member leads to them. */
export const groupFinalizer = 'signalbox.io/routing-group';

/** Name of the init container (`restartPolicy: Always`) that routes on decode pods. */
export const sidecarContainer = 'llm-d-routing-sidecar';
