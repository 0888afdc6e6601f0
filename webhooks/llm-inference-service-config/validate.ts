import { formatIssues } from '../../src/api/issue.ts';
import type { LLMInferenceServiceConfig } from '../../src/api/v1alpha2/llm-inference-service-config.ts';
import { validateServiceConfig } from '../../src/api/v1alpha2/validate.ts';
import { checkTemplates } from '../../src/render/combine.ts';
import { isWellKnownPreset } from '../../src/render/preset-names.ts';
import { Capability, LLMInferenceServiceConfigKind, serviceConfigKind } from '../capability.ts';

/** Where presets are, and whether they may be deleted by hand. */
export interface PresetSettings {
  readonly systemNamespace: string;
  readonly configPrefix: string;
  readonly preventsDeletion: boolean;
}

/** Whether an object is a preset that services of every namespace are laid over. */
export function isSharedPreset(
  { name, namespace }: { readonly name?: string | undefined; readonly namespace?: string | undefined },
  settings: PresetSettings,
): boolean {
  return namespace === settings.systemNamespace && isWellKnownPreset(name ?? '', settings.configPrefix);
}

/** Refuses base configurations that could never be merged, and warns of changes that concern every service. */
export function createConfigValidation(settings: PresetSettings): Capability {
  const validation = new Capability({
    name: 'llm-inference-service-config-validate',
    description: 'Rules of LLMInferenceServiceConfig',
  });
  validation
    .When(LLMInferenceServiceConfigKind, serviceConfigKind)
    .IsCreatedOrUpdated()
    .Validate((request) => {
      const config = request.Raw as unknown as LLMInferenceServiceConfig;
      const old = request.OldResource as unknown as LLMInferenceServiceConfig | null | undefined;
      const issues = [...validateServiceConfig(config), ...checkTemplates(config.spec ?? {}, 'spec')];
      if (issues.length > 0) return request.Deny(formatIssues(issues), 422);
      const isChanged = old && JSON.stringify(old.spec) !== JSON.stringify(config.spec);
      return isChanged && isSharedPreset(config.metadata, settings)
        ? request.Approve([
            `modifying well-known config ${config.metadata.namespace}/${config.metadata.name} is not recommended: it changes every service that is laid over it, and an upgrade may replace it; prefer a config of your own named in spec.baseRefs`,
          ])
        : request.Approve();
    });
  return validation;
}
