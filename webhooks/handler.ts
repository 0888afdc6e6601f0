import jsonPatch from 'fast-json-patch';
import { type Capability, PeprMutateRequest, PeprValidateRequest } from 'pepr';
import { AppError } from '../src/errors.ts';

/** The part of an AdmissionRequest (admission.k8s.io/v1) that handlers read. */
export interface AdmissionRequest {
  readonly uid: string;
  readonly kind: { readonly group: string; readonly version: string; readonly kind: string };
  readonly operation: string;
  readonly name?: string;
  readonly namespace?: string;
  readonly dryRun?: boolean;
  readonly object?: unknown;
  readonly oldObject?: unknown;
}

export interface AdmissionResponse {
  readonly uid: string;
  readonly allowed: boolean;
  readonly status?: { readonly code: number; readonly message: string };
  readonly warnings?: readonly string[];
  readonly patchType?: 'JSONPatch';
  /** Base64 of the JSON patch. */
  readonly patch?: string;
}

export type AdmissionHandler = (request: AdmissionRequest) => Promise<AdmissionResponse>;

type Binding = Capability['bindings'][number];
type PeprInput = ConstructorParameters<typeof PeprMutateRequest>[0];
interface Labelled {
  readonly metadata?: { readonly labels?: Readonly<Record<string, string>> };
}

/**
 * Runs what a capability has bound on one request: first all mutations, in order, each on the result of the one
 * before, then all validations. No Pepr runtime takes part.
 *
 * Errors: a callback that throws refuses the request with its message and the error's HTTP code; the handler never throws.
 */
export function createHandler(capability: Capability): AdmissionHandler {
  return async (request) => {
    const { uid } = request;
    try {
      const bindings = capability.bindings.filter((binding) => isBoundTo(binding, request));
      const warnings: string[] = [];
      const mutation = new PeprMutateRequest(request as unknown as PeprInput);
      for (const binding of bindings) await binding.mutateCallback?.(mutation);
      for (const binding of bindings) {
        if (!binding.validateCallback) continue;
        const answer = await binding.validateCallback(new PeprValidateRequest(request as unknown as PeprInput));
        warnings.push(...(answer.warnings ?? []));
        if (!answer.allowed) {
          const status = { code: answer.statusCode ?? 403, message: answer.statusMessage ?? 'refused' };
          return { uid, allowed: false, status, ...(warnings.length > 0 ? { warnings } : {}) };
        }
      }
      const patch = jsonPatch.compare(request.object as object, mutation.Raw);
      return {
        uid,
        allowed: true,
        ...(warnings.length > 0 ? { warnings } : {}),
        ...(patch.length > 0
          ? { patchType: 'JSONPatch', patch: Buffer.from(JSON.stringify(patch)).toString('base64') }
          : {}),
      };
    } catch (thrown) {
      const error = AppError.from(thrown);
      return { uid, allowed: false, status: { code: error.http, message: error.message } };
    }
  };
}

function isBoundTo(binding: Binding, request: AdmissionRequest): boolean {
  const { kind } = binding;
  const isKind =
    kind.kind === request.kind.kind &&
    (kind.group ?? '') === request.kind.group &&
    kind.version === request.kind.version;
  const operation = request.operation.toUpperCase();
  const isEvent =
    binding.event === '*' ||
    binding.event === operation ||
    (binding.event === 'CREATEORUPDATE' && (operation === 'CREATE' || operation === 'UPDATE'));
  const labels = (request.object as Labelled | undefined)?.metadata?.labels ?? {};
  return isKind && isEvent && Object.entries(binding.filters.labels).every(([key, value]) => labels[key] === value);
}
