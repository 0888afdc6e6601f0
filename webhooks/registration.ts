import { sidecarInjectionLabel } from '../src/api/labels.ts';
import type { Manifest } from '../src/kube/object.ts';

/** Where and when the API server calls each webhook. Pure data, so that charts and tests can hold it without the handlers. */
export interface WebhookRegistration {
  readonly path: string;
  /** Qualified name inside its configuration. */
  readonly name: string;
  readonly isMutating: boolean;
  readonly group: string;
  readonly version: string;
  readonly plural: string;
  readonly operations: readonly ('CREATE' | 'UPDATE' | 'DELETE')[];
  readonly objectLabels?: Readonly<Record<string, string>>;
  /** Whether what it is not asked about passes. */
  readonly failsOpen?: boolean;
  /** Whether it is asked again after other webhooks have changed the object. */
  readonly isReinvoked?: boolean;
}

const service = {
  group: 'serving.kserve.io',
  version: 'v1alpha2',
  plural: 'llminferenceservices',
  operations: ['CREATE', 'UPDATE'],
} as const;

/** Every webhook, in the order of its configuration. They fail closed: an object that was not looked at is not stored. */
export const registrations = {
  defaultService: {
    ...service,
    path: '/mutate-serving-kserve-io-v1alpha2-llminferenceservice',
    name: 'default.llminferenceservice.signalbox.io',
    isMutating: true,
  },
  injectSidecar: {
    path: '/mutate-v1-pod',
    name: 'sidecar.pod.signalbox.io',
    isMutating: true,
    group: '',
    version: 'v1',
    plural: 'pods',
    operations: ['CREATE'],
    // Only pods that ask for the sidecar wait for the operator; all others are never sent to it.
    objectLabels: { [sidecarInjectionLabel]: 'true' },
    isReinvoked: true,
  },
  validateService: {
    ...service,
    path: '/validate-serving-kserve-io-v1alpha2-llminferenceservice',
    name: 'validate.llminferenceservice.signalbox.io',
    isMutating: false,
  },
  validateServiceConfig: {
    ...service,
    plural: 'llminferenceserviceconfigs',
    path: '/validate-serving-kserve-io-v1alpha2-llminferenceserviceconfig',
    name: 'validate.llminferenceserviceconfig.signalbox.io',
    isMutating: false,
  },
  protectPresets: {
    ...service,
    plural: 'llminferenceserviceconfigs',
    operations: ['DELETE'],
    path: '/protect-serving-kserve-io-v1alpha2-llminferenceserviceconfig',
    name: 'protect.llminferenceserviceconfig.signalbox.io',
    isMutating: false,
    // A namespace must be able to go without the operator.
    failsOpen: true,
  },
} as const satisfies Record<string, WebhookRegistration>;

/** How the API server reaches the operator: through a Service, or at a base URL without a trailing slash. */
export type WebhookTarget =
  | { readonly service: { readonly name: string; readonly namespace: string; readonly port: number } }
  | { readonly url: string };

export interface RegistrationOptions {
  /** Name of both configurations. */
  readonly name: string;
  readonly target: WebhookTarget;
  /** PEM of the authority that signed the serving certificate. */
  readonly caBundle?: string;
  readonly timeoutSeconds?: number;
  readonly labels?: Readonly<Record<string, string>>;
}

/** The MutatingWebhookConfiguration and the ValidatingWebhookConfiguration, in that order. */
export function renderWebhookConfigurations(options: RegistrationOptions): readonly [Manifest, Manifest] {
  const all: readonly WebhookRegistration[] = Object.values(registrations);
  const render = (kind: string, isMutating: boolean): Manifest => ({
    apiVersion: 'admissionregistration.k8s.io/v1',
    kind,
    metadata: { name: options.name, ...(options.labels ? { labels: options.labels } : {}) },
    webhooks: all
      .filter((registration) => registration.isMutating === isMutating)
      .map((registration) => renderWebhook(registration, options)),
  });
  return [render('MutatingWebhookConfiguration', true), render('ValidatingWebhookConfiguration', false)];
}

function renderWebhook(registration: WebhookRegistration, options: RegistrationOptions): unknown {
  const { target, caBundle } = options;
  const { path, group, version, plural } = registration;
  return {
    name: registration.name,
    admissionReviewVersions: ['v1'],
    clientConfig: {
      ...('url' in target ? { url: `${target.url}${path}` } : { service: { ...target.service, path } }),
      ...(caBundle === undefined ? {} : { caBundle: Buffer.from(caBundle).toString('base64') }),
    },
    rules: [
      {
        apiGroups: [group],
        apiVersions: [version],
        operations: registration.operations,
        resources: [plural],
        scope: 'Namespaced',
      },
    ],
    ...(registration.objectLabels ? { objectSelector: { matchLabels: registration.objectLabels } } : {}),
    ...(registration.isMutating ? { reinvocationPolicy: registration.isReinvoked ? 'IfNeeded' : 'Never' } : {}),
    failurePolicy: registration.failsOpen ? 'Ignore' : 'Fail',
    matchPolicy: 'Equivalent',
    sideEffects: 'None',
    timeoutSeconds: options.timeoutSeconds ?? 10,
  };
}
