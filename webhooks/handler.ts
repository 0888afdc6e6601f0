import { type Capability, PeprMutateRequest, PeprValidateRequest } from 'pepr';
import { type AdmissionRequest, type AdmissionResponse, allow, allowChanged, deny } from '../src/kube/admission.ts';
import type { Manifest } from '../src/kube/object.ts';

export type AdmissionHandler = (request: AdmissionRequest) => Promise<AdmissionResponse>;

type Binding = Capability['bindings'][number];
type PeprInput = ConstructorParameters<typeof PeprMutateRequest>[0];

/**
 * Runs what a capability has bound on one request: first all mutations, in order, each on the result of the one
 * before, then all validations of the object as it came. No Pepr runtime takes part.
 *
 * Errors: what a callback throws; the admission server tells it to the user.
 */
export function createHandler(capability: Capability): AdmissionHandler {
  return async (request) => {
    const input = request as unknown as PeprInput;
    const bindings = capability.bindings.filter((binding) => isBoundTo(binding, request));
    const warnings: string[] = [];
    const mutation = new PeprMutateRequest(input);
    for (const binding of bindings) await binding.mutateCallback?.(mutation);
    for (const binding of bindings) {
      const answer = await binding.validateCallback?.(new PeprValidateRequest(input));
      warnings.push(...(answer?.warnings ?? []));
      if (answer && !answer.allowed) {
        return deny(request, answer.statusMessage ?? 'refused', { code: answer.statusCode ?? 403, warnings });
      }
    }
    if (request.operation === 'DELETE') return allow(request, warnings);
    return allowChanged(request, mutation.Raw as unknown as Manifest, warnings);
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
