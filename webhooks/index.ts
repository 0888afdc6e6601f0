import { conversionPath } from '../src/api/v1alpha1/convert.ts';
import type { ConversionRequest } from '../src/kube/conversion.ts';
import type { SidecarDefaults } from '../src/render/pod/sidecar.ts';
import { convert } from './convert.ts';
import { type AdmissionHandler, createHandler } from './handler.ts';
import { defaulting } from './llm-inference-service/default.ts';
import { validation } from './llm-inference-service/validate.ts';
import { validation as configValidation } from './llm-inference-service-config/validate.ts';
import { createInjection } from './pod/inject.ts';
import { registrations } from './registration.ts';

/** Path → handler: everything that the admission server answers. */
export const createWebhooks = (sidecar: SidecarDefaults): ReadonlyMap<string, AdmissionHandler> =>
  new Map([
    [registrations.defaultService.path, createHandler(defaulting)],
    [registrations.injectSidecar.path, createHandler(createInjection(sidecar))],
    [registrations.validateService.path, createHandler(validation)],
    [registrations.validateServiceConfig.path, createHandler(configValidation)],
  ]);

/** Path → handler: every conversion that the admission server answers. */
export const conversions: ReadonlyMap<string, (request: ConversionRequest) => readonly unknown[]> = new Map([
  [conversionPath, convert],
]);
