import { a, Capability, Log } from 'pepr';

/**
 * Pepr, as far as this project uses it: the words in which a policy is written. Serving, certificates and watching
 * are our own. Its logger tells of every registration, which is no news here.
 */
Log.level = 'silent';

export { a, Capability };

/** The kinds of our own, in Pepr's terms. */
export class LLMInferenceServiceKind extends a.GenericKind {}
export class LLMInferenceServiceConfigKind extends a.GenericKind {}

export const serviceKind = { group: 'serving.kserve.io', version: 'v1alpha2', kind: 'LLMInferenceService' };
export const serviceConfigKind = { group: 'serving.kserve.io', version: 'v1alpha2', kind: 'LLMInferenceServiceConfig' };
