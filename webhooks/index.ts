import { conversionPath } from '../src/api/v1alpha1/convert.ts';
import type { ConversionRequest } from '../src/kube/conversion.ts';
import type { SidecarDefaults } from '../src/render/pod/sidecar.ts';
import { convert } from './convert.ts';
import { type AdmissionHandler, createHandler } from './handler.ts';
import { defaulting } from './llm-inference-service/default.ts';
import { validation } from './llm-inference-service/validate.ts';
import { createPresetProtection } from './llm-inference-service-config/protect.ts';
import { createConfigValidation, type PresetSettings } from './llm-inference-service-config/validate.ts';
import { createInjection } from './pod/inject.ts';
import { registrations } from './registration.ts';

/** What of the operator's settings the webhooks need. */
export interface WebhookSettings {
  readonly sidecar: SidecarDefaults;
  readonly presets: PresetSettings;
}

/** Path → handler: everything that the admission server answers. */
export const createWebhooks = (settings: WebhookSettings): ReadonlyMap<string, AdmissionHandler> =>
  new Map([
    [registrations.defaultService.path, createHandler(defaulting)],
    [registrations.injectSidecar.path, createHandler(createInjection(settings.sidecar))],
    [registrations.validateService.path, createHandler(validation)],
    [registrations.validateServiceConfig.path, createHandler(createConfigValidation(settings.presets))],
    [registrations.protectPresets.path, createHandler(createPresetProtection(settings.presets))],
  ]);

/** Path → handler: every conversion that the admission server answers. */
export const conversions: ReadonlyMap<string, (request: ConversionRequest) => readonly unknown[]> = new Map([
  [conversionPath, convert],
]);
