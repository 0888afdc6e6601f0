import { Capability, LLMInferenceServiceConfigKind, serviceConfigKind } from '../capability.ts';
import { isSharedPreset, type PresetSettings } from './validate.ts';

/** Those who take a whole namespace or an owner's children along. */
const cleaners = /^system:serviceaccount:kube-system:(namespace-controller|generic-garbage-collector)$/;

/** Refuses to delete a preset by hand: every service that is laid over it would change. */
export function createPresetProtection(settings: PresetSettings): Capability {
  const protection = new Capability({
    name: 'llm-inference-service-config-protect',
    description: 'Presets are not deleted by accident',
  });
  protection
    .When(LLMInferenceServiceConfigKind, serviceConfigKind)
    .IsDeleted()
    .Validate((request) => {
      const { name, namespace, userInfo } = request.Request;
      if (!settings.preventsDeletion || !isSharedPreset({ name, namespace }, settings)) return request.Approve();
      if (cleaners.test(userInfo.username ?? '')) return request.Approve();
      return request.Deny(
        `well-known config ${namespace}/${name} may not be deleted: services are laid over it; replace its spec instead, or set --prevent-preset-deletion=false on the operator`,
        403,
      );
    });
  return protection;
}
