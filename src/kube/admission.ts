import jsonPatch from 'fast-json-patch';
import { AppError } from '../errors.ts';
import type { Manifest } from './object.ts';

/** `admission.k8s.io/v1` AdmissionRequest, as far as it is read. */
export interface AdmissionRequest {
  readonly uid: string;
  readonly kind: { readonly group: string; readonly version: string; readonly kind: string };
  readonly resource: { readonly group: string; readonly version: string; readonly resource: string };
  readonly subResource?: string;
  readonly name?: string;
  readonly namespace?: string;
  readonly operation: 'CREATE' | 'UPDATE' | 'DELETE' | 'CONNECT';
  readonly userInfo: {
    readonly username?: string;
    readonly uid?: string;
    readonly groups?: readonly string[];
    readonly extra?: Readonly<Record<string, readonly string[]>>;
  };
  readonly object?: Manifest | null;
  readonly oldObject?: Manifest | null;
  readonly dryRun?: boolean;
  readonly options?: unknown;
}

export interface AdmissionResponse {
  readonly uid: string;
  readonly allowed: boolean;
  readonly status?: { readonly code?: number; readonly reason?: string; readonly message: string };
  readonly warnings?: readonly string[];
  readonly patchType?: 'JSONPatch';
  /** Base64 of a JSON patch. */
  readonly patch?: string;
}

export interface AdmissionReview {
  readonly apiVersion: 'admission.k8s.io/v1';
  readonly kind: 'AdmissionReview';
  readonly response: AdmissionResponse;
}

export function allow(request: AdmissionRequest, warnings: readonly string[] = []): AdmissionResponse {
  return { uid: request.uid, allowed: true, ...(warnings.length > 0 ? { warnings } : {}) };
}

/** Refuses with words for the user; `code` becomes kubectl's exit and the API's HTTP status. */
export function deny(
  request: AdmissionRequest,
  message: string,
  options: { readonly code?: number; readonly warnings?: readonly string[] } = {},
): AdmissionResponse {
  const code = options.code ?? 422;
  return {
    uid: request.uid,
    allowed: false,
    status: { code, reason: code === 422 ? 'Invalid' : code === 400 ? 'BadRequest' : 'Forbidden', message },
    ...(options.warnings?.length ? { warnings: options.warnings } : {}),
  };
}

/** Allows with the JSON patch that turns the request's object into `after`; without a patch when nothing changed. */
export function allowChanged(
  request: AdmissionRequest,
  after: Manifest,
  warnings: readonly string[] = [],
): AdmissionResponse {
  const response = allow(request, warnings);
  const patch = jsonPatch.compare(request.object ?? {}, after);
  if (patch.length === 0) return response;
  return { ...response, patchType: 'JSONPatch', patch: Buffer.from(JSON.stringify(patch)).toString('base64') };
}

export function toReview(response: AdmissionResponse): AdmissionReview {
  return { apiVersion: 'admission.k8s.io/v1', kind: 'AdmissionReview', response };
}

/** Reads an AdmissionReview request. Errors: `invalid`, naming what is missing. */
export function parseReview(body: string): AdmissionRequest {
  let review: { readonly apiVersion?: unknown; readonly kind?: unknown; readonly request?: unknown };
  try {
    review = JSON.parse(body) as typeof review;
  } catch {
    throw new AppError('invalid', 'the body is not JSON; send an AdmissionReview of admission.k8s.io/v1');
  }
  if (typeof review !== 'object' || review === null || review.kind !== 'AdmissionReview') {
    throw new AppError('invalid', 'kind is not AdmissionReview; send an AdmissionReview of admission.k8s.io/v1');
  }
  if (review.apiVersion !== 'admission.k8s.io/v1') {
    throw new AppError(
      'invalid',
      `apiVersion "${String(review.apiVersion)}" is not supported; send admission.k8s.io/v1`,
    );
  }
  const request = review.request as Partial<AdmissionRequest> | undefined;
  if (typeof request !== 'object' || request === null || typeof request.uid !== 'string' || request.uid === '') {
    throw new AppError('invalid', 'request.uid is missing; send the AdmissionReview as the API server makes it');
  }
  if (typeof request.operation !== 'string' || typeof request.kind?.kind !== 'string') {
    throw new AppError(
      'invalid',
      'request.operation or request.kind is missing; send the AdmissionReview as the API server makes it',
    );
  }
  return { userInfo: {}, ...request } as AdmissionRequest;
}
