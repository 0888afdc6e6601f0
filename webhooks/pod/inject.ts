import { annotations, sidecarInjectionLabel } from '../../src/api/labels.ts';
import { AppError } from '../../src/errors.ts';
import { injectSidecar, parseSidecarSettings, type SidecarDefaults } from '../../src/render/pod/sidecar.ts';
import { a, Capability } from '../capability.ts';

/** Puts the routing sidecar into pods that ask for it by label. */
export function createInjection(defaults: SidecarDefaults): Capability {
  const injection = new Capability({ name: 'pod-sidecar', description: 'Routing sidecar of decode pods' });
  injection
    .When(a.Pod)
    .IsCreated()
    .WithLabel(sidecarInjectionLabel, 'true')
    .Mutate((request) => {
      const { metadata, spec } = request.Raw;
      if (!spec) return;
      const text = metadata?.annotations?.[annotations.sidecar];
      if (text === undefined) {
        throw new AppError(
          'invalid',
          `metadata.annotations[${annotations.sidecar}]: missing, but label ${sidecarInjectionLabel} asks for the routing sidecar; remove the label or give the settings`,
        );
      }
      const injected = injectSidecar(spec, parseSidecarSettings(text, defaults));
      if (injected) request.Raw.spec = injected;
    });
  return injection;
}
