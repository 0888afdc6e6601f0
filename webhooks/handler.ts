import { type Capability, PeprMutateRequest, PeprValidateRequest } from 'pepr';
import { AppError } from '../src/errors.ts';
import { type AdmissionRequest, type AdmissionResponse, allowChanged, deny } from '../src/kube/admission.ts';
import type { Manifest } from '../src/kube/object.ts';

export type AdmissionHandler = (request: AdmissionRequest) => Promise<AdmissionResponse>;

type Binding = Capability['bindings'][number];
type PeprInput = ConstructorParameters<typeof PeprMutateRequest>[0];

/**
 * Runs what a capability has bound on one request: first all mutations, in order, each on the result of the one
 * before, then all validations of the object as it came. No Pepr runtime takes part.
 *
 * Errors: a callback that throws refuses the request with its message and the error's HTTP code; the handler never throws.
 */
export function createHandler(capability: Capability): AdmissionHandler {
  return async (request) => {
    try {
      const input = request as unknown as PeprInput;
      const bindings = capability.bindings.filter((binding) => isBoundTo(binding, request));
      const warnings: string[] = [];
      const mutation = new PeprMutateRequest(input);
      for (const binding of bindings) await binding.mutateCallback?.(mutation);
      for (const binding of bindings) {
        const answer = await binding.validateCallback?.(new PeprValidateRequest(input));
        warnings.push(...(answer?.warnings ?? []));
        if (answer && !answer.allowed) {
          const code = answer.statusCode ?? 403;
          return deny(request, answer.statusMessage ?? 'refused', { code, warnings });
        }
      }
      return allowChanged(request, mutation.Raw as unknown as Manifest, warnings);
    } catch (thrown) {
      const error = AppError.from(thrown);
      return deny(request, error.message, { code: error.http });
    }
  };
}

function isBoundTo(binding: Binding, request: AdmissionRequest): boolean {
  const { kind, operation } = request;
  const bound = binding.kind;
  const isKind = bound.kind === kind.kind && (bound.group ?? '') === kind.group && bound.version === kind.version;
  const isEvent =
    binding.event === '*' ||
    binding.event === operation ||
    (binding.event === 'CREATEORUPDATE' && (operation === 'CREATE' || operation === 'UPDATE'));
  const labels = request.object?.metadata.labels ?? {};
  return isKind && isEvent && Object.entries(binding.filters.labels).every(([key, value]) => labels[key] === value);
}
